"""Workloads as the engine sees them: pod sets with integer requests, priority, times, admission."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kubarium.engine.queueing.flavor import PodConstraints
from kubarium.engine.queueing.quota import FlavorResource

Key = tuple[str, str]
"""(namespace, name)."""

CPU = "cpu"
PODS = "pods"


_ANY_NODE = PodConstraints()


@dataclass(frozen=True, slots=True)
class PodSet:
    """``count`` equal pods. ``per_pod`` is sorted by resource name.

    ``min_count`` below ``count`` allows partial admission. Pod sets of one ``group`` get the same
    flavor. ``count`` already leaves out pods that are reclaimable.
    """

    name: str
    count: int
    per_pod: tuple[tuple[str, int], ...] = ()
    min_count: int | None = None
    constraints: PodConstraints = _ANY_NODE
    group: str = ""

    def requests(self, count: int) -> dict[str, int]:
        return {resource: amount * count for resource, amount in self.per_pod}


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a workload may not be considered whatever the quota says.

    ``steps_aside``: it lets the next one pass even in a StrictFIFO queue.
    """

    reason: str
    message: str
    steps_aside: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """A unit of admission. Times are seconds since the epoch.

    ``queued_at`` is what first-in-first-out compares: creation, or the eviction that sent it back.
    ``requeue_at`` in the future, or ``requeue_blocked``, keeps it out of the cycle.
    ``shape`` is equal for workloads that any cycle must treat alike (equivalence hashing).
    """

    namespace: str
    name: str
    cluster_queue: str
    pod_sets: tuple[PodSet, ...]
    local_queue: str = ""
    uid: str = ""
    job_uid: str = ""
    base_priority: int = 0
    boost: int = 0
    created_at: float = 0.0
    queued_at: float = 0.0
    requeue_at: float = 0.0
    requeue_blocked: bool = False
    preemption_gated: bool = False
    replaces: Key | None = None
    allowed_flavors: tuple[str, ...] | None = None
    blocked: Blocked | None = None
    shape: str = ""

    @property
    def key(self) -> Key:
        return (self.namespace, self.name)

    @property
    def priority(self) -> int:
        """Effective priority: the class's value plus the boost annotation."""
        return self.base_priority + self.boost

    @property
    def order(self) -> tuple[int, float, str]:
        """Ascending order inside a ClusterQueue: priority first, then time, then uid."""
        return (-self.priority, self.queued_at, self.uid)

    @property
    def can_shrink(self) -> bool:
        return any(ps.min_count is not None and ps.min_count < ps.count for ps in self.pod_sets)


def shape_of(workload: Workload) -> str:
    """The scheduling equivalence class of a workload (Kueue ``computeSchedulingHash``)."""
    return repr(
        (
            workload.priority,
            workload.pod_sets,
            workload.preemption_gated,
            workload.replaces,
            workload.allowed_flavors,
        )
    )


@dataclass(frozen=True, slots=True)
class AssignedPodSet:
    """A pod set that holds quota: how many pods, which flavor for each resource."""

    name: str
    count: int
    flavors: Mapping[str, str] = field(default_factory=dict)
    requests: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Admitted:
    """A workload that holds quota. ``reserved_at`` None means not yet recorded: newest of all."""

    workload: Workload
    pod_sets: tuple[AssignedPodSet, ...]
    usage: Mapping[FlavorResource, int]
    reserved_at: float | None = None
    evicted: bool = False

    @property
    def key(self) -> Key:
        return self.workload.key

    @property
    def cluster_queue(self) -> str:
        return self.workload.cluster_queue

    def uses(self, frs: Mapping[FlavorResource, None]) -> bool:
        return any(fr in frs for fr in self.usage)


def usage_of(pod_sets: tuple[AssignedPodSet, ...]) -> dict[FlavorResource, int]:
    """Quota that these assignments charge, by flavor and resource."""
    usage: dict[FlavorResource, int] = {}
    for pod_set in pod_sets:
        for resource, flavor in pod_set.flavors.items():
            fr = (flavor, resource)
            usage[fr] = usage.get(fr, 0) + pod_set.requests.get(resource, 0)
    return usage
