"""Containers: names, images, environment, ports, mounts, probes, resources."""

from __future__ import annotations

import re
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.quantities import check_huge_pages, check_requests
from kubarium.api.validation.report import Report
from kubarium.api.validation.volumes import VolumeNames, check_relative_path

MAX_RESTART_RULES = 20
MAX_EXIT_CODES = 255
INT32_MAX = 2**31 - 1
_ENV_SOURCES = ("configMapKeyRef", "fieldRef", "fileKeyRef", "resourceFieldRef", "secretKeyRef")
_ENV_FIELDS = frozenset(
    (
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    )
)
_SUBSCRIPT = re.compile(r"metadata\.(?:labels|annotations)\['[^']*'\]")
_RESOURCE_FIELDS = re.compile(
    r"(?:limits|requests)\.(?:cpu|memory|ephemeral-storage|hugepages-[A-Za-z0-9]+)"
)
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_HOOKS = ("exec", "httpGet", "tcpSocket", "sleep")


def check_containers(
    spec: Document, path: Path, volumes: VolumeNames, claims: set[str], report: Report
) -> None:
    """All containers of a pod; names are unique across init and main ones."""
    containers = spec.get("containers") or []
    if not containers:
        report.required(at(path, "containers"))
    names: set[str] = set()
    taken: set[str] = set()
    for field in ("containers", "initContainers", "ephemeralContainers"):
        for index, container in enumerate(spec.get(field) or ()):
            place = at(path, field, index)
            _check_container(container, place, names, report)
            _check_mounts(container, place, volumes, report)
            _check_resources(container, place, claims, report)
            ports = container.get("ports") or []
            on_host = field == "containers" and bool(spec.get("hostNetwork"))
            _check_ports(ports, at(place, "ports"), on_host, report)
            # Init containers run one after the other.
            among = taken if field == "containers" else set()
            _check_host_ports(ports, at(place, "ports"), among, report)
            if field == "initContainers":
                _check_init(container, place, report)
            else:
                _check_probes(container, place, report)
    _check_port_names(containers, path, report)


def _check_container(container: Document, path: Path, names: set[str], report: Report) -> None:
    name = container.get("name") or ""
    if name and report.format(at(path, "name"), name, formats.dns_label):
        report.unique(at(path, "name"), name, names)
    image = container.get("image") or ""
    if not image:
        report.required(at(path, "image"))
    elif image != image.strip():
        detail = "must not have leading or trailing whitespace"
        report.invalid(at(path, "image"), image, detail)
    for index, variable in enumerate(container.get("env") or ()):
        _check_variable(variable, at(path, "env", index), report)
    for index, source in enumerate(container.get("envFrom") or ()):
        _check_env_from(source, at(path, "envFrom", index), report)
    _check_restart_rules(container, path, report)
    for hook, handler in (container.get("lifecycle") or {}).items():
        if isinstance(handler, dict):
            _check_handler(handler, at(path, "lifecycle", hook), _HOOKS, report)
    context = container.get("securityContext") or {}
    for field in ("runAsUser", "runAsGroup"):
        if context.get(field) is not None:
            report.between(at(path, "securityContext", field), context[field], 0, INT32_MAX)
    if context.get("privileged") and context.get("allowPrivilegeEscalation") is False:
        detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
        report.invalid(at(path, "securityContext"), context, detail)


def _check_restart_rules(container: Document, path: Path, report: Report) -> None:
    """KEP-5307: rules refine a restart policy of the container's own."""
    rules = container.get("restartPolicyRules") or []
    if not rules:
        return
    place = at(path, "restartPolicyRules")
    if not container.get("restartPolicy"):
        report.required(at(path, "restartPolicy"), "must specify restartPolicy when rules are used")
    if len(rules) > MAX_RESTART_RULES:
        report.too_many(place, len(rules), MAX_RESTART_RULES)
    for index, rule in enumerate(rules):
        codes = rule.get("exitCodes")
        if codes is None:
            report.required(at(place, index, "exitCodes"), "must be specified")
            continue
        values = codes.get("values") or []
        spot = at(place, index, "exitCodes", "values")
        if not values:
            report.required(spot, "name the exit codes that the operator is about")
        elif len(values) > MAX_EXIT_CODES:
            report.too_many(spot, len(values), MAX_EXIT_CODES)


# --- environment ---------------------------------------------------------------------------------


