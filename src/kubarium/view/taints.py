"""Taints and tolerations, of nodes, devices and flavors alike, as the engine's values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kubarium.engine.taints import Taint, Toleration

_Json = Mapping[str, Any]


def taint(document: _Json) -> Taint:
    """One taint of a node or a flavor."""
    return Taint(document.get("key", ""), document.get("value") or "", document.get("effect", ""))


def device_toleration(document: _Json) -> Toleration:
    """One toleration of a device request: those compare no numbers, and then tolerate nothing."""
    found = toleration(document)
    return replace(found, operator="Unknown") if found.operator in ("Gt", "Lt") else found


def toleration(document: _Json) -> Toleration:
    """One toleration of a pod or a flavor."""
    return Toleration(
        document.get("key") or "",
        document.get("operator") or "Equal",
        document.get("value") or "",
        document.get("effect") or "",
    )
