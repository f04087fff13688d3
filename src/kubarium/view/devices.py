"""ResourceSlices, DeviceClasses and ResourceClaims to and from the engine's values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

from kubarium.api.cel.devices import (
    MAX_ATTRIBUTES,
    PreparedDevice,
    compile_derived_attribute,
    compile_device_selector,
    prepare_device,
)
from kubarium.api.cel.environment import CelCompileError, CelRuntimeError
from kubarium.api.cel.values import CelValueError, quantity, semver
from kubarium.api.resource import Document, copy_document
from kubarium.base.quantity import QuantityError, format_quantity, parse_quantity
from kubarium.engine.devices.model import (
    ALL,
    EXACT_COUNT,
    Allocation,
    Amount,
    AttributeValue,
    Capacity,
    ClaimSpec,
    Constraint,
    CounterUse,
    Derives,
    Device,
    DeviceClass,
    DeviceId,
    DeviceResult,
    DeviceTaint,
    NodeResource,
    NodeScope,
    Request,
    RequestEntry,
    RequestPolicy,
    SelectorError,
    Selects,
    Slice,
)
from kubarium.engine.model import Claim
from kubarium.engine.placement.devices import MAX_RESERVED
from kubarium.view.consumers import maker_of
from kubarium.view.device_taints import TaintRule, taints_of
from kubarium.view.quick_selectors import quick_selector
from kubarium.view.readiness import failed_devices
from kubarium.view.selectors import node_selector_document, node_terms
from kubarium.view.taints import device_toleration, taint

_Json = Mapping[str, Any]

_SCALARS = ("int", "bool", "string", "version")


def exact(quantity: object) -> Amount:
    """A quantity as an exact number, an int wherever it is whole; 0 if it is malformed."""
    try:
        value = parse_quantity(quantity)
    except QuantityError:
        return 0
    return value.numerator if value.denominator == 1 else value


# Selectors


def device_selects(*, list_attributes: bool = True, multiple_allocations: bool = True) -> Selects:
    """The predicate that the engine calls: one CEL selector against one device."""

    def selects(expression: str, driver: str, device: Device) -> bool:
        try:
            selector = compile_device_selector(
                expression,
                list_attributes=list_attributes,
                multiple_allocations=multiple_allocations,
            )
        except CelCompileError as error:
            raise SelectorError(str(error), compile_time=True) from None
        quick = quick_selector(expression)
        [answer] = quick(driver, (device,)) if quick is not None else (None,)
        if answer is not None:
            return answer
        try:
            return selector.matches_prepared(_prepared(driver, device))
        except CelRuntimeError as error:
            raise SelectorError(str(error), compile_time=False) from None

    return selects


def device_derives(*, list_attributes: bool = True, multiple_allocations: bool = True) -> Derives:
    """What the engine calls for a derived attribute (KEP-6080): one CEL expression, one device."""

    def derives(expression: str, driver: str, device: Device) -> AttributeValue:
        try:
            attribute = compile_derived_attribute(
                expression,
                list_attributes=list_attributes,
                multiple_allocations=multiple_allocations,
            )
        except CelCompileError as error:
            raise SelectorError(str(error), compile_time=True) from None
        try:
            kind, values, is_list = attribute.value(_prepared(driver, device))
        except CelRuntimeError as error:
            raise SelectorError(str(error), compile_time=False) from None
        return AttributeValue(kind, frozenset(values), is_list)

    return derives


def _prepared(driver: str, device: Device) -> PreparedDevice:
    """The device as CEL sees it. Raises CelRuntimeError."""
    source = device.source if isinstance(device.source, dict) else {}
    return prepare_device(
        driver,
        source.get("attributes") or {},
        source.get("capacity") or {},
        device.allow_multiple,
    )


# Slices


def slice_row(document: Document, rules: Sequence[TaintRule] = ()) -> Slice:
    """A ResourceSlice, its devices with the taints that rules put on them besides their own."""
    spec = document.get("spec") or {}
    pool = spec.get("pool") or {}
    driver, pool_name = spec.get("driver", ""), pool.get("name", "")
    near = [rule for rule in rules if rule.concerns_pool(driver, pool_name)]
    return Slice(
        document["metadata"]["name"],
        driver,
        pool_name,
        int(pool.get("generation") or 0),
        int(pool.get("resourceSliceCount") or 0),
        tuple(
            device_row(d, taints_of(near, driver, pool_name, d.get("name", "")) if near else ())
            for d in spec.get("devices") or ()
        ),
        tuple(
            (s.get("name", ""), _counters(s.get("counters")))
            for s in spec.get("sharedCounters") or ()
        ),
        spec.get("nodeName") or "",
        node_terms(spec.get("nodeSelector")),
        bool(spec.get("allNodes")),
        bool(spec.get("perDeviceNodeSelection")),
        document,
        tuple(spec.get("skipNodeOperations") or ()),
        spec.get("partitionTypeAttribute") or "",
    )


def device_row(document: Document, more_taints: tuple[DeviceTaint, ...] = ()) -> Device:
    """One device of a slice.

    Devices of one model have the same capacities, counters and most attributes, and come by the
    ten thousand: these are read once, found again by their content, and shared.
    """
    given, uses = document.get("capacity"), document.get("consumesCounters")
    capacity, readable = _capacities(orjson.dumps(given)) if given else ({}, True)
    return Device(
        document.get("name", ""),
        {n: attribute_value(v) for n, v in (document.get("attributes") or {}).items()},
        capacity,
        _counter_uses(orjson.dumps(uses)) if uses else (),
        tuple(taint(t) for t in document.get("taints") or ()) + more_taints,
        bool(document.get("allowMultipleAllocations")),
        bool(document.get("bindsToNode")),
        tuple(document.get("bindingConditions") or ()),
        tuple(document.get("bindingFailureConditions") or ()),
        document.get("nodeName") or "",
        node_terms(document.get("nodeSelector")),
        bool(document.get("allNodes")),
        document,
        tuple(
            _node_resource(name, entry)
            for name, entry in sorted((document.get("nodeAllocatableResources") or {}).items())
        ),
        not readable or _is_opaque(document),
    )


@lru_cache(maxsize=4096)
def _capacities(content: bytes) -> tuple[Mapping[str, Capacity], bool]:
    """A device's capacities by name, and whether selectors can read all of their values."""
    document = orjson.loads(content)
    readable = all(_is_quantity(str(c.get("value", "0"))) for c in document.values())
    return {name: _capacity(c) for name, c in document.items()}, readable


