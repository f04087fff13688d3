"""The Workload and the PodGroup of a Job: found, made, kept at the Job's size (KEP-5547).

Who manages what:

* a Job with ``spec.scheduling`` and no parent that has a Workload: the Job controller makes both;
* a Job that its parent has given a template's name (annotation): the parent owns the Workload, the
  Job controller makes the PodGroup, as a child of a composite if the parent names one;
* a pod template that names a group, or a parent with a Workload and no annotation: others manage
  both, and nothing is made or changed here;
* a Workload or a PodGroup that somebody else has made for the Job is used as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.gangs import PARENT_ANNOTATION, TEMPLATE_ANNOTATION
from kubarium.api.kinds import GANG_WORKLOADS, JOBS, POD_GROUPS
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
        if reference.get("kind") == "Job":
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
        template = (job["metadata"].get("annotations") or {}).get(TEMPLATE_ANNOTATION)
        parents = self._of_controller(job, writes.controller_of(job))
        if template:
            return await self._delegated(job, template, parents)
        if parents:
            return ""
        workload = await self._own_workload(job, has_pods)
        if workload is None:
            return ""
        group = await self._group(job, workload, next(iter(_single(workload).values())), has_pods)
        return _name(group) if group is not None else ""

    async def _delegated(self, job: Document, name: str, parents: list[Document]) -> str:
        found = [(w, t[name]) for w in parents if name in (t := templates_in(w["spec"]))]
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
        name = job["metadata"]["name"]
        found = self._of_controller(job, {"kind": "Job", "name": name})
        if len(found) > 1:
            text = f"{len(found)} Workloads refer to the Job; its pods start without a group"
            self._recorder.event(job, "Warning", "AmbiguousWorkload", text)
            return None
        if not found:
            if job["spec"].get("scheduling") is None or has_pods:
                return None
            return await self._create(job, GANG_WORKLOADS, workload_of(job))
        [workload] = found
        if len(_single(workload)) != 1:
            text = f"Workload {workload['metadata']['name']} has not exactly one pod group template"
            self._recorder.event(job, "Warning", "UnsupportedWorkload", text)
            return None
        return await self._kept_workload(job, workload)

    async def _kept_workload(self, job: Document, workload: Document) -> Document:
        """The Job's own Workload follows its size; anyone else's is left alone."""
        [template] = _single(workload).values()
        wanted = min_count(template_of(job))
        if not is_owned_by(workload, job) or wanted in (None, min_count(template)):
            return workload
        policy = {"schedulingPolicy": {"gang": {"minCount": wanted}}}
        spec = {**workload["spec"], "podGroupTemplates": [{**template, **policy}]}
        return await writes.update(self._context, GANG_WORKLOADS, {**workload, "spec": spec})

    async def _group(
        self, job: Document, workload: Document, template: Document, has_pods: bool
    ) -> Document | None:
        found = self._of_template(workload, template["name"])
        if len(found) > 1:
            text = f"{len(found)} PodGroups refer to Workload {workload['metadata']['name']}"
            self._recorder.event(job, "Warning", "AmbiguousPodGroup", text)
            return None
        if found:
            [group] = found
            return await self._resized(group, template) if is_owned_by(group, job) else group
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
            text = f"Error creating {kind.kind} {name}: {error}"
            self._recorder.event(job, "Warning", f"Failed{kind.kind}Create", text)
            raise
        self._recorder.event(job, "Normal", f"{kind.kind}Created", f"Created {kind.kind}: {name}")
        return created

    def _of_controller(self, job: Document, reference: Document | None) -> list[Document]:
        """Workloads whose controllerRef names this object of the Job's namespace."""
        if reference is None:
            return []
        key = f"{job['metadata']['namespace']}/{reference['kind']}/{reference['name']}"
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
    namespace = workload["metadata"]["namespace"]
    return (f"{namespace}/{reference.get('kind')}/{reference.get('name')}",)


def _workload_key(group: Document) -> Iterable[str]:
    reference = (group.get("spec") or {}).get("workloadRef")
    if not reference:
        return ()
    namespace, template = group["metadata"]["namespace"], reference.get("templateName")
    return (f"{namespace}/{reference.get('workloadName')}/{template}",)
