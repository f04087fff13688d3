"""What preemption does for pods without a place, or would do if it were allowed to.

Room that is being made for others counts as taken meanwhile, as it does for the scheduler: their
pods bear it as ``status.nominatedNodeName``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from kubarium.api.resource import Document
from kubarium.base.quoted import listed
from kubarium.engine import reasons
from kubarium.engine.model import Composite, Gang, Pod
from kubarium.engine.placement.cycle import plan_cycle
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.preemption import (
    candidate_limit,
    candidate_rows,
    decides_by_requests,
)
from kubarium.engine.plan import Decision, Leaf, Preemption, QueueItem, Tree
from kubarium.engine.verdict import Suggestion
from kubarium.view.cluster import ClusterView, key_of
from kubarium.view.pods import is_finished, node_of

# Pods named of many.
NAMED = 3

# Higher priorities that are tried, each above some pods that have a node: the highest, and others
# between it and the subject's own.
PRIORITIES_TRIED = 6

# Nodes on which evictions are simulated where requests alone do not decide: the scheduler looks at
# hundreds, which takes longer than an answer may.
NODES_SIMULATED = 8

# Pods that have a node, beyond which a gang is tried with no other priority than its own: each try
# looks at all of them, at 100,000 in a second.
GANG_VICTIMS = 5_000

# What people may give their own PriorityClasses at most (upstream: HighestUserDefinablePriority).
MAX_PRIORITY = 1_000_000_000


_Rules = TypeVar("_Rules", Gang, Composite)


@dataclass(frozen=True, slots=True)
class PreemptionAccount:
    """``text`` is the scheduler's own about preemption, for JSON."""

    lines: tuple[str, ...] = ()
    suggestions: tuple[Suggestion, ...] = ()
    text: str = ""


@contextmanager
def promised(
    view: ClusterView, documents: Iterable[Document], pods: Sequence[Pod]
) -> Iterator[tuple[tuple[Pod, str], ...]]:
    """Meanwhile others of at least the pods' priority have the room that is being made for them."""
    snapshot, own = view.snapshot, {pod.key for pod in pods}
    found: list[tuple[Pod, str]] = []
    mark = snapshot.checkpoint()
    try:
        for document in documents:
            node = (document.get("status") or {}).get("nominatedNodeName")
            if not node or node not in snapshot.rows or key_of(document) in own:
                continue
            bound = node_of(document)
            if bound or is_finished(document) or "deletionTimestamp" in document["metadata"]:
                continue
            pod = view.pod(document)
            if pod.priority >= pods[0].priority and snapshot.node_of(pod.key) is None:
                snapshot.place(pod, node)
                found.append((pod, node))
        yield tuple(found)
    finally:
        snapshot.rollback(mark)


def decided(placer: Placer, item: QueueItem) -> Decision:
    """What the scheduler would decide about the item now; nothing is kept."""
    mark = placer.snapshot.checkpoint()
    try:
        [decision] = plan_cycle(placer, [item]).decisions
    finally:
        placer.snapshot.rollback(mark)
    return decision


