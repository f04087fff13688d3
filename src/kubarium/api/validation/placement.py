"""Where pods may run: affinity, tolerations, topology spread."""

from __future__ import annotations

import re
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.metadata import check_label_selector
from kubarium.api.validation.report import NOT_POSITIVE, Report

_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
WEIGHT_MAX = 100
# What Gt and Lt of tolerations compare (upstream: IsDecimalInteger).
_DECIMAL = re.compile(r"(?:0|-?[1-9][0-9]*)\Z")


def check_affinity(affinity: Document, path: Path, report: Report) -> None:
    """Node affinity, pod affinity and anti-affinity."""
    node = affinity.get("nodeAffinity") or {}
    place = at(path, "nodeAffinity")
    if node.get(_REQUIRED) is not None:
        check_node_selector(node[_REQUIRED], at(place, _REQUIRED), report)
    for index, term in enumerate(node.get(_PREFERRED) or ()):
        spot = at(place, _PREFERRED, index)
        _check_weight(term, spot, report)
        preference = term.get("preference") or {}
        check_node_selector_term(preference, at(spot, "preference"), report, values=False)
    for kind in ("podAffinity", "podAntiAffinity"):
        _check_pod_affinity(affinity.get(kind) or {}, at(path, kind), report)


def _check_weight(term: Document, path: Path, report: Report) -> None:
    weight = term.get("weight") or 0
    if not 1 <= weight <= WEIGHT_MAX:
        report.invalid(at(path, "weight"), weight, "must be in the range 1-100")


def check_node_selector(selector: Document, path: Path, report: Report) -> None:
    """A NodeSelector: at least one term."""
    terms = selector.get("nodeSelectorTerms") or []
    if not terms:
        spot = at(path, "nodeSelectorTerms")
        report.required(spot, "must have at least one node selector term")
    for index, term in enumerate(terms):
        check_node_selector_term(term, at(path, "nodeSelectorTerms", index), report)


def check_node_selector_term(
    term: Document, path: Path, report: Report, *, values: bool = True
) -> None:
    """Expressions over labels, and over ``metadata.name`` in matchFields.

    ``values`` says that what a label is compared with must be a label's value: a preference that
    no node can fulfil does no harm.
    """
    for index, entry in enumerate(term.get("matchExpressions") or ()):
        place = at(path, "matchExpressions", index)
        _check_node_requirement(entry, place, report)
        report.format(at(place, "key"), entry.get("key") or "", formats.qualified_name)
        if values:
            for position, value in enumerate(entry.get("values") or ()):
                report.format(at(place, "values", position), value, formats.label_value)
    for index, entry in enumerate(term.get("matchFields") or ()):
        _check_field_requirement(entry, at(path, "matchFields", index), report)


def _check_field_requirement(entry: Document, path: Path, report: Report) -> None:
    operator, values = entry.get("operator", ""), entry.get("values") or []
    if operator not in ("In", "NotIn"):
        report.invalid(at(path, "operator"), operator, "not a valid selector operator")
    elif len(values) != 1:
        detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
        report.required(at(path, "values"), detail)
    if entry.get("key") != "metadata.name":
        report.invalid(at(path, "key"), entry.get("key", ""), "not a valid field selector key")
        return
    for index, value in enumerate(values):
        report.format(at(path, "values", index), value, formats.dns_subdomain)


def _check_node_requirement(entry: Document, path: Path, report: Report) -> None:
    operator, values = entry.get("operator", ""), entry.get("values") or []
    spot = at(path, "values")
    if operator in ("In", "NotIn"):
        if not values:
            report.required(spot, "must be specified when `operator` is 'In' or 'NotIn'")
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            report.forbidden(spot, detail)
    elif operator in ("Gt", "Lt"):
        if len(values) != 1:
            detail = "must be specified single value when `operator` is 'Lt' or 'Gt'"
            report.required(spot, detail)
    else:
        report.invalid(at(path, "operator"), operator, "not a valid selector operator")


def _check_pod_affinity(affinity: Document, path: Path, report: Report) -> None:
    for index, term in enumerate(affinity.get(_REQUIRED) or ()):
        _check_pod_term(term, at(path, _REQUIRED, index), report)
    for index, weighted in enumerate(affinity.get(_PREFERRED) or ()):
        spot = at(path, _PREFERRED, index)
        _check_weight(weighted, spot, report)
        term = weighted.get("podAffinityTerm") or {}
        _check_pod_term(term, at(spot, "podAffinityTerm"), report)


