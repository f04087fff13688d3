"""Rows in the order of their nodes' names, which decides between nodes that are equally good."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


class NameOrder:
    """The place of each row's node among all names, kept current once anybody has asked for it.

    ``rows`` is the snapshot's own mapping of names to rows.
    """

    def __init__(self, rows: Mapping[str, int]) -> None:
        self._rows = rows
        self._names: list[str] = []
        self._ranks: NDArray[np.int64] | None = None
        self._is_of_rows = True  # whether the rows themselves are in the order of the names

    def insert(self, name: str, row: int, capacity: int) -> None:
        """A node came. ``capacity``: how many rows there are, with a node or without."""
        ranks = self._ranks
        if ranks is None or len(ranks) != capacity:
            self._ranks = None
            return
        rank = bisect_left(self._names, name)
        self._names.insert(rank, name)
        ranks[(ranks >= rank) & (ranks < capacity)] += 1
        ranks[row] = rank
        self._compare(ranks)

    def forget(self, name: str, row: int) -> None:
        """A node went."""
        ranks = self._ranks
        if ranks is None:
            return
        rank = bisect_left(self._names, name)
        del self._names[rank]
        ranks[row] = len(ranks)
        ranks[(ranks > rank) & (ranks < len(ranks))] -= 1
        self._compare(ranks)

    def best(self, scores: NDArray[np.int64]) -> int:
        """The row with the highest score; of equals the one whose node's name comes first."""
        best = int(scores.argmax())
        ranks = self._current(len(scores))
        if self._is_of_rows:
            return best
        ties = np.flatnonzero(scores == scores[best])
        return int(ties[ranks[ties].argmin()])

    def sorted(self, rows: NDArray[np.int64], capacity: int) -> list[int]:
        """These rows in the order of their nodes' names."""
        found: list[int] = rows[self._current(capacity)[rows].argsort()].tolist()
        return found

    def _current(self, capacity: int) -> NDArray[np.int64]:
        """The rank of each row; rows without a node come last."""
        if self._ranks is None:
            self._names = sorted(self._rows)
            self._ranks = np.full(capacity, capacity, np.int64)
            self._ranks[[self._rows[name] for name in self._names]] = np.arange(len(self._names))
            self._compare(self._ranks)
        return self._ranks

    def _compare(self, ranks: NDArray[np.int64]) -> None:
        self._is_of_rows = bool((ranks[1:] >= ranks[:-1]).all())
