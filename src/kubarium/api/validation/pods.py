"""Pod specs, wherever they stand (source: pkg/apis/core/validation/validation.go)."""

from __future__ import annotations

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.containers import check_containers, check_resources
from kubarium.api.validation.environment import check_file_volumes
from kubarium.api.validation.metadata import check_annotations, check_labels
from kubarium.api.validation.placement import (
    check_affinity,
    check_tolerations,
    check_topology_spread,
)
from kubarium.api.validation.pod_level import check_pod_level
from kubarium.api.validation.pod_metadata import check_pod_annotations
from kubarium.api.validation.report import Report
from kubarium.api.validation.security import check_pod_security, check_system
from kubarium.api.validation.volumes import check_volumes

INT32_MAX = 2**31 - 1
MAX_DNS_NAMESERVERS = 3
DNS_SEARCH_MAX = 32
DNS_SEARCH_CHARACTERS_MAX = 2048
HOSTNAME_OVERRIDE_MAX = 64
_SPEC: Path = (None, "spec")


def check_pod(pod: Document, report: Report) -> None:
    """A pod on creation."""
    spec = pod.get("spec") or {}
    check_pod_spec(spec, _SPEC, report)
    check_token_volumes(spec, _SPEC, report)
    if spec.get("ephemeralContainers"):
        report.forbidden(at(_SPEC, "ephemeralContainers"), "cannot be set on create")
    if spec.get("nodeName") and spec.get("schedulingGates"):
        detail = "cannot be set until all schedulingGates have been cleared"
        report.forbidden(at(_SPEC, "nodeName"), detail)


def check_token_volumes(spec: Document, path: Path, report: Report) -> None:
    """Tokens are those of a service account."""
    if spec.get("serviceAccountName"):
        return
    for index, volume in enumerate(spec.get("volumes") or ()):
        for position, source in enumerate((volume.get("projected") or {}).get("sources") or ()):
            if source.get("serviceAccountToken") is not None:
                place = at(path, "volumes", index, "projected", "sources", position)
                detail = "must not be specified when serviceAccountName is not set"
                report.forbidden(at(place, "serviceAccountToken"), detail)


def check_pod_template(template: Document, path: Path, report: Report) -> None:
    """Labels, annotations and spec of a template."""
    metadata = template.get("metadata") or {}
    check_labels(metadata.get("labels") or {}, at(path, "labels"), report)
    spec = template.get("spec") or {}
    annotations = metadata.get("annotations")
    if annotations:
        place = at(path, "annotations")
        check_annotations(annotations, place, report)
        check_pod_annotations(annotations, spec, place, report)
    check_pod_spec(spec, at(path, "spec"), report, in_pod=False)
    if spec.get("ephemeralContainers"):
        detail = "ephemeral containers not allowed in pod template"
        report.forbidden(at(path, "spec", "ephemeralContainers"), detail)


def check_pod_spec(spec: Document, path: Path, report: Report, *, in_pod: bool = True) -> None:
    """Everything that holds for a pod spec on its own; ``in_pod`` is false in a template."""
    volumes = check_volumes(spec.get("volumes") or [], at(path, "volumes"), report, in_pod=in_pod)
    claims = _check_claims(spec.get("resourceClaims") or [], at(path, "resourceClaims"), report)
    check_containers(spec, path, volumes, claims, report, in_pod=in_pod)
    _check_lifetime(spec, path, report)
    _check_names(spec, path, report)
    _check_hosts(spec, path, report)
    check_labels(spec.get("nodeSelector") or {}, at(path, "nodeSelector"), report)
    check_affinity(spec.get("affinity") or {}, at(path, "affinity"), report)
    check_tolerations(spec.get("tolerations") or [], at(path, "tolerations"), report)
    constraints = spec.get("topologySpreadConstraints") or []
    check_topology_spread(constraints, at(path, "topologySpreadConstraints"), report)
    _check_gates(spec.get("schedulingGates") or [], at(path, "schedulingGates"), report)
    check_pod_security(spec, path, report)
    check_system(spec, path, report)
    _check_dns(spec, path, report)
    if "resources" in spec:
        check_pod_level(spec, path, report)
    if "overhead" in spec:
        check_resources({"limits": spec["overhead"]}, at(path, "overhead"), report)
    check_file_volumes(spec, path, report)


def _check_lifetime(spec: Document, path: Path, report: Report) -> None:
    seconds = spec.get("activeDeadlineSeconds")
    if seconds is not None:
        report.between(at(path, "activeDeadlineSeconds"), seconds, 1, INT32_MAX)
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
)


