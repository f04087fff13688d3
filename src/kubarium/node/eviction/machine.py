"""What this machine has left of what its nodes may run out of."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Machine:
    """``inodes`` and ``pids`` are (free, all); (0, 0) where the system does not count them."""

    memory_available: int
    disk_available: int
    inodes: tuple[int, int]
    pids: tuple[int, int]


def look(folder: Path) -> Machine:
    """At the whole machine, and at the file system that ``folder`` is on."""
    disk = os.statvfs(folder)
    return Machine(
        int(psutil.virtual_memory().available),
        disk.f_bavail * disk.f_frsize,
        (disk.f_favail, disk.f_files),
        _pids(),
    )


def _pids() -> tuple[int, int]:
    """Threads count too: each has a number."""
    most: list[int] = []
    for name in ("pid_max", "threads-max"):
        with contextlib.suppress(OSError, ValueError):
            most.append(int(Path(f"/proc/sys/kernel/{name}").read_text()))
    with contextlib.suppress(OSError, ValueError, IndexError):
        running = int(Path("/proc/loadavg").read_text().split()[3].split("/")[1])
        return max(min(most) - running, 0), min(most)
    return 0, 0
