"""The node's side of :mod:`kubarium.train.launch`: hands a rank its place in an attempt, and reads
how its launcher says it goes. Files in, facts out; :mod:`kubarium.node.training.watch` asks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from kubarium.api.resource import Document
from kubarium.engine.training.gang import RUNNING, WAITING
from kubarium.node.training.history import IMPORT, History
from kubarium.view import elastic

WORLD_FILE, STATE_FILE = "world.json", "launch.json"
# A launch is looked at this often: what a gang waits for when it goes back together.
LOOK_S = 0.05
# How long a command that reports may take to say from which step it goes on.
START_S = 2.0

SPARE, RENDEZVOUS = "spare", "rendezvous"
RESTART, RESIZE = "restart", "resize"


@dataclass(frozen=True, slots=True)
class LaunchState:
    """``launch.json``; ``at`` is seconds since the epoch."""

    state: str
    attempt: int
    code: int
    at: float


@dataclass(slots=True)
class Launch:
    """One pod's launcher: what it was told, and what it has said."""

    folder: Path
    told: str = ""
    said: LaunchState | None = None
    world: int = 0
    _stamp: int = 0
    noted: elastic.Report | None = None

    @property
    def runs(self) -> bool:
        """Whether a command of an attempt runs."""
        return self.said is not None and self.said.state == RUNNING

    def tell(self, text: str) -> None:
        """Hand over a rank (``kubarium.dev/world``)."""
        if write_whole(self.folder / WORLD_FILE, text):
            self.told = text

    def restart(self) -> None:
        """A new container is about to start: what the last one said is over."""
        (self.folder / STATE_FILE).unlink(missing_ok=True)
        self.said = self.noted = None
        self.world, self._stamp = 0, 0

    def look(self) -> tuple[LaunchState | None, LaunchState] | None:
        """(before, now) if the launcher has said something new."""
        path = self.folder / STATE_FILE
        try:
            stamp = path.stat().st_mtime_ns
            if stamp == self._stamp:
                return None
            found = orjson.loads(path.read_bytes())
            said = LaunchState(
                str(found["state"]), int(found["attempt"]), int(found["code"]), float(found["at"])
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        self._stamp = stamp
        before, self.said = self.said, said
        return None if before == said else (before, said)


def attempt_in(text: str) -> tuple[int, bool]:
    """(number, whether ranks may first save) of what a pod is told."""
    found = elastic.from_text(text)
    return _number(found, "attempt"), bool(found.get("gentle"))


def _number(told: dict[str, Any], name: str) -> int:
    try:
        return int(told.get(name, 0))
    except (ValueError, TypeError):
        return 0


def book(
    history: History,
    launch: Launch,
    before: LaunchState | None,
    now: LaunchState,
    was_spare: bool,
) -> None:
    """Write what a change of the launcher means for where the rank's time goes."""
    if now.state == WAITING and before is None:
        history.ready(now.at)
    if now.state != RUNNING:
        return
    size = _number(elastic.from_text(launch.told), "world")
    if before is None or before.state == WAITING:
        since = before.at if before is not None else now.at
        history.between(SPARE if was_spare else RENDEZVOUS, since, now.at)
        history.begin(now.at, IMPORT)
    else:
        what = RESIZE if launch.world and size != launch.world else RESTART
        since = history.last_end or before.at
        if history.silent:  # of such a program it is known at most when it ended
            since = now.at if before.state == RUNNING else before.at
        history.between(what, since, now.at)
        history.begin(now.at, what)
    launch.world = size


def write_whole(path: Path, text: str) -> bool:
    """Write a small file so that readers see all of it or nothing; whether that could be done."""
    beside = path.with_name(f".{path.name}")
    try:
        beside.write_text(text)
        beside.rename(path)
    except OSError:
        return False
    return True


def wanted_world(pod: Document) -> str:
    """What the pod's annotation says; "" if nothing."""
    return str((pod["metadata"].get("annotations") or {}).get(elastic.WORLD, ""))
