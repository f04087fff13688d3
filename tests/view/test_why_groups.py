"""What ``why`` says of pod groups that are held, disagree or run in part."""

from __future__ import annotations

from kubarium.api.kinds import COMPOSITE_POD_GROUPS, EVENTS, NODES, POD_GROUPS, PODS
from kubarium.view.gangs import COSCHEDULING_GROUPS
from kubarium.view.why import explain

from .test_warnings import event
from .test_why import group, node, pod, texts

HOLD = [{"name": "example.com/hold"}]


def gang(name, count, size, **more):
    return group(name, count), [pod(f"{name}-{i}", group=name, **more) for i in range(size)]


def held(document):
    document["spec"]["schedulingGates"] = HOLD
    return document


def world(groups, pods):
    return {NODES: [node("a")], PODS: pods, POD_GROUPS: groups}


def test_a_pod_whose_group_lacks_a_gated_one_does_not_fit_alone():
    own, [first, second] = gang("g", 2, 2)
    documents = world([own], [first, held(second)])
    said = explain(documents, first)
    assert said.summary == "the pod starts together with its pod group g, or not at all"
    [told] = said.children
    text = "pod g-1 is held by the scheduling gate example.com/hold"
    assert (told.state, told.summary) == ("Gated", text)


def test_a_group_that_could_start_without_its_gated_pods_is_told_what_keeps_it():
    own, [first, second, third] = gang("g", 2, 3, cpu="9")
    said = explain(world([own], [first, second, held(third)]), own)
    assert said.state == "Pending"
    assert "gang needs 2, at most 0 fit" in said.summary
    assert said.reasons[0] == "pod g-2 is held by the scheduling gate example.com/hold"
    assert "request at most 2 cpu for each pod" in texts(said)


def test_a_hierarchy_that_could_start_without_its_gated_pods_is_told_what_keeps_it():
    top = {
        "apiVersion": "scheduling.k8s.io/v1alpha3",
        "kind": "CompositePodGroup",
        "metadata": {"name": "c", "namespace": "default", "uid": "uid-c"},
        "spec": {"schedulingPolicy": {"gang": {"minGroupCount": 1}}},
    }
    own, pods = gang("g", 2, 3, cpu="9")
    own["spec"]["parentCompositePodGroupName"] = "c"
    held(pods[2])
    documents = world([own], pods) | {COMPOSITE_POD_GROUPS: [top]}
    said = explain(documents, top)
    assert said.state == "Pending"
    assert said.reasons[0] == "pod g-2 is held by the scheduling gate example.com/hold"
    held(pods[1])
    said = explain(documents, top)
    assert said.state == "Gated"
    assert "pods g-1, g-2 are held by the scheduling gate example.com/hold; " in said.summary
    assert "fewer than minCount pods of pod group g exist" in said.summary


def test_who_disagrees_with_its_group_is_named():
    own, pods = gang("g", 5, 5, priority=10)
    own["spec"]["priority"] = 10
    sentence = "all pods in a single pod group should match the priority of the pod group"
    pods[3]["spec"]["priority"] = 99
    assert explain(world([own], pods), own).summary == f"{sentence}, got: 10 and 99 (pod g-3)"
    for one in pods[:4]:
        one["spec"]["priority"] = 99
    told = explain(world([own], pods), own).summary
    assert told == f"{sentence}, got: 10 and 99 (pods g-0, g-1, g-2 and 1 more)"


def test_of_pods_without_a_priority_of_their_group_the_fewer_are_named():
    own, pods = gang("g", 3, 3)
    pods[0]["spec"]["schedulerName"] = "other"
    assert explain(world([own], pods), own).summary.endswith('"other" (pod g-0)')
    pods[0]["spec"].pop("schedulerName")
    pods[2]["spec"]["preemptionPolicy"] = "Never"
    assert explain(world([own], pods), own).summary.endswith("PreemptLowerPriority (pod g-2)")


def test_a_pod_beyond_the_minimum_joins_a_group_that_runs():
    own, pods = gang("g", 2, 3, cpu="2")
    for one in pods[:2]:
        one["spec"]["nodeName"] = "a"
    said = explain(world([own], pods), pods[2])
    assert said.summary == "the pod joins its pod group g, which runs, once there is room"
    assert said.children[0].reasons[0] == "2 pods have a node, its minCount is 2; 1 more waits"


def test_a_group_that_runs_with_too_few_says_so():
    own, pods = gang("g", 3, 2)
    for one in pods:
        one["spec"]["nodeName"] = "a"
    said = explain(world([own], pods), own)
    text = "all 2 pods of the group have a node; its minCount is 3, but there are no more pods"
    assert (said.state, said.summary) == ("Scheduled", text)


