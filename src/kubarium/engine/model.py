"""What the engine knows of pods and nodes: small frozen values, no documents.

Equal values have equal hashes, and the values used as cache keys (:class:`PodShape`) keep theirs,
so that ten thousand pods from one template share one shape and all work done for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kubarium.engine.devices.model import Amount, ClaimSpec
from kubarium.engine.selectors import LabelSelector, NodeTerm, Requirement
from kubarium.engine.taints import Taint as Taint
from kubarium.engine.taints import Toleration as Toleration

# Namespace and name of an object.
Key = tuple[str, str]

CPU, MEMORY = "cpu", "memory"

NO_SCHEDULE = "NoSchedule"
PREFER_NO_SCHEDULE = "PreferNoSchedule"
NO_EXECUTE = "NoExecute"
UNSCHEDULABLE_TAINT_KEY = "node.kubernetes.io/unschedulable"
HOSTNAME_LABEL = "kubernetes.io/hostname"


@dataclass(frozen=True, slots=True)
class PreferredTerm:
    """A node preference, weight 1 to 100."""

    weight: int
    term: NodeTerm


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port that the pod takes on the node itself; "0.0.0.0" collides with every address."""

    ip: str
    protocol: str
    port: int

    def collides(self, other: HostPort) -> bool:
        if (self.protocol, self.port) != (other.protocol, other.port):
            return False
        return self.ip == other.ip or "0.0.0.0" in (self.ip, other.ip)


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk that the pod itself names (GCE, AWS, iSCSI, RBD), by the names that identify it.

    ``attaches`` is the CSI driver that serves it in truth, and its volume. Disks that only count as
    attached (Azure, Cinder, Portworx) have no names: nobody else's use of them is in the way.
    """

    kind: str
    names: tuple[str, ...] = ()
    read_only: bool = False
    attaches: tuple[str, str] | None = None

    def conflicts(self, other: Disk) -> bool:
        """Whether the two cannot be on one node: the same disk, and not both only read it."""
        return (
            self.kind == other.kind
            and not (self.read_only and other.read_only)
            and not set(self.names).isdisjoint(other.names)
        )


@dataclass(frozen=True, slots=True)
class SpreadConstraint:
    """A topology spread constraint; ``hard`` is DoNotSchedule."""

    topology_key: str
    max_skew: int
    hard: bool
    selector: LabelSelector
    min_domains: int = 1
    honor_affinity: bool = True
    honor_taints: bool = False


@dataclass(frozen=True, slots=True)
class PodTerm:
    """An inter-pod (anti-)affinity term. ``namespaces`` is empty only if a selector is given."""

    topology_key: str
    selector: LabelSelector | None
    namespaces: tuple[str, ...]
    namespace_selector: LabelSelector | None = None

    def selects(
        self, namespace: str, labels: Mapping[str, str], namespace_labels: Mapping[str, str]
    ) -> bool:
        """Whether the pod with these labels is one that the term speaks of."""
        if self.selector is None:
            return False
        chosen = namespace in self.namespaces or (
            self.namespace_selector is not None
            and self.namespace_selector.matches(namespace_labels)
        )
        return chosen and self.selector.matches(labels)


@dataclass(frozen=True, slots=True)
class WeightedPodTerm:
    """A preferred inter-pod term, weight 1 to 100 (negative for anti-affinity)."""

    weight: int
    term: PodTerm


@dataclass(frozen=True)
class PodShape:
    """All of a pod's wishes that do not depend on its name: equal shapes place alike.

    ``requests`` holds milli-cpu, bytes and counts, init containers and overhead included
    (upstream: ``resource.PodRequests``), sorted by name. ``images`` are normalised names of all
    containers and image volumes, with repeats; the last ``mounted`` are those of volumes.
    """

    requests: tuple[tuple[str, int], ...] = ()
    node_name: str = ""
    node_selector: tuple[Requirement, ...] = ()
    affinity: tuple[NodeTerm, ...] | None = None
    preferred: tuple[PreferredTerm, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    ports: tuple[HostPort, ...] = ()
    images: tuple[str, ...] = ()
    spread: tuple[SpreadConstraint, ...] = ()
    pod_affinity: tuple[PodTerm, ...] = ()
    pod_anti_affinity: tuple[PodTerm, ...] = ()
    pod_preferred: tuple[WeightedPodTerm, ...] = ()
    nonzero: tuple[int, int] = (100, 200 * 1024 * 1024)
    # The spread constraints are the cluster's defaults, not the pod's own.
    spread_by_default: bool = False
    # Data that the pod reads (``model/llama``, ``dataset/web``, ``image/…``), and whether it may
    # only go where all of that is cached.
    data: tuple[str, ...] = ()
    data_required: bool = False
    # What the node must have declared (NodeDeclaredFeatures), by name.
    features: tuple[str, ...] = ()
    # Extended resources that devices of a class stand for: (name, class, amount). They are not
    # among the requests, since claims ask for them, but may score (KEP-5004).
    backed: tuple[tuple[str, str, int], ...] = ()
    # Extended resources that the pod's nodes must, or must not, have themselves: one that a device
    # plugin serves there is none of the DRA drivers' business (KEP-5004 decides node by node).
    advertised: tuple[tuple[str, bool], ...] = ()
    mounted: int = 0
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        values = tuple(getattr(self, name) for name in self.__dataclass_fields__ if name != "_hash")
        object.__setattr__(self, "_hash", hash(values))

    def __hash__(self) -> int:
        return self._hash

    def request(self, resource: str) -> int:
        """The amount of one resource, 0 if none is asked for."""
        return dict(self.requests).get(resource, 0)

    def devices_for(self, resource: str) -> tuple[str, int]:
        """(class, amount) of a resource that devices stand for; ("", 0) of any other."""
        for name, device_class, amount in self.backed:
            if name == resource:
                return device_class, amount
        return "", 0

    @property
    def looks_at_pods(self) -> bool:
        """Whether other pods' labels decide where this one may or should go."""
        return bool(
            self.spread or self.pod_affinity or self.pod_anti_affinity or self.pod_preferred
        )