@lru_cache(maxsize=4096)
def _counter_uses(content: bytes) -> tuple[CounterUse, ...]:
    """What a device takes of its pool's counters."""
    return tuple(
        CounterUse(
            c.get("counterSet", ""),
            _counters(c.get("counters")),
            frozenset(c.get("compatibilityGroups") or ()),
        )
        for c in orjson.loads(content)
    )


def _is_opaque(document: _Json) -> bool:
    """Whether selectors may fail for what they do not name: oversized, or an attribute is
    malformed."""
    attributes, capacity = document.get("attributes") or {}, document.get("capacity") or {}
    if len(attributes) + len(capacity) > MAX_ATTRIBUTES:
        return True
    return not all(map(_is_readable, attributes.values()))


def _is_readable(value: _Json) -> bool:
    for kind, content in value.items():
        if content is None:
            continue
        if kind == "string":
            return isinstance(content, str)
        if kind == "int":
            return isinstance(content, int) and -(2**63) <= content < 2**63
        if kind == "bool":
            return isinstance(content, bool)
        if kind == "version":
            return isinstance(content, str) and _is_version(content)
        return False  # lists are rare: to look at them whole costs little
    return False


@lru_cache(maxsize=4096)
def _is_version(text: str) -> bool:
    try:
        semver(text)
    except CelValueError:
        return False
    return True


@lru_cache(maxsize=4096)
def _is_quantity(text: str) -> bool:
    try:
        quantity(text)
    except CelValueError:
        return False
    return True


def _node_resource(name: str, document: _Json) -> NodeResource:
    """One of ``nodeAllocatableResources``."""
    mapping, overhead = document.get("mapping") or {}, document.get("overhead") or {}
    capacity = mapping.get("capacityKey") or ""
    multiplier = mapping.get("capacityMultiplier" if capacity else "deviceMultiplier")
    return NodeResource(
        name,
        capacity,
        node_amount(name, multiplier),
        node_amount(name, overhead.get("perPod")),
        node_amount(name, overhead.get("perContainer")),
    )


def node_amount(resource: str, quantity: object) -> Amount | None:
    """A quantity of a node's resource in the engine's unit, exact; None if there is none."""
    if quantity is None:
        return None
    return exact(quantity) * 1000 if resource == "cpu" else exact(quantity)


def _exact_or_none(quantity: object) -> Amount | None:
    return None if quantity is None else exact(quantity)


def attribute_value(document: _Json) -> AttributeValue:
    """A DeviceAttribute; one of unknown type has no kind."""
    for kind in _SCALARS:
        if document.get(kind) is not None:
            return _scalar(kind, document[kind])
        if document.get(f"{kind}s"):
            items = document[f"{kind}s"]
            return AttributeValue(kind, frozenset(items), True, tuple(items))
    return AttributeValue("", frozenset())


@lru_cache(maxsize=4096, typed=True)  # 1 is not true
def _scalar(kind: str, content: int | bool | str) -> AttributeValue:
    return AttributeValue(kind, frozenset((content,)))


