"""A container as ``config.json`` says it (OCI runtime-spec 1.2), from what our own init would do.

The pod's network, IPC and hostname namespaces are joined before the runtime is called, so they are
not named; the same goes for the control groups. The root and /dev stand ready below ``place``.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Collection
from typing import Any

from kubarium.node.runtimes.process.engine import ProcessSpec
from kubarium.node.runtimes.process.proc_files import MASKED, READ_ONLY
from kubarium.node.runtimes.process.rootfs import Bind, RootFs
from kubarium.node.runtimes.process.seccomp import DENIED, NAMESPACE_FLAGS

VERSION = "1.0.2"  # what both runtimes of today's distributions take; nothing newer is used
ROOT, DEV = "merged", "dev"
Document = dict[str, Any]
_ARCHITECTURES = {
    "x86_64": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "aarch64": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
}
_NOT_PERMITTED, _NO_SUCH_CALL = 1, 38
_NUMBER = re.compile(r"[0-9]{1,3}", re.ASCII)


def runtime_config(spec: ProcessSpec, machine: str, allowed: Collection[str]) -> Document:
    """``spec`` has a root and (the runtimes take root's rights) a user; ``allowed`` are the
    capabilities that there are to give."""
    root, user = spec.root, spec.user
    assert root is not None
    assert user is not None
    linux: Document = {"namespaces": _namespaces(spec)}
    if not root.privileged:
        linux |= {"maskedPaths": list(MASKED), "readonlyPaths": list(READ_ONLY)}
        if spec.seccomp:
            linux["seccomp"] = seccomp_profile(user.capabilities, machine)
    return {
        "ociVersion": VERSION,
        "process": process_config(spec, allowed),
        "root": {"path": f"{root.place}/{ROOT}", "readonly": root.readonly},
        "mounts": _mounts(root),
        "linux": linux,
    }


def process_config(spec: ProcessSpec, allowed: Collection[str]) -> Document:
    """The container's command; those beside it differ in ``args`` and ``terminal`` only."""
    assert spec.user is not None
    kept = [f"CAP_{name}" for name in spec.user.capabilities if name in allowed]
    return {
        "terminal": spec.tty,
        "user": {
            "uid": spec.user.uid,
            "gid": spec.user.gid,
            "umask": 0o022,
            "additionalGids": list(spec.user.groups),
        },
        "args": list(spec.argv),
        "env": [f"{name}={value}" for name, value in spec.env.items()],
        "cwd": spec.cwd,
        "capabilities": {"bounding": kept, "effective": kept, "permitted": kept},
        "noNewPrivileges": spec.no_new_privileges,
    }


def _namespaces(spec: ProcessSpec) -> list[Document]:
    """One that looks at another's processes (an ephemeral container) shares their namespace."""
    own = [{"type": "mount"}]
    return own if spec.beside else [{"type": "pid"}, *own]


def _mounts(root: RootFs) -> list[Document]:
    protected = ["nosuid", "noexec", "nodev"]
    access = "rw" if root.privileged else "ro"
    found = [
        _mount("/proc", "proc", "proc", protected),
        _mount("/sys", "sysfs", "sysfs", [*protected, access]),
        _mount("/dev", "bind", f"{root.place}/{DEV}", ["rbind"]),
        _mount("/dev/mqueue", "mqueue", "mqueue", protected),
    ]
    if root.cgroups and not root.privileged:
        options = [*protected, "mode=755", "size=64k"]
        folders = [name for name, _ in root.cgroups if name]
        if folders:
            found.append(_mount("/sys/fs/cgroup", "tmpfs", "tmpfs", options))
        found += [
            _mount(f"/sys/fs/cgroup/{name}".rstrip("/"), "bind", folder, ["bind", "ro"])
            for name, folder in root.cgroups
        ]
    return found + [_bound(bind) for bind in root.binds]


def _bound(bind: Bind) -> Document:
    access = "ro" if bind.readonly else "rw"
    return _mount(bind.target, "bind", bind.source, ["rbind", "rprivate", access])


def _mount(target: str, kind: str, source: str, options: list[str]) -> Document:
    return {"destination": target, "type": kind, "source": source, "options": options}


def seccomp_profile(capabilities: Collection[str], machine: str) -> Document:
    """RuntimeDefault in the form that OCI runtimes take; what it denies is said in ``seccomp``."""
    denied = [
        name
        for name, (_, _, opened_by) in DENIED.items()
        if not any(capability in capabilities for capability in opened_by)
    ]
    rules = [{"names": denied, "action": "SCMP_ACT_ERRNO", "errnoRet": _NOT_PERMITTED}]
    if "SYS_ADMIN" not in capabilities:
        clone3: Document = {"names": ["clone3"], "action": "SCMP_ACT_ERRNO"}
        rules.append(clone3 | {"errnoRet": _NO_SUCH_CALL})
        rules += [_clone_with(1 << bit) for bit in range(32) if NAMESPACE_FLAGS >> bit & 1]
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": _ARCHITECTURES.get(machine, []),
        "syscalls": rules,
    }


def _clone_with(flag: int) -> Document:
    masked = {"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}
    rule: Document = {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "args": [masked]}
    return rule | {"errnoRet": _NOT_PERMITTED}


def signal_number(name: str) -> int:
    """``SIGTERM``, ``TERM``, ``15`` or ``SIGRTMIN+3``; SIGTERM for what is none of these.

    >>> signal_number("QUIT"), signal_number("SIGRTMIN+3"), signal_number("9x")
    (3, 37, 15)
    """
    stem, _, more = name.upper().removeprefix("SIG").partition("+")
    known = signal.Signals.__members__.get(f"SIG{stem}", 0)
    number = int(name) if _NUMBER.fullmatch(name) else int(known)
    if more:
        number = number + int(more) if known and _NUMBER.fullmatch(more) else 0
    return number if number in signal.valid_signals() else int(signal.SIGTERM)
