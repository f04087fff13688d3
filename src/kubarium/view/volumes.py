"""PersistentVolumeClaims, volumes and storage classes as the limits they put on nodes.

A claim that is bound follows its volume. One that waits for its first consumer may go where a free
volume of its class can be reached or one may be provisioned. Any other claim must be bound first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from typing import Any

from kubarium.api.kinds import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from kubarium.api.resource import Document, Resource
from kubarium.engine import reasons
from kubarium.engine.model import Disk, Key, Provision, VolumeClaim
from kubarium.engine.placement.volumes import ZONE_LABELS
from kubarium.engine.selectors import NodeTerm, Requirement
from kubarium.engine.snapshot import Snapshot
from kubarium.view.nodes import amount
from kubarium.view.selectors import label_selector, node_terms, requirement

STORAGE_CLASSES = Resource("storage.k8s.io", "v1", "storageclasses", "StorageClass", False)
CSI_NODES = Resource("storage.k8s.io", "v1", "csinodes", "CSINode", False)
CSI_DRIVERS = Resource("storage.k8s.io", "v1", "csidrivers", "CSIDriver", False)
CSI_CAPACITIES = Resource(
    "storage.k8s.io", "v1", "csistoragecapacities", "CSIStorageCapacity", True
)
ATTACHMENTS = Resource("storage.k8s.io", "v1", "volumeattachments", "VolumeAttachment", False)
VOLUME_RESOURCES = (
    STORAGE_CLASSES,
    CSI_DRIVERS,
    CSI_CAPACITIES,
    PERSISTENT_VOLUMES,
    PERSISTENT_VOLUME_CLAIMS,
    CSI_NODES,
    ATTACHMENTS,
)

NO_PROVISIONER = "kubernetes.io/no-provisioner"
BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
BETA_CLASS = "volume.beta.kubernetes.io/storage-class"


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


def own_volume_keys(document: Document) -> tuple[Key, ...]:
    """Those of :func:`volume_keys` that are made for the pod's ephemeral volumes."""
    volumes = (document.get("spec") or {}).get("volumes") or ()
    namespace, name = document["metadata"].get("namespace", ""), document["metadata"]["name"]
    return tuple((namespace, f"{name}-{v.get('name', '')}") for v in volumes if v.get("ephemeral"))


def disks(document: Document) -> tuple[Disk, ...]:
    """The disks that the pod names itself."""
    found: list[Disk] = []
    for volume in (document.get("spec") or {}).get("volumes") or ():
        if volume.get("gcePersistentDisk"):
            one = volume["gcePersistentDisk"]
            name, only_read = f"gce/{one.get('pdName')}", bool(one.get("readOnly"))
            found.append(Disk("gce", (name,), only_read, migrated(volume, {})))
        elif volume.get("awsElasticBlockStore"):
            name = f"aws/{volume['awsElasticBlockStore'].get('volumeID')}"
            found.append(Disk("aws", (name,), attaches=migrated(volume, {})))
        elif volume.get("iscsi"):
            one = volume["iscsi"]
            found.append(Disk("iscsi", (f"iscsi/{one.get('iqn')}",), bool(one.get("readOnly"))))
        elif volume.get("rbd"):
            one = volume["rbd"]
            image = f"{one.get('pool') or 'rbd'}/{one.get('image')}"
            names = tuple(f"rbd/{monitor}/{image}" for monitor in one.get("monitors") or ())
            found.append(Disk("rbd", names, bool(one.get("readOnly"))))
        elif attaches := migrated(volume, {}):
            found.append(Disk("", attaches=attaches))
    return tuple(found)


# Names under which volumes were made before their CSI drivers, and those drivers.
MIGRATED = {
    "kubernetes.io/aws-ebs": "ebs.csi.aws.com",
    "kubernetes.io/gce-pd": "pd.csi.storage.gke.io",
    "kubernetes.io/azure-disk": "disk.csi.azure.com",
    "kubernetes.io/cinder": "cinder.csi.openstack.org",
    "kubernetes.io/portworx-volume": "pxd.portworx.com",
}


