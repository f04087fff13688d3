"""resource.k8s.io: the status of a ResourceClaim (pkg/apis/resource/validation)."""

from __future__ import annotations

import re
from typing import Any

from kubarium.api import formats
from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.device_status import check_device_statuses
from kubarium.api.validation.devices import (
    MAX_CONFIGS,
    check_binding_conditions,
    check_driver,
    check_opaque,
    check_pool,
    check_request_reference,
    check_request_references,
    check_skip_operations,
    check_toleration,
    request_names,
)
from kubarium.api.validation.placement import check_node_selector
from kubarium.api.validation.report import Report

MAX_RESERVED_FOR = 256
MAX_RESULTS = 32
CONFIG_SOURCES = ("FromClaim", "FromClass")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


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
        reserved = []
    elif reserved and new["metadata"].get("deletionTimestamp"):
        known = before.get("reservedFor") or []
        if any(consumer not in known for consumer in reserved):
            detail = (
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp`"
                " are set"
            )
            report.forbidden(at(path, "reservedFor"), detail)
    seen: set[Any] = set()
    for index, consumer in enumerate(reserved):
        place = at(path, "reservedFor", index)
        for field in ("resource", "name", "uid"):
            if not consumer.get(field):
                report.required(at(place, field))
        report.unique(place, consumer.get("uid"), seen, consumer)
    results = ((allocation or {}).get("devices") or {}).get("results") or []
    place = at(path, "allocation", "devices", "results")
    if len(results) > MAX_RESULTS:
        report.too_many(place, len(results), MAX_RESULTS)
    names = request_names(((new.get("spec") or {}).get("devices") or {}).get("requests") or [])
    if was is None and allocation is not None:
        for index, result in enumerate(results):
            _check_result(result, names, at(place, index), report)
        _check_allocation(allocation, names, at(path, "allocation"), report)
    if status.get("devices"):
        place = at(path, "devices")
        for index, device in enumerate(status["devices"]):
            check_driver(device.get("driver"), at(place, index, "driver"), report)
            check_pool(device.get("pool"), at(place, index, "pool"), report)
            report.format(at(place, index, "device"), device.get("device") or "", formats.dns_label)
            check_share(device.get("shareID"), at(place, index, "shareID"), report)
        check_device_statuses(status["devices"], results, place, report)


def _check_allocation(allocation: Document, names: set[str], path: Path, report: Report) -> None:
    """What a new allocation says besides devices: configuration, and where it can be used."""
    place = at(path, "devices", "config")
    configs = (allocation.get("devices") or {}).get("config") or []
    if len(configs) > 2 * MAX_CONFIGS:  # the class's and the claim's
        report.too_many(place, len(configs), 2 * MAX_CONFIGS)
        configs = []
    for index, config in enumerate(configs):
        spot = at(place, index)
        source = config.get("source") or ""
        if not source:
            report.required(at(spot, "source"))
        elif source not in CONFIG_SOURCES:
            report.not_supported(at(spot, "source"), source, CONFIG_SOURCES)
        check_request_references(config.get("requests") or [], at(spot, "requests"), names, report)
        check_opaque(config.get("opaque"), at(spot, "opaque"), report)
    if allocation.get("nodeSelector") is not None:
        check_node_selector(allocation["nodeSelector"], at(path, "nodeSelector"), report)


def _check_result(result: Document, names: set[str], path: Path, report: Report) -> None:
    """One device of a new allocation."""
    check_request_reference(result.get("request") or "", at(path, "request"), names, report)
    check_driver(result.get("driver"), at(path, "driver"), report)
    check_pool(result.get("pool"), at(path, "pool"), report)
    report.format(at(path, "device"), result.get("device") or "", formats.dns_label)
    check_share(result.get("shareID"), at(path, "shareID"), report)
    check_binding_conditions(result, path, report)
    for index, toleration in enumerate(result.get("tolerations") or ()):
        check_toleration(toleration, at(path, "tolerations", index), report)
    skipped = result.get("skipNodeOperations") or []
    check_skip_operations(skipped, at(path, "skipNodeOperations"), report)


def check_share(share: str | None, path: Path, report: Report) -> None:
    """Which share of a device it is, if the device can be shared."""
    if share is not None and _UUID.fullmatch(share) is None:
        report.invalid(path, share, "must be a lowercase UUID in 8-4-4-4-12 format")
