"""scheduling.k8s.io: PriorityClass, PodGroup, Workload, CompositePodGroup."""

from __future__ import annotations

from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.report import IMMUTABLE, NOT_POSITIVE, Report

_SPEC: Path = (None, "spec")
MAX_TEMPLATES = 8
MAX_GROUP_CLAIMS = 4
MAX_TOPOLOGY = 1
HIGHEST_USER_PRIORITY = 1_000_000_000
_SYSTEM_PREFIX = "system-"
_SYSTEM_PRIORITIES = {
    "system-cluster-critical": 2_000_000_000,
    "system-node-critical": 2_000_001_000,
}


def check_priority_class(document: Document, report: Report) -> None:
    """PriorityClass: users stay at or below a thousand million; ``system-`` is reserved."""
    name = (document.get("metadata") or {}).get("name") or ""
    value = document.get("value") or 0
    if name.startswith(_SYSTEM_PREFIX):
        if _SYSTEM_PRIORITIES.get(name) != value:
            path = at(None, "metadata", "name")
            detail = (
                "priority class names with 'system-' prefix are reserved for system use only. "
                f"error: {name} is not a known system priority class"
            )
            if name in _SYSTEM_PRIORITIES:
                detail = detail.rpartition("error: ")[0] + (
                    f"error: value of {name} PriorityClass must be {_SYSTEM_PRIORITIES[name]}"
                )
            report.forbidden(path, detail)
    elif value > HIGHEST_USER_PRIORITY:
        detail = f"maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"
        report.forbidden((None, "value"), detail)


def check_priority_class_update(new: Document, old: Document, report: Report) -> None:
    """Value and preemption policy never change."""
    if (new.get("value") or 0) != (old.get("value") or 0):
        report.forbidden((None, "value"), "may not be changed in an update.")
    policy = "preemptionPolicy"
    report.immutable((None, policy), new.get(policy), old.get(policy))


# --- groups --------------------------------------------------------------------------------------


def check_pod_group(document: Document, report: Report) -> None:
    """PodGroup."""
    spec = document.get("spec") or {}
    _check_group(spec, _SPEC, report)
    if spec.get("parentCompositePodGroupName"):
        path = at(_SPEC, "parentCompositePodGroupName")
        report.format(path, spec["parentCompositePodGroupName"], formats.dns_subdomain)
        if spec.get("workloadRef") is None:
            report.required(at(_SPEC, "workloadRef"), "must be set when the group has a parent")
    reference = spec.get("workloadRef") or {}
    for field, check in (
        ("workloadName", formats.dns_subdomain),
        ("templateName", formats.dns_label),
    ):
        if reference.get(field):
            report.format(at(_SPEC, "workloadRef", field), reference[field], check)


def check_composite_group(document: Document, report: Report) -> None:
    """CompositePodGroup."""
    _check_group(document.get("spec") or {}, _SPEC, report)


def _one_of(value: Document, choices: tuple[str, ...], path: Path, report: Report) -> None:
    given = [choice for choice in choices if value.get(choice) is not None]
    shown = ", ".join(f"`{choice}`" for choice in choices)
    if not given:
        report.invalid(path, "", f"must specify one of: {shown}")
    elif len(given) > 1:
        got = ", ".join(given)
        report.invalid(path, f"{{{got}}}", f"must specify exactly one of: {shown}")


def _check_group(spec: Document, path: Path, report: Report) -> None:
    policy = spec.get("schedulingPolicy")
    place = at(path, "schedulingPolicy")
    if policy is not None:
        _one_of(policy, ("basic", "gang"), place, report)
        gang = policy.get("gang")
        if gang is not None:
            field = "minGroupCount" if "minGroupCount" in gang else "minCount"
            count = gang.get(field) or 0
            if count <= 0:
                report.invalid(at(place, "gang", field), count, NOT_POSITIVE)
    mode = spec.get("disruptionMode")
    if mode is not None:
        _one_of(mode, ("all", "single"), at(path, "disruptionMode"), report)
        if mode.get("all") is not None and (policy or {}).get("basic") is not None:
            detail = "must not be `all` when the scheduling policy is `basic`"
            report.invalid(at(path, "disruptionMode"), "all", detail)
    _check_topology(spec.get("schedulingConstraints") or {}, path, report)
    if spec.get("priorityClassName"):
        place = at(path, "priorityClassName")
        report.format(place, spec["priorityClassName"], formats.dns_subdomain)
    _check_group_claims(spec.get("resourceClaims") or [], at(path, "resourceClaims"), report)


