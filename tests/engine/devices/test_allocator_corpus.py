"""Upstream's allocator tables, run in first-fit mode against our allocator.

The cases are kubernetes/dynamic-resource-allocation's own (see SOURCE.md beside the data); the
folder comes from KUBARIUM_CORPUS. Every case runs, and passed, deviating and failed ones are
printed by name.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubarium.base.quantity import parse_quantity
from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import (
    Allocation,
    AllocationError,
    DeviceId,
    DeviceResult,
    Features,
)
from kubarium.view import devices as view

SHARED = Path(os.environ.get("KUBARIUM_SHARED", Path(__file__).parents[4] / "shared"))
CORPUS = Path(os.environ.get("KUBARIUM_CORPUS", SHARED / "corpus")) / "dra" / "allocator.yaml"

pytestmark = pytest.mark.shared

# Cases in which we mean to differ, each with the reason. Nothing else may fail.
DEVIATIONS: dict[str, str] = {}

_GATES = {
    "DRAAdminAccess": "admin_access",
    "DRAPrioritizedList": "prioritized_list",
    "DRAPartitionableDevices": "partitionable",
    "DRADeviceTaints": "taints",
    "DRADeviceBindingConditions": "binding_conditions",
    "DRAConsumableCapacity": "consumable_capacity",
    "DRAListTypeAttributes": "list_attributes",
    "DRAFractionalCapacityRange": "fractional_range",
    "DRADerivedAttributes": "derived_attributes",
    "DRADeviceCompatibilityGroups": "compatibility_groups",
    "DRAOptionalNodeOperations": "optional_node_operations",
}


def load_cases() -> list[dict[str, Any]]:
    if not CORPUS.exists():
        pytest.skip(f"no allocator corpus at {CORPUS}; set KUBARIUM_CORPUS to its folder")
    return yaml.load(CORPUS.read_text(), Loader=yaml.CSafeLoader)["cases"]


def features_of(case: dict[str, Any]) -> Features:
    gates = set(case["features"])
    if "DRAResourceClaimDeviceStatus" not in gates:  # there are no conditions to wait for
        gates.discard("DRADeviceBindingConditions")
    on = {_GATES[g]: True for g in gates if g in _GATES}
    return Features(**{name: on.get(name, False) for name in _GATES.values()})


def inventory_of(case: dict[str, Any], features: Features) -> Inventory:
    given = case["given"]
    # Upstream's allocator compiles as stored expressions are, with all fields known.
    selects = view.device_selects(list_attributes=True, multiple_allocations=True)
    derives = view.device_derives(list_attributes=True, multiple_allocations=True)
    inventory = Inventory(selects, features, best_fit=False, derives=derives)
    for document in given["deviceClasses"]:
        inventory.set_class(view.class_row(document))
    for index, document in enumerate(given["resourceSlices"]):
        item = view.slice_row(document)  # upstream's tables give several slices one name
        # So that each has its own, in the order of the old ones.
        inventory.set_slice(replace(item, name=f"{item.name}\0{index:03}"))
    used = [DeviceResult("", DeviceId(*_split(d))) for d in given.get("allocatedDevices", ())]
    consumed = {
        _split(k if isinstance(k, str) else k["device"]): v
        for k, v in _consumed(given.get("consumedCapacity"))
    }
    for share in given.get("allocatedSharedDevices", ()):
        device = _split(share if isinstance(share, dict) else share.rpartition("/")[0])
        amounts = consumed.pop(device, {})
        used.append(_share(device, amounts))
    used += [_share(device, amounts) for device, amounts in consumed.items()]
    inventory.enter(Allocation(tuple(used)))
    return inventory


def _consumed(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return list(value.items())
    return [
        (
            f"{e['driver']}/{e['pool']}/{e['device']}" if "driver" in e else e,
            e.get("capacity", e.get("consumedCapacity")),
        )
        for e in value or ()
    ]


def _share(device: tuple[str, str, str], amounts: dict[str, Any]) -> DeviceResult:
    taken = tuple((name, view.exact(q)) for name, q in sorted(amounts.items()))
    return DeviceResult("", DeviceId(*device), shared=True, consumed=taken)


def _split(text: Any) -> tuple[str, str, str]:
    if isinstance(text, dict):
        return (text["driver"], text["pool"], text["device"])
    driver, rest = text.split("/", 1)
    pool, _, device = rest.rpartition("/")
    return (driver, pool, device)


def without_defaults(spec: dict[str, Any]) -> dict[str, Any]:
    """A claim as it is: upstream's allocator is not an API server, which would fill in defaults."""
    devices = spec.get("devices") or {}
    requests = [
        {
            **request,
            **{k: bare(request[k]) for k in ("exactly",) if k in request},
            **{k: [bare(r) for r in request[k]] for k in ("firstAvailable",) if k in request},
        }
        for request in devices.get("requests") or ()
    ]
    return {**spec, "devices": {**devices, "requests": requests}}


