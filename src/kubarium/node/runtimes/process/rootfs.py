"""The file system that a container sees.

Its root is the machine's own, read through an overlay whose upper layer is a private tmpfs, so that
programs and libraries are there (and their pages shared) while nothing the container writes reaches
the machine. Mount points that the machine lacks can be made, and everything vanishes with the mount
namespace. Where the kernel refuses one overlay over ``/`` (user namespaces: mounts below it are
locked), each top-level directory gets its own, or is bound read-only if that fails too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field

from kubarium.node.runtimes.process import linux
from kubarium.node.runtimes.process.image_root import layered
from kubarium.node.runtimes.process.proc_files import protect

# Made afresh for each container, or not shown at all.
_PRIVATE = frozenset({"proc", "sys", "dev", "run", "old_root", "lost+found", "tmp"})
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_ACCELERATORS = ("nvidia", "kfd", "dri", "accel")
_OLD = ".kubarium-old-root"
# What a container may write to its own file system, which is in memory.
SCRATCH_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Bind:
    """One mount: ``source`` on the machine at ``target`` in the container."""

    source: str
    target: str
    readonly: bool = False
    directory: bool = True


@dataclass(frozen=True, slots=True)
class RootFs:
    """What to build. ``place`` is an empty directory of ours to build it in."""

    place: str
    binds: list[Bind] = field(default_factory=list)
    readonly: bool = False
    privileged: bool = False
    scratch_bytes: int = SCRATCH_BYTES
    working_dir: str = "/"
    shm: str = ""
    owner: tuple[int, int] = (0, 0)
    # Directories on the way to our interpreter, which a user other than root must be able to pass.
    passable: list[str] = field(default_factory=list)
    # Mount points of other file systems of the machine that containers should see.
    submounts: list[str] = field(default_factory=list)
    # Directories of the machine under its /tmp that containers still have to see.
    kept_tmp: list[str] = field(default_factory=list)
    # The container's own control groups: (name below /sys/fs/cgroup, folder). Programs read their
    # limits there, and may not write anybody's.
    cgroups: list[tuple[str, str]] = field(default_factory=list)
    # Whether the container has a network of its own, which /sys is to show.
    own_network: bool = False
    # NVIDIA's files below /dev that the container is given; None is all that there are.
    accelerators: Sequence[str] | None = None
    # Of a stand-in: folders of its own, which are its user's.
    folders: list[str] = field(default_factory=list)
    # Of a real image: its layers from the top down. Empty: the machine's own files.
    layers: list[str] = field(default_factory=list)


def build(root: RootFs) -> None:
    """Enter a new root. The caller is in a mount and a pid namespace of its own."""
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount(
        "tmpfs", root.place, "tmpfs", linux.MS_NOSUID, f"size={root.scratch_bytes},mode=755"
    )
    merged = layered(root.place, root.layers) if root.layers else _layers(root)
    _private_directories(merged, root)
    os.mkdir(f"{merged}/{_OLD}", 0o700)
    linux.pivot_root(merged, f"{merged}/{_OLD}")
    os.chdir("/")
    for path in root.folders:
        _make_folder(path, root.owner)
    for bind in root.binds:
        _bind(bind)
    _make_folder(root.working_dir, root.owner)
    linux.unmount(f"/{_OLD}")
    os.rmdir(f"/{_OLD}")
    if root.readonly:
        flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY
        linux.mount(None, "/", None, flags | (linux.MS_NODEV if root.layers else 0))


def _layers(root: RootFs) -> str:
    """The machine's files under a writable layer; returns where."""
    upper, work, merged = (f"{root.place}/{name}" for name in ("upper", "work", "merged"))
    for path in (upper, work, merged):
        os.mkdir(path, 0o755)
    for path in root.passable:
        _copy_directory(path, upper)
    try:
        linux.mount("overlay", merged, "overlay", 0, _options("/", upper, work))
        _show_submounts(root, merged)
    except OSError:
        os.rmdir(merged)
        os.mkdir(merged, 0o755)
        linux.mount(merged, merged, None, linux.MS_BIND)
        _layer_each_directory(root, merged)
    return merged


