"""Claims and volumes find each other, and are kept while they are used.

Source: upstream's persistentvolume controller (pv_controller.go) and the two protection
controllers. A claim looks for the smallest volume that suits it, or follows ``volumeName``, or
waits for a provisioner; a volume whose claim is gone is Released.
"""

from __future__ import annotations

from kubarium.api.kinds import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.control.storage.documents import (
    CLAIM_PROTECTION,
    DEFAULT_CLASS,
    VOLUME_PROTECTION,
    claim_of,
    claims_index,
    notes_of,
    reference_to,
    waits_for_consumer,
)
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.parts import of_spec
from kubarium.runtime.protocol import Context, Key
from kubarium.view.pods import is_finished
from kubarium.view.volumes import (
    BIND_COMPLETED,
    BOUND_BY_CONTROLLER,
    NO_PROVISIONER,
    SELECTED_NODE,
    STORAGE_CLASSES,
    candidates,
    class_of,
    suits,
    volume_keys,
)

_PROVISIONERS = ("volume.kubernetes.io/storage-provisioner",)
_EVERY_CLAIM: Key = ("", "")


@of_spec
def _named_claims(pod: Document) -> tuple[Key, ...]:
    return volume_keys(pod)


class VolumeBinder(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`. Keys: ("", name) is a volume."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.controller = Controller("persistentvolume-binder", context, self._reconcile)
        self._claims = self.controller.watches(PERSISTENT_VOLUME_CLAIMS, _claim_keys)
        self._volumes = self.controller.watches(PERSISTENT_VOLUMES, self._volume_keys)
        self._classes = self.controller.watches(STORAGE_CLASSES, lambda _: [_EVERY_CLAIM])
        self._pods = self.controller.watches(PODS, _named_claims)
        self._pods.add_index("claims", claims_index)
        self._events = EventRecorder(context, "persistentvolume-controller")

    def _volume_keys(self, volume: Document) -> list[Key]:
        """The volume, its claim, or every claim that could take it."""
        found: list[Key] = [("", volume["metadata"]["name"])]
        owner = claim_of(volume)
        return [*found, owner if owner is not None else _EVERY_CLAIM]

    async def _reconcile(self, key: Key) -> float | None:
        if key == _EVERY_CLAIM:
            for claim in self._claims.items():
                if BIND_COMPLETED not in notes_of(claim):
                    metadata = claim["metadata"]
                    self.controller.enqueue((metadata["namespace"], metadata["name"]))
        elif key[0]:
            found = self._claims.get(key[1], key[0])
            if found is not None:
                await self._claim(found)
        else:
            volume = self._volumes.get(key[1])
            if volume is not None:
                await self._volume(volume)
        return None

    # Claims

    async def _claim(self, claim: Document) -> None:
        if writes.is_terminating(claim):
            if not self._users(claim):
                await writes.remove_finalizer(
                    self._context, PERSISTENT_VOLUME_CLAIMS, claim, CLAIM_PROTECTION
                )
            return
        claim = await writes.add_finalizer(
            self._context, PERSISTENT_VOLUME_CLAIMS, claim, CLAIM_PROTECTION
        )
        if BIND_COMPLETED in notes_of(claim):
            await self._check_bound(claim)
        elif claim["spec"].get("volumeName"):
            await self._bind_named(claim)
        else:
            await self._find(await self._with_class(claim))

    def _users(self, claim: Document) -> list[Document]:
        """Pods with a node that use the claim: while there are any, it stays."""
        return [pod for pod in self._naming(claim) if pod["spec"].get("nodeName")]

    def _naming(self, claim: Document) -> list[Document]:
        metadata = claim["metadata"]
        return self._pods.by_index("claims", f"{metadata['namespace']}/{metadata['name']}")

    async def _with_class(self, claim: Document) -> Document:
        """A claim from before there was a default class gets it later."""
        if claim["spec"].get("storageClassName") is not None or class_of(claim):
            return claim
        default = default_class(self._classes.items())
        if default is None:
            return claim
        change = {"spec": {"storageClassName": default["metadata"]["name"]}}
        return await writes.patch(self._context, PERSISTENT_VOLUME_CLAIMS, claim, change)

    def _waits_for_consumer(self, claim: Document) -> None:
        """Say whom the claim waits for: pods that have no node yet, or one that is to come."""
        pods = self._naming(claim)
        waiting = [p for p in pods if not p["spec"].get("nodeName") and not is_finished(p)]
        if not waiting:
            text = "waiting for first consumer to be created before binding"
            self._events.event(claim, "Normal", "WaitForFirstConsumer", text)
            return
        names = ",".join(sorted(pod["metadata"]["name"] for pod in waiting))
        text = f"waiting for pod{'s' if len(waiting) > 1 else ''} {names} to be scheduled"
        self._events.event(claim, "Normal", "WaitForPodScheduled", text)

    async def _find(self, claim: Document) -> None:
        name = class_of(claim)
        owner = self._classes.get(name) if name else None
        delayed = waits_for_consumer(owner) and SELECTED_NODE not in notes_of(claim)
        found = candidates(claim, self._volumes.items())
        if delayed:
            found = [volume for volume in found if claim_of(volume) is not None]
        if found:
            await self._bind(found[0], claim)
            return
        await self._phase(claim, "Pending")
        if delayed:
            self._waits_for_consumer(claim)
        elif not name:
            text = "no persistent volumes available for this claim and no storage class is set"
            self._events.event(claim, "Normal", "FailedBinding", text)
        elif owner is None:
            text = f'storageclass.storage.k8s.io "{name}" not found'
            self._events.event(claim, "Warning", "ProvisioningFailed", text)
        else:
            await self._ask_provisioner(claim, owner)

    async def _ask_provisioner(self, claim: Document, owner: Document) -> None:
        provisioner = owner.get("provisioner") or NO_PROVISIONER
        if provisioner == NO_PROVISIONER:
            text = "no persistent volumes available for this claim, and its class makes none"
            self._events.event(claim, "Normal", "FailedBinding", text)
            return
        notes = dict.fromkeys(_PROVISIONERS, provisioner)
        if notes.items() <= notes_of(claim).items():
            return
        await writes.patch(
            self._context, PERSISTENT_VOLUME_CLAIMS, claim, {"metadata": {"annotations": notes}}
        )
        text = (
            "Waiting for a volume to be created either by the external provisioner "
            f"'{provisioner}' or manually by the system administrator. If volume creation is "
            "delayed, please verify that the provisioner is running and correctly registered."
        )
        self._events.event(claim, "Normal", "ExternalProvisioning", text)

    async def _bind_named(self, claim: Document) -> None:
        """The user, or a scheduler, has chosen the volume."""
        name = claim["spec"]["volumeName"]
        volume = self._volumes.get(name)
        problem = ""
        if volume is None:
            problem = f'volume "{name}" does not exist'
        elif claim_of(volume) is None:
            problem = suits(claim, volume)
        elif not _is_for(volume, claim):
            problem = f'volume "{name}" already bound to a different claim.'
        if problem or volume is None:
            await self._phase(claim, "Pending")
            self._events.event(claim, "Warning", "FailedBinding", problem)
        else:
            await self._bind(volume, claim)

    async def _bind(self, volume: Document, claim: Document) -> None:
        """First the volume, by a conditional write: of two claims one takes it."""
        note = {BOUND_BY_CONTROLLER: "yes"}
        name = volume["metadata"]["name"]
        owner = volume["spec"].get("claimRef") or {}
        if owner.get("uid") != claim["metadata"].get("uid"):
            taken = {**volume, "spec": {**volume["spec"], "claimRef": reference_to(claim)}}
            if not owner:
                metadata = volume["metadata"]
                taken["metadata"] = {**metadata, "annotations": {**notes_of(volume), **note}}
            volume = await writes.update(self._context, PERSISTENT_VOLUMES, taken)
        await self._volume_phase(volume, "Bound")
        notes = {BIND_COMPLETED: "yes"}
        if not claim["spec"].get("volumeName"):
            notes |= note
        change = {"spec": {"volumeName": name}, "metadata": {"annotations": notes}}
        claim = await writes.patch(self._context, PERSISTENT_VOLUME_CLAIMS, claim, change)
        await self._bound_status(claim, volume)

    async def _bound_status(self, claim: Document, volume: Document) -> None:
        have, known = volume["spec"], claim.get("status") or {}
        status = {
            **known,
            "phase": "Bound",
            "accessModes": have.get("accessModes") or [],
            "capacity": known.get("capacity") or have.get("capacity") or {},
            "conditions": self._used(claim, known.get("conditions") or []),
        }
        await writes.update_status(self._context, PERSISTENT_VOLUME_CLAIMS, claim, status)

    def _used(self, claim: Document, conditions: list[Document]) -> list[Document]:
        """The conditions with Unused, which says since when no pod names the claim (KEP-5541).

        A pod counts before it has a node, and no longer once its containers have ended.
        """
        if any(not _has_ended(pod) for pod in self._naming(claim)):
            found = ("False", "PodUsingPVC", "A pod is currently referencing this PVC")
        else:
            found = ("True", "NoPodsUsingPVC", "No pods are currently referencing this PVC")
        return writes.set_condition(conditions, "Unused", *found, self._context.clock.now())

    async def _check_bound(self, claim: Document) -> None:
        name = claim["spec"].get("volumeName") or ""
        volume = self._volumes.get(name)
        if volume is not None and _is_for(volume, claim):
            await self._bound_status(claim, volume)
        elif (claim.get("status") or {}).get("phase") != "Lost":
            await self._phase(claim, "Lost")
            text = "Bound claim has lost its PersistentVolume. Data on the volume is lost!"
            if volume is not None:
                text = "Bound claim has lost reference to PersistentVolume. Data is lost!"
            self._events.event(claim, "Warning", "ClaimLost", text)

    async def _phase(self, claim: Document, phase: str) -> None:
        status = {**(claim.get("status") or {}), "phase": phase}
        if phase == "Lost":
            status = {"phase": phase}
        await writes.update_status(self._context, PERSISTENT_VOLUME_CLAIMS, claim, status)

    # Volumes

    async def _volume(self, volume: Document) -> None:
        if writes.is_terminating(volume):
            await self._let_go(volume)
            return
        volume = await writes.add_finalizer(
            self._context, PERSISTENT_VOLUMES, volume, VOLUME_PROTECTION
        )
        owner = volume["spec"].get("claimRef")
        if not owner or not owner.get("uid"):
            await self._volume_phase(volume, "Available")
            return
        claim = await self._owner(volume)
        if claim is None:
            await self._volume_phase(volume, "Released")
        elif claim["spec"].get("volumeName") == volume["metadata"]["name"]:
            await self._volume_phase(volume, "Bound")
        elif claim["spec"].get("volumeName") and BOUND_BY_CONTROLLER in notes_of(volume):
            await self._set_free(volume)

    async def _let_go(self, volume: Document) -> None:
        """A volume that is to be deleted goes once its claim is gone."""
        if volume["spec"].get("claimRef"):
            if await self._owner(volume) is not None:
                return
            volume = await self._volume_phase(volume, "Released")
        await writes.remove_finalizer(self._context, PERSISTENT_VOLUMES, volume, VOLUME_PROTECTION)

    async def _owner(self, volume: Document) -> Document | None:
        """The claim that the volume belongs to; asked of the API before it is taken as gone."""
        owner = volume["spec"].get("claimRef") or {}
        key = owner.get("name", ""), owner.get("namespace", "")
        claim = self._claims.get(*key)
        if claim is None or claim["metadata"].get("uid") != owner.get("uid"):
            try:
                claim = await self._context.client.get(PERSISTENT_VOLUME_CLAIMS, *key)
            except ApiError as error:
                if error.reason != "NotFound":
                    raise
                return None
        return claim if claim["metadata"].get("uid") == owner.get("uid") else None

    async def _set_free(self, volume: Document) -> None:
        """The claim has found another volume: this one is for anybody again."""
        spec = {name: value for name, value in volume["spec"].items() if name != "claimRef"}
        await writes.update(self._context, PERSISTENT_VOLUMES, {**volume, "spec": spec})

    async def _volume_phase(self, volume: Document, phase: str) -> Document:
        status = {**(volume.get("status") or {}), "phase": phase}
        return await writes.update_status(self._context, PERSISTENT_VOLUMES, volume, status)


def default_class(classes: list[Document]) -> Document | None:
    """The class that is marked as default; of several the newest, then the first by name."""
    marked = [c for c in classes if notes_of(c).get(DEFAULT_CLASS) == "true"]
    marked.sort(key=lambda c: str(c["metadata"]["name"]))
    marked.sort(key=lambda c: str(c["metadata"].get("creationTimestamp")), reverse=True)
    return marked[0] if marked else None


def _has_ended(pod: Document) -> bool:
    """Whether no container runs any more, or, of a pod that is to go, none does just now."""
    if is_finished(pod):
        return True
    status = pod.get("status") or {}
    lists = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
    found = [container for name in lists for container in status.get(name) or []]
    running = any("running" in (container.get("state") or {}) for container in found)
    return writes.is_terminating(pod) and not running


def _claim_keys(claim: Document) -> list[Key]:
    metadata = claim["metadata"]
    keys: list[Key] = [(metadata["namespace"], metadata["name"])]
    volume = (claim.get("spec") or {}).get("volumeName")
    return [*keys, ("", volume)] if volume else keys


def _is_for(volume: Document, claim: Document) -> bool:
    owner = volume["spec"].get("claimRef") or {}
    metadata = claim["metadata"]
    return claim_of(volume) == (metadata["namespace"], metadata["name"]) and owner.get("uid") in (
        None,
        "",
        metadata.get("uid"),
    )
