"""How full pools of devices are: what a ResourcePoolStatusRequest asks (KEP-5677), and more."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from kubarium.api.defaulting.devices import POOL_LIMIT
from kubarium.api.resource import Document
from kubarium.engine.devices.constraints import attribute as attribute_of
from kubarium.engine.devices.ledger import Ledger
from kubarium.engine.devices.model import Amount, Device, DeviceId, Features, Slice
from kubarium.engine.devices.pools import Pool, gather
from kubarium.view.device_taints import TaintRule
from kubarium.view.devices import allocation_row, shown, slice_row

# resource.k8s.io/v1alpha3: at most this many entries of partitionSummary and of capacities.
MAX_ENTRIES = 32
# KEP-5677: validationError is at most this long.
MAX_ERROR = 256


def pool_statuses(
    spec: Mapping[str, Any],
    slices: Iterable[Document],
    claims: Iterable[Document],
    rules: Iterable[TaintRule] = (),
) -> Document:
    """``poolCount`` and ``pools`` of the answer; pools in order of driver and name."""
    rules = tuple(rules)
    ledger = _ledger_of(claims)
    by_pool: dict[tuple[str, str], list[Slice]] = {}
    for document in slices:
        content = document.get("spec") or {}
        driver, pool = content.get("driver"), (content.get("pool") or {}).get("name")
        if not driver or not pool:
            continue
        if driver == spec.get("driver") and spec.get("poolName") in (None, "", pool):
            by_pool.setdefault((driver, pool), []).append(slice_row(document, rules))
    limit = int(spec.get("limit") or POOL_LIMIT)
    attribute = spec.get("defaultPartitionTypeAttribute") or ""
    listed = sorted(by_pool)[:limit]
    pools = [_status(by_pool[key], ledger, attribute) for key in listed]
    return {"poolCount": len(by_pool), "pools": pools}


def blocked_by(
    slices: Iterable[Document], claims: Iterable[Document]
) -> dict[DeviceId, tuple[str, ...]]:
    """Idle devices whose counters are spent, each with the devices of its pool that hold them.

    Pools that are incomplete or contradict themselves are left out: nothing of them is given away.
    """
    ledger = _ledger_of(claims)
    found: dict[DeviceId, tuple[str, ...]] = {}
    for members in _by_pool(slices).values():
        newest = max(s.generation for s in members)
        try:
            pool = _checked([s for s in members if s.generation == newest])
        except _PoolProblem:
            continue
        if pool.counter_sets:
            found |= _blocked_in(pool, ledger)
    return found


def unusable_slices(slices: Iterable[Document]) -> dict[str, str]:
    """By slice's name why its devices are given to nobody, though no taint keeps them."""
    found: dict[str, str] = {}
    for members in _by_pool(slices).values():
        newest = max(s.generation for s in members)
        current = [s for s in members if s.generation == newest]
        for item in members:
            if item.generation < newest:
                text = f"of generation {item.generation}, and the pool is at {newest}"
                found[item.name] = text
        try:
            _checked(current)
        except _PoolProblem:
            wanted = {item.slice_count for item in current}
            text = "invalid pool"
            if len(wanted) == 1 and len(current) not in wanted:
                text = f"incomplete pool: {len(current)} of {wanted.pop()} slices"
            found |= {item.name: text for item in current}
    return found


def _by_pool(slices: Iterable[Document]) -> dict[tuple[str, str], list[Slice]]:
    found: dict[tuple[str, str], list[Slice]] = {}
    for document in slices:
        content = document["spec"]
        key = content["driver"], content["pool"]["name"]
        found.setdefault(key, []).append(slice_row(document))
    return found


def _blocked_in(pool: Pool, ledger: Ledger) -> dict[DeviceId, tuple[str, ...]]:
    devices = [d for s in pool.slices for d in s.devices]
    free = _free_counters(pool, devices, ledger)
    holders: dict[tuple[str, str], list[str]] = {}
    for device in devices:
        if ledger.in_use(_id(pool, device)):
            for counter, amount in _needs(device):
                if amount:
                    holders.setdefault(counter, []).append(device.name)
    found = {}
    for device in devices:
        short = [c for c, amount in _needs(device) if free[c] < amount]
        if short and not ledger.in_use(_id(pool, device)):
            names = dict.fromkeys(name for c in short for name in holders.get(c, ()))
            found[_id(pool, device)] = tuple(names)
    return found


