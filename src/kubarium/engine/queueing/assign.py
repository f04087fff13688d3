"""Flavor assignment: which flavor each resource of each pod set gets, and at what price.

Source of the algorithm: Kueue ``pkg/scheduler/flavorassigner``. Topology-aware placement is not
part of this step yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from kubarium.engine.queueing.amounts import show_amount
from kubarium.engine.queueing.assignment import (
    EXCEEDS_MAX_QUOTA,
    NO_MATCHING_FLAVOR,
    WAITING_FOR_QUOTA,
    Assignment,
    Attempt,
    FlavorChoice,
    Mode,
    PodSetAssignment,
    Possibility,
    merge_attempts,
    more_severe,
    resolve_no_fit_reason,
)
from kubarium.engine.queueing.clusterqueue import (
    NEVER,
    PREEMPTION_OVER_BORROWING,
    TRY_NEXT_FLAVOR,
    ClusterQueue,
    Fungibility,
    ResourceGroup,
)
from kubarium.engine.queueing.flavor import Flavor, mismatch
from kubarium.engine.queueing.quota import FlavorResource, QuotaNode, lowest_fitting_height
from kubarium.engine.queueing.workload import PODS, Admitted, PodSet, Workload

Oracle = Callable[[Workload, FlavorResource, int], tuple[Possibility, int]]
"""Could this amount be had by preemption, and from how far up would it then come?"""

Nominated = Mapping[str, Mapping[str, str]]
"""By pod set and resource, the flavor that an earlier search of this cycle chose."""

Granular = tuple[Possibility, int]
"""How a flavor could be had, and the level it borrows from."""

_WORST: Granular = (Possibility.NO_FIT, 1 << 30)
_BEST: Granular = (Possibility.FIT, 0)


@dataclass(frozen=True, slots=True)
class AssignContext:
    """The ClusterQueue in question and what the decision may look at."""

    queue: ClusterQueue
    node: QuotaNode
    flavors: Mapping[str, Flavor]
    oracle: Oracle
    fair_sharing: bool = False
    ignore_undeclared: bool = False

    @property
    def may_preempt_while_borrowing(self) -> bool:
        policy = self.queue.preemption
        return policy.may_borrow or (self.fair_sharing and policy.reclaim_within_cohort != NEVER)


@dataclass(frozen=True, slots=True)
class _Member:
    """A pod set with the number of pods tried now."""

    index: int
    pod_set: PodSet
    count: int
    requests: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Found:
    """What one resource group offered."""

    choices: Mapping[str, FlavorChoice]
    reasons: tuple[str, ...]
    attempts: tuple[Attempt, ...] = ()


def assign(
    context: AssignContext,
    workload: Workload,
    counts: Sequence[int] | None = None,
    last_tried: Sequence[Mapping[str, int]] = (),
    replaced: Admitted | None = None,
    nominated: Nominated | None = None,
) -> Assignment:
    """Find flavors for all pod sets; ``counts`` replaces their sizes (partial admission).

    ``last_tried`` resumes the walk over flavors behind what an earlier cycle tried. With
    ``replaced`` (an elastic workload's smaller slice) only the difference is charged and the
    flavors must stay the same. ``nominated`` limits a repeated search to the flavors found before.
    """
    usage: dict[FlavorResource, int] = {}
    pod_sets: list[PodSetAssignment] = []
    for members in _grouped(context, workload, counts):
        search = _Search(context, workload, members, usage, replaced, nominated)
        group = _assign_group(search, last_tried)
        pod_sets.extend(group)
        _charge(usage, group, replaced)
        if any(ps.requests and not ps.flavors for ps in group):
            break
    mode = min((ps.mode for ps in pod_sets), default=Mode.NO_FIT)
    return Assignment(
        pod_sets=tuple(sorted(pod_sets, key=lambda ps: ps.index)),
        usage=usage,
        borrowing=max((c.borrow for ps in pod_sets for c in ps.flavors.values()), default=0),
        mode=mode,
        no_fit_reason=(
            resolve_no_fit_reason(pod_sets, context.queue) if mode is Mode.NO_FIT else ""
        ),
    )


def _grouped(
    context: AssignContext, workload: Workload, counts: Sequence[int] | None
) -> list[list[_Member]]:
    """Pod sets that must share flavors together, in order of first mention."""
    counts_pods = context.queue.group_of(PODS) is not None
    groups: dict[str, list[_Member]] = {}
    for index, pod_set in enumerate(workload.pod_sets):
        count = pod_set.count if counts is None else counts[index]
        requests = pod_set.requests(count)
        if counts_pods:
            requests[PODS] = count
        member = _Member(index, pod_set, count, requests)
        groups.setdefault(f"group {pod_set.group}" if pod_set.group else str(index), []).append(
            member
        )
    return list(groups.values())


def _assign_group(
    search: _Search, last_tried: Sequence[Mapping[str, int]]
) -> list[PodSetAssignment]:
    queue, requests = search.context.queue, search.requests
    choices: dict[str, FlavorChoice] = {}
    reasons: tuple[str, ...] = ()
    attempts: dict[str, Attempt] = {}
    for resource in sorted(requests):
        if resource in choices:
            continue  # it got its flavor together with another resource of the same group
        group = queue.group_of(resource)
        if group is None:
            if not requests[resource] or search.context.ignore_undeclared:
                continue
            choices, reasons = {}, (f"resource {resource} unavailable in ClusterQueue",)
            break
        start = _resume_at(last_tried, search.members[0].index, resource)
        found = search.run(resource, group, start)
        merge_attempts(attempts, found.attempts, resource, queue)
        if not found.choices:
            choices, reasons = {}, found.reasons
            break
        choices.update(found.choices)
        reasons += found.reasons
    tried = tuple(attempts[flavor] for flavor in sorted(attempts))
    return [_member_assignment(member, choices, reasons, tried) for member in search.members]


def _member_assignment(
    member: _Member,
    choices: Mapping[str, FlavorChoice],
    reasons: tuple[str, ...],
    attempts: tuple[Attempt, ...],
) -> PodSetAssignment:
    own = {r: choices[r] for r in member.requests if r in choices}
    return PodSetAssignment(
        member.index, member.pod_set.name, member.count, own, member.requests, reasons, attempts
    )


def _resume_at(last_tried: Sequence[Mapping[str, int]], index: int, resource: str) -> int:
    if index >= len(last_tried):
        return 0
    return last_tried[index].get(resource, -1) + 1


def _charge(
    usage: dict[FlavorResource, int],
    pod_sets: Sequence[PodSetAssignment],
    replaced: Admitted | None,
) -> None:
    old = {ps.name: ps.requests for ps in replaced.pod_sets} if replaced else {}
    for ps in pod_sets:
        for resource, choice in ps.flavors.items():
            amount = ps.requests.get(resource, 0) - old.get(ps.name, {}).get(resource, 0)
            fr = (choice.flavor, resource)
            usage[fr] = usage.get(fr, 0) + amount


@dataclass(frozen=True, slots=True)
class _Search:
    """The walk over flavors for pod sets that share them."""

    context: AssignContext
    workload: Workload
    members: Sequence[_Member]
    assumed: Mapping[FlavorResource, int]
    replaced: Admitted | None
    nominated: Nominated | None

    @property
    def requests(self) -> dict[str, int]:
        total: dict[str, int] = {}
        for member in self.members:
            for resource, amount in member.requests.items():
                total[resource] = total.get(resource, 0) + amount
        return total

    def run(self, resource: str, group: ResourceGroup, start: int) -> _Found:
        """Try the group's flavors from index ``start`` on, for all its resources together."""
        fungibility = self.context.queue.fungibility
        requests = {r: amount for r, amount in self.requests.items() if r in group.resources}
        last = len(group.flavors) - 1
        best: dict[str, FlavorChoice] = {}
        best_mode = _WORST
        reasons: list[str] = []
        attempts: list[Attempt] = []
        index = -1
        for index in range(start, last + 1):
            flavor = group.flavors[index]
            skipped = self._skipped(flavor, resource)
            if skipped:
                reasons.append(skipped)
                continue
            problem = self._mismatch(flavor)
            if problem:
                reasons.append(problem)
                attempts.append(
                    Attempt(flavor, Possibility.NO_FIT, 0, (problem,), NO_MATCHING_FLAVOR)
                )
                continue
            choices, mode, attempt, complaints = self._try(flavor, requests)
            reasons.extend(complaints)
            attempts.append(attempt)
            if not try_next_flavor(mode, fungibility):
                best, best_mode = choices, mode
                break
            if is_preferred(mode, best_mode, fungibility):
                best, best_mode = choices, mode
        if index not in (-1, last):  # stopped on the way: the next cycle goes on from here
            best = {r: replace(choice, tried_index=index) for r, choice in best.items()}
        fits = best_mode[0] is Possibility.FIT
        return _Found(best, () if fits else tuple(reasons), tuple(attempts))

    def _skipped(self, flavor: str, resource: str) -> str:
        """Why this flavor is not even looked at, or ""."""
        if self.nominated is not None and all(
            self.nominated.get(member.pod_set.name, {}).get(resource) != flavor
            for member in self.members
        ):
            return (
                f"skipping flavor {flavor} as it is not found in the nomination mapping for "
                f"resource {resource}"
            )
        allowed = self.workload.allowed_flavors
        if allowed is not None and flavor not in allowed:
            return (
                f"skipping flavor {flavor} due to WorkloadAllowedResourceFlavorAnnotation "
                "annotation"
            )
        return ""

    def _mismatch(self, name: str) -> str:
        flavor = self.context.flavors.get(name)
        if flavor is None:
            return f"flavor {name} not found"
        for member in self.members:
            problem = mismatch(flavor, member.pod_set.constraints)
            if problem:
                return problem
        return ""

    def _try(
        self, flavor: str, requests: Mapping[str, int]
    ) -> tuple[dict[str, FlavorChoice], Granular, Attempt, list[str]]:
        """Each resource on this flavor; the flavor is as good as its worst resource."""
        fungibility = self.context.queue.fungibility
        worst = _BEST
        choices: dict[str, FlavorChoice] = {}
        reasons: list[str] = []
        no_fit_reason = ""
        max_borrow = 0
        for resource in sorted(requests):
            amount, problem = self._owed(requests[resource], resource, flavor)
            if problem:
                worst = _WORST
                reasons.append(problem)
                no_fit_reason = more_severe(no_fit_reason, NO_MATCHING_FLAVOR)
            how, borrow, reason, no_fit = fits_quota(
                self.context, self.workload, (flavor, resource), self.assumed, amount
            )
            if reason:
                reasons.append(reason)
                no_fit_reason = more_severe(no_fit_reason, no_fit)
            max_borrow = max(max_borrow, borrow)
            if is_preferred(worst, (how, borrow), fungibility):
                worst = (how, borrow)
            if worst[0] is not Possibility.NO_FIT:
                choices[resource] = FlavorChoice(flavor, how.mode, borrow)
        if worst[0] is Possibility.NO_FIT:
            choices = {}
        told = tuple(sorted(set(reasons)))
        attempt = Attempt(flavor, worst[0], max_borrow, told, no_fit_reason)
        return choices, worst, attempt, reasons

    def _owed(self, amount: int, resource: str, flavor: str) -> tuple[int, str]:
        """The amount still to be had; a replaced slice's share is there already."""
        if self.replaced is None:
            return amount, ""
        by_name = {ps.name: ps for ps in self.replaced.pod_sets}
        for member in self.members:
            old = by_name.get(member.pod_set.name)
            if old is None:
                continue
            original = old.flavors.get(resource, "")
            if original != flavor:
                return amount, (
                    f"could not assign {flavor} flavor since the original workload is assigned: "
                    f"{original}"
                )
            amount -= old.requests.get(resource, 0)
        return amount, ""


def fits_quota(
    context: AssignContext,
    workload: Workload,
    fr: FlavorResource,
    assumed: Mapping[FlavorResource, int],
    request: int,
) -> tuple[Possibility, int, str, str]:
    """How ``request`` on top of ``assumed`` could be had.

    (how, borrow level, reason, reason of a no-fit). The reason is "" when it fits at once.
    """
    node = context.node
    flavor, resource = fr
    before = assumed.get(fr, 0)
    amount = before + request
    capacity = node.potential_available(fr)
    if amount > capacity:
        reason = (
            f"insufficient quota for {resource} in flavor {flavor}, previously considered podsets "
            f"requests ({show_amount(resource, before)}) + current podset request "
            f"({show_amount(resource, request)}) > maximum capacity "
            f"({show_amount(resource, capacity)})"
        )
        return Possibility.NO_FIT, 0, reason, EXCEEDS_MAX_QUOTA
    borrow, below_root = lowest_fitting_height(node, fr, amount)
    available = max(0, node.available(fr))
    if amount <= available:
        return Possibility.FIT, borrow, "", ""
    reason = (
        f"insufficient unused quota for {resource} in flavor {flavor}, "
        f"{show_amount(resource, amount - available)} more needed"
    )
    if node.quota(fr).nominal >= amount or below_root or context.may_preempt_while_borrowing:
        how, borrow_after = context.oracle(workload, fr, amount)
        return how, borrow_after, reason, ""
    return Possibility.NO_FIT, borrow, reason, WAITING_FOR_QUOTA


def try_next_flavor(mode: Granular, fungibility: Fungibility) -> bool:
    """Whether to look at further flavors although this one came out as ``mode``."""
    how, borrow = mode
    if how in (Possibility.NO_FIT, Possibility.NO_CANDIDATES):
        return True
    if how in (Possibility.PREEMPT, Possibility.RECLAIM) and (
        fungibility.when_can_preempt == TRY_NEXT_FLAVOR
    ):
        return True
    return borrow > 0 and fungibility.when_can_borrow == TRY_NEXT_FLAVOR


def is_preferred(left: Granular, right: Granular, fungibility: Fungibility) -> bool:
    """Whether ``left`` is strictly better. A flavor nobody can be preempted in is almost no fit."""
    how_left, borrow_left = left
    how_right, borrow_right = right
    if how_left is Possibility.NO_FIT:
        return False
    if how_right is Possibility.NO_FIT:
        return True
    stuck_left = how_left is Possibility.NO_CANDIDATES
    if stuck_left != (how_right is Possibility.NO_CANDIDATES):
        return not stuck_left
    if fungibility.preference == PREEMPTION_OVER_BORROWING and borrow_left != borrow_right:
        return borrow_left < borrow_right
    if how_left != how_right:
        return how_left > how_right
    return borrow_left < borrow_right
