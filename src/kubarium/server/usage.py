"""``metrics.k8s.io`` answered: what the node agents measured, joined with the objects it is of.

And the ComponentStatuses of old: whoever answers runs in one process with all of them, which ends
when one of them does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kubarium.api.catalog import Kind
from kubarium.api.kinds import NODES, PODS
from kubarium.api.resource import Document, ListResult
from kubarium.api.usage import NODE_METRICS, PodUse, node_metrics, pod_metrics
from kubarium.base.errors import ApiError, not_found
from kubarium.server.reads import check_list_options, selector_of
from kubarium.server.registry import Registry
from kubarium.server.requests import ListOptions

COMPONENTS = ("controller-manager", "scheduler", "etcd-0")

# Asks all node agents; None before there is any.
UsageSource = Callable[[], Awaitable[list[PodUse]]]


class UsageReader:
    """Reads of kinds that are measured when somebody asks."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.source: UsageSource | None = None

    async def get(self, kind: Kind, namespace: str, name: str) -> Document:
        """One object. ApiError 404, also for what has not been measured yet; 503."""
        for document in await self._all(kind, namespace):
            if document["metadata"]["name"] == name:
                return document
        resource = kind.resource
        full_name = f"{namespace}/{name}" if namespace else name
        raise not_found(resource.kind.lower(), resource.group, full_name)

    async def page(self, kind: Kind, namespace: str, options: ListOptions) -> ListResult:
        """All objects at once, whatever limit the client sets. ApiError 400, 422, 503."""
        check_list_options(options)
        matches = selector_of(kind, options.label_selector, options.field_selector)
        found = await self._all(kind, namespace)
        return ListResult([d for d in found if matches is None or matches(d)], "")

    async def _all(self, kind: Kind, namespace: str) -> list[Document]:
        if kind.resource.plural == "componentstatuses":
            return [_healthy(name) for name in COMPONENTS]
        if self.source is None:
            raise ApiError(503, "ServiceUnavailable", "no node agent is here that could answer")
        uses = await self.source()
        return self._nodes(uses) if kind.resource == NODE_METRICS else self._pods(uses, namespace)

    def _pods(self, uses: list[PodUse], namespace: str) -> list[Document]:
        kind, found = self._registry.kind_of("", "v1", PODS.plural), []
        for use in sorted(uses, key=lambda use: (use.namespace, use.name)):
            if namespace in ("", use.namespace):
                record = self._registry.find(kind, use.namespace, use.name)
                if record is not None:
                    found.append(pod_metrics(use, record.value["metadata"].get("labels") or {}))
        return found

    def _nodes(self, uses: list[PodUse]) -> list[Document]:
        by_node: dict[str, list[PodUse]] = {}
        for use in uses:
            by_node.setdefault(use.node, []).append(use)
        now, registry = self._registry.clock.now(), self._registry
        kind = registry.kind_of("", "v1", NODES.plural)
        nodes = registry.store.range(registry.prefix(kind, "")).records
        return [
            node_metrics(node["name"], by_node.get(node["name"], []), now, node.get("labels") or {})
            for node in (record.value["metadata"] for record in nodes)
        ]


def _healthy(component: str) -> Document:
    condition = {"type": "Healthy", "status": "True", "message": "ok"}
    metadata = {"name": component}
    return {
        "apiVersion": "v1",
        "kind": "ComponentStatus",
        "metadata": metadata,
        "conditions": [condition],
    }
