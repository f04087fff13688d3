"""PersistentVolumes: since when they are in their phase.

Source: upstream ``pkg/registry/core/persistentvolume/strategy.go``.
"""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.server.registry import Registry
from kubarium.server.requests import Call

SINCE = "lastPhaseTransitionTime"


def prepare_create(registry: Registry, call: Call, volume: Document) -> None:
    """A new volume is Pending from now."""
    volume["status"] = {"phase": "Pending", SINCE: registry.now()}


def prepare_status(registry: Registry, call: Call, new: Document, old: Document) -> None:
    """A change of phase is dated, unless its writer does so; else the time stays."""
    status, was = new.get("status") or {}, old.get("status") or {}
    time, known = status.get(SINCE), was.get(SINCE)
    if status.get("phase") == was.get("phase"):
        time = time or known
    elif time in (None, known):
        time = registry.now()
    if time:
        new["status"] = {**status, SINCE: time}
