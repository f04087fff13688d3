"""When a rank counts as stalled. Pure: samples in, stalls out.

A sample is what can be seen of any process from outside: whether it was stopped by a signal, and
marks that move when it gets on (its reported step, the size of its log). CPU time is not such a
mark: a rank that waits for a hung peer may spin.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubarium.view.stalls import NO_PROGRESS, STOPPED

# A process that stays stopped for this long was not just stopped and continued by a debugger.
STOPPED_S = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """``marks`` differ from the last sample's if the rank got on; ``began`` is whether it has ever
    got as far as its training loop (importing and rendezvous may take long)."""

    stopped: bool
    marks: tuple[float, ...]
    began: bool


@dataclass(frozen=True, slots=True)
class Stall:
    """``since`` is when the rank was last seen to get on."""

    reason: str
    since: float


@dataclass(slots=True)
class StallRule:
    """One rank's history, as short as it needs to be. ``timeout_s`` is the job's."""

    timeout_s: float
    _marks: tuple[float, ...] | None = None
    _moved_at: float = 0.0
    _stopped_at: float | None = None

    def look(self, sample: Sample, now: float) -> Stall | None:
        """What the sample says at ``now``; None if all is well."""
        if sample.marks != self._marks:
            self._marks, self._moved_at = sample.marks, now
        if not sample.stopped:
            self._stopped_at = None
        elif self._stopped_at is None:
            self._stopped_at = now
        elif now - self._stopped_at >= min(STOPPED_S, self.timeout_s):
            return Stall(STOPPED, self._stopped_at)
        if sample.began and now - self._moved_at >= self.timeout_s:
            return Stall(NO_PROGRESS, self._moved_at)
        return None
