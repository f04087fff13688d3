"""``why``: what is missing, who has it, and changes that really help."""

import pytest

from kubarium.api.kinds import (
    CLUSTER_QUEUES,
    LOCAL_QUEUES,
    NAMESPACES,
    RESOURCE_FLAVORS,
    WORKLOADS,
)
from kubarium.engine.queueing.cycle import plan_cycle
from kubarium.view.queueing.account import account
from kubarium.view.queueing.why import explain
from kubarium.view.queueing.world import world_of

V = "kueue.x-k8s.io/v1beta2"


def cluster_queue(cpu="4", flavors=("default",), **spec):
    group = {
        "coveredResources": ["cpu"],
        "flavors": [
            {"name": f, "resources": [{"name": "cpu", "nominalQuota": cpu}]} for f in flavors
        ],
    }
    return {
        "apiVersion": V,
        "kind": "ClusterQueue",
        "metadata": {"name": "cq"},
        "spec": {"namespaceSelector": {}, "resourceGroups": [group], **spec},
    }


def workload(name, cpu="1", count=1, priority=0, admitted=False, at=0, pod=None, **spec):
    pod_spec = {
        "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}],
        **(pod or {}),
    }
    document = {
        "apiVersion": V,
        "kind": "Workload",
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": name,
            "creationTimestamp": f"2026-01-01T00:00:{at:02d}Z",
        },
        "spec": {
            "queueName": "lq",
            "priority": priority,
            "podSets": [{"name": "main", "count": count, "template": {"spec": pod_spec}}],
            **spec,
        },
    }
    if admitted:
        usage = str(int(cpu) * count)
        document["status"] = {
            "admission": {
                "clusterQueue": "cq",
                "podSetAssignments": [
                    {
                        "name": "main",
                        "count": count,
                        "flavors": {"cpu": "default"},
                        "resourceUsage": {"cpu": usage},
                    }
                ],
            },
            "conditions": [
                {
                    "type": type_,
                    "status": "True",
                    "reason": type_,
                    "message": type_,
                    "lastTransitionTime": "2026-01-01T00:01:00Z",
                }
                for type_ in ("QuotaReserved", "Admitted")
            ],
        }
    return document


def documents(*workloads, queue=None, flavors=("default",), local=True):
    return {
        RESOURCE_FLAVORS: [
            {"apiVersion": V, "kind": "ResourceFlavor", "metadata": {"name": f}} for f in flavors
        ],
        CLUSTER_QUEUES: [queue or cluster_queue()],
        LOCAL_QUEUES: [
            {
                "apiVersion": V,
                "kind": "LocalQueue",
                "metadata": {"name": "lq", "namespace": "ns"},
                "spec": {"clusterQueue": "cq"},
            }
        ]
        if local
        else [],
        NAMESPACES: [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}}],
        WORKLOADS: list(workloads),
    }


def admits(world, name):
    plan = plan_cycle(world_of(world).snapshot, 1e10)
    return any(a.workload.name == name for a in plan.admissions)


def test_it_names_what_is_missing_and_who_holds_it():
    holders = [workload(f"h{i}", admitted=True) for i in range(4)]
    waiting = workload("late", "2", at=5)
    found = explain(documents(*holders, waiting), waiting)
    assert (found.state, found.reason) == ("Pending", "WaitingForQuota")
    assert found.message == (
        "couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor "
        "default, 2 more needed"
    )
    assert (found.position, found.waiting) == (0, 1)
    shortage = found.shortages[0]
    assert (shortage.requested, shortage.available, shortage.missing) == ("2", "0", "2")
    assert [h.workload for h in shortage.holders] == ["ns/h0", "ns/h1", "ns/h2", "ns/h3"]
    kinds = {change.kind: change for change in found.changes}
    assert kinds["raise-quota"].text == (
        "nominalQuota of ClusterQueue cq: 2 more cpu of flavor default"
    )
    assert len(kinds["wait-for"].workloads) == 2


def test_the_quota_it_asks_for_is_enough_and_one_less_is_not():
    holders = [workload(f"h{i}", admitted=True) for i in range(4)]
    waiting = workload("late", "3", at=5)
    asked = next(
        c for c in explain(documents(*holders, waiting), waiting).changes if c.kind == "raise-quota"
    )
    assert "3 more cpu" in asked.text
    assert admits(documents(*holders, waiting, queue=cluster_queue("7")), "late")
    assert not admits(documents(*holders, waiting, queue=cluster_queue("6")), "late")


def test_the_workloads_it_waits_for_are_enough_when_gone():
    holders = [workload("small", "1", admitted=True), workload("large", "3", admitted=True)]
    waiting = workload("late", "3", at=5)
    asked = next(
        c for c in explain(documents(*holders, waiting), waiting).changes if c.kind == "wait-for"
    )
    assert asked.workloads == ("ns/large",)
    assert admits(documents(holders[0], waiting), "late")


