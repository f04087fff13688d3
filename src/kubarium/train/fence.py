"""Who may put checkpoints into a folder: the newest attempt of a run, and none before it.

A node that is cut off goes on running ranks that others have replaced meanwhile. What such a rank
computes must not come among the checkpoints that its successors go on from, nor over them. So an
attempt's ranks leave its number in the folder before they look for a checkpoint:

    folder/
      attempt.json      {"run": "…", "number": [restarts of the set, attempt of the gang]}
      .attempt.lock     held while a number is changed, or a checkpoint is put in place

and whoever finds a higher one of its own run there has been replaced. Both happen under the lock
(``flock``), so that after a new attempt has looked, nothing of an older one can appear. Runs are
not compared with each other: one that begins in another's folder takes it over with its first save.

Node and launcher say which attempt this is by ``KUBARIUM_RUN``, ``KUBARIUM_RESTARTS`` and
``KUBARIUM_ATTEMPT``; without the first (outside Kubarium) there is no fence.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

try:
    import fcntl
except ImportError:  # no such locks here: the numbers alone then
    fcntl = None  # type: ignore[assignment]

RUN_VARIABLE, RESTARTS_VARIABLE = "KUBARIUM_RUN", "KUBARIUM_RESTARTS"
ATTEMPT_VARIABLE = "KUBARIUM_ATTEMPT"
FILE, LOCK = "attempt.json", ".attempt.lock"
Number = tuple[int, int]
# The attempts that a run begins with: nobody of it can have been replaced yet.
_FIRST = (0, 1)


class FencedError(Exception):
    """This rank has been replaced: a newer attempt of its run has the folder."""


@dataclass(frozen=True, slots=True)
class Fence:
    """One attempt of a run. Of two numbers the higher is the newer."""

    run: str
    number: Number

    @staticmethod
    def of_environment() -> Fence | None:
        """None where nobody says which run this is."""
        run = os.environ.get(RUN_VARIABLE, "")
        restarts, attempt = (
            int(text) if text.isdecimal() else 0
            for text in (os.environ.get(name, "") for name in (RESTARTS_VARIABLE, ATTEMPT_VARIABLE))
        )
        return Fence(run, (restarts, attempt)) if run else None

    def enter(self, folder: Path) -> None:
        """Before checkpoints are looked for. FencedError if a newer attempt has the folder."""
        with contextlib.suppress(OSError):  # whoever may only read cannot do harm later
            folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            found = self._look(folder)
            # A run that only reads what another has saved leaves it to that one.
            if found is None or found.run == self.run or self.number > _FIRST:
                with contextlib.suppress(OSError):
                    self._leave(folder, found)

    @contextlib.contextmanager
    def holding(self, folder: Path) -> Iterator[None]:
        """Around whatever changes the folder's checkpoints. FencedError as for :meth:`enter`."""
        with _locked(folder):
            self._leave(folder, self._look(folder))
            yield

    def _look(self, folder: Path) -> Fence | None:
        found = _read(folder / FILE)
        if found is not None and found.run == self.run and found.number > self.number:
            raise FencedError(
                f"{folder}: {_words(found.number)} of this run has the checkpoints, this rank is "
                f"of {_words(self.number)}: it was cut off and replaced, and saves no more"
            )
        return found

    def _leave(self, folder: Path, found: Fence | None) -> None:
        """Leave our number there; OSError."""
        if found == self:
            return
        beside = folder / f".{FILE}.{os.getpid()}.tmp"
        with beside.open("w") as file:
            json.dump({"run": self.run, "number": self.number}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(folder / FILE)


def _read(path: Path) -> Fence | None:
    """None if there is none that can be read."""
    try:
        found = json.loads(path.read_text())
        restarts, attempt = found["number"]
        return Fence(str(found["run"]), (int(restarts), int(attempt)))
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Where there can be no lock (a file system without, a folder that is only read): without."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            stack.callback(os.close, descriptor)
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _words(number: Number) -> str:
    restarts, attempt = number
    return f"attempt {attempt}" + (f" after restart {restarts}" if restarts else "")
