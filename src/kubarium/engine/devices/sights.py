"""What searches can tell of the devices of slices, as numbers, and how much a selector sees.

Kept slice by slice: what is equal in two slices has one number, so that thousands of nodes whose
devices are alike are told so without a look at the devices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from kubarium.engine.devices.alike import (
    Asked,
    Kinds,
    Numbers,
    Reads,
    Sight,
    body,
    columns,
)
from kubarium.engine.devices.holding import Held
from kubarium.engine.devices.ledger import Ledger
from kubarium.engine.devices.model import Device, SelectorError, Selects, Slice
from kubarium.engine.devices.pools import PoolKey

# Sights for which the kinds of nodes are kept.
MAX_SIGHTS = 32

# An attribute with more different columns than this, in so many of the slices, tells nearly every
# node apart: a uuid, a serial number. Of selectors that read it only the answers are compared.
MANY_COLUMNS = 64
MANY_SLICES = 4  # a fourth

# Selectors whose answers on every slice are kept.
MAX_SAID = 32

# A CEL expression -> what can be said quickly of devices of a driver: None for "ask in earnest".
Quick = Callable[[str], Callable[[str, Sequence[Device]], Sequence[bool | None]] | None]


def never_quick(expression: str) -> None:
    """The quick predicate of an engine that has none."""


def undivided(expression: str) -> Sequence[str]:
    """The clauses of a selector that nobody can take apart."""
    return (expression,)


class Sights:
    """Of each slice by name what a search may see; and by what sights nodes have been numbered."""

    def __init__(
        self,
        ledger: Ledger,
        held: Mapping[PoolKey, Held],
        selects: Selects,
        reads: Reads,
        quick: Quick,
        clauses: Callable[[str], Sequence[str]],
    ) -> None:
        """``held`` is what devices in use take of counters; for the others see ``Inventory``."""
        self._ledger = ledger
        self._held = held
        self._selects = selects
        self._reads = reads
        self._quick = quick
        self._clauses = clauses
        # By expression and slice.
        self._said: dict[str, dict[str, Hashable]] = {}
        self._body_numbers = Numbers()
        self._column_numbers = Numbers()
        self._columns: dict[str, dict[str, int]] = {}
        # By attribute: its columns, each with the number of slices that have it.
        self._variety: dict[str, Counter[int]] = {}
        # By slice: the number of all that is seen of its devices besides attributes; their names.
        self._bodies: dict[str, int] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        self._kinds: dict[Sight, Kinds] = {}

    def enter(self, item: Slice) -> None:
        """A slice of a new name."""
        bodies = tuple([self._body_numbers.of(body(d)) for d in item.devices])
        made = (item.driver, item.skip_operations, bool(item.node_name), bodies)
        self._bodies[item.name] = self._body_numbers.of(made)
        self._names[item.name] = tuple([device.name for device in item.devices])
        numbers = self._column_numbers
        self._columns[item.name] = {n: numbers.of((n, c)) for n, c in columns(item).items()}
        for name, column in self._columns[item.name].items():
            self._variety.setdefault(name, Counter())[column] += 1

    def forget(self, name: str) -> None:
        """The slice is gone."""
        for attribute, column in self._columns.pop(name).items():
            variety = self._variety[attribute]
            variety[column] -= 1
            if not variety[column]:
                del variety[column]
            if not variety:
                del self._variety[attribute]
        del self._bodies[name], self._names[name]
        for kinds in self._kinds.values():
            kinds.forget_slice(name)
        for book in self._said.values():
            book.pop(name, None)

    def device_names(self, item: str) -> tuple[str, ...]:
        """The names of a known slice's devices."""
        return self._names[item]

    def sees(self, selector: str) -> Sight:
        """What a search sees through the selector: what it reads, or only what it answers."""
        if not self.reads_individual(selector):
            return self._reads(selector)
        seen: set[str | Asked] = set()
        for clause in self._clauses(selector):
            more = self._reads(clause)
            if more is None or self.reads_individual(clause):
                seen.add(Asked(clause))
            else:
                seen |= more
        return frozenset(seen)

    def of(self, selectors: Iterable[str]) -> Sight:
        """What is seen through all of the selectors."""
        seen: set[str | Asked] = set()
        for selector in selectors:
            more = self.sees(selector)
            if more is None:
                return None
            seen |= more
        return frozenset(seen)

    def reads_individual(self, selector: str) -> bool:
        """Whether the selector reads what nearly every node has a different value of."""
        return any(self.is_individual(name) for name in self._reads(selector) or ())

    def is_individual(self, attribute: str) -> bool:
        """Whether the attribute, by its full name, tells nearly every node apart."""
        for name in (attribute, attribute.partition("/")[2]):
            columns = len(self._variety.get(name, ()))
            if columns > MANY_COLUMNS and columns * MANY_SLICES > len(self._names):
                return True
        return False

    def kinds(self, sight: Sight) -> Kinds:
        """The numbering of nodes under a sight; one that sees more will do if there is one."""
        for known in self._kinds.values():
            wide = known.sight is None or (sight is not None and sight <= known.sight)
            if wide and (sight is None or known.sight is not None):
                return known
        found = self._kinds[sight] = Kinds(
            sight,
            self._ledger,
            self._bodies,
            self._names,
            self._columns,
            self._held,
            self._answers_on,
        )
        if len(self._kinds) > MAX_SIGHTS:
            del self._kinds[next(iter(self._kinds))]
        return found

    def _answers_on(self, expression: str, item: Slice) -> Hashable:
        """What a selector says of each device of a slice; its errors name the device."""
        book = self._said.get(expression)
        if book is None:
            book = self._said[expression] = {}
            if len(self._said) > MAX_SAID:
                del self._said[next(iter(self._said))]
        said = book.get(item.name)
        if said is None:
            said = book[item.name] = self._ask(expression, item)
        return said

    def _ask(self, expression: str, item: Slice) -> Hashable:
        quick = self._quick(expression)
        if quick is not None:
            answers = quick(item.driver, item.devices)
            if None not in answers:
                return tuple(answers)
        return tuple([self._answer_on(expression, item, device) for device in item.devices])

    def _answer_on(self, expression: str, item: Slice, device: Device) -> Hashable:
        try:
            return self._selects(expression, item.driver, device)
        except SelectorError as error:
            return (item.driver, item.pool, device.name, str(error))
