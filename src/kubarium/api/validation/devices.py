"""resource.k8s.io: claims, classes, slices and their limits (pkg/apis/resource/validation)."""

from __future__ import annotations

import re
from typing import Any

from kubarium.api import formats
from kubarium.api.cel.devices import compile_device_selector
from kubarium.api.cel.environment import CelCompileError
from kubarium.api.paths import Key, Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.placement import check_node_selector
from kubarium.api.validation.quantities import amount
from kubarium.api.validation.report import NOT_POSITIVE, Report

_SPEC: Path = (None, "spec")
MAX_REQUESTS = 32
MAX_ALTERNATIVES = 8
MAX_CONSTRAINTS = 32
MAX_CONFIGS = 32
MAX_SELECTORS = 32
MAX_TOLERATIONS = 16
MAX_EXPRESSION = 10 * 1024
MAX_RESERVED_FOR = 256
MAX_RESULTS = 32
MAX_DEVICES = 128
MAX_DEVICES_WITH_EXTRAS = 64  # if any device has taints or consumes counters
MAX_ATTRIBUTES = 32
MAX_COUNTER_SETS = 8
MAX_COUNTERS = 32
MAX_TAINTS = 16
MAX_POOL_NAME = 253
MAX_DRIVER_NAME = 63
MAX_VALUE = 64
MAX_IDENTIFIER = 32
_SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?", re.ASCII
)
_NO_SUCH_REQUEST = (
    "must be the name of a request in the claim or the name of a request and a subrequest "
    "separated by '/'"
)


# --- claims --------------------------------------------------------------------------------------


def check_claim(document: Document, report: Report) -> None:
    """ResourceClaim."""
    check_claim_spec(document.get("spec") or {}, _SPEC, report)


def check_claim_template(document: Document, report: Report) -> None:
    """ResourceClaimTemplate."""
    spec = (document.get("spec") or {}).get("spec") or {}
    check_claim_spec(spec, at(_SPEC, "spec"), report)


def check_claim_spec(spec: Document, path: Path, report: Report) -> None:
    """Requests, constraints and configuration of a claim."""
    devices = spec.get("devices") or {}
    place = at(path, "devices")
    requests = devices.get("requests") or []
    if len(requests) > MAX_REQUESTS:
        report.too_many(at(place, "requests"), len(requests), MAX_REQUESTS)
    seen: set[str] = set()
    for index, request in enumerate(requests):
        _check_request(request, at(place, "requests", index), seen, report)
    names = _request_names(requests)
    _check_constraints(devices.get("constraints") or [], at(place, "constraints"), names, report)
    configs = devices.get("config") or []
    if len(configs) > MAX_CONFIGS:
        report.too_many(at(place, "config"), len(configs), MAX_CONFIGS)
    for index, config in enumerate(configs):
        spot = at(place, "config", index)
        _check_request_references(config.get("requests") or [], at(spot, "requests"), names, report)
        check_opaque(config.get("opaque"), at(spot, "opaque"), report)


def _request_names(requests: list[Document]) -> set[str]:
    names = set()
    for request in requests:
        names.add(request.get("name") or "")
        for alternative in request.get("firstAvailable") or ():
            names.add(f"{request.get('name')}/{alternative.get('name')}")
    return names


def _check_request(request: Document, path: Path, seen: set[str], report: Report) -> None:
    name = request.get("name") or ""
    if name:
        report.format(at(path, "name"), name, formats.dns_label)
        report.unique(at(path, "name"), name, seen)
    exactly, alternatives = request.get("exactly"), request.get("firstAvailable") or []
    if exactly is None and not alternatives:
        report.required(path, "exactly one of `exactly` or `firstAvailable` is required")
    elif exactly is not None and alternatives:
        detail = (
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"
        )
        report.invalid(path, None, detail)
    if exactly is not None:
        _check_exact(exactly, at(path, "exactly"), report)
    if len(alternatives) > MAX_ALTERNATIVES:
        report.too_many(at(path, "firstAvailable"), len(alternatives), MAX_ALTERNATIVES)
    inner: set[str] = set()
    for index, alternative in enumerate(alternatives):
        place = at(path, "firstAvailable", index)
        if alternative.get("name"):
            report.format(at(place, "name"), alternative["name"], formats.dns_label)
            report.unique(at(place, "name"), alternative["name"], inner)
        _check_exact(alternative, place, report)


