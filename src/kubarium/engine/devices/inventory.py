"""All devices, classes and claims of a cluster, kept current by single changes.

``changes_since`` says which nodes' answers may have changed: readers keep their own place in the
sequence of changes, and one that has fallen too far behind is told that everything may have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

from kubarium.engine.devices.alike import (
    Kinds,
    Reads,
    reads_everything,
)
from kubarium.engine.devices.attempt import World
from kubarium.engine.devices.holding import Counters, Held, left_of, may_come_back, summed
from kubarium.engine.devices.ledger import Ledger
from kubarium.engine.devices.model import (
    DEFAULT_FEATURES,
    Allocation,
    Amount,
    AttributeValue,
    ClaimSpec,
    CounterUse,
    Derives,
    Device,
    DeviceClass,
    DeviceId,
    DeviceTaint,
    Features,
    SelectorError,
    Selects,
    Slice,
)
from kubarium.engine.devices.occupancy import Occupancy, Units
from kubarium.engine.devices.pools import Pool, PoolKey, gather, trouble
from kubarium.engine.devices.preference import BEST_FIT, FIRST_FIT, DevicePreference
from kubarium.engine.devices.request import (
    NamedClaim,
    Shelf,
    candidates_of,
    no_derivation,
    untolerated,
)
from kubarium.engine.devices.search import Search
from kubarium.engine.devices.sights import Quick, Sights, never_quick, undivided

# Answers of selectors are kept for this many devices in all; then they are asked again.
SELECTOR_CACHE = 500_000

# Changes are remembered this far back; readers that are further behind start afresh.
MAX_CHANGES = 100_000


def no_selector(expression: str, driver: str, device: Device) -> bool:
    """The predicate of an engine without CEL: refuses every expression."""
    raise SelectorError(f"no CEL evaluator for {expression!r}", compile_time=True)


class Inventory:
    """Slices, classes and the ledger. Every change is one call; nothing is rebuilt per decision."""

    def __init__(
        self,
        selects: Selects = no_selector,
        features: Features = DEFAULT_FEATURES,
        *,
        best_fit: bool = True,
        derives: Derives = no_derivation,
        reads: Reads = reads_everything,
        quick: Quick = never_quick,
        clauses: Callable[[str], Sequence[str]] = undivided,
    ) -> None:
        """``best_fit`` False takes the first devices that fit, exactly as upstream; a search can
        be given another preference.

        ``reads`` says which attributes a selector can see, so that nodes which differ only in
        others share one answer. ``quick`` decides selectors for many devices at once,
        ``clauses`` are the parts of one that all must hold.
        """
        self._selects = selects
        self._derives = derives
        self.features = features
        self.preference = DevicePreference(BEST_FIT if best_fit else FIRST_FIT)
        self.classes: dict[str, DeviceClass] = {}
        # Count the changes of classes and of slices.
        self.class_epoch = 0
        self.slice_epoch = 0
        self.ledger = Ledger()
        self._shelves: dict[str, Shelf] = {}
        # Slices with devices that take something of their node's own resources.
        self._with_node_resources: set[str] = set()
        self._changes: list[str | None] = []
        self._changes_from = 0
        self._slices: dict[str, Slice] = {}
        self._local: dict[str, dict[str, Slice]] = {}
        self._wide: dict[str, Slice] = {}
        self._by_pool: dict[PoolKey, dict[str, Slice]] = {}
        self._held: dict[PoolKey, dict[DeviceId, tuple[CounterUse, ...] | None]] = {}
        self._pools: dict[str, list[Pool]] = {}
        self._answers: dict[tuple[str, str, Device], bool | SelectorError] = {}
        self._unsound: dict[str, None] = {}
        self._intricate: dict[str, None] = {}
        self._taints: Counter[DeviceTaint] = Counter()
        # By node, what whole_slices says.
        self._whole: dict[str, Sequence[Slice] | None] = {}
        self._derived: dict[tuple[str, str, Device], AttributeValue | SelectorError] = {}
        self.sights = Sights(self.ledger, self._held, self.selects, reads, quick, clauses)

    @property
    def slices(self) -> Mapping[str, Slice]:
        return self._slices

    @property
    def has_node_resources(self) -> bool:
        """Whether any device takes something of its node's own resources."""
        return bool(self._with_node_resources)

    def changes_since(self, place: int) -> tuple[list[str] | None, int]:
        """(nodes that changed since ``place``, or None for all; the place to ask from next)."""
        now = self._changes_from + len(self._changes)
        if place < self._changes_from:
            return None, now
        names = [n for n in self._changes[place - self._changes_from :] if n is not None]
        everything = len(names) < now - place
        return (None if everything else names), now

    def _changed(self, node: str | None) -> None:
        self._changes.append(node)
        if len(self._changes) > MAX_CHANGES:
            self._changes_from += len(self._changes)
            self._changes.clear()

    def set_slice(self, item: Slice) -> None:
        """Add a slice or replace the one of the same name."""
        self.remove_slice(item.name)
        self._slices[item.name] = item
        if any(device.node_resources for device in item.devices):
            self._with_node_resources.add(item.name)
        self._shelf(item)[item.name] = item
        self._by_pool.setdefault((item.driver, item.pool), {})[item.name] = item
        self.sights.enter(item)
        if not item.node_name or any(d.consumes or d.allow_multiple for d in item.devices):
            self._intricate[item.name] = None
        self._taints.update(taint for device in item.devices for taint in device.taints)
        if not _sound(item):
            self._unsound[item.name] = None
        self._recognise(item)
        self._slice_changed(item)

    def _consumption(self, id_: DeviceId) -> tuple[CounterUse, ...] | None:
        """What the device takes of counters as it is published; None if it is not."""
        device = self.device(id_)
        return None if device is None else device.consumes

    def _recognise(self, item: Slice) -> None:
        """Learn what devices hold that were in use before they, or counters, were published."""
        key = (item.driver, item.pool)
        if item.counter_sets and key not in self._held:
            mine = [DeviceId(*key, name) for name in self.ledger.taken(*key)]
            self._held[key] = {device: self._consumption(device) for device in mine}
        book = self._held.get(key, {})
        if any(uses is None for uses in book.values()):
            for device in item.devices:
                here = DeviceId(item.driver, item.pool, device.name)
                if here in book and book[here] is None:
                    book[here] = device.consumes

    def remove_slice(self, name: str) -> None:
        """Forget a slice; nothing happens if it is not known."""
        item = self._slices.pop(name, None)
        if item is None:
            return
        self._with_node_resources.discard(name)
        self._take_from_shelf(item)
        self.sights.forget(name)
        self._intricate.pop(name, None)
        for taint in (taint for device in item.devices for taint in device.taints):
            self._taints[taint] -= 1
            if not self._taints[taint]:
                del self._taints[taint]
        self._unsound.pop(name, None)
        self._slice_changed(item)

    def _shelf(self, item: Slice) -> dict[str, Slice]:
        return self._local.setdefault(item.node_name, {}) if item.node_name else self._wide

    def _take_from_shelf(self, item: Slice) -> None:
        """Nodes and pools without slices are forgotten, but for what their devices hold."""
        pool = (item.driver, item.pool)
        del self._shelf(item)[item.name], self._by_pool[pool][item.name]
        if not self._local.get(item.node_name, True):
            del self._local[item.node_name]
        if not self._by_pool[pool]:
            del self._by_pool[pool]
            if not self._held.get(pool, True):
                del self._held[pool]

    def _slice_changed(self, item: Slice) -> None:
        self.slice_epoch += 1
        pool = self._by_pool.get((item.driver, item.pool), {})
        if item.node_name and all(s.node_name == item.node_name for s in pool.values()):
            self._pools.pop(item.node_name, None)
            self._whole.pop(item.node_name, None)
            self._changed(item.node_name)
        else:
            self._pools.clear()
            self._whole.clear()
            self._changed(None)

    def set_class(self, device_class: DeviceClass) -> None:
        if self.classes.get(device_class.name) != device_class:
            self.classes[device_class.name] = device_class
            self.class_epoch += 1
            self._changed(None)

    def remove_class(self, name: str) -> None:
        if self.classes.pop(name, None) is not None:
            self.class_epoch += 1
            self._changed(None)

    def node_changed(self, name: str) -> None:
        """The node came, went or changed its labels."""
        for book in (self._pools, self._shelves, self._whole):
            book.pop(name, None)
        self._changed(name)

    def enter(self, allocation: Allocation, held: Held = MappingProxyType({})) -> None:
        """Take the allocation's devices.

        What they take of counter sets is remembered as they are published now: a driver that
        publishes its pool anew while they are in use does not change what they hold. ``held`` is
        what :meth:`take_out` said, where they come back.
        """
        self.ledger.enter(allocation)
        for result in allocation.results if self._held else ():
            book = self._held.get((result.id.driver, result.id.pool))
            if book is not None and not result.admin_access and book.get(result.id) is None:
                known = held.get(result.id)
                book[result.id] = self._consumption(result.id) if known is None else known
        self._touch(allocation)

    def take_out(self, allocation: Allocation) -> Held:
        """Free the allocation's devices; returns what those held of counters that are free now."""
        self.ledger.take_out(allocation)
        held: dict[DeviceId, tuple[CounterUse, ...] | None] = {}
        for result in allocation.results if self._held else ():
            if not self.ledger.in_use(result.id):
                book = self._held.get((result.id.driver, result.id.pool), {})
                if result.id in book:
                    held[result.id] = book.pop(result.id)
        self._touch(allocation)
        return held

    def _touch(self, allocation: Allocation) -> None:
        for key in {r.id[:2]: None for r in allocation.results}:
            nodes = {s.node_name for s in self._by_pool.get(key, {}).values()}
            self._changed(nodes.pop() if len(nodes) == 1 and "" not in nodes else None)

    def shelf(self, node: str, labels: Mapping[str, str]) -> Shelf:
        """The devices that the node can use; kept until a pool of the node changes."""
        pools = self.pools(node, labels)
        known = self._shelves.get(node)
        if known is None or known.pools is not pools:
            known = self._shelves[node] = Shelf(pools, candidates_of(pools, node, labels))
        return known

    def pools(self, node: str, labels: Mapping[str, str]) -> list[Pool]:
        """The pools that the node can use, in first-fit order."""
        known = self._pools.get(node)
        if known is None:
            near = (*self._local.get(node, {}).values(), *self._wide.values())
            known = self._pools[node] = self._gathered(near, node, labels) if near else []
        return known

    def _gathered(self, near: Sequence[Slice], node: str, labels: Mapping[str, str]) -> list[Pool]:
        strict = self.preference.strategy != FIRST_FIT
        return gather(near, self._of_pool, node, labels, self.features, strict=strict)

    def device(self, id_: DeviceId) -> Device | None:
        """A device as its pool's newest generation has it; None if it is not published."""
        current = self.current_slices(id_.driver, id_.pool)
        return next((d for s in current for d in s.devices if d.name == id_.device), None)

    def keeps_out(self, allocation: Allocation) -> DeviceId | None:
        """A device of the allocation whose taints keep out pods that are yet to be placed."""
        for result in allocation.results:
            device = self.device(result.id)
            if device is not None and device.taints and untolerated(device, result.tolerations):
                return result.id
        return None

    def could_take_again(
        self,
        allocation: Allocation,
        held: Held,
        away: Sequence[Held] = (),
        before: Mapping[PoolKey, Counters] = MappingProxyType({}),
    ) -> bool:
        """Whether all that the allocation held could be given to it once more.

        Whole devices must be free; of shared ones its shares must be left. What administrators look
        at may be in use. ``held`` is what :meth:`take_out` said, ``away`` the same of all that is
        taken out for now, and ``before`` what was left of counters when nothing was.
        """
        more: dict[DeviceId, dict[str, Amount]] = {}
        for result in allocation.results:
            if result.admin_access:
                continue
            if self.ledger.exclusive(result.id):
                return False
            if not result.shared:
                if self.ledger.shared(result.id):
                    return False
                continue
            share = more.setdefault(result.id, {})
            for name, amount in result.consumed:
                share[name] = share.get(name, 0) + amount
        return all(self._has_left(id_, share) for id_, share in more.items()) and all(
            self._counters_suffice(pool, allocation, held, away, before.get(pool, {}))
            for pool in dict.fromkeys(r.id[:2] for r in allocation.results)
        )

    def _has_left(self, id_: DeviceId, share: Mapping[str, Amount]) -> bool:
        device, used = self.device(id_), self.ledger.consumed(id_)
        return device is not None and all(
            name in device.capacity and used.get(name, 0) + amount <= device.capacity[name].value
            for name, amount in share.items()
        )

    def _counters_suffice(
        self,
        pool: PoolKey,
        allocation: Allocation,
        held: Held,
        away: Sequence[Held],
        before: Counters,
    ) -> bool:
        """Whether the pool has counters left for devices of the allocation that are not in use."""
        book = self._held.get(pool)
        if book is None:
            return True
        ids = {r.id for r in allocation.results if r.id[:2] == pool and not r.admin_access}
        mine = {i: held.get(i, self._consumption(i)) for i in ids if i not in book}
        others = {i: uses for one in away for i, uses in one.items() if i[:2] == pool}
        back = summed({i: u for i, u in others.items() if i not in book and i not in mine})
        return may_come_back(summed(mine), self.counters_left(pool), back, before)

    def counters_left(self, pool: PoolKey) -> Counters:
        """What devices in use leave of each counter; less than nothing if it is overdrawn."""
        held = self._held.get(pool)
        return {} if held is None else left_of(self.current_slices(*pool), held)

    def held(self, pool: PoolKey) -> Held:
        """What devices of the pool that are in use hold of its counters; nothing without any."""
        return self._held.get(pool, {})

    def _of_pool(self, key: PoolKey) -> Iterable[Slice]:
        return self._by_pool.get(key, {}).values()

    def local_slices(self, node: str) -> tuple[Slice, ...]:
        """The slices of pools that only this node can use."""
        near = self._local.get(node, {}).values()
        return tuple(
            item
            for item in near
            if all(s.node_name == node for s in self._by_pool[item.driver, item.pool].values())
        )

    def distinct_slices(self, selectors: Iterable[str]) -> Iterator[Slice]:
        """One slice of each kind that the selectors can tell apart."""
        kinds = self.sights.kinds(self.sights.of(selectors))
        found: set[int] = set()
        for item in self._slices.values():
            if item.devices and (kind := kinds.slice_kind(item)) not in found:
                found.add(kind)
                yield item

    def slices_with_problems(self) -> Iterable[tuple[Slice, str]]:
        """Every slice that has devices, with what makes its pool unusable, if anything does."""
        for (driver, pool), slices in self._by_pool.items():
            if len(slices) == 1:
                [item] = slices.values()
                if item.name not in self._unsound:
                    yield item, ""
                    continue
            current = self.current_slices(driver, pool)
            problem = trouble(current, self.features)
            for item in current:
                if item.devices:
                    yield item, problem

    @property
    def all_simple(self) -> bool:
        """Whether every device belongs to one node, and to one claim at a time as a whole."""
        return not self._intricate

    def device_taints(self) -> list[DeviceTaint]:
        """Each taint that some device has, once."""
        return list(self._taints)

    def current_slices(self, driver: str, pool: str) -> list[Slice]:
        """The slices of the pool's newest generation."""
        slices = self._by_pool.get((driver, pool), {}).values()
        newest = max((s.generation for s in slices), default=0)
        return [s for s in slices if s.generation == newest]

    def has_devices(self, node: str) -> bool:
        """Whether any slice may concern the node at all."""
        return bool(self._wide) or bool(self._local.get(node))

    def kind_of(self, kinds: Kinds, node: str, labels: Mapping[str, str]) -> int:
        """The number of the node's state; equal numbers are states that no search tells apart."""
        plain = self.whole_slices(node)
        if plain is not None and len(plain) == 1:
            return kinds.of_lone(plain[0])
        if plain is None:
            return kinds.of_pools(self.pools(node, labels), node, labels)
        return kinds.of_plain(plain)

    def kinds_of(self, kinds: Kinds, nodes: Sequence[tuple[str, Mapping[str, str]]]) -> list[int]:
        """:meth:`kind_of` of each node, given by name and labels."""
        plain = [self.whole_slices(name) for name, _ in nodes]
        lone = [found[0] if found is not None and len(found) == 1 else None for found in plain]
        numbers = iter(kinds.of_each(item for item in lone if item is not None))
        return [
            self.kind_of(kinds, name, labels) if item is None else next(numbers)
            for item, (name, labels) in zip(lone, nodes, strict=True)
        ]

    def whole_slices(self, node: str) -> Sequence[Slice] | None:
        """The node's slices if each is a complete local pool without counters; else None.

        In order of driver and pool.
        """
        if node not in self._whole:
            self._whole[node] = self._whole_slices(node)
        return self._whole[node]

    def _whole_slices(self, node: str) -> Sequence[Slice] | None:
        if self._wide:
            return None
        near = self._local.get(node)
        if not near:
            return ()
        for item in near.values():
            if item.name in self._unsound or len(self._by_pool[item.driver, item.pool]) != 1:
                return None
        if len(near) == 1:
            return tuple(near.values())
        return sorted(near.values(), key=lambda item: (item.driver, item.pool))

    def own_slices(self, node: str, labels: Mapping[str, str]) -> Sequence[Slice] | None:
        """The slices that have devices if all pools in reach are usable and the node's own.

        In the order of its pools; None if devices of other pools can be reached.
        """
        plain = self.whole_slices(node)
        if plain is not None:
            return plain
        found: list[Slice] = []
        for pool in self.pools(node, labels):
            mine = (s.node_name == node for s in self._by_pool[pool.driver, pool.name].values())
            if not pool.usable or not all(mine):
                return None
            found += pool.slices
        return found

    def search(
        self,
        node: str,
        labels: Mapping[str, str],
        claims: Sequence[tuple[str, ClaimSpec]],
        preference: DevicePreference | None = None,
    ) -> Search:
        """A search for named claims on one node; raises AllocationError if it cannot begin."""
        world = World(
            node,
            labels,
            self.shelf(node, labels),
            self.classes,
            self.ledger,
            self.selects,
            self.features,
            preference or self.preference,
            self.derives,
            self._held,
        )
        return Search(world, [NamedClaim(name, spec) for name, spec in claims])

    def units(self, node: str, labels: Mapping[str, str], claims: Sequence[ClaimSpec]) -> Units:
        """The node's devices that the claims could take, to ask how full they are."""
        return Units(self.shelf(node, labels), claims, self.classes, self.selects)

    def occupancy(self, units: Units) -> Occupancy:
        """How full the units are now."""
        return units.occupancy(self.ledger, self._held)

    def free_devices(self, units: Units) -> int | None:
        """How many whole devices are free; None if they can be shared, cut or come from afar."""
        return None if self._wide else units.free_devices(self.ledger)

    def selects(self, expression: str, driver: str, device: Device) -> bool:
        """The injected predicate, asked once for each (expression, device)."""
        key = (expression, driver, device)
        known = self._answers.get(key)
        if known is None:
            known = _learn(self._answers, self._selects, key)
        if isinstance(known, SelectorError):
            raise known
        return known

    def derives(self, expression: str, driver: str, device: Device) -> AttributeValue:
        """The injected derivation, asked once for each (expression, device)."""
        key = (expression, driver, device)
        known = self._derived.get(key)
        if known is None:
            known = _learn(self._derived, self._derives, key)
        if isinstance(known, SelectorError):
            raise known
        return known


_Question = tuple[str, str, Device]
_Answer = TypeVar("_Answer")


def _learn(
    book: dict[_Question, _Answer | SelectorError],
    ask: Callable[[str, str, Device], _Answer],
    question: _Question,
) -> _Answer | SelectorError:
    """Ask, and note the answer, or that there is none; a full book is begun anew."""
    if len(book) >= SELECTOR_CACHE:
        book.clear()
    try:
        found: _Answer | SelectorError = ask(*question)
    except SelectorError as error:
        found = error
    book[question] = found
    return found


def _sound(item: Slice) -> bool:
    """Whether the slice can be a valid pool by itself, of devices that all its readers share."""
    if item.slice_count != 1 or item.per_device or item.counter_sets:
        return False
    names = {device.name for device in item.devices}
    return len(names) == len(item.devices) and not any(d.consumes for d in item.devices)
