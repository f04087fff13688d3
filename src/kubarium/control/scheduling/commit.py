"""Writing a decision through the API: claims first, then bindings, then what users read about it.

Every write can fail because the object moved on; then nothing of that pod is kept, and the
scheduler decides again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import NamedTuple

from kubarium.api.kinds import PODS
from kubarium.api.resource import Document
from kubarium.base.clock import rfc3339
from kubarium.base.errors import ApiError, not_found
from kubarium.client.protocol import MERGE_PATCH, STRATEGIC_MERGE_PATCH
from kubarium.control.scheduling.claims import ClaimWriter, NotReadyError, needs_preparation
from kubarium.control.scheduling.groups import GroupWriter
from kubarium.control.scheduling.held import UNSCHEDULABLE
from kubarium.control.scheduling.outcomes import outcome
from kubarium.control.scheduling.recorders import BINDING, PREEMPTING, Recorders
from kubarium.control.scheduling.resting import RestingDevices
from kubarium.control.scheduling.volumes import VolumeWriter
from kubarium.engine.devices.model import Allocation
from kubarium.engine.model import Key, Pod
from kubarium.engine.placement.profile import Profile
from kubarium.engine.plan import Placement, Preemption
from kubarium.runtime import writes
from kubarium.runtime.protocol import Context
from kubarium.view.cluster import ClusterView, key_of
from kubarium.view.extended import is_pending_key
from kubarium.view.pods import claim_shares_document, node_of
from kubarium.view.profiles import scheduler_name
from kubarium.view.volumes import waiting_claims


@dataclass(frozen=True, slots=True)
class Staged:
    """A placement under way: claims by their real names, and volumes that are to be bound."""

    placement: Placement
    allocations: tuple[tuple[Key, Allocation], ...]
    volumes: tuple[Key, ...]


class Committer:
    """Writes placements, refusals and preemptions."""

    def __init__(self, context: Context, view: ClusterView) -> None:
        self._context = context
        self._view = view
        self._pods = context.informers.get(PODS)
        self._recorders = Recorders(context)
        self.claims = ClaimWriter(context, view, self._recorders)
        self.groups = GroupWriter(context, view, self._recorders)
        self.volumes = VolumeWriter(context, view)
        self.resting = RestingDevices(context, view, self._recorders)

    async def reserve(self, placement: Placement) -> Staged:
        """The first of three steps: claims are allocated and reserved, volumes chosen or asked for.

        Each step raises ApiError if a write fails, NotReadyError if a device or a volume
        cannot be made ready. Pods that start together take each step together.
        """
        return await self._or_discard(placement, self._reserve(placement))

    async def prepare(self, staged: Staged, profile: Profile) -> Staged:
        """The second: until devices are ready and volumes are bound, which may take minutes.

        How many, the profile says.
        """
        return await self._or_discard(staged.placement, self._prepare(staged, profile))

    async def confirm(self, staged: Staged) -> Staged:
        """Whether the pod can still be bound; NotFound if it was deleted or bound meanwhile."""
        return await self._or_discard(staged.placement, self._confirm(staged))

    async def _confirm(self, staged: Staged) -> Staged:
        pod = staged.placement.pod
        document = await self._context.client.get(PODS, pod.key[1], pod.key[0])
        if not _waits(document, pod):
            raise not_found("pods", "", pod.key[1])
        return staged

    async def bind(self, staged: Staged) -> Staged:
        """The third: the pod gets its node."""
        return await self._or_discard(staged.placement, self._place(staged))

    async def _or_discard(self, placement: Placement, work: Awaitable[Staged]) -> Staged:
        """Nothing is left of a claim made for extended resources if the pod is not bound."""
        try:
            return await work
        except (ApiError, NotReadyError):
            with contextlib.suppress(ApiError):  # the next try finds it
                await self.claims.discard(placement.pod)
            raise

    async def _reserve(self, placement: Placement) -> Staged:
        pod, fresh = placement.pod, dict(placement.allocations)
        allocations: list[tuple[Key, Allocation]] = []
        if not any(map(is_pending_key, pod.claims)):  # else it may be the one that is wanted
            await self.claims.clear(pod)
        for claim in pod.claims:
            if claim in fresh:
                key = await self.claims.real_key(claim, pod)
                allocations.append((key, fresh[claim]))
                await self.claims.write(key, fresh[claim], placement)
            elif not is_pending_key(claim):
                # Allocated with another pod, which may not have written it yet, or may have failed.
                held = self._view.snapshot.allocations.get(claim)
                await self.claims.write(claim, held, placement)
        waiting = waiting_claims(self._view.snapshot, pod.volumes)
        for key in waiting:
            await self.volumes.bind(key, placement.node)
        if waiting or self.claims.waits_for_devices(placement):
            # Others may know where it will run, maybe minutes before it does (KEP-5278).
            with contextlib.suppress(ApiError):
                await self.nominate(pod, placement.node)
        return Staged(placement, tuple(allocations), tuple(waiting))

    async def _prepare(self, staged: Staged, profile: Profile) -> Staged:
        pod = staged.placement.pod
        fresh = [key for key, a in staged.allocations if needs_preparation(a)]
        unready = [*fresh, *self.claims.unready(staged.placement)]
        if unready:
            self.claims.tell_waiting(pod, staged.placement.node)
        for key in unready:
            await self.claims.until_ready(key, pod, profile.device_timeout_s)
            self.resting.were_made_ready(self.claims.devices_of(key))
        for key in staged.volumes:
            await self.volumes.until_bound(key, pod, profile.volume_timeout_s)
        return staged

    async def _place(self, staged: Staged) -> Staged:
        placement = staged.placement
        if placement.shares or self._has_shares(placement.pod):
            await self._record_shares(placement, staged.allocations)
        try:
            await self._bind(placement)
        except ApiError:
            if placement.shares:
                await self._tell_shares(placement.pod, [])
            raise
        return staged

    def _has_shares(self, pod: Pod) -> bool:
        """Whether an earlier attempt has left in the status what it would have taken."""
        document = self._pods.get(pod.key[1], pod.key[0]) or {}
        return bool((document.get("status") or {}).get("nodeAllocatableResourceClaimStatuses"))

    async def _record_shares(
        self, placement: Placement, allocations: tuple[tuple[Key, Allocation], ...]
    ) -> None:
        """Say in the pod's status what its claims take of the node, before the node sees it."""
        real = {
            known: key
            for (known, _), (key, _) in zip(placement.allocations, allocations, strict=True)
        }
        shares = [replace(s, claim=real.get(s.claim, s.claim)) for s in placement.shares]
        await self._tell_shares(placement.pod, claim_shares_document(shares))

    async def _tell_shares(self, pod: Pod, shares: list[Document]) -> None:
        """The list as a whole: merged by claim, what an earlier attempt has left would stay."""
        status = {"nodeAllocatableResourceClaimStatuses": shares}
        await self._patch_status(pod.key, pod.uid, status, MERGE_PATCH)

    async def _bind(self, placement: Placement) -> None:
        namespace, name = placement.pod.key
        binding: Document = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": placement.pod.uid},
            "target": {"kind": "Node", "name": placement.node},
        }
        try:
            await self._context.client.create(
                PODS, binding, namespace, name=name, subresource="binding", fresh=True
            )
        except ApiError as error:
            if not await self._is_bound(placement, error):
                raise
        document = self._pods.get(name, namespace)
        if document is not None:
            text = f"Successfully assigned {namespace}/{name} to {placement.node}"
            self._recorders.record(document, "Normal", "Scheduled", text, BINDING)

    async def _is_bound(self, placement: Placement, error: ApiError) -> bool:
        """Whether the binding was written although the call failed: its answer may be lost.

        To take the pod's room for free until the watch tells otherwise would give it away twice,
        and what was made for a bound pod must stay; so this is asked until it is answered.
        """
        if error.code < 500 and error.reason != "Conflict":
            return False
        document = await outcome(self._context, PODS, placement.pod.key)
        if document is None:
            return False
        same = document["metadata"].get("uid") == placement.pod.uid
        if not same or node_of(document) != placement.node:
            return False
        self._pods.observe(document)
        return True

    async def refuse(
        self,
        pod: Pod,
        message: str,
        code: str = UNSCHEDULABLE,
        *,
        event: bool = True,
        nominated: str | None = None,
    ) -> None:
        """Record on the pod why it has no node, if that is news; a repeated event only counts.

        In the same write: ``nominated``, the node on which room is being made for it, or "" if it
        waits for none any more.
        """
        document = self._pods.get(pod.key[1], pod.key[0])
        if document is not None and document["metadata"].get("uid") == pod.uid:
            await self.refuse_document(document, message, code, event=event, nominated=nominated)

    async def refuse_document(
        self,
        document: Document,
        message: str,
        code: str,
        *,
        event: bool = True,
        nominated: str | None = None,
    ) -> None:
        """As :meth:`refuse`, of a pod as it was written: there may be no way to read it."""
        if event:
            self._recorders.record(document, "Warning", "FailedScheduling", message)
        known = writes.find_condition(document, "PodScheduled") or {}
        status: Document = {}
        if nominated is not None and nominated != _nominated_node(document):
            status["nominatedNodeName"] = nominated or None
        if not _says(known, code, message):
            condition = {
                "type": "PodScheduled",
                "status": "False",
                "observedGeneration": _generation(document),
                "reason": code,
                "message": message,
            }
            if known.get("status") != "False":
                condition["lastTransitionTime"] = rfc3339(self._context.clock.now())
            status["conditions"] = [condition]
        if status:
            uid = document["metadata"].get("uid", "")
            await self._patch_status(key_of(document), uid, status)

    async def hold(self, pod: Pod, message: str, code: str = UNSCHEDULABLE) -> None:
        """Record that the pod cannot be looked at yet; nothing if its condition says so already."""
        document = self._pods.get(pod.key[1], pod.key[0])
        known = writes.find_condition(document or {}, "PodScheduled") or {}
        if document is not None and not _says(known, code, message):
            await self.refuse(pod, message, code)

    async def nominate(self, pod: Pod, node: str) -> None:
        """Record where room is being made for the pod ("" takes it back)."""
        await self._patch_pod(pod, {"nominatedNodeName": node or None})

    async def _patch_pod(self, pod: Pod, status: Document) -> None:
        await self._patch_status(pod.key, pod.uid, status)

    async def _patch_status(
        self, key: Key, uid: str, status: Document, patch_type: str = STRATEGIC_MERGE_PATCH
    ) -> None:
        namespace, name = key
        patch: Document = {"metadata": {"uid": uid}, "status": status}
        try:
            answer = await self._context.client.patch(
                PODS,
                name,
                patch,
                namespace,
                patch_type=patch_type,
                subresource="status",
            )
            self._pods.observe(answer)
        except ApiError as error:
            if error.reason not in ("NotFound", "Conflict"):
                raise

    async def resize_waits(self, pod: Pod, message: str) -> None:
        """Tell why the pod cannot grow yet; its PodScheduled condition is not touched."""
        document = self._pods.get(pod.key[1], pod.key[0])
        if document is not None and document["metadata"].get("uid") == pod.uid:
            self._recorders.record(document, "Warning", "FailedScheduling", message)

    async def preempt(self, preemption: Preemption) -> None:
        """Delete the victims, telling each why; the pods are nominated already.

        All are told before the first goes, by which a scheduler that comes after this one knows
        who was to go together (:mod:`left_behind`).
        """
        preemptor = self._preemptor(preemption.nominations[0][0])
        for victim in preemption.victims:
            await self._mark(victim, preemptor)
        for composite, key in preemption.units:
            await self.groups.disrupted(composite, key, preemptor.purpose)
        for victim in preemption.victims:
            await self._evict(victim, preemptor)

    def nominations(self, preemption: Preemption) -> dict[Key, str]:
        """The nodes to nominate, by pod; one that grows where it runs (KEP-5836) is not."""
        return {pod.key: node for pod, node in preemption.nominations if not self._runs(pod)}

    def _scheduler_of(self, pod: Pod) -> str:
        return scheduler_name(self._pods.get(pod.key[1], pod.key[0]) or {})

    def _preemptor(self, pod: Pod) -> _Preemptor:
        """For whom room is made: the pod's group, unless it is there alone or grows where it is."""
        scheduler, group = self._scheduler_of(pod), None
        if pod.gang is not None and not self._runs(pod):
            group = self.groups.native(pod.gang)
        if group is not None:
            return _Preemptor(scheduler, "podgroup", group["metadata"]["uid"], group)
        return _Preemptor(scheduler, "pod", pod.uid, self._pods.get(pod.key[1], pod.key[0]))

    def _runs(self, pod: Pod) -> bool:
        document = self._pods.get(pod.key[1], pod.key[0]) or {}
        return bool(node_of(document))

    def is_going(self, victim: Pod) -> bool:
        """Whether the pod is gone, or on its way."""
        document = self._pods.get(victim.key[1], victim.key[0])
        return (
            document is None
            or document["metadata"].get("uid") != victim.uid
            or writes.is_terminating(document)
        )

    async def _mark(self, victim: Pod, preemptor: _Preemptor) -> None:
        document = self._pods.get(victim.key[1], victim.key[0])
        if document is None or self.is_going(victim):
            return  # its room is coming anyway
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "observedGeneration": _generation(document),
            "reason": "PreemptionByScheduler",
            "message": preemptor.purpose,
            "lastTransitionTime": rfc3339(self._context.clock.now()),
        }
        await self._patch_pod(victim, {"conditions": [condition]})

    async def _evict(self, victim: Pod, preemptor: _Preemptor) -> None:
        document = self._pods.get(victim.key[1], victim.key[0])
        if document is None or self.is_going(victim):
            return
        await writes.delete(self._context, PODS, document)
        node = node_of(document)
        text = f"Preempted by {preemptor.kind} {preemptor.uid} on node {node}"
        self._recorders.record(
            document,
            "Normal",
            "Preempted",
            text,
            PREEMPTING,
            by=preemptor.scheduler,
            related=preemptor.document,
        )


class _Preemptor(NamedTuple):
    """For whom victims go, and by which scheduler's decision."""

    scheduler: str
    kind: str  # pod or podgroup
    uid: str
    document: Document | None

    @property
    def purpose(self) -> str:
        return f"{self.scheduler}: preempting to accommodate a higher priority {self.kind}"


def _nominated_node(document: Document) -> str:
    return (document.get("status") or {}).get("nominatedNodeName") or ""


def _generation(document: Document) -> int:
    return int(document["metadata"].get("generation") or 1)


def _says(condition: Document, code: str, message: str) -> bool:
    """Whether the condition tells this already: of which generation it was told is no news."""
    told = tuple(condition.get(field) for field in ("status", "reason", "message"))
    return told == ("False", code, message)


def _waits(document: Document, pod: Pod) -> bool:
    return (
        document["metadata"].get("uid") == pod.uid
        and not writes.is_terminating(document)
        and not node_of(document)
    )
