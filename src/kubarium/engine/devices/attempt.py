"""What one search has given out so far, beside what the ledger says is in use.

Everything is entered and taken back in the order of a stack. Rules of upstream's allocator that
live here: an exclusive device goes to one request; a shared one as far as its capacity reaches, and
its counters are charged once; devices on one counter set must agree on a compatibility group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kubarium.engine.devices import capacity
from kubarium.engine.devices.ledger import Ledger
from kubarium.engine.devices.model import (
    DEFAULT_FEATURES,
    Amount,
    CounterUse,
    Derives,
    DeviceClass,
    DeviceId,
    Features,
    Request,
    Selects,
)
from kubarium.engine.devices.pools import Pool, PoolKey
from kubarium.engine.devices.preference import (
    DEFAULT_PREFERENCE,
    FIRST_FIT,
    DevicePreference,
)
from kubarium.engine.devices.request import Candidate, Shelf, no_derivation

Share = tuple[tuple[str, Amount], ...]
SetKey = tuple[str, str, str]

# By pool, the devices in use with what they take of counter sets; None if that is not known.
Holdings = Mapping[PoolKey, Mapping[DeviceId, tuple[CounterUse, ...] | None]]

# What the devices on a counter set have in common: None before the first, empty if all have none.
_Groups = frozenset[str] | None


@dataclass(frozen=True, slots=True)
class World:
    """What a search may look at besides the claims: one node's pools and who holds what."""

    node: str
    labels: Mapping[str, str]
    shelf: Shelf
    classes: Mapping[str, DeviceClass]
    ledger: Ledger
    selects: Selects
    features: Features = DEFAULT_FEATURES
    preference: DevicePreference = DEFAULT_PREFERENCE
    derives: Derives = no_derivation
    held: Holdings = field(default_factory=dict)


