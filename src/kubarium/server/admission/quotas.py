"""ResourceQuota: what a namespace may hold in all.

Usage is counted from what is stored, at the moment of the write, so that no controller has to keep
up for the limit to hold; ``status.used`` is written along with it. (Upstream: ``plugin/pkg/
admission/resourcequota`` and ``pkg/quota/v1/evaluator``.)
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from kubarium.api.catalog import Kind
from kubarium.api.resource import Document
from kubarium.base.errors import forbidden
from kubarium.base.quantity import format_quantity, parse_quantity
from kubarium.server.admission.chain import Attempt
from kubarium.server.registry import Registry
from kubarium.store.log import Record

Usage = dict[str, Fraction]

# Kinds that a quota may count by their bare plural.
_BARE = (
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
)
_SHORT = {"cpu": "requests.cpu", "memory": "requests.memory"}
_NODE_PORT_TYPES = ("NodePort", "LoadBalancer")
_TERMINAL = ("Succeeded", "Failed")


def check_quotas(attempt: Attempt) -> None:
    """ApiError 403 if the new object does not fit; else note what will be used."""
    registry, kind = attempt.registry, attempt.kind
    page = registry.store.range(f"/core/resourcequotas/{attempt.namespace}/")
    for record in page.records:
        hard = (record.value.get("spec") or {}).get("hard") or {}
        if not in_scope(record.value, kind, attempt.document):
            continue
        _require_amounts(attempt, record.value, hard)
        wanted = {k: v for k, v in usage_of(kind, attempt.document, hard).items() if v}
        if wanted:
            _charge(attempt, record, hard, wanted)


def _charge(attempt: Attempt, record: Record, hard: Document, wanted: Usage) -> None:
    quota = record.value
    used = usage_in(attempt.registry, quota)
    over = [
        name for name in wanted if used.get(name, 0) + wanted[name] > parse_quantity(hard[name])
    ]
    if over:
        names = sorted(over)
        why = (
            f"exceeded quota: {quota['metadata']['name']}, "
            f"requested: {_shown(names, wanted)}, used: {_shown(names, used)}, "
            f"limited: {','.join(f'{name}={hard[name]}' for name in names)}"
        )
        resource = attempt.kind.resource
        raise forbidden(resource.plural, resource.group, attempt.name, why)
    for name, amount in wanted.items():
        used[name] = used.get(name, Fraction(0)) + amount
    _note(attempt, record, hard, used)


def _note(attempt: Attempt, record: Record, hard: Document, used: Usage) -> None:
    shown = {name: format_quantity(used.get(name, Fraction(0)), "memory" in name) for name in hard}
    status = {"hard": dict(hard), "used": shown}
    if status == record.value.get("status"):
        return
    kind = attempt.registry.kind_of("", "v1", "resourcequotas")
    new = record.value | {"status": status, "metadata": dict(record.value["metadata"])}
    attempt.registry.commit(kind, new, record, attempt.call.dry_run)


def _shown(names: list[str], usage: Mapping[str, Fraction]) -> str:
    return ",".join(
        f"{name}={format_quantity(usage.get(name, Fraction(0)), 'memory' in name)}"
        for name in names
    )


def usage_in(registry: Registry, quota: Document) -> Usage:
    """What the objects of a quota's namespace use of what it limits."""
    hard = (quota.get("spec") or {}).get("hard") or {}
    namespace = quota["metadata"]["namespace"]
    total: Usage = {}
    for kind in registry.catalog.storage_kinds():
        if not kind.namespaced or not _counts(kind, hard):
            continue
        for record in registry.store.range(registry.prefix(kind, namespace)).records:
            if not in_scope(quota, kind, record.value):
                continue
            for name, amount in usage_of(kind, record.value, hard).items():
                total[name] = total.get(name, Fraction(0)) + amount
    return total


def _counts(kind: Kind, hard: Document) -> bool:
    """Whether a quota says anything of this kind."""
    resource = kind.resource
    if f"count/{resource.qualified}" in hard:
        return True
    if resource.group:
        return False
    if resource.plural == "pods":
        return any(not name.startswith("count/") for name in hard)
    return any(name.partition(".")[0] == resource.plural for name in hard)


def usage_of(kind: Kind, document: Document, hard: Document) -> Usage:
    """What one object uses of the amounts that ``hard`` names."""
    resource = kind.resource
    is_pod = (resource.group, resource.plural) == ("", "pods")
    usage: Usage = {}
    if f"count/{resource.qualified}" in hard:
        usage[f"count/{resource.qualified}"] = Fraction(1)
    if is_pod and (document.get("status") or {}).get("phase") in _TERMINAL:
        return usage
    if not resource.group and resource.plural in _BARE and resource.plural in hard:
        usage[resource.plural] = Fraction(1)
    if is_pod:
        usage |= {name: amount for name in hard if (amount := _pod_amount(document, name))}
    elif (resource.group, resource.plural) == ("", "services"):
        usage |= _service_usage(document, hard)
    return usage


def _service_usage(service: Document, hard: Document) -> Usage:
    spec = service.get("spec") or {}
    usage: Usage = {}
    if "services.loadbalancers" in hard and spec.get("type") == "LoadBalancer":
        usage["services.loadbalancers"] = Fraction(1)
    if "services.nodeports" in hard and spec.get("type") in _NODE_PORT_TYPES:
        usage["services.nodeports"] = Fraction(len(spec.get("ports") or ()))
    return usage


def _pod_amount(pod: Document, name: str) -> Fraction:
    """The pod's requests or limits of one quota resource: the larger of the containers' sum and
    the largest init container."""
    part, _, resource = _SHORT.get(name, name).partition(".")
    if part not in ("requests", "limits") or not resource:
        return Fraction(0)
    spec = pod.get("spec") or {}

    def amount(container: Document) -> Fraction:
        return parse_quantity(((container.get("resources") or {}).get(part) or {}).get(resource, 0))

    running = sum((amount(c) for c in spec.get("containers") or ()), Fraction(0))
    initial = max((amount(c) for c in spec.get("initContainers") or ()), default=Fraction(0))
    return max(running, initial)


def _require_amounts(attempt: Attempt, quota: Document, hard: Document) -> None:
    """A pod under a quota of cpu or memory must say how much it wants; ApiError 403."""
    resource = attempt.kind.resource
    if (resource.group, resource.plural) != ("", "pods"):
        return
    missing: list[str] = []
    containers = (attempt.document.get("spec") or {}).get("containers") or []
    for name in sorted(hard):
        part, _, what = _SHORT.get(name, name).partition(".")
        if part not in ("requests", "limits") or what not in ("cpu", "memory"):
            continue
        without = [
            c.get("name", "")
            for c in containers
            if what not in ((c.get("resources") or {}).get(part) or {})
        ]
        if without:
            missing.append(f"{name} for: {','.join(without)}")
    if missing:
        why = f"failed quota: {quota['metadata']['name']}: must specify {'; '.join(missing)}"
        raise forbidden("pods", "", attempt.name, why)


def in_scope(quota: Document, kind: Kind, document: Document) -> bool:
    """Whether a quota with scopes speaks of this object: scopes only ever select pods."""
    spec = quota.get("spec") or {}
    scopes: list[Document] = [{"scopeName": name} for name in spec.get("scopes") or ()]
    scopes += (spec.get("scopeSelector") or {}).get("matchExpressions") or []
    if not scopes:
        return True
    resource = kind.resource
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
