"""Tries ahead of time: items in back-off that are tried because nothing else is ready.

Upstream takes one pod after the other out of its back-off while its active queue is empty
(``SchedulerPopFromBackoffQ``); it has a process to itself for that. Here the time belongs to the
API and the nodes as well, so tries that may be in vain are rationed twice. Of items that are alike
one is tried, the next one if that found a place, and none after one that did not until something
happens that could help them. And only so many a second may be in vain, whatever happens.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from kubarium.control.scheduling.events import Event, ItemKey

# Tries that may be in vain: so many at once, and so many more every second. A group costs several.
AT_ONCE = 50.0
PER_S = 50.0
COST_OF_GROUP = 10.0
_ROUNDING = 1e-9  # of what is spent, so that what is due by ``next_due`` is chosen


@dataclass(slots=True)
class Ahead:
    """Which items may be tried next. All times are in the clock's monotonic seconds.

    A kind stands for items that are alike. With ``at_once`` 0 there are no tries ahead of time.
    """

    at_once: float = AT_ONCE
    per_s: float = PER_S
    _keys: dict[Hashable, dict[ItemKey, None]] = field(default_factory=dict)
    # Kinds that may be tried, and the others by the events that could help them.
    _hopeful: dict[Hashable, None] = field(default_factory=dict)
    _hopeless: dict[Event, dict[Hashable, None]] = field(
        default_factory=lambda: {event: {} for event in Event}
    )
    _spent: float = 0.0  # of what may be in vain, at the time of the last try that was
    _spent_at: float = 0.0

    def enter(self, key: ItemKey, kind: Hashable) -> None:
        """An item is in back-off, since something has happened that helps such items."""
        self._keys.setdefault(kind, {})[key] = None
        self._hopeful[kind] = None

    def leave(self, key: ItemKey, kind: Hashable) -> None:
        """It is tried, or gone; nothing happens if it is not here."""
        alike = self._keys.get(kind)
        if alike is None or key not in alike:
            return
        del alike[key]
        if not alike:
            del self._keys[kind]
            self._hopeful.pop(kind, None)
            for kinds in self._hopeless.values():
                kinds.pop(kind, None)

    def in_vain(
        self, key: ItemKey, kind: Hashable, helped_by: frozenset[Event], now: float
    ) -> None:
        """A try found no place for an item: none for those that are alike, until an event helps."""
        self._spent, self._spent_at = self._still_spent(now) + _cost(key), now
        if self._hopeful.pop(kind, False) is None:
            for event in helped_by:
                self._hopeless[event][kind] = None

    def happened(self, event: Event) -> None:
        """Something that could help changed."""
        kinds = self._hopeless[event]
        if kinds:
            self._hopeful.update(kinds)
            kinds.clear()

    def choose(self, now: float) -> list[ItemKey]:
        """The next item of each kind, of as many kinds as may be tried in vain now."""
        chosen: list[ItemKey] = []
        if self._hopeful:
            left = self.at_once - self._still_spent(now)
            for kind in self._hopeful:
                key = self._next(kind)
                left -= _cost(key)
                if left < -_ROUNDING:
                    break
                chosen.append(key)
        return chosen

    def next_due(self) -> float | None:
        """When the next item may be tried; None if there is none, or never."""
        if not self._hopeful or not self.per_s:
            return None
        cost = _cost(self._next(next(iter(self._hopeful))))
        if cost > self.at_once:
            return None
        return self._spent_at + max(0.0, self._spent + cost - self.at_once) / self.per_s

    def _next(self, kind: Hashable) -> ItemKey:
        return next(iter(self._keys[kind]))

    def _still_spent(self, now: float) -> float:
        return max(0.0, self._spent - (now - self._spent_at) * self.per_s)


def _cost(key: ItemKey) -> float:
    return COST_OF_GROUP if key.gang else 1.0