class Attempt:
    """Devices given to the claims of a search, by the candidate's position."""

    def __init__(self, world: World) -> None:
        self._ledger = world.ledger
        self._features = world.features
        # The claims that have a whole device; ``~claim`` has it for an administrator.
        self.takers: dict[int, list[int]] = {}
        self.sharing: dict[int, list[Share]] = {}
        # Claims of administrators on shared devices: they take nothing, and count for nobody.
        self._watching: dict[int, list[int]] = {}
        self._free: dict[SetKey, dict[str, Amount]] = {}
        self._first: dict[SetKey, Mapping[str, Amount]] = {}
        self._held = world.held
        # Upstream looks at all counter sets of a pool, not only at those that a device consumes;
        # within a pod an administrator's request takes what others take; and a capacity goes by
        # one name only.
        self._compatible = world.preference.strategy == FIRST_FIT
        self._known_pools: set[int] = set()
        # Pools with a device in use that is not published: what it holds of them is not known.
        self._closed: set[int] = set()
        self.unknown: DeviceId | None = None
        self._allowed: dict[tuple[int, int], Share | None] = {}
        self._groups: dict[SetKey, list[_Groups]] = {}

    # Questions

    def busy(self, candidate: Candidate) -> bool:
        """Whether the device as a whole has been given away.

        Or shares of one that is published as whole by now: upstream gives it away once more.
        """
        if self._ledger.exclusive(candidate.id):
            return True
        if self._ledger.shared(candidate.id) and not self.shares(candidate):
            return True
        return any(taker >= 0 for taker in self.takers.get(candidate.position, ()))

    def taken_by(self, claim: int, candidate: Candidate) -> bool:
        """Whether the claim itself has the whole device already, be it for an administrator."""
        takers = self.takers.get(candidate.position, ())
        return claim in takers or ~claim in takers

    def shares(self, candidate: Candidate) -> bool:
        """Whether the device can be given to several requests."""
        return self._features.consumable_capacity and candidate.device.allow_multiple

    def used(self, candidate: Candidate) -> Mapping[str, Amount]:
        """Capacity of the device that is gone."""
        shares = self.sharing.get(candidate.position)
        if not shares:
            return self._ledger.consumed(candidate.id)
        used = dict(self._ledger.consumed(candidate.id))
        for share in shares:
            for name, amount in share:
                used[name] = used.get(name, 0) + amount
        return used

    def has_capacity(self, request: Request, candidate: Candidate) -> bool:
        """Whether the request's amounts are left on the device; always, while the gate is off.

        Administrators get access whatever is in use, if the device has such amounts at all; in
        first fit, as upstream, they ask for what is left like everybody.
        """
        if not self._features.consumable_capacity:
            return True
        taken = self._takes(request, candidate)
        if taken is None:
            return False
        watches = request.admin_access and not self._compatible
        used = {} if watches else self.used(candidate)
        return capacity.room_for(taken, candidate.device, used)

    def consumed(self, request: Request, candidate: Candidate) -> Share:
        """What a share of the device takes for the request; only asked if it is allowed."""
        return self._takes(request, candidate) or ()

    def _takes(self, request: Request, candidate: Candidate) -> Share | None:
        key = (id(request), candidate.position)
        if key not in self._allowed:
            self._allowed[key] = capacity.allowed(
                request,
                candidate.device,
                "" if self._compatible else candidate.id.driver,
                fractional=self._features.fractional_range,
            )
        return self._allowed[key]

    def charges(self, request: Request, candidate: Candidate) -> bool:
        """Whether taking the device takes its counters: a shared one is charged once."""
        if not candidate.device.consumes or (request.admin_access and not self._compatible):
            return False
        return not self.opened(candidate)

    def opened(self, candidate: Candidate) -> bool:
        """Whether a share of the device is taken already."""
        if not self.shares(candidate):
            return False
        if self.sharing.get(candidate.position):
            return True
        if self._compatible:  # upstream sees earlier shares by the capacity that they consume
            return bool(self._ledger.consumed(candidate.id))
        return self._ledger.shared(candidate.id)

    def counters_suffice(self, candidate: Candidate) -> bool:
        """Whether every counter that the device consumes has that much left.

        Never while the gate is off (upstream leaves such devices alone then), nor where a device
        in use is not published, so that nobody can tell what it holds (kubernetes#140802).
        """
        if not self._features.partitionable:
            return False
        pool = candidate.pool
        self._learn(pool)
        if id(pool) in self._closed:
            return False
        if self._compatible and self._is_overdrawn(pool):
            return False
        for use in candidate.device.consumes:
            free = self.free_counters(pool, use.counter_set)
            if any(free[name] < amount for name, amount in use.counters):
                return False
        return True

    def _is_overdrawn(self, pool: Pool) -> bool:
        """Whether devices in use hold more of some counter of the pool than there is."""
        return any(
            amount < 0
            for name in pool.counter_sets
            for amount in self.free_counters(pool, name).values()
        )

    def free_counters(self, pool: Pool, counter_set: str) -> Mapping[str, Amount]:
        """What is left of a counter set; negative if its pool was republished over-committed."""
        self._learn(pool)
        return self._free[pool.driver, pool.name, counter_set]

    def compatible(self, candidate: Candidate) -> bool:
        """Whether the device shares a group with all that are in use on each of its counter sets.

        While the gate is off, devices with groups are left alone, and those beside one in use.
        """
        pool = candidate.pool
        self._learn(pool)
        for use in candidate.device.consumes:
            common = self._groups[pool.driver, pool.name, use.counter_set][-1]
            if not self._features.compatibility_groups:
                if use.groups or common:
                    return False
            elif common is not None and not (common & use.groups if use.groups else not common):
                return False
        return True

    def _learn(self, pool: Pool) -> None:
        """Counters and groups as the devices in use leave them, once for each pool."""
        if id(pool) in self._known_pools:
            return
        self._known_pools.add(id(pool))
        for name, counters in pool.counter_sets.items():
            self._free[pool.driver, pool.name, name] = dict(counters)
            self._groups[pool.driver, pool.name, name] = [None]
        for device, uses in self._held.get((pool.driver, pool.name), {}).items():
            if uses is None and pool.counter_sets:
                self.unknown = self.unknown or device
                self._closed.add(id(pool))
            for use in uses or ():
                key = (pool.driver, pool.name, use.counter_set)
                if key in self._free:  # the pool may have been published anew, with other sets
                    self._charge(key, use.counters, -1)
                    self._groups[key][0] = _common(self._groups[key][0], use.groups)
        for name in pool.counter_sets:
            key = (pool.driver, pool.name, name)
            self._first[key] = dict(self._free[key])

    def _charge(self, key: SetKey, counters: Share, sign: int) -> None:
        free = self._free[key]
        for name, amount in counters:
            if name in free:
                free[name] += sign * amount

    # Changes

    def enter(self, claim: int, request: Request, candidate: Candidate) -> Share:
        """Give the device, or a share of it; returns what the share takes."""
        if self.charges(request, candidate):
            self._learn(candidate.pool)
            for use in candidate.device.consumes:
                key = (candidate.pool.driver, candidate.pool.name, use.counter_set)
                self._charge(key, use.counters, -1)
                self._groups[key].append(_common(self._groups[key][-1], use.groups))
        watches = request.admin_access and not self._compatible
        if not self.shares(candidate):
            self.takers.setdefault(candidate.position, []).append(~claim if watches else claim)
            return ()
        if watches:
            self._watching.setdefault(candidate.position, []).append(claim)
            return ()
        taken = self.consumed(request, candidate)
        self.sharing.setdefault(candidate.position, []).append(taken)
        return taken

    def leave(self, request: Request, candidate: Candidate) -> None:
        """The exact opposite of :meth:`enter`, for the device given last."""
        book: dict[int, list[Share]] | dict[int, list[int]] = self.takers
        if self.shares(candidate):
            watches = request.admin_access and not self._compatible
            book = self._watching if watches else self.sharing
        entries = book[candidate.position]
        entries.pop()
        if not entries:
            del book[candidate.position]
        if self.charges(request, candidate):
            for use in candidate.device.consumes:
                key = (candidate.pool.driver, candidate.pool.name, use.counter_set)
                self._charge(key, use.counters, 1)
                self._groups[key].pop()

    def at_first(self, key: SetKey) -> tuple[Mapping[str, Amount], _Groups]:
        """Counters and groups of a set of a known pool as the search found them."""
        return self._first[key], self._groups[key][0]


def _common(before: _Groups, groups: frozenset[str]) -> _Groups:
    return groups if before is None else before & groups
