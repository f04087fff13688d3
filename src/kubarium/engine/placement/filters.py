"""The default filters of kube-scheduler as masks over rows: True where a pod may run.

Order and wording are upstream's; each function is one plugin. The filters that look at other pods
are in topology.py, devices in devices.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kubarium.engine import reasons
from kubarium.engine.model import (
    NO_EXECUTE,
    NO_SCHEDULE,
    UNSCHEDULABLE_TAINT_KEY,
    HostPort,
    PodShape,
    Taint,
    Toleration,
)
from kubarium.engine.selectors import NodeTerm, Requirement
from kubarium.engine.snapshot import Mask, Snapshot

_CORDON = Taint(UNSCHEDULABLE_TAINT_KEY, "", NO_SCHEDULE)


def static_filters(snapshot: Snapshot, shape: PodShape) -> Iterator[tuple[str, Mask]]:
    """(reason, mask) of every filter that depends on nodes alone, in upstream's order."""
    yield reasons.UNSCHEDULABLE, schedulable(snapshot, shape)
    if shape.node_name:
        yield reasons.NODE_NAME, named(snapshot, shape.node_name)
    yield reasons.TAINT, tolerated(snapshot, shape.tolerations)
    yield reasons.NODE_AFFINITY, affine(snapshot, shape)


def static_mask(snapshot: Snapshot, shape: PodShape) -> Mask:
    """Nodes that pass every static filter."""
    mask = snapshot.alive.copy()
    for _, passed in static_filters(snapshot, shape):
        mask &= passed
    return mask


def schedulable(snapshot: Snapshot, shape: PodShape) -> Mask:
    """NodeUnschedulable: cordoned nodes need the toleration of the cordon's taint."""
    if any(t.tolerates(_CORDON) for t in shape.tolerations):
        return np.ones(snapshot.capacity, np.bool_)
    return ~snapshot.unschedulable


def named(snapshot: Snapshot, name: str) -> Mask:
    """NodeName."""
    mask = np.zeros(snapshot.capacity, np.bool_)
    row = snapshot.rows.get(name)
    if row is not None:
        mask[row] = True
    return mask


def untolerated(taints: tuple[Taint, ...], tolerations: tuple[Toleration, ...]) -> list[Taint]:
    """The taints that keep the pod away, in order."""
    return [
        taint
        for taint in taints
        if taint.effect in (NO_SCHEDULE, NO_EXECUTE)
        and not any(t.tolerates(taint) for t in tolerations)
    ]


def tolerated(snapshot: Snapshot, tolerations: tuple[Toleration, ...]) -> Mask:
    """TaintToleration, once for each set of taints that occurs in the cluster."""
    by_set = [not untolerated(taints, tolerations) for taints in snapshot.taint_sets]
    return np.array(by_set, np.bool_)[snapshot.taint_set]


def affine(snapshot: Snapshot, shape: PodShape) -> Mask:
    """NodeAffinity: all clauses of nodeSelector, and one term of the required affinity."""
    mask = np.ones(snapshot.capacity, np.bool_)
    for requirement in shape.node_selector:
        mask &= clause(snapshot, requirement)
    if shape.affinity is not None:
        mask &= any_term(snapshot, shape.affinity)
    return mask


def any_term(snapshot: Snapshot, terms: tuple[NodeTerm, ...]) -> Mask:
    """Nodes that match at least one term."""
    mask = np.zeros(snapshot.capacity, np.bool_)
    for item in terms:
        mask |= term(snapshot, item)
    return mask


def term(snapshot: Snapshot, item: NodeTerm) -> Mask:
    """Nodes that match one term; an empty term matches none."""
    mask = np.full(snapshot.capacity, bool(item.labels or item.fields))
    for requirement in item.labels:
        mask &= clause(snapshot, requirement)
    for requirement in item.fields:
        mask &= _field(snapshot, requirement)
    return mask


def _field(snapshot: Snapshot, requirement: Requirement) -> Mask:
    mask = np.zeros(snapshot.capacity, np.bool_)
    if requirement.key != "metadata.name":
        return mask
    rows = [row for name, row in snapshot.rows.items() if requirement.holds(name)]
    mask[rows] = True
    return mask


def clause(snapshot: Snapshot, requirement: Requirement) -> Mask:
    """Nodes whose label satisfies one clause: decided once for each value that occurs."""
    column = snapshot.labels.get(requirement.key)
    if column is None:
        return np.full(snapshot.capacity, requirement.holds(None))
    values = snapshot.label_values[requirement.key]
    verdicts = np.empty(len(values) + 1, np.bool_)
    for value, index in values.items():
        verdicts[index] = requirement.holds(value)
    verdicts[-1] = requirement.holds(None)  # absent labels are -1 in the column
    verdict: Mask = verdicts[column]
    return verdict


def ports_free(snapshot: Snapshot, ports: tuple[HostPort, ...]) -> Mask:
    """NodePorts: only nodes that already serve the same port are looked at."""
    mask = np.ones(snapshot.capacity, np.bool_)
    for port in ports:
        for row, taken in snapshot.ports.get((port.protocol, port.port), {}).items():
            if any(port.collides(other) for other in taken):
                mask[row] = False
    return mask


def resources_fit(snapshot: Snapshot, shape: PodShape) -> Iterator[tuple[str, Mask]]:
    """NodeResourcesFit: (reason, mask) for the number of pods and each resource asked for."""
    free = snapshot.allocatable - snapshot.requested
    yield reasons.TOO_MANY_PODS, free[3] >= 1
    for name, amount in shape.requests:
        if amount > 0:
            yield reasons.insufficient(name), free[snapshot.resource_index(name)] >= amount


def fitting(snapshot: Snapshot, shape: PodShape) -> Mask:
    """Nodes with room for the pod's requests."""
    mask: Mask = snapshot.requested[3] < snapshot.allocatable[3]
    for name, amount in shape.requests:
        if amount > 0:
            index = snapshot.resource_index(name)
            mask &= snapshot.requested[index] + amount <= snapshot.allocatable[index]
    return mask
