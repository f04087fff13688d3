"""RBAC, budgets, autoscalers, networking, storage classes, runtime classes."""

from __future__ import annotations

from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.metadata import check_label_selector
from kubarium.api.validation.report import NOT_POSITIVE, Report
from kubarium.api.validation.workloads import check_count_or_percent

_SPEC: Path = (None, "spec")
RBAC_GROUP = "rbac.authorization.k8s.io"


# --- RBAC ----------------------------------------------------------------------------------------


def check_role(document: Document, report: Report) -> None:
    """Role: rules about resources only."""
    _check_rules(document, namespaced=True, report=report)


def check_cluster_role(document: Document, report: Report) -> None:
    """ClusterRole: rules about resources or URLs, or an aggregation."""
    _check_rules(document, namespaced=False, report=report)
    aggregation = document.get("aggregationRule")
    if aggregation is not None:
        path = at(None, "aggregationRule", "clusterRoleSelectors")
        selectors = aggregation.get("clusterRoleSelectors") or []
        if not selectors:
            report.required(
                path, "at least one clusterRoleSelector required if aggregationRule is non-nil"
            )
        for index, selector in enumerate(selectors):
            check_label_selector(selector, at(path, index), report)


def _check_rules(document: Document, *, namespaced: bool, report: Report) -> None:
    for index, rule in enumerate(document.get("rules") or ()):
        path = at(None, "rules", index)
        if not rule.get("verbs"):
            report.required(at(path, "verbs"), "verbs must contain at least one value")
        urls = rule.get("nonResourceURLs") or []
        if urls:
            if namespaced:
                detail = "namespaced rules cannot apply to non-resource URLs"
                report.invalid(at(path, "nonResourceURLs"), urls, detail)
            elif any(rule.get(key) for key in ("apiGroups", "resources", "resourceNames")):
                detail = "rules cannot apply to both regular resources and non-resource URLs"
                report.invalid(at(path, "nonResourceURLs"), urls, detail)
            continue
        if not rule.get("apiGroups"):
            detail = "resource rules must supply at least one api group"
            report.required(at(path, "apiGroups"), detail)
        if not rule.get("resources"):
            detail = "resource rules must supply at least one resource"
            report.required(at(path, "resources"), detail)


def check_role_binding(document: Document, report: Report) -> None:
    """RoleBinding."""
    _check_binding(document, ("Role", "ClusterRole"), report)


def check_cluster_role_binding(document: Document, report: Report) -> None:
    """ClusterRoleBinding."""
    _check_binding(document, ("ClusterRole",), report)


def _check_binding(document: Document, kinds: tuple[str, ...], report: Report) -> None:
    role = document.get("roleRef") or {}
    path: Path = (None, "roleRef")
    if role:
        if role.get("apiGroup") != RBAC_GROUP:
            report.not_supported(at(path, "apiGroup"), role.get("apiGroup", ""), (RBAC_GROUP,))
        if role.get("kind") not in kinds:
            report.not_supported(at(path, "kind"), role.get("kind", ""), kinds)
        if role.get("name"):
            report.format(at(path, "name"), role["name"], formats.path_segment)
    for index, subject in enumerate(document.get("subjects") or ()):
        _check_subject(subject, at(None, "subjects", index), report)


def _check_subject(subject: Document, path: Path, report: Report) -> None:
    kind, group = subject.get("kind") or "", subject.get("apiGroup") or ""
    if kind == "ServiceAccount":
        if subject.get("name"):
            report.format(at(path, "name"), subject["name"], formats.dns_subdomain)
        if not subject.get("namespace"):
            report.required(at(path, "namespace"))
        if group:
            report.not_supported(at(path, "apiGroup"), group, ("",))
    elif kind in ("User", "Group"):
        if group != RBAC_GROUP:
            report.not_supported(at(path, "apiGroup"), group, (RBAC_GROUP,))
    else:
        report.not_supported(at(path, "kind"), kind, ("Group", "ServiceAccount", "User"))


def check_binding_update(new: Document, old: Document, report: Report) -> None:
    """The role of a binding never changes."""
    if new.get("roleRef") != old.get("roleRef"):
        report.invalid((None, "roleRef"), new.get("roleRef"), "cannot change roleRef")


