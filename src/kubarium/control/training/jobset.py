"""The JobSet controller (jobset.x-k8s.io/v1alpha2).

One reconcile reads the JobSet and its Jobs, decides, writes Jobs, and writes the status once at
the end. A restart is only a higher number in the status: the Jobs that carry a lower one are
deleted by the next reconcile and made anew.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.admission.jobset_pods import JOBSET_NAME
from kubarium.api.kinds import (
    JOB_SETS,
    JOBS,
    PERSISTENT_VOLUME_CLAIMS,
    POD_GROUPS,
    PODS,
    SERVICES,
)
from kubarium.api.resource import Document, Resource
from kubarium.base.clock import parse_rfc3339
from kubarium.base.errors import ApiError
from kubarium.control.training import children as make
from kubarium.control.training import exclusive, in_place
from kubarium.control.training.learning import owed_by_jobset, remember
from kubarium.control.training.policies import apply_failure_policy, success_is_reached
from kubarium.control.training.status import (
    STARTUP_COMPLETED,
    STARTUP_IN_PROGRESS,
    ChildJobs,
    StatusDraft,
    count_replicated_jobs,
    finished_condition,
    is_finished,
    sort_children,
)
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller, ControllerComponent
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.informer import key_of
from kubarium.runtime.parts import of_metadata
from kubarium.runtime.protocol import Context, Key

OWN_NAME = "jobset.sigs.k8s.io/jobset-controller"
_JOBSET_PODS = "jobset"


class JobSetController(ControllerComponent):
    """Satisfies :class:`kubarium.runtime.protocol.Component`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._recorder = EventRecorder(context, "jobset-controller")
        self.controller = Controller("jobset-controller", context, self._reconcile, workers=4)
        self._jobsets = self.controller.watches(JOB_SETS)
        self._jobs = self.controller.watches(JOBS, _owning_jobset)
        self._services = self.controller.watches(SERVICES, _owning_jobset)
        self._claims = self.controller.reads(PERSISTENT_VOLUME_CLAIMS)
        self._groups = self.controller.reads(POD_GROUPS)
        self._pods = self.controller.reads(PODS)
        self._pods.add_index(_JOBSET_PODS, _jobset_of_pod)
        self._pods.on_change(self._pod_changed)
        self._jobs.add_index(writes.CONTROLLER_UID, writes.controller_uid_index)

    def _pod_changed(self, old: Document | None, new: Document | None) -> None:
        """Only a JobSet that restarts in place looks at pods."""
        for text in {name for pod in (old, new) if pod is not None for name in _jobset_of_pod(pod)}:
            namespace, _, name = text.partition("/")
            jobset = self._jobsets.get(name, namespace)
            if jobset is not None and in_place.is_chosen(jobset):
                self.controller.enqueue((namespace, name))

    async def _reconcile(self, key: Key) -> float | None:
        jobset = self._jobsets.get(key[1], key[0])
        if jobset is None or writes.is_terminating(jobset):
            return None
        if (jobset["spec"].get("managedBy") or OWN_NAME) != OWN_NAME:
            return None
        draft = StatusDraft(jobset, self._context.clock.now())
        owned = self._jobs.by_index(writes.CONTROLLER_UID, jobset["metadata"]["uid"])
        children = sort_children(owned, draft)
        rows = count_replicated_jobs(jobset, children, draft.rows())
        draft.status["replicatedJobsStatus"] = rows
        if is_finished(jobset):
            await self._delete_jobs(children.active)
            await self._write(draft)
            return await self._expire(jobset)
        await self._advance(jobset, draft, children)
        await self._write(draft)
        return None

    async def _write(self, draft: StatusDraft) -> None:
        await writes.update_status(self._context, JOB_SETS, draft.jobset, draft.finish())
        for event in draft.events:
            self._recorder.event(draft.jobset, *event)

    async def _expire(self, jobset: Document) -> float | None:
        """Delete a finished JobSet whose ttlSecondsAfterFinished is over; else when to look."""
        ttl_s = jobset["spec"].get("ttlSecondsAfterFinished")
        condition = finished_condition(jobset)
        if ttl_s is None or condition is None:
            return None
        due = parse_rfc3339(condition["lastTransitionTime"]) + float(ttl_s)
        left_s = due - self._context.clock.now()
        if left_s > 0:
            return left_s
        await writes.delete(self._context, JOB_SETS, jobset, propagation_policy="Foreground")
        return None

    async def _advance(self, jobset: Document, draft: StatusDraft, children: ChildJobs) -> None:
        await self._delete_jobs(children.previous)
        is_suspended = bool(jobset["spec"].get("suspend"))
        if not is_suspended and draft.all_ready():
            draft.stop_restarting("JobsReady", "all jobs are ready")
        if children.failed:
            if await remember(self._context, JOB_SETS, jobset, owed_by_jobset(self._own(jobset))):
                return  # what killed pods needed, while they are there; its change brings us back
            apply_failure_policy(draft, children)
            return
        if children.succeeded and success_is_reached(jobset, children.succeeded):
            draft.complete()
            return
        await self._ensure_service(jobset)
        await self._ensure_claims(jobset)
        await self._resize_jobs(jobset, children.active)
        await self._create_jobs(jobset, draft, children, is_suspended)
        if is_suspended:
            await self._suspend(draft, children.active)
        else:
            await self._resume(jobset, draft, children.active)
        if in_place.is_chosen(jobset):
            in_place.advance(draft, self._pods.by_index(_JOBSET_PODS, "/".join(key_of(jobset))))

    def _own(self, jobset: Document) -> list[Document]:
        """Its pods, and none of a set before it that had its name."""
        found = self._pods.by_index(_JOBSET_PODS, "/".join(key_of(jobset)))
        uid = jobset["metadata"]["uid"]
        return [pod for pod in found if pod["metadata"]["labels"].get(make.JOBSET_UID) == uid]

    async def _resize_jobs(self, jobset: Document, active: list[Document]) -> None:
        """Live Jobs get the size that their template has now (KEP-463, elastic JobSets)."""
        templates = {e["name"]: e["template"]["spec"] for e in make.replicated_jobs(jobset)}
        for job in active:
            labels = job["metadata"].get("labels") or {}
            template = templates.get(labels.get(make.REPLICATED_JOB, ""), {})
            size = template.get("parallelism")
            if size is None or size != template.get("completions"):
                continue
            wanted = {"parallelism": size, "completions": size}
            if any(job["spec"].get(field) != size for field in wanted):
                await writes.patch(self._context, JOBS, job, {"spec": wanted})

    async def _delete_jobs(self, jobs: list[Document]) -> None:
        for job in jobs:
            if not writes.is_terminating(job):
                await writes.delete(self._context, JOBS, job, propagation_policy="Foreground")

    async def _ensure_service(self, jobset: Document) -> None:
        if not make.has_hostnames(jobset):
            return
        namespace = jobset["metadata"]["namespace"]
        if self._services.get(make.subdomain(jobset), namespace) is None:
            service = make.headless_service(jobset)
            await self._create(jobset, SERVICES, service, "HeadlessServiceCreationFailed")

    async def _ensure_claims(self, jobset: Document) -> None:
        namespace = jobset["metadata"]["namespace"]
        for policy, template in make.claim_templates(jobset):
            if self._claims.get(make.claim_name(jobset, template), namespace) is None:
                claim = make.claim(jobset, policy, template)
                await self._create(jobset, PERSISTENT_VOLUME_CLAIMS, claim, "PVCCreationFailed")

    async def _create(
        self, jobset: Document, resource: Resource, document: Document, failure_reason: str
    ) -> None:
        namespace = jobset["metadata"]["namespace"]
        try:
            await writes.create(self._context, resource, document, namespace)
        except ApiError as error:
            if error.reason == "AlreadyExists" and resource != JOBS:
                return
            self._recorder.event(jobset, "Warning", failure_reason, str(error))
            raise

    async def _create_jobs(
        self, jobset: Document, draft: StatusDraft, children: ChildJobs, is_suspended: bool
    ) -> None:
        in_order = _is_in_order(jobset)
        for entry in make.replicated_jobs(jobset):
            if not draft.dependencies_met(entry):
                continue
            if in_order and not is_suspended and draft.has_started(entry):
                continue
            if not _waits_for_old_jobs(jobset, children):
                await self._create_missing(jobset, draft, entry, children)
            if in_order and not is_suspended:
                _startup_in_progress(draft)
                return
        if in_order and not is_suspended:
            draft.set_condition(
                STARTUP_COMPLETED,
                "True",
                "InOrderStartupPolicyCompleted",
                "in order startup policy has completed",
            )

    async def _create_missing(
        self, jobset: Document, draft: StatusDraft, entry: Document, children: ChildJobs
    ) -> None:
        taken = children.names()
        topology = make.exclusive_topology(jobset, entry)
        active = {job["metadata"]["name"]: job for job in children.active}
        for index in range(make.replicas_of(entry)):
            name = make.job_name(jobset, entry, index)
            if topology:
                wanted = exclusive.group(jobset, entry, index, topology, active.get(name))
                await self._ensure_group(jobset, wanted)
            if name not in taken:
                own = draft.job_restarts(entry["name"], index)
                job = make.child_job(jobset, entry, index, draft.restarts, own)
                await self._create(jobset, JOBS, job, "JobCreationFailed")

    async def _ensure_group(self, jobset: Document, wanted: Document) -> None:
        """The PodGroup of a Job that has a topology domain to itself."""
        group = self._groups.get(wanted["metadata"]["name"], jobset["metadata"]["namespace"])
        if group is None:
            await self._create(jobset, POD_GROUPS, wanted, "PodGroupCreationFailed")
        elif writes.is_controlled_by(group, jobset) and exclusive.differs(group, wanted):
            change = {"spec": {"schedulingPolicy": wanted["spec"]["schedulingPolicy"]}}
            await writes.patch(self._context, POD_GROUPS, group, change)

    async def _suspend(self, draft: StatusDraft, active: list[Document]) -> None:
        for job in active:
            if not job["spec"].get("suspend"):
                changed = {**job, "spec": {**job["spec"], "suspend": True}}
                await writes.update(self._context, JOBS, changed)
        draft.suspend()

    async def _resume(self, jobset: Document, draft: StatusDraft, active: list[Document]) -> None:
        in_order = _is_in_order(jobset)
        for entry in make.replicated_jobs(jobset):
            if not draft.dependencies_met(entry) or (in_order and draft.has_started(entry)):
                continue
            for job in active:
                labels = job["metadata"].get("labels") or {}
                if labels.get(make.REPLICATED_JOB) == entry["name"] and job["spec"].get("suspend"):
                    await self._resume_job(job, entry["template"]["spec"]["template"])
            if in_order:
                _startup_in_progress(draft)
                return
        draft.resume()

    async def _resume_job(self, job: Document, template: Document) -> None:
        """Start a suspended Job with what was changed in the JobSet's template meanwhile."""
        status = job.get("status") or {}
        if status.get("startTime"):
            # The pod template may only be changed on a Job that has no start time.
            status = {name: value for name, value in status.items() if name != "startTime"}
            job = await writes.update_status(self._context, JOBS, job, status)
        pod = job["spec"]["template"]
        spec = {**job["spec"], "suspend": False, "template": _merged_template(pod, template)}
        await writes.update(self._context, JOBS, {**job, "spec": spec})


