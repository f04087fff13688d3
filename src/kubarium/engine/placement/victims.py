"""Pods that may have to go: their order, taking them off the snapshot, and putting them back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from kubarium.engine.model import Key, Pod
from kubarium.engine.placement.disruption import Unit, pods_of_unit, priority_of, unit_of
from kubarium.engine.snapshot import Snapshot


def importance(pod: Pod) -> tuple[object, ...]:
    """Most important first: higher priority, then longer running, then age and name.

    A pod that has not started counts as starting now (upstream: GetPodStartTime).
    """
    return (-pod.priority, started(pod), pod.created, pod.key)


def started(pod: Pod) -> float:
    """When the pod started; later than all others if it has not."""
    return pod.started or inf


@dataclass(frozen=True, slots=True)
class Together:
    """Pods that go or stay together: one, or a group of disruption mode ``all`` (KEP-5710).

    ``here`` are those on the row that is looked at, ``breaks`` how many of ``pods`` exceed what
    their disruption budgets allow once all that are more important have gone.
    """

    pods: tuple[Pod, ...]
    here: tuple[Pod, ...]
    breaks: int = 0


class Units:
    """Who may go for a pod of some priority. What goes together is looked at once for all rows.

    What changes on a row must be told by :meth:`forget`.
    """

    def __init__(self, snapshot: Snapshot, priority: int) -> None:
        self._snapshot = snapshot
        self._priority = priority
        self._wholes: dict[Unit, _Whole | None] = {}
        self._rows: dict[Unit, set[int]] = {}  # which were asked for and have pods of the unit
        self._units: dict[int, set[Unit]] = {}  # the other way round

    def on(self, row: int) -> list[Together]:
        """Those with a pod on the row, in the order of giving back.

        Those whose eviction breaks a disruption budget come first, each kind most important first
        (upstream: FilterVictimsWithPDBViolation). What would take a pod or a group of this priority
        or a higher one along is none of them. Pods on other rows go with their group, budgets and
        all.
        """
        found: dict[Unit | Key, tuple[_Whole, list[Pod]]] = {}
        for pod in self._snapshot.pods_on[row].values():
            if pod.priority >= self._priority:
                continue
            unit = unit_of(self._snapshot, pod) if pod.gang is not None else None
            if unit is not None:
                self._rows.setdefault(unit, set()).add(row)
                self._units.setdefault(row, set()).add(unit)
            if unit is not None and unit in found:
                found[unit][1].append(pod)
            elif (whole := self._single(pod) if unit is None else self._whole(unit)) is not None:
                found[pod.key if unit is None else unit] = (whole, [pod])
        ordered = sorted(found.values(), key=lambda entry: entry[0].weight)
        allowed = {key: budget.allowed for key, budget in self._snapshot.budgets.items()}
        units = [
            Together(whole.pods, tuple(here), _exceeding(whole.covered, allowed))
            for whole, here in ordered
        ]
        return sorted(units, key=lambda unit: not unit.breaks) if allowed else units

    def forget(self, rows: Iterable[int]) -> set[int]:
        """Something changed on these rows; the rows of all that goes with what is there."""
        snapshot, gone = self._snapshot, set[Unit]()
        for row in rows if self._wholes else ():
            gone |= self._units.get(row, set())
            there = (p for p in snapshot.pods_on[row].values() if p.gang is not None)
            gone |= {unit for pod in there if (unit := unit_of(snapshot, pod)) is not None}
        for unit in gone:
            self._wholes.pop(unit, None)
        return {row for unit in gone for row in self._rows.pop(unit, ())}

    def _single(self, pod: Pod) -> _Whole:
        pods = (pod,)
        return _Whole(pods, weight(self._snapshot, pods), _covered(self._snapshot, pods))

    def _whole(self, unit: Unit) -> _Whole | None:
        """The unit; None if it or a pod of it is too important."""
        if unit not in self._wholes:
            snapshot, own = self._snapshot, priority_of(self._snapshot, unit)
            pods = tuple(pods_of_unit(snapshot, unit))
            spared = own is not None and own >= self._priority
            self._wholes[unit] = (
                None
                if spared or any(pod.priority >= self._priority for pod in pods)
                else _Whole(pods, weight(snapshot, pods), _covered(snapshot, pods))
            )
        return self._wholes[unit]


@dataclass(frozen=True, slots=True)
class _Whole:
    """Pods that go together, their weight, and how many of them the same budgets cover."""

    pods: tuple[Pod, ...]
    weight: tuple[object, ...]
    covered: Mapping[tuple[Key, ...], int]


def _covered(snapshot: Snapshot, pods: Iterable[Pod]) -> Mapping[tuple[Key, ...], int]:
    """How many of the pods are covered by the same budgets; those by none are left out."""
    if not snapshot.budgets:
        return {}
    found: dict[tuple[Key, ...], int] = {}
    for pod in pods:
        keys = tuple(key for key, budget in snapshot.budgets.items() if budget.covers(pod))
        if keys:
            found[keys] = found.get(keys, 0) + 1
    return found


def _exceeding(covered: Mapping[tuple[Key, ...], int], allowed: dict[Key, int]) -> int:
    """How many evictions break a budget, one after the other; ``allowed`` is counted down."""
    exceeding = 0
    for keys, count in covered.items():
        least = min(allowed[key] for key in keys)
        exceeding += min(count, max(0, count - max(least, 0)))
        for key in keys:
            allowed[key] -= count
    return exceeding


def weight(snapshot: Snapshot, pods: Sequence[Pod]) -> tuple[object, ...]:
    """Smaller is more important, of pods that go together (upstream: MoreImportantVictim).

    Higher priority, then composites before groups before pods, larger before smaller, older.
    Upstream takes a single pod of a group for a group; that it goes alone is what counts here.
    """
    first = min(pods, key=importance) if len(pods) > 1 else pods[0]
    unit = unit_of(snapshot, first) if first.gang is not None else None
    kind = 2 if unit is None else 1 - unit[0]
    return (-first.priority, kind, -len(pods), *importance(first)[1:])


def together(snapshot: Snapshot, pods: list[Pod]) -> list[list[Pod]]:
    """``pods`` in their order, but those that go or stay together with the first of them."""
    found: dict[Unit | int, list[Pod]] = {}
    for number, pod in enumerate(pods):
        unit = unit_of(snapshot, pod) if pod.gang is not None else None
        found.setdefault(number if unit is None else unit, []).append(pod)
    return list(found.values())


def broken_by(snapshot: Snapshot, pods: Sequence[Pod]) -> int:
    """How many of the pods' evictions their budgets do not allow, one after the other."""
    allowed = {key: budget.allowed for key, budget in snapshot.budgets.items()}
    return _exceeding(_covered(snapshot, pods), allowed)


def evict(snapshot: Snapshot, victim: Pod) -> None:
    """Take a pod off the snapshot and free the claims that nobody else uses."""
    claims = victim.claims
    snapshot.displace(victim.key)
    for claim in claims:
        if not snapshot.claim_users.get(claim):
            snapshot.release(claim)


def bring_back(snapshot: Snapshot, victim: Pod, node: str) -> None:
    """Undo :func:`evict`; there must be room for the pod and its claims."""
    for claim in victim.claims:
        snapshot.reclaim(claim)
    snapshot.place(victim, node)


def take_off(snapshot: Snapshot, pods: Sequence[Pod]) -> list[str]:
    """:func:`evict` pods, wherever they are; their nodes."""
    homes = [snapshot.node_of(pod.key) or "" for pod in pods]
    for pod in pods:
        evict(snapshot, pod)
    return homes


def put_back(snapshot: Snapshot, pods: Sequence[Pod], homes: Sequence[str]) -> None:
    """Undo :func:`take_off`."""
    for pod, home in zip(pods, homes, strict=True):
        bring_back(snapshot, pod, home)
