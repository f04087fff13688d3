"""A gang in one decision: at least its minimum of pods, or none.

Pods are placed one after the other in order; identical pods share all work. With a topology
constraint each domain (the nodes with one value of the label) is tried whole: the tightest that
takes all pods, else the one that takes the most (KEP-5732, PodGroupPodsCount and tightest fit).
Several levels and preferred ones are ours: required levels narrow each other, preferred ones are
tried from the narrowest up. Pods that name their data go to a domain that has most of it. Pods of
different kinds are packed, and every arrangement of them is searched within a budget, before it is
said that they do not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from kubarium.engine import reasons
from kubarium.engine.model import Gang, Pod, PodShape
from kubarium.engine.placement import packing
from kubarium.engine.placement.ceiling import most_placed
from kubarium.engine.placement.domains import (
    Domain,
    domains_of,
    holes,
    mask_around,
    missing_key,
    room_for,
    row_of_gangs,
)
from kubarium.engine.placement.locality import locality
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.trial import Budget, OutOfBudgetError, Trial
from kubarium.engine.plan import Decision, Placement, QueueItem
from kubarium.engine.queueing.amounts import show_amount
from kubarium.engine.snapshot import Mask, Snapshot
from kubarium.engine.sums import exact_sum
from kubarium.engine.verdict import GangVerdict, Verdict

# What the search may spend on a preferred domain, so that the required ones get most of it.
PREFERENCE_BUDGET = 500


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one domain gives: ``account`` is why the first pod without a place has none."""

    placements: tuple[Placement, ...]
    unplaced: tuple[Pod, ...]
    account: Verdict | None
    domain: str = ""


def needed_of(gang: Gang) -> int:
    """How many more pods must start together: one at least, for groups without a minimum none."""
    return max(gang.min_count - gang.scheduled_count, 1 if gang.min_count else 0)


def place_gang(
    placer: Placer, item: QueueItem, within: Mask | None = None, budget: Budget | None = None
) -> Decision:
    """Decide a gang; on success its placements are in the snapshot, otherwise nothing is.

    ``within`` limits the nodes (the domain of a group of groups), ``budget`` the search.
    """
    gang = item.gang
    assert gang is not None
    budget = budget or Budget()
    needed = needed_of(gang)
    if len(item.pods) < needed:
        return _waiting(item, gang, reasons.GANG_WAITING)
    gap = resource_gap(placer.snapshot, gang)
    mark = placer.snapshot.checkpoint() if gap else None
    search = _GangSearch(placer, item.pods, gang, needed, within, budget)
    attempt = search.run()
    if mark is not None:
        placer.snapshot.rollback(mark)
    if attempt is not None and len(attempt.placements) >= needed:
        if gap:
            return _waiting(item, gang, gap)
        account = attempt.account
        unplaced = tuple((pod, account) for pod in attempt.unplaced if account is not None)
        return Decision(item, attempt.placements, unplaced)
    if attempt is None:
        missing = missing_key(placer.snapshot, gang.required_keys)
        return _waiting(item, gang, reasons.no_domain(missing))
    verdict = GangVerdict(
        gang.key,
        gang.min_count,
        len(attempt.placements) + gang.scheduled_count,
        search.is_exact,
        attempt.account,
        domain=attempt.domain,
        tried=0 if search.is_proven else budget.tried or len(item.pods),
    )
    account = attempt.account
    assert account is not None
    if gap:  # victims would go in vain
        return Decision(item, gang_verdict=verdict)
    return Decision(item, (), tuple((pod, account) for pod in item.pods), verdict)


def resource_gap(snapshot: Snapshot, gang: Gang) -> str:
    """What the nodes have too little left of for the group's minResources; "" if it is enough."""
    lacking = [
        f"{name}:{show_amount(name, wanted - left)}"
        for name, wanted, left in min_resources_left(snapshot, gang)
        if left < wanted
    ]
    return reasons.resource_gap(" ".join(lacking)) if lacking else ""


