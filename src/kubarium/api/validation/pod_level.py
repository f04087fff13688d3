"""``spec.resources`` of a pod: what may be said there, and that its containers fit into it.

Source: ``validatePodResources`` and ``validatePodResourceConsistency`` of ``pkg/apis/core``.
"""

from __future__ import annotations

from kubarium.api.paths import Key, Path, at
from kubarium.api.pod_amounts import of_containers, quantities_of
from kubarium.api.resource import Document
from kubarium.api.validation.containers import check_claims
from kubarium.api.validation.quantities import (
    HUGE_PAGES,
    amount,
    check_any_resource_name,
    check_requests,
)
from kubarium.api.validation.report import Report
from kubarium.base.quantity import format_quantity

_SUPPORTED = ("cpu", HUGE_PAGES, "memory")


def _check_name(name: str, path: Path, report: Report) -> None:
    known = check_any_resource_name(name, path, report)
    if known and name not in _SUPPORTED and not name.startswith(HUGE_PAGES):
        report.not_supported(path, name, _SUPPORTED)


def check_pod_level(spec: Document, path: Path, report: Report) -> None:
    """``path`` is the spec's. Containers' requests, in sum, and each of their limits stay within
    the pod's, as far as the pod says any."""
    resources = spec.get("resources") or {}
    place = at(path, "resources")
    if (spec.get("os") or {}).get("name") == "windows":
        report.forbidden(place, "may not be set for a windows pod")
        return
    if resources.get("claims") is not None:
        detail = "claims may not be set for Resources at pod-level"
        report.forbidden(at(place, "claims"), detail)
        names = {c.get("name") or "" for c in spec.get("resourceClaims") or ()} - {""}
        check_claims(resources["claims"], names, at(place, "claims"), report)
    check_requests(resources, place, report, _check_name)
    _check_sums(spec, resources, place, report)
    limits = resources.get("limits") or {}
    for index, container in enumerate(spec.get("containers") or ()):
        for name, quantity in quantities_of(container, "limits").items():
            if name in limits and amount(quantity) > amount(limits[name]):
                spot = at(path, "containers", index, "resources", "limits", Key(name))
                detail = f"must be less than or equal to pod limits of {limits[name]}"
                report.invalid(spot, quantity, detail)


def _check_sums(spec: Document, resources: Document, path: Path, report: Report) -> None:
    """What containers request in sum, and their limits of huge pages, fit into the pod's."""
    for part in ("requests", "limits"):
        for name, quantity in (resources.get(part) or {}).items():
            if part == "limits" and not name.startswith(HUGE_PAGES):
                continue
            needed = of_containers(spec, part, name)
            if needed and needed > amount(quantity):
                shown = format_quantity(needed, binary=name != "cpu")
                detail = f"must be greater than or equal to aggregate container {part} of {shown}"
                report.invalid(at(path, part, Key(name)), quantity, detail)
