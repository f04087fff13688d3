"""ObjectMeta rules (source: apimachinery ``pkg/api/validation/objectmeta.go``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kubarium.api import formats
from kubarium.api.catalog import Kind
from kubarium.api.formats import Check
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.report import Report

ANNOTATIONS_MAX = 256 * 1024  # bytes of all keys and values together
_MANAGED_FIELDS_OPERATIONS = ("Apply", "Update")
_METADATA: Path = (None, "metadata")
_NAME, _NAMESPACE, _GENERATE_NAME, _GENERATION, _LABELS, _ANNOTATIONS, _OWNERS, _FINALIZERS = (
    at(_METADATA, field)
    for field in (
        "name",
        "namespace",
        "generateName",
        "generation",
        "labels",
        "annotations",
        "ownerReferences",
        "finalizers",
    )
)

_RBAC = "rbac.authorization.k8s.io"
NAME_CHECKS: dict[tuple[str, str], Check] = {
    ("", "Namespace"): formats.dns_label,
    ("", "Service"): formats.dns1035_label,
    ("apps", "StatefulSet"): formats.dns_label,
    (_RBAC, "Role"): formats.path_segment,
    (_RBAC, "ClusterRole"): formats.path_segment,
    (_RBAC, "RoleBinding"): formats.path_segment,
    (_RBAC, "ClusterRoleBinding"): formats.path_segment,
    ("certificates.k8s.io", "ClusterTrustBundle"): formats.path_segment,
    ("networking.k8s.io", "IPAddress"): formats.ip_address,
    ("policy", "PodDisruptionBudget"): formats.path_segment,
    ("", "Event"): formats.path_segment,
}


def name_check(kind: Kind) -> Check:
    """How names of a kind must look; an RFC 1123 subdomain unless said otherwise."""
    key = (kind.resource.group, kind.resource.kind)
    return NAME_CHECKS.get(key, formats.dns_subdomain)


def check_metadata(kind: Kind, document: Document, report: Report) -> None:
    """Metadata of a new object; its name must have been generated already."""
    metadata = document.get("metadata") or {}
    check = name_check(kind)
    prefix = metadata.get("generateName")
    if prefix:
        for complaint in check(formats.masked_prefix(prefix)):
            report.invalid(_GENERATE_NAME, prefix, complaint)
    if not metadata.get("name"):
        report.required(_NAME, "name or generateName is required")
    else:
        report.format(_NAME, metadata["name"], check)
    namespace = metadata.get("namespace")
    if kind.namespaced:
        report.required_format(_NAMESPACE, namespace, formats.dns_label)
    elif namespace:
        report.forbidden(_NAMESPACE, "not allowed on this type")
    _check_common(metadata, {}, report)
    check_finalizers(kind, metadata.get("finalizers") or (), report)


def _check_common(metadata: Document, before: Document, report: Report) -> None:
    """What has changed since ``before``, which has been checked."""
    report.not_negative(_GENERATION, metadata.get("generation"))
    for field, path, rule in _COMMON:
        value = metadata.get(field)
        if value and value != before.get(field):
            rule(value, path, report)
    # Large trees that nearly every write changes: to look is cheaper than to compare.
    for index, entry in enumerate(metadata.get("managedFields") or ()):
        operation = entry.get("operation")
        if operation in _MANAGED_FIELDS_OPERATIONS and entry.get("fieldsType") == "FieldsV1":
            continue
        path = at(_METADATA, "managedFields", index)
        if operation not in _MANAGED_FIELDS_OPERATIONS:
            report.not_supported(at(path, "operation"), operation, _MANAGED_FIELDS_OPERATIONS)
        if entry.get("fieldsType") != "FieldsV1":
            report.invalid(at(path, "fieldsType"), entry.get("fieldsType"), "must be `FieldsV1`")


def check_labels(labels: dict[str, str], path: Path, report: Report) -> None:
    """Keys and values of labels, also of selectors and node selectors."""
    for key, value in labels.items():
        complaints = formats.qualified_name(key)
        if complaints:
            for complaint in complaints:
                report.invalid(path, key, complaint)
        for complaint in formats.label_value(value):
            report.invalid(path, value, complaint)


def check_annotations(annotations: dict[str, str], path: Path, report: Report) -> None:
    """Keys of annotations (case does not matter) and their size in all."""
    size = 0
    for key, value in annotations.items():
        size += len(key.encode()) + len(value.encode())
        for complaint in formats.qualified_name(key.lower()):
            report.invalid(path, key, complaint)
    if size > ANNOTATIONS_MAX:
        report.too_long(path, ANNOTATIONS_MAX)


# Served by API servers of their own upstream, which do not use core's stricter check.
_LENIENT_GROUPS = ("apiextensions.k8s.io", "apiregistration.k8s.io")
NOT_A_FINALIZER = "name is neither a standard finalizer name nor is it fully qualified"
STANDARD_FINALIZERS = ("kubernetes", "orphan", "foregroundDeletion")


def check_finalizers(kind: Kind, finalizers: Iterable[str], report: Report) -> None:
    """Qualified names, on built-in kinds with a domain or one of the standard ones; the two
    garbage collection finalizers exclude each other."""
    names = list(finalizers)
    if not names:
        return
    for index, name in enumerate(names):
        report.format(_FINALIZERS, name, formats.qualified_name)
        strict = not kind.custom and kind.resource.group not in _LENIENT_GROUPS
        if strict and "/" not in name and name not in STANDARD_FINALIZERS:
            report.invalid(at(_FINALIZERS, index), name, NOT_A_FINALIZER)
    if "orphan" in names and "foregroundDeletion" in names:
        detail = "finalizer orphan and foregroundDeletion cannot be both set"
        report.invalid(_FINALIZERS, names, detail)


def _check_owners(owners: Iterable[Document], path: Path, report: Report) -> None:
    controller = ""
    listed = list(owners)
    for owner in listed:
        version = owner.get("apiVersion", "")
        if not version or version.count("/") > 1 or version.endswith("/"):
            report.invalid(at(path, "apiVersion"), version, "version must not be empty")
        for field in ("kind", "name", "uid"):
            if not owner.get(field):
                report.invalid(at(path, field), owner.get(field, ""), "must not be empty")
        if (version, owner.get("kind")) == ("v1", "Event"):
            detail = "/v1, Kind=Event is disallowed from being an owner"
            report.invalid(path, owner, detail)
        if owner.get("controller"):
            name = f"{owner.get('kind')}/{owner.get('name')}"
            if controller:
                detail = (
                    "Only one reference can have Controller set to true. "
                    f'Found "true" in references for {controller} and {name}'
                )
                report.invalid(path, listed, detail)
            controller = controller or name


_COMMON: tuple[tuple[str, Path, Callable[[Any, Path, Report], None]], ...] = (
    ("labels", _LABELS, check_labels),
    ("annotations", _ANNOTATIONS, check_annotations),
    ("ownerReferences", _OWNERS, _check_owners),
)

_IMMUTABLE = (
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)


def check_metadata_update(kind: Kind, new: Document, old: Document, report: Report) -> None:
    """Metadata of a changed object."""
    after, before = new.get("metadata") or {}, old.get("metadata") or {}
    if before.get("deletionTimestamp"):
        kept = set(before.get("finalizers") or ())
        added = sorted(set(after.get("finalizers") or ()) - kept)
        if added:
            shown = ", ".join(f'"{name}"' for name in added)
            report.forbidden(
                _FINALIZERS,
                "no new finalizers can be added if the object is being deleted, "
                f"found new finalizers []string{{{shown}}}",
            )
    if (after.get("generation") or 0) < (before.get("generation") or 0):
        report.invalid(_GENERATION, after.get("generation", 0), "must not be decremented")
    for field in _IMMUTABLE:
        if after.get(field) != before.get(field):
            report.immutable(at(_METADATA, field), after.get(field), before.get(field))
    _check_common(after, before, report)
    if after.get("finalizers") != before.get("finalizers"):
        check_finalizers(kind, after.get("finalizers") or (), report)


# --- label selectors -----------------------------------------------------------------------------


def check_label_selector(selector: Document | None, path: Path, report: Report) -> None:
    """``metav1.LabelSelector``: labels, operators, and values that fit them."""
    if selector is None:
        return
    check_labels(selector.get("matchLabels") or {}, at(path, "matchLabels"), report)
    for index, expression in enumerate(selector.get("matchExpressions") or ()):
        _check_expression(expression, at(path, "matchExpressions", index), report)


def _check_expression(expression: Document, path: Path, report: Report) -> None:
    operator, values = expression.get("operator", ""), expression.get("values") or []
    if operator in ("In", "NotIn"):
        if not values:
            detail = "must be specified when `operator` is 'In' or 'NotIn'"
            report.required(at(path, "values"), detail)
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            report.forbidden(at(path, "values"), detail)
    else:
        report.invalid(at(path, "operator"), operator, "not a valid selector operator")
    report.format(at(path, "key"), expression.get("key", ""), formats.qualified_name)
    for index, value in enumerate(values):
        report.format(at(path, "values", index), value, formats.label_value)
