"""The best that can be offered to one workload: flavors, victims, or a smaller size.

Source: Kueue ``scheduler.go`` getAssignments; ``preemption_oracle.go``; ``podset_reducer.go``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubarium.engine.queueing.assign import AssignContext, Nominated, assign
from kubarium.engine.queueing.assignment import (
    Assignment,
    Mode,
    Possibility,
    total_requests,
)
from kubarium.engine.queueing.clusterqueue import ClusterQueue
from kubarium.engine.queueing.fair import fair_victims
from kubarium.engine.queueing.preemption import PreemptionRequest, classical_victims
from kubarium.engine.queueing.quota import FlavorResource, QuotaNode, lowest_fitting_height
from kubarium.engine.queueing.snapshot import Snapshot
from kubarium.engine.queueing.victims import Victim
from kubarium.engine.queueing.workload import Admitted, Workload


def nominate(
    snapshot: Snapshot,
    workload: Workload,
    last_tried: Sequence[Mapping[str, int]] = (),
    nominated: Nominated | None = None,
) -> tuple[Assignment, list[Victim]]:
    """An assignment and the victims it needs.

    Full size without victims, else full size with victims, else, where the workload allows it, the
    largest smaller size that fits or can preempt. If nothing works, the full-size assignment that
    says why, and no victims.
    """
    context = assign_context(snapshot, workload)
    replaced = replaced_slice(snapshot, workload)
    full = assign(context, workload, None, last_tried, replaced, nominated)
    if full.mode is Mode.FIT:
        return full, []
    if full.mode is Mode.PREEMPT:
        victims = victims_for(snapshot, workload, full, replaced)
        if victims:
            return full, victims
    if snapshot.options.partial_admission and workload.can_shrink:
        sizes = _Sizes(snapshot, context, workload, last_tried, replaced, nominated)
        found = sizes.largest_fitting()
        if found is not None:
            return found
    return full, []


def assign_context(snapshot: Snapshot, workload: Workload) -> AssignContext:
    queue = snapshot.queues[workload.cluster_queue]
    node = snapshot.tree.queues[workload.cluster_queue]

    def oracle(asking: Workload, fr: FlavorResource, amount: int) -> tuple[Possibility, int]:
        return simulate_preemption(snapshot, queue, node, asking, fr, amount)

    options = snapshot.options
    return AssignContext(
        queue, node, snapshot.flavors, oracle, options.fair_sharing, options.ignore_undeclared
    )


def replaced_slice(snapshot: Snapshot, workload: Workload) -> Admitted | None:
    """The admitted slice of an elastic workload whose place this one takes."""
    if workload.replaces is None:
        return None
    holders = snapshot.holders.get(workload.cluster_queue)
    return holders.get(workload.replaces) if holders is not None else None


def victims_for(
    snapshot: Snapshot,
    workload: Workload,
    assignment: Assignment,
    replaced: Admitted | None = None,
) -> list[Victim]:
    """Whom to evict so that the assignment fits; empty if that is not possible."""
    queue = snapshot.queues[workload.cluster_queue]
    request = PreemptionRequest(
        workload,
        queue,
        snapshot.tree.queues[workload.cluster_queue],
        snapshot,
        total_requests(assignment, replaced.pod_sets if replaced else ()),
        assignment.needing_preemption,
    )
    return find_victims(request)


def find_victims(request: PreemptionRequest) -> list[Victim]:
    if request.snapshot.options.fair_sharing:
        return fair_victims(request)
    return classical_victims(request)


def simulate_preemption(
    snapshot: Snapshot,
    queue: ClusterQueue,
    node: QuotaNode,
    workload: Workload,
    fr: FlavorResource,
    amount: int,
) -> tuple[Possibility, int]:
    """Whether one pair's amount could be had by preemption, and the borrow level afterwards."""
    request = PreemptionRequest(workload, queue, node, snapshot, {fr: amount}, {fr: None})
    victims = find_victims(request)
    if not victims:
        return Possibility.NO_CANDIDATES, lowest_fitting_height(node, fr, amount)[0]
    nodes = [(snapshot.tree.queues[v.admitted.cluster_queue], v.admitted) for v in victims]
    for other, admitted in nodes:
        other.discharge(admitted.usage)
    borrow, _ = lowest_fitting_height(node, fr, amount)
    for other, admitted in nodes:
        other.charge(admitted.usage)
    if any(admitted.cluster_queue == queue.name for _, admitted in nodes):
        return Possibility.PREEMPT, borrow
    return Possibility.RECLAIM, borrow


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Smaller sizes of a workload (partial admission)."""

    snapshot: Snapshot
    context: AssignContext
    workload: Workload
    last_tried: Sequence[Mapping[str, int]]
    replaced: Admitted | None
    nominated: Nominated | None

    def largest_fitting(self) -> tuple[Assignment, list[Victim]] | None:
        """Binary search over one index that shrinks all pod sets towards their minimum in step.

        At index i of the sum D of what may go, pod set j has count_j - floor(delta_j * i / D)
        pods.
        """
        full = [ps.count for ps in self.workload.pod_sets]
        deltas = [
            ps.count - ps.min_count if ps.min_count is not None else 0
            for ps in self.workload.pod_sets
        ]
        total = sum(deltas)
        best: tuple[Assignment, list[Victim]] | None = None
        low, high = 0, total + 1
        while low < high:
            middle = (low + high) // 2
            counts = [c - d * middle // total for c, d in zip(full, deltas, strict=True)]
            found = self._try(counts)
            if found is None:
                low = middle + 1
            else:
                best, high = found, middle
        return best

    def _try(self, counts: Sequence[int]) -> tuple[Assignment, list[Victim]] | None:
        assignment = assign(
            self.context,
            self.workload,
            counts,
            self.last_tried,
            self.replaced,
            self.nominated,
        )
        if assignment.mode is Mode.FIT:
            return assignment, []
        if assignment.mode is Mode.PREEMPT:
            victims = victims_for(self.snapshot, self.workload, assignment, self.replaced)
            if victims:
                return assignment, victims
        return None
