"""Memory limits where control groups are not to be had: measured, and enforced by a kill."""

from __future__ import annotations

import contextlib

import psutil

# Seconds between two looks.
LOOK_S = 0.5


def memory_below(init: int) -> int:
    """Bytes that the processes below a container's ``init`` hold, shared pages divided among those
    that share them where the system says so (else counted for each); 0 if it is gone."""
    total = 0
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(init).children(recursive=True):
            with contextlib.suppress(psutil.Error, OSError):
                total += _memory(process)
    return total


def processes_below(init: int) -> int:
    """How many processes a container has beside its ``init``."""
    with contextlib.suppress(psutil.Error):
        return len(psutil.Process(init).children(recursive=True))
    return 0


def _memory(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.AccessDenied, AttributeError):
        return int(process.memory_full_info().pss)
    return int(process.memory_info().rss)
