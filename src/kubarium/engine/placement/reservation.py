"""A reservation for a gang that waits for room: nodes that running jobs will leave, kept for it.

Without one, a large gang starves: small pods take every gap as it appears. The reservation is EASY
backfilling (Lifka 1995) without known run times: only the first gang in the queue has one, its
pods count as placed on the chosen nodes for all that come after it, and whatever fits beside them
may still run. Only pods that end by themselves are expected to leave; if their room would not be
enough, nothing is reserved, since waiting would not help. A composite has one reservation for all
of its groups.
"""

from __future__ import annotations

from kubarium.engine.model import Pod, PodShape
from kubarium.engine.placement.fit import Fit
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.tree import place_item
from kubarium.engine.placement.victims import evict
from kubarium.engine.plan import QueueItem

Reservation = tuple[tuple[Pod, str], ...]


def reserve(placer: Placer, item: QueueItem) -> Reservation:
    """Pods of the gang on nodes where they will fit once finite pods have ended; () if never.

    Nodes with the least work still to end are taken first, and no more of them than needed. The
    snapshot is as before afterwards.
    """
    rows = _rows_by_work(placer)
    low, high = 0, len(rows)
    best = _with_rows_ended(placer, item, rows)
    if not best:
        return ()
    while high - low > 1:
        middle = (low + high) // 2
        found = _with_rows_ended(placer, item, rows[:middle])
        if found:
            high, best = middle, found
        else:
            low = middle
    return best


def suffices(placer: Placer, item: QueueItem, reservation: Reservation) -> bool:
    """Whether the gang fits once finite pods on these nodes have ended, as when it was made.

    Pods that stay may have come since, of a higher priority or past the scheduler.
    """
    rows = dict.fromkeys(placer.snapshot.rows[node] for _, node in reservation)
    return bool(_with_rows_ended(placer, item, list(rows)))


def may_be_used(placer: Placer, reservation: Reservation) -> bool:
    """Whether each node is there and would take its pods if only there were room."""
    rows, fits = placer.snapshot.rows, dict[PodShape, Fit]()
    for pod, node in reservation:
        fit = fits.get(pod.shape) or fits.setdefault(pod.shape, placer.fit(pod.shape))
        fit.refresh_static()
        if node not in rows or not fit.static[rows[node]]:
            return False
    return True


def _rows_by_work(placer: Placer) -> list[int]:
    """Rows with finite pods, those that hold the smallest share of their cpu and memory first."""
    snapshot = placer.snapshot
    found: list[tuple[float, int]] = []
    for row in snapshot.rows.values():
        finite = [pod for pod in snapshot.pods_on[row].values() if pod.finite]
        if finite:
            cpu = sum(pod.shape.nonzero[0] for pod in finite)
            memory = sum(pod.shape.nonzero[1] for pod in finite)
            share = cpu / max(1, snapshot.allocatable.item(0, row))
            share += memory / max(1, snapshot.allocatable.item(1, row))
            found.append((share, row))
    return [row for _, row in sorted(found)]


def _with_rows_ended(placer: Placer, item: QueueItem, rows: list[int]) -> Reservation:
    snapshot = placer.snapshot
    mark = snapshot.checkpoint()
    for row in rows:
        for pod in [p for p in snapshot.pods_on[row].values() if p.finite]:
            evict(snapshot, pod)
    decision = place_item(placer, item)
    snapshot.rollback(mark)
    return tuple((p.pod, p.node) for p in decision.placements)
