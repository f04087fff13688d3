"""Namespaces: the finalizer that keeps one until its content is gone, phase and name label."""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.server.registry import Registry
from kubarium.server.requests import Call

FINALIZER = "kubernetes"
NAME_LABEL = "kubernetes.io/metadata.name"


def prepare_create(registry: Registry, call: Call, namespace: Document) -> None:
    """A new namespace is Active and held by the finalizer ``kubernetes``."""
    spec = namespace.get("spec") or {}
    finalizers = list(spec.get("finalizers") or ())
    if FINALIZER not in finalizers:
        finalizers.append(FINALIZER)
    namespace["spec"] = spec | {"finalizers": finalizers}
    namespace["status"] = {"phase": "Active"}
    metadata = namespace["metadata"]
    metadata["labels"] = (metadata.get("labels") or {}) | {NAME_LABEL: metadata["name"]}


def prepare_update(registry: Registry, call: Call, new: Document, old: Document) -> None:
    """spec.finalizers belong to the finalize subresource; the name label cannot be lost."""
    if "spec" in old:
        new["spec"] = old["spec"]
    metadata = new["metadata"]
    labels = metadata.get("labels") or {}
    if labels.get(NAME_LABEL) != metadata["name"]:
        metadata["labels"] = labels | {NAME_LABEL: metadata["name"]}


def write_finalizers(new: Document, sent: Document, old: Document) -> None:
    """The finalize subresource."""
    finalizers = list((sent.get("spec") or {}).get("finalizers") or ())
    spec = dict(old.get("spec") or {})
    if finalizers:
        spec["finalizers"] = finalizers
    else:
        spec.pop("finalizers", None)
    new["spec"] = spec
