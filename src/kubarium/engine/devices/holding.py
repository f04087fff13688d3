"""What devices in use hold of their pool's counters, and what that leaves (kubernetes#140802)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kubarium.engine.devices.model import Amount, CounterUse, DeviceId, Slice

# What devices hold of counters; None if nobody knows. And amounts, by set and counter.
Held = Mapping[DeviceId, tuple[CounterUse, ...] | None]
Counters = Mapping[tuple[str, str], Amount]


def summed(held: Held) -> dict[tuple[str, str], Amount]:
    """What the devices hold of each counter of their pool, as far as it is known."""
    found: dict[tuple[str, str], Amount] = {}
    for uses in held.values():
        for use in uses or ():
            for name, amount in use.counters:
                key = (use.counter_set, name)
                found[key] = found.get(key, 0) + amount
    return found


def left_of(slices: Iterable[Slice], held: Held) -> Counters:
    """What devices in use leave of each counter; less than nothing if it is overdrawn."""
    taken = summed(held)
    return {
        (name, counter): amount - taken.get((name, counter), 0)
        for item in slices
        for name, counters in item.counter_sets
        for counter, amount in counters
    }


def may_come_back(wanted: Counters, left: Counters, away: Counters, before: Counters) -> bool:
    """Whether devices that were given back may have their counters again.

    What was overdrawn ``before``, since the pool was published anew, may be so again unless
    somebody else has taken some of it; ``away`` is what others have given back and may want too.
    """
    for key, amount in wanted.items():
        after = left.get(key, 0) - amount
        if after < 0 and after - away.get(key, 0) < before.get(key, 0):
            return False
    return True
