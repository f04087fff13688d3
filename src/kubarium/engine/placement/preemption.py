"""Preemption: which lower-priority pods must go so that a pod or a gang fits.

For one pod, upstream's DefaultPreemption: on each candidate node take every pod of lower priority
away, see whether the pod then fits, give back as many as possible (most important first), and pick
the node by: fewest disruption budgets broken, lowest highest-priority victim, lowest sum of
priorities, fewest victims, latest start of the most important victim, first in order. Unlike
upstream's, the simulation frees the devices
of victims' claims, so a pod with claims can preempt their holders. A pod of lower priority that is
ending already is a victim like any other: its room will be free, and choosing it costs nothing.

For a gang, KEP-5710: the whole cluster is the domain; every victim of lower priority is taken away,
the gang is placed, then victims are given back by importance wherever the gang still fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kubarium.engine import reasons
from kubarium.engine.model import Key, Node, Pod, PodShape
from kubarium.engine.placement import filters, topology
from kubarium.engine.placement.disruption import (
    Unit,
    priority_of,
    unit_of,
    units_of,
    whole_units,
)
from kubarium.engine.placement.gang import needed_of, settled_mask
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.profile import DEFAULT, Profile
from kubarium.engine.placement.tree import keeps_together, least_pods, place_item
from kubarium.engine.plan import Decision, Preemption, QueueItem
from kubarium.engine.snapshot import Mask, Snapshot

# Victims that a gang's preemption considers giving back one by one; the rest stay victims.
MAX_GIVE_BACK = 20_000


def preempt(placer: Placer, decision: Decision) -> Decision:
    """The decision with victims named if there are any that would help, and its texts completed."""
    first = decision.item.pods[0]
    if decision.gang_verdict is not None and decision.gang_verdict.waiting:
        return decision
    if not placer.profile.preempts:
        return decision
    if not decision.item.preempts:
        return with_text(decision, reasons.NEVER_PREEMPTS)
    snapshot = placer.snapshot
    coming = any(room_is_coming(snapshot, pod, pod.nominated_node) for pod in decision.item.pods)
    if coming and not _lost(decision):
        return with_text(decision, reasons.PREEMPTION_COMING)
    if snapshot.below(first.priority) is None:
        return with_text(decision, _unhelpful_text(placer, decision))
    if decision.gang_verdict is not None:
        found = _for_gang(placer, decision)
    elif decision.item.tree is not None and keeps_together(decision.item.tree):
        found = None  # more pods of groups that run: not at the price of others in any domain
    else:  # a group that has its minimum, or has none: one pod after the other
        gang = decision.item.gang
        within = settled_mask(snapshot, gang) if gang else None
        each = (_for_pod(placer, one, within) for one in first.each)
        found = next((one for one in each if one is not None), None)
    if found is None:
        return with_text(decision, _unhelpful_text(placer, decision))
    units = tuple(units_of(snapshot, found.victims))
    return replace(decision, preemption=replace(found, units=units))


def room_is_coming(snapshot: Snapshot, pod: Pod, node: str) -> bool:
    """Whether victims on the pod's nominated node are still going away: then no more are chosen."""
    row = snapshot.rows.get(node)
    return row is not None and any(
        p.preempted and p.priority < pod.priority for p in snapshot.pods_on[row].values()
    )


def _lost(decision: Decision) -> bool:
    """Whether the pod can no longer go to its nominated node, whoever leaves it."""
    pod, verdict = decision.unplaced[0]
    why = verdict.by_node.get(pod.nominated_node, ())
    return bool(why) and not resolvable(why)


def _lower(snapshot: Snapshot, priority: int) -> list[Pod]:
    """Placed pods of lower priority."""
    return [p for p, _ in snapshot.placed_pods() if p.priority < priority]


def with_text(decision: Decision, text: str) -> Decision:
    """The decision with what preemption has to say about it."""
    verdicts = {id(v): replace(v, preemption=text) for _, v in decision.unplaced}
    gang = decision.gang_verdict
    if gang is not None and gang.first_failure is not None:
        gang = replace(gang, first_failure=replace(gang.first_failure, preemption=text))
    unplaced = tuple((pod, verdicts[id(v)]) for pod, v in decision.unplaced)
    return replace(decision, unplaced=unplaced, gang_verdict=gang)


