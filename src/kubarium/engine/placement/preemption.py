"""Preemption: which lower-priority pods must go so that a pod or a gang fits.

For one pod, upstream's DefaultPreemption: on each candidate node take every pod of lower priority
away, see whether the pod then fits, give back as many as possible (most important first), and pick
the node by: lowest highest-priority victim, lowest sum of priorities, fewest victims, latest start
of the most important victim, first in order. Unlike upstream's, the simulation frees the devices
of victims' claims, so a pod with claims can preempt their holders.

For a gang, KEP-5710: the whole cluster is the domain; every victim of lower priority is taken away,
the gang is placed, then victims are given back by importance wherever the gang still fits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from kubarium.engine import reasons
from kubarium.engine.model import Pod
from kubarium.engine.placement import filters
from kubarium.engine.placement.gang import place_gang
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import Decision, Preemption
from kubarium.engine.snapshot import Mask, Snapshot

# Upstream: at least this many candidate nodes, or 10 % of all, are simulated.
MIN_CANDIDATES = 100
CANDIDATES_PERCENT = 10

# Victims that a gang's preemption considers giving back one by one; the rest stay victims.
MAX_GIVE_BACK = 500


def preempt(placer: Placer, decision: Decision) -> Decision:
    """The decision with victims named if there are any that would help, and its texts completed."""
    first = decision.item.pods[0]
    if decision.gang_verdict is not None and decision.gang_verdict.waiting:
        return decision
    if not first.preempts:
        return _with_text(decision, reasons.NEVER_PREEMPTS)
    snapshot = placer.snapshot
    if any(_room_is_coming(snapshot, pod) for pod in decision.item.pods):
        return decision
    if not _lower(snapshot, first.priority):
        return _with_text(decision, _unhelpful_text(snapshot, decision))
    if decision.gang_verdict is not None:
        found = _for_gang(placer, decision)
    elif len(decision.item.pods) == 1:
        found = _for_pod(placer, first)
    else:
        found = None
    if found is None:
        return _with_text(decision, _unhelpful_text(snapshot, decision))
    return replace(decision, preemption=found)


def _room_is_coming(snapshot: Snapshot, pod: Pod) -> bool:
    """Whether victims on the pod's nominated node are still going away: then no more are chosen."""
    row = snapshot.rows.get(pod.nominated_node)
    return row is not None and any(
        p.terminating and p.priority < pod.priority for p in snapshot.pods_on[row].values()
    )


def _lower(snapshot: Snapshot, priority: int) -> list[Pod]:
    """Placed pods of lower priority that are not already going away."""
    return [p for p, _ in snapshot.placed_pods() if p.priority < priority and not p.terminating]


def _with_text(decision: Decision, text: str) -> Decision:
    verdicts = {id(v): replace(v, preemption=text) for _, v in decision.unplaced}
    gang = decision.gang_verdict
    if gang is not None and gang.first_failure is not None:
        gang = replace(gang, first_failure=replace(gang.first_failure, preemption=text))
    unplaced = tuple((pod, verdicts[id(v)]) for pod, v in decision.unplaced)
    return replace(decision, unplaced=unplaced, gang_verdict=gang)


def _unhelpful_text(snapshot: Snapshot, decision: Decision) -> str:
    """``0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 …``"""
    verdict = decision.unplaced[0][1]
    if verdict.everywhere or not verdict.nodes:
        unhelpful, total = verdict.nodes, verdict.nodes
    else:
        total = verdict.nodes
        unhelpful = verdict.by_node.tally(lambda why: not resolvable(why))
    counts = {reasons.PREEMPTION_UNHELPFUL: unhelpful, reasons.NO_VICTIMS: total - unhelpful}
    return reasons.availability(total, counts)


_UNRESOLVABLE = frozenset(
    {
        reasons.UNSCHEDULABLE,
        reasons.NODE_NAME,
        reasons.TAINT,
        reasons.NODE_AFFINITY,
        reasons.POD_AFFINITY,
        reasons.SPREAD_LABEL,
        reasons.PLACEMENT_OUTSIDE,
        reasons.CLAIM_ELSEWHERE,
    }
)


def resolvable(why: Iterable[str]) -> bool:
    """Whether removing pods from the node could cure what it fails on."""
    found = tuple(why)
    return bool(found) and not any(reason in _UNRESOLVABLE for reason in found)


def _for_pod(placer: Placer, pod: Pod) -> Preemption | None:
    snapshot = placer.snapshot
    best: tuple[tuple[object, ...], tuple[Pod, ...], str] | None = None
    for name in _candidates(placer, pod):
        victims = _victims_on(placer, pod, name)
        if victims is None:
            continue
        rank = _rank(victims)
        if best is None or rank < best[0]:
            best = (rank, victims, name)
    if best is None:
        return None
    return Preemption(_whole_groups(snapshot, best[1]), ((pod, best[2]),))