def _check_names(spec: Document, path: Path, report: Report) -> None:
    for field, check in _NAMED:
        value = spec.get(field)
        if value:
            report.format(at(path, field), value, check)
    if spec.get("preemptionPolicy") == "":
        report.required(at(path, "preemptionPolicy"))
    runtime = spec.get("runtimeClassName")
    if runtime is not None:
        report.format(at(path, "runtimeClassName"), runtime, formats.dns_subdomain)
    group = spec.get("schedulingGroup")
    if group is not None:
        name, place = group.get("podGroupName"), at(path, "schedulingGroup", "podGroupName")
        if name is None:
            report.invalid(place, name, "must specify one of: `podGroupName`")
        else:
            report.format(place, name, formats.dns_subdomain)


def _check_hosts(spec: Document, path: Path, report: Report) -> None:
    """Names of the pod as a host, and of other hosts that it knows."""
    override = spec.get("hostnameOverride")
    if override is not None:
        place = at(path, "hostnameOverride")
        if spec.get("setHostnameAsFQDN"):
            report.forbidden(place, "may not be specified when setHostnameAsFQDN is true")
        if spec.get("hostNetwork"):
            report.forbidden(place, "may not be specified when hostNetwork is true")
        if len(override) > HOSTNAME_OVERRIDE_MAX:
            report.too_long(place, HOSTNAME_OVERRIDE_MAX)
        report.format(place, override, formats.dns_subdomain)
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        place = at(path, "hostAliases", index)
        report.format(at(place, "ip"), alias.get("ip", ""), formats.ip_address)
        for position, host in enumerate(alias.get("hostnames") or ()):
            report.format(at(place, "hostnames", position), host, formats.dns_subdomain)


def _check_gates(gates: list[Document], path: Path, report: Report) -> None:
    seen: set[str] = set()
    for index, gate in enumerate(gates):
        name = gate.get("name") or ""
        report.format(at(path, index), name, formats.qualified_name)
        report.unique(at(path, index), name, seen)


_CLAIM_SOURCES = ("resourceClaimName", "resourceClaimTemplateName")


def _check_claims(claims: list[Document], path: Path, report: Report) -> set[str]:
    """Names of the pod's resource claims; each refers to a claim or a template, not both."""
    seen: set[str] = set()
    for index, claim in enumerate(claims):
        place = at(path, index)
        name = claim.get("name") or ""
        if name in seen:
            report.duplicate(at(place, "name"), name)
        else:
            report.required_format(at(place, "name"), name, formats.dns_label)
            seen.add(name)
        sources = [k for k in _CLAIM_SOURCES if claim.get(k) is not None]
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
    return seen - {""}


def _check_dns(spec: Document, path: Path, report: Report) -> None:
    config = spec.get("dnsConfig")
    place = at(path, "dnsConfig")
    if spec.get("dnsPolicy") == "None":
        if config is None:
            detail = "must provide `dnsConfig` when `dnsPolicy` is None"
            report.required(place, detail)
        elif not config.get("nameservers"):
            detail = "must provide at least one DNS nameserver when `dnsPolicy` is None"
            report.required(at(place, "nameservers"), detail)
            return
    if config is None:
        return
    servers = config.get("nameservers") or []
    if len(servers) > MAX_DNS_NAMESERVERS:
        detail = f"must not have more than {MAX_DNS_NAMESERVERS} nameservers"
        report.invalid(at(place, "nameservers"), servers, detail)
    for index, server in enumerate(servers):
        report.format(at(place, "nameservers", index), server, formats.ip_address)
    _check_searches(config.get("searches") or [], at(place, "searches"), report)
    for index, option in enumerate(config.get("options") or ()):
        if not option.get("name"):
            report.required(at(place, "options", index), "must not be empty")


def _check_searches(searches: list[str], path: Path, report: Report) -> None:
    if len(searches) > DNS_SEARCH_MAX:
        detail = f"must not have more than {DNS_SEARCH_MAX} search paths"
        report.invalid(path, searches, detail)
    if len(" ".join(searches)) > DNS_SEARCH_CHARACTERS_MAX:
        detail = (
            f"must not have more than {DNS_SEARCH_CHARACTERS_MAX} characters (including spaces) "
            "in the search list"
        )
        report.invalid(path, searches, detail)
    for index, search in enumerate(searches):
        if search != ".":
            domain = search.removesuffix(".")
            report.format(at(path, index), domain, formats.underscored_subdomain)
