"""Which nodes a DaemonSet's pod belongs on, and the pod that goes there. Pure.

Source: upstream ``pkg/controller/daemon/daemon_controller.go`` and ``util/daemonset_util.go``.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubarium.api.labels import POD_TEMPLATE_GENERATION, TEMPLATE_GENERATION
from kubarium.api.resource import Document
from kubarium.control.workloads.pods import pod_from_template
from kubarium.engine.model import Toleration
from kubarium.engine.selectors import NodeTerm, Requirement
from kubarium.view.selectors import label_requirements, node_terms
from kubarium.view.taints import taint, toleration

REVISION_LABEL = "controller-revision-hash"
NO_SCHEDULE, NO_EXECUTE = "NoSchedule", "NoExecute"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
# Daemons stay on, and come to, nodes in trouble: they are often what helps.
_TOLERATED = (
    ("node.kubernetes.io/not-ready", NO_EXECUTE),
    ("node.kubernetes.io/unreachable", NO_EXECUTE),
    ("node.kubernetes.io/disk-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/memory-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/pid-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/unschedulable", NO_SCHEDULE),
)
_NETWORK_UNAVAILABLE = ("node.kubernetes.io/network-unavailable", NO_SCHEDULE)


@dataclass(frozen=True, slots=True)
class Placement:
    """What a template says about nodes, read once."""

    node_name: str
    selector: tuple[Requirement, ...]
    terms: tuple[NodeTerm, ...] | None
    tolerations: tuple[Toleration, ...]

    @staticmethod
    def of(daemon_set: Document) -> Placement:
        spec = daemon_set["spec"]["template"]["spec"]
        affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
        return Placement(
            spec.get("nodeName") or "",
            tuple(label_requirements(spec.get("nodeSelector"))),
            node_terms(affinity.get(_REQUIRED)),
            tuple(toleration(entry) for entry in tolerations_of(spec)),
        )

    def decide(self, node: Document) -> tuple[bool, bool]:
        """(a pod should be started there, one that is there may stay)."""
        name, labels = node["metadata"]["name"], node["metadata"].get("labels") or {}
        if self.node_name and self.node_name != name:
            return False, False
        if not all(clause.holds(labels.get(clause.key)) for clause in self.selector):
            return False, False
        if self.terms is not None and not any(term.matches(name, labels) for term in self.terms):
            return False, False
        effects = self._untolerated(node)
        return not effects, NO_EXECUTE not in effects

    def _untolerated(self, node: Document) -> list[str]:
        taints = [taint(entry) for entry in (node.get("spec") or {}).get("taints") or ()]
        return [
            found.effect
            for found in taints
            if found.effect in (NO_SCHEDULE, NO_EXECUTE)
            and not any(entry.tolerates(found) for entry in self.tolerations)
        ]


def tolerations_of(spec: Document) -> list[Document]:
    """A pod spec's tolerations and those that every daemon gets."""
    wanted: list[tuple[str, str]] = [*_TOLERATED]
    if spec.get("hostNetwork"):
        wanted.append(_NETWORK_UNAVAILABLE)
    added = [{"key": key, "operator": "Exists", "effect": effect} for key, effect in wanted]
    own = [dict(entry) for entry in spec.get("tolerations") or ()]
    return own + [entry for entry in added if entry not in own]


def make_pod(daemon_set: Document, node: str, revision_hash: str) -> Document:
    """The pod for a node: the scheduler binds it there, by an affinity to the node's name."""
    pod = pod_from_template(daemon_set["spec"]["template"], daemon_set)
    labels = pod["metadata"].get("labels") or {}
    pod["metadata"]["labels"] = {**labels, REVISION_LABEL: revision_hash}
    notes = daemon_set["metadata"].get("annotations") or {}
    if TEMPLATE_GENERATION in notes:
        pod["metadata"]["labels"][POD_TEMPLATE_GENERATION] = notes[TEMPLATE_GENERATION]
    spec = pod["spec"]
    spec["tolerations"] = tolerations_of(spec)
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    affinity = dict(spec.get("affinity") or {})
    near = dict(affinity.get("nodeAffinity") or {})
    near[_REQUIRED] = {"nodeSelectorTerms": [{"matchFields": [field]}]}
    spec["affinity"] = {**affinity, "nodeAffinity": near}
    return pod


def target_node(pod: Document) -> str:
    """The node that a pod is on, or is meant for; "" if neither is said."""
    spec = pod["spec"]
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(_REQUIRED) or {}
    for term in required.get("nodeSelectorTerms") or ():
        for field in term.get("matchFields") or ():
            if field.get("key") == "metadata.name" and field.get("operator") == "In":
                values = list(field.get("values") or ())
                if len(values) == 1:
                    return str(values[0])
    return ""
