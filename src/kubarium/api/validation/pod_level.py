"""``spec.resources`` of a pod: what may be said there, and that its containers fit into it.

Source: ``validatePodResources`` and ``validatePodResourceConsistency`` of ``pkg/apis/core``.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from kubarium.api.paths import Key, Path, at
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
        needed = _requests_of_containers(spec, name)
        if needed > amount(quantity):
            shown = format_quantity(needed, binary=name != "cpu")
            detail = f"must be greater than or equal to aggregate container requests of {shown}"
            report.invalid(at(place, "requests", Key(name)), quantity, detail)
    limits = resources.get("limits") or {}
    for index, container in enumerate(spec.get("containers") or ()):
        for name, quantity in _of(container, "limits").items():
            if name in limits and amount(quantity) > amount(limits[name]):
                spot = at(path, "containers", index, "resources", "limits", Key(name))
                detail = f"must be less than or equal to pod limits of {limits[name]}"
                report.invalid(spot, quantity, detail)


def _requests_of_containers(spec: Document, name: str) -> Fraction:
    """What they need at once, at most: the main ones with all sidecars, or an init container with
    the sidecars before it."""
    sidecars, most = Fraction(0), Fraction(0)
    for container in spec.get("initContainers") or ():
        asked = _sum([container], name)
        if container.get("restartPolicy") == "Always":
            sidecars += asked
            most = max(most, sidecars)
        else:
            most = max(most, sidecars + asked)
    return max(most, sidecars + _sum(spec.get("containers") or (), name))


def _sum(containers: Iterable[Document], name: str) -> Fraction:
    return sum((amount(_of(c, "requests").get(name, 0)) for c in containers), Fraction(0))


def _of(container: Document, part: str) -> Document:
    return (container.get("resources") or {}).get(part) or {}
