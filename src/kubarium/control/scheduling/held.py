"""Pods that are held before scheduling because an object they name is not there.

Most such waits last for milliseconds: pods come before their claims and groups, members of a gang
one after the other. So a reason is told only once it has held for a while, and once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from kubarium.control.scheduling.events import ItemKey

# Reasons in conditions: no room yet; the pods of a group contradict each other; a hierarchy of
# groups is malformed (upstream has the last for composites only).
UNSCHEDULABLE = "Unschedulable"
SCHEDULER_ERROR = "SchedulerError"
INVALID = "Invalid"

# A reason that has held for so long is worth a condition and an event.
TELL_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class Wait:
    """What an item waits for; ``code`` is the reason in its conditions."""

    text: str
    code: str = UNSCHEDULABLE


@dataclass(slots=True)
class Held:
    """Reasons by item, oldest first."""

    _reasons: dict[ItemKey, Wait] = field(default_factory=dict)
    _due: deque[tuple[float, ItemKey]] = field(default_factory=deque)

    def hold(self, item: ItemKey, reason: Wait, now: float) -> None:
        """The item was found to be waiting for ``reason`` at ``now`` (monotonic seconds)."""
        self._reasons[item] = reason
        self._due.append((now + TELL_AFTER_S, item))

    def again(self, item: ItemKey, now: float) -> None:
        """What the item waits for could not be told: if it still waits, it is due once more."""
        if item in self._reasons:
            self._due.append((now + TELL_AFTER_S, item))

    def release(self, item: ItemKey) -> None:
        """The item waits no longer, or is gone."""
        self._reasons.pop(item, None)

    def next_due(self) -> float | None:
        """When something may have to be told."""
        return self._due[0][0] if self._due else None

    def take_due(self, now: float) -> list[tuple[ItemKey, Wait]]:
        """Items whose reason has held for long enough; each once for each :meth:`hold`."""
        found: dict[ItemKey, Wait] = {}
        while self._due and self._due[0][0] <= now:
            _, item = self._due.popleft()
            if item in self._reasons:
                found[item] = self._reasons[item]
        return list(found.items())
