"""The log subresource: which container's output, and from where."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from kubarium.api.kinds import NODES
from kubarium.api.logs import LogOptions, choose_container
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.server.registry import Registry
from kubarium.view.tuning import COLLECTOR, METRICS

LogSource = Callable[[str, str, LogOptions], AsyncIterator[bytes]]


def open_log(
    registry: Registry, source: LogSource | None, pod: Document, options: LogOptions
) -> AsyncIterator[bytes] | None:
    """The output of one container of ``pod``; None while the pod has no node: it has said nothing.

    ApiError 400 if it is unclear which container, 404 if the node is gone, 503 if no node agent
    answers. Source: LogLocation of upstream's ``pkg/registry/core/pod/strategy.go``.
    """
    container = _container(pod, options.container)
    if not node_of(registry, pod):
        return None
    if source is None:
        raise ApiError(503, "ServiceUnavailable", "no node agent is here that could give logs")
    metadata = pod["metadata"]
    return source(metadata["namespace"], metadata["name"], replace(options, container=container))


def node_of(registry: Registry, pod: Document) -> str:
    """The node whose agent is asked for what the pod does, "" if it has none; ApiError 404."""
    name: str = (pod.get("spec") or {}).get("nodeName") or ""
    if name:
        registry.fetch(registry.kind_of(NODES.group, NODES.version, NODES.plural), "", name)
    return name


def _container(pod: Document, wanted: str) -> str:
    if wanted == COLLECTOR and METRICS in (pod["metadata"].get("annotations") or {}):
        # Its node reads the metrics from this output, without a sidecar.
        return str(pod["spec"]["containers"][0]["name"])
    return choose_container(pod, wanted)
