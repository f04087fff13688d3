"""Reservations for pods that no scheduler placed: those that are created with a node.

Source: kube-controller-manager ``pkg/controller/resourceclaim`` syncPod. Such a pod may use claims
that are allocated already, but only once it stands in their ``reservedFor``, which the scheduler
writes for all other pods. Claims that nobody has allocated stay so: nothing decides for the pod.
"""

from __future__ import annotations

from kubarium.api.kinds import POD_GROUPS, PODS, RESOURCE_CLAIMS
from kubarium.api.resource import Document
from kubarium.control.devices.claims import PODS_BY_CLAIM, claim_names, is_done, pods_by_claim
from kubarium.engine.placement.devices import MAX_RESERVED
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.informer import key_of
from kubarium.runtime.protocol import Context, Key
from kubarium.view.consumers import consumer
from kubarium.view.devices import is_allocated
from kubarium.view.pods import node_of


class Reserver:
    """Every pod with a node stands in ``reservedFor`` of its allocated claims."""

    def __init__(self, context: Context) -> None:
        self._context = context
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
        """A claim is of interest once it is allocated."""
        if new is None or not is_allocated(new) or is_allocated(old):
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
        group_name = (pod["spec"].get("schedulingGroup") or {}).get("podGroupName")
        group = self._groups.get(group_name, namespace) if group_name else None
        for claim_name in claim_names(pod):
            claim = self._claims.get(claim_name, namespace)
            if claim is not None:
                await self._reserve(claim, consumer(claim_name, pod, group))
        return None

    async def _reserve(self, claim: Document, user: Document) -> None:
        status = claim.get("status") or {}
        reserved = status.get("reservedFor") or []
        known = any(entry.get("uid") == user["uid"] for entry in reserved)
        if known or not is_allocated(claim) or writes.is_terminating(claim):
            return
        if len(reserved) < MAX_RESERVED:
            changed = {**status, "reservedFor": [*reserved, user]}
            await writes.update_status(self._context, RESOURCE_CLAIMS, claim, changed)
