"""Defaults of core/v1 and discovery kinds other than pods (pkg/apis/core/v1/defaults.go)."""

from __future__ import annotations

from typing import Any

from kubarium.api.defaulting.pods import fill, round_up
from kubarium.api.resource import Document

CLIENT_IP_AFFINITY_S = 10_800
NAME_LABEL = "kubernetes.io/metadata.name"


def default_service(document: Document) -> None:
    """core/v1 Service: type, affinity, policies and ports. Addresses are the registry's work."""
    spec = document.setdefault("spec", {})
    fill(spec, "sessionAffinity", "None")
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        client = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        client.setdefault("timeoutSeconds", CLIENT_IP_AFFINITY_S)
    fill(spec, "type", "ClusterIP")
    for port in spec.get("ports", ()):
        fill(port, "protocol", "TCP")
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port", 0)
    _default_traffic(spec)
    document.setdefault("status", {}).setdefault("loadBalancer", {})


def _default_traffic(spec: dict[str, Any]) -> None:
    type_ = spec["type"]
    external = type_ in ("NodePort", "LoadBalancer")
    if external or (type_ == "ClusterIP" and spec.get("externalIPs")):
        fill(spec, "externalTrafficPolicy", "Cluster")
    if external or type_ == "ClusterIP":
        fill(spec, "internalTrafficPolicy", "Cluster")
    if type_ == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)


def default_secret(document: Document) -> None:
    """core/v1 Secret."""
    fill(document, "type", "Opaque")


def default_namespace(document: Document) -> None:
    """core/v1 Namespace: phase, and the label that lets selectors name one namespace."""
    fill(document.setdefault("status", {}), "phase", "Active")
    metadata = document.setdefault("metadata", {})
    document.setdefault("spec", {})
    name = metadata.get("name")
    if name:
        metadata.setdefault("labels", {})[NAME_LABEL] = name


def default_node(document: Document) -> None:
    """core/v1 Node: what is allocatable is the capacity unless said otherwise."""
    document.setdefault("spec", {})
    status = document.setdefault("status", {})
    for part in ("capacity", "allocatable"):
        round_up(status.get(part))
    if status.get("capacity") and not status.get("allocatable"):
        status["allocatable"] = dict(status["capacity"])


def default_endpoints(document: Document) -> None:
    """core/v1 Endpoints."""
    for subset in document.get("subsets", ()):
        for port in subset.get("ports", ()):
            fill(port, "protocol", "TCP")


def default_endpoint_slice(document: Document) -> None:
    """discovery.k8s.io/v1 EndpointSlice."""
    for port in document.get("ports", ()):
        port.setdefault("name", "")
        fill(port, "protocol", "TCP")


def default_persistent_volume(document: Document) -> None:
    """core/v1 PersistentVolume."""
    fill(document.setdefault("status", {}), "phase", "Pending")
    spec = document.setdefault("spec", {})
    fill(spec, "persistentVolumeReclaimPolicy", "Retain")
    spec.setdefault("volumeMode", "Filesystem")
    if "hostPath" in spec:
        spec["hostPath"].setdefault("type", "")


def default_persistent_volume_claim(document: Document) -> None:
    """core/v1 PersistentVolumeClaim, also as a template of a StatefulSet."""
    fill(document.setdefault("status", {}), "phase", "Pending")
    document.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")


def default_limit_range(document: Document) -> None:
    """core/v1 LimitRange: a container's default follows max, its default request the default."""
    for item in document.setdefault("spec", {}).get("limits", ()):
        if item.get("type") != "Container":
            continue
        limits = item.setdefault("default", {})
        requests = item.setdefault("defaultRequest", {})
        for name, quantity in item.get("max", {}).items():
            limits.setdefault(name, quantity)
        for name, quantity in limits.items():
            requests.setdefault(name, quantity)
        for name, quantity in item.get("min", {}).items():
            requests.setdefault(name, quantity)
        for key in ("default", "defaultRequest"):
            if not item[key]:
                del item[key]
