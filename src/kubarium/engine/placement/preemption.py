"""Preemption: which lower-priority pods must go so that a pod or a gang fits.

For one pod, upstream's DefaultPreemption: on each candidate node take every pod of lower priority
away, see whether the pod then fits, give back as many as possible (most important first), and pick
the node by: fewest disruption budgets broken, lowest highest-priority victim, lowest sum of
priorities, fewest victims, latest start of the most important victim, first in order. Unlike
upstream's, the simulation frees the devices
of victims' claims, so a pod with claims can preempt their holders. A pod of lower priority that is
ending already is a victim like any other: its room will be free, and choosing it costs nothing.

What is disrupted as a whole (a group of mode all) is given back or taken as a whole. Gangs have a
module of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kubarium.engine import reasons
from kubarium.engine.model import Node, Pod, PodShape
from kubarium.engine.placement import filters, resting, topology
from kubarium.engine.placement.devices import movable
from kubarium.engine.placement.disruption import units_of, whole_units
from kubarium.engine.placement.evictions import Eviction
from kubarium.engine.placement.gang import settled_mask
from kubarium.engine.placement.gang_preemption import for_gang
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.profile import DEFAULT, Profile
from kubarium.engine.placement.quorum import keeps_together
from kubarium.engine.placement.victims import (
    Together,
    Units,
    broken_by,
    put_back,
    started,
    take_off,
)
from kubarium.engine.plan import Decision, Preemption
from kubarium.engine.snapshot import Mask, Snapshot
from kubarium.engine.verdict import Verdict

# On so many nodes is tried, for the text, what a pod with neighbours, ports, volumes or claims
# lacks once all of lower priority have gone; on others its requests are compared. Upstream looks
# at as many at least (minCandidateNodesAbsolute).
TOLD_ROWS = 100


def preempt(placer: Placer, decision: Decision) -> Decision:
    """The decision with victims named if there are any that would help, and its texts completed."""
    first = decision.item.pods[0]
    if decision.gang_verdict is not None and decision.gang_verdict.waiting:
        return decision
    if any(verdict.failed or not verdict.nodes for _, verdict in decision.unplaced):
        return decision
    if not placer.profile.preempts:
        return with_text(placer, decision, "")
    if not decision.item.preempts:
        return with_text(placer, decision, reasons.NEVER_PREEMPTS)
    snapshot = placer.snapshot
    coming = any(room_is_coming(snapshot, pod, pod.nominated_node) for pod in decision.item.pods)
    if coming and not _lost(placer, decision):
        return with_text(placer, decision, reasons.PREEMPTION_COMING)
    if resting.will_do(placer, decision):
        return with_text(placer, decision, reasons.DEVICE_RESTS)
    if snapshot.below(first.priority) is None:
        return with_text(placer, decision, *_unhelpful(placer, decision))
    if decision.gang_verdict is not None:
        found = for_gang(placer, decision.item)
    elif decision.item.tree is not None and keeps_together(decision.item.tree):
        found = None  # more pods of groups that run: not at the price of others in any domain
    else:  # a group that has its minimum, or has none: one pod after the other
        gang = decision.item.gang
        within = settled_mask(snapshot, gang) if gang else None
        verdict = decision.unplaced[0][1]
        each = (_for_pod(placer, one, verdict, within) for one in first.each)
        found = next((one for one in each if one is not None), None)
    if found is None:
        return with_text(placer, decision, *_unhelpful(placer, decision))
    units = tuple(units_of(snapshot, found.victims))
    return replace(decision, preemption=replace(found, units=units))


def room_is_coming(snapshot: Snapshot, pod: Pod, node: str) -> bool:
    """Whether victims on the pod's nominated node are still going away: then no more are chosen."""
    row = snapshot.rows.get(node)
    return row is not None and any(
        p.preempted and p.priority < pod.priority for p in snapshot.pods_on[row].values()
    )


def _lost(placer: Placer, decision: Decision) -> bool:
    """Whether the pod can no longer go to its nominated node, whoever leaves it."""
    pod, verdict = decision.unplaced[0]
    if not verdict.by_node.get(pod.nominated_node, ()):
        return False
    curable = _curable(placer, pod, verdict)
    return not curable[placer.snapshot.rows[pod.nominated_node]]


