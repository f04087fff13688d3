"""Every sentence in which a placement decision says no, in kube-scheduler's own wording.

People search for these texts, so each is upstream's to the letter (kube-scheduler 1.35 to 1.37:
the plugins' ``ErrReason`` constants). Reasons of our own are at the end. Nothing else in the
engine holds human text that ends up in a condition or an event.
"""

from __future__ import annotations

NODE_NAME = "node(s) didn't match the requested node name"
UNSCHEDULABLE = "node(s) were unschedulable"
TAINT = "node(s) had untolerated taint(s)"
NODE_AFFINITY = "node(s) didn't match Pod's node affinity/selector"
NOT_NAMED = "node(s) didn't satisfy plugin(s) [NodeAffinity]"
AFFINITY_CONFLICT = "pod affinity terms conflict"
ADDED_AFFINITY = "node(s) didn't match scheduler-enforced node affinity"
HOST_PORTS = "node(s) didn't have free ports for the requested pod ports"
TOO_MANY_PODS = "Too many pods"
SPREAD = "node(s) didn't match pod topology spread constraints"
SPREAD_LABEL = "node(s) didn't match pod topology spread constraints (missing required label)"
POD_AFFINITY = "node(s) didn't match pod affinity rules"
POD_ANTI_AFFINITY = "node(s) didn't match pod anti-affinity rules"
EXISTING_ANTI_AFFINITY = "node(s) didn't satisfy existing pods anti-affinity rules"
CLAIMS = "cannot allocate all claims"
CLAIM_ELSEWHERE = "resourceclaim not available on the node"
CLAIM_TIMEOUT = "timed out trying to allocate devices"
INVALID_POOLS = "invalid resource pools were encountered"
VOLUME_IN_USE = (
    "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode"
    " already in-use by another pod"
)
DISK_CONFLICT = "node(s) had no available disk"
VOLUME_LIMIT = "node(s) exceed max volume count"
VOLUME_SPACE = "node(s) did not have enough free storage"
VOLUMES_UNBOUND = "pod has unbound immediate PersistentVolumeClaims"
VOLUME_NODE = "node(s) didn't match PersistentVolume's node affinity"
VOLUME_BINDING = "node(s) didn't find available persistent volumes to bind"
VOLUME_ZONE = "node(s) had no available volume zone"
VOLUME_GONE = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
NO_DRIVER = " CSI driver is not installed on the node"
NO_NODES = "no nodes available to schedule pods"
PREEMPTION_UNHELPFUL = "Preemption is not helpful for scheduling"
NO_VICTIMS = "No preemption victims found for incoming pod"
# What DynamicResources says of every pod without a place, before preemption has its say.
NO_CLAIMS = "no new claims to deallocate"
CLAIMS_STAY = "still not schedulable"
CLAIM_DEALLOCATED = "deallocation of ResourceClaim completed"
FEATURES = "node(s) didn't match Pod's required features"
RESIZE_PREEMPTION_DISABLED = "node had resize preemption disabled"
PREEMPTION_COMING = "not eligible due to a terminating pod on the nominated node."
DEVICE_RESTS = "not eligible due to a device that is left alone for a moment."
NEVER_PREEMPTS = "not eligible due to preemptionPolicy=Never."
PLACEMENT_OUTSIDE = "node(s) didn't match the placement of the pod group"


def filter_failed(plugin: str, error: str) -> str:
    """A filter could not be asked at all: a selector fails, say. Upstream gives the pod up."""
    return f'running "{plugin}" filter plugin: {error}'


def pre_bind_failed(plugin: str, error: str) -> str:
    """What a pod needs before it is bound could not be written or made ready."""
    return f'running PreBind plugin "{plugin}": {error}'


def served_otherwise(resource: str) -> str:
    """The node serves an extended resource by a device plugin, or does not, unlike this variant."""
    return f"node(s) serve {resource} otherwise"


# The name of a DeviceClass as an extended resource (KEP-5004).
IMPLICIT_PREFIX = "deviceclass.resource.kubernetes.io/"


