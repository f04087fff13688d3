"""In which order the heads of the ClusterQueues are processed.

Source: Kueue ``scheduler.go`` classicalIterator and ``fair_sharing_iterator.go``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from kubarium.engine.queueing.assignment import Assignment
from kubarium.engine.queueing.fair import Share, dominant_share
from kubarium.engine.queueing.quota import QuotaNode
from kubarium.engine.queueing.snapshot import Options
from kubarium.engine.queueing.workload import Workload


class Contender(Protocol):
    """A nominated head."""

    @property
    def workload(self) -> Workload: ...

    @property
    def node(self) -> QuotaNode: ...

    @property
    def assignment(self) -> Assignment: ...


C = TypeVar("C", bound=Contender)


def in_order(entries: Sequence[C], options: Options) -> Iterator[C]:
    """Heads in processing order. With fair sharing each step sees the usage as it then stands."""
    if not options.fair_sharing:
        yield from classical_order(entries, options)
        return
    left = {id(entry.node): entry for entry in entries}
    while left:
        first = next(iter(left.values()))
        winner = _winner(first.node.root, left, options) if first.node.parent else first
        del left[id(winner.node)]
        yield winner


def classical_order(entries: Sequence[C], options: Options) -> list[C]:
    """Lower borrowing level first, then higher priority, then earlier queue time."""

    def key(entry: C) -> tuple[int, int, float]:
        workload = entry.workload
        priority = workload.priority if options.priority_sorting_within_cohort else 0
        return entry.assignment.borrowing, -priority, workload.queued_at

    return sorted(entries, key=key)


Shares = dict[tuple[int, int], Share]
"""By (cohort, queue): the share, with the queue's head added, of the cohort's child above it."""


def _winner(root: QuotaNode, left: dict[int, C], options: Options) -> C:
    """The head that survives every comparison on its way up to the root."""
    shares: Shares = {}
    for node in root.queues():
        entry = left.get(id(node))
        if entry is None:
            continue
        usage = entry.assignment.usage
        node.charge(usage)
        below = node
        for ancestor in node.path_to_root():
            shares[id(ancestor), id(node)] = dominant_share(below)
            below = ancestor
        node.discharge(usage)
    best = _best_below(root, left, shares, options)
    assert best is not None, "a tournament needs an entry"
    return best


def _best_below(
    cohort: QuotaNode, left: dict[int, C], shares: Shares, options: Options
) -> C | None:
    best: C | None = None
    for child in (*_cohorts(cohort), *_queues(cohort)):
        entry = left.get(id(child)) if child.is_queue else _best_below(child, left, shares, options)
        if entry is None:
            continue
        if best is None or _rank(entry, cohort, shares, options) < _rank(
            best, cohort, shares, options
        ):
            best = entry
    return best


def _cohorts(cohort: QuotaNode) -> Iterator[QuotaNode]:
    return (child for child in cohort.children if not child.is_queue)


def _queues(cohort: QuotaNode) -> Iterator[QuotaNode]:
    return (child for child in cohort.children if child.is_queue)


def _rank(
    entry: C, cohort: QuotaNode, shares: Shares, options: Options
) -> tuple[bool, Share, int, float]:
    """Not borrowing what is requested, then lower share, then priority, then time."""
    share = shares[id(cohort), id(entry.node)]
    workload = entry.workload
    borrows = options.prioritize_non_borrowing and share.borrows_any(entry.assignment.usage)
    priority = workload.priority if options.priority_sorting_within_cohort else 0
    return borrows, share, -priority, workload.queued_at
