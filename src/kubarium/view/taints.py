"""Taints and tolerations, of nodes, devices and flavors alike, as the engine's values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubarium.engine.taints import Taint, Toleration

_Json = Mapping[str, Any]


def taint(document: _Json) -> Taint:
    """One taint of a node or a flavor."""
    return Taint(document.get("key", ""), document.get("value") or "", document.get("effect", ""))


def toleration(document: _Json) -> Toleration:
    """One toleration of a pod, a device request or a flavor."""
    return Toleration(
        document.get("key") or "",
        document.get("operator") or "Equal",
        document.get("value") or "",
        document.get("effect") or "",
    )
