"""The files of control groups. The zygote uses this too: it must import little."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path

# A killed process is in its group until it has been reaped.
_REMOVE_TRIES, _REMOVE_TURN_S = 50, 0.002


def fields(path: Path) -> dict[str, int]:
    """Lines of "name number"; OSError."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}


def words(path: Path) -> list[str]:
    """What a file lists; nothing where it cannot be read."""
    try:
        return path.read_text().split()
    except OSError:
        return []


def write(folder: Path, name: str, text: str) -> None:
    """Set one value; the OSError is the kernel's."""
    descriptor = os.open(folder / name, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def clear(folder: Path) -> None:
    """Remove a group and those below it, killing what is left in them."""
    if not folder.is_dir():
        return
    for place, _, _ in os.walk(folder, topdown=False):
        for pid in words(Path(place) / "cgroup.procs"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(pid), signal.SIGKILL)
        _remove_group(place)


def remove_groups(folder: str) -> None:
    """A group and those below it, whose processes have all been killed (they leave in moments)."""
    for place, _, _ in os.walk(folder, topdown=False):
        _remove_group(place)


def _remove_group(folder: str) -> None:
    for _ in range(_REMOVE_TRIES):
        try:
            os.rmdir(folder)
            return
        except FileNotFoundError:
            return
        except OSError:
            select.select([], [], [], _REMOVE_TURN_S)
