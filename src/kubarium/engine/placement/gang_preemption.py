"""Preemption for a gang or a composite: which units must go so that it starts (KEP-5710).

The whole cluster is the domain. Upstream takes every victim away, places the gang wherever it likes
best, and gives back whoever is not in its way there; so it may evict pods although enough others
were free or less important. Here the least important units go first, no more of them than are
needed for a place, and in the end none is a victim that could stay if the gang moved.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from kubarium.engine.model import Pod
from kubarium.engine.placement import filters, topology
from kubarium.engine.placement.disruption import unit_of, units_to_spare
from kubarium.engine.placement.domains import least_asked
from kubarium.engine.placement.gang import needed_of, place_gang
from kubarium.engine.placement.place import Placer
from kubarium.engine.placement.quorum import least_pods
from kubarium.engine.placement.tree import place_item
from kubarium.engine.placement.trial import Budget
from kubarium.engine.placement.victims import (
    bring_back,
    evict,
    together,
    weight,
)
from kubarium.engine.plan import Placement, Preemption, QueueItem
from kubarium.engine.snapshot import PODS, Mask, Snapshot

# Victims that are considered for giving back one by one; the rest stay victims.
MAX_GIVE_BACK = 20_000
# Pods that may be placed again, over all tries to let more of the victims stay, and so many tries
# at least.
REPLACE_BUDGET = 4_000
LEAST_TRIES = 8
# Evictions that cost as much as placing one pod.
EVICTIONS_PER_PLACE = 8
# Choices of victims that are looked at for that, most of which a bound excludes.
MAX_LOOKS = 512
# What the search of one such try may spend.
TRY_BUDGET = 500

Units = list[list[Pod]]
Numbers = NDArray[np.int64]  # of units, ascending: the most important first


def for_gang(placer: Placer, item: QueueItem) -> Preemption | None:
    """Victims of lower priority whose end lets the item start; None if nothing helps."""
    snapshot = placer.snapshot
    priority = item.pods[0].priority
    lower = snapshot.below(priority)
    room = _Room(placer, item)
    if lower is None or not room.suffices(lambda name: lower[snapshot.resource_index(name)]):
        return None
    mark = snapshot.checkpoint()
    try:
        return _Search(placer, item, room, _units_below(snapshot, priority)).run()
    finally:
        snapshot.rollback(mark)


class _Room:
    """A bound that is quick to take: room for the smallest requests of an item's pods."""

    def __init__(self, placer: Placer, item: QueueItem) -> None:
        snapshot, profile = placer.snapshot, placer.profile
        self._snapshot = snapshot
        self._mask: Mask = np.zeros(snapshot.capacity, np.bool_)
        for shape in dict.fromkeys(one.shape for pod in item.pods for one in pod.each):
            self._mask |= filters.static_mask(snapshot, shape, profile)
        slots = {PODS: 1} if profile.filters("NodeResourcesFit") else {}
        self.least = slots | least_asked(profile, item.pods)
        needed = needed_of(item.gang) if item.gang is not None else 1
        self._needed = needed if item.tree is None else least_pods(item.tree)

    def suffices(self, more: Callable[[str], NDArray[np.int64] | int]) -> bool:
        """Whether enough is free; ``more`` is what would be beside that, by resource."""
        snapshot = self._snapshot
        room = np.where(self._mask, self._needed, 0)
        for name, amount in self.least.items():
            index = snapshot.resource_index(name)
            free = snapshot.allocatable[index] - snapshot.requested[index] + more(name)
            room = np.minimum(room, np.maximum(free, 0) // amount)
        return int(room.sum()) >= self._needed


class _Search:
    """One gang's search for victims; between two steps the snapshot is as at the beginning."""

    def __init__(self, placer: Placer, item: QueueItem, room: _Room, units: Units) -> None:
        """``units``: all that may go, the most important first."""
        self._placer = placer
        self._snapshot = placer.snapshot
        self._item = item
        self._room = room
        self._units = units
        self._victims: Numbers = np.arange(len(units))
        self._placements: tuple[Placement, ...] = ()
        self._homes = {
            pod.key: self._snapshot.node_of(pod.key) or "" for unit in units for pod in unit
        }
        self._budget = max(REPLACE_BUDGET, LEAST_TRIES * len(item.pods))
        self._looks = MAX_LOOKS
        # Whether others matter to the gang by more than what they take of their nodes.
        self._surrounded = any(
            pod.has_volumes or topology.concerns(placer.snapshot, pod) for pod in item.pods
        )
        # What each unit takes, as columns, so that the bound costs no evictions.
        self._sizes = np.fromiter(map(len, units), np.int64, len(units))
        pods = [(pod, number) for number, unit in enumerate(units) for pod in unit]
        rows = (self._snapshot.rows.get(self._homes[pod.key], -1) for pod, _ in pods)
        self._rows = np.fromiter(rows, np.int64, len(pods))
        self._unit_of = np.fromiter((number for _, number in pods), np.int64, len(pods))
        self._takes = {
            name: np.fromiter(
                (1 if name == PODS else pod.shape.request(name) for pod, _ in pods),
                np.int64,
                len(pods),
            )
            for name in room.least
        }

    def run(self) -> Preemption | None:
        least = self._least_important()
        if not len(least) or not self._place_without(least, give_back=True):
            return None
        if self._surrounded and not self._place_without(self._victims, give_back=False):
            # Somebody who was given back is in the way of the gang without taking its room.
            self._place_without(least, give_back=False)
        if len(self._victims) > 1:  # without any of them it does not start
            half = len(self._victims) // 2
            first, second = self._victims[:half], self._victims[half:]
            self._spare(first)
            self._spare(second)
        while self._exchange():
            pass
        gone = tuple(pod for number in self._victims.tolist() for pod in self._units[number])
        nominations = tuple((p.pod, p.node) for p in self._placements)
        return Preemption(gone, nominations) if gone else None

    def _least_important(self) -> Numbers:
        """The shortest tail of the units without which the item starts, as far as that is found.

        Empty if it does not start even without all of them and that has been seen on the way.

        What the bound excludes costs nothing; from there on steps double, then they are halved.
        """
        units = self._victims
        low, high = 0, len(units)  # too few, enough
        while high - low > 1:
            middle = (low + high) // 2
            if self._has_room_without(units[-middle:]):
                high = middle
            else:
                low = middle
        step, enough, helps = 1, high, False
        while enough < len(units) and not self._try(units[-enough:]):
            if not helps and not self._place_without(units, give_back=False):
                return units[:0]
            helps = True
            low, enough, step = enough, min(enough + step, len(units)), step * 2
            if self._budget <= 0:
                return units
        while enough - low > 1 and self._budget > 0:
            middle = (low + enough) // 2
            if self._try(units[-middle:]):
                enough = middle
            else:
                low = middle
        return units[-enough:]

    def _has_room_without(self, gone: Numbers) -> bool:
        """A bound: False only if the item cannot start when these go."""
        going = self._marked(gone)
        chosen = going[self._unit_of] & (self._rows >= 0)
        rows, capacity = self._rows[chosen], self._snapshot.capacity

        def freed(name: str) -> NDArray[np.int64]:
            column = np.zeros(capacity, np.int64)
            np.add.at(column, rows, self._takes[name][chosen])
            return column

        return self._room.suffices(freed)

    def _marked(self, numbers: Numbers) -> Mask:
        """By unit, whether it is one of these."""
        mask = np.zeros(len(self._units), np.bool_)
        mask[numbers] = True
        return mask

    def _try(self, gone: Numbers) -> bool:
        return self._place_without(gone, give_back=False, again=True)

    def _spare(self, units: Numbers) -> None:
        """Let as many of the units stay as possible, in their order; halves are tried at once."""
        marked = self._marked(self._victims)
        units = units[marked[units]]
        if not len(units) or self._budget <= 0 or self._looks <= 0:
            return
        marked[units] = False
        others = np.flatnonzero(marked)
        self._looks -= 1
        if self._has_room_without(others) and self._place_without(
            others, give_back=not self._surrounded, again=True
        ):
            return
        if len(units) > 1:
            half = len(units) // 2
            self._spare(units[:half])
            self._spare(units[half:])

    def _exchange(self) -> bool:
        """Do less harm: one or two that go may let others stay. Whether that was found.

        Without budgets the order of the units is that of harm, and there is nothing to find.
        """
        victims = self._victims
        if not self._snapshot.budgets:
            return False
        best = self._harm(victims), victims, self._placements
        if best[0] <= (0, min(pod.priority for pod in self._units[-1])):
            return False
        largest = victims[np.argsort(-self._sizes[victims], kind="stable")]
        others = np.flatnonzero(~self._marked(victims))[::-1].tolist()
        for some in chain(combinations(others, 1), combinations(others, 2)):
            if self._budget <= 0 or self._looks <= 0:
                break
            if len(some) == 2 and best[1] is not victims:
                break  # what one brings may be enough
            self._victims = np.sort(np.append(victims, some))
            self._spare(largest)
            harm = self._harm(self._victims)
            if harm < best[0]:
                best = harm, self._victims, self._placements
        _, self._victims, self._placements = best
        return self._victims is not victims

    def _harm(self, numbers: Numbers) -> tuple[int, int]:
        """Upstream's order of candidates: budgets that are broken, then the highest priority."""
        pods = (pod for number in numbers.tolist() for pod in self._units[number])
        return self._broken(numbers), max(pod.priority for pod in pods)

    def _broken(self, numbers: Numbers) -> int:
        """How many evictions of these units' pods their budgets do not allow."""
        pods = [pod for number in numbers.tolist() for pod in self._units[number]]
        budgets = self._snapshot.budgets.values()
        return sum(max(0, sum(map(b.covers, pods)) - b.allowed) for b in budgets)

    def _place_without(self, gone: Numbers, *, give_back: bool, again: bool = False) -> bool:
        """Whether the item starts if these units go; then they are the victims.

        Who is not in its way there stays, if ``give_back``. ``again``: it is a try to have fewer.
        """
        snapshot = self._snapshot
        mark = snapshot.checkpoint()
        try:
            for number in gone.tolist():
                for pod in self._units[number]:
                    evict(snapshot, pod)
            if again:
                evicted = int(self._sizes[gone].sum())
                self._budget -= len(self._item.pods) + evicted // EVICTIONS_PER_PLACE
            placements = self._placed(again=again)
            if not placements:
                return False
            self._placements = placements
            self._victims = self._give_back(gone) if give_back else gone
            return True
        finally:
            snapshot.rollback(mark)

    def _placed(self, *, again: bool) -> tuple[Placement, ...]:
        item = self._item
        if not again:
            return place_item(self._placer, item).placements
        if item.tree is not None:
            return place_item(self._placer, item).placements
        return place_gang(self._placer, item, budget=Budget(TRY_BUDGET)).placements

    def _give_back(self, gone: Numbers) -> Numbers:
        """The units that cannot return to their old nodes; most important first, they try."""
        victims: list[int] = []
        for index, number in enumerate(gone.tolist()):
            mark = self._snapshot.checkpoint()
            if index < MAX_GIVE_BACK and all(map(self._return, self._units[number])):
                self._snapshot.keep(mark)
            else:
                self._snapshot.rollback(mark)
                victims.append(number)
        return np.array(victims, np.int64)

    def _return(self, victim: Pod) -> bool:
        """Put the victim back if its old node still has room for it."""
        snapshot, home = self._snapshot, self._homes[victim.key]
        row = snapshot.rows.get(home)
        if row is None or not filters.room_on(snapshot, victim.shape, row):
            return False
        if not all(map(snapshot.reclaimable, victim.claims)):
            return False
        bring_back(snapshot, victim, home)
        return True


def _units_below(snapshot: Snapshot, priority: int) -> Units:
    """What goes or stays together, in the order of giving back (KEP-5710).

    A group of disruption mode all is one unit of its highest priority, and is left alone if it or a
    pod of it may not be preempted. Those come first that would break a budget after the less
    important have gone; then by priority, composites before groups before pods, size and age.
    """
    lower = [pod for pod, _ in snapshot.placed_pods() if pod.priority < priority]
    spared = units_to_spare(snapshot, lower, priority)
    lower = [p for p in lower if p.gang is None or unit_of(snapshot, p) not in spared]

    units = sorted(together(snapshot, lower), key=lambda unit: weight(snapshot, unit))
    breaking = _breaking(snapshot, units)
    return [units[number] for number in sorted(range(len(units)), key=lambda n: not breaking[n])]


def _breaking(snapshot: Snapshot, units: Units) -> list[bool]:
    """Which units exceed what their budgets allow once all that follow have gone."""
    found = [False] * len(units)
    allowed = {key: budget.allowed for key, budget in snapshot.budgets.items()}
    for number in range(len(units) - 1, -1, -1) if allowed else ():
        for pod in units[number]:
            for key, budget in snapshot.budgets.items():
                if budget.covers(pod):
                    allowed[key] -= 1
                    found[number] |= allowed[key] < 0
    return found
