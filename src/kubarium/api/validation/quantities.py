"""Rules about amounts: names of resources, signs, whole numbers, requests within limits."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import ceil
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Key, Path, at
from kubarium.api.quotas import BARE
from kubarium.api.resource import Document
from kubarium.api.validation.report import NOT_NEGATIVE, Report
from kubarium.base.quantity import QuantityError, parse_quantity

NOT_INTEGER = "must be an integer"
STANDARD_CONTAINER_RESOURCES = ("cpu", "memory", "ephemeral-storage")
HUGE_PAGES = "hugepages-"
CheckName = Callable[[str, Path, Report], None]
# Objects that quotas count.
COUNTED = frozenset((*BARE, "services.loadbalancers", "services.nodeports"))
_STANDARD = COUNTED | {
    *STANDARD_CONTAINER_RESOURCES,
    *(f"{side}.{n}" for side in ("limits", "requests") for n in STANDARD_CONTAINER_RESOURCES),
    "storage",
    "requests.storage",
}
_NATIVE_DOMAIN = "kubernetes.io"


def amount(value: Any) -> Fraction:
    """A quantity that decoding has accepted; 0 for one that somehow is none."""
    try:
        return parse_quantity(value)
    except QuantityError:
        return Fraction(0)


def is_native(name: str) -> bool:
    """Whether a resource is Kubernetes' own: without a domain, or of one that names it."""
    return "/" not in name or f"{_NATIVE_DOMAIN}/" in name


def is_extended(name: str) -> bool:
    """Whether a resource is counted in whole units and never over-committed: devices.

    >>> is_extended("nvidia.com/gpu"), is_extended("cpu"), is_extended("requests.a.b/c")
    (True, False, False)
    """
    if is_native(name) or name.startswith("requests."):
        return False
    return not formats.qualified_name(f"requests.{name}")


def may_overcommit(name: str) -> bool:
    """Whether limits may exceed requests: not those of devices and huge pages."""
    return is_native(name) and not name.startswith(HUGE_PAGES)


def check_any_resource_name(name: str, path: Path, report: Report) -> bool:
    """A resource of whatever kind: one that has a meaning, or a qualified name. Whether it is."""
    if not report.format(path, name, formats.qualified_name):
        return False
    if "/" in name or name in _STANDARD or name.startswith((HUGE_PAGES, f"requests.{HUGE_PAGES}")):
        return True
    report.invalid(path, name, "must be a standard resource type or fully qualified")
    return False


def check_resource_name(name: str, path: Path, report: Report) -> None:
    """A container resource: standard, huge pages, or a qualified name of a device."""
    check_any_resource_name(name, path, report)
    if "/" not in name:
        if name not in STANDARD_CONTAINER_RESOURCES and not name.startswith(HUGE_PAGES):
            report.invalid(path, name, "must be a standard resource for containers")
    elif not is_native(name) and not is_extended(name):
        report.invalid(path, name, "doesn't follow extended resource name standard")


def check_quantity(name: str, quantity: Any, path: Path, report: Report) -> None:
    """An amount of one resource: not negative, and whole if it is counted."""
    value = amount(quantity)
    if value < 0:
        report.invalid(path, quantity, NOT_NEGATIVE)
    if (name in COUNTED or is_extended(name)) and value.denominator != 1:
        report.invalid(path, quantity, NOT_INTEGER)


def _check_pages(name: str, quantity: Any, path: Path, report: Report) -> None:
    """Huge pages come in whole pages."""
    if name.startswith(HUGE_PAGES):
        size = amount(name.removeprefix(HUGE_PAGES))
        if size <= 0 or size.denominator != 1 or ceil(amount(quantity)) % size:
            detail = f"{quantity} is not positive integer multiple of {name}"
            report.invalid(path, quantity, detail)


def check_requests(
    resources: Document, path: Path, report: Report, check_name: CheckName = check_resource_name
) -> None:
    """Requests stay within limits; devices and huge pages need both, and equal."""
    limits = resources.get("limits") or {}
    requests = resources.get("requests") or {}
    for part, amounts in (("limits", limits), ("requests", requests)):
        for name, quantity in amounts.items():
            place = at(path, part, Key(name))
            check_name(name, place, report)
            check_quantity(name, quantity, place, report)
            _check_pages(name, quantity, place, report)
    for name, quantity in requests.items():
        place = at(path, "requests")
        shared = may_overcommit(name)
        if name not in limits:
            if not shared:
                detail = "Limit must be set for non overcommitable resources"
                report.required(at(path, "limits"), detail)
            continue
        if quantity == limits[name]:
            continue
        requested, limit = amount(quantity), amount(limits[name])
        if not shared and requested != limit:
            detail = f"must be equal to {name} limit of {limits[name]}"
            report.invalid(place, quantity, detail)
        elif requested > limit:
            detail = f"must be less than or equal to {name} limit of {limits[name]}"
            report.invalid(place, quantity, detail)
    named = {*limits, *requests}
    if named and not named & {"cpu", "memory"} and any(n.startswith(HUGE_PAGES) for n in named):
        report.forbidden(path, "HugePages require cpu or memory")
