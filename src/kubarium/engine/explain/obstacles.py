"""Every rule that a pod fails, node by node: not only the first, as an account has it.

A rule is one filter, taken apart as far as one change can lift a part of it alone: each clause of a
node selector, each taint, each resource. The rules that a node fails are one number, a bit for each
rule, so that five thousand nodes are a handful of numbers. A change helps a node if it lifts all of
the node's bits: that is how combinations are found without trying them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kubarium.engine import reasons
from kubarium.engine.devices.model import AllocationError
from kubarium.engine.explain import wishes
from kubarium.engine.explain.data import data_rule
from kubarium.engine.explain.features import feature_rules
from kubarium.engine.explain.storage import volume_rules
from kubarium.engine.explain.subject import Change
from kubarium.engine.model import HostPort, Pod, PodShape, PodTerm, SpreadConstraint
from kubarium.engine.placement import filters, topology
from kubarium.engine.placement.devices import ClaimsOf, DeviceFit, claims_of, held_mask
from kubarium.engine.placement.place import Placer
from kubarium.engine.selectors import NodeTerm, Requirement
from kubarium.engine.snapshot import Mask, Snapshot

# Bits of a number; what a pod asks beyond that is one rule together.
MAX_RULES = 50

# Nodes that fail more rules than this besides are not asked for devices: no suggestion is so long.
MAX_TOGETHER = 3

# A fresh node like a full one has none of these; and the end of pods can cure them.
CURED_BY_A_NEW_NODE = frozenset(
    {
        "resource",
        "plugin",
        "port",
        "apart",
        "kept-off",
        "devices",
        "claim-resource",
        "spread",
        "volume-limit",
        "disk",
    }
)
CURED_BY_AN_END = CURED_BY_A_NEW_NODE

# Reasons of the allocator that get a rule of their own; of more, all are told in one.
DEVICE_REASONS = 4

# Domains counted in words.
DOMAINS_COUNTED = 6

# Terms of a node affinity in words.
TERMS_TOLD = 4

# Values of a label that are compared with a misspelt one.
NAMES_COMPARED = 2_000


@dataclass(slots=True)
class Rule:
    """One thing that a node may fail: upstream's reason, ours more exactly, and who passes.

    ``lifts`` are changes that take the rule away on every node.
    """

    kind: str
    reason: str
    text: str
    passes: Mask
    lifts: list[Change] = field(default_factory=list)
    subject: object = None


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes that fail the same rules."""

    rules: tuple[Rule, ...]
    rows: NDArray[np.int64]
    code: int


