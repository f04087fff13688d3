"""What ranks report (:mod:`kubarium.train.progress`), read as it comes: bytes in, facts out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

# Steps kept to tell how long one takes.
RECENT_STEPS = 32
# A line longer than this is not ours; what follows is read from the next line on.
MAX_LINE = 1 << 20


@dataclass(slots=True)
class RankProgress:
    """Where one rank stands, by its own report. Times are seconds since the epoch."""

    step: int = 0
    resumed_from: int = 0
    began_at: float = 0.0
    saved_step: int = -1
    world: int = 0
    at: float = 0.0
    ended: bool = False
    stopped: bool = False
    notes: list[str] = field(default_factory=list)
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    _times: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT_STEPS))
    _rest: bytes = b""

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Take the next bytes of the file; the lines of ours that are whole now."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            self._rest = b""
        found = [line for line in map(_parsed, lines) if line is not None]
        for line in found:
            self._take(line)
        return found

    def restart(self) -> None:
        """The file was begun anew: what is left of a line belongs to the old one."""
        self._rest = b""

    @property
    def step_s(self) -> float | None:
        """The usual time of a step; None before the second one."""
        if not self._times:
            return None
        return sorted(self._times)[len(self._times) // 2]

    def _take(self, line: dict[str, Any]) -> None:
        self.at = max(self.at, line["at"])
        event = line["event"]
        if event == "steps":
            for number, began, ended, _, first in _steps(line):
                self.step = max(self.step, number)
                if not first:
                    self._times.append(ended - began)
        elif event == "start":
            self.step = self.resumed_from = int(line.get("step") or 0)
            self.world = int(line.get("world") or 0)
            self.began_at = float(line["at"])
            self.ended = self.stopped = False
        elif event == "saved":
            self.saved_step = max(self.saved_step, int(line.get("step") or 0))
        elif event == "stop":
            self.stopped = True
        elif event == "end":
            self.ended = True
        elif event == "kept":
            self.kept[str(line.get("id", ""))] = line
        elif event == "note":
            self.notes.append(str(line.get("text", "")))


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A line that is ours; None for anything else, which a program may write there."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("event"), str):
        return None
    return found if isinstance(found.get("at"), (int, float)) else None


def _steps(line: dict[str, Any]) -> Iterator[tuple[int, float, float, float, int]]:
    for entry in line.get("steps") or ():
        if isinstance(entry, list) and len(entry) == 5:
            number, began, ended, waited, first = entry
            yield int(number), float(began), float(ended), float(waited), int(first)


# Stopping together -----------------------------------------------------------------------------

# The step to stop at lies this far ahead of every report: time for all ranks to read it. A rank is
# in the step after its last report, perhaps past the place where it looks: so two steps at least.
AHEAD_S = 0.5
MIN_AHEAD_STEPS = 2


def stop_step(ranks: list[RankProgress]) -> int | None:
    """The step at which all ranks save and stop; None if no rank has reported a step."""
    moving = [rank for rank in ranks if rank.step and not rank.ended]
    if not moving:
        return None
    fastest = min((rank.step_s for rank in moving if rank.step_s), default=None)
    ahead = MIN_AHEAD_STEPS if not fastest else max(MIN_AHEAD_STEPS, int(AHEAD_S / fastest) + 1)
    return max(rank.step for rank in moving) + ahead
