"""The life of a Workload beside admission: queues that stop, deactivation, admission checks,
back-off, time limits, owners that are gone.

Source: Kueue ``pkg/controller/core/workload_controller.go``.
"""

from __future__ import annotations

from collections.abc import Iterator

from kubarium.api.kinds import CLUSTER_QUEUES, LOCAL_QUEUES, WORKLOADS
from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339
from kubarium.control.queueing.cache import QueueingCache
from kubarium.engine.queueing.plan import (
    ADMISSION_GATED,
    MISCONFIGURED,
    PENDING_EVALUATION,
    SUSPENDED,
)
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context, Key
from kubarium.view.queueing.documents import (
    ADMITTED,
    DEACTIVATION_TARGET,
    EVICTED,
    FINISHED,
    JOB_UID_LABEL,
    QUOTA_RESERVED,
    REQUEUED,
    RESOURCE_IN_USE_FINALIZER,
    condition,
    is_true,
)
from kubarium.view.queueing.jobs import RESOURCES
from kubarium.view.queueing.readiness import admission_check_names, is_terminating, stop_policy
from kubarium.view.queueing.statuses import (
    EVICTED_BY_ADMISSION_CHECK,
    EVICTED_BY_CLUSTER_QUEUE,
    EVICTED_BY_DEACTIVATION,
    EVICTED_BY_LOCAL_QUEUE,
    StatusDraft,
    reason_with_cause,
)
from kubarium.view.queueing.world import same_rules

QUEUE_INDEX = "queueing/local-queue"

# What the scheduler found stays until it looks again; anything else is brought up to date here.
_SCHEDULER_REASONS = (
    "WaitingForQuota",
    "NoMatchingFlavor",
    "ExceedsMaxQuota",
    "TopologyPlacementFailed",
    "WaitingForPreemptedWorkloads",
    "WaitingForPodsReady",
    ADMISSION_GATED,
    MISCONFIGURED,
    PENDING_EVALUATION,
)
_PENDING_EVALUATION_TEXT = "Workload is pending evaluation in the scheduling queue"


