"""A mixed gang, searched: when pods one after the other do not fit, another arrangement may.

First best fit decreasing, which is quick and usually enough. Then
depth-first over pods (large before small) and nodes (fullest first), with nodes that are alike
tried once and states that failed remembered. Exact within its budget; the budget keeps the worst
case to some tenths of a second. Identical pods need none of this: greedy placement is exact.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from kubarium.engine.model import Pod, PodShape
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import Placement
from kubarium.engine.snapshot import Mask

# Beyond this many pods a gang is packed largest first, but not searched.
MAX_PODS = 200
# Beyond this many it is only placed in its own order.
MAX_PACKED = 2_000
# Placements tried before the search is given up, for gangs of up to 64 pods; each placement costs
# more the more pods there are, so that larger gangs have fewer.
STEP_BUDGET = 2_000
_FULL_BUDGET_PODS = 64


class _OutOfBudgetError(Exception):
    """The search is given up undecided."""


def search(
    placer: Placer, pods: Sequence[Pod], needed: int, within: Mask | None
) -> tuple[Placement, ...] | None:
    """At least ``needed`` of the pods on nodes, entered in the snapshot; None if none was found."""
    mixed = len({(pod.shape, len(pod.claims)) for pod in pods}) > 1
    if len(pods) > MAX_PACKED or not mixed:
        return None
    mark = placer.snapshot.checkpoint()
    packed = _Search(placer, pods, needed, within).pack()
    if len(packed) >= needed:
        placer.snapshot.keep(mark)
        return packed
    placer.snapshot.rollback(mark)
    if len(pods) > MAX_PODS:
        return None
    found = _Search(placer, pods, needed, within)
    mark = placer.snapshot.checkpoint()
    try:
        done = found.run()
    except _OutOfBudgetError:
        done = False
    if done:
        placer.snapshot.keep(mark)
        return tuple(found.placements)
    placer.snapshot.rollback(mark)
    return None


class _Search:
    def __init__(
        self, placer: Placer, pods: Sequence[Pod], needed: int, within: Mask | None
    ) -> None:
        self._placer = placer
        self._snapshot = placer.snapshot
        self._within = within
        self._spare = len(pods) - needed
        self._pods = sorted(pods, key=lambda pod: (-self._size(pod.shape), pod.key))
        self._shapes = list(dict.fromkeys(pod.shape for pod in self._pods))
        # Devices and neighbours tell nodes apart that look alike in resources.
        self._distinct = any(pod.claims or pod.shape.looks_at_pods for pod in pods)
        self._static = [placer.fit(shape).static for shape in self._shapes]
        self._failed: set[Hashable] = set()
        self._touched: dict[int, int] = {}
        self._steps = STEP_BUDGET * _FULL_BUDGET_PODS // max(_FULL_BUDGET_PODS, len(pods))
        self.placements: list[Placement] = []

    def _size(self, shape: PodShape) -> float:
        """The largest share of the cluster that the shape takes of any resource."""
        shares = [0.0]
        for name, amount in shape.requests:
            total = int(self._snapshot.allocatable[self._snapshot.resource_index(name)].sum())
            shares.append(amount / total if total else 1.0)
        return max(shares)

    def pack(self) -> tuple[Placement, ...]:
        """Largest first, each on the fullest node that takes it (best fit decreasing).

        Where fewer than all pods are needed, only the smallest are packed.
        """
        needed = len(self._pods) - self._spare
        chosen = self._pods
        if self._spare:
            chosen = self._pods[len(self._pods) - needed :]
        placed: list[Placement] = []
        for pod in chosen:
            for row in self._rows(pod):
                only = np.zeros(self._snapshot.capacity, np.bool_)
                only[row] = True
                placement = self._placer.place(pod, only)
                if placement is not None:
                    placed.append(placement)
                    break
            else:
                break
        return tuple(placed)

    def run(self) -> bool:
        for shape in self._shapes:
            self._placer.fit(shape).refresh()
        self._static = [self._placer.fit(shape).static.copy() for shape in self._shapes]
        return self._go(0, 0)

    def _go(self, index: int, skipped: int) -> bool:
        if index == len(self._pods):
            return True
        state = (index, skipped, tuple(sorted(repr(self._alike(r)) for r in self._touched)))
        if state in self._failed:
            return False
        pod = self._pods[index]
        tried: set[Hashable] = set()
        for row in self._rows(pod):
            alike = self._alike(row)
            if alike not in tried and self._try(pod, row, index, skipped):
                return True
            tried.add(alike)
        if skipped < self._spare and self._go(index + 1, skipped + 1):
            return True
        self._failed.add(state)
        return False

    def _try(self, pod: Pod, row: int, index: int, skipped: int) -> bool:
        self._steps -= 1
        if self._steps < 0:
            raise _OutOfBudgetError
        only = np.zeros(self._snapshot.capacity, np.bool_)
        only[row] = True
        mark = self._snapshot.checkpoint()
        placement = self._placer.place(pod, only)
        if placement is not None:
            self.placements.append(placement)
            self._touched[row] = self._touched.get(row, 0) + 1
            if self._go(index + 1, skipped):
                self._snapshot.keep(mark)
                return True
            self.placements.pop()
            self._touched[row] -= 1
            if not self._touched[row]:
                del self._touched[row]
        self._snapshot.rollback(mark)
        return False

    def _rows(self, pod: Pod) -> list[int]:
        """Feasible rows, those with the least free cpu and memory first."""
        total = self._placer.fit(pod.shape).refresh()
        mask = total >= 0
        if self._within is not None:
            mask &= self._within
        free = self._snapshot.allocatable - self._snapshot.requested
        rows = np.flatnonzero(mask)
        order = np.lexsort((rows, free[1][rows], free[0][rows]))
        return [int(row) for row in rows[order]]

    def _alike(self, row: int) -> Hashable:
        """Equal for rows that no pod of the gang can tell apart."""
        if self._distinct:
            return (row, self._touched.get(row, 0))
        free = self._snapshot.allocatable[:, row] - self._snapshot.requested[:, row]
        ports = tuple(sorted(p for p, users in self._snapshot.ports.items() if row in users))
        return (free.tobytes(), tuple(bool(mask[row]) for mask in self._static), ports)