class Obstacles:
    """All rules of one pod against all nodes."""

    def __init__(self, placer: Placer, pod: Pod, within: Mask | None = None) -> None:
        self.snapshot = placer.snapshot
        self.rules: list[Rule] = list(_rules(placer, pod, within))[:MAX_RULES]
        self.codes = np.zeros(self.snapshot.capacity, np.int64)
        for bit, rule in enumerate(self.rules):
            self.codes |= (~rule.passes).astype(np.int64) << bit
        self.device_bits = 0
        claims = claims_of(self.snapshot, pod)
        devices = placer.device_fit(claims)
        among = self.snapshot.alive & ~_without_claims(self.snapshot, pod)
        passes = self._devices(devices, among) if devices is not None else self.snapshot.alive
        if pod.claims and self.snapshot.inventory.has_node_resources:
            self._beside_claims(placer, pod, claims, devices, passes)
        self.rows = np.flatnonzero(self.snapshot.alive)

    def _devices(self, devices: DeviceFit, among: Mask) -> Mask:
        """The rules of the claims, asked only where few others fail; who passes them."""
        counted = np.zeros(self.snapshot.capacity, np.int64)
        for bit in range(len(self.rules)):
            counted += self.codes >> bit & 1
        near = among & (counted < MAX_TOGETHER)
        refused: dict[str, Mask] = {}
        everywhere = np.ones(self.snapshot.capacity, np.bool_)
        try:
            for reason, mask in devices.refusals(near):
                known = reason in refused or len(refused) < DEVICE_REASONS
                name = reason if known else reasons.CLAIMS
                refused[name] = refused[name] | mask if name in refused else mask
        except AllocationError as error:
            text = "no device can be looked for while a selector fails"
            self._add(Rule("devices", str(error), text, ~everywhere))
            return ~everywhere
        for reason, mask in (refused or {reasons.CLAIMS: ~everywhere}).items():
            plain = reason == reasons.CLAIMS
            text = "cannot give the devices of the claims" if plain else reason
            self._add(Rule("devices", reason, text, ~mask))
            everywhere &= ~mask
        return near & everywhere

    def _beside_claims(
        self, placer: Placer, pod: Pod, claims: ClaimsOf, devices: DeviceFit | None, left: Mask
    ) -> None:
        """What nodes lack for what the claims' devices take of them (KEP-5517)."""
        short: dict[str, list[int]] = {}
        for row in np.flatnonzero(left).tolist():
            for reason in placer.beside_claims(pod, claims, devices, row)[0]:
                short.setdefault(reason, []).append(row)
        for reason, rows in list(short.items())[:DEVICE_REASONS]:
            mask = np.ones(self.snapshot.capacity, np.bool_)
            mask[rows] = False
            resource = reason.removeprefix(reasons.insufficient(""))
            if resource == reason:
                text = reason
            else:
                text = f"{reason} for the pod together with what the devices of its claims take"
            self._add(Rule("claim-resource", reason, text, mask, subject=resource))

    def _add(self, rule: Rule) -> None:
        """One more rule, about the claims' devices."""
        bit = 1 << len(self.rules)
        self.rules.append(rule)
        self.codes |= (~rule.passes).astype(np.int64) * bit
        self.device_bits |= bit

    def of(self, row: int) -> list[Rule]:
        """The rules that the row fails."""
        code = int(self.codes[row])
        return [rule for bit, rule in enumerate(self.rules) if code >> bit & 1]

    def bit(self, rule: Rule) -> int:
        return 1 << next(i for i, known in enumerate(self.rules) if known is rule)

    @cached_property
    def groups(self) -> list[Group]:
        """Nodes by the rules that they fail: few rules first, then many nodes first."""
        codes = self.codes[self.rows]
        values, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
        order = np.argsort(inverse, kind="stable")
        starts = np.concatenate(([0], np.cumsum(counts)))
        found = [
            Group(
                tuple(r for bit, r in enumerate(self.rules) if code >> bit & 1),
                self.rows[order[starts[i] : starts[i + 1]]],
                code,
            )
            for i, code in enumerate(values.tolist())
        ]
        return sorted(found, key=lambda g: (len(g.rules), -len(g.rows)))

    def failing(self) -> dict[str, int]:
        """For each rule that fails anywhere: on how many nodes."""
        codes = self.codes[self.rows]
        counts = {r.text: int((codes >> bit & 1).sum()) for bit, r in enumerate(self.rules)}
        return {text: count for text, count in counts.items() if count}

    def tightest(self) -> tuple[Rule, int] | None:
        """(rule, nodes): the one whose absence would open the most nodes.

        If none opens any by itself, the one that most nodes fail, with 0.
        """
        codes = self.codes[self.rows]
        if not self.rules or not len(codes):
            return None
        opened = [int((codes == 1 << bit).sum()) for bit in range(len(self.rules))]
        if max(opened):
            best = opened.index(max(opened))
            return self.rules[best], opened[best]
        failed = [int((codes >> bit & 1).sum()) for bit in range(len(self.rules))]
        best = failed.index(max(failed))
        return (self.rules[best], 0) if failed[best] else None


def _rules(placer: Placer, pod: Pod, within: Mask | None) -> Iterator[Rule]:
    snapshot, shape, profile = placer.snapshot, pod.shape, placer.profile
    if within is not None:
        yield Rule("outside", reasons.PLACEMENT_OUTSIDE, "outside of the group's domain", within)
    if profile.filters("NodeUnschedulable"):
        cordoned = filters.schedulable(snapshot, shape)
        yield Rule("cordon", reasons.UNSCHEDULABLE, "cordoned", cordoned)
    if shape.node_name and profile.filters("NodeName"):
        named = filters.named(snapshot, shape.node_name)
        yield Rule("name", reasons.NODE_NAME, f"is not node {shape.node_name}", named)
    if profile.filters("TaintToleration"):
        yield from _taints(snapshot, pod)
    if profile.filters("NodeAffinity"):
        if profile.added_affinity is not None:
            mask = filters.any_term(snapshot, profile.added_affinity)
            yield Rule("added", reasons.ADDED_AFFINITY, "the scheduler's own affinity", mask)
        yield from _affinity(snapshot, pod)
    yield from _served(placer, pod)
    if shape.data_required and profile.filters("DataLocality"):
        for name in shape.data:
            yield _data(snapshot, name)
    if shape.features and profile.filters("NodeDeclaredFeatures"):
        for name, text, mask, lifts in feature_rules(snapshot, shape):
            yield Rule("features", reasons.FEATURES, text, mask, lifts, name)
    if profile.filters("NodePorts"):
        for port in shape.ports:
            yield _port(snapshot, port)
    for reason, mask in filters.resources_fit(snapshot, shape, profile):
        resource = reason.removeprefix("Insufficient ")
        resource = "pods" if reason == reasons.TOO_MANY_PODS else resource
        hint, meant = _unknown_resource(snapshot, resource)
        lifts = [wishes.renamed_resource(resource, meant)] if meant else []
        yield Rule("resource", reason, f"{reason}{hint}", mask, lifts, resource)
    claims = claims_of(snapshot, pod)
    if claims.held:
        text = "cannot use the devices that the pod's claims hold"
        yield Rule("held", reasons.CLAIM_ELSEWHERE, text, held_mask(snapshot, claims.held))
    for found in volume_rules(snapshot, pod, profile):
        yield Rule(*found)
    if topology.concerns(snapshot, pod):
        yield from _surroundings(placer, pod)


