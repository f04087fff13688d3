"""Checkpoints that somebody asks for: saved by all ranks at one step, kept until nobody wants them.

The node asks by a file in the rank's training folder:

    save.json    {"requests": [{"id": "…", "step": 140}], "keep": ["…", …]}

and is answered by an event of the progress file, so that a program without :mod:`kubarium.train`
can do the same:

    {"at": …, "event": "kept", "id": "…", "step": 140, "folder": "/checkpoints/step-00000140",
     "writes": true, "bytes": 1234, "sha256": "…", "error": ""}

``keep`` names every checkpoint that was ever asked for and still has its object: others that are
kept in the folder are let go, and then retired as any other.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubarium.train.checkpoints import Checkpoints
from kubarium.train.progress import Progress

FILE = "save.json"
# Where a run is to begin, while its own folder holds nothing of its own: JSON, see ``restored``.
RESTORE_VARIABLE = "KUBARIUM_RESTORE"


@dataclass(frozen=True, slots=True)
class Restore:
    """A checkpoint to begin from: ``run`` is who restores it, the same for all its ranks."""

    ident: str
    step: int
    folder: Path
    run: str

    @staticmethod
    def of_environment() -> Restore | None:
        """None if there is nothing to restore."""
        text = os.environ.get(RESTORE_VARIABLE, "")
        try:
            found = json.loads(text) if text else None
            return found and Restore(
                str(found["id"]), int(found["step"]), Path(found["folder"]), str(found["run"])
            )
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{RESTORE_VARIABLE}: {text!r} names no checkpoint") from None


class SaveRequests:
    """What one rank is asked to save."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._path = progress.folder / FILE if progress.folder else None
        self._stamp = 0
        self._open: dict[str, int] = {}
        self._done: set[str] = set()
        self.keep: set[str] | None = None

    def due(self, step: int) -> list[str]:
        """The ids of what is to be saved now. One whose step is past is refused: the other ranks
        have saved another step."""
        self._read()
        for ident, wanted in list(self._open.items()):
            if wanted < step:
                text = f"asked for step {wanted} when the rank had done step {step}"
                self.answer(ident, step, error=text)
        return [ident for ident, wanted in self._open.items() if wanted == step]

    def answer(self, ident: str, step: int, **facts: Any) -> None:
        """Say how a request went."""
        self._open.pop(ident, None)
        self._done.add(ident)
        self._progress.event("kept", id=ident, step=step, **facts)

    def kept(self, ids: list[str], step: int, checkpoints: Checkpoints) -> None:
        """This rank has saved ``step``: the first rank, once all parts are in place, keeps the
        whole and says what is in it."""
        folder = str(checkpoints.place(step))
        if checkpoints.rank != 0:
            for ident in ids:
                self.answer(ident, step, folder=folder, writes=False)
            return
        for ident in ids:
            about = checkpoints.keep(step, ident)
            self.answer(ident, step, folder=folder, writes=True, **about)

    def _read(self) -> None:
        if self._path is None:
            return
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp == self._stamp:
                return
            found = json.loads(self._path.read_text())
            requests = {str(r["id"]): int(r["step"]) for r in found.get("requests") or ()}
            self.keep = {str(ident) for ident in found.get("keep") or ()} | requests.keys()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return
        self._stamp = stamp
        self._open = {i: step for i, step in requests.items() if i not in self._done}