def with_text(
    placer: Placer, decision: Decision, text: str, lacking: frozenset[str] = frozenset()
) -> Decision:
    """The decision with what preemption has to say about it, and DynamicResources before it."""

    def told(pod: Pod, verdict: Verdict) -> Verdict:
        claims = _of_claims(placer, pod, verdict)
        return replace(verdict, claims=claims, preemption=text, lacking=lacking)

    verdicts = {id(v): told(pod, v) for pod, v in decision.unplaced}
    gang = decision.gang_verdict
    if gang is not None and gang.first_failure is not None:
        first = next((p for p in decision.item.pods if p.key == gang.first_failure.pod), None)
        why = told(first or decision.item.pods[0], gang.first_failure)
        gang = replace(gang, first_failure=why)
    unplaced = tuple((pod, verdicts[id(v)]) for pod, v in decision.unplaced)
    return replace(decision, unplaced=unplaced, gang_verdict=gang)


def _of_claims(placer: Placer, pod: Pod, verdict: Verdict) -> str:
    """DynamicResources, PostFilter: whether a claim of the pod gives its devices back."""
    if not placer.profile.frees_claims:
        return ""
    if not any(one.claims for one in pod.each):
        return reasons.NO_CLAIMS
    if movable(placer.snapshot, pod, verdict):
        return reasons.CLAIM_DEALLOCATED
    return reasons.NO_CLAIMS if verdict.everywhere else reasons.CLAIMS_STAY


def _unhelpful(placer: Placer, decision: Decision) -> tuple[str, frozenset[str]]:
    """``0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 …``

    Nodes that no eviction makes suitable come first (what they fail on has nothing to do with pods,
    or the pod asks for more than the whole node has), then nodes without pods of lower priority;
    of the others is said what the pod would still lack. Where not only requests decide this is
    tried out, on TOLD_ROWS of them. What it would lack comes beside the text.
    """
    pod, verdict = decision.unplaced[0]
    total = verdict.nodes
    if verdict.everywhere or not total or not len(verdict.by_node):
        return reasons.availability(total, {reasons.PREEMPTION_UNHELPFUL: total}), frozenset()
    snapshot, profile = placer.snapshot, placer.profile
    hopeful = _curable(placer, pod, verdict)
    counts = {reasons.PREEMPTION_UNHELPFUL: total - int(hopeful.sum())}
    lower = snapshot.below(pod.priority)
    peopled = hopeful & (lower[3] > 0) if lower is not None else np.zeros_like(hopeful)
    counts[reasons.NO_VICTIMS] = int(hopeful.sum()) - int(peopled.sum())
    explained = np.zeros_like(hopeful)
    if not decides_by_requests(placer, pod):
        with _promises_apart(placer) as only:
            units = Units(snapshot, pod.priority)
            for row in snapshot.by_name(np.flatnonzero(peopled))[:TOLD_ROWS]:
                explained[row] = True
                with only(row):
                    lacking = _without_lower(placer, pod, row, units)
                for reason in lacking:
                    counts[reason] = counts.get(reason, 0) + 1
        peopled &= ~explained
    for reason, enough in (
        _beside_the_rest(snapshot, pod, lower, profile) if lower is not None else ()
    ):
        counts[reason] = counts.get(reason, 0) + int((peopled & ~enough).sum())
        explained |= ~enough
    for reason, passed in filters.last_filters(snapshot, pod.shape, profile):
        counts[reason] = counts.get(reason, 0) + int((peopled & ~explained & ~passed).sum())
        explained |= ~passed
    for why in {verdict.by_node[n.name] for n in _nodes(snapshot, peopled & ~explained)}:
        rows = peopled & ~explained & verdict.by_node.mask(why.__eq__)
        others = [reason for reason in why if not _is_shortage(reason)]
        for reason in others or [reasons.NO_VICTIMS]:
            counts[reason] = counts.get(reason, 0) + int(rows.sum())
    told = frozenset(reason for reason, nodes in counts.items() if nodes)
    return reasons.availability(total, counts), told - _OF_PREEMPTION


def _curable(placer: Placer, pod: Pod, verdict: Verdict) -> Mask:
    """Nodes whose verdict evictions may change.

    Where an earlier filter said no, nobody has compared the pod with the whole node.
    """
    snapshot, profile = placer.snapshot, placer.profile
    rows: Mask = snapshot.alive & verdict.by_node.mask(resolvable)
    compared = verdict.by_node.mask(lambda why: any(map(_is_shortage, why)))
    for one in pod.each if profile.filters("NodeResourcesFit") else ():
        elsewhere = ~compared | ~filters.served_as(snapshot, one.shape)
        for name, amount in one.shape.requests:
            if not profile.ignores(name):
                rows &= elsewhere | (amount <= snapshot.allocatable_of(name))
    return rows


def _without_lower(placer: Placer, pod: Pod, row: int, units: Units) -> tuple[str, ...]:
    """What the pod would lack on a row without the pods that it may evict."""
    snapshot = placer.snapshot
    lower = units.on(row)
    if not lower:
        return (reasons.NO_VICTIMS,)
    mark = snapshot.checkpoint()
    try:
        for unit in lower:
            take_off(snapshot, unit.pods)
        return placer.lacking_on(pod, row) or (reasons.NO_VICTIMS,)
    finally:
        snapshot.rollback(mark)


