"""The allocator: a depth-first search for devices, over claims, requests, alternatives, devices.

First fit visits devices in upstream's order and its first complete solution is upstream's
(``dynamic-resource-allocation/structured``); best fit visits the same tree with better devices
first. Three things keep an infeasible search short, none of which changes the first solution found:

- counting bounds: too few devices are left that could still match (kubernetes#131730);
- symmetry: of devices that no request or constraint can tell apart, one failure stands for all;
- memory: a state reached again by another way round fails again.

All three start at the first dead end, so that a search without one pays nothing for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from kubarium.engine import reasons
from kubarium.engine.devices import capacity
from kubarium.engine.devices.constraints import ConstraintState
from kubarium.engine.devices.ledger import Ledger
from kubarium.engine.devices.model import (
    DEFAULT_FEATURES,
    MAX_RESULTS_PER_CLAIM,
    Allocation,
    AllocationError,
    Amount,
    DeviceClass,
    DeviceId,
    DeviceResult,
    Features,
    NodeScope,
    Selects,
)
from kubarium.engine.devices.pools import Pool
from kubarium.engine.devices.request import (
    Candidate,
    Checker,
    Matching,
    NamedClaim,
    Wanted,
    candidates_of,
    taint_prevents,
)
from kubarium.engine.selectors import NodeTerm, Requirement

# Devices tried before a search is given up as undecided (about 1 s); upstream gives up after 10 s.
STEP_BUDGET = 200_000


class Outcome(Enum):
    """TOO_MANY prunes more than FAILED: the claim's 32 results cannot be kept this way."""

    DONE = 1
    FAILED = 2
    TOO_MANY = 3


@dataclass(frozen=True, slots=True)
class World:
    """What a search may look at besides the claims: one node's pools and who holds what."""

    node: str
    labels: Mapping[str, str]
    pools: Sequence[Pool]
    classes: Mapping[str, DeviceClass]
    ledger: Ledger
    selects: Selects
    features: Features = DEFAULT_FEATURES
    best_fit: bool = True


