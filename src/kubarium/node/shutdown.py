"""Graceful shutdown of nodes (KEP-2000, KEP-2712): pods end by priority, each with its time.

Source: kubelet's ``nodeshutdown_manager_linux.go``; there systemd gives the order, here a mark on
the Node (:mod:`kubarium.view.shutdown`) or SIGTERM to the agent. When all pods have ended the node
is off: no lease is renewed and nothing is started, until the annotation is taken away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from kubarium.api.resource import Document
from kubarium.base.clock import Clock
from kubarium.node.eviction.manager import Evictable, Tell
from kubarium.node.kubelet_config import CRITICAL_PRIORITY, KubeletConfig, ShutdownGroup
from kubarium.node.lifecycle import events as ev
from kubarium.node.lifecycle.plan import priority_of
from kubarium.view.shutdown import is_ordered, ordered_grace_s

REASON = "Terminated"
MESSAGE = "Pod was terminated in response to imminent node shutdown."
REFUSAL = ("NodeShutdown", "Pod was rejected as the node is shutting down.")
NOT_READY = "node is shutting down"
# What pods get where neither the order nor the configuration says.
DEFAULT_GRACE_S = 30.0
_CRITICAL_GRACE_S = 10.0
_LOOK_S = 0.1
# A group whose pods have not ended is waited for so long beyond its time.
LATE_S = 1.0


def group_of(groups: Sequence[ShutdownGroup], priority: int) -> int:
    """The index of the group (sorted by priority) that a pod belongs to: the last one that is not
    above it; the first if all are."""
    below = [index for index, group in enumerate(groups) if group.priority <= priority]
    return below[-1] if below else 0


class NodeShutdown:
    """The shutdowns of one agent's nodes. ``changed`` is told when a node's status is another;
    ``started`` when a node is on again. ``ready`` is set once the pods are known."""

    def __init__(
        self,
        clock: Clock,
        nodes: Mapping[str, KubeletConfig],
        pods: Mapping[str, Evictable],
        tell: Tell,
        changed: Callable[[str], None],
        started: Callable[[str], None],
        ready: asyncio.Event,
    ) -> None:
        self._clock = clock
        self._nodes = nodes
        self._pods = pods
        self._tell = tell
        self._changed = changed
        self._started = started
        self._ready = ready
        self._going: dict[str, asyncio.Task[None]] = {}
        self._off: dict[str, None] = {}
        self._ending = False  # the agent is about to end: nothing calls that off

    def not_ready(self, node: str) -> str:
        """Why a node is not ready; "" if it is not being shut down."""
        return NOT_READY if node in self._going else ""

    def is_off(self, node: str) -> bool:
        """Whether all its pods have ended, and it is silent."""
        return node in self._off

    def refuses(self, pod: Document, node: str) -> tuple[str, str] | None:
        """Nothing new begins on a node that is being shut down."""
        return REFUSAL if node in self._going else None

    def look(self, document: Document) -> None:
        """A Node of ours is new or has changed."""
        name = document["metadata"]["name"]
        if is_ordered(document) and name not in self._going:
            self._begin(name, self._groups(name, ordered_grace_s(document)))
        elif not is_ordered(document) and name in self._going and not self._ending:
            self._cancel(name)

    def configured(self) -> list[str]:
        """The nodes whose configuration says that they shut down gracefully."""
        return [name for name, config in self._nodes.items() if config.shutdown]

    async def shut_down(self) -> None:
        """All nodes that are configured to: returns when their pods have ended, or their time."""
        self._ending = True
        tasks = [
            self._going.get(name) or self._begin(name, self._nodes[name].shutdown)
            for name in self.configured()
        ]
        await asyncio.gather(*tasks)

    def close(self) -> None:
        for task in self._going.values():
            task.cancel()

    def _groups(self, name: str, grace_s: float | None) -> Sequence[ShutdownGroup]:
        if grace_s is None and self._nodes[name].shutdown:
            return self._nodes[name].shutdown
        wanted = DEFAULT_GRACE_S if grace_s is None else grace_s
        critical = ShutdownGroup(CRITICAL_PRIORITY, min(wanted, _CRITICAL_GRACE_S))
        return (ShutdownGroup(0, wanted), critical)

    def _begin(self, name: str, groups: Sequence[ShutdownGroup]) -> asyncio.Task[None]:
        self._tell(name, "Normal", "NodeShutdown", "Shutdown manager detected shutdown event")
        task = asyncio.get_running_loop().create_task(self._end_pods(name, groups))
        self._going[name] = task
        self._changed(name)
        return task

    def _cancel(self, name: str) -> None:
        self._going.pop(name).cancel()
        was_off = self._off.pop(name, "") is None
        said = "start" if was_off else "shutdown cancellation"
        self._tell(name, "Normal", "NodeShutdown", f"Shutdown manager detected {said}")
        self._changed(name)
        if was_off:
            self._started(name)

    async def _end_pods(self, name: str, groups: Sequence[ShutdownGroup]) -> None:
        await self._ready.wait()  # an agent that starts has yet to find its pods
        for index, group in enumerate(groups):
            pods = [
                actor
                for actor in self._pods.values()
                if actor.node.name == name
                and not actor.machine.finished
                and group_of(groups, priority_of(actor.machine.pod)) == index
            ]
            for actor in pods:
                actor.deliver(ev.Terminate(REASON, MESSAGE, group.period_s, disrupts=True))
            end = self._clock.monotonic() + group.period_s + LATE_S
            while any(not actor.machine.finished for actor in pods):
                if self._clock.monotonic() >= end:
                    break
                await self._clock.sleep(_LOOK_S)
        self._off[name] = None
