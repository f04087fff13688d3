"""What flavor assignment finds: modes, choices, attempts, and the words that explain them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from kubarium.engine.queueing.clusterqueue import ClusterQueue
from kubarium.engine.queueing.quota import FlavorResource
from kubarium.engine.queueing.workload import AssignedPodSet

# Reasons of QuotaReserved=False (KEP-10852).
NO_MATCHING_FLAVOR = "NoMatchingFlavor"
EXCEEDS_MAX_QUOTA = "ExceedsMaxQuota"
WAITING_FOR_QUOTA = "WaitingForQuota"
TOPOLOGY_PLACEMENT_FAILED = "TopologyPlacementFailed"

_SEVERITY = {
    NO_MATCHING_FLAVOR: 4,
    EXCEEDS_MAX_QUOTA: 3,
    WAITING_FOR_QUOTA: 2,
    TOPOLOGY_PLACEMENT_FAILED: 1,
}


def more_severe(left: str, right: str) -> str:
    """The reason that is further from being solved by waiting."""
    return left if _SEVERITY.get(left, 0) >= _SEVERITY.get(right, 0) else right


class Mode(IntEnum):
    """What must happen before an assignment can be used; higher is better."""

    NO_FIT = 0
    PREEMPT = 1
    DEFERRED_FIT = 2
    FIT = 3

    @property
    def label(self) -> str:
        return _MODE_LABELS[self]


_MODE_LABELS = ("NoFit", "Preempt", "DeferredFit", "Fit")


class Possibility(IntEnum):
    """How one flavor could be had for one resource; higher is better.

    RECLAIM needs victims in other ClusterQueues only, PREEMPT some in the own one, NO_CANDIDATES
    would need preemption but finds nobody to preempt.
    """

    NO_FIT = 0
    NO_CANDIDATES = 1
    PREEMPT = 2
    RECLAIM = 3
    FIT = 4

    @property
    def mode(self) -> Mode:
        if self is Possibility.FIT:
            return Mode.FIT
        return Mode.NO_FIT if self is Possibility.NO_FIT else Mode.PREEMPT

    @property
    def label(self) -> str:
        return _POSSIBILITY_LABELS[self]


_POSSIBILITY_LABELS = ("NoFit", "NoCandidates", "Preempt", "Reclaim", "Fit")


@dataclass(frozen=True, slots=True)
class FlavorChoice:
    """The flavor of one resource. ``tried_index`` -1: every flavor of the group was tried."""

    flavor: str
    mode: Mode
    borrow: int = 0
    tried_index: int = -1


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one flavor: its worst outcome over the resources asked of it."""

    flavor: str
    possibility: Possibility
    borrow: int = 0
    reasons: tuple[str, ...] = ()
    no_fit_reason: str = ""

    @property
    def mode(self) -> Mode:
        return self.possibility.mode


@dataclass(frozen=True, slots=True)
class PodSetAssignment:
    """One pod set's flavors, or the reasons why it has none (``reasons`` empty means fit)."""

    index: int
    name: str
    count: int
    flavors: Mapping[str, FlavorChoice]
    requests: Mapping[str, int]
    reasons: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()

    @property
    def mode(self) -> Mode:
        if not self.reasons:
            return Mode.FIT
        if not self.flavors:
            return Mode.NO_FIT
        return min(choice.mode for choice in self.flavors.values())


@dataclass(frozen=True, slots=True)
class Assignment:
    """Flavors for a whole workload. ``usage`` is what admission would charge.

    ``borrowing`` is how far up the tree quota comes from (0: the own ClusterQueue).
    ``mode`` is the worst of the pod sets' modes.
    """

    pod_sets: tuple[PodSetAssignment, ...]
    usage: Mapping[FlavorResource, int]
    borrowing: int
    mode: Mode
    no_fit_reason: str = ""

    @property
    def last_tried(self) -> tuple[Mapping[str, int], ...]:
        """For each pod set and resource the index of the flavor to resume after."""
        return tuple(
            {resource: choice.tried_index for resource, choice in ps.flavors.items()}
            for ps in self.pod_sets
        )

    @property
    def nominated(self) -> dict[str, dict[str, str]]:
        """The flavors chosen, by pod set and resource."""
        return {
            ps.name: {resource: choice.flavor for resource, choice in ps.flavors.items()}
            for ps in self.pod_sets
        }

    @property
    def needing_preemption(self) -> dict[FlavorResource, None]:
        return {
            (choice.flavor, resource): None
            for ps in self.pod_sets
            for resource, choice in ps.flavors.items()
            if choice.mode is Mode.PREEMPT
        }

    def message(self) -> str:
        """Why it does not simply fit, in Kueue's words; "" when it does."""
        return "; ".join(
            f"couldn't assign flavors to pod set {ps.name}: {', '.join(sorted(ps.reasons))}"
            for ps in self.pod_sets
            if ps.reasons
        )

    def considered(self) -> str:
        """The part of the QuotaReserved event that says which flavors were looked at."""
        parts = []
        for ps in self.pod_sets:
            shown = [
                _show_attempt(attempt)
                for attempt in ps.attempts
                if attempt.mode is not Mode.FIT or attempt.borrow
            ]
            if shown:
                parts.append(f"{ps.name}: {', '.join(shown)}")
        return " | ".join(parts)

    def assigned(self) -> tuple[AssignedPodSet, ...]:
        """The admission that this assignment stands for."""
        return tuple(
            AssignedPodSet(
                ps.name,
                ps.count,
                {resource: choice.flavor for resource, choice in ps.flavors.items()},
                {resource: ps.requests.get(resource, 0) for resource in ps.flavors},
            )
            for ps in self.pod_sets
        )


