"""Who goes first, and what is said to them. Pure.

Source: ``pkg/kubelet/eviction/helpers.go`` (rankMemoryPressure and its siblings, evictionMessage).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kubarium.api.resource import Document
from kubarium.base.quantity import canonical, format_quantity
from kubarium.node.eviction.usage import (
    INODES,
    PROCESSES,
    STORAGE,
    PodUsage,
    Signal,
    amount_of,
)
from kubarium.node.kubelet_config import Threshold
from kubarium.node.lifecycle.plan import priority_of
from kubarium.view.pod_requests import pod_requests

REASON = "Evicted"
_NONE = PodUsage()


def ranked(
    pods: Sequence[Document], usage: Mapping[str, PodUsage], resource: str
) -> list[Document]:
    """Those that use more than they requested first, then by priority, then by how much more.

    Processes cannot be requested: there the priority decides, then their number."""

    def key(pod: Document) -> tuple[bool, int, int]:
        used = usage.get(pod["metadata"]["uid"], _NONE).of(resource)
        asked = requested(pod, resource)
        exceeds = resource != PROCESSES and used > asked
        return (not exceeds, priority_of(pod), asked - used)

    return sorted(pods, key=key)


def requested(pod: Document, resource: str) -> int:
    """What the pod asks for of a resource, in bytes; 0 of what cannot be asked for."""
    if resource in (INODES, PROCESSES):
        return 0
    return int(pod_requests(pod["spec"])[0].get(resource, 0))


def low_message(
    pod: Document, usage: PodUsage, resource: str, threshold: Threshold, signal: Signal
) -> str:
    """Kubelet's words for a pod that makes room."""
    binary = resource not in (INODES, PROCESSES)
    least = format_quantity(threshold.value.of(signal.capacity), binary=binary)
    left = format_quantity(signal.available, binary=binary)
    text = f"The node was low on resource: {resource}. "
    text += f"Threshold quantity: {least}, available: {left}. "
    if not binary:
        return text
    for container in pod["spec"].get("containers") or ():
        found = usage.containers.get(container["name"])
        used = 0 if found is None else found.storage if resource == STORAGE else found.memory
        asked = ((container.get("resources") or {}).get("requests") or {}).get(resource, "0")
        if used > amount_of(asked):
            text += (
                f"Container {container['name']} was using {_kibibytes(used)}, request is "
                f"{canonical(asked)}, has larger consumption of {resource}. "
            )
    return text


def condition_message(conditions: Sequence[str]) -> str:
    """Why a node under pressure does not take a pod."""
    return f"The node had condition: [{' '.join(conditions)}]. "


def _kibibytes(used: int) -> str:
    return format_quantity(used >> 10 << 10, binary=True)


# Local storage -----------------------------------------------------------------------------------


def storage_excess(pod: Document, usage: PodUsage) -> str:
    """Which of its limits on local storage a pod exceeds, in kubelet's words; "" if none."""
    spec = pod["spec"]
    for volume in spec.get("volumes") or ():
        source = volume.get("emptyDir") or {}
        limit, used = source.get("sizeLimit"), usage.volumes.get(volume["name"])
        if used is not None and limit is not None and 0 < amount_of(limit) < used:
            name = volume["name"]
            return f'Usage of EmptyDir volume "{name}" exceeds the limit "{canonical(limit)}". '
    containers = [c for part in ("containers", "initContainers") for c in spec.get(part) or ()]
    limits = {
        container["name"]: limit
        for container in containers
        if (limit := _limit(container.get("resources"))) is not None
    }
    whole_pod = _limit(spec.get("resources"))
    mains = [container["name"] for container in spec.get("containers") or ()]
    total = sum(amount_of(limits[name]) for name in mains if name in limits)
    most = amount_of(whole_pod) if whole_pod is not None else total
    # As upstream: those without a limit have their share of what the others may take.
    if most and usage.storage > most:
        shown = format_quantity(most, binary=True)
        return f"Pod ephemeral local storage usage exceeds the total limit of containers {shown}. "
    for name, limit in limits.items():
        found = usage.containers.get(name)
        if found is not None and 0 < amount_of(limit) < found.storage:
            shown = canonical(limit)
            return f'Container {name} exceeded its local ephemeral storage limit "{shown}". '
    return ""


def has_storage_limits(pod: Document) -> bool:
    """Whether anything of the pod's is to be held to a size on disk."""
    spec = pod["spec"]
    containers = [c for part in ("containers", "initContainers") for c in spec.get(part) or ()]
    return (
        any((v.get("emptyDir") or {}).get("sizeLimit") for v in spec.get("volumes") or ())
        or any(_limit(c.get("resources")) is not None for c in containers)
        or _limit(spec.get("resources")) is not None
    )


def _limit(resources: Mapping[str, Mapping[str, object]] | None) -> object | None:
    return ((resources or {}).get("limits") or {}).get(STORAGE)
