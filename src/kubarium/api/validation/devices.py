"""resource.k8s.io: claims, classes, slices and their limits (pkg/apis/resource/validation)."""

from __future__ import annotations

from typing import Any

import orjson

from kubarium.api import formats
from kubarium.api.cel.devices import (
    MAX_COST,
    compile_derived_attribute,
    compile_device_selector,
)
from kubarium.api.cel.environment import CelCompileError
from kubarium.api.paths import Key, Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.device_status import check_conditions
from kubarium.api.validation.metadata import check_annotations, check_labels
from kubarium.api.validation.quantities import amount
from kubarium.api.validation.report import NOT_NEGATIVE, NOT_POSITIVE, Report

_SPEC: Path = (None, "spec")
MAX_REQUESTS = 32
MAX_ALTERNATIVES = 8
MAX_CONSTRAINTS = 32
MAX_CONFIGS = 32
MAX_SELECTORS = 32
MAX_TOLERATIONS = 16
MAX_DERIVED = 32
MAX_EXPRESSION = 10 * 1024
MAX_PARAMETERS = 10 * 1024
MAX_BINDING_CONDITIONS = 4
MAX_DRIVER_NAME = 63
MAX_POOL_NAME = 253
MAX_POOLS_LISTED = 1000
MAX_REQUEST_CONDITIONS = 10
MAX_RULE_CONDITIONS = 8
MAX_IDENTIFIER = 32
_POOL_COUNTS = (
    "generation",
    "resourceSliceCount",
    "totalDevices",
    "allocatedDevices",
    "availableDevices",
    "unavailableDevices",
)
PREPARE, UNPREPARE, SKIP_ALL = "NodePrepareResources", "NodeUnprepareResources", "*"
SKIP_OPERATIONS = (SKIP_ALL, PREPARE, UNPREPARE)
TOO_COMPLEX = "too complex, exceeds cost limit"
_ONE_ATTRIBUTE = (
    'exactly one of "matchAttribute" or "distinctAttribute" is required, '
    "but multiple fields are set"
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
    spec = document.get("spec") or {}
    metadata, place = spec.get("metadata") or {}, at(_SPEC, "metadata")
    check_annotations(metadata.get("annotations") or {}, at(place, "annotations"), report)
    check_labels(metadata.get("labels") or {}, at(place, "labels"), report)
    check_claim_spec(spec.get("spec") or {}, at(_SPEC, "spec"), report)


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
    names = request_names(requests)
    constraints = devices.get("constraints") or []
    _check_constraints(constraints, at(place, "constraints"), names, report)
    _check_all_derived(requests, constraints, place, report)
    configs = devices.get("config") or []
    if len(configs) > MAX_CONFIGS:
        report.too_many(at(place, "config"), len(configs), MAX_CONFIGS)
    for index, config in enumerate(configs):
        spot = at(place, "config", index)
        check_request_references(config.get("requests") or [], at(spot, "requests"), names, report)
        check_opaque(config.get("opaque"), at(spot, "opaque"), report)


def request_names(requests: list[Document]) -> set[str]:
    names = set()
    for request in requests:
        names.add(request.get("name") or "")
        for alternative in request.get("firstAvailable") or ():
            names.add(f"{request.get('name')}/{alternative.get('name')}")
    return names


def _check_request(request: Document, path: Path, seen: set[str], report: Report) -> None:
    name = request.get("name") or ""
    report.format(at(path, "name"), name, formats.dns_label)
    report.unique(path, name, seen, request)
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
        name = alternative.get("name") or ""
        report.format(at(place, "name"), name, formats.dns_label)
        report.unique(place, name, inner, alternative)
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
    for name, quantity in ((request.get("capacity") or {}).get("requests") or {}).items():
        if amount(quantity) < 0:
            place = at(path, "capacity", "requests", Key(name))
            report.invalid(place, quantity, NOT_NEGATIVE)
    tolerations = request.get("tolerations") or []
    if len(tolerations) > MAX_TOLERATIONS:
        report.too_many(at(path, "tolerations"), len(tolerations), MAX_TOLERATIONS)
    for index, toleration in enumerate(tolerations):
        check_toleration(toleration, at(path, "tolerations", index), report)


def check_toleration(toleration: Document, path: Path, report: Report) -> None:
    key, operator = toleration.get("key") or "", toleration.get("operator") or "Equal"
    if key:
        report.format(at(path, "key"), key, formats.qualified_name)
    if operator == "Equal" and toleration.get("value"):
        report.format(at(path, "value"), toleration["value"], formats.label_value)
    if operator == "Exists" and toleration.get("value"):
        detail = "must be empty for operator `Exists`"
        report.invalid(at(path, "value"), toleration["value"], detail)


def _check_all_derived(
    requests: list[Document], constraints: list[Document], path: Path, report: Report
) -> None:
    """Derived attributes of all requests (KEP-6080); their costs count together."""
    total = 0
    for index, request in enumerate(requests):
        place, name = at(path, "requests", index), request.get("name") or ""
        if request.get("exactly"):
            owners = [(request["exactly"], at(place, "exactly"), name)]
        else:
            owners = [
                (option, at(place, "firstAvailable", i), f"{name}/{option.get('name')}")
                for i, option in enumerate(request.get("firstAvailable") or ())
            ]
        for owner, spot, reference in owners:
            used = _constrained(constraints, reference)
            derived = owner.get("derivedAttributes") or []
            total += _check_derived(derived, used, at(spot, "derivedAttributes"), report)
    if total > MAX_COST:
        detail = (
            "too complex, total cost of derived attribute CEL expressions in the claim exceeds cost"
            " limit"
        )
        report.forbidden(path, detail)


def _constrained(constraints: list[Document], reference: str) -> set[str]:
    """The attributes that constraints on one request or alternative speak of."""
    return {
        constraint.get("matchAttribute") or constraint.get("distinctAttribute") or ""
        for constraint in constraints
        if not constraint.get("requests")
        or reference in constraint["requests"]
        or reference.partition("/")[0] in constraint["requests"]
    }


def _check_derived(derived: list[Document], used: set[str], path: Path, report: Report) -> int:
    """One request's derived attributes; returns their estimated cost."""
    if len(derived) > MAX_DERIVED:
        report.too_many(path, len(derived), MAX_DERIVED)
        return 0
    total, seen = 0, set[str]()
    for index, attribute in enumerate(derived):
        name, expression = attribute.get("name") or "", attribute.get("expression") or ""
        if name:
            check_full_name(name, at(path, index, "name"), report)
            report.unique(at(path, index), name, seen)
        if name and name not in used:
            detail = (
                "must be referenced by at least one matchAttribute or distinctAttribute constraint "
                "targeting this request"
            )
            report.invalid(at(path, index, "name"), name, detail)
        place = at(path, index, "expression")
        if len(expression.encode()) > MAX_EXPRESSION:
            report.too_long(place, MAX_EXPRESSION)
        elif expression:
            try:
                cost = compile_derived_attribute(expression).cost
            except CelCompileError as error:
                report.invalid(place, expression, str(error))
                continue
            total += cost
            if cost > MAX_COST:
                report.forbidden(place, TOO_COMPLEX)
    return total


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
        else:
            try:
                cost = compile_device_selector(expression).cost
            except CelCompileError as error:
                report.invalid(place, expression, str(error))
            else:
                if cost > MAX_COST:
                    report.forbidden(place, TOO_COMPLEX)


def _check_constraints(
    constraints: list[Document], path: Path, names: set[str], report: Report
) -> None:
    if len(constraints) > MAX_CONSTRAINTS:
        report.too_many(path, len(constraints), MAX_CONSTRAINTS)
    for index, constraint in enumerate(constraints):
        place = at(path, index)
        references = constraint.get("requests") or []
        check_request_references(references, at(place, "requests"), names, report)
        given = [
            k for k in ("matchAttribute", "distinctAttribute") if constraint.get(k) is not None
        ]
        if not given:
            report.required(place, _ONE_ATTRIBUTE)
        elif len(given) > 1:
            report.invalid(place, None, _ONE_ATTRIBUTE)
        for key in given:
            check_full_name(constraint[key], at(place, key), report)


def check_request_references(
    references: list[Any], path: Path, names: set[str], report: Report
) -> None:
    if len(references) > MAX_REQUESTS:
        report.too_many(path, len(references), MAX_REQUESTS)
        return
    seen: set[Any] = set()
    for index, name in enumerate(references):
        check_request_reference(name, at(path, index), names, report)
        report.unique(at(path, index), name, seen)


def check_request_reference(name: str, path: Path, names: set[str], report: Report) -> None:
    """The name of a request, or of one of its alternatives behind a slash."""
    parts = name.split("/")
    if len(parts) <= 2:
        for part in parts:
            for complaint in formats.dns_label(part):
                report.invalid(path, part, complaint)
    if name not in names:
        report.invalid(path, name, _NO_SUCH_REQUEST)


def check_full_name(name: str, path: Path, report: Report) -> bool:
    """``domain/identifier``; whether it was fine. Source: apimachinery validate/strfmt.go."""
    before = len(report.errors)
    domain, slash, identifier = name.rpartition("/")
    if slash and not domain:
        report.invalid(path, "", "prefix must not be empty")
    elif slash and "/" not in domain:
        if len(domain) > MAX_DRIVER_NAME:
            report.too_long(path, MAX_DRIVER_NAME)
        for complaint in formats.dns_subdomain(domain):
            report.invalid(path, domain, f"prefix: {complaint}")
    _check_identifier(identifier, "name must not be empty", slash + domain, path, report)
    if not slash:
        detail = "a fully qualified name must be a domain and a name separated by a slash"
        report.invalid(path, name, detail)
    return len(report.errors) == before


def check_qualified(name: str, path: Path, report: Report) -> None:
    """``identifier`` or ``domain/identifier``: attributes, capacities."""
    domain, slash, identifier = name.rpartition("/")
    if slash and not domain:
        report.invalid(path, "", "the domain must not be empty")
    elif slash and "/" not in domain:
        check_driver_name(domain, path, report)
    _check_identifier(identifier, "the name must not be empty", slash + domain, path, report)


def _check_identifier(name: str, empty: str, before: str, path: Path, report: Report) -> None:
    """What stands behind the slash, if there is one; upstream looks into no name with two."""
    if before.count("/") > 1:
        return
    if before and not name:
        report.invalid(path, "", empty)
        return
    if len(name) > MAX_IDENTIFIER:
        report.too_long(path, MAX_IDENTIFIER)
    report.format(path, name, formats.c_identifier)


def check_opaque(opaque: Document | None, path: Path, report: Report) -> None:
    """A driver's own parameters."""
    if opaque is None:
        report.required(path)
        return
    check_driver(opaque.get("driver"), at(path, "driver"), report)
    parameters = opaque.get("parameters")
    if parameters is None:
        report.required(at(path, "parameters"))
    elif not isinstance(parameters, dict):
        report.invalid(at(path, "parameters"), "<value omitted>", "must be a valid JSON object")
    elif len(orjson.dumps(parameters)) > MAX_PARAMETERS:
        report.too_long(at(path, "parameters"), MAX_PARAMETERS)


def check_driver(name: str | None, path: Path, report: Report) -> None:
    """As :func:`check_driver_name`, and an absent one is reported too."""
    if name:
        check_driver_name(name, path, report)
    else:
        report.required(path)


def check_pool(name: str | None, path: Path, report: Report) -> None:
    """As :func:`check_pool_name`, and an absent one is reported too."""
    if name:
        check_pool_name(name, path, report)
    else:
        report.required(path)


def check_driver_name(name: str, path: Path, report: Report) -> None:
    """A DNS subdomain of at most 63 bytes, in letters of either case."""
    if len(name) > MAX_DRIVER_NAME:
        report.too_long(path, MAX_DRIVER_NAME)
    for complaint in formats.dns_subdomain(name.lower()):
        report.invalid(path, name, complaint)


def check_claim_update(new: Document, old: Document, report: Report) -> None:
    """A claim's spec never changes."""
    report.immutable(_SPEC, new.get("spec"), old.get("spec"))


def check_binding_conditions(document: Document, path: Path, report: Report) -> None:
    """Binding conditions and their failures come together and do not overlap (KEP-5007)."""
    wanted = document.get("bindingConditions") or []
    failures = document.get("bindingFailureConditions") or []
    for field, names in (("bindingConditions", wanted), ("bindingFailureConditions", failures)):
        if len(names) > MAX_BINDING_CONDITIONS:
            report.too_many(at(path, field), len(names), MAX_BINDING_CONDITIONS)
            continue
        seen: set[str] = set()
        for index, name in enumerate(names):
            report.format(at(path, field, index), name, formats.qualified_name)
            report.unique(at(path, field, index), name, seen)
    for index, name in enumerate(failures):
        if name in wanted:
            detail = "bindingFailureConditions must not overlap with bindingConditions"
            report.invalid(at(path, "bindingFailureConditions", index), name, detail)
    if failures and not wanted:
        detail = "bindingConditions are required to use bindingFailureConditions"
        report.invalid(at(path, "bindingConditions"), document.get("bindingConditions"), detail)
    if wanted and not failures:
        detail = "bindingFailureConditions are required to use bindingConditions"
        place = at(path, "bindingFailureConditions")
        report.invalid(place, document.get("bindingFailureConditions"), detail)


def check_skip_operations(operations: list[Any], path: Path, report: Report) -> None:
    """skipNodeOperations: what is not prepared need not be unprepared either."""
    seen: set[Any] = set()
    for index, operation in enumerate(operations):
        report.unique(at(path, index), operation, seen)
        if operation not in SKIP_OPERATIONS:
            report.not_supported(at(path, index), operation, SKIP_OPERATIONS)
    if PREPARE in seen and not seen & {UNPREPARE, SKIP_ALL}:
        detail = (
            "NodePrepareResources cannot be skipped unless NodeUnprepareResources is also skipped"
        )
        report.invalid(path, operations, detail)


# --- classes -------------------------------------------------------------------------------------


def check_class(document: Document, report: Report) -> None:
    """DeviceClass."""
    check_class_update(document, {}, report)


def check_class_update(new: Document, old: Document, report: Report) -> None:
    """A DeviceClass; selectors and configuration that stay are not judged by newer rules."""
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    selectors = spec.get("selectors") or []
    if selectors != (before.get("selectors") or []):
        check_selectors(selectors, at(_SPEC, "selectors"), report)
    configs = spec.get("config") or []
    if configs == (before.get("config") or []):
        configs = []
    if len(configs) > MAX_CONFIGS:
        report.too_many(at(_SPEC, "config"), len(configs), MAX_CONFIGS)
    for index, config in enumerate(configs):
        check_opaque(config.get("opaque"), at(_SPEC, "config", index, "opaque"), report)
    extended = spec.get("extendedResourceName")
    if extended is not None:
        _check_extended_name(extended, at(_SPEC, "extendedResourceName"), report)


def _check_extended_name(name: str, path: Path, report: Report) -> None:
    """Source: apimachinery validate/strfmt.go, ExtendedResourceName."""
    if "/" not in name:
        detail = "a name must be a domain-prefixed path, such as 'example.com/my-prop'"
        report.invalid(path, name, detail)
    elif "kubernetes.io/" in name:
        report.invalid(path, name, 'must not have "kubernetes.io/" domain')
    if name.startswith("requests."):
        report.invalid(path, name, 'must not have "requests." prefix')
    for complaint in formats.qualified_name(f"requests.{name}"):  # as it stands in quotas
        report.invalid(path, name, complaint)


# --- taints -------------------------------------------------------------------------------------


def check_device_taint(taint: Document, path: Path, report: Report) -> None:
    """A taint of a device or of a DeviceTaintRule."""
    report.format(at(path, "key"), taint.get("key") or "", formats.qualified_name)
    if taint.get("value"):
        report.format(at(path, "value"), taint["value"], formats.label_value)
    if not taint.get("effect"):
        report.required(at(path, "effect"))


def check_pool_name(name: str, path: Path, report: Report) -> None:
    """DNS subdomains separated by slashes, at most 253 bytes."""
    if len(name) > MAX_POOL_NAME:
        report.too_long(path, MAX_POOL_NAME)
    for part in name.split("/"):
        report.format(path, part, formats.dns_subdomain)


def _check_pool_segments(name: str, path: Path, report: Report) -> None:
    """As :func:`check_pool_name`, in the words of apimachinery validate/strfmt.go."""
    if len(name) > MAX_POOL_NAME:
        report.too_long(path, MAX_POOL_NAME)
    for index, part in enumerate(name.split("/")):
        if not part:
            report.invalid(path, name, f"segment {index}: must not be empty")
            continue
        for complaint in formats.dns_subdomain(part):
            report.invalid(path, part, f"segment {index}: {complaint}")


def check_status_request(document: Document, report: Report) -> None:
    """ResourcePoolStatusRequest."""
    spec = document.get("spec") or {}
    if spec.get("driver"):
        report.format(at(_SPEC, "driver"), spec["driver"], formats.dns_subdomain_any_case)
    if spec.get("poolName") is not None:
        _check_pool_segments(spec["poolName"], at(_SPEC, "poolName"), report)
    limit = spec.get("limit")
    if limit is not None:
        report.at_least(at(_SPEC, "limit"), limit, 1)
        report.at_most(at(_SPEC, "limit"), limit, MAX_POOLS_LISTED)
    default = spec.get("defaultPartitionTypeAttribute")
    if default is not None:
        check_full_name(default, at(_SPEC, "defaultPartitionTypeAttribute"), report)


def check_status_answer(new: Document, old: Document, report: Report) -> None:
    """The answer to a ResourcePoolStatusRequest is written once."""
    path: Path = (None, "status")
    if old.get("status"):
        report.immutable(path, new.get("status"), old.get("status"))
        return
    status = new.get("status") or {}
    pools, most = status.get("pools") or [], MAX_POOLS_LISTED
    if len(pools) > most:
        report.too_many(at(path, "pools"), len(pools), most)
    for index, pool in enumerate(pools):
        place = at(path, "pools", index)
        if pool.get("driver"):
            check_driver_name(pool["driver"], at(place, "driver"), report)
        if pool.get("poolName"):
            check_pool_name(pool["poolName"], at(place, "poolName"), report)
        if pool.get("nodeName") is not None:
            report.format(at(place, "nodeName"), pool["nodeName"], formats.dns_subdomain)
        for field in _POOL_COUNTS:
            report.not_negative(at(place, field), pool.get(field))
    conditions = status.get("conditions") or []
    check_conditions(conditions, MAX_REQUEST_CONDITIONS, at(path, "conditions"), report)


def check_taint_rule_status(new: Document, old: Document, report: Report) -> None:
    """The conditions of a DeviceTaintRule."""
    conditions = (new.get("status") or {}).get("conditions") or []
    path: Path = (None, "status")
    check_conditions(conditions, MAX_RULE_CONDITIONS, at(path, "conditions"), report)


def check_taint_rule(document: Document, report: Report) -> None:
    """DeviceTaintRule."""
    selector = (document.get("spec") or {}).get("deviceSelector") or {}
    place = at(_SPEC, "deviceSelector")
    for field, check in (("driver", check_driver_name), ("pool", check_pool_name)):
        if selector.get(field):
            check(selector[field], at(place, field), report)
        elif field in selector:
            report.required(at(place, field))
    if selector.get("device") is not None:
        report.format(at(place, "device"), selector["device"], formats.dns_label)
    check_device_taint((document.get("spec") or {}).get("taint") or {}, at(_SPEC, "taint"), report)
