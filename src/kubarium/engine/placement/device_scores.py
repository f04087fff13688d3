"""DynamicResources' score of nodes by their devices: what is open is filled before more is opened.

Pack gives a node whose devices are all free at most 60 points, and 40 more once one is taken; the
60 are for how few are free, measured by the node that has most. So a node of eight GPUs stays whole
while others have a place, and of those the one with the fewest left is taken. The same is asked of
each domain (NVLink, rack), which counts one part in five: it decides where a whole node is opened.
Spread gives points for what is free. Upstream has no such score (enhancements#4970).

Columns are kept current row by row; nodes of one kind have one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kubarium.engine.devices.model import ClaimSpec
from kubarium.engine.devices.occupancy import EMPTY, Occupancy, Units
from kubarium.engine.devices.preference import PACK, DevicePreference
from kubarium.engine.placement.scores import MAX_SCORE
from kubarium.engine.snapshot import Snapshot

_OPENED, _FILLED = 40, 60
_NODE_PARTS = 4
# Kinds of nodes whose occupancy is remembered.
_MAX_KINDS = 100_000

Column = NDArray[np.float64]


class DevicePacking:
    """The points of each row for one list of claim specs."""

    def __init__(
        self,
        snapshot: Snapshot,
        claims: Sequence[ClaimSpec],
        preference: DevicePreference,
        most: int = MAX_SCORE,
    ) -> None:
        """``most`` is the number of points of the best node."""
        self._snapshot = snapshot
        self._claims = tuple(claims)
        self._scale = most / MAX_SCORE
        self._packs = preference.node_strategy == PACK
        self._keys = preference.domains
        self._epoch = -1
        self._units: dict[str, Units] = {}
        self._of_kind: dict[int, Occupancy] = {}
        self._free: Column = np.zeros(0)
        self._total: Column = np.zeros(0)
        self._most = 1.0
        self._domains: list[_Domains] = []
        self.points: NDArray[np.int64] = np.zeros(0, np.int64)

    def forget(self) -> None:
        """Classes changed: other devices may count."""
        self._units.clear()
        self._of_kind.clear()
        self._epoch = -1

    def refresh(
        self,
        names: Iterable[str] | None,
        kind: Callable[[int], int],
        kinds: Callable[[], NDArray[np.int64]],
    ) -> None:
        """Bring the points up to date: ``names`` are the nodes whose devices changed, None is all.

        ``kind`` says that of one row; ``kinds`` of every row, which is asked for only where that
        many are wanted.
        """
        snapshot = self._snapshot
        if names is not None and self._epoch == snapshot.epoch:
            rows = [row for name in names if (row := snapshot.rows.get(name)) is not None]
            if all(self._one(row, kind(row)) for row in rows):
                return
        self._epoch = snapshot.epoch
        self._all(kinds())

    def _all(self, kinds: NDArray[np.int64]) -> None:
        for name in [name for name in self._units if name not in self._snapshot.rows]:
            del self._units[name]
        found, first, inverse = np.unique(kinds, return_index=True, return_inverse=True)
        known = [
            self._occupancy(kind, row) if kind >= 0 else EMPTY
            for kind, row in zip(found.tolist(), first.tolist(), strict=True)
        ]
        self._free = np.array([o.free for o in known])[inverse]
        self._total = np.array([o.units for o in known])[inverse]
        self._most = max(float(self._total.max(initial=0)), 1.0)
        self._domains = [
            domains
            for key in self._keys
            if (domains := _Domains.of(self._snapshot, key, self._free, self._total)) is not None
        ]
        self.points = np.zeros(len(kinds), np.int64)
        self._score(np.flatnonzero(self._total > 0))

    def _one(self, row: int, kind: int) -> bool:
        """False if devices came or went, since sums and the largest node may be others then."""
        now = self._occupancy(kind, row)
        if now.units != self._total.item(row):
            return False
        more = now.free - self._free.item(row)
        if not more:
            return True
        self._free[row] = now.free
        if not self._domains:
            self.points[row] = self._points_of(now)
            return True
        rows = [row]
        for domains in self._domains:
            rows.extend(domains.add(row, more))
        self._score(np.array(rows, np.int64))
        return True

    def _points_of(self, now: Occupancy) -> int:
        if not now.units:
            return 0
        if not self._packs:
            return int(100 * now.free / self._most * self._scale)
        points = _FILLED * (1 - now.free / self._most)
        return int((points if now.is_untouched else points + _OPENED) * self._scale)

    def _score(self, rows: NDArray[np.int64]) -> None:
        if not len(rows):
            return
        points = _NODE_PARTS * self._points(self._free[rows], self._total[rows], self._most)
        parts = _NODE_PARTS
        for domains in self._domains:
            points += self._points(*domains.sums(rows), domains.most)
            parts += 1
        self.points[rows] = (points / parts * self._scale).astype(np.int64)

    def _points(self, free: Column, total: Column, most: float) -> Column:
        if not self._packs:
            return 100 * free / most
        return _FILLED * (1 - free / most) + np.where(free < total, _OPENED, 0)

    def _occupancy(self, kind: int, row: int) -> Occupancy:
        known = self._of_kind.get(kind)
        if known is None:
            node = self._snapshot.nodes[row]
            if node is None:
                return EMPTY
            if len(self._of_kind) > _MAX_KINDS:
                self._of_kind.clear()
                self._units.clear()
            units = self._units_of(node.name, node.labels)
            known = self._of_kind[kind] = self._snapshot.inventory.occupancy(units)
        return known

    def _units_of(self, name: str, labels: Mapping[str, str]) -> Units:
        inventory = self._snapshot.inventory
        known = self._units.get(name)
        if known is None or known.shelf is not inventory.shelf(name, labels):
            known = self._units[name] = inventory.units(name, labels, self._claims)
        return known


class _Domains:
    """The sums over the rows that share one value of a label."""

    def __init__(self, codes: NDArray[np.int64], free: Column, total: Column) -> None:
        """``codes`` has the number of each row's value, -1 without one."""
        self._codes = codes
        inside = codes >= 0
        count = int(codes.max()) + 1
        self._free = np.bincount(codes[inside], free[inside], count)
        self._total = np.bincount(codes[inside], total[inside], count)
        self._members: dict[int, list[int]] = {}
        for row in np.flatnonzero(inside & (total > 0)).tolist():
            self._members.setdefault(codes.item(row), []).append(row)
        self.most = max(float(self._total.max()), 1.0)

    @classmethod
    def of(cls, snapshot: Snapshot, key: str, free: Column, total: Column) -> _Domains | None:
        """None where no node with devices that count has the label."""
        column = snapshot.labels.get(key)
        if column is None:
            return None
        codes = np.where(snapshot.alive & (total > 0), column, -1).astype(np.int64)
        return cls(codes, free, total) if (codes >= 0).any() else None

    def add(self, row: int, more: float) -> list[int]:
        """The row has so much more free; returns the rows of its domain."""
        code = self._codes.item(row)
        if code < 0 or not more:
            return []
        self._free[code] += more
        return self._members.get(code, [])

    def sums(self, rows: NDArray[np.int64]) -> tuple[Column, Column]:
        """(free, units) of each row's domain; without one it counts as the largest, all free."""
        codes = self._codes[rows]
        outside = codes < 0
        free = np.where(outside, self.most, self._free[codes])
        return free, np.where(outside, self.most, self._total[codes])
