"""Everything one admission decision may look at: rules, quota in use, who holds it, who waits."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from kubarium.engine.queueing.clusterqueue import ClusterQueue
from kubarium.engine.queueing.flavor import Flavor
from kubarium.engine.queueing.quota import QuotaNode, QuotaTree
from kubarium.engine.queueing.workload import Admitted, Key, Workload

LESS_OR_EQUAL_FINAL = "LessThanOrEqualToFinalShare"
LESS_INITIAL = "LessThanInitialShare"


@dataclass(frozen=True, slots=True)
class Options:
    """Choices of Kueue's Configuration and feature gates that change decisions."""

    fair_sharing: bool = False
    fair_strategies: tuple[str, ...] = (LESS_OR_EQUAL_FINAL, LESS_INITIAL)
    partial_admission: bool = True
    ignore_undeclared: bool = False
    priority_sorting_within_cohort: bool = True
    equivalence_hashing: bool = True
    recompute_on_overlap: bool = True
    preempt_within_nominal: bool = True
    prioritize_non_borrowing: bool = True


class Holders:
    """The workloads that hold quota in one ClusterQueue, found by priority."""

    __slots__ = ("_by_priority", "_priority_of")

    def __init__(self) -> None:
        self._by_priority: dict[int, dict[Key, Admitted]] = {}
        self._priority_of: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._priority_of)

    def __iter__(self) -> Iterator[Admitted]:
        for holders in self._by_priority.values():
            yield from holders.values()

    def get(self, key: Key) -> Admitted | None:
        priority = self._priority_of.get(key)
        return None if priority is None else self._by_priority[priority][key]

    def put(self, admitted: Admitted) -> None:
        self.drop(admitted.key)
        priority = admitted.workload.priority
        self._by_priority.setdefault(priority, {})[admitted.key] = admitted
        self._priority_of[admitted.key] = priority

    def drop(self, key: Key) -> Admitted | None:
        priority = self._priority_of.pop(key, None)
        if priority is None:
            return None
        holders = self._by_priority[priority]
        gone = holders.pop(key)
        if not holders:
            del self._by_priority[priority]
        return gone

    def up_to(self, priority: int) -> Iterator[Admitted]:
        """Those of at most this priority."""
        for level in sorted(p for p in self._by_priority if p <= priority):
            yield from self._by_priority[level].values()


class Pending:
    """One ClusterQueue's waiting workloads, in queue order, grouped by shape.

    Equal shapes fare equally in a cycle, so a cycle looks at the head of each shape only.
    """

    __slots__ = ("_groups", "_known", "_waits_for_time", "sticky")

    def __init__(self) -> None:
        self._groups: dict[str, list[tuple[tuple[int, float, str], Key, Workload]]] = {}
        self._known: dict[Key, Workload] = {}
        self._waits_for_time: dict[Key, Workload] = {}
        self.sticky: Key | None = None
        """The workload that waits for its victims to leave; it stays at the head."""

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Workload]:
        """In queue order."""
        entries = [entry for group in self._groups.values() for entry in group]
        entries.sort(key=lambda entry: (entry[1] != self.sticky, *entry[:2]))
        return (workload for _, _, workload in entries)

    def get(self, key: Key) -> Workload | None:
        return self._known.get(key)

    def put(self, workload: Workload) -> None:
        self.drop(workload.key)
        group = self._groups.setdefault(workload.shape, [])
        insort(group, (workload.order, workload.key, workload))
        self._known[workload.key] = workload
        if workload.requeue_at:
            self._waits_for_time[workload.key] = workload

    def drop(self, key: Key) -> None:
        workload = self._known.pop(key, None)
        if workload is None:
            return
        self._waits_for_time.pop(key, None)
        group = self._groups[workload.shape]
        del group[bisect_left(group, (workload.order, key))]
        if not group:
            del self._groups[workload.shape]

    def backing_off(self, now: float) -> list[Workload]:
        """Those that may be tried again at a later time that is known."""
        return [
            w for w in self._waits_for_time.values() if w.requeue_at > now and not w.requeue_blocked
        ]

    def walk(self, now: float) -> Walk:
        return Walk(self, now)


Entry = tuple[tuple[int, tuple[int, float, str]], Key, str, int]


