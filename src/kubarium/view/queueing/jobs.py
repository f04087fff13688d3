"""What queueing must know of each kind of job, and how it starts and stops one. Pure.

Source: Kueue ``pkg/controller/jobs/{job,jobset,trainjob}`` and ``pkg/podset``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kubarium.api.kinds import JOB_SETS, JOBS, TRAIN_JOBS
from kubarium.api.resource import Document, Resource
from kubarium.view.elastic import policy_of
from kubarium.view.queueing.documents import PREFIX, QUEUE_NAME_LABEL

MIN_PARALLELISM_ANNOTATION = PREFIX + "job-min-parallelism"
COMPLETIONS_FOLLOW_ANNOTATION = PREFIX + "job-completions-equal-parallelism"
STOPPING_ANNOTATION = PREFIX + "stopping"
MAX_EXECUTION_LABEL = PREFIX + "max-exec-time-seconds"
PODSET_LABEL = PREFIX + "podset"
LOCAL_QUEUE_LABEL = PREFIX + "local-queue-name"
CLUSTER_QUEUE_LABEL = PREFIX + "cluster-queue-name"
WORKLOAD_ANNOTATION = PREFIX + "workload"
DEFAULT_POD_SET = "main"

MAX_NAME = 253
_HASH_LENGTH = 5
# Labels that the Job controller itself puts on the template.
_JOB_LABELS = (
    "job-name",
    "controller-uid",
    "batch.kubernetes.io/job-name",
    "batch.kubernetes.io/controller-uid",
)
_CLEANED = tuple(label for label in _JOB_LABELS if label != "batch.kubernetes.io/job-name")


class PodSetConflictError(Exception):
    """The admission asks for a label, annotation or selector that the template sets otherwise."""


@dataclass(frozen=True, slots=True)
class PodSetInfo:
    """What admission adds to a pod template, or what the template was before."""

    name: str
    count: int
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Document, ...] = ()
    scheduling_gates: tuple[Document, ...] = ()


Edit = Callable[[int, Document], Document]
"""(index of the pod set, pod template) to the new pod template."""


@dataclass(frozen=True, slots=True)
class JobKind:
    """One kind of job. Every function takes the whole document."""

    resource: Resource
    pod_sets: Callable[[Document], list[Document]]
    is_active: Callable[[Document], bool]
    finished: Callable[[Document], tuple[str, bool] | None]
    reclaimable: Callable[[Document], list[Document]]
    pods_ready: Callable[[Document], bool]
    edit_templates: Callable[[Document, Edit], Document]
    resize: Callable[[Document, Sequence[PodSetInfo]], Document]
    # Whether templates may only be restored once no pod runs any more.
    restores_when_idle: bool = False

    def is_suspended(self, document: Document) -> bool:
        annotations = document["metadata"].get("annotations") or {}
        suspended = (document.get("spec") or {}).get("suspend") is True
        return suspended and annotations.get(STOPPING_ANNOTATION) != "true"

    def started(self, document: Document, infos: Sequence[PodSetInfo]) -> Document:
        """The job unsuspended, with what its admission adds; PodSetConflictError if it cannot."""
        result = self.resize(document, infos)
        result = self.edit_templates(result, lambda i, template: merge_into(template, infos[i]))
        return {**result, "spec": {**result["spec"], "suspend": False}}

    def restored(self, document: Document, infos: Sequence[PodSetInfo]) -> Document:
        """The job's templates and size as its Workload remembers them."""
        result = document
        if len(infos) == len(self.pod_sets(document)):
            result = self.resize(result, infos)
            result = self.edit_templates(result, lambda i, t: restore(t, infos[i]))
        return result


def suspended(document: Document) -> Document:
    return {**document, "spec": {**document["spec"], "suspend": True}}


def queue_name(document: Document) -> str:
    """The LocalQueue that a job names, or ""."""
    return str((document["metadata"].get("labels") or {}).get(QUEUE_NAME_LABEL) or "")