# --- budgets and autoscalers ---------------------------------------------------------------------


def check_budget(document: Document, report: Report) -> None:
    """policy/v1 PodDisruptionBudget."""
    spec = document.get("spec") or {}
    given = [f for f in ("minAvailable", "maxUnavailable") if spec.get(f) is not None]
    if len(given) == 2:
        detail = "minAvailable and maxUnavailable cannot be both set"
        report.invalid(_SPEC, spec, detail)
    for field in given:
        check_count_or_percent(spec[field], at(_SPEC, field), report)
    check_label_selector(spec.get("selector"), at(_SPEC, "selector"), report)


def check_autoscaler(document: Document, report: Report) -> None:
    """autoscaling/v2 HorizontalPodAutoscaler."""
    spec = document.get("spec") or {}
    low, high = spec.get("minReplicas"), spec.get("maxReplicas") or 0
    if low is not None and low < 1:
        report.invalid(at(_SPEC, "minReplicas"), low, "must be greater than or equal to 1")
    if high < 1:
        report.invalid(at(_SPEC, "maxReplicas"), high, NOT_POSITIVE)
    elif low is not None and high < low:
        detail = "must be greater than or equal to `minReplicas`"
        report.invalid(at(_SPEC, "maxReplicas"), high, detail)
    if not (spec.get("scaleTargetRef") or {}).get("kind"):
        report.required(at(_SPEC, "scaleTargetRef", "kind"))
    keys = {"Resource": "resource", "Pods": "pods", "Object": "object", "External": "external"}
    for index, metric in enumerate(spec.get("metrics") or ()):
        key = keys.get(metric.get("type", ""))
        if key and metric.get(key) is None:
            detail = "must populate information for the given metric source"
            report.required(at(_SPEC, "metrics", index, key), detail)


# --- networking ----------------------------------------------------------------------------------


def check_ingress(document: Document, report: Report) -> None:
    """networking.k8s.io/v1 Ingress."""
    spec = document.get("spec") or {}
    if not spec.get("rules") and spec.get("defaultBackend") is None:
        detail = "either `defaultBackend` or `rules` must be specified"
        report.invalid(_SPEC, spec.get("rules"), detail)
    for index, rule in enumerate(spec.get("rules") or ()):
        place = at(_SPEC, "rules", index)
        host = rule.get("host")
        if host:
            report.format(at(place, "host"), host.removeprefix("*."), formats.dns_subdomain)
        for position, entry in enumerate((rule.get("http") or {}).get("paths") or ()):
            _check_ingress_path(entry, at(place, "http", "paths", position), report)


def _check_ingress_path(entry: Document, path: Path, report: Report) -> None:
    text = entry.get("path") or ""
    if entry.get("pathType") in ("Exact", "Prefix") and not text.startswith("/"):
        report.invalid(at(path, "path"), text, "must be an absolute path")
    backend = entry.get("backend") or {}
    given = [f for f in ("service", "resource") if backend.get(f) is not None]
    if len(given) != 1:
        detail = (
            "resource or service backend is required"
            if not given
            else ("cannot set both resource and service backends")
        )
        (report.required if not given else lambda p, d: report.invalid(p, "", d))(
            at(path, "backend"), detail
        )


# --- classes -------------------------------------------------------------------------------------

_STORAGE_CLASS_FROZEN = ("parameters", "provisioner", "reclaimPolicy", "volumeBindingMode")


def check_storage_class_update(new: Document, old: Document, report: Report) -> None:
    """What volumes were made with stays."""
    for field in _STORAGE_CLASS_FROZEN:
        if (new.get(field) or None) != (old.get(field) or None):
            report.forbidden((None, field), f"updates to {field} are forbidden.")


def check_runtime_class(document: Document, report: Report) -> None:
    """node.k8s.io/v1 RuntimeClass."""
    handler: Any = document.get("handler")
    if handler:
        report.format((None, "handler"), handler, formats.dns_label)


def check_runtime_class_update(new: Document, old: Document, report: Report) -> None:
    """The handler of a runtime class stays."""
    report.immutable((None, "handler"), new.get("handler"), old.get("handler"))