class Walk:
    """A cursor over one queue's workloads that changes nothing: heads come, go, or go aside."""

    __slots__ = ("_first", "_groups", "_heap", "_now", "_sticky", "aside", "dropped")

    def __init__(self, pending: Pending, now: float) -> None:
        self._groups = pending._groups
        self._sticky = pending.sticky
        self._now = now
        self.dropped: dict[str, Workload] = {}
        """Shapes found not to fit, by the workload that was tried."""
        self.aside: dict[Key, Workload] = {}
        """Workloads tried one by one and found not to fit."""
        self._heap: list[Entry] = []
        for shape in self._groups:
            self._push(shape, 0)
        self._first = pending.get(self._sticky) if self._sticky is not None else None
        if self._first is not None:
            self._heap.append(((0, self._first.order), self._first.key, "", -1))
        heapify(self._heap)

    def head(self) -> Workload | None:
        """The workload to try next; None when none is left."""
        while self._heap:
            _, key, shape, position = self._heap[0]
            if position < 0:
                return self._first
            if key == self._sticky or key in self.aside:
                heappop(self._heap)
                self._push(shape, position + 1)
                continue
            return self._groups[shape][position][2]
        return None

    def pop(self) -> None:
        """The head is admitted or otherwise done with."""
        _, _, shape, position = heappop(self._heap)
        if position >= 0:
            self._push(shape, position + 1)

    def set_aside(self, workload: Workload) -> None:
        """The head cannot be admitted now."""
        self.aside[workload.key] = workload
        self.pop()

    def drop_shape(self, workload: Workload) -> None:
        """Neither the head nor any workload of its shape can be admitted now."""
        self.dropped[workload.shape] = workload
        if heappop(self._heap)[3] < 0:
            self._heap = [entry for entry in self._heap if entry[2] != workload.shape]
            heapify(self._heap)

    def _push(self, shape: str, position: int) -> None:
        group = self._groups[shape]
        while position < len(group):
            order, key, workload = group[position]
            if not workload.requeue_blocked and workload.requeue_at <= self._now:
                heappush(self._heap, ((1, order), key, shape, position))
                return
            position += 1


@dataclass(slots=True)
class Snapshot:
    """The state that :func:`cycle.plan_cycle` decides on; deciding does not change it."""

    flavors: Mapping[str, Flavor] = field(default_factory=dict)
    queues: Mapping[str, ClusterQueue] = field(default_factory=dict)
    tree: QuotaTree = field(default_factory=QuotaTree)
    holders: dict[str, Holders] = field(default_factory=dict)
    pending: dict[str, Pending] = field(default_factory=dict)
    options: Options = Options()

    def node(self, queue: str) -> QuotaNode | None:
        return self.tree.queues.get(queue)

    def admit(self, admitted: Admitted) -> None:
        """Charge a workload's quota; replaces what is known of the same workload and queue."""
        queue = admitted.cluster_queue
        self.release(queue, admitted.key)
        self.holders.setdefault(queue, Holders()).put(admitted)
        node = self.tree.queues.get(queue)
        if node is not None:
            node.charge(admitted.usage)

    def release(self, queue: str, key: Key) -> Admitted | None:
        """Give back a workload's quota; None if it held none."""
        holders = self.holders.get(queue)
        gone = holders.drop(key) if holders is not None else None
        node = self.tree.queues.get(queue)
        if gone is not None and node is not None:
            node.discharge(gone.usage)
        return gone

    def wait(self, workload: Workload) -> None:
        """Put a workload into its ClusterQueue's queue."""
        self.pending.setdefault(workload.cluster_queue, Pending()).put(workload)

    def recharge(self) -> None:
        """Charge every holder anew, after the tree was rebuilt."""
        for node in self.tree.nodes():
            node.usage.clear()
        for name, holders in self.holders.items():
            charged = self.tree.queues.get(name)
            if charged is not None:
                for admitted in holders:
                    charged.charge(admitted.usage)

    def check(self) -> None:
        """Raise AssertionError unless usage is exactly what the holders hold."""
        self.tree.check()
        for name, node in self.tree.queues.items():
            expected: dict[tuple[str, str], int] = {}
            for admitted in self.holders.get(name, ()):
                for fr, amount in admitted.usage.items():
                    expected[fr] = expected.get(fr, 0) + amount
            actual = {fr: amount for fr, amount in node.usage.items() if amount}
            assert actual == {fr: a for fr, a in expected.items() if a}, f"usage of {name}"


def cohort_path(node: QuotaNode) -> str:
    """``/root/…/parent/queue``: how preemption messages name a ClusterQueue."""
    names = [node.name, *(ancestor.name for ancestor in node.path_to_root())]
    return "/" + "/".join(reversed(names))
