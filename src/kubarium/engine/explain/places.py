"""Nodes that a pod's volumes need and the cluster does not have: one in zone z, or node n again.

A volume that exists is where it is. If no node stands there, what helps is a node there, like one
that would do but for its place. Its labels (and for a local volume its name) follow from the
volumes' node affinity, of whose terms the first one is taken that can be met.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, product

import numpy as np

from kubarium.engine.explain import supplies
from kubarium.engine.explain.case import Case
from kubarium.engine.explain.obstacles import CURED_BY_A_NEW_NODE, Group, Rule
from kubarium.engine.explain.subject import Change
from kubarium.engine.model import HOSTNAME_LABEL, UNSCHEDULABLE_TAINT_KEY, Node, VolumeClaim
from kubarium.engine.selectors import NodeTerm, Requirement

# Ways to meet all volumes at once that are looked at, and nodes that are models for the new one.
WAYS_TRIED = 8
MODELS_TRIED = 4


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node must stand: the labels it must have, and its name unless any will do."""

    labels: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    def joined(self, other: Place) -> Place | None:
        """Both at once; None if they contradict each other."""
        if self.name and other.name and self.name != other.name:
            return None
        for key, value in other.labels.items():
            if self.labels.get(key, value) != value:
                return None
        return Place({**self.labels, **other.labels}, self.name or other.name)

    def __str__(self) -> str:
        return ", ".join(f"{key}={value}" for key, value in sorted(self.labels.items()))


def nodes_at_volumes(case: Case, *, alone: bool = True) -> Iterator[Change]:
    """A node where the volumes of the first pod are, if it does not stand there already.

    With ``alone``, only like nodes that nothing else keeps from the pod.
    """
    snapshot, pod = case.snapshot, case.subject.pods[0]
    claims = [snapshot.volumes[key] for key in pod.volumes if key in snapshot.volumes]
    if not any(rule.kind == "volume" for group in case.groups for rule in group.rules):
        return
    for place in _places(claims):
        if place.name in snapshot.rows:
            continue
        for model in _models(case, alone=alone):
            if place.name or not _stands(model, place):
                yield _node_at(case, model, place)


def _stands(node: Node, place: Place) -> bool:
    return all(node.labels.get(key) == value for key, value in place.labels.items())


def _places(claims: Sequence[VolumeClaim]) -> Iterator[Place]:
    """Every place where all the claims can be used, as far as one has to be named."""
    ways = [found for claim in claims if (found := list(_places_of(claim)))]
    seen: list[Place] = []
    for parts in islice(product(*ways), WAYS_TRIED) if ways else ():
        place: Place | None = Place()
        for part in parts:
            place = place.joined(part) if place is not None else None
        if place is not None and (place.labels or place.name) and place not in seen:
            seen.append(place)
            yield place


def _places_of(claim: VolumeClaim) -> Iterator[Place]:
    zone = _met(claim.zones)
    if zone is None:
        return
    terms = claim.terms
    if terms is None and claim.choices is not None:
        known = [t for _, terms in claim.choices for t in terms or ()]
        made = claim.provision.terms if claim.provision is not None else None
        terms = (*known, *(made or ())) or None
    if terms is None:
        yield zone
    for term in terms or ():
        place = _at(term)
        both = place.joined(zone) if place is not None else None
        if both is not None:
            yield both


def _at(term: NodeTerm) -> Place | None:
    place = _met(term.labels)
    if place is None:
        return None
    for clause in term.fields:
        if clause.operator != "In" or not clause.values:
            return None
        place = place.joined(Place(name=clause.values[0]))
        if place is None:
            return None
    host = place.labels.get(HOSTNAME_LABEL)
    return place.joined(Place(name=host)) if host else place


def _met(clauses: Sequence[Requirement]) -> Place | None:
    """Labels that meet all clauses; None where that takes more than naming a value."""
    place: Place | None = Place()
    for clause in clauses:
        if clause.operator in ("NotIn", "DoesNotExist"):
            continue  # a node of this kind that stands elsewhere has none of them, or is no model
        if clause.operator != "In" or not clause.values:
            return None
        place = place.joined(Place({clause.key: clause.values[0]})) if place is not None else None
    return place


def _models(case: Case, *, alone: bool) -> Iterator[Node]:
    """Nodes that a new one elsewhere could be like: what they fail, it would not.

    Of those that fail the same rules, one of each size.
    """
    fine = CURED_BY_A_NEW_NODE | {"volume", "cordon"}
    found = (
        node
        for group in case.groups
        if not alone or all(_is_cured(rule, fine) for rule in group.rules)
        for node in _makes(case, group)
    )
    yield from islice(found, MODELS_TRIED)


def _is_cured(rule: Rule, fine: frozenset[str]) -> bool:
    return rule.kind in fine or str(rule.subject).startswith(UNSCHEDULABLE_TAINT_KEY)


def _makes(case: Case, group: Group) -> list[Node]:
    sizes = case.snapshot.allocatable[:, group.rows]
    _, first = np.unique(sizes, axis=1, return_index=True)
    return [case.node(row) for row in group.rows[np.sort(first)].tolist()]


def _node_at(case: Case, model: Node, place: Place) -> Change:
    labels = {**model.labels, **place.labels}
    if place.name and HOSTNAME_LABEL in labels:
        labels[HOSTNAME_LABEL] = place.name
    taints = tuple(t for t in model.taints if t.key != UNSCHEDULABLE_TAINT_KEY)
    moved = replace(model, labels=labels, taints=taints, unschedulable=False)
    change = supplies.more_nodes(case.snapshot, moved, 1, "", name=place.name)
    if place.name:
        text = f"bring node {place.name} back, where a volume of the pod is"
        kind = "restore-node"
    else:
        text = f"add a node like {model.name} with {place}, where a volume of the pod is"
        kind = "add-node-at"
    suggestion = replace(change.suggestion, kind=kind, text=text, subject=place.name or str(place))
    return replace(change, suggestion=suggestion, fresh=True)
