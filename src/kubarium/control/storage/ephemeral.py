"""Generic ephemeral volumes: a claim for each, which lives and dies with its pod.

Source: upstream's ephemeral volume controller (pkg/controller/volume/ephemeral).
"""

from __future__ import annotations

from kubarium.api.kinds import PERSISTENT_VOLUME_CLAIMS, PODS
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.engine.reasons import volume_claim_foreign
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.parts import of_spec
from kubarium.runtime.protocol import Context, Key


class EphemeralVolumes(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.controller = Controller("ephemeral-volume-controller", context, self._reconcile)
        self._pods = self.controller.watches(PODS, _with_templates)
        self._claims = self.controller.watches(PERSISTENT_VOLUME_CLAIMS, _pod_of)
        self._events = EventRecorder(context, "ephemeral_volume")

    async def _reconcile(self, key: Key) -> float | None:
        pod = self._pods.get(key[1], key[0])
        if pod is None or writes.is_terminating(pod):
            return None
        for volume in pod["spec"].get("volumes") or ():
            if volume.get("ephemeral"):
                await self._ensure(pod, volume)
        return None

    async def _ensure(self, pod: Document, volume: Document) -> None:
        namespace, name = (
            pod["metadata"]["namespace"],
            f"{pod['metadata']['name']}-{volume['name']}",
        )
        known = self._claims.get(name, namespace)
        if known is not None:
            if not writes.is_controlled_by(known, pod):
                text = volume_claim_foreign((namespace, name), (namespace, pod["metadata"]["name"]))
                self._events.event(pod, "Warning", "FailedBinding", text)
            return
        template = volume["ephemeral"].get("volumeClaimTemplate") or {}
        given = template.get("metadata") or {}
        metadata: Document = {
            "name": name,
            "ownerReferences": [writes.owner_reference(pod)],
        }
        metadata |= {part: given[part] for part in ("labels", "annotations") if given.get(part)}
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": metadata,
            "spec": template.get("spec") or {},
        }
        try:
            await writes.create(self._context, PERSISTENT_VOLUME_CLAIMS, claim, namespace)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise


@of_spec
def _with_templates(pod: Document) -> list[Key]:
    volumes = (pod.get("spec") or {}).get("volumes") or ()
    if not any(volume.get("ephemeral") for volume in volumes):
        return []
    return [(pod["metadata"]["namespace"], pod["metadata"]["name"])]


def _pod_of(claim: Document) -> list[Key]:
    owner = writes.controller_of(claim)
    if owner is None or owner.get("kind") != "Pod":
        return []
    return [(claim["metadata"]["namespace"], owner["name"])]
