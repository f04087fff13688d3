"""What is held: by the pods of a node, and by a claim."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from kubarium.api.resource import Document
from kubarium.base.quantity import format_quantity
from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import DeviceId
from kubarium.view.cluster import ClusterView
from kubarium.view.explanation import Explanation
from kubarium.view.locality import UNREADABLE, is_unreadable

PODS_SHOWN = 10


def node_account(view: ClusterView, node: Document) -> Explanation:
    """What holds a node: requests against allocatable, pods, devices, and what keeps pods off."""
    name = node["metadata"]["name"]
    snapshot = view.snapshot
    title = f"node {name}"
    row = snapshot.rows.get(name)
    if row is None:
        return Explanation(title, "Unknown", "the node is not among the documents given")
    lines = list(_obstacles(node))
    for resource, index in snapshot.resources.items():
        total, used = int(snapshot.allocatable[index, row]), int(snapshot.requested[index, row])
        if total:
            lines.append(
                f"{resource}: {_amount(resource, used)} of {_amount(resource, total)} requested"
            )
    lines.extend(_devices_on(view, name))
    pods = sorted(snapshot.pods_on[row].values(), key=lambda p: p.key)
    lines.extend(f"pod {'/'.join(p.key)}" for p in pods[:PODS_SHOWN])
    if len(pods) > PODS_SHOWN:
        lines.append(f"… and {len(pods) - PODS_SHOWN} more pods")
    ready = any(
        c.get("type") == "Ready" and c.get("status") == "True"
        for c in (node.get("status") or {}).get("conditions") or ()
    )
    state = "Ready" if ready else "NotReady"
    return Explanation(title, state, f"carries {_count(len(pods), 'pod')}", tuple(lines))


def _obstacles(node: Document) -> Iterator[str]:
    spec = node.get("spec") or {}
    if spec.get("unschedulable"):
        yield "cordoned: new pods need a toleration"
    for taint in spec.get("taints") or ():
        value = f"={taint['value']}" if taint.get("value") else ""
        yield f"taint {taint.get('key')}{value}:{taint.get('effect')}"
    if is_unreadable(node):
        yield UNREADABLE
    for condition in (node.get("status") or {}).get("conditions") or ():
        bad = "False" if condition.get("type") == "Ready" else "True"
        if condition.get("status") in (bad, "Unknown"):
            message = condition.get("message", "")
            yield f"{condition.get('type')} is {condition.get('status')}: {message}"


def _devices_on(view: ClusterView, name: str) -> Iterator[str]:
    snapshot, inventory = view.snapshot, view.snapshot.inventory
    node = snapshot.node(name)
    if node is None:
        return
    holders = {
        result.id: "/".join(key)
        for key, allocation in snapshot.allocations.items()
        for result in allocation.results
    }
    resting = {rest.device: rest for rest in snapshot.resting.values()}
    for pool in inventory.pools(name, node.labels):
        devices = [DeviceId(pool.driver, pool.name, d.name) for s in pool.slices for d in s.devices]
        used = [d for d in devices if inventory.ledger.in_use(d)]
        alone = [device for device in used if device in resting]
        used = [device for device in used if device not in resting]
        text = f"pool {pool}: {len(used)} of {len(devices)} devices in use"
        held = ", ".join(f"{d.device} by claim {holders[d]}" for d in used[:4] if d in holders)
        yield f"{text} ({held})" if held else text
        yield from (f"device {resting[device].told}" for device in alone)


def claim_account(claim: Document, title: str, inventory: Inventory) -> Explanation:
    """What a claim holds, how that is, and for whom."""
    status = claim["status"]
    results = (status["allocation"].get("devices") or {}).get("results") or ()
    lines = [
        f"request {r.get('request')}: device {r.get('driver')}/{r.get('pool')}/{r.get('device')}"
        f"{_standing(r, inventory)}"
        for r in results
    ]
    users = status.get("reservedFor") or ()
    lines += [f"reserved for {u.get('resource')} {u.get('name')}" for u in users]
    text = f"holds {_count(len(results), 'device')}, reserved for {_count(len(users), 'user')}"
    return Explanation(title, "Allocated", text, tuple(lines))


def _standing(result: Document, inventory: Inventory) -> str:
    """What is to be known of an allocated device beside its name, in brackets."""
    names = DeviceId(*(result.get(f) or "" for f in ("driver", "pool", "device")))
    device = inventory.device(names)
    share = ", ".join(
        f"{amount} {n}" for n, amount in (result.get("consumedCapacity") or {}).items()
    )
    told = ["as administrator"] if result.get("adminAccess") else []
    told += [f"a share: {share}"] if share else []
    if device is None:
        told.append("its driver does not publish it any more")
    else:
        told += [f"tainted {taint}" for taint in device.taints]
    return f" ({'; '.join(told)})" if told else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _amount(resource: str, value: int) -> str:
    if resource == "cpu":
        return format_quantity(Fraction(value, 1000))
    return format_quantity(value, binary=value >= 1024 and value % 1024 == 0)
