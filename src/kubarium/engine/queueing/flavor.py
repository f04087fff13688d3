"""Resource flavors and whether pods could run on the nodes that a flavor stands for.

Source: Kueue ``flavorassigner.go`` checkFlavorForPodSets and flavorSelector; Kubernetes' taint and
node affinity semantics.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from kubarium.engine.selectors import Requirement
from kubarium.engine.taints import Taint, Toleration

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class PodConstraints:
    """What a pod template says about nodes; ``terms`` are alternatives (required affinity)."""

    node_selector: Labels = ()
    terms: tuple[tuple[Requirement, ...], ...] = ()
    tolerations: tuple[Toleration, ...] = ()


@dataclass(frozen=True, slots=True)
class Flavor:
    """A kind of node: its labels, its taints, and tolerations that it adds to admitted pods."""

    name: str
    labels: Labels = ()
    taints: tuple[Taint, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    topology: str = field(default="")


@lru_cache(maxsize=65536)
def mismatch(flavor: Flavor, pods: PodConstraints) -> str:
    """Why these pods cannot run on this flavor's nodes, or ""."""
    tolerations = pods.tolerations + flavor.tolerations
    for taint in flavor.taints:
        hard = taint.effect in ("NoSchedule", "NoExecute")
        if hard and not any(t.tolerates(taint) for t in tolerations):
            return f"untolerated taint {_as_go(taint)} in flavor {flavor.name}"
    if not _affinity_matches(dict(flavor.labels), pods):
        return f"flavor {flavor.name} doesn't match node affinity"
    return ""


def _affinity_matches(labels: dict[str, str], pods: PodConstraints) -> bool:
    """Only keys that the flavor defines count: other labels are the scheduler's business."""
    if any(labels.get(key, value) != value for key, value in pods.node_selector):
        return False
    terms = [tuple(e for e in term if e.key in labels) for term in pods.terms]
    if not terms or not all(terms):
        return True  # a term without a relevant key accepts every flavor, and terms are ORed
    return any(all(e.holds(labels.get(e.key)) for e in term) for term in terms)


def _as_go(taint: Taint) -> str:
    """As Go prints a core/v1 Taint, which is how Kueue's messages show it."""
    return f"{{{taint.key} {taint.value} {taint.effect} <nil>}}"