class Search:
    """One attempt to allocate some claims together on one node. Use once."""

    def __init__(self, world: World, claims: Sequence[NamedClaim]) -> None:
        self._world = world
        self._features = world.features
        self._ledger = world.ledger
        self.candidates = candidates_of(world.pools, world.node, world.labels)
        self.matching = Matching(world.selects, world.features)
        checker = Checker(
            world.classes,
            world.ledger,
            world.features,
            self.matching,
            world.pools,
            self.candidates,
        )
        self.wanted = [checker.wanted(claim) for claim in claims]
        self._constraints = [
            [ConstraintState(c, world.features) for c in claim.spec.constraints] for claim in claims
        ]
        self._results: list[list[DeviceResult]] = [[] for _ in claims]
        self._picked: list[list[Candidate]] = [[] for _ in claims]
        self._chosen: list[list[str]] = [[""] * len(rows) for rows in self.wanted]
        self._takers: dict[int, list[int]] = {}
        self._sharing: dict[int, list[tuple[tuple[str, Amount], ...]]] = {}
        self._counters: dict[tuple[str, str, str, str], Amount] = {}
        self._available: dict[int, dict[tuple[str, str], Amount]] = {}
        self._classes: dict[Hashable, int] = {}
        self._class_of: dict[int, int] = {}
        self._failed: set[Hashable] = set()
        self._backtracked = False
        self.steps = 0
        self._order = self._best_first() if world.best_fit else self.candidates
        self._rank = {c.position: rank for rank, c in enumerate(self._order)}

    def run(self) -> list[Allocation] | None:
        """One allocation for each claim, or None if the claims do not fit this node.

        Raises AllocationError: a claim or selector is wrong, a pool that might have helped is
        invalid, or the step budget is used up.
        """
        outcome = self._claim(0)
        if outcome is not Outcome.DONE:
            if any(pool.invalid for pool in self._world.pools):
                raise AllocationError(reasons.INVALID_POOLS, node_only=True)
            return None
        return [
            Allocation(tuple(results), self._scope(picked), tuple(chosen))
            for results, picked, chosen in zip(
                self._results, self._picked, self._chosen, strict=True
            )
        ]

    # The tree: claims, then requests, then alternatives, then devices.

    def _claim(self, claim: int) -> Outcome:
        if claim == len(self.wanted):
            return Outcome.DONE
        return self._request(claim, 0)

    def _request(self, claim: int, request: int) -> Outcome:
        rows = self.wanted[claim]
        if request == len(rows):
            outcome = self._claim(claim + 1)
            # Another way through this claim may leave the next one a smaller alternative.
            return Outcome.FAILED if outcome is Outcome.TOO_MANY else outcome
        if not rows[request][0].entry.prioritised:
            return self._alternative(claim, request, rows[request][0])
        too_many = True
        for wanted in rows[request]:
            outcome = self._alternative(claim, request, wanted)
            if outcome is Outcome.DONE:
                return outcome
            too_many = too_many and outcome is Outcome.TOO_MANY
        return Outcome.TOO_MANY if too_many else Outcome.FAILED

    def _alternative(self, claim: int, request: int, wanted: Wanted) -> Outcome:
        self._chosen[claim][request] = wanted.path
        if wanted.everything is not None:
            return self._all(claim, request, wanted, 0)
        return self._devices(claim, request, wanted, 0, 0)

    def _all(self, claim: int, request: int, wanted: Wanted, index: int) -> Outcome:
        everything = wanted.everything or []
        if not everything:
            return Outcome.FAILED
        if index == len(everything):
            return self._request(claim, request + 1)
        if len(self._results[claim]) + len(everything) - index > MAX_RESULTS_PER_CLAIM:
            return Outcome.TOO_MANY
        if not self._take(claim, wanted, everything[index], must=True):
            return Outcome.FAILED
        outcome = self._all(claim, request, wanted, index + 1)
        if outcome is not Outcome.DONE:
            self._give_back(claim, wanted, everything[index])
        return outcome

    def _devices(self, claim: int, request: int, wanted: Wanted, index: int, start: int) -> Outcome:
        """Devices ``index`` and later of one request, from place ``start`` on: no permutations."""
        if index >= wanted.count:
            return self._request(claim, request + 1)
        if len(self._results[claim]) + wanted.count - index > MAX_RESULTS_PER_CLAIM:
            return Outcome.TOO_MANY
        state: Hashable = None
        if self._backtracked:
            state = self._state(claim, request, wanted, index, start)
            if state in self._failed or not self._enough(claim, wanted, index, start):
                return Outcome.FAILED
        tried: set[Hashable] = set()
        for place in range(start, len(self._order)):
            candidate = self._order[place]
            if tried and self._alike(candidate) in tried:
                continue
            if not self._eligible(claim, wanted, candidate):
                continue
            if not self._take(claim, wanted, candidate, must=False):
                continue
            outcome = self._devices(claim, request, wanted, index + 1, place + 1)
            if outcome is Outcome.DONE:
                return outcome
            self._give_back(claim, wanted, candidate)
            if outcome is Outcome.TOO_MANY:
                return outcome
            tried.add(self._alike(candidate))
        self._backtracked = True
        if state is not None:
            self._failed.add(state)
        return Outcome.FAILED

    # One device: may it be taken, take it, give it back.

    def _eligible(self, claim: int, wanted: Wanted, candidate: Candidate) -> bool:
        if wanted.request.admin_access:
            if claim in self._takers.get(candidate.position, ()):
                return False
        elif self._busy(candidate):
            return False
        if not self.matching.matches(wanted, candidate):
            return False
        return not self._features.consumable_capacity or self._has_capacity(wanted, candidate)

    def _busy(self, candidate: Candidate) -> bool:
        return self._ledger.exclusive(candidate.id) or bool(self._takers.get(candidate.position))

    def _has_capacity(self, wanted: Wanted, candidate: Candidate) -> bool:
        used = dict(self._ledger.consumed(candidate.id))
        for share in self._sharing.get(candidate.position, ()):
            for name, amount in share:
                used[name] = used.get(name, 0) + amount
        return capacity.fits(wanted.request, candidate.device, used)

    def _shares(self, candidate: Candidate) -> bool:
        return self._features.consumable_capacity and candidate.device.allow_multiple

    def _take(self, claim: int, wanted: Wanted, candidate: Candidate, must: bool) -> bool:
        self.steps += 1
        if self.steps > STEP_BUDGET:
            raise AllocationError(reasons.CLAIM_TIMEOUT, node_only=True)
        request, device = wanted.request, candidate.device
        if must and not self._free_for_all(claim, wanted, candidate):
            return False
        if device.consumes and not self._features.partitionable:
            return False
        if self._features.taints and taint_prevents(request, device):
            return False
        if not self._admitted(claim, wanted, candidate):
            if must:
                raise AllocationError(
                    f"claim {wanted.claim.name}, request {request.name}: cannot add device"
                    f" {candidate.id} because a claim constraint would not be satisfied"
                )
            return False
        if not self._counters_suffice(wanted, candidate):
            return False
        self._enter(claim, wanted, candidate)
        return True

    def _free_for_all(self, claim: int, wanted: Wanted, candidate: Candidate) -> bool:
        if wanted.request.admin_access:
            taken = claim in self._takers.get(candidate.position, ())
            return self._shares(candidate) or not taken
        if self._busy(candidate):
            return False
        return not self._features.consumable_capacity or self._has_capacity(wanted, candidate)

    def _admitted(self, claim: int, wanted: Wanted, candidate: Candidate) -> bool:
        states = self._constraints[claim]
        return all(
            states[i].admits(states[i].value_of(candidate.device, candidate.id.driver))
            for i in wanted.constraints
        )

    def _charges(self, wanted: Wanted, candidate: Candidate) -> bool:
        """Whether taking the device takes its counters: shared devices are charged once."""
        if not candidate.device.consumes or wanted.request.admin_access:
            return False
        if not self._shares(candidate):
            return True
        return not self._sharing.get(candidate.position) and not self._ledger.shared(candidate.id)

    def _counters_suffice(self, wanted: Wanted, candidate: Candidate) -> bool:
        if not self._charges(wanted, candidate):
            return True
        pool = candidate.pool
        free = self._free_counters(pool)
        return all(
            self._counters.get((pool.driver, pool.name, use.counter_set, name), 0) + amount
            <= free[use.counter_set, name]
            for use in candidate.device.consumes
            for name, amount in use.counters
        )

    def _free_counters(self, pool: Pool) -> dict[tuple[str, str], Amount]:
        """Counters of the pool less those of devices in use; negative if over-committed."""
        known = self._available.get(id(pool))
        if known is None:
            known = {
                (s, n): v for s, counters in pool.counter_sets.items() for n, v in counters.items()
            }
            for device in (d for s in (*pool.slices, *pool.others) for d in s.devices):
                here = DeviceId(pool.driver, pool.name, device.name)
                if device.consumes and self._ledger.in_use(here):
                    for use in device.consumes:
                        for name, amount in use.counters:
                            known[use.counter_set, name] -= amount
            self._available[id(pool)] = known
        return known

    def _enter(self, claim: int, wanted: Wanted, candidate: Candidate) -> None:
        device, request = candidate.device, wanted.request
        for i in wanted.constraints:
            state = self._constraints[claim][i]
            value = state.value_of(device, candidate.id.driver)
            assert value is not None
            state.push(value)
        if self._charges(wanted, candidate):
            self._charge(candidate, 1)
        shares = self._shares(candidate)
        taken: tuple[tuple[str, Amount], ...] = ()
        if shares:
            taken = capacity.consumed(request, device)
            self._sharing.setdefault(candidate.position, []).append(taken)
        else:
            self._takers.setdefault(candidate.position, []).append(claim)
        self._picked[claim].append(candidate)
        conditions = self._features.binding_conditions
        self._results[claim].append(
            DeviceResult(
                wanted.path,
                candidate.id,
                request.admin_access or None,
                shares,
                taken,
                request.tolerations,
                device.binding_conditions if conditions else (),
                device.binding_failure_conditions if conditions else (),
            )
        )

    def _give_back(self, claim: int, wanted: Wanted, candidate: Candidate) -> None:
        for i in wanted.constraints:
            self._constraints[claim][i].pop()
        if self._shares(candidate):
            self._sharing[candidate.position].pop()
        else:
            self._takers[candidate.position].remove(claim)
        if self._charges(wanted, candidate):
            self._charge(candidate, -1)
        self._results[claim].pop()
        self._picked[claim].pop()

    def _charge(self, candidate: Candidate, sign: int) -> None:
        pool = candidate.pool
        for use in candidate.device.consumes:
            for name, amount in use.counters:
                key = (pool.driver, pool.name, use.counter_set, name)
                self._counters[key] = self._counters.get(key, 0) + sign * amount

    # What makes an infeasible search short.

    def _enough(self, claim: int, wanted: Wanted, index: int, start: int) -> bool:
        """Whether enough devices are left for the rest of the request, counted generously."""
        needed = wanted.count - index
        states = [self._constraints[claim][i] for i in wanted.constraints]
        left = 0
        values: list[set[Hashable]] = [set() for _ in states]
        for place in range(start, len(self._order)):
            candidate = self._order[place]
            if not wanted.request.admin_access and self._busy(candidate):
                continue
            if not self.matching.may_match(wanted, candidate):
                continue
            found = [s.value_of(candidate.device, candidate.id.driver) for s in states]
            if not all(s.admits(v) for s, v in zip(states, found, strict=True)):
                continue
            left += 1
            for seen, value in zip(values, found, strict=True):
                seen.add(value)
        if left < needed:
            return False
        return all(
            len(seen) >= needed
            for state, seen in zip(states, values, strict=True)
            if state.constraint.distinct
        )

    def _alike(self, candidate: Candidate) -> Hashable:
        """Equal for devices that nothing in this search can tell apart, as they are now."""
        position = candidate.position
        return (
            self._device_class(candidate),
            tuple(self._takers.get(position, ())),
            tuple(sorted(self._sharing.get(position, ()), key=repr)),
        )

    def _device_class(self, candidate: Candidate) -> int:
        known = self._class_of.get(candidate.position)
        if known is None:
            known = self._classes.setdefault(self._signature(candidate), len(self._classes))
            self._class_of[candidate.position] = known
        return known

    def _signature(self, candidate: Candidate) -> Hashable:
        device, rows = candidate.device, [w for c in self.wanted for r in c for w in r]
        values = tuple(
            state.value_of(device, candidate.id.driver)
            for states in self._constraints
            for state in states
        )
        matched: list[Hashable] = []
        for wanted in rows:
            try:
                matched.append(self.matching.matches(wanted, candidate))
            except AllocationError:
                matched.append(candidate.position)
        shares = self._shares(candidate)
        return (
            tuple(matched),
            tuple(taint_prevents(w.request, device) for w in rows),
            values,
            (candidate.id.driver, candidate.id.pool, device.consumes) if device.consumes else None,
            tuple(sorted(device.capacity.items(), key=lambda item: item[0])),
            shares,
            self._ledger.in_use(candidate.id),
            tuple(sorted(self._ledger.consumed(candidate.id).items())) if shares else None,
        )

    def _state(self, claim: int, request: int, wanted: Wanted, index: int, start: int) -> Hashable:
        """Everything on which the rest of the search depends, devices up to likeness."""
        used = Counter(
            (self._alike(self.candidates[p]), self._rank[p] >= start)
            for book in (self._takers, self._sharing)
            for p, entries in book.items()
            if entries
        )
        return (
            claim,
            request,
            wanted.path,
            index,
            start,
            len(self._results[claim]),
            frozenset(used.items()),
            tuple(s.key() for s in self._constraints[claim]),
        )

    def _best_first(self) -> list[Candidate]:
        """Candidates with the best first: fill what is open before opening something whole.

        In this order: no binding conditions; shares of a device already shared; partitions of a
        counter set already in use; little capacity before much; and, where a matchAttribute
        constraint will decide, the smallest group that is large enough.
        """
        groups = self._group_sizes()
        opened = {
            (c.pool.driver, c.pool.name, use.counter_set)
            for c in self.candidates
            if c.device.consumes and self._ledger.in_use(c.id)
            for use in c.device.consumes
        }

        def rank(candidate: Candidate) -> tuple[object, ...]:
            device, pool = candidate.device, candidate.pool
            return (
                pool.has_binding_conditions,
                not (device.allow_multiple and self._ledger.shared(candidate.id)),
                not any((pool.driver, pool.name, u.counter_set) in opened for u in device.consumes),
                sum(float(amount) for use in device.consumes for _, amount in use.counters),
                groups.get(candidate.position, ()),
                sum(float(c.value) for c in device.capacity.values()),
                candidate.position,
            )

        return sorted(self.candidates, key=rank)

    def _group_sizes(self) -> dict[int, tuple[tuple[bool, int], ...]]:
        """For each free device, per matchAttribute constraint: (group too small, group size)."""
        found: dict[int, tuple[tuple[bool, int], ...]] = {}
        free = [c for c in self.candidates if not self._ledger.exclusive(c.id)]
        for claim, states in enumerate(self._constraints):
            for index, state in enumerate(states):
                if not state.constraint.match:
                    continue
                rows = [r[0] for r in self.wanted[claim] if index in r[0].constraints]
                needed = sum(w.count for w in rows)
                able = [c for c in free if any(self.matching.may_match(w, c) for w in rows)]
                sizes = Counter(state.value_of(c.device, c.id.driver) for c in able)
                for c in free:
                    size = sizes[state.value_of(c.device, c.id.driver)]
                    found[c.position] = (*found.get(c.position, ()), (size < needed, size))
        return found

    # The result.

    def _scope(self, picked: Sequence[Candidate]) -> NodeScope:
        """Where the devices can be used: this node if one is local, else all selectors together."""
        labels: dict[Requirement, None] = {}
        fields: dict[Requirement, None] = {}
        for candidate in picked:
            owner, device = candidate.owner, candidate.device
            name = device.node_name if owner.per_device else owner.node_name
            terms = device.node_terms if owner.per_device else owner.node_terms
            if name or device.binds_to_node:
                here = Requirement("metadata.name", "In", (self._world.node,))
                return NodeScope((NodeTerm(fields=(here,)),))
            for term in (terms or ())[:1]:
                labels |= dict.fromkeys(term.labels)
                fields |= dict.fromkeys(term.fields)
        if not labels and not fields:
            return NodeScope()
        return NodeScope((NodeTerm(tuple(labels), tuple(fields)),))
