"""The default filters of kube-scheduler as masks over rows: True where a pod may run.

Order and wording are upstream's; each function is one plugin. The filters that look at other pods
are in topology.py, devices in devices.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from kubarium.engine import reasons
from kubarium.engine.model import (
    NO_EXECUTE,
    NO_SCHEDULE,
    UNSCHEDULABLE_TAINT_KEY,
    HostPort,
    Node,
    PodShape,
    Taint,
    Toleration,
)
from kubarium.engine.placement import locality
from kubarium.engine.placement.profile import DEFAULT, Profile
from kubarium.engine.selectors import NodeTerm, Requirement
from kubarium.engine.snapshot import Mask, Snapshot, advertised_by

_CORDON = Taint(UNSCHEDULABLE_TAINT_KEY, "", NO_SCHEDULE)


def static_filters(
    snapshot: Snapshot, shape: PodShape, profile: Profile = DEFAULT
) -> Iterator[tuple[str, Mask]]:
    """(reason, mask) of the filters that depend on nodes alone, in upstream's order."""
    if profile.filters("NodeUnschedulable"):
        yield reasons.UNSCHEDULABLE, schedulable(snapshot, shape)
    if shape.node_name and profile.filters("NodeName"):
        yield reasons.NODE_NAME, named(snapshot, shape.node_name)
    if profile.filters("TaintToleration"):
        yield reasons.TAINT, tolerated(snapshot, shape.tolerations)
    if profile.filters("NodeAffinity"):
        if profile.added_affinity is not None:
            yield reasons.ADDED_AFFINITY, any_term(snapshot, profile.added_affinity)
        yield reasons.NODE_AFFINITY, affine(snapshot, shape)
    for name, has in shape.advertised:
        yield reasons.served_otherwise(name), advertises(snapshot, name, has)
    if shape.data_required and profile.filters("DataLocality"):
        for name in shape.data:
            yield reasons.data_missing(name), locality.cached(snapshot, name)


def last_filters(
    snapshot: Snapshot, shape: PodShape, profile: Profile = DEFAULT
) -> Iterator[tuple[str, Mask]]:
    """As :func:`static_filters`: those that upstream asks after all that look at pods."""
    if shape.features and profile.filters("NodeDeclaredFeatures"):
        yield reasons.FEATURES, declares(snapshot, shape.features)


def static_mask(snapshot: Snapshot, shape: PodShape, profile: Profile = DEFAULT) -> Mask:
    """Nodes that pass every static filter."""
    mask = snapshot.alive.copy()
    named = _named_alone(shape, profile)
    if named is not None:
        mask &= among(snapshot, named)
    for asked in (static_filters, last_filters):
        for _, passed in asked(snapshot, shape, profile):
            mask &= passed
    return mask


def schedulable(snapshot: Snapshot, shape: PodShape) -> Mask:
    """NodeUnschedulable: cordoned nodes need the toleration of the cordon's taint."""
    if any(t.tolerates(_CORDON) for t in shape.tolerations):
        return np.ones(snapshot.capacity, np.bool_)
    return ~snapshot.unschedulable


def advertises(snapshot: Snapshot, name: str, has: bool) -> Mask:
    """Nodes that have, or do not have, some of an extended resource themselves."""
    mask: Mask = (snapshot.allocatable_of(name) > 0) == has
    return mask


def served_as(snapshot: Snapshot, shape: PodShape) -> Mask:
    """Nodes that serve extended resources as this variant of a pod has it."""
    mask = snapshot.alive.copy()
    for name, has in shape.advertised:
        mask &= advertises(snapshot, name, has)
    return mask


def named(snapshot: Snapshot, name: str) -> Mask:
    """NodeName."""
    return among(snapshot, (name,))


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


def declares(snapshot: Snapshot, features: tuple[str, ...]) -> Mask:
    """NodeDeclaredFeatures: nodes that have declared all of these."""
    wanted = frozenset(features)
    nodes = (node is not None and wanted <= node.features for node in snapshot.nodes)
    return np.fromiter(nodes, np.bool_, snapshot.capacity)


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
    if requirement.operator == "In":
        return among(snapshot, requirement.values)
    rows = [row for name, row in snapshot.rows.items() if requirement.holds(name)]
    mask[rows] = True
    return mask


def named_by_affinity(shape: PodShape) -> frozenset[str] | None:
    """The only nodes that the required affinity names, as of DaemonSets' pods; None: it may be any.

    Of no other node anything is asked. Source: NodeAffinity, PreFilter: each term must name nodes;
    if all contradict themselves there are none.
    """
    if not shape.affinity or not all(term.fields for term in shape.affinity):
        return None
    found: frozenset[str] = frozenset()
    for item in shape.affinity:
        named = [
            frozenset(requirement.values)
            for requirement in item.fields
            if requirement.key == "metadata.name" and requirement.operator == "In"
        ]
        if not named:
            return None
        found |= frozenset.intersection(*named)
    return found


def _named_alone(shape: PodShape, profile: Profile) -> frozenset[str] | None:
    """:func:`named_by_affinity` where no filter asks for the rest of the affinity as well."""
    if profile.filters("NodeAffinity") or not profile.prepares("NodeAffinity"):
        return None
    return named_by_affinity(shape)


def among(snapshot: Snapshot, names: Iterable[str]) -> Mask:
    """The nodes of these names."""
    mask = np.zeros(snapshot.capacity, np.bool_)
    mask[[snapshot.rows[name] for name in names if name in snapshot.rows]] = True
    return mask


