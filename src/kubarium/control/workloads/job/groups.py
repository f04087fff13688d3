"""The Workload and the PodGroup of a Job: found, made, kept at the Job's size (KEP-5547).

Who manages what:

* a Job with ``spec.scheduling`` of its own, or of a CronJob's: the Job controller makes both;
* a Job that its parent has given a template's name (annotation): the parent owns the Workload, the
  Job controller makes the PodGroup, as a child of a composite if the parent names one;
* a pod template that names a group, or a parent that gives no name: others manage both, and nothing
  is made or changed here.

Only what the Job controls is its own: a Workload or a PodGroup that somebody else has made for the
Job is passed over. (Source: upstream ``pkg/controller/job/job_scheduling_manager.go`` of 1.37.)
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.gangs import PARENT_ANNOTATION, TEMPLATE_ANNOTATION
from kubarium.api.kinds import CRON_JOBS, GANG_WORKLOADS, JOBS, POD_GROUPS
from kubarium.api.resource import Document, Resource
from kubarium.base.errors import ApiError
from kubarium.control.workloads.job.compile import (
    group_of,
    is_owned_by,
    min_count,
    template_of,
    templates_in,
    workload_of,
)
from kubarium.runtime import writes
from kubarium.runtime.controller import Controller
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context, Key

_BY_CONTROLLER = "gang-workloads-by-controller"
_BY_WORKLOAD = "podgroups-by-workload"


class GroupsNotReadyError(Exception):
    """The Job's pods cannot be made yet: what they are to belong to is missing or ambiguous."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class JobGroups:
    """Finds or makes the group of a Job's pods."""

    def __init__(self, context: Context, controller: Controller, recorder: EventRecorder) -> None:
        self._context = context
        self._recorder = recorder
        self._jobs = controller.reads(JOBS)
        self._workloads = controller.watches(GANG_WORKLOADS, self._of_workload)
        self._workloads.add_index(_BY_CONTROLLER, _controller_key)
        self._groups = controller.watches(POD_GROUPS, self._of_group)
        self._groups.add_index(_BY_WORKLOAD, _workload_key)

    def _of_workload(self, workload: Document) -> list[Key]:
        """The Job that it stands for, or the Jobs of the parent that it stands for."""
        namespace = workload["metadata"]["namespace"]
        reference = (workload.get("spec") or {}).get("controllerRef") or {}
        if (reference.get("apiGroup"), reference.get("kind")) == (JOBS.group, JOBS.kind):
            return [(namespace, reference.get("name", ""))]
        return [
            (namespace, job["metadata"]["name"])
            for job in self._jobs.items(namespace)
            if TEMPLATE_ANNOTATION in (job["metadata"].get("annotations") or {})
        ]

    @staticmethod
    def _of_group(group: Document) -> list[Key]:
        owner = writes.controller_of(group)
        if owner is None or owner["kind"] != "Job":
            return []
        return [(group["metadata"]["namespace"], owner["name"])]

    async def ensure(self, job: Document, has_pods: bool) -> str:
        """The name of the group that new pods join; "" if they join none or name one themselves.

        ``has_pods``: the Job has pods without a group, so that it is too late to make one.
        GroupsNotReadyError while there must be a group and is none.
        """
        if job["spec"]["template"]["spec"].get("schedulingGroup"):
            return ""
        parent = writes.controller_of(job)
        if parent is not None and not _is_cron_job(parent):
            template = (job["metadata"].get("annotations") or {}).get(TEMPLATE_ANNOTATION)
            return await self._delegated(job, template, parent) if template else ""
        workload = await self._own_workload(job, has_pods)
        if workload is None:
            return ""
        group = await self._group(job, workload, next(iter(_single(workload).values())), has_pods)
        return _name(group) if group is not None else ""

    async def _delegated(self, job: Document, name: str, owner: Document) -> str:
        theirs = self._of_controller(job, _api_group(owner), owner)
        found = [(w, t[name]) for w in theirs if name in (t := templates_in(w["spec"]))]
        if not found:
            text = f"no Workload of the Job's owner has the pod group template {name} yet"
            raise GroupsNotReadyError("WorkloadMissing", text)
        workload, template = found[0]
        parent = (job["metadata"].get("annotations") or {}).get(PARENT_ANNOTATION, "")
        mine = [g for g in self._of_template(workload, name) if is_owned_by(g, job)]
        if mine:
            return _name(await self._resized(mine[0], template))
        return _name(await self._make_group(job, workload, template, parent))

    async def _own_workload(self, job: Document, has_pods: bool) -> Document | None:
        """The Workload that stands for the Job, made if there is none and there is to be one."""
        referring = self._of_controller(job, JOBS.group, {**job["metadata"], "kind": JOBS.kind})
        own = [workload for workload in referring if is_owned_by(workload, job)]
        if not own:
            if job["spec"].get("scheduling") is None or has_pods:
                return None
            return await self._create(job, GANG_WORKLOADS, workload_of(job))
        if len(own) > 1:
            self._unsupported(job, f"{len(own)} Workloads refer to Job {_name(job)}")
            return None
        [workload] = own
        count = len(_single(workload))
        if count != 1:
            text = f"Workload {_name(workload)} has {count} PodGroupTemplates (expected 1)"
            self._unsupported(job, text)
            return None
        return await self._kept_workload(job, workload)

    def _unsupported(self, job: Document, why: str) -> None:
        """Somebody has changed what is the controller's own: the pods start each for itself."""
        text = f"{why}, falling back to normal scheduling"
        self._recorder.event(job, "Warning", "UnsupportedWorkloadStructure", text)

    async def _kept_workload(self, job: Document, workload: Document) -> Document:
        """The Workload follows the size of the Job's gang."""
        [template] = _single(workload).values()
        wanted = min_count(template_of(job))
        if wanted in (None, min_count(template)):
            return workload
        policy = {"schedulingPolicy": {"gang": {"minCount": wanted}}}
        spec = {**workload["spec"], "podGroupTemplates": [{**template, **policy}]}
        return await writes.update(self._context, GANG_WORKLOADS, {**workload, "spec": spec})

    async def _group(
        self, job: Document, workload: Document, template: Document, has_pods: bool
    ) -> Document | None:
        made = self._of_template(workload, template["name"])
        own = [group for group in made if is_owned_by(group, job)]
        if len(own) > 1:
            self._unsupported(job, f"{len(own)} PodGroups refer to Workload {_name(workload)}")
            return None
        if own:
            return await self._resized(own[0], template)
        return None if has_pods else await self._make_group(job, workload, template, "")

    async def _resized(self, group: Document, template: Document) -> Document:
        """The group follows its template, whose count alone may change."""
        wanted = min_count(template)
        if wanted in (None, min_count(group["spec"])) or writes.is_terminating(group):
            return group
        change: Document = {
            "metadata": {"uid": group["metadata"]["uid"]},
            "spec": {"schedulingPolicy": {"gang": {"minCount": wanted}}},
        }
        return await writes.patch(self._context, POD_GROUPS, group, change)

    async def _make_group(
        self, job: Document, workload: Document, template: Document, parent: str
    ) -> Document:
        return await self._create(job, POD_GROUPS, group_of(job, workload, template, parent))

    async def _create(self, job: Document, kind: Resource, document: Document) -> Document:
        namespace, name = document["metadata"]["namespace"], document["metadata"]["name"]
        try:
            created = await writes.create(self._context, kind, document, namespace)
        except ApiError as error:
            text = f"Failed to create {kind.kind} for Job {_name(job)}: {error}"
            self._recorder.event(job, "Warning", f"Failed{kind.kind}Create", text)
            raise
        text = f"Created {kind.kind} {name} for Job {_name(job)}"
        self._recorder.event(job, "Normal", f"{kind.kind}Created", text)
        return created

    def _of_controller(self, job: Document, group: str, reference: Document) -> list[Document]:
        """Workloads whose controllerRef names this object of the Job's namespace."""
        namespace = job["metadata"]["namespace"]
        key = f"{namespace}/{group}/{reference['kind']}/{reference['name']}"
        found = self._workloads.by_index(_BY_CONTROLLER, key)
        return sorted(found, key=lambda w: str(w["metadata"]["name"]))

    def _of_template(self, workload: Document, template: str) -> list[Document]:
        metadata = workload["metadata"]
        key = f"{metadata['namespace']}/{metadata['name']}/{template}"
        found = self._groups.by_index(_BY_WORKLOAD, key)
        return sorted(found, key=lambda group: str(group["metadata"]["name"]))


