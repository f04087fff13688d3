"""What the status of a pod may come to say, and what containers may not come back from.

Source: ``ValidatePodStatusUpdate`` of ``pkg/apis/core/validation``. Each part is looked at only if
it is not the one that was there: statuses are written often and change little.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.report import Report

_STATUS: Path = (None, "status")
_SYSTEM_CONDITIONS = frozenset(("PodScheduled", "Ready", "Initialized"))
_HEALTH = ("Healthy", "Unhealthy", "Unknown")
HEALTH_MESSAGE_MAX = 1024
_NOT_NEGATIVE = "must be a non-negative integer"
_ONE_A_FAMILY = "may specify no more than one IP for each IP family"
# Statuses of containers, and where the spec has those containers.
_CONTAINERS = (
    ("containerStatuses", "containers"),
    ("initContainerStatuses", "initContainers"),
    ("ephemeralContainerStatuses", "ephemeralContainers"),
)


def check_pod_status(new: Document, old: Document, report: Report) -> None:
    """A pod's status as the next one of what ``old`` has."""
    status, before = new.get("status") or {}, old.get("status") or {}
    spec = old.get("spec") or {}

    def changed(field: str) -> Any:
        value, known = status.get(field), before.get(field)
        return None if value is known or value == known else value

    if conditions := changed("conditions"):
        _check_conditions(conditions, report)
    if name := changed("nominatedNodeName"):
        place = at(_STATUS, "nominatedNodeName")
        report.format(place, name, formats.dns_subdomain)
        if spec.get("nodeName"):
            report.forbidden(place, "may not be set on pods that are already bound to a node")
    if (status.get("observedGeneration") or 0) < 0:
        place = at(_STATUS, "observedGeneration")
        report.invalid(place, status["observedGeneration"], _NOT_NEGATIVE)
    for field, part in _CONTAINERS:
        if field in before or field in status:
            found, known = status.get(field) or (), before.get(field) or ()
            if found is not known and found != known:
                _check_containers(field, part, found, known, spec, report)
    if claims := changed("resourceClaimStatuses"):
        _check_claims(claims, spec, report)
    extended = changed("extendedResourceClaimStatus")
    if extended is not None:
        _check_extended(extended, spec, report)
    if changed("podIPs") or changed("podIP"):
        _check_addresses("podIPs", status, before, report)
    if changed("hostIPs") or changed("hostIP"):
        addresses = status.get("hostIPs") or ()
        if addresses and addresses[0].get("ip") != status.get("hostIP"):
            place = at(_STATUS, "hostIPs", 0, "ip")
            report.invalid(place, addresses[0].get("ip", ""), "must be equal to `hostIP`")
        _check_addresses("hostIPs", status, before, report)


def _check_conditions(conditions: Collection[Document], report: Report) -> None:
    for index, condition in enumerate(conditions):
        generation = condition.get("observedGeneration") or 0
        if generation < 0:
            place = at(_STATUS, "conditions", index, "observedGeneration")
            report.invalid(place, generation, _NOT_NEGATIVE)
        kind = condition.get("type") or ""
        if kind not in _SYSTEM_CONDITIONS:
            report.format(at(_STATUS, "conditions", index, "Type"), kind, formats.qualified_name)


def _addresses(field: str, status: Document) -> list[str]:
    """Addresses of a status; the older single one of a pod counts where both differ."""
    found = [address.get("ip") or "" for address in status.get(field) or ()]
    single = status.get("podIP") if field == "podIPs" else None
    return [single] if single and (not found or found[0] != single) else found


def _check_addresses(field: str, status: Document, before: Document, report: Report) -> None:
    addresses, known = _addresses(field, status), _addresses(field, before)
    for index, address in enumerate(addresses):
        if address not in known:
            report.format(at(_STATUS, field, index), address, formats.ip_address)
    if len(addresses) > 1:
        families = [_family(address) for address in addresses]
        if len(families) > 2 or None in families or len(set(families)) < len(families):
            report.invalid(at(_STATUS, field), status.get(field), _ONE_A_FAMILY)


def _family(address: str) -> int | None:
    try:
        return ipaddress.ip_address(address).version
    except ValueError:
        return None


# --- containers ----------------------------------------------------------------------------------


def _check_containers(
    field: str,
    part: str,
    statuses: Collection[Document],
    before: Collection[Document],
    spec: Document,
    report: Report,
) -> None:
    path = at(_STATUS, field)
    _check_transitions(part, statuses, before, spec, path, report)
    for index, status in enumerate(statuses):
        allocated = status.get("allocatedResourcesStatus")
        if not allocated:
            continue
        place = at(path, index, "allocatedResourcesStatus")
        if part == "ephemeralContainers":
            report.forbidden(place, "must not be specified in container status")
            continue
        container = _by_name(spec.get(part) or (), status.get("name"))
        _check_allocated(allocated, container, place, report)


def _by_name(containers: Collection[Document], name: str | None) -> Document | None:
    return next((c for c in containers if c.get("name") == name), None)


def _terminated(status: Document) -> Document | None:
    found: Document | None = (status.get("state") or {}).get("terminated")
    return found