def min_resources_left(snapshot: Snapshot, gang: Gang) -> Iterator[tuple[str, int, int]]:
    """(resource, how much the group's minResources ask for, how much the nodes have left of it).

    What the group's own pods have counts as left; a node that has given too much takes nothing from
    others. Source: scheduler-plugins ``coscheduling/core``, CheckClusterResource.
    """
    own: list[PodShape] = []
    if gang.min_resources and gang.scheduled_count:
        own = [pod.shape for pod, _ in snapshot.placed_pods() if pod.gang == gang.key]
    for name, wanted in gang.min_resources:
        index = snapshot.resource_index(name)
        free = (snapshot.allocatable[index] - snapshot.requested[index])[snapshot.alive]
        yield name, wanted, exact_sum(free[free > 0]) + sum(shape.request(name) for shape in own)


def _waiting(item: QueueItem, gang: Gang, why: str) -> Decision:
    verdict = GangVerdict(gang.key, gang.min_count, gang.scheduled_count, True, waiting=why)
    return Decision(item, gang_verdict=verdict)


class _GangSearch:
    """One gang's search. ``run`` leaves in the snapshot what it returns, if that is enough pods."""

    def __init__(
        self,
        placer: Placer,
        pods: Sequence[Pod],
        gang: Gang,
        needed: int,
        within: Mask | None,
        budget: Budget,
    ) -> None:
        self._placer = placer
        self._snapshot = placer.snapshot
        self._pods = pods
        self._gang = gang
        self._needed = needed
        self._within = within
        self._budget = budget
        self._given_up = False
        self._ruled_out = False
        self._exact: bool | None = None
        self._counted: Attempt | None = None  # what was placed one by one, for the verdict
        self._greedy: dict[str, Attempt] = {}  # the same by domain, where it was not enough
        self._settled: int | None = None
        self._static: list[Mask] | None = None
        if gang.required_keys or gang.preferred_keys:
            self._settled = row_of_gangs(self._snapshot, (gang,), gang.required_keys)

    def holes(self, mask: Mask | None) -> bytes:
        """Equal for places in which a search for the gang's arrangements finds the same."""
        if self._static is None:
            shapes = dict.fromkeys(pod.shape for pod in self._pods)
            found = [self._placer.fit(shape) for shape in shapes]
            for fit in found:
                fit.refresh_static()
            self._static = [fit.static for fit in found]
        return holes(self._snapshot, self._snapshot.alive if mask is None else mask, self._static)

    @cached_property
    def has_alike_places(self) -> bool:
        """Whether places with the same holes need not be tried one by one: all are searched."""
        return len(self._pods) <= packing.MAX_PODS and packing.only_room_counts(
            self._snapshot, self._pods
        )

    @property
    def is_exact(self) -> bool:
        """Whether placing one by one finds the largest number; asked only when that fails."""
        if self._exact is None:
            self._exact = greedy_is_exact(self._snapshot, self._pods)
        return self._exact

    @property
    def is_proven(self) -> bool:
        """Whether the failure means that there is no arrangement at all."""
        return (
            self.is_exact
            or self._ruled_out
            or (not self._given_up and packing.devices_are_alike(self._snapshot, self._pods))
        )

    def run(self) -> Attempt | None:
        """The attempt to keep; None when no node carries a required key.

        Preferred levels are tried from narrow to wide and count only if they take every pod. Then
        the required domains: the tightest that takes all, else the one that takes the most, and if
        that is not enough, the first with an arrangement that is.
        """
        required, preferred = self._gang.required_keys, self._gang.preferred_keys
        for depth in range(len(preferred), 0, -1):
            whole = self._whole_in(self._domains((*required, *preferred[:depth])))
            if whole is not None:
                return whole
        if not required:
            found = self._quick(self._needed, self._within, "")
            return found or self._searched([(self._within, "")])
        domains = self._domains(required)
        whole = self._whole_in(domains, search=False)
        if whole is not None or not domains:
            return whole
        best = self._fullest(domains)
        if len(self._counted.placements if self._counted else ()) >= self._needed:
            return self._quick(self._needed, best.mask, best.name)
        return self._searched([(d.mask, d.name) for d in domains if d.room >= self._needed])

    def _ceiling(self, within: Mask | None) -> int:
        """At most so many of the pods can be placed together, in any arrangement."""
        if self.is_exact:
            return len(self._pods)  # placing one by one says it exactly
        return most_placed(self._placer, self._pods, within)

    def _domains(self, keys: tuple[str, ...]) -> list[Domain]:
        room = room_for(self._placer, self._pods)
        return domains_of(self._snapshot, keys, room, self._within, self._settled)

    def _whole_in(self, domains: list[Domain], search: bool = True) -> Attempt | None:
        """The first of the domains, tightest first, that takes every pod."""
        budget = Budget(PREFERENCE_BUDGET)
        failed = _Seen(self)
        for domain in by_data(self._placer, self._pods, domains):
            if domain.room < len(self._pods) or self._ceiling(domain.mask) < len(self._pods):
                continue
            if failed.has(domain.mask):
                continue
            attempt = self._quick(len(self._pods), domain.mask, domain.name)
            if attempt is None and search:
                attempt = self._arranged(len(self._pods), domain.mask, domain.name, budget)
            if attempt is not None:
                return attempt
        return None

    def _fullest(self, domains: list[Domain]) -> Domain:
        """The domain that takes the most pods one by one."""
        ordered = sorted(domains, key=lambda d: (-d.room, d.name))
        best, most = ordered[0], -1
        counted = _Seen(self)
        for domain in ordered:
            if domain.room <= most:
                break  # no domain that follows can take more
            if most > 0 and self._ceiling(domain.mask) <= most:
                continue
            if counted.has(domain.mask):
                continue
            attempt = self._greedy.get(domain.name) or self._one_by_one(domain)
            if len(attempt.placements) > most:
                best, most, self._counted = domain, len(attempt.placements), attempt
        return best

    def _one_by_one(self, domain: Domain) -> Attempt:
        """What the domain takes; nothing of it is kept."""
        mark = self._snapshot.checkpoint()
        attempt = greedy(self._placer, self._pods, domain.mask, domain.name)
        self._snapshot.rollback(mark)
        return attempt

    def _quick(self, needed: int, within: Mask | None, name: str) -> Attempt | None:
        """One after the other, else largest first; None if neither places enough."""
        mark = self._snapshot.checkpoint()
        attempt = greedy(self._placer, self._pods, within, name)
        if len(attempt.placements) >= needed:
            self._snapshot.keep(mark)
            return attempt
        self._snapshot.rollback(mark)
        self._counted = self._greedy[name] = attempt
        if self.is_exact or len(self._pods) > packing.MAX_PACKED:
            return None
        if self._ceiling(within) < needed:
            return None
        trial = Trial(self._placer)
        if packing.pack(trial, self._pods, needed, within):
            return self._as_attempt(trial, attempt.account, name)
        return None

    def _arranged(
        self, needed: int, within: Mask | None, name: str, budget: Budget
    ) -> Attempt | None:
        """Any arrangement of enough pods; None also when the budget is spent."""
        if self.is_exact or budget.is_spent:
            return None
        if packing.are_alike(self._snapshot, self._pods):
            self._given_up = True  # devices alone could make a difference
            return None
        trial = Trial(self._placer)
        try:
            for _ in packing.packings(trial, budget, self._pods, needed, within):
                return self._as_attempt(trial, None, name)
            if len(self._pods) <= packing.MAX_PODS:
                for _ in packing.arrangements(trial, budget, self._pods, needed, within):
                    return self._as_attempt(trial, None, name)
        except OutOfBudgetError:
            trial.back_to(0)
        return None

    def _as_attempt(self, trial: Trial, account: Verdict | None, name: str) -> Attempt:
        placed = {placement.pod.key for placement in trial.placements}
        left = tuple(pod for pod in self._pods if pod.key not in placed)
        if left and account is None:
            account = self._placer.account(left[0])
        return Attempt(tuple(trial.placements), left, account, name)

    def _searched(self, places: list[tuple[Mask | None, str]]) -> Attempt:
        """An arrangement in one of the places; else what the best of them takes one by one."""
        hopeful = [(m, name) for m, name in places if self._ceiling(m) >= self._needed]
        self._ruled_out = not hopeful
        failed = _Seen(self)
        for mask, name in hopeful:
            if failed.has(mask):
                continue
            attempt = self._arranged(self._needed, mask, name, self._budget)
            if attempt is not None:
                return attempt
        if hopeful and (self._budget.is_spent or len(self._pods) > packing.MAX_PODS):
            self._given_up = True
        assert self._counted is not None
        return self._counted