def _unhelpful_text(placer: Placer, decision: Decision) -> str:
    """``0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 …``

    Nodes that no eviction makes suitable come first (what they fail on has nothing to do with pods,
    or the pod asks for more than the whole node has), then nodes without pods of lower priority;
    of the others is said what the pod would still lack.
    """
    pod, verdict = decision.unplaced[0]
    total = verdict.nodes
    if verdict.everywhere or not total or not len(verdict.by_node):
        return reasons.availability(total, {reasons.PREEMPTION_UNHELPFUL: total})
    snapshot, profile = placer.snapshot, placer.profile
    hopeful = snapshot.alive & verdict.by_node.mask(resolvable)
    for name, amount in pod.shape.requests:
        if not profile.ignores(name) and profile.filters("NodeResourcesFit"):
            hopeful &= amount <= snapshot.allocatable[snapshot.resource_index(name)]
    counts = {reasons.PREEMPTION_UNHELPFUL: total - int(hopeful.sum())}
    lower = snapshot.below(pod.priority)
    peopled = hopeful & (lower[3] > 0) if lower is not None else np.zeros_like(hopeful)
    counts[reasons.NO_VICTIMS] = int(hopeful.sum()) - int(peopled.sum())
    explained = np.zeros_like(hopeful)
    for reason, enough in (
        _beside_the_rest(snapshot, pod, lower, profile) if lower is not None else ()
    ):
        counts[reason] = int((peopled & ~enough).sum())
        explained |= ~enough
    for why in {verdict.by_node[n.name] for n in _nodes(snapshot, peopled & ~explained)}:
        rows = peopled & ~explained & verdict.by_node.mask(why.__eq__)
        others = [reason for reason in why if not _is_shortage(reason)]
        for reason in others or [reasons.NO_VICTIMS]:
            counts[reason] = counts.get(reason, 0) + int(rows.sum())
    return reasons.availability(total, counts)


def _nodes(snapshot: Snapshot, rows: Mask) -> Iterator[Node]:
    return (node for row in np.flatnonzero(rows).tolist() if (node := snapshot.nodes[row]))


def _is_shortage(reason: str) -> bool:
    return reason == reasons.TOO_MANY_PODS or reason.startswith(reasons.insufficient(""))


_UNRESOLVABLE = frozenset(
    {
        reasons.UNSCHEDULABLE,
        reasons.NODE_NAME,
        reasons.TAINT,
        reasons.NODE_AFFINITY,
        reasons.FEATURES,
        reasons.POD_AFFINITY,
        reasons.SPREAD_LABEL,
        reasons.PLACEMENT_OUTSIDE,
        reasons.CLAIM_ELSEWHERE,
        reasons.ADDED_AFFINITY,
        reasons.VOLUME_NODE,
        reasons.VOLUME_BINDING,
        reasons.VOLUME_ZONE,
    }
)


def resolvable(why: Iterable[str]) -> bool:
    """Whether removing pods from the node could cure what it fails on."""
    found = tuple(why)
    return bool(found) and not any(
        reason in _UNRESOLVABLE or reason.endswith(reasons.NOT_CACHED) for reason in found
    )


@dataclass(frozen=True, slots=True)
class _Eviction:
    """The victims on one node; smaller ``rank`` is better."""

    rank: tuple[object, ...]
    victims: tuple[Pod, ...]


def _for_pod(placer: Placer, pod: Pod, within: Mask | None = None) -> Preemption | None:
    snapshot = placer.snapshot
    rows = candidate_rows(snapshot, pod, placer.profile)
    if within is not None:
        rows = [row for row in rows if within[row]]
    if not rows:
        return None
    if not decides_by_requests(placer, pod):
        simulated = [(found, row) for row in rows if (found := _simulated(placer, pod, row))]
        if not simulated:
            return None
        found, row = min(simulated, key=lambda entry: entry[0].rank)
        victims = found.victims
    else:
        best = placer.evictions(pod.shape, pod.priority, _by_arithmetic).best(rows)
        if best is None:
            return None
        row, victims = best[0], best[1].victims
    node = snapshot.nodes[row]
    assert node is not None
    return Preemption(whole_units(snapshot, victims), ((pod, node.name),))


