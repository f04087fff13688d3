"""Nodes whose devices a claim cannot tell apart: one search answers for all of them.

A search sees of a device its driver, capacity, counters, taints and flags, whether it is taken, and
those attributes that the selectors and constraints of the claim name. Not its name, nor its pool's,
nor an attribute that nobody asks for, such as a uuid. Two nodes whose pools are equal in what is
seen, device by device in first-fit order, span the same search tree, so that both searches fail
alike or both succeed, with the device at the same place. That devices are the node's own is seen
too: of a node's kind is also told how full it is (see ``occupancy``).

Kinds are small numbers for equal states. A node's is computed again only when its devices changed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kubarium.engine.devices.ledger import Ledger
from kubarium.engine.devices.model import (
    Allocation,
    AttributeValue,
    ClaimSpec,
    Device,
    DeviceClass,
    DeviceId,
    DeviceResult,
    NodeScope,
    Slice,
)
from kubarium.engine.devices.pools import Pool, PoolKey, device_reaches
from kubarium.engine.selectors import NodeTerm, Requirement


@dataclass(frozen=True, slots=True)
class Asked:
    """A selector of which only the answer for each device is seen, not the attributes it reads."""

    expression: str


# Fully qualified names of attributes, and answers; None is all attributes.
Sight = frozenset[str | Asked] | None

# Equal states are looked up among this many; beyond, a state may get a second number.
MAX_STATES = 200_000

# CEL expression -> the attributes on which its outcome can depend; None is all of them.
Reads = Callable[[str], frozenset[str] | None]

# (CEL expression, slice) -> what it says of each of the slice's devices.
Answers = Callable[[str, Slice], Hashable]


def reads_everything(expression: str) -> frozenset[str] | None:
    """The sight of a selector of which nothing is known."""
    return None


def sight_of(
    specs: Iterable[ClaimSpec],
    classes: Mapping[str, DeviceClass],
    sees: Callable[[str], Sight],
) -> Sight:
    """What anything in the claims' specs, or their classes, can see; ``sees`` is of a selector."""
    seen: set[str | Asked] = set()
    for spec in specs:
        seen.update(c.match or c.distinct for c in spec.constraints)
        for request in (r for entry in spec.requests for r in entry.alternatives):
            if request.derived:
                return None  # what a derivation reads is not looked into
            owner = classes.get(request.device_class)
            for selector in (*(owner.selectors if owner else ()), *request.selectors):
                more = sees(selector or "")
                if more is None:
                    return None
                seen |= more
    return frozenset(seen)


def body(device: Device) -> Hashable:
    """What any search sees of a device besides attributes; with them all if it is opaque."""
    plain = (
        device.consumes,
        device.taints,
        device.allow_multiple,
        device.binds_to_node,
        bool(device.node_name),
        device.binding_conditions,
        device.binding_failure_conditions,
        device.node_resources,
        _everything(device) if device.opaque else None,
    )
    return (*plain, tuple(sorted(device.capacity.items(), key=lambda item: item[0])))


def _everything(device: Device) -> Hashable:
    return tuple(sorted((name, _text(value)) for name, value in device.attributes.items()))


def _text(value: AttributeValue) -> tuple[str, str]:
    shown = repr(value.order or sorted(map(repr, value.values)))
    return value.kind, f"[{shown}]" if value.is_list else shown


def columns(item: Slice) -> dict[str, Hashable]:
    """For each attribute name that occurs in the slice, its value in each device."""
    found: dict[str, list[Hashable]] = {}
    for at, device in enumerate(item.devices):
        for name, value in device.attributes.items():
            column = found.get(name)
            if column is None:
                column = found[name] = [None] * len(item.devices)
            column[at] = (value.kind, value.values, value.order, value.is_list)
    return {name: tuple(column) for name, column in found.items()}


class Numbers:
    """Equal values get equal numbers. A number never stands for two different values."""

    __slots__ = ("_known", "_next")

    def __init__(self) -> None:
        self._known: dict[Hashable, int] = {}
        self._next = 0

    def of(self, value: Hashable) -> int:
        number = self._known.get(value)
        if number is None:
            if len(self._known) >= MAX_STATES:
                self._known.clear()
            number = self._known[value] = self._next
            self._next += 1
        return number


