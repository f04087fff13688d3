"""What a ResourceClaim uses of a quota: devices by class.

Names: ``<class>.deviceclass.resource.k8s.io/devices`` (KEP-4381), and for claims that users made
themselves ``requests.deviceclass.resource.kubernetes.io/<class>`` (KEP-5004; for pods that name
counts as any resource does, so that the claim behind them must not count again).
"""

from __future__ import annotations

from fractions import Fraction

from kubarium.api.resource import Document

_BY_CLASS = ".deviceclass.resource.k8s.io/devices"
_IMPLICIT = "requests.deviceclass.resource.kubernetes.io/"
_EXTENDED_CLAIM = "resource.kubernetes.io/extended-resource-claim"

# A request for all devices is charged with as many as a claim can hold at most.
MAX_DEVICES_OF_A_CLAIM = 32


def counts_claims(hard: Document) -> bool:
    """Whether a quota limits devices of claims."""
    return any(name.endswith(_BY_CLASS) or name.startswith(_IMPLICIT) for name in hard)


def claim_amount(claim: Document, name: str) -> Fraction:
    """The devices that a claim asks for, as one quota name counts them; 0 for other names."""
    if name.endswith(_BY_CLASS):
        return _devices(claim, name.removesuffix(_BY_CLASS))
    annotations = claim["metadata"].get("annotations") or {}
    if name.startswith(_IMPLICIT) and _EXTENDED_CLAIM not in annotations:
        return _devices(claim, name.removeprefix(_IMPLICIT))
    return Fraction(0)


def _devices(claim: Document, device_class: str) -> Fraction:
    """Of alternatives the largest counts: which one will be taken is not known yet."""
    devices = (claim.get("spec") or {}).get("devices") or {}
    total = 0
    for request in devices.get("requests") or ():
        options = request.get("firstAvailable") or [request.get("exactly") or {}]
        counts = (_count(o) for o in options if o.get("deviceClassName") == device_class)
        total += max(counts, default=0)
    return Fraction(total)


def _count(request: Document) -> int:
    if request.get("allocationMode") == "All":
        return MAX_DEVICES_OF_A_CLAIM
    return int(request.get("count") or 1)