class _Evictions:
    """Preemption on trial. ``exact`` is False if the scheduler may find better victims, or any."""

    def __init__(self, placer: Placer, item: QueueItem) -> None:
        self.item = item
        self.exact = is_group(item) or decides_by_requests(placer, item.pods[0])
        self.placer, self._profile = placer, placer.profile
        if not self.exact:
            profile = replace(
                placer.profile,
                candidates_percent=0,
                min_candidates=NODES_SIMULATED,
                max_dry_runs=NODES_SIMULATED,
            )
            self.placer = Placer(placer.snapshot, profile)
            self.placer.nominated = placer.nominated
        self._placed = sum(1 for _ in placer.snapshot.placed_pods()) if is_group(item) else 0
        self.may_be_repeated = self._placed <= GANG_VICTIMS

    def of(self, item: QueueItem) -> Preemption | None:
        """Who would be evicted for the item; None if that makes no room."""
        return decided(self.placer, item).preemption

    def untried(self, priority: int) -> str:
        """What was not looked at before nobody's eviction was found to help; "" if all was.

        ``priority`` is the highest with which nothing was found.
        """
        if not self.may_be_repeated:
            return (
                f"whether a higher priority would help was not tried: {self._placed} pods"
                f" have a node, and more than {GANG_VICTIMS} take too long"
            )
        if self.exact:
            return ""
        pod = replace(self.item.pods[0], priority=priority)
        snapshot, profile = self.placer.snapshot, self._profile
        most = max(candidate_limit(profile, snapshot.node_count()), profile.max_dry_runs)
        rows = candidate_rows(snapshot, pod, profile)[:most]
        if len(rows) <= NODES_SIMULATED:
            return ""
        return (
            f"whether evictions would help was tried on {NODES_SIMULATED} nodes;"
            f" the scheduler looks at {len(rows)}"
        )

    def told(self, found: Preemption) -> str:
        """Who goes, in words."""
        return _victims(found) if self.exact else f"for example, {_victims(found)}"


def preemption_account(
    placer: Placer,
    item: QueueItem,
    others: Sequence[tuple[Pod, str]],
    decision: Decision | None = None,
) -> PreemptionAccount:
    """What preemption does or could do for what was not placed; ``others`` are promised room.

    ``decision`` is the scheduler's about a gang or a composite.
    """
    evictions = _Evictions(placer, item)
    if decision is None:
        decision = decided(evictions.placer, item)
    text = decision.unplaced[0][1].preemption if decision.unplaced else ""
    lines = [*_promises(others), *_own(placer, item.pods)]
    if decision.preemption is not None:
        lines.append(f"preemption makes room: {evictions.told(decision.preemption)}")
        return PreemptionAccount(tuple(lines), text=text)
    if decision.placements:
        return PreemptionAccount(tuple(lines))
    if not item.preempts:
        lines.append(f"preemption: {reasons.NEVER_PREEMPTS}")
        suggestion = _allowed(evictions)
        if suggestion is None and not evictions.exact:
            lines += filter(None, (evictions.untried(item.pods[0].priority),))
        return PreemptionAccount(tuple(lines), tuple(filter(None, (suggestion,))), text)
    if text == reasons.DEVICE_RESTS:
        lines.append("preemption: nobody is evicted while a device rests with which it fits")
        return PreemptionAccount(tuple(lines), text=text)
    if text == reasons.PREEMPTION_COMING:
        return PreemptionAccount(tuple(lines), text=text)
    levels = _levels(placer, item)
    raised = _raised(evictions, levels, [pod for pod, _ in others])
    own = item.pods[0].priority
    untried = evictions.untried(own if raised is not None else max((own, *levels)) + 1)
    if untried:
        lines.append(untried)
        text = text if evictions.exact else ""  # it speaks of all nodes
    return PreemptionAccount(tuple(lines), tuple(filter(None, (raised,))), text)


def _promises(others: Sequence[tuple[Pod, str]]) -> Iterator[str]:
    for pod, node in others[:NAMED]:
        yield f"room on node {node} is kept for pod {'/'.join(pod.key)}, which was promised it"
    if len(others) > NAMED:
        yield f"room is kept for {len(others) - NAMED} more pods"


def _own(placer: Placer, pods: Sequence[Pod]) -> Iterator[str]:
    """Room that is being made for the pods themselves."""
    nodes = dict.fromkeys(pod.nominated_node for pod in pods if pod.nominated_node)
    for node in list(nodes)[:NAMED]:
        row = placer.snapshot.rows.get(node)
        if row is None:
            continue
        there = placer.snapshot.pods_on[row].values()
        ending = sorted("/".join(pod.key) for pod in there if pod.terminating)
        if ending:
            yield f"room is being made on node {node}: {listed(ending, NAMED)} on its way out"


def _allowed(evictions: _Evictions) -> Suggestion | None:
    found = evictions.of(changed(evictions.item, preempts=True))
    if found is None:
        return None
    text = f"set preemptionPolicy to PreemptLowerPriority: {evictions.told(found)}"
    return Suggestion("allow-preemption", text, _names(found), amount=len(found.victims))


