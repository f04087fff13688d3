"""Statuses and finalizers of ClusterQueues, LocalQueues, ResourceFlavors and Cohorts.

Source: Kueue ``pkg/controller/core``.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubarium.api.kinds import (
    CLUSTER_QUEUES,
    COHORTS,
    LOCAL_QUEUES,
    RESOURCE_FLAVORS,
    WORKLOADS,
)
from kubarium.api.resource import Document, Resource
from kubarium.control.queueing.cache import QueueingCache
from kubarium.engine.queueing.fair import dominant_share
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.protocol import Context, Key
from kubarium.view.queueing.documents import RESOURCE_IN_USE_FINALIZER
from kubarium.view.queueing.readiness import Readiness, flavor_names
from kubarium.view.queueing.usage import (
    cluster_queue_status,
    local_queue_readiness,
    local_queue_status,
)
from kubarium.view.queueing.world import ADMISSION_CHECKS, Tally, same_rules

STATUS_LAG_S = 0.05
"""Counts of a queue are written at most so often: a burst of admissions is one update."""


class ClusterQueueController:
    """Active condition, usage and counts of each ClusterQueue; holds it while quota is in use."""

    def __init__(self, context: Context, cache: QueueingCache) -> None:
        self._context = context
        self._cache = cache
        self._queues = context.informers.get(CLUSTER_QUEUES)
        self.controller = Controller("kueue-clusterqueue", context, self.reconcile)
        self.controller.watches(CLUSTER_QUEUES)
        self.controller.reads(WORKLOADS).on_change(self._workload_changed)
        for resource in (RESOURCE_FLAVORS, ADMISSION_CHECKS, COHORTS, LOCAL_QUEUES):
            self.controller.reads(resource).on_change(self._rules_changed)

    def _workload_changed(self, old: Document | None, new: Document | None) -> None:
        for document in (old, new):
            for key in self._of_workload(document) if document is not None else ():
                self.controller.enqueue(key, STATUS_LAG_S)

    def _of_workload(self, workload: Document) -> Iterator[Key]:
        admission = (workload.get("status") or {}).get("admission")
        if admission:
            yield "", admission.get("clusterQueue", "")
        queue = self._cache.world.cluster_queue_of(workload)
        if queue is not None:
            yield "", queue["metadata"]["name"]

    def _rules_changed(self, old: Document | None, new: Document | None) -> None:
        if old is None or new is None or not same_rules(old, new):
            for queue in self._queues.items():
                self.controller.enqueue(("", queue["metadata"]["name"]))

    async def reconcile(self, key: Key) -> float | None:
        queue = self._queues.get(key[1])
        if queue is None:
            return None
        world = self._cache.settled()
        if writes.is_terminating(queue):
            if not (world.tallies.get(("", key[1])) or Tally()).reserving:
                await _let_go(self._context, CLUSTER_QUEUES, queue)
                return None
        else:
            queue = await _hold(self._context, CLUSTER_QUEUES, queue)
        world = self._cache.settled()
        readiness = world.readiness.get(key[1])
        if readiness is not None:
            status = cluster_queue_status(world, queue)
            await _save(self._context, CLUSTER_QUEUES, queue, status, readiness)
        return None


class LocalQueueController:
    """Active condition, usage and counts of each LocalQueue."""

    def __init__(self, context: Context, cache: QueueingCache) -> None:
        self._context = context
        self._cache = cache
        self._queues = context.informers.get(LOCAL_QUEUES)
        self.controller = Controller("kueue-localqueue", context, self.reconcile)
        self.controller.watches(LOCAL_QUEUES)
        self.controller.reads(WORKLOADS).on_change(self._workload_changed)
        self.controller.reads(CLUSTER_QUEUES).on_change(self._cluster_queue_changed)

    def _workload_changed(self, old: Document | None, new: Document | None) -> None:
        for document in (old, new):
            for key in _local_queue_of(document) if document is not None else ():
                self.controller.enqueue(key, STATUS_LAG_S)

    def _cluster_queue_changed(self, old: Document | None, new: Document | None) -> None:
        if old is not None and new is not None and same_rules(old, new):
            return
        document = new if new is not None else old
        for queue in self._queues.items():
            target = (queue.get("spec") or {}).get("clusterQueue")
            if document is not None and target == document["metadata"]["name"]:
                metadata = queue["metadata"]
                self.controller.enqueue((metadata["namespace"], metadata["name"]))

    async def reconcile(self, key: Key) -> float | None:
        queue = self._queues.get(key[1], key[0])
        if queue is None or writes.is_terminating(queue):
            return None
        world = self._cache.settled()
        name = (queue.get("spec") or {}).get("clusterQueue") or ""
        cluster_queue = world.get(CLUSTER_QUEUES, name)
        status = local_queue_status(world, queue, cluster_queue)
        readiness = local_queue_readiness(queue, cluster_queue)
        await _save(self._context, LOCAL_QUEUES, queue, status, readiness)
        return None


class ResourceFlavorController:
    """A flavor stays as long as a ClusterQueue names it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._flavors = context.informers.get(RESOURCE_FLAVORS)
        self._queues = context.informers.get(CLUSTER_QUEUES)
        self.controller = Controller("kueue-resourceflavor", context, self.reconcile)
        self.controller.watches(RESOURCE_FLAVORS)
        self.controller.reads(CLUSTER_QUEUES).on_change(self._queue_changed)

    def _queue_changed(self, old: Document | None, new: Document | None) -> None:
        if old is not None and (new is None or not same_rules(old, new)):
            for name in flavor_names(old):
                self.controller.enqueue(("", name))

    async def reconcile(self, key: Key) -> float | None:
        flavor = self._flavors.get(key[1])
        if flavor is None:
            return None
        if not writes.is_terminating(flavor):
            await _hold(self._context, RESOURCE_FLAVORS, flavor)
        elif not any(key[1] in flavor_names(queue) for queue in self._queues.items()):
            await _let_go(self._context, RESOURCE_FLAVORS, flavor)
        return None


