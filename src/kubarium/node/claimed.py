"""What a pod's claims add to its control groups (KEP-5517), as the scheduler wrote it down.

A container's limits grow by all that the claims it uses bring; the pod's, and its CPU shares, by
what is mapped and the overhead per pod once, and the overhead per container for each user. A limit
that is not set stays unset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction

from kubarium.api.resource import Document
from kubarium.base.quantity import parse_quantity

Amounts = Mapping[str, Fraction]


def of_container(pod: Document, name: str) -> Amounts:
    """By resource, what the claims add to one container's limits."""
    found: dict[str, Fraction] = {}
    for status in _statuses(pod):
        if name in (status.get("containers") or ()):
            _add(found, status, 1)
    return found


def of_pod(pod: Document) -> Amounts:
    """By resource, what the claims add to the pod as a whole."""
    found: dict[str, Fraction] = {}
    for status in _statuses(pod):
        _add(found, status, len(status.get("containers") or ()))
    return found


def _statuses(pod: Document) -> Iterator[Document]:
    yield from (pod.get("status") or {}).get("nodeAllocatableResourceClaimStatuses") or ()


def _add(found: dict[str, Fraction], status: Document, containers: int) -> None:
    for mapped in status.get("mapping") or ():
        _plus(found, mapped["name"], mapped.get("quantity"), 1)
    for overhead in status.get("overhead") or ():
        _plus(found, overhead["name"], overhead.get("perPod"), 1)
        _plus(found, overhead["name"], overhead.get("perContainer"), containers)


def _plus(found: dict[str, Fraction], name: str, quantity: object, times: int) -> None:
    if quantity is not None:
        found[name] = found.get(name, Fraction(0)) + times * parse_quantity(quantity)
