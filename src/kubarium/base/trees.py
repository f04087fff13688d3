"""Folders that others have filled, and how to be rid of them."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

# Below so many levels what a folder holds is lifted to the top before it is removed: neither the
# stack nor the open descriptors grow with the depth that somebody has nested folders to.
_LEVELS = 64
_LIFTED = ".removed-"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(place: Path | str) -> None:
    """Remove a folder and all below it, as far as this user may; links are not followed.

    ``shutil.rmtree`` gives up on folders that are nested deeper than Python's stack, and on those
    of one's own that may not be read; whoever runs others' programs finds both. No error: what
    cannot be removed stays.
    """
    try:
        top = _open(os.fspath(place), None)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(place)
        return
    try:
        before: list[str] = []
        while (names := sorted(os.listdir(top))) and names != before:
            for name in names:
                _remove(name, top, top, _LEVELS)
            before = names
    except OSError:
        pass
    finally:
        os.close(top)
    with contextlib.suppress(OSError):
        os.rmdir(place)


def _remove(name: str, parent: int, top: int, levels: int) -> None:
    """One entry of the folder that is open as ``parent``; or lift it to ``top``."""
    with contextlib.suppress(OSError):
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            return
        if not levels:
            _lift(name, parent, top)
            return
        folder = _open(name, parent)
        try:
            for entry in os.listdir(folder):
                _remove(entry, folder, top, levels - 1)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=parent)


def _lift(name: str, parent: int, top: int) -> None:
    number = 0
    while True:
        try:
            os.mkdir(f"{_LIFTED}{number}", 0o700, dir_fd=top)  # a name that nobody else has
            break
        except FileExistsError:
            number += 1
    os.rename(name, f"{_LIFTED}{number}", src_dir_fd=parent, dst_dir_fd=top)


def _open(name: str, parent: int | None) -> int:
    """A folder, made readable and writable if it is ours and is not."""
    with contextlib.suppress(OSError):
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
            os.chmod(name, stat.S_IMODE(mode) | 0o700, dir_fd=parent)
    return os.open(name, _FOLDER, dir_fd=parent)