def _check_exact(request: Document, path: Path, report: Report) -> None:
    if request.get("deviceClassName"):
        report.format(
            at(path, "deviceClassName"), request["deviceClassName"], formats.dns_subdomain
        )
    check_selectors(request.get("selectors") or [], at(path, "selectors"), report)
    mode, count = request.get("allocationMode"), request.get("count") or 0
    if mode == "ExactCount" and count <= 0:
        report.invalid(at(path, "count"), count, NOT_POSITIVE)
    elif mode == "All" and count:
        detail = "must not be specified when allocationMode is 'All'"
        report.invalid(at(path, "count"), count, detail)
    tolerations = request.get("tolerations") or []
    if len(tolerations) > MAX_TOLERATIONS:
        report.too_many(at(path, "tolerations"), len(tolerations), MAX_TOLERATIONS)
    for index, toleration in enumerate(tolerations):
        _check_toleration(toleration, at(path, "tolerations", index), report)


def _check_toleration(toleration: Document, path: Path, report: Report) -> None:
    key, operator = toleration.get("key") or "", toleration.get("operator") or "Equal"
    if key:
        report.format(at(path, "key"), key, formats.qualified_name)
    elif operator == "Equal":
        detail = "must be Exists when `key` is empty"
        report.invalid(at(path, "operator"), operator, detail)
    if operator == "Exists" and toleration.get("value"):
        detail = "must be empty for operator `Exists`"
        report.invalid(at(path, "value"), toleration["value"], detail)


def check_selectors(selectors: list[Document], path: Path, report: Report) -> None:
    """CEL selectors: not too many, not too long, and they compile."""
    if len(selectors) > MAX_SELECTORS:
        report.too_many(path, len(selectors), MAX_SELECTORS)
    for index, selector in enumerate(selectors):
        cel = selector.get("cel")
        if cel is None:
            report.required(at(path, index, "cel"))
            continue
        expression = cel.get("expression") or ""
        place = at(path, index, "cel", "expression")
        if len(expression.encode()) > MAX_EXPRESSION:
            report.too_long(place, MAX_EXPRESSION)
        elif expression:
            try:
                compile_device_selector(expression)
            except CelCompileError as error:
                report.invalid(place, expression, str(error))


def _check_constraints(
    constraints: list[Document], path: Path, names: set[str], report: Report
) -> None:
    if len(constraints) > MAX_CONSTRAINTS:
        report.too_many(path, len(constraints), MAX_CONSTRAINTS)
    for index, constraint in enumerate(constraints):
        place = at(path, index)
        references = constraint.get("requests") or []
        _check_request_references(references, at(place, "requests"), names, report)
        given = [k for k in ("matchAttribute", "distinctAttribute") if constraint.get(k)]
        if not given:
            detail = "exactly one of `matchAttribute` or `distinctAttribute` is required"
            report.required(place, detail)
        elif len(given) > 1:
            detail = (
                "exactly one of `matchAttribute` or `distinctAttribute` is required, "
                "but multiple fields are set"
            )
            report.invalid(place, None, detail)
        for key in given:
            _check_full_name(constraint[key], at(place, key), report)


def _check_request_references(
    references: list[Any], path: Path, names: set[str], report: Report
) -> None:
    seen: set[Any] = set()
    for index, name in enumerate(references):
        report.unique(at(path, index), name, seen)
        if name not in names:
            detail = _NO_SUCH_REQUEST
            report.invalid(at(path, index), name, detail)


def _check_full_name(name: str, path: Path, report: Report) -> None:
    if "/" not in name:
        report.invalid(path, name, "must include a domain")
    else:
        _check_qualified(name, path, report)


def _check_qualified(name: str, path: Path, report: Report) -> None:
    """``identifier`` or ``domain/identifier``: attributes, capacities."""
    domain, slash, identifier = name.rpartition("/")
    if slash:
        if len(domain) > MAX_DRIVER_NAME:
            report.too_long(path, MAX_DRIVER_NAME)
        report.format(path, domain, formats.dns_subdomain)
    if len(identifier) > MAX_IDENTIFIER:
        report.too_long(path, MAX_IDENTIFIER)
    report.format(path, identifier, formats.c_identifier)


def check_opaque(opaque: Document | None, path: Path, report: Report) -> None:
    """A driver's own parameters."""
    if opaque is None:
        report.required(path, "exactly one of: opaque")
        return
    if opaque.get("driver"):
        check_driver_name(opaque["driver"], at(path, "driver"), report)
    parameters = opaque.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        report.invalid(at(path, "parameters"), parameters, "parameters must be a valid JSON object")


def check_driver_name(name: str, path: Path, report: Report) -> None:
    """A DNS subdomain of at most 63 bytes."""
    if len(name) > MAX_DRIVER_NAME:
        report.too_long(path, MAX_DRIVER_NAME)
    report.format(path, name, formats.dns_subdomain)