class CohortController:
    """The weighted share of each Cohort, where fair sharing is on."""

    def __init__(self, context: Context, cache: QueueingCache) -> None:
        self._context = context
        self._cache = cache
        self._cohorts = context.informers.get(COHORTS)
        self.controller = Controller("kueue-cohort", context, self.reconcile)
        self.controller.watches(COHORTS)
        if cache.world.snapshot.options.fair_sharing:
            self.controller.watches(WORKLOADS, self._all)

    def _all(self, _workload: Document) -> Iterator[Key]:
        for cohort in self._cohorts.items():
            yield "", cohort["metadata"]["name"]

    async def reconcile(self, key: Key) -> float | None:
        cohort = self._cohorts.get(key[1])
        world = self._cache.settled()
        node = world.snapshot.tree.cohorts.get(key[1])
        if cohort is None or node is None or key[1] in world.snapshot.tree.left_out:
            return None
        status = dict(cohort.get("status") or {})
        status.pop("fairSharing", None)
        if world.snapshot.options.fair_sharing:
            status["fairSharing"] = {"weightedShare": dominant_share(node).rounded}
        await writes.update_status(self._context, COHORTS, cohort, status)
        return None


def _local_queue_of(workload: Document) -> Iterator[Key]:
    name = (workload.get("spec") or {}).get("queueName")
    if name:
        yield workload["metadata"]["namespace"], name


async def _hold(context: Context, resource: Resource, document: Document) -> Document:
    return await writes.add_finalizer(context, resource, document, RESOURCE_IN_USE_FINALIZER)


async def _let_go(context: Context, resource: Resource, document: Document) -> None:
    await writes.remove_finalizer(context, resource, document, RESOURCE_IN_USE_FINALIZER)


async def _save(
    context: Context,
    resource: Resource,
    document: Document,
    status: Document,
    readiness: Readiness,
) -> None:
    """Write the status with its Active condition, if anything differs."""
    old = document.get("status") or {}
    status["conditions"] = writes.set_condition(
        old.get("conditions") or (),
        "Active",
        "True" if readiness.active else "False",
        readiness.reason,
        readiness.message,
        context.clock.now(),
        observedGeneration=document["metadata"].get("generation", 0),
    )
    kept = {name: value for name, value in old.items() if name not in status}
    kept.pop("fairSharing", None)
    await writes.update_status(context, resource, document, {**kept, **status})
