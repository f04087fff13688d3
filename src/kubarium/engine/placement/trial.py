"""Placements tried one after the other and taken back in reverse, and how much of that may be done.

Searching costs work, so each decision has a budget. It is counted in placements tried, not in time:
the same input gives the same answer on every machine. A search that runs out has proven nothing,
and its verdict says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubarium.engine.model import Pod
from kubarium.engine.placement.place import Placer
from kubarium.engine.plan import Placement
from kubarium.engine.snapshot import Mask

# Placements that the search for one gang or one composite may try: some tenths of a second.
SEARCH_BUDGET = 5_000


class OutOfBudgetError(Exception):
    """The search is given up undecided."""


@dataclass(slots=True)
class Budget:
    """The work left for one decision; ``tried`` are placements, whatever each of them cost."""

    limit: int = SEARCH_BUDGET
    spent: int = 0
    tried: int = 0

    def take(self, amount: int = 1) -> None:
        """Pay for placements to be tried; OutOfBudgetError when there is nothing left."""
        if self.spent + amount > self.limit:
            self.spent = self.limit
            raise OutOfBudgetError
        self.spent += amount
        self.tried += 1

    @property
    def is_spent(self) -> bool:
        return self.spent >= self.limit


class Trial:
    """A stack of placements that are in the placer's snapshot."""

    def __init__(self, placer: Placer) -> None:
        self.placer = placer
        self.snapshot = placer.snapshot
        self.placements: list[Placement] = []

    def __len__(self) -> int:
        return len(self.placements)

    def place(self, pod: Pod, within: Mask | None) -> bool:
        """Put the pod on its best node, on top of the stack; False if it fits nowhere."""
        return self._enter(self.placer.place(pod, within))

    def place_on(self, pod: Pod, row: int) -> bool:
        """Put the pod on the row's node, on top of the stack; False if it does not fit there."""
        return self._enter(self.placer.place_on(pod, row))

    def _enter(self, placement: Placement | None) -> bool:
        if placement is None:
            return False
        self.placements.append(placement)
        return True

    def back_to(self, mark: int) -> None:
        """Take back all placements above the first ``mark``."""
        while len(self.placements) > mark:
            placement = self.placements.pop()
            self.snapshot.displace(placement.pod.key)
            for claim, _ in placement.allocations:
                self.snapshot.deallocate(claim)

    def restore(self, placements: tuple[Placement, ...]) -> None:
        """Enter placements again that :meth:`back_to` took back."""
        for placement in placements:
            self.placer.apply(placement)
            self.placements.append(placement)
