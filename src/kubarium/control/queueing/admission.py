"""The admission loop: whenever something changed, plan on the present picture and commit.

Commits are status updates that hold only for the revision that the plan saw; where a Workload has
changed meanwhile, the change itself brings the next plan.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from kubarium.api.kinds import WORKLOADS
from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339
from kubarium.base.errors import ApiError
from kubarium.control.queueing.cache import QueueingCache
from kubarium.engine.queueing.cycle import plan_cycle
from kubarium.engine.queueing.plan import Admission, Eviction, Plan, Verdict
from kubarium.engine.queueing.victims import priorities_in_words
from kubarium.engine.queueing.workload import Key, Workload
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context
from kubarium.runtime.writes import update_status
from kubarium.view.queueing.documents import (
    ADMITTED,
    EVICTED,
    QUOTA_RESERVED,
    REQUEUED,
    condition,
    is_true,
)
from kubarium.view.queueing.readiness import admission_check_names
from kubarium.view.queueing.statuses import (
    EVICTED_BY_PREEMPTION,
    StatusDraft,
    reason_with_cause,
)

_LOG = logging.getLogger("kubarium.queueing")

RETRY_S = 1.0
"""After an error the loop waits this long before it plans again."""


class AdmissionLoop:
    """Satisfies :class:`kubarium.runtime.protocol.Component`. ``plans`` counts cycles of work."""

    def __init__(self, context: Context, cache: QueueingCache) -> None:
        self._context = context
        self._cache = cache
        self._events = EventRecorder(context, "kueue-admission")
        self._wake = asyncio.Event()
        self._failed = False  # whether a commit of this plan has to be tried again
        self.plans = 0
        cache.on_change(self._wake.set)

    @property
    def name(self) -> str:
        return "kueue-admission"

    async def run(self) -> None:
        await self._cache.wait_synced()
        while True:
            self._wake.clear()
            try:
                wake_at = await self.step()
            except Exception as error:  # the next picture may be one that can be planned on
                self._note("admission", error)
                wake_at = self._context.clock.now() + RETRY_S
            await self._sleep(wake_at)

    async def step(self) -> float | None:
        """Plan once and commit; when to plan again although nothing changes.

        A commit that fails is tried again after ``RETRY_S``, and holds up no other.
        """
        world = self._cache.settled()
        plan = plan_cycle(world.snapshot, self._context.clock.now())
        self.plans += 1
        self._failed = False
        for admission in plan.admissions:
            await self._carry_out(admission.workload.key, self._admit(admission))
        for eviction in plan.evictions:
            await self._carry_out(eviction.victim.admitted.key, self._evict(eviction))
        for verdict in plan.verdicts:
            key = verdict.workload.key
            await self._carry_out(key, self._tell(key, verdict))
        await self._tell_equal_ones(plan)
        if not self._failed:
            return plan.wake_at
        again = self._context.clock.now() + RETRY_S
        return again if plan.wake_at is None else min(again, plan.wake_at)

    async def _carry_out(self, key: Key, work: Awaitable[None]) -> None:
        try:
            await work
        except Exception as error:
            self._note("/".join(key), error)

    def _note(self, what: str, error: Exception) -> None:
        """Remember to try again, and tell the log what went wrong."""
        self._failed = True
        if isinstance(error, ApiError):
            _LOG.warning("%s: %s; again in %gs", what, error, RETRY_S)
        else:
            _LOG.error("%s: %r; again in %gs", what, error, RETRY_S, exc_info=error)

    async def _sleep(self, wake_at: float | None) -> None:
        clock = self._context.clock
        await clock.sleep(0)  # let writes that are under way be heard of together
        if self._wake.is_set():
            return
        if wake_at is None:
            await self._wake.wait()
            return
        alarm = asyncio.create_task(clock.sleep(max(0.0, wake_at - clock.now())))
        bell = asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait((alarm, bell), return_when=asyncio.FIRST_COMPLETED)
        finally:
            alarm.cancel()
            bell.cancel()

    async def _write(self, document: Document, draft: StatusDraft) -> Document | None:
        """The new document; None when it was changed or deleted behind our back."""
        try:
            return await update_status(self._context, WORKLOADS, document, draft.status)
        except ApiError as error:
            if error.reason in ("Conflict", "NotFound"):
                return None
            raise

    def _find(self, key: Key) -> Document | None:
        return self._cache.world.get(WORKLOADS, key[1], key[0])

    async def _admit(self, admission: Admission) -> None:
        workload = admission.workload
        document = self._find(workload.key)
        if document is None:
            return
        now = self._context.clock.now()
        draft = StatusDraft(document, now)
        queue = self._cache.world.cluster_queue_of(document)
        if queue is not None:
            draft.sync_checks(admission_check_names(queue))
        draft.reserve(admission)
        if draft.is_true(ADMITTED):
            draft.sync_pods_ready(False)
        written = await self._write(document, draft)
        if written is None:
            return
        waited = now - _queued_since(document)
        message = (
            f"Quota reserved in ClusterQueue {workload.cluster_queue}, "
            f"wait time since queued was {waited:.0f}s"
        )
        if admission.considered:
            message += f"; Flavors considered: {admission.considered}"
        self._events.event(written, "Normal", "QuotaReserved", message)
        if is_true(written, ADMITTED):
            message = (
                f"Admitted by ClusterQueue {workload.cluster_queue}, "
                "wait time since reservation was 0s"
            )
            self._events.event(written, "Normal", "Admitted", message)
        if admission.replaces is not None:
            await self._finish_replaced(workload, admission.replaces.key)

    async def _finish_replaced(self, workload: Workload, key: Key) -> None:
        """An elastic workload's smaller slice ends when the larger one has its quota."""
        document = self._find(key)
        if document is None:
            return
        draft = StatusDraft(document, self._context.clock.now())
        message = (
            f"Replaced to accommodate a workload (UID: {workload.uid}, "
            f"JobUID: {workload.job_uid}) due to workload slice aggregation"
        )
        draft.finish("WorkloadSliceReplaced", message)
        if await self._write(document, draft) is not None:
            self._events.event(document, "Normal", "WorkloadSliceReplaced", message)

    async def _evict(self, eviction: Eviction) -> None:
        victim = eviction.victim
        document = self._find(victim.admitted.key)
        if document is None or is_true(document, EVICTED):
            return
        draft = StatusDraft(document, self._context.clock.now())
        draft.preempt(victim.reason, eviction.message)
        if await self._write(document, draft) is None:
            return
        priorities = priorities_in_words(eviction.preemptor, victim.admitted.workload)
        reason = reason_with_cause(EVICTED, EVICTED_BY_PREEMPTION)
        self._events.event(document, "Normal", reason, eviction.message)
        text = f"{eviction.message}; {priorities}"
        self._events.event(document, "Normal", "Preempted", text)
        preemptor = self._find(eviction.preemptor.key)
        if preemptor is not None:
            metadata = document["metadata"]
            text = (
                f"Preempted workload {metadata['namespace']}/{metadata['name']} "
                f"(UID: {metadata['uid']}) in ClusterQueue {victim.admitted.cluster_queue}; "
                f"{priorities}"
            )
            self._events.event(preemptor, "Normal", "PreemptedWorkload", text)

    async def _tell(self, key: Key, verdict: Verdict) -> None:
        """Write why a workload waits, if that is news."""
        document = self._find(key)
        if document is None or is_true(document, QUOTA_RESERVED):
            return
        draft = StatusDraft(document, self._context.clock.now())
        draft.wait(verdict)
        if not draft.changed:
            return
        written = await self._write(document, draft)
        if written is not None:
            self._events.event(written, "Warning", verdict.reason, verdict.message)

    async def _tell_equal_ones(self, plan: Plan) -> None:
        """A verdict stands for its whole shape: those whom nobody has told why hear it too."""
        verdicts = {
            (verdict.workload.cluster_queue, verdict.workload.shape): verdict
            for verdict in plan.verdicts
            if verdict.stands_for_shape
        }
        for workload in list(self._cache.settled().untold.values()):
            verdict = verdicts.get((workload.cluster_queue, workload.shape))
            if verdict is not None and verdict.workload.key != workload.key:
                await self._carry_out(workload.key, self._tell(workload.key, verdict))


def _queued_since(document: Document) -> float:
    requeued = condition(document, REQUEUED)
    if requeued is not None:
        return parse_rfc3339(requeued["lastTransitionTime"])
    return parse_rfc3339(document["metadata"]["creationTimestamp"])
