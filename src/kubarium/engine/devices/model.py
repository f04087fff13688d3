"""Devices, pools, claims and allocations as values (resource.k8s.io/v1, without the documents)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from kubarium.engine.selectors import NodeTerm
from kubarium.engine.taints import Taint, Toleration

Amount = int | Fraction

# Upstream: resource.k8s.io AllocationResultsMaxSize.
MAX_RESULTS_PER_CLAIM = 32

EXACT_COUNT = "ExactCount"
ALL = "All"


class DeviceId(NamedTuple):
    """What identifies a device in a cluster."""

    driver: str
    pool: str
    device: str

    def __str__(self) -> str:
        return f"{self.driver}/{self.pool}/{self.device}"


@dataclass(frozen=True, slots=True)
class Rest:
    """A device that could not be made ready and is left alone ``until`` a time (RFC 3339).

    ``told`` goes on where "device" ends; ``again``: the device had failed when it was tried last.
    """

    device: DeviceId
    told: str
    until: str
    again: bool = False

    @classmethod
    def of(cls, device: DeviceId, why: str, until: str, *, again: bool = False) -> Rest:
        """``why`` is what the pod is told that waited for the device."""
        text = f"{device} could not be made ready ({why}), and is left alone until {until}"
        return cls(device, text, until, again)


@dataclass(frozen=True, slots=True)
class AttributeValue:
    """A typed attribute. ``kind`` "" is an attribute with no known value: it satisfies nothing.

    ``order`` has a list's items as they come: selectors can see it, constraints do not.
    """

    kind: str
    values: frozenset[int | bool | str]
    is_list: bool = False
    order: tuple[int | bool | str, ...] = field(default=(), compare=False)

    def shown(self) -> str:
        return ", ".join(sorted(str(v) for v in self.values))


@dataclass(frozen=True, slots=True)
class RequestPolicy:
    """How much of a shareable capacity one claim may take: default, valid values or a range."""

    default: Amount | None = None
    valid_values: tuple[Amount, ...] = ()
    minimum: Amount | None = None
    maximum: Amount | None = None
    step: Amount | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """One capacity of a device."""

    value: Amount
    policy: RequestPolicy | None = None


@dataclass(frozen=True, slots=True)
class CounterUse:
    """What a device takes from one counter set of its pool."""

    counter_set: str
    counters: tuple[tuple[str, Amount], ...]
    # Devices in use on one counter set must all share a group, or all have none (KEP-5963).
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NodeResource:
    """What an allocated device takes of one of its node's own resources (KEP-5517).

    Mapped is ``multiplier`` for each device, or ``multiplier`` times what the claim consumes of
    ``capacity``; it counts once for the claim, which one pod at a time may use. The overhead counts
    for every pod that uses the claim, and for each of its containers that do. Amounts are exact, in
    milli-cpu, bytes and counts.
    """

    name: str
    capacity: str = ""
    multiplier: Amount | None = None
    per_pod: Amount | None = None
    per_container: Amount | None = None


# The taints of devices follow the rule of nodes; effect None only informs.
DeviceTaint = Taint
DeviceToleration = Toleration


@dataclass(frozen=True, slots=True, eq=False)
class Device:
    """A device. ``source`` is what the injected selector predicate reads; the engine does not.

    ``opaque``: a selector's outcome may depend on more than the attributes that it names, since
    there are too many of them or one cannot be read.
    """

    name: str
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    capacity: Mapping[str, Capacity] = field(default_factory=dict)
    consumes: tuple[CounterUse, ...] = ()
    taints: tuple[DeviceTaint, ...] = ()
    allow_multiple: bool = False
    binds_to_node: bool = False
    binding_conditions: tuple[str, ...] = ()
    binding_failure_conditions: tuple[str, ...] = ()
    node_name: str = ""
    node_terms: tuple[NodeTerm, ...] | None = None
    all_nodes: bool = False
    source: object = None
    node_resources: tuple[NodeResource, ...] = ()
    opaque: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """A ResourceSlice: some devices or counter sets of one pool."""

    name: str
    driver: str
    pool: str
    generation: int
    slice_count: int
    devices: tuple[Device, ...] = ()
    counter_sets: tuple[tuple[str, tuple[tuple[str, Amount], ...]], ...] = ()
    node_name: str = ""
    node_terms: tuple[NodeTerm, ...] | None = None
    all_nodes: bool = False
    per_device: bool = False
    source: object = None
    skip_operations: tuple[str, ...] = ()
    partition_attribute: str = ""


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """A DeviceClass: its CEL selectors; None stands for a selector of an unknown type.

    ``resource`` is the extended resource that it answers, if any.
    """

    name: str
    selectors: tuple[str | None, ...] = ()
    resource: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """An exact request or one alternative of a prioritised list."""

    name: str
    device_class: str
    selectors: tuple[str | None, ...] = ()
    mode: str = EXACT_COUNT
    count: int = 1
    admin_access: bool | None = None
    tolerations: tuple[DeviceToleration, ...] = ()
    capacity: tuple[tuple[str, Amount], ...] | None = None
    # (name, CEL expression) of attributes that only constraints see; they hide the device's own.
    derived: tuple[tuple[str, str], ...] = ()

    @property
    def least_devices(self) -> int:
        """How many devices it takes from others: those given to administrators stay free."""
        if self.admin_access:
            return 0
        return 1 if self.mode == ALL else self.count


@dataclass(frozen=True, slots=True)
class RequestEntry:
    """One entry of ``spec.devices.requests``: ``alternatives`` has one item unless prioritised."""

    name: str
    alternatives: tuple[Request, ...]
    prioritised: bool = False

    def path(self, alternative: Request) -> str:
        """The name used in results: ``request`` or ``request/subrequest``."""
        return f"{self.name}/{alternative.name}" if self.prioritised else self.name


@dataclass(frozen=True, slots=True)
class Constraint:
    """matchAttribute or distinctAttribute over some (or, when empty, all) requests of a claim."""

    requests: tuple[str, ...]
    match: str = ""
    distinct: str = ""

    def covers(self, entry: RequestEntry, alternative: Request) -> bool:
        if not self.requests or entry.name in self.requests:
            return True
        return entry.prioritised and entry.path(alternative) in self.requests


@dataclass(frozen=True)
class ClaimSpec:
    """What a claim asks for. The hash is kept: specs are cache keys."""

    requests: tuple[RequestEntry, ...]
    constraints: tuple[Constraint, ...] = ()
    _hash: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.requests, self.constraints)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def prioritised(self) -> bool:
        return any(entry.prioritised for entry in self.requests)

    @property
    def least_devices(self) -> int:
        """How many devices it takes from others at least, whatever alternatives are given."""
        return sum(
            min((r.least_devices for r in entry.alternatives), default=0) for entry in self.requests
        )


@dataclass(frozen=True, slots=True)
class DeviceResult:
    """One device given to one request. ``consumed`` is set for shared devices only."""

    request: str
    id: DeviceId
    admin_access: bool | None = None
    shared: bool = False
    consumed: tuple[tuple[str, Amount], ...] = ()
    tolerations: tuple[DeviceToleration, ...] = ()
    binding_conditions: tuple[str, ...] = ()
    binding_failure_conditions: tuple[str, ...] = ()
    skip_operations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeScope:
    """Where an allocation can be used: nodes that match one of ``terms``; anywhere if None."""

    terms: tuple[NodeTerm, ...] | None = None

    def admits(self, name: str, labels: Mapping[str, str]) -> bool:
        return self.terms is None or any(t.matches(name, labels) for t in self.terms)


@dataclass(frozen=True, slots=True)
class Allocation:
    """What one claim got, and where it can be used.

    ``chosen`` names, for each request of the claim in order, the result name of the alternative.
    """

    results: tuple[DeviceResult, ...]
    scope: NodeScope = NodeScope()
    chosen: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Features:
    """The DRA feature gates. Ours are on; upstream's tests turn them off one by one."""

    admin_access: bool = True
    prioritized_list: bool = True
    partitionable: bool = True
    taints: bool = True
    binding_conditions: bool = True
    consumable_capacity: bool = True
    list_attributes: bool = True
    fractional_range: bool = True
    derived_attributes: bool = True
    compatibility_groups: bool = True
    optional_node_operations: bool = True


DEFAULT_FEATURES = Features()


class SelectorError(Exception):
    """A CEL selector does not compile or fails at run time; the text says which and why."""

    def __init__(self, message: str, *, compile_time: bool) -> None:
        super().__init__(message)
        self.compile_time = compile_time


class AllocationError(Exception):
    """The claims cannot be decided at all. ``node_only``: another node may still do."""

    def __init__(self, message: str, *, node_only: bool = False) -> None:
        super().__init__(message)
        self.node_only = node_only


# (CEL expression, driver, device) -> whether it matches; raises SelectorError.
Selects = Callable[[str, str, Device], bool]

# (CEL expression, driver, device) -> the derived attribute's value; raises SelectorError.
Derives = Callable[[str, str, Device], AttributeValue]
