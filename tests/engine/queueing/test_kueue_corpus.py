"""Kueue's own test tables, as data, run against the engine.

The tables come from a folder named by KUBARIUM_CORPUS (default <shared>/corpus, where <shared> is
KUBARIUM_SHARED); without it everything here is skipped. Each case builds documents into a world,
asks the engine, and compares what the table expects.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubarium.api.kinds import (
    CLUSTER_QUEUES,
    COHORTS,
    LOCAL_QUEUES,
    NAMESPACES,
    RESOURCE_FLAVORS,
    WORKLOADS,
)
from kubarium.base.clock import parse_rfc3339
from kubarium.engine.queueing.amounts import amount_of
from kubarium.engine.queueing.assign import AssignContext, assign, is_preferred
from kubarium.engine.queueing.assignment import (
    Assignment,
    FlavorChoice,
    Mode,
    PodSetAssignment,
    Possibility,
)
from kubarium.engine.queueing.clusterqueue import Fungibility
from kubarium.engine.queueing.cycle import capacity_to_reserve, plan_cycle
from kubarium.engine.queueing.fair import TargetOrder, dominant_share
from kubarium.engine.queueing.nomination import victims_for
from kubarium.engine.queueing.snapshot import Options
from kubarium.engine.queueing.tournament import classical_order
from kubarium.engine.queueing.victims import (
    candidate_order,
    may_preempt,
    message_for,
    preemption_message,
)
from kubarium.engine.queueing.workload import Admitted, AssignedPodSet, Key, Workload, usage_of
from kubarium.view.queueing.documents import (
    Ordering,
    admitted_of,
    assigned_of,
    is_true,
    workload_of,
)
from kubarium.view.queueing.world import World

_REPO = Path(__file__).parents[3]
_SHARED = Path(os.environ.get("KUBARIUM_SHARED", _REPO.parent / "shared"))
CORPUS = Path(os.environ.get("KUBARIUM_CORPUS", _SHARED / "corpus")) / "kueue"

FILES = {
    "resource.TestAvailable": "quota",
    "flavorassigner.TestAssignFlavors": "assign",
    "flavorassigner.TestAssignFlavorsWithAllowedFlavors": "assign",
    "flavorassigner.TestHierarchical": "assign",
    "flavorassigner.TestReclaimBeforePriorityPreemption": "assign",
    "flavorassigner.TestDeletedFlavors": "assign",
    "flavorassigner.TestIsNoFitDueToCapacityAndLimits": "assign",
    "flavorassigner.TestIsPreferred": "preferred",
    "preemption.TestPreemption": "preempt",
    "preemption_hierarchical.TestHierarchicalPreemptions": "preempt",
    "preemption.TestCandidatesOrdering": "candidates",
    "preemption.TestPriorityInfo": "priority",
    "preemption.TestPreemptionMessage": "message",
    "preemption_policy.TestSatisfiesPreemptionPolicy": "policy",
    "preemption_fair.TestFairPreemptions": "preempt",
    "ordering.TestMakeClusterQueueOrdering": "fair_order",
    "fair_sharing.TestDominantResourceShare": "drs",
    "fair_sharing.TestIsBorrowingOn": "borrowing_on",
    "scheduler.TestEntryOrdering": "entry_order",
    "scheduler.TestResourcesToReserve": "reserve",
    "scheduler.TestSchedule": "cycle",
    "scheduler_fs.TestScheduleForFairSharing": "cycle",
    "scheduler_recompute_preemption.TestScheduleRecomputePreemptionTargets": "cycle",
    "scheduler.TestLastSchedulingContext": "two_cycles",
}

# Cases that the engine does not pass yet, and why. A case that starts to pass must leave the list.
_NO_TOPOLOGY = "topology-aware placement is not part of flavor assignment yet"
_NO_FIT_TEST = "TestIsNoFitDueToCapacityAndLimits"
KNOWN_DEVIATIONS: dict[str, str] = {
    f"{_NO_FIT_TEST}/TAS not supported": _NO_TOPOLOGY,
    f"{_NO_FIT_TEST}/TAS only flavor mismatch": _NO_TOPOLOGY,
    f"{_NO_FIT_TEST}/tas placement fails": _NO_TOPOLOGY,
    f"{_NO_FIT_TEST}/tas placement fails, cohort has no capacity": _NO_TOPOLOGY,
    "TestAssignFlavors/multiple flavors, leader worker set, workers request GPU, leader does not "
    "request GPU, fits": "the table's ClusterQueue covers one resource in two groups, which "
    "validation forbids; the assignment agrees, the attempts told about differ",
}

_GATES = {
    "PartialAdmission": "partial_admission",
    "RecomputeAssignmentUponPreemptionTargetsOverlap": "recompute_on_overlap",
    "FairSharingPreemptWithinNominal": "preempt_within_nominal",
    "FairSharingPrioritizeNonBorrowing": "prioritize_non_borrowing",
    "PrioritySortingWithinCohort": "priority_sorting_within_cohort",
    "SchedulingEquivalenceHashing": "equivalence_hashing",
}


def _cases() -> list[Any]:
    if not CORPUS.is_dir():
        return [pytest.param(None, None, marks=pytest.mark.skip(reason=f"no corpus at {CORPUS}"))]
    params = []
    for file, kind in FILES.items():
        text = (CORPUS / f"{file}.yaml").read_text()
        table = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        for case in table["cases"]:
            case["now"] = parse_rfc3339(table["now"])
            name = f"{file.split('.')[-1]}/{case['id'].split('/')[-1]}"
            reason = KNOWN_DEVIATIONS.get(name)
            marks = [pytest.mark.xfail(reason=reason)] if reason else []
            params.append(pytest.param(kind, case, id=name, marks=marks))
    return params


@pytest.mark.shared
@pytest.mark.parametrize(("kind", "case"), _cases())
def test_engine_agrees_with_kueues_table(kind: str, case: dict[str, Any]) -> None:
    CHECKS[kind](case)


# --- building --------------------------------------------------------------------------------


def _world(case: dict[str, Any], **more: Any) -> World:
    state = case["state"]
    chosen = {_GATES[gate]: on for gate, on in case["gates"].items() if gate in _GATES}
    fair = state.get("fairSharing", False)
    if isinstance(fair, dict):
        strategies = tuple(fair.get("preemptionStrategies") or ())
        chosen["fair_sharing"] = True
        if strategies:
            chosen["fair_strategies"] = strategies
    else:
        chosen["fair_sharing"] = bool(fair)
    boosts = bool(case["gates"].get("PriorityBoost"))
    world = World(Options(**{**chosen, **more}), boosts=boosts)
    for resource, key in (
        (RESOURCE_FLAVORS, "flavors"),
        (COHORTS, "cohorts"),
        (CLUSTER_QUEUES, "clusterQueues"),
        (LOCAL_QUEUES, "localQueues"),
        (NAMESPACES, "namespaces"),
        (WORKLOADS, "workloads"),
        (WORKLOADS, "admitted"),
    ):
        for document in state.get(key) or ():
            world.put(resource, document)
    world.settle()
    for charge in state.get("usage") or ():
        world.snapshot.tree.queues[charge["clusterQueue"]].charge(_amounts(charge["amounts"]))
    return world


def _amounts(entries: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    return {(e["flavor"], e["resource"]): amount_of(e["resource"], e["amount"]) for e in entries}


def _usages(snapshot: Any) -> dict[str, Any]:
    return {
        name: {fr: amount for fr, amount in node.usage.items() if amount}
        for name, node in snapshot.tree.queues.items()
    }


def _key(text: str) -> Key:
    namespace, _, name = text.partition("/")
    return (namespace, name)


# --- single decisions ------------------------------------------------------------------------


def _check_quota(case: dict[str, Any]) -> None:
    tree = _world(case).snapshot.tree
    for field, method in (("available", "available"), ("potentiallyAvailable", "potential")):
        for entry in case["expect"][field]:
            node = tree.queues[entry["clusterQueue"]]
            for fr, amount in _amounts(entry["amounts"]).items():
                found = (
                    node.potential_available(fr)
                    if method == "potential"
                    else max(0, node.available(fr))
                )
                assert found == amount, (field, node, fr)


_ORACLE = {
    "NoCandidates": Possibility.NO_CANDIDATES,
    "Preempt": Possibility.PREEMPT,
    "Reclaim": Possibility.RECLAIM,
}


def _check_assign(case: dict[str, Any]) -> None:
    world = _world(case)
    snapshot = world.snapshot
    name = case["event"]["clusterQueue"]
    oracle = case["state"]["preemptionOracle"]
    answers = {(r["flavor"], r["resource"]): r for r in oracle["results"]}

    def simulated(_workload: Any, fr: Any, _amount: int) -> tuple[Possibility, int]:
        answer = answers.get(fr, oracle["default"])
        return _ORACLE[answer["result"]], answer.get("borrow", 0)

    replaced = case["event"].get("replacedSlice")
    context = AssignContext(
        snapshot.queues[name],
        snapshot.tree.queues[name],
        snapshot.flavors,
        simulated,
        snapshot.options.fair_sharing,
        case["state"].get("quotaCheckStrategy") == "IgnoreUndeclared",
    )
    found = assign(
        context,
        workload_of(
            case["event"]["workload"],
            name,
            allowed_flavors=bool(case["gates"].get("ConcurrentAdmission")),
        ),
        replaced=_slice(replaced) if replaced else None,
    )
    _compare_assignment(case["expect"], found)


def _slice(entry: dict[str, Any]) -> Admitted:
    pod_sets = tuple(
        AssignedPodSet(
            ps["name"], 1, ps["flavors"], {r: amount_of(r, q) for r, q in ps["requests"].items()}
        )
        for ps in entry["podSets"]
    )
    return Admitted(Workload("ns", "old", "", ()), pod_sets, usage_of(pod_sets))


def _compare_assignment(expect: dict[str, Any], found: Assignment) -> None:
    if "noFitReason" in expect:
        assert found.no_fit_reason == expect["noFitReason"]
    if "attemptNoFitReasons" in expect:
        tried = {a.flavor: a.no_fit_reason for ps in found.pod_sets for a in ps.attempts}
        wanted = expect["attemptNoFitReasons"]
        assert {f: r for f, r in tried.items() if f in wanted} == {
            f: r for f, r in wanted.items() if f in tried
        }
        return
    assert found.mode.label == expect["mode"]
    if "flavorsOfFirstPodSet" in expect or "podSets" not in expect:
        first = {r: c.flavor for r, c in found.pod_sets[0].flavors.items()}
        assert first == (expect.get("flavorsOfFirstPodSet") or {})
        return
    assert found.borrowing == expect.get("borrowing", 0)
    assert dict(found.usage) == _amounts(expect.get("usage") or [])
    wanted_sets = {ps["name"]: ps for ps in expect["podSets"]}
    assert sorted(wanted_sets) == sorted(ps.name for ps in found.pod_sets)
    for ps in found.pod_sets:
        _compare_pod_set(wanted_sets[ps.name], ps)


def _compare_pod_set(wanted: dict[str, Any], found: PodSetAssignment) -> None:
    assert found.count == wanted["count"]
    assert {r: (c.flavor, c.mode.label, c.tried_index) for r, c in found.flavors.items()} == {
        r: (f["name"], f["mode"], f.get("triedFlavorIdx", 0))
        for r, f in (wanted.get("flavors") or {}).items()
    }
    assert sorted(found.reasons) == sorted(wanted.get("reasons") or [])
    if "requests" in wanted:
        assert dict(found.requests) == {
            r: amount_of(r, q) for r, q in (wanted["requests"] or {}).items()
        }
    attempts = wanted.get("attempts") or []
    made = {a.flavor: a for a in found.attempts}
    lenient = any(a["mode"] == "Fit" for a in attempts)
    for attempt in attempts:
        if attempt["flavor"] not in made and lenient:
            continue
        own = made[attempt["flavor"]]
        assert own.mode.label == attempt["mode"]
        assert list(own.reasons) == sorted(attempt.get("reasons") or [])
        assert own.no_fit_reason == attempt.get("noFitReason", "")
        assert own.borrow == attempt.get("borrow", 0)


_PREFERENCE = {
    "noFit": Possibility.NO_FIT,
    "noPreemptionCandidates": Possibility.NO_CANDIDATES,
    "preempt": Possibility.PREEMPT,
    "reclaim": Possibility.RECLAIM,
    "fit": Possibility.FIT,
}


def _check_preferred(case: dict[str, Any]) -> None:
    event = case["event"]
    rules = event.get("fungibility") or {}
    fungibility = Fungibility(preference=rules.get("preference") or "BorrowingOverPreemption")
    left, right = (
        (_PREFERENCE[event[side]["mode"]], event[side]["borrowingLevel"]) for side in "ab"
    )
    assert is_preferred(left, right, fungibility) == case["expect"]["aPreferred"]


def _check_preempt(case: dict[str, Any]) -> None:
    snapshot = _world(case).snapshot
    event = case["event"]
    incoming = workload_of(event["incoming"], event["clusterQueue"])
    pod_sets = []
    for index, wanted in enumerate(event["assignment"]["podSets"]):
        requests = incoming.pod_sets[index].requests(wanted["count"])
        flavors = {
            r: FlavorChoice(f["name"], {"Preempt": Mode.PREEMPT, "Fit": Mode.FIT}[f["mode"]])
            for r, f in wanted["flavors"].items()
        }
        pod_sets.append(
            PodSetAssignment(index, wanted["name"], wanted["count"], flavors, requests, ("x",))
        )
    assignment = Assignment(tuple(pod_sets), {}, 0, Mode.PREEMPT)
    before = _usages(snapshot)
    victims = victims_for(snapshot, incoming, assignment)
    assert before == _usages(snapshot)
    snapshot.check()
    own = snapshot.tree.queues[event["clusterQueue"]]
    found = sorted((v.admitted.key, v.reason) for v in victims)
    wanted_victims = case["expect"].get("victims") or []
    assert found == sorted((_key(v["workload"]), v["reason"]) for v in wanted_victims)
    messages = {
        v.admitted.key: message_for(
            incoming, v, own, snapshot.tree.queues[v.admitted.cluster_queue]
        )
        for v in victims
    }
    for victim in wanted_victims:
        if "message" in victim and not victim.get("alreadyEvicted"):
            assert messages[_key(victim["workload"])] == victim["message"]


def _holder(document: dict[str, Any], boosts: bool = False) -> Admitted:
    """The workload as if it held quota, whatever its conditions say."""
    found = admitted_of(document, boosts=boosts)
    if found is None:
        admission = (document.get("status") or {}).get("admission") or {}
        workload = workload_of(document, admission.get("clusterQueue", ""), boosts=boosts)
        pod_sets = tuple(assigned_of(entry) for entry in admission.get("podSetAssignments") or ())
        evicted = is_true(document, "Evicted")
        found = Admitted(workload, pod_sets, usage_of(pod_sets), None, evicted)
    return found


def _check_candidates(case: dict[str, Any]) -> None:
    boosts = bool(case["gates"].get("PriorityBoost"))
    own = case["event"]["preemptorClusterQueue"]
    if case["event"].get("admissionFairSharing"):
        pytest.skip("usage-based admission fair sharing is not implemented")
    candidates = [_holder(c["workload"], boosts) for c in case["state"]["candidates"]]
    candidates.sort(key=lambda a: candidate_order(a, own))
    assert [c.workload.name for c in candidates] == case["expect"]["order"]


def _check_priority(case: dict[str, Any]) -> None:
    document = {"metadata": {}} | case["event"]["workload"]
    workload = workload_of(document, "", boosts=bool(case["gates"].get("PriorityBoost")))
    found = {
        "effective": workload.priority,
        "base": workload.base_priority,
        "boost": workload.boost,
    }
    assert found == case["expect"]


def _check_message(case: dict[str, Any]) -> None:
    event = case["event"]
    workload = workload_of({"metadata": {}} | event["preemptor"], "")
    found = preemption_message(
        workload.uid,
        workload.job_uid,
        event["reason"],
        event["preemptorPath"],
        event["preempteePath"],
    )
    assert found == case["expect"]["message"]


def _check_policy(case: dict[str, Any]) -> None:
    event = case["event"]
    boosts = bool(case["gates"].get("PriorityBoost"))
    preemptor = workload_of(event["preemptor"], "", boosts=boosts)
    candidate = workload_of(event["candidate"], "", boosts=boosts)
    assert may_preempt(preemptor, candidate, event["policy"]) == case["expect"]["allowed"]


def _check_fair_order(case: dict[str, Any]) -> None:
    snapshot = _world(case).snapshot
    event = case["event"]
    own = snapshot.tree.queues[event["preemptorClusterQueue"]]
    candidates = [
        admitted
        for name in event["candidateClusterQueues"]
        for admitted in snapshot.holders.get(name, ())
    ]
    candidates.sort(key=lambda a: candidate_order(a, own.name))
    order = TargetOrder(own, candidates)
    actions = event.get("actions") or []
    seen: list[str] = []
    for queue in order:
        action = actions[len(seen)] if len(seen) < len(actions) else "pop"
        seen.append(queue.name)
        if action == "drop":
            order.drop(queue)
        else:
            order.pop(queue)
    assert seen == case["expect"]["order"]


def _check_drs(case: dict[str, Any]) -> None:
    tree = _world(case).snapshot.tree
    extra = _amounts(case["event"].get("addToEveryNode") or [])
    for wanted in case["expect"]["nodes"]:
        nodes = tree.queues if wanted["kind"] == "ClusterQueue" else tree.cohorts
        node = nodes[wanted["name"]]
        added = {fr: a for fr, a in extra.items() if fr in node.subtree_quota}
        for fr, amount in added.items():
            node.usage[fr] = node.usage.get(fr, 0) + amount
        share = dominant_share(node)
        for fr, amount in added.items():
            node.usage[fr] -= amount
        found = (share.rounded, share.dominant, share.borrows)
        assert found == (wanted["share"], wanted["resource"], wanted["borrowing"]), node


def _check_borrowing_on(case: dict[str, Any]) -> None:
    tree = _world(case).snapshot.tree
    share = dominant_share(tree.queues[case["event"]["clusterQueue"]])
    requested = _amounts(case["event"]["requested"])
    assert share.borrows == case["expect"]["borrowing"]
    assert share.borrows_any(requested) == case["expect"]["borrowingOnRequested"]


class _Entry:
    def __init__(self, workload: Any, level: int) -> None:
        self.workload = workload
        self.assignment = Assignment((), {}, level, Mode.FIT)


def _check_entry_order(case: dict[str, Any]) -> None:
    policy = case["event"].get("podsReadyRequeuingTimestamp") or case["state"].get(
        "podsReadyRequeuingTimestamp", "Eviction"
    )
    ordering = Ordering(
        policy == "Eviction", case["gates"].get("PrioritySortingWithinCohort", True)
    )
    entries = [
        _Entry(
            workload_of(e["workload"], "", ordering=ordering),
            e["borrowingLevel"],
        )
        for e in case["state"]["entries"]
    ]
    chosen = {_GATES[gate]: on for gate, on in case["gates"].items() if gate in _GATES}
    ordered = classical_order(entries, Options(**chosen))
    assert [e.workload.name for e in ordered] == case["expect"]["order"]


def _check_reserve(case: dict[str, Any]) -> None:
    event = case["event"]
    node = _world(case).snapshot.tree.queues[event["clusterQueue"]]
    mode = {"Preempt": Mode.PREEMPT, "Fit": Mode.FIT, "NoFit": Mode.NO_FIT}[event["mode"]]
    assignment = Assignment((), _amounts(event["assignmentUsage"]), event["borrowingLevel"], mode)
    assert capacity_to_reserve(assignment, node) == _amounts(case["expect"]["reserved"])


# --- whole cycles ----------------------------------------------------------------------------


def _check_cycle(case: dict[str, Any]) -> None:
    world = _world(case)
    snapshot = world.snapshot
    before = _usages(snapshot)
    plan = plan_cycle(snapshot, case["now"], rounds=case["event"].get("cycles", 1))
    assert before == _usages(snapshot)
    snapshot.check()
    expect = case["expect"]
    assert _admitted(plan) == {
        _key(a["workload"]): (a["clusterQueue"], _pod_sets(a["podSets"]))
        for a in expect.get("admitted") or ()
        if "podSets" in a
    }
    assert {e.victim.admitted.key: (e.victim.reason, e.message) for e in plan.evictions} == {
        _key(v["workload"]): (v["reason"], v["message"]) for v in expect.get("victims") or ()
    }
    verdicts = {v.workload.key: (v.reason, v.message) for v in plan.verdicts}
    blocked = world.blockers
    for pending in expect.get("pending") or ():
        key = _key(pending["workload"])
        found = verdicts.get(key) or blocked.get(key)
        assert found == (pending["reason"], pending["message"]), key
    left, inadmissible = _queues(snapshot, plan)
    assert left == {q: sorted(map(_key, w)) for q, w in (expect.get("left") or {}).items()}
    assert inadmissible == {
        q: sorted(map(_key, w)) for q, w in (expect.get("inadmissible") or {}).items()
    }
    for queue, count in (expect.get("skippedPreemptions") or {}).items():
        assert plan.skipped_preemptions.get(queue, 0) == count


def _admitted(plan: Any) -> dict[Key, Any]:
    return {
        a.workload.key: (
            a.workload.cluster_queue,
            sorted((ps.name, ps.count, tuple(sorted(ps.flavors.items()))) for ps in a.pod_sets),
        )
        for a in plan.admissions
    }


def _pod_sets(entries: list[dict[str, Any]]) -> list[Any]:
    return sorted(
        (e["name"], e["count"], tuple(sorted((e.get("flavors") or {}).items()))) for e in entries
    )


def _queues(snapshot: Any, plan: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    admitted = {a.workload.key for a in plan.admissions}
    aside = {v.workload.key for v in plan.verdicts if v.inadmissible}
    shapes = {
        (v.workload.cluster_queue, v.workload.shape) for v in plan.verdicts if v.stands_for_shape
    }
    left: dict[str, list[Key]] = {}
    inadmissible: dict[str, list[Key]] = {}
    for name, pending in snapshot.pending.items():
        for workload in pending:
            if workload.key in admitted:
                continue
            out = workload.key in aside or (name, workload.shape) in shapes
            (inadmissible if out else left).setdefault(name, []).append(workload.key)
    return (
        {q: sorted(keys) for q, keys in left.items()},
        {q: sorted(keys) for q, keys in inadmissible.items()},
    )


def _check_two_cycles(case: dict[str, Any]) -> None:
    world = _world(case)
    first = plan_cycle(world.snapshot, case["now"], rounds=1)
    expect = case["expect"]
    after = expect["afterFirst"]
    verdicts = {v.workload.key: (v.reason, v.message) for v in first.verdicts}
    for pending in after.get("pending") or ():
        assert verdicts[_key(pending["workload"])] == (pending["reason"], pending["message"])
    assert _admitted(first) == {
        _key(a["workload"]): (a["clusterQueue"], _pod_sets(a["podSets"]))
        for a in after.get("admitted") or ()
    }
    for text in case["event"].get("deleteAfterFirst") or ():
        namespace, name = _key(text)
        world.drop(WORKLOADS, {"metadata": {"namespace": namespace, "name": name}})
    snapshot = world.settle()
    for admission in first.admissions:
        _commit(snapshot, admission)
    second = plan_cycle(snapshot, case["now"], rounds=1, last_tried=first.last_tried)
    for admission in second.admissions:
        _commit(snapshot, admission)
    holding = {
        admitted.key: {ps.name: dict(ps.flavors) for ps in admitted.pod_sets}
        for holders in snapshot.holders.values()
        for admitted in holders
    }
    assert holding == {
        _key(name): {ps["name"]: ps.get("flavors") or {} for ps in a["podSetAssignments"]}
        for name, a in expect["assignmentsAfterSecond"].items()
    }


def _commit(snapshot: Any, admission: Any) -> None:
    pending = snapshot.pending[admission.workload.cluster_queue]
    pending.drop(admission.workload.key)
    usage = usage_of(admission.pod_sets)
    snapshot.admit(Admitted(admission.workload, admission.pod_sets, usage))


CHECKS = {
    "quota": _check_quota,
    "assign": _check_assign,
    "preferred": _check_preferred,
    "preempt": _check_preempt,
    "candidates": _check_candidates,
    "priority": _check_priority,
    "message": _check_message,
    "policy": _check_policy,
    "fair_order": _check_fair_order,
    "drs": _check_drs,
    "borrowing_on": _check_borrowing_on,
    "entry_order": _check_entry_order,
    "reserve": _check_reserve,
    "cycle": _check_cycle,
    "two_cycles": _check_two_cycles,
}
