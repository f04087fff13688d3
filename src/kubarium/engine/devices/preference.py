"""Which of several devices that would do is the better one, and which node's.

FirstFit keeps upstream's order, in which names are the only preference. BestFit fills what is open
before it opens something whole, so that large requests of later claims still find room. Spread
does the opposite: the least used first, so that pods disturb each other less. With each of them,
attributes that an administrator names come first.

Nodes are chosen in the same spirit unless said otherwise: Pack prefers those whose devices are in
use already, Spread those with the most free, Ignore does not look, as upstream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from kubarium.engine.devices.constraints import ConstraintState, attribute
from kubarium.engine.devices.ledger import Ledger
from kubarium.engine.devices.model import Amount, AttributeValue
from kubarium.engine.devices.request import Candidate, Matching, Shelf, Wanted, size_of

FIRST_FIT, BEST_FIT, SPREAD = "FirstFit", "BestFit", "Spread"
STRATEGIES = (BEST_FIT, FIRST_FIT, SPREAD)
PACK, IGNORE = "Pack", "Ignore"
NODE_STRATEGIES = (PACK, SPREAD, IGNORE)
# Labels of what should stay whole beside nodes: NVLink domains and racks.
DOMAIN_LABELS = ("nvidia.com/gpu.clique", "topology.kubernetes.io/rack")
ASCENDING, DESCENDING = "Ascending", "Descending"

Rows = Sequence[Sequence[Sequence[Wanted]]]


@dataclass(frozen=True, slots=True)
class AttributeOrder:
    """Devices by the value of an attribute or capacity; those without it come last."""

    name: str
    descending: bool = False

    def rank(self, candidate: Candidate) -> tuple[bool, Fraction, str]:
        """Numbers by size, everything else as text."""
        number, text = _shown(candidate, self.name)
        if number is None and not text:
            return (True, Fraction(0), "")
        sign = -1 if self.descending else 1
        return (False, sign * (number or Fraction(0)), _reversed(text) if self.descending else text)


@dataclass(frozen=True, slots=True)
class DevicePreference:
    """The order in which devices are tried; the first complete solution is taken.

    ``nodes`` is how nodes are chosen by their devices, "" in the spirit of ``strategy``;
    ``domains`` are labels whose values name groups of nodes that are treated alike.
    """

    strategy: str = BEST_FIT
    attributes: tuple[AttributeOrder, ...] = ()
    nodes: str = ""
    domains: tuple[str, ...] = DOMAIN_LABELS

    @property
    def is_upstreams(self) -> bool:
        return self.strategy == FIRST_FIT and not self.attributes

    @property
    def is_default(self) -> bool:
        return self.strategy == BEST_FIT and not self.attributes

    @property
    def node_strategy(self) -> str:
        """Pack, Spread or Ignore."""
        return self.nodes or {BEST_FIT: PACK, SPREAD: SPREAD}.get(self.strategy, IGNORE)


DEFAULT_PREFERENCE = DevicePreference()


def ordered(
    preference: DevicePreference,
    shelf: Shelf,
    ledger: Ledger,
    matching: Matching,
    rows: Rows,
    constraints: Sequence[Sequence[ConstraintState]],
) -> Sequence[Candidate]:
    """Candidates with the best first; ties keep upstream's order."""
    candidates = shelf.candidates
    if preference.is_upstreams:
        return candidates
    matches = any(state.constraint.match for states in constraints for state in states)
    if shelf.plain and not matches and preference.is_default:
        return shelf.by_size()
    by_strategy: Callable[[Candidate], tuple[object, ...]] | None = None
    if preference.strategy != FIRST_FIT:
        spread = preference.strategy == SPREAD
        groups = _groups(candidates, ledger, matching, rows, constraints, spread=spread)
        by_strategy = (_spread if spread else _packed)(candidates, ledger, groups)

    def rank(candidate: Candidate) -> tuple[object, ...]:
        return (
            id(candidate.pool) in shelf.last,
            tuple(order.rank(candidate) for order in preference.attributes),
            by_strategy(candidate) if by_strategy else (),
            candidate.position,
        )

    return sorted(candidates, key=rank)


_Groups = dict[int, tuple[tuple[bool, int], ...]]


