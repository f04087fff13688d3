"""What a node has left, and what its pods use of it: values that somebody has measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kubarium.base.quantity import QuantityError, whole
from kubarium.node.kubelet_config import (
    IMAGE_FS,
    IMAGE_INODES,
    MEMORY,
    NODE_FS,
    NODE_INODES,
    PIDS,
)

MEMORY_RESOURCE, STORAGE, INODES, PROCESSES = "memory", "ephemeral-storage", "inodes", "pids"
RESOURCE_OF = {
    MEMORY: MEMORY_RESOURCE,
    NODE_FS: STORAGE,
    IMAGE_FS: STORAGE,
    NODE_INODES: INODES,
    IMAGE_INODES: INODES,
    PIDS: PROCESSES,
}
DISK_PRESSURE = "DiskPressure"
CONDITION_OF = {
    MEMORY: "MemoryPressure",
    NODE_FS: DISK_PRESSURE,
    IMAGE_FS: DISK_PRESSURE,
    NODE_INODES: DISK_PRESSURE,
    IMAGE_INODES: DISK_PRESSURE,
    PIDS: "PIDPressure",
}


@dataclass(frozen=True, slots=True)
class Signal:
    """Bytes, inodes or processes."""

    available: int
    capacity: int

    @staticmethod
    def beside(used: int, capacity: int) -> Signal:
        """What is left beside what is used; nothing if that is more than there is."""
        return Signal(max(capacity - used, 0), capacity)


def amount_of(text: object) -> int:
    """A quantity in bytes or pieces; what cannot be read is nothing."""
    try:
        return whole(text)
    except QuantityError:
        return 0


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """``storage``: its logs and its writable layer."""

    memory: int = 0
    storage: int = 0


@dataclass(frozen=True, slots=True)
class PodUsage:
    """``volumes``: bytes of emptyDir volumes on disk, by name."""

    containers: Mapping[str, ContainerUsage] = field(default_factory=dict)
    volumes: Mapping[str, int] = field(default_factory=dict)
    processes: int = 0
    inodes: int = 0

    @property
    def memory(self) -> int:
        return sum(container.memory for container in self.containers.values())

    @property
    def storage(self) -> int:
        written = sum(container.storage for container in self.containers.values())
        return written + sum(self.volumes.values())

    def of(self, resource: str) -> int:
        if resource == MEMORY_RESOURCE:
            return self.memory
        if resource == STORAGE:
            return self.storage
        return self.inodes if resource == INODES else self.processes


@dataclass(frozen=True, slots=True)
class Observed:
    """One look at one node. Pods by uid."""

    signals: Mapping[str, Signal]
    pods: Mapping[str, PodUsage]
