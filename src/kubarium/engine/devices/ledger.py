"""Who holds which device: the book that every allocation is entered in and taken out of."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from types import MappingProxyType

from kubarium.engine.devices.model import Allocation, Amount, DeviceId, DeviceResult

_NOTHING: Mapping[str, Amount] = MappingProxyType({})
_NONE_TAKEN: Mapping[str, Hashable] = MappingProxyType({})


class Ledger:
    """Devices in use and, for shared devices, how much of each capacity.

    Admin access is not entered: it neither takes a device nor its counters (kubernetes#140729).
    An exclusive device can be entered more than once when a cluster's history contradicts itself;
    it is free again only when all entries are gone.
    """

    def __init__(self) -> None:
        self._held: dict[DeviceId, int] = {}
        self._shares: dict[DeviceId, int] = {}
        self._consumed: dict[DeviceId, dict[str, Amount]] = {}
        # By driver and pool: the devices in use, each with all that a search can tell of its use.
        self._taken: dict[tuple[str, str], dict[str, Hashable]] = {}

    def exclusive(self, device: DeviceId) -> bool:
        """Whether the device as a whole is taken."""
        return device in self._held

    def shared(self, device: DeviceId) -> bool:
        """Whether at least one share of the device is taken."""
        return device in self._shares

    def in_use(self, device: DeviceId) -> bool:
        return device in self._held or device in self._shares

    def consumed(self, device: DeviceId) -> Mapping[str, Amount]:
        """Capacity taken by shares, by name."""
        return self._consumed.get(device, _NOTHING)

    def taken(self, driver: str, pool: str) -> Mapping[str, Hashable]:
        """The pool's devices in use by name; equal values are equal states of use."""
        return self._taken.get((driver, pool), _NONE_TAKEN)

    @property
    def by_pool(self) -> Mapping[tuple[str, str], Mapping[str, Hashable]]:
        """:meth:`taken` of each pool, by driver and pool, that has devices in use."""
        return self._taken

    def devices(self) -> Iterable[DeviceId]:
        """All devices in use, once each."""
        return dict.fromkeys((*self._held, *self._shares))

    def enter(self, allocation: Allocation) -> None:
        """Mark what the allocation holds as taken."""
        for result in allocation.results:
            if not result.admin_access:
                self._change(result, 1)

    def take_out(self, allocation: Allocation) -> None:
        """The exact opposite of :meth:`enter`."""
        for result in allocation.results:
            if not result.admin_access:
                self._change(result, -1)

    def _change(self, result: DeviceResult, sign: int) -> None:
        if not result.shared:
            self._exclusively(result.id, sign)
            return
        _count(self._shares, result.id, sign)
        book = self._consumed.setdefault(result.id, {})
        for name, amount in result.consumed:
            book[name] = book.get(name, 0) + sign * amount
        if result.id not in self._shares:
            del self._consumed[result.id]
        self._note(result.id)

    def _exclusively(self, device: DeviceId, sign: int) -> None:
        """One more or one less who has the whole device; most changes are of this sort."""
        count = self._held.get(device, 0) + sign
        if count:
            self._held[device] = count
        else:
            self._held.pop(device, None)
        if count > 1 or device in self._shares:
            self._note(device)
            return
        pool = device[:2]
        if count == 1:
            book = self._taken.get(pool)
            if book is None:
                book = self._taken[pool] = {}
            book[device.device] = True
        else:
            self._forget(pool, device.device)

    def _forget(self, pool: tuple[str, str], name: str) -> None:
        book = self._taken[pool]
        del book[name]
        if not book:
            del self._taken[pool]

    def _note(self, device: DeviceId) -> None:
        """Keep ``_taken`` current for one device."""
        pool = (device.driver, device.pool)
        if not self.in_use(device):
            self._forget(pool, device.device)
            return
        state: Hashable = self.exclusive(device)
        if self.shared(device):
            state = (state, tuple(sorted(self._consumed[device].items())))
        self._taken.setdefault(pool, {})[device.device] = state

    def check(self) -> None:
        """Raise AssertionError if the book is not consistent in itself."""
        for device, count in (*self._held.items(), *self._shares.items()):
            assert count > 0, f"{device} is entered {count} times"
        for device, book in self._consumed.items():
            assert device in self._shares, f"{device} has capacity in use but no share"
            assert all(v >= 0 for v in book.values()), f"{device} has negative use {book}"
        taken = {DeviceId(*pool, name) for pool, book in self._taken.items() for name in book}
        assert taken == set(self.devices()), "the book by pool has other devices"


def _count(book: dict[DeviceId, int], device: DeviceId, sign: int) -> None:
    count = book.get(device, 0) + sign
    if count:
        book[device] = count
    else:
        book.pop(device, None)
