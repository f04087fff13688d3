"""Reservations for pods that no scheduler placed: those that are created with a node.

Source: kube-controller-manager ``pkg/controller/resourceclaim`` syncPod. Such a pod may use claims
that are allocated already, but only once it stands in their ``reservedFor``, which the scheduler
writes for all other pods. Claims that nobody has allocated stay so: nothing decides for the pod.
"""

from __future__ import annotations

from kubarium.api.kinds import POD_GROUPS, PODS, RESOURCE_CLAIMS
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.control.devices.claims import (
    COMPONENT,
    PODS_BY_CLAIM,
    claim_names,
    is_done,
    pods_by_claim,
)
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.informer import key_of
from kubarium.runtime.protocol import Context, Key
from kubarium.view.consumers import consumer, group_name, not_made_for
from kubarium.view.devices import is_allocated
from kubarium.view.pods import node_of


class Reserver:
    """Every pod with a node stands in ``reservedFor`` of its allocated claims."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._events = EventRecorder(context, COMPONENT)
        self.controller = Controller("resourceclaim-reserver", context, self.reconcile)
        self._pods = self.controller.reads(PODS)
        self._claims = self.controller.reads(RESOURCE_CLAIMS)
        self._groups = self.controller.reads(POD_GROUPS)
        self._pods.add_index(PODS_BY_CLAIM, pods_by_claim)
        self._pods.on_change(self._pod_changed)
        self._claims.on_change(self._claim_changed)

    def _pod_changed(self, old: Document | None, new: Document | None) -> None:
        """A pod is of interest when it comes with a node, and when its claims are made then."""
        if new is None or not node_of(new):
            return
        if old is None or (node_of(old) and claim_names(old) != claim_names(new)):
            self._enqueue(new)

    def _claim_changed(self, old: Document | None, new: Document | None) -> None:
        """A claim is of interest once it is allocated, and when it has room for more users."""
        if new is None or not is_allocated(new):
            return
        if old is not None and is_allocated(old) and not _users(old) - _users(new):
            return
        for pod in self._pods.by_index(PODS_BY_CLAIM, "/".join(key_of(new))):
            if node_of(pod):
                self._enqueue(pod)

    def _enqueue(self, pod: Document) -> None:
        if (pod.get("spec") or {}).get("resourceClaims"):
            self.controller.enqueue(key_of(pod))

    async def reconcile(self, key: Key) -> float | None:
        """Add the pod where it is missing; running it again changes nothing."""
        namespace, name = key
        pod = self._pods.get(name, namespace)
        if pod is None or not node_of(pod):
            return None
        if is_done(pod) or writes.is_terminating(pod):
            return None
        named = group_name(pod)
        group = self._groups.get(named, namespace) if named else None
        for claim_name in claim_names(pod):
            claim = self._claims.get(claim_name, namespace)
            if claim is None or not is_allocated(claim) or writes.is_terminating(claim):
                continue
            user = consumer(claim_name, pod, group)
            if user["uid"] not in _users(claim) and not not_made_for(claim, pod):
                await self._reserve(claim, user, pod)
        return None

    async def _reserve(self, claim: Document, user: Document, pod: Document) -> None:
        """Add a user; the API says how many are too many, and so is the pod told."""
        status, metadata = claim.get("status") or {}, claim["metadata"]
        changed = {**status, "reservedFor": [*(status.get("reservedFor") or ()), user]}
        try:
            await writes.update_status(self._context, RESOURCE_CLAIMS, claim, changed)
        except ApiError as error:
            if error.reason != "Conflict":
                text = f"reserve claim {metadata['namespace']}/{metadata['name']}: {error}"
                self._events.event(pod, "Warning", "FailedResourceClaimReservation", text)
            raise


def _users(claim: Document) -> set[str]:
    """The uids of the claim's consumers."""
    return {entry["uid"] for entry in (claim.get("status") or {}).get("reservedFor") or ()}
