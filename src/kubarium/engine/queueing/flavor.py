"""Resource flavors and whether pods could run on the nodes that a flavor stands for.

Source: Kueue ``flavorassigner.go`` checkFlavorForPodSets and flavorSelector; Kubernetes' taint and
node affinity semantics.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from kubarium.engine.taints import compares

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Taint:
    key: str
    value: str
    effect: str

    def __str__(self) -> str:
        """As Go prints a core/v1 Taint, which is how Kueue's messages show it."""
        return f"{{{self.key} {self.value} {self.effect} <nil>}}"


@dataclass(frozen=True, slots=True)
class Toleration:
    """Empty key with Exists tolerates everything; empty effect means any effect."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""

    def tolerates(self, taint: Taint) -> bool:
        if self.effect and self.effect != taint.effect:
            return False
        if self.key and self.key != taint.key:
            return False
        if self.operator == "Exists":
            return True
        if self.operator in ("Lt", "Gt"):
            return bool(self.key) and compares(self.operator, taint.value, self.value)
        return bool(self.key) and self.value == taint.value


@dataclass(frozen=True, slots=True)
class Expression:
    """One ``matchExpressions`` entry of a node selector term."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: dict[str, str]) -> bool:
        present = self.key in labels
        match self.operator:
            case "In":
                return present and labels[self.key] in self.values
            case "NotIn":
                return not present or labels[self.key] not in self.values
            case "Exists":
                return present
            case "DoesNotExist":
                return not present
            case "Gt" | "Lt":
                return (
                    present
                    and bool(self.values)
                    and _compare(self.operator, labels[self.key], self.values[0])
                )
        return False


@dataclass(frozen=True, slots=True)
class PodConstraints:
    """What a pod template says about nodes; ``terms`` are alternatives (required affinity)."""

    node_selector: Labels = ()
    terms: tuple[tuple[Expression, ...], ...] = ()
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
            return f"untolerated taint {taint} in flavor {flavor.name}"
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
    return any(all(e.matches(labels) for e in term) for term in terms)


def _compare(operator: str, left: str, right: str) -> bool:
    """Integer comparison of label or taint values; anything else does not match."""
    try:
        return int(left) > int(right) if operator == "Gt" else int(left) < int(right)
    except ValueError:
        return False
