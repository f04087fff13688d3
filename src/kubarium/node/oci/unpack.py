"""A layer's tar stream as a directory that overlayfs takes for a lower layer.

Whiteouts (``.wh.NAME``, ``.wh..wh..opq``) become overlay's: a character device 0:0, an attribute.
No name leads out of the directory: ``..`` is refused, and links on the way are followed as if the
directory were ``/``. Nobody else writes there meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from kubarium.node.oci.compression import BROKEN
from kubarium.node.oci.errors import ImageProblem
from kubarium.node.oci.tree import OPAQUE, LayeredTree, is_opaque, is_whiteout

_WHITEOUT, _MARK, _OPAQUE = ".wh.", ".wh..wh.", ".wh..wh..opq"
_MOST_LINKS, _COPY_BYTES = 40, 1 << 20
_XATTR = "SCHILY.xattr."
# Attributes by which a layer could tell overlayfs what to do, or that the machine acts on.
_KEPT_XATTRS = ("user.", "security.capability")
_CHECK_BYTES = 64 << 20


@dataclass(slots=True)
class Budget:
    """What unpacking may take. ``spare_bytes`` of the disk at ``place`` stay free."""

    place: str
    bytes: int = 256 << 30
    entries: int = 5_000_000
    spare_bytes: int = 1 << 30
    _unchecked: int = _CHECK_BYTES

    def entry(self, name: str, size: int) -> None:
        """Before an entry of ``size`` bytes is made; ImageProblem."""
        self.entries -= 1
        self.bytes -= size
        self._unchecked += size + 512
        if self.entries < 0:
            raise ImageProblem("the image has too many files")
        if self.bytes < 0:
            raise ImageProblem(f"{name} ({size} bytes) exceeds what an image may unpack to")
        if self._unchecked >= _CHECK_BYTES:
            self._unchecked = 0
            found = os.statvfs(self.place)
            free = found.f_bavail * found.f_frsize
            if free - size < self.spare_bytes:
                raise ImageProblem(
                    f"no space: {name} takes {size} bytes, {free} are free and "
                    f"{self.spare_bytes} of them are to stay free"
                )


def unpack_layer(
    stream: IO[bytes], root: str, budget: Budget, below: Sequence[str] = (), what: str = "layer"
) -> None:
    """``stream`` is read to its end. ``below``: the layers under it, from the top down, where hard
    links may lead. ImageProblem says what is wrong with it."""
    unpacker = _Unpacker(root, budget, below)
    try:
        with tarfile.open(fileobj=stream, mode="r|", errorlevel=1) as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]
                unpacker.add(member, archive)
        unpacker.finish()
        while stream.read(_COPY_BYTES):
            pass
    except tarfile.TarError as error:
        raise ImageProblem(f"{what} is no tar archive, or is cut off: {error}") from error
    except ImageProblem as error:
        raise ImageProblem(f"{what}: {error}") from error
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ImageProblem(f"{what}: the disk is full") from error
        raise ImageProblem(f"{what} cannot be unpacked: {error}") from error


class _Unpacker:
    def __init__(self, root: str, budget: Budget, below: Sequence[str]) -> None:
        self._root = root
        self._budget = budget
        self._below = below
        self._is_root = os.geteuid() == 0
        self._folders: dict[str, str] = {}
        self._times: list[tuple[str, float]] = []

    def add(self, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        name = _clean(member.name)
        self._budget.entry(name, member.size if member.isreg() else 0)
        folder, _, base = name.rpartition("/")
        if base.startswith(_WHITEOUT):
            self._white_out(self._folder(folder), base, name)
            return
        if not name:
            self._adorn(self._root, member)
            return
        place = f"{self._folder(folder)}/{base}"
        opaque = self._clear(place, member.isdir())
        if member.isdir():
            with contextlib.suppress(FileExistsError):
                os.mkdir(place, 0o755)
            if opaque:
                _make_opaque(place)
        elif member.isreg():
            self._write(place, member, archive)
        elif member.issym():
            os.symlink(member.linkname, place)
        elif member.islnk():
            self._link(place, member)
            return
        elif not self._make_special(place, member):
            return
        self._adorn(place, member)

    def finish(self) -> None:
        for place, when in reversed(self._times):
            with contextlib.suppress(OSError):
                os.utime(place, (when, when), follow_symlinks=False)

    # Where

    def _folder(self, path: str) -> str:
        """The directory that ``path`` means inside; made where it is missing."""
        known = self._folders.get(path)
        if known is None:
            known = self._folders[path] = self._walk(path)
        return known

    def _walk(self, path: str) -> str:
        todo, done = list(reversed(path.split("/"))), list[str]()
        links = 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":  # of a link: the names themselves have none
                done = done[:-1]
                continue
            place = "/".join((self._root, *done, part))
            try:
                found = os.lstat(place)
            except FileNotFoundError:
                os.mkdir(place, 0o755)
            else:
                if stat.S_ISLNK(found.st_mode):
                    links += 1
                    if links > _MOST_LINKS:
                        raise ImageProblem(f"too many links on the way to {path}")
                    target = os.readlink(place)
                    done = [] if target.startswith("/") else done
                    todo += reversed(target.split("/"))
                    continue
                if is_whiteout(found):
                    os.unlink(place)
                    os.mkdir(place, 0o755)
                    _make_opaque(place)
                elif not stat.S_ISDIR(found.st_mode):
                    raise ImageProblem(f"{path}: {part} is no directory")
            done.append(part)
        return "/".join((self._root, *done))

    def _clear(self, place: str, for_folder: bool) -> bool:
        """Make way for an entry: the later one of a name counts. Whether it hides what is below."""
        try:
            found = os.lstat(place)
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(found.st_mode):
            if for_folder:
                return False
            shutil.rmtree(place)
        else:
            os.unlink(place)
        self._folders.clear()
        return is_whiteout(found)

    # What

    def _white_out(self, folder: str, base: str, name: str) -> None:
        if base == _OPAQUE:
            _make_opaque(folder)
            return
        if base.startswith(_MARK):
            return  # bookkeeping of aufs
        hidden = base.removeprefix(_WHITEOUT)
        if hidden in ("", ".", ".."):
            raise ImageProblem(f"{name!r} hides nothing that can be named")
        place = f"{folder}/{hidden}"
        if not os.path.lexists(place):
            os.mknod(place, stat.S_IFCHR, os.makedev(0, 0))
        elif os.path.isdir(place) and not os.path.islink(place):
            _make_opaque(place)  # whiteouts are about the layers below only

    def _write(self, place: str, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        source = archive.extractfile(member)
        assert source is not None
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(place, flags, 0o600), "wb", buffering=0) as file:
            left = member.size
            while left:
                data = source.read(min(_COPY_BYTES, left))
                if not data:
                    raise ImageProblem(f"{member.name} is cut off")
                file.write(data)
                left -= len(data)

    def _link(self, place: str, member: tarfile.TarInfo) -> None:
        target = _clean(member.linkname)
        folder, _, base = target.rpartition("/")
        source = f"{self._folder(folder)}/{base}"
        try:
            status = os.lstat(source)
        except FileNotFoundError:
            self._copy_from_below(target, place, member)
            return
        if stat.S_ISDIR(status.st_mode) or is_whiteout(status):
            raise ImageProblem(f"{member.name} is a hard link to {target}, which is no file")
        os.link(source, place, follow_symlinks=False)

    def _copy_from_below(self, target: str, place: str, member: tarfile.TarInfo) -> None:
        """A hard link to a file of a lower layer becomes a copy of it."""
        found = LayeredTree(self._below).find(target) if self._below else ""
        if not found or not stat.S_ISREG(os.lstat(found).st_mode):
            raise ImageProblem(f"{member.name} is a hard link to {target}, which is not there")
        status = os.stat(found)
        self._budget.entry(target, status.st_size)
        shutil.copy2(found, place)
        if self._is_root:
            os.chown(place, status.st_uid, status.st_gid)
            os.chmod(place, stat.S_IMODE(status.st_mode))

    def _make_special(self, place: str, member: tarfile.TarInfo) -> bool:
        """Pipes always; device files as root only (they open nothing where containers run)."""
        if member.isfifo():
            os.mkfifo(place, 0o600)
            return True
        if not (member.ischr() or member.isblk()):
            return False
        number = os.makedev(member.devmajor, member.devminor)
        if member.ischr() and number == 0:
            raise ImageProblem(f"{member.name} is a device 0:0, which would hide layers below")
        kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
        try:
            os.mknod(place, kind | 0o600, number)
        except PermissionError:
            return False
        return True

    def _adorn(self, place: str, member: tarfile.TarInfo) -> None:
        """Owner, then mode (a change of owner takes set-user-id away), attributes, time."""
        if self._is_root:
            os.chown(place, member.uid, member.gid, follow_symlinks=False)
        if not member.issym():
            # Without root's rights we have to get into our own directories.
            more = 0o700 if member.isdir() and not self._is_root else 0
            os.chmod(place, stat.S_IMODE(member.mode) | more)
        for key, value in member.pax_headers.items():
            name = key.removeprefix(_XATTR)
            if name != key and name.startswith(_KEPT_XATTRS) and name not in OPAQUE:
                self._set_attribute(place, name, value)
        if member.isdir():
            self._times.append((place, member.mtime))
        else:
            os.utime(place, (member.mtime, member.mtime), follow_symlinks=False)

    @staticmethod
    def _set_attribute(place: str, name: str, value: str) -> None:
        if name.startswith("user.overlay."):
            return
        with contextlib.suppress(OSError, AttributeError):  # not every system, user or disk may
            os.setxattr(
                place, name, value.encode("utf-8", "surrogateescape"), follow_symlinks=False
            )


def _make_opaque(folder: str) -> None:
    """In both ways: overlayfs reads one as root and the other in a user namespace."""
    problem: OSError | None = None
    for name in OPAQUE if hasattr(os, "setxattr") else ():
        try:
            os.setxattr(folder, name, b"y")
        except OSError as error:
            problem = error
    if not is_opaque(folder):
        raise ImageProblem(
            "the node's folder is on a file system without extended attributes, which layers that "
            f"replace a directory need ({problem})"
        )


def _clean(name: str) -> str:
    """Relative, without ``.``; ImageProblem where it leads upwards."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ImageProblem(f"entry {name!r} leads out of the image")
    return "/".join(parts)
