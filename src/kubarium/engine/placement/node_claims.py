"""What a pod's claims take of its node's own CPU and memory (KEP-5517).

A device can stand for part of its node's resources (a CPU driver's cores: mapped) or cost some (a
GPU's pinned host memory: overhead). Once devices are chosen, both are added to the pod's requests
as ``component-helpers`` adds them, for the pod's whole life: what is mapped, the overhead per pod,
and the overhead per container for each that uses the claim. Pod-level requests and limits, where
given, cover it all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kubarium.engine import reasons
from kubarium.engine.devices.inventory import Inventory
from kubarium.engine.devices.model import Allocation, Amount, Device, DeviceResult, NodeResource
from kubarium.engine.model import CPU, MEMORY, ClaimShare, Key, Overhead, Pod, PodPart
from kubarium.engine.snapshot import Snapshot

_Amounts = dict[str, Amount]


def is_mapped(inventory: Inventory, allocation: Allocation) -> bool:
    """Whether a device of the allocation is itself part of the node's resources.

    Such a claim serves one pod at a time: two pods' control groups cannot hold the same cores.
    """
    return any(
        resource.multiplier is not None
        for _, device in _devices(inventory, allocation)
        for resource in device.node_resources
    )


def shares_of(
    inventory: Inventory, pod: Pod, held: Iterable[tuple[Key, Allocation]]
) -> tuple[ClaimShare, ...]:
    """What each claim takes of the node; claims that take nothing are left out."""
    if not inventory.has_node_resources:
        return ()
    found: list[ClaimShare] = []
    for key, allocation in held:
        mapped: _Amounts = {}
        overhead: dict[str, Overhead] = {}
        for result, device in _devices(inventory, allocation):
            for resource in device.node_resources:
                amount = _mapped(resource, result, device)
                if amount is not None:
                    mapped[resource.name] = mapped.get(resource.name, 0) + amount
                if resource.per_pod is not None or resource.per_container is not None:
                    known = overhead.get(resource.name, Overhead(resource.name))
                    overhead[resource.name] = known.plus(resource.per_pod, resource.per_container)
        if mapped or overhead:
            users = tuple(part.name for part in pod.parts if key in part.claims)
            found.append(
                ClaimShare(
                    key,
                    users,
                    tuple(sorted(mapped.items())),
                    tuple(overhead[name] for name in sorted(overhead)),
                )
            )
    return tuple(found)


def _devices(inventory: Inventory, allocation: Allocation) -> Iterable[tuple[DeviceResult, Device]]:
    if not inventory.has_node_resources:
        return
    for result in allocation.results:
        device = inventory.device(result.id)
        if device is not None and device.node_resources:
            yield result, device


def _mapped(resource: NodeResource, result: DeviceResult, device: Device) -> Amount | None:
    """The mapped amount of one device; a device given whole has consumed all its capacity."""
    if resource.multiplier is None:
        return None
    if not resource.capacity:
        return resource.multiplier
    consumed = dict(result.consumed)
    if resource.capacity in consumed:
        return consumed[resource.capacity] * resource.multiplier
    capacity = device.capacity.get(resource.capacity)
    whole = capacity is not None and not result.shared
    return capacity.value * resource.multiplier if whole and capacity is not None else None


def charged(pod: Pod, shares: Sequence[ClaimShare]) -> Pod:
    """The pod with requests that count what its claims take of the node."""
    more = _added(pod, shares)
    if not more:
        return pod
    requests = dict(pod.shape.requests)
    for name, amount in more.items():
        requests[name] = requests.get(name, 0) + amount
    cpu, memory = pod.shape.nonzero
    shape = replace(
        pod.shape,
        requests=tuple(sorted(requests.items())),
        nonzero=(cpu + more.get(CPU, 0), memory + more.get(MEMORY, 0)),
    )
    return replace(pod, shape=shape)


def lacking(
    snapshot: Snapshot, pod: Pod, shares: Sequence[ClaimShare], row: int
) -> tuple[str, ...]:
    """What keeps a charged pod from one row: NodeResourcesFit's reasons, or its own requests."""
    why = _not_covered(pod, shares)
    if why:
        return (why,)
    found: list[str] = []
    for name, amount in pod.shape.requests:
        index = snapshot.resource_index(name)
        free = snapshot.allocatable.item(index, row) - snapshot.requested.item(index, row)
        if amount > 0 and free < amount:
            found.append(reasons.insufficient(name))
    return tuple(found)


def _added(pod: Pod, shares: Sequence[ClaimShare]) -> dict[str, int]:
    """By how much the shares raise the pod's requests, rounded up; pod-level ones stay."""
    level = dict(pod.pod_level)
    taken = {name: amount for name, amount in _taken(shares).items() if name not in level}
    return {name: math.ceil(amount) for name, amount in sorted(taken.items()) if amount}


def _taken(shares: Sequence[ClaimShare], container: str = "") -> _Amounts:
    """What the claims take for the pod's whole life; with ``container``, what that one may use.

    Overhead per container counts for each that uses the claim, also for those that are soon over,
    and one container may use all the pod's overhead.
    """
    found: _Amounts = {}
    for share in shares:
        if container and container not in share.containers:
            continue
        users = 1 if container else len(share.containers)
        for name, amount in share.mapped:
            found[name] = found.get(name, 0) + amount
        for over in share.overhead:
            amount = (over.per_pod or 0) + (over.per_container or 0) * users
            found[over.name] = found.get(over.name, 0) + amount
    return found


def _not_covered(pod: Pod, shares: Sequence[ClaimShare]) -> str:
    """Why the pod's own requests and limits do not cover its containers and claims; "" if so."""
    taken = _taken(shares)
    for name, whole in pod.pod_level:
        if name in taken and _peak(pod.parts, name) + taken[name] > whole:
            return reasons.pod_level_too_small(name)
    limits = dict(pod.pod_limits)
    for part in pod.parts if limits else ():
        more = {} if part.initial else _taken(shares, part.name)
        for name, limit in part.limits:
            if name in limits and name in more and limit + more[name] > limits[name]:
                return reasons.pod_limit_too_small(name, part.name)
    return ""


def _peak(parts: Sequence[PodPart], name: str) -> int:
    """The most of one resource that the containers hold at once (upstream: PodRequests)."""
    running = sidecars = peak = 0
    for part in parts:
        wanted = part.request(name)
        if part.brief:
            peak = max(peak, sidecars + wanted)
            continue
        running += wanted
        if part.initial:
            sidecars += wanted
            peak = max(peak, sidecars)
    return max(running, peak)