def decides_by_requests(placer: Placer, pod: Pod) -> bool:
    """Whether requests alone decide what has to go, so that nothing need be simulated."""
    weighed = placer.profile.filters("NodeResourcesFit") and not any(
        placer.profile.ignores(name) for name, _ in pod.shape.requests
    )
    special = pod.claims or pod.has_volumes or pod.shape.ports
    return weighed and not special and not topology.concerns(placer.snapshot, pod)


def cheapest_ends(
    placer: Placer, pod: Pod, rows: NDArray[np.int64], most: int
) -> tuple[int, tuple[Pod, ...]] | None:
    """(row, pods) whose end costs least by upstream's order of nodes, whatever their priority.

    None if requests do not decide alone, or nothing helps. Where no budget is at stake only rows
    that need not give up a higher priority than others are looked at, ``most`` of them, those with
    the least to make up for first.
    """
    snapshot = placer.snapshot
    if not decides_by_requests(placer, pod) or not len(rows):
        return None
    short = np.zeros(len(rows), np.float64)
    wanted = [(3, 1), *((snapshot.resource_index(n), a) for n, a in pod.shape.requests if a)]
    free = {i: (snapshot.allocatable[i] - snapshot.requested[i])[rows] for i, _ in wanted}
    for index, amount in wanted:
        short += np.maximum(amount - free[index], 0) / amount
    levels = sorted({p.priority for p, _ in snapshot.placed_pods()})
    for level in levels[-1:] if snapshot.budgets else levels:
        lower = snapshot.below(level + 1)
        enough = np.ones(len(rows), np.bool_)
        for index, amount in wanted:
            given = lower[index][rows] if lower is not None and index < len(lower) else 0
            enough &= free[index] + given >= amount
        if not enough.any():
            continue
        able = rows[enough][np.argsort(short[enough], kind="stable")][:most]
        found = [
            (eviction, row)
            for row in able.tolist()
            if (eviction := _by_arithmetic(snapshot, pod.shape, level + 1, row)) is not None
        ]
        if found:
            best, row = min(found, key=lambda entry: entry[0].rank)
            return row, best.victims
    return None


def rank_of(snapshot: Snapshot, victims: tuple[Pod, ...]) -> tuple[object, ...]:
    """How costly the end of these pods is: smaller is better, by upstream's order of nodes."""
    return _rank(snapshot, victims, breaking_first(snapshot, list(victims))[1])


