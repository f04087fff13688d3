"""Pods whose claims a ResourceQuota keeps from being made."""

import json
import shlex

import pytest

from kubarium.api.kinds import (
    DEVICE_CLASSES,
    NODES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIM_TEMPLATES,
    RESOURCE_CLAIMS,
    RESOURCE_QUOTAS,
    RESOURCE_SLICES,
)
from kubarium.view.why import explain

BY_CLASS = "gpu.deviceclass.resource.k8s.io/devices"
COUNTED = "count/resourceclaims.resource.k8s.io"


def quota(name="team", used=(), **hard):
    hard = {
        key.replace("by_class", BY_CLASS).replace("counted", COUNTED): v for key, v in hard.items()
    }
    used = dict(zip(hard, used, strict=False))
    metadata = {"name": name, "namespace": "default"}
    return {"metadata": metadata, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}}


def documents(*quotas, count=2, devices=4, cpu="1"):
    """A node with devices, and a pod whose claim of ``count`` has not been made."""
    request = {"name": "gpus", "exactly": {"deviceClassName": "gpu", "count": count}}
    template = {
        "metadata": {"name": "some", "namespace": "default"},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}
    pod = {
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default", "uid": "u"},
        "spec": {
            "containers": [container],
            "resourceClaims": [{"name": "mine", "resourceClaimTemplateName": "some"}],
        },
        "status": {"phase": "Pending"},
    }
    node = {"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "4", "pods": "110"}}}
    published = {
        "driver": "d",
        "nodeName": "n",
        "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": f"gpu-{number}"} for number in range(devices)],
    }
    return {
        NODES: [node],
        PODS: [pod],
        DEVICE_CLASSES: [{"metadata": {"name": "gpu"}, "spec": {}}],
        RESOURCE_SLICES: [{"metadata": {"name": "s"}, "spec": published}],
        RESOURCE_CLAIM_TEMPLATES: [template],
        RESOURCE_CLAIMS: [],
        RESOURCE_QUOTAS: list(quotas),
    }


def account(given):
    return explain(given, given[PODS][0])


def test_the_quota_is_named_and_raised_by_just_what_is_missing():
    told = account(documents(quota(used=("3", "1"), by_class="4", counted="9")))
    assert 'pod "default/p": ResourceClaim not created yet' in told.summary
    assert (
        f"ResourceQuota team leaves no room for the pod's claims: {BY_CLASS}, "
        "3 of 4 used and 2 wanted"
    ) in told.reasons
    [raising] = told.suggestions
    assert raising.kind == "raise-quota"
    assert raising.text == f"raise {BY_CLASS} of ResourceQuota team from 4 to 5: the pod fits now"
    command = told.commands[raising]
    start, _, patch = command.rpartition(" -p ")
    assert start == "kubectl patch resourcequota team -n default --type merge"
    [patch] = shlex.split(patch)
    assert json.loads(patch) == {"spec": {"hard": {BY_CLASS: "5"}}}


def test_what_is_advised_makes_room():
    """Raised as advised, the quota is in nobody's way."""
    given = documents(quota(used=("3", "1"), by_class="4", counted="1"))
    [raising] = account(given).suggestions
    patch = json.loads(shlex.split(account(given).commands[raising])[-1])
    given[RESOURCE_QUOTAS][0]["spec"]["hard"].update(patch["spec"]["hard"])
    after = account(given)
    assert not after.suggestions
    assert not [line for line in after.reasons if "ResourceQuota" in line]


def test_several_quotas_are_raised_together_by_no_single_command():
    told = account(documents(quota("a", ("4",), by_class="4"), quota("b", ("1",), counted="1")))
    [raising] = told.suggestions
    assert raising.subject == "a,b"
    assert not told.commands[raising]


@pytest.mark.parametrize(
    ("size", "why"),
    [
        ({"devices": 1}, "cannot allocate all claims"),
        ({"cpu": "5"}, "Insufficient cpu"),
    ],
)
def test_a_quota_is_not_to_be_raised_for_a_pod_that_would_not_fit(size, why):
    told = account(documents(quota(used=("3",), by_class="4"), **size))
    assert not told.suggestions
    assert told.reasons[-1].startswith("and besides that: 0/1 nodes are available")
    assert why in told.reasons[-1]
    assert any("ResourceQuota team" in line for line in told.reasons)


@pytest.mark.parametrize(
    "there",
    [
        quota(used=("2",), by_class="4"),
        quota(used=("4",), **{"other.deviceclass.resource.k8s.io/devices": "4"}),
        quota(used=("9",), pods="9"),
        {**quota(used=("4",), by_class="4"), "metadata": {"name": "q", "namespace": "elsewhere"}},
    ],
)
def test_quotas_with_room_are_not_blamed(there):
    told = account(documents(there))
    assert "not created yet" in told.summary
    assert not told.suggestions
    assert not [line for line in told.reasons if "ResourceQuota" in line]


def test_asking_leaves_no_claim_behind():
    given = documents(quota(used=("3",), by_class="4"))
    assert account(given) == account(given)
    assert not given[RESOURCE_CLAIMS]


def of_gang(*quotas, devices=4, made=0):
    """Two pods that start together, each with a claim of two devices; ``made`` claims are there."""
    given = documents(*quotas, devices=devices)
    [pod] = given[PODS]
    group = {"metadata": {"name": "g", "namespace": "default"}}
    given[POD_GROUPS] = [group | {"spec": {"schedulingPolicy": {"gang": {"minCount": 2}}}}]
    spec = pod["spec"] | {"schedulingGroup": {"podGroupName": "g"}}
    given[PODS] = [
        pod | {"metadata": pod["metadata"] | {"name": name, "uid": name}, "spec": spec}
        for name in ("p", "q")
    ]
    [template] = given[RESOURCE_CLAIM_TEMPLATES]
    for pod in given[PODS][:made]:
        owner = {"kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
        metadata = {"name": "its", "namespace": "default"}
        metadata["ownerReferences"] = [owner | {"apiVersion": "v1", "controller": True}]
        given[RESOURCE_CLAIMS].append({"metadata": metadata} | template["spec"])
        pod["status"] = {"resourceClaimStatuses": [{"name": "mine", "resourceClaimName": "its"}]}
    return given


@pytest.mark.parametrize(
    ("made", "used", "wanted", "enough"), [(0, "0", "4", "4"), (1, "2", "2", "4")]
)
def test_a_gang_is_told_of_the_quota_that_keeps_some_of_its_claims_away(made, used, wanted, enough):
    given = of_gang(quota(used=(used,), by_class="3"), made=made)
    for asked in (given[PODS][1], given[POD_GROUPS][0] | {"kind": "PodGroup"}):
        told = explain(given, asked)
        [told] = told.children or [told]
        assert (
            f"ResourceQuota team leaves no room for the group's claims: {BY_CLASS}, "
            f"{used} of 3 used and {wanted} wanted"
        ) in told.reasons
        [raising] = told.suggestions
        assert raising.text == (
            f"raise {BY_CLASS} of ResourceQuota team from 3 to {enough}: the group fits now"
        )
    assert len(given[RESOURCE_CLAIMS]) == made


def test_a_quota_is_not_to_be_raised_for_a_gang_that_would_not_fit():
    given = of_gang(quota(used=("0",), by_class="3"), devices=3)
    [told] = explain(given, given[PODS][0]).children
    assert not told.suggestions
    assert told.reasons[-1].startswith("and besides that: ")
