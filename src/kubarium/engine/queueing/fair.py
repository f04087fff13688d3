"""Fair sharing: the dominant resource share of a node, and preemption towards equal shares.

Shares are exact fractions, so ties are ties. Source: KEP-1714, Kueue ``cache/scheduler/
fair_sharing.go`` and ``preemption/fairsharing``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import total_ordering

from kubarium.engine.queueing.clusterqueue import NEVER
from kubarium.engine.queueing.preemption import PreemptionRequest
from kubarium.engine.queueing.quota import FlavorResource, QuotaNode
from kubarium.engine.queueing.snapshot import LESS_OR_EQUAL_FINAL
from kubarium.engine.queueing.victims import (
    IN_CLUSTER_QUEUE,
    IN_COHORT_FAIR_SHARING,
    IN_COHORT_RECLAMATION,
    Victim,
    candidate_order,
    preemptable,
)
from kubarium.engine.queueing.workload import Admitted

MAX_SHARE = (1 << 63) - 1
"""What a status shows as the share of a borrower with weight 0."""


@total_ordering
@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """How far above its own quota a node is: ``ratio`` is borrowed·1000/lendable of ``dominant``.

    The weighted share is ratio/weight. A borrower of weight 0 is above everybody else; among
    themselves such borrowers compare by ratio. Not borrowing is 0, whatever the weight.
    """

    weight: Fraction = Fraction(1)
    ratio: Fraction = Fraction(0)
    dominant: str = ""
    borrowed: tuple[FlavorResource, ...] = ()

    @property
    def _rank(self) -> tuple[bool, Fraction]:
        if not self.weight:
            return bool(self.ratio), self.ratio
        return False, self.ratio / self.weight

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Share) and self._rank == other._rank

    def __lt__(self, other: Share) -> bool:
        return self._rank < other._rank

    def __hash__(self) -> int:
        return hash(self._rank)

    @property
    def borrows(self) -> bool:
        return bool(self.borrowed)

    def borrows_any(self, requested: Mapping[FlavorResource, int]) -> bool:
        """Whether it borrows a pair of which something is requested."""
        return any(requested.get(fr, 0) > 0 for fr in self.borrowed)

    @property
    def weighted(self) -> Fraction | None:
        """The exact weighted share; None stands for infinity."""
        if not self.ratio:
            return Fraction(0)
        return self.ratio / self.weight if self.weight else None

    @property
    def rounded(self) -> int:
        """The share as a status shows it: rounded up; 2^63-1 for infinity."""
        exact = self.weighted
        return MAX_SHARE if exact is None else -(-exact.numerator // exact.denominator)


_LOWEST = Share(ratio=Fraction(-1))


def dominant_share(node: QuotaNode) -> Share:
    """The node's share with its present usage; 0 for a node without a parent."""
    if node.parent is None:
        return Share(node.fair_weight)
    borrowed: dict[str, int] = {}
    pairs: list[FlavorResource] = []
    for fr, quota in node.subtree_quota.items():
        over = node.usage.get(fr, 0) - quota
        if over > 0:
            borrowed[fr[1]] = borrowed.get(fr[1], 0) + over
            pairs.append(fr)
    if not borrowed:
        return Share(node.fair_weight)
    lendable = _lendable(node.parent, borrowed)
    ratio, dominant = Fraction(0), ""
    for resource in sorted(borrowed):
        if lendable[resource] > 0:
            own = Fraction(borrowed[resource] * 1000, lendable[resource])
            if own > ratio:
                ratio, dominant = own, resource
    return Share(node.fair_weight, ratio, dominant, tuple(pairs))


def _lendable(node: QuotaNode, resources: Mapping[str, int]) -> dict[str, int]:
    """What the parent could give at most of each resource, over all flavors."""
    total = dict.fromkeys(resources, 0)
    for fr in node.root.subtree_quota:
        if fr[1] in total:
            total[fr[1]] += node.potential_available(fr)
    return total


# Three shares that must not be mixed up: the preemptor's with the new workload, and the target's
# before and after a removal.
@dataclass(frozen=True, slots=True)
class PreemptorNew:
    share: Share


@dataclass(frozen=True, slots=True)
class TargetOld:
    share: Share


@dataclass(frozen=True, slots=True)
class TargetNew:
    share: Share


