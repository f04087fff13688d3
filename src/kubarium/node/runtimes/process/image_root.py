"""The root of a container that runs from a real image: its layers under a private writable one.

The layers are shared by all containers and never written to. Where the kernel mounts no overlay for
us, they are copied into the container's own scratch space.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Sequence

from kubarium.node.oci.tree import is_opaque, is_whiteout
from kubarium.node.runtimes.process import linux

_EVERY_USER = "4294967295"
_PLACES = ("proc", "sys", "dev")


def layered(place: str, layers: Sequence[str]) -> str:
    """Mount ``layers`` (from the top down) below ``place``, an empty tmpfs; returns where.

    No device file in an image opens anything. Names are short and relative since the kernel takes
    one page of them all."""
    before = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
    os.chdir(place)
    try:
        for name in ("upper", "work", "merged", "l"):
            os.mkdir(name, 0o755)
        _copy_root(layers)
        for number, layer in enumerate(layers):
            os.symlink(layer, f"l/{number}")
        lower = ":".join(f"l/{number}" for number in range(len(layers)))
        _mount(lower, layers)
    finally:
        os.fchdir(before)
        os.close(before)
    merged = f"{place}/merged"
    for name in _PLACES:
        _check(merged, name)
    return merged


def _copy_root(layers: Sequence[str]) -> None:
    """Owner and mode of the image's own root directory."""
    found = os.stat(layers[0])
    for name in ("upper", "merged"):
        os.chmod(name, stat.S_IMODE(found.st_mode))
        with contextlib.suppress(OSError):
            os.chown(name, found.st_uid, found.st_gid)


def _mount(lower: str, layers: Sequence[str]) -> None:
    options = f"lowerdir={lower},upperdir=upper,workdir=work"
    if not _in_first_user_namespace():  # where overlayfs may read the other attributes
        options += ",userxattr"
    try:
        linux.mount("overlay", "merged", "overlay", linux.MS_NODEV, options)
        return
    except OSError:
        if "/" in layers:  # a trial: nobody wants a copy of the machine
            raise
    linux.mount("merged", "merged", None, linux.MS_BIND)
    linux.mount(None, "merged", None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_NODEV)
    for layer in reversed(layers):
        copy_layer(layer, "merged")


def _in_first_user_namespace() -> bool:
    with open("/proc/self/uid_map") as file:
        return file.read().split() == ["0", "0", _EVERY_USER]


def copy_layer(layer: str, target: str) -> None:
    """Put a layer over what is in ``target``, as an overlay would show it."""
    for entry in os.scandir(layer):
        place = f"{target}/{entry.name}"
        found = entry.stat(follow_symlinks=False)
        is_folder = stat.S_ISDIR(found.st_mode)
        keeps = is_folder and os.path.isdir(place) and not os.path.islink(place)
        if os.path.lexists(place) and (not keeps or is_opaque(entry.path)):
            _remove(place)
        if is_whiteout(found):
            continue
        if is_folder:
            os.makedirs(place, exist_ok=True)
            copy_layer(entry.path, place)
        elif stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(entry.path), place)
        elif stat.S_ISREG(found.st_mode):
            shutil.copyfile(entry.path, place, follow_symlinks=False)
        else:
            continue
        with contextlib.suppress(OSError):
            os.chown(place, found.st_uid, found.st_gid, follow_symlinks=False)
        if not stat.S_ISLNK(found.st_mode):
            os.chmod(place, stat.S_IMODE(found.st_mode))


def _remove(place: str) -> None:
    if os.path.isdir(place) and not os.path.islink(place):
        shutil.rmtree(place)
    else:
        os.unlink(place)


def _check(merged: str, name: str) -> None:
    """A mount point of ours must not lead out of the image (CVE-2019-16884 of runc)."""
    place = f"{merged}/{name}"
    try:
        found = os.lstat(place)
    except FileNotFoundError:
        os.mkdir(place, 0o755)
        return
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(0, f"/{name} of the image is no directory")
