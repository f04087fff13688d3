"""One cycle: waiting pods and gangs in order of priority, each decided on what is left."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from kubarium.engine.model import Key, Pod
from kubarium.engine.placement.gang import has_domain, place_gang, settled_mask
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.preemption import preempt, with_text
from kubarium.engine.placement.tree import place_tree
from kubarium.engine.plan import CyclePlan, Decision, Placement, QueueItem
from kubarium.engine.snapshot import Snapshot
from kubarium.engine.verdict import Verdict


def plan_cycle(
    placer: Placer,
    items: Iterable[QueueItem],
    *,
    preemption: bool = True,
    nominated: Iterable[tuple[Pod, str]] = (),
    profiles: Mapping[str, Placer] | None = None,
) -> CyclePlan:
    """Decide every item. Placements stay in the placer's snapshot as assumed.

    Items go by (priority descending, creation, name). With ``preemption``, what finds no room may
    name victims; those are not taken off the snapshot, since they still run. ``nominated`` pods
    wait for victims to leave a node: their room counts as taken, except for themselves and for
    items of higher priority. ``profiles`` are placers on the same snapshot for items that name a
    scheduler; ``placer`` decides all others. If an item raises, what was decided before it stays
    assumed.
    """
    snapshot = placer.snapshot
    decisions: list[Decision] = []
    accounts = _Accounts()
    shadows = _Shadows(snapshot, nominated)
    open_checkpoints = snapshot.open_checkpoints
    try:
        for item in sorted(items, key=lambda item: item.order):
            if shadows.cast_for(item):
                accounts.clear()
            chosen = profiles.get(item.scheduler, placer) if profiles else placer
            chosen.nominated = shadows.keys()
            try:
                decision = _decide(chosen, item, accounts, preemption=preemption)
            finally:
                chosen.nominated = ()
            if decision.placements:
                accounts.clear()
                shadows.forget(placement.pod for placement in decision.placements)
            if decision.preemption is not None:
                shadows.forget(pod for pod, _ in decision.preemption.nominations)
                shadows.outbid(decision.preemption.nominations)
                shadows.expect(decision.preemption.nominations)
            decisions.append(decision)
    except BaseException:
        snapshot.abandon(open_checkpoints)
        raise
    finally:
        shadows.lift()
    return CyclePlan(tuple(decisions))


class _Accounts:
    """What was said of pods that found no place since the last placement.

    Until then another pod of the same shape, without claims, volumes or neighbours to look at,
    fails for the same reasons, and no victims are found for it either.
    """

    def __init__(self) -> None:
        self.verdicts: dict[object, Verdict] = {}
        self._texts: dict[object, tuple[str, frozenset[str]]] = {}

    def clear(self) -> None:
        """Something was placed, or counts as placed."""
        self.verdicts.clear()
        self._texts.clear()

    def preempt(self, placer: Placer, decision: Decision) -> Decision:
        """The decision after preemption, which is not tried twice for pods that are alike."""
        item, pod = decision.item, decision.item.pods[0]
        if item.gang or item.tree or pod.nominated_node or not is_plain(placer.snapshot, pod):
            return preempt(placer, decision)
        key = (item.scheduler, pod.shape, pod.priority, item.preempts)
        text = self._texts.get(key)
        if text is not None:
            return with_text(placer, decision, *text)
        decision = preempt(placer, decision)
        if decision.preemption is None:
            verdict = decision.unplaced[0][1]
            self._texts[key] = verdict.preemption, verdict.lacking
        return decision


def is_plain(snapshot: Snapshot, pod: Pod) -> bool:
    """Whether nothing but the pod's shape decides where it fits."""
    special = pod.claims or pod.variants or pod.has_volumes or pod.shape.looks_at_pods
    return not special and not snapshot.tallies.anti_holders


class _Shadows:
    """Nominated pods on their nodes for the time being, so that their room counts as taken.

    Items come by descending priority, so a shadow once cast stays for the rest of the cycle,
    except while the item of its own pod is decided.
    """

    def __init__(self, snapshot: Snapshot, nominated: Iterable[tuple[Pod, str]]) -> None:
        self._snapshot = snapshot
        self._due: list[tuple[int, int, Pod, str]] = []
        self._cast: dict[Key, tuple[Pod, str]] = {}
        self._expected: dict[Key, str] = {}
        self._number = 0
        self.expect((p, node) for p, node in nominated if snapshot.node_of(p.key) is None)

    def expect(self, nominations: Iterable[tuple[Pod, str]]) -> None:
        """Room is being made for these pods."""
        for pod, node in nominations:
            self._expected[pod.key] = node
            heapq.heappush(self._due, (-pod.priority, self._number, pod, node))
            self._number += 1

    def outbid(self, nominations: Iterable[tuple[Pod, str]]) -> None:
        """On these nodes room is no longer made for others of lower priority, who are still due.

        Source: upstream's preemption, which takes their nominations away.
        """
        bids = {node: pod.priority for pod, node in nominations}
        for _, _, pod, node in self._due:
            if node in bids and pod.priority < bids[node] and self._expected.get(pod.key) == node:
                del self._expected[pod.key]

    def forget(self, pods: Iterable[Pod]) -> None:
        """These pods are placed, or expected elsewhere."""
        for pod in pods:
            self._expected.pop(pod.key, None)

    def cast_for(self, item: QueueItem) -> bool:
        """Bring the shadows up to what the item must respect; whether anything changed."""
        priority = item.pods[0].priority
        changed = False
        own: list[tuple[Pod, str]] = []
        while self._due and -self._due[0][0] >= priority:
            _, _, pod, node = heapq.heappop(self._due)
            if self._expected.get(pod.key) == node:
                self._cast[pod.key] = (pod, node)
                self._snapshot.place(pod, node)
                changed = True
        for pod in item.pods:
            if pod.key in self._cast:
                own.append(self._cast.pop(pod.key))
                self._snapshot.displace(pod.key)
                changed = True
        for pod, node in own:  # again for the next item, should the pod stay without a place
            heapq.heappush(self._due, (-pod.priority, self._number, pod, node))
            self._number += 1
        return changed

    def keys(self) -> tuple[Key, ...]:
        """The pods that are on the snapshot only as shadows."""
        return tuple(self._cast)

    def lift(self) -> None:
        """Take all shadows off the snapshot."""
        for key in self._cast:
            self._snapshot.displace(key)


def _decide(placer: Placer, item: QueueItem, accounts: _Accounts, *, preemption: bool) -> Decision:
    gang = item.gang
    if item.tree is not None:
        decision = place_tree(placer, item)
    elif gang is not None and (
        gang.scheduled_count < gang.min_count or not has_domain(placer.snapshot, gang)
    ):
        decision = place_gang(placer, item)
    else:
        decision = _place_each(placer, item, accounts.verdicts)
    if preemption and decision.unplaced and not decision.placements:
        decision = accounts.preempt(placer, decision)
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
        alike = within is None and is_plain(placer.snapshot, pod)
        known = accounts.get((item.scheduler, pod.shape)) if alike and not placements else None
        if known is not None:
            verdict = Verdict(pod.key, known.nodes, known.counts, by_node=known.by_node)
            unplaced.append((pod, verdict))
            continue
        placement = placer.place(pod, within)
        if placement is not None:
            placements.append(placement)
            continue
        verdict = placer.account(pod, within)
        if alike:
            accounts[item.scheduler, pod.shape] = verdict
        unplaced.append((pod, verdict))
    return Decision(item, tuple(placements), tuple(unplaced))
