"""One Kueue document at a time to what the engine knows of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339
from kubarium.base.quantity import parse_quantity
from kubarium.engine.queueing.amounts import amount_of
from kubarium.engine.queueing.clusterqueue import (
    BEST_EFFORT_FIFO,
    BORROWING_OVER_PREEMPTION,
    NEVER,
    TRY_NEXT_FLAVOR,
    ClusterQueue,
    Fungibility,
    PreemptionPolicy,
    ResourceGroup,
)
from kubarium.engine.queueing.flavor import Flavor, PodConstraints
from kubarium.engine.queueing.quota import FlavorResource, NodeSpec, Quota
from kubarium.engine.queueing.victims import IN_COHORT_RECLAIM_WHILE_BORROWING
from kubarium.engine.queueing.workload import (
    Admitted,
    AssignedPodSet,
    Blocked,
    Key,
    PodSet,
    Workload,
    shape_of,
    usage_of,
)
from kubarium.view.queueing.requests import pod_requests
from kubarium.view.selectors import node_terms
from kubarium.view.taints import taint, toleration

PREFIX = "kueue.x-k8s.io/"
QUEUE_NAME_LABEL = PREFIX + "queue-name"
PRIORITY_CLASS_LABEL = PREFIX + "priority-class"
JOB_UID_LABEL = PREFIX + "job-uid"
PRIORITY_BOOST_ANNOTATION = PREFIX + "priority-boost"
SLICE_REPLACEMENT_ANNOTATION = PREFIX + "workload-slice-replacement-for"
ADMISSION_GATED_BY_ANNOTATION = PREFIX + "admission-gated-by"
ALLOWED_FLAVORS_ANNOTATION = PREFIX + "workload-allowed-resource-flavors"
RESOURCE_IN_USE_FINALIZER = PREFIX + "resource-in-use"

QUOTA_RESERVED = "QuotaReserved"
ADMITTED = "Admitted"
EVICTED = "Evicted"
PREEMPTED = "Preempted"
REQUEUED = "Requeued"
FINISHED = "Finished"
PODS_READY = "PodsReady"
DEACTIVATION_TARGET = "DeactivationTarget"
BLOCKED_ON_PREEMPTION_GATES = "BlockedOnPreemptionGates"


@dataclass(frozen=True, slots=True)
class Ordering:
    """What decides the queue time. ``ready_timeout_resets``: who was evicted because its pods did
    not get ready queues up again (requeuingStrategy.timestamp Eviction).
    """

    ready_timeout_resets: bool = True
    priority_within_cohort: bool = True


def condition(document: Document, type_: str) -> Document | None:
    """The condition of that type in ``status.conditions``."""
    for found in (document.get("status") or {}).get("conditions") or ():
        if found.get("type") == type_:
            return dict(found)
    return None


def is_true(document: Document, type_: str) -> bool:
    for found in (document.get("status") or {}).get("conditions") or ():
        if found.get("type") == type_:
            return bool(found.get("status") == "True")
    return False


def flavor_of(document: Document) -> Flavor:
    spec = document.get("spec") or {}
    return Flavor(
        document["metadata"]["name"],
        tuple(sorted((spec.get("nodeLabels") or {}).items())),
        tuple(taint(t) for t in spec.get("nodeTaints") or ()),
        tuple(toleration(t) for t in spec.get("tolerations") or ()),
        spec.get("topologyName", ""),
    )


def quotas_of(groups: Iterable[Document] | None) -> dict[FlavorResource, Quota]:
    """The quotas of ``spec.resourceGroups`` of a ClusterQueue or Cohort."""
    quotas: dict[FlavorResource, Quota] = {}
    for group in groups or ():
        for flavor in group.get("flavors") or ():
            for entry in flavor.get("resources") or ():
                resource = entry["name"]
                quotas[flavor["name"], resource] = Quota(
                    amount_of(resource, entry.get("nominalQuota", 0)),
                    _limit(resource, entry.get("borrowingLimit")),
                    _limit(resource, entry.get("lendingLimit")),
                )
    return quotas


def _limit(resource: str, quantity: Any) -> int | None:
    return None if quantity is None else amount_of(resource, quantity)


def _fair_weight(spec: Mapping[str, Any]) -> Fraction:
    weight = (spec.get("fairSharing") or {}).get("weight")
    return Fraction(1) if weight is None else parse_quantity(weight)


def queue_node_of(document: Document) -> NodeSpec:
    spec = document.get("spec") or {}
    return NodeSpec(
        document["metadata"]["name"],
        spec.get("cohortName") or "",
        quotas_of(spec.get("resourceGroups")),
        _fair_weight(spec),
    )


def cohort_node_of(document: Document) -> NodeSpec:
    spec = document.get("spec") or {}
    return NodeSpec(
        document["metadata"]["name"],
        spec.get("parentName") or "",
        quotas_of(spec.get("resourceGroups")),
        _fair_weight(spec),
    )


def cluster_queue_of(document: Document, inactive: str = "") -> ClusterQueue:
    """``inactive`` is why the queue admits nothing, or ""."""
    spec = document.get("spec") or {}
    fungibility = spec.get("flavorFungibility") or {}
    preemption = spec.get("preemption") or {}
    borrow = preemption.get("borrowWithinCohort") or {}
    return ClusterQueue(
        document["metadata"]["name"],
        tuple(
            ResourceGroup(
                tuple(group.get("coveredResources") or ()),
                tuple(flavor["name"] for flavor in group.get("flavors") or ()),
            )
            for group in spec.get("resourceGroups") or ()
        ),
        spec.get("queueingStrategy") or BEST_EFFORT_FIFO,
        Fungibility(
            fungibility.get("whenCanBorrow") or "MayStopSearch",
            fungibility.get("whenCanPreempt") or TRY_NEXT_FLAVOR,
            fungibility.get("preference") or BORROWING_OVER_PREEMPTION,
        ),
        PreemptionPolicy(
            preemption.get("withinClusterQueue") or NEVER,
            preemption.get("reclaimWithinCohort") or NEVER,
            borrow.get("policy") or NEVER,
            borrow.get("maxPriorityThreshold"),
        ),
        inactive,
        int(document["metadata"].get("generation") or 0),
    )


def constraints_of(pod_spec: Document) -> PodConstraints:
    """What the template says about nodes: selector, required affinity, tolerations."""
    affinity = (pod_spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    return PodConstraints(
        tuple(sorted((pod_spec.get("nodeSelector") or {}).items())),
        tuple(term.labels for term in node_terms(required) or ()),
        tuple(toleration(t) for t in pod_spec.get("tolerations") or ()),
    )


def pod_set_of(entry: Document, reclaimable: int = 0) -> PodSet:
    """A pod set of a Workload; ``reclaimable`` pods no longer need quota."""
    pod_spec = (entry.get("template") or {}).get("spec") or {}
    count = int(entry.get("count", 1))
    minimum = entry.get("minCount")
    return PodSet(
        entry.get("name") or "main",
        count - min(count, reclaimable),
        tuple(pod_requests(pod_spec).items()),
        int(minimum) if minimum is not None else None,
        constraints_of(pod_spec),
        (entry.get("topologyRequest") or {}).get("podSetGroupName") or "",
    )


def reclaimable_counts(document: Document) -> dict[str, int]:
    pods = (document.get("status") or {}).get("reclaimablePods") or ()
    return {entry["name"]: int(entry.get("count", 0)) for entry in pods}


def priority_boost(document: Document) -> int:
    """The signed number of the priority-boost annotation; 0 if it is none."""
    text = (document["metadata"].get("annotations") or {}).get(PRIORITY_BOOST_ANNOTATION, "")
    try:
        return int(text)
    except ValueError:
        return 0


def workload_of(
    document: Document,
    cluster_queue: str,
    *,
    blocked: Blocked | None = None,
    boosts: bool = False,
    ordering: Ordering = Ordering(),
    allowed_flavors: bool = False,
) -> Workload:
    """A waiting workload. ``boosts``: the priority-boost annotation counts (gate PriorityBoost);
    ``allowed_flavors``: so does the one that lists flavors (gate ConcurrentAdmission)."""
    metadata, spec = document["metadata"], document.get("spec") or {}
    status = document.get("status") or {}
    reclaimable = reclaimable_counts(document)
    requeue_at = (status.get("requeueState") or {}).get("requeueAt")
    requeued = condition(document, REQUEUED)
    workload = Workload(
        metadata.get("namespace", ""),
        metadata.get("name", ""),
        cluster_queue,
        tuple(
            pod_set_of(entry, reclaimable.get(entry.get("name") or "main", 0))
            for entry in spec.get("podSets") or ()
        ),
        local_queue=spec.get("queueName") or "",
        uid=metadata.get("uid", ""),
        job_uid=(metadata.get("labels") or {}).get(JOB_UID_LABEL, ""),
        base_priority=int(spec.get("priority") or 0),
        boost=priority_boost(document) if boosts else 0,
        created_at=_time(metadata.get("creationTimestamp")),
        queued_at=queued_at(document, ordering),
        requeue_at=_time(requeue_at),
        requeue_blocked=requeued is not None and requeued.get("status") == "False",
        preemption_gated=_gated(document),
        replaces=_replaces(document),
        allowed_flavors=_allowed_flavors(document) if allowed_flavors else None,
        blocked=blocked,
    )
    return replace(workload, shape=shape_of(workload))


def _gated(document: Document) -> bool:
    """Whether any preemption gate of the spec is not open."""
    positions = {
        gate["name"]: gate.get("position")
        for gate in (document.get("status") or {}).get("preemptionGates") or ()
    }
    gates = (document.get("spec") or {}).get("preemptionGates") or ()
    return any(positions.get(gate["name"], "Closed") != "Open" for gate in gates)


def _replaces(document: Document) -> Key | None:
    annotations = document["metadata"].get("annotations") or {}
    text = annotations.get(SLICE_REPLACEMENT_ANNOTATION, "")
    namespace, _, name = text.partition("/")
    return (namespace, name) if name else None


def queued_at(document: Document, ordering: Ordering = Ordering()) -> float:
    """When the workload joined its queue: creation, or the eviction that counts anew."""
    evicted = condition(document, EVICTED)
    if evicted is not None and evicted.get("status") == "True":
        anew = ["AdmissionCheck"] + (["PodsReadyTimeout"] if ordering.ready_timeout_resets else [])
        if evicted.get("reason") in anew:
            return _time(evicted.get("lastTransitionTime"))
    preempted = condition(document, PREEMPTED)
    if (
        not ordering.priority_within_cohort
        and preempted is not None
        and preempted.get("status") == "True"
        and preempted.get("reason") == IN_COHORT_RECLAIM_WHILE_BORROWING
    ):
        return _time(preempted.get("lastTransitionTime")) + 0.001  # behind its preemptor
    return _time(document["metadata"].get("creationTimestamp"))


def _allowed_flavors(document: Document) -> tuple[str, ...] | None:
    annotations = document["metadata"].get("annotations") or {}
    text = annotations.get(ALLOWED_FLAVORS_ANNOTATION)
    return None if text is None else tuple(part.strip() for part in text.split(","))


def _time(text: str | None) -> float:
    return parse_rfc3339(text) if text else 0.0


def admitted_of(document: Document, *, boosts: bool = False) -> Admitted | None:
    """A workload that holds quota, as its ``status.admission`` says; None if it holds none."""
    admission = (document.get("status") or {}).get("admission")
    if not admission or not is_true(document, QUOTA_RESERVED):
        return None
    workload = workload_of(document, admission.get("clusterQueue", ""), boosts=boosts)
    after_reclaim = {ps.name: ps.count for ps in workload.pod_sets}
    pod_sets = tuple(
        assigned_of(entry, after_reclaim) for entry in admission.get("podSetAssignments") or ()
    )
    reserved = condition(document, QUOTA_RESERVED) or {}
    return Admitted(
        workload,
        pod_sets,
        usage_of(pod_sets),
        _time(reserved.get("lastTransitionTime")),
        is_true(document, EVICTED),
    )


def assigned_of(
    entry: Document, after_reclaim: Mapping[str, int] = MappingProxyType({})
) -> AssignedPodSet:
    """An assignment, scaled down by the pods that were reclaimed since."""
    name = entry.get("name") or "main"
    count = int(entry.get("count", after_reclaim.get(name, 0)))
    requests = {
        resource: amount_of(resource, quantity)
        for resource, quantity in (entry.get("resourceUsage") or {}).items()
    }
    left = min(count, after_reclaim.get(name, count))
    if left < count:
        requests = {r: amount // count * left for r, amount in requests.items()}
    return AssignedPodSet(name, left, entry.get("flavors") or {}, requests)
