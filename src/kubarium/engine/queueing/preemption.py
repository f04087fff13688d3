"""Classical preemption: the smallest set of victims that a greedy pass with fill-back finds.

Source of the algorithm: Kueue ``preemption.go`` classicalPreemptions and ``preemption/classical``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from kubarium.engine.queueing.clusterqueue import NEVER, ClusterQueue
from kubarium.engine.queueing.quota import FlavorResource, QuotaNode
from kubarium.engine.queueing.snapshot import Snapshot
from kubarium.engine.queueing.victims import (
    IN_CLUSTER_QUEUE,
    IN_COHORT_RECLAIM_WHILE_BORROWING,
    IN_COHORT_RECLAMATION,
    Victim,
    candidate_order,
    preemptable,
)
from kubarium.engine.queueing.workload import Admitted, Workload


@dataclass(frozen=True, slots=True)
class PreemptionRequest:
    """Who needs what. ``frs`` are the pairs that do not fit without preemption."""

    workload: Workload
    queue: ClusterQueue
    node: QuotaNode
    snapshot: Snapshot
    requests: Mapping[FlavorResource, int]
    frs: Mapping[FlavorResource, None]

    def fits(self, borrow: bool = True) -> bool:
        """Whether the requests fit the tree as it stands, without borrowing if so asked."""
        if not borrow and any(self.node.borrows(fr, a) for fr, a in self.requests.items()):
            return False
        return self.node.fits(self.requests)


class _Right(Enum):
    """By which right a candidate may be evicted."""

    WITHIN_QUEUE = IN_CLUSTER_QUEUE
    HIERARCHICAL = IN_COHORT_RECLAMATION
    WITHOUT_BORROWING = "InCohortReclamation only if the preemptor does not borrow"
    WHILE_BORROWING = IN_COHORT_RECLAIM_WHILE_BORROWING

    @property
    def reason(self) -> str:
        return IN_COHORT_RECLAMATION if self is _Right.WITHOUT_BORROWING else self.value


@dataclass(frozen=True, slots=True)
class _Candidate:
    """``common`` is the lowest cohort above both queues; None inside one queue."""

    admitted: Admitted
    right: _Right
    node: QuotaNode
    common: QuotaNode | None


def classical_victims(request: PreemptionRequest) -> list[Victim]:
    """Victims whose removal lets the request fit; empty if no allowed set does.

    The tree is changed while trying and is as before on return.
    """
    own = _own_candidates(request)
    hierarchical, by_priority = _cohort_candidates(request)
    candidates = _in_order(request, (hierarchical, by_priority, own))
    for borrow in _attempts(request, hierarchical, by_priority):
        removed: list[_Candidate] = []
        for candidate in candidates:
            if not _is_valid(request, candidate, borrow):
                continue
            candidate.node.discharge(candidate.admitted.usage)
            removed.append(candidate)
            if request.fits(borrow):
                _fill_back(request, removed, borrow)
                _restore(removed)
                return [Victim(c.admitted, c.right.reason) for c in removed]
        _restore(removed)
    return []


def _attempts(
    request: PreemptionRequest,
    hierarchical: Sequence[_Candidate],
    by_priority: Sequence[_Candidate],
) -> tuple[bool, ...]:
    """Whether to allow borrowing, in the order in which to try."""
    forbidden = not request.queue.preemption.may_borrow
    if not hierarchical and not by_priority:
        return (True,)
    if forbidden and not _under_nominal(request):
        return (True,)
    if forbidden and not hierarchical:
        return (False, True)
    return (True, False)


def _under_nominal(request: PreemptionRequest) -> bool:
    node = request.node
    return all(node.usage.get(fr, 0) < node.quota(fr).nominal for fr in request.frs)


def _own_candidates(request: PreemptionRequest) -> list[_Candidate]:
    policy = request.queue.preemption.within_cluster_queue
    if policy == NEVER:
        return []
    holders = request.snapshot.holders.get(request.queue.name)
    return [
        _Candidate(admitted, _Right.WITHIN_QUEUE, request.node, None)
        for admitted in preemptable(request.workload, holders, policy, request.frs)
    ]


def _cohort_candidates(
    request: PreemptionRequest,
) -> tuple[list[_Candidate], list[_Candidate]]:
    """Candidates in other queues: those over whom the preemptor's subtree has the better claim to
    the quota, and those whom only priority makes candidates."""
    hierarchical: list[_Candidate] = []
    by_priority: list[_Candidate] = []
    if request.queue.preemption.reclaim_within_cohort == NEVER:
        return hierarchical, by_priority
    advantage, remaining = _within_quota(request.node, request.requests)
    done: QuotaNode = request.node
    for ancestor in request.node.path_to_root():
        found = hierarchical if advantage else by_priority
        _collect(request, ancestor, ancestor, done, advantage, found)
        fits, remaining = _within_quota(ancestor, remaining)
        advantage = advantage or fits
        done = ancestor
    return hierarchical, by_priority


def _within_quota(
    node: QuotaNode, requests: Mapping[FlavorResource, int]
) -> tuple[bool, dict[FlavorResource, int]]:
    """Whether the requests fit this subtree's own quota, and what they leave for the parent."""
    fits = not any(node.borrows(fr, amount) for fr, amount in requests.items())
    rest = {fr: max(0, amount - node.local_available(fr)) for fr, amount in requests.items()}
    return fits, rest


