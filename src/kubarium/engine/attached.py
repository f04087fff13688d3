"""How many volumes of each CSI driver every node has attached, kept current row by row.

NodeVolumeLimits asks for counts only. A row is counted again when it has been touched: when a pod
came or went, when one of its pods' claims got its volume, when its limits or attachments changed.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from kubarium.engine.snapshot import Mask, Snapshot

Volume = tuple[str, str]  # CSI driver and handle
_Column = NDArray[np.int64]
_NONE = -1


class Attached:
    """Columns of limits and counts by driver, over the snapshot's rows."""

    def __init__(self) -> None:
        self._seen = -1
        self._rows = 0
        self._limits: dict[str, _Column] = {}
        self._counts: dict[str, _Column] = {}
        # What pods use, by row, and on which rows a volume is used.
        self._used: dict[int, set[Volume]] = {}
        self._where: dict[Volume, dict[int, None]] = {}

    def within_limits(self, snapshot: Snapshot, wanted: set[Volume]) -> Mask:
        """Rows that can attach all of ``wanted``; what a row's pods use already costs nothing."""
        self._refresh(snapshot)
        mask = np.ones(snapshot.capacity, np.bool_)
        for driver, number in Counter(driver for driver, _ in wanted).items():
            limits = self._limits.get(driver)
            if limits is None:
                continue
            more = np.full(snapshot.capacity, number, np.int64)
            for volume in wanted:
                if volume[0] == driver and volume in self._where:
                    more[list(self._where[volume])] -= 1
            # Upstream counts a volume again that is attached while no pod uses it.
            mask &= (limits == _NONE) | (more == 0) | (self._counts[driver] + more <= limits)
        return mask

    def on(self, snapshot: Snapshot, row: int, driver: str) -> tuple[int, int] | None:
        """(volumes attached, limit) of one row; None without a limit."""
        self._refresh(snapshot)
        limits = self._limits.get(driver)
        if limits is None or limits[row] == _NONE:
            return None
        return self._counts[driver].item(row), limits.item(row)

    def _refresh(self, snapshot: Snapshot) -> None:
        now = snapshot.touched_from + len(snapshot.touched)
        if self._rows != snapshot.capacity or self._seen < snapshot.touched_from:
            self._rows = snapshot.capacity
            for columns in (self._limits, self._counts, self._used, self._where):
                columns.clear()
            for row in snapshot.rows.values():
                self._count(snapshot, row)
        elif self._seen != now:
            for row in dict.fromkeys(snapshot.touched[self._seen - snapshot.touched_from :]):
                self._count(snapshot, row)
        self._seen = now

    def _count(self, snapshot: Snapshot, row: int) -> None:
        node = snapshot.nodes[row]
        name = node.name if node is not None else ""
        limits = snapshot.volume_limits.get(name, {})
        keys = dict.fromkeys(key for pod in snapshot.pods_on[row].values() for key in pod.volumes)
        claims = (snapshot.volumes.get(key) for key in keys)
        used = {c.attaches for c in claims if c is not None and c.attaches is not None}
        for pod in snapshot.pods_on[row].values():
            used |= {disk.attaches for disk in pod.disks if disk.attaches is not None}
        self._enter(row, used)
        by_driver = Counter(d for d, _ in used | snapshot.attachments.get(name, frozenset()))
        for driver in limits.keys() - self._limits.keys():
            self._limits[driver] = np.full(self._rows, _NONE, np.int64)
            self._counts[driver] = np.zeros(self._rows, np.int64)
        for driver, column in self._limits.items():
            column[row] = limits.get(driver, _NONE)
            self._counts[driver][row] = by_driver[driver]

    def _enter(self, row: int, used: set[Volume]) -> None:
        before = self._used.pop(row, set())
        for volume in before - used:
            del self._where[volume][row]
            if not self._where[volume]:
                del self._where[volume]
        for volume in used - before:
            self._where.setdefault(volume, {})[row] = None
        if used:
            self._used[row] = used
