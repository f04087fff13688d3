"""Writing a decision through the API: claims first, then bindings, then what users read about it.

Every write can fail because the object moved on; then nothing of that pod is kept, and the
scheduler decides again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from kubarium.api.kinds import (
    COMPOSITE_POD_GROUPS,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    POD_GROUPS,
    PODS,
    RESOURCE_CLAIMS,
)
from kubarium.api.resource import Document, Resource
from kubarium.base.clock import rfc3339
from kubarium.base.errors import ApiError, conflict, not_found
from kubarium.client.protocol import MERGE_PATCH, STRATEGIC_MERGE_PATCH
from kubarium.control.scheduling.extended import ExtendedClaims
from kubarium.control.scheduling.held import UNSCHEDULABLE
from kubarium.control.scheduling.queue import ItemKey
from kubarium.engine.devices.model import Allocation, DeviceId
from kubarium.engine.model import Key, Pod
from kubarium.engine.placement.profile import Profile
from kubarium.engine.placement.reservation import Reservation
from kubarium.engine.plan import Placement, Preemption
from kubarium.runtime import writes
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context
from kubarium.view.cluster import ClusterView, key_of
from kubarium.view.consumers import (
    consumer,
    is_group_consumer,
    is_pod_consumer,
    not_made_for,
)
from kubarium.view.devices import allocation_document, allocation_row, is_allocated
from kubarium.view.extended import CLAIM_FINALIZER, extended_owner, is_pending_key
from kubarium.view.gangs import COSCHEDULING_GROUPS
from kubarium.view.pods import claim_shares_document, node_of, seconds
from kubarium.view.profiles import scheduler_name
from kubarium.view.readiness import failed_devices, unready_devices
from kubarium.view.volumes import BIND_COMPLETED, candidates, is_bound, reach, waiting_claims

SELECTED_NODE = "volume.kubernetes.io/selected-node"

# Upstream looks this often whether devices have been made ready (KEP-5007).
CONDITION_POLL_S = 5.0

# An object that others write to at the same time is tried this often before the pod backs off.
WRITE_ATTEMPTS = 5

# Pauses between the tries to learn what became of a write; an API that is away for longer than
# these has lost its clients' watches too.
OUTCOME_PAUSES_S = (0.1, 0.2, 0.5, 1.0, *(2.0,) * 30)


class DeviceNotReadyError(Exception):
    """A device's binding conditions failed or did not become true in time."""


