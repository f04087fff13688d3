"""What the resize subresource may change: cpu and memory of what runs, more or less, never away.

Source: ``ValidatePodResize`` in ``pkg/apis/core/validation``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubarium.api.resource import Document
from kubarium.api.validation.containers import check_resources
from kubarium.api.validation.report import Report
from kubarium.base.errors import FieldError
from kubarium.base.quantity import QuantityError, parse_quantity

_RESIZABLE = ("cpu", "memory")
_STATIC = "kubernetes.io/config.mirror"


def check_resize(new: Document, old: Document) -> list[FieldError]:
    """Errors of a resize from ``old`` to ``new``, both whole pods."""
    if _STATIC in (old["metadata"].get("annotations") or {}):
        return [FieldError("Forbidden", "", detail="static pods cannot be resized")]
    errors: list[FieldError] = []
    for part in ("containers", "initContainers"):
        before = {c["name"]: c for c in old["spec"].get(part) or ()}
        for index, container in enumerate(new["spec"].get(part) or ()):
            path = f"spec.{part}[{index}].resources"
            former = before.get(container["name"], container)
            sidecar = part == "containers" or container.get("restartPolicy") == "Always"
            found = _check(container.get("resources"), former.get("resources"), path)
            changed = (container.get("resources") or {}) != (former.get("resources") or {})
            if changed and not found:
                report = Report()
                at = ((((None, "spec"), part), index), "resources")
                check_resources(container.get("resources") or {}, at, report)
                found = report.errors
            if not sidecar and changed:
                detail = "resources for non-sidecar init containers are immutable"
                found = [FieldError("Forbidden", path, detail=detail)]
            errors += found
    return errors + _check(
        new["spec"].get("resources"), old["spec"].get("resources"), "spec.resources"
    )


def _check(
    new: Mapping[str, Any] | None, old: Mapping[str, Any] | None, path: str
) -> list[FieldError]:
    errors = []
    for part in ("requests", "limits"):
        after, before = (new or {}).get(part) or {}, (old or {}).get(part) or {}
        for name in dict.fromkeys([*after, *before]):
            removed = name in before and name not in after
            if name in _RESIZABLE and removed:
                detail = f"resource {part} cannot be removed"
                errors.append(FieldError("Forbidden", f"{path}.{part}", detail=detail))
            elif name not in _RESIZABLE and _amount(after.get(name)) != _amount(before.get(name)):
                detail = "only cpu and memory resources are mutable"
                errors.append(FieldError("Forbidden", f"{path}.{part}.{name}", detail=detail))
    return errors


def _amount(text: object) -> object:
    try:
        return None if text is None else parse_quantity(text)
    except QuantityError:
        return text
