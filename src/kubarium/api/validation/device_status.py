"""What drivers report of a claim's devices: ``status.devices`` (KEP-4817)."""

from __future__ import annotations

import json
import re
from ipaddress import ip_interface

import orjson

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.report import Report

MAX_DEVICE_CONDITIONS = 8
MAX_DEVICE_IPS = 16
MAX_DATA = 10 * 1024
MAX_REASON = 1024
MAX_MESSAGE = 32 * 1024
CONDITION_STATUSES = ("False", "True", "Unknown")
_CONDITION_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")


def check_device_statuses(
    devices: list[Document], results: list[Document], path: Path, report: Report
) -> None:
    """What drivers report of the claim's devices."""
    allocated = {_identity(result) for result in results}
    seen: set[str] = set()
    for index, device in enumerate(devices):
        report.unique(at(path, index), "/".join(_identity(device)), seen, device)
        if _identity(device) not in allocated:
            shown = dict(zip(_IDENTITY, _identity(device), strict=True))
            report.invalid(at(path, index), shown, "must be an allocated device in the claim")
        conditions = device.get("conditions") or []
        check_conditions(conditions, MAX_DEVICE_CONDITIONS, at(path, index, "conditions"), report)
        if device.get("data") is not None:
            _check_data(device["data"], at(path, index, "data"), report)
        if device.get("networkData"):
            _check_network(device["networkData"], at(path, index, "networkData"), report)


def check_conditions(conditions: list[Document], most: int, path: Path, report: Report) -> None:
    """As upstream checks conditions whose writers are not its own (metav1 ValidateConditions)."""
    if len(conditions) > most:
        report.too_many(path, len(conditions), most)
    types: set[str] = set()
    for index, condition in enumerate(conditions):
        place = at(path, index)
        if report.format(at(place, "type"), condition.get("type", ""), formats.qualified_name):
            report.unique(at(place, "type"), condition["type"], types)
        status = condition.get("status", "")
        if status not in CONDITION_STATUSES:
            report.not_supported(at(place, "status"), status, CONDITION_STATUSES)
        report.not_negative(at(place, "observedGeneration"), condition.get("observedGeneration"))
        if not condition.get("lastTransitionTime"):
            report.required(at(place, "lastTransitionTime"), "must be set")
        reason = condition.get("reason", "")
        if not reason:
            report.required(at(place, "reason"), "must be set")
        elif _CONDITION_REASON.fullmatch(reason) is None:
            detail = (
                "a condition reason must start with alphabetic character, optionally followed by a "
                "string of alphanumeric characters or '_,:', and must end with an alphanumeric "
                "character or '_'"
            )
            report.invalid(at(place, "reason"), reason, detail)
        for field, limit in (("reason", MAX_REASON), ("message", MAX_MESSAGE)):
            if len((condition.get(field) or "").encode()) > limit:
                report.too_long(at(place, field), limit)


def _check_data(data: object, path: Path, report: Report) -> None:
    if not isinstance(data, dict):
        report.invalid(path, data, "must be a valid JSON object")
    elif len(orjson.dumps(data)) > MAX_DATA:
        report.too_long(path, MAX_DATA)


def _check_network(network: Document, path: Path, report: Report) -> None:
    for field, most in (("interfaceName", 256), ("hardwareAddress", 128)):
        if len(network.get(field) or "") > most:
            report.too_long(at(path, field), most)
    addresses = network.get("ips") or []
    if len(addresses) > MAX_DEVICE_IPS:
        report.too_many(at(path, "ips"), len(addresses), MAX_DEVICE_IPS)
    known: set[str] = set()
    for index, address in enumerate(addresses):
        detail = _interface_complaint(address)
        if detail:
            report.invalid(at(path, "ips", index), address, detail)
        report.unique(at(path, "ips", index), address, known)


def _interface_complaint(text: str) -> str:
    """As upstream's IsValidInterfaceAddress: an address and a length, written in the one way."""
    try:
        parsed = ip_interface(text)
    except ValueError:
        parsed = None
    if parsed is None or not text.rpartition("/")[2].isdecimal() or "/" not in text:
        return "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)"
    mapped = getattr(parsed.ip, "ipv4_mapped", None)
    canonical = f"{mapped or parsed.ip}/{parsed.network.prefixlen}"
    return "" if text == canonical else f"must be in canonical form ({json.dumps(canonical)})"


_IDENTITY = ("Driver", "Pool", "Device", "ShareID")


def _identity(document: Document) -> tuple[str, ...]:
    return tuple(document.get(part) or "" for part in ("driver", "pool", "device", "shareID"))
