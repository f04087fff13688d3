"""What the resize subresource may change: cpu and memory of what runs, more or less, never away.

Source: ``ValidatePodResize`` in ``pkg/apis/core/validation``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubarium.api.paths import Path, at
from kubarium.api.resource import Document
from kubarium.api.validation.containers import check_resources
from kubarium.api.validation.pod_level import check_pod_level
from kubarium.api.validation.report import Report
from kubarium.base.errors import FieldError
from kubarium.base.quantity import QuantityError, parse_quantity

_RESIZABLE = ("cpu", "memory")
_STATIC = "kubernetes.io/config.mirror"


def check_resize(new: Document, old: Document) -> list[FieldError]:
    """Errors of a resize from ``old`` to ``new``, both whole pods."""
    report = Report()
    if _STATIC in (old["metadata"].get("annotations") or {}):
        report.forbidden(None, "static pods cannot be resized")
        return report.errors
    for part in ("containers", "initContainers"):
        before = {c["name"]: c for c in old["spec"].get(part) or ()}
        for index, container in enumerate(new["spec"].get(part) or ()):
            former = before.get(container["name"], container)
            _check_container(container, former, part, at(None, "spec", part, index), report)
    after, before = (pod["spec"].get("resources") or {} for pod in (new, old))
    _check_changes(after, before, at(None, "spec", "resources"), report)
    if after and not report.errors:
        check_pod_level(new["spec"], at(None, "spec"), report)
    return report.errors


def _check_container(
    container: Document, former: Document, part: str, path: Path, report: Report
) -> None:
    after, before = container.get("resources") or {}, former.get("resources") or {}
    place = at(path, "resources")
    if after == before:
        return
    if part == "initContainers" and container.get("restartPolicy") != "Always":
        report.forbidden(place, "resources for non-sidecar init containers are immutable")
    elif _check_changes(after, before, place, report):
        check_resources(after, place, report)


def _check_changes(
    new: Mapping[str, Any], old: Mapping[str, Any], path: Path, report: Report
) -> bool:
    """Whether only amounts of cpu and memory change."""
    known = len(report.errors)
    for part in ("requests", "limits"):
        after, before = new.get(part) or {}, old.get(part) or {}
        place = at(path, part)
        for name in dict.fromkeys([*after, *before]):
            if name in _RESIZABLE:
                if name not in after:
                    report.forbidden(place, f"resource {part} cannot be removed")
            elif _amount(after.get(name)) != _amount(before.get(name)):
                report.forbidden(at(place, name), "only cpu and memory resources are mutable")
    return len(report.errors) == known


def _amount(text: object) -> object:
    try:
        return None if text is None else parse_quantity(text)
    except QuantityError:
        return text
