"""A ClusterQueue's rules: which resources come in which flavors, and what may preempt what."""

from __future__ import annotations

from dataclasses import dataclass

NEVER = "Never"
LOWER_PRIORITY = "LowerPriority"
LOWER_OR_NEWER_EQUAL_PRIORITY = "LowerOrNewerEqualPriority"
ANY = "Any"
TRY_NEXT_FLAVOR = "TryNextFlavor"
BORROWING_OVER_PREEMPTION = "BorrowingOverPreemption"
PREEMPTION_OVER_BORROWING = "PreemptionOverBorrowing"
STRICT_FIFO = "StrictFIFO"
BEST_EFFORT_FIFO = "BestEffortFIFO"


@dataclass(frozen=True, slots=True)
class ResourceGroup:
    """Resources that always get the same flavor, and the flavors in order of preference."""

    resources: tuple[str, ...]
    flavors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fungibility:
    """When to go on to the next flavor although this one could be used."""

    when_can_borrow: str = "MayStopSearch"
    when_can_preempt: str = TRY_NEXT_FLAVOR
    preference: str = BORROWING_OVER_PREEMPTION


@dataclass(frozen=True, slots=True)
class PreemptionPolicy:
    """``borrow_priority_threshold`` None means that no threshold limits borrowing preemption."""

    within_cluster_queue: str = NEVER
    reclaim_within_cohort: str = NEVER
    borrow_within_cohort: str = NEVER
    borrow_priority_threshold: int | None = None

    @property
    def may_borrow(self) -> bool:
        return self.borrow_within_cohort != NEVER


@dataclass(frozen=True, slots=True)
class ClusterQueue:
    """One queue's configuration. Its quotas live in the quota tree under the same name.

    ``inactive`` says why the queue admits nothing ("" when it does).
    """

    name: str
    groups: tuple[ResourceGroup, ...] = ()
    strategy: str = BEST_EFFORT_FIFO
    fungibility: Fungibility = Fungibility()
    preemption: PreemptionPolicy = PreemptionPolicy()
    inactive: str = ""
    generation: int = 0

    def group_of(self, resource: str) -> ResourceGroup | None:
        for group in self.groups:
            if resource in group.resources:
                return group
        return None