def _check_variable(variable: Document, path: Path, report: Report) -> None:
    name = variable.get("name") or ""
    if name:
        report.format(at(path, "name"), name, formats.env_var_name)
    source = variable.get("valueFrom")
    if source is None:
        return
    place = at(path, "valueFrom")
    given = [key for key in _ENV_SOURCES if source.get(key) is not None]
    if not given:
        detail = (
            "must specify one of: `configMapKeyRef`, `fieldRef`, `fileKeyRef`, "
            "`resourceFieldRef` or `secretKeyRef`"
        )
        report.invalid(place, "", detail)
    elif variable.get("value"):
        report.invalid(place, "", "may not be specified when `value` is not empty")
    elif len(given) > 1:
        report.invalid(place, "", "may not have more than one field specified at a time")
    if source.get("fieldRef") is not None:
        _check_field_reference(source["fieldRef"], at(place, "fieldRef"), report)
    if source.get("resourceFieldRef") is not None:
        check_resource_reference(source["resourceFieldRef"], at(place, "resourceFieldRef"), report)
    for key in ("configMapKeyRef", "secretKeyRef"):
        if source.get(key) is not None:
            _check_key_reference(source[key], at(place, key), report)


def _check_key_reference(reference: Document, path: Path, report: Report) -> None:
    if not reference.get("name"):
        report.required(at(path, "name"))
    if reference.get("key"):
        report.format(at(path, "key"), reference["key"], formats.config_map_key)


def _check_field_reference(reference: Document, path: Path, report: Report) -> None:
    field = reference.get("fieldPath") or ""
    if not field or field in _ENV_FIELDS or _SUBSCRIPT.fullmatch(field):
        return
    if field in ("metadata.labels", "metadata.annotations"):
        report.not_supported(at(path, "fieldPath"), field, sorted(_ENV_FIELDS))
        return
    detail = f"error converting fieldPath: field label not supported: {field}"
    report.invalid(at(path, "fieldPath"), field, detail)


def check_resource_reference(reference: Document, path: Path, report: Report) -> None:
    """``resourceFieldRef`` of an environment variable or a downward API file."""
    resource = reference.get("resource") or ""
    if resource and not _RESOURCE_FIELDS.fullmatch(resource):
        choices = [
            f"{side}.{name}"
            for side in ("limits", "requests")
            for name in ("cpu", "ephemeral-storage", "memory")
        ]
        report.not_supported(at(path, "resource"), resource, choices)


def _check_env_from(source: Document, path: Path, report: Report) -> None:
    prefix = source.get("prefix")
    if prefix:
        report.format(at(path, "prefix"), prefix, formats.env_var_name)
    given = [key for key in ("configMapRef", "secretRef") if source.get(key) is not None]
    if not given:
        report.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")
    elif len(given) > 1:
        report.invalid(path, "", "may not have more than one field specified at a time")
    for key in given:
        if not source[key].get("name"):
            report.required(at(path, key, "name"))


# --- ports ---------------------------------------------------------------------------------------


def _check_ports(ports: list[Document], path: Path, host_network: bool, report: Report) -> None:
    for index, port in enumerate(ports):
        place = at(path, index)
        name = port.get("name")
        if name:
            report.format(at(place, "name"), name, formats.port_name)
        number = port.get("containerPort") or 0
        if number == 0:
            report.required(at(place, "containerPort"))
        else:
            _check_port(number, at(place, "containerPort"), report)
        host = port.get("hostPort") or 0
        if host:
            _check_port(host, at(place, "hostPort"), report)
            if host_network and host != number:
                detail = "must match `containerPort` when `hostNetwork` is true"
                report.invalid(at(place, "hostPort"), host, detail)


def _check_host_ports(ports: list[Document], path: Path, taken: set[str], report: Report) -> None:
    """No two take the same port of the same address; ``taken`` are those of other containers."""
    for index, port in enumerate(ports):
        host = port.get("hostPort") or 0
        if host:
            text = f"{port.get('protocol') or ''}/{port.get('hostIP') or ''}/{host}"
            report.unique(at(path, index, "hostPort"), text, taken)


def _check_port(number: int, path: Path, report: Report) -> None:
    for complaint in formats.port_number(number):
        report.invalid(path, number, complaint)


def _check_port_names(containers: list[Document], path: Path, report: Report) -> None:
    for index, container in enumerate(containers):
        seen: set[str] = set()
        for position, port in enumerate(container.get("ports") or ()):
            if port.get("name"):
                place = at(path, "containers", index, "ports", position, "name")
                report.unique(place, port["name"], seen)


# --- mounts and resources ------------------------------------------------------------------------


