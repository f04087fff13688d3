"""The claim behind a pod's extended resources, made by the scheduler before binding (KEP-5004).

It is decided under a key that no claim bears (``view.extended.pending_key``), and created here.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.kinds import PODS, RESOURCE_CLAIMS
from kubarium.api.resource import Document
from kubarium.engine.model import Key, Pod
from kubarium.runtime import writes
from kubarium.runtime.parts import of_metadata
from kubarium.runtime.protocol import Context
from kubarium.view.cluster import ClusterView, key_of
from kubarium.view.devices import claim_spec
from kubarium.view.extended import (
    Wanted,
    claim_document,
    claim_status_document,
    extended_owner,
    served_besides,
)

_BY_POD = "extended-resource-claims-by-pod-uid"


@of_metadata
def _owner_uids(claim: Document) -> Iterable[str]:
    uid = extended_owner(claim)
    return (uid,) if uid else ()


class ExtendedClaims:
    """Creates those claims, and records them in the pod's status."""

    def __init__(self, context: Context, view: ClusterView) -> None:
        self._context = context
        self._view = view
        self._pods = context.informers.get(PODS)
        self._claims = context.informers.get(RESOURCE_CLAIMS)
        self._claims.add_index(_BY_POD, _owner_uids)

    async def ensure(self, pod: Pod) -> Document | None:
        """The pod's claim, made if there is none; None if the pod has gone.

        One that was made for a node which serves other resources by itself is deleted first.
        """
        document = self._pods.get(pod.key[1], pod.key[0])
        if document is None or document["metadata"].get("uid") != pod.uid:
            return None
        wanted = self._wanted(pod, document)
        for claim in self._claims.by_index(_BY_POD, pod.uid):
            if not writes.is_terminating(claim) and claim_spec(claim["spec"]) == wanted.spec:
                return claim
        await self.discard(pod)
        claim = claim_document(document, wanted.document)
        return await writes.create(self._context, RESOURCE_CLAIMS, claim, pod.key[0], fresh=True)

    async def record(self, pod: Pod, claim: Key) -> None:
        """Name the claim in the pod's status, with which container gets which request."""
        document = self._pods.get(pod.key[1], pod.key[0])
        if document is None or document["metadata"].get("uid") != pod.uid:
            return
        status = claim_status_document(claim[1], self._wanted(pod, document).mapped)
        if (document.get("status") or {}).get("extendedResourceClaimStatus") == status:
            return
        named: Document = {"extendedResourceClaimStatus": status}
        await writes.add_to_status(self._context, PODS, document, named)

    def _wanted(self, pod: Pod, document: Document) -> Wanted:
        """What the pod's node does not serve by itself."""
        return self._view.extended.wanted(document["spec"], served_besides(pod.shape))

    async def discard(self, pod: Pod) -> None:
        """Delete the claim of a pod that will not be bound now; the finalizer goes first."""
        for claim in tuple(self._claims.by_index(_BY_POD, pod.uid)):
            await self._delete(claim)

    def left_over(self, pod: Pod) -> list[Document]:
        """Claims made for the pod that it has no use for now: it, a node or a class has changed."""
        made = self._claims.by_index(_BY_POD, pod.uid)
        used = {key for one in pod.each for key in one.claims} if made else ()
        return [claim for claim in made if key_of(claim) not in used]

    async def clear(self, pod: Pod) -> None:
        """Delete what an earlier attempt has left: others, and the pod itself, want its devices."""
        for claim in self.left_over(pod):
            await self._delete(claim)

    async def _delete(self, claim: Document) -> None:
        for finalizer in claim["metadata"].get("finalizers") or ():
            freed = await writes.remove_finalizer(self._context, RESOURCE_CLAIMS, claim, finalizer)
            if freed is None:
                return
            claim = freed
        await writes.delete(self._context, RESOURCE_CLAIMS, claim)
