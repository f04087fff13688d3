"""The allocator: a depth-first search for devices, over claims, requests, alternatives, devices.

First fit visits devices in upstream's order and its first complete solution is upstream's
(``dynamic-resource-allocation/structured``); other preferences visit the same tree with better
devices first. What keeps an infeasible search short is in ``pruning``; none of it changes the first
solution found, and all of it starts after a few dead ends, so that a search without them pays
nothing for it.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

from kubarium.engine import reasons
from kubarium.engine.devices.attempt import Attempt, World
from kubarium.engine.devices.bounds import Place
from kubarium.engine.devices.constraints import ConstraintState
from kubarium.engine.devices.model import (
    MAX_RESULTS_PER_CLAIM,
    Allocation,
    AllocationError,
    DeviceResult,
    NodeScope,
)
from kubarium.engine.devices.preference import FIRST_FIT, ordered
from kubarium.engine.devices.pruning import Pruning
from kubarium.engine.devices.request import (
    Candidate,
    Checker,
    Matching,
    NamedClaim,
    Wanted,
    taint_prevents,
)
from kubarium.engine.selectors import NodeTerm, Requirement

# Devices tried before a search is given up as undecided; upstream gives up after 10 s.
STEP_BUDGET = 200_000

# Devices looked at by the bounds before a search is given up (about 1 s).
WORK_BUDGET = 2_000_000


# Dead ends before bounds, symmetry and memory are asked: about as dear as setting these up.
PATIENCE = 8

# Of the search itself, and of what it calls and is called by.
_FRAMES_PER_REQUEST = 4
_FRAMES_AROUND = 500

# Searches so deep ask the bounds before they begin: their dead ends are dear.
_LARGE = 200


@contextmanager
def _room_to_recurse(depth: int) -> Iterator[None]:
    """Let Python recurse so deep: a pod may have many claims, of many requests each."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, depth + _FRAMES_AROUND))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


class Outcome(Enum):
    """TOO_MANY prunes more than FAILED: the claim's 32 results cannot be kept this way."""

    DONE = 1
    FAILED = 2
    TOO_MANY = 3