def _packed(
    candidates: Sequence[Candidate], ledger: Ledger, groups: _Groups
) -> Callable[[Candidate], tuple[object, ...]]:
    """Shares of a device already shared; partitions of a counter set already in use; few counters
    before many; where a matchAttribute constraint will decide, the smallest group that is large
    enough; little capacity before much."""
    opened = _opened(candidates, ledger)

    def rank(candidate: Candidate) -> tuple[object, ...]:
        device = candidate.device
        return (
            not (device.allow_multiple and ledger.shared(candidate.id)),
            not any(key in opened for key in _sets(candidate)),
            sum(float(amount) for use in device.consumes for _, amount in use.counters),
            groups.get(candidate.position, ()),
            size_of(device),
        )

    return rank


def _spread(
    candidates: Sequence[Candidate], ledger: Ledger, groups: _Groups
) -> Callable[[Candidate], tuple[object, ...]]:
    """Devices nobody shares, then by how full they are; counter sets with the fewest users; the
    largest group."""
    opened = _opened(candidates, ledger)

    def rank(candidate: Candidate) -> tuple[object, ...]:
        used = ledger.consumed(candidate.id)
        full = max(
            (_share(used.get(n, 0), c.value) for n, c in candidate.device.capacity.items()),
            default=0.0,
        )
        return (
            ledger.in_use(candidate.id),
            full,
            sum(opened[key] for key in _sets(candidate)),
            groups.get(candidate.position, ()),
        )

    return rank


def _share(used: Amount, total: Amount) -> float:
    return float(used / total) if total else 1.0


def _sets(candidate: Candidate) -> list[tuple[str, str, str]]:
    pool = candidate.pool
    return [(pool.driver, pool.name, use.counter_set) for use in candidate.device.consumes]


def _opened(candidates: Sequence[Candidate], ledger: Ledger) -> Counter[tuple[str, str, str]]:
    """How many devices in use each counter set has."""
    return Counter(key for c in candidates if ledger.in_use(c.id) for key in _sets(c))


def _groups(
    candidates: Sequence[Candidate],
    ledger: Ledger,
    matching: Matching,
    rows: Rows,
    constraints: Sequence[Sequence[ConstraintState]],
    *,
    spread: bool,
) -> _Groups:
    """For each free device, per matchAttribute constraint: (group too small, group size).

    A group is the devices with one value. It is too small if all requests of the constraint
    together, or one of them alone, find fewer devices in it than they want: a GPU whose PCIe root
    has no free NIC is a bad choice for a claim that wants both there. For Spread sizes count
    backwards.
    """
    found: _Groups = {}
    free = [c for c in candidates if not ledger.exclusive(c.id)]
    for claim, states in enumerate(constraints):
        for index, state in enumerate(states):
            if not state.constraint.match:
                continue
            covered = [r[0] for r in rows[claim] if index in r[0].constraints]
            value_at: dict[int, AttributeValue | None] = {}
            short: set[AttributeValue | None] = set()
            of_rows: list[tuple[int, Counter[AttributeValue | None]]] = []
            for row in covered:
                values = {
                    c.position: matching.may_value(row, c, state.name)
                    for c in free
                    if matching.may_match(row, c)
                }
                of_rows.append((row.count, Counter(values.values())))
                value_at |= values
            sizes = Counter(value_at.values())
            needed = sum(count for count, _ in of_rows)
            for value, size in sizes.items():
                if size < needed or any(counts[value] < count for count, counts in of_rows):
                    short.add(value)
            for position, value in value_at.items():
                size = -sizes[value] if spread else sizes[value]
                found[position] = (*found.get(position, ()), (value in short, size))
            for c in free:
                if c.position not in value_at:
                    found[c.position] = (*found.get(c.position, ()), (True, 0))
    return found


def _shown(candidate: Candidate, name: str) -> tuple[Fraction | None, str]:
    """An attribute's or a capacity's value, as a number if it is one and as text otherwise."""
    value = attribute(candidate.device, candidate.id.driver, name)
    if value is not None and value.values:
        first = min(value.values, key=str)
        return (None, first) if isinstance(first, str) else (Fraction(first), "")
    domain, slash, short = name.partition("/")
    capacity = candidate.device.capacity.get(name)
    if capacity is None and slash and domain == candidate.id.driver:
        capacity = candidate.device.capacity.get(short)
    return (None, "") if capacity is None else (Fraction(capacity.value), "")


def _reversed(text: str) -> str:
    """A text that sorts the other way round; longer ones come before their beginnings."""
    return "".join(chr(0x10FFFF - ord(c)) for c in text) + chr(0x10FFFF)
