"""How many devices of a class each node has and how many are in use: columns for scores.

Where devices stand for an extended resource, NodeResourcesFit and BalancedAllocation count them as
upstream does (KEP-5004, resource_allocation.go): what a node can give is every device that the
class selects, taken is each that somebody holds, whole or in part. Taints do not matter.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kubarium.engine.devices.alike import sight_of
from kubarium.engine.devices.model import ClaimSpec, Request, RequestEntry, SelectorError
from kubarium.engine.placement.devices import KindBooks, NodeKinds
from kubarium.engine.snapshot import Snapshot

Column = NDArray[np.int64]

# Kinds of nodes whose counts are remembered.
MAX_KINDS = 100_000


class ClassCounts:
    """(devices, devices in use) of each row for any class, kept current."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._books = snapshot.shared(KindBooks)
        self._of: dict[str, _OfClass] = {}
        self._class_epoch = -1

    def of(self, device_class: str) -> tuple[Column, Column]:
        """As things are now; zeros for a class that is not there."""
        inventory = self._snapshot.inventory
        if self._class_epoch != inventory.class_epoch:
            self._of.clear()
            self._class_epoch = inventory.class_epoch
        known = self._of.get(device_class)
        if known is None:
            known = self._of[device_class] = _OfClass(self._snapshot, self._books, device_class)
        return known.refresh()


class _OfClass:
    def __init__(self, snapshot: Snapshot, books: KindBooks, name: str) -> None:
        self._snapshot = snapshot
        owner = snapshot.inventory.classes.get(name)
        self._selectors = owner.selectors if owner is not None else None
        spec = ClaimSpec((RequestEntry("", (Request("", name),)),))
        inventory = snapshot.inventory
        self._kinds: NodeKinds = books.under(
            sight_of([spec], inventory.classes, inventory.sights.sees)
        )
        self._seen = -1
        self._known: dict[int, tuple[int, int]] = {}
        self._columns = np.zeros((2, 0), np.int64)

    def refresh(self) -> tuple[Column, Column]:
        snapshot = self._snapshot
        names, now = snapshot.inventory.changes_since(max(self._seen, 0))
        size = snapshot.capacity
        if names is None or self._seen < 0 or self._columns.shape[1] != size:
            self._count_all()
            names = []
        for name in dict.fromkeys(names):
            row = snapshot.rows.get(name)
            if row is not None:
                self._columns[:, row] = self._count(row, self._kinds.one(row))
        self._seen = now
        return self._columns[0], self._columns[1]

    def _count_all(self) -> None:
        """Every row, each kind once."""
        kinds = self._kinds.of()
        found, first, inverse = np.unique(kinds, return_index=True, return_inverse=True)
        counts = [
            self._count(row, kind) for kind, row in zip(found.tolist(), first.tolist(), strict=True)
        ]
        self._columns = np.array(counts, np.int64).T[:, inverse]

    def _count(self, row: int, kind: int) -> tuple[int, int]:
        known = self._known.get(kind)
        if known is None:
            if len(self._known) >= MAX_KINDS:
                self._known.clear()
            known = self._known[kind] = self._counted(row)
        return known

    def _counted(self, row: int) -> tuple[int, int]:
        """A selector that fails counts nothing, as upstream."""
        node, inventory = self._snapshot.nodes[row], self._snapshot.inventory
        if node is None or self._selectors is None:
            return 0, 0
        total = used = 0
        try:
            for one in inventory.shelf(node.name, node.labels).candidates:
                if all(
                    inventory.selects(s or "", one.id.driver, one.device) for s in self._selectors
                ):
                    total += 1
                    used += inventory.ledger.in_use(one.id)
        except SelectorError:
            return 0, 0
        return total, used
