"""Sets of IPv4 addresses: sorted, disjoint, non-adjacent ranges of numbers, ends included."""

from __future__ import annotations

from collections.abc import Iterable

Range = tuple[int, int]
Ranges = tuple[Range, ...]

EVERYWHERE: Ranges = ((0, 0xFFFFFFFF),)


def union(ranges: Iterable[Range]) -> Ranges:
    """All addresses of any of them."""
    found: list[Range] = []
    for first, last in sorted(ranges):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        else:
            found.append((first, last))
    return tuple(found)


def without(whole: Iterable[Range], cut: Iterable[Range]) -> Ranges:
    """The addresses of ``whole`` that are not in ``cut``."""
    found: list[Range] = []
    holes = union(cut)
    for first, last in union(whole):
        at = first
        for hole_first, hole_last in holes:
            if hole_last < at or hole_first > last:
                continue
            if hole_first > at:
                found.append((at, hole_first - 1))
            at = hole_last + 1
        if at <= last:
            found.append((at, last))
    return tuple(found)


def contains(ranges: Ranges, address: int) -> bool:
    """Whether ``address`` is in one of them."""
    return any(first <= address <= last for first, last in ranges)
