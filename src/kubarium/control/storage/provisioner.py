"""``hostpath.kubarium.dev``: makes volumes on demand, each a directory of this machine.

A volume for one node (ReadWriteOnce, ReadWriteOncePod) can be used from the node that the scheduler
chose for the claim's first pod; one for several nodes from all of them, since they share the disk.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from kubarium.api.kinds import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.base.quantity import QuantityError, whole
from kubarium.base.trees import remove_tree
from kubarium.control.storage.capacity import PARAMETER, left_on
from kubarium.control.storage.documents import (
    PROVISIONED_BY,
    PROVISIONER,
    claim_of,
    notes_of,
    reference_to,
    waits_for_consumer,
)
from kubarium.engine.model import HOSTNAME_LABEL
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context, Key
from kubarium.view.volumes import SELECTED_NODE, STORAGE_CLASSES, class_of

# A volume is not forgotten before its directory is gone.
FINALIZER = "kubarium.dev/hostpath"
_SHARED_MODES = frozenset({"ReadWriteMany", "ReadOnlyMany"})


class Directories(Protocol):
    """Where volumes keep their files."""

    def make(self, name: str) -> str:
        """The path of a new volume's directory."""
        ...

    def remove(self, path: str) -> None:
        """Delete a volume's directory; nothing happens if it is not one that ``make`` made."""
        ...


class Imagined:
    """For nodes that are simulated: paths, but no files."""

    def make(self, name: str) -> str:
        return f"/var/lib/kubarium/volumes/{name}"

    def remove(self, path: str) -> None:
        pass


class OnDisk:
    """Directories below ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def make(self, name: str) -> str:
        path = self._root / name
        path.mkdir(parents=True, exist_ok=True)
        os.chmod(path, 0o777)  # whoever the pod's user is
        return str(path)

    def remove(self, path: str) -> None:
        if Path(path).parent == self._root:
            remove_tree(path)


class HostPathProvisioner(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`. Keys: ("", name) is a volume."""

    def __init__(self, context: Context, directories: Directories) -> None:
        self._context = context
        self._directories = directories
        self.controller = Controller("hostpath-provisioner", context, self._reconcile)
        self._claims = self.controller.watches(PERSISTENT_VOLUME_CLAIMS)
        self._volumes = self.controller.watches(PERSISTENT_VOLUMES, _own_volume)
        self._classes = self.controller.watches(STORAGE_CLASSES, self._claims_of)
        self._events = EventRecorder(context, PROVISIONER)

    def _claims_of(self, owner: Document) -> list[Key]:
        name = owner["metadata"]["name"]
        return [
            (claim["metadata"]["namespace"], claim["metadata"]["name"])
            for claim in self._claims.items()
            if class_of(claim) == name
        ]

    async def _reconcile(self, key: Key) -> float | None:
        if not key[0]:
            volume = self._volumes.get(key[1])
            if volume is not None:
                await self._reclaim(volume)
            return None
        claim = self._claims.get(key[1], key[0])
        owner = self._classes.get(class_of(claim)) if claim is not None else None
        if claim is None or owner is None or owner.get("provisioner") != PROVISIONER:
            return None
        if writes.is_terminating(claim):
            return None
        if claim["spec"].get("volumeName"):
            await self._expand(claim, owner)
        else:
            await self._provision(claim, owner)
        return None

    async def _provision(self, claim: Document, owner: Document) -> None:
        node = notes_of(claim).get(SELECTED_NODE) or ""
        if waits_for_consumer(owner) and not node:
            return
        name = f"pvc-{claim['metadata']['uid']}"
        if self._volumes.get(name) is not None:
            return
        if claim["spec"].get("volumeMode") == "Block":
            text = f'failed to provision volume with StorageClass "{class_of(claim)}": '
            text += f"{PROVISIONER} makes directories, not block devices"
            self._events.event(claim, "Warning", "ProvisioningFailed", text)
            return
        wanted = ((claim["spec"].get("resources") or {}).get("requests") or {}).get("storage")
        left = left_on(owner, node, self._volumes.items())
        if left is not None and _bytes(wanted) > left:
            await self._refuse(claim, owner, node, left)
            return
        path = self._directories.make(name)
        volume = _volume(name, path, claim, owner, node)
        try:
            await writes.create(self._context, PERSISTENT_VOLUMES, volume)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
        text = f"Successfully provisioned volume {name}"
        self._events.event(claim, "Normal", "ProvisioningSucceeded", text)

    async def _refuse(self, claim: Document, owner: Document, node: str, left: int) -> None:
        """No room: the scheduler chooses another node, as with upstream's external provisioner."""
        most = owner["parameters"][PARAMETER]
        where = f"node {node} has" if node else "a node has"
        text = f'failed to provision volume with StorageClass "{class_of(claim)}": '
        text += f"{where} {left} bytes left of {PARAMETER} {most}"
        self._events.event(claim, "Warning", "ProvisioningFailed", text)
        if node:
            change = {"metadata": {"annotations": {SELECTED_NODE: None}}}
            await writes.patch(self._context, PERSISTENT_VOLUME_CLAIMS, claim, change)

    async def _expand(self, claim: Document, owner: Document) -> None:
        """A directory has no size of its own: a larger one needs only to be written down."""
        volume = self._volumes.get(claim["spec"]["volumeName"])
        if volume is None or not owner.get("allowVolumeExpansion") or not _is_ours(volume):
            return
        wanted = ((claim["spec"].get("resources") or {}).get("requests") or {}).get("storage")
        if _bytes(wanted) > _bytes((volume["spec"].get("capacity") or {}).get("storage")):
            change = {"spec": {"capacity": {"storage": wanted}}}
            await writes.patch(self._context, PERSISTENT_VOLUMES, volume, change)
        status = claim.get("status") or {}
        if status.get("phase") != "Bound":
            return
        if _bytes(wanted) > _bytes((status.get("capacity") or {}).get("storage")):
            capacity = {**(status.get("capacity") or {}), "storage": wanted}
            await writes.update_status(
                self._context, PERSISTENT_VOLUME_CLAIMS, claim, {**status, "capacity": capacity}
            )

    async def _reclaim(self, volume: Document) -> None:
        """The claim is gone: so is the volume, unless it is to be retained."""
        released = (volume.get("status") or {}).get("phase") == "Released"
        if not _is_ours(volume) or not released:
            return
        if volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete":
            self._directories.remove((volume["spec"].get("hostPath") or {}).get("path", ""))
            if not writes.is_terminating(volume):
                await writes.delete(self._context, PERSISTENT_VOLUMES, volume)
                return  # its deletion comes back here
        if writes.is_terminating(volume):
            await writes.remove_finalizer(self._context, PERSISTENT_VOLUMES, volume, FINALIZER)


