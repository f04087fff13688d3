"""Memory limits where control groups are not to be had: measured, and enforced by a kill.

A container that may grow is stopped at its limit (SIGSTOP) instead, until somebody has answered.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable

import psutil

from kubarium.node.runtimes.process.cgroups import Usage

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


class MeasuredMemory:
    """Stands in for the memory controller of :class:`Cgroups`. ``init_of`` finds the init process
    of a container by pod uid and group; 0 if it is gone."""

    def __init__(self, init_of: Callable[[str, str], int]) -> None:
        self._init_of = init_of
        self._peaks: dict[tuple[str, str], int] = {}
        self._stopped: dict[tuple[str, str], list[psutil.Process]] = {}

    def working_set(self, uid: str, group: str) -> int:
        used = memory_below(self._init_of(uid, group))
        self._peaks[uid, group] = max(used, self._peaks.get((uid, group), 0))
        return used

    def usage(self, uid: str, group: str) -> Usage:
        used = self.working_set(uid, group)
        return Usage(used, self._peaks[uid, group])

    def at_limit(self, uid: str, group: str) -> int | None:
        """Nobody tells: it has to be looked."""
        return None

    def hold(self, uid: str, group: str, limit: int | None, on: bool) -> None:
        """What is no longer held goes on, if it was stopped."""
        if not on:
            self._peaks.pop((uid, group), None)
            for process in self._stopped.pop((uid, group), ()):
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGCONT)

    def stop(self, uid: str, group: str) -> None:
        """It is beyond its limit and held: nothing of it runs until :meth:`hold` says otherwise."""
        if (uid, group) in self._stopped:
            return
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(self._init_of(uid, group)).children(recursive=True)
            self._stopped[uid, group] = found
            for process in found:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGSTOP)