def workload_name(job: Document, resource: Resource) -> str:
    """``job-<name>-<5 hex digits>``: the same for the same job, another for its namesake."""
    metadata = job["metadata"]
    prefix = f"{resource.kind.lower()}-{metadata['name']}"[: MAX_NAME - 1 - _HASH_LENGTH]
    parts = (resource.kind, resource.group, metadata["name"], metadata.get("uid", ""))
    digest = hashlib.sha1("\n".join(parts).encode(), usedforsecurity=False).hexdigest()
    return f"{prefix}-{digest[:_HASH_LENGTH]}"


def merge_into(template: Document, info: PodSetInfo) -> Document:
    """A pod template with an admission's additions."""
    metadata, spec = dict(template.get("metadata") or {}), dict(template.get("spec") or {})
    _merge_map(metadata, "labels", info.labels, "labels")
    _merge_map(metadata, "annotations", info.annotations, "annotations")
    _merge_map(spec, "nodeSelector", info.node_selector, "nodeSelector")
    _merge_list(spec, "tolerations", info.tolerations)
    _merge_list(spec, "schedulingGates", info.scheduling_gates)
    return {**template, "metadata": metadata, "spec": spec}


def _merge_map(holder: Document, name: str, more: Mapping[str, str], what: str) -> None:
    own = holder.get(name) or {}
    for key, value in more.items():
        if own.get(key, value) != value:
            raise PodSetConflictError(
                f"invalid admission check PodSetUpdate: conflict for {what}: conflict for key="
                f"{key}, value1={own[key]}, value2={value}"
            )
    if more:
        holder[name] = {**own, **more}


def _merge_list(holder: Document, name: str, more: Sequence[Document]) -> None:
    own = holder.get(name) or []
    added = [entry for entry in more if entry not in own]
    if added:
        holder[name] = [*own, *added]


def restore(template: Document, info: PodSetInfo) -> Document:
    """A pod template with scheduling directives and metadata as ``info`` remembers them."""
    metadata, spec = dict(template.get("metadata") or {}), dict(template.get("spec") or {})
    labels = {k: v for k, v in (metadata.get("labels") or {}).items() if k in _JOB_LABELS}
    _put(metadata, "labels", {**info.labels, **labels})
    _put(metadata, "annotations", dict(info.annotations))
    _put(spec, "nodeSelector", dict(info.node_selector))
    _put(spec, "tolerations", list(info.tolerations))
    _put(spec, "schedulingGates", list(info.scheduling_gates))
    return {**template, "metadata": metadata, "spec": spec}


def _put(holder: Document, name: str, value: Any) -> None:
    if value:
        holder[name] = value
    else:
        holder.pop(name, None)


def info_of_pod_set(pod_set: Document) -> PodSetInfo:
    """What a Workload's pod set remembers of the job's template."""
    template = pod_set.get("template") or {}
    metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
    return PodSetInfo(
        pod_set.get("name") or DEFAULT_POD_SET,
        int(pod_set.get("count", 1)),
        metadata.get("labels") or {},
        metadata.get("annotations") or {},
        spec.get("nodeSelector") or {},
        tuple(spec.get("tolerations") or ()),
        tuple(spec.get("schedulingGates") or ()),
    )


def infos_of_admission(
    workload: Document, flavors: Callable[[str], Document | None]
) -> list[PodSetInfo]:
    """What the admission adds to each pod set: flavors' node labels and tolerations, queue labels,
    admission checks' updates. Raises ``KeyError`` with the name of a flavor that is gone."""
    admission = (workload.get("status") or {}).get("admission") or {}
    spec = workload.get("spec") or {}
    pod_sets = {ps.get("name") or DEFAULT_POD_SET: ps for ps in spec.get("podSets") or ()}
    infos = []
    for assignment in admission.get("podSetAssignments") or ():
        name = assignment.get("name") or DEFAULT_POD_SET
        selector: dict[str, str] = {}
        tolerations: list[Document] = []
        for flavor_name in dict.fromkeys((assignment.get("flavors") or {}).values()):
            flavor = flavors(flavor_name)
            if flavor is None:
                raise KeyError(flavor_name)
            selector.update((flavor.get("spec") or {}).get("nodeLabels") or {})
            tolerations.extend((flavor.get("spec") or {}).get("tolerations") or ())
        labels = {
            PODSET_LABEL: name,
            LOCAL_QUEUE_LABEL: spec.get("queueName") or "",
            CLUSTER_QUEUE_LABEL: admission.get("clusterQueue", ""),
        }
        annotations = {WORKLOAD_ANNOTATION: workload["metadata"]["name"]}
        count = int(assignment.get("count", pod_sets.get(name, {}).get("count", 1)))
        info = PodSetInfo(name, count, labels, annotations, selector, tuple(tolerations))
        infos.append(_with_check_updates(info, workload))
    return infos