def _by_plugins(pod: Pod) -> list[Pod]:
    """The variants of a pod for nodes that have all of its extended resources themselves."""
    return [one for one in pod.variants if len(one.claims) < len(pod.claims)]


def _without_claims(snapshot: Snapshot, pod: Pod) -> Mask:
    """The nodes that these variants are for."""
    mask = np.zeros(snapshot.capacity, np.bool_)
    for one in _by_plugins(pod):
        mask |= filters.served_as(snapshot, one.shape)
    return mask


def _served(placer: Placer, pod: Pod) -> Iterator[Rule]:
    """Nodes that serve extended resources unlike what is looked at: what they lack of them."""
    snapshot, elsewhere = placer.snapshot, _without_claims(placer.snapshot, pod)
    for one in _by_plugins(pod):
        mine = filters.served_as(snapshot, one.shape)
        names = {reasons.insufficient(name): name for name, has in one.shape.advertised if has}
        for reason, mask in filters.resources_fit(snapshot, one.shape, placer.profile):
            if reason in names:
                text = f"{reason}, which a device plugin serves there"
                yield Rule("plugin", reason, text, mask | ~mine, subject=names[reason])
    for name, has in pod.shape.advertised:
        text = f"{'no' if has else 'a'} device plugin serves {name} there"
        mask = filters.advertises(snapshot, name, has) | elsewhere
        yield Rule("served", reasons.served_otherwise(name), text, mask, subject=name)


def _taints(snapshot: Snapshot, pod: Pod) -> Iterator[Rule]:
    """One rule for each taint that keeps the pod off some node."""
    kept_off: dict[str, list[bool]] = {}
    taints: dict[str, Change] = {}
    # np.unique would import numpy.ma, which takes longer than all else here.
    present = set(np.flatnonzero(np.bincount(snapshot.taint_set[snapshot.alive])).tolist())
    for number, group in enumerate(snapshot.taint_sets):
        for taint in filters.untolerated(group, pod.shape.tolerations):
            if number in present:
                clear = kept_off.setdefault(str(taint), [True] * len(snapshot.taint_sets))
                clear[number] = False
                taints[str(taint)] = wishes.tolerating(taint)
    for text, clear in kept_off.items():
        mask = np.array(clear, np.bool_)[snapshot.taint_set]
        yield Rule("taint", reasons.TAINT, f"taint {text}", mask, [taints[text]], text)


def _affinity(snapshot: Snapshot, pod: Pod) -> Iterator[Rule]:
    shape = pod.shape
    for clause in shape.node_selector:
        hint, meant = near_miss(snapshot, clause)
        lifts = [wishes.without_clause(clause)]
        if meant is not None:
            lifts.insert(0, wishes.corrected_clause(clause, meant))
        text = f"node selector {clause}{hint}"
        mask = filters.clause(snapshot, clause)
        yield Rule("selector", reasons.NODE_AFFINITY, text, mask, lifts, clause)
    if shape.affinity is None:
        return
    terms = shape.affinity
    if len(terms) == 1 and terms[0].labels and not terms[0].fields:
        for clause in terms[0].labels:
            mask = filters.clause(snapshot, clause)
            text = f"node affinity {clause}{near_miss(snapshot, clause)[0]}"
            lifts = [*_of_clause(snapshot, terms, clause), wishes.without_affinity()]
            yield Rule("affinity", reasons.NODE_AFFINITY, text, mask, lifts, clause)
        return
    mask = filters.any_term(snapshot, terms)
    lifts = [
        lift
        for clause in dict.fromkeys(c for t in terms for c in (*t.labels, *t.fields))
        for lift in _of_clause(snapshot, terms, clause)
    ]
    lifts.append(wishes.without_affinity())
    text = f"node affinity {_shown_terms(snapshot, terms)}"
    yield Rule("affinity", reasons.NODE_AFFINITY, text, mask, lifts)


