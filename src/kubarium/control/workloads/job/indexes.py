"""Sets of completion indexes, kept as sorted intervals: 100,000 of them stay cheap.

The text form is the API's: ``1,3-5,7`` (a run of two is written ``1,2``; upstream
``pkg/controller/job/indexed_job_utils.go``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IndexSet:
    """An immutable set of non-negative integers."""

    intervals: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def of(indexes: Iterable[int]) -> IndexSet:
        """
        >>> str(IndexSet.of([7, 1, 3, 4, 5, 3]))
        '1,3-5,7'
        """
        runs: list[tuple[int, int]] = []
        for index in sorted(indexes):
            if runs and index <= runs[-1][1] + 1:
                runs[-1] = (runs[-1][0], max(runs[-1][1], index))
            else:
                runs.append((index, index))
        return IndexSet(tuple(runs))

    @staticmethod
    def parse(text: str, completions: int) -> IndexSet:
        """The set that a status or policy holds, cut to [0, completions); bad parts are left out.

        >>> str(IndexSet.parse("0,2-9", 5))
        '0,2-4'
        """
        runs: list[tuple[int, int]] = []
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            if not first.isdecimal() or (dash and not last.isdecimal()):
                continue
            low, high = int(first), min(int(last) if dash else int(first), completions - 1)
            if low <= high:
                runs.append((low, high))
        return IndexSet(_merge(runs))

    def __or__(self, other: IndexSet) -> IndexSet:
        return IndexSet(_merge([*self.intervals, *other.intervals]))

    def __contains__(self, index: int) -> bool:
        return any(low <= index <= high for low, high in self.intervals)

    def __len__(self) -> int:
        return sum(high - low + 1 for low, high in self.intervals)

    def __iter__(self) -> Iterator[int]:
        for low, high in self.intervals:
            yield from range(low, high + 1)

    def __str__(self) -> str:
        return ",".join(_run(low, high) for low, high in self.intervals)

    def count_in(self, other: IndexSet) -> int:
        """How many indexes both have."""
        return sum(
            max(0, min(high, other_high) - max(low, other_low) + 1)
            for low, high in self.intervals
            for other_low, other_high in other.intervals
        )

    def first_missing(self, count: int, completions: int) -> list[int]:
        """The lowest ``count`` indexes below ``completions`` that are not in the set.

        >>> IndexSet.of([0, 2]).first_missing(3, 5)
        [1, 3, 4]
        """
        missing: list[int] = []
        next_index = 0
        for low, high in (*self.intervals, (completions, completions)):
            for index in range(next_index, min(low, completions)):
                if len(missing) == count:
                    return missing
                missing.append(index)
            next_index = high + 1
        return missing


def _merge(runs: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(runs):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return tuple(merged)


def _run(low: int, high: int) -> str:
    if low == high:
        return str(low)
    return f"{low},{high}" if high == low + 1 else f"{low}-{high}"
