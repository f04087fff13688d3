"""scheduling.k8s.io: PriorityClass, PodGroup, Workload, CompositePodGroup."""

from __future__ import annotations

from typing import Any

from kubarium.api import formats
from kubarium.api.gangs import MAX_TREE_DEPTH
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.report import IMMUTABLE, Report

_SPEC: Path = (None, "spec")
MAX_TEMPLATES = 8
MAX_GROUP_CLAIMS = 4
MAX_TOPOLOGY = 1
HIGHEST_USER_PRIORITY = 1_000_000_000
PREEMPTION_POLICIES = ("Never", "PreemptLowerPriority")
_MIN_COUNT, _MIN_GROUP_COUNT = "minCount", "minGroupCount"
_TEMPLATES = ("podGroupTemplates", "compositePodGroupTemplates")
_SYSTEM_PREFIX = "system-"
SYSTEM_PRIORITIES = {
    "system-cluster-critical": 2_000_000_000,
    "system-node-critical": 2_000_001_000,
}


def check_priority_class(document: Document, report: Report) -> None:
    """PriorityClass: users stay at or below a thousand million; ``system-`` is reserved."""
    if document.get("preemptionPolicy") == "":
        report.required((None, "preemptionPolicy"))
    name = (document.get("metadata") or {}).get("name") or ""
    value = document.get("value") or 0
    if name.startswith(_SYSTEM_PREFIX):
        if SYSTEM_PRIORITIES.get(name) != value:
            path = at(None, "metadata", "name")
            detail = (
                "priority class names with 'system-' prefix are reserved for system use only. "
                f"error: {name} is not a known system priority class"
            )
            if name in SYSTEM_PRIORITIES:
                detail = detail.rpartition("error: ")[0] + (
                    f"error: value of {name} PriorityClass must be {SYSTEM_PRIORITIES[name]}"
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
    _check_links(spec, report)
    if spec.get("parentCompositePodGroupName") and spec.get("workloadRef") is None:
        report.required(at(_SPEC, "workloadRef"), "must be set when the group has a parent")


def check_composite_group(document: Document, report: Report) -> None:
    """CompositePodGroup. Whether its parents form a tree is for the scheduler to say."""
    spec = document.get("spec") or {}
    _check_group(spec, _SPEC, report, _MIN_GROUP_COUNT)
    _check_links(spec, report)
    if spec.get("workloadRef") is None:
        report.required(at(_SPEC, "workloadRef"))


def _check_links(spec: Document, report: Report) -> None:
    parent = "parentCompositePodGroupName"
    if spec.get(parent) is not None:
        report.format(at(_SPEC, parent), spec[parent], formats.dns_subdomain)
    reference = spec.get("workloadRef")
    for field, check in (
        ("workloadName", formats.dns_subdomain),
        ("templateName", formats.dns_label),
    ):
        if reference is not None:
            report.required_format(at(_SPEC, "workloadRef", field), reference.get(field), check)


def _one_of(value: Document, choices: tuple[str, ...], path: Path, report: Report) -> None:
    given = [choice for choice in choices if value.get(choice) not in (None, [])]
    shown = ", ".join(f"`{choice}`" for choice in choices)
    if not given:
        report.invalid(path, "", f"must specify one of: {shown}")
    elif len(given) > 1:
        got = ", ".join(given)
        report.invalid(path, f"{{{got}}}", f"must specify exactly one of: {shown}")


def _check_group(spec: Document, path: Path, report: Report, count: str = _MIN_COUNT) -> None:
    """What groups and their templates share; ``count`` is the field of their gang policy."""
    policy = spec.get("schedulingPolicy") or {}
    check_policy(policy, at(path, "schedulingPolicy"), report, count)
    check_modes(spec, path, report)
    if spec.get("priorityClassName"):
        place = at(path, "priorityClassName")
        report.format(place, spec["priorityClassName"], formats.dns_subdomain)
    priority = spec.get("priority")
    if priority is not None and priority > HIGHEST_USER_PRIORITY:
        detail = f"must be less than or equal to {HIGHEST_USER_PRIORITY}"
        report.invalid(at(path, "priority"), priority, detail)
    preemption = spec.get("preemptionPolicy")
    if preemption is not None and preemption not in PREEMPTION_POLICIES:
        report.not_supported(at(path, "preemptionPolicy"), preemption, PREEMPTION_POLICIES)


def check_policy(
    policy: Document | None,
    path: Path,
    report: Report,
    count: str = _MIN_COUNT,
    *,
    count_required: bool = True,
) -> None:
    """A scheduling policy: basic or gang; where the count is not required, it has a default."""
    if policy is None:
        return
    _one_of(policy, ("basic", "gang"), path, report)
    gang = policy.get("gang")
    if gang is None:
        return
    value = gang.get(count)
    if not value and count_required:
        report.required(at(path, "gang", count))
    elif value is not None:
        report.at_least(at(path, "gang", count), value, 1)


def check_modes(spec: Document, path: Path, report: Report) -> None:
    """Disruption mode, topology and claims of a group, a template or a Job's ``scheduling``."""
    mode = spec.get("disruptionMode")
    if mode is not None:
        _one_of(mode, ("all", "single"), at(path, "disruptionMode"), report)
        basic = (spec.get("schedulingPolicy") or {}).get("basic")
        if mode.get("all") is not None and basic is not None:
            detail = "must not be `all` when the scheduling policy is `basic`"
            report.invalid(at(path, "disruptionMode"), "all", detail)
    _check_topology(spec.get("schedulingConstraints") or {}, path, report)
    _check_group_claims(spec.get("resourceClaims") or [], at(path, "resourceClaims"), report)


def _check_topology(constraints: Document, path: Path, report: Report) -> None:
    topology = constraints.get("topology") or []
    place = at(path, "schedulingConstraints", "topology")
    if len(topology) > MAX_TOPOLOGY:
        report.too_many(place, len(topology), MAX_TOPOLOGY)
        return
    for index, entry in enumerate(topology):
        report.required_format(at(place, index, "key"), entry.get("key"), formats.qualified_name)


def _check_group_claims(claims: list[Document], path: Path, report: Report) -> None:
    if len(claims) > MAX_GROUP_CLAIMS:
        report.too_many(path, len(claims), MAX_GROUP_CLAIMS)
        return
    seen: set[Any] = set()
    for index, claim in enumerate(claims):
        place = at(path, index)
        report.unique(place, claim.get("name"), seen, claim)
        report.required_format(at(place, "name"), claim.get("name"), formats.dns_label)
        _one_of(claim, ("resourceClaimName", "resourceClaimTemplateName"), place, report)
        for field in ("resourceClaimName", "resourceClaimTemplateName"):
            if claim.get(field) is not None:
                report.format(at(place, field), claim[field], formats.dns_subdomain)


# Of a group or a template: compared part by part.
_MAY_CHANGE = ("schedulingPolicy", *_TEMPLATES)


def check_group_update(new: Document, old: Document, report: Report) -> None:
    """Only ``gang.minCount`` of a group may change."""
    check_kept(new.get("spec") or {}, old.get("spec") or {}, _SPEC, report)


def check_composite_update(new: Document, old: Document, report: Report) -> None:
    """A composite never changes."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    for field in sorted({*after, *before}):
        report.immutable(at(_SPEC, field), after.get(field), before.get(field))


def check_kept(after: Document, before: Document, path: Path, report: Report) -> None:
    """Everything stays as it was, except for the count of a gang that was one already."""
    for field in sorted({*after, *before}):
        if field not in _MAY_CHANGE:
            report.immutable(at(path, field), after.get(field), before.get(field))
    new, old = after.get("schedulingPolicy") or {}, before.get("schedulingPolicy") or {}
    if ("gang" in new) != ("gang" in old) or ("basic" in new) != ("basic" in old):
        report.invalid(at(path, "schedulingPolicy"), new, IMMUTABLE)


# --- workloads -----------------------------------------------------------------------------------


def check_workload(document: Document, report: Report) -> None:
    """scheduling.k8s.io Workload (not Kueue's)."""
    spec = document.get("spec") or {}
    _one_of(spec, _TEMPLATES, _SPEC, report)
    _check_templates(spec, _SPEC, report, set(), 1)
    reference = spec.get("controllerRef")
    if reference is not None:
        place = at(_SPEC, "controllerRef")
        if reference.get("apiGroup"):
            report.format(at(place, "apiGroup"), reference["apiGroup"], formats.dns_subdomain)
        for field in ("kind", "name"):
            report.required_format(at(place, field), reference.get(field), formats.path_segment)


def _check_templates(
    parent: Document, path: Path, report: Report, seen: set[Any], depth: int
) -> None:
    """Templates at every level: names are unique in the whole Workload, levels are limited."""
    for field in _TEMPLATES:
        templates = parent.get(field) or []
        place = at(path, field)
        if len(templates) > MAX_TEMPLATES:
            report.too_many(place, len(templates), MAX_TEMPLATES)
        if templates and depth > MAX_TREE_DEPTH:
            detail = f"the tree of templates must not have more than {MAX_TREE_DEPTH} levels"
            report.invalid(place, f"{depth} levels", detail)
            continue
        seen |= _check_names(templates, place, report, seen)
        for index, template in enumerate(templates):
            here = at(place, index)
            if field == "podGroupTemplates":
                _check_group(template, here, report)
                continue
            _check_group(template, here, report, _MIN_GROUP_COUNT)
            _check_children(template, here, report)
            _check_templates(template, here, report, seen, depth + 1)


def _check_names(templates: list[Document], path: Path, report: Report, seen: set[Any]) -> set[Any]:
    """The names of one list, which are not among those ``seen`` elsewhere."""
    names: set[Any] = set()
    for index, template in enumerate(templates):
        here, name = at(path, index), template.get("name")
        report.required_format(at(here, "name"), name, formats.dns_label)
        report.unique(here, name, names, template)
        if name in seen:
            report.duplicate(at(here, "name"), name)
    return names


def _check_children(template: Document, path: Path, report: Report) -> None:
    """A composite has children, and what goes as a whole has none that go one by one."""
    children = [(f, i, c) for f in _TEMPLATES for i, c in enumerate(template.get(f) or [])]
    if not children:
        detail = "at least one of `podGroupTemplates` or `compositePodGroupTemplates` must be set"
        report.required(at(path, "podGroupTemplates"), detail)
    if "all" not in (template.get("disruptionMode") or {}):
        return
    for field, index, child in children:
        if "all" not in (child.get("disruptionMode") or {}):
            place = at(path, field, index, "disruptionMode")
            report.invalid(place, "single", "must be `all` when the mode of its parent is `all`")


def check_workload_update(new: Document, old: Document, report: Report) -> None:
    """Templates neither come nor go; of each, only the count of its gang may change."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    report.immutable(
        at(_SPEC, "controllerRef"), after.get("controllerRef"), before.get("controllerRef")
    )
    _check_templates_kept(after, before, _SPEC, report)


def _check_templates_kept(after: Document, before: Document, path: Path, report: Report) -> None:
    for field in _TEMPLATES:
        was, now = before.get(field) or [], after.get(field) or []
        place = at(path, field)
        if [t.get("name") for t in was] != [t.get("name") for t in now]:
            report.invalid(place, now, IMMUTABLE)
            continue
        for index, (old, new) in enumerate(zip(was, now, strict=True)):
            here = at(place, index)
            check_kept(new, old, here, report)
            _check_templates_kept(new, old, here, report)
