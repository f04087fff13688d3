"""What pods of one template have in common: their wishes, and by what these are known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kubarium.api.resource import Document
from kubarium.engine.model import (
    HostPort,
    PodShape,
    PodTerm,
    PreferredTerm,
    SpreadConstraint,
    WeightedPodTerm,
)
from kubarium.engine.selectors import LabelSelector, Requirement
from kubarium.view.features import needed_features
from kubarium.view.nodes import normalised_image
from kubarium.view.pod_requests import is_sidecar, pod_requests
from kubarium.view.selectors import (
    label_requirements,
    label_selector,
    node_term,
    node_terms,
)
from kubarium.view.taints import toleration

_SHAPING = (
    "overhead",
    "resources",
    "nodeSelector",
    "affinity",
    "tolerations",
    "topologySpreadConstraints",
    "hostNetwork",
    "hostUsers",
)


def shaping_values(spec: Document) -> list[Any] | None:
    """The parts of a spec that its shape is made of; None if labels and namespace matter too."""
    if spec.get("topologySpreadConstraints") or spec.get("affinity") or _volume_images(spec):
        return None
    get = spec.get
    return [get("containers"), get("initContainers"), *[get(name) for name in _SHAPING]]


def shaping(metadata: Document, spec: Document) -> list[Any]:
    """All that a shape is made of, and nothing else."""
    containers = [
        [
            [c.get("image"), c.get("resources"), c.get("restartPolicy"), _host_ports(c, spec)]
            for c in spec.get(kind) or ()
        ]
        for kind in ("containers", "initContainers")
    ]
    parts: list[Any] = [containers, [spec.get(name) for name in _SHAPING]]
    features = needed_features(spec)
    if features:
        parts.append(features)
    mounted = _volume_images(spec)
    if mounted:
        parts.append({"images": mounted})
    affinity = spec.get("affinity") or {}
    if (
        spec.get("topologySpreadConstraints")
        or "podAffinity" in affinity
        or "podAntiAffinity" in affinity
    ):
        parts += [metadata.get("namespace"), metadata.get("labels")]
    return parts


def shape_of(metadata: Document, spec: Document) -> PodShape:
    """The wishes themselves; spreading by default and data are for the caller to add."""
    requests, nonzero = pod_requests(spec)
    affinity = spec.get("affinity") or {}
    node = affinity.get("nodeAffinity") or {}
    near = affinity.get("podAffinity") or {}
    away = affinity.get("podAntiAffinity") or {}
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    lasting = [c for c in spec.get("initContainers") or () if is_sidecar(c)]
    lasting += spec.get("containers") or ()
    required, preferred = (
        f"{w}DuringSchedulingIgnoredDuringExecution" for w in ("required", "preferred")
    )
    return PodShape(
        requests=tuple(sorted(requests.items())),
        node_selector=label_requirements(spec.get("nodeSelector")),
        affinity=node_terms(node.get(required)),
        preferred=tuple(
            PreferredTerm(int(p.get("weight") or 0), node_term(p.get("preference") or {}))
            for p in node.get(preferred) or ()
        ),
        tolerations=tuple(toleration(t) for t in spec.get("tolerations") or ()),
        ports=tuple(HostPort(*p) for c in lasting for p in _host_ports(c, spec)),
        images=(
            *(normalised_image(c["image"]) for c in containers if c.get("image")),
            *map(normalised_image, _volume_images(spec)),
        ),
        mounted=len(_volume_images(spec)),
        spread=tuple(_spread(metadata, c) for c in spec.get("topologySpreadConstraints") or ()),
        pod_affinity=tuple(_pod_term(metadata, t) for t in near.get(required) or ()),
        pod_anti_affinity=tuple(_pod_term(metadata, t) for t in away.get(required) or ()),
        pod_preferred=(
            *_weighted(metadata, near.get(preferred), 1),
            *_weighted(metadata, away.get(preferred), -1),
        ),
        nonzero=nonzero,
        features=needed_features(spec),
    )


def _volume_images(spec: Document) -> list[str]:
    """Images that the pod mounts as volumes; they have to be pulled like those of containers."""
    volumes = spec.get("volumes") or ()
    return [name for v in volumes if (name := (v.get("image") or {}).get("reference"))]


def _host_ports(container: Document, spec: Document) -> list[list[Any]]:
    ports = container.get("ports")
    if not ports:
        return []
    on_host = bool(spec.get("hostNetwork"))
    return [
        [p.get("hostIP") or "0.0.0.0", p.get("protocol") or "TCP", port]
        for p in ports
        if (port := p.get("hostPort") or (p.get("containerPort") if on_host else 0))
    ]


# Terms about other pods


def _label_keys(metadata: Document, keys: Iterable[str], operator: str) -> tuple[Requirement, ...]:
    """matchLabelKeys and mismatchLabelKeys: the pod's own values as clauses."""
    labels = metadata.get("labels") or {}
    return tuple(Requirement(key, operator, (labels[key],)) for key in keys if key in labels)


def _selector(metadata: Document, document: Document) -> LabelSelector | None:
    """A selector with what the pod's labels add, unless the API server has added it already."""
    found = label_selector(document.get("labelSelector"))
    if found is None:
        return None
    own = _label_keys(metadata, document.get("matchLabelKeys") or (), "In")
    other = _label_keys(metadata, document.get("mismatchLabelKeys") or (), "NotIn")
    extra = tuple(r for r in (*own, *other) if r not in found.requirements)
    return LabelSelector(found.requirements + extra) if extra else found


def _spread(metadata: Document, document: Document) -> SpreadConstraint:
    # A missing selector selects nothing, so no pod is ever counted.
    nothing = LabelSelector((Requirement("", "In", ()),))
    return SpreadConstraint(
        document.get("topologyKey", ""),
        int(document.get("maxSkew") or 1),
        document.get("whenUnsatisfiable") != "ScheduleAnyway",
        _selector(metadata, document) or nothing,
        int(document.get("minDomains") or 1),
        document.get("nodeAffinityPolicy") != "Ignore",
        document.get("nodeTaintsPolicy") == "Honor",
    )


def _pod_term(metadata: Document, document: Document) -> PodTerm:
    namespaces = tuple(document.get("namespaces") or ())
    selector = document.get("namespaceSelector")
    if not namespaces and selector is None:
        namespaces = (metadata.get("namespace", ""),)
    return PodTerm(
        document.get("topologyKey", ""),
        _selector(metadata, document),
        namespaces,
        label_selector(selector),
    )


def _weighted(
    metadata: Document, documents: Iterable[Document] | None, sign: int
) -> tuple[WeightedPodTerm, ...]:
    return tuple(
        WeightedPodTerm(
            sign * int(d.get("weight") or 0), _pod_term(metadata, d.get("podAffinityTerm") or {})
        )
        for d in documents or ()
    )
