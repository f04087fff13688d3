"""Networks broken on purpose: who no longer hears whom. Pure.

A cut has two sides. Packets between them are lost, in both directions, all or a share of them;
within a side nothing changes. Connections that are open when a cut is made are cut as well: unlike
a policy's, its victims notice nothing but silence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kubarium.engine.network.ranges import Ranges, contains, union, without


@dataclass(frozen=True, slots=True)
class Cut:
    """``members`` lose what they exchange with ``peers``; None: with everybody, also names and
    what is outside the cluster, but for the node that they are on. ``share``: of packets."""

    members: Ranges
    peers: Ranges | None
    share: float = 1.0


def cut_between(members: Iterable[int], peers: Iterable[int] | None, share: float = 1.0) -> Cut:
    """A cut by addresses; who is on both sides is a member."""
    side = union((a, a) for a in members)
    if peers is None:
        return Cut(side, None, share)
    return Cut(side, without(((a, a) for a in peers), side), share)


def separated(cuts: Iterable[Cut], one: int, other: int) -> bool:
    """Whether some cut lies between two addresses, whatever share it takes."""
    return any(_separates(cut, one, other) or _separates(cut, other, one) for cut in cuts)


def _separates(cut: Cut, member: int, peer: int) -> bool:
    if not contains(cut.members, member) or contains(cut.members, peer):
        return False
    return cut.peers is None or contains(cut.peers, peer)
