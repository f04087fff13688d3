"""PersistentVolumeClaims, volumes and storage classes as the limits they put on nodes.

A claim that is bound follows its volume. One that waits for its first consumer may go where a free
volume of its class can be reached or one may be provisioned. Any other unbound claim limits
nothing: the node that runs the pod provides a directory for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from kubarium.api.kinds import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from kubarium.api.resource import Document, Resource
from kubarium.engine import reasons
from kubarium.engine.model import Key, VolumeClaim
from kubarium.engine.selectors import NodeTerm, Requirement
from kubarium.engine.snapshot import Snapshot
from kubarium.view.nodes import amount
from kubarium.view.selectors import label_selector, node_terms, requirement

STORAGE_CLASSES = Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", False)
VOLUME_RESOURCES = (STORAGE_CLASSES, PERSISTENT_VOLUMES, PERSISTENT_VOLUME_CLAIMS)

NO_PROVISIONER = "kubernetes.io/no-provisioner"
_ZONES = (
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
)


def volume_keys(document: Document) -> tuple[Key, ...]:
    """The claims that the pod's volumes name; an ephemeral volume's is ``<pod>-<volume>``."""
    volumes = (document.get("spec") or {}).get("volumes")
    if not volumes:
        return ()
    namespace, name = document["metadata"].get("namespace", ""), document["metadata"]["name"]
    keys: dict[Key, None] = {}
    for volume in volumes:
        if volume.get("persistentVolumeClaim"):
            keys[namespace, volume["persistentVolumeClaim"].get("claimName", "")] = None
        elif volume.get("ephemeral"):
            keys[namespace, f"{name}-{volume.get('name', '')}"] = None
    return tuple(keys)


class VolumeBook:
    """Keeps the snapshot's volume claims in step with the documents."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._claims: dict[Key, Document] = {}
        self._volumes: dict[str, Document] = {}
        self._classes: dict[str, Document] = {}

    def apply(self, resource: Resource, old: Document | None, new: Document | None) -> None:
        """Take in one change of a claim, a volume or a storage class."""
        document = new or old
        assert document is not None
        name = document["metadata"]["name"]
        if resource == PERSISTENT_VOLUME_CLAIMS:
            key = (document["metadata"].get("namespace", ""), name)
            if new is None:
                self._claims.pop(key, None)
                self._snapshot.volumes.pop(key, None)
            else:
                self._claims[key] = new
                self._snapshot.volumes[key] = self._row(key, new)
            return
        book = self._volumes if resource == PERSISTENT_VOLUMES else self._classes
        if new is None:
            book.pop(name, None)
        else:
            book[name] = new
        for key, claim in self._claims.items():
            if (claim.get("spec") or {}).get("volumeName", "") in ("", name):
                self._snapshot.volumes[key] = self._row(key, claim)

    def _row(self, key: Key, claim: Document) -> VolumeClaim:
        spec = claim.get("spec") or {}
        exclusive = "ReadWriteOncePod" in (spec.get("accessModes") or ())
        if "deletionTimestamp" in claim["metadata"]:
            return VolumeClaim(key, reasons.volume_claim_deleted(key[1]), exclusive=exclusive)
        bound = spec.get("volumeName")
        if bound:
            volume = self._volumes.get(bound)
            if volume is None:
                return VolumeClaim(key, reasons.volume_lost(key[1], bound), exclusive=exclusive)
            return VolumeClaim(key, terms=reach(volume), zones=_zones(volume), exclusive=exclusive)
        return VolumeClaim(key, choices=self._choices(claim), exclusive=exclusive)

    def _choices(self, claim: Document) -> tuple[tuple[NodeTerm, ...] | None, ...] | None:
        """Where a claim that waits for its first consumer may go; None if it does not wait."""
        owner = self._classes.get((claim.get("spec") or {}).get("storageClassName") or "")
        if owner is None or owner.get("volumeBindingMode") != "WaitForFirstConsumer":
            return None
        free = [reach(volume) for volume in candidates(claim, self._volumes.values())]
        if owner.get("provisioner") != NO_PROVISIONER:
            free.append(_allowed(owner))
        return tuple(free)


def reach(volume: Document) -> tuple[NodeTerm, ...] | None:
    """The nodes from which a volume can be used; None: all."""
    affinity = (volume.get("spec") or {}).get("nodeAffinity") or {}
    return node_terms(affinity.get("required"))


def _zones(volume: Document) -> tuple[Requirement, ...]:
    """Zone and region labels of a volume as clauses; ``a__b`` means either."""
    labels = volume["metadata"].get("labels") or {}
    return tuple(
        Requirement(key, "In", tuple(labels[key].split("__"))) for key in _ZONES if key in labels
    )


def _allowed(owner: Document) -> tuple[NodeTerm, ...] | None:
    terms = owner.get("allowedTopologies")
    if not terms:
        return None
    return tuple(
        NodeTerm(
            tuple(
                requirement({**expression, "operator": "In"})
                for expression in term.get("matchLabelExpressions") or ()
            )
        )
        for term in terms
    )


def candidates(claim: Document, volumes: Iterable[Document]) -> list[Document]:
    """Free volumes that satisfy the claim, the smallest first (upstream: FindMatchingVolume)."""
    spec = claim.get("spec") or {}
    wanted = amount("storage", ((spec.get("resources") or {}).get("requests") or {}).get("storage"))
    modes = set(spec.get("accessModes") or ())
    selector = label_selector(spec.get("selector"))
    found: list[tuple[int, str, Document]] = []
    for volume in volumes:
        have = volume.get("spec") or {}
        size = amount("storage", (have.get("capacity") or {}).get("storage"))
        matches = (
            size >= wanted
            and (have.get("storageClassName") or "") == (spec.get("storageClassName") or "")
            and modes <= set(have.get("accessModes") or ())
            and (have.get("volumeMode") or "Filesystem") == (spec.get("volumeMode") or "Filesystem")
            and "deletionTimestamp" not in volume["metadata"]
            and _free_for(claim, volume)
            and (selector is None or selector.matches(volume["metadata"].get("labels") or {}))
        )
        if matches:
            found.append((size, volume["metadata"]["name"], volume))
    return [volume for _, _, volume in sorted(found, key=lambda entry: entry[:2])]


def _free_for(claim: Document, volume: Document) -> bool:
    """Whether the volume is bound to nobody, or was set aside for this claim."""
    owner = (volume.get("spec") or {}).get("claimRef")
    if owner:
        metadata = claim["metadata"]
        return (owner.get("namespace"), owner.get("name")) == (
            metadata.get("namespace"),
            metadata.get("name"),
        ) and owner.get("uid") in (None, "", metadata.get("uid"))
    return (volume.get("status") or {}).get("phase", "Available") in ("Available", "Pending")


def waiting_claims(snapshot: Snapshot, keys: Iterable[Key]) -> list[Key]:
    """Those of the claims that are bound only when their pod gets its node."""
    rows = chain.from_iterable([snapshot.volumes[k]] for k in keys if k in snapshot.volumes)
    return [row.key for row in rows if row.choices is not None]
