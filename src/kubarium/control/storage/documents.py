"""What several storage controllers read in or write into claims and volumes."""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.resource import Document
from kubarium.runtime.parts import of_spec
from kubarium.runtime.protocol import Key
from kubarium.view.volumes import volume_keys

# Also the name of a CSIDriver, which may hold no slash.
PROVISIONER = "hostpath.kubarium.dev"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
CLAIM_PROTECTION = "kubernetes.io/pvc-protection"
VOLUME_PROTECTION = "kubernetes.io/pv-protection"


def notes_of(document: Document) -> Document:
    found: Document = document["metadata"].get("annotations") or {}
    return found


def waits_for_consumer(owner: Document | None) -> bool:
    """Whether claims of the storage class are bound only when a pod has its node."""
    return owner is not None and owner.get("volumeBindingMode") == "WaitForFirstConsumer"


def reference_to(claim: Document) -> Document:
    """A volume's ``claimRef``."""
    metadata = claim["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": metadata.get("namespace", ""),
        "name": metadata["name"],
        "uid": metadata.get("uid", ""),
    }


def claim_of(volume: Document) -> Key | None:
    """The claim to which a volume is bound or set aside."""
    owner = (volume.get("spec") or {}).get("claimRef")
    return (owner.get("namespace", ""), owner.get("name", "")) if owner else None


@of_spec
def claims_index(pod: Document) -> Iterable[str]:
    """``namespace/name`` of each claim that the pod uses."""
    return tuple(f"{namespace}/{name}" for namespace, name in volume_keys(pod))
