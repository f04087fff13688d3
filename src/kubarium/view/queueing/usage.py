"""The statuses of ClusterQueues, LocalQueues and Cohorts."""

from __future__ import annotations

from collections.abc import Iterator

from kubarium.api.resource import Document
from kubarium.engine.queueing.amounts import show_amount
from kubarium.engine.queueing.fair import dominant_share
from kubarium.engine.queueing.quota import Amounts, QuotaNode
from kubarium.view.queueing.documents import is_true
from kubarium.view.queueing.readiness import Readiness, is_terminating, stop_policy
from kubarium.view.queueing.world import Tally, World


def cluster_queue_status(world: World, document: Document) -> Document:
    """Everything of a ClusterQueue's status but its conditions."""
    name = document["metadata"]["name"]
    tally = world.tallies.get(("", name)) or Tally()
    node = world.snapshot.tree.queues.get(name)
    status: Document = {
        "pendingWorkloads": tally.pending,
        "reservingWorkloads": tally.reserving,
        "admittedWorkloads": tally.admitted,
        "flavorsReservation": _usage_by_flavor(document, tally.reserved, node, True),
        "flavorsUsage": _usage_by_flavor(document, tally.used, node, True),
    }
    if world.snapshot.options.fair_sharing and node is not None:
        status["fairSharing"] = {"weightedShare": dominant_share(node).rounded}
    return status


def local_queue_status(
    world: World, document: Document, cluster_queue: Document | None
) -> Document:
    """Everything of a LocalQueue's status but its conditions."""
    metadata = document["metadata"]
    tally = world.tallies.get((metadata["namespace"], metadata["name"])) or Tally()
    if cluster_queue is None:
        tally = Tally()
    stopped = stop_policy(document) != "None"
    return {
        "pendingWorkloads": 0 if stopped else tally.pending,
        "reservingWorkloads": tally.reserving,
        "admittedWorkloads": tally.admitted,
        "flavorsReservation": _usage_by_flavor(cluster_queue, tally.reserved, None, False),
        "flavorsUsage": _usage_by_flavor(cluster_queue, tally.used, None, False),
    }


def local_queue_readiness(document: Document, cluster_queue: Document | None) -> Readiness:
    """A LocalQueue's Active condition."""
    if stop_policy(document) != "None":
        return Readiness(False, "Stopped", "LocalQueue is stopped")
    refused = "Can't submit new workloads to clusterQueue"
    if cluster_queue is None:
        return Readiness(False, "ClusterQueueDoesNotExist", refused)
    if is_terminating(cluster_queue) or not is_true(cluster_queue, "Active"):
        return Readiness(False, "ClusterQueueIsInactive", refused)
    return Readiness(True, "Ready", "Can submit new workloads to localQueue")


def _usage_by_flavor(
    cluster_queue: Document | None, usage: Amounts, node: QuotaNode | None, with_borrowed: bool
) -> list[Document]:
    if cluster_queue is None:
        return []
    return [
        {
            "name": flavor,
            "resources": [
                _one_usage(flavor, resource, usage, node, with_borrowed) for resource in resources
            ],
        }
        for flavor, resources in _flavors(cluster_queue)
    ]


def _flavors(cluster_queue: Document) -> Iterator[tuple[str, list[str]]]:
    for group in (cluster_queue.get("spec") or {}).get("resourceGroups") or ():
        for flavor in group.get("flavors") or ():
            yield flavor["name"], [entry["name"] for entry in flavor.get("resources") or ()]


def _one_usage(
    flavor: str, resource: str, usage: Amounts, node: QuotaNode | None, with_borrowed: bool
) -> Document:
    total = usage.get((flavor, resource), 0)
    entry: Document = {"name": resource, "total": show_amount(resource, total)}
    if with_borrowed:
        nominal = node.quota((flavor, resource)).nominal if node is not None else 0
        lacks_parent = node is None or node.parent is None
        borrowed = 0 if lacks_parent else max(0, total - nominal)
        entry["borrowed"] = show_amount(resource, borrowed)
    return entry
