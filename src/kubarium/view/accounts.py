"""What is held: by the pods of a node, by a claim, and how the devices of a class are taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from kubarium.api.resource import Document
from kubarium.base.quantity import format_quantity
from kubarium.engine.devices.model import AllocationError, ClaimSpec, DeviceId
from kubarium.engine.devices.request import Matching, NamedClaim, Wanted, candidates_of
from kubarium.engine.devices.request import taint_prevents as is_tainted
from kubarium.engine.model import Pod
from kubarium.view.cluster import ClusterView
from kubarium.view.explanation import Explanation

# Nodes named in a device account; the totals count all.
NODES_COUNTED = 5_000
PODS_SHOWN = 10


def device_account(view: ClusterView, pods: Sequence[Pod]) -> Iterator[str]:
    """For each request of the pods' pending claims: devices that match, are taken, are tainted."""
    snapshot = view.snapshot
    claims: dict[ClaimSpec, int] = {}
    for key in dict.fromkeys(key for pod in pods for key in pod.claims):
        claim = snapshot.claims.get(key)
        if claim is not None and key not in snapshot.allocations:
            claims[claim.spec] = claims.get(claim.spec, 0) + 1
    for spec, count in claims.items():
        for entry in spec.requests:
            for request in entry.alternatives:
                yield from _request_account(view, spec, count, entry.path(request))


def _request_account(view: ClusterView, spec: ClaimSpec, count: int, path: str) -> Iterator[str]:
    inventory, snapshot = view.snapshot.inventory, view.snapshot
    entry, request = next(
        (e, r) for e in spec.requests for r in e.alternatives if e.path(r) == path
    )
    owner = inventory.classes.get(request.device_class)
    if owner is None:
        yield f"request {path}: device class {request.device_class} does not exist"
        return
    seen: dict[DeviceId, str] = {}
    matching = Matching(inventory.selects, inventory.features)
    problem = ""
    for name in list(snapshot.rows)[:NODES_COUNTED]:
        node = snapshot.node(name)
        if node is None or not inventory.has_devices(name):
            continue
        pools = inventory.pools(name, node.labels)
        for pool in pools:
            if pool.incomplete:
                problem = f"pool {pool} is incomplete: not all of its slices are there yet"
            elif pool.invalid:
                problem = f"pool {pool} is invalid: {pool.invalid}"
        wanted = Wanted(NamedClaim("", spec), entry, request, path, owner)
        for candidate in candidates_of(pools, name, node.labels):
            if candidate.id in seen:
                continue
            try:
                matches = matching.matches(wanted, candidate)
            except AllocationError as error:
                problem = str(error)
                continue
            tainted = is_tainted(request, candidate.device)
            in_use = inventory.ledger.exclusive(candidate.id)
            seen[candidate.id] = (
                "other" if not matches else "used" if in_use else "tainted" if tainted else "free"
            )
    yield _counted(path, request.device_class, count * max(request.count, 1), seen)
    if not inventory.slices:
        problem = "there are no ResourceSlices: no DRA driver publishes devices"
    if problem:
        yield problem


def _counted(path: str, class_name: str, needed: int, seen: dict[DeviceId, str]) -> str:
    states = list(seen.values())
    matching = len(states) - states.count("other")
    text = (
        f"request {path}: {needed} of class {class_name} needed in all, {len(states)} devices in"
        f" the cluster, {matching} match, {states.count('free')} free"
    )
    extra = [
        f"{states.count(s)} {label}"
        for s, label in (("used", "in use"), ("tainted", "tainted"))
        if s in states
    ]
    return f"{text} ({', '.join(extra)})" if extra else text


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
    for pool in inventory.pools(name, node.labels):
        devices = [DeviceId(pool.driver, pool.name, d.name) for s in pool.slices for d in s.devices]
        used = [d for d in devices if inventory.ledger.in_use(d)]
        text = f"pool {pool}: {len(used)} of {len(devices)} devices in use"
        held = ", ".join(f"{d.device} by claim {holders[d]}" for d in used[:4] if d in holders)
        yield f"{text} ({held})" if held else text


def claim_account(claim: Document, title: str) -> Explanation:
    """What a claim holds, and for whom."""
    status = claim["status"]
    results = (status["allocation"].get("devices") or {}).get("results") or ()
    lines = [
        f"request {r.get('request')}: device {r.get('driver')}/{r.get('pool')}/{r.get('device')}"
        for r in results
    ]
    users = status.get("reservedFor") or ()
    lines += [f"reserved for {u.get('resource')} {u.get('name')}" for u in users]
    text = f"holds {_count(len(results), 'device')}, reserved for {_count(len(users), 'user')}"
    return Explanation(title, "Allocated", text, tuple(lines))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _amount(resource: str, value: int) -> str:
    if resource == "cpu":
        return format_quantity(Fraction(value, 1000))
    return format_quantity(value, binary=value >= 1024 and value % 1024 == 0)
