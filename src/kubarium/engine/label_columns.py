"""Labels of nodes as columns of small numbers: one column for each key, one number for each value.

Nodes come and go, each with a hostname of its own. So a number that no node has any more is given
to the next new value: numbers stay below the number of rows, and selectors look only at values that
there are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.int32]
ABSENT = -1


class LabelColumns:
    """``columns`` are by key; ``values`` has, by key, the number of each value.

    Who keeps a number must look at ``Snapshot.epoch``: it may stand for another value later.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.columns: dict[str, Column] = {}
        self.values: dict[str, dict[str, int]] = {}
        # By key: how many nodes have the value of each number, and the numbers that none has.
        self._nodes: dict[str, list[int]] = {}
        self._unused: dict[str, list[int]] = {}

    def grow(self, rows: int) -> None:
        """Make room for more rows."""
        extra, self._rows = rows - self._rows, rows
        for key, column in self.columns.items():
            self.columns[key] = np.pad(column, (0, extra), constant_values=ABSENT)

    def numbers(self, key: str) -> int:
        """All numbers in a key's column are below this."""
        return len(self._nodes[key])

    def write(self, row: int, new: Mapping[str, str], old: Mapping[str, str]) -> None:
        """A node's labels are ``new``; they were ``old``."""
        for key, value in new.items():
            if old.get(key) != value:
                self._enter(row, key, value)
        for key, value in old.items():
            if new.get(key) != value:
                self._leave(key, value)
            if key not in new:
                self.columns[key][row] = ABSENT

    def _enter(self, row: int, key: str, value: str) -> None:
        column = self.columns.get(key)
        if column is None:
            column = self.columns[key] = np.full(self._rows, ABSENT, np.int32)
            self.values[key], self._nodes[key], self._unused[key] = {}, [], []
        values, nodes, unused = self.values[key], self._nodes[key], self._unused[key]
        number = values.get(value)
        if number is None:
            if not unused:
                unused.append(len(nodes))
                nodes.append(0)
            number = values[value] = unused.pop()
        nodes[number] += 1
        column[row] = number

    def _leave(self, key: str, value: str) -> None:
        values, nodes = self.values[key], self._nodes[key]
        number = values[value]
        nodes[number] -= 1
        if not nodes[number]:
            del values[value]
            self._unused[key].append(number)

    def check(self, labels: Mapping[int, Mapping[str, str]]) -> None:
        """Raise AssertionError unless the columns say what ``labels`` do, by row."""
        seen: dict[str, dict[str, int]] = {key: {} for key in self.columns}
        for row, own in labels.items():
            for key, value in own.items():
                assert self.columns[key][row] == self.values[key][value], f"row {row}: {key}"
                seen[key][value] = seen[key].get(value, 0) + 1
        for key, counts in seen.items():
            assert counts.keys() == self.values[key].keys(), f"{key}: values that no node has"
            assert (self.columns[key] >= 0).sum() == sum(counts.values()), f"{key}: rows without"
            for value, number in self.values[key].items():
                assert self._nodes[key][number] == counts[value], f"{key}={value}"