class _Seen:
    """Places that were tried, each standing for all like it."""

    def __init__(self, search: _GangSearch) -> None:
        self._search = search
        self._known: set[bytes] = set()

    def has(self, mask: Mask | None) -> bool:
        """Whether a place like this one was asked about before; from now on it was."""
        if not self._search.has_alike_places:
            return False
        holes = self._search.holes(mask)
        if holes in self._known:
            return True
        self._known.add(holes)
        return False


def by_data(placer: Placer, pods: Sequence[Pod], domains: list[Domain]) -> list[Domain]:
    """The domains with most of the pods' data first; as they were where that is the same."""
    if not any(pod.shape.data for pod in pods):
        return domains
    room = room_for(placer, pods)
    return sorted(domains, key=lambda d: -locality(placer.snapshot, pods, room, d.mask))


def greedy(placer: Placer, pods: Sequence[Pod], within: Mask | None, domain: str) -> Attempt:
    """Place all pods that fit, in order.

    A pod of a shape that has just failed fails again, since placements only take room away (unless
    a pod's place depends on other pods), so it is not tried.
    """
    placements: list[Placement] = []
    unplaced: list[Pod] = []
    account: Verdict | None = None
    hopeless: set[PodShape] = set()
    for pod in pods:
        alike = not (pod.claims or pod.variants or pod.has_volumes or pod.shape.looks_at_pods)
        if alike and pod.shape in hopeless:
            unplaced.append(pod)
            continue
        placement = placer.place(pod, within)
        if placement is not None:
            placements.append(placement)
            continue
        if account is None:
            account = placer.account(pod, within)
        unplaced.append(pod)
        if alike:
            hopeless.add(pod.shape)
    return Attempt(tuple(placements), tuple(unplaced), account, domain)


