"""Node documents as engine rows."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

from kubarium.api.resource import Document
from kubarium.base.quantity import QuantityError, parse_quantity
from kubarium.engine.model import Node
from kubarium.view.taints import taint

# A larger quantity is as good as unlimited. A hundred times as much, as scores compute it, and
# the sum of what a node's pods ask for still fit the columns.
MAX_AMOUNT = 2**56
_NONE = Fraction(0)


def amount(resource: str, quantity: object) -> int:
    """A quantity in the engine's unit: milli for cpu, units otherwise; 0 if it is malformed."""
    return rounded_amount(resource, exact_amount(quantity))


def exact_amount(quantity: object) -> Fraction:
    """A quantity as it is; 0 if it is malformed."""
    try:
        return parse_quantity(quantity)
    except QuantityError:
        return _NONE


def rounded_amount(resource: str, value: Fraction) -> int:
    """A number in the engine's unit, rounded up; beyond MAX_AMOUNT it is as good as that."""
    whole = ceil(value * 1000 if resource == "cpu" else value)
    return max(-MAX_AMOUNT, min(MAX_AMOUNT, whole))


def node_row(document: Document) -> Node:
    """The engine's view of a Node: allocatable (or capacity where that is missing) and labels."""
    metadata, spec = document["metadata"], document.get("spec") or {}
    status = document.get("status") or {}
    resources = status.get("allocatable") or status.get("capacity") or {}
    return Node(
        metadata["name"],
        tuple((name, amount(name, q)) for name, q in sorted(resources.items())),
        metadata.get("labels") or {},
        tuple(taint(t) for t in spec.get("taints") or ()),
        bool(spec.get("unschedulable")),
        tuple(
            (_reported_image(name), int(image.get("sizeBytes") or 0))
            for image in status.get("images") or ()
            for name in image.get("names") or ()
        ),
        resize_preemption=not (spec.get("podPreemptionPolicy") or {}).get(
            "disableResizePreemption"
        ),
        features=frozenset(status.get("declaredFeatures") or ()),
    )


def _reported_image(name: str) -> str:
    """As the node says, which tells tags; an image from a file (``oci:/srv/app``) has none."""
    return normalised_image(name) if ":/" in name else name


def normalised_image(name: str) -> str:
    """An image name with a tag: ``busybox`` is ``busybox:latest`` (upstream: imagelocality)."""
    if name.rfind(":") <= name.rfind("/"):
        return f"{name}:latest"
    return name
