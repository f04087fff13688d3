"""The seccomp profile that ``RuntimeDefault`` means here, as a BPF program.

Container runtimes list what they allow; here is what they leave out (Docker documents it as
"significant syscalls blocked by the default profile"), so that calls which a newer kernel adds are
allowed, not refused. A call that a capability stands for is open to containers that have it.
Pure; ``linux.install_filter`` hands the result to the kernel.
"""

from __future__ import annotations

import struct
from collections.abc import Collection

_ADMIN, _NICE, _MODULE = "SYS_ADMIN", "SYS_NICE", "SYS_MODULE"
_TIME, _PTRACE = "SYS_TIME", "SYS_PTRACE"
# name: (number on x86-64, number on arm64, capabilities that open it)
_Entry = tuple[int, int, tuple[str, ...]]
_ABSENT = -1
DENIED: dict[str, _Entry] = {
    "_sysctl": (156, _ABSENT, ()),
    "acct": (163, 89, ("SYS_PACCT",)),
    "add_key": (248, 217, ()),
    "bpf": (321, 280, (_ADMIN, "BPF")),
    "clock_adjtime": (305, 266, (_TIME,)),
    "clock_settime": (227, 112, (_TIME,)),
    "create_module": (174, _ABSENT, ()),
    "delete_module": (176, 106, (_MODULE,)),
    "fanotify_init": (300, 262, (_ADMIN,)),
    "finit_module": (313, 273, (_MODULE,)),
    "fsconfig": (431, 431, (_ADMIN,)),
    "fsmount": (432, 432, (_ADMIN,)),
    "fsopen": (430, 430, (_ADMIN,)),
    "fspick": (433, 433, (_ADMIN,)),
    "get_kernel_syms": (177, _ABSENT, ()),
    "get_mempolicy": (239, 236, (_NICE,)),
    "init_module": (175, 105, (_MODULE,)),
    "io_uring_enter": (426, 426, ()),
    "io_uring_register": (427, 427, ()),
    "io_uring_setup": (425, 425, ()),
    "ioperm": (173, _ABSENT, ("SYS_RAWIO",)),
    "iopl": (172, _ABSENT, ("SYS_RAWIO",)),
    "kcmp": (312, 272, (_PTRACE,)),
    "kexec_file_load": (320, 294, ("SYS_BOOT",)),
    "kexec_load": (246, 104, ("SYS_BOOT",)),
    "keyctl": (250, 219, ()),
    "lookup_dcookie": (212, 18, (_ADMIN,)),
    "mbind": (237, 235, (_NICE,)),
    "migrate_pages": (256, 238, (_NICE,)),
    "mount": (165, 40, (_ADMIN,)),
    "mount_setattr": (442, 442, (_ADMIN,)),
    "move_mount": (429, 429, (_ADMIN,)),
    "move_pages": (279, 239, (_NICE,)),
    "nfsservctl": (180, 42, ()),
    "open_by_handle_at": (304, 265, ("DAC_READ_SEARCH",)),
    "open_tree": (428, 428, (_ADMIN,)),
    "perf_event_open": (298, 241, (_ADMIN, "PERFMON")),
    "pidfd_getfd": (438, 438, (_PTRACE,)),
    "pivot_root": (155, 41, (_ADMIN,)),
    "query_module": (178, _ABSENT, ()),
    "quotactl": (179, 60, (_ADMIN,)),
    "quotactl_fd": (443, 443, (_ADMIN,)),
    "reboot": (169, 142, ("SYS_BOOT",)),
    "request_key": (249, 218, ()),
    "set_mempolicy": (238, 237, (_NICE,)),
    "set_mempolicy_home_node": (450, 450, (_NICE,)),
    "setdomainname": (171, 162, (_ADMIN,)),
    "sethostname": (170, 161, (_ADMIN,)),
    "setns": (308, 268, (_ADMIN,)),
    "settimeofday": (164, 170, (_TIME,)),
    "swapoff": (168, 225, (_ADMIN,)),
    "swapon": (167, 224, (_ADMIN,)),
    "sysfs": (139, _ABSENT, ()),
    "syslog": (103, 116, (_ADMIN, "SYSLOG")),
    "umount2": (166, 39, (_ADMIN,)),
    "unshare": (272, 97, (_ADMIN,)),
    "uselib": (134, _ABSENT, ()),
    "userfaultfd": (323, 282, ()),
    "ustat": (136, _ABSENT, ()),
    "vhangup": (153, 58, ("SYS_TTY_CONFIG",)),
}
# (index into an entry, number of the architecture for the kernel, clone, clone3)
_MACHINES = {"x86_64": (0, 0xC000003E, 56, 435), "aarch64": (1, 0xC00000B7, 220, 435)}
# CLONE_NEWNS … CLONE_NEWNET.
NAMESPACE_FLAGS = 0x7E020000
_X32 = 0x40000000

_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _MACHINE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16
ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
NOT_PERMITTED, NO_SUCH_CALL = _ERRNO | 1, _ERRNO | 38


def runtime_default(machine: str, capabilities: Collection[str]) -> bytes:
    """The program for a container with these capabilities; empty on a ``machine`` (``uname -m``)
    whose call numbers are not known here."""
    known = _MACHINES.get(machine)
    if known is None:
        return b""
    column, architecture, clone, clone3 = known
    # Calls of another architecture (32-bit programs) have other numbers.
    steps = [_step(_LOAD, _MACHINE_AT), _step(_IF_EQUAL, architecture, 1), _return(NO_SUCH_CALL)]
    steps += [_step(_LOAD, _NUMBER_AT)]
    steps += [_step(_IF_AT_LEAST, _X32, 0, 1), _return(NO_SUCH_CALL)]
    for entry in DENIED.values():
        number, opened_by = (entry[0], entry[1])[column], entry[2]
        if number != _ABSENT and not any(name in capabilities for name in opened_by):
            steps += [_step(_IF_EQUAL, number, 0, 1), _return(NOT_PERMITTED)]
    if _ADMIN not in capabilities:
        # Its flags lie in memory, where no filter can look; the C library then takes clone.
        steps += [_step(_IF_EQUAL, clone3, 0, 1), _return(NO_SUCH_CALL)]
        steps += [_step(_IF_EQUAL, clone, 0, 3), _step(_LOAD, _FIRST_ARGUMENT_AT)]
        steps += [_step(_IF_SET, NAMESPACE_FLAGS, 0, 1), _return(NOT_PERMITTED)]
    return b"".join([*steps, _return(ALLOW)])


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction; the jumps skip so many after it."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _return(value: int) -> bytes:
    return _step(_RETURN, value)
