"""Names and values in a pool of the cluster file that the API would refuse when its nodes come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from kubarium.api import formats
from kubarium.api.validation.quantities import NOT_INTEGER, amount, is_extended
from kubarium.base.quantity import QuantityError, parse_quantity
from kubarium.base.quoted import quoted
from kubarium.node.drivers.profiles import FREE
from kubarium.node.drivers.typed import fill

At = tuple[str | int, ...]
MAX_ATTRIBUTE_CHARACTERS = 64  # resource.k8s.io/v1, DeviceAttribute


def refused(pool: dict[str, Any]) -> Iterator[tuple[At, str]]:
    """(path in the pool, what is wrong) of each, in order."""
    for name, value in pool.get("labels", {}).items():
        yield from _label(("labels", name), name, value.replace("{index}", "0"))
    for name, values in pool.get("topology", {}).items():
        for index, value in enumerate(values):
            yield from _label(("topology", name, index), name, value)
    for index, taint in enumerate(pool.get("taints", [])):
        yield from _label(("taints", index), taint["key"], taint.get("value", ""))
    for name, quantity in pool.get("capacity", {}).items():
        yield from _checked(("capacity", name), name, formats.qualified_name)
        yield from _amount(("capacity", name), quantity)
        yield from _pieces(("capacity", name), name, quantity)
    for index, devices in enumerate(pool.get("devices", [])):
        yield from _devices(devices, ("devices", index))


def _devices(devices: dict[str, Any], at: At) -> Iterator[tuple[At, str]]:
    for field in ("deviceClass", "driver"):
        if devices.get(field):
            yield from _checked((*at, field), devices[field], formats.dns_subdomain)
    if pattern := devices.get("name"):
        first = fill(pattern, "", "node", 0)
        for where, problem in _checked((*at, "name"), first, formats.dns_label):
            yield where, f"{problem}; the pattern is {quoted(pattern)}"
    if devices.get("extendedResourceName"):
        where = (*at, "extendedResourceName")
        yield from _checked(where, devices["extendedResourceName"], formats.qualified_name)
    for field in ("attributes", "capacity"):
        for name in devices.get(field, {}):
            domain, slash, last = name.rpartition("/")
            yield from _checked((*at, field, name), last, formats.c_identifier)
            if slash:
                yield from _checked((*at, field, name), domain, formats.dns_subdomain)
    for name, value in devices.get("attributes", {}).items():
        for text in value.values() if isinstance(value, dict) else ():
            if isinstance(text, str) and len(fill(text, "", "", 0)) > MAX_ATTRIBUTE_CHARACTERS:
                most = f"longer than {MAX_ATTRIBUTE_CHARACTERS} characters"
                yield (*at, "attributes", name), f"{quoted(text)} is {most}"
        if isinstance(value, dict) and isinstance(value.get("version"), str):
            filled = fill(value["version"], "", "", 0)
            yield from _checked((*at, "attributes", name), filled, formats.semantic_version)
    for name, quantity in devices.get("capacity", {}).items():
        yield from _amount((*at, "capacity", name), quantity)
    if devices["profile"] == FREE:
        yield from _free(devices, at)


def _free(devices: dict[str, Any], at: At) -> Iterator[tuple[At, str]]:
    pattern, count = devices.get("name", "{index}"), devices.get("count", 1)
    if count > 1 and fill(pattern, "", "", 0) == fill(pattern, "", "", 1):
        way_out = f"write {quoted(pattern + '-{index}')}"
        yield (*at, "name"), f"all {count} devices would be {quoted(pattern)}; {way_out}"
    if not devices.get("driver"):
        yield at, "profile free needs a driver: its name, such as driver: gpu.example.com"


def _label(at: At, name: str, value: str) -> Iterator[tuple[At, str]]:
    yield from _checked(at, name, formats.qualified_name)
    yield from _checked(at, value, formats.label_value)


def _checked(
    at: At, text: str, problems: Callable[[str], tuple[str, ...]]
) -> Iterator[tuple[At, str]]:
    found = problems(text)
    if found:
        yield at, f"{quoted(text)}: {found[0]}"


def _pieces(at: At, name: str, quantity: object) -> Iterator[tuple[At, str]]:
    """What is counted has no fractions: pods and extended resources."""
    if (name == "pods" or is_extended(name)) and amount(quantity).denominator != 1:
        yield at, f"{quoted(quantity)} {NOT_INTEGER}"


def _amount(at: At, quantity: object) -> Iterator[tuple[At, str]]:
    try:
        negative = parse_quantity(quantity) < 0
    except QuantityError as error:
        yield at, str(error)
    else:
        if negative:
            yield at, f"{quoted(quantity)} is less than 0"
