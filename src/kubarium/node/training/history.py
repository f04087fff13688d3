"""A rank's time as spans, short however long it runs. Pure: reports in, spans out.

Steps are kept in spans of 1, 2, 4, … steps that end at multiples of that number, so that the spans
of all ranks of a gang fall on the same steps and can be compared. When there are too many, pairs
are merged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kubarium.api.resource import Document

# Spans of a rank's history that are kept; beyond that, spans of steps are merged in pairs.
MAX_SPANS = 256
# A rank that is restarted in place hundreds of times has more that cannot be merged: the oldest go.
MOST_KEPT = 900

STEP, CHECKPOINT, IMPORT, HANG = "step", "checkpoint", "import", "hang"


@dataclass(slots=True)
class History:
    """One pod's history. Times are seconds since the epoch."""

    spans: list[dict[str, Any]] = field(default_factory=list)
    size: int = 1
    resumed_from: int = 0
    version: int = 0
    _began: float | None = None
    _what: str = IMPORT

    def started(self, at: float) -> None:
        """A container was started: what it does until its first report is importing."""
        self.begin(at, IMPORT)

    def begin(self, at: float, what: str) -> None:
        """From ``at`` to the next report the rank does ``what``."""
        self._began, self._what = at, what
        self._close_steps()

    def ready(self, at: float) -> None:
        """What began is done, without a report of the program itself."""
        if self._began is not None:
            self._add(self._what, self._began, max(at, self._began))
            self._began = None
            self.version += 1

    def between(self, what: str, began: float, ended: float) -> None:
        """A span that others know of."""
        if ended > began:
            self._close_steps()
            self._add(what, began, ended)
            self.version += 1

    @property
    def silent(self) -> bool:
        """Whether the program has said nothing since what it does last began."""
        return self._began is not None

    @property
    def last_end(self) -> float | None:
        """Where the last span ends."""
        return max((span["ended"] for span in self.spans), default=None)

    def take(self, line: Mapping[str, Any]) -> None:
        """One report (:mod:`kubarium.train.progress`); nonsense in it is passed over."""
        try:
            self._take(line)
        except (KeyError, TypeError, ValueError):
            return
        self.version += 1

    def _take(self, line: Mapping[str, Any]) -> None:
        event, at = line["event"], float(line["at"])
        if self._began is not None:
            first = float(line["steps"][0][1]) if event == "steps" else float(line.get("began", at))
            self._add(self._what, self._began, max(first, self._began))
            self._began = None
        if event == "steps":
            for number, began, ended, waited, first in line["steps"]:
                self._step(int(number), float(began), float(ended), float(waited), bool(first))
        elif event == "save":
            self._add(CHECKPOINT, float(line["began"]), float(line["ended"]))
        elif event == "phase":
            self._add(str(line["what"]), float(line["began"]), float(line["ended"]))
        elif event == "start":
            self.resumed_from = int(line.get("step") or 0)

    def hang(self, began: float, ended: float) -> None:
        """No progress from ``began`` to ``ended``; told again, the last one grows."""
        last = next((s for s in reversed(self.spans) if s["what"] == HANG), None)
        if last is not None and last["began"] == began:
            last["ended"] = ended
        else:
            self._add(HANG, began, ended)
        self.version += 1

    def _add(self, what: str, began: float, ended: float, **more: Any) -> None:
        self.spans.append({"what": what, "began": began, "ended": ended, **more})
        if len(self.spans) > MAX_SPANS:
            self._merge()
        if len(self.spans) > MOST_KEPT:
            del self.spans[:MAX_SPANS]

    def _step(self, number: int, began: float, ended: float, waited: float, first: bool) -> None:
        last = self._last_steps()
        grows = (
            last is not None
            and not first
            and not last.get("first")
            and last["step"] == number - 1
            and (number - 1) % self.size
        )
        if last is not None and grows:
            last |= {
                "ended": ended,
                "step": number,
                "count": last["count"] + 1,
                "waited": last["waited"] + waited,
            }
            return
        more = {"first": True} if first else {}
        self._add(STEP, began, ended, step=number, count=1, waited=waited, **more)

    def _last_steps(self) -> dict[str, Any] | None:
        """The span of steps that may still grow: saves may have come since, nothing else."""
        for span in reversed(self.spans):
            if span["what"] == STEP:
                return None if span.get("closed") else span
            if span["what"] != CHECKPOINT:
                return None
        return None

    def _close_steps(self) -> None:
        last = self._last_steps()
        if last is not None:
            last["closed"] = True

    def _merge(self) -> None:
        """Twice as many steps in a span."""
        self.size *= 2
        merged: list[dict[str, Any]] = []
        place: dict[str, Any] | None = None  # the last span of steps in ``merged``
        for span in self.spans:
            if span["what"] != STEP:
                merged.append(span)
                if span["what"] != CHECKPOINT:
                    place = None
                continue
            joins = (
                place is not None
                and not (place.get("first") or span.get("first") or place.get("closed"))
                and place["step"] == span["step"] - span["count"]
                and place["step"] % self.size
            )
            if place is not None and joins:
                place["count"] += span["count"]
                place["waited"] += span["waited"]
                place["step"], place["ended"] = span["step"], span["ended"]
                if span.get("closed"):
                    place["closed"] = True
            else:
                merged.append(span)
                place = span
        self.spans = merged

    def documents(self) -> list[Document]:
        """The spans for the API: times to the millisecond."""
        found = []
        for span in self.spans:
            kept = {key: value for key, value in span.items() if key != "closed"}
            for key in ("began", "ended", "waited"):
                if key in kept:
                    kept[key] = round(kept[key], 3)
            found.append(kept)
        return found
