"""Volumes of a placement: chosen or asked for once the pod has its node, and waited for."""

from __future__ import annotations

from kubarium.api.kinds import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS
from kubarium.api.resource import Document
from kubarium.base.errors import not_found
from kubarium.control.scheduling.claims import CONDITION_POLL_S, NotReadyError
from kubarium.control.scheduling.news import News
from kubarium.engine.model import Key, Pod
from kubarium.runtime import writes
from kubarium.runtime.protocol import Context
from kubarium.view.cluster import ClusterView
from kubarium.view.volumes import (
    BIND_COMPLETED,
    BOUND_BY_CONTROLLER,
    SELECTED_NODE,
    candidates,
    is_bound,
    reach,
    waiting_claims,
)


class VolumeWriter:
    """Binds PersistentVolumeClaims that waited for their pod's node."""

    def __init__(self, context: Context, view: ClusterView) -> None:
        self._context = context
        self._view = view
        self._pods = context.informers.get(PODS)
        self._volume_claims = context.informers.get(PERSISTENT_VOLUME_CLAIMS)
        self._news = News(self._volume_claims)

    def waits(self, pod: Pod) -> bool:
        """Whether a volume must be made or bound before the pod may be."""
        return bool(pod.volumes) and bool(waiting_claims(self._view.snapshot, pod.volumes))

    async def until_bound(self, key: Key, pod: Pod, timeout_s: float) -> None:
        """Until the claim has its volume; upstream waits in PreBind, as long as this."""
        clock = self._context.clock
        deadline = clock.monotonic() + timeout_s
        while True:
            claim = self._volume_claims.get(key[1], key[0])
            if claim is None or self._pods.get(pod.key[1], pod.key[0]) is None:
                raise not_found("persistentvolumeclaims", "", key[1])
            if is_bound(claim):
                return
            notes = claim["metadata"].get("annotations") or {}
            if SELECTED_NODE not in notes:
                text = f"claim {key[1]}: its provisioner has no room on the node"
                raise NotReadyError(text)
            if clock.monotonic() >= deadline:
                raise NotReadyError("binding volumes: context deadline exceeded")
            await self._news.of(key, CONDITION_POLL_S)

    async def bind(self, key: Key, node: str) -> None:
        """Bind a claim that waited for its pod's node to a free volume there, or have one made.

        The volume is taken by a conditional write, so that of two pods that chose it one decides
        again. Without a volume that exists, the annotation asks the class's provisioner for one.
        """
        claim = await self._context.client.get(PERSISTENT_VOLUME_CLAIMS, key[1], key[0])
        if (claim.get("spec") or {}).get("volumeName"):
            return
        usable = self._usable(key, claim, node)
        if not usable:
            note = {"metadata": {"annotations": {SELECTED_NODE: node}}}
            noted = await self._context.client.patch(PERSISTENT_VOLUME_CLAIMS, key[1], note, key[0])
            self._volume_claims.observe(noted)
            return
        volume, metadata = usable[0], claim["metadata"]
        owner = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": key[0],
            "name": key[1],
            "uid": metadata.get("uid", ""),
        }
        taken = {**volume, "spec": {**volume["spec"], "claimRef": owner}}
        ours = {BOUND_BY_CONTROLLER: "yes"}
        if not volume["spec"].get("claimRef"):
            notes = {**(volume["metadata"].get("annotations") or {}), **ours}
            taken["metadata"] = {**volume["metadata"], "annotations": notes}
        client, name = self._context.client, volume["metadata"]["name"]
        taken = await client.update(PERSISTENT_VOLUMES, taken)
        status = {**(taken.get("status") or {}), "phase": "Bound"}
        await writes.update_status(self._context, PERSISTENT_VOLUMES, taken, status)
        notes = {BIND_COMPLETED: "yes", **ours}
        bound = {"spec": {"volumeName": name}, "metadata": {"annotations": notes}}
        claim = await client.patch(PERSISTENT_VOLUME_CLAIMS, key[1], bound, key[0])
        self._volume_claims.observe(claim)
        have = volume["spec"]
        status = {
            **(claim.get("status") or {}),
            "phase": "Bound",
            "capacity": have.get("capacity") or {},
            "accessModes": have.get("accessModes") or [],
        }
        await writes.update_status(self._context, PERSISTENT_VOLUME_CLAIMS, claim, status)

    def _usable(self, key: Key, claim: Document, node: str) -> list[Document]:
        """Volumes that the claim may take on the node, the one that was decided on first."""
        assumed = self._view.snapshot.assumed_volumes.get(key)
        if SELECTED_NODE in (claim["metadata"].get("annotations") or {}) or (
            assumed is not None and not assumed[1]
        ):
            return []  # one is made, or was decided to be
        volumes = self._context.informers.get(PERSISTENT_VOLUMES).items()
        found = candidates(claim, volumes, by_scheduler=True)
        usable = [volume for volume in found if self._reaches(volume, node)]
        chosen = assumed[1] if assumed is not None else ""
        return sorted(usable, key=lambda volume: volume["metadata"]["name"] != chosen)

    def _reaches(self, volume: Document, node: str) -> bool:
        terms, found = reach(volume), self._view.snapshot.node(node)
        return terms is None or (
            found is not None and any(term.matches(node, found.labels) for term in terms)
        )
