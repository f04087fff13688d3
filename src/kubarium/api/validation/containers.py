"""Containers: names, images, ports, resources, restarts; the rest is in modules of its own.

Source: ``validateContainers`` and what it calls in ``pkg/apis/core/validation``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.environment import check_environment
from kubarium.api.validation.handlers import check_lifecycle, check_probes
from kubarium.api.validation.mounts import check_mounts
from kubarium.api.validation.quantities import check_requests
from kubarium.api.validation.report import Report
from kubarium.api.validation.security import check_container_security
from kubarium.api.validation.volumes import PULL_POLICIES, Volumes

MAX_RESTART_RULES = 20
MAX_EXIT_CODES = 255
_RESIZABLE = ("cpu", "memory")
_RESIZE_POLICIES = ("NotRequired", "RestartContainer")
_RULE_ACTIONS = ("Restart", "RestartAllContainers")
_CODE_OPERATORS = ("In", "NotIn")
_ONLY_ALWAYS = "may not be set for init containers without restartPolicy=Always"
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
# What ephemeral containers may not say.
_NOT_EPHEMERAL = (
    "ports",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
)
# Sets of values that the schema of ephemeral containers leaves open.
_EPHEMERAL_CHOICES = (
    ("imagePullPolicy", PULL_POLICIES),
    ("terminationMessagePolicy", ("File", "FallbackToLogsOnError")),
)


def check_containers(
    spec: Document,
    path: Path,
    volumes: Volumes,
    claims: Collection[str],
    report: Report,
    *,
    in_pod: bool = True,
) -> None:
    """All containers of a pod; names are unique across init and main ones.

    ``in_pod`` is false in a template: blanks around an image are told when pods are made of it.
    """
    containers = spec.get("containers") or []
    if not containers:
        report.required(at(path, "containers"))
    names: set[str] = set()
    for field in ("containers", "initContainers", "ephemeralContainers"):
        found = spec.get(field) or ()
        for index, container in enumerate(found):
            place = at(path, field, index)
            _check_container(container, spec, place, volumes, claims, report, in_pod)
            name = container.get("name") or ""
            if name or field != "initContainers":
                report.unique(at(place, "name"), name, names)
            if field == "containers":
                _check_restarts(container, place, report)
                _check_running(container, spec, place, report)
            elif field == "initContainers":
                _check_restarts(container, place, report, is_init=True)
                _check_init(container, spec, place, report)
                _check_host_ports([container], at(path, field), report)
            else:
                _check_ephemeral(container, spec, place, report)
        if field == "containers":
            _check_host_ports(found, at(path, field), report)
    if spec.get("hostNetwork"):
        _check_host_network(containers, at(path, "containers"), report, in_pod)


def _check_container(
    container: Document,
    spec: Document,
    path: Path,
    volumes: Volumes,
    claims: Collection[str],
    report: Report,
    in_pod: bool,
) -> None:
    report.required_format(at(path, "name"), container.get("name"), formats.dns_label)
    image = container.get("image") or ""
    if not image:
        report.required(at(path, "image"))
    elif in_pod and image != image.strip():
        detail = "must not have leading or trailing whitespace"
        report.invalid(at(path, "image"), image, detail)
    _check_ports(container.get("ports") or (), at(path, "ports"), report)
    check_environment(container, path, report)
    check_mounts(container, path, volumes, report)
    resources = container.get("resources")
    if resources:
        check_resources(resources, at(path, "resources"), report)
        if resources.get("claims"):
            check_claims(resources["claims"], claims, at(path, "resources", "claims"), report)
    if container.get("resizePolicy"):
        policy = at(path, "resizePolicy")
        _check_resizes(container["resizePolicy"], policy, spec.get("restartPolicy"), report)
    context = container.get("securityContext")
    if context:
        host_users = spec.get("hostUsers") is not False
        place = at(path, "securityContext")
        check_container_security(context, place, report, host_users=host_users)


def _check_running(container: Document, spec: Document, path: Path, report: Report) -> None:
    if container.get("lifecycle") is not None:
        check_lifecycle(container["lifecycle"], at(path, "lifecycle"), spec, report)
    check_probes(container, path, report)


def _check_init(container: Document, spec: Document, path: Path, report: Report) -> None:
    if container.get("restartPolicy") == "Always":
        _check_running(container, spec, path, report)
        return
    for field in ("lifecycle", *_PROBES):
        if container.get(field) is not None:
            report.forbidden(at(path, field), _ONLY_ALWAYS)
    for index, policy in enumerate(container.get("resizePolicy") or ()):
        if policy.get("restartPolicy") == "RestartContainer":
            place = at(path, "resizePolicy", index, "restartPolicy")
            detail = "must not be set to 'RestartContainer' for non-sidecar initContainers"
            report.invalid(place, "RestartContainer", detail)


def _check_ephemeral(container: Document, spec: Document, path: Path, report: Report) -> None:
    detail = "cannot be set for an Ephemeral Container"
    target = container.get("targetContainerName")
    others = (*(spec.get("containers") or ()), *(spec.get("initContainers") or ()))
    if target and all(other.get("name") != target for other in others):
        report.not_found(at(path, "targetContainerName"), target)
    for field in _NOT_EPHEMERAL:
        if container.get(field) is not None:
            report.forbidden(at(path, field), detail)
    if any(container.get("resources", {}).values()):
        report.forbidden(at(path, "resources"), detail)
    for field, choices in _EPHEMERAL_CHOICES:
        if container.get(field, choices[0]) not in choices:
            report.not_supported(at(path, field), container[field], choices)
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        for field in ("subPath", "subPathExpr"):
            if mount.get(field):
                report.forbidden(at(path, "volumeMounts", index, field), detail)


# --- ports ---------------------------------------------------------------------------------------


def _check_ports(ports: Collection[Document], path: Path, report: Report) -> None:
    names: set[str] = set()
    for index, port in enumerate(ports):
        place = at(path, index)
        name = port.get("name")
        if name and report.format(at(place, "name"), name, formats.port_name):
            report.unique(at(place, "name"), name, names)
        number = port.get("containerPort") or 0
        if number == 0:
            report.required(at(place, "containerPort"))
        else:
            _check_port(number, at(place, "containerPort"), report)
        if port.get("hostPort"):
            _check_port(port["hostPort"], at(place, "hostPort"), report)


def _check_port(number: int, path: Path, report: Report) -> None:
    for complaint in formats.port_number(number):
        report.invalid(path, number, complaint)


def _check_host_ports(containers: Collection[Document], path: Path, report: Report) -> None:
    """A port of the host goes to one container; init containers are looked at each alone."""
    seen: set[str] = set()
    for index, container in enumerate(containers):
        for position, port in enumerate(container.get("ports") or ()):
            if port.get("hostPort"):
                protocol, address = port.get("protocol") or "", port.get("hostIP") or ""
                text = f"{protocol}/{address}/{port['hostPort']}"
                report.unique(at(path, index, "ports", position, "hostPort"), text, seen)


def _check_host_network(
    containers: Collection[Document], path: Path, report: Report, in_pod: bool
) -> None:
    for index, container in enumerate(containers):
        for position, port in enumerate(container.get("ports") or ()):
            host = port.get("hostPort") or 0
            if (in_pod or host) and host != (port.get("containerPort") or 0):
                place = at(path, index, "ports", position, "hostPort")
                detail = "must match `containerPort` when `hostNetwork` is true"
                report.invalid(place, host, detail)


# --- restarts and resources ----------------------------------------------------------------------


def _check_restarts(
    container: Document, path: Path, report: Report, *, is_init: bool = False
) -> None:
    """KEP-5307: rules refine a restart policy of the container's own."""
    rules = container.get("restartPolicyRules") or []
    if not rules:
        return
    place = at(path, "restartPolicyRules")
    if container.get("restartPolicy") is None:
        detail = "must specify restartPolicy when restart rules are used"
        report.required(at(path, "restartPolicy"), detail)
        if is_init:
            return
    if len(rules) > MAX_RESTART_RULES:
        report.too_many(place, len(rules), MAX_RESTART_RULES)
    for index, rule in enumerate(rules):
        action = rule.get("action") or ""
        if action not in _RULE_ACTIONS:
            report.not_supported(at(place, index, "action"), action, _RULE_ACTIONS)
        codes = rule.get("exitCodes")
        if codes is None:
            report.required(at(place, index, "exitCodes"), "must be specified")
            continue
        operator = codes.get("operator") or ""
        if operator not in _CODE_OPERATORS:
            spot = at(place, index, "exitCodes", "operator")
            report.not_supported(spot, operator, _CODE_OPERATORS)
        count = len(codes.get("values") or ())
        if count > MAX_EXIT_CODES:
            report.too_many(at(place, index, "exitCodes", "values"), count, MAX_EXIT_CODES)


