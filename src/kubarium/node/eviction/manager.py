"""Watches nodes for pressure and pods for what they may not use, and evicts (kubelet's manager).

One for each agent. A node is looked at once a second where a look costs little; after an eviction
not again until the pod has gone, or half a minute has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from kubarium.api.resource import Document
from kubarium.base.clock import Clock
from kubarium.node.eviction.pressure import Pressure
from kubarium.node.eviction.ranking import (
    REASON,
    condition_message,
    low_message,
    ranked,
    storage_excess,
)
from kubarium.node.eviction.usage import (
    CONDITION_OF,
    DISK_PRESSURE,
    RESOURCE_OF,
    Observed,
    PodUsage,
)
from kubarium.node.kubelet_config import (
    IMAGE_FS,
    NODE_FS,
    KubeletConfig,
    Threshold,
    is_critical,
)
from kubarium.node.lifecycle import events as ev
from kubarium.node.lifecycle.machine import PodMachine
from kubarium.node.lifecycle.plan import qos_class
from kubarium.node.lifecycle.records import ALIVE
from kubarium.node.runner import NodeFacts

# What is evicted because memory or disk runs out gets this long (kubelet's figure).
IMMEDIATE_GRACE_S = 1.0
# How long the evicted pod is waited for before the next one is.
CLEANUP_S = 30.0
_MEMORY_TAINT = "node.kubernetes.io/memory-pressure"


class Evictable(Protocol):
    """A pod of ours, as the actors give it."""

    @property
    def machine(self) -> PodMachine: ...
    @property
    def node(self) -> NodeFacts: ...
    def deliver(self, event: ev.Event) -> None: ...


class UsageMeter(Protocol):
    """Who measures, or says what is to be taken as measured."""

    async def wait(self) -> None:
        """Until it is time for the next look."""
        ...

    async def observe(self, node: NodeFacts, pods: Mapping[str, Evictable]) -> Observed:
        """One node's signals and the usage of these pods, by uid."""
        ...


# (bytes that must be free, or None where it is not bytes that are short): bytes that were freed
Reclaim = Callable[[int | None], Awaitable[int]]
# (node, event type, reason, message)
Tell = Callable[[str, str, str, str], None]


@dataclass(slots=True)
class _Node:
    pressure: Pressure
    config: KubeletConfig
    facts: NodeFacts
    leaving: str = ""  # uid of the pod that was evicted last
    since: float = 0.0