def _levels(placer: Placer, item: QueueItem) -> list[int]:
    """Priorities of pods that have a node and the item may not evict, ascending."""
    own, placed = item.pods[0].priority, placer.snapshot.placed_pods()
    return sorted({pod.priority for pod, _ in placed if own <= pod.priority < MAX_PRIORITY})


def _raised(evictions: _Evictions, levels: list[int], waiting: Sequence[Pod]) -> Suggestion | None:
    """The lowest higher priority with which preemption makes room, as far as tries suffice.

    Who may evict more finds room if others do; so the highest says whether any helps.
    """
    if not levels or not evictions.may_be_repeated:
        return None
    item, own = evictions.item, evictions.item.pods[0].priority
    low, high = -1, len(levels) - 1
    best = evictions.of(changed(item, priority=levels[high] + 1))
    if best is None:
        return None
    for _ in range(1, PRIORITIES_TRIED):
        if high - low <= 1:
            break
        middle = (low + high) // 2
        found = evictions.of(changed(item, priority=levels[middle] + 1))
        if found is None:
            low = middle
        else:
            best, high = found, middle
    if _of_its_own(item, best):
        return None
    consequence = _consequence(evictions, best, waiting)
    text = f"raise the priority from {own} above {levels[high]}: {consequence}"
    return Suggestion("raise-priority", text, _names(best), amount=levels[high] + 1)


def _of_its_own(item: QueueItem, found: Preemption) -> bool:
    """Whether some of the victims are of the same group, whose pods have one priority."""
    gang = item.pods[0].gang
    return gang is not None and any(pod.gang == gang for pod in found.victims)


def is_group(item: QueueItem) -> bool:
    """Whether it is a gang or a composite."""
    return item.gang is not None or item.tree is not None


def changed(
    item: QueueItem, *, priority: int | None = None, preempts: bool | None = None
) -> QueueItem:
    """The item with another priority, or another policy, of all its pods and groups."""

    def pod(one: Pod) -> Pod:
        return replace(
            one,
            priority=one.priority if priority is None else priority,
            preempts=one.preempts if preempts is None else preempts,
        )

    def group(one: _Rules) -> _Rules:
        return replace(
            one,
            priority=one.priority if priority is None or one.priority is None else priority,
            preempts=one.preempts if preempts is None else preempts,
        )

    def tree(one: Tree) -> Tree:
        children = (
            tree(child)
            if isinstance(child, Tree)
            else Leaf(group(child.gang), tuple(map(pod, child.pods)))
            for child in one.children
        )
        return Tree(group(one.group), tuple(children))

    if item.tree is not None:
        return QueueItem.of_tree(tree(item.tree), item.scheduler)
    gang = group(item.gang) if item.gang is not None else None
    return replace(item, pods=tuple(map(pod, item.pods)), gang=gang)


def _consequence(evictions: _Evictions, found: Preemption, waiting: Sequence[Pod]) -> str:
    """Who goes, and who only loses the room that was promised."""
    promised_keys = {pod.key for pod in waiting}
    gone = tuple(pod for pod in found.victims if pod.key not in promised_keys)
    losers = sorted("/".join(p.key) for p in found.victims if p.key in promised_keys)
    parts = [evictions.told(replace(found, victims=gone))] if gone else []
    if losers:
        parts.append(f"the room promised to pod {listed(losers, NAMED)} is then its own")
    return "; ".join(parts)


def _names(found: Preemption) -> str:
    return ",".join("/".join(pod.key) for pod in found.victims)


def _victims(found: Preemption) -> str:
    nodes = dict.fromkeys(node for _, node in found.nominations)
    where = f" on node {next(iter(nodes))}" if len(nodes) == 1 else ""
    noun = "pod" if len(found.victims) == 1 else "pods"
    names = sorted("/".join(pod.key) for pod in found.victims)
    return f"{noun} {listed(names, NAMED)}{where} would be evicted"
