"""core/v1 ResourceQuotas and LimitRanges.

Source: ``ValidateResourceQuota`` and ``ValidateLimitRange`` of ``pkg/apis/core/validation``.
"""

from __future__ import annotations

from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Key, Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.quantities import (
    COUNTED,
    HUGE_PAGES,
    amount,
    check_any_resource_name,
    check_quantity,
    check_resource_name,
    may_overcommit,
)
from kubarium.api.validation.report import IMMUTABLE, Report

_SPEC: Path = (None, "spec")
_COMPUTE = ("cpu", "memory")
_LIMITED = (*_COMPUTE, "ephemeral-storage")
_QUOTA_RESOURCES = COUNTED | {
    *_LIMITED,
    "requests.storage",
    *(f"{side}.{name}" for side in ("limits", "requests") for name in _LIMITED),
}
_OF_PODS = frozenset(
    ("pods", *_COMPUTE, *(f"{side}.{n}" for side in ("limits", "requests") for n in _COMPUTE))
)
_OF_CLAIMS = frozenset(("persistentvolumeclaims", "requests.storage"))
# Which of the resources that quotas know by name each scope can select.
_SCOPES = {
    "BestEffort": frozenset(("pods",)),
    "CrossNamespacePodAffinity": _OF_PODS,
    "NotBestEffort": _OF_PODS,
    "NotTerminating": _OF_PODS,
    "PriorityClass": _OF_PODS,
    "Terminating": _OF_PODS,
    "VolumeAttributesClass": _OF_CLAIMS,
}
_ONLY_EXISTS = frozenset(
    ("BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity")
)
_MUST_EXIST = (
    "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, "
    "ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, "
    "ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"
)
_CONFLICTS = ({"BestEffort", "NotBestEffort"}, {"Terminating", "NotTerminating"})


def _is_quota_resource(name: str) -> bool:
    return name in _QUOTA_RESOURCES or name.startswith((HUGE_PAGES, f"requests.{HUGE_PAGES}"))


def check_quota(document: Document, report: Report) -> None:
    """core/v1 ResourceQuota: what it counts, and that its scopes select such."""
    spec = document.get("spec") or {}
    _check_amounts(spec.get("hard") or {}, at(_SPEC, "hard"), report)
    scopes, path = spec.get("scopes") or [], at(_SPEC, "scopes")
    for scope in scopes:
        if scope not in _SCOPES:
            report.invalid(path, scopes, "unsupported scope")
        _check_scope(scope, spec, path, scopes, report)
    _check_conflicts(scopes, scopes, path, report)
    selector = spec.get("scopeSelector")
    if selector is not None:
        _check_selector(selector, spec, report)


def _check_amounts(amounts: Document, path: Path, report: Report) -> None:
    for name, quantity in amounts.items():
        place = at(path, Key(name))
        check_any_resource_name(name, place, report)
        if "/" not in name and not _is_quota_resource(name):
            report.invalid(place, name, "must be a standard resource for quota")
        check_quantity(name, quantity, place, report)


def _check_scope(scope: str, spec: Document, path: Path, shown: Any, report: Report) -> None:
    selectable = _SCOPES.get(scope)
    if selectable is None:
        return
    for name in sorted(spec.get("hard") or ()):
        if _is_quota_resource(name) and name not in selectable:
            report.invalid(path, shown, "unsupported scope applied to resource")


def _check_conflicts(scopes: list[str], shown: Any, path: Path, report: Report) -> None:
    for pair in _CONFLICTS:
        if pair <= set(scopes):
            report.invalid(path, shown, "conflicting scopes")


def _check_selector(selector: Document, spec: Document, report: Report) -> None:
    path = at(_SPEC, "scopeSelector", "matchExpressions")
    scopes = []
    for requirement in selector.get("matchExpressions") or ():
        scope, operator = requirement.get("scopeName") or "", requirement.get("operator") or ""
        values = requirement.get("values") or []
        scopes.append(scope)
        if scope not in _SCOPES:
            report.invalid(at(path, "scopeName"), scope, "unsupported scope")
        _check_scope(scope, spec, path, selector, report)
        if scope in _ONLY_EXISTS and operator != "Exists":
            report.invalid(at(path, "operator"), operator, _MUST_EXIST)
        _check_operator(operator, values, path, report)
    _check_conflicts(scopes, spec.get("scopes"), path, report)


def _check_operator(operator: str, values: list[str], path: Path, report: Report) -> None:
    if operator in ("In", "NotIn"):
        if not values:
            detail = (
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"
            )
            report.required(at(path, "values"), detail)
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            detail = (
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"
            )
            report.invalid(at(path, "values"), values, detail)
    else:
        report.invalid(at(path, "operator"), operator, "not a valid selector operator")


