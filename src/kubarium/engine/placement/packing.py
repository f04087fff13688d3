"""Arrangements of a mixed group of pods: when one pod after the other does not fit, another may.

First best fit decreasing, which is quick and usually enough. Then, where only room counts, greedy
packings that look at all resources together (vectors.py). Then every arrangement, depth first:
pods that are alike are interchangeable, nodes that are alike are tried once, and states that failed
are remembered. Where only room counts that is done over kinds of nodes (by_room.py). Identical pods
need none of this: placing them one by one is exact.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kubarium.engine.devices.model import ClaimSpec
from kubarium.engine.model import Key, Pod, PodShape
from kubarium.engine.placement import topology
from kubarium.engine.placement.by_room import ArrangementsByRoom
from kubarium.engine.placement.devices import claims_of
from kubarium.engine.placement.trial import Budget, Trial
from kubarium.engine.placement.vectors import VectorPacker
from kubarium.engine.snapshot import Mask, Snapshot
from kubarium.engine.sums import exact_sum

# Beyond this many pods a group is packed largest first, but not searched.
MAX_PODS = 200
# What a placement that allocates devices costs of a budget, beside one that does not.
DEVICE_COST = 20
# Beyond this many it is only placed in its own order.
MAX_PACKED = 2_000


def alike_groups(snapshot: Snapshot, pods: Sequence[Pod]) -> list[list[Pod]]:
    """The pods in classes of which any two can change places, most devices and requests first.

    Pods with volumes or with a claim that others share stay by themselves.
    """
    users: dict[Key, int] = {}
    for claim in (claim for pod in pods for claim in pod.claims):
        users[claim] = users.get(claim, 0) + 1
    size = {shape: _size(snapshot, shape) for shape in dict.fromkeys(p.shape for p in pods)}
    classes: dict[Hashable, list[Pod]] = {}
    order = {pod.key: (-_devices(snapshot, pod), -size[pod.shape], pod.key) for pod in pods}
    for pod in sorted(pods, key=lambda pod: order[pod.key]):
        classes.setdefault(_class_of(snapshot, pod, users), []).append(pod)
    return list(classes.values())


def _class_of(snapshot: Snapshot, pod: Pod, users: dict[Key, int]) -> Hashable:
    wishes: list[ClaimSpec | Key] = []
    for key in pod.claims:
        claim = snapshot.claims.get(key)
        private = claim is not None and users[key] == 1 and key not in snapshot.allocations
        wishes.append(claim.spec if claim is not None and private else key)
    labels = tuple(sorted(pod.labels.items()))
    storage = (pod.volumes, pod.disks)
    return (pod.shape, labels, pod.gang, tuple(wishes), storage, pod.nominated_node)


def _size(snapshot: Snapshot, shape: PodShape) -> float:
    """The largest share of the cluster that the shape takes of any resource."""
    shares = [0.0]
    for name, amount in shape.requests:
        total = exact_sum(snapshot.allocatable_of(name))
        shares.append(amount / total if total else 1.0)
    return max(shares)


def _devices(snapshot: Snapshot, pod: Pod) -> int:
    """How many devices the pod's claims want at least."""
    claims = [snapshot.claims.get(key) for key in pod.claims]
    return sum(claim.spec.least_devices for claim in claims if claim is not None)


def are_alike(snapshot: Snapshot, pods: Sequence[Pod]) -> bool:
    """Whether any two of the pods can change places and none looks at others."""
    return len(alike_groups(snapshot, pods)) == 1 and not topology.concerns(snapshot, pods[0])


def order_matters(pods: Sequence[Pod]) -> bool:
    """Whether a pod may be feasible only before or after another of the group."""
    return any(
        pod.shape.pod_affinity or any(constraint.hard for constraint in pod.shape.spread)
        for pod in pods
    )


def devices_are_alike(snapshot: Snapshot, pods: Sequence[Pod]) -> bool:
    """Whether it does not matter which devices of a node a pod gets.

    True without claims, and for claims of one kind that ask once for a number of exclusive devices
    of the node, without constraints or counters.
    """
    users: dict[Key, int] = {}
    specs: dict[ClaimSpec, None] = {}
    if any(pod.variants for pod in pods):
        return False
    for pod in pods:
        for key in pod.claims:
            users[key] = users.get(key, 0) + 1
            claim = snapshot.claims.get(key)
            if claim is not None:
                specs[claim.spec] = None
    if not users:
        return True
    if len(specs) != 1 or any(count > 1 for count in users.values()):
        return False
    if any(len(pod.claims) > 1 for pod in pods):
        return False
    spec = next(iter(specs))
    if len(spec.requests) != 1 or spec.constraints or spec.requests[0].prioritised:
        return False
    if spec.requests[0].alternatives[0].capacity is not None:
        return False
    return snapshot.inventory.all_simple