def _show_attempt(attempt: Attempt) -> str:
    how = attempt.mode.label
    if attempt.possibility not in (Possibility.FIT, Possibility.NO_FIT):
        how = f"preemptionMode={attempt.possibility.label}"
    borrow = f";borrow={attempt.borrow}" if attempt.borrow else ""
    reasons = "".join(f";{reason}" for reason in attempt.reasons)
    return f"{attempt.flavor}({how}{borrow}{reasons})"


def total_requests(
    assignment: Assignment, replaced: tuple[AssignedPodSet, ...] = ()
) -> dict[FlavorResource, int]:
    """What preemption must make room for: all pods, less those of a slice that is replaced."""
    old_counts = {ps.name: ps.count for ps in replaced}
    usage: dict[FlavorResource, int] = {}
    for ps in assignment.pod_sets:
        count = ps.count - old_counts.get(ps.name, 0)
        for resource, amount in ps.requests.items():
            choice = ps.flavors.get(resource)
            if amount and choice is not None:
                fr = (choice.flavor, resource)
                usage[fr] = usage.get(fr, 0) + amount // ps.count * count
    return usage


def merge_attempts(
    merged: dict[str, Attempt], new: Iterable[Attempt], resource: str, queue: ClusterQueue
) -> None:
    """Add one resource group's attempts; a flavor of the group that was not tried is out.

    Two groups may share flavors, so that one flavor's attempts meet here.
    """
    tried = {attempt.flavor: attempt for attempt in new}
    for flavor, attempt in tried.items():
        known = merged.get(flavor)
        merged[flavor] = _merge(known, attempt) if known else attempt
    group = queue.group_of(resource)
    if not tried or group is None:
        return
    for flavor in group.flavors:
        if flavor in merged and flavor not in tried:
            old = merged[flavor]
            reason = f"flavor {flavor} does not provide resource {resource}"
            reasons = tuple(sorted({*old.reasons, reason}))
            merged[flavor] = Attempt(
                flavor, Possibility.NO_FIT, old.borrow, reasons, NO_MATCHING_FLAVOR
            )


def _merge(left: Attempt, right: Attempt) -> Attempt:
    return Attempt(
        left.flavor,
        min(left.possibility, right.possibility),
        max(left.borrow, right.borrow),
        tuple(sorted({*left.reasons, *right.reasons})),
        more_severe(left.no_fit_reason, right.no_fit_reason),
    )


def resolve_no_fit_reason(pod_sets: Iterable[PodSetAssignment], queue: ClusterQueue) -> str:
    """The one reason shown: within a group of flavors the mildest, over groups the most severe."""
    overall = ""
    for ps in pod_sets:
        if ps.mode is not Mode.NO_FIT:
            continue
        if not ps.attempts:
            overall = more_severe(overall, NO_MATCHING_FLAVOR)
            continue
        mildest: dict[int, str] = {}
        for number, attempt in enumerate(ps.attempts):
            if attempt.mode is not Mode.NO_FIT:
                continue
            groups = [i for i, g in enumerate(queue.groups) if attempt.flavor in g.flavors]
            for index in groups or [-1 - number]:
                known = mildest.get(index)
                if known is None or _SEVERITY.get(attempt.no_fit_reason, 0) < _SEVERITY.get(
                    known, 0
                ):
                    mildest[index] = attempt.no_fit_reason
        for reason in mildest.values():
            overall = more_severe(overall, reason)
    return overall