class WorkloadController:
    """Reconciles Workloads."""

    def __init__(self, context: Context, cache: QueueingCache) -> None:
        self._context = context
        self._cache = cache
        self._events = EventRecorder(context, "kueue-workload-controller")
        self._workloads = context.informers.get(WORKLOADS)
        self._workloads.add_index(QUEUE_INDEX, _queue_keys)
        self.controller = Controller("kueue-workload", context, self.reconcile)
        self.controller.watches(WORKLOADS)
        self.controller.reads(LOCAL_QUEUES).on_change(self._local_queue_changed)
        self.controller.reads(CLUSTER_QUEUES).on_change(self._cluster_queue_changed)
        for resource in RESOURCES:
            self.controller.reads(resource).on_change(self._job_changed)

    # who must be looked at

    def _local_queue_changed(self, old: Document | None, new: Document | None) -> None:
        if old is not None and new is not None and same_rules(old, new):
            return
        document = new if new is not None else old
        if document is not None:
            self._enqueue_queue(document)

    def _cluster_queue_changed(self, old: Document | None, new: Document | None) -> None:
        if old is not None and new is not None and same_rules(old, new):
            return
        document = new if new is not None else old
        if document is None:
            return
        name = document["metadata"]["name"]
        for local_queue in self._context.informers.get(LOCAL_QUEUES).items():
            if (local_queue.get("spec") or {}).get("clusterQueue") == name:
                self._enqueue_queue(local_queue)

    def _enqueue_queue(self, local_queue: Document) -> None:
        metadata = local_queue["metadata"]
        value = f"{metadata['namespace']}/{metadata['name']}"
        for workload in self._workloads.by_index(QUEUE_INDEX, value):
            self.controller.enqueue(_key(workload))

    def _job_changed(self, old: Document | None, new: Document | None) -> None:
        """Only a job that goes concerns us: its Workload must not outlive it."""
        if new is None and old is not None:
            for workload in self._workloads.items(old["metadata"]["namespace"]):
                if writes.is_controlled_by(workload, old):
                    self.controller.enqueue(_key(workload))

    # reconcile

    async def reconcile(self, key: Key) -> float | None:
        namespace, name = key
        workload = self._workloads.get(name, namespace)
        if workload is None:
            return None
        if await self._orphan(workload) or is_true(workload, FINISHED):
            return None
        if (workload.get("spec") or {}).get("active") is False:
            if await self._deactivated(workload):
                return None
        elif is_true(workload, DEACTIVATION_TARGET):
            await self._deactivate(workload)
            return None
        else:
            wait_s = self._back_off_left(workload)
            if wait_s > 0:
                return wait_s
        if await self._requeue(workload):
            return None
        return await self._sync(key, workload)

    async def _sync(self, key: Key, workload: Document) -> float | None:
        world = self._cache.settled()
        cluster_queue = world.cluster_queue_of(workload)
        draft = self._draft(workload)
        if cluster_queue is not None:
            draft.sync_checks(admission_check_names(cluster_queue))
        if not draft.is_true(QUOTA_RESERVED):
            self._say_why(draft, world.blockers.get(key))
        if not draft.is_true(ADMITTED):
            draft.sync_admitted()
        if draft.changed:
            await self._save(workload, draft)
            if draft.is_true(ADMITTED) and not is_true(workload, ADMITTED):
                self._tell_admitted(workload)
            return None
        if not is_true(workload, QUOTA_RESERVED):
            return None
        if await self._check_failed(workload) or await self._queue_stopped(workload):
            return None
        return await self._limit_time(workload)

    def _say_why(self, draft: StatusDraft, blocker: tuple[str, str] | None) -> None:
        """Keep QuotaReserved=False honest for workloads that no queue holds."""
        old = draft.find(QUOTA_RESERVED)
        if blocker is not None:
            draft.unreserve(*blocker)
        elif old is not None and (
            old.get("reason") not in _SCHEDULER_REASONS
            or old.get("message", "").startswith(("LocalQueue ", "ClusterQueue "))
        ):
            draft.unreserve(PENDING_EVALUATION, _PENDING_EVALUATION_TEXT)

    def _tell_admitted(self, workload: Document) -> None:
        reserved = condition(workload, QUOTA_RESERVED) or {}
        since = reserved.get("lastTransitionTime")
        waited = self._context.clock.now() - parse_rfc3339(since) if since else 0
        queue = workload["status"]["admission"]["clusterQueue"]
        text = f"Admitted by ClusterQueue {queue}, wait time since reservation was {waited:.0f}s"
        self._events.event(workload, "Normal", "Admitted", text)

    # owners

    async def _orphan(self, workload: Document) -> bool:
        """Finish and let go of a Workload whose job is gone; True if there is no more to do."""
        owners = workload["metadata"].get("ownerReferences") or ()
        terminating = is_terminating(workload)
        labels = workload["metadata"].get("labels") or {}
        if not owners and not terminating and JOB_UID_LABEL in labels:
            if not is_true(workload, FINISHED):
                draft = self._draft(workload)
                draft.finish("OwnerNotFound", "The workload's owner no longer exists")
                await self._save(workload, draft)
                return True
        elif not terminating or any(self._is_there(workload, owner) for owner in owners):
            return False
        await writes.remove_finalizer(self._context, WORKLOADS, workload, RESOURCE_IN_USE_FINALIZER)
        return True

    def _is_there(self, workload: Document, reference: Document) -> bool:
        """Whether the owner still exists; owners of kinds that we do not know count as there."""
        for resource in RESOURCES:
            if (reference["kind"], reference["apiVersion"]) == (
                resource.kind,
                resource.api_version,
            ):
                informer = self._context.informers.get(resource)
                owner = informer.get(reference["name"], workload["metadata"]["namespace"])
                return owner is not None and owner["metadata"]["uid"] == reference["uid"]
        return True

    # activity

    async def _deactivate(self, workload: Document) -> None:
        spec = {**workload["spec"], "active": False}
        await writes.update(self._context, WORKLOADS, {**workload, "spec": spec})

    async def _deactivated(self, workload: Document) -> bool:
        """An inactive workload is evicted, and loses its back-off; True if that was done now."""
        target = condition(workload, DEACTIVATION_TARGET)
        cause = str(target.get("reason", "")) if target is not None else ""
        draft = self._draft(workload)
        draft.status.pop("requeueState", None)
        draft.remove(DEACTIVATION_TARGET)
        evicts = not is_true(workload, EVICTED) and draft.is_true(QUOTA_RESERVED)
        message = "The workload is deactivated"
        if target is not None:
            message = f"{message} due to {target.get('message', '')}"
        if evicts:
            draft.evict(EVICTED_BY_DEACTIVATION, message, cause)
        elif not draft.is_true(QUOTA_RESERVED):
            draft.requeue(EVICTED_BY_DEACTIVATION, message, False)
        if not draft.changed:
            return False
        await self._save(workload, draft)
        if evicts:
            reason = reason_with_cause(EVICTED, EVICTED_BY_DEACTIVATION)
            self._events.event(workload, "Normal", reason_with_cause(reason, cause), message)
        return True

    def _back_off_left(self, workload: Document) -> float:
        text = ((workload.get("status") or {}).get("requeueState") or {}).get("requeueAt")
        return parse_rfc3339(text) - self._context.clock.now() if text else 0.0

    async def _requeue(self, workload: Document) -> bool:
        """End a back-off that has elapsed, or a hold whose reason is gone."""
        draft = self._draft(workload)
        state = draft.status.get("requeueState") or {}
        if "requeueAt" in state and self._back_off_left(workload) <= 0:
            draft.status["requeueState"] = {k: v for k, v in state.items() if k != "requeueAt"}
        held = condition(workload, REQUEUED)
        if held is not None and held.get("status") == "False":
            told = self._requeued_now(workload, str(held.get("reason", "")))
            if told is not None:
                draft.requeue(*told, True)
        if not draft.changed:
            return False
        await self._save(workload, draft)
        return True

    def _requeued_now(self, workload: Document, reason: str) -> tuple[str, str] | None:
        """(reason, message) of Requeued=True, if what held the workload back is over."""
        world = self._cache.settled()
        active = (workload.get("spec") or {}).get("active") is not False
        local_queue = world.local_queue_of(workload)
        cluster_queue = world.cluster_queue_of(workload)
        if reason.startswith(EVICTED_BY_DEACTIVATION):
            return ("Reactivated", "The workload was reactivated") if active else None
        if reason in ("PodsReadyTimeout", EVICTED_BY_ADMISSION_CHECK):
            return ("BackoffFinished", "The workload backoff was finished") if active else None
        if reason == EVICTED_BY_LOCAL_QUEUE and _runs(local_queue):
            return "LocalQueueRestarted", "The LocalQueue was restarted after being stopped"
        if reason == EVICTED_BY_CLUSTER_QUEUE and _runs(cluster_queue):
            return "ClusterQueueRestarted", "The ClusterQueue was restarted after being stopped"
        return None

    # reasons to give quota back

    async def _check_failed(self, workload: Document) -> bool:
        """Retry: evict and come back later. Rejected: deactivate."""
        if is_true(workload, EVICTED):
            return False
        checks = (workload.get("status") or {}).get("admissionChecks") or ()
        rejected = [c for c in checks if c.get("state") == "Rejected"]
        if rejected:
            message = _checks_in_words(rejected, "Rejected")
            draft = self._draft(workload)
            draft.deactivate(EVICTED_BY_ADMISSION_CHECK, message)
            await self._save(workload, draft)
            text = f"Deactivated due to {message}"
            self._events.event(workload, "Warning", "AdmissionCheckRejected", text)
            return True
        retry = [c for c in checks if c.get("state") == "Retry"]
        if retry:
            message = f"Evicted due to {_checks_in_words(retry, 'Retry')}"
            await self._evict(workload, EVICTED_BY_ADMISSION_CHECK, message)
            return True
        return False

    async def _queue_stopped(self, workload: Document) -> bool:
        """HoldAndDrain evicts what runs; Hold takes back what is reserved but not admitted."""
        world = self._cache.settled()
        spec = workload.get("spec") or {}
        local_queue = world.local_queue_of(workload)
        admission = workload["status"].get("admission") or {}
        name = admission.get("clusterQueue", "")
        cluster_queue = world.get(CLUSTER_QUEUES, name)
        queue = spec.get("queueName") or ""
        for document, kind, queue_name, reason in (
            (local_queue, "LocalQueue", queue, EVICTED_BY_LOCAL_QUEUE),
            (cluster_queue, "ClusterQueue", name, EVICTED_BY_CLUSTER_QUEUE),
        ):
            if await self._stopped_by(workload, document, kind, queue_name, reason):
                return True
        return False

    async def _stopped_by(
        self, workload: Document, queue: Document | None, kind: str, name: str, reason: str
    ) -> bool:
        policy = stop_policy(queue) if queue is not None else "None"
        if is_true(workload, ADMITTED):
            if policy != "HoldAndDrain" or is_true(workload, EVICTED):
                return False
            await self._evict(workload, reason, f"The {kind} is stopped")
            return True
        if is_true(workload, EVICTED):
            return False
        if queue is None or is_terminating(queue):
            told = (MISCONFIGURED, f"{kind} {name} is terminating or missing")
        elif policy != "None":
            told = (SUSPENDED, f"{kind} {name} is stopped")
        else:
            return False
        draft = self._draft(workload)
        draft.unreserve(*told)
        await self._save(workload, draft)
        return True

    async def _limit_time(self, workload: Document) -> float | None:
        """``maximumExecutionTimeSeconds`` counts the time admitted, over all admissions."""
        limit_s = (workload.get("spec") or {}).get("maximumExecutionTimeSeconds")
        admitted = condition(workload, ADMITTED)
        if limit_s is None or admitted is None or admitted.get("status") != "True":
            return None
        past_s = workload["status"].get("accumulatedPastExecutionTimeSeconds", 0)
        ran_s = self._context.clock.now() - parse_rfc3339(admitted["lastTransitionTime"])
        left_s = float(limit_s - past_s - ran_s)
        if left_s > 0:
            return left_s
        draft = self._draft(workload)
        reason = "MaximumExecutionTimeExceeded"
        draft.deactivate(reason, "exceeding the maximum execution time")
        draft.status.pop("accumulatedPastExecutionTimeSeconds", None)
        await self._save(workload, draft)
        text = f"The maximum execution time ({limit_s}s) exceeded"
        self._events.event(workload, "Warning", reason, text)
        return None

    async def _evict(self, workload: Document, reason: str, message: str) -> None:
        draft = self._draft(workload)
        draft.evict(reason, message)
        await self._save(workload, draft)
        self._events.event(workload, "Normal", reason_with_cause(EVICTED, reason), message)

    def _draft(self, workload: Document) -> StatusDraft:
        return StatusDraft(workload, self._context.clock.now())

    async def _save(self, workload: Document, draft: StatusDraft) -> None:
        if draft.changed:
            await writes.update_status(self._context, WORKLOADS, workload, draft.status)


def _key(document: Document) -> Key:
    return document["metadata"].get("namespace", ""), document["metadata"]["name"]


def _queue_keys(workload: Document) -> Iterator[str]:
    name = (workload.get("spec") or {}).get("queueName")
    if name:
        yield f"{workload['metadata'].get('namespace', '')}/{name}"


def _runs(queue: Document | None) -> bool:
    return queue is not None and stop_policy(queue) == "None"


def _checks_in_words(checks: list[Document], state: str) -> str:
    told = [
        f'"{c["name"]}" ({c["message"]})' if c.get("message") else f'"{c["name"]}"'
        for c in sorted(checks, key=lambda c: str(c["name"]))
    ]
    noun = "AdmissionCheck" if len(checks) == 1 else "AdmissionChecks"
    return f"{noun} in {state} state: {'; '.join(told)}"