@of_metadata
def _jobset_of_pod(pod: Document) -> Iterable[str]:
    """ "namespace/jobset" of a pod that says it belongs to one."""
    name = (pod["metadata"].get("labels") or {}).get(JOBSET_NAME)
    return (f"{pod['metadata']['namespace']}/{name}",) if name else ()


def _merged_template(pod: Document, template: Document) -> Document:
    """The Job's pod template with the JobSet's placement merged in (Kueue sets it there)."""
    metadata = dict(pod.get("metadata") or {})
    given = template.get("metadata") or {}
    for field in ("labels", "annotations"):
        if given.get(field):
            metadata[field] = {**(metadata.get(field) or {}), **given[field]}
    spec = dict(pod["spec"])
    wanted = template.get("spec") or {}
    if wanted.get("nodeSelector"):
        spec["nodeSelector"] = {**(spec.get("nodeSelector") or {}), **wanted["nodeSelector"]}
    for field in ("tolerations", "schedulingGates"):
        held = list(spec.get(field) or ())
        new = [item for item in wanted.get(field) or () if item not in held]
        if new:
            spec[field] = [*held, *new]
    return {**pod, "metadata": metadata, "spec": spec}


def _is_in_order(jobset: Document) -> bool:
    policy = jobset["spec"].get("startupPolicy") or {}
    return policy.get("startupPolicyOrder") == "InOrder"


def _startup_in_progress(draft: StatusDraft) -> None:
    draft.set_condition(
        STARTUP_IN_PROGRESS,
        "True",
        "InOrderStartupPolicyInProgress",
        "in order startup policy is in progress",
    )


def _waits_for_old_jobs(jobset: Document, children: ChildJobs) -> bool:
    """BlockingRecreate: nothing new before everything old is gone."""
    policy = jobset["spec"].get("failurePolicy") or {}
    return bool(children.previous) and policy.get("restartStrategy") == "BlockingRecreate"


def _owning_jobset(document: Document) -> Iterable[Key]:
    reference = writes.controller_of(document)
    if reference is not None and reference["kind"] == "JobSet":
        return ((document["metadata"]["namespace"], reference["name"]),)
    return ()
