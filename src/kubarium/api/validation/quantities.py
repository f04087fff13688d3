"""Rules about amounts: names of resources, signs, whole numbers, requests within limits."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Key, Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.report import NOT_NEGATIVE, Report
from kubarium.base.quantity import QuantityError, parse_quantity

NOT_INTEGER = "must be an integer"
STANDARD_CONTAINER_RESOURCES = ("cpu", "memory", "ephemeral-storage")
HUGE_PAGES = "hugepages-"
_NATIVE_DOMAIN = "kubernetes.io"


def amount(value: Any) -> Fraction:
    """A quantity that decoding has accepted; 0 for one that somehow is none."""
    try:
        return parse_quantity(value)
    except QuantityError:
        return Fraction(0)


def is_extended(name: str) -> bool:
    """Whether a resource is counted in whole units and never over-committed: devices.

    >>> is_extended("nvidia.com/gpu"), is_extended("cpu"), is_extended("requests.a.b/c")
    (True, False, False)
    """
    domain, slash, _ = name.partition("/")
    if not slash or name.startswith("requests."):
        return False
    return domain != _NATIVE_DOMAIN and not domain.endswith(f".{_NATIVE_DOMAIN}")


def check_resource_name(name: str, path: Path, report: Report) -> bool:
    """A container resource: standard, huge pages, or a qualified name of a device."""
    if not report.format(path, name, formats.qualified_name):
        return False
    if "/" in name or name in STANDARD_CONTAINER_RESOURCES or name.startswith(HUGE_PAGES):
        return True
    report.invalid(path, name, "must be a standard resource type or fully qualified")
    return False


def check_amounts(amounts: Document, path: Path, report: Report) -> None:
    """A ResourceList: names, and quantities that are neither negative nor fractions of devices."""
    for name, quantity in amounts.items():
        place = at(path, Key(name))
        check_resource_name(name, place, report)
        value = amount(quantity)
        if value < 0:
            report.invalid(place, quantity, NOT_NEGATIVE)
        if is_extended(name) and value.denominator != 1:
            report.invalid(place, quantity, NOT_INTEGER)


def check_huge_pages(resources: Document, path: Path, report: Report) -> None:
    """Whole pages, and some cpu or memory beside them."""
    parts = [(part, resources.get(part) or {}) for part in ("limits", "requests")]
    pages = [(part, n, q) for part, some in parts for n, q in some.items() if _size_of_page(n)]
    for part, name, quantity in pages:
        if ceil(amount(quantity)) % _size_of_page(name):
            detail = f"{quantity} is not positive integer multiple of {name}"
            report.invalid(at(path, part, Key(name)), quantity, detail)
    if pages and not any(name in some for _, some in parts for name in ("cpu", "memory")):
        report.forbidden(path, "HugePages require cpu or memory")


def _size_of_page(name: str) -> int:
    """In bytes; 0 for another resource, or for pages of no size."""
    if not name.startswith(HUGE_PAGES):
        return 0
    size = amount(name.removeprefix(HUGE_PAGES))
    return int(size) if size > 0 and size.denominator == 1 else 0


def check_requests(resources: Document, path: Path, report: Report) -> None:
    """Requests stay within limits; devices and huge pages need both, and equal."""
    limits = resources.get("limits") or {}
    requests = resources.get("requests") or {}
    check_amounts(limits, at(path, "limits"), report)
    check_amounts(requests, at(path, "requests"), report)
    for name, quantity in requests.items():
        place = at(path, "requests")
        exact = is_extended(name) or name.startswith(HUGE_PAGES)
        if name not in limits:
            if exact:
                detail = "Limit must be set for non overcommitable resources"
                report.required(at(path, "limits"), detail)
            continue
        requested, limit = amount(quantity), amount(limits[name])
        if exact and requested != limit:
            detail = f"must be equal to {name} limit of {limits[name]}"
            report.invalid(place, quantity, detail)
        elif requested > limit:
            detail = f"must be less than or equal to {name} limit of {limits[name]}"
            report.invalid(place, quantity, detail)
