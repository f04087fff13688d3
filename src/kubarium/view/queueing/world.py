"""All queueing documents together: the snapshot that they stand for, kept up to date change by
change.

Quota in use changes with every workload, so it is charged and discharged; the rest (queues,
cohorts, flavors) changes rarely, so it is built anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kubarium.api.kinds import (
    CLUSTER_QUEUES,
    COHORTS,
    LOCAL_QUEUES,
    NAMESPACES,
    RESOURCE_FLAVORS,
    WORKLOADS,
)
from kubarium.api.resource import Document, Resource
from kubarium.base.quantity import QuantityError
from kubarium.engine.queueing.clusterqueue import BEST_EFFORT_FIFO
from kubarium.engine.queueing.plan import (
    DEACTIVATED,
    MISCONFIGURED,
    ON_HOLD,
    PENDING_EVALUATION,
    SUSPENDED,
    WAITING_FOR_PREEMPTED,
)
from kubarium.engine.queueing.quota import Amounts, FlavorResource, QuotaTree
from kubarium.engine.queueing.snapshot import Options, Snapshot
from kubarium.engine.queueing.workload import Admitted, Key, Workload
from kubarium.view.queueing.documents import (
    ADMITTED,
    FINISHED,
    QUOTA_RESERVED,
    admitted_of,
    cluster_queue_of,
    cohort_node_of,
    condition,
    flavor_of,
    is_true,
    queue_node_of,
    workload_of,
)
from kubarium.view.queueing.readiness import (
    Readiness,
    admissibility,
    cluster_queue_readiness,
    is_terminating,
    queue_blocker,
)

ADMISSION_CHECKS = Resource("kueue.x-k8s.io", "v1beta2", "admissionchecks", "AdmissionCheck", False)

RESOURCES_NEEDED = (
    RESOURCE_FLAVORS,
    ADMISSION_CHECKS,
    COHORTS,
    CLUSTER_QUEUES,
    LOCAL_QUEUES,
    NAMESPACES,
    WORKLOADS,
)
"""What a world is made of."""

# Reasons of workloads that nobody has looked at since.
_STALE_REASONS = (PENDING_EVALUATION, SUSPENDED, DEACTIVATED, ON_HOLD, "Pending")
_HELD, _WAITS, _BLOCKED = "held", "waits", "blocked"


@dataclass(slots=True)
class Tally:
    """What one queue's workloads reserve and use, and how many there are of each."""

    pending: int = 0
    reserving: int = 0
    admitted: int = 0
    reserved: dict[FlavorResource, int] = field(default_factory=dict)
    used: dict[FlavorResource, int] = field(default_factory=dict)

    def count(self, usage: Amounts, admitted: bool, sign: int) -> None:
        """Add (``sign`` 1) or take out (-1) a workload that holds quota."""
        self.reserving += sign
        _add(self.reserved, usage, sign)
        if admitted:
            self.admitted += sign
            _add(self.used, usage, sign)


def _add(total: dict[FlavorResource, int], usage: Amounts, sign: int) -> None:
    for fr, amount in usage.items():
        total[fr] = total.get(fr, 0) + sign * amount


