"""core/v1 Nodes: taints, networks, amounts (source: ``ValidateNode`` of ``pkg/apis/core``)."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.quantities import check_quantity
from kubarium.api.validation.report import NOT_POSITIVE, Report

_SPEC: Path = (None, "spec")
_STATUS: Path = (None, "status")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
MAX_PREEMPTION_OWNERS = 20
_FEATURE = re.compile(r"[A-Z][A-Za-z0-9]*(/[A-Za-z0-9]+)*")


def check_node(document: Document, report: Report) -> None:
    """core/v1 Node, whole."""
    spec = document.get("spec") or {}
    _check_taints(spec.get("taints") or (), report)
    _check_preemption_policy(spec.get("podPreemptionPolicy") or {}, report)
    _check_networks(networks_of(spec), report)
    status = document.get("status") or {}
    if status:
        _check_amounts(status, {}, report)
        _check_features(status.get("declaredFeatures") or (), report)
        swap = (status.get("nodeInfo") or {}).get("swap") or {}
        if (swap.get("capacity") or 0) <= 0 and swap.get("capacity") is not None:
            place = at(None, "metadata", "nodeSwapStatus", "capacity")
            report.invalid(place, swap["capacity"], NOT_POSITIVE)


def networks_of(spec: Document) -> list[str]:
    """The node's networks for pods; the older single one counts where both differ."""
    single, several = spec.get("podCIDR") or "", spec.get("podCIDRs") or []
    if single and (not several or several[0] != single):
        return [single]
    return list(several)


def _check_taints(taints: Any, report: Report) -> None:
    """Complaints name the metadata, as upstream's do."""
    seen: set[Any] = set()
    for index, taint in enumerate(taints):
        place = at(None, "metadata", "taints", index)
        key, effect = taint.get("key") or "", taint.get("effect") or ""
        report.format(at(place, "key"), key, formats.qualified_name)
        value = taint.get("value") or ""
        if complaints := formats.label_value(value):
            report.invalid(at(place, "value"), value, ";".join(complaints))
        if not effect:
            report.required(at(place, "effect"))
        elif effect not in _EFFECTS:
            report.not_supported(at(place, "effect"), effect, _EFFECTS)
        if (key, effect) in seen:
            report.duplicate(place, taint, "taints must be unique by key and effect pair")
        seen.add((key, effect))


def _check_networks(networks: list[str], report: Report) -> None:
    path = at(_SPEC, "podCIDRs")
    for index, network in enumerate(networks):
        report.format(at(path, index), network, formats.cidr)
    if len(networks) > 1:
        families = {_family(network) for network in networks}
        if len(networks) > 2 or len(families) < 2 or None in families:
            detail = "may specify no more than one CIDR for each IP family"
            report.invalid(path, networks, detail)


def _family(network: str) -> int | None:
    try:
        return ipaddress.ip_network(network, strict=False).version
    except ValueError:
        return None


def _check_preemption_policy(policy: Document, report: Report) -> None:
    """Who forbids preemption for resizes on the node (KEP-5836): a set of label keys."""
    place = at(_SPEC, "podPreemptionPolicy", "disableResizePreemption")
    owners = policy.get("disableResizePreemption") or ()
    if len(owners) > MAX_PREEMPTION_OWNERS:
        report.too_many(place, len(owners), MAX_PREEMPTION_OWNERS)
    for index, owner in enumerate(owners):
        report.format(at(place, index), owner, formats.qualified_name)
        if owner in owners[:index]:
            report.duplicate(at(place, index), owner)


def check_node_update(new: Document, old: Document, report: Report) -> None:
    """A provider ID and pod CIDRs may be set once."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    if networks_of(before) and networks_of(after) != networks_of(before):
        detail = 'node updates may not change podCIDR except from "" to valid'
        report.forbidden(at(_SPEC, "podCIDRs"), detail)
    if before.get("providerID") and after.get("providerID") != before["providerID"]:
        detail = 'node updates may not change providerID except from "" to valid'
        report.forbidden(at(_SPEC, "providerID"), detail)
    if (after.get("externalID") or "") != (before.get("externalID") or ""):
        report.forbidden(at(_SPEC, "externalID"), "may not be updated")
    _check_taints(after.get("taints") or (), report)
    _check_preemption_policy(after.get("podPreemptionPolicy") or {}, report)


def check_node_status(new: Document, old: Document, report: Report) -> None:
    """Amounts, features and addresses, as far as they are not those of before."""
    after, before = new.get("status") or {}, old.get("status") or {}
    _check_amounts(after, before, report)
    features = after.get("declaredFeatures") or ()
    if features != (before.get("declaredFeatures") or ()):
        _check_features(features, report)
    addresses = after.get("addresses") or ()
    if addresses != (before.get("addresses") or ()):
        for index, address in enumerate(addresses):
            if address in addresses[:index]:
                report.duplicate(at(_STATUS, "addresses", index), address)


def _check_amounts(status: Document, before: Document, report: Report) -> None:
    for field in ("capacity", "allocatable"):
        amounts = status.get(field) or {}
        if amounts == (before.get(field) or {}):
            continue
        for name, quantity in amounts.items():
            check_quantity(name, quantity, at(_STATUS, field, name), report)


def _check_features(features: Any, report: Report) -> None:
    """Names in UpperCamelCase with parts joined by slashes, in order, each once."""
    path = at(_STATUS, "declaredFeatures")
    for index, feature in enumerate(features):
        if len(feature) > formats.SUBDOMAIN_MAX:
            detail = f"must be no more than {formats.SUBDOMAIN_MAX} characters"
        elif _FEATURE.fullmatch(feature) is None:
            detail = (
                "must start with an UpperCamelCase segment, with subsequent segments separated by "
                "'/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric "
                "characters and slashes"
            )
        else:
            detail = ""
        if detail:
            text = f'invalid feature name "{feature}": {detail}'
            report.invalid(at(path, index), feature, text)
        last = features[index - 1] if index else ""
        if feature == last:
            report.duplicate(at(path, index), feature)
        elif feature < last:
            report.invalid(at(path, index), feature, "list must be sorted alphabetically")
