"""Processes of a container as /proc shows them: cheap enough to look at several times a second."""

from __future__ import annotations

import contextlib
from pathlib import Path

# Deeper trees than this are not training programs.
MAX_PROCESSES = 512


def below(init: int) -> list[int]:
    """Process ids of the descendants of ``init``, parents before children."""
    found: list[int] = []
    waiting = [init]
    while waiting and len(found) < MAX_PROCESSES:
        parent = waiting.pop(0)
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                children = [int(pid) for pid in (task / "children").read_text().split()]
                found += children
                waiting += children
    return found


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped the process (SIGSTOP, SIGTSTP), or a debugger holds it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in ("T", "t")