def test_what_the_scheduler_said_before_it_decided_again_is_not_told():
    own, pods = gang("g", 2, 2, cpu="9")
    said = ["gang needs 7, at most 3 fit", "gang needs 2, at most 1 fit"]
    events = [
        event("PodGroup", "g", text, at, reason="FailedScheduling") for at, text in enumerate(said)
    ]
    found = explain(world([own], pods) | {EVENTS: events}, own)
    shown = [line for line in found.reasons if line.startswith("FailedScheduling")]
    assert shown == ["FailedScheduling: gang needs 2, at most 1 fit"]


def test_what_the_account_of_its_group_says_is_not_told_of_a_pod_again():
    own, pods = gang("g", 2, 2, cpu="9")
    summary = explain(world([own], pods), own).summary
    events = [event("Pod", "g-0", summary, 1, reason="FailedScheduling")]
    said = explain(world([own], pods) | {EVENTS: events}, pods[0])
    assert said.children[0].summary == summary
    assert said.reasons == ()


def test_a_coscheduling_group_is_told_by_how_much_its_minimum_of_resources_is_too_large():
    own, pods = gang("g", 2, 2)
    own = {
        "apiVersion": "scheduling.x-k8s.io/v1alpha1",
        "kind": "PodGroup",
        "metadata": own["metadata"],
        "spec": {"minMember": 2, "minResources": {"cpu": "6", "memory": "1Gi"}},
    }
    for one in pods:
        del one["spec"]["schedulingGroup"]
        one["metadata"]["labels"] = {"scheduling.x-k8s.io/pod-group": "g"}
    documents = {NODES: [node("a"), node("b", cpu="1")], PODS: pods, COSCHEDULING_GROUPS: [own]}
    said = explain(documents, pods[0]).children[0]
    assert said.summary == "resource gap: map[cpu:1]"
    assert said.reasons == ("minResources ask for 6 cpu at once, the nodes have 5 left",)
    assert texts(said) == [
        "lower minResources of pod group g: cpu to 5",
        "add 1 more node like a",
    ]


def test_a_group_that_is_being_deleted_says_what_it_waits_for():
    own, pods = gang("g", 2, 2, cpu="9")
    own["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    said = explain(world([own], pods), own)
    text = "the group is being deleted: it goes once 2 pods that name it have ended"
    assert said.reasons[0] == text
    for one in pods:
        one["status"] = {"phase": "Succeeded"}
    assert text not in explain(world([own], pods), own).reasons


def test_pods_that_are_too_few_may_start_alone():
    own, pods = gang("g", 4, 3)
    said = explain(world([own], pods), own)
    assert said.summary.endswith("3 of 4 exist")
    assert texts(said) == ["lower minCount of pod group g to 3: the pods that exist fit now"]
    own, pods = gang("g", 4, 3, cpu="3")
    assert not explain(world([own], pods), own).suggestions


def test_a_pod_makes_no_room_for_itself_by_the_end_of_its_own_group():
    own, pods = gang("g", 2, 3, cpu="2")
    for member in pods[:2]:
        member["spec"]["nodeName"] = "a"
    said = explain(world([own], pods), own)
    assert "2 pods have a node, its minCount is 2; 1 more waits" in said.reasons
    kinds = {suggestion.kind for suggestion in said.suggestions}
    assert "add-resource" in kinds
    assert not kinds & {"free-pod", "free-pods", "raise-priority"}
    other = pod("other", on="b", cpu="4")
    documents = world([own], [*pods, other]) | {NODES: [node("a"), node("b")]}
    assert "let pod default/other on node b end" in texts(explain(documents, own))


def test_more_domains_than_there_are_are_not_asked_for():
    selector = {"matchLabels": {"app": "web"}}
    constraint = {
        "maxSkew": 1,
        "minDomains": 3,
        "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": selector,
    }
    nodes = [node(name, labels={"zone": name}) for name in "ab"]
    pods = [pod("x", on="a"), pod("y", on="b"), pod("z", topologySpreadConstraints=[constraint])]
    for one in pods:
        one["metadata"]["labels"] = {"app": "web"}
    said = explain({NODES: nodes, PODS: pods}, pods[-1])
    assert texts(said)[0] == "lower minDomains of the spread over zone from 3 to 2"


def test_what_was_said_of_a_pod_is_not_told_of_its_group_again():
    own, pods = gang("g", 2, 2, cpu="9")
    events = [
        event(kind, name, "gang needs 2, at most 1 fit", 1, reason="FailedScheduling")
        for kind, name in (("PodGroup", "g"), ("Pod", "g-0"))
    ]
    said = explain(world([own], pods) | {EVENTS: events}, pods[0])
    assert said.reasons == ("FailedScheduling: gang needs 2, at most 1 fit",)
    assert not any("at most 1 fit" in line for line in said.children[0].reasons)
