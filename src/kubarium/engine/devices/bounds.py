"""How many devices could at most serve what is still wanted: counted generously, and quickly.

A search node is hopeless if one of these relaxations has no solution:

- each device serves one place of one request, a shared device as many as its capacity allows, a
  counter set as many devices as fit into its counters when the smallest go first (a flow);
- for every matchAttribute constraint there is a value, and for several of them a combination of
  values, with which the claim's requests find enough devices (kubernetes#131730);
- for every distinctAttribute constraint there are as many values as devices (pigeonholes);
- claims that must each stay within one value of the same attribute fit into its groups of devices,
  each group taking as many claims as it can when the smallest go first.

Sets of candidates are integers used as bit sets, by place in the search order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from kubarium.engine.devices.attempt import Attempt
from kubarium.engine.devices.constraints import ConstraintState
from kubarium.engine.devices.model import AttributeValue, Features
from kubarium.engine.devices.request import Candidate, Matching, Wanted, taint_prevents

# Combinations of values that are tried for a claim with several matchAttribute constraints.
MAX_COMBINATIONS = 2_000

_Witness = tuple[str, int | bool | str]


@dataclass(frozen=True, slots=True)
class Place:
    """A node of the search: device ``index`` of a request, to be taken from place ``start`` on.

    ``held`` is the number of devices that the claim has so far.
    """

    claim: int
    request: int
    wanted: Wanted
    index: int
    start: int
    held: int


@dataclass(slots=True)
class _Demand:
    """A request that still wants ``need`` devices for one of ``rows``."""

    claim: int
    rows: Sequence[Wanted]
    need: int
    start: int = 0
    usable: int = 0

    @property
    def admin(self) -> bool:
        return bool(self.rows[0].request.admin_access)

    def covered_by(self, constraint: int) -> bool:
        """Whether the constraint binds every alternative."""
        return all(constraint in row.constraints for row in self.rows)


@dataclass(slots=True)
class _Split:
    """Devices by value; a device with a list is under each of its values."""

    by_value: dict[_Witness, int] = field(default_factory=dict)
    known: int = 0
    unknown: int = 0

    def enter(self, value: AttributeValue, device: int) -> None:
        if not value.kind:
            self.unknown |= device
            return
        self.known |= device
        for item in value.values:
            key = (value.kind, item)
            self.by_value[key] = self.by_value.get(key, 0) | device


class Bounds:
    """The relaxations of one search. ``work`` counts devices looked at."""

    def __init__(
        self,
        features: Features,
        order: Sequence[Candidate],
        rows: Sequence[Sequence[Sequence[Wanted]]],
        constraints: Sequence[Sequence[ConstraintState]],
        matching: Matching,
        attempt: Attempt,
    ) -> None:
        self._features = features
        self._order = order
        self._rows = rows
        self._constraints = constraints
        self._matching = matching
        self._attempt = attempt
        self._fitting: dict[int, int] = {}
        self._splits: dict[tuple[int, int], _Split] = {}
        self._sized = _union(1 << at for at, c in enumerate(order) if c.device.capacity)
        self.work = 0

    def enough(self, place: Place) -> bool:
        """Whether no relaxation rules the rest of the search out."""
        demands = list(self._demands(place))
        giving = self._giving()
        for demand in demands:
            demand.usable = self._usable(demand, giving)
            if demand.usable.bit_count() < demand.need:
                return False
        exclusive = [d for d in demands if not d.admin]
        if not self._flow(exclusive, [d.usable for d in exclusive]):
            return False
        claims = {d.claim: [e for e in demands if e.claim == d.claim] for d in demands}
        if not all(self._claim_holds(of_claim) for of_claim in claims.values()):
            return False
        return len(claims) == 1 or self._claims_fit_groups(claims)

    def _demands(self, place: Place) -> Iterator[_Demand]:
        need = place.wanted.count - place.index
        yield _Demand(place.claim, [place.wanted], need, place.start)
        for claim in range(place.claim, len(self._rows)):
            first = place.request + 1 if claim == place.claim else 0
            for row in self._rows[claim][first:]:
                need = min(wanted.count for wanted in row)
                if need:
                    yield _Demand(claim, row, need)

    # Which devices may serve a demand

    def _giving(self) -> int:
        """Devices not given away whole, whose counters and compatibility groups allow them."""
        giving = 0
        attempt = self._attempt
        for at, candidate in enumerate(self._order):
            if attempt.busy(candidate):
                continue
            charged = candidate.device.consumes and not attempt.opened(candidate)
            if not charged or (
                attempt.counters_suffice(candidate) and attempt.compatible(candidate)
            ):
                giving |= 1 << at
        self.work += len(self._order)
        return giving

    def _usable(self, demand: _Demand, giving: int) -> int:
        found = 0
        for row in demand.rows:
            open_ = self._static(row)
            if not row.request.admin_access:
                open_ &= giving
            found |= self._admitted(demand.claim, row, open_)
        return found >> demand.start << demand.start

    def _static(self, row: Wanted) -> int:
        """Devices that match the request at all, taints included."""
        known = self._fitting.get(id(row))
        if known is None:
            known = 0
            for at, candidate in enumerate(self._order):
                device = candidate.device
                if device.consumes and not self._features.partitionable:
                    continue
                if self._features.taints and taint_prevents(row.request, device):
                    continue
                if self._matching.may_match(row, candidate):
                    known |= 1 << at
            self.work += len(self._order)
            self._fitting[id(row)] = known
        return known

    def _admitted(self, claim: int, row: Wanted, open_: int) -> int:
        """Those of the devices that the constraints so far and their capacity allow."""
        for index in row.constraints:
            open_ &= self._may_add(self._constraints[claim][index], self._split(row, index))
        rest = open_ if row.request.capacity is not None else open_ & self._sized
        for at in _bits(rest):
            if not self._attempt.has_capacity(row.request, self._order[at]):
                open_ &= ~(1 << at)
        self.work += rest.bit_count() + len(row.constraints)
        return open_

    @staticmethod
    def _may_add(state: ConstraintState, split: _Split) -> int:
        """Devices whose value may be added now; an unknown value counts as one that may be."""
        if state.constraint.match and state.last is not None:
            keys = [(state.last.kind, value) for value in state.last.values]
            return _union(split.by_value.get(key, 0) for key in keys) | split.unknown
        used = {(value.kind, item) for value in state.added for item in value.values}
        return split.known & ~_union(split.by_value.get(key, 0) for key in used) | split.unknown

    def _split(self, row: Wanted, constraint: int) -> _Split:
        """All devices by the value that a constraint of the request looks at."""
        known = self._splits.get((id(row), constraint))
        if known is None:
            found = row.claim.spec.constraints[constraint]
            known = _Split()
            for at, candidate in enumerate(self._order):
                value = self._matching.may_value(row, candidate, found.match or found.distinct)
                if value is not None:
                    known.enter(value, 1 << at)
            self.work += len(self._order)
            self._splits[id(row), constraint] = known
        return known

    # Constraints

    def _claim_holds(self, demands: list[_Demand]) -> bool:
        """Whether some choice of values for the claim's constraints leaves enough devices."""
        states = self._constraints[demands[0].claim]
        matches, distincts = [], []
        for index, state in enumerate(states):
            covered = [d for d in demands if d.covered_by(index)]
            if not covered:
                continue
            by_value = [self._by_value(d, index) for d in covered]
            if not state.constraint.match:
                distincts.append((covered, by_value))
                continue
            viable = _viable(covered, by_value, state.last)
            if viable is not None:
                if not viable:
                    return False
                matches.append((covered, by_value, viable))
        if math.prod(len(viable) for *_, viable in matches) > MAX_COMBINATIONS:
            matches = [min(matches, key=lambda m: len(m[2]))]
        return any(
            self._combination_holds(demands, matches, distincts, witnesses)
            for witnesses in itertools.product(*(viable for *_, viable in matches))
        )

    def _by_value(self, demand: _Demand, constraint: int) -> dict[_Witness | None, int]:
        """The demand's devices by value; None holds those of unknown value."""
        found: dict[_Witness | None, int] = {}
        for row in demand.rows:
            split = self._split(row, constraint)
            for key, devices in split.by_value.items():
                if devices & demand.usable:
                    found[key] = found.get(key, 0) | devices & demand.usable
            if split.unknown & demand.usable:
                found[None] = found.get(None, 0) | split.unknown & demand.usable
            self.work += len(split.by_value)
        return found

    def _combination_holds(
        self,
        demands: list[_Demand],
        matches: list[tuple[list[_Demand], list[dict[_Witness | None, int]], list[_Witness]]],
        distincts: list[tuple[list[_Demand], list[dict[_Witness | None, int]]]],
        witnesses: tuple[_Witness, ...],
    ) -> bool:
        left = {id(d): d.usable for d in demands}
        for (covered, by_value, _), witness in zip(matches, witnesses, strict=True):
            for demand, values in zip(covered, by_value, strict=True):
                left[id(demand)] &= values.get(witness, 0) | values.get(None, 0)
                if left[id(demand)].bit_count() < demand.need:
                    return False
        if matches:
            exclusive = [d for d in demands if not d.admin]
            if not self._flow(exclusive, [left[id(d)] for d in exclusive]):
                return False
        return all(self._pigeonholes(covered, values, left) for covered, values in distincts)

    def _pigeonholes(
        self,
        covered: list[_Demand],
        by_value: list[dict[_Witness | None, int]],
        left: dict[int, int],
    ) -> bool:
        """Whether the devices of the demands can all have values of their own."""
        supplies: dict[Hashable, tuple[int, dict[int, int]]] = {}
        for index, (demand, values) in enumerate(zip(covered, by_value, strict=True)):
            if values.get(None):
                return True
            for value, devices in values.items():
                if devices & left[id(demand)]:
                    _, caps = supplies.setdefault(value, (1, {}))
                    caps[index] = 1
        self.work += sum(len(values) for values in by_value)
        return saturates([d.need for d in covered], supplies.values())

    def _claims_fit_groups(self, claims: dict[int, list[_Demand]]) -> bool:
        """Whether claims with one matchAttribute over all their requests find groups together."""
        by_name: dict[str, list[tuple[int, dict[_Witness | None, int]]]] = {}
        for claim, demands in claims.items():
            seen: set[str] = set()
            for index, state in enumerate(self._constraints[claim]):
                if not state.constraint.match or not all(d.covered_by(index) for d in demands):
                    continue
                if state.name in seen or any(d.admin for d in demands):
                    continue
                seen.add(state.name)
                groups: dict[_Witness | None, int] = {}
                for demand in demands:
                    for value, devices in self._by_value(demand, index).items():
                        groups[value] = groups.get(value, 0) | devices
                if state.last is not None:
                    kept = {(state.last.kind, v) for v in state.last.values}
                    groups = {v: devices for v, devices in groups.items() if v in kept}
                need = sum(d.need for d in demands)
                by_name.setdefault(state.name, []).append((need, groups))
        return all(
            len(found) == 1 or self._any_shared(found) or _fit_groups(found)
            for found in by_name.values()
        )

    def _any_shared(self, claims: list[tuple[int, dict[_Witness | None, int]]]) -> bool:
        """Whether a device among them can serve several claims."""
        devices = 0
        for _, groups in claims:
            for of_value in groups.values():
                devices |= of_value
        return any(self._attempt.shares(self._order[at]) for at in _bits(devices))

    # Supply

    def _flow(self, demands: list[_Demand], usable: list[int]) -> bool:
        """Whether every demand can be met at once, constraints aside."""
        union = 0
        for devices in usable:
            union |= devices
        supplies: dict[Hashable, tuple[int, dict[int, int]]] = {}
        sets: dict[Hashable, list[tuple[int, list[int]]]] = {}
        for at in _bits(union):
            candidate = self._order[at]
            serves = [i for i, devices in enumerate(usable) if devices >> at & 1]
            if candidate.device.consumes and not self._attempt.opened(candidate):
                pool, use = candidate.pool, candidate.device.consumes[0]
                key = (pool.driver, pool.name, use.counter_set)
                sets.setdefault(key, []).append((at, serves))
                continue
            limit = self._shares_left(candidate, [demands[i] for i in serves])
            kind = (tuple(serves), limit)
            supply, caps = supplies.get(kind, (0, {}))
            supplies[kind] = (supply + limit, {i: caps.get(i, 0) + 1 for i in serves})
        for of_set, members in sets.items():
            supplies["set", of_set] = self._set_supply(members)
        self.work += union.bit_count()
        return saturates([d.need for d in demands], supplies.values())

    def _shares_left(self, candidate: Candidate, demands: list[_Demand]) -> int:
        """How many of the demands a device can serve at once."""
        if not self._attempt.shares(candidate):
            return 1
        used = self._attempt.used(candidate)
        taken = [
            dict(self._attempt.consumed(row.request, candidate)) for d in demands for row in d.rows
        ]
        limit = len(demands)
        for name, capacity in candidate.device.capacity.items():
            least = min(t.get(name, 0) for t in taken)
            if least > 0:
                limit = min(limit, int((capacity.value - used.get(name, 0)) // least))
        return limit

    def _set_supply(self, members: list[tuple[int, list[int]]]) -> tuple[int, dict[int, int]]:
        """How many devices of a counter set can be given at once, in all and to each demand."""
        caps: dict[int, int] = {}
        for index in dict.fromkeys(i for _, serves in members for i in serves):
            caps[index] = self._fitting_count([at for at, serves in members if index in serves])
        shared = any(self._attempt.shares(self._order[at]) for at, _ in members)
        everyone = sum(len(serves) for _, serves in members)
        return (everyone if shared else self._fitting_count([at for at, _ in members])), caps

    def _fitting_count(self, places: list[int]) -> int:
        candidate = self._order[places[0]]
        use = candidate.device.consumes[0]
        free = self._attempt.free_counters(candidate.pool, use.counter_set)
        amounts = [dict(self._order[at].device.consumes[0].counters) for at in places]
        most = len(places)
        for name, left in free.items():
            # Those that do not use it fit, however far it is overdrawn.
            using = sorted(a[name] for a in amounts if name in a)
            count = len(places) - len(using)
            for amount in using:
                left -= amount
                if left < 0:
                    break
                count += 1
            most = min(most, count)
        return most


def _fit_groups(claims: list[tuple[int, dict[_Witness | None, int]]]) -> bool:
    """Whether each claim (devices needed, devices by value) gets a group that it can use."""
    if any(None in groups for _, groups in claims):
        return True
    supplies = []
    for value in dict.fromkeys(v for _, groups in claims for v in groups):
        able = {
            index: need
            for index, (need, groups) in enumerate(claims)
            if groups.get(value, 0).bit_count() >= need
        }
        devices = 0
        for index in able:
            devices |= claims[index][1][value]
        room, count = devices.bit_count(), 0
        for need in sorted(able.values()):
            room -= need
            if room < 0:
                break
            count += 1
        supplies.append((count, dict.fromkeys(able, 1)))
    return saturates([1] * len(claims), supplies)


def _viable(
    covered: list[_Demand],
    by_value: list[dict[_Witness | None, int]],
    narrowed: AttributeValue | None,
) -> list[_Witness] | None:
    """Values with which each demand alone finds enough devices; None if unknown ones hide it."""
    if any(None in values for values in by_value):
        return None
    if narrowed is not None:
        choices: Iterable[_Witness] = sorted(
            ((narrowed.kind, v) for v in narrowed.values), key=repr
        )
    else:
        choices = [value for value in by_value[0] if value is not None]
    return [
        value
        for value in choices
        if all(
            values.get(value, 0).bit_count() >= demand.need
            for demand, values in zip(covered, by_value, strict=True)
        )
    ]


def _union(sets: Iterable[int]) -> int:
    found = 0
    for one in sets:
        found |= one
    return found


def _bits(number: int) -> Iterator[int]:
    while number:
        low = number & -number
        yield low.bit_length() - 1
        number ^= low


def saturates(needs: list[int], supplies: Iterable[tuple[int, dict[int, int]]]) -> bool:
    """Whether a flow meets every need. A supply is (in all, at most for each need).

    >>> saturates([1, 1], [(1, {0: 1, 1: 1}), (5, {0: 1})])
    True
    >>> saturates([1, 1], [(1, {0: 1, 1: 1})])
    False
    """
    stock = list(supplies)
    left = [supply for supply, _ in stock]
    sent = [dict.fromkeys(caps, 0) for _, caps in stock]

    def reach(need: int, seen: set[int]) -> bool:
        """Send one more unit to ``need``, moving others aside if it must."""
        for index, (_, caps) in enumerate(stock):
            if index in seen or sent[index].get(need, 0) >= caps.get(need, 0):
                continue
            seen.add(index)
            if left[index]:
                left[index] -= 1
                sent[index][need] += 1
                return True
            for other, amount in sent[index].items():
                if amount and other != need and reach(other, seen):
                    sent[index][other] -= 1
                    sent[index][need] += 1
                    return True
        return False

    return all(reach(need, set()) for need, count in enumerate(needs) for _ in range(count))
