"""Node life cycle: notices nodes that fall silent, taints them, and moves their pods away.

A node is alive while its lease is renewed or its status is written. The moment counts at which we
see that (not the time written in the lease), so that clocks need not agree. One sweep looks at all
nodes when the first of them may be overdue; a heartbeat costs a dictionary entry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from kubarium.api.kinds import LEASES, NODES, PODS
from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339, rfc3339
from kubarium.base.errors import ApiError
from kubarium.control.core import taints
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.informer import key_of
from kubarium.runtime.parts import of_spec
from kubarium.runtime.protocol import Context, Key
from kubarium.view.pods import node_of

LEASE_NAMESPACE = "kube-node-lease"
# Silence after which a node is Unknown (--node-monitor-grace-period).
GRACE_S = 40.0
# A node that has never reported gets longer (--node-startup-grace-period).
STARTUP_GRACE_S = 60.0
# The sweep never comes more often than this (--node-monitor-period).
PERIOD_S = 5.0
# A pod lives at least so long before a taint evicts it: a template that names a tainted node would
# otherwise have its pods made and deleted as fast as the machine can.
NEWBORN_S = 1.0
_BY_NODE = "pod-by-node"
_WATCHED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


class NodeLifecycle:
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(
        self,
        context: Context,
        *,
        grace_s: float = GRACE_S,
        startup_grace_s: float = STARTUP_GRACE_S,
    ) -> None:
        self._context = context
        self._grace_s = grace_s
        self._startup_grace_s = startup_grace_s
        self._recorder = EventRecorder(context, "node-controller")
        self._evictions = EventRecorder(context, "taint-eviction-controller")
        # By node, the pods that have a while left before a taint evicts them.
        self._doomed: dict[str, set[Key]] = {}
        self._seen: dict[str, float] = {}  # monotonic time of the last sign of life
        self._appeared: dict[str, float] = {}
        self._new_node = asyncio.Event()
        self.controller = Controller("node-lifecycle-controller", context, self._reconcile)
        self._nodes = self.controller.watches(NODES)
        self._leases = self.controller.reads(LEASES)
        self._pods = self.controller.reads(PODS)
        self._pods.add_index(_BY_NODE, node_index)
        self._nodes.on_change(self._node_changed)
        self._leases.on_change(self._lease_changed)
        self._pods.on_change(self._pod_changed)

    @property
    def name(self) -> str:
        return self.controller.name

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.controller.run(), name=self.name)
            group.create_task(self._watch_silence(), name=f"{self.name}/sweep")

    # signs of life

    def _node_changed(self, old: Document | None, new: Document | None) -> None:
        if new is None:
            assert old is not None
            for known in (self._seen, self._appeared, self._doomed):
                known.pop(old["metadata"]["name"], None)
            return
        name = new["metadata"]["name"]
        now = self._context.clock.monotonic()
        if name not in self._appeared:
            self._appeared[name] = now
            self._new_node.set()
        if _heartbeat(new) and (old is None or _heartbeat(old) != _heartbeat(new)):
            self._seen[name] = now

    def _lease_changed(self, old: Document | None, new: Document | None) -> None:
        if new is None or new["metadata"]["namespace"] != LEASE_NAMESPACE:
            return
        renewed = (new.get("spec") or {}).get("renewTime")
        if renewed and (old is None or (old.get("spec") or {}).get("renewTime") != renewed):
            self._seen[new["metadata"]["name"]] = self._context.clock.monotonic()

    def _pod_changed(self, old: Document | None, new: Document | None) -> None:
        """A pod that lands on a tainted node may have to go at once."""
        if new is None:
            return
        name = node_of(new)
        if name and (old is None or node_of(old) != name):
            node = self._nodes.get(name)
            if node is not None and _no_execute(node):
                self.controller.enqueue(("", name))

    async def _watch_silence(self) -> None:
        for informer in (self._nodes, self._leases):
            await informer.wait_synced()
        while True:
            self._new_node.clear()
            if not self._appeared:
                await self._new_node.wait()
            await self._context.clock.sleep(self._sweep())

    def _sweep(self) -> float:
        """Enqueue overdue nodes; seconds until the next one may be overdue."""
        now = self._context.clock.monotonic()
        wait_s = self._grace_s
        for name in self._appeared:
            left_s = self._left_s(name, now)
            if left_s > 0:
                wait_s = min(wait_s, left_s)
            elif not self._is_noted_silent(name):
                self.controller.enqueue(("", name))
        return max(wait_s, PERIOD_S)

    def _left_s(self, name: str, now: float) -> float:
        """Seconds until the node counts as silent; negative if it does."""
        if name in self._seen:
            return self._seen[name] + self._patience_s(name) - now
        return self._appeared.get(name, now) + self._startup_grace_s - now

    def _patience_s(self, name: str) -> float:
        """How long a node may be silent: its lease says so if it renews more rarely than usual."""
        lease = self._leases.get(name, LEASE_NAMESPACE)
        promised = ((lease or {}).get("spec") or {}).get("leaseDurationSeconds") or 0
        return max(self._grace_s, float(promised))

    def _is_noted_silent(self, name: str) -> bool:
        node = self._nodes.get(name)
        condition = writes.find_condition((node or {}).get("status") or {}, "Ready")
        return condition is not None and condition.get("status") == "Unknown"

    # one node

    async def _reconcile(self, key: Key) -> float | None:
        name = key[1]
        node = self._nodes.get(name)
        if node is None or writes.is_terminating(node):
            return None
        if self._left_s(name, self._context.clock.monotonic()) <= 0:
            node = await self._note_silence(node)
        node = await self._taint(node)
        return await self._evict(node)

    async def _note_silence(self, node: Document) -> Document:
        status = dict(node.get("status") or {})
        conditions: list[Document] = list(status.get("conditions") or ())
        now = self._context.clock.now()
        was_ready = writes.condition_is_true(status, "Ready")
        for type_ in _WATCHED:
            held = writes.find_condition({"conditions": conditions}, type_)
            if held is not None and held.get("status") == "Unknown":
                continue
            never = held is None
            reason = "NodeStatusNeverUpdated" if never else "NodeStatusUnknown"
            message = "Kubelet never posted node status."
            if held is not None:
                message = "Kubelet stopped posting node status."
            beat = (held or {}).get("lastHeartbeatTime") or node["metadata"]["creationTimestamp"]
            conditions = writes.set_condition(
                conditions, type_, "Unknown", reason, message, now, lastHeartbeatTime=beat
            )
        status["conditions"] = conditions
        node = await writes.update_status(self._context, NODES, node, status)
        if was_ready:
            name = node["metadata"]["name"]
            message = f"Node {name} status is now: NodeNotReady"
            self._recorder.event(node, "Normal", "NodeNotReady", message)
            await self._mark_pods(name)
        return node

    async def _mark_pods(self, node: str) -> None:
        """Pods of a silent node are not ready: endpoints must not point there."""
        now = self._context.clock.now()
        for pod in self._pods.by_index(_BY_NODE, node):
            if not writes.condition_is_true(pod.get("status") or {}, "Ready"):
                continue
            conditions = [
                {**condition, "status": "False", "lastTransitionTime": rfc3339(now)}
                if condition.get("type") == "Ready"
                else condition
                for condition in pod["status"]["conditions"]
            ]
            status = {**pod["status"], "conditions": conditions}
            try:
                await writes.update_status(self._context, PODS, pod, status)
            except ApiError as error:
                if error.reason not in ("NotFound", "Conflict"):
                    raise
                continue
            self._recorder.event(pod, "Warning", "NodeNotReady", "Node is not ready")

    async def _taint(self, node: Document) -> Document:
        wanted = taints.wanted_taints(node, self._context.clock.now())
        if wanted is None:
            return node
        change = {
            "metadata": {"resourceVersion": node["metadata"]["resourceVersion"]},
            "spec": {"taints": wanted or None},
        }
        return await writes.patch(self._context, NODES, node, change)

    async def _evict(self, node: Document) -> float | None:
        """Delete pods whose time on the tainted node is over; seconds until the next one."""
        name, harmful = node["metadata"]["name"], _no_execute(node)
        doomed = self._doomed.pop(name, set())
        if not harmful and not doomed:
            return None
        now = self._context.clock.now()
        waits: list[float] = []
        for pod in self._pods.by_index(_BY_NODE, name):
            if writes.is_terminating(pod) or _has_ended(pod):
                continue
            delay_s = taints.eviction_delay_s(pod, harmful) if harmful else None
            if delay_s is None:
                self._note_reprieve(pod, doomed)
                continue
            if delay_s:
                self._doomed.setdefault(name, set()).add(key_of(pod))
            left_s = _tainted_since(harmful, pod) + delay_s - now
            grown_up_s = parse_rfc3339(pod["metadata"]["creationTimestamp"]) + NEWBORN_S - now
            if delay_s and left_s > 0:
                waits.append(left_s)
            elif grown_up_s > 0:
                waits.append(grown_up_s)
            else:
                await self._delete(pod)
        return min(waits, default=None)

    def _note_reprieve(self, pod: Document, doomed: set[Key]) -> None:
        """Say that a pod which had a while left may stay after all."""
        if key_of(pod) in doomed:
            metadata = pod["metadata"]
            message = f"Cancelling deletion of Pod {metadata['namespace']}/{metadata['name']}"
            self._evictions.event(pod, "Normal", "TaintManagerEviction", message)

    async def _delete(self, pod: Document) -> None:
        metadata = pod["metadata"]
        message = f"Marking for deletion Pod {metadata['namespace']}/{metadata['name']}"
        self._evictions.event(pod, "Normal", "TaintManagerEviction", message)
        await mark_disrupted(
            self._context,
            pod,
            "DeletionByTaintManager",
            "Taint manager: deleting due to NoExecute taint",
        )
        await writes.delete(self._context, PODS, pod)


async def mark_disrupted(
    context: Context, pod: Document, reason: str, message: str, phase: str = ""
) -> None:
    """Condition DisruptionTarget (KEP-3329), and a phase if given; nothing if the pod is gone."""
    status = dict(pod.get("status") or {})
    status["conditions"] = writes.set_condition(
        status.get("conditions") or [],
        "DisruptionTarget",
        "True",
        reason,
        message,
        context.clock.now(),
        observedGeneration=pod["metadata"].get("generation", 1),
    )
    if phase:
        status["phase"] = phase
    try:
        await writes.update_status(context, PODS, pod, status)
    except ApiError as error:
        if error.reason != "NotFound":
            raise


@of_spec
def node_index(pod: Document) -> Iterable[str]:
    """Index function: ``spec.nodeName``."""
    name = node_of(pod)
    return (name,) if name else ()


def _heartbeat(node: Document) -> list[tuple[str, str]]:
    """What changes when the node itself reports: our own Unknown does not."""
    return [
        (condition.get("type", ""), condition.get("lastHeartbeatTime", ""))
        for condition in (node.get("status") or {}).get("conditions") or ()
    ]


def _no_execute(node: Document) -> list[Document]:
    return [
        taint
        for taint in (node.get("spec") or {}).get("taints") or ()
        if taint.get("effect") == "NoExecute"
    ]


def _tainted_since(harmful: list[Document], pod: Document) -> float:
    """When the pod's time began to run: the first taint, or the pod's own start if later."""
    times = [parse_rfc3339(taint["timeAdded"]) for taint in harmful if taint.get("timeAdded")]
    created = parse_rfc3339(pod["metadata"]["creationTimestamp"])
    return max(min(times, default=created), created)


def _has_ended(pod: Document) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
