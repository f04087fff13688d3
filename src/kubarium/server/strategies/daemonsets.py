"""DaemonSets: an annotation counts the changes of their template, as a field did in older versions.

Source: upstream ``pkg/registry/apps/daemonset/strategy.go`` and ``pkg/apis/apps/v1/conversion.go``.
"""

from __future__ import annotations

from kubarium.api.labels import TEMPLATE_GENERATION
from kubarium.api.resource import Document
from kubarium.server.registry import Registry
from kubarium.server.requests import Call


def prepare_create(registry: Registry, call: Call, daemon_set: Document) -> None:
    """A new one begins at 1, unless it says where."""
    _note(daemon_set, max(1, _noted(daemon_set)))


def prepare_update(registry: Registry, call: Call, new: Document, old: Document) -> None:
    """The number is not the writer's to change."""
    changed = (new.get("spec") or {}).get("template") != (old.get("spec") or {}).get("template")
    _note(new, max(1, _noted(old)) + changed)


def _noted(daemon_set: Document) -> int:
    text = (daemon_set["metadata"].get("annotations") or {}).get(TEMPLATE_GENERATION, "")
    return int(text) if text.isascii() and text.isdigit() else 0


def _note(daemon_set: Document, number: int) -> None:
    metadata = daemon_set["metadata"]
    annotations = metadata.get("annotations") or {}
    metadata["annotations"] = {**annotations, TEMPLATE_GENERATION: str(number)}