def _nodes(snapshot: Snapshot, rows: Mask) -> Iterator[Node]:
    return (node for row in np.flatnonzero(rows).tolist() if (node := snapshot.nodes[row]))


def _is_shortage(reason: str) -> bool:
    return reason == reasons.TOO_MANY_PODS or reason.startswith(reasons.insufficient(""))


_OF_PREEMPTION = frozenset({reasons.PREEMPTION_UNHELPFUL, reasons.NO_VICTIMS})
_UNRESOLVABLE = frozenset(
    {
        reasons.UNSCHEDULABLE,
        reasons.NODE_NAME,
        reasons.TAINT,
        reasons.NODE_AFFINITY,
        reasons.NOT_NAMED,
        reasons.FEATURES,
        reasons.POD_AFFINITY,
        reasons.SPREAD_LABEL,
        reasons.PLACEMENT_OUTSIDE,
        reasons.CLAIM_ELSEWHERE,
        reasons.ADDED_AFFINITY,
        reasons.VOLUME_NODE,
        reasons.VOLUME_BINDING,
        reasons.VOLUME_SPACE,
        reasons.VOLUME_GONE,
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

    @property
    def broken(self) -> bool:
        """Whether disruption budgets are."""
        return bool(self.rank[0])


def _for_pod(
    placer: Placer, pod: Pod, verdict: Verdict, within: Mask | None = None
) -> Preemption | None:
    snapshot = placer.snapshot
    curable = _curable(placer, pod, verdict) if len(verdict.by_node) else snapshot.alive
    limit = candidate_limit(placer.profile, int(curable.sum()))
    rows = candidate_rows(snapshot, pod, placer.profile, curable)
    if within is not None:
        rows = [row for row in rows if within[row]]
    if not decides_by_requests(placer, pod):
        best: tuple[int, Eviction] | None = _best_simulated(placer, pod, rows, limit)
    else:
        evictions = placer.evictions(pod.shape, pod.priority, _by_arithmetic)
        best = evictions.best(rows[:limit])
        if len(rows) > limit and (best is None or best[1].broken):
            best = evictions.best(rows)
    if best is None:
        return None
    row, victims = best[0], best[1].victims
    node = snapshot.nodes[row]
    assert node is not None
    return Preemption(whole_units(snapshot, victims), ((pod, node.name),))


def _best_simulated(
    placer: Placer, pod: Pod, rows: list[int], limit: int
) -> tuple[int, _Eviction] | None:
    """The best of ``limit`` rows where evictions help; one of them must break no budget.

    If all do, the search goes on, as upstream's.
    """
    best: tuple[int, _Eviction] | None = None
    tried, sound = 0, False
    with _promises_apart(placer) as only:
        units = Units(placer.snapshot, pod.priority)
        for row in rows[: max(limit, placer.profile.max_dry_runs)]:
            with only(row):
                eviction = _simulated(placer, pod, row, units)
            if eviction is None:
                continue
            if best is None or eviction.rank < best[1].rank:
                best = row, eviction
            tried, sound = tried + 1, sound or not eviction.broken
            if sound and tried >= limit:
                break
    return best


@contextmanager
def _promises_apart(placer: Placer) -> Iterator[Callable[[int], AbstractContextManager[None]]]:
    """One row at a time, with the nominated pods of that row alone: others do not count on it."""
    snapshot, nominated = placer.snapshot, placer.nominated
    by_row: dict[int, list[Pod]] = {}
    for key in nominated:
        coming, row = snapshot.placed(key), snapshot.rows.get(snapshot.node_of(key) or "")
        if coming is not None and row is not None:
            by_row.setdefault(row, []).append(coming)

    @contextmanager
    def only(row: int) -> Iterator[None]:
        node, coming = snapshot.nodes[row], by_row.get(row, ())
        assert node is not None
        inner = snapshot.checkpoint()
        for other in coming:
            snapshot.place(other, node.name)
        placer.nominated = tuple(other.key for other in coming)
        try:
            yield
        finally:
            snapshot.rollback(inner)
            placer.nominated = ()

    mark = snapshot.checkpoint()
    for key in nominated:
        snapshot.displace(key)
    placer.nominated = ()
    try:
        yield only
    finally:
        snapshot.rollback(mark)
        placer.nominated = nominated


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
            given = lower[index][rows] if lower is not None else 0
            enough &= free[index] + given >= amount
        if not enough.any():
            continue
        able = rows[enough][np.argsort(short[enough], kind="stable")][:most]
        units = Units(snapshot, level + 1)
        found = [
            (eviction, row)
            for row in able.tolist()
            if (eviction := _by_arithmetic(snapshot, pod.shape, units, row)) is not None
        ]
        if found:
            best, row = min(found, key=lambda entry: entry[0].rank)
            return row, best.victims
    return None


def rank_of(snapshot: Snapshot, victims: tuple[Pod, ...]) -> tuple[object, ...]:
    """How costly the end of these pods is: smaller is better, by upstream's order of nodes."""
    whole = whole_units(snapshot, victims)
    return _rank(whole, broken_by(snapshot, whole))


def candidate_limit(profile: Profile, nodes: int) -> int:
    """Among how many of the nodes that evictions may help the best is chosen, as upstream."""
    return max(profile.min_candidates, nodes * profile.candidates_percent // 100)


def candidate_rows(
    snapshot: Snapshot, pod: Pod, profile: Profile = DEFAULT, curable: Mask | None = None
) -> list[int]:
    """Rows where the requests fit beside the pods that must stay, by name."""
    lower = snapshot.below(pod.priority)
    if lower is None:
        return []
    passable = filters.static_mask(snapshot, pod.shape, profile) & (lower[3] > 0)
    for _, enough in _beside_the_rest(snapshot, pod, lower, profile):
        passable &= enough
    if curable is not None:
        passable &= curable
    return snapshot.by_name(np.flatnonzero(passable))


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
            staying = snapshot.requested[index] - lower[index]
            yield reasons.insufficient(name), staying + amount <= snapshot.allocatable[index]


def _by_arithmetic(snapshot: Snapshot, shape: PodShape, units: Units, row: int) -> _Eviction | None:
    """The fewest victims on a row when only requests decide: no simulation is needed then."""
    lower = units.on(row)
    names = [name for name, amount in shape.requests if amount]
    indices = [3, *(snapshot.resource_index(name) for name in names)]
    wanted = [1, *(amount for _, amount in shape.requests if amount)]
    takes = [
        [len(unit.here), *(sum(pod.shape.request(name) for pod in unit.here) for name in names)]
        for unit in lower
    ]
    free = [
        snapshot.allocatable.item(index, row) - snapshot.requested.item(index, row) - amount
        for index, amount in zip(indices, wanted, strict=True)
    ]
    for take in takes:
        free = [have + amount for have, amount in zip(free, take, strict=True)]
    if min(free) < 0:
        return None
    going: list[Together] = []
    for unit, take in zip(lower, takes, strict=True):
        left = [have - amount for have, amount in zip(free, take, strict=True)]
        if min(left) >= 0:
            free = left
        else:
            going.append(unit)
    return _eviction(going)


def _simulated(placer: Placer, pod: Pod, row: int, units: Units) -> _Eviction | None:
    """The fewest victims found on one row by trying; None if none suffice."""
    snapshot = placer.snapshot
    node = snapshot.nodes[row]
    assert node is not None
    within = np.zeros(snapshot.capacity, np.bool_)
    within[row] = True
    lower = units.on(row)
    mark = snapshot.checkpoint()
    try:
        homes = [take_off(snapshot, unit.pods) for unit in lower]
        if not _fits(placer, pod, within):
            return None
        going: list[Together] = []
        for unit, nodes in zip(lower, homes, strict=True):
            inner = snapshot.checkpoint()
            put_back(snapshot, unit.pods, nodes)
            if _fits(placer, pod, within):
                snapshot.keep(inner)
            else:
                snapshot.rollback(inner)
                going.append(unit)
        return _eviction(going)
    finally:
        snapshot.rollback(mark)


def _fits(placer: Placer, pod: Pod, within: Mask) -> bool:
    snapshot = placer.snapshot
    mark = snapshot.checkpoint()
    placed = placer.place(pod, within)
    snapshot.rollback(mark)
    return placed is not None


def _eviction(units: list[Together]) -> _Eviction:
    victims = tuple(pod for unit in units for pod in unit.pods)
    return _Eviction(_rank(victims, sum(unit.breaks for unit in units)), victims)


def _rank(victims: tuple[Pod, ...], broken: int) -> tuple[object, ...]:
    """Smaller is better: upstream's pickOneNodeForPreemption.

    A group that goes as a whole is among the victims with all its pods, wherever they are.
    """
    if not victims:
        return (broken, -(2**31), 0, 0, 0.0)
    highest = max(v.priority for v in victims)
    latest = min(started(v) for v in victims if v.priority == highest)
    return (broken, highest, sum(v.priority + 2**31 for v in victims), len(victims), -latest)
