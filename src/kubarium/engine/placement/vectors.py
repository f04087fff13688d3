"""Quick packings of pods that ask for several resources, one of which often fits where others fail.

A pod that wants CPU alone should not fill nodes whose GPUs others need CPU beside. So amounts are
weighted by how tight their resource is, and two vectors are compared: what a pod asks for and what
a node has left. Most ways go pod by pod, the largest first, each to the node whose free amounts are
most nearly in the pod's proportions; two go node by node and fill each with what suits it best. All
are greedy: they prove nothing. (Panigrahy, Talwar, Uyeda and Wieder, "Heuristics for Vector Bin
Packing", 2011: the dot-product and the norm-based greedy, item by item and bin by bin.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from kubarium.engine.model import Pod
from kubarium.engine.placement.place import Placer
from kubarium.engine.snapshot import PODS, Mask

_Amounts = NDArray[np.int64]
_Weights = NDArray[np.float64]
_Order = NDArray[np.int64]

# Each resource in turn is taken for so much less or more important than it is tight.
_EMPHASES = (0.4, 2.5)

# What stands for "does not fit" where a score is never negative.
_NONE = -1.0


class VectorPacker:
    """Classes of pods against nodes, where only static filters and free amounts count."""

    def __init__(
        self, placer: Placer, classes: Sequence[Sequence[Pod]], within: Mask | None
    ) -> None:
        """The pods of a class can change places; ``within`` limits the nodes."""
        snapshot, profile = placer.snapshot, placer.profile
        masks = [placer.able(members[0].shape, within) for members in classes]
        able = np.flatnonzero(np.logical_or.reduce(masks))
        self._rows = np.array(snapshot.by_name(able), np.int64)  # of equals the first by name
        self._able = np.array([mask[self._rows] for mask in masks])
        self._left = np.array([len(members) for members in classes], np.int64)
        wanted: dict[str, list[int]] = {}
        for number, members in enumerate(classes) if profile.filters("NodeResourcesFit") else ():
            for name, amount in ((PODS, 1), *members[0].shape.requests):
                if amount > 0 and not profile.ignores(name):
                    wanted.setdefault(name, [0] * len(classes))[number] += amount
        columns = [snapshot.resource_index(name) for name in wanted]
        free = (
            snapshot.allocatable[columns][:, self._rows]
            - snapshot.requested[columns][:, self._rows]
        )
        self._free: _Amounts = np.ascontiguousarray(free.T)
        self._needs: _Amounts = (
            np.array(list(wanted.values()), np.int64).reshape(-1, len(classes)).T
        )
        demand = self._left @ self._needs
        # As numbers of any size: amounts without limits exceed 64 bits together.
        total = np.maximum(np.maximum(self._free, 0).sum(0, dtype=np.float64), 1.0)
        self._tightness: _Weights = demand / total
        # In shares of all that is free, each as important as its resource is tight.
        self._weigh(self._tightness / total)

    def _weigh(self, weights: _Weights) -> None:
        self._weights = weights
        self._weighted: _Weights = self._needs * weights

    def ways(self) -> Iterator[Callable[[], list[tuple[int, int]] | None]]:
        """Each gives (class, row) for every pod in its order, or None if they do not all fit."""
        if not len(self._rows):
            return
        norm = (self._weighted**2).sum(1)
        largest = np.argsort(-norm, kind="stable")
        by_tightness = np.argsort(self._tightness, kind="stable")
        tightest = np.lexsort([-self._needs[:, column] for column in by_tightness])
        size = (np.maximum(self._free, 0) * self._weights).sum(1)
        yield lambda: self._by_pod(largest)
        yield lambda: self._by_node(np.argsort(-size, kind="stable"), self._least_left)
        yield lambda: self._by_pod(tightest)
        yield lambda: self._by_node(np.argsort(size, kind="stable"), self._most_alike)
        weights = self._weights
        for factor in _EMPHASES:
            for column in range(len(weights)):
                changed = weights.copy()
                changed[column] *= factor
                self._weigh(changed)
                yield lambda: self._by_pod(tightest)
        self._weigh(weights)

    # Pod by pod

    def _by_pod(self, order: _Order) -> list[tuple[int, int]] | None:
        """Class by class, each pod to the node with the most similar free amounts."""
        free, found = self._free.copy(), []
        for number in order.tolist():
            need = self._needs[number]
            likeness = self._likeness(free, number)
            for _ in range(self._left.item(number)):
                at = int(likeness.argmax())
                if likeness.item(at) == _NONE:
                    return None
                free[at] -= need
                found.append((number, self._rows.item(at)))
                likeness[at] = self._likeness_of(free[at].tolist(), number)
        return found

    def _likeness(self, free: _Amounts, number: int) -> _Weights:
        """The cosine of the class's amounts and each node's; ``_NONE`` where it does not fit."""
        wanted = np.flatnonzero(self._needs[number])
        fits = (free[:, wanted] >= self._needs[number, wanted]).all(1) & self._able[number]
        shares = np.maximum(free, 0) * self._weights
        product = (shares * self._weighted[number]).sum(1)
        length = np.sqrt((shares**2).sum(1))
        return np.where(fits, product / np.where(length > 0, length, 1.0), _NONE)

    def _likeness_of(self, free: list[int], number: int) -> float:
        """:meth:`_likeness` of one node that may have the class's pods."""
        product = square = 0.0
        needs, weighted = self._needs[number].tolist(), self._weighted[number].tolist()
        for left, need, weight, own in zip(
            free, needs, self._weights.tolist(), weighted, strict=True
        ):
            if need and left < need:
                return _NONE
            share = max(left, 0) * weight
            product += share * own
            square += share * share
        return product / sqrt(square) if square else 0.0

    # Node by node

    def _by_node(
        self, order: _Order, suits: Callable[[_Amounts], _Weights]
    ) -> list[tuple[int, int]] | None:
        """Each node gets the pod that suits it best, and so on until it takes none."""
        left, found = self._left.copy(), []
        waiting = int(left.sum())
        for at in order.tolist():
            free = self._free[at].copy()
            able = self._able[:, at] & (left > 0)
            while True:
                fits = able & ((self._needs <= free) | (self._needs == 0)).all(1)
                if not fits.any():
                    break
                number = int(np.where(fits, suits(free), -np.inf).argmax())
                free -= self._needs[number]
                found.append((number, self._rows.item(at)))
                left[number] -= 1
                able[number] = left.item(number) > 0
                waiting -= 1
                if not waiting:
                    return found
        return None

    def _least_left(self, free: _Amounts) -> _Weights:
        """Best: what leaves the least of the node, as the square of its length."""
        rest: _Weights = (free - self._needs) * self._weights
        square: _Weights = (rest**2).sum(1)
        return -square

    def _most_alike(self, free: _Amounts) -> _Weights:
        """Best: what asks for amounts in the proportions of what the node has left."""
        length = np.sqrt((self._weighted**2).sum(1))
        product: _Weights = (self._weighted * (np.maximum(free, 0) * self._weights)).sum(1)
        alike: _Weights = product / np.where(length > 0, length, 1.0)
        return alike