class Kinds:
    """Numbers for node device states, under one sight."""

    def __init__(
        self,
        sight: Sight,
        ledger: Ledger,
        bodies: Mapping[str, int],
        names: Mapping[str, tuple[str, ...]],
        columns: Mapping[str, Mapping[str, int]],
        held: Mapping[PoolKey, Mapping[DeviceId, object]],
        answers: Answers,
    ) -> None:
        """``bodies`` has, for each slice by name, a number for all its devices' :func:`body`.

        ``names`` has their names, ``columns`` the number of each of its :func:`columns`, ``held``
        what devices in use take of counters, by pool.
        """
        self.sight = sight
        self._attribute_names = sorted(name for name in sight or () if isinstance(name, str))
        self._asked = [seen.expression for seen in sight or () if isinstance(seen, Asked)]
        self._answers = answers
        self._ledger = ledger
        self._bodies = bodies
        self._names = names
        self._columns = columns
        self._held = held
        self._spellings: dict[str, tuple[str, ...]] = {}
        self._of_slice: dict[str, tuple[Slice, int, tuple[str, ...]]] = {}
        # By node and pool, as _slice gives it for a slice; a changed pool is another object.
        self._of_pool: dict[tuple[str, str, str], tuple[Pool, int, tuple[str, ...]]] = {}
        self._slices = Numbers()
        self._uses = Numbers()
        self._states = Numbers()

    def forget_slice(self, name: str) -> None:
        """The slice is gone or another one now."""
        self._of_slice.pop(name, None)

    def slice_kind(self, item: Slice) -> int:
        """The number of what is seen of the slice's devices, whoever holds them."""
        return self._slice(item)[0]

    def of_plain(self, slices: Iterable[Slice]) -> int:
        """The kind of a node of which each slice is a whole pool by itself.

        In order of driver and pool.
        """
        return self._states.of(tuple([self._whole(item) for item in slices]))

    def of_lone(self, item: Slice) -> int:
        """:meth:`of_plain` of a single slice, which is what most nodes have."""
        number, names = self._slice(item)
        taken = self._ledger.taken(item.driver, item.pool)
        # None leads, which no state of several slices does.
        return self._states.of((None, number, tuple(map(taken.get, names)) if taken else None))

    def of_each(self, items: Iterable[Slice]) -> list[int]:
        """:meth:`of_lone` of each, for thousands at once."""
        known, slices, state_of = self._ledger.by_pool, self._of_slice, self._states.of
        found: list[int] = []
        for item in items:
            made = slices.get(item.name)
            if made is None or made[0] is not item:
                number, names = self._slice(item)
            else:
                _, number, names = made
            taken = known.get((item.driver, item.pool))
            found.append(state_of((None, number, tuple(map(taken.get, names)) if taken else None)))
        return found

    def of_pools(self, pools: Iterable[Pool], node: str, labels: Mapping[str, str]) -> int:
        """The kind of any node, from its pools in first-fit order."""
        return self._states.of(tuple([self._pool(pool, node, labels) for pool in pools]))

    def _whole(self, item: Slice) -> Hashable:
        number, names = self._slice(item)
        taken = self._ledger.taken(item.driver, item.pool)
        return (number, tuple(map(taken.get, names))) if taken else number

    def _pool(self, pool: Pool, node: str, labels: Mapping[str, str]) -> Hashable:
        if not pool.usable:
            # Messages name such a pool, so it stands only for itself.
            return (pool.driver, pool.name, pool.incomplete, pool.invalid)
        number, names = self._made(pool, node, labels)
        taken = self._ledger.taken(pool.driver, pool.name)
        state = tuple(map(taken.get, names)) if taken else None
        return (number, state, self._charged(pool) if pool.counter_sets else None)

    def _made(
        self, pool: Pool, node: str, labels: Mapping[str, str]
    ) -> tuple[int, tuple[str, ...]]:
        """(number of what is seen of the pool, whoever holds what, names of its devices)."""
        place = (node, pool.driver, pool.name)
        known = self._of_pool.get(place)
        if known is not None and known[0] is pool:
            return known[1], known[2]
        parts: list[Hashable] = []
        names: tuple[str, ...] = ()
        for item in pool.slices:
            number, of_slice = self._slice(item)
            names += of_slice
            parts.append(number)
            if item.per_device:
                reached = (device_reaches(item, d, node, labels) for d in item.devices)
                parts.append(tuple(reached))
        counters = tuple((name, tuple(book.items())) for name, book in pool.counter_sets.items())
        number = self._slices.of((tuple(parts), counters))
        if len(self._of_pool) >= MAX_STATES:
            self._of_pool.clear()
        self._of_pool[place] = (pool, number, names)
        return number, names

    def _charged(self, pool: Pool) -> Hashable:
        """What devices in use take from the pool's counters, whoever can reach them."""
        book = self._held.get((pool.driver, pool.name))
        if not book:
            return None
        # A device of which nothing is known is named in the message.
        uses = [device if uses is None else uses for device, uses in book.items()]
        return tuple(sorted(map(self._uses.of, uses)))

    def _slice(self, item: Slice) -> tuple[int, tuple[str, ...]]:
        """(number of what is seen of the slice's devices, their names)."""
        known = self._of_slice.get(item.name)
        if known is not None and known[0] is item:
            return known[1], known[2]
        names = self._names[item.name]
        number = self._slices.of((self._bodies[item.name], self._attributes(item)))
        self._of_slice[item.name] = (item, number, names)
        return number, names

    def _attributes(self, item: Slice) -> Hashable:
        columns = self._columns[item.name]
        if self.sight is None:
            return tuple(sorted(columns.items()))
        seen: list[Hashable] = [columns.get(name) for name in self._wanted(item.driver)]
        seen += [self._answers(expression, item) for expression in self._asked]
        return tuple(seen)

    def _wanted(self, driver: str) -> tuple[str, ...]:
        """The names under which a device of the driver may carry what is seen."""
        known = self._spellings.get(driver)
        if known is None:
            full = self._attribute_names
            short = [n.partition("/")[2] for n in full if n.startswith(f"{driver}/")]
            known = self._spellings[driver] = (*full, *short)
        return known


