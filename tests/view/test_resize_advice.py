"""What is said of a running pod whose resize waits for room on its node."""

import pytest

from kubarium.api.kinds import NODES, PODS
from kubarium.view.why import explain

PENDING = {"type": "PodResizePending", "status": "True", "reason": "Deferred", "message": "cpu"}


def node(name, **spec):
    allocatable = {"cpu": "4", "memory": "16Gi", "pods": "20"}
    return {"metadata": {"name": name}, "spec": spec, "status": {"allocatable": allocatable}}


def pod(name, cpu, granted="", **metadata):
    """A pod on node a; one that is to grow has been ``granted`` less than it wants."""
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}
    status = {"phase": "Running"}
    if granted:
        held = {"name": "c", "resources": {"requests": {"cpu": granted}}}
        held["allocatedResources"] = {"cpu": granted}
        status |= {"conditions": [PENDING], "containerStatuses": [held]}
    return {
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", **metadata},
        "spec": {"nodeName": "a", "containers": [container]},
        "status": status,
    }


def account(growing, *others, nodes=None):
    pods = [growing, *others]
    return explain({NODES: nodes or [node("a"), node("b")], PODS: pods}, growing)


def advice(told):
    return [(s.kind, s.text) for s in told.suggestions]


def test_the_room_that_lacks_on_its_node_is_told_with_what_would_make_it():
    told = account(pod("p", "3", granted="1"), pod("q", "2"), pod("r", "1"))
    assert told.state == "Running"
    assert told.reasons == ("resize Deferred: cpu", "Insufficient cpu: a")
    assert advice(told) == [
        ("lower-request", "request at most 1 cpu (free on node a)"),
        ("add-resource", "2 more cpu on node a"),
        ("free-pod", "let pod default/q on node a end"),
    ]
    [ending] = [s for s in told.suggestions if s.kind == "free-pod"]
    assert told.commands[ending] == "kubectl delete pod -n default q"


@pytest.mark.parametrize("others", [[], [pod("r", "1")]])
def test_what_is_advised_lets_it_through(others):
    """Without the pod that was to end there is room, and the node alone is waited for."""
    growing = pod("p", "3", granted="1")
    assert "free-pod" in {s.kind for s in account(growing, pod("q", "2"), *others).suggestions}
    after = account(growing, *others)
    assert not after.suggestions
    assert after.reasons == ("resize Deferred: cpu",)


def test_its_node_may_be_cordoned_and_tainted():
    taint = {"key": "x", "effect": "NoExecute"}
    closed = node("a", unschedulable=True, taints=[taint])
    told = account(pod("p", "3", granted="1"), pod("q", "2"), nodes=[closed])
    assert told.reasons[1:] == ("Insufficient cpu: a",)
    assert {s.kind for s in told.suggestions} == {"lower-request", "add-resource", "free-pod"}


def test_a_pod_that_is_going_or_has_what_it_wants_is_told_nothing_of_it():
    going = pod("p", "3", granted="1", deletionTimestamp="2026-01-01T00:00:00Z")
    assert not account(going, pod("q", "2")).suggestions
    assert not account(pod("p", "3"), pod("q", "2")).reasons


def test_asking_changes_nothing():
    growing = pod("p", "3", granted="1")
    assert account(growing, pod("q", "2")) == account(growing, pod("q", "2"))
