"""resource.k8s.io: claims, slices, taint rules."""

from __future__ import annotations

from typing import Any

from kubarium.api.resource import Document
from kubarium.api.tables.columns import NONE, Printer, age, printer, spec_of, status_of


def claim_state(claim: Document) -> str:
    """``pending``, ``allocated``, ``allocated,reserved``, with ``deleted`` in front."""
    status = status_of(claim)
    deleted = bool(claim["metadata"].get("deletionTimestamp"))
    states = ["deleted"] if deleted else []
    if status.get("allocation"):
        states.append("allocated")
        if status.get("reservedFor"):
            states.append("reserved")
    elif not deleted:
        states.append("pending")
    return ",".join(states)


def _claim(d: Document, now: float) -> list[Any]:
    return [claim_state(d), age(d, now)]


def _slice(d: Document, now: float) -> list[Any]:
    spec = spec_of(d)
    pool = (spec.get("pool") or {}).get("name", "")
    return [spec.get("nodeName") or "", spec.get("driver", ""), pool, age(d, now)]


def _selected(selector: Document | None) -> str:
    """The devices that a DeviceTaintRule selects; without a selector none.

    >>> _selected({}), _selected({"driver": "gpu.example.com"}), _selected({"device": "gpu-0"})
    ('*', 'gpu.example.com', '*/*/gpu-0')
    """
    if selector is None:
        return NONE
    parts = [str(selector.get(key) or "*") for key in ("driver", "pool", "device")]
    while len(parts) > 1 and parts[-1] == "*":
        parts.pop()
    return "/".join(parts)


def _taint_rule(d: Document, now: float) -> list[Any]:
    taint = spec_of(d).get("taint") or {}
    return [
        _selected(spec_of(d).get("deviceSelector")),
        taint.get("effect", ""),
        age(d, now),
    ]


_GROUP = "resource.k8s.io"
PRINTERS: dict[tuple[str, str], Printer] = {
    (_GROUP, "ResourceClaim"): printer("State|Age", _claim),
    (_GROUP, "ResourceSlice"): printer("Node|Driver|Pool|Age", _slice),
    (_GROUP, "DeviceTaintRule"): printer("Devices|Effect|Age", _taint_rule),
}
