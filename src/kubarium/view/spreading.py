"""The default topology spread: what a pod without constraints of its own is spread by.

Source: kube-scheduler's system defaulting (podtopologyspread, helper.DefaultSelector): the pods to
count are those that the services, and the ReplicaSet, StatefulSet or ReplicationController, of the
pod select.
"""

from __future__ import annotations

from kubarium.api.kinds import REPLICA_SETS, SERVICES
from kubarium.api.resource import Document, Resource
from kubarium.engine.model import HOSTNAME_LABEL, Key, SpreadConstraint
from kubarium.engine.selectors import LabelSelector, Requirement
from kubarium.view.selectors import label_requirements, label_selector

STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet", True)
REPLICATION_CONTROLLERS = Resource(
    "", "v1", "replicationcontrollers", "ReplicationController", True
)
SPREADING_RESOURCES = (SERVICES, REPLICATION_CONTROLLERS, REPLICA_SETS, STATEFUL_SETS)
_OWNERS = {(r.api_version, r.kind): r for r in SPREADING_RESOURCES if r != SERVICES}

# (topology key, maxSkew, whether a node that would break it is turned away), and then, if any of it
# is said, (minDomains, whether the pod's node affinity is honoured, and whether nodes' taints are)
Default = tuple[str, int, bool] | tuple[str, int, bool, int, bool, bool]
SYSTEM_DEFAULTS: tuple[Default, ...] = (
    (HOSTNAME_LABEL, 3, False),
    ("topology.kubernetes.io/zone", 5, False),
)


class Spreading:
    """Knows the selectors of services and of owners. ``defaults`` are by scheduler name."""

    def __init__(self) -> None:
        self.defaults: dict[str, tuple[Default, ...]] = {}
        self._services: dict[str, dict[str, tuple[Requirement, ...]]] = {}
        self._owners: dict[tuple[Resource, Key], LabelSelector] = {}

    def apply(self, resource: Resource, old: Document | None, new: Document | None) -> None:
        """Take in one change of one of SPREADING_RESOURCES."""
        document = new or old
        assert document is not None
        namespace, name = document["metadata"].get("namespace", ""), document["metadata"]["name"]
        spec = (new or {}).get("spec") or {}
        if resource == SERVICES:
            book = self._services.setdefault(namespace, {})
            if spec.get("selector"):
                book[name] = label_requirements(spec["selector"])
            else:
                book.pop(name, None)
            return
        selector = self._selector(resource, spec.get("selector"))
        if new is not None and selector is not None:
            self._owners[resource, (namespace, name)] = selector
        else:
            self._owners.pop((resource, (namespace, name)), None)

    def _selector(self, resource: Resource, given: Document | None) -> LabelSelector | None:
        if resource != REPLICATION_CONTROLLERS:
            return label_selector(given)
        return LabelSelector(label_requirements(given))  # a map, which selects by itself

    def constraints(self, pod: Document) -> tuple[SpreadConstraint, ...]:
        """The default constraints of a pod; none if nothing selects it or it has its own."""
        spec = pod.get("spec") or {}
        if spec.get("topologySpreadConstraints"):
            return ()
        clauses = self._clauses(pod)
        if not clauses:
            return ()
        selector = LabelSelector(clauses)
        defaults = self.defaults.get(spec.get("schedulerName") or "", SYSTEM_DEFAULTS)
        return tuple(SpreadConstraint(*one[:3], selector, *one[3:]) for one in defaults)

    def is_system(self, pod: Document) -> bool:
        """Whether the pod's scheduler spreads by the system's defaults, not by its own list."""
        return ((pod.get("spec") or {}).get("schedulerName") or "") not in self.defaults

    def _clauses(self, pod: Document) -> tuple[Requirement, ...]:
        metadata = pod["metadata"]
        namespace, labels = metadata.get("namespace", ""), metadata.get("labels") or {}
        clauses: dict[Requirement, None] = {}
        if labels:
            for selected in self._services.get(namespace, {}).values():
                if all(r.holds(labels.get(r.key)) for r in selected):
                    clauses.update(dict.fromkeys(selected))
        for owner in metadata.get("ownerReferences") or ():
            resource = _OWNERS.get((owner.get("apiVersion", ""), owner.get("kind", "")))
            if owner.get("controller") and resource is not None:
                found = self._owners.get((resource, (namespace, owner.get("name", ""))))
                clauses.update(dict.fromkeys(found.requirements if found else ()))
        return tuple(clauses)