def less_or_equal_final(preemptor: PreemptorNew, target: TargetNew) -> bool:
    """Rule S2-a: the preemptor does not end above the target."""
    return preemptor.share <= target.share


def less_initial(preemptor: PreemptorNew, target: TargetOld) -> bool:
    """Rule S2-b: the preemptor ends below where the target began."""
    return preemptor.share < target.share


class TargetOrder:
    """Which ClusterQueue gives the next victim: at each cohort, the child with the highest share.

    Nodes that do not borrow, or have no candidate left, are pruned for good; the preemptor's own
    queue and the cohorts above it stay until they are empty.
    """

    def __init__(self, own: QuotaNode, candidates: list[Admitted]) -> None:
        self.own = own
        self._above = {id(node) for node in own.path_to_root()}
        self._left: dict[str, list[Admitted]] = {}
        self._pruned: set[int] = set()
        for candidate in reversed(candidates):
            self._left.setdefault(candidate.cluster_queue, []).append(candidate)

    def __iter__(self) -> Iterator[QuotaNode]:
        """Queues, one by one; the caller must :meth:`pop` or :meth:`drop` each."""
        root = self.own.root
        if root is self.own:
            while id(root) not in self._pruned and self.has_candidate(root):
                yield root
            return
        while id(root) not in self._pruned:
            target = self._next(root)
            if target is not None:
                yield target

    def has_candidate(self, queue: QuotaNode) -> bool:
        return bool(self._left.get(queue.name))

    def pop(self, queue: QuotaNode) -> Admitted:
        return self._left[queue.name].pop()

    def drop(self, queue: QuotaNode) -> None:
        self._pruned.add(id(queue))

    def below_common(self, target: QuotaNode) -> tuple[QuotaNode, QuotaNode]:
        """The two children of the lowest common cohort that lead to preemptor and target."""
        other = target
        for ancestor in target.path_to_root():
            if id(ancestor) in self._above:
                common = ancestor
                break
            other = ancestor
        else:
            raise AssertionError(f"{target} and {self.own} share no cohort")
        own = self.own
        for ancestor in self.own.path_to_root():
            if ancestor is common:
                break
            own = ancestor
        return own, other

    def _next(self, cohort: QuotaNode) -> QuotaNode | None:
        """None after a step that only pruned."""
        queue, queue_share = self._highest_queue(cohort)
        child, child_share = self._highest_cohort(cohort)
        if queue is None and child is None:
            self._pruned.add(id(cohort))
            return None
        if child is not None and child_share >= queue_share:
            return self._next(child)
        return queue

    def _highest_queue(self, cohort: QuotaNode) -> tuple[QuotaNode | None, Share]:
        best: QuotaNode | None = None
        best_share = _LOWEST
        for child in cohort.children:
            if not child.is_queue or id(child) in self._pruned:
                continue
            share = dominant_share(child)
            if (not share.borrows and child is not self.own) or not self.has_candidate(child):
                self._pruned.add(id(child))
            elif best is None or share > best_share:
                best, best_share = child, share
            elif share == best_share and self._head_order(child) < self._head_order(best):
                best = child
        return best, best_share

    def _head_order(self, queue: QuotaNode) -> tuple[object, ...]:
        return candidate_order(self._left[queue.name][-1], self.own.name)

    def _highest_cohort(self, cohort: QuotaNode) -> tuple[QuotaNode | None, Share]:
        best: QuotaNode | None = None
        best_share = _LOWEST
        for child in cohort.children:
            if child.is_queue or id(child) in self._pruned:
                continue
            share = dominant_share(child)
            if not share.borrows and id(child) not in self._above:
                self._pruned.add(id(child))
            elif share >= best_share:
                best, best_share = child, share
        return best, best_share


def fair_victims(request: PreemptionRequest) -> list[Victim]:
    """Victims by fair sharing; empty if the strategies allow no sufficient set.

    The tree is changed while trying and is as before on return.
    """
    candidates = _candidates(request)
    if not candidates:
        return []
    candidates.sort(key=lambda a: candidate_order(a, request.queue.name))
    search = _FairSearch(request)
    request.node.charge(request.requests)  # shares count the incoming workload
    strategies = request.snapshot.options.fair_strategies
    fits, retry = search.first_strategy(candidates, strategies[0])
    if not fits and len(strategies) > 1:
        fits = search.second_strategy(retry)
    request.node.discharge(request.requests)
    if fits:
        search.fill_back()
    search.restore()
    return search.victims if fits else []


