"""What objects use of a ResourceQuota: shared by admission, which enforces it, and the controller,
which reports it. (Upstream: ``pkg/quota/v1/evaluator``.)
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType

from kubarium.api.device_quotas import claim_amount, counts_claims, other_names
from kubarium.api.resource import Document, Resource
from kubarium.base.quantity import format_quantity, parse_quantity

Usage = dict[str, Fraction]
NO_DEVICES: Mapping[str, str] = MappingProxyType({})

# Kinds that a quota may count by their bare plural.
BARE = (
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
)
# Names that mean requests.
SHORT = {"cpu": "requests.cpu", "memory": "requests.memory"}
_CLAIMS = "resourceclaims.resource.k8s.io"
_NODE_PORT_TYPES = ("NodePort", "LoadBalancer")
_TERMINAL = ("Succeeded", "Failed")


def counts(resource: Resource, hard: Document) -> bool:
    """Whether a quota says anything of this kind."""
    if f"count/{resource.qualified}" in hard:
        return True
    if resource.qualified == _CLAIMS:
        return counts_claims(hard)
    if resource.group:
        return False
    if resource.plural == "pods":
        return any(not name.startswith("count/") for name in hard)
    return any(name.partition(".")[0] == resource.plural for name in hard)


def usage_of(
    resource: Resource,
    document: Document,
    hard: Document,
    device_resources: Mapping[str, str] = NO_DEVICES,
) -> Usage:
    """What one object uses of the amounts that ``hard`` names.

    ``device_resources`` are the extended resources that DeviceClasses answer, by class.
    """
    is_pod = (resource.group, resource.plural) == ("", "pods")
    usage: Usage = {}
    if f"count/{resource.qualified}" in hard:
        usage[f"count/{resource.qualified}"] = Fraction(1)
    if is_pod and (document.get("status") or {}).get("phase") in _TERMINAL:
        return usage
    if not resource.group and resource.plural in BARE and resource.plural in hard:
        usage[resource.plural] = Fraction(1)
    if is_pod:
        usage |= {
            name: amount
            for name in hard
            if (amount := _pod_amounts(document, name, device_resources))
        }
    elif (resource.group, resource.plural) == ("", "services"):
        usage |= _service_usage(document, hard)
    elif resource.qualified == _CLAIMS:
        usage |= {
            name: amount
            for name in hard
            if (amount := claim_amount(document, name, device_resources))
        }
    return usage


def _service_usage(service: Document, hard: Document) -> Usage:
    spec = service.get("spec") or {}
    usage: Usage = {}
    if "services.loadbalancers" in hard and spec.get("type") == "LoadBalancer":
        usage["services.loadbalancers"] = Fraction(1)
    if "services.nodeports" in hard and spec.get("type") in _NODE_PORT_TYPES:
        usage["services.nodeports"] = Fraction(len(spec.get("ports") or ()))
    return usage


def _pod_amounts(pod: Document, name: str, device_resources: Mapping[str, str]) -> Fraction:
    """Also by the other names of the same devices: resource and DeviceClass (KEP-5004)."""
    others = other_names(name, device_resources) if device_resources else ()
    return sum((_pod_amount(pod, other) for other in others), _pod_amount(pod, name))


def _pod_amount(pod: Document, name: str) -> Fraction:
    """The pod's requests or limits of one quota resource: the larger of the containers' sum and
    the largest init container."""
    part, _, resource = SHORT.get(name, name).partition(".")
    if part not in ("requests", "limits") or not resource:
        return Fraction(0)
    spec = pod.get("spec") or {}

    def amount(container: Document) -> Fraction:
        return parse_quantity(((container.get("resources") or {}).get(part) or {}).get(resource, 0))

    running = sum((amount(c) for c in spec.get("containers") or ()), Fraction(0))
    initial = max((amount(c) for c in spec.get("initContainers") or ()), default=Fraction(0))
    return max(running, initial)


def in_scope(quota: Document, resource: Resource, document: Document) -> bool:
    """Whether a quota with scopes speaks of this object: scopes only ever select pods."""
    spec = quota.get("spec") or {}
    scopes: list[Document] = [{"scopeName": name} for name in spec.get("scopes") or ()]
    scopes += (spec.get("scopeSelector") or {}).get("matchExpressions") or []
    if not scopes:
        return True
    if (resource.group, resource.plural) != ("", "pods"):
        return False
    return all(_matches(scope, document) for scope in scopes)


def _matches(scope: Document, pod: Document) -> bool:
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    name = scope["scopeName"]
    if name in ("Terminating", "NotTerminating"):
        return bool((spec.get("activeDeadlineSeconds") is not None) == (name == "Terminating"))
    if name in ("BestEffort", "NotBestEffort"):
        return bool((status.get("qosClass") == "BestEffort") == (name == "BestEffort"))
    if name == "PriorityClass":
        given, values = spec.get("priorityClassName", ""), scope.get("values") or ()
        operator = scope.get("operator", "Exists")
        found = given in values if operator in ("In", "NotIn") else bool(given)
        return found == (operator in ("In", "Exists"))
    return False


def status_of(hard: Document, used: Mapping[str, Fraction]) -> Document:
    """``status`` of a quota: what it limits and how much of each is used."""
    amounts = {
        name: format_quantity(used.get(name, Fraction(0)), "memory" in name) for name in hard
    }
    return {"hard": dict(hard), "used": amounts}