def needs_preparation(allocation: Allocation) -> bool:
    """Whether a device has conditions that must hold before the pod may be bound."""
    return any(result.binding_conditions for result in allocation.results)


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
        self._claims = context.informers.get(RESOURCE_CLAIMS)
        self._pods = context.informers.get(PODS)
        self._groups = context.informers.get(POD_GROUPS)
        self._composites = context.informers.get(COMPOSITE_POD_GROUPS)
        self._coscheduling = context.informers.get(COSCHEDULING_GROUPS)
        self._volume_claims = context.informers.get(PERSISTENT_VOLUME_CLAIMS)
        self._volume_claims.on_change(self._claim_changed)
        self._binding: dict[Key, asyncio.Event] = {}
        self._extended = ExtendedClaims(context, view)
        self._recorders: dict[str, EventRecorder] = {}  # by profile

    async def reserve(self, placement: Placement) -> Staged:
        """The first of three steps: claims are allocated and reserved, volumes chosen or asked for.

        Each step raises ApiError if a write fails, DeviceNotReadyError if a device or a volume
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
        except (ApiError, DeviceNotReadyError):
            with contextlib.suppress(ApiError):  # the next try finds it
                await self.discard(placement.pod)
            raise

    async def discard(self, pod: Pod) -> None:
        """Delete the claim that was made for the pod's extended resources, if any."""
        if any(map(is_pending_key, pod.claims)):
            await self._extended.discard(pod)

    async def _reserve(self, placement: Placement) -> Staged:
        pod = placement.pod
        allocations = [(await self._real_key(k, pod), a) for k, a in placement.allocations]
        for key, allocation in allocations:
            await self._claim(key, allocation, placement)
        allocated = {key for key, _ in allocations}
        for key in pod.claims:
            if key not in allocated and not is_pending_key(key):
                # Allocated with another pod, which may not have written it yet, or may have failed.
                await self._claim(key, self._view.snapshot.allocations.get(key), placement)
        waiting = waiting_claims(self._view.snapshot, pod.volumes)
        for key in waiting:
            await self._volume(key, placement.node)
        return Staged(placement, tuple(allocations), tuple(waiting))

    async def _prepare(self, staged: Staged, profile: Profile) -> Staged:
        pod = staged.placement.pod
        fresh = [key for key, a in staged.allocations if needs_preparation(a)]
        unready = [*fresh, *self._held_unready(staged.placement)]
        if unready:
            self._tell_waiting(pod, staged.placement.node)
        for key in unready:
            await self._prepared(key, pod, profile.device_timeout_s)
        for key in staged.volumes:
            await self._until_bound(key, pod, profile.volume_timeout_s)
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

    def waits_for_volumes(self, pod: Pod) -> bool:
        """Whether a volume must be made or bound before the pod may be."""
        return bool(pod.volumes) and bool(waiting_claims(self._view.snapshot, pod.volumes))

    async def _until_bound(self, key: Key, pod: Pod, timeout_s: float) -> None:
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
                raise DeviceNotReadyError(text)
            if clock.monotonic() >= deadline:
                raise DeviceNotReadyError("binding volumes: context deadline exceeded")
            changed = self._binding.setdefault(key, asyncio.Event())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONDITION_POLL_S):
                    await changed.wait()
            self._binding.pop(key, None)

    def _claim_changed(self, old: Document | None, new: Document | None) -> None:
        document = new or old
        assert document is not None
        waiting = self._binding.get(key_of(document))
        if waiting is not None:
            waiting.set()

    async def _real_key(self, key: Key, pod: Pod) -> Key:
        """The claim behind a key; the one for extended resources is made now."""
        if not is_pending_key(key):
            return key
        claim = await self._extended.ensure(pod)
        if claim is None:
            raise not_found("pods", "", pod.key[1])
        return key_of(claim)

    def waits_for_devices(self, placement: Placement) -> bool:
        """Whether a device of the pod's claims must be made ready before the pod may be bound.

        Also one that was allocated for another pod, or before this scheduler was started.
        """
        fresh = any(needs_preparation(allocation) for _, allocation in placement.allocations)
        return fresh or bool(self._held_unready(placement))

    def _held_unready(self, placement: Placement) -> list[Key]:
        """The pod's claims that had an allocation already, of devices that are not ready."""
        fresh = {key for key, _ in placement.allocations}
        found: list[Key] = []
        for key in placement.pod.claims:
            if key in fresh:
                continue
            allocation = self._view.snapshot.allocations.get(key)
            if allocation is None or not needs_preparation(allocation):
                continue
            claim = self._claims.get(key[1], key[0])
            if claim is None or unready_devices(claim):
                found.append(key)
        return found

    def _tell_waiting(self, pod: Pod, node: str) -> None:
        document = self._pods.get(pod.key[1], pod.key[0])
        if document is not None:
            text = f"waiting for binding conditions for device on node {node}"
            self._record(document, "Normal", "BindingConditionsPending", text)

    async def _prepared(self, key: Key, pod: Pod, timeout_s: float) -> None:
        """Until all binding conditions of the claim's devices are true in its status.

        Time counts from the allocation, whoever waited for it before; a wall clock that is set
        meanwhile changes nothing.
        """
        clock = self._context.clock
        deadline, known = clock.monotonic() + timeout_s, -1.0
        while True:
            document = self._pods.get(pod.key[1], pod.key[0])
            if document is None or document["metadata"].get("uid") != pod.uid:
                raise not_found("pods", "", pod.key[1])
            claim = self._claims.get(key[1], key[0])
            if claim is not None and is_allocated(claim):
                _check_failures(claim)
                if not unready_devices(claim):
                    return
                allocated = _allocated_at(claim, clock.now())
                if allocated != known:
                    known = allocated
                    waited = max(0.0, clock.now() - allocated)
                    deadline = min(deadline, clock.monotonic() + timeout_s - waited)
            if clock.monotonic() >= deadline:
                raise DeviceNotReadyError(f"device binding timeout: claim={key[1]}")
            await clock.sleep(CONDITION_POLL_S)

    async def release(self, pod: Pod, keys: list[Key]) -> None:
        """Take back the allocations that were written for a pod which will not be bound.

        Those too that it found, of devices that must be made ready: others may do better.
        """
        held = self._view.snapshot.allocations
        found = [k for k in pod.claims if (a := held.get(k)) is not None and needs_preparation(a)]
        for key in dict.fromkeys([*keys, *found]):
            if not is_pending_key(key):  # that one is already discarded
                await self._insist_on_claim(key, lambda c: self._give_up_claim(c, pod))

    async def deallocate(self, key: Key) -> None:
        """Take the devices back of a claim that only pods without a node use, or nobody.

        Upstream does so in PostFilter, where it is these devices that keep a pod from other nodes.
        """

        async def write(claim: Document) -> None:
            # A pod may have been decided on these devices since.
            if is_allocated(claim) and not self._view.snapshot.claim_users.get(key):
                users = (claim.get("status") or {}).get("reservedFor") or ()
                if all(self._waits_with(user, key[0]) for user in users):
                    await self._free(claim)

        await self._insist_on_claim(key, write)

    def _waits_with(self, user: Document, namespace: str) -> bool:
        """Whether a consumer of a claim that no pod with a node counts on may wait for another."""
        if not is_pod_consumer(user):
            return is_group_consumer(user)
        pod = self._pods.get(user["name"], namespace)
        return pod is None or pod["metadata"].get("uid") != user["uid"] or not node_of(pod)

    async def _free(self, claim: Document) -> None:
        status = claim.get("status") or {}
        kept = {
            f: v for f, v in status.items() if f not in ("reservedFor", "allocation", "devices")
        }
        await writes.update_status(self._context, RESOURCE_CLAIMS, claim, kept)

    async def _insist_on_claim(
        self, key: Key, write: Callable[[Document], Awaitable[None]]
    ) -> None:
        """As :meth:`_insist`; a claim that is gone has no allocation either."""
        try:
            await self._insist(RESOURCE_CLAIMS, key, None, write)
        except ApiError as error:
            if error.reason != "NotFound":
                raise

    def held_in_vain(self, pod: Pod) -> list[Key]:
        """The pod's claims that have devices although no pod with a node uses them.

        They were allocated with a decision that was not carried out.
        """
        held, users = self._view.snapshot.allocations, self._view.snapshot.claim_users
        names = dict.fromkeys(key for one in pod.each for key in one.claims)
        return [key for key in names if key in held and not users.get(key)]

    async def give_back(self, pod: Pod) -> None:
        """Free the devices that the pod holds in vain; the pod must not be decided meanwhile."""
        for key in self.held_in_vain(pod):
            await self.deallocate(key)

    async def _insist(
        self,
        resource: Resource,
        key: Key,
        document: Document | None,
        write: Callable[[Document], Awaitable[None]],
    ) -> None:
        """Write to an object to which others write at the same time: read again, and try again.

        The first try is with ``document``, if there is one.
        """
        for attempt in range(WRITE_ATTEMPTS):
            if document is None or attempt:
                document = await self._context.client.get(resource, key[1], key[0])
            try:
                await write(document)
                return
            except ApiError as error:
                if error.reason != "Conflict" or attempt == WRITE_ATTEMPTS - 1:
                    raise

    async def _give_up_claim(self, claim: Document, pod: Pod) -> None:
        """Take the pod out of those who use the claim; its devices, too, if it was the last.

        A group's claim is reserved for the group, which goes with the last pod that counts on it.
        """
        status = dict(claim.get("status") or {})
        user = self._consumer(claim, pod)
        sharers = set(self._view.snapshot.claim_users.get(key_of(claim), ())) - {pod.key}
        if user["uid"] != pod.uid and sharers:
            return
        others = [r for r in status.get("reservedFor") or () if r.get("uid") != user["uid"]]
        if not others:
            await self._free(claim)
        elif len(others) < len(status["reservedFor"]):
            status["reservedFor"] = others
            await writes.update_status(self._context, RESOURCE_CLAIMS, claim, status)

    async def _claim(self, key: Key, allocation: Allocation | None, placement: Placement) -> None:
        """Write allocation (if it is not there already) and reservation into one claim."""
        try:
            await self._insist(
                RESOURCE_CLAIMS,
                key,
                self._claims.get(key[1], key[0]),
                lambda claim: self._write_claim(claim, allocation, placement),
            )
        except ApiError as error:
            if error.code >= 500:  # it may have been written all the same
                found = await self._outcome(RESOURCE_CLAIMS, key)
                if found is not None:
                    self._claims.observe(found)
            raise

    async def _write_claim(
        self, document: Document, allocation: Allocation | None, placement: Placement
    ) -> None:
        pod, status = placement.pod, dict(document.get("status") or {})
        if writes.is_terminating(document):
            raise _outdated(document, "got deleted in the meantime")
        user = self._pods.get(pod.key[1], pod.key[0])
        why = not_made_for(document, user) if user is not None else ""
        if why:
            raise _outdated(document, why)
        if status.get("allocation"):
            self._check_same(document, allocation, placement.node)
        elif allocation is not None:
            document = await self._protected(document)
            status["allocation"] = allocation_document(
                document, allocation, self._view.class_documents.get, self._context.chance.uid
            )
            now = rfc3339(self._context.clock.now())
            status["allocation"]["allocationTimestamp"] = now
        if not status.get("allocation"):
            raise _outdated(document, "got deallocated in the meantime")
        reserved = list(status.get("reservedFor") or ())
        entry = self._consumer(document, pod)
        if not any(known.get("uid") == entry["uid"] for known in reserved):
            reserved.append(entry)
        status["reservedFor"] = reserved
        await writes.update_status(self._context, RESOURCE_CLAIMS, document, status, fresh=True)
        if extended_owner(document) == pod.uid:
            await self._extended.record(pod, key_of(document))

    def _check_same(self, claim: Document, allocation: Allocation | None, node: str) -> None:
        """Conflict if somebody else gave the claim other devices than the decision counts on."""
        there, found = allocation_row(claim), self._view.snapshot.node(node)
        assert there is not None
        labels = found.labels if found is not None else {}
        same = allocation is None or _devices(there) == _devices(allocation)
        if not same or not there.scope.admits(node, labels):
            raise _outdated(claim, "got allocated elsewhere in the meantime")

    async def _protected(self, claim: Document) -> Document:
        """The claim with the finalizer that keeps it while it is allocated."""
        metadata = claim["metadata"]
        held = metadata.get("finalizers") or []
        if CLAIM_FINALIZER in held:
            return claim
        changed = {**claim, "metadata": {**metadata, "finalizers": [*held, CLAIM_FINALIZER]}}
        return await writes.update(self._context, RESOURCE_CLAIMS, changed, fresh=True)

    def _consumer(self, claim: Document, pod: Pod) -> Document:
        """The pod, or its group where the claim is the group's."""
        document = self._pods.get(pod.key[1], pod.key[0])
        if document is None or document["metadata"].get("uid") != pod.uid:
            return {"resource": "pods", "name": pod.key[1], "uid": pod.uid}
        group = self._groups.get(pod.gang[1], pod.gang[0]) if pod.gang else None
        return consumer(claim["metadata"]["name"], document, group)

    async def _volume(self, key: Key, node: str) -> None:
        """Bind a claim that waited for its pod's node to a free volume there, or have one made.

        The volume is taken by a conditional write, so that of two pods that chose it one decides
        again. Without a volume that exists, the annotation asks the class's provisioner for one.
        """
        claim = await self._context.client.get(PERSISTENT_VOLUME_CLAIMS, key[1], key[0])
        if (claim.get("spec") or {}).get("volumeName"):
            return
        volumes = self._context.informers.get(PERSISTENT_VOLUMES).items()
        usable = [v for v in candidates(claim, volumes) if self._reaches(v, node)]
        _, chosen = self._view.snapshot.assumed_volumes.get(key, ("", ""))
        usable.sort(key=lambda v: v["metadata"]["name"] != chosen)
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
        client, name = self._context.client, volume["metadata"]["name"]
        taken = await client.update(PERSISTENT_VOLUMES, taken)
        status = {**(taken.get("status") or {}), "phase": "Bound"}
        await writes.update_status(self._context, PERSISTENT_VOLUMES, taken, status)
        notes = {SELECTED_NODE: node, BIND_COMPLETED: "yes"}
        bound = {"spec": {"volumeName": name}, "metadata": {"annotations": notes}}
        claim = await client.patch(PERSISTENT_VOLUME_CLAIMS, key[1], bound, key[0])
        have = volume["spec"]
        status = {
            **(claim.get("status") or {}),
            "phase": "Bound",
            "capacity": have.get("capacity") or {},
            "accessModes": have.get("accessModes") or [],
        }
        await writes.update_status(self._context, PERSISTENT_VOLUME_CLAIMS, claim, status)

    def _reaches(self, volume: Document, node: str) -> bool:
        terms, found = reach(volume), self._view.snapshot.node(node)
        return terms is None or (
            found is not None and any(term.matches(node, found.labels) for term in terms)
        )

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
                PODS, binding, namespace, name=name, subresource="binding"
            )
        except ApiError as error:
            if not await self._is_bound(placement, error):
                raise
        document = self._pods.get(name, namespace)
        if document is not None:
            text = f"Successfully assigned {namespace}/{name} to {placement.node}"
            self._record(document, "Normal", "Scheduled", text)

    async def _is_bound(self, placement: Placement, error: ApiError) -> bool:
        """Whether the binding was written although the call failed: its answer may be lost.

        To take the pod's room for free until the watch tells otherwise would give it away twice,
        and what was made for a bound pod must stay; so this is asked until it is answered.
        """
        if error.code < 500 and error.reason != "Conflict":
            return False
        document = await self._outcome(PODS, placement.pod.key)
        if document is None:
            return False
        same = document["metadata"].get("uid") == placement.pod.uid
        if not same or node_of(document) != placement.node:
            return False
        self._pods.observe(document)
        return True

    async def _outcome(self, resource: Resource, key: Key) -> Document | None:
        """The object after a write without an answer; None if it is gone, or the API stays away."""
        for pause_s in OUTCOME_PAUSES_S:
            try:
                return await self._context.client.get(resource, key[1], key[0])
            except ApiError as error:
                if error.reason == "NotFound":
                    return None
                await self._context.clock.sleep(pause_s)
        return None

    async def refuse(
        self,
        pod: Pod,
        message: str,
        code: str = UNSCHEDULABLE,
        *,
        event: bool = True,
        nominated: str = "",
    ) -> None:
        """Record on the pod why it has no node, if that is news; a repeated event only counts.

        In the same write: ``nominated``, the node on which room is being made for it.
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
        nominated: str = "",
    ) -> None:
        """As :meth:`refuse`, of a pod as it was written: there may be no way to read it."""
        if event:
            self._record(document, "Warning", "FailedScheduling", message)
        known = writes.find_condition(document, "PodScheduled") or {}
        status: Document = {"nominatedNodeName": nominated} if nominated else {}
        if known.get("status") != "False" or known.get("message") != message:
            condition = {
                "type": "PodScheduled",
                "status": "False",
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
        if known.get("status") != "False" or known.get("message") != message:
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
            self._record(document, "Warning", "FailedScheduling", message)

    async def preempt(self, preemption: Preemption) -> None:
        """Delete the victims, telling each why; the pods are nominated already."""
        preemptor, _ = preemption.nominations[0]
        for composite, key in preemption.units:
            await self._disrupted(composite, key, self._scheduler_of(preemptor))
        for victim in preemption.victims:
            await self._evict(victim, preemptor)

    def nominations(self, preemption: Preemption) -> dict[Key, str]:
        """The nodes to nominate, by pod; one that grows where it runs (KEP-5836) is not."""
        return {pod.key: node for pod, node in preemption.nominations if not self._runs(pod)}

    def _scheduler_of(self, pod: Pod) -> str:
        return scheduler_name(self._pods.get(pod.key[1], pod.key[0]) or {})

    def _record(
        self, document: Document, type_: str, reason: str, message: str, by: str = ""
    ) -> None:
        """An event that the scheduler of a profile tells: the one that the object names."""
        name = by or scheduler_name(document)
        recorder = self._recorders.get(name)
        if recorder is None:
            recorder = self._recorders[name] = EventRecorder(self._context, name)
        recorder.event(document, type_, reason, message)

    def _runs(self, pod: Pod) -> bool:
        document = self._pods.get(pod.key[1], pod.key[0]) or {}
        return bool(node_of(document))

    async def _disrupted(self, composite: bool, key: Key, scheduler: str) -> None:
        """Tell a group that goes as a whole, and the groups below it."""
        members = list(self._view.forest.below(key)) if composite else [(False, key)]
        for is_composite, member in members:
            resource = COMPOSITE_POD_GROUPS if is_composite else POD_GROUPS
            document = self._context.informers.get(resource).get(member[1], member[0])
            if document is not None:
                text = f"{scheduler}: preempting to accommodate a higher priority pod group"
                await self._set_condition(
                    resource, document, "DisruptionTarget", "True", "PreemptionByScheduler", text
                )

    async def _evict(self, victim: Pod, preemptor: Pod) -> None:
        namespace, name = victim.key
        document = self._pods.get(name, namespace)
        if document is None or writes.is_terminating(document):
            return  # its room is coming anyway
        scheduler = self._scheduler_of(preemptor)
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": f"{scheduler}: preempting to accommodate a higher priority pod",
            "lastTransitionTime": rfc3339(self._context.clock.now()),
        }
        await self._patch_pod(victim, {"conditions": [condition]})
        node = node_of(document)
        text = f"Preempted by pod {preemptor.uid} on node {node}"
        self._record(document, "Normal", "Preempted", text, by=scheduler)
        await writes.delete(self._context, PODS, document)

    async def reserved(self, item: ItemKey, reservation: Reservation) -> None:
        """Tell the group for which nodes are kept free, and how many."""
        document = self._composite(item.key) if item.composite else self._group(item.key)
        if item.gang and document is not None:
            count = len(dict.fromkeys(node for _, node in reservation))
            text = f"Reserved room on {count} nodes, which running jobs will leave"
            self._record(document, "Normal", "Reserved", text)

    def _group(self, key: Key) -> Document | None:
        found = self._groups.get(key[1], key[0])
        return found or self._coscheduling.get(key[1], key[0])

    def _composite(self, key: Key) -> Document | None:
        return self._composites.get(key[1], key[0])

    async def group_scheduled(
        self, key: Key, scheduled: bool, message: str, code: str = UNSCHEDULABLE
    ) -> None:
        """Set PodGroupInitiallyScheduled; once True it stays so. ``code``: the reason if False."""
        document = self._groups.get(key[1], key[0])
        if document is None:
            await self._coscheduled(key, scheduled, message)
        else:
            await self._initially(POD_GROUPS, document, scheduled, message, code)

    async def composite_scheduled(
        self, key: Key, scheduled: bool, message: str, code: str = UNSCHEDULABLE
    ) -> None:
        """Set CompositePodGroupInitiallyScheduled; once True it stays so."""
        document = self._composite(key)
        if document is not None:
            await self._initially(COMPOSITE_POD_GROUPS, document, scheduled, message, code)

    async def _initially(
        self, resource: Resource, document: Document, scheduled: bool, message: str, code: str
    ) -> None:
        kind = f"{resource.kind}InitiallyScheduled"
        if writes.condition_is_true(document.get("status") or {}, kind):
            return
        if not scheduled:
            self._record(document, "Warning", "FailedScheduling", message)
        status, reason = ("True", "Scheduled") if scheduled else ("False", code)
        await self._set_condition(resource, document, kind, status, reason, message)

    async def _set_condition(
        self,
        resource: Resource,
        document: Document,
        kind: str,
        value: str,
        reason: str,
        message: str,
    ) -> None:
        """Write one condition of a group; nothing if the group is gone or the condition is True."""

        def changed(document: Document) -> Document | None:
            status = document.get("status") or {}
            if writes.condition_is_true(status, kind):
                return None
            conditions = writes.set_condition(
                status.get("conditions") or (),
                kind,
                value,
                reason,
                message,
                self._context.clock.now(),
                observedGeneration=document["metadata"].get("generation", 1),
            )
            return {**status, "conditions": conditions}

        await self._change_status(resource, document, changed)

    async def _change_status(
        self,
        resource: Resource,
        document: Document,
        changed: Callable[[Document], Document | None],
    ) -> None:
        """Write what ``changed`` makes of the status (None: nothing), of what is there now.

        A group that somebody else writes to at the same time is read again; one that is gone, or
        whose name another has, is left alone.
        """
        uid = document["metadata"].get("uid")

        async def write(current: Document) -> None:
            status = changed(current) if current["metadata"].get("uid") == uid else None
            if status is not None:
                await writes.update_status(self._context, resource, current, status)

        try:
            await self._insist(resource, key_of(document), document, write)
        except ApiError as error:
            if error.reason != "NotFound":
                raise

    async def _coscheduled(self, key: Key, scheduled: bool, message: str) -> None:
        """The phase of a scheduler-plugins PodGroup: Pending until its minimum has nodes."""
        document = self._coscheduling.get(key[1], key[0])
        if document is None:
            return
        if not scheduled:
            self._record(document, "Warning", "FailedScheduling", message)

        def changed(document: Document) -> Document | None:
            status = dict(document.get("status") or {})
            if status.get("phase") in ("Running", "Finished", "Failed"):
                return None  # how it went on is counted from its pods (control.gangs)
            phase = "Scheduling" if scheduled else status.get("phase") or "Pending"
            if status.get("phase") == phase:
                return None
            if scheduled:
                status["scheduleStartTime"] = rfc3339(self._context.clock.now())
            return {**status, "phase": phase}

        await self._change_status(COSCHEDULING_GROUPS, document, changed)


def _outdated(claim: Document, why: str) -> ApiError:
    """The decision counts on what is no more; said in upstream's words."""
    return conflict("resourceclaims", RESOURCE_CLAIMS.group, claim["metadata"]["name"], why)


def _devices(allocation: Allocation) -> list[tuple[str, DeviceId]]:
    return sorted((result.request, result.id) for result in allocation.results)


def _waits(document: Document, pod: Pod) -> bool:
    return (
        document["metadata"].get("uid") == pod.uid
        and not writes.is_terminating(document)
        and not node_of(document)
    )


def _allocated_at(claim: Document, otherwise: float) -> float:
    """In seconds since the epoch."""
    return seconds(claim["status"]["allocation"].get("allocationTimestamp"), otherwise)


def _check_failures(claim: Document) -> None:
    """DeviceNotReadyError, in upstream's words first, if a device cannot be made ready."""
    for device, failed in failed_devices(claim):
        reason, message = failed.get("reason", ""), json.dumps(failed.get("message", ""))
        where = f"device {device} reports {failed.get('type', '')}"
        text = f"claim={claim['metadata']['name']}, reason={reason}, message={message}"
        raise DeviceNotReadyError(f"device binding failed: {text} ({where})")