def _check_transitions(
    part: str,
    statuses: Collection[Document],
    before: Collection[Document],
    spec: Document,
    path: Path,
    report: Report,
) -> None:
    """A container that has ended runs again only if what restarts it says so."""
    for index, was in enumerate(before):
        ended = _terminated(was)
        if ended is None:
            continue
        now = _by_name(statuses, was.get("name"))
        if now is None or _terminated(now) is not None:
            continue
        if not _may_restart(part, was.get("name"), ended.get("exitCode") or 0, spec):
            place = at(path, index, "state")
            report.forbidden(place, "may not be transitioned to non-terminated state")


def _may_restart(part: str, name: str | None, code: int, spec: Document) -> bool:
    if part == "ephemeralContainers":
        return False
    for field in ("initContainers", "containers"):
        for container in spec.get(field) or ():
            rules = container.get("restartPolicyRules") or ()
            if any(rule.get("action") == "RestartAllContainers" for rule in rules):
                return True
    container = _by_name(spec.get(part) or (), name)
    return container is not None and _restarts(container, code, spec)


def _restarts(container: Document, code: int, spec: Document) -> bool:
    policy = container.get("restartPolicy")
    if policy is not None:
        for rule in container.get("restartPolicyRules") or ():
            codes = rule.get("exitCodes") or {}
            listed = code in (codes.get("values") or ())
            if listed if codes.get("operator") == "In" else codes and not listed:
                return True
    policy = policy or spec.get("restartPolicy") or "Always"
    return policy == "Always" or (policy == "OnFailure" and code != 0)


def _check_allocated(
    allocated: Collection[Document], container: Document | None, path: Path, report: Report
) -> None:
    """The health of devices is told of what the container asked for."""
    for index, entry in enumerate(allocated):
        place = at(path, index)
        name = entry.get("name") or ""
        if container is not None and name not in _asked(container, name):
            detail = "must match one of the container's resource requests"
            if name.startswith("claim:"):
                detail = (
                    "must match one of the container's resource claims in a format "
                    "'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty"
                )
            report.invalid(at(place, "name"), name, detail)
        seen: set[str] = set()
        for position, resource in enumerate(entry.get("resources") or ()):
            spot = at(place, "resources", position)
            health = resource.get("health") or ""
            if health not in _HEALTH:
                report.not_supported(at(spot, "health"), health, _HEALTH)
            message = resource.get("message")
            if message == "":
                report.required(at(spot, "message"), "must be non-empty if specified")
            elif message is not None and len(message) > HEALTH_MESSAGE_MAX:
                report.too_long(at(spot, "message"), HEALTH_MESSAGE_MAX)
            report.unique(at(spot, "resourceID"), resource.get("resourceID") or "", seen)


def _asked(container: Document, name: str) -> Collection[str]:
    resources = container.get("resources") or {}
    if not name.startswith("claim:"):
        found: Collection[str] = resources.get("requests") or ()
        return found
    return [
        "/".join(filter(None, (f"claim:{claim.get('name')}", claim.get("request"))))
        for claim in resources.get("claims") or ()
    ]


# --- claims --------------------------------------------------------------------------------------


def _check_claims(statuses: Collection[Document], spec: Document, report: Report) -> None:
    known = {claim.get("name") for claim in spec.get("resourceClaims") or ()}
    seen: set[str] = set()
    for index, status in enumerate(statuses):
        place = at(_STATUS, "resourceClaimStatuses", index)
        name = status.get("name") or ""
        if name not in known:
            detail = "must match the name of an entry in `spec.resourceClaims`"
            report.invalid(at(place, "name"), name, detail)
        report.unique(at(place, "name"), name, seen)
        claim = status.get("resourceClaimName")
        if claim is not None:
            report.format(at(place, "resourceClaimName"), claim, formats.dns_subdomain)


def _check_extended(status: Document, spec: Document, report: Report) -> None:
    """The claim that was made for extended resources: which request is for which of them."""
    path = at(_STATUS, "extendedResourceClaimStatus")
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    mappings = status.get("requestMappings") or ()
    if not mappings:
        report.required(at(path, "requestMappings"), "at least one request mapping is required")
    fields = ("containerName", "resourceName", "requestName")
    seen: set[Any] = set()
    for index, mapping in enumerate(mappings):
        place = at(path, "requestMappings", index)
        key = tuple(mapping.get(field) or "" for field in fields)
        container = _by_name(containers, key[0])
        if container is None:
            detail = (
                "must match the name of an entry in spec.initContainers.name or "
                "spec.containers.name"
            )
            report.invalid(at(place, "containerName"), key[0], detail)
        elif key[1] not in ((container.get("resources") or {}).get("requests") or ()):
            detail = (
                "must match the extended resource name of an entry in "
                "spec.initContainers.resources.requests or spec.containers.resources.requests"
            )
            report.invalid(at(place, "resourceName"), key[1], detail)
        report.format(at(path, "requestName"), key[2], formats.dns_label)
        if key in seen:
            for field, value in zip(fields, key, strict=True):
                report.duplicate(at(place, field), value)
        seen.add(key)
    name = status.get("resourceClaimName")
    report.required_format(at(path, "resourceClaimName"), name, formats.dns_subdomain)
