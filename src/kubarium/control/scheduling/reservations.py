"""For which gang room is kept that running pods will leave, and since when gangs find none."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable

from kubarium.api.resource import Document
from kubarium.base.clock import Clock
from kubarium.control.scheduling.events import ItemKey
from kubarium.control.scheduling.queue import SchedulingQueue
from kubarium.control.scheduling.waiting import WaitingPods
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.reservation import Reservation, may_be_used, reserve, suffices
from kubarium.engine.plan import Decision, QueueItem
from kubarium.runtime.writes import find_condition
from kubarium.view.pods import seconds

_LOG = logging.getLogger("kubarium.scheduler")

# A gang that has found no room for this long gets a reservation.
RESERVE_AFTER_S = 60.0


class Reservations:
    """At most one at a time (EASY backfilling): of the first gang that qualifies.

    A gang of higher priority that qualifies takes its place; or else what is kept for the less
    important one would start it first.
    """

    def __init__(
        self,
        waiting: WaitingPods,
        queue: SchedulingQueue,
        clock: Clock,
        placer_of: Callable[[QueueItem], Placer],
        made: Callable[[ItemKey, Reservation], None],
        ended: Callable[[Reservation], None],
    ) -> None:
        """``made`` is told of each new reservation, ``ended`` of each that is no more."""
        self._waiting = waiting
        self._queue = queue
        self._clock = clock
        self._placer_of = placer_of
        self._made = made
        self._ended = ended
        self._placer: Placer | None = None  # of the profile of the item that holds it
        self.held: tuple[ItemKey, Reservation] | None = None
        self.failing_since: dict[ItemKey, float] = {}

    def places(self) -> Reservation:
        """What the first large gang waits for; none once it is placed or gone."""
        if self.held is None or self._placer is None:
            return ()
        key, reservation = self.held
        if key not in self._queue:
            self.failing_since.pop(key, None)
        elif all(self._waiting.is_undecided(pod.key) for pod, _ in reservation) and may_be_used(
            self._placer, reservation
        ):
            return reservation
        self.drop(key)  # if it fails once more, it gets another
        return ()

    def drop(self, key: ItemKey) -> None:
        """No room is kept for the item any more."""
        if self.held is not None and self.held[0] == key:
            _, reservation = self.held
            self.held = None
            self._ended(reservation)

    def forget_gone(self) -> None:
        """Items that wait no longer have not been failing either."""
        for gone in [item for item in self.failing_since if item not in self._queue]:
            del self.failing_since[gone]

    def consider(self, key: ItemKey, decision: Decision) -> None:
        """Reserve for a gang that has long found no room, so that small pods cannot starve it."""
        if decision.placements or decision.gang_verdict is None or decision.gang_verdict.waiting:
            self.failing_since.pop(key, None)
            return
        now = self._clock.monotonic()
        since = self.failing_since.setdefault(key, now)
        if decision.preemption is not None:
            self.drop(key)  # room is being made, for which it was not to wait
        elif now - since >= RESERVE_AFTER_S:
            self._reserve(key, decision.item)

    def renew(self, items: Iterable[tuple[ItemKey, QueueItem]]) -> None:
        """What a scheduler before this one had reserved, before others are decided.

        It is not written anywhere; but since when a gang waits is, and it gets what it would have
        got. The first of ``items`` comes first.
        """
        now = self._clock.monotonic()
        for key, item in items:
            if not key.gang or any(pod.nominated_node for pod in item.pods):
                continue
            told = map(_refused_at, self._waiting.documents_of(key))
            waited_s = self._clock.now() - max(told)
            if waited_s > 0:
                self.failing_since[key] = now - waited_s
            if waited_s >= RESERVE_AFTER_S:
                self._reserve(key, item)

    def _reserve(self, key: ItemKey, item: QueueItem) -> None:
        """Reserve for the item if nothing is reserved, or nothing that is of use to it."""
        held = self.held
        own = held is not None and held[0] == key
        if held is not None and not own and _priority(held[1]) >= item.pods[0].priority:
            return
        placer = self._placer_of(item)
        try:
            if held is not None and own and suffices(placer, item, held[1]):
                return
            found = reserve(placer, item)
        except Exception:  # it waits on without one
            placer.snapshot.abandon(0)
            _LOG.exception("%s: no room can be reserved", "/".join(key.key))
            return
        if held is not None and (own or found):
            self.drop(held[0])
        if found:
            self.held, self._placer = (key, found), placer
            self._made(key, found)


def _priority(reservation: Reservation) -> int:
    return reservation[0][0].priority


def _refused_at(document: Document) -> float:
    """Since when the pod says that it has no place, in seconds since the epoch; else never."""
    told = find_condition(document, "PodScheduled") or {}
    refused = told.get("status") == "False"
    return seconds(told.get("lastTransitionTime"), math.inf) if refused else math.inf