def _check_resizes(
    policies: Collection[Document], path: Path, restart: str | None, report: Report
) -> None:
    seen: set[Any] = set()
    for index, policy in enumerate(policies):
        name, action = policy.get("resourceName") or "", policy.get("restartPolicy") or ""
        report.unique(at(path, index), name, seen)
        for value, choices in ((name, _RESIZABLE), (action, _RESIZE_POLICIES)):
            if not value:
                report.required(path)
            elif value not in choices:
                report.not_supported(path, value, choices)
        if restart == "Never" and action != "NotRequired":
            detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'"
            report.invalid(path, action, detail)


def check_resources(resources: Document, path: Path, report: Report) -> None:
    """Amounts in ``resources`` of a container."""
    check_requests(resources, path, report)


def check_claims(
    claims: Collection[Document], known: Collection[str], path: Path, report: Report
) -> None:
    """Resource claims of a container are among the pod's, each or each of its requests once."""
    seen: set[str] = set()
    for index, claim in enumerate(claims):
        place = at(path, index)
        name, request = claim.get("name") or "", claim.get("request") or ""
        if not name:
            report.required(place)
            continue
        if name in seen:
            report.duplicate(place, name)
        else:
            key = name
            if request:
                report.format(at(place, "request"), request, formats.dns_label)
                key = f"{name}/{request}"
            if key in seen:
                report.duplicate(place, key)
            elif not request:
                for other in seen:
                    if other.startswith(f"{name}/"):
                        report.duplicate(place, name)
            seen.add(key)
        if name not in known:
            listed = ": " + ", ".join(sorted(known)) if known else " which is empty"
            detail = f"must be one of the names in pod.spec.resourceClaims{listed}"
            report.not_found(place, name, detail)
