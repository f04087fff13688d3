"""What one kind of preemptor would evict from each node, remembered until the node changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from kubarium.engine.model import Pod, PodShape
from kubarium.engine.placement.victims import Units
from kubarium.engine.snapshot import Snapshot


class Eviction(Protocol):
    """The victims on one node, and how the node compares with others (smaller is better)."""

    @property
    def rank(self) -> tuple[object, ...]: ...

    @property
    def victims(self) -> tuple[Pod, ...]: ...

    @property
    def broken(self) -> bool: ...


Evict = Callable[[Snapshot, PodShape, Units, int], Eviction | None]


class Evictions:
    """Answers of ``evict`` by row for one shape and priority."""

    def __init__(self, snapshot: Snapshot, shape: PodShape, priority: int, evict: Evict) -> None:
        self._snapshot = snapshot
        self._shape = shape
        self._priority = priority
        self._units = Units(snapshot, priority)
        self._evict = evict
        self._known: dict[int, Eviction | None] = {}
        self._seen = 0
        self._rules = (-1, -1, -1)

    def refresh(self) -> Evictions:
        """Forget the rows that changed, and those of groups of which pods changed elsewhere.

        All of them if budgets or groups are others.
        """
        snapshot = self._snapshot
        rules = (snapshot.budget_epoch, snapshot.gangs.epoch, snapshot.composites.epoch)
        if self._rules != rules or self._seen < snapshot.touched_from:
            self._known.clear()
            self._units = Units(snapshot, self._priority)
            self._rules = rules
        else:
            self._forget(snapshot.touched[self._seen - snapshot.touched_from :])
        self._seen = snapshot.touched_from + len(snapshot.touched)
        return self

    def _forget(self, rows: Iterable[int]) -> None:
        changed = set(rows)
        for row in changed | self._units.forget(changed):
            self._known.pop(row, None)

    def best(self, rows: list[int]) -> tuple[int, Eviction] | None:
        """The row with the smallest rank, the first of equals; None if no row will do."""
        known = self._known
        while True:
            found: tuple[tuple[object, ...], int] | None = None
            for row in rows:
                eviction = known[row] if row in known else self._on(row)
                if eviction is not None and (found is None or eviction.rank < found[0]):
                    found = (eviction.rank, row)
            if found is None:
                return None
            best = known[found[1]]
            # A pod's start changes its rank without touching a column.
            if best is not None and all(self._snapshot.placed(v.key) is v for v in best.victims):
                return found[1], best
            self._forget((found[1],))

    def _on(self, row: int) -> Eviction | None:
        found = self._known[row] = self._evict(self._snapshot, self._shape, self._units, row)
        return found
