"""What real pods use, measured: memory and processes by control group, else by process; disk by
walking what is theirs on it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kubarium.base.clock import Clock
from kubarium.node.eviction import disk, machine
from kubarium.node.eviction.manager import Evictable
from kubarium.node.eviction.ranking import has_storage_limits
from kubarium.node.eviction.usage import ContainerUsage, Observed, PodUsage, Signal, amount_of
from kubarium.node.kubelet_config import (
    IMAGE_FS,
    IMAGE_INODES,
    MEMORY,
    NODE_FS,
    NODE_INODES,
    PIDS,
)
from kubarium.node.runner import NodeFacts
from kubarium.node.runtimes.process.pods import ProcessPods
from kubarium.node.runtimes.process.rootfs import SCRATCH_BYTES

# A look at memory and processes costs microseconds, a walk over files may cost a second: one is
# made so often, or when so much of the disk has gone since the last, and never takes more than so
# great a share of our time.
LOOK_S = 1.0
# Where memory is not counted by the kernel, a look costs a millisecond for each process.
DEAR_LOOK_S = 5.0
WALK_S = 10.0
GONE_BYTES = 16 << 20
_WALK_SHARE = 0.1


@dataclass(slots=True)
class _Walk:
    """What was found on disk, of one node's pods."""

    at: float = float("-inf")
    took_s: float = 0.0
    available: int = 0
    volumes: dict[str, dict[str, int]] = field(default_factory=dict)
    logs: dict[str, dict[str, int]] = field(default_factory=dict)
    inodes: dict[str, int] = field(default_factory=dict)


class MeasuredUsage:
    """The meter of nodes whose pods are processes."""

    def __init__(self, clock: Clock, pods: ProcessPods, folder: Path) -> None:
        self._clock = clock
        self._pods = pods
        self._folder = folder
        self._walks: dict[str, _Walk] = {}

    async def wait(self) -> None:
        await self._clock.sleep(LOOK_S if self._pods.oversight.counts_memory else DEAR_LOOK_S)

    async def observe(self, node: NodeFacts, pods: Mapping[str, Evictable]) -> Observed:
        whole_machine = machine.look(self._folder)
        walk = self._walks.setdefault(node.name, _Walk())
        if self._is_due(walk, whole_machine.disk_available, pods):
            walk = self._walks[node.name] = await self._walk(pods, whole_machine.disk_available)
        usage = {uid: self._usage(uid, walk) for uid in pods}
        return Observed(_signals(node, whole_machine, usage), usage)

    # Disk ----------------------------------------------------------------------------------------

    def _is_due(self, walk: _Walk, available: int, pods: Mapping[str, Evictable]) -> bool:
        now = self._clock.monotonic()
        since = now - walk.at
        if since * _WALK_SHARE < walk.took_s:
            return False
        limited = any(
            uid not in walk.volumes and has_storage_limits(actor.machine.pod)
            for uid, actor in pods.items()
        )
        return limited or since > WALK_S or walk.available - available > GONE_BYTES

    async def _walk(self, pods: Mapping[str, Evictable], available: int) -> _Walk:
        walk = _Walk(at=self._clock.monotonic(), available=available)
        for uid, actor in pods.items():
            place = self._pods.place(uid)
            if place is None:
                continue
            volumes = [
                volume["name"]
                for volume in actor.machine.pod["spec"].get("volumes") or ()
                if "emptyDir" in volume and (volume["emptyDir"] or {}).get("medium") != "Memory"
            ]
            names = [record.plan.name for record in actor.machine.containers]
            await asyncio.to_thread(_walk_pod, walk, uid, place, volumes, names)
        walk.took_s = self._clock.monotonic() - walk.at
        return walk

    # One pod -------------------------------------------------------------------------------------

    def _usage(self, uid: str, walk: _Walk) -> PodUsage:
        containers, processes = {}, 0
        inodes = walk.inodes.get(uid, 0)
        logs = walk.logs.get(uid, {})
        for name, (memory, running, init) in self._pods.oversight.usage(uid).items():
            written = disk.scratch_use(init, SCRATCH_BYTES)
            containers[name] = ContainerUsage(memory, written.bytes + logs.get(name, 0))
            processes += running
            inodes += written.inodes
        for name, size in logs.items():  # of containers that have ended
            containers.setdefault(name, ContainerUsage(0, size))
        return PodUsage(containers, walk.volumes.get(uid, {}), processes, inodes)


def _walk_pod(walk: _Walk, uid: str, place: Path, volumes: list[str], names: list[str]) -> None:
    found = {name: disk.folder_use(place / "volumes" / name) for name in volumes}
    logs = {name: disk.folder_use(place / "logs" / name) for name in names}
    walk.volumes[uid] = {name: use.bytes for name, use in found.items()}
    walk.logs[uid] = {name: use.bytes for name, use in logs.items() if use.bytes}
    walk.inodes[uid] = sum(use.inodes for use in (*found.values(), *logs.values()))


def _signals(
    node: NodeFacts, whole_machine: machine.Machine, usage: Mapping[str, PodUsage]
) -> dict[str, Signal]:
    """A node has what it says, less what its pods use, and never more than the machine has left."""
    memory = _left(node, "memory", sum(used.memory for used in usage.values()))
    storage = _left(node, "ephemeral-storage", sum(used.storage for used in usage.values()))
    memory = Signal(min(memory.available, whole_machine.memory_available), memory.capacity)
    storage = Signal(min(storage.available, whole_machine.disk_available), storage.capacity)
    signals = {MEMORY: memory, NODE_FS: storage, IMAGE_FS: storage}
    if whole_machine.inodes[1]:
        signals[NODE_INODES] = signals[IMAGE_INODES] = Signal(*whole_machine.inodes)
    if whole_machine.pids[1]:
        signals[PIDS] = Signal(*whole_machine.pids)
    return signals


def _left(node: NodeFacts, resource: str, used: int) -> Signal:
    return Signal.beside(used, amount_of(node.allocatable.get(resource, "0")))