def _name(document: Document) -> str:
    name: str = document["metadata"]["name"]
    return name


def _is_cron_job(owner: Document) -> bool:
    """Jobs of a CronJob stand for themselves: it makes no Workload."""
    return (_api_group(owner), owner["kind"]) == (CRON_JOBS.group, CRON_JOBS.kind)


def _api_group(owner: Document) -> str:
    group: str = owner["apiVersion"].rpartition("/")[0]
    return group


def _single(workload: Document) -> dict[str, Document]:
    """The templates of a Workload that is flat, as a Job's must be."""
    spec = workload["spec"]
    if spec.get("compositePodGroupTemplates"):
        return {}
    return {template["name"]: template for template in spec.get("podGroupTemplates") or ()}


def _controller_key(workload: Document) -> Iterable[str]:
    reference = (workload.get("spec") or {}).get("controllerRef")
    if not reference:
        return ()
    namespace, group = workload["metadata"]["namespace"], reference.get("apiGroup", "")
    return (f"{namespace}/{group}/{reference.get('kind')}/{reference.get('name')}",)


def _workload_key(group: Document) -> Iterable[str]:
    reference = (group.get("spec") or {}).get("workloadRef")
    if not reference:
        return ()
    namespace, template = group["metadata"]["namespace"], reference.get("templateName")
    return (f"{namespace}/{reference.get('workloadName')}/{template}",)