def _with_check_updates(info: PodSetInfo, workload: Document) -> PodSetInfo:
    for check in (workload.get("status") or {}).get("admissionChecks") or ():
        for update in check.get("podSetUpdates") or ():
            if update.get("name") == info.name:
                info = PodSetInfo(
                    info.name,
                    info.count,
                    {**info.labels, **(update.get("labels") or {})},
                    {**info.annotations, **(update.get("annotations") or {})},
                    {**info.node_selector, **(update.get("nodeSelector") or {})},
                    (*info.tolerations, *(update.get("tolerations") or ())),
                    info.scheduling_gates,
                )
    return info


# batch/v1 Job


def _job_parallelism(spec: Document) -> int:
    value = spec.get("parallelism")
    return 1 if value is None else int(value)


def _pods_of_job_spec(spec: Document) -> int:
    parallelism = _job_parallelism(spec)
    completions = spec.get("completions")
    return parallelism if completions is None else min(parallelism, int(completions))


def _spares_of_job_spec(spec: Document) -> int:
    """Pods beside those that work: they hold quota like any other."""
    policy = policy_of({"spec": spec})
    return 0 if policy is None else policy.spares


def _places_of_job_spec(spec: Document) -> int:
    """Pods that a Job may have at a time."""
    return _pods_of_job_spec(spec) + _spares_of_job_spec(spec)


def _min_parallelism(job: Document) -> int | None:
    text = (job["metadata"].get("annotations") or {}).get(MIN_PARALLELISM_ANNOTATION)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _job_pod_sets(job: Document) -> list[Document]:
    template = job["spec"].get("template") or {}
    metadata = dict(template.get("metadata") or {})
    labels = {k: v for k, v in (metadata.get("labels") or {}).items() if k not in _CLEANED}
    _put(metadata, "labels", labels)
    pod_set: Document = {
        "name": DEFAULT_POD_SET,
        "template": {**template, "metadata": metadata},
        "count": _places_of_job_spec(job["spec"]),
    }
    minimum = _min_parallelism(job)
    if minimum is not None:
        pod_set["minCount"] = minimum
    return [pod_set]


def _job_finished(job: Document) -> tuple[str, bool] | None:
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition.get("type") in ("Complete", "Failed") and condition.get("status") == "True":
            return condition.get("message", ""), condition["type"] == "Complete"
    return None


def _job_pods_ready(job: Document) -> bool:
    status = job.get("status") or {}
    uncounted = (status.get("uncountedTerminatedPods") or {}).get("succeeded") or ()
    good = int(status.get("ready") or 0) + int(status.get("succeeded") or 0) + len(uncounted)
    return good >= _pods_of_job_spec(job["spec"])


def _job_reclaimable(job: Document) -> list[Document]:
    """Pods that will not be started again: fewer completions are left than run side by side."""
    spec, status = job["spec"], job.get("status") or {}
    parallelism = _job_parallelism(spec)
    done = int(status.get("succeeded") or 0)
    completions = spec.get("completions")
    total = parallelism if completions is None else int(completions)
    if spec.get("completionMode") == "Indexed":
        done = terminal_indexes(
            status.get("completedIndexes") or "", status.get("failedIndexes") or "", total
        )
    if parallelism <= 1 or done <= 0:
        return []
    left = max(total - done, 0)
    count = parallelism - left
    return [{"name": DEFAULT_POD_SET, "count": count}] if count > 0 else []


def terminal_indexes(completed: str, failed: str, completions: int) -> int:
    """How many of a Job's indexes below ``completions`` are named by the interval lists.

    >>> terminal_indexes("0-2,5", "2,7", 6)
    4
    """
    found: set[int] = set()
    for part in ",".join((completed, failed)).split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            found.update(range(int(first), min(int(last or first), completions - 1) + 1))
    return len(found)


