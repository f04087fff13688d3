"""Extended resources that DeviceClasses answer (KEP-5004): plain requests become a claim.

``example.com/gpu: 2`` is served by the DeviceClass whose ``spec.extendedResourceName`` it is (the
newest if several, then the first by name), and ``deviceclass.resource.kubernetes.io/<class>`` by
that class. The claim has one request ``container-<i>-request-<j>`` for each such resource of each
container, which is the j-th of all its resources. Init containers that are over before the others
start use theirs, and share one for what these do not have (upstream:
``dynamicresources/extendeddynamicresources.go``).

Node by node: what a node has of a resource itself, by a device plugin, is served by that there, and
only the rest of the pod's resources become a claim (``NodeResourcesFit`` delegates no others).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kubarium.api.resource import Document
from kubarium.base.quantity import QuantityError, whole
from kubarium.engine.devices.model import ClaimSpec
from kubarium.engine.model import Key, PodShape
from kubarium.engine.reasons import IMPLICIT_PREFIX
from kubarium.view.devices import claim_spec

# Keeps a claim as long as somebody uses its devices.
CLAIM_FINALIZER = "resource.kubernetes.io/delete-protection"
CLAIM_ANNOTATION = "resource.kubernetes.io/extended-resource-claim"

_Container = Mapping[str, Any]
_Asked = tuple[int, int, tuple[str, ...]]

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


@dataclass(frozen=True, slots=True, eq=False)
class Wanted:
    """What devices stand for of all pods of one template."""

    mapped: tuple[Mapped, ...]
    document: Document  # the spec of their claims, with its defaults; shared, not to be changed
    spec: ClaimSpec  # the same for the engine
    names: tuple[tuple[str, str, str], ...]  # request, container and resource


class ExtendedResources:
    """Which class answers which resource, kept current class by class."""

    def __init__(self) -> None:
        self._named: dict[str, dict[str, str]] = {}
        self._classes: dict[str, str] = {}
        self._shapes: dict[PodShape, PodShape] = {}
        self._variants: dict[tuple[PodShape, frozenset[str], bool], PodShape] = {}
        # Pods of one template share their lists of containers, by whose identity the answer is
        # found; to be held here is what keeps another list from taking over an id.
        self._wanted: dict[_Asked, tuple[object, object, Wanted]] = {}

    def set_class(self, document: Document) -> None:
        """Learn a DeviceClass."""
        metadata = document["metadata"]
        self.remove_class(metadata["name"])
        resource = (document.get("spec") or {}).get("extendedResourceName") or ""
        self._classes[metadata["name"]] = resource
        if resource:
            created = metadata.get("creationTimestamp") or ""
            self._named.setdefault(resource, {})[metadata["name"]] = created
        self._forget()

    def remove_class(self, name: str) -> None:
        """Forget a DeviceClass."""
        resource = self._classes.pop(name, "")
        if resource:
            self._named[resource].pop(name, None)
        self._forget()

    def _forget(self) -> None:
        self._shapes.clear()
        self._variants.clear()
        self._wanted.clear()

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

    def whole(self, shape: PodShape) -> PodShape:
        """The shape with all that its pod asks for, as it was before :meth:`served_by`."""
        if not shape.backed and not shape.advertised:
            return shape
        requests = (*shape.requests, *((name, amount) for name, _, amount in shape.backed))
        return replace(shape, requests=tuple(sorted(requests)), backed=(), advertised=())

    def served_by(self, shape: PodShape, own: frozenset[str], *, only: bool) -> PodShape:
        """The shape on nodes that have the resources ``own`` themselves, of those it asks for.

        With ``only`` it fits on no other nodes.
        """
        known = self._variants.get((shape, own, only))
        if known is None:
            stripped = self.stripped(shape)
            names = [name for name, _, _ in stripped.backed]
            kept = tuple((n, a) for n, a in shape.requests if n not in names or n in own)
            known = replace(
                stripped,
                requests=kept,
                backed=tuple(entry for entry in stripped.backed if entry[0] not in own),
                advertised=tuple((name, name in own) for name in names) if only else (),
            )
            if len(self._variants) >= _MAX_SHAPES:
                self._variants.clear()
            self._variants[shape, own, only] = known
        return known

    def wanted(self, spec: Mapping[str, Any], served: tuple[str, ...] = ()) -> Wanted:
        """The requests of a pod's containers that classes answer.

        ``served`` are resources that the pod's node serves by itself.
        """
        initial, mains = spec.get("initContainers"), spec.get("containers")
        asked = (id(initial), id(mains), served)
        known = self._wanted.get(asked)
        if known is None:
            found = tuple(self._find(initial or [], mains or [], served))
            if len(self._wanted) >= _MAX_SHAPES:
                self._wanted.clear()
            known = self._wanted[asked] = (initial, mains, _wanted(found))
        return known[2]

    def _find(
        self, initial: list[_Container], mains: list[_Container], served: Collection[str]
    ) -> list[Mapped]:
        wanted = [self._of(c, i, served) for i, c in enumerate([*initial, *mains])]
        brief = {i for i, c in enumerate(initial) if c.get("restartPolicy") != "Always"}
        found: list[Mapped] = []
        for resource in sorted({name for of_one in wanted for name in of_one}):
            asking = {i: of_one[resource] for i, of_one in enumerate(wanted) if resource in of_one}
            lasting = {i: one for i, one in asking.items() if i not in brief}
            found += lasting.values()
            found += _in_turn({i: asking[i] for i in asking if i in brief}, lasting)
        return found

    def _of(self, container: _Container, index: int, served: Collection[str]) -> dict[str, Mapped]:
        """By resource what the container wants; requests are numbered as all its resources are."""
        resources = container.get("resources") or {}
        wanted = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
        found: dict[str, Mapped] = {}
        for place, name in enumerate(sorted(wanted)):
            device_class = self.class_for(name) if "/" in name and name not in served else ""
            count = _count(wanted[name])
            if device_class and count:
                request = f"container-{index}-request-{place}"
                found[name] = Mapped(container["name"], name, request, device_class, count)
        return found


def _in_turn(brief: Mapping[int, Mapped], lasting: Mapping[int, Mapped]) -> list[Mapped]:
    """The requests that init containers use of one resource, one after the other.

    First those of containers that start later and stay, then one of their own for what is still
    missing. That one is for all of them, as large as the largest need.
    """
    found: list[Mapped] = []
    largest: Mapped | None = None
    for index, wanted in brief.items():
        missing = wanted.count
        for other_index, other in lasting.items():
            if other_index > index and missing > 0:
                found.append(replace(other, container=wanted.container))
                missing -= other.count
        if missing > 0:
            found.append(replace(wanted, count=missing))
            if largest is None or missing > largest.count:
                largest = found[-1]
    own = {wanted.request for wanted in brief.values()}
    return [
        replace(largest, container=one.container) if largest and one.request in own else one
        for one in found
    ]


def _count(quantity: object) -> int:
    try:
        return max(0, whole(quantity))
    except QuantityError:
        return 0


def _wanted(mapped: tuple[Mapped, ...]) -> Wanted:
    document = _claim_spec_document(mapped)
    names = dict.fromkeys((m.request, m.container, m.resource) for m in mapped)
    return Wanted(mapped, document, claim_spec(document), tuple(names))


def _claim_spec_document(mapped: Sequence[Mapped]) -> Document:
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
    """The claim to create for a pod, protected from the start; it goes with the pod,
    and as other claims blocks no deletion (``control.devices.claims.claim_from``)."""
    metadata = pod["metadata"]
    owner = {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {
            "generateName": f"{metadata['name']}-extended-resources-",
            "namespace": metadata["namespace"],
            "annotations": {CLAIM_ANNOTATION: "true"},
            "finalizers": [CLAIM_FINALIZER],
            "ownerReferences": [owner],
        },
        "spec": spec,
    }


def claim_status_document(claim: str, mapped: Sequence[Mapped]) -> Document:
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


def pending_key(pod: Key, served: Collection[str] = ()) -> Key:
    """Under which the claim is decided before it exists; no claim can bear this name.

    ``served`` are resources that the pod's node serves by itself: the claim lacks them.
    """
    besides = "".join(f"/{name}" for name in sorted(served))
    return pod[0], f"{pod[1]}{besides}/extended-resources"


def served_besides(shape: PodShape) -> tuple[str, ...]:
    """The resources that nodes have themselves, of those that a class would answer elsewhere."""
    return tuple(name for name, has in shape.advertised if has)


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
