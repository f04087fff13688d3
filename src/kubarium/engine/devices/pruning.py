"""What keeps an infeasible search short: bounds, symmetry and memory.

- bounds: too little is left for what is still wanted (``bounds``);
- symmetry: of devices that no request or constraint can tell apart, one failure stands for all,
  and so of counter sets of equal make;
- memory: a state reached again by another way round fails again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from kubarium.engine.devices.attempt import Attempt, SetKey
from kubarium.engine.devices.bounds import Bounds, Place
from kubarium.engine.devices.constraints import ConstraintState
from kubarium.engine.devices.ledger import Ledger
from kubarium.engine.devices.model import AllocationError, Features
from kubarium.engine.devices.request import Candidate, Matching, Wanted, taint_prevents

Rows = Sequence[Sequence[Sequence[Wanted]]]


class Pruning:
    """Made at a search's first dead end. ``order`` is the order in which devices are tried."""

    def __init__(
        self,
        features: Features,
        ledger: Ledger,
        order: Sequence[Candidate],
        rows: Rows,
        constraints: Sequence[Sequence[ConstraintState]],
        matching: Matching,
        attempt: Attempt,
    ) -> None:
        self._bounds = Bounds(features, order, rows, constraints, matching, attempt)
        self._likeness = Likeness(features, ledger, order, rows, constraints, matching, attempt)
        self._constraints = constraints
        self._failed: set[Hashable] = set()

    @property
    def work(self) -> int:
        return self._bounds.work + self._likeness.work

    def hopeful(self, place: Place, state: Hashable) -> bool:
        """Whether neither memory nor the bounds rule the place out."""
        if state in self._failed:
            return False
        if self._bounds.enough(place):
            return True
        self._failed.add(state)
        return False

    def failed(self, state: Hashable) -> None:
        """Remember that nothing can be found from this state."""
        self._failed.add(state)

    def state(self, place: Place) -> Hashable:
        """Everything on which the rest of the search depends, devices up to likeness."""
        return (
            place.claim,
            place.request,
            place.wanted.path,
            place.index,
            place.start,
            place.held,
            self._likeness.taken(place.start),
            tuple(s.key() for s in self._constraints[place.claim]),
        )

    def stands_for(self, tried: set[Hashable], candidate: Candidate) -> bool:
        """Whether a device that failed at this place was like the candidate."""
        return not tried.isdisjoint(self._likeness.keys(candidate))

    def tried(self, tried: set[Hashable], candidate: Candidate) -> None:
        """Note that the candidate failed at this place."""
        tried.update(self._likeness.keys(candidate))


