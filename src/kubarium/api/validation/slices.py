"""resource.k8s.io: ResourceSlices and their limits (pkg/apis/resource/validation)."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Key, Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.devices import (
    check_binding_conditions,
    check_device_taint,
    check_driver_name,
    check_full_name,
    check_pool_name,
    check_qualified,
    check_skip_operations,
)
from kubarium.api.validation.placement import check_node_selector
from kubarium.api.validation.quantities import (
    HUGE_PAGES,
    STANDARD_CONTAINER_RESOURCES,
    amount,
)
from kubarium.api.validation.report import NOT_NEGATIVE, NOT_POSITIVE, Report

_SPEC: Path = (None, "spec")
MAX_DEVICES = 128
# If any device has taints, consumes counters or has list attributes.
MAX_DEVICES_WITH_EXTRAS = 64
MAX_ATTRIBUTES = 32
MAX_ATTRIBUTE_VALUES = 48
MAX_COUNTER_SETS = 8
MAX_COUNTERS = 32
MAX_CONSUMPTIONS = 2
MAX_GROUPS = 2
MAX_TAINTS = 16
MAX_VALUE = 64
MAX_POLICY_VALUES = 10
_INT64_MAX = 2**63 - 1
_PLACES = ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")
_DEVICE_PLACES = ("nodeName", "nodeSelector", "allNodes")
_LISTS = ("bools", "ints", "strings", "versions")
_ATTRIBUTE_KINDS = ("int", "bool", "string", "version", "ints", "bools", "strings", "versions")
_ONE_VALUE = "one of: " + ", ".join(f"`{kind}`" for kind in _ATTRIBUTE_KINDS)


def check_slice(document: Document, report: Report) -> None:
    """ResourceSlice."""
    spec = document.get("spec") or {}
    if spec.get("driver"):
        check_driver_name(spec["driver"], at(_SPEC, "driver"), report)
    _check_pool(spec.get("pool") or {}, at(_SPEC, "pool"), report)
    _check_places(spec, report)
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
        report.unique(place, counters.get("name") or "", seen, counters)
        _check_counters(counters.get("counters"), at(place, "counters"), report)
    if spec.get("partitionTypeAttribute"):
        _check_partition_type(spec, report)
    check_skip_operations(
        spec.get("skipNodeOperations") or [], at(_SPEC, "skipNodeOperations"), report
    )


def check_slice_update(new: Document, old: Document, report: Report) -> None:
    """Driver, pool name and node of a slice stay."""
    after, before = new.get("spec") or {}, old.get("spec") or {}
    for field in ("driver", "nodeName"):
        report.immutable(at(_SPEC, field), after.get(field), before.get(field))
    names = [(spec.get("pool") or {}).get("name") for spec in (after, before)]
    report.immutable(at(_SPEC, "pool", "name"), names[0], names[1])


def _check_pool(pool: Document, path: Path, report: Report) -> None:
    name = pool.get("name") or ""
    if name:
        check_pool_name(name, at(path, "name"), report)
    count = pool.get("resourceSliceCount") or 0
    if count <= 0:
        report.invalid(at(path, "resourceSliceCount"), count, NOT_POSITIVE)
    generation = pool.get("generation") or 0
    if generation < 0:
        detail = "must be greater than or equal to zero"
        report.invalid(at(path, "generation"), generation, detail)


# --- where the devices are -----------------------------------------------------------------------


def _check_places(spec: Document, report: Report) -> None:
    detail = "must be either unset or set to a non-empty string"
    _check_node_name(spec.get("nodeName"), at(_SPEC, "nodeName"), detail, report)
    if spec.get("nodeSelector") is not None:
        place = at(_SPEC, "nodeSelector")
        check_node_selector(spec["nodeSelector"], place, report)
        terms = spec["nodeSelector"].get("nodeSelectorTerms")
        if len(terms or ()) != 1:
            detail = "must have exactly one node selector term"
            report.invalid(at(place, "nodeSelectorTerms"), terms, detail)
    for field in ("allNodes", "perDeviceNodeSelection"):
        if spec.get(field) is False:
            report.invalid(at(_SPEC, field), False, "must be either unset or set to true")
    shown = ", ".join(f"`{field}`" for field in _PLACES)
    _check_exactly_one(spec, _PLACES, _SPEC, f"exactly one of {shown} is required", report)


def _check_node_name(name: str | None, path: Path, empty: str, report: Report) -> None:
    if name == "":
        report.invalid(path, name, empty)
    elif name is not None:
        report.format(path, name, formats.dns_subdomain)


def _check_exactly_one(
    spec: Document, fields: tuple[str, ...], path: Path, rule: str, report: Report
) -> None:
    given = [field for field in fields if spec.get(field) not in (None, False, "")]
    if not given:
        report.required(path, rule)
    elif len(given) > 1:
        got = ", ".join(f"`{field}`" for field in given)
        report.invalid(path, f"{{{got}}}", f"{rule}, but multiple fields are set")


def _check_device_places(device: Document, per_device: bool, path: Path, report: Report) -> None:
    if per_device:
        rule = (
            "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when "
            "`perDeviceNodeSelection` is set to true in the ResourceSlice spec"
        )
        _check_exactly_one(device, _DEVICE_PLACES, path, rule, report)
        if device.get("nodeSelector") is not None:
            check_node_selector(device["nodeSelector"], at(path, "nodeSelector"), report)
        place = at(path, "nodeName")
        _check_node_name(device.get("nodeName"), place, "must not be empty", report)
        if device.get("allNodes") is False:
            report.invalid(at(path, "allNodes"), False, "must be either unset or set to true")
    elif any(device.get(field) is not None for field in _DEVICE_PLACES):
        detail = (
            "`nodeName`, `nodeSelector` and `allNodes` can only be set if "
            "`perDeviceNodeSelection` is set to true in the ResourceSlice spec"
        )
        report.invalid(path, None, detail)


# --- devices -------------------------------------------------------------------------------------


def _check_devices(devices: list[Document], per_device: bool, report: Report) -> None:
    extras = any(d.get("taints") or d.get("consumesCounters") or _has_lists(d) for d in devices)
    limit = MAX_DEVICES_WITH_EXTRAS if extras else MAX_DEVICES
    if len(devices) > limit:
        report.too_many(at(_SPEC, "devices"), len(devices), limit)
        return
    seen: set[str] = set()
    for index, device in enumerate(devices):
        place = at(_SPEC, "devices", index)
        name = device.get("name") or ""
        report.format(at(place, "name"), name, formats.dns_label)
        report.unique(place, name, seen)
        _check_device(device, place, report)
        _check_device_places(device, per_device, place, report)


def _has_lists(device: Document) -> bool:
    return any(
        attribute.get(kind) is not None
        for attribute in (device.get("attributes") or {}).values()
        for kind in _LISTS
    )


def _check_device(device: Document, path: Path, report: Report) -> None:
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    if len(attributes) + len(capacity) > MAX_ATTRIBUTES:
        detail = f"the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}"
        report.invalid(path, len(attributes) + len(capacity), detail)
    values = sum(max(1, sum(len(a.get(k) or ()) for k in _LISTS)) for a in attributes.values())
    if values > MAX_ATTRIBUTE_VALUES:
        detail = f"the total number of attribute values must not exceed {MAX_ATTRIBUTE_VALUES}"
        report.invalid(path, values, detail)
    for name, attribute in attributes.items():
        check_qualified(name, at(path, "attributes"), report)
        _check_attribute(attribute, at(path, "attributes", Key(name)), report)
    for name, entry in capacity.items():
        check_qualified(name, at(path, "capacity"), report)
        place = at(path, "capacity", Key(name))
        _check_capacity(entry, bool(device.get("allowMultipleAllocations")), place, report)
    taints = device.get("taints") or []
    if len(taints) > MAX_TAINTS:
        report.too_many(at(path, "taints"), len(taints), MAX_TAINTS)
    for index, taint in enumerate(taints):
        check_device_taint(taint, at(path, "taints", index), report)
    _check_consumptions(device.get("consumesCounters") or [], at(path, "consumesCounters"), report)
    check_binding_conditions(device, path, report)
    place = at(path, "nodeAllocatableResources")
    for name, entry in (device.get("nodeAllocatableResources") or {}).items():
        _check_node_resource(name, entry, capacity, at(place, Key(name)), report)


def _check_attribute(attribute: Document, path: Path, report: Report) -> None:
    given = [kind for kind in _ATTRIBUTE_KINDS if attribute.get(kind) is not None]
    if len(given) != 1:
        shown = f"{{{', '.join(given)}}}" if given else ""
        report.invalid(path, shown, f"must specify {'exactly ' if given else ''}{_ONE_VALUE}")
    for kind in _LISTS:
        if attribute.get(kind) is not None and not attribute[kind]:
            report.invalid(at(path, kind), [], "must not be empty if specified")
    _check_text(attribute.get("string"), at(path, "string"), report)
    _check_version(attribute.get("version"), at(path, "version"), report)
    for index, text in enumerate(attribute.get("strings") or ()):
        _check_text(text, at(path, "strings", index), report)
    for index, version in enumerate(attribute.get("versions") or ()):
        _check_version(version, at(path, "versions", index), report)


def _check_text(text: str | None, path: Path, report: Report) -> None:
    if text is not None and len(text.encode()) > MAX_VALUE:
        report.too_long(path, MAX_VALUE)


def _check_version(version: str | None, path: Path, report: Report) -> None:
    if version is None:
        return
    for problem in formats.semantic_version(version):
        report.invalid(path, version, problem)
    if len(version) > MAX_VALUE:
        report.too_long(path, MAX_VALUE)


def _check_partition_type(spec: Document, report: Report) -> None:
    """Every device that consumes counters has the attribute, as a string."""
    name, place = spec["partitionTypeAttribute"], at(_SPEC, "partitionTypeAttribute")
    devices = spec.get("devices") or []
    if not any(d.get("consumesCounters") for d in devices):
        detail = "may only be set on a slice which declares devices that consume counters"
        report.invalid(place, name, detail)
        return
    if not check_full_name(name, place, report):
        return
    bare = name.removeprefix(f"{spec.get('driver')}/")
    for index, device in enumerate(devices):
        if not device.get("consumesCounters"):
            continue
        attributes = device.get("attributes") or {}
        attribute = attributes.get(name) or attributes.get(bare)
        spot = at(_SPEC, "devices", index, "attributes", Key(name))
        if attribute is None:
            detail = (
                "device consumes counters and `partitionTypeAttribute` names this attribute, so it "
                "must be set"
            )
            report.required(spot, detail)
        elif attribute.get("string") is None:
            detail = "must be a string value because `partitionTypeAttribute` names this attribute"
            report.invalid(spot, attribute, detail)


# --- counters ------------------------------------------------------------------------------------


def _check_consumptions(consumptions: list[Document], path: Path, report: Report) -> None:
    if len(consumptions) > MAX_CONSUMPTIONS:
        report.too_many(path, len(consumptions), MAX_CONSUMPTIONS)
        return
    seen: set[str] = set()
    for index, consumption in enumerate(consumptions):
        place = at(path, index)
        name = consumption.get("counterSet") or ""
        if name:
            report.format(at(place, "counterSet"), name, formats.dns_label)
        report.unique(place, name, seen, consumption)
        _check_counters(consumption.get("counters"), at(place, "counters"), report)
        groups = consumption.get("compatibilityGroups") or []
        if len(groups) > MAX_GROUPS:
            report.too_many(at(place, "compatibilityGroups"), len(groups), MAX_GROUPS)
        known: set[str] = set()
        for number, group in enumerate(groups):
            report.unique(at(place, "compatibilityGroups", number), group, known)


def _check_counters(counters: Document | None, path: Path, report: Report) -> None:
    if counters is None:
        return  # the schema says so already
    if not counters:
        report.required(path)
    if len(counters) > MAX_COUNTERS:
        report.too_many(path, len(counters), MAX_COUNTERS)
    for name in counters:
        report.format(path, name, formats.dns_label)


# --- capacity ------------------------------------------------------------------------------------


def _check_capacity(entry: Document, shareable: bool, path: Path, report: Report) -> None:
    value, policy = amount(entry.get("value", 0)), entry.get("requestPolicy")
    if value < 0:
        # Ours: upstream takes any quantity.
        detail = "must be greater than or equal to 0"
        report.invalid(at(path, "value"), entry.get("value"), detail)
    if policy is None:
        return
    place = at(path, "requestPolicy")
    if not shareable:
        report.forbidden(place, "allowMultipleAllocations must be true")
        return
    values, span = policy.get("validValues") or [], policy.get("validRange")
    if values and span is not None:
        detail = (
            'exactly one policy can be specified, cannot specify "validValues" and "validRange" at '
            "the same time"
        )
        report.forbidden(place, detail)
    elif (values or span is not None) and policy.get("default") is None:
        field = "validValues" if values else "validRange"
        report.required(at(place, "default"), f"required when {field} is defined")
    elif values:
        _check_policy_values(policy, value, values, at(place, "validValues"), report)
    elif span is not None:
        _check_policy_range(policy, value, span, at(place, "validRange"), report)


def _check_policy_values(
    policy: Document, most: Fraction, values: list[Any], path: Path, report: Report
) -> None:
    if len(values) > MAX_POLICY_VALUES:
        report.too_many(path, len(values), MAX_POLICY_VALUES)
        return
    exact = [amount(v) for v in values]
    seen: set[Fraction] = set()
    for index, value in enumerate(exact):
        if index and value < exact[index - 1]:
            detail = "values must be sorted in ascending order"
            report.invalid(at(path, index), values[index], detail)
        if value > most:
            detail = f"option is larger than capacity value: {most}"
            report.invalid(at(path, index), values[index], detail)
        report.unique(at(path, index), value, seen)
    if amount(policy["default"]) not in exact:
        detail = "default value is not valid according to the requestPolicy"
        report.invalid(path, policy["default"], detail)


def _check_policy_range(
    policy: Document, most: Fraction, span: Document, path: Path, report: Report
) -> None:
    if span.get("min") is None:
        report.required(at(path, "min"), "required when validRange is defined")
        return
    default, low = amount(policy["default"]), amount(span["min"])
    high = amount(span["max"]) if span.get("max") is not None else None
    if low > most:
        detail = f"min is larger than capacity value: {most}"
        report.invalid(at(path, "min"), span["min"], detail)
    if default < low:
        detail = f"default is less than min: {span['min']}"
        report.invalid(at(path, "min"), policy["default"], detail)
    if high is not None:
        if low > high:
            detail = f"min is larger than max: {span['max']}"
            report.invalid(at(path, "max"), span["min"], detail)
        if high > most:
            detail = f"max is larger than capacity value: {most}"
            report.invalid(at(path, "max"), span["max"], detail)
        if default > high:
            detail = f"default is more than max: {span['max']}"
            report.invalid(at(path, "max"), policy["default"], detail)
    bounds = {"default": policy["default"], **{k: span.get(k) for k in ("min", "max", "step")}}
    if not _are_milli_values(bounds, path, report) or span.get("step") is None:
        return
    step = amount(span["step"])
    if step <= 0:
        report.invalid(at(path, "step"), span["step"], NOT_POSITIVE)
        return
    if not _are_int64(bounds, path, report):
        return
    if low + step > most:
        detail = f"one step {low + step} is larger than capacity value: {most}"
        report.invalid(at(path, "step"), span["step"], detail)
    for shown, value in ((policy["default"], default), (span.get("max"), high)):
        if value is not None and (value - low) % step:
            detail = (
                f"value is not a multiple of a given step ({span['step']}) from ({span['min']})"
            )
            report.invalid(at(path, "step"), shown, detail)


def _are_int64(bounds: Document, path: Path, report: Report) -> bool:
    """Ranges of whole numbers are computed in 64 bits, and with nothing below 0."""
    exact = {name: amount(quantity) for name, quantity in bounds.items() if quantity is not None}
    if any(value.denominator != 1 for value in exact.values()):
        return True
    fine = True
    for name, value in exact.items():
        if not 0 <= value <= _INT64_MAX:
            detail = NOT_NEGATIVE if value < 0 else f"must not be larger than {_INT64_MAX}"
            report.invalid(at(path, name), bounds[name], detail)
            fine = False
    return fine


def _are_milli_values(bounds: Document, path: Path, report: Report) -> bool:
    """Fractional ranges are computed in thousandths (DRAFractionalCapacityRange)."""
    fine = True
    for name, quantity in bounds.items():
        if quantity is not None and (amount(quantity) * 1000).denominator != 1:
            report.invalid(at(path, name), quantity, "value cannot be represented as a milli value")
            fine = False
    return fine


# --- resources of the node -----------------------------------------------------------------------


def _check_node_resource(
    name: str, entry: Document, capacity: Document, path: Path, report: Report
) -> None:
    if name not in STANDARD_CONTAINER_RESOURCES and not name.startswith(HUGE_PAGES):
        report.invalid(path, name, "must be a node allocatable resource name")
    mapping, overhead = entry.get("mapping"), entry.get("overhead")
    if mapping is None and overhead is None:
        report.required(path, "at least one of mapping or overhead must be set")
    if mapping is not None:
        _check_mapping(mapping, capacity, at(path, "mapping"), report)
    if overhead is None:
        return
    place = at(path, "overhead")
    if overhead.get("perPod") is None and overhead.get("perContainer") is None:
        report.invalid(place, "", "at least one of perPod or perContainer must be set")
    for field in ("perPod", "perContainer"):
        if overhead.get(field) is not None and amount(overhead[field]) < 0:
            report.invalid(at(place, field), overhead[field], "must be non-negative")


def _check_mapping(mapping: Document, capacity: Document, path: Path, report: Report) -> None:
    key, multiplier = mapping.get("capacityKey"), mapping.get("capacityMultiplier")
    if key == "":
        report.invalid(at(path, "capacityKey"), "", "capacityKey must not be an empty string")
    elif key is not None and key not in capacity:
        report.not_found(at(path, "capacityKey"), key)
    if key is not None and multiplier is None:
        detail = "capacityMultiplier is required when capacityKey is set"
        report.required(at(path, "capacityMultiplier"), detail)
    if key is None and multiplier is not None:
        detail = "capacityKey is required when capacityMultiplier is set"
        report.required(at(path, "capacityKey"), detail)
    for field in ("capacityMultiplier", "deviceMultiplier"):
        if mapping.get(field) is not None and amount(mapping[field]) <= 0:
            report.invalid(at(path, field), mapping[field], "must be positive")
    if key is not None and mapping.get("deviceMultiplier") is not None:
        detail = "must not be set together with capacityKey"
        report.forbidden(at(path, "deviceMultiplier"), detail)