def check_claim_update(new: Document, old: Document, report: Report) -> None:
    """A claim's spec never changes."""
    report.immutable(_SPEC, new.get("spec"), old.get("spec"))


def check_claim_status(new: Document, old: Document, report: Report) -> None:
    """Allocation, consumers and device statuses stay within their limits."""
    status, before = new.get("status") or {}, old.get("status") or {}
    path: Path = (None, "status")
    allocation, was = status.get("allocation"), before.get("allocation")
    reserved = status.get("reservedFor") or []
    if was is not None and allocation is not None and allocation != was:
        report.immutable(at(path, "allocation"), allocation, was)
    if reserved and allocation is None:
        detail = "may not be specified when `allocated` is not set"
        report.forbidden(at(path, "reservedFor"), detail)
    if len(reserved) > MAX_RESERVED_FOR:
        report.too_many(at(path, "reservedFor"), len(reserved), MAX_RESERVED_FOR)
    seen: set[Any] = set()
    for index, consumer in enumerate(reserved):
        place = at(path, "reservedFor", index)
        for field in ("resource", "name", "uid"):
            if not consumer.get(field):
                report.required(at(place, field))
        report.unique(at(place, "uid"), consumer.get("uid"), seen)
    results = ((allocation or {}).get("devices") or {}).get("results") or []
    place = at(path, "allocation", "devices", "results")
    if len(results) > MAX_RESULTS:
        report.too_many(place, len(results), MAX_RESULTS)
    names = _request_names(((new.get("spec") or {}).get("devices") or {}).get("requests") or [])
    for index, result in enumerate(results):
        if result.get("request") not in names:
            detail = _NO_SUCH_REQUEST
            report.invalid(at(place, index, "request"), result.get("request", ""), detail)


# --- classes -------------------------------------------------------------------------------------


def check_class(document: Document, report: Report) -> None:
    """DeviceClass."""
    spec = document.get("spec") or {}
    check_selectors(spec.get("selectors") or [], at(_SPEC, "selectors"), report)
    configs = spec.get("config") or []
    if len(configs) > MAX_CONFIGS:
        report.too_many(at(_SPEC, "config"), len(configs), MAX_CONFIGS)
    for index, config in enumerate(configs):
        check_opaque(config.get("opaque"), at(_SPEC, "config", index, "opaque"), report)
    extended = spec.get("extendedResourceName")
    if extended:
        place = at(_SPEC, "extendedResourceName")
        if report.format(place, extended, formats.qualified_name) and "/" not in extended:
            report.invalid(place, extended, "must be a valid extended resource name")


# --- slices --------------------------------------------------------------------------------------

_PLACES = ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")


def check_slice(document: Document, report: Report) -> None:
    """ResourceSlice."""
    spec = document.get("spec") or {}
    if spec.get("driver"):
        check_driver_name(spec["driver"], at(_SPEC, "driver"), report)
    _check_pool(spec.get("pool") or {}, at(_SPEC, "pool"), report)
    _check_exactly_one(spec, _PLACES, _SPEC, report)
    if spec.get("nodeSelector") is not None:
        check_node_selector(spec["nodeSelector"], at(_SPEC, "nodeSelector"), report)
    devices, sets = spec.get("devices") or [], spec.get("sharedCounters") or []
    if devices and sets:
        detail = "only one of `sharedCounters` or `devices` is allowed"
        report.invalid(_SPEC, None, detail)
    _check_devices(devices, bool(spec.get("perDeviceNodeSelection")), report)
    if len(sets) > MAX_COUNTER_SETS:
        report.too_many(at(_SPEC, "sharedCounters"), len(sets), MAX_COUNTER_SETS)
    seen: set[str] = set()
    for index, counters in enumerate(sets):
        place = at(_SPEC, "sharedCounters", index)
        if counters.get("name"):
            report.format(at(place, "name"), counters["name"], formats.dns_label)
            report.unique(at(place, "name"), counters["name"], seen)
        _check_counters(counters.get("counters") or {}, at(place, "counters"), report)


def _check_exactly_one(spec: Document, fields: tuple[str, ...], path: Path, report: Report) -> None:
    given = [field for field in fields if spec.get(field)]
    shown = ", ".join(f"`{field}`" for field in fields[:-1]) + f", `{fields[-1]}`"
    if not given:
        report.required(path, f"exactly one of {shown} is required")
    elif len(given) > 1:
        got = ", ".join(f"`{field}`" for field in given)
        report.invalid(
            path, f"{{{got}}}", f"exactly one of {shown} is required, but multiple fields are set"
        )