class World:
    """Documents in, snapshot out. Call :meth:`settle` before using ``snapshot``."""

    def __init__(self, options: Options = Options(), *, boosts: bool = False) -> None:  # noqa: B008
        self.snapshot = Snapshot(options=options)
        self.readiness: dict[str, Readiness] = {}
        """Each ClusterQueue's Active condition."""
        self.blockers: dict[Key, tuple[str, str]] = {}
        """Workloads that may not be considered, and why."""
        self.untold: dict[Key, Workload] = {}
        """Waiting workloads whose status does not say yet why they wait."""
        self.tallies: dict[Key, Tally] = {}
        """By ("", ClusterQueue) and by (namespace, LocalQueue)."""
        self._boosts = boosts
        self._documents: dict[Resource, dict[Key, Document]] = {r: {} for r in RESOURCES_NEEDED}
        self._where: dict[Key, tuple[str, str]] = {}
        self._counted: dict[Key, tuple[Key, Amounts, bool]] = {}
        self._rules_changed = True
        self._unplaced: dict[Key, None] = {}

    def put(self, resource: Resource, document: Document) -> None:
        """Take in a new or changed document."""
        metadata = document["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        documents = self._documents[resource]
        old = documents.get(key)
        documents[key] = document
        if resource == WORKLOADS:
            self._unplaced[key] = None
        elif old is None or not same_rules(old, document):
            self._changed(resource, key)

    def drop(self, resource: Resource, document: Document) -> None:
        """Take out a deleted document."""
        metadata = document["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        if self._documents[resource].pop(key, None) is None:
            return
        if resource == WORKLOADS:
            self._unplaced.pop(key, None)
            self._leave(key)
        else:
            self._changed(resource, key)

    def get(self, resource: Resource, name: str, namespace: str = "") -> Document | None:
        return self._documents[resource].get((namespace, name))

    def items(self, resource: Resource) -> Iterable[Document]:
        return self._documents[resource].values()

    def settle(self) -> Snapshot:
        """Bring ``snapshot``, ``readiness`` and ``blockers`` up to date."""
        if self._rules_changed:
            self._rules_changed = False
            self._rebuild()
            self._unplaced |= {k: None for k, (where, _) in self._where.items() if where != _HELD}
        for key in self._unplaced:
            self._place(key)
        self._unplaced.clear()
        return self.snapshot

    def local_queue_of(self, workload: Document) -> Document | None:
        name = (workload.get("spec") or {}).get("queueName") or ""
        return self.get(LOCAL_QUEUES, name, workload["metadata"].get("namespace", ""))

    def cluster_queue_of(self, workload: Document) -> Document | None:
        """The ClusterQueue that the workload's LocalQueue points to."""
        local_queue = self.local_queue_of(workload)
        if local_queue is None:
            return None
        return self.get(CLUSTER_QUEUES, (local_queue.get("spec") or {}).get("clusterQueue") or "")

    def _changed(self, resource: Resource, key: Key) -> None:
        if resource in (LOCAL_QUEUES, NAMESPACES):
            namespace = key[0] if resource == LOCAL_QUEUES else key[1]
            for other, (where, _) in self._where.items():
                if other[0] == namespace and where != _HELD:
                    self._unplaced[other] = None
        else:
            self._rules_changed = True

    def _rebuild(self) -> None:
        """Flavors, queues and the quota tree from their documents; usage from the holders."""
        snapshot = self.snapshot
        flavors = self._documents[RESOURCE_FLAVORS]
        snapshot.flavors = {key[1]: flavor_of(document) for key, document in flavors.items()}
        queues = self._documents[CLUSTER_QUEUES]
        snapshot.tree = QuotaTree.build(
            (queue_node_of(document) for document in queues.values()),
            (cohort_node_of(document) for document in self._documents[COHORTS].values()),
        )
        checks = {key[1]: document for key, document in self._documents[ADMISSION_CHECKS].items()}
        self.readiness = {
            key[1]: cluster_queue_readiness(
                document, snapshot.flavors, checks, snapshot.tree.left_out
            )
            for key, document in queues.items()
        }
        snapshot.queues = {
            name: cluster_queue_of(queues["", name], "" if readiness.active else readiness.message)
            for name, readiness in self.readiness.items()
        }
        snapshot.recharge()

    def _leave(self, key: Key) -> None:
        """Take a workload out of where it is."""
        where, queue = self._where.pop(key, ("", ""))
        if where == _HELD:
            self.snapshot.release(queue, key)
            local, usage, admitted = self._counted.pop(key)
            self.tally("", queue).count(usage, admitted, -1)
            self.tally(*local).count(usage, admitted, -1)
        elif where == _WAITS:
            self.tally("", queue).pending -= 1
            self.tally(*self._counted.pop(key)[0]).pending -= 1
            pending = self.snapshot.pending[queue]
            pending.drop(key)
            if pending.sticky == key:
                pending.sticky = None
        self.blockers.pop(key, None)
        self.untold.pop(key, None)

    def _place(self, key: Key) -> None:
        """Put a workload where its document says that it belongs."""
        self._leave(key)
        document = self._documents[WORKLOADS].get(key)
        if document is None or is_true(document, FINISHED):
            return
        try:
            admitted = admitted_of(document, boosts=self._boosts)
        except QuantityError as error:
            self._block(key, (MISCONFIGURED, f"status.admission: {error}"))
            return
        if admitted is not None:
            self._hold(key, admitted, is_true(document, ADMITTED))
            return
        if is_terminating(document):
            return
        cluster_queue = self.cluster_queue_of(document)
        name = cluster_queue["metadata"]["name"] if cluster_queue is not None else ""
        blocker = queue_blocker(
            document, self.local_queue_of(document), cluster_queue, self.readiness.get(name)
        )
        if blocker is not None:
            self._block(key, blocker)
        readiness = self.readiness.get(name)
        idle = readiness is not None and not readiness.active and blocker is not None
        if cluster_queue is not None and (blocker is None or (idle and blocker[0] == SUSPENDED)):
            self._wait(key, document, cluster_queue)  # an inactive queue keeps its workloads

    def _hold(self, key: Key, admitted: Admitted, is_admitted: bool) -> None:
        queue, local = admitted.cluster_queue, (key[0], admitted.workload.local_queue)
        self._where[key] = (_HELD, queue)
        self._counted[key] = (local, admitted.usage, is_admitted)
        self.snapshot.admit(admitted)
        self.tally("", queue).count(admitted.usage, is_admitted, 1)
        self.tally(*local).count(admitted.usage, is_admitted, 1)

    def tally(self, namespace: str, name: str) -> Tally:
        """A LocalQueue's tally, or with namespace "" a ClusterQueue's."""
        return self.tallies.setdefault((namespace, name), Tally())

    def _block(self, key: Key, why: tuple[str, str]) -> None:
        self._where[key] = (_BLOCKED, "")
        self.blockers[key] = why

    def _wait(self, key: Key, document: Document, cluster_queue: Document) -> None:
        name = cluster_queue["metadata"]["name"]
        namespace = self.get(NAMESPACES, document["metadata"].get("namespace", ""))
        blocked = admissibility(document, namespace, cluster_queue)
        try:
            workload = workload_of(document, name, blocked=blocked, boosts=self._boosts)
        except QuantityError:
            assert blocked is not None, "admissibility() reads every quantity"
            self._block(key, (blocked.reason, blocked.message))
            return
        self._where[key] = (_WAITS, name)
        local = (key[0], workload.local_queue)
        self._counted[key] = (local, {}, False)
        self.tally("", name).pending += 1
        self.tally(*local).pending += 1
        self.snapshot.wait(workload)
        queue = self.snapshot.queues[name]
        reserved = condition(document, QUOTA_RESERVED)
        if reserved is None or reserved.get("reason") in _STALE_REASONS:
            self.untold[key] = workload
        if (
            queue.strategy == BEST_EFFORT_FIFO
            and reserved is not None
            and reserved.get("reason") == WAITING_FOR_PREEMPTED
        ):
            self.snapshot.pending[name].sticky = key


def world_of(
    documents: Mapping[Resource, Iterable[Document]],
    options: Options = Options(),  # noqa: B008
) -> World:
    """A world of everything given; kinds that it does not know are passed over.

    Where no namespaces are given at all, those of the workloads count as there, without labels.
    """
    world = World(options)
    if NAMESPACES not in documents:
        for workload in documents.get(WORKLOADS, ()):
            name = workload["metadata"].get("namespace", "")
            world.put(NAMESPACES, {"metadata": {"name": name}})
    for resource in RESOURCES_NEEDED:
        for document in documents.get(resource, ()):
            world.put(resource, document)
    world.settle()
    return world


def same_rules(old: Document, new: Document) -> bool:
    """Whether nothing changed that decisions depend on: most updates of queues are status."""
    return (
        old.get("spec") == new.get("spec")
        and is_terminating(old) == is_terminating(new)
        and old["metadata"].get("labels") == new["metadata"].get("labels")
        and is_true(old, "Active") == is_true(new, "Active")
    )