def _job_edit(job: Document, edit: Edit) -> Document:
    template = edit(0, job["spec"].get("template") or {})
    return {**job, "spec": {**job["spec"], "template": template}}


def _job_resize(job: Document, infos: Sequence[PodSetInfo]) -> Document:
    """Partial admission sets the parallelism; only Jobs that allow it are touched."""
    if _min_parallelism(job) is None or not infos:
        return job
    parallelism = infos[0].count - _spares_of_job_spec(job["spec"])
    spec = {**job["spec"], "parallelism": parallelism}
    annotations = job["metadata"].get("annotations") or {}
    if annotations.get(COMPLETIONS_FOLLOW_ANNOTATION) == "true":
        spec["completions"] = parallelism
    return {**job, "spec": spec}


JOB = JobKind(
    JOBS,
    _job_pod_sets,
    lambda job: bool((job.get("status") or {}).get("active")),
    _job_finished,
    _job_reclaimable,
    _job_pods_ready,
    _job_edit,
    _job_resize,
)


# JobSet


def _jobset_pod_sets(jobset: Document) -> list[Document]:
    return [
        {
            "name": replicated["name"],
            "template": _job_spec(replicated).get("template") or {},
            "count": int(replicated.get("replicas", 1))
            * _places_of_job_spec(_job_spec(replicated)),
        }
        for replicated in jobset["spec"].get("replicatedJobs") or ()
    ]


def _job_spec(replicated: Document) -> Document:
    return (replicated.get("template") or {}).get("spec") or {}


def _jobset_statuses(jobset: Document) -> list[Document]:
    return (jobset.get("status") or {}).get("replicatedJobsStatus") or []


def _jobset_finished(jobset: Document) -> tuple[str, bool] | None:
    for type_, success in (("Completed", True), ("Failed", False)):
        for condition in (jobset.get("status") or {}).get("conditions") or ():
            if condition.get("type") == type_ and condition.get("status") == "True":
                return condition.get("message", ""), success
    return None


def _jobset_pods_ready(jobset: Document) -> bool:
    wanted = sum(int(r.get("replicas", 1)) for r in jobset["spec"].get("replicatedJobs") or ())
    good = sum(
        int(s.get("ready") or 0) + int(s.get("succeeded") or 0) for s in _jobset_statuses(jobset)
    )
    return wanted == good


def _jobset_reclaimable(jobset: Document) -> list[Document]:
    succeeded = {s["name"]: int(s.get("succeeded") or 0) for s in _jobset_statuses(jobset)}
    found = []
    for replicated in jobset["spec"].get("replicatedJobs") or ():
        done = succeeded.get(replicated["name"], 0)
        if 0 < done <= int(replicated.get("replicas", 1)):
            pods = done * _places_of_job_spec(_job_spec(replicated))
            found.append({"name": replicated["name"], "count": pods})
    return found


def _jobset_edit(jobset: Document, edit: Edit) -> Document:
    edited = []
    for index, replicated in enumerate(jobset["spec"].get("replicatedJobs") or ()):
        job_spec = _job_spec(replicated)
        template = edit(index, job_spec.get("template") or {})
        job_template = {**replicated["template"], "spec": {**job_spec, "template": template}}
        edited.append({**replicated, "template": job_template})
    return {**jobset, "spec": {**jobset["spec"], "replicatedJobs": edited}}


JOBSET = JobKind(
    JOB_SETS,
    _jobset_pod_sets,
    lambda jobset: any(int(s.get("active") or 0) > 0 for s in _jobset_statuses(jobset)),
    _jobset_finished,
    _jobset_reclaimable,
    _jobset_pods_ready,
    _jobset_edit,
    lambda jobset, _infos: jobset,
)

# TrainJob: its pods are its JobSet's, its templates change by a runtime patch of ours

TRAINER_PATCH_MANAGER = PREFIX + "manager"


def _trainjob_statuses(trainjob: Document) -> list[Document]:
    return (trainjob.get("status") or {}).get("jobsStatus") or []


