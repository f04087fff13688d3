"""Pods that may have to go: their order, taking them off the snapshot, and putting them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from kubarium.engine.model import Key, Pod
from kubarium.engine.placement.disruption import Unit, pods_of_unit, unit_of, units_to_spare
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


def lower_on(snapshot: Snapshot, priority: int, row: int) -> list[Together]:
    """Who may go so that a row has more room, in the order of giving back.

    Those whose eviction breaks a disruption budget come first, each kind most important first
    (upstream: FilterVictimsWithPDBViolation). What would take a pod or a group of this priority or
    a higher one along is none of them. Pods on other rows go with their group, budgets and all.
    """
    there = snapshot.pods_on[row].values()
    lower = [p for p in there if p.priority < priority]
    spared = units_to_spare(snapshot, lower, priority)
    found: dict[Unit | Key, tuple[Pod, ...]] = {}
    for pod in lower:
        unit = unit_of(snapshot, pod) if pod.gang is not None else None
        if unit is None:
            found[pod.key] = (pod,)
        elif unit not in found and unit not in spared:
            found[unit] = tuple(pods_of_unit(snapshot, unit))
    ordered = sorted(found.values(), key=lambda pods: weight(snapshot, pods))
    counts = _broken_by(snapshot, ordered)
    here = snapshot.pods_on[row]
    units = [
        Together(pods, pods if len(pods) == 1 else tuple(p for p in pods if p.key in here), broken)
        for pods, broken in zip(ordered, counts, strict=True)
    ]
    return sorted(units, key=lambda unit: not unit.breaks)


def weight(snapshot: Snapshot, pods: Sequence[Pod]) -> tuple[object, ...]:
    """Smaller is more important, of pods that go together (upstream: MoreImportantVictim).

    Higher priority, then composites before groups before pods, larger before smaller, older.
    Upstream takes a single pod of a group for a group; that it goes alone is what counts here.
    """
    first = min(pods, key=importance) if len(pods) > 1 else pods[0]
    unit = unit_of(snapshot, first) if first.gang is not None else None
    kind = 2 if unit is None else 1 - unit[0]
    return (-first.priority, kind, -len(pods), *importance(first)[1:])


def _broken_by(snapshot: Snapshot, ordered: Sequence[Sequence[Pod]]) -> list[int]:
    """How many pods of each exceed what their budgets allow once all before them have gone."""
    if not snapshot.budgets:
        return [0] * len(ordered)
    allowed = {key: budget.allowed for key, budget in snapshot.budgets.items()}
    return [sum(_exceeds(snapshot, allowed, pod) for pod in pods) for pods in ordered]


def _exceeds(snapshot: Snapshot, allowed: dict[Key, int], pod: Pod) -> bool:
    """Whether one more eviction breaks a budget; ``allowed`` is counted down."""
    exceeded = False
    for key, budget in snapshot.budgets.items():
        if budget.covers(pod):
            allowed[key] -= 1
            exceeded = exceeded or allowed[key] < 0
    return exceeded


def together(snapshot: Snapshot, pods: list[Pod]) -> list[list[Pod]]:
    """``pods`` in their order, but those that go or stay together with the first of them."""
    found: dict[Unit | int, list[Pod]] = {}
    for number, pod in enumerate(pods):
        unit = unit_of(snapshot, pod) if pod.gang is not None else None
        found.setdefault(number if unit is None else unit, []).append(pod)
    return list(found.values())


def broken_by(snapshot: Snapshot, pods: Sequence[Pod]) -> int:
    """How many of the pods' evictions their budgets do not allow, one after the other."""
    return sum(_broken_by(snapshot, [pods]))


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
