"""The notes of pod machines on disk: one small file for each pod, replaced as a whole.

They outlive the agent, and the pods' own folders: after a restart of the machine the pods start
anew, but with the resources that they were granted and the back-off that they had earned.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import orjson

from kubarium.api.resource import Document

_LOG = logging.getLogger("kubarium.node")
_SUFFIX = ".json"


class SavedStates:
    """The notes of one agent, by pod uid. ``root`` is the agent's folder."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "machines"
        self._written: dict[str, bytes] = {}

    def open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)

    def read(self, uid: str) -> Document | None:
        """A pod's note; None if there is none that can be read."""
        try:
            found = orjson.loads((self._folder / f"{uid}{_SUFFIX}").read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            _LOG.warning("pod %s: its saved state cannot be read: %s", uid, error)
            return None
        return found if isinstance(found, dict) else None

    def write(self, uid: str, note: Document) -> None:
        """Keep a note, if it says something new. A full disk is no reason to stop: the pod's
        status says most of it too."""
        data = orjson.dumps(note)
        if self._written.get(uid) == data:
            return
        temporary, path = self._folder / f".{uid}{_SUFFIX}", self._folder / f"{uid}{_SUFFIX}"
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        except OSError as error:
            _LOG.warning("pod %s: its state cannot be saved: %s", uid, error.strerror)
            with contextlib.suppress(OSError):
                temporary.unlink()
            return
        self._written[uid] = data

    def drop(self, uid: str) -> None:
        """The pod is gone."""
        self._written.pop(uid, None)
        (self._folder / f"{uid}{_SUFFIX}").unlink(missing_ok=True)

    def drop_unknown(self, known: Callable[[str], bool]) -> None:
        """Remove the notes of pods that are gone, and what a killed agent left half written."""
        for path in list(self._folder.iterdir()):
            if path.name.startswith(".") or not known(path.stem):
                path.unlink(missing_ok=True)
