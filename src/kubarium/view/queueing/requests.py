"""What a pod of a template requests, as the scheduler and quota count it.

Source of the rules: ``k8s.io/component-helpers/resource`` PodRequests; Kueue's AdjustResources
(a missing request is its limit).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubarium.api.resource import Document
from kubarium.engine.queueing.amounts import amount_of

Requests = dict[str, int]


def pod_requests(spec: Document) -> Requests:
    """Requests of one pod in engine amounts: cpu in thousandths, everything else in whole units.

    Containers and sidecars add up; an ordinary init container counts with the sidecars that started
    before it, as a maximum; pod-level resources replace the sum for what they name; overhead is
    added. Raises ``QuantityError`` naming a text that is no quantity.

    >>> pod_requests({"containers": [{"resources": {"limits": {"cpu": "1"}}}]})
    {'cpu': 1000}
    """
    total: Requests = {}
    for container in spec.get("containers") or ():
        _add(total, _container_requests(container))
    sidecars: Requests = {}
    peak: Requests = {}
    for container in spec.get("initContainers") or ():
        own = _container_requests(container)
        if container.get("restartPolicy") == "Always":
            _add(total, own)
            _add(sidecars, own)
            _raise_to(peak, sidecars)
        else:
            _add(own, sidecars)
            _raise_to(peak, own)
    _raise_to(total, peak)
    total |= _container_requests(spec)
    _add(total, _amounts(spec.get("overhead")))
    return {resource: max(0, amount) for resource, amount in sorted(total.items())}


def requests_over_limits(resources: Mapping[str, Any] | None) -> list[str]:
    """The resources whose request exceeds their limit, sorted."""
    limits = _amounts((resources or {}).get("limits"))
    requests = _amounts((resources or {}).get("requests"))
    return sorted(r for r, amount in requests.items() if r in limits and amount > limits[r])


def _container_requests(holder: Document) -> Requests:
    resources = holder.get("resources") or {}
    return _amounts(resources.get("limits")) | _amounts(resources.get("requests"))


def _amounts(quantities: Mapping[str, Any] | None) -> Requests:
    return {resource: amount_of(resource, q) for resource, q in (quantities or {}).items()}


def _add(total: Requests, more: Mapping[str, int]) -> None:
    for resource, amount in more.items():
        total[resource] = total.get(resource, 0) + amount


def _raise_to(total: Requests, floor: Mapping[str, int]) -> None:
    for resource, amount in floor.items():
        total[resource] = max(total.get(resource, 0), amount)