def bare(request: dict[str, Any]) -> dict[str, Any]:
    return {"allocationMode": "", "count": 0, **request}


def outcome_of(case: dict[str, Any]) -> tuple[str, Any]:
    given = case["given"]
    if not given["resourceClaims"]:
        return "nothing-requested", None
    inventory = inventory_of(case, features_of(case))
    node = given.get("node") or {}
    meta = node.get("metadata", {})
    claims = [
        (c["metadata"]["name"], view.claim_spec(without_defaults(c.get("spec") or {})))
        for c in given["resourceClaims"]
    ]
    try:
        found = inventory.search(meta.get("name", ""), meta.get("labels", {}), claims).run()
    except AllocationError as error:
        return "error", str(error)
    if found is None:
        return "none", None
    classes = {c["metadata"]["name"]: c for c in given["deviceClasses"]}
    return "allocated", [
        view.allocation_document(claim, allocation, classes.get, lambda: "a" * 8)
        for claim, allocation in zip(given["resourceClaims"], found, strict=True)
    ]


def normal(allocation: dict[str, Any], *, ordered: bool) -> Any:
    devices = allocation.get("devices", {})
    results = [_normal_result(r) for r in devices.get("results", ())]
    selector = _frozen(allocation.get("nodeSelector"), ordered)
    config = _frozen(devices.get("config"), True)
    return (results if ordered else Counter(results), config, selector)


def _normal_result(result: dict[str, Any]) -> Any:
    result = dict(result)
    if "shareID" in result:
        result["shareID"] = "some"
    if "consumedCapacity" in result:
        result["consumedCapacity"] = {
            k: Fraction(parse_quantity(v)) for k, v in result["consumedCapacity"].items()
        }
    return _frozen(result, True)


def _frozen(value: Any, ordered: bool) -> Any:
    if isinstance(value, dict):
        return tuple(sorted((k, _frozen(v, ordered)) for k, v in value.items()))
    if isinstance(value, list):
        items = [_frozen(v, ordered) for v in value]
        return tuple(items) if ordered else tuple(sorted(items, key=repr))
    return value


def disagreement(case: dict[str, Any]) -> str:
    expect = case["expect"]
    outcome, answer = outcome_of(case)
    if outcome != expect["outcome"]:
        return f"expected {expect['outcome']}, got {outcome}: {answer}"
    if outcome == "error" and expect["error"]["contains"] not in answer:
        return f"expected an error with {expect['error']['contains']!r}, got {answer!r}"
    if outcome == "allocated":
        for wanted, got in zip(expect["results"], answer, strict=True):
            ordered = wanted["order"] == "exact"
            if normal(wanted["allocation"], ordered=ordered) != normal(got, ordered=ordered):
                return f"expected {wanted['allocation']}, got {got}"
    return ""


def test_first_fit_gives_upstreams_results(capsys: pytest.CaptureFixture[str]) -> None:
    passed, deviating, failed = [], [], {}
    for case in load_cases():
        try:
            why = disagreement(case)
        except Exception as error:  # a crash is a failed case, and the others still run
            why = f"{type(error).__name__}: {error}"
        if not why:
            passed.append(case["id"])
        elif case["name"] in DEVIATIONS:
            deviating.append(case["id"])
        else:
            failed[case["id"]] = why
    with capsys.disabled():
        print(f"\nDRA allocator corpus, first fit: {len(passed)} passed, {len(deviating)} deviate")
        for name in passed:
            print(f"  passed   {name}")
        for name in deviating:
            print(f"  deviates {name}: {DEVIATIONS[name.rsplit('/', 1)[-1]]}")
        for name, why in failed.items():
            print(f"  FAILED   {name}: {why}")
    assert not failed
