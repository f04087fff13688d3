"""The Job controller: reads a Job and its pods, decides, writes pods and status.

Order of writes in one reconcile: pods created or removed; the status with what is newly known
(uncounted pods, interim condition); finalizers; the status with what is now counted. Each step may
be the last one before a crash.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.kinds import JOBS, PODS
from kubarium.api.resource import Document
from kubarium.api.selectors import label_selector, selects
from kubarium.base.clock import rfc3339
from kubarium.control.workloads.job import accounting
from kubarium.control.workloads.job.backoff import BackoffTimes, FailureRecord
from kubarium.control.workloads.job.decide import (
    Outcome,
    completed,
    deadline_in_s,
    decide_outcome,
    plan_pods,
)
from kubarium.control.workloads.job.facts import TRACKING, JobFacts, is_finished, is_tracked
from kubarium.control.workloads.job.groups import GroupsNotReadyError, JobGroups
from kubarium.control.workloads.job.template import job_pod, spare_pod
from kubarium.control.workloads.pods import (
    ORPHANS,
    PodControl,
    claim,
    is_active,
    is_ready,
    orphan_namespace_index,
    slow_start,
)
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.parts import METADATA, of_metadata
from kubarium.runtime.protocol import Context, Key
from kubarium.view.elastic import is_spare

OWN_NAME = "kubernetes.io/job-controller"
_JOB_LABEL = "batch.kubernetes.io/job-name"
_TRACKED = "tracked-by-job"
# Big Jobs: changes of pods are gathered for so long, at most, before the Job is looked at.
MOST_GATHER_S = 1.0
_GATHER_S_PER_POD = 0.0005
_MODES = ("NonIndexed", "Indexed")


class JobController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context, backoff: BackoffTimes | None = None) -> None:
        """``backoff``: between replacements of failed pods; upstream's 10 s to 600 s if None."""
        self._context = context
        self._times = backoff or BackoffTimes()
        self._recorder = EventRecorder(context, "job-controller")
        self._pod_control = PodControl(context, self._recorder)
        self._failures: dict[str, FailureRecord] = {}
        self.controller = Controller("job-controller", context, self._reconcile, workers=4)
        self._jobs = self.controller.watches(JOBS)
        self._jobs.on_change(self._job_changed)
        self._pods = self.controller.reads(PODS)
        self._pods.add_index(writes.CONTROLLER_UID, writes.controller_uid_index)
        self._pods.add_index(ORPHANS, orphan_namespace_index)
        self._pods.add_index(_TRACKED, _tracked_index)
        self._pods.on_change(self._pod_changed)
        self._groups = JobGroups(context, self.controller, self._recorder)

    # from pods to Jobs

    def _job_changed(self, old: Document | None, new: Document | None) -> None:
        if new is None and old is not None:
            self._failures.pop(old["metadata"]["uid"], None)

    def _pod_changed(self, old: Document | None, new: Document | None) -> None:
        keys: dict[Key, None] = {}
        if new is not None and not self._pods.changed & METADATA:
            old = None  # belonged to the same
        for pod in (old, new):
            if pod is not None:
                keys.update(dict.fromkeys(self._jobs_of(pod)))
        for key in keys:
            self.controller.enqueue(key, self._gather_s(key))

    def _jobs_of(self, pod: Document) -> list[Key]:
        namespace = pod["metadata"]["namespace"]
        reference = writes.controller_of(pod)
        if reference is not None:
            return [(namespace, reference["name"])] if reference["kind"] == "Job" else []
        labels = pod["metadata"].get("labels") or {}
        if not labels:
            return []
        if _JOB_LABEL in labels:
            return [(namespace, labels[_JOB_LABEL])]
        return [
            (namespace, job["metadata"]["name"])
            for job in self._jobs.items(namespace)
            if job["spec"].get("manualSelector") and selects(job["spec"].get("selector"), labels)
        ]

    def _gather_s(self, key: Key) -> float:
        job = self._jobs.get(key[1], key[0])
        pods = 0 if job is None else int(job.get("status", {}).get("active", 0))
        return min(pods * _GATHER_S_PER_POD, MOST_GATHER_S) if pods > 20 else 0.0

    # one Job

    async def _reconcile(self, key: Key) -> float | None:
        namespace, name = key
        job = self._jobs.get(name, namespace)
        await self._release_strays(key, job)
        if job is None or is_finished(job):
            return None
        if job["spec"].get("managedBy", OWN_NAME) != OWN_NAME:
            return None
        if job["spec"].get("completionMode", "NonIndexed") not in _MODES:
            self._recorder.event(
                job,
                "Warning",
                "UnknownCompletionMode",
                "Skipped Job sync because completion mode is unknown",
            )
            return None
        return await self._sync(job)

    async def _release_strays(self, key: Key, job: Document | None) -> None:
        """Pods that wait for a Job which is gone, has ended, or let them go, wait in vain."""
        for pod in self._pods.by_index(_TRACKED, "/".join(key)):
            reference = writes.controller_of(pod)
            is_ours = (
                job is not None
                and reference is not None
                and reference["uid"] == job["metadata"]["uid"]
                and not is_finished(job)
            )
            may_be_adopted = reference is None and job is not None and is_active(pod)
            if not is_ours and not may_be_adopted:
                await writes.remove_finalizer(self._context, PODS, pod, TRACKING)

    async def _sync(self, job: Document) -> float | None:
        uid = job["metadata"]["uid"]
        now = self._context.clock.now()
        selector = label_selector(job["spec"].get("selector"))
        pods = await claim(self._context, self._pods, job, selector, (TRACKING,))
        facts = JobFacts(job, pods, now)
        record = self._failures.get(uid, FailureRecord()).with_finished(
            facts.new_succeeded, [pod for pod in facts.new_failed if not facts.is_covered(pod)]
        )
        # Pods that go because the Job is being deleted are no failure worth telling.
        outcome = None if facts.is_deleted else decide_outcome(facts)
        wait_s: float | None = None
        failure: Exception | None = None
        if outcome is None and not facts.is_deleted:
            try:
                wait_s = await self._manage(facts, record)
            except Exception as error:  # the status must be told even when pods cannot be made
                failure = error
        active = self._alive(job)
        if outcome is None and failure is None and not facts.is_deleted:
            outcome = completed(facts, len(active))
        noted = accounting.account(facts, outcome)
        status = self._status(facts, outcome, active)
        status = accounting.noted_status(facts, status, noted)
        job = await writes.update_status(self._context, JOBS, job, status)
        self._failures[uid] = record
        if outcome is not None:
            for pod in [*active, *filter(is_active, facts.spares)]:
                await self._pod_control.delete(job, pod)
        await self._count(job, facts, noted, outcome)
        if failure is not None:
            raise failure
        return _earliest(wait_s, deadline_in_s(facts), 0.0 if noted.is_cut else None)

    async def _manage(self, facts: JobFacts, record: FailureRecord) -> float | None:
        """Create or remove pods; seconds until back-off ends, if that is what holds us."""
        plan = plan_pods(facts, record, self._times)
        for pod in plan.remove:
            # Not a failure: without its finalizer nobody will count it.
            left = await writes.remove_finalizer(self._context, PODS, pod, TRACKING)
            if left is not None:
                await self._pod_control.delete(facts.job, left)

        group = ""
        if not facts.is_suspended:
            try:
                group = await self._groups.ensure(facts.job, _has_loose_pods(facts))
            except GroupsNotReadyError as error:
                self._recorder.event(facts.job, "Warning", error.reason, str(error))
                return plan.wait_s

        async def create_one(number: int) -> None:
            index = plan.indexes[number] if plan.indexes else None
            await self._pod_control.create(facts.job, job_pod(facts, index, group))

        await slow_start(plan.create, create_one)
        for _ in range(plan.spares):
            await self._pod_control.create(facts.job, spare_pod(facts, group))
        return plan.wait_s

    def _alive(self, job: Document) -> list[Document]:
        """The Job's active pods as they are after our own writes."""
        pods = self._pods.by_index(writes.CONTROLLER_UID, job["metadata"]["uid"])
        return [pod for pod in pods if is_active(pod) and not is_spare(pod)]

    def _terminating(self, job: Document) -> int:
        pods = self._pods.by_index(writes.CONTROLLER_UID, job["metadata"]["uid"])
        return sum(
            1
            for pod in pods
            if writes.is_terminating(pod)
            and not is_spare(pod)
            and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        )

    def _status(self, facts: JobFacts, outcome: Outcome | None, active: list[Document]) -> Document:
        status = dict(facts.status)
        now = facts.now
        conditions: list[Document] = list(status.get("conditions") or ())
        if not status.get("startTime") and not facts.is_suspended:
            status["startTime"] = rfc3339(now)
        if outcome is not None:
            conditions = _set(conditions, outcome.type, outcome.reason, outcome.message, now)
            active = []
        elif not facts.is_deleted:
            conditions = self._suspension(facts, status, conditions)
        if conditions:
            status["conditions"] = conditions
        _set_count(status, "active", len(active))
        status["ready"] = sum(1 for pod in active if is_ready(pod))
        status["terminating"] = self._terminating(facts.job)
        return status

    def _suspension(
        self, facts: JobFacts, status: Document, conditions: list[Document]
    ) -> list[Document]:
        held = writes.find_condition({"conditions": conditions}, "Suspended")
        was = held is not None and held.get("status") == "True"
        if facts.is_suspended == was or (held is None and not facts.is_suspended):
            return conditions
        if facts.is_suspended:
            self._recorder.event(facts.job, "Normal", "Suspended", "Job suspended")
            return _set(conditions, "Suspended", "JobSuspended", "Job suspended", facts.now)
        self._recorder.event(facts.job, "Normal", "Resumed", "Job resumed")
        # The deadline starts anew.
        status["startTime"] = rfc3339(facts.now)
        return _set(conditions, "Suspended", "JobResumed", "Job resumed", facts.now, "False")

    async def _count(
        self,
        job: Document,
        facts: JobFacts,
        noted: accounting.Accounting,
        outcome: Outcome | None,
    ) -> None:
        for pod in noted.release:
            current = self._pods.get(pod["metadata"]["name"], pod["metadata"]["namespace"])
            if current is not None and current["metadata"]["uid"] == pod["metadata"]["uid"]:
                await writes.remove_finalizer(self._context, PODS, current, TRACKING)
        pods = self._pods.by_index(writes.CONTROLLER_UID, job["metadata"]["uid"])
        tracked = {pod["metadata"]["uid"] for pod in pods if is_tracked(pod)}
        status = accounting.counted_status(job["status"], tracked)
        status["terminating"] = self._terminating(job)
        finished = outcome is not None and self._may_finish(job, status, noted)
        if outcome is not None and finished:
            status = accounting.finished_status(status, outcome, facts.now)
        await writes.update_status(self._context, JOBS, job, status)
        if outcome is not None and finished:
            self._failures.pop(job["metadata"]["uid"], None)
            self._announce(job, status, outcome)

    def _may_finish(self, job: Document, status: Document, noted: accounting.Accounting) -> bool:
        """Terminal conditions wait until every pod has ended and is counted (KEP-4368)."""
        if noted.is_cut or status["uncountedTerminatedPods"]:
            return False
        return not self._alive(job) and status["terminating"] == 0 and status["ready"] == 0

    def _announce(self, job: Document, status: Document, outcome: Outcome) -> None:
        if outcome.is_failure:
            self._recorder.event(job, "Warning", outcome.reason, outcome.message)
            return
        completions = job["spec"].get("completions")
        if completions is not None and status.get("succeeded", 0) > completions:
            text = "Too many succeeded pods running after completion count reached"
            self._recorder.event(job, "Warning", "TooManySucceededPods", text)
        self._recorder.event(job, "Normal", "Completed", "Job completed")