def test_the_priority_it_names_preempts_and_a_lower_one_does_not():
    policy = {"withinClusterQueue": "LowerPriority"}
    queue = cluster_queue("2", preemption=policy)
    holders = [workload(f"h{i}", priority=10, admitted=True) for i in range(2)]
    waiting = workload("late", "1", at=5)
    found = explain(documents(*holders, waiting, queue=queue), waiting)
    change = next(c for c in found.changes if c.kind == "raise-priority")
    assert change.text.startswith("priority 11: it would preempt ns/h")
    raised = workload("late", "1", at=5, priority=11)
    plan = plan_cycle(world_of(documents(*holders, raised, queue=queue)).snapshot, 1e10)
    assert len(plan.evictions) == 1


def test_the_size_it_names_fits_now():
    holder = workload("h", "1", admitted=True)
    waiting = workload("wide", "1", count=9, at=5)
    found = explain(documents(holder, waiting), waiting)
    change = next(c for c in found.changes if c.kind == "ask-for-less")
    assert change.text == "3 pods instead of 9 in main"


def test_more_than_there_can_ever_be_needs_quota_not_patience():
    waiting = workload("huge", "9")
    found = explain(documents(waiting), waiting)
    assert found.reason == "ExceedsMaxQuota"
    assert [c.kind for c in found.changes] == ["raise-quota"]
    assert "5 more cpu" in found.changes[0].text


def test_behind_a_strict_head_it_says_who_is_ahead():
    queue = cluster_queue("2", queueingStrategy="StrictFIFO")
    head, small = workload("head", "3", at=1), workload("small", "1", at=2)
    found = explain(documents(head, small, queue=queue), small)
    assert found.behind == ("ns/head",)
    assert found.position == 1
    assert found.changes[0].kind == "wait-for"


def test_a_missing_or_stopped_queue_is_the_answer():
    waiting = workload("w")
    lost = explain(documents(waiting, local=False), waiting)
    assert lost.message == "LocalQueue lq doesn't exist"
    assert lost.changes[0].kind == "create-queue"
    stopped = explain(documents(waiting, queue=cluster_queue(stopPolicy="Hold")), waiting)
    assert (stopped.reason, stopped.message) == ("Suspended", "ClusterQueue cq is inactive")
    assert "is stopped" in stopped.changes[0].text
    assert stopped.changes[0].text == (
        "ClusterQueue cq is stopped (Hold): set its spec.stopPolicy to None"
    )
    held = documents(waiting)
    held[LOCAL_QUEUES][0]["spec"]["stopPolicy"] = "HoldAndDrain"
    [start] = explain(held, waiting).changes
    assert (start.kind, start.text) == (
        "start-queue",
        "LocalQueue lq is stopped (HoldAndDrain): set its spec.stopPolicy to None",
    )
    off = workload("w", active=False)
    assert explain(documents(off), off).changes[0].kind == "activate"


def test_an_unusable_flavor_says_why():
    world = documents(workload("w", "1", pod={"nodeSelector": {"pool": "gpu"}}))
    world[RESOURCE_FLAVORS][0]["spec"] = {"nodeLabels": {"pool": "cpu"}}
    found = explain(world, world[WORKLOADS][0])
    assert found.shortages[0].unusable == "flavor default doesn't match node affinity"
    assert found.reason == "NoMatchingFlavor"
    assert found.changes == ()


def test_what_is_admitted_is_told_so_and_a_job_is_followed_to_its_workload():
    held = workload("h", admitted=True)
    held["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "j", "uid": "job-uid"}]
    subject = {"kind": "Job", "metadata": {"name": "j", "namespace": "ns", "uid": "job-uid"}}
    found = explain(documents(held), subject)
    assert (found.workload, found.state, found.cluster_queue) == ("ns/h", "Admitted", "cq")
    stranger = {"kind": "Job", "metadata": {"name": "x", "namespace": "ns", "uid": "other"}}
    assert explain(documents(held), stranger).state == "NoWorkload"


def test_explaining_leaves_the_documents_and_the_answer_repeats():
    holders = [workload(f"h{i}", admitted=True) for i in range(4)]
    waiting = workload("late", "2", at=5)
    world = documents(*holders, waiting)
    assert explain(world, waiting) == explain(world, waiting)


def test_without_namespaces_the_answer_is_still_about_quota():
    waiting = workload("w", "9")
    world = documents(waiting)
    del world[NAMESPACES]
    assert explain(world, waiting).reason == "ExceedsMaxQuota"


@pytest.mark.parametrize("cpu", ["1", "9"])
def test_the_common_account_carries_the_same(cpu):
    waiting = workload("w", cpu)
    told = account(documents(workload("h", "4", admitted=True), waiting), waiting)
    assert told.state == "Pending"
    assert told.suggestions
    assert told.facts["clusterQueue"] == "cq"
    assert told.to_json()["facts"]["shortages"][0]["flavor"] == "default"
