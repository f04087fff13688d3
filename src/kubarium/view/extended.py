"""Extended resources that DeviceClasses answer (KEP-5004): plain requests become a claim.

``example.com/gpu: 2`` is served by the DeviceClass whose ``spec.extendedResourceName`` it is (the
newest if several, then the first by name), and ``deviceclass.resource.kubernetes.io/<class>`` by
that class. The claim has one request ``container-<i>-request-<j>`` for each such resource of each
container; an init container that is over before the others start uses one of theirs of the same
size, if there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kubarium.api.resource import Document
from kubarium.base.quantity import QuantityError, whole
from kubarium.engine.model import Key, PodShape

IMPLICIT_PREFIX = "deviceclass.resource.kubernetes.io/"
CLAIM_ANNOTATION = "resource.kubernetes.io/extended-resource-claim"

# Shapes whose stripped twin is remembered; a cluster has as many as it has pod templates.
_MAX_SHAPES = 4096


@dataclass(frozen=True, slots=True)
class Mapped:
    """The devices for one resource of one container."""

    container: str
    resource: str
    request: str
    device_class: str
    count: int


class ExtendedResources:
    """Which class answers which resource, kept current class by class."""

    def __init__(self) -> None:
        self._named: dict[str, dict[str, str]] = {}
        self._classes: dict[str, str] = {}
        self._shapes: dict[PodShape, PodShape] = {}

    def set_class(self, document: Document) -> None:
        """Learn a DeviceClass."""
        metadata = document["metadata"]
        self.remove_class(metadata["name"])
        resource = (document.get("spec") or {}).get("extendedResourceName") or ""
        self._classes[metadata["name"]] = resource
        if resource:
            created = metadata.get("creationTimestamp") or ""
            self._named.setdefault(resource, {})[metadata["name"]] = created
        self._shapes.clear()

    def remove_class(self, name: str) -> None:
        """Forget a DeviceClass."""
        resource = self._classes.pop(name, "")
        if resource:
            self._named[resource].pop(name, None)
        self._shapes.clear()

    def class_for(self, resource: str) -> str:
        """The class that answers a resource name; "" if none does."""
        if resource.startswith(IMPLICIT_PREFIX):
            name = resource.removeprefix(IMPLICIT_PREFIX)
            return name if name in self._classes else ""
        named = self._named.get(resource)
        if not named:
            return ""
        newest = max(named.values())
        return min(name for name, created in named.items() if created == newest)

    def stripped(self, shape: PodShape) -> PodShape:
        """The shape without the resources that a class answers; the same object if there are none.

        Devices stand for those resources, so that nodes need not advertise them.
        """
        if not any("/" in name for name, _ in shape.requests):
            return shape
        known = self._shapes.get(shape)
        if known is None:
            kept = tuple((n, a) for n, a in shape.requests if not self.class_for(n))
            backed = tuple((n, c, a) for n, a in shape.requests if (c := self.class_for(n)))
            known = replace(shape, requests=kept, backed=backed) if backed else shape
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            self._shapes[shape] = known
        return known

    def mapped(self, spec: Mapping[str, Any]) -> list[Mapped]:
        """The requests of a pod's containers that classes answer."""
        initial, mains = spec.get("initContainers") or [], spec.get("containers") or []
        found: list[Mapped] = []
        for index, container in enumerate([*initial, *mains]):
            brief = index < len(initial) and container.get("restartPolicy") != "Always"
            if not brief:
                found += self._of(container, index)
        shared = tuple(found)
        for index, container in enumerate(initial):
            if container.get("restartPolicy") == "Always":
                continue
            for wanted in self._of(container, index):
                twin = next((m for m in shared if _alike(m, wanted)), None)
                found.append(replace(wanted, request=twin.request) if twin else wanted)
        return found

    def _of(self, container: Mapping[str, Any], index: int) -> list[Mapped]:
        resources = container.get("resources") or {}
        wanted = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
        found: list[Mapped] = []
        for name in sorted(wanted):
            device_class = self.class_for(name) if "/" in name else ""
            count = _count(wanted[name])
            if device_class and count:
                request = f"container-{index}-request-{len(found)}"
                found.append(Mapped(container["name"], name, request, device_class, count))
        return found


def _alike(one: Mapped, other: Mapped) -> bool:
    return (one.resource, one.count) == (other.resource, other.count)


def _count(quantity: object) -> int:
    try:
        return max(0, whole(quantity))
    except QuantityError:
        return 0


def claim_spec_document(mapped: list[Mapped]) -> Document:
    """The spec of the claim that stands for these requests."""
    unique = {m.request: m for m in mapped}
    requests = [
        {
            "name": name,
            "exactly": {
                "deviceClassName": item.device_class,
                "allocationMode": "ExactCount",
                "count": item.count,
            },
        }
        for name, item in sorted(unique.items())
    ]
    return {"devices": {"requests": requests}}


def claim_document(pod: Document, spec: Document) -> Document:
    """The claim to create for a pod; it goes with the pod."""
    metadata = pod["metadata"]
    owner = {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {
            "generateName": f"{metadata['name']}-extended-resources-",
            "namespace": metadata["namespace"],
            "annotations": {CLAIM_ANNOTATION: "true"},
            "ownerReferences": [owner],
        },
        "spec": spec,
    }


def claim_status_document(claim: str, mapped: list[Mapped]) -> Document:
    """The pod's ``status.extendedResourceClaimStatus``."""
    return {
        "resourceClaimName": claim,
        "requestMappings": [
            {
                "containerName": item.container,
                "resourceName": item.resource,
                "requestName": item.request,
            }
            for item in mapped
        ],
    }


def pending_key(pod: Key) -> Key:
    """Under which the claim is decided before it exists; no claim can bear this name."""
    return pod[0], f"{pod[1]}/extended-resources"


def is_pending_key(key: Key) -> bool:
    """Whether the key is one of :func:`pending_key`."""
    return key[1].endswith("/extended-resources")


def extended_owner(claim: Document) -> str:
    """The uid of the pod for whose extended resources the claim was made; "" for other claims."""
    metadata = claim["metadata"]
    if (metadata.get("annotations") or {}).get(CLAIM_ANNOTATION) != "true":
        return ""
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("kind") == "Pod" and owner.get("controller"):
            return str(owner["uid"])
    return ""
