"""The system calls that Python's standard library lacks: mounts, namespaces, capabilities.

Every function raises OSError with the call's name, so that an isolation report can quote it.
Numbers are from the kernel's uapi headers (``sched.h``, ``mount.h``, ``prctl.h``,
``capability.h``).
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

_PR_SET_DUMPABLE = 4
_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

CAPABILITIES = {
    name: number
    for number, name in enumerate(
        [
            "CHOWN",
            "DAC_OVERRIDE",
            "DAC_READ_SEARCH",
            "FOWNER",
            "FSETID",
            "KILL",
            "SETGID",
            "SETUID",
            "SETPCAP",
            "LINUX_IMMUTABLE",
            "NET_BIND_SERVICE",
            "NET_BROADCAST",
            "NET_ADMIN",
            "NET_RAW",
            "IPC_LOCK",
            "IPC_OWNER",
            "SYS_MODULE",
            "SYS_RAWIO",
            "SYS_CHROOT",
            "SYS_PTRACE",
            "SYS_PACCT",
            "SYS_ADMIN",
            "SYS_BOOT",
            "SYS_NICE",
            "SYS_RESOURCE",
            "SYS_TIME",
            "SYS_TTY_CONFIG",
            "MKNOD",
            "LEASE",
            "AUDIT_WRITE",
            "AUDIT_CONTROL",
            "SETFCAP",
            "MAC_OVERRIDE",
            "MAC_ADMIN",
            "SYSLOG",
            "WAKE_ALARM",
            "BLOCK_SUSPEND",
            "AUDIT_READ",
            "PERFMON",
            "BPF",
            "CHECKPOINT_RESTORE",
        ]
    )
}
# What containerd and CRI-O give a container that asks for nothing.
DEFAULT_CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
]

_CAPABILITY_HEADER = (0x20080522, 0)

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _call(name: str, *arguments: object) -> int:
    if _libc is None:
        raise OSError(38, f"{name}: not Linux")
    result: int = getattr(_libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _text(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


def unshare(flags: int) -> None:
    """Leave the namespaces in ``flags`` for new ones (pid: children only)."""
    _call("unshare", ctypes.c_int(flags))


def setns(descriptor: int, kind: int) -> None:
    """Join the namespace behind ``descriptor``."""
    _call("setns", ctypes.c_int(descriptor), ctypes.c_int(kind))


def sethostname(name: str) -> None:
    """The hostname of this UTS namespace."""
    data = name.encode()
    _call("sethostname", ctypes.c_char_p(data), ctypes.c_size_t(len(data)))


def mount(
    source: str | None, target: str, kind: str | None = None, flags: int = 0, data: str = ""
) -> None:
    """mount(2); errors name the target."""
    try:
        _call(
            "mount",
            ctypes.c_char_p(_text(source)),
            ctypes.c_char_p(_text(target)),
            ctypes.c_char_p(_text(kind)),
            ctypes.c_ulong(flags),
            ctypes.c_char_p(data.encode() if data else None),
        )
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({source or kind} on {target})") from None


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2)."""
    _call("umount2", ctypes.c_char_p(_text(target)), ctypes.c_int(flags))


def pivot_root(new: str, old: str) -> None:
    """Make ``new`` the root of this mount namespace; the former root appears at ``old``."""
    numbers = {"x86_64": 155, "aarch64": 41, "riscv64": 41, "ppc64le": 203, "s390x": 217}
    number = numbers.get(os.uname().machine)
    if number is None:
        raise OSError(38, f"pivot_root: number unknown on {os.uname().machine}")
    _call(
        "syscall",
        ctypes.c_long(number),
        ctypes.c_char_p(_text(new)),
        ctypes.c_char_p(_text(old)),
    )


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    _call("prctl", ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero)


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send ``signal_number`` here when the parent is gone."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def make_dumpable() -> None:
    """Our /proc entries belong to us again, as after an exec, though we have changed users."""
    _prctl(_PR_SET_DUMPABLE, 1)


def become_subreaper() -> None:
    """Orphaned descendants become our children."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_new_privileges() -> None:
    """setuid programs and file capabilities no longer raise privileges."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def install_filter(program: bytes) -> None:
    """Have the kernel look at each system call from here on (seccomp). It takes the privilege of
    SYS_ADMIN here, or that new ones are forbidden."""
    buffer = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("=H6xQ", len(program) // 8, ctypes.addressof(buffer))
    zero = ctypes.c_ulong(0)
    _call(
        "prctl",
        ctypes.c_int(_PR_SET_SECCOMP),
        ctypes.c_ulong(_SECCOMP_MODE_FILTER),
        ctypes.c_char_p(described),
        zero,
        zero,
    )


def limit_capabilities(kept: frozenset[int]) -> None:
    """Drop everything but ``kept`` from the bounding set: what root may ever have here."""
    for number in range(64):
        if number in kept:
            continue
        try:
            _prctl(_PR_CAPBSET_DROP, number)
        except OSError:
            if number > max(CAPABILITIES.values()):
                return  # past the last one this kernel knows
            raise


def permitted_capabilities() -> frozenset[str]:
    """Those that we may use ourselves, by name: this machine may be a container that lacks some."""
    mask = _permitted()
    return frozenset(name for name, number in CAPABILITIES.items() if mask >> number & 1)


def _permitted() -> int:
    data = (ctypes.c_uint32 * 6)()
    _call("capget", (ctypes.c_uint32 * 2)(*_CAPABILITY_HEADER), data)
    return int(data[1] | data[4] << 32)


def set_capabilities(kept: frozenset[int]) -> None:
    """Permitted and effective become ``kept``, as far as we have it ourselves; inheritable becomes
    empty."""
    header = (ctypes.c_uint32 * 2)(*_CAPABILITY_HEADER)
    mask = sum(1 << number for number in kept) & _permitted()
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    _call("capset", header, data)


def map_single_user(inner_uid: int, inner_gid: int, outer_uid: int, outer_gid: int) -> None:
    """In a fresh user namespace: we, and only we, appear as ``inner_uid``:``inner_gid``."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{inner_uid} {outer_uid} 1"),
        ("gid_map", f"{inner_gid} {outer_gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