def pack(trial: Trial, pods: Sequence[Pod], needed: int, within: Mask | None) -> bool:
    """Largest first, each on the fullest node that takes it (best fit decreasing).

    Where fewer than all pods are needed, only the smallest are packed. The placements stay in the
    trial if there are enough of them; otherwise it is as before.
    """
    mark = len(trial)
    classes = alike_groups(trial.snapshot, pods)
    spare = len(pods) - needed
    chosen = [pod for members in classes for pod in members][spare:]
    if only_room_counts(trial.snapshot, pods):
        kept = alike_groups(trial.snapshot, chosen) if spare else classes
        budget = Budget()
        return ArrangementsByRoom(trial, budget, kept, needed, within).largest_first()
    for pod in chosen:
        if not _place_fullest(trial, pod, within):
            trial.back_to(mark)
            return False
    return True


def packings(
    trial: Trial, budget: Budget, pods: Sequence[Pod], needed: int, within: Mask | None
) -> Iterator[None]:
    """Some good ways to place ``needed`` of the pods, each in the trial while it is yielded.

    Where only room counts, for otherwise there are none. Each way costs a placement for each pod.
    """
    snapshot = trial.snapshot
    if not needed or len(pods) > MAX_PACKED or not only_room_counts(snapshot, pods):
        return
    chosen = [pod for members in alike_groups(snapshot, pods) for pod in members]
    classes = alike_groups(snapshot, chosen[len(pods) - needed :])
    mark, seen = len(trial), set()
    for way in VectorPacker(trial.placer, classes, within).ways():
        budget.take(needed)
        found = way()
        if found is None or (picture := tuple(sorted(found))) in seen:
            continue
        seen.add(picture)
        left = [iter(members) for members in classes]
        if all(trial.place_on(next(left[number]), row) for number, row in found):
            yield
        trial.back_to(mark)


def only_room_counts(snapshot: Snapshot, pods: Sequence[Pod]) -> bool:
    """Whether nothing tells nodes apart for the pods but static filters and what is free."""
    return not any(
        pod.claims
        or pod.variants
        or pod.has_volumes
        or pod.shape.ports
        or topology.concerns(snapshot, pod)
        for pod in pods
    )


def _place_fullest(trial: Trial, pod: Pod, within: Mask | None) -> bool:
    return any(trial.place_on(pod, row) for row in fullest_rows(trial, pod, within))


def fullest_rows(trial: Trial, pod: Pod, within: Mask | None) -> list[int]:
    """Feasible rows: with the fewest free devices, then the least free cpu and memory, first.

    Of equals the first by name comes first.
    """
    snapshot = trial.snapshot
    fits = [trial.placer.fit(one.shape).refresh() >= 0 for one in pod.each]
    mask = np.logical_or.reduce(fits)
    if within is not None:
        mask &= within
    rows = np.array(snapshot.by_name(np.flatnonzero(mask)), np.int64)
    free = snapshot.allocatable[:2, rows] - snapshot.requested[:2, rows]
    keys = [free[1], free[0]]
    lone = pod.claims and not pod.variants
    devices = trial.placer.device_fit(claims_of(snapshot, pod)) if lone else None
    if devices is not None:
        keys.append(devices.room(1)[rows])
    order = np.lexsort(keys)  # stable: names decide the rest
    return [int(row) for row in rows[order]]


def arrangements(
    trial: Trial,
    budget: Budget,
    pods: Sequence[Pod],
    needed: int,
    within: Mask | None,
    apart: Sequence[NDArray[Any]] = (),
) -> Iterator[None]:
    """Every way to place ``needed`` of the pods, each in the trial while it is yielded.

    Up to the order of nodes that neither these pods nor others can tell apart: ``apart`` are
    columns by which the others do.
    """
    if only_room_counts(trial.snapshot, pods):
        classes = alike_groups(trial.snapshot, pods)
        return iter(ArrangementsByRoom(trial, budget, classes, needed, within, apart))
    return iter(Arrangements(trial, budget, pods, needed, within, apart))