class Likeness:
    """Which devices, and which counter sets, nothing in a search can tell apart."""

    def __init__(
        self,
        features: Features,
        ledger: Ledger,
        order: Sequence[Candidate],
        rows: Rows,
        constraints: Sequence[Sequence[ConstraintState]],
        matching: Matching,
        attempt: Attempt,
    ) -> None:
        self._ledger = ledger
        self._order = order
        self._rows = [w for claim in rows for row in claim for w in row]
        self._constraints = constraints
        self._matching = matching
        self._attempt = attempt
        self._names: dict[Hashable, int] = {}
        self._rank = {c.position: rank for rank, c in enumerate(order)}
        self._by_position = {c.position: c for c in order}
        self._members = self._lone_sets() if features.partitionable else {}
        self._set_class = {key: self._make_of(key) for key in self._members}
        self._classes: dict[int, int] = {}
        self.work = 0

    def keys(self, candidate: Candidate) -> tuple[Hashable, ...]:
        """Two devices with a key in common fail for the same reasons, at the same place.

        One key is for devices beside each other: on the same counter set, or on none. The other
        compares counter sets as wholes, with what is left of them from the device on.
        """
        own = (self._class(candidate), self._entries(candidate))
        key = self._set_of(candidate)
        if key is None:
            return (own,)
        rank = self._rank[candidate.position]
        of_set = (own, self._set_class[key], self._touched(key), self._rest(key, rank))
        return ((own, key), of_set)

    def taken(self, start: int) -> Hashable:
        """The devices given so far, up to likeness; ``start`` is where the search goes on."""
        attempt = self._attempt
        plain: Counter[Hashable] = Counter()
        sets: dict[SetKey, None] = {}
        for position in (*attempt.takers, *attempt.sharing):
            candidate = self._by_position[position]
            key = self._set_of(candidate)
            if key is not None:
                sets[key] = None
                continue
            later = self._rank[position] >= start
            plain[self._class(candidate), self._entries(candidate), later] += 1
        touched = Counter(
            (self._set_class[k], self._touched(k, start), self._rest(k, start)) for k in sets
        )
        return frozenset(plain.items()), frozenset(touched.items())

    def _entries(self, candidate: Candidate) -> Hashable:
        """Who has the device, or its shares, by now."""
        attempt, position = self._attempt, candidate.position
        shares = attempt.sharing.get(position)
        if shares:
            return tuple(sorted(shares, key=repr))
        return tuple(attempt.takers.get(position, ()))

    # Counter sets

    def _lone_sets(self) -> dict[SetKey, list[Candidate]]:
        """Counter sets none of whose devices consumes another set as well."""
        members: dict[SetKey, list[Candidate]] = {}
        linked: set[SetKey] = set()
        for candidate in self._order:
            keys = _set_keys(candidate)
            for key in keys:
                members.setdefault(key, []).append(candidate)
            if len(keys) > 1:
                linked.update(keys)
        return {key: found for key, found in members.items() if key not in linked}

    def _set_of(self, candidate: Candidate) -> SetKey | None:
        keys = _set_keys(candidate)
        return keys[0] if keys and keys[0] in self._members else None

    def _make_of(self, key: SetKey) -> int:
        """Equal for sets that started with the same counters, groups and devices."""
        members = self._members[key]
        self._attempt.free_counters(members[0].pool, key[2])
        free, groups = self._attempt.at_first(key)
        devices = Counter(self._signature(c) for c in members)
        make = (tuple(sorted(free.items())), groups, frozenset(devices.items()))
        return self._names.setdefault(make, len(self._names))

    def _touched(self, key: SetKey, start: int = 0) -> Hashable:
        """The devices of the set that are taken, and whether they come before ``start``."""
        self.work += len(self._members[key])
        return tuple(
            sorted(
                (self._class(c), repr(self._entries(c)), self._rank[c.position] >= start)
                for c in self._members[key]
                if c.position in self._attempt.takers or c.position in self._attempt.sharing
            )
        )

    def _rest(self, key: SetKey, start: int) -> Hashable:
        """The devices of the set from a place on."""
        return tuple(
            sorted(self._class(c) for c in self._members[key] if self._rank[c.position] >= start)
        )

    # Devices

    def _class(self, candidate: Candidate) -> int:
        """Equal for devices of equal make (and, where it matters, of the same counter sets)."""
        known = self._classes.get(candidate.position)
        if known is None:
            sets = _set_keys(candidate)
            linked = sets if sets and sets[0] not in self._members else ()
            made = (self._signature(candidate), tuple(linked))
            known = self._classes[candidate.position] = self._names.setdefault(
                made, len(self._names)
            )
        return known

    def _signature(self, candidate: Candidate) -> Hashable:
        device = candidate.device
        wanted: list[Hashable] = []
        for row in self._rows:
            try:
                wanted.append(self._matching.matches(row, candidate))
            except AllocationError:
                wanted.append(candidate.position)
            wanted.append(taint_prevents(row.request, device))
            wanted.extend(self._constrained(row, candidate, i) for i in row.constraints)
        shares = self._attempt.shares(candidate)
        return (
            tuple(wanted),
            tuple((use.counters, use.groups) for use in device.consumes),
            tuple(sorted(device.capacity.items(), key=lambda item: item[0])),
            shares,
            self._ledger.in_use(candidate.id),
            tuple(sorted(self._ledger.consumed(candidate.id).items())) if shares else None,
        )

    def _constrained(self, row: Wanted, candidate: Candidate, constraint: int) -> Hashable:
        found = row.claim.spec.constraints[constraint]
        try:
            return self._matching.value_of(row, candidate, found.match or found.distinct)
        except AllocationError:
            return candidate.position


def _set_keys(candidate: Candidate) -> list[SetKey]:
    pool = candidate.pool
    return [(pool.driver, pool.name, use.counter_set) for use in candidate.device.consumes]
