"""One pod shape against all nodes: where it fits and how good each place is, kept current.

After a placement only the rows that were touched are computed again; when labels, taints or nodes
change (``Snapshot.epoch``), everything is. Ten thousand pods of one shape thus cost one full pass
and ten thousand single rows.
"""

from __future__ import annotations

import numpy as np

from kubarium.engine.model import PodShape
from kubarium.engine.placement import filters, locality, scores
from kubarium.engine.placement.profile import DEFAULT, Profile
from kubarium.engine.snapshot import Mask, Snapshot

# Above this share of touched rows a full pass over the columns is cheaper.
_FULL_PASS_SHARE = 16


class Fit:
    """Feasibility (static filters, ports, resources) and resource and image score of each row."""

    def __init__(
        self,
        snapshot: Snapshot,
        shape: PodShape,
        profile: Profile = DEFAULT,
        counts: scores.Counts | None = None,
    ) -> None:
        """``counts`` gives the devices that stand for extended resources of the pod."""
        self._snapshot = snapshot
        scored = {*(name for name, _ in profile.strategy.resources), *profile.balanced}
        by_devices = any(name in scored for name, _, _ in shape.backed)
        self._counts = counts if by_devices else None
        self._devices_seen = -1
        self._profile = profile
        self._fits = profile.filters("NodeResourcesFit")
        self._ports = shape.ports if profile.filters("NodePorts") else ()
        self.shape = shape
        self._wants = scores.balanced(shape, profile)
        self._needs: list[tuple[int, int]] = []
        self._epoch = -1
        self._seen = 0
        self.static: Mask = np.zeros(0, np.bool_)
        # Score where feasible, else -1: one argmax finds the place.
        self.total: scores.Scores = np.zeros(0, np.int64)
        self._images: scores.Scores = np.zeros(0, np.int64)
        self._taints: scores.Scores | None = None
        self._preferred: scores.Scores | None = None

    def refresh(self) -> scores.Scores:
        """Bring all rows up to date; returns score where feasible, else -1. Do not change it."""
        self._update()
        return self._normalise()

    def takes(self, row: int) -> bool:
        """Whether the row is feasible: cheaper than :meth:`refresh` for one row."""
        self.refresh_static()
        return self._passes(row)

    def refresh_static(self) -> None:
        """Bring :attr:`static` up to date; what changes with pods may stay as it was."""
        if self._epoch != self._snapshot.epoch:
            self._update()

    def _update(self) -> None:
        snapshot = self._snapshot
        position = snapshot.touched_from + len(snapshot.touched)
        by_devices = self._rows_by_devices() if self._counts is not None else []
        if self._epoch != snapshot.epoch:
            self._static_pass()
            self._full_pass()
        elif self._seen < snapshot.touched_from or by_devices is None:
            self._full_pass()
        elif self._seen != position or by_devices:
            touched = snapshot.touched[self._seen - snapshot.touched_from :]
            rows = dict.fromkeys((*touched, *by_devices))
            if len(rows) * _FULL_PASS_SHARE > snapshot.capacity:
                self._full_pass()
            else:
                for row in rows:
                    self.total[row] = self._row(row)
        self._seen = position

    def _rows_by_devices(self) -> list[int] | None:
        """The rows whose devices changed since last asked; None: perhaps all."""
        snapshot = self._snapshot
        names, now = snapshot.inventory.changes_since(max(self._devices_seen, 0))
        fresh, self._devices_seen = self._devices_seen < 0, now
        if names is None or fresh:
            return None
        return [row for name in names if (row := snapshot.rows.get(name)) is not None]

    def _static_pass(self) -> None:
        snapshot, shape = self._snapshot, self.shape
        self._epoch = snapshot.epoch
        weights = self._profile.weights
        self.static = filters.static_mask(snapshot, shape, self._profile)
        self._images = scores.image_scores(snapshot, shape) * weights.ImageLocality
        if shape.data and weights.DataLocality:
            share = locality.data_scores(snapshot, shape)
            self._images = self._images + weights.DataLocality * share
        self._taints = scores.intolerable(snapshot, shape) if weights.TaintToleration else None
        self._preferred = (
            scores.preferred_weights(snapshot, shape, self._profile)
            if weights.NodeAffinity
            else None
        )
        self._needs = [
            (snapshot.resource_index(n), a)
            for n, a in shape.requests
            if a > 0 and not self._profile.ignores(n)
        ]

    def _full_pass(self) -> None:
        snapshot, shape = self._snapshot, self.shape
        mask = self.static & filters.fitting(snapshot, shape, self._profile)
        if self._ports:
            mask &= filters.ports_free(snapshot, self._ports)
        resources = scores.resource_scores(snapshot, shape, self._profile, counts=self._counts)
        self.total = resources + self._images
        self.total[~mask] = -1

    def _row(self, row: int) -> int:
        if not self._passes(row):
            return -1
        score = scores.resource_score(
            self._snapshot, self.shape, self._wants, row, self._profile, self._counts
        )
        return score + self._images.item(row)

    def _passes(self, row: int) -> bool:
        """Whether static filters, resources and ports let the pod onto the row as it is now."""
        snapshot = self._snapshot
        if not self.static.item(row):
            return False
        allocatable, requested = snapshot.allocatable, snapshot.requested
        if self._fits:
            if requested.item(3, row) >= allocatable.item(3, row):
                return False
            for index, amount in self._needs:
                if requested.item(index, row) + amount > allocatable.item(index, row):
                    return False
        return not self._ports or self._ports_free(row)

    def _ports_free(self, row: int) -> bool:
        for port in self._ports:
            taken = self._snapshot.ports.get((port.protocol, port.port), {}).get(row, ())
            if any(port.collides(other) for other in taken):
                return False
        return True

    @property
    def has_relative(self) -> bool:
        """Whether scores depend on the best feasible node: by taints and preferences."""
        return self._taints is not None or self._preferred is not None

    def _normalise(self) -> scores.Scores:
        """Add the scores that are relative to the best feasible node."""
        if not self.has_relative:
            return self.total
        return self.with_relative(self.total >= 0)

    def with_relative(self, feasible: Mask) -> scores.Scores:
        """Total over ``feasible`` rows, relative scores included; -1 elsewhere."""
        total = self.total.copy()
        weights = self._profile.weights
        if self._taints is not None:
            total += weights.TaintToleration * scores.normalised(
                self._taints, feasible, reverse=True
            )
        if self._preferred is not None:
            total += weights.NodeAffinity * scores.normalised(
                self._preferred, feasible, reverse=False
            )
        total[~feasible] = -1
        return total
