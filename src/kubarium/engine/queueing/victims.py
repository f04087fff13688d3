"""Whom a workload may preempt, in which order, and what preemption is told about it.

Source: Kueue ``pkg/scheduler/preemption/common`` and ``preemption.go``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from kubarium.engine.queueing.clusterqueue import (
    ANY,
    LOWER_OR_NEWER_EQUAL_PRIORITY,
    LOWER_PRIORITY,
)
from kubarium.engine.queueing.quota import FlavorResource, QuotaNode
from kubarium.engine.queueing.snapshot import Holders, cohort_path
from kubarium.engine.queueing.workload import Admitted, Workload

IN_CLUSTER_QUEUE = "InClusterQueue"
IN_COHORT_RECLAMATION = "InCohortReclamation"
IN_COHORT_FAIR_SHARING = "InCohortFairSharing"
IN_COHORT_RECLAIM_WHILE_BORROWING = "InCohortReclaimWhileBorrowing"

_IN_WORDS = {
    IN_CLUSTER_QUEUE: "prioritization in the ClusterQueue",
    IN_COHORT_RECLAMATION: "reclamation within the cohort",
    IN_COHORT_FAIR_SHARING: "Fair Sharing within the cohort",
    IN_COHORT_RECLAIM_WHILE_BORROWING: "reclamation within the cohort while borrowing",
}


@dataclass(frozen=True, slots=True)
class Victim:
    """A workload to evict, and by which right."""

    admitted: Admitted
    reason: str


def may_preempt(preemptor: Workload, candidate: Workload, policy: str) -> bool:
    """Whether the policy lets ``preemptor`` evict ``candidate``, by priority and age alone."""
    if policy == ANY:
        return True
    if preemptor.priority > candidate.priority:
        return policy in (LOWER_PRIORITY, LOWER_OR_NEWER_EQUAL_PRIORITY)
    return (
        policy == LOWER_OR_NEWER_EQUAL_PRIORITY
        and preemptor.priority == candidate.priority
        and preemptor.queued_at < candidate.queued_at
    )


def preemptable(
    preemptor: Workload,
    holders: Holders | None,
    policy: str,
    frs: Mapping[FlavorResource, None],
) -> Iterator[Admitted]:
    """The holders that the policy lets be evicted and that use what is needed."""
    if holders is None:
        return
    highest = preemptor.priority - (policy == LOWER_PRIORITY)
    within_reach: Iterable[Admitted] = holders if policy == ANY else holders.up_to(highest)
    for admitted in within_reach:
        if may_preempt(preemptor, admitted.workload, policy) and admitted.uses(frs):
            yield admitted


CandidateOrder = tuple[bool, bool, int, float, str]


def candidate_order(admitted: Admitted, own_queue: str) -> CandidateOrder:
    """Sort key: already evicted, other queues, lower priority, newest reservation, uid."""
    reserved_at = float("inf") if admitted.reserved_at is None else admitted.reserved_at
    return (
        not admitted.evicted,
        admitted.cluster_queue == own_queue,
        admitted.workload.priority,
        -reserved_at,
        admitted.workload.uid,
    )


def preemption_message(
    preemptor_uid: str, job_uid: str, reason: str, preemptor_path: str, preemptee_path: str
) -> str:
    """The message of a victim's Evicted and Preempted conditions."""
    return (
        f"Preempted to accommodate a workload (UID: {preemptor_uid or 'UNKNOWN'}, "
        f"JobUID: {job_uid or 'UNKNOWN'}) due to {_IN_WORDS.get(reason, 'UNKNOWN')}; "
        f"preemptor path: {preemptor_path or 'UNKNOWN'}; "
        f"preemptee path: {preemptee_path or 'UNKNOWN'}"
    )


def message_for(preemptor: Workload, victim: Victim, own: QuotaNode, other: QuotaNode) -> str:
    return preemption_message(
        preemptor.uid, preemptor.job_uid, victim.reason, cohort_path(own), cohort_path(other)
    )


def priorities_in_words(preemptor: Workload, victim: Workload) -> str:
    """The tail of the Preempted events: both sides' priorities, with their parts."""

    def told(side: str, workload: Workload) -> str:
        return (
            f"{side} effective priority: {workload.priority} "
            f"(base: {workload.base_priority}, boost: {workload.boost})"
        )

    return f"{told('preemptor', preemptor)}; {told('preemptee', victim)}"
