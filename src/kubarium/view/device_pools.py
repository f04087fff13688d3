"""What a ResourcePoolStatusRequest asks: how full each pool of a driver is (KEP-5677)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from kubarium.api.resource import Document
from kubarium.base.quantity import format_quantity
from kubarium.engine.devices.ledger import Ledger
from kubarium.engine.devices.model import Amount, Device, DeviceId, Features, Slice
from kubarium.engine.devices.pools import Pool, gather
from kubarium.view.device_taints import TaintRule
from kubarium.view.devices import allocation_row, slice_row

DEFAULT_LIMIT = 100
# resource.k8s.io/v1alpha3: at most this many entries of partitionSummary.
MAX_PARTITIONS = 32


def pool_statuses(
    spec: Mapping[str, Any],
    slices: Iterable[Document],
    claims: Iterable[Document],
    rules: Iterable[TaintRule] = (),
) -> Document:
    """``poolCount`` and ``pools`` of the answer; pools in order of driver and name."""
    rules = tuple(rules)
    ledger = Ledger()
    for claim in claims:
        allocation = allocation_row(claim)
        if allocation is not None:
            ledger.enter(allocation)
    by_pool: dict[tuple[str, str], list[Slice]] = {}
    for document in slices:
        content = document["spec"]
        driver, pool = content["driver"], content["pool"]["name"]
        if driver == spec["driver"] and spec.get("poolName") in (None, "", pool):
            by_pool.setdefault((driver, pool), []).append(slice_row(document, rules))
    limit = int(spec.get("limit") or DEFAULT_LIMIT)
    attribute = spec.get("defaultPartitionTypeAttribute") or ""
    shown = sorted(by_pool)[:limit]
    pools = [_status(by_pool[key], ledger, attribute) for key in shown]
    return {"poolCount": len(by_pool), "pools": pools}


def _status(slices: list[Slice], ledger: Ledger, attribute: str) -> Document:
    newest = max(s.generation for s in slices)
    current = [s for s in slices if s.generation == newest]
    first = current[0]
    status: Document = {
        "driver": first.driver,
        "poolName": first.pool,
        "generation": newest,
        "resourceSliceCount": len(current),
    }
    nodes = {s.node_name for s in current}
    if len(nodes) == 1 and first.node_name:
        status["nodeName"] = first.node_name
    pool, problem = _checked(current)
    if pool is None:
        return status | {"validationError": problem}
    return status | _counts(pool, ledger, attribute)


def _checked(slices: list[Slice]) -> tuple[Pool | None, str]:
    """The pool as somebody who can reach all of it sees it, or what is wrong with it."""
    everywhere = [_everywhere(s) for s in slices]
    pools = gather(everywhere, lambda key: everywhere, "", {}, Features())
    if not pools:
        return None, "pool is empty"
    if pools[0].incomplete:
        found, wanted = len(slices), slices[0].slice_count
        return None, f"incomplete pool: {found} of {wanted} slices are published"
    if pools[0].invalid:
        return None, f"invalid pool: {pools[0].invalid}"
    return pools[0], ""


def _everywhere(item: Slice) -> Slice:
    return Slice(
        item.name,
        item.driver,
        item.pool,
        item.generation,
        item.slice_count,
        item.devices,
        item.counter_sets,
        all_nodes=True,
    )


def _counts(pool: Pool, ledger: Ledger, attribute: str) -> Document:
    devices = [d for s in pool.slices for d in s.devices]
    free = _free_counters(pool, devices, ledger)
    allocated = [d for d in devices if ledger.in_use(_id(pool, d))]
    idle = [d for d in devices if not ledger.in_use(_id(pool, d))]
    available = [d for d in idle if _usable(d, free)]
    counts: Document = {
        "totalDevices": len(devices),
        "allocatedDevices": len(allocated),
        "availableDevices": len(available),
        "unavailableDevices": len(idle) - len(available),
    }
    if attribute:
        counts["partitionSummary"] = _partitions(devices, available, attribute, pool.driver)
    shareable = [d for d in devices if d.allow_multiple]
    if shareable:
        counts["shareableSummary"] = _shareable(pool, shareable, ledger)
    return counts


def _id(pool: Pool, device: Device) -> DeviceId:
    return DeviceId(pool.driver, pool.name, device.name)


def _free_counters(
    pool: Pool, devices: list[Device], ledger: Ledger
) -> dict[tuple[str, str], Amount]:
    free = {(s, n): v for s, counters in pool.counter_sets.items() for n, v in counters.items()}
    for device in devices:
        if ledger.in_use(_id(pool, device)):
            for use in device.consumes:
                for name, amount in use.counters:
                    free[use.counter_set, name] -= amount
    return free


def _usable(device: Device, free: Mapping[tuple[str, str], Amount]) -> bool:
    """Whether the idle device could be given away: no taint keeps it, its counters are left."""
    if any(t.effect in ("NoSchedule", "NoExecute") for t in device.taints):
        return False
    return all(
        free[use.counter_set, name] >= amount
        for use in device.consumes
        for name, amount in use.counters
    )


def _partitions(
    devices: list[Device], available: list[Device], attribute: str, driver: str
) -> list[Document]:
    totals: dict[str, list[int]] = {}
    free = {id(d) for d in available}
    domain, slash, short = attribute.partition("/")
    own = short if slash and domain == driver else attribute
    for device in devices:
        value = device.attributes.get(attribute) or device.attributes.get(own)
        if value is None:
            continue
        entry = totals.setdefault(value.shown(), [0, 0])
        entry[0] += 1
        entry[1] += id(device) in free
    return [
        {"attribute": attribute, "type": kind, "total": total, "allocatable": left}
        for kind, (total, left) in sorted(totals.items())[:MAX_PARTITIONS]
    ]


def _shareable(pool: Pool, devices: list[Device], ledger: Ledger) -> Document:
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
    return {
        "fullyAvailableDevices": full,
        "partiallyAvailableDevices": partial,
        "capacity": [
            {
                "name": name,
                "total": _text(total),
                "consumed": _text(used),
                "available": _text(total - used),
            }
            for name, (total, used) in sorted(totals.items())
        ],
    }


def _text(amount: Amount) -> str:
    decimal, binary = format_quantity(amount), format_quantity(amount, binary=True)
    return binary if len(binary) < len(decimal) else decimal
