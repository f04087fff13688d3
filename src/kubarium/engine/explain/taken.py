"""Why a request cannot have a device that would do: what of it, or of its counters, is gone."""

from __future__ import annotations

from collections.abc import Mapping

from kubarium.engine.devices import capacity
from kubarium.engine.devices.holding import Counters, left_of
from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import Amount, Device, DeviceId, Request, Slice
from kubarium.engine.devices.pools import PoolKey
from kubarium.engine.explain.nearest import shown_amount

IN_USE = "in use"
NO_SUCH_CAPACITY = "the device has none of that name"


class Taken:
    """What is left for one request, as the devices in use leave it."""

    def __init__(self, inventory: Inventory, request: Request) -> None:
        self._inventory = inventory
        self._request = request
        # By pool: what is left of each counter, and how much there is of it.
        self._counters: dict[PoolKey, tuple[Counters, Counters]] = {}

    def why(self, item: Slice, device: Device) -> str:
        """Why the request could not have a device now; "" if it could."""
        ledger, id_ = self._inventory.ledger, DeviceId(item.driver, item.pool, device.name)
        if ledger.exclusive(id_) or (ledger.shared(id_) and not device.allow_multiple):
            return IN_USE
        used = ledger.consumed(id_)
        fractional = self._inventory.features.fractional_range
        if not capacity.fits(self._request, device, item.driver, used, fractional=fractional):
            return self._full(item.driver, device, used)
        if device.consumes and not ledger.shared(id_):
            pool = (item.driver, item.pool)
            return self._short_counter(pool, device) or self._other_group(pool, device)
        return ""

    def _short_counter(self, pool: PoolKey, device: Device) -> str:
        """The counter of which too little is left for the device, in words; "" if none is short."""
        if pool not in self._counters:
            total = left_of(self._inventory.current_slices(*pool), {})
            self._counters[pool] = self._inventory.counters_left(pool), total
        left, total = self._counters[pool]
        for use in device.consumes:
            for counter, wanted in use.counters:
                key = (use.counter_set, counter)
                if wanted > left.get(key, 0):
                    shown = f"{shown_amount(left.get(key, 0))} free of"
                    shown = f"{shown} {shown_amount(total.get(key, 0))}"
                    name = f"counter {counter} of set {use.counter_set}"
                    return f"{name}: {shown}, {shown_amount(wanted)} wanted"
        return ""

    def _other_group(self, pool: PoolKey, device: Device) -> str:
        """Whose compatibility groups the device shares none of (KEP-5963); "" if all is well."""
        if not self._inventory.features.compatibility_groups:
            return ""
        mine = {use.counter_set: use.groups for use in device.consumes}
        common = dict(mine)
        for use in (use for uses in self._inventory.held(pool).values() for use in uses or ()):
            groups = common.get(use.counter_set)
            if groups is None:
                continue
            own = mine[use.counter_set]
            if bool(own) != bool(use.groups) or (groups and not groups & use.groups):
                return (
                    f"compatibility group {_named(own)}, while counter set {use.counter_set}"
                    f" is in use with {_named(use.groups)}"
                )
            common[use.counter_set] = groups & use.groups
        return ""

    def _full(self, driver: str, device: Device, used: Mapping[str, Amount]) -> str:
        """Which capacity cannot be given as it is asked for."""
        fractional = self._inventory.features.fractional_range
        taken = capacity.allowed(self._request, device, driver, fractional=fractional)
        for name, wanted in taken or ():
            have = device.capacity[name].value
            left = have - used.get(name, 0)
            if wanted > left:
                shown = f"{shown_amount(left)} left of {shown_amount(have)}"
                return f"capacity {name}: {shown}, {shown_amount(wanted)} wanted"
        for name, wanted in self._request.capacity or ():
            known = capacity.published_name(device, driver, name)
            if not known:
                has = ", ".join(sorted(device.capacity)) or "none"
                return f"capacity {name}: {NO_SUCH_CAPACITY} (it has {has})"
            most = capacity.most_allowed(device.capacity[known], device.capacity[known].value)
            if most is not None and wanted > most:
                shown = f"{shown_amount(most)} at most, {shown_amount(wanted)} wanted"
                what = "a share is" if device.allow_multiple else "the device has"
                return f"capacity {name}: {what} {shown}"
        return "capacity: the amount asked for is not one that the device gives"


def _named(groups: frozenset[str]) -> str:
    return ", ".join(sorted(groups)) or "none"
