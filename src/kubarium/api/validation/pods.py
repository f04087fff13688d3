"""Pod specs, wherever they stand (source: pkg/apis/core/validation/validation.go)."""

from __future__ import annotations

from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.containers import check_containers, check_resources
from kubarium.api.validation.metadata import check_labels
from kubarium.api.validation.placement import (
    check_affinity,
    check_tolerations,
    check_topology_spread,
)
from kubarium.api.validation.pod_level import check_pod_level
from kubarium.api.validation.report import Report
from kubarium.api.validation.volumes import check_volumes

INT32_MAX = 2**31 - 1
MAX_DNS_NAMESERVERS = 3
DNS_SEARCH_MAX = 32
_SPEC: Path = (None, "spec")


def check_pod(pod: Document, report: Report) -> None:
    """A pod on creation."""
    spec = pod.get("spec") or {}
    check_pod_spec(spec, _SPEC, report)
    for index, volume in enumerate(spec.get("volumes") or ()):
        if "image" in volume and not (volume["image"] or {}).get("reference"):
            report.required(at(_SPEC, "volumes", index, "image", "reference"))
    if spec.get("ephemeralContainers"):
        report.forbidden(at(_SPEC, "ephemeralContainers"), "cannot be set on create")
    if spec.get("nodeName") and spec.get("schedulingGates"):
        detail = "cannot be set until all schedulingGates have been cleared"
        report.forbidden(at(_SPEC, "nodeName"), detail)


def check_pod_template(template: Document, path: Path, report: Report) -> None:
    """Labels, annotations and spec of a template."""
    metadata = template.get("metadata") or {}
    check_labels(metadata.get("labels") or {}, at(path, "metadata", "labels"), report)
    spec = template.get("spec") or {}
    check_pod_spec(spec, at(path, "spec"), report)
    if spec.get("ephemeralContainers"):
        detail = "ephemeral containers not allowed in pod template"
        report.forbidden(at(path, "spec", "ephemeralContainers"), detail)


def check_pod_spec(spec: Document, path: Path, report: Report) -> None:
    """Everything that holds for a pod spec on its own."""
    volumes = check_volumes(spec.get("volumes") or [], at(path, "volumes"), report)
    claims = _check_claims(spec.get("resourceClaims") or [], at(path, "resourceClaims"), report)
    check_containers(spec, path, volumes, claims, report)
    _check_lifetime(spec, path, report)
    _check_names(spec, path, report)
    check_labels(spec.get("nodeSelector") or {}, at(path, "nodeSelector"), report)
    check_affinity(spec.get("affinity") or {}, at(path, "affinity"), report)
    check_tolerations(spec.get("tolerations") or [], at(path, "tolerations"), report)
    constraints = spec.get("topologySpreadConstraints") or []
    check_topology_spread(constraints, at(path, "topologySpreadConstraints"), report)
    _check_gates(spec.get("schedulingGates") or [], at(path, "schedulingGates"), report)
    _check_security(spec.get("securityContext") or {}, at(path, "securityContext"), report)
    _check_dns(spec, path, report)
    if "resources" in spec:
        check_pod_level(spec, path, report)
    if "overhead" in spec:
        check_resources({"limits": spec["overhead"]}, at(path, "overhead"), report)


def _check_lifetime(spec: Document, path: Path, report: Report) -> None:
    seconds = spec.get("activeDeadlineSeconds")
    if seconds is not None:
        report.between(at(path, "activeDeadlineSeconds"), seconds, 1, INT32_MAX)
    grace = spec.get("terminationGracePeriodSeconds")
    report.not_negative(at(path, "terminationGracePeriodSeconds"), grace)
    for index, gate in enumerate(spec.get("readinessGates") or ()):
        name = gate.get("conditionType") or ""
        report.format(
            at(path, "readinessGates", index, "conditionType"), name, formats.qualified_name
        )


_NAMED: tuple[tuple[str, formats.Check], ...] = (
    ("hostname", formats.dns_label),
    ("subdomain", formats.dns_label),
    ("serviceAccountName", formats.dns_subdomain),
    ("nodeName", formats.dns_subdomain),
    ("priorityClassName", formats.dns_subdomain),
    ("runtimeClassName", formats.dns_subdomain),
)


def _check_names(spec: Document, path: Path, report: Report) -> None:
    for field, check in _NAMED:
        value = spec.get(field)
        if value:
            report.format(at(path, field), value, check)
    group = spec.get("schedulingGroup")
    if group is not None:
        name = group.get("podGroupName")
        report.required_format(
            at(path, "schedulingGroup", "podGroupName"), name, formats.dns_subdomain
        )
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        place = at(path, "hostAliases", index)
        report.format(at(place, "ip"), alias.get("ip", ""), formats.ip_address)
        for host in alias.get("hostnames") or ():
            report.format(at(place, "hostnames"), host, formats.dns_subdomain)


def _check_gates(gates: list[Document], path: Path, report: Report) -> None:
    seen: set[str] = set()
    for index, gate in enumerate(gates):
        name = gate.get("name") or ""
        report.format(at(path, index), name, formats.qualified_name)
        report.unique(at(path, index), name, seen)


def _check_claims(claims: list[Document], path: Path, report: Report) -> set[str]:
    """Names of the pod's resource claims; each refers to a claim or a template, not both."""
    seen: set[str] = set()
    for index, claim in enumerate(claims):
        place = at(path, index)
        name = claim.get("name") or ""
        if name and report.format(at(place, "name"), name, formats.dns_label):
            report.unique(at(place, "name"), name, seen)
        sources = [k for k in ("resourceClaimName", "resourceClaimTemplateName") if claim.get(k)]
        if len(sources) > 1:
            detail = (
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            )
            report.invalid(place, claim, detail)
        elif not sources:
            detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            report.invalid(place, claim, detail)
        for key in sources:
            report.format(at(place, key), claim[key], formats.dns_subdomain)
    return seen


def _check_security(context: Document, path: Path, report: Report) -> None:
    for field in ("runAsUser", "runAsGroup", "fsGroup"):
        if context.get(field) is not None:
            report.between(at(path, field), context[field], 0, INT32_MAX)
    for index, group in enumerate(context.get("supplementalGroups") or ()):
        report.between(at(path, "supplementalGroups", index), group, 0, INT32_MAX)
    seen: set[Any] = set()
    for index, entry in enumerate(context.get("sysctls") or ()):
        report.unique(at(path, "sysctls", index, "name"), entry.get("name"), seen)


def _check_dns(spec: Document, path: Path, report: Report) -> None:
    config = spec.get("dnsConfig")
    servers = (config or {}).get("nameservers") or []
    place = at(path, "dnsConfig")
    if spec.get("dnsPolicy") == "None":
        if config is None:
            detail = "must provide `dnsConfig` when `dnsPolicy` is None"
            report.required(place, detail)
        elif not servers:
            detail = "must provide at least one DNS nameserver when `dnsPolicy` is None"
            report.required(at(place, "nameservers"), detail)
    if len(servers) > MAX_DNS_NAMESERVERS:
        detail = f"must not have more than {MAX_DNS_NAMESERVERS} nameservers"
        report.invalid(at(place, "nameservers"), servers, detail)
    for index, server in enumerate(servers):
        report.format(at(place, "nameservers", index), server, formats.ip_address)
    searches = (config or {}).get("searches") or []
    if len(searches) > DNS_SEARCH_MAX:
        detail = f"must not have more than {DNS_SEARCH_MAX} search paths"
        report.invalid(at(place, "searches"), searches, detail)
