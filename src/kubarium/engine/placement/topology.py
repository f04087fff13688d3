"""The filters and scores that look at other pods: topology spread and inter-pod (anti-)affinity.

Both count pods by topology domain. The snapshot's tallies give counts by node; a domain's count is
the sum over the nodes with the same label value. Source: the plugins podtopologyspread and
interpodaffinity of kube-scheduler 1.37.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log

import numpy as np
from numpy.typing import NDArray

from kubarium.engine import reasons
from kubarium.engine.model import HOSTNAME_LABEL, Pod, PodTerm, SpreadConstraint
from kubarium.engine.placement import filters
from kubarium.engine.placement.profile import DEFAULT, Profile
from kubarium.engine.placement.scores import (
    MAX_SCORE,
    Scores,
)
from kubarium.engine.snapshot import Mask, Snapshot

Column = NDArray[np.int32]


@dataclass(slots=True)
class Surroundings:
    """The answer for one pod: masks by reason in upstream's order, and a score."""

    masks: list[tuple[str, Mask]] = field(default_factory=list)

    def mask(self, capacity: int) -> Mask:
        mask = np.ones(capacity, np.bool_)
        for _, passed in self.masks:
            mask &= passed
        return mask


@dataclass(frozen=True, slots=True)
class SpreadDomains:
    """What one hard spread constraint counts: pods by domain, the least, and the pod itself."""

    counts: dict[str, int]
    least: int
    itself: int

    def skews(self, constraint: SpreadConstraint) -> list[int]:
        """The values of maxSkew, beyond the constraint's, that each open another domain."""
        found = {count + self.itself - self.least for count in self.counts.values()}
        return sorted(skew for skew in found if skew > constraint.max_skew)


def concerns(snapshot: Snapshot, pod: Pod) -> bool:
    """Whether other pods can matter for this one at all: its own wishes or those of others."""
    if pod.shape.looks_at_pods:
        return True
    tallies = snapshot.tallies
    if not (tallies.anti_holders or tallies.weight_holders or tallies.hard_holders):
        return False
    return any(
        tallies.speaks_of(term, pod)
        for book in (tallies.anti_holders, tallies.weight_holders, tallies.hard_holders)
        for term in book
    )


def surroundings(snapshot: Snapshot, pod: Pod, profile: Profile = DEFAULT) -> Surroundings:
    """Masks of PodTopologySpread and InterPodAffinity."""
    found = Surroundings()
    if profile.filters("PodTopologySpread"):
        for constraint in pod.shape.spread:
            if constraint.hard:
                _spread_filter(snapshot, pod, constraint, found)
    if not profile.filters("InterPodAffinity"):
        return found
    if pod.shape.pod_affinity:
        found.masks.append((reasons.POD_AFFINITY, _affinity_mask(snapshot, pod)))
    for term in pod.shape.pod_anti_affinity:
        counts = domain_counts(snapshot, term.topology_key, snapshot.tally(term))
        found.masks.append((reasons.POD_ANTI_AFFINITY, counts == 0))
    _existing_anti_affinity(snapshot, pod, found)
    return found


def _column(snapshot: Snapshot, key: str) -> Column:
    column = snapshot.labels.get(key)
    return np.full(snapshot.capacity, -1, np.int32) if column is None else column


def domain_counts(snapshot: Snapshot, key: str, counts: Scores) -> Scores:
    """For each row the sum over all rows of its domain; 0 where the label is missing."""
    return _sums(snapshot, _column(snapshot, key), counts)


def _sums(snapshot: Snapshot, column: Column, counts: Scores) -> Scores:
    present = (column >= 0) & snapshot.alive
    sums = np.zeros(snapshot.capacity, np.int64)
    if present.any():
        by_domain = np.bincount(column[present], weights=counts[present]).astype(np.int64)
        sums[present] = by_domain[column[present]]
    return sums


def _matching(snapshot: Snapshot, pod: Pod, constraint: SpreadConstraint) -> Scores:
    """Per row the pods to spread; a selector without clauses counts none, upstream's quirk."""
    if not constraint.selector.requirements:
        return np.zeros(snapshot.capacity, np.int64)
    term = PodTerm("", constraint.selector, (pod.namespace,))
    return snapshot.tally(term, staying=True)


def _eligible(snapshot: Snapshot, pod: Pod, constraint: SpreadConstraint, keys: list[str]) -> Mask:
    """Nodes that count for the constraint: all keys present, inclusion policies honoured."""
    mask = snapshot.alive.copy()
    for key in keys:
        mask &= _column(snapshot, key) >= 0
    if constraint.honor_affinity:
        mask &= filters.affine(snapshot, pod.shape)
    if constraint.honor_taints:
        mask &= filters.tolerated(snapshot, pod.shape.tolerations)
    return mask


def _spread_filter(
    snapshot: Snapshot, pod: Pod, constraint: SpreadConstraint, found: Surroundings
) -> None:
    """Count in the domain, plus the pod itself, less the smallest domain, within maxSkew."""
    keyed, _, in_domain, least, itself = _spread_counts(snapshot, pod, constraint)
    found.masks.append((reasons.SPREAD_LABEL, keyed))
    found.masks.append((reasons.SPREAD, in_domain + itself - least <= constraint.max_skew))


def _spread_counts(
    snapshot: Snapshot, pod: Pod, constraint: SpreadConstraint
) -> tuple[Mask, Mask, Scores, int, int]:
    """(nodes with the label, nodes that count, pods in each row's domain, the least, itself)."""
    hard_keys = [c.topology_key for c in pod.shape.spread if c.hard]
    column = _column(snapshot, constraint.topology_key)
    eligible = _eligible(snapshot, pod, constraint, hard_keys)
    counts = np.where(eligible, _matching(snapshot, pod, constraint), 0)
    in_domain = domain_counts(snapshot, constraint.topology_key, counts)
    domains = np.unique(column[eligible])
    least = int(in_domain[eligible].min()) if len(domains) else 0
    if len(domains) < constraint.min_domains:
        least = 0
    itself = int(constraint.selector.matches(pod.labels))
    return column >= 0, eligible, in_domain, least, itself


