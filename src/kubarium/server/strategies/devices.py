"""ResourceSlices and DeviceTaintRules: since when devices are tainted. ResourceClaims: what drivers
said of devices goes with the devices.

Tolerations with seconds count from ``timeAdded``, so that a taint without one gets the time of its
write (``pkg/apis/resource/v1/defaults.go``). One that a slice had before keeps its time, also if
the writer leaves it out, which upstream would renew. In a rule the time follows the effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubarium.api.resource import Document
from kubarium.server.registry import Registry
from kubarium.server.requests import Call

_Identity = tuple[Any, ...]


def prepare_slice(registry: Registry, call: Call, new: Document) -> None:
    """Date the taints of a new slice."""
    _date(new, {}, registry)


def prepare_slice_update(registry: Registry, call: Call, new: Document, old: Document) -> None:
    """Date the taints that are new."""
    if _taints(new) != _taints(old):
        _date(new, _taints(old), registry)


def prepare_rule(registry: Registry, call: Call, new: Document) -> None:
    """Date the taint of a new rule."""
    _date_rule(new, None, registry)


def prepare_rule_update(registry: Registry, call: Call, new: Document, old: Document) -> None:
    """A changed effect is as old as the change, unless the writer gives another time."""
    taint, before = (_spec(document).get("taint") or {} for document in (new, old))
    time = before.get("timeAdded")
    if taint.get("effect") == before.get("effect"):
        _date_rule(new, time, registry)
    elif taint.get("timeAdded") in (None, time):
        undated = {name: value for name, value in taint.items() if name != "timeAdded"}
        new["spec"] = {**_spec(new), "taint": undated}
        _date_rule(new, None, registry)


def prepare_claim_status(registry: Registry, call: Call, new: Document, old: Document) -> None:
    """Drop the status of devices that are taken back (upstream: dropDeallocatedStatusDevices)."""
    status = new.get("status") or {}
    told, gone = status.get("devices"), _allocated(old) - _allocated(new)
    if told and gone:
        left = [device for device in told if _device(device) not in gone]
        new["status"] = {name: value for name, value in status.items() if name != "devices"}
        if left:
            new["status"]["devices"] = left


def _allocated(claim: Document) -> set[_Identity]:
    allocation = (claim.get("status") or {}).get("allocation") or {}
    return {_device(result) for result in (allocation.get("devices") or {}).get("results") or ()}


def _device(document: Document) -> _Identity:
    return tuple(document.get(part) for part in ("driver", "pool", "device"))


def _date_rule(rule: Document, time: str | None, registry: Registry) -> None:
    taint = _spec(rule).get("taint")
    if taint and not taint.get("timeAdded"):
        dated = {**taint, "timeAdded": time or registry.now()}
        rule["spec"] = {**_spec(rule), "taint": dated}


def _taints(document: Document) -> dict[_Identity, Any]:
    """By device, key, value and effect: since when."""
    return {
        _identity(device, taint): taint.get("timeAdded")
        for device in _spec(document).get("devices") or ()
        for taint in device.get("taints") or ()
    }


def _identity(device: Document, taint: Document) -> _Identity:
    return device.get("name"), taint.get("key"), taint.get("value"), taint.get("effect")


def _date(document: Document, known: Mapping[_Identity, Any], registry: Registry) -> None:
    if all(_taints(document).values()):
        return
    now, devices = registry.now(), []
    for device in _spec(document).get("devices") or ():
        taints = [
            taint
            if taint.get("timeAdded")
            else {**taint, "timeAdded": known.get(_identity(device, taint)) or now}
            for taint in device.get("taints") or ()
        ]
        devices.append({**device, "taints": taints} if taints else device)
    document["spec"] = {**_spec(document), "devices": devices}


def _spec(document: Document) -> Document:
    spec: Document = document.get("spec") or {}  # what is missing is validation's to say
    return spec
