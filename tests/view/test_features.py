"""What a pod needs of its node's declared features, and that nodes say what they have."""

from __future__ import annotations

from kubarium.node.registration import DECLARED_FEATURES
from kubarium.view.features import needed_features
from kubarium.view.nodes import node_row
from kubarium.view.pods import PodReader


def pod(**spec):
    return {"metadata": {"name": "p", "namespace": "d"}, "spec": {"containers": [{}], **spec}}


def test_each_feature_is_inferred_from_the_field_that_needs_it():
    rules = [{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [1]}}]
    mounts = [{"name": "v", "bindMountOptions": ["noexec"]}]
    for spec, expected in (
        ({}, ()),
        ({"hostUsers": False}, ()),
        ({"hostNetwork": True, "hostUsers": True}, ()),
        ({"hostNetwork": True, "hostUsers": False}, ("UserNamespacesHostNetworkSupport",)),
        ({"containers": [{"restartPolicyRules": [{"action": "Restart"}]}]}, ()),
        (
            {"initContainers": [{"restartPolicyRules": rules}]},
            ("RestartAllContainersOnContainerExits",),
        ),
        (
            {"containers": [{"restartPolicyRules": rules, "volumeMounts": mounts}]},
            ("RestartAllContainersOnContainerExits", "VolumeBindMountOptions"),
        ),
    ):
        assert needed_features(pod(**spec)["spec"]) == expected
        assert PodReader().shape(pod(**spec)).features == expected


def test_pods_that_differ_in_a_needed_feature_only_do_not_share_a_shape():
    reader = PodReader()
    containers = [{"image": "a"}]
    plain = reader.shape(pod(containers=containers, hostNetwork=True))
    other = reader.shape(pod(containers=containers, hostNetwork=True, hostUsers=False))
    assert plain != other


def test_a_node_row_has_what_its_status_declares():
    row = node_row({"metadata": {"name": "n"}, "status": {"declaredFeatures": ["A", "B"]}})
    assert row.features == {"A", "B"}
    assert list(DECLARED_FEATURES) == sorted(DECLARED_FEATURES)
