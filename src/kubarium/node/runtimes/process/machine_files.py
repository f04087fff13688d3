"""What of the machine's file system containers have to see, found once when the agent starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Made afresh in each container.
_OWN = ("/proc", "/sys", "/dev", "/run", "/tmp")


def interpreter_folders() -> list[str]:
    """Where this Python and Kubarium live: images that run Python need them."""
    here = str(Path(__file__).resolve().parents[4])
    found = [sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable)), here]
    return [path for path in dict.fromkeys(found) if path != "/"]


def impassable_folders() -> list[str]:
    """Folders on the way to the interpreter that other users may not pass (a home, often)."""
    found: dict[str, None] = {}
    for path in interpreter_folders():
        for folder in (Path(path), *Path(path).parents):
            if str(folder) != "/" and not folder.stat().st_mode & 0o001:
                found[str(folder)] = None
    return sorted(found)


def folders_in_tmp() -> list[str]:
    """Interpreter folders below /tmp, which containers otherwise see empty."""
    return [path for path in interpreter_folders() if path.startswith("/tmp/")]


def submounts(own_root: str) -> list[str]:
    """Other file systems mounted on the machine (a separate /home); outermost only."""
    points: list[str] = []
    try:
        with open("/proc/self/mountinfo") as file:
            found = sorted(line.split()[4].replace("\\040", " ") for line in file)
    except OSError:
        return []
    for point in found:
        hidden = point == "/" or point.startswith((*_OWN, own_root))
        below = any(point == other or point.startswith(f"{other}/") for other in points)
        if not hidden and not below and os.path.isdir(point):
            points.append(point)
    return points
