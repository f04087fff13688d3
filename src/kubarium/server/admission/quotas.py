"""ResourceQuota: what a namespace may hold in all.

Usage is counted from what is stored, at the moment of the write, so that no controller has to keep
up for the limit to hold; ``status.used`` is written along with it. (Upstream: ``plugin/pkg/
admission/resourcequota`` and ``pkg/quota/v1/evaluator``.)
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from kubarium.api.device_quotas import counts_resources, resource_names
from kubarium.api.quotas import SHORT, Usage, counts, in_scope, status_of, usage_of
from kubarium.api.resource import Document
from kubarium.base.errors import forbidden
from kubarium.base.quantity import format_quantity, parse_quantity
from kubarium.server.admission.chain import Attempt
from kubarium.server.registry import Registry
from kubarium.store.log import Record

_QUOTAS = "/core/resourcequotas/"


def check_quotas(attempt: Attempt) -> None:
    """ApiError 403 if the new object does not fit; else note what will be used."""
    registry, kind = attempt.registry, attempt.kind
    if registry.store.is_empty(_QUOTAS):
        return
    for record in registry.store.range(f"{_QUOTAS}{attempt.namespace}/").records:
        hard = (record.value.get("spec") or {}).get("hard") or {}
        if not in_scope(record.value, kind.resource, attempt.document):
            continue
        _require_amounts(attempt, record.value, hard)
        named = device_resources(registry, hard)
        usage = usage_of(kind.resource, attempt.document, hard, named)
        wanted = {k: v for k, v in usage.items() if v}
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
    status = status_of(hard, used)
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
    named = device_resources(registry, hard)
    for kind in registry.catalog.storage_kinds():
        if not kind.namespaced or not counts(kind.resource, hard):
            continue
        for record in registry.store.range(registry.prefix(kind, namespace)).records:
            if not in_scope(quota, kind.resource, record.value):
                continue
            for name, amount in usage_of(kind.resource, record.value, hard, named).items():
                total[name] = total.get(name, Fraction(0)) + amount
    return total


def device_resources(registry: Registry, hard: Document) -> dict[str, str]:
    """The extended resources that DeviceClasses answer, if the quota limits any."""
    if not counts_resources(hard):
        return {}
    kind = registry.kind_of("resource.k8s.io", "v1", "deviceclasses")
    records = registry.store.range(registry.prefix(kind)).records
    return resource_names(record.value for record in records)


def _require_amounts(attempt: Attempt, quota: Document, hard: Document) -> None:
    """A pod under a quota of cpu or memory must say how much it wants; ApiError 403."""
    resource = attempt.kind.resource
    if (resource.group, resource.plural) != ("", "pods"):
        return
    missing: list[str] = []
    containers = (attempt.document.get("spec") or {}).get("containers") or []
    for name in sorted(hard):
        part, _, what = SHORT.get(name, name).partition(".")
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
