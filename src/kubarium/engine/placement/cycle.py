"""One cycle: waiting pods and gangs in order of priority, each decided on what is left."""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.engine.model import Key, Pod
from kubarium.engine.placement.gang import place_gang, settled_mask
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.preemption import preempt
from kubarium.engine.plan import CyclePlan, Decision, Placement, QueueItem
from kubarium.engine.snapshot import Snapshot
from kubarium.engine.verdict import Verdict


def plan_cycle(
    placer: Placer,
    items: Iterable[QueueItem],
    *,
    preemption: bool = True,
    nominated: Iterable[tuple[Pod, str]] = (),
) -> CyclePlan:
    """Decide every item. Placements stay in the placer's snapshot as assumed.

    Items go by (priority descending, creation, name). With ``preemption``, what finds no room may
    name victims; those are not taken off the snapshot, since they still run. ``nominated`` pods
    wait for victims to leave a node: their room counts as taken, except for themselves and for
    items of higher priority.
    """
    snapshot = placer.snapshot
    decisions: list[Decision] = []
    accounts: dict[object, Verdict] = {}
    kept = {pod.key: (pod, node) for pod, node in nominated if snapshot.node_of(pod.key) is None}
    for item in sorted(items, key=lambda item: item.order):
        shadows = _cast_shadows(snapshot, kept, item)
        decision = _decide(placer, item, accounts, preemption=preemption)
        for key in shadows:
            snapshot.displace(key)
        if shadows or decision.placements:
            accounts.clear()
        for placement in decision.placements:
            kept.pop(placement.pod.key, None)
        if decision.preemption is not None:
            kept |= {p.key: (p, node) for p, node in decision.preemption.nominations}
        decisions.append(decision)
    return CyclePlan(tuple(decisions))


def _cast_shadows(
    snapshot: Snapshot, kept: dict[Key, tuple[Pod, str]], item: QueueItem
) -> list[Key]:
    """Put nominated pods of at least the item's priority on their nodes for the time being."""
    if not kept:
        return []
    own = {pod.key for pod in item.pods}
    priority = item.pods[0].priority
    shadows = [
        (pod, node)
        for pod, node in kept.values()
        if pod.priority >= priority and pod.key not in own
    ]
    for pod, node in shadows:
        snapshot.place(pod, node)
    return [pod.key for pod, _ in shadows]


def _decide(
    placer: Placer, item: QueueItem, accounts: dict[object, Verdict], *, preemption: bool
) -> Decision:
    gang = item.gang
    if gang is not None and gang.scheduled_count < gang.min_count:
        decision = place_gang(placer, item)
    else:
        decision = _place_each(placer, item, accounts)
    if preemption and decision.unplaced and not decision.placements:
        decision = preempt(placer, decision)
    return decision


def _place_each(placer: Placer, item: QueueItem, accounts: dict[object, Verdict]) -> Decision:
    """Pods without a minimum, or beyond it: each for itself, in the domain of its group.

    ``accounts`` are the verdicts since the last placement: until then, a pod of the same shape
    and without claims or neighbours to look at fails for the same reasons.
    """
    within = settled_mask(placer.snapshot, item.gang) if item.gang is not None else None
    placements: list[Placement] = []
    unplaced: list[tuple[Pod, Verdict]] = []
    for pod in item.pods:
        alike = not pod.claims and not pod.shape.looks_at_pods and within is None
        known = accounts.get(pod.shape) if alike and not placements else None
        if known is not None and not placer.snapshot.tallies.anti_holders:
            verdict = Verdict(pod.key, known.nodes, known.counts, by_node=known.by_node)
            unplaced.append((pod, verdict))
            continue
        placement = placer.place(pod, within)
        if placement is not None:
            placements.append(placement)
            continue
        verdict = placer.account(pod, within)
        if alike:
            accounts[pod.shape] = verdict
        unplaced.append((pod, verdict))
    return Decision(item, tuple(placements), tuple(unplaced))