def spread_domains(snapshot: Snapshot, pod: Pod, constraint: SpreadConstraint) -> SpreadDomains:
    """The counts that the spread filter compares."""
    _, eligible, in_domain, least, itself = _spread_counts(snapshot, pod, constraint)
    key, counts = constraint.topology_key, {}
    column = _column(snapshot, key)
    rows = np.flatnonzero(eligible)
    _, first = np.unique(column[rows], return_index=True)
    for row in rows[first].tolist():
        node = snapshot.nodes[row]
        assert node is not None
        counts[node.labels[key]] = in_domain.item(row)
    return SpreadDomains(counts, least, itself)


def _affinity_mask(snapshot: Snapshot, pod: Pod) -> Mask:
    """Every term has a match in the node's domain; the first pod of a series may start anywhere."""
    terms = pod.shape.pod_affinity
    counts = snapshot.tally(*terms)
    keyed = np.ones(snapshot.capacity, np.bool_)
    near = np.ones(snapshot.capacity, np.bool_)
    nowhere = True
    for term in terms:
        present = _column(snapshot, term.topology_key) >= 0
        keyed &= present
        sums = domain_counts(snapshot, term.topology_key, counts)
        near &= sums > 0
        nowhere = nowhere and not sums.any()
    if nowhere and all(snapshot.tallies.speaks_of(term, pod) for term in terms):
        return keyed
    return keyed & near


def _existing_anti_affinity(snapshot: Snapshot, pod: Pod, found: Surroundings) -> None:
    mask: Mask | None = None
    for term, holders in snapshot.tallies.anti_holders.items():
        if not snapshot.tallies.speaks_of(term, pod):
            continue
        free = domain_counts(snapshot, term.topology_key, holders) == 0
        mask = free if mask is None else mask & free
    if mask is not None:
        found.masks.append((reasons.EXISTING_ANTI_AFFINITY, mask))


def score(snapshot: Snapshot, pod: Pod, feasible: Mask, profile: Profile = DEFAULT) -> Scores:
    """Weighted soft-spread and inter-pod preference scores; meaningful on feasible rows."""
    total = np.zeros(snapshot.capacity, np.int64)
    if not feasible.any():
        return total
    soft = [c for c in pod.shape.spread if not c.hard]
    weights = profile.weights
    if soft and weights.PodTopologySpread:
        total += weights.PodTopologySpread * _spread_score(snapshot, pod, soft, feasible)
    if weights.InterPodAffinity:
        total += weights.InterPodAffinity * _preference_score(snapshot, pod, feasible, profile)
    return total


def _spread_score(
    snapshot: Snapshot, pod: Pod, soft: list[SpreadConstraint], feasible: Mask
) -> Scores:
    keys = [c.topology_key for c in soft]
    raw = np.zeros(snapshot.capacity, np.float64)
    counted = feasible.copy()
    if not pod.shape.spread_by_default:
        for key in keys:
            counted &= _column(snapshot, key) >= 0
    else:
        keys = []  # the cluster's defaults also score nodes that lack a label
    for constraint in soft:
        tally = _matching(snapshot, pod, constraint)
        if constraint.topology_key == HOSTNAME_LABEL:
            domains, counts = int(counted.sum()), tally
        else:
            eligible = _eligible(snapshot, pod, constraint, keys)
            # Nodes without the label, where the defaults let them in, count as one domain, which
            # is that of the empty value if there are nodes with it.
            column = _column(snapshot, constraint.topology_key)
            empty = snapshot.label_values.get(constraint.topology_key, {}).get("", -1)
            column = np.where(column < 0, empty, column)
            domains = len(np.unique(column[counted]))
            counts = _sums(snapshot, column, np.where(eligible, tally, 0))
        here = _column(snapshot, constraint.topology_key) >= 0
        raw += np.where(here, counts * log(domains + 2) + (constraint.max_skew - 1), 0.0)
    rounded = np.floor(raw + 0.5).astype(np.int64)
    scores = np.zeros(snapshot.capacity, np.int64)
    if not counted.any():
        return scores
    most, least = int(rounded[counted].max()), int(rounded[counted].min())
    if most == 0:
        scores[counted] = MAX_SCORE
    else:
        scores[counted] = MAX_SCORE * (most + least - rounded[counted]) // most
    return scores


def _preference_score(snapshot: Snapshot, pod: Pod, feasible: Mask, profile: Profile) -> Scores:
    raw = np.zeros(snapshot.capacity, np.int64)
    if profile.ignore_preferred_of_existing and not pod.shape.pod_preferred:
        return raw
    for wanted in pod.shape.pod_preferred:
        sums = domain_counts(snapshot, wanted.term.topology_key, snapshot.tally(wanted.term))
        raw += wanted.weight * sums
    hard = profile.hard_pod_affinity_weight
    for book, weight in (
        (snapshot.tallies.weight_holders, 1),
        (snapshot.tallies.hard_holders, hard),
    ):
        for term, held in book.items() if weight else ():
            if snapshot.tallies.speaks_of(term, pod):
                raw += weight * domain_counts(snapshot, term.topology_key, held)
    most, least = int(raw[feasible].max()), int(raw[feasible].min())
    if most == least:
        return np.zeros(snapshot.capacity, np.int64)
    share = (raw - least).astype(np.float64) / (most - least)  # upstream divides first
    return (MAX_SCORE * share).astype(np.int64)
