"""Node documents as engine rows."""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.base.quantity import QuantityError, milli, whole
from kubarium.engine.model import Node
from kubarium.view.taints import taint

# A larger quantity is as good as unlimited. A hundred times as much, as scores compute it, and
# the sum of what a node's pods ask for still fit the columns.
MAX_AMOUNT = 2**56


def amount(resource: str, quantity: object) -> int:
    """A quantity in the engine's unit: milli for cpu, units otherwise; 0 if it is malformed."""
    try:
        value = milli(quantity) if resource == "cpu" else whole(quantity)
    except QuantityError:
        return 0
    return max(-MAX_AMOUNT, min(MAX_AMOUNT, value))


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
            (normalised_image(name), int(image.get("sizeBytes") or 0))
            for image in status.get("images") or ()
            for name in image.get("names") or ()
        ),
        resize_preemption=not (spec.get("podPreemptionPolicy") or {}).get(
            "disableResizePreemption"
        ),
        features=frozenset(status.get("declaredFeatures") or ()),
    )


def normalised_image(name: str) -> str:
    """An image name with a tag: ``busybox`` is ``busybox:latest`` (upstream: imagelocality)."""
    if name.rfind(":") <= name.rfind("/"):
        return f"{name}:latest"
    return name