def _check_mounts(container: Document, path: Path, volumes: VolumeNames, report: Report) -> None:
    seen: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        place = at(path, "volumeMounts", index)
        name = mount.get("name") or ""
        if name and name not in volumes:
            report.not_found(at(place, "name"), name)
        target = mount.get("mountPath") or ""
        if target in seen:
            report.invalid(at(place, "mountPath"), target, "must be unique")
        seen.add(target)
        for field in ("subPath", "subPathExpr"):
            if mount.get(field):
                check_relative_path(mount[field], at(place, field), report)
        if mount.get("subPath") and mount.get("subPathExpr"):
            detail = "subPathExpr and subPath are mutually exclusive"
            report.invalid(at(place, "subPathExpr"), mount["subPathExpr"], detail)
    for index, device in enumerate(container.get("volumeDevices") or ()):
        name = device.get("name") or ""
        if name and name not in volumes:
            report.not_found(at(path, "volumeDevices", index, "name"), name)


def _check_resources(container: Document, path: Path, claims: set[str], report: Report) -> None:
    resources = container.get("resources") or {}
    place = at(path, "resources")
    check_resources(resources, place, report)
    check_huge_pages(resources, place, report)
    seen: set[Any] = set()
    for index, claim in enumerate(resources.get("claims") or ()):
        name = claim.get("name") or ""
        if name and name not in claims:
            report.not_found(at(place, "claims", index), name)
        request = claim.get("request") or ""
        if request:
            report.format(at(place, "claims", index, "request"), request, _request_name)
        if (name, request) in seen:
            report.duplicate(at(place, "claims", index), claim)
        seen.add((name, request))
    policies: set[Any] = set()
    for index, policy in enumerate(container.get("resizePolicy") or ()):
        name = policy.get("resourceName")
        report.unique(at(path, "resizePolicy", index), name, policies)
        if name not in ("cpu", "memory"):
            spot = at(path, "resizePolicy", index, "resourceName")
            report.not_supported(spot, name, ("cpu", "memory"))


def _request_name(text: str) -> tuple[str, ...]:
    """``request`` or, for prioritised alternatives, ``request/subrequest``."""
    parts = text.split("/")
    if len(parts) > 2:
        return ("may have at most one '/'",)
    return tuple(c for part in parts for c in formats.dns_label(part))


def check_resources(resources: Document, path: Path, report: Report) -> None:
    """``resources`` of a container or pod."""
    check_requests(resources, path, report)


# --- probes --------------------------------------------------------------------------------------


def _check_init(container: Document, path: Path, report: Report) -> None:
    if container.get("restartPolicy") == "Always":
        _check_probes(container, path, report)
        return
    for field in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(field):
            detail = "may not be set for init containers without restartPolicy=Always"
            report.forbidden(at(path, field), detail)


def _check_probes(container: Document, path: Path, report: Report) -> None:
    for field in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(field)
        if probe is None:
            continue
        place = at(path, field)
        _check_handler(probe, place, _HANDLERS, report)
        for timing in (
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ):
            report.not_negative(at(place, timing), probe.get(timing))
        if field != "readinessProbe" and probe.get("successThreshold") not in (None, 1):
            report.invalid(at(place, "successThreshold"), probe["successThreshold"], "must be 1")


def _check_handler(handler: Document, path: Path, kinds: tuple[str, ...], report: Report) -> None:
    given = [kind for kind in kinds if handler.get(kind) is not None]
    if not given:
        report.required(path, "must specify a handler type")
    for extra in given[1:]:
        report.forbidden(at(path, extra), "may not specify more than 1 handler type")
    for kind in given:
        place, action = at(path, kind), handler[kind]
        if kind == "exec" and not action.get("command"):
            report.required(at(place, "command"))
        elif kind in ("httpGet", "tcpSocket"):
            _check_handler_port(action.get("port"), at(place, "port"), report)
        elif kind == "grpc":
            _check_handler_port(action.get("port", 0), at(place, "port"), report)
        elif kind == "sleep":
            report.not_negative(at(place, "seconds"), action.get("seconds"))
        for index, header in enumerate(action.get("httpHeaders") or ()):
            spot = at(place, "httpHeaders", index, "name")
            if header.get("name"):
                report.format(spot, header["name"], formats.http_header_name)


def _check_handler_port(port: Any, path: Path, report: Report) -> None:
    if isinstance(port, str):
        if not port.isdigit():
            report.format(path, port, formats.port_name)
            return
        port = int(port)
    _check_port(port or 0, path, report)
