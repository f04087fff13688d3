"""Claims of a placement: allocated and reserved, made ready, given back.

A claim's devices are written by a conditional update; whoever else allocated it meanwhile wins, and
the pod is decided again. (Source: ``dynamicresources.go``: bindClaim, PreBind, PostFilter.)
"""

from __future__ import annotations

import json
from dataclasses import replace

from kubarium.api.kinds import POD_GROUPS, PODS, RESOURCE_CLAIMS
from kubarium.api.resource import Document
from kubarium.base.clock import rfc3339
from kubarium.base.errors import ApiError, conflict, not_found
from kubarium.control.scheduling.extended import ExtendedClaims
from kubarium.control.scheduling.news import News
from kubarium.control.scheduling.outcomes import insist, insist_if_there, outcome
from kubarium.control.scheduling.recorders import Recorders
from kubarium.engine import reasons
from kubarium.engine.devices.model import Allocation, DeviceId
from kubarium.engine.model import Key, Pod
from kubarium.engine.plan import Placement
from kubarium.runtime import writes
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
from kubarium.view.pods import node_of, seconds
from kubarium.view.readiness import (
    failed_devices,
    failed_ids,
    unready_devices,
    unready_ids,
)

# Upstream looks this often whether devices have been made ready (KEP-5007); here a change of the
# claim is seen at once, and this often whether the pod is still there.
CONDITION_POLL_S = 5.0


class NotReadyError(Exception):
    """A device or a volume could not be made ready, or not in time.

    ``devices`` are which, ``why`` is the reason alone.
    """

    def __init__(self, text: str, devices: tuple[DeviceId, ...] = (), why: str = "") -> None:
        super().__init__(text)
        self.devices, self.why = devices, why


def needs_preparation(allocation: Allocation) -> bool:
    """Whether a device has conditions that must hold before the pod may be bound."""
    return any(result.binding_conditions for result in allocation.results)


class ClaimWriter:
    """Writes what pods get of devices into their claims."""

    def __init__(self, context: Context, view: ClusterView, recorders: Recorders) -> None:
        self._context = context
        self._view = view
        self._recorders = recorders
        self._claims = context.informers.get(RESOURCE_CLAIMS)
        self._news = News(self._claims)
        self._pods = context.informers.get(PODS)
        self._groups = context.informers.get(POD_GROUPS)
        self._extended = ExtendedClaims(context, view)

    async def discard(self, pod: Pod) -> None:
        """Delete the claim that was made for the pod's extended resources, if any."""
        if any(map(is_pending_key, pod.claims)):
            await self._extended.discard(pod)

    async def clear(self, pod: Pod) -> None:
        """Delete claims for extended resources that were made for the pod and are of no use now."""
        await self._extended.clear(pod)

    async def real_key(self, key: Key, pod: Pod) -> Key:
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
        return fresh or bool(self.unready(placement))

    def unready(self, placement: Placement) -> list[Key]:
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

    def mark_overdue(self, pod: Pod, timeout_s: float) -> None:
        """Claims whose devices have had their time count as failed: the pod does not wait anew."""
        snapshot = self._view.snapshot
        for key in pod.claims:
            allocation = snapshot.allocations.get(key)
            if allocation is None or not needs_preparation(allocation):
                continue
            claim, document = snapshot.claims[key], self._claims.get(key[1], key[0])
            if claim.failed or document is None or not is_allocated(document):
                continue
            if not unready_devices(document):
                continue
            now = self._context.clock.now()
            if _allocated_at(document, now) + timeout_s < now:
                snapshot.set_claim(replace(claim, failed=True), allocation)

    def tell_waiting(self, pod: Pod, node: str) -> None:
        document = self._pods.get(pod.key[1], pod.key[0])
        if document is not None:
            text = f"waiting for binding conditions for device on node {node}"
            self._recorders.record(document, "Normal", "BindingConditionsPending", text)

    async def until_ready(self, key: Key, pod: Pod, timeout_s: float) -> None:
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
                late = tuple(unready_ids(claim)) if claim is not None else ()
                raise _not_ready(f"device binding timeout: claim={key[1]}", late)
            await self._news.of(key, max(0.0, min(CONDITION_POLL_S, deadline - clock.monotonic())))

    async def release(self, pod: Pod, keys: list[Key]) -> None:
        """Take back the allocations that were written for a pod which will not be bound.

        Those too that it found, of devices that must be made ready: others may do better.
        """
        held = self._view.snapshot.allocations
        found = [k for k in pod.claims if (a := held.get(k)) is not None and needs_preparation(a)]
        for key in dict.fromkeys([*keys, *found]):
            if not is_pending_key(key):  # that one is already discarded
                await insist_if_there(
                    self._context, RESOURCE_CLAIMS, key, None, lambda c: self._give_up(c, pod)
                )

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

        await insist_if_there(self._context, RESOURCE_CLAIMS, key, None, write)

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

    async def _give_up(self, claim: Document, pod: Pod) -> None:
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

    async def write(self, key: Key, allocation: Allocation | None, placement: Placement) -> None:
        """Write allocation (if it is not there already) and reservation into one claim."""
        try:
            await insist(
                self._context,
                RESOURCE_CLAIMS,
                key,
                self._claims.get(key[1], key[0]),
                lambda claim: self._write(claim, allocation, placement),
            )
        except ApiError as error:
            if error.code >= 500:  # it may have been written all the same
                found = await outcome(self._context, RESOURCE_CLAIMS, key)
                if found is not None:
                    self._claims.observe(found)
            raise

    async def _write(
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


def _outdated(claim: Document, why: str) -> ApiError:
    """The decision counts on what is no more; said in upstream's words."""
    return conflict("resourceclaims", RESOURCE_CLAIMS.group, claim["metadata"]["name"], why)


def _devices(allocation: Allocation) -> list[tuple[str, DeviceId]]:
    return sorted((result.request, result.id) for result in allocation.results)


def _allocated_at(claim: Document, otherwise: float) -> float:
    """In seconds since the epoch."""
    return seconds(claim["status"]["allocation"].get("allocationTimestamp"), otherwise)


def _check_failures(claim: Document) -> None:
    """NotReadyError, in upstream's words first, if a device cannot be made ready."""
    for device, failed in failed_devices(claim):
        reason, message = failed.get("reason", ""), json.dumps(failed.get("message", ""))
        where = f"device {device} reports {failed.get('type', '')}"
        text = f"claim={claim['metadata']['name']}, reason={reason}, message={message}"
        broken = tuple(failed_ids(claim))
        raise _not_ready(f"device binding failed: {text} ({where})", broken)


def _not_ready(why: str, devices: tuple[DeviceId, ...]) -> NotReadyError:
    return NotReadyError(reasons.pre_bind_failed("DynamicResources", why), devices, why)
