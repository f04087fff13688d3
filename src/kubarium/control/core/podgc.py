"""Pod garbage: pods on nodes that no longer exist, and ended pods beyond a limit.

Source: upstream ``pkg/controller/podgc``.
"""

from __future__ import annotations

from collections import OrderedDict

from kubarium.api.kinds import NODES, PODS
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.control.core import taints
from kubarium.control.core.nodes import mark_disrupted, node_index
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.protocol import Context, Key
from kubarium.view.pods import node_of

# Ended pods that are kept (--terminated-pod-gc-threshold).
MOST_TERMINATED = 12500
# A node may come back under its name within this time.
QUARANTINE_S = 40.0
_BY_NODE = "pod-by-node"
_EVERYTHING: Key = ("", "")


class PodGarbage(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`.

    Keys are names of nodes; the empty one stands for the limit on ended pods.
    """

    def __init__(self, context: Context, *, most_terminated: int = MOST_TERMINATED) -> None:
        self._context = context
        self._most_terminated = most_terminated
        self._ended: OrderedDict[Key, None] = OrderedDict()  # in the order in which they ended
        self._missing_since: dict[str, float] = {}
        self.controller = Controller("pod-garbage-collector", context, self._reconcile)
        self._nodes = self.controller.reads(NODES)
        self._pods = self.controller.reads(PODS)
        self._pods.add_index(_BY_NODE, node_index)
        self._nodes.on_change(self._node_changed)
        self._pods.on_change(self._pod_changed)

    def _node_changed(self, old: Document | None, new: Document | None) -> None:
        if new is None and old is not None:
            self.controller.enqueue(("", old["metadata"]["name"]))
        elif new is not None and _is_out_of_service(new):
            self.controller.enqueue(("", new["metadata"]["name"]))

    def _pod_changed(self, old: Document | None, new: Document | None) -> None:
        document = new if new is not None else old
        assert document is not None
        key = (document["metadata"]["namespace"], document["metadata"]["name"])
        if new is None or not _has_ended(new):
            self._ended.pop(key, None)
        elif key not in self._ended:
            self._ended[key] = None
            if len(self._ended) > self._most_terminated:
                self.controller.enqueue(_EVERYTHING)
        if new is not None:
            self._check_node(old, new)

    def _check_node(self, old: Document | None, new: Document) -> None:
        name = node_of(new)
        is_new_here = old is None or node_of(old) != name
        started_to_go = writes.is_terminating(new) and (
            old is None or not writes.is_terminating(old)
        )
        node = self._nodes.get(name) if name else None
        if node is None:
            is_doubtful = bool(name) and (is_new_here or started_to_go)
        else:
            is_doubtful = started_to_go and _is_out_of_service(node)
        if is_doubtful:
            self.controller.enqueue(("", name))

    async def _reconcile(self, key: Key) -> float | None:
        if key == _EVERYTHING:
            await self._trim_ended()
            return None
        name = key[1]
        node = self._nodes.get(name)
        pods = self._pods.by_index(_BY_NODE, name)
        if node is not None:
            self._missing_since.pop(name, None)
            if _is_out_of_service(node):
                await self._remove_stuck(pods)
            return None
        if not pods:
            self._missing_since.pop(name, None)
            return None
        return await self._remove_orphans(name, pods)

    async def _remove_orphans(self, name: str, pods: list[Document]) -> float | None:
        now = self._context.clock.monotonic()
        since = self._missing_since.setdefault(name, now)
        if now < since + QUARANTINE_S:
            return since + QUARANTINE_S - now
        if await self._node_exists(name):
            self._missing_since.pop(name, None)
            return None
        for pod in pods:
            message = "PodGC: node no longer exists"
            await self._force(pod, "DeletionByPodGC", message)
        # Pods that replace these get a quarantine of their own: without one, a template that names
        # a missing node would have its pods made and deleted as fast as the machine can.
        self._missing_since.pop(name, None)
        return None

    async def _node_exists(self, name: str) -> bool:
        """Ask the API itself before anything is deleted for good."""
        try:
            await self._context.client.get(NODES, name)
        except ApiError as error:
            if error.code == 404:
                return False
            raise
        return True

    async def _remove_stuck(self, pods: list[Document]) -> None:
        """Terminating pods of a node that is out of service will never be confirmed."""
        for pod in pods:
            if writes.is_terminating(pod):
                await self._force(pod, "DeletionByPodGC", "PodGC: node is out-of-service")

    async def _force(self, pod: Document, reason: str, message: str) -> None:
        if not _has_ended(pod):
            await mark_disrupted(self._context, pod, reason, message, phase="Failed")
        await writes.delete(self._context, PODS, pod, grace_period_s=0)

    async def _trim_ended(self) -> None:
        while len(self._ended) > self._most_terminated:
            (namespace, name), _ = self._ended.popitem(last=False)
            pod = self._pods.get(name, namespace)
            if pod is not None:
                await writes.delete(self._context, PODS, pod, grace_period_s=0)


def _has_ended(pod: Document) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _is_out_of_service(node: Document) -> bool:
    """Somebody has said that the node is down for good (so that what it ran cannot run on), and it
    does not say otherwise: a ready one ends its pods by itself."""
    ready = writes.find_condition(node.get("status") or {}, "Ready")
    if ready is not None and ready.get("status") == "True":
        return False
    return any(
        taint["key"] == taints.OUT_OF_SERVICE
        for taint in (node.get("spec") or {}).get("taints") or ()
    )