def _of_clause(
    snapshot: Snapshot, terms: Sequence[NodeTerm], clause: Requirement
) -> Iterator[Change]:
    hint, meant = near_miss(snapshot, clause)
    if meant is not None:
        yield wishes.corrected_affinity_clause(clause, meant)
    lift = wishes.without_affinity_clause(terms, clause, hint)
    if lift is not None:
        yield lift


def _shown_terms(snapshot: Snapshot, terms: Sequence[NodeTerm]) -> str:
    """``rack=r9 (no node has rack=r9) and disk=ssd, or zone=z``."""
    shown = [
        " and ".join(f"{c}{near_miss(snapshot, c)[0]}" for c in (*term.labels, *term.fields))
        or "a term without clauses, which no node matches"
        for term in terms[:TERMS_TOLD]
    ]
    more = " …" if len(terms) > TERMS_TOLD else ""
    return f"{', or '.join(shown)}{more}"


def near_miss(snapshot: Snapshot, clause: Requirement) -> tuple[str, Requirement | None]:
    """What is wrong with a clause that no node can satisfy, and the clause that may be meant.

    The text is `` (no node has label zoen; did you mean zone?)``, or "".
    """
    if clause.operator not in ("In", "Exists", "Gt", "Lt"):
        return "", None
    if clause.key == "metadata.name":
        return _no_such_node(snapshot, clause)
    column = snapshot.labels.get(clause.key)
    if column is None or not (column[snapshot.alive] >= 0).any():
        keys = [k for k, c in snapshot.labels.items() if (c[snapshot.alive] >= 0).any()]
        close = _close(clause.key, keys)
        meant = replace(clause, key=close) if close else None
        return _hint(f"no node has label {clause.key}", close), meant
    if clause.operator != "In" or not clause.values:
        return "", None
    values = snapshot.label_values[clause.key]
    used = np.unique(column[snapshot.alive & (column >= 0)])
    known = [value for value, number in values.items() if _contains(used, number)]
    if any(value in known for value in clause.values):
        return "", None
    close = _close(clause.values[0], known)
    meant = replace(clause, values=(close,)) if close else None
    return _hint(f"no node has {clause.key}={clause.values[0]}", close), meant


def _unknown_resource(snapshot: Snapshot, resource: str) -> tuple[str, str]:
    """What is wrong with a resource that no node has, and the one of nodes that may be meant."""
    column = snapshot.allocatable_of(resource)
    if "/" not in resource or (column[snapshot.alive] > 0).any():
        return "", ""
    if resource.startswith(reasons.IMPLICIT_PREFIX):
        name = resource.removeprefix(reasons.IMPLICIT_PREFIX)
        close = _close(name, list(snapshot.inventory.classes))
        return _hint(f"there is no DeviceClass {name}", close), ""
    known = [
        name
        for name, index in snapshot.resources.items()
        if (snapshot.allocatable[index][snapshot.alive] > 0).any()
    ]
    answered = [c.resource for c in snapshot.inventory.classes.values() if c.resource]
    close = _close(resource, [*known, *answered])
    # Devices stand for what a class answers: then the pod has a claim, and no such resource.
    return _hint(f"no node has {resource}", close), close if close in known else ""


def _no_such_node(snapshot: Snapshot, clause: Requirement) -> tuple[str, Requirement | None]:
    if clause.operator != "In" or any(name in snapshot.rows for name in clause.values):
        return "", None
    close = _close(clause.values[0], list(snapshot.rows)) if clause.values else ""
    meant = replace(clause, values=(close,)) if close else None
    return _hint("there is no node of this name", close), meant


def _contains(numbers: NDArray[np.int32], number: int) -> bool:
    at = int(np.searchsorted(numbers, number))
    return at < len(numbers) and int(numbers[at]) == number


def _close(wanted: str, known: Sequence[str]) -> str:
    found = get_close_matches(wanted, known[:NAMES_COMPARED], 1, 0.75)
    return found[0] if found else ""


