"""Jobs in queues: one Workload for each, started when admitted, stopped when evicted.

One controller per kind of job; what differs between kinds is in ``view.queueing.jobs``.
Source: Kueue ``pkg/controller/jobframework/reconciler.go``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kubarium.api.kinds import (
    JOB_SETS,
    PRIORITY_CLASSES,
    RESOURCE_FLAVORS,
    TRAIN_JOBS,
    WORKLOAD_PRIORITY_CLASSES,
    WORKLOADS,
)
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.engine.queueing.plan import PENDING_EVALUATION
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context, Key
from kubarium.view.queueing.documents import (
    ADMISSION_GATED_BY_ANNOTATION,
    ADMITTED,
    EVICTED,
    FINISHED,
    JOB_UID_LABEL,
    PODS_READY,
    PRIORITY_CLASS_LABEL,
    QUOTA_RESERVED,
    RESOURCE_IN_USE_FINALIZER,
    condition,
    is_true,
)
from kubarium.view.queueing.jobs import (
    MAX_EXECUTION_LABEL,
    RESOURCES,
    STOPPING_ANNOTATION,
    JobKind,
    PodSetConflictError,
    PodSetInfo,
    info_of_pod_set,
    infos_of_admission,
    queue_name,
    same_pods,
    suspended,
    workload_name,
)
from kubarium.view.queueing.statuses import (
    EVICTED_BY_NODE_FAILURES,
    EVICTED_BY_PREEMPTION,
    StatusDraft,
)

OWNER_INDEX = "queueing/owner-uid"
MAX_NESTING = 10
"""How many owners up a job's managed ancestor is looked for (Kueue's limit)."""

PriorityRef = tuple[Document | None, int]


class JobController:
    """Reconciles one kind of job with its Workload."""

    def __init__(self, context: Context, kind: JobKind) -> None:
        self._context = context
        self._kind = kind
        self._events = EventRecorder(context, f"{kind.resource.kind.lower()}-kueue-controller")
        self._jobs = context.informers.get(kind.resource)
        self._workloads = context.informers.get(WORKLOADS)
        self._workloads.add_index(OWNER_INDEX, _owner_uids)
        self._jobs.add_index(writes.CONTROLLER_UID, writes.controller_uid_index)
        self.controller = Controller(f"kueue-{kind.resource.kind.lower()}", context, self.reconcile)
        self.controller.watches(kind.resource)
        self.controller.watches(WORKLOADS, self._owners)
        for resource in (RESOURCE_FLAVORS, PRIORITY_CLASSES, WORKLOAD_PRIORITY_CLASSES):
            self.controller.reads(resource)
        for other in RESOURCES:
            self.controller.reads(other)
        if kind.resource == TRAIN_JOBS:
            self.controller.watches(JOB_SETS, _owning_train_job)

    def _owners(self, workload: Document) -> Iterator[Key]:
        for reference in workload["metadata"].get("ownerReferences") or ():
            if reference.get("kind") == self._kind.resource.kind:
                yield workload["metadata"]["namespace"], reference["name"]
            yield from self._children(workload["metadata"]["namespace"], reference["uid"])

    def _children(self, namespace: str, owner_uid: str) -> Iterator[Key]:
        """Jobs that another job made: they may run only while that one is admitted."""
        for job in self._jobs.by_index(writes.CONTROLLER_UID, owner_uid):
            if job["metadata"].get("namespace") == namespace:
                yield namespace, job["metadata"]["name"]

    async def reconcile(self, key: Key) -> float | None:
        namespace, name = key
        job = self._jobs.get(name, namespace)
        if job is None:
            return None  # its Workload goes with it, see the Workload controller
        if writes.is_terminating(job):
            for workload in self._owned(job):
                await self._release(workload)
            return None
        ancestor = self._ancestor(job)
        if ancestor is not None:
            await self._follow(job, ancestor)
        elif queue_name(job):
            await self._reconcile_job(job)
        return None

    # ancestors

    def _ancestor(self, job: Document) -> Document | None:
        """The topmost owner of a kind that queues and that names a queue."""
        found: Document | None = None
        current = job
        for _ in range(MAX_NESTING):
            owner = self._owner_of(current)
            if owner is None:
                return found
            current = owner
            if queue_name(owner):
                found = owner
        text = (
            "Terminated search for Kueue-managed Job because ancestor depth exceeded limit of "
            f"{MAX_NESTING}"
        )
        self._events.event(job, "Warning", "JobNestingTooDeep", text)
        return found

    def _owner_of(self, document: Document) -> Document | None:
        reference = writes.controller_of(document)
        if reference is None:
            return None
        for resource in RESOURCES:
            if (reference["kind"], reference["apiVersion"]) == (
                resource.kind,
                resource.api_version,
            ):
                informer = self._context.informers.get(resource)
                owner = informer.get(reference["name"], document["metadata"]["namespace"])
                if owner is not None and owner["metadata"]["uid"] == reference["uid"]:
                    return owner
        return None

    async def _follow(self, job: Document, ancestor: Document) -> None:
        """A child runs only while its ancestor's Workload is admitted."""
        if self._kind.finished(job) is not None or self._kind.is_suspended(job):
            return
        owned = [w for w in self._owned(ancestor) if not is_true(w, FINISHED)]
        if owned and is_true(owned[0], ADMITTED):
            return
        await writes.update(self._context, self._kind.resource, suspended(job))
        self._events.event(job, "Normal", "Suspended", "Kueue managed child job suspended")

    # the job itself

    async def _reconcile_job(self, job: Document) -> None:
        workload = await self._one_workload(job)
        finished = self._kind.finished(job)
        if workload is not None and is_true(workload, FINISHED):
            await self._drop_finalizer(workload)
        elif workload is not None and writes.is_terminating(workload):
            await self._stop(job, workload, "Workload is deleted")
            await self._drop_finalizer(workload)
        elif finished is not None:
            await self._finish(job, workload, *finished)
        elif workload is None:
            await self._make_workload(job)
        else:
            await self._drive(job, workload)

    async def _drive(self, job: Document, workload: Document) -> None:
        """Bring the job to what its Workload's conditions ask for."""
        if await self._update_reclaimable(job, workload):
            return
        if await self._update_pods_ready(job, workload):
            return
        if is_true(workload, EVICTED):
            await self._evicted(job, workload)
        elif self._kind.is_suspended(job):
            if is_true(workload, ADMITTED):
                await self._start(job, workload)
            else:
                await self._move_queue(job, workload)
        elif not is_true(workload, ADMITTED):
            await self._stop(job, workload, "Not admitted by cluster queue")

    async def _one_workload(self, job: Document) -> Document | None:
        """The Workload that fits the job; others are deleted, or updated if nothing is lost."""
        owned = self._owned(job)
        match = next((w for w in owned if self._matches(job, w)), None)
        others = [w for w in owned if w is not match]
        idle = self._kind.is_suspended(job)
        if match is None and others and idle and not is_true(others[0], QUOTA_RESERVED):
            if is_true(others[0], FINISHED):
                return others[0]
            return await self._update_workload(job, others[0])
        if match is None and not idle and self._kind.finished(job) is None:
            known = others[0] if len(others) == 1 else None
            why = (
                "No matching Workload; restoring pod templates according to existent Workload"
                if known is not None
                else "Missing Workload; unable to restore pod templates"
            )
            await self._stop(job, known, why)
        if self._kind.finished(job) is not None and match is None and others:
            return others[0]
        for workload in others:
            await self._drop_finalizer(workload)
            await writes.delete(self._context, WORKLOADS, workload)
            text = f"Deleted not matching Workload: {_shown(workload)}"
            self._events.event(job, "Normal", "DeletedWorkload", text)
        return match

    def _owned(self, job: Document) -> list[Document]:
        found = self._workloads.by_index(OWNER_INDEX, job["metadata"]["uid"])
        return sorted(found, key=lambda w: w["metadata"]["name"])

    def _matches(self, job: Document, workload: Document) -> bool:
        wanted = (workload.get("spec") or {}).get("podSets") or []
        actual = self._kind.pod_sets(job)
        if not actual:
            return True  # what it is made of is being made anew: nothing to compare
        if len(wanted) != len(actual):
            return False
        if all(map(same_pods, wanted, actual)):
            return True
        if not is_true(workload, QUOTA_RESERVED):
            return False
        admission = (workload.get("status") or {}).get("admission") or {}
        counts = {a["name"]: a.get("count") for a in admission.get("podSetAssignments") or ()}
        running = [{**ps, "count": counts.get(ps["name"], ps.get("count"))} for ps in wanted]
        return all(
            same_pods(w, a, ignore_tolerations=True) for w, a in zip(running, actual, strict=True)
        )

    async def _make_workload(self, job: Document) -> None:
        if self._kind.is_active(job):
            return  # pods of a former life are still going; their end brings us back
        if not self._kind.pod_sets(job):
            return  # what it is made of is still to come, and brings us back
        workload = self._compose(job)
        try:
            created = await writes.create(
                self._context, WORKLOADS, workload, job["metadata"]["namespace"]
            )
        except ApiError as error:
            if error.reason not in ("Invalid", "Forbidden", "BadRequest"):
                raise
            self._events.event(job, "Warning", "ErrWorkloadCompose", error.message)
            return
        text = f"Created Workload: {_shown(created)}"
        self._events.event(job, "Normal", "CreatedWorkload", text)

    def _compose(self, job: Document) -> Document:
        metadata = job["metadata"]
        resource = self._kind.resource
        annotations = metadata.get("annotations") or {}
        gate = annotations.get(ADMISSION_GATED_BY_ANNOTATION)
        pod_sets = self._kind.pod_sets(job)
        spec: Document = {"podSets": pod_sets, "queueName": queue_name(job), "active": True}
        reference, spec["priority"] = self._priority(job, pod_sets)
        if reference is not None:
            spec["priorityClassRef"] = reference
        limit = (metadata.get("labels") or {}).get(MAX_EXECUTION_LABEL, "")
        if limit.isdecimal() and int(limit) > 0:
            spec["maximumExecutionTimeSeconds"] = int(limit)
        return {
            "apiVersion": WORKLOADS.api_version,
            "kind": WORKLOADS.kind,
            "metadata": {
                "name": workload_name(job, resource),
                "namespace": metadata["namespace"],
                "labels": {JOB_UID_LABEL: metadata["uid"]},
                **({"annotations": {ADMISSION_GATED_BY_ANNOTATION: gate}} if gate else {}),
                "finalizers": [RESOURCE_IN_USE_FINALIZER],
                "ownerReferences": [writes.owner_reference(job)],
            },
            "spec": spec,
        }

    def _priority(self, job: Document, pod_sets: Iterable[Document]) -> PriorityRef:
        """The class named by the label, else by the pods, else the cluster's default; else 0."""
        informers = self._context.informers
        label = (job["metadata"].get("labels") or {}).get(PRIORITY_CLASS_LABEL)
        if label:
            found = informers.get(WORKLOAD_PRIORITY_CLASSES).get(label)
            if found is None:
                text = f'WorkloadPriorityClass "{label}" not found'
                self._events.event(job, "Warning", "WorkloadPriorityClassNotFound", text)
                raise ApiError(404, "NotFound", text)
            reference = {"group": "kueue.x-k8s.io", "kind": "WorkloadPriorityClass", "name": label}
            return reference, int(found.get("value", 0))
        classes = informers.get(PRIORITY_CLASSES)
        name = next((n for n in map(_pod_priority_class, pod_sets) if n), "")
        if name:
            found = classes.get(name)
            if found is None:
                raise ApiError(404, "NotFound", f'priorityclasses.scheduling.k8s.io "{name}"')
        else:
            defaults = [c for c in classes.items() if c.get("globalDefault")]
            found = min(defaults, key=lambda c: int(c.get("value", 0)), default=None)
        if found is None:
            return None, 0
        reference = {
            "group": PRIORITY_CLASSES.group,
            "kind": PRIORITY_CLASSES.kind,
            "name": found["metadata"]["name"],
        }
        return reference, int(found.get("value", 0))

    async def _update_workload(self, job: Document, workload: Document) -> Document:
        """The job was edited while it waited: its Workload follows."""
        composed = self._compose(job)
        spec = {**composed["spec"], "active": workload["spec"].get("active", True)}
        updated = await writes.update(self._context, WORKLOADS, {**workload, "spec": spec})
        text = f"Updated not matching Workload for suspended job: {_shown(updated)}"
        self._events.event(job, "Normal", "UpdatedWorkload", text)
        return updated

    async def _move_queue(self, job: Document, workload: Document) -> None:
        """The job names another queue, or another priority class, than its Workload."""
        spec = workload["spec"]
        if is_true(workload, QUOTA_RESERVED):
            return
        changed = dict(spec)
        changed["queueName"] = queue_name(job)
        reference, changed["priority"] = self._priority(job, self._kind.pod_sets(job))
        old = spec.get("priorityClassRef") or {}
        if reference is not None and reference["name"] != old.get("name"):
            changed["priorityClassRef"] = reference
        else:
            changed["priority"] = spec.get("priority", 0)  # a class's new value is not retroactive
        if changed != spec:
            await writes.update(self._context, WORKLOADS, {**workload, "spec": changed})

    # start and stop

    async def _start(self, job: Document, workload: Document) -> None:
        flavors = self._context.informers.get(RESOURCE_FLAVORS)
        try:
            infos = infos_of_admission(workload, flavors.get)
            started = self._kind.started(job, infos)
        except PodSetConflictError as error:
            await self._end(workload, "FailedToStart", str(error))
            return
        except KeyError as error:
            raise ApiError(404, "NotFound", f"resourceflavors {error} not found") from error
        await writes.update(self._context, self._kind.resource, started)
        queue = workload["status"]["admission"]["clusterQueue"]
        self._events.event(job, "Normal", "Started", f"Admitted by clusterQueue {queue}")

    async def _stop(self, job: Document, workload: Document | None, why: str) -> None:
        """Suspend, and give the job its own pod templates back.

        The templates of a Job may only change while it is suspended and has no start time. So it
        is done in three steps; an annotation marks that the last one is still to come.
        """
        stopping = (job["metadata"].get("annotations") or {}).get(STOPPING_ANNOTATION) == "true"
        if not stopping and self._kind.is_suspended(job):
            return
        if not stopping:
            job = await self._write(_annotated(suspended(job), STOPPING_ANNOTATION, "true"))
            self._events.event(job, "Normal", "Stopped", why)
        if (job.get("status") or {}).get("startTime"):
            status = {k: v for k, v in job["status"].items() if k != "startTime"}
            job = await writes.update_status(self._context, self._kind.resource, job, status)
        if self._kind.restores_when_idle and self._kind.is_active(job):
            return  # the end of its pods brings us back
        pod_sets = ((workload or {}).get("spec") or {}).get("podSets") or ()
        infos: list[PodSetInfo] = [info_of_pod_set(pod_set) for pod_set in pod_sets]
        restored = self._kind.restored(job, infos)
        await self._write(_annotated(restored, STOPPING_ANNOTATION, None))

    async def _write(self, job: Document) -> Document:
        return await writes.update(self._context, self._kind.resource, job)

    async def _evicted(self, job: Document, workload: Document) -> None:
        evicted = condition(workload, EVICTED) or {}
        reason, message = evicted.get("reason", ""), evicted.get("message", "")
        await self._stop(job, workload, message)
        job = self._jobs.get(job["metadata"]["name"], job["metadata"]["namespace"]) or job
        if not is_true(workload, QUOTA_RESERVED) or self._kind.is_active(job):
            return
        draft = self._draft(workload)
        at_once = reason in (EVICTED_BY_PREEMPTION, EVICTED_BY_NODE_FAILURES)
        draft.requeue(reason, message, at_once)
        draft.unreserve(PENDING_EVALUATION, message)
        await self._save(workload, draft)

    async def _finish(
        self, job: Document, workload: Document | None, message: str, success: bool
    ) -> None:
        if workload is None:
            return
        await self._end(workload, "Succeeded" if success else "Failed", message)
        text = f"Workload '{_shown(workload)}' is declared finished"
        self._events.event(job, "Normal", "FinishedWorkload", text)

    async def _end(self, workload: Document, reason: str, message: str) -> None:
        draft = self._draft(workload)
        draft.finish(reason, message)
        await self._save(workload, draft)

    async def _release(self, workload: Document) -> None:
        """The job is going: nothing must hold its Workload."""
        await self._drop_finalizer(workload)

    async def _drop_finalizer(self, workload: Document) -> None:
        await writes.remove_finalizer(self._context, WORKLOADS, workload, RESOURCE_IN_USE_FINALIZER)

    # what the Workload is told about the job

    async def _update_reclaimable(self, job: Document, workload: Document) -> bool:
        sizes = {ps.get("name", "main"): int(ps.get("count", 1)) for ps in _pod_sets(workload)}
        pods = [
            {**entry, "count": min(entry["count"], sizes.get(entry["name"], 0))}
            for entry in self._kind.reclaimable(job)
        ]
        if pods == ((workload.get("status") or {}).get("reclaimablePods") or []):
            return False
        draft = self._draft(workload)
        draft.status["reclaimablePods"] = pods
        await self._save(workload, draft)
        return True

    async def _update_pods_ready(self, job: Document, workload: Document) -> bool:
        """PodsReady follows the job's own count of ready pods, while it is admitted."""
        old = condition(workload, PODS_READY) or {}
        if not is_true(workload, ADMITTED) and old.get("status") != "True":
            return False
        draft = self._draft(workload)
        draft.sync_pods_ready(self._kind.pods_ready(job))
        if not draft.changed:
            return False
        await self._save(workload, draft)
        return True

    def _draft(self, workload: Document) -> StatusDraft:
        return StatusDraft(workload, self._context.clock.now())

    async def _save(self, workload: Document, draft: StatusDraft) -> None:
        if draft.changed:
            await writes.update_status(self._context, WORKLOADS, workload, draft.status)


def _owner_uids(workload: Document) -> Iterator[str]:
    for reference in workload["metadata"].get("ownerReferences") or ():
        yield reference["uid"]


def _owning_train_job(jobset: Document) -> Iterator[Key]:
    reference = writes.controller_of(jobset)
    if reference is not None and reference["kind"] == TRAIN_JOBS.kind:
        yield jobset["metadata"]["namespace"], reference["name"]


def _pod_sets(workload: Document) -> Iterable[Document]:
    return (workload.get("spec") or {}).get("podSets") or ()


def _pod_priority_class(pod_set: Document) -> str:
    spec = (pod_set.get("template") or {}).get("spec") or {}
    return str(spec.get("priorityClassName") or "")


def _shown(workload: Document) -> str:
    return f"{workload['metadata']['namespace']}/{workload['metadata']['name']}"


def _annotated(document: Document, key: str, value: str | None) -> Document:
    metadata = dict(document["metadata"])
    annotations = dict(metadata.get("annotations") or {})
    if value is None:
        annotations.pop(key, None)
    else:
        annotations[key] = value
    if annotations:
        metadata["annotations"] = annotations
    else:
        metadata.pop("annotations", None)
    return {**document, "metadata": metadata}