@dataclass(frozen=True, slots=True)
class TrainJobKind(JobKind):
    """A TrainJob has no templates of its own: what admission adds is a patch beside the users'."""

    def started(self, document: Document, infos: Sequence[PodSetInfo]) -> Document:
        templates = {ps["name"]: ps.get("template") or {} for ps in self.pod_sets(document)}
        jobs = [_patched_job(info, templates.get(info.name, {})) for info in infos]
        template = {"spec": {"replicatedJobs": jobs}}
        patch = {
            "manager": TRAINER_PATCH_MANAGER,
            "trainingRuntimeSpec": {"template": template},
        }
        spec = _without_patch(document)["spec"]
        patches = [*(spec.get("runtimePatches") or ()), patch]
        return {**document, "spec": {**spec, "runtimePatches": patches, "suspend": False}}

    def restored(self, document: Document, infos: Sequence[PodSetInfo]) -> Document:
        return _without_patch(document)


def _without_patch(trainjob: Document) -> Document:
    spec = dict(trainjob["spec"])
    held = spec.get("runtimePatches") or []
    kept = [patch for patch in held if patch.get("manager") != TRAINER_PATCH_MANAGER]
    _put(spec, "runtimePatches", kept)
    return {**trainjob, "spec": spec}


def _patched_job(info: PodSetInfo, template: Document) -> Document:
    """A patch for one replicated job; lists that a patch replaces hold the template's too."""
    merged = merge_into(template, info)["spec"]
    metadata: Document = {}
    _put(metadata, "labels", dict(info.labels))
    _put(metadata, "annotations", dict(info.annotations))
    spec: Document = {}
    _put(spec, "nodeSelector", dict(info.node_selector))
    _put(spec, "tolerations", list(merged["tolerations"]) if info.tolerations else [])
    _put(spec, "schedulingGates", list(info.scheduling_gates))
    pod: Document = {}
    _put(pod, "metadata", metadata)
    _put(pod, "spec", spec)
    return {"name": info.name, "template": {"spec": {"template": pod}}}


def train_job_kind(jobset_of: Callable[[Document], Document | None]) -> JobKind:
    """TrainJobs; ``jobset_of`` finds the JobSet that a TrainJob has made, suspended as it is."""

    def pod_sets(trainjob: Document) -> list[Document]:
        jobset = jobset_of(trainjob)
        return _jobset_pod_sets(jobset) if jobset else []

    def with_status(trainjob: Document) -> Document | None:
        jobset = jobset_of(trainjob)
        statuses = {"replicatedJobsStatus": _trainjob_statuses(trainjob)}
        return {**jobset, "status": statuses} if jobset else None

    def pods_ready(trainjob: Document) -> bool:
        jobset = with_status(trainjob)
        return jobset is not None and _jobset_pods_ready(jobset)

    def reclaimable(trainjob: Document) -> list[Document]:
        jobset = with_status(trainjob)
        return _jobset_reclaimable(jobset) if jobset else []

    return TrainJobKind(
        TRAIN_JOBS,
        pod_sets,
        lambda job: any(int(s.get("active") or 0) > 0 for s in _trainjob_statuses(job)),
        _job_finished,
        reclaimable,
        pods_ready,
        lambda trainjob, _edit: trainjob,
        lambda trainjob, _infos: trainjob,
        restores_when_idle=True,
    )


RESOURCES = (JOBS, JOB_SETS, TRAIN_JOBS)
"""The kinds that queue. Their JobKinds: JOB, JOBSET and ``train_job_kind``."""


def same_pods(left: Document, right: Document, ignore_tolerations: bool = False) -> bool:
    """Whether two pod sets ask for the same pods, as far as quota and identity go."""
    if left.get("name") != right.get("name") or left.get("minCount") != right.get("minCount"):
        return False
    if int(left.get("count", 1)) != int(right.get("count", 1)):
        return False
    one = (left.get("template") or {}).get("spec") or {}
    other = (right.get("template") or {}).get("spec") or {}
    fields = ["initContainers", "containers"]
    if not ignore_tolerations:
        fields.append("tolerations")
    return all((one.get(name) or []) == (other.get(name) or []) for name in fields)
