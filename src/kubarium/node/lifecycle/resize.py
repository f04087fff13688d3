"""In-place resize of pods (KEP-1287): what is allocated, what fits, who comes next. Pure.

``spec`` is desired; what the node has granted is allocated; what the control groups hold is actual.
Source: kubelet's ``pkg/kubelet/allocation/allocation_manager.go``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kubarium.api.resource import Document
from kubarium.base.quantity import parse_quantity
from kubarium.node.lifecycle.plan import priority_of, qos_class
from kubarium.view.nodes import amount
from kubarium.view.pod_requests import pod_requests

RESIZABLE = ("cpu", "memory")
DEFERRED, INFEASIBLE, ERROR = "Deferred", "Infeasible", "Error"
POD = ""  # the key of pod-level resources beside those of containers

Resources = Mapping[str, Any]


def desired(pod: Document) -> dict[str, Resources]:
    """Resources by container (sidecars too) as the spec has them, and the pod's own."""
    spec = pod["spec"]
    sidecars = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
    entries = [*sidecars, *(spec.get("containers") or ())]
    found: dict[str, Resources] = {c["name"]: c.get("resources") or {} for c in entries}
    if spec.get("resources"):
        found[POD] = spec["resources"]
    return found


def with_resources(pod: Document, resources: Mapping[str, Resources]) -> Document:
    """``pod`` as if its spec asked for these."""
    spec = dict(pod["spec"])
    for part in ("initContainers", "containers"):
        if spec.get(part):
            spec[part] = [
                {**c, "resources": resources[c["name"]]} if c["name"] in resources else c
                for c in spec[part]
            ]
    if POD in resources:
        spec["resources"] = resources[POD]
    return {**pod, "spec": spec}


def requested(pod: Document) -> dict[str, int]:
    """cpu (milli) and memory (bytes) that the pod takes from its node."""
    found = pod_requests(pod["spec"])[0]
    return {name: found.get(name, 0) for name in RESIZABLE}


def changed(before: Resources, after: Resources) -> list[str]:
    """Which of cpu and memory differ, in requests or limits."""
    if before == after:
        return []
    return [
        name
        for name in RESIZABLE
        if any(
            _value(before, part, name) != _value(after, part, name)
            for part in ("requests", "limits")
        )
    ]


def _value(resources: Resources, part: str, name: str) -> object:
    quantity = (resources.get(part) or {}).get(name)
    return None if quantity is None else parse_quantity(quantity)


def needs_restart(container: Resources, names: Iterable[str]) -> bool:
    """Whether the container's ``resizePolicy`` asks for one when these change."""
    policies = {
        entry["resourceName"]: entry.get("restartPolicy")
        for entry in container.get("resizePolicy") or ()
    }
    return any(policies.get(name) == "RestartContainer" for name in names)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``reason`` "": it may be granted now."""

    reason: str = ""
    message: str = ""


def verdict(wanted: Document, others: Mapping[str, int], allocatable: Mapping[str, str]) -> Verdict:
    """Whether the node has room for ``wanted`` beside what ``others`` take."""
    asks = requested(wanted)
    for name in RESIZABLE:
        capacity = amount(name, allocatable.get(name, "0"))
        if asks[name] > capacity:
            text = f"requested: {asks[name]}, capacity: {capacity}"
            return Verdict(INFEASIBLE, f"Node didn't have enough capacity: {name}, {text}")
    for name in RESIZABLE:
        capacity, used = amount(name, allocatable.get(name, "0")), others.get(name, 0)
        if asks[name] + used > capacity:
            text = f"requested: {asks[name]}, used: {used}, capacity: {capacity}"
            return Verdict(DEFERRED, f"Node didn't have enough resource: {name}, {text}")
    return Verdict()


def retry_order(pod: Document, allocated: Document, since: float) -> tuple[int, int, int, float]:
    """Sort key of waiting resizes: those that ask for no more than they have, then by priority,
    quality of service, and time."""
    more = requested(pod)
    held = requested(allocated)
    grows = any(more[name] > held[name] for name in RESIZABLE)
    rank = {"Guaranteed": 0, "Burstable": 1}.get(qos_class(pod), 2)
    return (int(grows), -priority_of(pod), rank, since)