def candidate_rows(snapshot: Snapshot, pod: Pod, profile: Profile = DEFAULT) -> list[int]:
    """Rows where the requests fit beside the pods that must stay, by name, as many as upstream."""
    lower = snapshot.below(pod.priority)
    if lower is None:
        return []
    passable = filters.static_mask(snapshot, pod.shape, profile) & (lower[3] > 0)
    for _, enough in _beside_the_rest(snapshot, pod, lower, profile):
        passable &= enough
    limit = max(profile.min_candidates, snapshot.node_count() * profile.candidates_percent // 100)
    return snapshot.by_name(np.flatnonzero(passable))[:limit]


def _beside_the_rest(
    snapshot: Snapshot, pod: Pod, lower: NDArray[np.int64], profile: Profile
) -> Iterator[tuple[str, Mask]]:
    """NodeResourcesFit as it would be without the pods of lower priority."""
    if not profile.filters("NodeResourcesFit"):
        return
    yield reasons.TOO_MANY_PODS, snapshot.requested[3] - lower[3] < snapshot.allocatable[3]
    for name, amount in pod.shape.requests:
        if amount and not profile.ignores(name):
            index = snapshot.resource_index(name)
            taken = snapshot.requested[index]
            staying = taken - lower[index] if index < len(lower) else taken
            yield reasons.insufficient(name), staying + amount <= snapshot.allocatable[index]


def _importance(pod: Pod) -> tuple[object, ...]:
    """Most important first: higher priority, then longer running, then name."""
    return (-pod.priority, pod.started or pod.created, pod.key)


def lower_on(snapshot: Snapshot, priority: int, row: int) -> tuple[list[Pod], int]:
    """The row's preemptable pods in the order of giving back, and how many break a budget.

    Those whose eviction breaks a disruption budget come first, each kind most important first
    (upstream: filterPodsWithPDBViolation).
    """
    pods = snapshot.pods_on[row].values()
    lower = sorted((p for p in pods if p.priority < priority), key=_importance)
    return breaking_first(snapshot, lower)


def breaking_first(snapshot: Snapshot, pods: list[Pod]) -> tuple[list[Pod], int]:
    """``pods`` with those first that exceed what their budgets allow, and the number of these."""
    if not snapshot.budgets:
        return pods, 0
    allowed = {key: budget.allowed for key, budget in snapshot.budgets.items()}
    breaking: list[Pod] = []
    others: list[Pod] = []
    for pod in pods:
        exceeded = False
        for key, budget in snapshot.budgets.items():
            if budget.covers(pod):
                allowed[key] -= 1
                exceeded = exceeded or allowed[key] < 0
        (breaking if exceeded else others).append(pod)
    return breaking + others, len(breaking)


def _by_arithmetic(
    snapshot: Snapshot, shape: PodShape, priority: int, row: int
) -> _Eviction | None:
    """The fewest victims on a row when only requests decide: no simulation is needed then."""
    lower, breaking = lower_on(snapshot, priority, row)
    names = [name for name, amount in shape.requests if amount]
    indices = [3, *(snapshot.resource_index(name) for name in names)]
    wanted = [1, *(amount for _, amount in shape.requests if amount)]
    takes = [[1, *(victim.shape.request(name) for name in names)] for victim in lower]
    free = [
        snapshot.allocatable.item(index, row) - snapshot.requested.item(index, row) - amount
        for index, amount in zip(indices, wanted, strict=True)
    ]
    for take in takes:
        free = [have + amount for have, amount in zip(free, take, strict=True)]
    if min(free) < 0:
        return None
    victims: list[Pod] = []
    broken = 0
    for number, (victim, take) in enumerate(zip(lower, takes, strict=True)):
        left = [have - amount for have, amount in zip(free, take, strict=True)]
        if min(left) >= 0:
            free = left
        else:
            victims.append(victim)
            broken += number < breaking
    return _Eviction(_rank(snapshot, tuple(victims), broken), tuple(victims))


def _simulated(placer: Placer, pod: Pod, row: int) -> _Eviction | None:
    """The fewest victims found on one row by trying; None if none suffice."""
    snapshot = placer.snapshot
    node = snapshot.nodes[row]
    assert node is not None
    within = np.zeros(snapshot.capacity, np.bool_)
    within[row] = True
    lower, breaking = lower_on(snapshot, pod.priority, row)
    mark = snapshot.checkpoint()
    try:
        for victim in lower:
            evict(snapshot, victim)
        if not _fits(placer, pod, within):
            return None
        victims: list[Pod] = []
        broken = 0
        for number, victim in enumerate(lower):
            inner = snapshot.checkpoint()
            _bring_back(snapshot, mark_of=victim, node=node.name)
            if _fits(placer, pod, within):
                snapshot.keep(inner)
            else:
                snapshot.rollback(inner)
                victims.append(victim)
                broken += number < breaking
        return _Eviction(_rank(snapshot, tuple(victims), broken), tuple(victims))
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


def _rank(snapshot: Snapshot, victims: tuple[Pod, ...], broken: int) -> tuple[object, ...]:
    """Smaller is better: upstream's pickOneNodeForPreemption.

    A group that goes as a whole counts with all its pods.
    """
    victims = whole_units(snapshot, victims)
    if not victims:
        return (broken, -(2**31), 0, 0, 0.0)
    highest = max(v.priority for v in victims)
    latest = min(v.started or v.created for v in victims if v.priority == highest)
    return (broken, highest, sum(v.priority + 2**31 for v in victims), len(victims), -latest)


def _for_gang(placer: Placer, decision: Decision) -> Preemption | None:
    """KEP-5710: all victims away, the gang placed, then units given back by importance."""
    snapshot = placer.snapshot
    item = decision.item
    priority = item.pods[0].priority
    if not _enough_below(snapshot, item, priority):
        return None
    units = _units(snapshot, _lower(snapshot, priority), priority)
    homes = {pod.key: snapshot.node_of(pod.key) or "" for unit in units for pod in unit}
    mark = snapshot.checkpoint()
    try:
        for unit in units:
            for victim in unit:
                evict(snapshot, victim)
        placed = place_item(placer, item)
        if not placed.placements:
            return None
        victims = _give_back(snapshot, units, homes)
        nominations = tuple((p.pod, p.node) for p in placed.placements)
        return Preemption(victims, nominations) if victims else None
    finally:
        snapshot.rollback(mark)


def _enough_below(snapshot: Snapshot, item: QueueItem, priority: int) -> bool:
    """A bound that is quick to take: room beside the pods that stay, for the smallest requests."""
    pods, lower = item.pods, snapshot.below(priority)
    if lower is None:
        return False
    free = snapshot.allocatable - snapshot.requested
    free = free + lower if lower.shape == free.shape else free
    mask = np.zeros(snapshot.capacity, np.bool_)
    for shape in dict.fromkeys(pod.shape for pod in pods):
        mask |= filters.static_mask(snapshot, shape)
    least: dict[str, int] = dict(pods[0].shape.requests)
    for pod in pods:
        least = {name: min(amount, pod.shape.request(name)) for name, amount in least.items()}
    room = np.where(mask, np.maximum(free[3], 0), 0)
    for name, amount in least.items():
        if amount:
            room = np.minimum(room, np.maximum(free[snapshot.resource_index(name)], 0) // amount)
    needed = needed_of(item.gang) if item.gang is not None else 1
    return int(room.sum()) >= (needed if item.tree is None else least_pods(item.tree))


def _units(snapshot: Snapshot, lower: list[Pod], priority: int) -> list[list[Pod]]:
    """What goes or stays together, in the order of giving back (KEP-5710).

    A group of disruption mode all is one unit of its highest priority, and is left alone if it or a
    pod of it may not be preempted. Order: units that break no more than they must later, so those
    that break a budget first; then priority, groups before pods, and age.
    """
    whole: dict[Unit, list[Pod]] = {}
    single: list[list[Pod]] = []
    for pod in lower:
        unit = unit_of(snapshot, pod)
        if unit is not None:
            whole.setdefault(unit, []).append(pod)
        else:
            single.append([pod])
    for protected in [u for u, pods in whole.items() if _has_peer(snapshot, u, pods, priority)]:
        del whole[protected]
    units = [*whole.values(), *single]
    ordered = sorted((pod for unit in units for pod in unit), key=_importance)
    ordered, count = breaking_first(snapshot, ordered)
    breaking = {pod.key for pod in ordered[:count]}

    def importance(unit: list[Pod]) -> tuple[object, ...]:
        first = min(unit, key=_importance)
        breaks = any(pod.key in breaking for pod in unit)
        return (not breaks, -first.priority, len(unit) == 1, *_importance(first)[1:])

    return sorted(units, key=importance)


def _has_peer(snapshot: Snapshot, unit: Unit, pods: list[Pod], priority: int) -> bool:
    """Whether the group or one of its pods has the priority, so that it cannot go as a whole."""
    own = priority_of(snapshot, unit)
    if own is not None and own >= priority:
        return True
    known = {pod.key for pod in pods}
    return any(
        pod.priority >= priority and pod.key not in known and unit_of(snapshot, pod) == unit
        for pod, _ in snapshot.placed_pods()
        if pod.gang is not None
    )


def _give_back(
    snapshot: Snapshot, units: list[list[Pod]], homes: dict[Key, str]
) -> tuple[Pod, ...]:
    """Return each unit, most important first, if its old nodes still have room for all of it."""
    victims: list[Pod] = []
    for index, unit in enumerate(units):
        mark = snapshot.checkpoint()
        if index < MAX_GIVE_BACK and all(_return(snapshot, pod, homes[pod.key]) for pod in unit):
            snapshot.keep(mark)
        else:
            snapshot.rollback(mark)
            victims += unit
    return tuple(victims)


def _return(snapshot: Snapshot, victim: Pod, node: str) -> bool:
    """Put the victim back if its old node still has room for it."""
    if not _room_for(snapshot, victim, node):
        return False
    _bring_back(snapshot, mark_of=victim, node=node)
    return True


def _room_for(snapshot: Snapshot, victim: Pod, node: str) -> bool:
    row = snapshot.rows.get(node)
    if row is None:
        return False
    return filters.room_on(snapshot, victim.shape, row) and all(
        snapshot.reclaimable(claim) for claim in victim.claims
    )
