"""What a pod asks for of its node, and what it holds while it is resized in place."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from kubarium.api.resource import Document
from kubarium.view.nodes import amount, exact_amount, rounded_amount

# What a container without requests counts as in scores (upstream: util/pod_resources.go).
DEFAULT_MILLI_CPU = 100
DEFAULT_MEMORY_BYTES = 200 * 1024 * 1024
_DEFAULT_CPU, _DEFAULT_MEMORY = Fraction(DEFAULT_MILLI_CPU, 1000), Fraction(DEFAULT_MEMORY_BYTES)
_NONE = Fraction(0)

Amounts = dict[str, int]
_Exact = dict[str, Fraction]


def pod_requests(spec: Document) -> tuple[Amounts, tuple[int, int]]:
    """What the pod asks for, and the (milli-cpu, bytes) that scores count for it.

    Source: component-helpers ``resource.PodRequests``: containers and sidecars together, or the
    largest moment of the init sequence if that is more; pod-level requests replace the sum;
    overhead comes on top. In scores a container without requests counts as 100m and 200Mi; if the
    pod has requests of its own, only where no container asks for the resource.
    """
    exact = _sequence(spec, {})
    pod_level = _exact(spec.get("resources") or {})
    overhead = _quantities(spec.get("overhead"))
    defaults = {
        name: value
        for name, value in (("cpu", _DEFAULT_CPU), ("memory", _DEFAULT_MEMORY))
        if not pod_level or (name not in exact and name not in overhead)
    }
    counted = _sequence(spec, defaults)
    for total in (exact, counted):
        total.update(pod_level)
        _add(total, overhead)
    cpu, memory = (rounded_amount(name, counted.get(name, _NONE)) for name in ("cpu", "memory"))
    sums = {name: rounded_amount(name, value) for name, value in exact.items()}
    return {name: value for name, value in sums.items() if value}, (cpu, memory)


def _sequence(spec: Document, defaults: Mapping[str, Fraction]) -> _Exact:
    running: _Exact = {}
    for container in spec.get("containers") or ():
        _add(running, _container(container, defaults))
    sidecars: _Exact = {}
    peak: _Exact = {}
    for container in spec.get("initContainers") or ():
        wanted = _container(container, defaults)
        if is_sidecar(container):
            _add(running, wanted)
            _add(sidecars, wanted)
            moment = dict(sidecars)
        else:
            moment = dict(sidecars)
            _add(moment, wanted)
        for name, value in moment.items():
            peak[name] = max(peak.get(name, _NONE), value)
    for name, value in peak.items():
        running[name] = max(running.get(name, _NONE), value)
    return running


def _container(container: Document, defaults: Mapping[str, Fraction]) -> _Exact:
    return {**defaults, **_exact(container.get("resources") or {})}


def _exact(resources: Mapping[str, Any]) -> _Exact:
    """Requests, with limits where only those are given (as the API server would default).

    Nothing is rounded before a pod's containers are added up: two of 500u ask for 1m.
    """
    return {**_quantities(resources.get("limits")), **_quantities(resources.get("requests"))}


def _quantities(quantities: Mapping[str, Any] | None) -> _Exact:
    return {name: exact_amount(q) for name, q in (quantities or {}).items()}


def container_amounts(resources: Mapping[str, Any]) -> Amounts:
    """As :func:`_exact`, of one container, in whole units."""
    return {**whole_amounts(resources.get("limits")), **whole_amounts(resources.get("requests"))}


def whole_amounts(quantities: Mapping[str, Any] | None) -> Amounts:
    return {name: amount(name, q) for name, q in (quantities or {}).items()}


def _add(total: _Exact, more: _Exact) -> None:
    for name, value in more.items():
        total[name] = total.get(name, _NONE) + value


# Resizing in place


def resized(document: Document) -> Document:
    """The pod's spec with requests that count what is wanted, allocated and actual, the most.

    While a container is resized in place it may hold more than it asks for (KEP-1287); a resize
    that the node calls infeasible does not count as wanted.
    """
    spec: Document = document.get("spec") or {}
    status = document.get("status")
    if not status or _is_settled(spec, status):
        return spec
    statuses = {
        s.get("name"): s
        for kind in ("containerStatuses", "initContainerStatuses")
        for s in status.get(kind) or ()
        if s.get("resources") is not None
    }
    whole = spec.get("resources") if status.get("resources") is not None else None
    if not statuses and not whole:
        return spec
    refused = any(
        c.get("type") == "PodResizePending" and c.get("reason") == "Infeasible"
        for c in status.get("conditions") or ()
    )
    changed: Document = {}
    for kind in ("containers", "initContainers"):
        containers = spec.get(kind) or ()
        held = [
            _held(c, statuses.get(c.get("name")), refused)
            if kind == "containers" or is_sidecar(c)  # others cannot be resized
            else c
            for c in containers
        ]
        if any(now is not before for now, before in zip(held, containers, strict=True)):
            changed[kind] = held
    if whole:
        most = _held({"resources": whole}, status, refused)["resources"]
        named = whole.get("requests") or {}
        given = most.get("requests") or {}
        asked = {name: given.get(name, "0") for name in named}
        if asked != named:
            changed["resources"] = {**whole, "requests": asked}
    return {**spec, **changed} if changed else spec


def _is_settled(spec: Document, status: Document) -> bool:
    """Whether it is seen at once that what the node says it gave is what the spec asks for."""
    if status.get("resources") is not None and spec.get("resources"):
        return False
    for kind in ("containerStatuses", "initContainerStatuses"):
        entries = status.get(kind)
        if not entries:
            continue
        containers = spec.get("containers" if kind == "containerStatuses" else "initContainers")
        asked = {
            c.get("name"): (c.get("resources") or {}).get("requests") for c in containers or ()
        }
        for entry in entries:
            held = entry.get("resources")
            if held is None:
                continue
            wanted, given = asked.get(entry.get("name")) or {}, held.get("requests")
            if (entry.get("allocatedResources") or {}) != wanted or (given and given != wanted):
                return False
    return True


def is_sidecar(container: Document) -> bool:
    """Whether an init container runs as long as the pod does."""
    return container.get("restartPolicy") == "Always"


def _held(container: Document, status: Document | None, refused: bool) -> Document:
    """A container with the most of what it wants and has."""
    if status is None:
        return container
    resources = container.get("resources") or {}
    wanted = {} if refused else resources.get("requests") or {}
    allocated = status.get("allocatedResources") or {}
    actual = (status.get("resources") or {}).get("requests") or {}
    if not refused and allocated == wanted and actual in ({}, wanted):
        return container  # no resize is under way
    most: dict[str, Any] = {}
    for given in (wanted, allocated, actual):
        for name, quantity in given.items():
            if name not in most or exact_amount(quantity) > exact_amount(most[name]):
                most[name] = quantity
    if most == resources.get("requests"):
        return container
    limits = {name: q for name, q in (resources.get("limits") or {}).items() if name in most}
    return {**container, "resources": {**resources, "requests": most, "limits": limits}}