def _needs(device: Device) -> list[tuple[tuple[str, str], Amount]]:
    return [((u.counter_set, name), amount) for u in device.consumes for name, amount in u.counters]


def _ledger_of(claims: Iterable[Document]) -> Ledger:
    ledger = Ledger()
    for claim in claims:
        allocation = allocation_row(claim)
        if allocation is not None:
            ledger.enter(allocation)
    return ledger


INCOMPLETE = "PoolIncomplete:"


def is_incomplete(pool: Document) -> bool:
    """Whether slices of the pool are missing, which its driver may be about to publish."""
    return str(pool.get("validationError", "")).startswith(INCOMPLETE)


class _PoolProblem(Exception):
    """What of a pool cannot be summed up, with the word in front that KEP-5677 gives it."""


def _status(slices: list[Slice], ledger: Ledger, attribute: str) -> Document:
    newest = max(s.generation for s in slices)
    current = [s for s in slices if s.generation == newest]
    first = current[0]
    status: Document = {
        "driver": first.driver,
        "poolName": first.pool,
        "generation": newest,
    }
    nodes = {s.node_name for s in current}
    if len(nodes) == 1 and first.node_name:
        status["nodeName"] = first.node_name
    try:
        pool = _checked(current)
    except _PoolProblem as problem:
        return status | {"validationError": str(problem)[:MAX_ERROR]}
    counts = {"resourceSliceCount": len(current)} | _counts(pool, ledger)
    return status | counts | _views(pool, ledger, attribute)


def _checked(slices: list[Slice]) -> Pool:
    """The pool as somebody who can reach all of it sees it."""
    everywhere = [_everywhere(s) for s in slices]
    pools = gather(everywhere, lambda key: everywhere, "", {}, Features())
    if not pools:
        raise _PoolProblem(f"{INCOMPLETE} pool is empty")
    if pools[0].incomplete:
        seen, newest = f"{len(slices)}/{slices[0].slice_count}", slices[0].generation
        text = f"{_name(pools[0])} is incomplete: observed {seen} slices at generation {newest}"
        raise _PoolProblem(f"{INCOMPLETE} {text}")
    if pools[0].invalid:
        raise _PoolProblem(f"PoolInvalid: {pools[0].invalid}")
    return pools[0]


def _everywhere(item: Slice) -> Slice:
    return replace(item, node_name="", node_terms=None, all_nodes=True, per_device=False)


def _name(pool: Pool) -> str:
    return f"pool {pool.driver}/{pool.name}"


def _counts(pool: Pool, ledger: Ledger) -> Document:
    devices = [d for s in pool.slices for d in s.devices]
    free = _free_counters(pool, devices, ledger)
    allocated = [d for d in devices if ledger.in_use(_id(pool, d))]
    idle = [d for d in devices if not ledger.in_use(_id(pool, d))]
    available = [d for d in idle if _usable(d, free)]
    return {
        "totalDevices": len(devices),
        "allocatedDevices": len(allocated),
        "availableDevices": len(available),
        "unavailableDevices": len(idle) - len(available),
    }


def _views(pool: Pool, ledger: Ledger, attribute: str) -> Document:
    """Partitions and shares, and the first that is wrong; what can be counted still is."""
    views: Document = {}
    errors: list[str] = []
    try:
        summary = _partitions(pool, ledger, attribute)
    except _PoolProblem as problem:
        summary, errors = [], [str(problem)]
    try:
        shareable = _shareable(pool, ledger)
    except _PoolProblem as problem:
        shareable = None
        errors.append(str(problem))
    if shareable is not None:
        views["shareableSummary"] = shareable
    if errors:
        views["validationError"] = errors[0][:MAX_ERROR]
    elif summary:
        views["partitionSummary"] = summary
    return views


def _id(pool: Pool, device: Device) -> DeviceId:
    return DeviceId(pool.driver, pool.name, device.name)


def _free_counters(
    pool: Pool, devices: list[Device], ledger: Ledger
) -> dict[tuple[str, str], Amount]:
    free = {(s, n): v for s, counters in pool.counter_sets.items() for n, v in counters.items()}
    for device in devices:
        if ledger.in_use(_id(pool, device)):
            for counter, amount in _needs(device):
                free[counter] -= amount
    return free


