"""How much of a disk is used, by whom."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

# A folder with more entries than this is not counted to its end: whoever makes so many is over
# any limit on inodes long before.
MOST_ENTRIES = 500_000
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class DiskUse:
    """``bytes`` as allocated (holes are not), hard links counted once for each name."""

    bytes: int = 0
    inodes: int = 0


def folder_use(folder: Path | str, most: int = MOST_ENTRIES) -> DiskUse:
    """Everything below ``folder`` on its own file system; what vanishes on the way is skipped."""
    total = entries = 0
    try:
        device = os.lstat(folder).st_dev
    except OSError:
        return DiskUse()
    waiting = [os.fspath(folder)]
    while waiting and entries < most:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as found:
            for entry in found:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_dev != device:
                        continue
                    entries += 1
                    total += status.st_blocks * _BLOCK
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return DiskUse(total, entries)


def scratch_use(init: int, most: int) -> DiskUse:
    """What a container has written to its own file system, if that is one of at most ``most``
    bytes (ours are in memory); nothing if it cannot be seen."""
    if init <= 0:
        return DiskUse()
    try:
        found = os.statvfs(f"/proc/{init}/root/")
    except OSError:
        return DiskUse()
    if found.f_blocks * found.f_frsize > most:
        return DiskUse()
    used = (found.f_blocks - found.f_bfree) * found.f_frsize
    return DiskUse(used, max(found.f_files - found.f_ffree, 0))