def has_domain(snapshot: Snapshot, gang: Gang) -> bool:
    """Whether no domain need be chosen for the gang's pods: it has one already, or needs none."""
    if not gang.required_keys and not gang.preferred_keys:
        return True
    return row_of_gangs(snapshot, (gang,), gang.required_keys) is not None


def settled_mask(snapshot: Snapshot, gang: Gang) -> Mask | None:
    """The nodes of the domain in which pods of the gang run; None if it is bound to none.

    Before the first of them runs, the nodes that are part of some domain.
    """
    if not gang.required_keys:
        return None
    row = row_of_gangs(snapshot, (gang,), gang.required_keys)
    if row is not None:
        return mask_around(snapshot, gang.required_keys, row)
    mask = snapshot.alive.copy()
    for key in gang.required_keys:
        column = snapshot.labels.get(key)
        mask &= column >= 0 if column is not None else False
    return mask


def greedy_is_exact(snapshot: Snapshot, pods: Sequence[Pod]) -> bool:
    """Whether placing one by one provably finds the largest number.

    True for identical pods whose nodes do not influence each other: then each node holds a fixed
    number of them, in whatever order they come. With devices that also needs a single request for
    a number of exclusive, local devices without constraints or counters.
    """
    shapes = {pod.shape for pod in pods}
    if len(shapes) != 1 or next(iter(shapes)).looks_at_pods or next(iter(shapes)).ports:
        return False
    if any(pod.variants for pod in pods):
        return False
    if any(pod.claims for pod in pods):
        return len({len(pod.claims) for pod in pods}) == 1 and packing.devices_are_alike(
            snapshot, pods
        )
    return not any(pod.has_volumes for pod in pods)