def _usable(device: Device, free: Mapping[tuple[str, str], Amount]) -> bool:
    """Whether the idle device could be given away: no taint keeps it, its counters are left."""
    if any(t.effect in ("NoSchedule", "NoExecute") for t in device.taints):
        return False
    return all(free[counter] >= amount for counter, amount in _needs(device))


def _partitions(pool: Pool, ledger: Ledger, default: str) -> list[Document]:
    """Per attribute and type: devices in all, and how many could still be allocated.

    The attribute is the slice's own, else the request's default. What could be allocated is counted
    as if only this type were asked for: one device after the other while the counters last.
    """
    if not pool.counter_sets:
        if any(item.partition_attribute and item.devices for item in pool.slices):
            text = f"{_name(pool)} declares partitionTypeAttribute but publishes no sharedCounters"
            raise _PoolProblem(f"PartitionTypeMissing: {text}")
        return []
    groups: dict[tuple[str, str], list[Device]] = {}
    for item in pool.slices:
        name = item.partition_attribute or default
        for device in item.devices if name else ():
            if not device.consumes:
                continue
            value = attribute_of(device, pool.driver, name)
            if value is None or value.kind != "string":
                text = f"does not carry partition type attribute {json.dumps(name)}"
                where = f"device {json.dumps(device.name)} in {_name(pool)}"
                raise _PoolProblem(f"PartitionTypeMissing: {where} {text}")
            groups.setdefault((name, value.shown()), []).append(device)
    if len(groups) > MAX_ENTRIES:
        text = f"has {len(groups)} partition types, exceeding the maximum of {MAX_ENTRIES}"
        raise _PoolProblem(f"PartitionSummaryOverCap: {_name(pool)} {text}")
    free = _free_counters(pool, [d for s in pool.slices for d in s.devices], ledger)
    return [
        {
            "attribute": name,
            "type": kind,
            "total": len(devices),
            "allocatable": _allocatable(pool, kind, devices, ledger, dict(free)),
        }
        for (name, kind), devices in sorted(groups.items())
    ]


def _allocatable(
    pool: Pool,
    kind: str,
    devices: list[Device],
    ledger: Ledger,
    free: dict[tuple[str, str], Amount],
) -> int:
    costs = {tuple(sorted(use.counters for use in device.consumes)) for device in devices}
    if len(costs) > 1:
        text = f"devices of partition type {json.dumps(kind)} in {_name(pool)}"
        raise _PoolProblem(f"PartitionCostMismatch: {text} consume different counters")
    count = 0
    for device in devices:
        needs = [(u.counter_set, n, a) for u in device.consumes for n, a in u.counters]
        if ledger.in_use(_id(pool, device)) or any(free[s, n] < a for s, n, a in needs):
            continue
        count += 1
        for counter_set, name, amount in needs:
            free[counter_set, name] -= amount
    return count


def _shareable(pool: Pool, ledger: Ledger) -> Document | None:
    """Of devices that may be allocated several times; None if there are none."""
    devices = [d for s in pool.slices for d in s.devices if d.allow_multiple]
    if not devices:
        return None
    totals: dict[str, list[Amount]] = {}
    full = partial = 0
    for device in devices:
        consumed = ledger.consumed(_id(pool, device))
        left = all(consumed.get(n, 0) < c.value for n, c in device.capacity.items())
        full += not ledger.in_use(_id(pool, device))
        partial += ledger.in_use(_id(pool, device)) and left
        for name, capacity in device.capacity.items():
            entry = totals.setdefault(name, [0, 0])
            entry[0] += capacity.value
            entry[1] += consumed.get(name, 0)
    if len(totals) > MAX_ENTRIES:
        text = f"has {len(totals)} shareable capacity keys, exceeding the maximum of {MAX_ENTRIES}"
        raise _PoolProblem(f"ShareableSummaryOverCap: {_name(pool)} {text}")
    return {
        "fullyAvailableDevices": full,
        "partiallyAvailableDevices": partial,
        "capacity": [
            {
                "name": name,
                "total": shown(total),
                "consumed": shown(used),
                "available": shown(max(total - used, 0)),
            }
            for name, (total, used) in sorted(totals.items())
        ],
    }
