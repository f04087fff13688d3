"""What was done since a checkpoint, and how to undo it."""

from __future__ import annotations

from collections.abc import Callable


class UndoLog:
    """Checkpoints may lie within each other; without one nothing is remembered."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []
        self._marks: list[int] = []
        self._undoing = False

    @property
    def open(self) -> int:
        """How many checkpoints have been given to neither ``rollback`` nor ``keep``."""
        return len(self._marks)

    @property
    def newest(self) -> int:
        """The mark of the checkpoint that was made last."""
        return self._marks[-1]

    def record(self, undo: Callable[[], object]) -> None:
        """``undo`` takes back what is being done now."""
        if self._marks and not self._undoing:
            self._undo.append(undo)

    def checkpoint(self) -> int:
        """Begin to remember; the mark goes to exactly one of rollback or keep."""
        self._marks.append(len(self._undo))
        return len(self._undo)

    def rollback(self, mark: int) -> None:
        """Undo everything since the checkpoint, the newest first."""
        self._undoing = True
        try:
            while len(self._undo) > mark:
                self._undo.pop()()
        finally:
            self._undoing = False
        self._marks.pop()

    def keep(self, mark: int) -> None:
        """Accept what was done since; a checkpoint around it can still undo it."""
        self._marks.pop()
        if not self._marks:
            del self._undo[mark:]