def _check_pool(pool: Document, path: Path, report: Report) -> None:
    name = pool.get("name") or ""
    if name:
        if len(name) > MAX_POOL_NAME:
            report.too_long(at(path, "name"), MAX_POOL_NAME)
        for part in name.split("/"):
            report.format(at(path, "name"), part, formats.dns_subdomain)
    count = pool.get("resourceSliceCount") or 0
    if count <= 0:
        report.invalid(at(path, "resourceSliceCount"), count, NOT_POSITIVE)
    report.not_negative(at(path, "generation"), pool.get("generation"))


def _check_devices(devices: list[Document], per_device: bool, report: Report) -> None:
    extras = any(d.get("taints") or d.get("consumesCounters") for d in devices)
    limit = MAX_DEVICES_WITH_EXTRAS if extras else MAX_DEVICES
    if len(devices) > limit:
        report.too_many(at(_SPEC, "devices"), len(devices), limit)
    seen: set[str] = set()
    for index, device in enumerate(devices):
        place = at(_SPEC, "devices", index)
        if device.get("name"):
            report.format(at(place, "name"), device["name"], formats.dns_label)
            report.unique(at(place, "name"), device["name"], seen)
        _check_device(device, place, report)
        if per_device:
            _check_exactly_one(device, ("nodeName", "nodeSelector", "allNodes"), place, report)


def _check_device(device: Document, path: Path, report: Report) -> None:
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    if len(attributes) + len(capacity) > MAX_ATTRIBUTES:
        detail = f"the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}"
        report.invalid(path, len(attributes) + len(capacity), detail)
    for name, attribute in attributes.items():
        place = at(path, "attributes", Key(name))
        _check_qualified(name, place, report)
        _check_attribute(attribute, place, report)
    for name, entry in capacity.items():
        place = at(path, "capacity", Key(name))
        _check_qualified(name, place, report)
        if amount(entry.get("value", 0)) < 0:
            report.invalid(
                at(place, "value"), entry.get("value"), "must be greater than or equal to 0"
            )
    taints = device.get("taints") or []
    if len(taints) > MAX_TAINTS:
        report.too_many(at(path, "taints"), len(taints), MAX_TAINTS)
    for index, taint in enumerate(taints):
        check_device_taint(taint, at(path, "taints", index), report)
    for index, consumption in enumerate(device.get("consumesCounters") or ()):
        place = at(path, "consumesCounters", index)
        _check_counters(consumption.get("counters") or {}, at(place, "counters"), report)


_ATTRIBUTE_KINDS = ("bool", "int", "string", "version", "bools", "ints", "strings", "versions")


def _check_attribute(attribute: Document, path: Path, report: Report) -> None:
    given = [kind for kind in _ATTRIBUTE_KINDS if attribute.get(kind) is not None]
    if len(given) != 1:
        report.invalid(path, attribute, "exactly one value must be specified")
    text = attribute.get("string")
    if text is not None and len(text.encode()) > MAX_VALUE:
        report.too_long(at(path, "string"), MAX_VALUE)
    version = attribute.get("version")
    if version is not None:
        if len(version) > MAX_VALUE:
            report.too_long(at(path, "version"), MAX_VALUE)
        if _SEMVER.fullmatch(version) is None:
            detail = "must be a string compatible with semver.org spec 2.0.0"
            report.invalid(at(path, "version"), version, detail)


def _check_counters(counters: Document, path: Path, report: Report) -> None:
    if len(counters) > MAX_COUNTERS:
        report.too_many(path, len(counters), MAX_COUNTERS)
    for name in counters:
        report.format(at(path, Key(name)), name, formats.dns_label)


def check_device_taint(taint: Document, path: Path, report: Report) -> None:
    """A taint of a device or of a DeviceTaintRule."""
    key = taint.get("key") or ""
    if key:
        report.format(at(path, "key"), key, formats.qualified_name)
    if taint.get("value"):
        report.format(at(path, "value"), taint["value"], formats.label_value)
    if not taint.get("effect"):
        report.required(at(path, "effect"))


def check_taint_rule(document: Document, report: Report) -> None:
    """DeviceTaintRule."""
    check_device_taint((document.get("spec") or {}).get("taint") or {}, at(_SPEC, "taint"), report)


def check_slice_update(new: Document, old: Document, report: Report) -> None:
    """Driver, pool name and node of a slice stay."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    for field in ("driver", "nodeName"):
        report.immutable(at(_SPEC, field), after.get(field), before.get(field))
    names = [(spec.get("pool") or {}).get("name") for spec in (after, before)]
    report.immutable(at(_SPEC, "pool", "name"), names[0], names[1])
