"""Warning events as reasons of an explanation."""

from __future__ import annotations

from kubarium.api.kinds import EVENTS, JOBS, NODES, PODS
from kubarium.view.warnings import WARNINGS_SHOWN
from kubarium.view.why import RESOURCES_NEEDED, explain


def event(kind, name, message, at, type_="Warning", reason="FailedCreate"):
    return {
        "metadata": {"name": f"{name}.{at}", "namespace": "default"},
        "involvedObject": {"kind": kind, "namespace": "default", "name": name},
        "type": type_,
        "reason": reason,
        "message": message,
        "lastTimestamp": f"2026-01-01T00:00:{at:02}Z",
    }


def owner(kind, name, **metadata):
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}", **metadata}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": {}}


def test_why_children_were_not_created_is_told_by_the_owners_warnings():
    assert EVENTS in RESOURCES_NEEDED
    events = [
        event("JobSet", "x", "all is well", 9, type_="Normal", reason="Created"),
        event("JobSet", "y", "of another", 9),
        event("JobSet", "x", "quota exceeded", 5, reason="JobCreationFailed"),
    ]
    for kind in ("JobSet", "Deployment", "ReplicaSet", "Job"):
        about = [{**e, "involvedObject": {**e["involvedObject"], "kind": kind}} for e in events]
        said = explain({EVENTS: about}, owner(kind, "x"))
        assert said.reasons == ("JobCreationFailed: quota exceeded",)


def test_only_the_newest_warnings_are_told_each_once():
    events = [event("Job", "x", f"try {n % 5}", n) for n in range(10)]
    said = explain({EVENTS: events}, owner("Job", "x"))
    assert said.reasons == tuple(f"FailedCreate: try {n}" for n in (4, 3, 2))
    assert len(said.reasons) == WARNINGS_SHOWN


def test_waiting_descendants_tell_their_warnings_too():
    child = owner("Job", "x-w-0", ownerReferences=[{"uid": "uid-x", "controller": True}])
    documents = {JOBS: [child], EVENTS: [event("Job", "x-w-0", "pods is forbidden", 1)]}
    said = explain(documents, owner("JobSet", "x"))
    assert "FailedCreate: pods is forbidden" in said.children[0].reasons


def test_warnings_about_an_earlier_object_of_the_name_are_not_told():
    about = [event("Job", "x", "of the one before", 1), event("Job", "x", "of this one", 2)]
    about[0]["involvedObject"]["uid"] = "uid-before"
    about[1]["involvedObject"]["uid"] = "uid-x"
    job = owner("Job", "x")
    said = explain({JOBS: [job], EVENTS: about}, job)
    assert said.reasons == ("FailedCreate: of this one",)


def test_what_the_scheduler_adds_between_the_parts_of_the_summary_is_no_news():
    resource = "deviceclass.resource.kubernetes.io/no"
    summary = f"0/1 nodes are available: 1 Insufficient {resource}."
    more = f'{resource} names DeviceClass "no", which does not exist.'
    waiting = owner("Pod", "x")
    waiting["spec"] = {"containers": [{"name": "c", "resources": {"limits": {resource: "1"}}}]}
    status = {"allocatable": {"cpu": "4", "pods": "10"}}
    node = {"metadata": {"name": "n"}, "spec": {}, "status": status}
    preemption = "preemption: 0/1 nodes are available: 1 Preemption is not helpful."
    said = f"{summary} no new claims to deallocate, {preemption} {more}"
    about = [event("Pod", "x", said, 1, reason="FailedScheduling")]
    found = explain({NODES: [node], PODS: [waiting], EVENTS: about}, waiting)
    assert found.summary == f"{summary} {more}"
    assert not any("FailedScheduling" in reason for reason in found.reasons)
    other = [event("Pod", "x", said.replace("Insufficient", "Much too little"), 1)]
    found = explain({NODES: [node], PODS: [waiting], EVENTS: other}, waiting)
    assert any("Much too little" in reason for reason in found.reasons)


def test_what_a_parent_says_is_not_told_of_its_children_again():
    child = owner("Job", "x-w-0", ownerReferences=[{"uid": "uid-x", "controller": True}])
    parent = owner("JobSet", "x")
    said = explain({JOBS: [child], EVENTS: []}, parent).summary
    assert said
    about = [event("Job", "x-w-0", said, 1), event("Job", "x-w-0", "of its own", 2)]
    found = explain({JOBS: [child], EVENTS: about}, parent)
    assert found.children[0].reasons[-1] == "FailedCreate: of its own"
    assert f"FailedCreate: {said}" not in found.children[0].reasons


def test_an_event_that_goes_on_where_the_summary_of_a_child_ends_is_no_news():
    child = owner("Job", "x-w-0", ownerReferences=[{"uid": "uid-x", "controller": True}])
    parent = owner("JobSet", "x")
    said = explain({JOBS: [child], EVENTS: []}, parent).children[0].summary
    about = [event("JobSet", "x", f"{said} and so on", 1), event("JobSet", "x", "else", 2)]
    found = explain({JOBS: [child], EVENTS: about}, parent)
    assert "FailedCreate: else" in found.reasons
    assert f"FailedCreate: {said} and so on" not in found.reasons


def test_the_last_word_of_one_second_counts():
    """Of two events of one second, one that goes on, the exact times tell which came last."""
    first, last = (
        event("Job", "x", text, 1, reason="FailedScheduling")
        for text in ("said first", "said last")
    )
    first["eventTime"] = "2026-01-01T00:00:01.100000Z"
    last["eventTime"] = "2026-01-01T00:00:01.900000Z"
    for events in ([first, last], [last, first]):
        said = explain({EVENTS: events}, owner("Job", "x"))
        assert said.reasons == ("FailedScheduling: said last",)
    last["lastTimestamp"] = None
    said = explain({EVENTS: [first, last]}, owner("Job", "x"))
    assert said.reasons == ("FailedScheduling: said last",)