def check_quota_update(new: Document, old: Document, report: Report) -> None:
    """The scopes of a quota stay."""
    after, before = ((d.get("spec") or {}).get("scopes") or [] for d in (new, old))
    if set(after) != set(before):
        report.invalid(at(_SPEC, "scopes"), after, IMMUTABLE)


def check_quota_status(new: Document, old: Document, report: Report) -> None:
    """What a quota's status says that it enforces and has counted."""
    for field, amounts in (new.get("status") or {}).items():
        if amounts != (old.get("status") or {}).get(field):
            _check_amounts(amounts, at(None, "status", field), report)


# --- limits --------------------------------------------------------------------------------------

LIMIT_TYPES = ("Container", "PersistentVolumeClaim", "Pod")
# Pairs of which the first may not be greater; where that is told, with which value, and how.
_REQUEST = "default request value"
_ORDER = (
    ("min", "max", "min", "min", "min value", "max value"),
    ("min", "defaultRequest", "defaultRequest", "defaultRequest", "min value", _REQUEST),
    ("defaultRequest", "max", "defaultRequest", "defaultRequest", _REQUEST, "max value"),
    (
        "defaultRequest",
        "default",
        "defaultRequest",
        "defaultRequest",
        _REQUEST,
        "default limit value",
    ),
    ("min", "default", "default", "min", "min value", "default value"),
    ("default", "max", "default", "max", "default value", "max value"),
)


def check_limit_range(document: Document, report: Report) -> None:
    """core/v1 LimitRange: min ≤ default request ≤ default ≤ max for each resource."""
    types: set[Any] = set()
    for index, item in enumerate((document.get("spec") or {}).get("limits") or ()):
        place = at(_SPEC, "limits", index)
        kind = item.get("type") or ""
        known = report.format(at(place, "type"), kind, formats.qualified_name)
        if known and "/" not in kind and kind not in LIMIT_TYPES:
            detail = "must be a standard limit type or fully qualified"
            report.invalid(at(place, "type"), kind, detail)
        report.unique(at(place, "type"), kind, types)
        _check_limit(item, kind, place, report)


def _check_limit(item: Document, kind: str, path: Path, report: Report) -> None:
    fields = ["max", "min", "maxLimitRequestRatio"]
    if kind == "Pod":
        for field in ("default", "defaultRequest"):
            if item.get(field):
                detail = "may not be specified when `type` is 'Pod'"
                report.forbidden(at(path, field), detail)
    else:
        fields += ["default", "defaultRequest"]
    check_name = check_resource_name if kind in ("Pod", "Container") else check_any_resource_name
    names: set[str] = set()
    for field in fields:
        for name in item.get(field) or ():
            check_name(name, at(path, field, Key(name)), report)
            names.add(name)
    bounded = any("storage" in (item.get(field) or ()) for field in ("min", "max"))
    if kind == "PersistentVolumeClaim" and not bounded:
        detail = "either minimum or maximum storage value is required, but neither was provided"
        report.required(at(path, "limits"), detail)
    for name in sorted(names):
        values = {f: item[f][name] for f in fields if name in (item.get(f) or ())}
        _check_values(name, values, path, report)


def _check_values(name: str, values: Document, path: Path, report: Report) -> None:
    for low, high, field, shown, less, more in _ORDER:
        if low in values and high in values and amount(values[low]) > amount(values[high]):
            detail = f"{less} {values[low]} is greater than {more} {values[high]}"
            report.invalid(at(path, field, Key(name)), values[shown], detail)
    ratio = values.get("maxLimitRequestRatio")
    if ratio is not None:
        _check_ratio(ratio, values, at(path, "maxLimitRequestRatio", Key(name)), report)
    default, request = values.get("default"), values.get("defaultRequest")
    if default is None or request is None or may_overcommit(name):
        return
    if amount(default) != amount(request):
        detail = f"default value {default} must equal to defaultRequest value {request} in {name}"
        report.invalid(at(path, "defaultRequest", Key(name)), request, detail)


def _check_ratio(ratio: Any, values: Document, path: Path, report: Report) -> None:
    if amount(ratio) < 1:
        report.invalid(path, ratio, f"ratio {ratio} is less than 1")
    low = amount(values.get("min", 0))
    if low > 0 and "max" in values:
        most = amount(values["max"]) / low
        if amount(ratio) > most:
            detail = f"ratio {ratio} is greater than max/min = {float(most):f}"
            report.invalid(path, ratio, detail)
