"""Versions whose shape is not the one stored: what a document of theirs is in the stored version.

Most versions of a kind differ only in ``apiVersion``. Those listed in :data:`SHAPES` have other
fields too: each has a function in either direction, over documents that may be partial (an applied
configuration). What a version cannot say, a write in that version leaves as it is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kubarium.api.resource import Document
from kubarium.api.versions import device_requests, pod_groups

# A document's stored form; the second argument is what is stored now, or None.
ToStored = Callable[[Document, Document | None], Document]
FromStored = Callable[[Document], Document]


@dataclass(frozen=True, slots=True)
class Shape:
    """Both directions. Neither sets ``apiVersion`` nor changes what it is given."""

    to_stored: ToStored
    from_stored: FromStored


_GANGS = "scheduling.k8s.io/v1alpha2"
_FLAT = "resource.k8s.io/v1beta1"
# By apiVersion and kind.
SHAPES: dict[tuple[str, str], Shape] = {
    (_GANGS, "PodGroup"): Shape(pod_groups.stored_group, pod_groups.older_group),
    (_GANGS, "Workload"): Shape(pod_groups.stored_workload, pod_groups.older_workload),
    (_FLAT, "ResourceClaim"): Shape(device_requests.stored_claim, device_requests.flat_claim),
    (_FLAT, "ResourceClaimTemplate"): Shape(
        device_requests.stored_template, device_requests.flat_template
    ),
    (_FLAT, "ResourceSlice"): Shape(device_requests.stored_slice, device_requests.flat_slice),
}