def _counters(document: Mapping[str, _Json] | None) -> tuple[tuple[str, Amount], ...]:
    return tuple((n, exact(c.get("value"))) for n, c in sorted((document or {}).items()))


def _capacity(document: _Json) -> Capacity:
    policy = document.get("requestPolicy")
    return Capacity(exact(document.get("value")), _policy(policy) if policy else None)


def _policy(document: _Json) -> RequestPolicy:
    span = document.get("validRange") or {}

    return RequestPolicy(
        _exact_or_none(document.get("default")),
        tuple(exact(v) for v in document.get("validValues") or ()),
        _exact_or_none(span.get("min")),
        _exact_or_none(span.get("max")),
        _exact_or_none(span.get("step")),
    )


# Classes and claims

MAX_CLAIM_SPECS = 1024


def _selectors(documents: Sequence[_Json] | None) -> tuple[str | None, ...]:
    """The expressions; None for a selector of another kind than CEL."""
    given = [d.get("cel") for d in documents or ()]
    return tuple([None if cel is None else cel.get("expression") or "" for cel in given])


def class_row(document: Document) -> DeviceClass:
    """A DeviceClass."""
    spec = document.get("spec") or {}
    return DeviceClass(
        document["metadata"]["name"],
        _selectors(spec.get("selectors")),
        spec.get("extendedResourceName") or "",
    )


class ClaimReader:
    """Turns claims into rows; claims of one template share their spec, which is read once."""

    def __init__(self) -> None:
        # By identity; to be held here is what keeps another object from taking over an id.
        self._specs: dict[int, tuple[Document, ClaimSpec]] = {}

    def row(self, document: Document) -> Claim:
        """A ResourceClaim without its allocation (see :func:`allocation_row`)."""
        spec = document.get("spec") or {}
        known = self._specs.get(id(spec))
        if known is None:
            if len(self._specs) >= MAX_CLAIM_SPECS:
                self._specs.clear()
            known = self._specs[id(spec)] = (spec, claim_spec(spec))
        metadata = document["metadata"]
        status = document.get("status") or {}
        users = status.get("reservedFor") or ()
        full = len(users) >= MAX_RESERVED
        return Claim(
            (metadata.get("namespace", ""), metadata["name"]),
            known[1],
            metadata.get("uid", ""),
            len(users),
            "deletionTimestamp" in metadata,
            reserved_for=frozenset(user.get("uid", "") for user in users) if full else frozenset(),
            maker=maker_of(document),
            failed=bool(status.get("devices") and failed_devices(document)),
        )


def claim_spec(spec: _Json) -> ClaimSpec:
    """A ResourceClaimSpec."""
    devices = spec.get("devices") or {}
    return ClaimSpec(
        tuple(_entry(r) for r in devices.get("requests") or ()),
        tuple(
            Constraint(
                tuple(c.get("requests") or ()),
                c.get("matchAttribute") or "",
                c.get("distinctAttribute") or "",
            )
            for c in devices.get("constraints") or ()
        ),
    )


def _entry(document: _Json) -> RequestEntry:
    name = document.get("name", "")
    alternatives = document.get("firstAvailable")
    if alternatives:
        return RequestEntry(name, tuple(_request(a, a.get("name", "")) for a in alternatives), True)
    return RequestEntry(name, (_request(document.get("exactly") or {}, name),))


def _request(document: _Json, name: str) -> Request:
    """A request; mode and count are the API's defaults where they are not given."""
    capacity = document.get("capacity")
    mode = document.get("allocationMode", EXACT_COUNT)
    return Request(
        name,
        document.get("deviceClassName") or "",
        _selectors(document.get("selectors")),
        mode,
        0 if mode == ALL else int(document.get("count", 1)),
        document.get("adminAccess"),
        tuple(device_toleration(t) for t in document.get("tolerations") or ()),
        None
        if capacity is None
        else tuple((n, exact(q)) for n, q in sorted((capacity.get("requests") or {}).items())),
        tuple(
            (d.get("name", ""), d.get("expression", ""))
            for d in document.get("derivedAttributes") or ()
        ),
    )


# Allocations


def is_allocated(claim: Document | None) -> bool:
    """Whether the claim has devices, or access to them."""
    return claim is not None and bool((claim.get("status") or {}).get("allocation"))


def allocation_row(document: Document) -> Allocation | None:
    """What a ResourceClaim holds according to its status."""
    allocation = (document.get("status") or {}).get("allocation")
    if not allocation:
        return None
    results = (allocation.get("devices") or {}).get("results") or ()
    return Allocation(
        tuple(_result(r) for r in results), NodeScope(node_terms(allocation.get("nodeSelector")))
    )