def implicit_class_missing(resource: str) -> str:
    """Ours, after upstream's "Insufficient": no node can ever have what no class stands for."""
    name = resource.removeprefix(IMPLICIT_PREFIX)
    return f'{resource} names DeviceClass "{name}", which does not exist.'


def insufficient(resource: str) -> str:
    """``Insufficient cpu``: NodeResourcesFit's reason for one resource."""
    return f"Insufficient {resource}"


def volume_claim_missing(name: str) -> str:
    """A volume of the pod names a PersistentVolumeClaim that is not there."""
    return f'persistentvolumeclaim "{name}" not found'


def volume_claim_not_made(name: str) -> str:
    """The claim of an ephemeral volume has not been made yet."""
    return f'waiting for ephemeral volume controller to create the persistentvolumeclaim "{name}"'


def volume_missing(name: str) -> str:
    """A claim of the pod is bound to a PersistentVolume that is not there."""
    return f'persistentvolume "{name}" not found'


def driver_missing(driver: str) -> str:
    """The node lacks a CSI driver that says it is needed before pods come (KEP-5030)."""
    return f"{driver}{NO_DRIVER}"


def volume_claim_foreign(claim: tuple[str, str], pod: tuple[str, str]) -> str:
    """An ephemeral volume's claim has the right name, but was made for somebody else."""
    return f"PVC {'/'.join(claim)} was not created for pod {'/'.join(pod)} (pod is not owner)"


def volume_claim_deleted(name: str) -> str:
    """A volume of the pod names a PersistentVolumeClaim that has a deletion timestamp."""
    return f'persistentvolumeclaim "{name}" is being deleted'


def volume_lost(claim: str, volume: str) -> str:
    """The claim has lost the PersistentVolume that it was bound to."""
    return f'persistentvolumeclaim "{claim}" bound to non-existent persistentvolume "{volume}"'


def claim_missing(namespace: str, claim: str) -> str:
    """The pod names a claim that does not exist."""
    return f'could not find ResourceClaim "{namespace}/{claim}"'


def claim_not_created(namespace: str, pod: str) -> str:
    """A claim of the pod has not been made from its template yet."""
    return f'pod "{namespace}/{pod}": ResourceClaim not created yet'


def claim_in_use(claim: str) -> str:
    """The claim is reserved by as many users as it can have, or is being deleted."""
    return f'resourceclaim "{claim}" in use'


def claim_deleted(claim: str) -> str:
    """Upstream refuses a claim that has a deletion timestamp."""
    return f'resourceclaim "{claim}" is being deleted'


def claim_tainted(claim: str, device: str) -> str:
    """Ours: the claim's device has a taint that the claim does not tolerate (KEP-5055)."""
    return f'resourceclaim "{claim}" holds device {device}, which has an untolerated taint'


def claim_not_shareable(claim: str) -> str:
    """A device of the claim is part of its node's CPU or memory (KEP-5517), and a pod has it."""
    return (
        f"node allocatable resource claim {claim} has a mapped device and cannot be shared across"
        " pods"
    )


def pod_level_too_small(resource: str) -> str:
    """The pod's own requests are less than those of its containers and claims (KEP-5517)."""
    return (
        f"pod level request for {resource} is insufficient to cover the aggregated container and"
        " node-allocatable DRA requests"
    )


def pod_limit_too_small(resource: str, container: str) -> str:
    """A container may use more with its claims than its pod may (KEP-5517)."""
    return (
        f"pod level limit for {resource} is insufficient to cover the limit and DRA overhead for"
        f" container {container}"
    )


def with_cel_hint(error: str) -> str:
    """A selector's run-time error, with upstream's advice where an attribute is missing."""
    if "no such key:" not in error:
        return error
    return (
        f"{error}. consider using CEL optional chaining (.? followed by orValue()) or guarding the"
        " check with has() for optional fields"
    )


def counters_unknown(device: str) -> str:
    """Ours: a device in use is not in its pool's slices, so that its counters cannot be counted."""
    return (
        f"{CLAIMS}: device {device} is in use but not published, so what is left of its pool's"
        " counters is not known"
    )