def _show_submounts(root: RootFs, merged: str) -> None:
    """An overlay shows one file system only: bind the others (a separate /home, say) read-only."""
    for path in root.submounts:
        os.makedirs(merged + path, exist_ok=True)
        linux.mount(path, merged + path, None, linux.MS_BIND | linux.MS_REC)
        _try_readonly(merged + path)


def _options(lower: str, upper: str, work: str) -> str:
    return f"lowerdir={lower},upperdir={upper},workdir={work}"


def _copy_directory(path: str, upper: str) -> None:
    """Copy the directory (not what it holds) into the upper layer, with passage for everyone."""
    done = ""
    for part in path.strip("/").split("/"):
        done = f"{done}/{part}"
        target = upper + done
        if not os.path.isdir(target):
            os.mkdir(target)
            os.chmod(target, stat.S_IMODE(os.stat(done).st_mode) | 0o011)


def _layer_each_directory(root: RootFs, merged: str) -> None:
    for entry in sorted(os.scandir("/"), key=lambda found: found.name):
        target = f"{merged}/{entry.name}"
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), target)
        elif entry.is_dir() and entry.name not in _PRIVATE:
            os.mkdir(target, 0o755)
            _layer_directory(root.place, entry.name, target)


def _layer_directory(place: str, name: str, target: str) -> None:
    upper, work = f"{place}/upper-{name}", f"{place}/work-{name}"
    os.mkdir(upper, 0o755)
    os.mkdir(work, 0o755)
    try:
        linux.mount(
            "overlay", target, "overlay", 0, _options(f"/{name}", upper, work) + ",userxattr"
        )
    except OSError:
        linux.mount(f"/{name}", target, None, linux.MS_BIND | linux.MS_REC)
        _try_readonly(target)


def _try_readonly(target: str) -> None:
    flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY
    # A user namespace may not clear the flags that the machine set on this mount: keep them.
    for extra in (0, linux.MS_NOSUID | linux.MS_NODEV, linux.MS_NOSUID | linux.MS_NODEV | 8):
        try:
            linux.mount(None, target, None, flags | extra)
            return
        except OSError:
            continue