def _check_topology(constraints: Document, path: Path, report: Report) -> None:
    topology = constraints.get("topology") or []
    place = at(path, "schedulingConstraints", "topology")
    if len(topology) > MAX_TOPOLOGY:
        report.too_many(place, len(topology), MAX_TOPOLOGY)
    for index, entry in enumerate(topology):
        if entry.get("key"):
            report.format(at(place, index, "key"), entry["key"], formats.qualified_name)


def _check_group_claims(claims: list[Document], path: Path, report: Report) -> None:
    if len(claims) > MAX_GROUP_CLAIMS:
        report.too_many(path, len(claims), MAX_GROUP_CLAIMS)
    seen: set[Any] = set()
    for index, claim in enumerate(claims):
        place = at(path, index)
        if claim.get("name"):
            report.format(at(place, "name"), claim["name"], formats.dns_label)
            report.unique(at(place, "name"), claim["name"], seen)
        _one_of(claim, ("resourceClaimName", "resourceClaimTemplateName"), place, report)


_GROUP_MUTABLE = ("schedulingPolicy",)


def check_group_update(new: Document, old: Document, report: Report) -> None:
    """Only ``gang.minCount`` of a group may change."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    for field in sorted({*after, *before}):
        if field not in _GROUP_MUTABLE:
            report.immutable(at(_SPEC, field), after.get(field), before.get(field))
    _check_policy_kept(after, before, _SPEC, report)


def _check_policy_kept(after: Document, before: Document, path: Path, report: Report) -> None:
    new, old = after.get("schedulingPolicy") or {}, before.get("schedulingPolicy") or {}
    if ("gang" in new) != ("gang" in old) or ("basic" in new) != ("basic" in old):
        report.invalid(at(path, "schedulingPolicy"), new, IMMUTABLE)


# --- workloads -----------------------------------------------------------------------------------


def check_workload(document: Document, report: Report) -> None:
    """scheduling.k8s.io Workload (not Kueue's)."""
    spec = document.get("spec") or {}
    fields = ("podGroupTemplates", "compositePodGroupTemplates")
    given = [field for field in fields if spec.get(field)]
    if len(given) != 1:
        detail = "exactly one of `podGroupTemplates` or `compositePodGroupTemplates` must be set"
        if given:
            report.invalid(_SPEC, "", detail)
        else:
            report.required(at(_SPEC, "podGroupTemplates"), detail)
    for field in given:
        templates = spec[field]
        if len(templates) > MAX_TEMPLATES:
            report.too_many(at(_SPEC, field), len(templates), MAX_TEMPLATES)
        seen: set[Any] = set()
        for index, template in enumerate(templates):
            place = at(_SPEC, field, index)
            if template.get("name"):
                report.format(at(place, "name"), template["name"], formats.dns_label)
                report.unique(at(place, "name"), template["name"], seen)
            _check_group(template, place, report)


def check_workload_update(new: Document, old: Document, report: Report) -> None:
    """Templates neither come nor go; of each, only ``gang.minCount`` may change."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    for field in ("controllerRef", "compositePodGroupTemplates"):
        report.immutable(at(_SPEC, field), after.get(field), before.get(field))
    was, now = before.get("podGroupTemplates") or [], after.get("podGroupTemplates") or []
    path = at(_SPEC, "podGroupTemplates")
    if [t.get("name") for t in was] != [t.get("name") for t in now]:
        report.invalid(path, now, IMMUTABLE)
        return
    for index, (old_template, template) in enumerate(zip(was, now, strict=True)):
        for field in sorted({*old_template, *template} - set(_GROUP_MUTABLE)):
            report.immutable(at(path, index, field), template.get(field), old_template.get(field))
        _check_policy_kept(template, old_template, at(path, index), report)