def _volume(name: str, path: str, claim: Document, owner: Document, node: str) -> Document:
    wanted, modes = claim["spec"], claim["spec"].get("accessModes") or []
    spec: Document = {
        "capacity": {"storage": wanted["resources"]["requests"]["storage"]},
        "accessModes": modes,
        "volumeMode": "Filesystem",
        "persistentVolumeReclaimPolicy": owner.get("reclaimPolicy") or "Delete",
        "storageClassName": owner["metadata"]["name"],
        "claimRef": reference_to(claim),
        "hostPath": {"path": path, "type": "DirectoryOrCreate"},
    }
    if owner.get("mountOptions"):
        spec["mountOptions"] = owner["mountOptions"]
    if node and _SHARED_MODES.isdisjoint(modes):
        here = {"key": HOSTNAME_LABEL, "operator": "In", "values": [node]}
        terms = [{"matchExpressions": [here]}]
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": terms}}
    notes = {PROVISIONED_BY: PROVISIONER}
    metadata = {"name": name, "annotations": notes, "finalizers": [FINALIZER]}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": metadata, "spec": spec}


def _own_volume(volume: Document) -> list[Key]:
    if not _is_ours(volume):
        return []
    owner = claim_of(volume)
    keys: list[Key] = [("", volume["metadata"]["name"])]
    return [*keys, owner] if owner is not None else keys


def _is_ours(volume: Document) -> bool:
    return notes_of(volume).get(PROVISIONED_BY) == PROVISIONER


def _bytes(quantity: object) -> int:
    try:
        return whole(quantity) if quantity else 0
    except QuantityError:
        return 0
