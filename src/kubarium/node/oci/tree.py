"""Unpacked layers read as the one tree that they make, without mounting them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_MOST_LINKS = 40


def is_whiteout(found: os.stat_result) -> bool:
    """Overlay's mark that what lies below is gone: a character device 0:0."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def is_opaque(folder: str) -> bool:
    """Whether a directory hides what layers below have at its place."""
    if not hasattr(os, "getxattr"):
        return False  # a system without overlayfs
    for name in OPAQUE:
        try:
            if os.getxattr(folder, name, follow_symlinks=False) == b"y":
                return True
        except OSError:
            continue
    return False


class LayeredTree:
    """``layers`` from the top down."""

    def __init__(self, layers: Sequence[str]) -> None:
        self._layers = list(layers)

    def find(self, path: str) -> str:
        """Where the file is kept that containers see at ``path`` ("" if there is none); links are
        followed as if the tree's root were the machine's."""
        todo = [part for part in reversed(path.split("/")) if part]
        done: list[str] = []
        places = [self._layers]
        links = 0
        while todo:
            part = todo.pop()
            if part == ".":
                continue
            if part == "..":
                if done:
                    done.pop()
                    places.pop()
                continue
            leaf, below = _look(places[-1], part)
            if leaf and os.path.islink(leaf):
                links += 1
                if links > _MOST_LINKS:
                    return ""
                target = os.readlink(leaf)
                if target.startswith("/"):
                    done, places = [], [self._layers]
                todo += [part for part in reversed(target.split("/")) if part]
                continue
            if leaf:
                return "" if todo else leaf
            if not below:
                return ""
            done.append(part)
            places.append(below)
        return places[-1][0]

    def read(self, path: str, most: int = 1 << 20) -> bytes:
        """A regular file's first ``most`` bytes; b"" if there is none."""
        place = self.find(path)
        if not place or not os.path.isfile(place):
            return b""
        with open(place, "rb") as file:
            return file.read(most)


def _look(folders: Sequence[str], name: str) -> tuple[str, list[str]]:
    """(the file of that name, or the directories that make up one directory)."""
    found: list[str] = []
    for folder in folders:
        place = f"{folder}/{name}"
        try:
            status = os.lstat(place)
        except FileNotFoundError:
            continue
        if is_whiteout(status):
            break
        if not stat.S_ISDIR(status.st_mode):
            return ("", found) if found else (place, [])
        found.append(place)
        if is_opaque(place):
            break
    return "", found