class Search:
    """One attempt to allocate some claims together on one node. Use once."""

    def __init__(self, world: World, claims: Sequence[NamedClaim]) -> None:
        self._world = world
        self._features = world.features
        self.candidates = world.shelf.candidates
        self.matching = Matching(world.selects, world.features, world.derives)
        self._compatible = world.preference.strategy == FIRST_FIT
        checker = Checker(
            world.classes,
            world.ledger,
            world.features,
            self.matching,
            world.shelf.pools,
            self.candidates,
            compatible=self._compatible,
        )
        self.wanted = [checker.wanted(claim) for claim in claims]
        self._constraints = [
            [ConstraintState(c, world.features) for c in claim.spec.constraints] for claim in claims
        ]
        self._names = [claim.name for claim in claims]
        self._results: list[list[DeviceResult]] = [[] for _ in claims]
        self._picked: list[list[Candidate]] = [[] for _ in claims]
        self._chosen: list[list[str]] = [[""] * len(rows) for rows in self.wanted]
        self._attempt = Attempt(world)
        self._order = ordered(
            world.preference,
            world.shelf,
            world.ledger,
            self.matching,
            self.wanted,
            self._constraints,
        )
        self._pruning: Pruning | None = None
        self._dead_ends = 0
        # Upstream meets on its long way what ends the search for good: then walk it all.
        self._exhaustive: bool | None = None
        # Why all devices cannot be given to a request that asks for them.
        self._unmet = ""
        self.steps = 0

    @property
    def work(self) -> int:
        """Devices looked at by the bounds; 0 in a search with few dead ends."""
        return self._pruning.work if self._pruning else 0

    def run(self) -> list[Allocation] | None:
        """One allocation for each claim, or None if the claims do not fit this node.

        Raises AllocationError: a claim or selector is wrong, a pool that might have helped is
        invalid, or the step budget is used up.
        """
        depth = self._depth()
        with _room_to_recurse(depth):
            hopeless = depth > _LARGE and not self._walks_all() and self._hopeless_from_the_start()
            outcome = Outcome.FAILED if hopeless else self._claim(0)
        if outcome is not Outcome.DONE:
            if any(pool.invalid for pool in self._world.shelf.pools):
                raise AllocationError(reasons.INVALID_POOLS, node_only=True)
            if self._attempt.unknown is not None:
                text = reasons.counters_unknown(str(self._attempt.unknown))
                raise AllocationError(text, node_only=True)
            if self._unmet:
                raise AllocationError(self._unmet, node_only=True)
            return None
        return [
            Allocation(tuple(results), self._scope(name, picked), tuple(chosen))
            for name, results, picked, chosen in zip(
                self._names, self._results, self._picked, self._chosen, strict=True
            )
        ]

    def _hopeless_from_the_start(self) -> bool:
        """Whether the bounds alone refuse the claims: asked first where a dead end lies deep."""
        first = self.wanted[0][0] if self.wanted and self.wanted[0] else []
        if len(first) != 1 or first[0].everything is not None:
            return False
        place = Place(0, 0, first[0], 0, 0, 0)
        hopeful = self._hopeful(place, self._prune().state(place))
        if hopeful:
            self._pruning = None  # pay for no more of it before there are dead ends
        return not hopeful

    def _walks_all(self) -> bool:
        """Whether nothing may be left out, since errors count as upstream meets them.

        In first fit, a selector that fails on a device, or a constraint that all devices of a
        request do not satisfy, is an error of the pod once the search comes to it, where a search
        cut short would only find that the claims do not fit.
        """
        if not self._compatible:
            return False
        if self._exhaustive is None:
            self._exhaustive = any(
                self._may_fail(wanted) for claim in self.wanted for row in claim for wanted in row
            )
        return self._exhaustive

    def _may_fail(self, wanted: Wanted) -> bool:
        if wanted.everything is not None and wanted.constraints:
            return True
        try:
            for candidate in self.candidates:
                self.matching.matches(wanted, candidate)
                for name, _ in wanted.request.derived:
                    self.matching.value_of(wanted, candidate, name)
        except AllocationError:
            return True
        return False

    def _hopeful(self, place: Place, state: Hashable) -> bool:
        if self._prune().work > WORK_BUDGET:
            raise AllocationError(reasons.CLAIM_TIMEOUT, node_only=True)
        return self._prune().hopeful(place, state)

    def _depth(self) -> int:
        """Frames that the deepest path through the tree needs, counted generously."""
        rows = [row for claim in self.wanted for row in claim]
        devices = sum(min(max(w.count for w in row), MAX_RESULTS_PER_CLAIM) for row in rows)
        return devices + _FRAMES_PER_REQUEST * len(rows) + len(self.wanted)

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
            self._unmet = self._unmet or wanted.unmet
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
        place = Place(claim, request, wanted, index, start, len(self._results[claim]))
        state: Hashable = None
        bounded = self._pruning is not None
        if self._pruning is not None:
            state = self._pruning.state(place)
            if not self._hopeful(place, state):
                return Outcome.FAILED
        tried: set[Hashable] = set()
        for at in range(start, len(self._order)):
            candidate = self._order[at]
            if not wanted.matched.get(candidate.position, True):
                continue
            if tried and self._prune().stands_for(tried, candidate):
                continue
            if not self._eligible(claim, wanted, candidate):
                continue
            if not self._take(claim, wanted, candidate, must=False):
                continue
            outcome = self._devices(claim, request, wanted, index + 1, at + 1)
            if outcome is Outcome.DONE:
                return outcome
            self._give_back(claim, wanted, candidate)
            if outcome is Outcome.TOO_MANY:
                return outcome
            self._dead_ends += 1
            if self._pruning is None and self._dead_ends < PATIENCE:
                continue
            if self._walks_all():
                continue
            if not bounded:
                # Ask now what was not asked on the way down.
                bounded = True
                state = self._prune().state(place)
                if not self._hopeful(place, state):
                    return Outcome.FAILED
            self._prune().tried(tried, candidate)
        if state is not None:
            self._prune().failed(state)
        return Outcome.FAILED

    def _prune(self) -> Pruning:
        if self._pruning is None:
            self._pruning = Pruning(
                self._world.features,
                self._world.ledger,
                self._order,
                self.wanted,
                self._constraints,
                self.matching,
                self._attempt,
            )
        return self._pruning

    # One device: may it be taken, take it, give it back.

    def _eligible(self, claim: int, wanted: Wanted, candidate: Candidate) -> bool:
        return (
            self._free(claim, wanted, candidate)
            and self.matching.matches(wanted, candidate)
            and self._attempt.has_capacity(wanted.request, candidate)
        )

    def _free(self, claim: int, wanted: Wanted, candidate: Candidate) -> bool:
        if self._attempt.taken_by(claim, candidate):
            return False
        return bool(wanted.request.admin_access) or not self._attempt.busy(candidate)

    def _take(self, claim: int, wanted: Wanted, candidate: Candidate, must: bool) -> bool:
        self.steps += 1
        if self.steps > STEP_BUDGET:
            raise AllocationError(reasons.CLAIM_TIMEOUT, node_only=True)
        request, device = wanted.request, candidate.device
        if must and self._taken_for_all(claim, wanted, candidate):
            return False
        if device.consumes and not self._features.partitionable:
            return False  # not even for admin access
        # In upstream's order: what is refused first decides whether a constraint is an error.
        if self._attempt.charges(request, candidate) and not (
            self._attempt.counters_suffice(candidate) and self._attempt.compatible(candidate)
        ):
            return False
        if self._features.taints and taint_prevents(request, device):
            return False
        if not self._admitted(claim, wanted, candidate):
            if must:
                self._refuse_all(wanted, candidate)
            return False
        if must and not self._attempt.has_capacity(request, candidate):
            return False
        self._enter(claim, wanted, candidate)
        return True

    def _refuse_all(self, wanted: Wanted, candidate: Candidate) -> None:
        """A constraint forbids that all devices are taken.

        Upstream gives the pod up for good, whatever other nodes or alternatives have. So does first
        fit; otherwise it is said of this node, if nothing else is found there.
        """
        where = f"claim {wanted.claim.name}, request {wanted.request.name}"
        if self._compatible:
            raise AllocationError(
                f"{where}: cannot add device {candidate.id} because a claim constraint would not be"
                " satisfied"
            )
        self._unmet = f"{where}: asks for all devices, but they do not satisfy a claim constraint"

    def _taken_for_all(self, claim: int, wanted: Wanted, candidate: Candidate) -> bool:
        if wanted.request.admin_access and self._attempt.shares(candidate):
            return False
        return not self._free(claim, wanted, candidate)

    def _admitted(self, claim: int, wanted: Wanted, candidate: Candidate) -> bool:
        states = self._constraints[claim]
        for i in wanted.constraints:
            value = self.matching.value_of(wanted, candidate, states[i].name)
            if not states[i].admits(value):
                return False
        return True

    def _enter(self, claim: int, wanted: Wanted, candidate: Candidate) -> None:
        device, request = candidate.device, wanted.request
        for i in wanted.constraints:
            state = self._constraints[claim][i]
            value = self.matching.value_of(wanted, candidate, state.name)
            assert value is not None
            state.push(value)
        shares = self._attempt.shares(candidate)
        taken = self._attempt.enter(claim, request, candidate)
        self._picked[claim].append(candidate)
        conditions = self._features.binding_conditions
        skips = self._features.optional_node_operations
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
                candidate.owner.skip_operations if skips else (),
            )
        )

    def _give_back(self, claim: int, wanted: Wanted, candidate: Candidate) -> None:
        for i in wanted.constraints:
            self._constraints[claim][i].pop()
        self._attempt.leave(wanted.request, candidate)
        self._results[claim].pop()
        self._picked[claim].pop()

    # The result.

    def _scope(self, claim: str, picked: Sequence[Candidate]) -> NodeScope:
        """Where the devices can be used: this node if one is local, else all selectors together.

        A selector of several terms cannot be joined to others in one: upstream fails the pod then,
        and so does first fit; otherwise the claim is kept to this node.
        """
        labels: dict[Hashable, Requirement] = {}
        fields: dict[Hashable, Requirement] = {}
        for candidate in picked:
            owner, device = candidate.owner, candidate.device
            name = device.node_name if owner.per_device else owner.node_name
            terms = device.node_terms if owner.per_device else owner.node_terms
            if terms is not None and len(terms) > 1 and not (name or device.binds_to_node):
                if self._compatible:
                    raise AllocationError(
                        f"create NodeSelector for claim {claim}: unsupported"
                        f" ResourceSlice.NodeSelector with {len(terms)} terms"
                    )
                name = self._world.node
            if name or device.binds_to_node:
                here = Requirement("metadata.name", "In", (self._world.node,))
                return NodeScope((NodeTerm(fields=(here,)),))
            for term in (terms or ())[:1]:
                for book, more in ((labels, term.labels), (fields, term.fields)):
                    for one in more:
                        # The order of values does not make it another requirement.
                        book.setdefault((one.key, one.operator, frozenset(one.values)), one)
        if not labels and not fields:
            return NodeScope()
        return NodeScope((NodeTerm(tuple(labels.values()), tuple(fields.values())),))
