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
from kubarium.api.validation.pod_metadata import MIRROR
from kubarium.api.validation.report import Report
from kubarium.base.errors import FieldError
from kubarium.base.quantity import QuantityError, parse_quantity

_RESIZABLE = ("cpu", "memory")
_SPEC: Path = (None, "spec")
_MUTABLE = "only cpu and memory resources"


def check_resize(new: Document, old: Document) -> list[FieldError]:
    """Errors of a resize from ``old`` to ``new``, both whole pods."""
    report = Report()
    if MIRROR in (old["metadata"].get("annotations") or {}):
        report.forbidden(None, "static pods cannot be resized")
    elif (old["spec"].get("os") or {}).get("name") == "windows":
        report.forbidden(None, "windows pods cannot be resized")
    elif _same_containers(new["spec"], old["spec"], report):
        _check_pod(new["spec"], old["spec"], report)
        for part in ("initContainers", "containers"):
            pairs = zip(new["spec"].get(part) or (), old["spec"].get(part) or (), strict=True)
            for index, (container, former) in enumerate(pairs):
                _check_container(container, former, part, at(_SPEC, part, index), report)
        if new["spec"].get("resources") and not report.errors:
            check_pod_level(new["spec"], _SPEC, report)
    return report.errors


def _same_containers(after: Document, before: Document, report: Report) -> bool:
    for part in ("containers", "initContainers"):
        new, old = after.get(part) or (), before.get(part) or ()
        if len(new) != len(old):
            report.forbidden(at(_SPEC, part), f"{part} may not be added or removed on resize")
            continue
        for index, (container, former) in enumerate(zip(new, old, strict=True)):
            if container.get("name") != former.get("name"):
                detail = f"{part} may not be renamed or reordered on resize"
                report.forbidden(at(_SPEC, part, index, "name"), detail)
    return not report.errors


def _check_pod(after: Document, before: Document, report: Report) -> None:
    new, old = after.get("resources") or {}, before.get("resources") or {}
    place = at(_SPEC, "resources")
    if old and not new:
        report.forbidden(place, "pod-level resources cannot be removed")
        return
    _check_kept(new, old, place, "pod-level resource", report)
    if _others_change(new, old):
        report.forbidden(_SPEC, f"{_MUTABLE} are mutable at pod-level")


def _check_container(
    container: Document, former: Document, part: str, path: Path, report: Report
) -> None:
    after, before = container.get("resources") or {}, former.get("resources") or {}
    policies = container.get("resizePolicy") or []
    if after == before and policies == (former.get("resizePolicy") or []):
        return
    if part == "initContainers" and container.get("restartPolicy") != "Always":
        report.forbidden(_SPEC, "resources for non-sidecar init containers are immutable")
        return
    known = len(report.errors)
    _check_kept(after, before, at(path, "resources"), "resource", report)
    if policies != (former.get("resizePolicy") or []) or _others_change(after, before):
        if part == "initContainers":
            report.forbidden(path, f"{_MUTABLE} for init or sidecar containers are mutable")
        else:
            report.forbidden(_SPEC, f"{_MUTABLE} are mutable")
    if len(report.errors) == known:
        check_resources(after, at(path, "resources"), report)


def _check_kept(
    new: Mapping[str, Any], old: Mapping[str, Any], path: Path, what: str, report: Report
) -> None:
    for part in ("requests", "limits"):
        if not (new.get(part) or {}).keys() >= (old.get(part) or {}).keys():
            report.forbidden(at(path, part), f"{what} {part} cannot be removed")


def _others_change(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether anything but amounts of cpu and memory changes."""
    if (new.get("claims") or []) != (old.get("claims") or []):
        return True
    for part in ("requests", "limits"):
        after, before = new.get(part) or {}, old.get(part) or {}
        for name in {*after, *before} - {*_RESIZABLE}:
            if _amount(after.get(name)) != _amount(before.get(name)):
                return True
    return False


def _amount(text: object) -> object:
    try:
        return None if text is None else parse_quantity(text)
    except QuantityError:
        return text
