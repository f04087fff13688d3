"""Variables of containers, and what they may be taken from."""

from __future__ import annotations

import re
from collections.abc import Collection

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.quantities import amount
from kubarium.api.validation.report import Report
from kubarium.api.validation.volume_sources import check_no_backsteps, check_required
from kubarium.base.quantity import canonical

_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
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
# Fields that the downward API knows at all; each use admits some of them.
_KNOWN_FIELDS = _ENV_FIELDS | {
    "metadata.annotations",
    "metadata.labels",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.host",
    "status.phase",
}
_SUBSCRIPT = re.compile(r"([^\[]*)\['(.*)'\]", re.DOTALL)
_SUBSCRIPTED = ("metadata.annotations", "metadata.labels")
_RESOURCES = tuple(
    f"{side}.{name}"
    for side in ("limits", "requests")
    for name in ("cpu", "ephemeral-storage", "memory")
)
_HUGE_PAGES = ("limits.hugepages-", "requests.hugepages-")
_BYTE_DIVISORS = ("1", *(f"1{unit}" for unit in ("k", *"MGTPE", *(f"{u}i" for u in "KMGTPE"))))
# What a resource is called in a complaint about its divisor, and the divisors it may have.
_DIVISORS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "cpu": ("cpu", ("1", "1m"), "1m and 1"),
    "memory": ("memory", _BYTE_DIVISORS, ", ".join(_BYTE_DIVISORS)),
    "ephemeral-storage": ("local ephemeral storage", _BYTE_DIVISORS, ", ".join(_BYTE_DIVISORS)),
    "hugepages": ("hugepages", _BYTE_DIVISORS, ", ".join(_BYTE_DIVISORS)),
}


def check_environment(container: Document, path: Path, report: Report) -> None:
    """``env`` and ``envFrom`` of a container."""
    for index, variable in enumerate(container.get("env") or ()):
        _check_variable(variable, at(path, "env", index), report)
    for index, source in enumerate(container.get("envFrom") or ()):
        _check_env_from(source, at(path, "envFrom"), index, report)


def _check_variable(variable: Document, path: Path, report: Report) -> None:
    report.required_format(at(path, "name"), variable.get("name"), formats.env_var_name)
    source = variable.get("valueFrom")
    if source is None:
        return
    place = at(path, "valueFrom")
    if source.get("fieldRef") is not None:
        check_field_reference(source["fieldRef"], at(place, "fieldRef"), report, _ENV_FIELDS)
    if source.get("resourceFieldRef") is not None:
        check_resource_reference(source["resourceFieldRef"], at(place, "resourceFieldRef"), report)
    for key in ("configMapKeyRef", "secretKeyRef"):
        if source.get(key) is not None:
            _check_key_reference(source[key], at(place, key), report)
    if source.get("fileKeyRef") is not None:
        _check_file_reference(source["fileKeyRef"], at(place, "fileKeyRef"), report)
    given = sum(source.get(key) is not None for key in _SOURCES)
    if not given:
        detail = (
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, "
            "`secretKeyRef` or `fileKeyRef`"
        )
        report.invalid(place, "", detail)
    elif variable.get("value"):
        report.invalid(place, "", "may not be specified when `value` is not empty")
    elif given > 1:
        report.invalid(place, "", "may not have more than one field specified at a time")


def _check_key_reference(reference: Document, path: Path, report: Report) -> None:
    report.format(at(path, "name"), reference.get("name") or "", formats.dns_subdomain)
    report.required_format(at(path, "key"), reference.get("key"), formats.config_map_key)


def _check_file_reference(reference: Document, path: Path, report: Report) -> None:
    report.required_format(at(path, "key"), reference.get("key"), formats.env_var_name)
    report.required_format(at(path, "volumeName"), reference.get("volumeName"), formats.dns_label)
    check_required(reference, ("path",), path, report)
    check_no_backsteps(reference.get("path") or "", at(path, "path"), report)


def check_field_reference(
    reference: Document, path: Path, report: Report, admitted: Collection[str]
) -> None:
    """``fieldRef``: one of ``admitted``, or one label or annotation."""
    version, field = reference.get("apiVersion") or "", reference.get("fieldPath") or ""
    for key in ("apiVersion", "fieldPath"):
        if not reference.get(key):
            report.required(at(path, key))
            return
    place = at(path, "fieldPath")
    if version != "v1":
        detail = f"error converting fieldPath: unsupported pod version: {version}"
        report.invalid(place, field, detail)
        return
    subscript = _SUBSCRIPT.fullmatch(field)
    if subscript is not None:
        name, key = subscript.groups()
        if name not in _SUBSCRIPTED:
            why = f"field label does not support subscript: {field}"
            report.invalid(place, field, f"error converting fieldPath: {why}")
        else:
            key = key.lower() if name == "metadata.annotations" else key
            report.format(path, key, formats.qualified_name)
    elif field not in _KNOWN_FIELDS:
        detail = f"error converting fieldPath: field label not supported: {field}"
        report.invalid(place, field, detail)
    elif field not in admitted:
        report.not_supported(place, field, sorted(admitted))


def check_resource_reference(
    reference: Document, path: Path, report: Report, *, of_container: bool = False
) -> None:
    """``resourceFieldRef`` of a variable or a downward API file; the latter names its container."""
    resource = reference.get("resource") or ""
    if of_container and not reference.get("containerName"):
        report.required(at(path, "containerName"))
    elif not resource:
        report.required(at(path, "resource"))
    elif resource not in _RESOURCES and not resource.startswith(_HUGE_PAGES):
        report.not_supported(at(path, "resource"), resource, _RESOURCES)
    _check_divisor(resource, reference.get("divisor"), path, report)


def _check_divisor(resource: str, divisor: str | None, path: Path, report: Report) -> None:
    if divisor is None or not amount(divisor):
        return
    name = "hugepages" if resource.startswith(_HUGE_PAGES) else resource.partition(".")[2]
    known = _DIVISORS.get(name)
    if known is None or (name != "hugepages" and resource not in _RESOURCES):
        return
    shown, divisors, text = known
    if canonical(divisor) not in divisors:
        detail = f"only divisor's values {text} are supported with the {shown} resource"
        report.invalid(at(path, "divisor"), resource, detail)


def _check_env_from(source: Document, path: Path, index: int, report: Report) -> None:
    prefix = source.get("prefix")
    if prefix:
        report.format(at(path, index, "prefix"), prefix, formats.env_var_name)
    given = [key for key in ("configMapRef", "secretRef") if source.get(key) is not None]
    for key in given:
        name = source[key].get("name")
        report.required_format(at(path, index, key, "name"), name, formats.masked_subdomain)
    if not given:
        report.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")
    elif len(given) > 1:
        report.invalid(path, "", "may not have more than one field specified at a time")


def check_file_volumes(spec: Document, path: Path, report: Report) -> None:
    """Files of variables lie in volumes of the pod that are its own to write: emptyDir."""
    volumes = {volume.get("name") or "": volume for volume in spec.get("volumes") or ()}
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(spec.get(field) or ()):
            for position, variable in enumerate(container.get("env") or ()):
                reference = (variable.get("valueFrom") or {}).get("fileKeyRef")
                if reference is None:
                    continue
                name = reference.get("volumeName") or ""
                place = at(path, field, index, "env", position, "valueFrom", "fileKeyRef")
                if name not in volumes:
                    report.not_found(at(place, "volumeName"), name)
                elif "emptyDir" not in volumes[name]:
                    detail = "referenced volume must be of type emptyDir"
                    report.invalid(at(place, "volumeName"), name, detail)
