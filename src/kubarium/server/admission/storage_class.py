"""DefaultStorageClass: the class of claims that name none.

Source: upstream ``plugin/pkg/admission/storage/storageclass/setdefault/admission.go``.
"""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.server.admission.chain import Attempt

_CLASSES = "/storage.k8s.io/storageclasses/-/"
_DEFAULT = "storageclass.kubernetes.io/is-default-class"
_BETA = "volume.beta.kubernetes.io/storage-class"


def set_default_class(attempt: Attempt) -> None:
    """Set ``storageClassName`` unless the claim has one (also "", which means none)."""
    spec = attempt.document.get("spec")
    if not isinstance(spec, dict) or spec.get("storageClassName") is not None:
        return
    metadata = attempt.document.get("metadata") or {}
    if _BETA in (metadata.get("annotations") or {}):
        return
    found = _default(attempt)
    if found is not None:
        spec["storageClassName"] = found["metadata"]["name"]


def _default(attempt: Attempt) -> Document | None:
    """The newest of the classes that are marked, the first by name of equals."""
    found: Document | None = None
    for record in attempt.registry.store.range(_CLASSES).records:
        candidate = record.value
        if (candidate["metadata"].get("annotations") or {}).get(_DEFAULT) != "true":
            continue
        if found is None or _made(candidate) > _made(found):
            found = candidate
    return found


def _made(owner: Document) -> str:
    return str(owner["metadata"].get("creationTimestamp"))