def _collect(
    request: PreemptionRequest,
    cohort: QuotaNode,
    common: QuotaNode,
    done: QuotaNode,
    advantage: bool,
    found: list[_Candidate],
) -> None:
    """Walk the parts of the tree that use more than their own quota, leaving out ``done``."""
    policy = request.queue.preemption.reclaim_within_cohort
    for child in cohort.children:
        if child is done or child is request.node or child.within_nominal(request.frs):
            continue
        if not child.is_queue:
            _collect(request, child, common, done, advantage, found)
            continue
        holders = request.snapshot.holders.get(child.name)
        found.extend(
            _Candidate(admitted, _right(request, admitted, advantage), child, common)
            for admitted in preemptable(request.workload, holders, policy, request.frs)
        )


def _right(request: PreemptionRequest, admitted: Admitted, advantage: bool) -> _Right:
    if advantage:
        return _Right.HIERARCHICAL
    policy = request.queue.preemption
    threshold = policy.borrow_priority_threshold
    priority = admitted.workload.priority
    above = priority >= request.workload.priority or (
        threshold is not None and priority > threshold
    )
    if not policy.may_borrow or above:
        return _Right.WITHOUT_BORROWING
    return _Right.WHILE_BORROWING


def _in_order(
    request: PreemptionRequest, classes: Sequence[Sequence[_Candidate]]
) -> list[_Candidate]:
    """Already evicted ones of every class first, then the rest, class after class."""
    own_queue = request.queue.name
    ordered = [
        sorted(group, key=lambda c: candidate_order(c.admitted, own_queue)) for group in classes
    ]
    evicted = [c for group in ordered for c in group if c.admitted.evicted]
    return evicted + [c for group in ordered for c in group if not c.admitted.evicted]


def _is_valid(request: PreemptionRequest, candidate: _Candidate, borrow: bool) -> bool:
    """Earlier removals may have brought a candidate's queue, or a cohort above it, to nominal."""
    if candidate.common is None:
        return True
    if borrow and candidate.right is _Right.WITHOUT_BORROWING:
        return False
    if candidate.node.within_nominal(request.frs):
        return False
    for ancestor in candidate.node.path_to_root():
        if ancestor is candidate.common:
            break
        if ancestor.within_nominal(request.frs):
            return False
    return True


def _fill_back(request: PreemptionRequest, removed: list[_Candidate], borrow: bool) -> None:
    """Put back, last removed first, whoever can stay; the very last one is known to be needed."""
    for index in range(len(removed) - 2, -1, -1):
        candidate = removed[index]
        candidate.node.charge(candidate.admitted.usage)
        if request.fits(borrow):
            removed[index] = removed[-1]
            removed.pop()
        else:
            candidate.node.discharge(candidate.admitted.usage)


def _restore(removed: Sequence[_Candidate]) -> None:
    for candidate in removed:
        candidate.node.charge(candidate.admitted.usage)
