"""``spec.resources`` of a pod: what may be said there, and that its containers fit into it.

Source: ``validatePodResources`` and ``validatePodResourceConsistency`` of ``pkg/apis/core``.
"""

from __future__ import annotations

from kubarium.api.paths import Key, Path, at
from kubarium.api.pod_amounts import of_containers, quantities_of
from kubarium.api.resource import Document
from kubarium.api.validation.quantities import HUGE_PAGES, amount, check_requests
from kubarium.api.validation.report import Report
from kubarium.base.quantity import format_quantity

_SUPPORTED = ("cpu", HUGE_PAGES, "memory")


def check_pod_level(spec: Document, path: Path, report: Report) -> None:
    """``path`` is the spec's. Containers' requests, in sum, and each of their limits stay within
    the pod's, as far as the pod says any."""
    resources = spec.get("resources") or {}
    place = at(path, "resources")
    for part in ("limits", "requests"):
        for name in resources.get(part) or {}:
            if name not in _SUPPORTED and not name.startswith(HUGE_PAGES):
                report.not_supported(at(place, part, Key(name)), name, _SUPPORTED)
    check_requests(resources, place, report)
    for name, quantity in (resources.get("requests") or {}).items():
        needed = of_containers(spec, "requests", name)
        if needed > amount(quantity):
            shown = format_quantity(needed, binary=name != "cpu")
            detail = f"must be greater than or equal to aggregate container requests of {shown}"
            report.invalid(at(place, "requests", Key(name)), quantity, detail)
    limits = resources.get("limits") or {}
    for index, container in enumerate(spec.get("containers") or ()):
        for name, quantity in quantities_of(container, "limits").items():
            if name in limits and amount(quantity) > amount(limits[name]):
                spot = at(path, "containers", index, "resources", "limits", Key(name))
                detail = f"must be less than or equal to pod limits of {limits[name]}"
                report.invalid(spot, quantity, detail)
