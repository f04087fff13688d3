"""Arrangements of pods for which only room counts: over kinds of nodes, without placing any pod.

Nodes with the same free amounts are one kind, of which only the number matters. Class by class, the
largest pods first: so many of its pods go on one node of a kind, no more of them on the next node
of that kind, and so on over the kinds. Each set of nodes that can result is reached once, and a
state from which nothing more was found is remembered by its kinds, whichever nodes these are. A
class is entered only if what is left can still hold the rest by size. The pods are placed in
earnest once an arrangement is found.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kubarium.engine.model import CPU, MEMORY, Pod
from kubarium.engine.placement.trial import Budget, Trial
from kubarium.engine.snapshot import PODS, Mask

# Kinds of nodes that are looked at for the price of one placement.
KINDS_A_PLACEMENT = 20

# Sizes by which the rest is bounded, for each resource, largest first.
MAX_SIZES = 6


@dataclass(slots=True, eq=False)
class _Kind:
    """Nodes that no pod tells apart: ``free`` by resource, and ``seen``, what else is seen of them.

    The latter has which classes may go there. There is one object for each kind, so that it is told
    by identity, and what follows from it is found out once.
    """

    free: tuple[int, ...]
    seen: tuple[int, ...]
    # By class: how many of its pods one node takes.
    fits: dict[int, int] = field(default_factory=dict)
    # By bound: how many pods of its size one node takes.
    holds: dict[_Bound, int] = field(default_factory=dict)
    # By class and number of its pods: the kind that a node is of when it has them too.
    then: dict[tuple[int, int], _Kind] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Class:
    """Pods that can change places: what one takes, by index, and what of that must be free."""

    pods: Sequence[Pod]
    takes: tuple[tuple[int, int], ...]
    needs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Bound:
    """A size of one resource, which ``pods`` pods of some classes want at least."""

    index: int
    size: int
    pods: int
    classes: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Phase:
    """One class being placed: its kinds in order, how many nodes there are of each, and their room.

    ``room`` is how many pods the kinds from each place on can take, ``rest`` how many pods the
    classes after it have.
    """

    number: int
    kinds: Sequence[_Kind]
    counts: Sequence[int]
    room: Sequence[int]
    rest: int


class ArrangementsByRoom:
    """Every way to place ``needed`` of the pods, each in the trial while it is yielded.

    For classes without claims, volumes, ports and neighbours to look at.
    """

    def __init__(
        self,
        trial: Trial,
        budget: Budget,
        classes: Sequence[Sequence[Pod]],
        needed: int,
        within: Mask | None,
        apart: Sequence[NDArray[Any]] = (),
    ) -> None:
        """``apart`` are columns that tell nodes apart for other pods, which have no place yet."""
        self._trial = trial
        self._budget = budget
        self._needed = needed
        snapshot = trial.snapshot
        self._cpu, self._memory, self._slots = map(snapshot.resource_index, (CPU, MEMORY, PODS))
        self._classes = [self._class_of(members) for members in classes]
        # Most classes may go to the same nodes: each such mask is seen once.
        static: dict[bytes, Mask] = {}
        self._mask_of: list[int] = []
        for members in classes:
            mask = trial.placer.able(members[0].shape, within)
            static.setdefault(mask.tobytes(), mask)
            self._mask_of.append(list(static).index(mask.tobytes()))
        self._after = [sum(len(c.pods) for c in self._classes[i:]) for i in range(len(classes) + 1)]
        self._bounds = [self._bounds_from(number) for number in range(len(classes))]
        able = np.flatnonzero(np.logical_or.reduce(list(static.values())))
        rows = np.array(snapshot.by_name(able), np.int64)  # of equals the first by name
        free = (snapshot.allocatable[:, rows] - snapshot.requested[:, rows]).T.tolist()
        seen = np.array([column[rows] for column in (*static.values(), *apart)]).T.tolist()
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], _Kind] = {}
        self._rows: dict[_Kind, list[int]] = {}
        for row, amounts, what in zip(rows.tolist(), free, seen, strict=True):
            self._rows.setdefault(self._kind(tuple(amounts), tuple(what)), []).append(row)
        self._counts = {kind: len(of_kind) for kind, of_kind in self._rows.items()}
        budget.take(1 + len(self._rows) // KINDS_A_PLACEMENT)
        # What the counts differ from the first ones by, and nodes that the class has gone to.
        self._changed: dict[_Kind, int] = {}
        self._entered: dict[_Kind, int] = {}
        self._moves: list[tuple[int, int, _Kind, _Kind]] = []
        self._failed: set[Hashable] = set()

    def _class_of(self, members: Sequence[Pod]) -> _Class:
        snapshot, profile = self._trial.snapshot, self._trial.placer.profile
        requests = [(n, amount) for n, amount in members[0].shape.requests if amount > 0]
        takes = [(snapshot.resource_index(n), amount) for n, amount in requests]
        takes.append((self._slots, 1))
        needs = [(snapshot.resource_index(n), a) for n, a in requests if not profile.ignores(n)]
        needs.append((self._slots, 1))
        if not profile.filters("NodeResourcesFit"):
            needs = []
        return _Class(members, tuple(takes), tuple(needs))

    def _bounds_from(self, number: int) -> list[_Bound]:
        """By what the classes from ``number`` on are bounded."""
        found = []
        rest = list(enumerate(self._classes))[number:]
        for index in dict.fromkeys(i for _, one in rest for i, _ in one.needs):
            size_of = {i: dict(one.needs).get(index, 0) for i, one in rest}
            for size in sorted(set(size_of.values()) - {0}, reverse=True)[:MAX_SIZES]:
                large = [i for i, of_one in size_of.items() if of_one >= size]
                pods = sum(len(self._classes[i].pods) for i in large)
                found.append(_Bound(index, size, pods, large))
        return found

    def _kind(self, free: tuple[int, ...], seen: tuple[int, ...]) -> _Kind:
        known = self._known.get((free, seen))
        if known is None:
            known = self._known[free, seen] = _Kind(free, seen)
        return known

    def _fit(self, number: int, kind: _Kind) -> int:
        """How many pods of the class one node of the kind takes."""
        most = kind.fits.get(number)
        if most is None:
            one = self._classes[number]
            most = len(one.pods) if kind.seen[self._mask_of[number]] else 0
            for index, amount in one.needs:
                most = min(most, kind.free[index] // amount)
            most = kind.fits[number] = max(most, 0)
        return most

    def __iter__(self) -> Iterator[None]:
        return self._from_class(0, 0)

    def largest_first(self) -> bool:
        """Best fit decreasing: each class on the fullest nodes that take it, without going back.

        True with all pods in the trial if that places them; otherwise it is as before.
        """
        for number, one in enumerate(self._classes):
            left, phase = len(one.pods), self._phase(number)
            for kind, count in zip(phase.kinds, phase.counts, strict=True):
                for _ in range(count):
                    pods = min(left, kind.fits[number])
                    if pods:
                        self._move(number, pods, kind)
                        left -= pods
            if left:
                return False
        return self._enter_moves()

    def _from_class(self, number: int, placed: int) -> Iterator[None]:
        """With ``placed`` pods of the classes before: this class and those after it."""
        if placed == self._needed:
            yield from self._in_earnest()
            return
        if placed + self._after[number] < self._needed or number == len(self._classes):
            return
        self._budget.take(1 + len(self._counts) // KINDS_A_PLACEMENT)
        if self._hopeless(number, placed):
            return
        entered, self._entered = self._entered, {}
        phase = self._phase(number)
        yield from self._step(phase, 0, 0, 0, len(self._classes[number].pods), placed)
        self._entered = entered

    def _phase(self, number: int) -> _Phase:
        """The kinds on which the class fits, the fullest first."""
        cpu, memory = self._cpu, self._memory
        kinds = [kind for kind in self._counts if self._fit(number, kind)]
        kinds.sort(key=lambda kind: (kind.free[cpu], kind.free[memory], kind.free, kind.seen))
        counts = [self._counts[kind] for kind in kinds]
        room = [0]
        for kind, count in zip(reversed(kinds), reversed(counts), strict=True):
            room.append(room[-1] + count * kind.fits[number])
        return _Phase(number, kinds, counts, room[::-1], self._after[number + 1])

    def _step(
        self, phase: _Phase, at: int, cap: int, used: int, left: int, placed: int
    ) -> Iterator[None]:
        """Go on from the kind in place ``at``, of which ``used`` nodes have ``cap`` or more pods.

        ``left`` pods of the class have no place yet. What is to come depends on the kinds that the
        class has not gone to, and on all others as later classes find them.
        """
        if placed == self._needed:
            yield from self._in_earnest()
            return
        here = phase.kinds[at] if at < len(phase.kinds) else None
        state = (
            *(phase.number, here, cap if used else 0, left, placed),
            *(frozenset(self._changed.items()), frozenset(self._entered.items())),
        )
        if state in self._failed:
            return
        found = False
        short = self._needed - placed - phase.rest
        for place in range(at, len(phase.kinds)) if left else ():
            kind, count = phase.kinds[place], phase.counts[place]
            taken = used if place == at else 0
            most = kind.fits[phase.number]
            most = min(most, cap) if taken else most
            if (count - taken) * most + phase.room[place + 1] < short:
                break
            if taken == count:
                continue
            for pods in range(min(most, left, self._needed - placed), 0, -1):
                self._budget.take(pods)
                self._move(phase.number, pods, kind)
                for _ in self._step(phase, place, pods, taken + 1, left - pods, placed + pods):
                    found = True
                    yield
                self._move_back()
        if short <= 0:
            for _ in self._from_class(phase.number + 1, placed):
                found = True
                yield
        if not found:
            self._failed.add(state)

    def _hopeless(self, number: int, placed: int) -> bool:
        """Whether the rest cannot be held, by the sizes of its pods in each resource."""
        spare = placed + self._after[number] - self._needed
        for bound in self._bounds[number]:
            wanted = bound.pods - spare
            if wanted > 0 and self._holds(bound, wanted) < wanted:
                return True
        return False

    def _holds(self, bound: _Bound, wanted: int) -> int:
        """How many pods of a size the kinds hold at most, counted up to ``wanted``."""
        found = 0
        for kind, count in self._counts.items():
            each = kind.holds.get(bound)
            if each is None:
                may = any(kind.seen[self._mask_of[i]] for i in bound.classes)
                each = min(kind.free[bound.index] // bound.size, kind.free[self._slots])
                each = kind.holds[bound] = max(each, 0) if may else 0
            found += count * each
            if found >= wanted:
                break
        return found

    # Moves

    def _move(self, number: int, pods: int, kind: _Kind) -> None:
        """A node of the kind takes so many pods of the class, and is of another kind then."""
        then = kind.then.get((number, pods))
        if then is None:
            free = list(kind.free)
            for index, amount in self._classes[number].takes:
                free[index] -= pods * amount
            then = kind.then[number, pods] = self._kind(tuple(free), kind.seen)
        self._moves.append((number, pods, kind, then))
        _exchange(self._counts, kind, then)
        _exchange(self._changed, kind, then)
        self._entered[then] = self._entered.get(then, 0) + 1

    def _move_back(self) -> None:
        _, _, kind, then = self._moves.pop()
        _exchange(self._counts, then, kind)
        _exchange(self._changed, then, kind)
        self._entered[then] -= 1
        if not self._entered[then]:
            del self._entered[then]

    def _in_earnest(self) -> Iterator[None]:
        """The moves' pods are in the trial for as long as it is looked at."""
        mark = len(self._trial)
        if self._enter_moves():
            yield
        self._trial.back_to(mark)

    def _enter_moves(self) -> bool:
        """Place what the moves say, on any nodes of the kinds; False if one does not fit."""
        mark = len(self._trial)
        rows = {kind: of_kind[::-1] for kind, of_kind in self._rows.items()}
        next_pod = [iter(one.pods) for one in self._classes]
        for number, pods, kind, then in self._moves:
            row = rows[kind].pop()
            rows.setdefault(then, []).append(row)
            for _ in range(pods):
                if not self._trial.place_on(next(next_pod[number]), row):
                    self._trial.back_to(mark)
                    return False
        return True


def _exchange(book: dict[_Kind, int], old: _Kind, new: _Kind) -> None:
    """One less of one kind, one more of another; what is zero is not kept."""
    less, more = book.get(old, 0) - 1, book.get(new, 0) + 1
    if less:
        book[old] = less
    else:
        del book[old]
    if more:
        book[new] = more
    else:
        del book[new]
