"""Documents of groups as engine values: PodGroup, CompositePodGroup and coscheduling's PodGroup.

Several topology levels and preferred ones are ours, as annotations on the group, since the API
has one required level: label keys separated by commas, wide to narrow.
"""

from __future__ import annotations

from kubarium.api.resource import Document, Resource
from kubarium.engine.model import Composite, Gang
from kubarium.view.consumers import group_claims
from kubarium.view.nodes import amount
from kubarium.view.pods import seconds

COSCHEDULING_GROUPS = Resource("scheduling.x-k8s.io", "v1alpha1", "podgroups", "PodGroup", True)
REQUIRED_TOPOLOGY = "kubarium.dev/required-topology"
PREFERRED_TOPOLOGY = "kubarium.dev/preferred-topology"


def gang_row(document: Document, scheduled_count: int = 0) -> Gang:
    """A PodGroup. ``scheduled_count`` is how many of its pods have a node or have succeeded."""
    metadata, spec = document["metadata"], document.get("spec") or {}
    policy = spec.get("schedulingPolicy") or {}
    parent = spec.get("parentCompositePodGroupName")
    return Gang(
        (metadata.get("namespace", ""), metadata["name"]),
        int((policy.get("gang") or {}).get("minCount") or 0),
        _topology_key(spec),
        _priority(spec),
        seconds(metadata.get("creationTimestamp")),
        "all" in (spec.get("disruptionMode") or {}),
        scheduled_count,
        _keys(metadata, REQUIRED_TOPOLOGY),
        _keys(metadata, PREFERRED_TOPOLOGY),
        tuple((metadata.get("namespace", ""), name) for name in group_claims(document).values()),
        (metadata.get("namespace", ""), parent) if parent else None,
        spec.get("preemptionPolicy") != "Never",
        metadata.get("uid", ""),
    )


def composite_row(document: Document) -> Composite:
    """A CompositePodGroup."""
    metadata, spec = document["metadata"], document.get("spec") or {}
    namespace, parent = metadata.get("namespace", ""), spec.get("parentCompositePodGroupName")
    policy = spec.get("schedulingPolicy") or {}
    key = _topology_key(spec)
    return Composite(
        (namespace, metadata["name"]),
        int((policy.get("gang") or {}).get("minGroupCount") or 0),
        (*((key,) if key else ()), *_keys(metadata, REQUIRED_TOPOLOGY)),
        _keys(metadata, PREFERRED_TOPOLOGY),
        (namespace, parent) if parent else None,
        _priority(spec),
        seconds(metadata.get("creationTimestamp")),
        "all" in (spec.get("disruptionMode") or {}),
        spec.get("preemptionPolicy") != "Never",
    )


def _topology_key(spec: Document) -> str:
    topology = (spec.get("schedulingConstraints") or {}).get("topology") or ()
    key: str = topology[0].get("key", "") if topology else ""
    return key


def _priority(spec: Document) -> int | None:
    return None if spec.get("priority") is None else int(spec["priority"])


def coscheduling_row(document: Document, scheduled_count: int = 0) -> Gang:
    """A scheduling.x-k8s.io/v1alpha1 PodGroup: ``spec.minMember`` pods start together."""
    metadata, spec = document["metadata"], document.get("spec") or {}
    return Gang(
        (metadata.get("namespace", ""), metadata["name"]),
        int(spec.get("minMember") or 0),
        created=seconds(metadata.get("creationTimestamp")),
        scheduled_count=scheduled_count,
        inner_keys=_keys(metadata, REQUIRED_TOPOLOGY),
        preferred_keys=_keys(metadata, PREFERRED_TOPOLOGY),
        min_resources=tuple(
            (name, amount(name, quantity))
            for name, quantity in sorted((spec.get("minResources") or {}).items())
        ),
    )


def _keys(metadata: Document, annotation: str) -> tuple[str, ...]:
    text = (metadata.get("annotations") or {}).get(annotation) or ""
    return tuple(dict.fromkeys(key.strip() for key in text.split(",") if key.strip()))
