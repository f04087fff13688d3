"""What waits to be scheduled: ready, in back-off, or unschedulable until something changes.

Source: kube-scheduler's scheduling queue. An item is a pod or a gang. Back-off is 1 s, doubling to
10 s. An unschedulable item is tried again when something happens that could help it, and after five
minutes in any case. Each item says which events could help it, so that an event costs only those
items that it concerns.

As upstream, when nothing else is ready items are tried ahead of their back-off's end, unless it
was an error that sent them there (:mod:`ahead`). If that is in vain it costs an item nothing: its
back-off neither grows nor begins anew.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import Enum

from kubarium.control.scheduling.ahead import Ahead
from kubarium.control.scheduling.events import Event, ItemKey

BACKOFF_START_S = 1.0
BACKOFF_MAX_S = 10.0
FLUSH_AFTER_S = 300.0
# Beyond these any back-off is at its maximum.
MAX_DOUBLINGS = 32
_NEVER = -1.0


class _State(Enum):
    READY = 1
    BACKOFF = 2
    UNSCHEDULABLE = 3
    DECIDING = 4


@dataclass(slots=True)
class _Item:
    state: _State
    due: float = 0.0
    # How often it found no place, how often in a row something failed, and when the last time was.
    rejections: int = 0
    failures: int = 0
    tried_at: float = 0.0
    helped_by: frozenset[Event] = frozenset()
    kind: Hashable = None
    # An event that came while the item was being decided may not have been seen by the decision:
    # the number of the last one when it was taken, and whether the item itself has changed since.
    events_seen: int = 0
    moved: bool = False
    ahead: bool = False  # tried before its back-off has ended


@dataclass(slots=True)
class SchedulingQueue:
    """Keys only: what an item is made of is looked up when its turn comes."""

    backoff_start_s: float = BACKOFF_START_S
    backoff_max_s: float = BACKOFF_MAX_S
    ahead: Ahead = field(default_factory=Ahead)
    _items: dict[ItemKey, _Item] = field(default_factory=dict)
    _ready: dict[ItemKey, None] = field(default_factory=dict)
    _unschedulable: dict[Event, dict[Hashable, dict[ItemKey, None]]] = field(
        default_factory=lambda: {event: {} for event in Event}
    )
    _timers: list[tuple[float, int, ItemKey]] = field(default_factory=list)
    _events: int = 0
    _last: dict[Event, int] = field(default_factory=lambda: dict.fromkeys(Event, 0))
    _sequence: int = 0

    def __len__(self) -> int:
        return len(self._items)

    def has_listeners(self, event: Event) -> bool:
        """Whether any item was rejected for something that the event could cure."""
        return bool(self._unschedulable[event])

    def listens(self, key: ItemKey, event: Event) -> bool:
        """Whether the item was rejected for something that the event could cure."""
        item = self._items.get(key)
        return item is not None and event in item.helped_by

    def __contains__(self, key: object) -> bool:
        return key in self._items

    def add(self, key: ItemKey) -> None:
        """A new item, or one that got something which deserves another try at once."""
        item = self._items.get(key)
        if item is None:
            self._items[key] = _Item(_State.READY)
            self._ready[key] = None
        elif item.state is _State.DECIDING:
            item.moved = True
        elif item.state is _State.UNSCHEDULABLE:
            self._wake(key, item, now=None)

    def changed(self, key: ItemKey, now: float) -> None:
        """The item itself changed: it is ready after its back-off, however often it changes."""
        if key in self._items and self._items[key].state is _State.UNSCHEDULABLE:
            self.wake(key, now)
        else:
            self.add(key)

    def remove(self, key: ItemKey) -> None:
        """The item is placed or gone."""
        item = self._items.pop(key, None)
        if item is not None:
            self._ready.pop(key, None)
            self.ahead.leave(key, item.kind)
            self._unlist(key, item)

    def has_ready(self, now: float) -> bool:
        """Whether something can be decided now."""
        self._run_timers(now)
        return bool(self._ready) or bool(self.ahead.choose(now))

    def next_due(self) -> float | None:
        """When there is something to take if nothing happens, in the clock's monotonic seconds."""
        ahead = self.ahead.next_due()
        if not self._timers:
            return ahead
        return self._timers[0][0] if ahead is None else min(ahead, self._timers[0][0])

    def take(self, now: float) -> list[ItemKey]:
        """All ready items; if there are none, some whose back-off has not ended yet.

        Each must come back through remove, fail, retry or hold.
        """
        self._run_timers(now)
        taken, ahead = list(self._ready), False
        if not taken:
            taken, ahead = self.ahead.choose(now), True
        self._ready.clear()
        for key in taken:
            item = self._items[key]
            if ahead:
                self.ahead.leave(key, item.kind)
                item.due = _NEVER  # the end of its back-off is nothing to it any more
            item.state, item.ahead = _State.DECIDING, ahead
            item.events_seen = self._events
            item.moved = False
        return taken

    def fail(
        self, key: ItemKey, helped_by: frozenset[Event], now: float, kind: Hashable = None
    ) -> None:
        """The item found no place: wait for an event that helps, or for the flush.

        Items of one ``kind`` are alike: what a node could do for one it could for all of them.
        """
        item = self._items.get(key)
        if item is None:
            return
        self._unlist(key, item)
        item.state = _State.UNSCHEDULABLE
        if item.ahead:
            self.ahead.in_vain(key, item.kind, helped_by, now)
        else:
            item.rejections, item.failures, item.tried_at = item.rejections + 1, 0, now
        item.helped_by = helped_by
        item.kind = key if kind is None else (kind, helped_by)
        for event in helped_by:
            self._unschedulable[event].setdefault(item.kind, {})[key] = None
        if self._has_moved(item):
            self._wake(key, item, now)
        else:
            self._set_timer(now + FLUSH_AFTER_S, key, item)

    def wake(self, key: ItemKey, now: float) -> None:
        """Something happened that helps this item alone: it is ready after its back-off."""
        item = self._items.get(key)
        if item is not None and item.state is _State.UNSCHEDULABLE:
            self._wake(key, item, now)

    def retry(self, key: ItemKey, now: float) -> None:
        """The attempt failed for a reason that may pass (a conflict): back off."""
        item = self._items.get(key)
        if item is not None:
            item.failures, item.tried_at = item.failures + 1, now
            self._unlist(key, item)
            self._back_off(key, item, now)

    def hold(self, key: ItemKey) -> None:
        """The item is not complete yet (claims or members are missing): until add is called."""
        item = self._items.get(key)
        if item is None:
            return
        item.state = _State.UNSCHEDULABLE
        item.helped_by = frozenset()
        if self._has_moved(item):
            self._wake(key, item, now=None)

    def _has_moved(self, item: _Item) -> bool:
        """Whether something that helps it happened since the item was taken to be decided."""
        return item.moved or any(self._last[event] > item.events_seen for event in item.helped_by)

    def happened(
        self,
        event: Event,
        now: float,
        helps: Callable[[ItemKey], bool] | None = None,
        *,
        alike: bool = False,
    ) -> None:
        """Wake the items that the event could help; ``helps`` looks closer at each of them.

        If ``alike``, it looks at one of each kind.
        """
        for group in list(self._unschedulable[event].values()):
            keys = list(group)
            if helps is not None and alike:
                keys = keys if helps(keys[0]) else []
            elif helps is not None:
                keys = [key for key in keys if helps(key)]
            for key in keys:
                self._wake(key, self._items[key], now)
        self.ahead.happened(event)
        self._events += 1
        self._last[event] = self._events

    def _wake(self, key: ItemKey, item: _Item, now: float | None) -> None:
        self._unlist(key, item)
        if now is not None:
            self._back_off(key, item, now)
        else:
            self._make_ready(key, item)

    def _make_ready(self, key: ItemKey, item: _Item) -> None:
        self.ahead.leave(key, item.kind)
        item.state = _State.READY
        self._ready[key] = None

    def _back_off(self, key: ItemKey, item: _Item, now: float) -> None:
        """Back-off counts from the last attempt, so a long wait has already served it.

        Upstream too lets failures count by themselves: who has long waited for room is not to wait
        as long for a conflict.
        """
        times = item.failures or item.rejections
        doublings = min(max(times - 1, 0), MAX_DOUBLINGS)
        due = item.tried_at + min(self.backoff_start_s * 2**doublings, self.backoff_max_s)
        if not times or due <= now:
            self._make_ready(key, item)
            return
        item.state = _State.BACKOFF
        self._set_timer(due, key, item)
        if not item.failures:
            self.ahead.enter(key, item.kind)

    def _unlist(self, key: ItemKey, item: _Item) -> None:
        for event in item.helped_by:
            alike = self._unschedulable[event][item.kind]
            alike.pop(key, None)
            if not alike:
                del self._unschedulable[event][item.kind]
        item.helped_by = frozenset()

    def _set_timer(self, due: float, key: ItemKey, item: _Item) -> None:
        item.due = due
        self._sequence += 1
        heapq.heappush(self._timers, (due, self._sequence, key))

    def _run_timers(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            due, _, key = heapq.heappop(self._timers)
            item = self._items.get(key)
            if item is None or item.due != due:
                continue  # the item is gone or has a later timer
            if item.state in (_State.BACKOFF, _State.UNSCHEDULABLE):
                self._wake(key, item, now=None)