def _candidates(request: PreemptionRequest) -> list[Admitted]:
    policy = request.queue.preemption
    holders = request.snapshot.holders
    found: list[Admitted] = []
    if policy.within_cluster_queue != NEVER:
        own = holders.get(request.queue.name)
        found.extend(preemptable(request.workload, own, policy.within_cluster_queue, request.frs))
    if request.node.parent is None or policy.reclaim_within_cohort == NEVER:
        return found
    for queue in request.node.root.queues():
        if queue is not request.node and not queue.within_nominal(request.frs):
            found.extend(
                preemptable(
                    request.workload,
                    holders.get(queue.name),
                    policy.reclaim_within_cohort,
                    request.frs,
                )
            )
    return found


class _FairSearch:
    """One run of the strategies. While it runs, the preemptor's requests are charged."""

    def __init__(self, request: PreemptionRequest) -> None:
        self.request = request
        self.victims: list[Victim] = []

    def first_strategy(
        self, candidates: list[Admitted], strategy: str
    ) -> tuple[bool, list[Admitted]]:
        """Whether it fits now, and the candidates that the rule refused."""
        order = TargetOrder(self.request.node, candidates)
        entitled = self._within_nominal()
        retry: list[Admitted] = []
        for queue in order:
            if queue is self.request.node:
                if self._take(queue, order.pop(queue), IN_CLUSTER_QUEUE):
                    return True, []
            elif entitled:
                if self._take(queue, order.pop(queue), IN_COHORT_RECLAMATION):
                    return True, []
            elif self._take_first_passing(order, queue, strategy, retry):
                return True, []
        return False, retry

    def _take_first_passing(
        self, order: TargetOrder, queue: QuotaNode, strategy: str, retry: list[Admitted]
    ) -> bool:
        own, other = order.below_common(queue)
        preemptor = PreemptorNew(dominant_share(own))
        old = TargetOld(dominant_share(other))
        while order.has_candidate(queue):
            candidate = order.pop(queue)
            if strategy == LESS_OR_EQUAL_FINAL:
                queue.discharge(candidate.usage)
                new = TargetNew(dominant_share(other))
                queue.charge(candidate.usage)
                passed = less_or_equal_final(preemptor, new)
            else:
                passed = less_initial(preemptor, old)
            if passed:
                return self._take(queue, candidate, IN_COHORT_FAIR_SHARING)
            retry.append(candidate)
        return False

    def second_strategy(self, retry: list[Admitted]) -> bool:
        """Rule S2-b on what the first rule refused, once per ClusterQueue."""
        order = TargetOrder(self.request.node, retry)
        for queue in order:
            own, other = order.below_common(queue)
            passed = less_initial(
                PreemptorNew(dominant_share(own)), TargetOld(dominant_share(other))
            )
            candidate = order.pop(queue)
            if passed and self._take(queue, candidate, IN_COHORT_FAIR_SHARING):
                return True
            order.drop(queue)
        return False

    def fill_back(self) -> None:
        """Put back whoever can stay; here the preemptor's requests are no longer charged."""
        victims, request = self.victims, self.request
        for index in range(len(victims) - 2, -1, -1):
            admitted = victims[index].admitted
            node = self._node(admitted)
            node.charge(admitted.usage)
            if request.fits():
                victims[index] = victims[-1]
                victims.pop()
            else:
                node.discharge(admitted.usage)

    def restore(self) -> None:
        for victim in self.victims:
            self._node(victim.admitted).charge(victim.admitted.usage)

    def _node(self, admitted: Admitted) -> QuotaNode:
        return self.request.snapshot.tree.queues[admitted.cluster_queue]

    def _take(self, queue: QuotaNode, candidate: Admitted, reason: str) -> bool:
        """Remove a candidate; whether the request fits without it."""
        queue.discharge(candidate.usage)
        self.victims.append(Victim(candidate, reason))
        node, requests = self.request.node, self.request.requests
        node.discharge(requests)
        fits = self.request.fits()
        node.charge(requests)
        return fits

    def _within_nominal(self) -> bool:
        """A preemptor that stays within its own quota may take back what others borrowed."""
        request = self.request
        if not request.snapshot.options.preempt_within_nominal:
            return False
        return not any(request.node.borrows(fr) for fr in request.frs)