def _has_loose_pods(facts: JobFacts) -> bool:
    """Whether there are pods that belong to no group: then it is too late to make one."""
    return any(not pod["spec"].get("schedulingGroup") for pod in facts.pods)


def _set(
    conditions: list[Document],
    type_: str,
    reason: str,
    message: str,
    now: float,
    status: str = "True",
) -> list[Document]:
    held = writes.find_condition({"conditions": conditions}, type_)
    if held is not None and (held.get("status"), held.get("reason")) == (status, reason):
        return conditions
    return writes.set_condition(
        conditions, type_, status, reason, message, now, lastProbeTime=rfc3339(now)
    )


def _set_count(status: Document, name: str, count: int) -> None:
    if count:
        status[name] = count
    else:
        status.pop(name, None)


def _earliest(*waits: float | None) -> float | None:
    return min((wait for wait in waits if wait is not None), default=None)


@of_metadata
def _tracked_index(pod: Document) -> Iterable[str]:
    """ "namespace/job" of a pod that holds the tracking finalizer."""
    if not is_tracked(pod):
        return ()
    metadata = pod["metadata"]
    reference = writes.controller_of(pod)
    if reference is not None:
        name = reference["name"] if reference["kind"] == "Job" else ""
    else:
        name = (metadata.get("labels") or {}).get(_JOB_LABEL, "")
    return (f"{metadata['namespace']}/{name}",) if name else ()