def _check_pod_term(term: Document, path: Path, report: Report) -> None:
    check_label_selector(term.get("labelSelector"), at(path, "labelSelector"), report)
    check_label_selector(term.get("namespaceSelector"), at(path, "namespaceSelector"), report)
    for name in term.get("namespaces") or ():
        report.format(at(path, "namespace"), name, formats.dns_label)
    _check_label_keys(term, path, report)
    key = term.get("topologyKey") or ""
    if not key:
        report.required(at(path, "topologyKey"), "can not be empty")
    report.format(at(path, "topologyKey"), key, formats.qualified_name)


def _check_label_keys(term: Document, path: Path, report: Report) -> None:
    """``matchLabelKeys`` and ``mismatchLabelKeys``: whose values the pod's own labels give."""
    matched, mismatched = term.get("matchLabelKeys") or (), term.get("mismatchLabelKeys") or ()
    if not matched and not mismatched:
        return
    selector = term.get("labelSelector")
    for field, keys in (("matchLabelKeys", matched), ("mismatchLabelKeys", mismatched)):
        if keys and selector is None:
            detail = "must not be specified when labelSelector is not set"
            report.forbidden(at(path, field), detail)
            continue
        for index, key in enumerate(keys):
            report.format(at(path, field, index), key, formats.qualified_name)
    known = {*((selector or {}).get("matchLabels") or ())}
    for expression in (selector or {}).get("matchExpressions") or ():
        key = expression.get("key") or ""
        if key in matched and key in known:
            last = len(matched) - 1 - list(reversed(matched)).index(key)
            report.invalid(at(path, last), key, "exists in both matchLabelKeys and labelSelector")
        known.add(key)
    for index, key in enumerate(matched):
        if key in mismatched:
            detail = "exists in both matchLabelKeys and mismatchLabelKeys"
            report.invalid(at(path, "matchLabelKeys", index), key, detail)


def check_tolerations(tolerations: list[Document], path: Path, report: Report) -> None:
    """Operators that fit key and value; seconds only with NoExecute."""
    for index, toleration in enumerate(tolerations):
        _check_toleration(toleration, at(path, index), report)


def _check_toleration(toleration: Document, path: Path, report: Report) -> None:
    key, operator = toleration.get("key") or "", toleration.get("operator") or "Equal"
    value = toleration.get("value") or ""
    spot = at(path, "operator")
    if key:
        report.format(at(path, "key"), key, formats.qualified_name)
    elif operator != "Exists":
        detail = (
            "operator must be Exists when `key` is empty, which means "
            '"match all values and all keys"'
        )
        report.invalid(spot, toleration.get("operator", ""), detail)
    seconds = toleration.get("tolerationSeconds")
    if seconds is not None and toleration.get("effect") != "NoExecute":
        detail = "effect must be 'NoExecute' when `tolerationSeconds` is set"
        report.invalid(at(path, "effect"), toleration.get("effect", ""), detail)
    if operator == "Exists":
        if value:
            report.invalid(spot, value, "value must be empty when `operator` is 'Exists'")
    elif operator in ("Gt", "Lt"):
        if not _DECIMAL.match(value):
            detail = "must be a valid decimal integer in canonical form"
            report.invalid(at(path, "value"), value, detail)
    elif complaints := formats.label_value(value):
        report.invalid(spot, value, ";".join(complaints))


def check_topology_spread(constraints: list[Document], path: Path, report: Report) -> None:
    """Skew above zero, one constraint for each key and policy."""
    later = [(c.get("topologyKey") or "", c.get("whenUnsatisfiable") or "") for c in constraints]
    for index, entry in enumerate(constraints):
        place = at(path, index)
        skew = entry.get("maxSkew") or 0
        if skew <= 0:
            report.invalid(at(place, "maxSkew"), skew, NOT_POSITIVE)
        key, policy = later[index]
        if not key:
            report.required(at(place, "topologyKey"), "can not be empty")
        if (key, policy) in later[index + 1 :]:
            pair = f"{{{key}, {policy}}}"
            report.duplicate(at(place, "{topologyKey, whenUnsatisfiable}"), pair)
        _check_domains(entry, policy, place, report)
        _check_label_keys(entry, place, report)
        check_label_selector(entry.get("labelSelector"), at(place, "labelSelector"), report)


def _check_domains(entry: Document, policy: Any, path: Path, report: Report) -> None:
    domains = entry.get("minDomains")
    if domains is None:
        return
    if domains <= 0:
        report.invalid(at(path, "minDomains"), domains, NOT_POSITIVE)
    if policy != "DoNotSchedule":
        detail = f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {policy}"
        report.invalid(at(path, "minDomains"), domains, detail)