class Arrangements:
    """Every way to place ``needed`` of the pods, each in the trial while it is yielded.

    ``apart`` are columns by which other pods tell nodes apart.
    """

    def __init__(
        self,
        trial: Trial,
        budget: Budget,
        pods: Sequence[Pod],
        needed: int,
        within: Mask | None,
        apart: Sequence[NDArray[Any]] = (),
    ) -> None:
        self._trial = trial
        self._snapshot = trial.snapshot
        self._budget = budget
        self._needed = needed
        self._within = within
        self._classes = alike_groups(self._snapshot, pods)
        self._left = [len(members) for members in self._classes]
        self._any_order = order_matters(pods)
        # Devices and neighbours tell nodes apart that look alike in resources.
        self._distinct = any(
            pod.claims or pod.variants or pod.has_volumes or topology.concerns(self._snapshot, pod)
            for pod in (members[0] for members in self._classes)
        )
        budget.take()  # what follows costs as much as a placement
        shapes = list(dict.fromkeys(members[0].shape for members in self._classes))
        self._apart = list(apart)
        for shape in shapes:
            fit = trial.placer.fit(shape)
            fit.refresh_static()
            self._apart.append(fit.static.copy())
        self._order = [fullest_rows(trial, members[0], within) for members in self._classes]
        self._used: dict[tuple[int, int], int] = {}  # (row, class) to the number of pods there
        self._failed: set[Hashable] = set()
        self._likeness: dict[int, Hashable] = {}  # by row, until a pod comes or goes there

    def __iter__(self) -> Iterator[None]:
        return self._unordered(0) if self._any_order else self._ordered(0, 0, 0)

    def _ordered(self, number: int, start: int, placed: int) -> Iterator[None]:
        """Class by class; within a class along the rows, since its pods are interchangeable."""
        if placed == self._needed:
            yield
            return
        if number == len(self._classes) or placed + sum(self._left[number:]) < self._needed:
            return
        state = (number, start, placed, self._left[number], frozenset(self._used.items()))
        if state in self._failed:
            return
        found = False
        if self._left[number]:
            for at, row in self._choices(number, start):
                for _ in self._on(number, row):
                    for _ in self._ordered(number, at, placed + 1):
                        found = True
                        yield
        for _ in self._ordered(number + 1, 0, placed):
            found = True
            yield
        if not found:
            self._failed.add(state)

    def _unordered(self, placed: int) -> Iterator[None]:
        """Any class next: pods that look for others may have to come after them."""
        if placed == self._needed:
            yield
            return
        state = frozenset(self._used.items())
        if state in self._failed:
            return
        self._failed.add(state)  # any other way here leads on to the same arrangements
        for number, left in enumerate(self._left):
            for _, row in self._choices(number, 0) if left else ():
                for _ in self._on(number, row):
                    yield from self._unordered(placed + 1)

    def _choices(self, number: int, start: int) -> Iterator[tuple[int, int]]:
        """Positions and rows for a pod of the class, of rows that are alike the first."""
        tried: set[Hashable] = set()
        order = self._order[number]
        for at in range(start, len(order)):
            alike = self._alike(order[at])
            if alike not in tried:
                tried.add(alike)
                yield at, order[at]

    def _on(self, number: int, row: int) -> Iterator[None]:
        """Once with a pod of the class on the row, if it fits there."""
        self._budget.take(DEVICE_COST if self._classes[number][0].claims else 1)
        pod = self._classes[number][len(self._classes[number]) - self._left[number]]
        mark, slot = len(self._trial), (row, number)
        if not self._trial.place_on(pod, row):
            return
        self._left[number] -= 1
        self._used[slot] = self._used.get(slot, 0) + 1
        self._likeness.pop(row, None)
        yield
        self._trial.back_to(mark)
        self._likeness.pop(row, None)
        self._left[number] += 1
        self._used[slot] -= 1
        if not self._used[slot]:
            del self._used[slot]

    def _alike(self, row: int) -> Hashable:
        """Equal for rows that no pod of the group can tell apart."""
        if self._distinct:
            return row
        known = self._likeness.get(row)
        if known is None:
            free = self._snapshot.allocatable[:, row] - self._snapshot.requested[:, row]
            ports = tuple(sorted(p for p, users in self._snapshot.ports.items() if row in users))
            seen = tuple(column.item(row) for column in self._apart)
            known = self._likeness[row] = (free.tobytes(), seen, ports)
        return known