class Pattern:
    """What a search gave on one node, to be had on every other node of the same kind.

    The slices of both nodes are those of pools that are the node's own, in the order of pools.
    """

    def __init__(self, allocations: Sequence[Allocation], slices: Sequence[Slice]) -> None:
        """``slices`` are those of the node on which the search ran."""
        self._allocations = tuple(allocations)
        places = {
            (item.driver, item.pool, device.name): (number, at)
            for number, item in enumerate(slices)
            for at, device in enumerate(item.devices)
        }
        self._places = [[places[r.id] for r in one.results] for one in allocations]

    def on(self, slices: Sequence[Slice], node: str) -> tuple[Allocation, ...]:
        """The same devices, by their place, on the node that has these slices."""
        only = NodeTerm(fields=(Requirement("metadata.name", "In", (node,)),))
        found: list[Allocation] = []
        for one, places in zip(self._allocations, self._places, strict=True):
            results: list[DeviceResult] = []
            for result, (number, at) in zip(one.results, places, strict=True):
                item = slices[number]
                id_ = DeviceId(item.driver, item.pool, item.devices[at].name)
                results.append(_elsewhere(result, id_))
            scope = NodeScope((only,)) if results else one.scope
            found.append(Allocation(tuple(results), scope, one.chosen))
        return tuple(found)


def _elsewhere(result: DeviceResult, id_: DeviceId) -> DeviceResult:
    """``dataclasses.replace``, in a third of the time."""
    return DeviceResult(
        result.request,
        id_,
        result.admin_access,
        result.shared,
        result.consumed,
        result.tolerations,
        result.binding_conditions,
        result.binding_failure_conditions,
        result.skip_operations,
    )
