"""PodGroup documents (scheduling.k8s.io/v1beta1) as engine values."""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.engine.model import Gang
from kubarium.view.pods import seconds


def gang_row(document: Document, scheduled_count: int = 0) -> Gang:
    """A PodGroup. ``scheduled_count`` is how many of its pods have a node or have succeeded."""
    metadata, spec = document["metadata"], document.get("spec") or {}
    policy = spec.get("schedulingPolicy") or {}
    topology = (spec.get("schedulingConstraints") or {}).get("topology") or ()
    return Gang(
        (metadata.get("namespace", ""), metadata["name"]),
        int((policy.get("gang") or {}).get("minCount") or 0),
        topology[0].get("key", "") if topology else "",
        int(spec.get("priority") or 0),
        seconds(metadata.get("creationTimestamp")),
        "all" in (spec.get("disruptionMode") or {}),
        scheduled_count,
    )
