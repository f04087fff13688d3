"""What a cycle decides, as values: who is admitted, who is evicted for whom, who waits and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kubarium.engine.queueing.assignment import Assignment
from kubarium.engine.queueing.victims import Victim
from kubarium.engine.queueing.workload import Admitted, AssignedPodSet, Key, Workload

# Further reasons of QuotaReserved=False, beside those of flavor assignment.
WAITING_FOR_PREEMPTED = "WaitingForPreemptedWorkloads"
PENDING_EVALUATION = "PendingEvaluation"
MISCONFIGURED = "Misconfigured"
ADMISSION_GATED = "AdmissionGated"
SUSPENDED = "Suspended"
ON_HOLD = "OnHold"
DEACTIVATED = "Deactivated"

LastTried = Mapping[Key, tuple[Mapping[str, int], ...]]


@dataclass(frozen=True, slots=True)
class Admission:
    """Quota that a workload gets now. ``considered`` is the flavors part of the event text."""

    workload: Workload
    pod_sets: tuple[AssignedPodSet, ...]
    considered: str = ""
    borrowing: int = 0
    replaces: Admitted | None = None


@dataclass(frozen=True, slots=True)
class Eviction:
    """A victim, the workload that needs its place, and the condition's message."""

    victim: Victim
    preemptor: Workload
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a workload that was looked at is not admitted.

    ``inadmissible``: no use looking again before quota, flavors or the workload change.
    ``stands_for_shape``: the same holds for every workload of its shape in its queue.
    """

    workload: Workload
    reason: str
    message: str
    inadmissible: bool = False
    stands_for_shape: bool = False
    gated: bool = False
    assignment: Assignment | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Decisions in the order in which to commit them: admissions before evictions.

    ``wake_at`` is when a workload that now backs off may be tried again. ``skipped_preemptions``
    counts, by ClusterQueue, preemptions put off because of another one.
    """

    admissions: tuple[Admission, ...] = ()
    evictions: tuple[Eviction, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    wake_at: float | None = None
    cycles: int = 0
    last_tried: LastTried = field(default_factory=dict)
    skipped_preemptions: Mapping[str, int] = field(default_factory=dict)
