"""Device health in pods' statuses: ``containerStatuses[].allocatedResourcesStatus`` (KEP-4680).

Written once a device of the pod's node has been said not to be well, and kept current from then
on; a cluster in which everything is healthy pays no writes for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kubarium.api.kinds import NODES, PODS, RESOURCE_CLAIMS
from kubarium.api.resource import Document
from kubarium.base.errors import ConfigError
from kubarium.node.drivers.health import health_of, node_health, speaks_of_health
from kubarium.node.drivers.prepare import ClaimProblem, Held, devices_held, has_claims
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.protocol import Context, Key
from kubarium.view.pods import node_of

FIELD = "allocatedResourcesStatus"

_BY_NODE = "device-pods-by-node"


def _node_of(pod: Document) -> Iterable[str]:
    node = node_of(pod)
    return (node,) if node and has_claims(pod) else ()


class HealthReport:
    """Keeps the field for the pods of some nodes."""

    def __init__(
        self, context: Context, nodes: Mapping[str, object], drivers: Mapping[str, object]
    ) -> None:
        self._context = context
        self._mine = nodes
        self._drivers = drivers
        self.controller = Controller("device-health", context, self.reconcile)
        self._pods = self.controller.watches(PODS, self._of_pod)
        self._nodes = self.controller.watches(NODES, self._of_node)
        self._claims = context.informers.get(RESOURCE_CLAIMS)
        self._pods.add_index(_BY_NODE, _node_of)

    def _of_pod(self, pod: Document) -> list[Key]:
        name = node_of(pod)
        if name not in self._mine or not has_claims(pod):
            return []
        node = self._nodes.get(name)
        return [_key(pod)] if node is not None and speaks_of_health(node) else []

    def _of_node(self, node: Document) -> list[Key]:
        name = node["metadata"]["name"]
        if name not in self._mine:
            return []
        pods = self._pods.by_index(_BY_NODE, name)
        return [_key(pod) for pod in pods if speaks_of_health(node) or _reported(pod)]

    async def reconcile(self, key: Key) -> float | None:
        """Write what the pod's devices are like now, if that is news."""
        pod = self._pods.get(key[1], key[0])
        node = self._nodes.get(node_of(pod)) if pod is not None else None
        if pod is None or node is None:
            return None
        try:
            held = devices_held(pod, lambda ns, name: self._claims.get(name, ns), self._drivers)
        except ClaimProblem:
            return None  # the pod does not hold devices any more, or not yet
        status = dict(pod.get("status") or {})
        for kind in ("containerStatuses", "initContainerStatuses"):
            if status.get(kind):
                status[kind] = [
                    {**entry, FIELD: shown} if (shown := self._shown(node, held, entry)) else entry
                    for entry in status[kind]
                ]
        await writes.update_status(self._context, PODS, pod, status)
        return None

    def _shown(
        self, node: Document, held: Mapping[str, list[Held]], entry: Document
    ) -> list[Document]:
        by_name: dict[str, list[Document]] = {}
        for item in held.get(entry["name"], ()):
            device = item.device
            resource: Document = {
                "resourceID": f"{device.driver}/{device.pool}/{device.device}",
                "health": self._health(node, device.driver, device.device),
            }
            by_name.setdefault(item.name, []).append(resource)
        return [{"name": name, "resources": found} for name, found in by_name.items()]

    @staticmethod
    def _health(node: Document, driver: str, device: str) -> str:
        try:
            return health_of(device, node_health(node, driver)).state
        except ConfigError:
            return "Unknown"


def _reported(pod: Document) -> bool:
    entries = (pod.get("status") or {}).get("containerStatuses") or ()
    return any(entry.get(FIELD) for entry in entries)


def _key(document: Document) -> Key:
    metadata = document["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