@dataclass(frozen=True, slots=True)
class PodPart:
    """A container of a pod with claims, in order: what it asks for, and which claims it uses.

    ``initial`` is an init container, ``brief`` one that is over before the next starts.
    """

    name: str
    requests: tuple[tuple[str, int], ...] = ()
    claims: tuple[Key, ...] = ()
    initial: bool = False
    brief: bool = False
    limits: tuple[tuple[str, int], ...] = ()

    def request(self, resource: str) -> int:
        """The amount of one resource, 0 if none is asked for."""
        return dict(self.requests).get(resource, 0)


@dataclass(frozen=True, slots=True)
class Overhead:
    """What using a claim costs of one node resource, for the pod and for each container."""

    name: str
    per_pod: Amount | None = None
    per_container: Amount | None = None

    def plus(self, per_pod: Amount | None, per_container: Amount | None) -> Overhead:
        """The overhead with that of another device."""
        return Overhead(
            self.name, _sum(self.per_pod, per_pod), _sum(self.per_container, per_container)
        )


def _sum(one: Amount | None, other: Amount | None) -> Amount | None:
    if one is None or other is None:
        return one if other is None else other
    return one + other


@dataclass(frozen=True, slots=True)
class ClaimShare:
    """What one claim of a pod takes of the node's own resources, in milli-cpu and bytes."""

    claim: Key
    containers: tuple[str, ...]
    mapped: tuple[tuple[str, Amount], ...] = ()
    overhead: tuple[Overhead, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Pod:
    """One pod. ``claims`` are the keys of its ResourceClaims, ``created`` is in seconds."""

    key: Key
    shape: PodShape
    uid: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    created: float = 0.0
    preempts: bool = True
    gang: Key | None = None
    claims: tuple[Key, ...] = ()
    terminating: bool = False
    nominated_node: str = ""
    started: float = 0.0
    # Ends by itself some day (a job's pod), so that others may wait for its room.
    finite: bool = False
    # PersistentVolumeClaims by name, those of ephemeral volumes included, which must be its own.
    volumes: tuple[Key, ...] = ()
    own_volumes: tuple[Key, ...] = ()
    # Containers, and requests and limits of the pod as a whole; only for pods with claims.
    parts: tuple[PodPart, ...] = ()
    pod_level: tuple[tuple[str, int], ...] = ()
    pod_limits: tuple[tuple[str, int], ...] = ()
    # Terminating because the scheduler made room.
    preempted: bool = False
    disks: tuple[Disk, ...] = ()
    # The pod as each sort of node would have it, itself the first, where some nodes serve an
    # extended resource by a device plugin and others by DRA: requests and claims differ.
    variants: tuple[Pod, ...] = ()

    @property
    def namespace(self) -> str:
        return self.key[0]

    @property
    def each(self) -> tuple[Pod, ...]:
        """The variants, or the pod alone."""
        return self.variants or (self,)

    @property
    def has_volumes(self) -> bool:
        """Whether storage may keep the pod from nodes, so that its like need not fare alike."""
        return bool(self.volumes or self.disks)


@dataclass(frozen=True, slots=True)
class Gang:
    """A PodGroup: ``min_count`` 0 is the basic policy (no all-or-nothing).

    ``topology_key`` names the node label of which all pods must see one value. ``claims`` are
    reserved for the group as a whole, for any number of its pods. ``parent`` is the composite that
    it belongs to. ``priority`` None: the group has none of its own. ``min_resources`` is what the
    nodes must have left in all before the group may start (coscheduling), whatever its pods need.
    """

    key: Key
    min_count: int
    topology_key: str = ""
    priority: int | None = None
    created: float = 0.0
    all_disrupted: bool = False
    scheduled_count: int = 0
    inner_keys: tuple[str, ...] = ()
    preferred_keys: tuple[str, ...] = ()
    claims: tuple[Key, ...] = ()
    parent: Key | None = None
    preempts: bool = True
    uid: str = ""
    min_resources: tuple[tuple[str, int], ...] = ()

    @property
    def required_keys(self) -> tuple[str, ...]:
        """Every label of which all pods must see one value."""
        return (self.topology_key, *self.inner_keys) if self.topology_key else self.inner_keys


@dataclass(frozen=True, slots=True)
class Composite:
    """A CompositePodGroup, a group of groups: ``min_groups`` 0 is the basic policy.

    Its topology keys hold for every pod below it, so that they narrow those of its children.
    """

    key: Key
    min_groups: int
    required_keys: tuple[str, ...] = ()
    preferred_keys: tuple[str, ...] = ()
    parent: Key | None = None
    priority: int | None = None
    created: float = 0.0
    all_disrupted: bool = False
    preempts: bool = True


@dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget: how many more of its pods may go (``allowed``) at this moment.

    Pods named in ``disrupted`` are on their way out already and do not count again. A budget
    without selector clauses speaks of no pod here, and none of a pod without labels (upstream:
    preemption's filter).
    """

    key: Key
    selector: LabelSelector | None
    allowed: int = 0
    disrupted: frozenset[str] = frozenset()

    def covers(self, pod: Pod) -> bool:
        """Whether the pod's eviction would be counted."""
        if self.selector is None or not self.selector.requirements or not pod.labels:
            return False
        if pod.namespace != self.key[0] or pod.key[1] in self.disrupted:
            return False
        return self.selector.matches(pod.labels)


@dataclass(frozen=True, slots=True)
class Provision:
    """Where a volume can be made: in ``terms`` (None: anywhere) and where ``room`` is left.

    ``room`` are selections of nodes (None: nobody counts), ``room_bytes`` what is left in each.
    """

    terms: tuple[NodeTerm, ...] | None = None
    room: tuple[LabelSelector, ...] | None = None
    room_bytes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class VolumeClaim:
    """A PersistentVolumeClaim as far as it limits nodes.

    ``problem`` keeps every pod that uses it from any node, as does ``unbound``: it must have its
    volume first. ``terms`` is the bound volume's node affinity (None: anywhere), ``zones`` its zone
    and region labels as clauses; ``gone`` is its name if there is no such volume. ``choices`` is
    set while the claim waits for its first consumer: volumes by name, the best first, of which a
    node must reach one unless ``provision`` lets one be made there; ``capacities`` are their bytes.
    ``selected`` is the node for which a volume is being made already. ``exclusive`` is
    ReadWriteOncePod. ``attaches`` is what a node attaches for it: CSI driver and volume. ``owner``
    is the uid of the pod that it was made for, if it was made for an ephemeral volume.
    """

    key: Key
    problem: str = ""
    terms: tuple[NodeTerm, ...] | None = None
    zones: tuple[Requirement, ...] = ()
    choices: tuple[tuple[str, tuple[NodeTerm, ...] | None], ...] | None = None
    provision: Provision | None = None
    exclusive: bool = False
    attaches: tuple[str, str] | None = None
    size: int = 0
    owner: str = ""
    unbound: bool = False
    gone: str = ""
    selected: str = ""
    storage_class: str = ""
    capacities: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """One node: ``allocatable`` in milli-cpu, bytes and counts, images with sizes in bytes.

    ``data`` is what else it has cached, by name, with sizes in bytes.
    """

    name: str
    allocatable: tuple[tuple[str, int], ...]
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    unschedulable: bool = False
    images: tuple[tuple[str, int], ...] = ()
    data: tuple[tuple[str, int], ...] = ()
    resize_preemption: bool = True  # whether pods may be evicted for a resize of another
    features: frozenset[str] = frozenset()  # status.declaredFeatures


@dataclass(frozen=True, slots=True)
class Claim:
    """A ResourceClaim as the engine sees it; its allocation is in the inventory's ledger.

    ``reserved`` counts its users by its status, ``reserved_for`` has their uids where it is full.
    ``resources`` says of a claim that stands for extended resources what its requests stand for:
    (request, container, resource). ``maker`` is for whom it was generated: (kind, name, uid) of a
    Pod or PodGroup. A device of a ``failed`` claim cannot be made ready, or was not in time
    (KEP-5007).
    """

    key: Key
    spec: ClaimSpec
    uid: str = ""
    reserved: int = 0
    deleting: bool = False
    resources: tuple[tuple[str, str, str], ...] = ()
    reserved_for: frozenset[str] = frozenset()
    maker: tuple[str, str, str] = ("", "", "")
    failed: bool = False