def _private_directories(merged: str, root: RootFs) -> None:
    if not root.layers:
        _hide_machines_own(merged, root)
    try:
        linux.mount("proc", f"{merged}/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV)
    except OSError:
        # A masked /proc (inside another container) may not be mounted anew; show the machine's.
        linux.mount("/proc", f"{merged}/proc", None, linux.MS_BIND | linux.MS_REC)
    _show_sys(f"{merged}/sys", root.own_network)
    if not root.privileged:
        _try_readonly(f"{merged}/sys")
        _show_cgroups(f"{merged}/sys/fs/cgroup", root.cgroups)
    make_devices(f"{merged}/dev", root)
    if not root.privileged:
        protect(merged)


def _hide_machines_own(merged: str, root: RootFs) -> None:
    """What the machine keeps in /run and /tmp is none of a container's business."""
    for name in ("proc", "sys", "dev", "run", "tmp"):
        os.makedirs(f"{merged}/{name}", exist_ok=True)
    linux.mount("tmpfs", f"{merged}/run", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    linux.mount("tmpfs", f"{merged}/tmp", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")
    for path in root.kept_tmp:
        os.makedirs(merged + path, exist_ok=True)
        linux.mount(path, merged + path, None, linux.MS_BIND | linux.MS_REC)


def _show_sys(target: str, own_network: bool) -> None:
    """A /sys of the container's own network; the machine's where the kernel does not allow it."""
    recursive = linux.MS_BIND | linux.MS_REC
    if own_network:
        flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
        try:
            linux.mount("sysfs", target, "sysfs", flags)
        except OSError:
            pass
        else:
            if os.path.isdir("/sys/fs/cgroup"):
                linux.mount("/sys/fs/cgroup", f"{target}/fs/cgroup", None, recursive)
            return
    linux.mount("/sys", target, None, recursive)


def _show_cgroups(target: str, own: list[tuple[str, str]]) -> None:
    """The container's own groups where the machine's would be, read-only. An unprivileged user
    namespace may have no mount there; then the machine's are not writable for it anyway."""
    if not own or not os.path.isdir(target):
        return
    linux.mount("tmpfs", target, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=64k")
    for name, folder in own:
        place = f"{target}/{name}" if name else target
        os.makedirs(place, exist_ok=True)
        linux.mount(folder, place, None, linux.MS_BIND)
        _try_readonly(place)
    _try_readonly(target)


def make_devices(target: str, root: RootFs) -> None:
    """What a container sees as /dev."""
    os.makedirs(f"{root.place}/nodes", exist_ok=True)
    if root.privileged:
        linux.mount("/dev", target, None, linux.MS_BIND | linux.MS_REC)
        # Runtimes give a container's streams to its user.
        null = _own_node("/dev/null", f"{root.place}/nodes/null")
        linux.mount(null, f"{target}/null", None, linux.MS_BIND)
        return
    # Device files are bound in one by one; one that a container makes here opens nothing.
    flags = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("tmpfs", target, "tmpfs", flags, "mode=755,size=64k")
    for name in (*_DEVICES, *accelerators(os.listdir("/dev"), root.accelerators)):
        source, inner = f"/dev/{name}", f"{target}/{name}"
        if not os.path.exists(source):
            continue
        if name in _DEVICES:
            source = _own_node(source, f"{root.place}/nodes/{name}")
        os.makedirs(os.path.dirname(inner), exist_ok=True)
        if os.path.isdir(source):
            os.mkdir(inner)
        else:
            os.close(os.open(inner, os.O_CREAT | os.O_WRONLY, 0o666))
        linux.mount(source, inner, None, linux.MS_BIND | linux.MS_REC)
    for name, source in (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        os.symlink(source, f"{target}/{name}")
    os.mkdir(f"{target}/pts")
    linux.mount("devpts", f"{target}/pts", "devpts", linux.MS_NOSUID, "newinstance,ptmxmode=0666")
    os.mkdir(f"{target}/shm")
    os.chmod(f"{target}/shm", 0o1777)
    if root.shm:
        linux.mount(root.shm, f"{target}/shm", None, linux.MS_BIND)


def _own_node(source: str, own: str) -> str:
    """A file for the same device, whose owner and mode are not the machine's to lose; the machine's
    where we may make none."""
    try:
        os.mknod(own, stat.S_IFCHR | 0o666, os.stat(source).st_rdev)
        os.chmod(own, 0o666)
        os.close(os.open(own, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError as error:
        return own if error.errno == errno.ENXIO else source  # no terminal at all is no refusal
    return own


def accelerators(present: Sequence[str], given: Sequence[str] | None) -> list[str]:
    """The files of accelerators that a container sees. Those of NVIDIA are only those ``given``,
    where it says which; other vendors' have no driver here that hands them out.

    >>> accelerators(["nvidia0", "nvidia1", "nvidiactl", "dri", "sda"], ["nvidia1", "nvidiactl"])
    ['dri', 'nvidia1', 'nvidiactl']
    """
    found = sorted(name for name in present if name.startswith(_ACCELERATORS))
    if given is None:
        return found
    return [name for name in found if not name.startswith("nvidia")] + list(given)


def _bind(bind: Bind) -> None:
    """Mount one thing from the old root; as container runtimes do, make missing mount points."""
    target = os.path.normpath(bind.target)
    if bind.directory:
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        if os.path.islink(target):  # to where the machine keeps it (resolv.conf below /run)
            os.unlink(target)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    linux.mount(f"/{_OLD}{bind.source}", target, None, linux.MS_BIND | linux.MS_REC)
    if bind.readonly:
        _try_readonly(target)


def _make_folder(path: str, owner: tuple[int, int]) -> None:
    if not os.path.isdir(path):
        os.makedirs(path)
        os.chown(path, *owner)
