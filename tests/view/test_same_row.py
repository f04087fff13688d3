"""A pod's row is kept only where it would come out the same."""

from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st

from kubarium.api.kinds import DEVICE_CLASSES, NODES, PODS, RESOURCE_CLAIMS, SERVICES
from kubarium.base.frozen import replacing
from kubarium.engine.model import Pod
from kubarium.view.cluster import ClusterView
from kubarium.view.extended import CLAIM_ANNOTATION
from kubarium.view.pods import PodReader, says_the_same, start_time

REQUESTS = {"cpu": "1", "memory": "1Gi"}
SPEC = {
    "nodeName": "n",
    "containers": [{"name": "main", "resources": {"requests": REQUESTS}}],
    "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}],
}
amounts = st.sampled_from([REQUESTS, {"cpu": "2", "memory": "1Gi"}, {}])
containers = st.fixed_dictionaries(
    {"name": st.sampled_from(["main", "other"])},
    optional={"resources": amounts.map(lambda a: {"requests": a}), "allocatedResources": amounts},
)
statuses = st.fixed_dictionaries(
    {},
    optional={
        "startTime": st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01T00:00:07Z"]),
        "nominatedNodeName": st.sampled_from(["n", "m"]),
        "resourceClaimStatuses": st.just([{"name": "gpu", "resourceClaimName": "p-gpu-x"}]),
        "containerStatuses": st.lists(containers, max_size=1),
        "resources": amounts.map(lambda a: {"requests": a}),
    },
)
metadata = st.fixed_dictionaries(
    {"namespace": st.just("default"), "name": st.just("p"), "uid": st.just("u")},
    optional={
        "labels": st.sampled_from([{}, {"a": "b"}]),
        "deletionTimestamp": st.just("2026-01-01T00:00:00Z"),
    },
)
pods = st.builds(
    lambda m, spec, status: {"metadata": m, "spec": spec, "status": status},
    metadata,
    st.sampled_from([SPEC, {**SPEC, "priority": 7}]),
    statuses,
)


@given(pods, pods)
def test_a_row_that_is_kept_is_the_row_that_would_be_read(old, new):
    if says_the_same(old, new):
        reader = PodReader()
        kept, read = replace(reader.row(old), started=start_time(new)), reader.row(new)
        for field in fields(kept):
            assert getattr(kept, field.name) == getattr(read, field.name), field.name


def test_a_kubelets_first_status_keeps_the_row():
    held = {
        "name": "main",
        "resources": {"requests": REQUESTS},
        "allocatedResources": REQUESTS,
    }
    old = {"metadata": {"name": "p", "uid": "u"}, "spec": SPEC, "status": {"phase": "Pending"}}
    status = {"phase": "Running", "containerStatuses": [held], "startTime": "2026-01-01T00:00:00Z"}
    assert says_the_same(old, {**old, "status": status})


