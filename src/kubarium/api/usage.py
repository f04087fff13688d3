"""``metrics.k8s.io``: what pods and nodes use now, as `kubectl top` and autoscalers read it.

These kinds are measured when somebody asks and never stored: they can be read and listed, not
written or watched. Source: kubernetes-sigs/metrics-server, ``k8s.io/metrics/pkg/apis/metrics``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from kubarium.api.catalog import Kind, PrinterColumn, SelectableField
from kubarium.api.crds.schema import root_schema
from kubarium.api.resource import Document, Resource
from kubarium.base.clock import rfc3339

GROUP, VERSION = "metrics.k8s.io", "v1beta1"
POD_METRICS = Resource(GROUP, VERSION, "pods", "PodMetrics", True)
NODE_METRICS = Resource(GROUP, VERSION, "nodes", "NodeMetrics", False)
_USAGE: Document = {"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": True}}
_COMMON: Document = {
    "timestamp": {"type": "string", "format": "date-time"},
    "window": {"type": "string"},
}
_CONTAINER: Document = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "usage": _USAGE},
}
_CPU_MEMORY_WINDOW = (("CPU", "cpu"), ("Memory", "memory"))


@dataclass(frozen=True, slots=True)
class ContainerUse:
    """``cpu_nano``: billionths of a core, on average over the window; ``memory``: bytes that
    reclaiming would not give back."""

    cpu_nano: int
    memory: int


@dataclass(frozen=True, slots=True)
class PodUse:
    """What a pod used in the ``window_s`` seconds before ``at`` (epoch seconds)."""

    namespace: str
    name: str
    node: str
    at: float
    window_s: float
    containers: Mapping[str, ContainerUse]

    @property
    def whole(self) -> ContainerUse:
        """All of its containers together."""
        used = self.containers.values()
        return ContainerUse(sum(u.cpu_nano for u in used), sum(u.memory for u in used))


@cache
def usage_kinds() -> tuple[Kind, Kind]:
    """The kinds of pods' and of nodes' usage."""
    containers = {"containers": {"type": "array", "items": _CONTAINER}}
    return _kind(POD_METRICS, containers), _kind(NODE_METRICS, {"usage": _USAGE})


def _kind(resource: Resource, properties: Document) -> Kind:
    selectable = {"metadata.name": SelectableField(("metadata", "name"))}
    if resource.namespaced:
        selectable["metadata.namespace"] = SelectableField(("metadata", "namespace"))
        columns: tuple[PrinterColumn, ...] = ()
    else:
        columns = tuple(
            PrinterColumn(name, "string", f".usage.{key}") for name, key in _CPU_MEMORY_WINDOW
        )
    return Kind(
        resource=resource,
        schema=root_schema({"properties": properties | _COMMON}),
        storage=resource,
        singular="",
        list_kind=f"{resource.kind}List",
        selectable_fields=selectable,
        verbs=("get", "list"),
        columns=(*columns, PrinterColumn("Window", "string", ".window")),
        custom=True,
    )


def pod_metrics(use: PodUse, labels: Mapping[str, str]) -> Document:
    """A PodMetrics; ``labels`` are the pod's."""
    return {
        "kind": POD_METRICS.kind,
        "apiVersion": POD_METRICS.api_version,
        "metadata": _metadata(use.name, use.at, labels) | {"namespace": use.namespace},
        "timestamp": rfc3339(use.at),
        "window": _window(use.window_s),
        "containers": [
            {"name": name, "usage": _amounts(used)} for name, used in use.containers.items()
        ],
    }


def node_metrics(name: str, uses: list[PodUse], now: float, labels: Mapping[str, str]) -> Document:
    """A NodeMetrics: a node of ours uses what its pods use."""
    whole = [use.whole for use in uses]
    total = ContainerUse(sum(u.cpu_nano for u in whole), sum(u.memory for u in whole))
    at = max((use.at for use in uses), default=now)
    return {
        "kind": NODE_METRICS.kind,
        "apiVersion": NODE_METRICS.api_version,
        "metadata": _metadata(name, at, labels),
        "timestamp": rfc3339(at),
        "window": _window(max((use.window_s for use in uses), default=0.0)),
        "usage": _amounts(total),
    }


def _metadata(name: str, at: float, labels: Mapping[str, str]) -> Document:
    metadata: Document = {"name": name, "creationTimestamp": rfc3339(at)}
    return metadata | ({"labels": dict(labels)} if labels else {})


def _amounts(use: ContainerUse) -> Document:
    """As metrics-server writes them: nanocores and kibibytes."""
    return {"cpu": f"{use.cpu_nano}n" if use.cpu_nano else "0", "memory": f"{use.memory >> 10}Ki"}


def _window(seconds: float) -> str:
    """A Go duration, to the millisecond.

    >>> _window(10.0), _window(1_500_000.25)
    ('10s', '1500000.25s')
    """
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