def migrated(sources: Document, labels: Document) -> tuple[str, str] | None:
    """(CSI driver, handle) of a volume that is described as before there were CSI drivers.

    ``sources`` is a pod's volume or a PersistentVolume's spec, ``labels`` are the latter's. None
    for all other types. Source: upstream's csi-translation-lib.
    """
    if one := sources.get("awsElasticBlockStore"):
        handle = one.get("volumeID") or ""
        if handle.startswith("aws://"):
            _, _, path = handle.removeprefix("aws://").partition("/")
            handle = path.strip("/")
            if not handle.startswith("vol-") or "/" in handle:
                return None
        return MIGRATED["kubernetes.io/aws-ebs"], handle
    if one := sources.get("gcePersistentDisk"):
        where = _gce_place(labels)
        handle = f"projects/UNSPECIFIED/{where}/disks/{one.get('pdName')}"
        return (MIGRATED["kubernetes.io/gce-pd"], handle) if where else None
    if one := sources.get("azureDisk"):
        managed = (one.get("kind") or "Managed").lower() == "managed"
        return (MIGRATED["kubernetes.io/azure-disk"], one.get("diskURI") or "") if managed else None
    if one := sources.get("cinder"):
        return MIGRATED["kubernetes.io/cinder"], one.get("volumeID") or ""
    if one := sources.get("portworxVolume"):
        return MIGRATED["kubernetes.io/portworx-volume"], one.get("volumeID") or ""
    return None


def _gce_place(labels: Document) -> str:
    """The zone of a disk, or the region of one that is in several zones; "" if they are odd."""
    zones = (labels.get(ZONE_LABELS[2]) or labels.get(ZONE_LABELS[0]) or "UNSPECIFIED").split("__")
    if len(zones) == 1:
        return f"zones/{zones[0]}"
    parts = [zone.split("-") for zone in zones]
    regions = {"-".join(part[:2]) for part in parts}
    odd = len(regions) > 1 or any(len(part) != 3 for part in parts)
    return "" if odd else f"regions/{regions.pop()}"


