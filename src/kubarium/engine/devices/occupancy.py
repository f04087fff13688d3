"""How full one node's devices are, of those that some claims could take.

What is counted are units, the things that cannot be had twice: an exclusive device, a shared device
by how much of its capacity is consumed, a counter set by how much of its counters is (all
partitions of a card are one unit). Devices whose taints the claims do not tolerate do not count,
nor do devices that several nodes can reach: taking them from one node leaves none of them whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kubarium.engine.devices.attempt import Holdings
from kubarium.engine.devices.ledger import Ledger
from kubarium.engine.devices.model import (
    ALL,
    Amount,
    ClaimSpec,
    DeviceClass,
    Request,
    SelectorError,
    Selects,
)
from kubarium.engine.devices.request import Candidate, Shelf, taint_prevents

_SetKey = tuple[str, str, str]

# Use is rounded to one part in so many, so that sums do not depend on the order of adding.
_STEPS = 1024

# How full a device counts that is shared without consuming any of its capacity.
_SHARED_BY_SOMEBODY = 0.5


@dataclass(frozen=True, slots=True)
class Occupancy:
    """``units`` that the claims could take if nobody else was there, and how many are ``free``."""

    units: float = 0
    free: float = 0

    @property
    def is_untouched(self) -> bool:
        return self.free >= self.units


EMPTY = Occupancy()


class Units:
    """The units of one shelf that some claims could take; which of them are free changes."""

    def __init__(
        self,
        shelf: Shelf,
        claims: Sequence[ClaimSpec],
        classes: Mapping[str, DeviceClass],
        selects: Selects,
    ) -> None:
        self.shelf = shelf
        self._exclusive: list[Candidate] = []
        self._shared: list[Candidate] = []
        # For each counter set the counters that the claims' devices consume, with their totals.
        self._sets: dict[_SetKey, dict[str, Amount]] = {}
        wanted = [request for spec in claims for request in _requests(spec)]
        for candidate in shelf.candidates:
            if not (candidate.owner.node_name or candidate.device.node_name):
                continue
            if any(_may_take(request, candidate, classes, selects) for request in wanted):
                self._add(candidate)
        self._count = len(self._exclusive) + len(self._shared) + len(self._sets)

    def _add(self, candidate: Candidate) -> None:
        device, pool = candidate.device, candidate.pool
        for use in device.consumes:
            known = self._sets.setdefault((pool.driver, pool.name, use.counter_set), {})
            totals = pool.counter_sets.get(use.counter_set, {})
            for name, amount in use.counters:
                if amount and name in totals:
                    known[name] = totals[name]
        if not device.consumes:
            (self._shared if device.allow_multiple else self._exclusive).append(candidate)

    def occupancy(self, ledger: Ledger, held: Holdings) -> Occupancy:
        """As the ledger has it now."""
        used = float(sum(ledger.in_use(candidate.id) for candidate in self._exclusive))
        for candidate in self._shared:
            used += _consumed(candidate, ledger)
        if self._sets:
            used += sum(_charged(self._sets, held))
        return Occupancy(self._count, self._count - round(used * _STEPS) / _STEPS)

    def free_devices(self, ledger: Ledger) -> int | None:
        """How many whole devices are free; None if claims can share or cut them."""
        if self._shared or self._sets:
            return None
        return sum(not ledger.in_use(candidate.id) for candidate in self._exclusive)


def _requests(spec: ClaimSpec) -> list[Request]:
    """The requests that take devices: admin access does not."""
    return [r for entry in spec.requests for r in entry.alternatives if not r.admin_access]


def _may_take(
    request: Request,
    candidate: Candidate,
    classes: Mapping[str, DeviceClass],
    selects: Selects,
) -> bool:
    """Whether selectors and taints let the request have the device; a broken selector does."""
    owner = classes.get(request.device_class)
    if owner is None or (request.mode != ALL and taint_prevents(request, candidate.device)):
        return False
    try:
        return all(
            selects(selector or "", candidate.id.driver, candidate.device)
            for selector in (*owner.selectors, *request.selectors)
        )
    except SelectorError:
        return True


def _consumed(candidate: Candidate, ledger: Ledger) -> float:
    """The part of a shared device that is gone: of its capacities the one with most taken."""
    if ledger.exclusive(candidate.id):
        return 1.0
    taken = ledger.consumed(candidate.id)
    shares = [
        _share(amount, candidate.device.capacity[name].value)
        for name, amount in taken.items()
        if name in candidate.device.capacity
    ]
    return max(shares, default=_SHARED_BY_SOMEBODY if ledger.shared(candidate.id) else 0.0)


def _charged(sets: Mapping[_SetKey, Mapping[str, Amount]], held: Holdings) -> list[float]:
    """For each counter set the part that is gone, by the counter with most taken."""
    book: dict[_SetKey, dict[str, Amount]] = {}
    for pool in dict.fromkeys((driver, name) for driver, name, _ in sets):
        for uses in held.get(pool, {}).values():
            for use in uses or ():
                taken = book.setdefault((*pool, use.counter_set), {})
                for name, amount in use.counters:
                    taken[name] = taken.get(name, 0) + amount
    return [
        max(
            (_share(taken.get(name, 0), total) for name, total in totals.items()),
            default=0.0,
        )
        for key, totals in sets.items()
        for taken in (book.get(key, {}),)
    ]


def _share(used: Amount, total: Amount) -> float:
    return min(1.0, float(used / total)) if total > 0 else 1.0
