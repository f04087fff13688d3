"""What a ResourceClaim uses of a quota: devices by class.

Names: ``<class>.deviceclass.resource.k8s.io/devices`` (KEP-4381), and for claims that users made
themselves ``requests.deviceclass.resource.kubernetes.io/<class>`` and ``requests.<resource>`` where
the class has that ``extendedResourceName`` (KEP-5004; for pods these names count as any resource
does, so that the claim behind them must not count again).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

from kubarium.api.resource import Document

_BY_CLASS = ".deviceclass.resource.k8s.io/devices"
_REQUESTS = "requests."
_IMPLICIT = f"{_REQUESTS}deviceclass.resource.kubernetes.io/"
_EXTENDED_CLAIM = "resource.kubernetes.io/extended-resource-claim"

# A request for all devices is charged with as many as a claim can hold at most.
MAX_DEVICES_OF_A_CLAIM = 32


def counts_claims(hard: Document) -> bool:
    """Whether a quota limits devices of claims."""
    return any(name.endswith(_BY_CLASS) or counts_resources((name,)) for name in hard)


def counts_resources(hard: Iterable[str]) -> bool:
    """Whether a quota limits an extended resource, which DeviceClasses may answer."""
    return any(name.startswith(_REQUESTS) and "/" in name for name in hard)


def resource_names(classes: Iterable[Document]) -> dict[str, str]:
    """By DeviceClass, its ``extendedResourceName``; of one name first the class that answers it."""
    found = sorted(classes, key=lambda c: str(c["metadata"]["name"]))
    found.sort(key=lambda c: str(c["metadata"].get("creationTimestamp")), reverse=True)
    return {
        document["metadata"]["name"]: resource
        for document in found
        if (resource := (document.get("spec") or {}).get("extendedResourceName"))
    }


def other_names(name: str, resources: Mapping[str, str]) -> list[str]:
    """Quota names by which pods ask for the same devices as by this one.

    Upstream adds them up with the pod's claim, once that is made, and not with the pod.
    """
    resource = name.removeprefix(_REQUESTS)
    if resource == name:
        return []
    if not name.startswith(_IMPLICIT):
        return [_IMPLICIT + known for known, named in resources.items() if named == resource]
    wanted = name.removeprefix(_IMPLICIT)
    named = resources.get(wanted)
    answers = next((known for known, other in resources.items() if other == named), "")
    return [_REQUESTS + named] if named and answers == wanted else []


def claim_amount(claim: Document, name: str, resources: Mapping[str, str]) -> Fraction:
    """The devices that a claim asks for, as one quota name counts them; 0 for other names.

    ``resources`` as :func:`resource_names` gives them.
    """
    if name.endswith(_BY_CLASS):
        return _devices(claim, (name.removesuffix(_BY_CLASS),))
    annotations = claim["metadata"].get("annotations") or {}
    if _EXTENDED_CLAIM in annotations or not name.startswith(_REQUESTS):
        return Fraction(0)
    if name.startswith(_IMPLICIT):
        return _devices(claim, (name.removeprefix(_IMPLICIT),))
    resource = name.removeprefix(_REQUESTS)
    return _devices(claim, [known for known, named in resources.items() if named == resource])


def _devices(claim: Document, classes: Iterable[str]) -> Fraction:
    """Of alternatives the largest counts: which one will be taken is not known yet."""
    wanted = set(classes)
    devices = (claim.get("spec") or {}).get("devices") or {}
    total = 0
    for request in devices.get("requests") or () if wanted else ():
        options = request.get("firstAvailable") or [request.get("exactly") or {}]
        counts = (_count(o) for o in options if o.get("deviceClassName") in wanted)
        total += max(counts, default=0)
    return Fraction(total)


def _count(request: Document) -> int:
    if request.get("allocationMode") == "All":
        return MAX_DEVICES_OF_A_CLAIM
    return int(request.get("count") or 1)