def _hint(text: str, close: str) -> str:
    return f" ({text}; did you mean {close}?)" if close else f" ({text})"


def _data(snapshot: Snapshot, name: str) -> Rule:
    text, mask, lifts = data_rule(snapshot, name)
    return Rule("data", reasons.data_missing(name), text, mask, lifts, name)


def _port(snapshot: Snapshot, port: HostPort) -> Rule:
    mask = filters.ports_free(snapshot, (port,))
    text = f"host port {port.port}/{port.protocol} is taken"
    return Rule("port", reasons.HOST_PORTS, text, mask, [wishes.without_port(port)], port)


def _surroundings(placer: Placer, pod: Pod) -> Iterator[Rule]:
    """Spread and inter-pod terms, each alone, by the masks of the filters themselves."""
    snapshot, shape, profile = placer.snapshot, pod.shape, placer.profile
    masks = topology.surroundings(snapshot, pod, profile).masks
    hard = [c for c in shape.spread if c.hard] if profile.filters("PodTopologySpread") else []
    at = 0
    for constraint in hard:
        domains = topology.spread_domains(snapshot, pod, constraint)
        text, lift = _spread_text(constraint, domains), wishes.without_spread(constraint)
        key = constraint.topology_key
        (unlabelled, keyed), (uneven, even) = masks[at : at + 2]
        hint, meant = near_miss(snapshot, Requirement(key, "Exists"))
        missing = f"has no label {key}, which the topology spread counts by{hint}"
        if meant is not None:
            corrected = wishes.spreading_over(constraint, meant.key)
            yield Rule("spread-label", unlabelled, missing, keyed, [corrected, lift], constraint)
            yield Rule("spread", uneven, text, even, [corrected, lift], constraint)
            at += 2
            continue
        yield Rule("spread-label", unlabelled, missing, keyed, [lift], constraint)
        wider = [wishes.with_skew(constraint, skew) for skew in domains.skews(constraint)]
        if 0 < len(domains.counts) < constraint.min_domains:
            wider.insert(0, wishes.with_min_domains(constraint, len(domains.counts)))
        yield Rule("spread", uneven, text, even, [*wider, lift], constraint)
        at += 2
    for reason, mask in masks[at:]:
        if reason == reasons.POD_AFFINITY:
            lifts = [wishes.without_pod_affinity(term) for term in shape.pod_affinity]
            text = f"{_terms('pod affinity', shape.pod_affinity)}{_nowhere(snapshot, shape)}"
            yield Rule("near", reason, text, mask, lifts)
        elif reason == reasons.POD_ANTI_AFFINITY:
            continue
        else:
            yield Rule("kept-off", reason, "another pod's anti-affinity", mask)
    if profile.filters("InterPodAffinity"):
        for term in shape.pod_anti_affinity:
            counts = topology.domain_counts(snapshot, term.topology_key, snapshot.tally(term))
            text = _terms("pod anti-affinity", (term,))
            lift = wishes.without_pod_anti_affinity(term)
            yield Rule("apart", reasons.POD_ANTI_AFFINITY, text, counts == 0, [lift], term)


def _nowhere(snapshot: Snapshot, shape: PodShape) -> str:
    """Which of the terms of a pod affinity nothing in the cluster can meet yet."""
    for term in shape.pod_affinity:
        hint = near_miss(snapshot, Requirement(term.topology_key, "Exists"))[0]
        if hint:
            return hint
        if not snapshot.tally(term).any():
            return " (no pod that has a node is one of these)"
    return ""


def _spread_text(constraint: SpreadConstraint, domains: topology.SpreadDomains) -> str:
    ordered = sorted(domains.counts.items(), key=lambda item: (item[1], item[0]))
    shown = [f"{name} has {count}" for name, count in ordered[:DOMAINS_COUNTED]]
    if len(ordered) > DOMAINS_COUNTED:
        name, count = ordered[-1]
        shown.append(f"… {name} has {count}")
    few = len(ordered) < constraint.min_domains
    least = f"; fewer than minDomains {constraint.min_domains}" if few else ""
    wanted = f"topology spread over {constraint.topology_key}, maxSkew {constraint.max_skew}"
    return f"{wanted}: {', '.join(shown) or 'no domain'}{least}"


def _terms(what: str, terms: Sequence[PodTerm]) -> str:
    shown = [
        f"{' and '.join(map(str, term.selector.requirements)) if term.selector else 'no pods'}"
        f" over {term.topology_key}"
        for term in terms
    ]
    return f"{what} to {'; '.join(shown)}"
