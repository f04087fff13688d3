"""Devices that must be made ready before their pod is bound (KEP-5007), as claims tell of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kubarium.api.resource import Document
from kubarium.engine.devices.model import DeviceId


def conditions_of_results(claim: Document) -> Iterator[tuple[Document, Mapping[str, Document]]]:
    """Each allocated device that has binding conditions, with the conditions that are true of it.

    Those are keyed by type; devices of which nothing is reported have none.
    """
    status = claim.get("status") or {}
    reported = {_device(d): d.get("conditions") or () for d in status.get("devices") or ()}
    for result in ((status.get("allocation") or {}).get("devices") or {}).get("results") or ():
        if result.get("bindingConditions"):
            told = reported.get(_device(result), ())
            yield result, {c.get("type", ""): c for c in told if c.get("status") == "True"}


def unready_devices(claim: Document) -> list[tuple[str, list[str]]]:
    """Allocated devices that are not ready, each with the conditions that are not true yet."""
    return [(result.get("device", ""), missing) for result, missing in _unready(claim)]


def unready_ids(claim: Document) -> list[DeviceId]:
    """The devices of :func:`unready_devices`."""
    return [_id(result) for result, _ in _unready(claim)]


def _unready(claim: Document) -> Iterator[tuple[Document, list[str]]]:
    for result, true in conditions_of_results(claim):
        missing = [c for c in result["bindingConditions"] if c not in true]
        if missing:
            yield result, missing


def failed_devices(claim: Document) -> list[tuple[str, Document]]:
    """Allocated devices that cannot be made ready, each with its condition that says so."""
    return [(result.get("device", ""), condition) for result, condition in _failed(claim)]


def failed_ids(claim: Document) -> list[DeviceId]:
    """The devices of :func:`failed_devices`, each once."""
    return list(dict.fromkeys(_id(result) for result, _ in _failed(claim)))


def _failed(claim: Document) -> Iterator[tuple[Document, Document]]:
    for result, true in conditions_of_results(claim):
        for condition in result.get("bindingFailureConditions") or ():
            if condition in true:
                yield result, true[condition]


def _id(result: Document) -> DeviceId:
    return DeviceId(result["driver"], result["pool"], result["device"])


def _device(document: Document) -> tuple[str, ...]:
    return tuple(document.get(f) or "" for f in ("driver", "pool", "device", "shareID"))