def pinned_to(shape: PodShape) -> str:
    """The only node that the required affinity names, as for a DaemonSet's pods; "" otherwise."""
    if shape.affinity is None or len(shape.affinity) != 1:
        return ""
    for requirement in shape.affinity[0].fields:
        if requirement.key == "metadata.name" and requirement.operator == "In":
            return requirement.values[0] if len(requirement.values) == 1 else ""
    return ""


def row_passes(snapshot: Snapshot, shape: PodShape, row: int) -> bool:
    """Static filters, ports and resources of one row: the same answer as the columns give."""
    return static_on(snapshot, shape, row) and room_on(snapshot, shape, row)


def could_hold(snapshot: Snapshot, shape: PodShape, row: int, profile: Profile = DEFAULT) -> bool:
    """Whether the pod could run on the node if nothing else did."""
    if not static_on(snapshot, shape, row, profile):
        return False
    if not profile.filters("NodeResourcesFit"):
        return True
    wanted = [(name, amount) for name, amount in shape.requests if not profile.ignores(name)]
    indices = [(snapshot.resource_index(name), amount) for name, amount in wanted]
    return all(amount <= snapshot.allocatable.item(index, row) for index, amount in indices)


def static_on(snapshot: Snapshot, shape: PodShape, row: int, profile: Profile = DEFAULT) -> bool:
    """Static filters of one row."""
    node = snapshot.nodes[row]
    if node is None or not admits(node, shape, profile):
        return False
    if not shape.data_required or not profile.filters("DataLocality"):
        return True
    return all(locality.has(snapshot, name, row) for name in shape.data)


def admits(node: Node, shape: PodShape, profile: Profile = DEFAULT) -> bool:
    """The static filters by what a node says of itself: all of them but what it has cached."""
    off = profile.disabled
    if shape.node_name and shape.node_name != node.name and "NodeName" not in off:
        return False
    if (
        node.unschedulable
        and not any(t.tolerates(_CORDON) for t in shape.tolerations)
        and "NodeUnschedulable" not in off
    ):
        return False
    if node.taints and untolerated(node.taints, shape.tolerations) and "TaintToleration" not in off:
        return False
    if shape.advertised:
        own = advertised_by(node)
        if any((name in own) != has for name, has in shape.advertised):
            return False
    if "NodeAffinity" not in off:
        if not _attracts(node, shape, profile.added_affinity):
            return False
    elif (named := _named_alone(shape, profile)) is not None and node.name not in named:
        return False
    return node.features.issuperset(shape.features) or "NodeDeclaredFeatures" in off


def _attracts(node: Node, shape: PodShape, added: tuple[NodeTerm, ...] | None) -> bool:
    """NodeAffinity of one node, with what the profile adds."""
    if not all(r.holds(node.labels.get(r.key)) for r in shape.node_selector):
        return False
    return all(
        any(t.matches(node.name, node.labels) for t in terms)
        for terms in (shape.affinity, added)
        if terms is not None
    )


def room_on(snapshot: Snapshot, shape: PodShape, row: int) -> bool:
    """Ports and resources of one row."""
    if not resources_on(snapshot, shape, row):
        return False
    for port in shape.ports:
        taken = snapshot.ports.get((port.protocol, port.port), {}).get(row, ())
        if any(port.collides(other) for other in taken):
            return False
    return True


def resources_on(
    snapshot: Snapshot, shape: PodShape, row: int, beside: Sequence[PodShape] = ()
) -> bool:
    """Whether one row has what the pod asks for, and what those ``beside`` it do."""
    if snapshot.requested.item(3, row) + len(beside) >= snapshot.allocatable.item(3, row):
        return False
    for name, amount in shape.requests:
        index = snapshot.resource_index(name)
        wanted = amount
        for other in beside:
            wanted += other.request(name)
        free = snapshot.allocatable.item(index, row) - snapshot.requested.item(index, row)
        if amount > 0 and wanted > free:
            return False
    return True


def clause(snapshot: Snapshot, requirement: Requirement) -> Mask:
    """Nodes whose label satisfies one clause: decided once for each value that occurs."""
    column = snapshot.labels.get(requirement.key)
    if column is None:
        return np.full(snapshot.capacity, requirement.holds(None))
    values = snapshot.label_values[requirement.key]
    verdicts = np.zeros(snapshot.label_columns.numbers(requirement.key) + 1, np.bool_)
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


def resources_fit(
    snapshot: Snapshot, shape: PodShape, profile: Profile = DEFAULT
) -> Iterator[tuple[str, Mask]]:
    """NodeResourcesFit: (reason, mask) for the number of pods and each resource asked for."""
    if not profile.filters("NodeResourcesFit"):
        return
    yield reasons.TOO_MANY_PODS, snapshot.requested[3] < snapshot.allocatable[3]
    for name, amount in shape.requests:
        if amount > 0 and not profile.ignores(name):
            index = snapshot.resource_index(name)
            free = snapshot.allocatable[index] - snapshot.requested[index]
            yield reasons.insufficient(name), free >= amount


def fitting(snapshot: Snapshot, shape: PodShape, profile: Profile = DEFAULT) -> Mask:
    """Nodes with room for the pod's requests."""
    mask = np.ones(snapshot.capacity, np.bool_)
    for _, passed in resources_fit(snapshot, shape, profile):
        mask &= passed
    return mask
