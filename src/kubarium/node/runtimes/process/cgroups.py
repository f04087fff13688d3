"""Limits on real processes: one control group for each pod and container, below one of ours.

Version 2 where its controllers may be handed down, else version 1 by controller; the machine's own
layout is read once, from /proc. The amounts follow kubelet's ``cm/helpers_linux.go``: shares and
quota from milli-CPUs, the pod's group from the sum of its containers.

    <where we were started>/kubarium-<tag>/<pod uid>/<container>

Nothing here enters a group: the process that is to be limited writes itself into ``joins``.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kubarium.api.resource import Document
from kubarium.base.quantity import parse_quantity
from kubarium.node import claimed
from kubarium.node.runtimes.process.group_files import clear, fields, words, write

CONTROLLERS = ("memory", "cpu", "pids")
PERIOD_US = 100_000
_MINIMUM_QUOTA_US = 1_000
_MINIMUM_SHARES, _MAXIMUM_SHARES = 2, 262_144
# A pod that forks without end stops here; kubelet's podPidsLimit, of the size that clouds set.
DEFAULT_PIDS = 4096
# Memory controllers count "no limit" in whole pages below 2^63.
_UNLIMITED_V1 = -1
_PREFIX = "kubarium-"
# Version 2: a group that is held is slowed down from one part in so many below its limit.
_SLOWED_SHARE = 20


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a group may use; None is "as much as there is". Memory in bytes."""

    memory: int | None = None
    milli_cpu: int | None = None
    milli_cpu_request: int = 0
    pids: int | None = None

    @property
    def shares(self) -> int:
        """cpu.shares of version 1."""
        shares = self.milli_cpu_request * 1024 // 1000
        return min(max(shares, _MINIMUM_SHARES), _MAXIMUM_SHARES)

    @property
    def weight(self) -> int:
        """cpu.weight of version 2 (KEP-2254's line through both ranges)."""
        return 1 + (self.shares - _MINIMUM_SHARES) * 9999 // (_MAXIMUM_SHARES - _MINIMUM_SHARES)

    @property
    def quota_us(self) -> int | None:
        """Microseconds of CPU in each period."""
        if not self.milli_cpu:
            return None
        return max(self.milli_cpu * PERIOD_US // 1000, _MINIMUM_QUOTA_US)


def container_amounts(
    resources: Mapping[str, Any] | None, claims: claimed.Amounts | None = None
) -> Amounts:
    """A container's ``resources``, its limits raised by what its claims bring."""
    limits = (resources or {}).get("limits") or {}
    requests = (resources or {}).get("requests") or {}
    memory, milli = _bytes(limits.get("memory")), _milli(limits.get("cpu"))
    asked = _milli(requests.get("cpu")) if "cpu" in requests else milli
    return _raised(Amounts(memory or None, milli or None, asked or 0), claims or {})


def _raised(amounts: Amounts, claims: claimed.Amounts) -> Amounts:
    """Limits with more on top; what is not limited stays so."""
    memory, milli = math.ceil(claims.get("memory", 0)), math.ceil(1000 * claims.get("cpu", 0))
    return replace(
        amounts,
        memory=amounts.memory and amounts.memory + memory,
        milli_cpu=amounts.milli_cpu and amounts.milli_cpu + milli,
    )


def pod_amounts(pod: Document, pids: int | None = DEFAULT_PIDS) -> Amounts:
    """The whole pod's: its own ``resources``, else the sum over containers if each has a limit.

    Init containers run before the others, so the larger of both counts; sidecars run beside."""
    spec = pod["spec"]
    mains = [container_amounts(entry.get("resources")) for entry in spec.get("containers") or ()]
    initial = spec.get("initContainers") or ()
    sidecars = [entry for entry in initial if entry.get("restartPolicy") == "Always"]
    mains += [container_amounts(entry.get("resources")) for entry in sidecars]
    before = [
        container_amounts(entry.get("resources")) for entry in initial if entry not in sidecars
    ]
    found = Amounts(
        _together([a.memory for a in mains], [a.memory for a in before]),
        _together([a.milli_cpu for a in mains], [a.milli_cpu for a in before]),
        max([sum(a.milli_cpu_request for a in mains), *(a.milli_cpu_request for a in before)]),
        pids,
    )
    claims = claimed.of_pod(pod)
    more = math.ceil(1000 * claims.get("cpu", 0))
    found = replace(_raised(found, claims), milli_cpu_request=found.milli_cpu_request + more)
    own = container_amounts(spec.get("resources"))
    whole = replace(
        found,
        memory=own.memory or found.memory,
        milli_cpu=own.milli_cpu or found.milli_cpu,
        milli_cpu_request=own.milli_cpu_request or found.milli_cpu_request,
    )
    # What the runtime itself takes (a RuntimeClass's) is on top of all that.
    extra = container_amounts({"limits": spec.get("overhead") or {}})
    return replace(
        whole,
        memory=whole.memory and whole.memory + (extra.memory or 0),
        milli_cpu=whole.milli_cpu and whole.milli_cpu + (extra.milli_cpu or 0),
        milli_cpu_request=whole.milli_cpu_request + extra.milli_cpu_request,
    )


def widest(first: Amounts, second: Amounts) -> Amounts:
    """What allows all that either allows: a pod's group while its containers' change."""

    def wider(one: int | None, other: int | None) -> int | None:
        return None if one is None or other is None else max(one, other)

    return Amounts(
        wider(first.memory, second.memory),
        wider(first.milli_cpu, second.milli_cpu),
        max(first.milli_cpu_request, second.milli_cpu_request),
        wider(first.pids, second.pids),
    )


def _together(mains: list[int | None], before: list[int | None]) -> int | None:
    if not mains or any(value is None for value in (*mains, *before)):
        return None
    return max([sum(value or 0 for value in mains), *(value or 0 for value in before)])


def _bytes(text: object) -> int | None:
    return None if text is None else int(parse_quantity(text))


def _milli(text: object) -> int | None:
    if text is None:
        return None
    return math.ceil(parse_quantity(text) * 1000)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group uses now, and what became of it."""

    memory: int = 0
    peak_memory: int = 0
    cpu_ns: int = 0
    oom_kills: int = 0


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where groups of one or more controllers go: ``folder`` is ours."""

    controllers: tuple[str, ...]
    folder: Path
    version: int


@dataclass(slots=True)
class Cgroups:
    """The groups of one agent. ``shortfall`` says what this machine does not allow."""

    hierarchies: list[Hierarchy] = field(default_factory=list)
    shortfall: str = ""

    @staticmethod
    def open(tag: str, proc: str = "/proc/self", keep: bool = False) -> Cgroups:
        """Find where groups may be made, and clear what an earlier agent of this ``tag`` left
        unless its pods still run (``keep``).

        Never fails: without any, ``controllers`` is empty. Takes about a millisecond."""
        found, problems = _places(proc)
        groups = Cgroups(shortfall="; ".join(problems))
        for controllers, parent, version in found:
            folder = parent / (_PREFIX + tag)
            try:
                if not keep:
                    clear(folder)
                folder.mkdir(exist_ok=keep)
                kept = _enable(parent, folder, controllers, version)
            except OSError as error:
                groups.shortfall = f"{folder}: {error.strerror}"
                continue
            if kept:
                groups.hierarchies.append(Hierarchy(kept, folder, version))
            else:
                clear(folder)
        return groups

    @property
    def controllers(self) -> tuple[str, ...]:
        """What can be limited, of memory, cpu and pids."""
        there = {name for hierarchy in self.hierarchies for name in hierarchy.controllers}
        return tuple(name for name in CONTROLLERS if name in there)

    @property
    def folders(self) -> list[str]:
        """Our own groups: to be removed when everything in them has ended."""
        return [str(hierarchy.folder) for hierarchy in self.hierarchies]

    def create_pod(self, uid: str, amounts: Amounts) -> None:
        """The pod's group; its containers' go below it. OSError if the kernel refuses."""
        for hierarchy in self.hierarchies:
            folder = hierarchy.folder / uid
            folder.mkdir(exist_ok=True)
            if hierarchy.version == 2:
                write(folder, "cgroup.subtree_control", _plus(hierarchy.controllers))
        self.set(uid, "", amounts)

    def create_container(self, uid: str, name: str, amounts: Amounts) -> None:
        """A container's group. OSError if the kernel refuses."""
        for hierarchy in self.hierarchies:
            folder = hierarchy.folder / uid / name
            folder.mkdir(exist_ok=True)
        self.set(uid, name, amounts)

    def set(self, uid: str, name: str, amounts: Amounts) -> None:
        """Limits of a pod's (``name`` "") or container's group, at once. OSError: EBUSY where
        memory in use does not fit into the new limit."""
        for hierarchy in self.hierarchies:
            folder = hierarchy.folder / uid / name
            if hierarchy.version == 2:
                _set_unified(folder, hierarchy.controllers, amounts, bool(name))
            else:
                _set_single(folder, hierarchy.controllers, amounts)

    def joins(self, uid: str, name: str) -> list[str]:
        """Files into which a process writes "0" to enter a container's group."""
        return [str(h.folder / uid / name / "cgroup.procs") for h in self.hierarchies]

    def shown(self, uid: str, name: str) -> list[tuple[str, str]]:
        """What a container sees as /sys/fs/cgroup: (name below it, folder)."""
        return [
            ("" if h.version == 2 else h.controllers[0], str(h.folder / uid / name))
            for h in self.hierarchies
        ]

    def usage(self, uid: str, name: str) -> Usage:
        """Of a container's group; zeros for what is not counted here."""
        found = Usage()
        for hierarchy in self.hierarchies:
            folder = hierarchy.folder / uid / name
            with contextlib.suppress(OSError, ValueError):
                found = _usage(folder, hierarchy, found)
        return found

    # Memory that is running out ------------------------------------------------------------------

    def hold(self, uid: str, name: str, limit: int | None, on: bool) -> None:
        """Whether a group at its memory limit waits for more, rather than being killed.

        Version 1 lets its processes sleep until the limit is raised. Version 2 cannot: there they
        are slowed down short of the limit, which gives time to raise it. OSError.
        """
        for hierarchy in self._with_memory():
            folder = hierarchy.folder / uid / name
            if hierarchy.version == 1:
                write(folder, "memory.oom_control", "1" if on else "0")
            else:
                short = None if limit is None or not on else limit - limit // _SLOWED_SHARE
                write(folder, "memory.high", _or_max(short))

    def at_limit(self, uid: str, name: str) -> int | None:
        """A descriptor (the caller's to close) that becomes readable when the group reaches its
        limit and cannot be helped; None where the kernel has no such thing."""
        for hierarchy in self._with_memory():
            if hierarchy.version == 1:
                return _oom_notice(hierarchy.folder / uid / name)
        return None

    def working_set(self, uid: str, name: str) -> int:
        """Bytes of a group's memory that reclaiming would not give back (kubelet's figure)."""
        for hierarchy in self._with_memory():
            folder = hierarchy.folder / uid / name
            unified = hierarchy.version == 2
            with contextlib.suppress(OSError, ValueError):
                total = folder / ("memory.current" if unified else "memory.usage_in_bytes")
                idle = fields(folder / "memory.stat").get(
                    "inactive_file" if unified else "total_inactive_file", 0
                )
                return max(0, int(total.read_text()) - idle)
        return 0

    def _with_memory(self) -> list[Hierarchy]:
        return [h for h in self.hierarchies if "memory" in h.controllers]

    def remove(self, uid: str, name: str = "") -> None:
        """A container's group, or the pod's with all below; what still runs in it is killed."""
        for hierarchy in self.hierarchies:
            clear(hierarchy.folder / uid / name)

    def close(self) -> None:
        """Remove our groups."""
        for hierarchy in self.hierarchies:
            clear(hierarchy.folder)


# Where groups may be made --------------------------------------------------------------------


def _places(proc: str) -> tuple[list[tuple[tuple[str, ...], Path, int]], list[str]]:
    """(controllers, parent, version) of each hierarchy that limits something and is writable."""
    try:
        mounts = list(_mounts(f"{proc}/mountinfo"))
        own = _own_groups(f"{proc}/cgroup")
    except OSError as error:
        return [], [f"control groups: {error.strerror or error}"]
    found: list[tuple[tuple[str, ...], Path, int]] = []
    problems: list[str] = []
    for point, root, version, options in mounts:
        names = tuple(name for name in CONTROLLERS if name in options)
        key = "" if version == 2 else next((name for name in names if name in own), None)
        if key is None or key not in own:
            continue
        inside = own[key].removeprefix("" if root == "/" else root).strip("/")
        parent = Path(point) / inside
        if version == 2:
            parent, names = _delegated(parent, Path(point))
        if not names:
            continue
        if os.access(parent, os.W_OK) and os.access(parent / "cgroup.procs", os.W_OK):
            found.append((names, parent, version))
        else:
            problems.append(f"{parent} may not be written by user {os.geteuid()}")
    if not found and not problems:
        problems.append("no cgroup hierarchy with a memory, cpu or pids controller is mounted")
    return found, problems


def _mounts(path: str) -> Iterator[tuple[str, str, int, list[str]]]:
    with open(path) as file:
        for line in file:
            before, _, after = line.partition(" - ")
            kind, _, options = [*after.split(), "", ""][:3]
            if kind in ("cgroup", "cgroup2"):
                words = before.split()
                yield words[4], words[3], 2 if kind == "cgroup2" else 1, options.split(",")


def _own_groups(path: str) -> dict[str, str]:
    """Our own group by controller; by "" in version 2."""
    own: dict[str, str] = {}
    with open(path) as file:
        for line in file:
            _, names, group = line.rstrip("\n").split(":", 2)
            for name in names.split(","):
                own[name] = group
    return own


def _delegated(group: Path, top: Path) -> tuple[Path, tuple[str, ...]]:
    """Version 2 lets no group both hold processes and hand controllers down: go up until one does
    the latter already, or (a root group) may."""
    for folder in (group, *group.parents):
        handed = words(folder / "cgroup.subtree_control")
        names = tuple(name for name in CONTROLLERS if name in handed)
        if "memory" in names:
            return folder, names
        if not words(folder / "cgroup.procs") or folder == top:
            offered = words(folder / "cgroup.controllers")
            names = tuple(name for name in CONTROLLERS if name in offered)
            if names and os.access(folder / "cgroup.subtree_control", os.W_OK):
                return folder, names
        if folder == top:
            break
    return group, ()


def _enable(parent: Path, ours: Path, wanted: tuple[str, ...], version: int) -> tuple[str, ...]:
    """Hand controllers down to ``ours`` and through it; returns those that arrived."""
    if version == 1:
        return tuple(name for name in wanted if (ours / _PROOF[name]).exists())
    missing = [name for name in wanted if name not in words(parent / "cgroup.subtree_control")]
    if missing:
        write(parent, "cgroup.subtree_control", _plus(tuple(missing)))
    offered = words(ours / "cgroup.controllers")
    kept = tuple(name for name in wanted if name in offered)
    if kept:
        write(ours, "cgroup.subtree_control", _plus(kept))
    return kept


_PROOF = {"memory": "memory.limit_in_bytes", "cpu": "cpu.cfs_quota_us", "pids": "pids.max"}


# Files of a group ----------------------------------------------------------------------------


def _set_unified(folder: Path, controllers: tuple[str, ...], amounts: Amounts, leaf: bool) -> None:
    if "memory" in controllers:
        write(folder, "memory.max", _or_max(amounts.memory))
        with contextlib.suppress(OSError):  # no swap accounting
            write(folder, "memory.swap.max", "max" if amounts.memory is None else "0")
        if leaf:
            write(folder, "memory.oom.group", "1")
    if "cpu" in controllers:
        write(folder, "cpu.weight", str(amounts.weight))
        write(folder, "cpu.max", f"{_or_max(amounts.quota_us)} {PERIOD_US}")
    if "pids" in controllers:
        write(folder, "pids.max", _or_max(amounts.pids))


def _set_single(folder: Path, controllers: tuple[str, ...], amounts: Amounts) -> None:
    if "memory" in controllers:
        _set_memory(folder, _UNLIMITED_V1 if amounts.memory is None else amounts.memory)
    if "cpu" in controllers:
        quota = -1 if amounts.quota_us is None else amounts.quota_us
        write(folder, "cpu.shares", str(amounts.shares))
        write(folder, "cpu.cfs_period_us", str(PERIOD_US))
        write(folder, "cpu.cfs_quota_us", str(quota))
    if "pids" in controllers:
        write(folder, "pids.max", _or_max(amounts.pids))


def _set_memory(folder: Path, limit: int) -> None:
    """Memory alone may never exceed memory and swap: the order depends on the direction."""
    names = ["memory.limit_in_bytes"]
    swap = folder / "memory.memsw.limit_in_bytes"
    if swap.exists():
        now = int(swap.read_text())
        growing = limit < 0 or limit > now
        names.insert(0 if growing else 1, swap.name)
    for name in names:
        write(folder, name, str(limit))


def _oom_notice(folder: Path) -> int | None:
    notice = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        control = os.open(folder / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            write(folder, "cgroup.event_control", f"{notice} {control}")
        finally:
            os.close(control)
    except OSError:
        os.close(notice)
        return None
    return notice


def _usage(folder: Path, hierarchy: Hierarchy, so_far: Usage) -> Usage:
    if "memory" in hierarchy.controllers:
        unified = hierarchy.version == 2
        names = ("memory.current", "memory.peak", "memory.events")
        if not unified:
            names = ("memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control")
        now, events = int((folder / names[0]).read_text()), fields(folder / names[2])
        peak = folder / names[1]
        so_far = replace(
            so_far,
            memory=now,
            peak_memory=int(peak.read_text()) if peak.exists() else now,
            oom_kills=events.get("oom_kill", 0),
        )
    if "cpu" in hierarchy.controllers and hierarchy.version == 2:
        so_far = replace(so_far, cpu_ns=fields(folder / "cpu.stat").get("usage_usec", 0) * 1000)
    return so_far


def _plus(controllers: tuple[str, ...]) -> str:
    return " ".join(f"+{name}" for name in controllers)


def _or_max(value: int | None) -> str:
    return "max" if value is None else str(value)