def _candidates(placer: Placer, pod: Pod) -> list[str]:
    """Nodes that hold lower-priority pods and on which removing pods could help, in row order."""
    snapshot = placer.snapshot
    passable = filters.static_mask(snapshot, pod.shape)
    limit = max(MIN_CANDIDATES, snapshot.node_count() * CANDIDATES_PERCENT // 100)
    found: list[str] = []
    for row in np.flatnonzero(passable).tolist():
        if any(
            p.priority < pod.priority and not p.terminating for p in snapshot.pods_on[row].values()
        ):
            if not _could_fit(snapshot, pod, row):
                continue
            node = snapshot.nodes[row]
            assert node is not None
            found.append(node.name)
            if len(found) == limit:
                break
    return found


def _could_fit(snapshot: Snapshot, pod: Pod, row: int) -> bool:
    """Whether the requests fit beside the pods that cannot be preempted."""
    staying = [p for p in snapshot.pods_on[row].values() if p.priority >= pod.priority]
    if len(staying) >= snapshot.allocatable[3, row]:
        return False
    return all(
        sum(p.shape.request(name) for p in staying) + amount
        <= snapshot.allocatable[snapshot.resource_index(name), row]
        for name, amount in pod.shape.requests
        if amount
    )


def _importance(pod: Pod) -> tuple[object, ...]:
    """Most important first: higher priority, then longer running, then name."""
    return (-pod.priority, pod.started or pod.created, pod.key)


def _victims_on(placer: Placer, pod: Pod, node: str) -> tuple[Pod, ...] | None:
    """The fewest victims found on one node, most important first; None if none suffice."""
    snapshot = placer.snapshot
    row = snapshot.rows[node]
    within = np.zeros(snapshot.capacity, np.bool_)
    within[row] = True
    lower = sorted(
        (
            p
            for p in snapshot.pods_on[row].values()
            if p.priority < pod.priority and not p.terminating
        ),
        key=_importance,
    )
    mark = snapshot.checkpoint()
    try:
        for victim in lower:
            evict(snapshot, victim)
        if not _fits(placer, pod, within):
            return None
        victims: list[Pod] = []
        for victim in lower:
            inner = snapshot.checkpoint()
            _bring_back(snapshot, mark_of=victim, node=node)
            if _fits(placer, pod, within):
                snapshot.keep(inner)
            else:
                snapshot.rollback(inner)
                victims.append(victim)
        return tuple(victims)
    finally:
        snapshot.rollback(mark)


def _fits(placer: Placer, pod: Pod, within: Mask) -> bool:
    snapshot = placer.snapshot
    mark = snapshot.checkpoint()
    placed = placer.place(pod, within)
    snapshot.rollback(mark)
    return placed is not None


def evict(snapshot: Snapshot, victim: Pod) -> None:
    """Take a pod off the snapshot and free the claims that nobody else uses."""
    claims = victim.claims
    snapshot.displace(victim.key)
    for claim in claims:
        if not snapshot.claim_users.get(claim):
            snapshot.release(claim)


def _bring_back(snapshot: Snapshot, *, mark_of: Pod, node: str) -> None:
    for claim in mark_of.claims:
        snapshot.reclaim(claim)
    snapshot.place(mark_of, node)


def _rank(victims: tuple[Pod, ...]) -> tuple[object, ...]:
    """Smaller is better: upstream's pickOneNodeForPreemption without budgets."""
    if not victims:
        return (-(2**31), 0, 0, 0.0)
    highest = max(v.priority for v in victims)
    latest = min(v.started or v.created for v in victims if v.priority == highest)
    return (highest, sum(v.priority + 2**31 for v in victims), len(victims), -latest)


def _whole_groups(snapshot: Snapshot, victims: tuple[Pod, ...]) -> tuple[Pod, ...]:
    """Victims, with all pods of any group whose disruption mode is all."""
    groups = {
        v.gang for v in victims if v.gang and (g := snapshot.gangs.get(v.gang)) and g.all_disrupted
    }
    if not groups:
        return victims
    whole = {v.key: v for v in victims}
    whole |= {p.key: p for p, _ in snapshot.placed_pods() if p.gang in groups}
    return tuple(whole.values())


def _for_gang(placer: Placer, decision: Decision) -> Preemption | None:
    snapshot = placer.snapshot
    priority = decision.item.pods[0].priority
    lower = sorted(_lower(snapshot, priority), key=_importance)
    homes = {pod.key: snapshot.node_of(pod.key) or "" for pod in lower}
    mark = snapshot.checkpoint()
    try:
        for victim in lower:
            evict(snapshot, victim)
        placed = place_gang(placer, decision.item)
        if not placed.placements:
            return None
        victims = _give_back(placer, lower, homes)
        nominations = tuple((p.pod, p.node) for p in placed.placements)
        return Preemption(victims, nominations) if victims else None
    finally:
        snapshot.rollback(mark)


def _give_back(
    placer: Placer, lower: list[Pod], homes: dict[tuple[str, str], str]
) -> tuple[Pod, ...]:
    """Return each victim, most important first, whose old node still has room for it."""
    snapshot = placer.snapshot
    victims: list[Pod] = []
    for index, victim in enumerate(lower):
        if index >= MAX_GIVE_BACK or not _room_for(snapshot, victim, homes[victim.key]):
            victims.append(victim)
            continue
        _bring_back(snapshot, mark_of=victim, node=homes[victim.key])
    groups = {
        v.gang for v in victims if v.gang and (g := snapshot.gangs.get(v.gang)) and g.all_disrupted
    }
    return tuple(v for v in lower if v in victims or v.gang in groups)


def _room_for(snapshot: Snapshot, victim: Pod, node: str) -> bool:
    row = snapshot.rows.get(node)
    if row is None:
        return False
    fits = bool(filters.fitting(snapshot, victim.shape)[row])
    ports = bool(filters.ports_free(snapshot, victim.shape.ports)[row])
    return fits and ports and all(snapshot.reclaimable(claim) for claim in victim.claims)