class VolumeBook:
    """Keeps the snapshot's volume claims in step with the documents."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.claims: dict[Key, Document] = {}
        self.volumes: dict[str, Document] = {}
        self.classes: dict[str, Document] = {}
        self._drivers: dict[str, Document] = {}
        self._capacities: dict[Key, Document] = {}
        self._attached: dict[str, Document] = {}

    def apply(self, resource: Resource, old: Document | None, new: Document | None) -> None:
        """Take in one change of anything that volumes are decided by."""
        document = new or old
        assert document is not None
        name = document["metadata"]["name"]
        key = (document["metadata"].get("namespace", ""), name)
        if resource == PERSISTENT_VOLUME_CLAIMS:
            _enter(self.claims, key, new)
            self._refresh(key)
        elif resource == CSI_NODES:
            _enter(self._snapshot.volume_limits, name, _limits(new) if new else None)
            _enter(self._snapshot.csi_drivers, name, _drivers(new) if new else None)
            self._snapshot.volumes_changed_on(name)
        elif resource == ATTACHMENTS:
            _enter(self._attached, name, new)
            self._count_attachments((document.get("spec") or {}).get("nodeName") or "")
        elif resource == PERSISTENT_VOLUMES:
            _enter(self.volumes, name, new)
            self._refresh_all(name)
            for attachment in self._attached.values():
                spec = attachment.get("spec") or {}
                if (spec.get("source") or {}).get("persistentVolumeName") == name:
                    self._count_attachments(spec.get("nodeName") or "")
        else:
            if resource == CSI_CAPACITIES:
                _enter(self._capacities, key, new)
            else:
                _enter(self.classes if resource == STORAGE_CLASSES else self._drivers, name, new)
                if resource == CSI_DRIVERS:
                    needed = ((new or {}).get("spec") or {}).get("preventPodSchedulingIfMissing")
                    known = self._snapshot.needed_drivers
                    (known.add if needed else known.discard)(name)
            self._refresh_all("")

    def _refresh_all(self, volume: str) -> None:
        """Claims that are not bound, and those of the volume."""
        for key, claim in self.claims.items():
            if (claim.get("spec") or {}).get("volumeName", "") in ("", volume):
                self._refresh(key)

    def _refresh(self, key: Key) -> None:
        claim = self.claims.get(key)
        if claim is None:
            self._snapshot.volumes.pop(key, None)
            self._snapshot.volume_changed(key)
            self._snapshot.forget_volume(key)
            return
        before = self._snapshot.volumes.get(key)
        row = self._snapshot.volumes[key] = self._row(key, claim)
        if before is None or before.attaches != row.attaches:
            self._snapshot.volume_changed(key)
        if row.choices is None:
            self._snapshot.forget_volume(key)

    def _row(self, key: Key, claim: Document) -> VolumeClaim:
        spec = claim.get("spec") or {}
        row = VolumeClaim(
            key,
            exclusive="ReadWriteOncePod" in (spec.get("accessModes") or ()),
            attaches=self._attaches(key, claim),
            size=_requested(claim),
            owner=_owning_pod(claim),
        )
        bound = spec.get("volumeName") or ""
        if (claim.get("status") or {}).get("phase") == "Lost":
            return replace(row, problem=reasons.volume_lost(key[1], bound))
        if "deletionTimestamp" in claim["metadata"]:
            return replace(row, problem=reasons.volume_claim_deleted(key[1]))
        if is_bound(claim):
            volume = self.volumes.get(bound)
            if volume is None:
                return replace(row, gone=bound)
            return replace(row, terms=reach(volume), zones=_zones(volume))
        owner = self.classes.get(class_of(claim))
        if bound or owner is None or owner.get("volumeBindingMode") != "WaitForFirstConsumer":
            return replace(row, unbound=True)
        free = candidates(claim, self.volumes.values(), by_scheduler=True)
        return replace(
            row,
            choices=tuple((v["metadata"]["name"], reach(v)) for v in free),
            capacities=tuple(map(_size, free)),
            provision=self._provision(claim, owner),
            selected=(claim["metadata"].get("annotations") or {}).get(SELECTED_NODE) or "",
            storage_class=class_of(claim),
        )

    def _provision(self, claim: Document, owner: Document) -> Provision | None:
        """Where a volume of the class can be made (upstream: checkVolumeProvisions)."""
        provisioner = owner.get("provisioner") or NO_PROVISIONER
        if provisioner == NO_PROVISIONER:
            return None
        driver = self._drivers.get(provisioner)
        if driver is None or not (driver.get("spec") or {}).get("storageCapacity"):
            return Provision(_allowed(owner))
        wanted = _requested(claim)
        room = [
            (selector, amount("storage", capacity.get("capacity")))
            for capacity in self._capacities.values()
            if capacity.get("storageClassName") == owner["metadata"]["name"]
            and _most(capacity) >= wanted
            and (selector := label_selector(capacity.get("nodeTopology"))) is not None
        ]
        return Provision(
            _allowed(owner),
            tuple(selector for selector, _ in room),
            tuple(bytes_ for _, bytes_ in room),
        )

    def _attaches(self, key: Key, claim: Document) -> tuple[str, str] | None:
        """What a node attaches for the claim; a volume still to be made counts as one too."""
        volume = self.volumes.get((claim.get("spec") or {}).get("volumeName") or "")
        if volume is not None:
            source = (volume.get("spec") or {}).get("csi") or {}
            if source:
                return source["driver"], source.get("volumeHandle") or ""
            return migrated(volume.get("spec") or {}, volume["metadata"].get("labels") or {})
        owner = self.classes.get(class_of(claim))
        provisioner = (owner or {}).get("provisioner") or ""
        provisioner = MIGRATED.get(provisioner, provisioner)
        return (provisioner, f"unbound/{key[0]}/{key[1]}") if provisioner else None

    def _count_attachments(self, node: str) -> None:
        found: set[tuple[str, str]] = set()
        for attachment in self._attached.values():
            spec = attachment.get("spec") or {}
            name = (spec.get("source") or {}).get("persistentVolumeName") or ""
            source = ((self.volumes.get(name) or {}).get("spec") or {}).get("csi")
            if spec.get("nodeName") == node and spec.get("attacher") and source:
                found.add((spec["attacher"], source.get("volumeHandle") or ""))
        _enter(self._snapshot.attachments, node, frozenset(found) or None)
        self._snapshot.volumes_changed_on(node)


def _enter(book: dict[Any, Any], key: object, value: object | None) -> None:
    if value is None:
        book.pop(key, None)
    else:
        book[key] = value


def _limits(document: Document) -> dict[str, int] | None:
    """How many volumes of each driver a CSINode can attach."""
    drivers = (document.get("spec") or {}).get("drivers") or ()
    counts = {d.get("name", ""): (d.get("allocatable") or {}).get("count") for d in drivers}
    return {name: int(count) for name, count in counts.items() if count is not None} or None


def _drivers(document: Document) -> frozenset[str]:
    """The CSI drivers that a node has."""
    return frozenset(d.get("name", "") for d in (document.get("spec") or {}).get("drivers") or ())


def _most(capacity: Document) -> int:
    """The largest volume that can be made; -1 if the driver does not say."""
    most = capacity.get("maximumVolumeSize") or capacity.get("capacity")
    return -1 if most is None else amount("storage", most)


def class_of(claim: Document) -> str:
    """The claim's storage class; "" if it names none."""
    notes = claim["metadata"].get("annotations") or {}
    return _class(notes, claim)


def class_of_volume(volume: Document) -> str:
    """The volume's storage class; "" if it has none."""
    return _class(volume["metadata"].get("annotations") or {}, volume)


def _class(notes: Document, document: Document) -> str:
    """The annotation of old days wins, whatever its value."""
    found = notes.get(BETA_CLASS, (document.get("spec") or {}).get("storageClassName"))
    return found or ""


