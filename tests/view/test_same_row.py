"""A pod's row is kept only where it would come out the same."""

from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st

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
