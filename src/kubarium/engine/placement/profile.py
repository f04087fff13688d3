"""What a scheduler profile decides: which plugins filter, what each score weighs, how nodes fill.

Source: kube-scheduler's KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1) and its
defaults. One snapshot serves pods of several profiles; each profile has its own placer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from kubarium.engine.devices.preference import DEFAULT_PREFERENCE, DevicePreference
from kubarium.engine.model import PreferredTerm
from kubarium.engine.selectors import NodeTerm

DEFAULT_SCHEDULER = "default-scheduler"

LEAST_ALLOCATED = "LeastAllocated"
MOST_ALLOCATED = "MostAllocated"
REQUESTED_TO_CAPACITY_RATIO = "RequestedToCapacityRatio"
STRATEGIES = (LEAST_ALLOCATED, MOST_ALLOCATED, REQUESTED_TO_CAPACITY_RATIO)

# Plugins that filter, as configuration names them. Those that only score are in Weights.
FILTERS = (
    "NodeUnschedulable",
    "NodeName",
    "TaintToleration",
    "NodeAffinity",
    "NodePorts",
    "NodeResourcesFit",
    "VolumeRestrictions",
    "NodeVolumeLimits",
    "VolumeBinding",
    "VolumeZone",
    "PodTopologySpread",
    "InterPodAffinity",
    "DynamicResources",
    "NodeDeclaredFeatures",
    "DataLocality",
)


# Those of them that can say no, or name the only nodes, before a node is looked at.
FOREGOING = ("NodeAffinity", "VolumeRestrictions", "VolumeBinding", "VolumeZone")


@dataclass(frozen=True, slots=True)
class Weights:
    """The weight of each scoring plugin; 0 is off."""

    TaintToleration: int = 3
    NodeAffinity: int = 2
    NodeResourcesFit: int = 1
    NodeResourcesBalancedAllocation: int = 1
    ImageLocality: int = 1
    PodTopologySpread: int = 2
    InterPodAffinity: int = 2
    DynamicResources: int = 2
    VolumeBinding: int = 1
    DataLocality: int = 3  # ours; only pods that name their data have it


@dataclass(frozen=True, slots=True)
class Strategy:
    """NodeResourcesFit's scoring strategy.

    ``resources`` are names with weights. ``shape`` is used by RequestedToCapacityRatio only:
    (utilisation 0 to 100, score 0 to 10), utilisations ascending.
    """

    kind: str = LEAST_ALLOCATED
    resources: tuple[tuple[str, int], ...] = (("cpu", 1), ("memory", 1))
    shape: tuple[tuple[int, int], ...] = ()

    def ratio_table(self) -> list[int]:
        """The score, 0 to 100, of each whole percentage of utilisation from 0 to 100."""
        return ratio_table(self.shape)


def ratio_table(shape: tuple[tuple[int, int], ...]) -> list[int]:
    """The score, 0 to 100, of each whole percentage of utilisation by points of a broken line."""
    return [_ratio(shape, utilisation) for utilisation in range(101)]


def _ratio(shape: tuple[tuple[int, int], ...], utilisation: int) -> int:
    left = shape[0]
    for point in shape:
        if utilisation <= point[0]:
            if point == shape[0]:
                return 10 * point[1]
            rise = 10 * (point[1] - left[1]) * (utilisation - left[0])
            # Go's integer division cuts towards zero.
            return 10 * left[1] + int(rise / (point[0] - left[0]))
        left = point
    return 10 * left[1]


@dataclass(frozen=True)
class Profile:
    """One scheduler by name. ``disabled`` are filters that are off; ``preempts`` DefaultPreemption.

    ``unprepared`` are plugins that do nothing before nodes are looked at (preFilter): of those that
    can turn a pod away by then. ``frees_claims`` is DynamicResources' part after all filters.
    ``added_affinity`` and ``added_preferred`` are NodeAffinityArgs.addedAffinity, by which a
    profile keeps its pods to some nodes whatever they ask for. ``ignored_resources`` and
    ``ignored_groups`` (what stands before the slash) name extended resources that somebody else
    counts. ``ignore_preferred_of_existing`` leaves what placed pods wish for out of the score of
    pods that have no such wishes themselves. ``devices`` says which of several devices that would
    do is taken, ``device_timeout_s`` and ``volume_timeout_s`` how many seconds a pod that has a
    node waits for its devices to be made ready and for its volumes to be bound. ``storage_shape``
    scores how full storage becomes, as a strategy's ``shape``.
    """

    scheduler_name: str = DEFAULT_SCHEDULER
    disabled: frozenset[str] = frozenset()
    unprepared: frozenset[str] = frozenset()
    weights: Weights = field(default_factory=Weights)
    strategy: Strategy = field(default_factory=Strategy)
    balanced: tuple[str, ...] = ("cpu", "memory")
    ignored_resources: frozenset[str] = frozenset()
    ignored_groups: frozenset[str] = frozenset()
    hard_pod_affinity_weight: int = 1
    ignore_preferred_of_existing: bool = False
    added_affinity: tuple[NodeTerm, ...] | None = None
    added_preferred: tuple[PreferredTerm, ...] = ()
    preempts: bool = True
    frees_claims: bool = True
    # Preemption chooses among this many nodes, in percent or at least.
    candidates_percent: int = 10
    min_candidates: int = 100
    # Nodes on which evictions are tried out for one pod, if not all of them do.
    max_dry_runs: int = 500
    devices: DevicePreference = DEFAULT_PREFERENCE
    device_timeout_s: float = 600.0
    volume_timeout_s: float = 600.0
    storage_shape: tuple[tuple[int, int], ...] = ((0, 10), (100, 0))

    def filters(self, plugin: str) -> bool:
        """Whether the plugin may turn nodes away."""
        return plugin not in self.disabled

    def prepares(self, plugin: str) -> bool:
        """Whether the plugin may turn the pod away before it has seen a node."""
        return plugin not in self.unprepared

    def ignores(self, resource: str) -> bool:
        """Whether the resource's amount is not looked at; that can be an extended resource only."""
        if resource not in self.ignored_resources and not self.ignored_groups:
            return False
        group, slash, _ = resource.partition("/")
        extended = slash and "kubernetes.io/" not in resource and not group.startswith("requests.")
        return bool(extended) and (
            resource in self.ignored_resources or group in self.ignored_groups
        )

    @cached_property
    def plain(self) -> bool:
        """Whether resources score as by default, for which there is a quick form for one row."""
        return self.strategy == Strategy() and self.balanced == ("cpu", "memory")


DEFAULT = Profile()
