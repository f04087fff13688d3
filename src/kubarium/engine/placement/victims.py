"""Pods that may have to go: their order, taking them off the snapshot, and putting them back."""

from __future__ import annotations

from math import inf

from kubarium.engine.model import Pod
from kubarium.engine.placement.disruption import Unit, unit_of, units_to_spare
from kubarium.engine.snapshot import Snapshot


def importance(pod: Pod) -> tuple[object, ...]:
    """Most important first: higher priority, then longer running, then age and name.

    A pod that has not started counts as starting now (upstream: GetPodStartTime).
    """
    return (-pod.priority, started(pod), pod.created, pod.key)


def started(pod: Pod) -> float:
    """When the pod started; later than all others if it has not."""
    return pod.started or inf


def lower_on(snapshot: Snapshot, priority: int, row: int) -> tuple[list[Pod], int]:
    """The row's preemptable pods in the order of giving back, and how many break a budget.

    Those whose eviction breaks a disruption budget come first, each kind most important first
    (upstream: filterPodsWithPDBViolation). A pod that would take others of this priority or a
    higher one along is none of them.
    """
    pods = snapshot.pods_on[row].values()
    lower = sorted((p for p in pods if p.priority < priority), key=importance)
    spared = units_to_spare(snapshot, lower, priority)
    if spared:
        lower = [p for p in lower if p.gang is None or unit_of(snapshot, p) not in spared]
    return breaking_first(snapshot, lower)


def together(snapshot: Snapshot, pods: list[Pod]) -> list[list[Pod]]:
    """``pods`` in their order, but those that go or stay together with the first of them."""
    found: dict[Unit | int, list[Pod]] = {}
    for number, pod in enumerate(pods):
        unit = unit_of(snapshot, pod) if pod.gang is not None else None
        found.setdefault(number if unit is None else unit, []).append(pod)
    return list(found.values())


def breaking_first(snapshot: Snapshot, pods: list[Pod]) -> tuple[list[Pod], int]:
    """``pods`` with those first that exceed what their budgets allow, and the number of these."""
    if not snapshot.budgets:
        return pods, 0
    allowed = {key: budget.allowed for key, budget in snapshot.budgets.items()}
    breaking: list[Pod] = []
    others: list[Pod] = []
    for pod in pods:
        exceeded = False
        for key, budget in snapshot.budgets.items():
            if budget.covers(pod):
                allowed[key] -= 1
                exceeded = exceeded or allowed[key] < 0
        (breaking if exceeded else others).append(pod)
    return breaking + others, len(breaking)


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
