"""The files of control groups. The zygote uses this too: it must import little."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# A killed process is in its group until it has been reaped.
_REMOVE_TRIES, _REMOVE_TURN_S = 50, 0.002
_NOTE = "groups.json"


def fields(path: Path) -> dict[str, int]:
    """Lines of "name number"; OSError."""
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}


def words(path: Path | str) -> list[str]:
    """What a file lists; nothing where it cannot be read."""
    try:
        with open(path) as file:
            return file.read().split()
    except OSError:
        return []


def write(folder: Path, name: str, text: str) -> None:
    """Set one value; the OSError is the kernel's."""
    descriptor = os.open(folder / name, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def clear(folder: Path | str) -> None:
    """Remove a group and those below it, killing what is left in them."""
    for place, _, _ in os.walk(folder, topdown=False):
        for pid in words(f"{place}/cgroup.procs"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(pid), signal.SIGKILL)
        _remove_group(place)


def note_groups(root: Path, folders: list[str]) -> None:
    """Write down where an agent's groups are, for when all that could remove them is killed.

    ``root`` is its folder. OSError.
    """
    (root / _NOTE).write_text(json.dumps(folders))


def clear_noted_groups(root: Path) -> None:
    """Remove the groups that were written down; nothing where there are none any more."""
    try:
        folders = json.loads((root / _NOTE).read_text())
    except (OSError, ValueError):
        return
    for folder in folders:
        with contextlib.suppress(OSError):  # somebody else's, by now
            clear(folder)


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