WAITING = {key: part for key, part in SPEC.items() if key != "nodeName"}
EXTENDED = {"containers": [{"name": "main", "resources": {"requests": {"gpu.example.com/a": "1"}}}]}
SPREAD = {
    "containers": SPEC["containers"],
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    ],
}
SERVICE = {"metadata": {"name": "s", "namespace": "default"}, "spec": {"selector": {"a": "b"}}}
CLASS = {
    "metadata": {"name": "gpu", "creationTimestamp": "2026-01-01T00:00:00Z"},
    "spec": {"extendedResourceName": "gpu.example.com/a"},
}
# The claim that is made for the extended resources, once it has its devices.
MADE = {
    "metadata": {
        "name": "p-extended-resources-x",
        "namespace": "default",
        "uid": "c",
        "annotations": {CLAIM_ANNOTATION: "true"},
        "ownerReferences": [{"kind": "Pod", "name": "p", "uid": "u", "controller": True}],
    },
    "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}},
    "status": {"allocation": {"devices": {"results": []}}},
}
NODE = {"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "9"}}}
SERVING = {**NODE, "status": {"allocatable": {"cpu": "9", "gpu.example.com/a": "2"}}}
others = st.lists(
    st.sampled_from(
        [
            (SERVICES, SERVICE),
            (DEVICE_CLASSES, CLASS),
            (RESOURCE_CLAIMS, MADE),
            (NODES, SERVING),
            (NODES, NODE),
        ]
    ),
    unique_by=id,
)
waiting = st.builds(
    lambda m, spec, status: {"metadata": m, "spec": spec, "status": status},
    metadata.map(lambda m: {k: v for k, v in m.items() if k != "deletionTimestamp"}),
    st.sampled_from([WAITING, {**WAITING, "priority": 7}, EXTENDED, SPREAD]),
    statuses,
)


NAMED = {"metadata": {"namespace": "default", "name": "p", "uid": "u"}}


def view(known):
    found = ClusterView()
    found.apply(NODES, None, NODE)
    for resource, document in known:
        found.apply(resource, None, document)
    return found


@given(
    waiting,
    others,
    others,
    st.sampled_from(["n", "m"]),
    st.sampled_from([None, {}, {"a": "b"}, {"a": "c"}]),
    st.none() | statuses,
    st.booleans(),
)
def test_a_pod_that_is_bound_has_the_row_that_would_be_read(
    pod, before, between, node, labels, status, seen_otherwise
):
    followed = view(before)
    followed.apply(PODS, None, pod)
    row = followed.pod(pod)
    followed.snapshot.place(row, "n")
    if seen_otherwise:
        other = {**pod, "metadata": {**pod["metadata"], "labels": {"a": "d"}}}
        followed.apply(PODS, pod, other)
        pod = other
    for resource, document in between:
        followed.apply(resource, None, document)
    bound = {**pod, "spec": pod["spec"] | {"nodeName": node}}
    if labels is not None:
        bound["metadata"] = {**pod["metadata"], "labels": labels}
    if status is not None:
        bound["status"] = status
    followed.apply(PODS, pod, bound)
    found, read = followed.snapshot.placed(row.key), view([*before, *between]).pod(bound)
    assert followed.snapshot.node_of(row.key) == node
    for field in fields(Pod):
        assert getattr(found, field.name) == getattr(read, field.name), field.name
    followed.snapshot.check()


def test_a_pod_of_a_template_is_not_read_again_when_it_is_bound():
    followed, pod = view(()), {"metadata": {"name": "p", "uid": "u"}, "spec": WAITING}
    followed.apply(PODS, None, pod)
    row = followed.pod(pod)
    followed.snapshot.place(row, "n")
    followed.apply(PODS, pod, {**pod, "spec": WAITING | {"nodeName": "n"}})
    assert followed.snapshot.placed(row.key) is row


def test_a_pod_for_which_devices_stand_is_not_read_again_when_it_is_bound():
    """The claim that was made for it is the one thing that is new."""
    followed, pod = view([(DEVICE_CLASSES, CLASS)]), {**NAMED, "spec": EXTENDED}
    followed.apply(PODS, None, pod)
    row = followed.pod(pod)
    followed.snapshot.place(row, "n")
    followed.apply(RESOURCE_CLAIMS, None, MADE)
    followed.reader.row = None  # whoever reads again fails
    followed.apply(PODS, pod, {**pod, "spec": EXTENDED | {"nodeName": "n"}})
    found = followed.snapshot.placed(row.key)
    assert found.claims == (("default", "p-extended-resources-x"),)
    differ = [f.name for f in fields(Pod) if getattr(found, f.name) != getattr(row, f.name)]
    assert differ == ["claims"]
    running = {**pod, "spec": EXTENDED | {"nodeName": "n"}, "status": {"phase": "Running"}}
    followed.apply(PODS, {**running, "status": {}}, running)
    assert followed.snapshot.placed(row.key) is found


@given(pods, st.sampled_from([0.0, 5.0]))
def test_one_field_is_replaced_as_by_dataclasses(pod, started):
    row = PodReader().row(pod)
    found, expected = replacing(Pod, "started")(row, started), replace(row, started=started)
    for field in fields(Pod):
        assert getattr(found, field.name) == getattr(expected, field.name), field.name
