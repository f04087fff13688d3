"""Prometheus metrics under upstream's names (``apiserver/pkg/endpoints/metrics``)."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from kubarium.api.catalog import Catalog
from kubarium.server.registry import Registry
from kubarium.server.wire import RequestInfo

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Upstream's buckets of apiserver_request_duration_seconds.
_BUCKETS = (
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30,
    45, 60,
)  # fmt: skip
_KNOWN_VERBS = {
    "get": "GET",
    "list": "LIST",
    "watch": "WATCH",
    "create": "POST",
    "update": "PUT",
    "patch": "PATCH",
    "delete": "DELETE",
    "deletecollection": "DELETECOLLECTION",
}


class _StoredObjects(Collector):
    """How many objects of each kind are stored; counted when somebody asks."""

    def __init__(self, registry: Registry, catalog: Catalog) -> None:
        self._registry = registry
        self._catalog = catalog

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "apiserver_storage_objects",
            "Number of stored objects at the time of last check split by kind.",
            labels=["resource"],
        )
        for kind in self._catalog.storage_kinds():
            page = self._registry.store.range(self._registry.prefix(kind), limit=1)
            family.add_metric([kind.resource.qualified], page.count)
        yield family


class Metrics:
    """The server's metrics in a registry of their own (several servers may share a process)."""

    def __init__(self, registry: Registry) -> None:
        self._collectors = CollectorRegistry()
        labels = ["verb", "group", "version", "resource", "subresource", "scope"]
        self._requests = Counter(
            "apiserver_request",
            "Counter of apiserver requests broken out for each verb, dry run value, group, "
            "version, resource, scope, component, and HTTP response code.",
            [*labels, "code"],
            registry=self._collectors,
        )
        self._durations = Histogram(
            "apiserver_request_duration_seconds",
            "Response latency distribution in seconds for each verb, group, version, resource, "
            "subresource, scope and component.",
            labels,
            buckets=_BUCKETS,
            registry=self._collectors,
        )
        self._inflight = Gauge(
            "apiserver_current_inflight_requests",
            "Maximal number of currently used inflight request limit of this apiserver per "
            "request kind in last second.",
            ["request_kind"],
            registry=self._collectors,
        )
        self._watches = Gauge(
            "apiserver_longrunning_requests",
            "Gauge of all active long-running apiserver requests.",
            ["verb"],
            registry=self._collectors,
        )
        self._collectors.register(_StoredObjects(registry, registry.catalog))

    def observe(self, info: RequestInfo, code: int, seconds: float) -> None:
        """Count a request that has been answered; watches and logs only when they end."""
        scope = "resource" if info.name else "namespace" if info.namespace else "cluster"
        labels = (
            _KNOWN_VERBS.get(info.verb, info.verb.upper()),
            info.group,
            info.version,
            info.resource,
            info.subresource,
            scope if info.resource else "",
        )
        self._requests.labels(*labels, str(code)).inc()
        if not info.long_running:
            self._durations.labels(*labels).observe(seconds)

    def show_inflight(self, reads: int, writes: int, watches: int) -> None:
        """What is going on now."""
        self._inflight.labels("readOnly").set(reads)
        self._inflight.labels("mutating").set(writes)
        self._watches.labels("WATCH").set(watches)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._collectors)
