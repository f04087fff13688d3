"""What simulated pods use: what their annotations say, so that pressure can be rehearsed.

    kubarium.dev/cpu-usage                  cores, as a quantity; for `kubectl top` and autoscalers
    kubarium.dev/memory-usage               bytes, as a quantity
    kubarium.dev/ephemeral-storage-usage    bytes
    kubarium.dev/pids                       a number of processes

The first container is taken to use all of it. A node has what it says it can allocate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from fractions import Fraction

from kubarium.api.resource import Document
from kubarium.api.usage import ContainerUse, PodUse
from kubarium.base.clock import Clock
from kubarium.base.quantity import QuantityError, parse_quantity
from kubarium.node.eviction.manager import Evictable
from kubarium.node.eviction.usage import ContainerUsage, Observed, PodUsage, Signal, amount_of
from kubarium.node.kubelet_config import IMAGE_FS, MEMORY, NODE_FS, PIDS
from kubarium.node.runner import NodeFacts

CPU_USAGE = "kubarium.dev/cpu-usage"
MEMORY_USAGE = "kubarium.dev/memory-usage"
STORAGE_USAGE = "kubarium.dev/ephemeral-storage-usage"
PROCESSES = "kubarium.dev/pids"
_ALL = (MEMORY_USAGE, STORAGE_USAGE, PROCESSES)
# kubelet's monitoring interval, and Linux's usual limit.
LOOK_S = 10.0
MAX_PIDS = 32768


class InjectedUsage:
    """The meter of simulated nodes. It sleeps until a pod has such an annotation."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._some = asyncio.Event()

    def seen(self, pod: Document) -> None:
        """A pod is new or has changed."""
        annotations = pod["metadata"].get("annotations")
        if annotations and any(name in annotations for name in _ALL):
            self._some.set()

    async def wait(self) -> None:
        await self._some.wait()
        await self._clock.sleep(LOOK_S)

    async def observe(self, node: NodeFacts, pods: Mapping[str, Evictable]) -> Observed:
        usage = {uid: _usage(actor.machine.pod) for uid, actor in pods.items()}
        memory = amount_of(node.allocatable.get("memory", "0"))
        storage = amount_of(node.allocatable.get("ephemeral-storage", "0"))
        disk = Signal.beside(sum(used.storage for used in usage.values()), storage)
        signals = {
            MEMORY: Signal.beside(sum(used.memory for used in usage.values()), memory),
            NODE_FS: disk,
            IMAGE_FS: disk,
            PIDS: Signal.beside(sum(used.processes for used in usage.values()), MAX_PIDS),
        }
        return Observed(signals, usage)


def use_of(pod: Document, now: float) -> PodUse:
    """The same for ``metrics.k8s.io``; the window is the one in which it is looked at."""
    annotations = pod["metadata"].get("annotations") or {}
    try:
        cores = parse_quantity(annotations.get(CPU_USAGE, "0"))
    except QuantityError:
        cores = Fraction(0)
    first, *others = (container["name"] for container in pod["spec"]["containers"])
    used = {
        first: ContainerUse(round(cores * 10**9), amount_of(annotations.get(MEMORY_USAGE, "0")))
    }
    used |= {name: ContainerUse(0, 0) for name in others}
    metadata, node = pod["metadata"], pod["spec"]["nodeName"]
    return PodUse(metadata["namespace"], metadata["name"], node, now, LOOK_S, used)


def _usage(pod: Document) -> PodUsage:
    annotations = pod["metadata"].get("annotations") or {}
    memory, storage, pids = (amount_of(annotations.get(name, "0")) for name in _ALL)
    first = pod["spec"]["containers"][0]["name"]
    return PodUsage({first: ContainerUsage(memory, storage)}, processes=pids)
