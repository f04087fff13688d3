"""What a rank tells its node: a file of JSON lines, written in small batches, never waited for.

The node gives the folder in ``KUBARIUM_TRAIN_DIR``; without it reports go nowhere. One line:

    {"at": 1700000000.123, "event": "steps", "steps": [[12, began, ended, waited, first], …]}

Other events: ``start`` (with the step resumed from), ``save`` (began, ended: the stall),
``saved`` (a checkpoint is in place), ``stop`` (with the reason), ``note`` (a sentence). Times are
seconds since the epoch, so that ranks of several machines share an axis.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

# Steps are written together: at most ten lines a second for the fastest loop.
FLUSH_S = 0.1
# The file is begun anew beyond this; the node has long read what was in it.
MAX_BYTES = 16 * 1024 * 1024

FOLDER_VARIABLE = "KUBARIUM_TRAIN_DIR"


class Progress:
    """The reports of one rank. Cheap enough for a call a step: no system call until a flush."""

    def __init__(self, folder: str | Path | None, rank: int) -> None:
        self.folder = Path(folder) if folder else None
        self._path = self.folder / f"progress-{rank:05d}.jsonl" if self.folder else None
        self._steps: list[tuple[int, float, float, float, int]] = []
        self._flushed = 0.0

    def step(self, number: int, began: float, ended: float, waited: float, first: bool) -> None:
        """One finished step; ``waited`` of it was spent on peers."""
        if self._path is None:
            return
        self._steps.append((number, began, ended, waited, int(first)))
        if first or ended - self._flushed >= FLUSH_S:
            self.flush()

    def event(self, event: str, **facts: Any) -> None:
        """Anything else, written at once."""
        if self._path is None:
            return
        self.flush()
        self._write({"at": time.time(), "event": event, **facts})

    def flush(self) -> None:
        self._flushed = time.time()
        if self._steps and self._path is not None:
            self._write({"at": self._flushed, "event": "steps", "steps": self._steps})
            self._steps = []

    def _write(self, line: dict[str, Any]) -> None:
        assert self._path is not None
        data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            if self._path.exists() and self._path.stat().st_size > MAX_BYTES:
                flags |= os.O_TRUNC
            handle = os.open(self._path, flags, 0o644)
            try:
                os.write(handle, data)
            finally:
                os.close(handle)
        except OSError:
            # Reporting never stops training: the node's own watching goes on without it.
            self._path = None
