"""Defaults of autoscaling, networking, RBAC, storage and scheduling kinds."""

from __future__ import annotations

from typing import Any

from kubarium.api.defaulting.pods import fill
from kubarium.api.resource import Document

RBAC_GROUP = "rbac.authorization.k8s.io"
_SCALE_UP = {
    "stabilizationWindowSeconds": 0,
    "selectPolicy": "Max",
    "policies": [
        {"type": "Pods", "value": 4, "periodSeconds": 15},
        {"type": "Percent", "value": 100, "periodSeconds": 15},
    ],
}
_SCALE_DOWN = {
    "selectPolicy": "Max",
    "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
}


def default_autoscaler(document: Document) -> None:
    """autoscaling/v2 HorizontalPodAutoscaler: 80 % of CPU unless metrics are given."""
    spec = document.setdefault("spec", {})
    spec.setdefault("minReplicas", 1)
    if not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": 80}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    behavior = spec.get("behavior")
    if behavior is not None:
        _default_scaling(behavior.setdefault("scaleUp", {}), _SCALE_UP)
        _default_scaling(behavior.setdefault("scaleDown", {}), _SCALE_DOWN)


def _default_scaling(rules: dict[str, Any], defaults: dict[str, Any]) -> None:
    for key, value in defaults.items():
        if key == "policies":
            if not rules.get(key):
                rules[key] = [dict(policy) for policy in value]
        else:
            rules.setdefault(key, value)


def default_network_policy(document: Document) -> None:
    """networking.k8s.io/v1 NetworkPolicy: Egress is meant only where rules for it stand."""
    spec = document.setdefault("spec", {})
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    for rule in (*spec.get("ingress", ()), *spec.get("egress", ())):
        for port in rule.get("ports", ()):
            fill(port, "protocol", "TCP")


def default_ingress_class(document: Document) -> None:
    """networking.k8s.io/v1 IngressClass."""
    parameters = document.get("spec", {}).get("parameters")
    if parameters is not None:
        fill(parameters, "scope", "Cluster")


def default_role_binding(document: Document) -> None:
    """RoleBinding and ClusterRoleBinding: API groups of the role and the subjects."""
    if "roleRef" in document:
        fill(document["roleRef"], "apiGroup", RBAC_GROUP)
    for subject in document.get("subjects", ()):
        if subject.get("kind") in ("User", "Group"):
            fill(subject, "apiGroup", RBAC_GROUP)


def default_storage_class(document: Document) -> None:
    """storage.k8s.io/v1 StorageClass."""
    fill(document, "reclaimPolicy", "Delete")
    fill(document, "volumeBindingMode", "Immediate")


def default_csi_driver(document: Document) -> None:
    """storage.k8s.io/v1 CSIDriver."""
    spec = document.setdefault("spec", {})
    spec.setdefault("attachRequired", True)
    for key in ("podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"):
        spec.setdefault(key, False)
    fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType")
    fill(spec, "volumeLifecycleModes", ["Persistent"])


def default_priority_class(document: Document) -> None:
    """scheduling.k8s.io/v1 PriorityClass."""
    document.setdefault("preemptionPolicy", "PreemptLowerPriority")
    document.setdefault("value", 0)


def default_pod_group(document: Document) -> None:
    """PodGroup and CompositePodGroup: what they hold may be disrupted one by one."""
    spec = document.setdefault("spec", {})
    if not spec.get("disruptionMode"):
        spec["disruptionMode"] = {"single": {}}