def class_missing(request: str, device_class: str) -> str:
    """The request names a DeviceClass that is not there: true on every node."""
    return f"request {request}: device class {device_class} does not exist"


def pod_group_missing(name: str) -> str:
    """The pod's PodGroup does not exist."""
    return f'waiting for pods\'s pod group "{name}" to appear in scheduling queue'


MEMBERS_NOT_BOUND = "too few pods of the group could be bound to their nodes"
GANG_WAITING = "waiting for minCount pods from a gang to appear in scheduling queue"


NOT_CACHED = " cached"


def data_missing(name: str) -> str:
    """Ours: the pod requires data that is cached on other nodes, if on any."""
    return f"node(s) didn't have {name}{NOT_CACHED}"


def composite_missing(name: str) -> str:
    """The parent that a group names does not exist."""
    return f"waiting for composite pod group {name} to appear in scheduling queue"


def composite_short(name: str) -> str:
    """Too few groups of a composite exist, or have the pods that they need."""
    return f'waiting for composite pod group "{name}" tree to meet quorum'


def gang_too_large(needed: int, placed: int, exact: bool) -> str:
    """Ours: how many pods of the gang find room; ``exact`` when that is proven to be the most."""
    if exact:
        return f"gang needs {needed}, at most {placed} fit"
    return f"gang needs {needed}, {placed} found room"


def resource_gap(lacking: str) -> str:
    """Coscheduling: the nodes have too little left for the group's ``minResources``."""
    return f"resource gap: map[{lacking}]"


def composite_too_large(needed: int, placed: int) -> str:
    """Ours: how many child groups find room at the same time."""
    return f"needs {needed} groups at once, {placed} found room"


def undecided(tried: int) -> str:
    """Ours: the search ended before it knew whether another arrangement would do."""
    return f"undecided: other arrangements may fit, {tried} placements were tried"


def other_scheduler(first: str, second: str) -> str:
    """Upstream: the pods of one group must name one scheduler."""
    return (
        "all pods in a single pod group should have the same .spec.schedulerName set, "
        f'got: "{first}" and "{second}"'
    )


def other_priority(first: int, second: int) -> str:
    """Upstream (KEP-5710): pods have the priority of their group."""
    return (
        "all pods in a single pod group should match the priority of the pod group, "
        f"got: {first} and {second}"
    )


def other_preemption_policy(first: str, second: str) -> str:
    """Upstream (KEP-5710): pods share one preemption policy."""
    return (
        "all pods in a single pod group should have the same preemptionPolicy, "
        f"got: {first} and {second}"
    )


def tree_priority(first: int, second: int) -> str:
    """Upstream (KEP-6012): one priority for all groups of a hierarchy."""
    return f"all groups of a hierarchy must have one priority, got: {first} and {second}"


def tree_cycle(names: str) -> str:
    """Upstream (KEP-6012): parents that lead back to the group itself."""
    return f"the parents of the group form a cycle: {names}"


def tree_depth(depth: int, limit: int) -> str:
    """Upstream (KEP-6012): WorkloadMaxTreeDepth."""
    return f"the hierarchy is {depth} levels deep, at most {limit} are allowed"


def tree_workloads(first: str, second: str) -> str:
    """Upstream (KEP-6012): a hierarchy belongs to one Workload."""
    return f"the groups of a hierarchy must refer to one Workload, got: {first} and {second}"


def no_domain(key: str) -> str:
    """Ours: no node carries the label by which the gang must stay together."""
    return f"no node has the topology label {key}"


def availability(total: int, counts: dict[str, int]) -> str:
    """``0/3 nodes are available: 1 Insufficient cpu, 2 Too many pods.``

    Upstream sorts the "count reason" texts, not the reasons (FitError.Error).
    """
    if total == 0:
        return NO_NODES
    parts = sorted(f"{count} {reason}" for reason, count in counts.items() if count)
    head = f"0/{total} nodes are available"
    return f"{head}: {', '.join(parts)}." if parts else f"{head}."
