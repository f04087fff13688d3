"""What devices have instead of what a clause compares with, and constants that would do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kubarium.base.quantity import format_quantity
from kubarium.base.quoted import listed
from kubarium.engine.devices import capacity
from kubarium.engine.devices.constraints import attribute
from kubarium.engine.devices.model import Amount, Device, DeviceId, Slice
from kubarium.engine.explain.wishes import Clause
from kubarium.engine.snapshot import Snapshot

# Values named where none is the wanted one.
VALUES_SHOWN = 4

# Domains named in which devices have what a clause reads in another.
NAMESAKES_SHOWN = 2


def shown_amount(value: Amount) -> str:
    """The shorter of the binary and the decimal text."""
    decimal, binary = format_quantity(value), format_quantity(value, binary=True)
    return binary if len(binary) < len(decimal) else decimal


def values_of(driver: str, device: Device, clause: Clause) -> Iterator[Amount | str]:
    """The values of what the clause compares."""
    if clause.is_capacity:
        found = device.capacity.get(clause.name)
        domain, _, short = clause.name.partition("/")
        if found is None and domain == driver:
            found = device.capacity.get(short)
        if found is not None:
            yield found.value
        return
    value = attribute(device, driver, clause.name)
    for item in value.values if value is not None else ():
        yield item if isinstance(item, int) and not isinstance(item, bool) else _text(item)


def namesakes(slices: Iterable[Slice], clause: Clause) -> str:
    """The names that the clause may mean: devices have what it reads in other domains. Or ""."""
    short = clause.name.partition("/")[2]
    found = {
        full
        for item in slices
        for device in item.devices
        for name in (device.capacity if clause.is_capacity else device.attributes)
        if (full := name if "/" in name else f"{item.driver}/{name}").partition("/")[2] == short
    }
    return f"; did you mean {listed(sorted(found), NAMESAKES_SHOWN)}?" if found else ""


def _text(item: object) -> str:
    return str(item).lower() if isinstance(item, bool) else str(item)


def nearest(clause: Clause, values: Sequence[Amount | str]) -> tuple[str, tuple[str, ...]]:
    """(in words, constants that could stand in the clause)."""
    short = clause.name.partition("/")[2]
    if not values:
        return f"no device has {clause.name}", ()
    numbers = [v for v in values if not isinstance(v, str)]
    if clause.operator in (">", ">=", "<", "<=") and len(numbers) == len(values):
        upward = clause.operator.startswith(">")
        best = shown_amount(max(numbers) if upward else min(numbers))
        word = "most" if upward else "least"
        # Strictly more than the most there is has no constant to name.
        return f"the {word} there is: {best}", (best,) if "=" in clause.operator else ()
    texts = sorted({v if isinstance(v, str) else shown_amount(v) for v in values})
    more = "" if len(texts) <= VALUES_SHOWN else " …"
    constants = tuple(texts[:VALUES_SHOWN]) if clause.operator == "==" else ()
    return f"there is {short} {', '.join(texts[:VALUES_SHOWN])}{more}", constants


def shares_left(snapshot: Snapshot, name: str, *, idle: bool = False) -> list[int]:
    """The largest amounts of a capacity that devices can still give, most first.

    With ``idle`` what they could give if nobody used them.
    """
    ledger = snapshot.inventory.ledger
    found: dict[int, None] = {}
    for item in snapshot.inventory.slices.values():
        for device in item.devices:
            have, id_ = device.capacity.get(name), DeviceId(item.driver, item.pool, device.name)
            if have is None:
                continue
            if ledger.in_use(id_) and not device.allow_multiple and not idle:
                continue
            used = {} if idle else ledger.consumed(id_)
            most = capacity.most_allowed(have, have.value - used.get(name, 0))
            if isinstance(most, int):
                found[most] = None
    return sorted(found, reverse=True)