def _result(document: _Json) -> DeviceResult:
    return DeviceResult(
        document.get("request", ""),
        DeviceId(document.get("driver", ""), document.get("pool", ""), document.get("device", "")),
        document.get("adminAccess") or None,
        bool(document.get("shareID")),
        tuple((n, exact(q)) for n, q in sorted((document.get("consumedCapacity") or {}).items())),
        tuple(device_toleration(t) for t in document.get("tolerations") or ()),
        tuple(document.get("bindingConditions") or ()),
        tuple(document.get("bindingFailureConditions") or ()),
        tuple(document.get("skipNodeOperations") or ()),
    )


def allocation_document(
    claim: Document,
    allocation: Allocation,
    class_of: Callable[[str], Document | None],
    new_uid: Callable[[], str],
) -> Document:
    """The ``status.allocation`` to write for ``allocation``.

    ``class_of`` finds a DeviceClass document by name (its config is copied into the allocation);
    ``new_uid`` makes a share's id.
    """
    requests = (claim.get("spec", {}).get("devices") or {}).get("requests") or ()
    devices: Document = {
        "results": [_result_document(r, requests, new_uid) for r in allocation.results]
    }
    config = _config(claim, allocation, class_of)
    if config:
        devices["config"] = config
    document: Document = {"devices": devices}
    if allocation.scope.terms is not None:
        document["nodeSelector"] = node_selector_document(allocation.scope.terms)
    return document


def _result_document(
    result: DeviceResult, requests: Sequence[_Json], new_uid: Callable[[], str]
) -> Document:
    document: Document = {
        "request": result.request,
        "driver": result.id.driver,
        "pool": result.id.pool,
        "device": result.id.device,
    }
    if result.admin_access:
        document["adminAccess"] = True
    tolerations = (_chosen_request(requests, result.request) or {}).get("tolerations")
    if tolerations:
        document["tolerations"] = copy_document(tolerations)
    if result.binding_conditions:
        document["bindingConditions"] = list(result.binding_conditions)
    if result.binding_failure_conditions:
        document["bindingFailureConditions"] = list(result.binding_failure_conditions)
    if result.shared:
        document["shareID"] = new_uid()
    if result.consumed:
        document["consumedCapacity"] = {n: shown(amount) for n, amount in result.consumed}
    if result.skip_operations:
        document["skipNodeOperations"] = list(result.skip_operations)
    return document


def shown(amount: Amount) -> str:
    """The shorter of the binary and the decimal text: 16Gi, but 10G."""
    decimal = format_quantity(amount)
    binary = format_quantity(amount, binary=True)
    return binary if len(binary) < len(decimal) else decimal


def _chosen_request(requests: Sequence[_Json], path: str) -> _Json | None:
    """The request or alternative of a result name (``request`` or ``request/alternative``)."""
    name, slash, alternative = path.partition("/")
    for request in requests:
        if request.get("name") != name:
            continue
        if not slash:
            exactly: _Json | None = request.get("exactly")
            return exactly
        for option in request.get("firstAvailable") or ():
            if option.get("name") == alternative:
                found: _Json = option
                return found
    return None


def _config(
    claim: Document, allocation: Allocation, class_of: Callable[[str], Document | None]
) -> list[Document]:
    """Configs of classes first, once each; then the claim's own that concern what was chosen."""
    devices = claim.get("spec", {}).get("devices") or {}
    requests = devices.get("requests") or ()
    found = _class_configs(requests, allocation.chosen, class_of)
    chosen = dict.fromkeys(allocation.chosen)
    names = {path.partition("/")[0]: path for path in allocation.chosen}
    for config in devices.get("config") or ():
        wanted = config.get("requests") or []
        if wanted and not any(w in chosen or w in names for w in wanted):
            continue
        rest = {k: copy_document(v) for k, v in config.items() if k != "requests"}
        found.append({"source": "FromClaim", "requests": list(wanted), **rest})
    for entry in found:
        listed = entry["requests"]
        if not listed or all(n in listed or p in listed for n, p in names.items()):
            del entry["requests"]
    return found


def _class_configs(
    requests: Sequence[_Json],
    chosen: tuple[str, ...],
    class_of: Callable[[str], Document | None],
) -> list[Document]:
    by_class: dict[str, list[Document]] = {}
    for path in chosen:
        request = _chosen_request(requests, path) or {}
        name = request.get("deviceClassName", "")
        if name in by_class:
            for entry in by_class[name]:
                entry["requests"].append(path)
            continue
        spec = (class_of(name) or {}).get("spec") or {}
        by_class[name] = [
            {"source": "FromClass", "requests": [path], **copy_document(config)}
            for config in spec.get("config") or ()
        ]
    return [entry for entries in by_class.values() for entry in entries]