def is_bound(claim: Document) -> bool:
    """Whether both sides of the binding are written; ``volumeName`` alone is a wish."""
    named = (claim.get("spec") or {}).get("volumeName")
    return bool(named) and BIND_COMPLETED in (claim["metadata"].get("annotations") or {})


def _owning_pod(claim: Document) -> str:
    owners = claim["metadata"].get("ownerReferences") or ()
    return next((o.get("uid") or "" for o in owners if o.get("controller")), "")


def _requested(claim: Document) -> int:
    requests = ((claim.get("spec") or {}).get("resources") or {}).get("requests") or {}
    return amount("storage", requests.get("storage"))


def reach(volume: Document) -> tuple[NodeTerm, ...] | None:
    """The nodes from which a volume can be used; None: all."""
    affinity = (volume.get("spec") or {}).get("nodeAffinity") or {}
    return node_terms(affinity.get("required"))


def _zones(volume: Document) -> tuple[Requirement, ...]:
    """Zone and region labels of a volume as clauses; ``a__b`` means either.

    A label with an empty part says nothing (upstream: LabelZonesToSet).
    """
    labels = volume["metadata"].get("labels") or {}
    named = ((key, labels[key].split("__")) for key in ZONE_LABELS if key in labels)
    clauses = ((key, tuple(zone.strip() for zone in zones)) for key, zones in named)
    return tuple(Requirement(key, "In", zones) for key, zones in clauses if all(zones))


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


def candidates(
    claim: Document, volumes: Iterable[Document], *, by_scheduler: bool = False
) -> list[Document]:
    """Volumes that satisfy the claim: set aside for it, else free ones, the smallest first.

    A scheduler looks at volumes of the claim's class only, and at no free ones if one was set
    aside. Source: upstream's FindMatchingVolume.
    """
    selector = label_selector((claim.get("spec") or {}).get("selector"))
    found: list[tuple[bool, int, str, Document]] = []
    for volume in volumes:
        if "deletionTimestamp" in volume["metadata"] or not _free_for(claim, volume):
            continue
        if by_scheduler and class_of_volume(volume) != class_of(claim):
            continue
        reserved = bool((volume.get("spec") or {}).get("claimRef"))
        labels = volume["metadata"].get("labels") or {}
        if not reserved and selector is not None and not selector.matches(labels):
            continue
        if not suits(claim, volume, reserved=reserved):
            found.append((not reserved, _size(volume), volume["metadata"]["name"], volume))
    if by_scheduler and any(not free for free, *_ in found):
        found = [entry for entry in found if not entry[0]]
    return [entry[-1] for entry in sorted(found, key=lambda entry: entry[:-1])]


def suits(claim: Document, volume: Document, *, reserved: bool = False) -> str:
    """Why the volume cannot serve the claim, in upstream's words; "" if it can.

    For a volume that was ``reserved`` for the claim only its size, mode and attributes matter.
    """
    spec, have = claim.get("spec") or {}, volume.get("spec") or {}
    if _size(volume) < _requested(claim):
        return "requested PV is too small"
    if (have.get("volumeMode") or "Filesystem") != (spec.get("volumeMode") or "Filesystem"):
        return "incompatible volumeMode"
    wanted = spec.get("volumeAttributesClassName") or ""
    if (have.get("volumeAttributesClassName") or "") != wanted:
        return "volumeAttributesClassName does not match"
    if reserved:
        return ""
    if class_of_volume(volume) != class_of(claim):
        return "storageClassName does not match"
    if not set(spec.get("accessModes") or ()) <= set(have.get("accessModes") or ()):
        return "incompatible accessMode"
    return ""


def _size(volume: Document) -> int:
    return amount("storage", ((volume.get("spec") or {}).get("capacity") or {}).get("storage"))


def _free_for(claim: Document, volume: Document) -> bool:
    """Whether the volume is bound to nobody, or was set aside for this claim."""
    owner = (volume.get("spec") or {}).get("claimRef")
    if owner:
        metadata = claim["metadata"]
        return (owner.get("namespace"), owner.get("name")) == (
            metadata.get("namespace"),
            metadata.get("name"),
        ) and owner.get("uid") in (None, "", metadata.get("uid"))
    return (volume.get("status") or {}).get("phase") == "Available"


def waiting_claims(snapshot: Snapshot, keys: Iterable[Key]) -> list[Key]:
    """Those of the claims that are bound only when their pod gets its node."""
    rows = chain.from_iterable([snapshot.volumes[k]] for k in keys if k in snapshot.volumes)
    return [row.key for row in rows if row.choices is not None]
