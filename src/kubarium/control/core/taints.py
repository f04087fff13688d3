"""Taints that follow from a node's state, and how long pods bear them. Pure.

Source: upstream ``pkg/controller/nodelifecycle`` and ``pkg/controller/tainteviction``.
"""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.base.clock import rfc3339
from kubarium.runtime.writes import find_condition
from kubarium.view import taints as rows

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
# condition -> the status that taints -> the taint
_BY_CONDITION = {
    "Ready": {"False": NOT_READY, "Unknown": UNREACHABLE},
    "MemoryPressure": {"True": "node.kubernetes.io/memory-pressure"},
    "DiskPressure": {"True": "node.kubernetes.io/disk-pressure"},
    "PIDPressure": {"True": "node.kubernetes.io/pid-pressure"},
    "NetworkUnavailable": {"True": "node.kubernetes.io/network-unavailable"},
}
_OURS = {UNSCHEDULABLE, *(key for taints in _BY_CONDITION.values() for key in taints.values())}


def wanted_taints(node: Document, now: float) -> list[Document] | None:
    """The node's taints as they should be, or None if they are so already.

    Ours come and go with the conditions; all others stay.
    """
    held: list[Document] = list((node.get("spec") or {}).get("taints") or ())
    wanted = _taints_of(node)
    kept = [
        taint
        for taint in held
        if taint.get("key") not in _OURS or (taint.get("key"), taint.get("effect")) in wanted
    ]
    known = {(taint.get("key"), taint.get("effect")) for taint in kept}
    added = [
        {"key": key, "effect": effect, "timeAdded": rfc3339(now)}
        for key, effect in wanted
        if (key, effect) not in known
    ]
    result = [*kept, *added]
    return None if result == held else result


def _taints_of(node: Document) -> list[tuple[str, str]]:
    wanted: list[tuple[str, str]] = []
    status = node.get("status") or {}
    for type_, taints in _BY_CONDITION.items():
        condition = find_condition(status, type_)
        key = taints.get(condition.get("status", "")) if condition is not None else None
        if key is None:
            continue
        wanted.append((key, "NoSchedule"))
        if type_ == "Ready":
            wanted.append((key, "NoExecute"))
    if (node.get("spec") or {}).get("unschedulable"):
        wanted.append((UNSCHEDULABLE, "NoSchedule"))
    return wanted


def tolerates(toleration: Document, taint: Document) -> bool:
    """Upstream's ``ToleratesTaint``, of documents."""
    return rows.toleration(toleration).tolerates(rows.taint(taint))


def eviction_delay_s(pod: Document, taints: list[Document]) -> float | None:
    """Seconds that the pod may stay on a node with these NoExecute taints; None for ever.

    0 when one of them is not tolerated at all; else the shortest tolerationSeconds in use.
    """
    tolerations = (pod.get("spec") or {}).get("tolerations") or ()
    limits: list[float] = []
    for taint in taints:
        matching = [item for item in tolerations if tolerates(item, taint)]
        if not matching:
            return 0.0
        limits += [
            max(0.0, float(item["tolerationSeconds"]))
            for item in matching
            if item.get("tolerationSeconds") is not None
        ]
    return min(limits, default=None)