class EvictionManager:
    """See the module. ``changed`` is called with a node whose conditions are others now."""

    def __init__(
        self,
        clock: Clock,
        nodes: Mapping[str, tuple[NodeFacts, KubeletConfig]],
        pods: Mapping[str, Evictable],
        meter: UsageMeter,
        tell: Tell,
        changed: Callable[[str], None],
        reclaim: Reclaim,
    ) -> None:
        """``reclaim`` gives back what of the disk the node itself can do without."""
        self._clock = clock
        self._reclaim = reclaim
        self._pods = pods
        self._meter = meter
        self._tell = tell
        self._changed = changed
        self._nodes = {
            name: _Node(Pressure(config.thresholds, config.transition_s), config, facts)
            for name, (facts, config) in nodes.items()
        }

    def conditions(self, node: str) -> tuple[str, ...]:
        """Of MemoryPressure, DiskPressure and PIDPressure those that hold."""
        return self._nodes[node].pressure.conditions

    def refuses(self, pod: Document, node: str) -> tuple[str, str] | None:
        """Why a node under pressure does not take a new pod: reason and message."""
        held = self.conditions(node)
        if not held or is_critical(pod):
            return None
        if held == ("MemoryPressure",) and (
            qos_class(pod) != "BestEffort" or _tolerates_memory_pressure(pod)
        ):
            return None
        return REASON, condition_message(held)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self._meter.wait()
            by_node: dict[str, dict[str, Evictable]] = {name: {} for name in self._nodes}
            for uid, actor in self._pods.items():
                if actor.node.name in by_node and _is_active(actor.machine):
                    by_node[actor.node.name][uid] = actor
            for name, pods in by_node.items():
                if pods or self._nodes[name].pressure.conditions:
                    await self._look(name, self._nodes[name], pods)

    async def _look(self, name: str, node: _Node, pods: dict[str, Evictable]) -> None:
        found = await self._meter.observe(node.facts, pods)
        now = self._clock.now()
        before = node.pressure.conditions
        due = node.pressure.step(found.signals, now)
        if node.pressure.conditions != before:
            self._changed(name)
        # In the meantime some may have ended, or been told to.
        pods = {uid: actor for uid, actor in pods.items() if _is_active(actor.machine)}
        if self._evict_excessive(pods.values(), found):
            return
        if due is None or self._still_leaving(node, now):
            return
        resource = RESOURCE_OF[due.signal]
        self._tell(name, "Warning", "EvictionThresholdMet", f"Attempting to reclaim {resource}")
        if await self._reclaim_disk(node, due, found):
            found = await self._meter.observe(node.facts, pods)
            due = node.pressure.step(found.signals, now)
            if due is None:
                return
            pods = {uid: actor for uid, actor in pods.items() if _is_active(actor.machine)}
        self._evict_first(node, pods, due, found, now)

    async def _reclaim_disk(self, node: _Node, due: Threshold, found: Observed) -> bool:
        """Whether something was given back that is not a pod's (kubelet: the node's own resources
        first, its pods' after them)."""
        if CONDITION_OF[due.signal] != DISK_PRESSURE:
            return False
        least: int | None = None
        if due.signal in (NODE_FS, IMAGE_FS):
            capacity = found.signals[due.signal].capacity
            least = due.value.of(capacity) + due.minimum_reclaim.of(capacity)
        return await self._reclaim(least) > 0

    def _evict_excessive(self, pods: Iterable[Evictable], found: Observed) -> bool:
        """End those that hold more on disk than their limits allow."""
        evicted = False
        for actor in pods:
            pod = actor.machine.pod
            usage = found.pods.get(pod["metadata"]["uid"])
            text = storage_excess(pod, usage) if usage is not None else ""
            if text and not is_critical(pod):
                actor.deliver(ev.Terminate(REASON, text, IMMEDIATE_GRACE_S))
                evicted = True
        return evicted

    def _still_leaving(self, node: _Node, now: float) -> bool:
        actor = self._pods.get(node.leaving)
        return actor is not None and not actor.machine.released and now - node.since < CLEANUP_S

    def _evict_first(
        self,
        node: _Node,
        pods: Mapping[str, Evictable],
        due: Threshold,
        found: Observed,
        now: float,
    ) -> None:
        resource = RESOURCE_OF[due.signal]
        documents = [actor.machine.pod for actor in pods.values()]
        for pod in ranked(documents, found.pods, resource):
            if is_critical(pod):
                continue
            uid = pod["metadata"]["uid"]
            usage = found.pods.get(uid, PodUsage())
            text = low_message(pod, usage, resource, due, found.signals[due.signal])
            grace_s = node.config.max_pod_grace_s if due.grace_s else IMMEDIATE_GRACE_S
            node.leaving, node.since = uid, now
            pods[uid].deliver(ev.Terminate(REASON, text, grace_s, disrupts=True))
            return


def _is_active(machine: PodMachine) -> bool:
    """Whether something of the pod runs that could be ended for the others' good."""
    if machine.finished or machine.terminating:
        return False
    return any(record.state in ALIVE for record in machine.containers)


def _tolerates_memory_pressure(pod: Document) -> bool:
    for toleration in pod["spec"].get("tolerations") or ():
        effect, key = toleration.get("effect"), toleration.get("key")
        exists = toleration.get("operator") == "Exists"
        if effect in (None, "", "NoSchedule") and (
            (key == _MEMORY_TAINT and (exists or not toleration.get("value")))
            or (not key and exists)
        ):
            return True
    return False
