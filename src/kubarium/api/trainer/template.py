"""A runtime's JobSet template with a TrainJob's changes merged in.

Source: Trainer ``pkg/runtime/core/trainingruntime.go``, ``pkg/runtime/framework/plugins/jobset``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from kubarium.api.patch.strategic import strategic_merge_patch
from kubarium.api.resource import Document, copy_document
from kubarium.api.schema import definition
from kubarium.api.trainer.names import ANCESTOR, NODE, TRAINER
from kubarium.base.quantity import whole

_JOB_SPEC = "io.k8s.api.batch.v1.JobSpec"
_RESOURCES = "io.k8s.api.core.v1.ResourceRequirements"


@dataclass(slots=True)
class Plan:
    """What a TrainJob comes to (upstream's ``runtime.Info``). Its documents are its own.

    ``spec`` is the JobSet's; ``counts`` how many pods each replicated job has; ``slots`` how many
    processes MPI starts on each node.
    """

    trainjob: Document
    spec: Document
    ml_policy: Document
    pod_group_policy: Document
    labels: dict[str, str]
    annotations: dict[str, str]
    counts: dict[str, int]
    slots: int = 1
    pod_labels: dict[str, str] = field(default_factory=dict)
    pod_annotations: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.trainjob["metadata"]["name"])

    @property
    def trainer(self) -> Document | None:
        """``spec.trainer`` of the TrainJob; None where it says nothing."""
        found: Document | None = self.trainjob["spec"].get("trainer")
        return found

    @property
    def jobs(self) -> list[Document]:
        """The replicated jobs, in the runtime's order."""
        found: list[Document] = self.spec.get("replicatedJobs") or []
        return found

    def job(self, name: str) -> Document | None:
        """The replicated job of that name."""
        return next((job for job in self.jobs if job["name"] == name), None)

    def step(self, ancestor: str) -> Document | None:
        """The first replicated job that carries out a step of the TrainJob."""
        return next((job for job in self.jobs if ancestor_of(job) == ancestor), None)

    @property
    def nodes(self) -> int:
        """How many nodes train."""
        job = self.step(TRAINER)
        return self.counts[job["name"]] if job else 1

    def trainer_container(self) -> Document | None:
        """The container that trains, if the TrainJob has anything to say to it."""
        job = self.step(TRAINER)
        return container_of(job, NODE) if job and self.trainer is not None else None

    def endpoints(self, job: Document) -> Iterator[str]:
        """The names under which the pods of a replicated job find each other."""
        network = self.spec.get("network") or {}
        subdomain = network.get("subdomain") or self.name
        for replica in range(int(job.get("replicas", 1))):
            for pod in range(self.counts[job["name"]]):
                yield f"{self.name}-{job['name']}-{replica}-{pod}.{subdomain}"

    @property
    def first_node(self) -> str:
        """The name of rank 0, where the others meet."""
        return f"{self.name}-{NODE}-0-0.{self.name}"


def merged(trainjob: Document, runtime_spec: Document) -> Plan:
    """The plan before any policy: the template, the patches in order, and the nodes' resources.

    Raises ApiError for a patch that does not fit.
    """
    template = runtime_spec.get("template") or {}
    metadata = template.get("metadata") or {}
    labels = dict(metadata.get("labels") or {})
    annotations = dict(metadata.get("annotations") or {})
    spec: Document = copy_document(template.get("spec") or {})
    for patch in trainjob["spec"].get("runtimePatches") or ():
        change = (patch.get("trainingRuntimeSpec") or {}).get("template") or {}
        labels |= (change.get("metadata") or {}).get("labels") or {}
        annotations |= (change.get("metadata") or {}).get("annotations") or {}
        _patch_jobs(spec, (change.get("spec") or {}).get("replicatedJobs") or ())
    ml_policy: Document = copy_document(runtime_spec.get("mlPolicy") or {})
    plan = Plan(
        trainjob,
        spec,
        ml_policy,
        runtime_spec.get("podGroupPolicy") or {},
        labels,
        annotations,
        {job["name"]: _count(job, ml_policy) for job in spec.get("replicatedJobs") or ()},
    )
    _merge_resources(plan)
    return plan


def _patch_jobs(spec: Document, patches: Iterable[Document]) -> None:
    """Jobs are matched by name and keep the runtime's order."""
    jobs = spec.get("replicatedJobs") or ()
    for patch in patches:
        for job in jobs:
            if job["name"] != patch.get("name") or not patch.get("template"):
                continue
            change, template = patch["template"], job.setdefault("template", {})
            for name in ("labels", "annotations"):
                more = (change.get("metadata") or {}).get(name)
                if more:
                    metadata = template.setdefault("metadata", {})
                    metadata[name] = {**(metadata.get(name) or {}), **more}
            if change.get("spec"):
                own = copy_document(change["spec"])
                held = template.get("spec") or {}
                template["spec"] = strategic_merge_patch(held, own, definition(_JOB_SPEC))


def _count(job: Document, ml_policy: Document) -> int:
    parallelism = int(job_spec(job).get("parallelism") or 1)
    if ancestor_of(job) == TRAINER and ml_policy:
        parallelism = int(ml_policy.get("numNodes") or 1)
    return max(parallelism, 1)


def _merge_resources(plan: Plan) -> None:
    """What the TrainJob wants on each node, over what the runtime gives."""
    wanted = (plan.trainer or {}).get("resourcesPerNode")
    if not wanted or not plan.ml_policy:
        return
    with_nodes = bool((plan.ml_policy.get("mpi") or {}).get("runLauncherAsNode"))
    for job in plan.jobs:
        if ancestor_of(job) == TRAINER or (with_nodes and job["name"] == NODE):
            container = container_of(job, NODE)
            if container is not None:
                held = container.get("resources") or {}
                container["resources"] = strategic_merge_patch(
                    held, copy_document(wanted), definition(_RESOURCES)
                )


# parts of a replicated job


def ancestor_of(job: Document) -> str:
    """The step of the TrainJob that a replicated job carries out, or ""."""
    metadata = (job.get("template") or {}).get("metadata") or {}
    return str((metadata.get("labels") or {}).get(ANCESTOR, ""))


def job_spec(job: Document) -> Document:
    """The Job's spec; a new one if the template has none."""
    found: Document = job.setdefault("template", {}).setdefault("spec", {})
    return found


def pod_spec(job: Document) -> Document:
    """The pod's spec; a new one if the template has none."""
    found: Document = job_spec(job).setdefault("template", {}).setdefault("spec", {})
    return found


def container_of(job: Document, name: str, *, init: bool = False) -> Document | None:
    """A container by name; with ``init``, an init container will do too."""
    pod = pod_spec(job)
    fields = ("containers", "initContainers") if init else ("containers",)
    for key in fields:
        for container in pod.get(key) or ():
            if container.get("name") == name:
                found: Document = container
                return found
    return None


# lists that are keyed by a field


def upsert(holder: Document, field_name: str, items: Iterable[Document], key: str) -> None:
    """Put ``items`` into a list, each in the place of the one with the same ``key``."""
    held = list(holder.get(field_name) or ())
    for item in items:
        place = next((i for i, old in enumerate(held) if old.get(key) == item[key]), len(held))
        held[place : place + 1] = [item]
    if held:
        holder[field_name] = held


def set_env(container: Document, entries: Iterable[Document]) -> None:
    """Variables of a container; one that is there is replaced in its place."""
    upsert(container, "env", entries, "name")


# resources


def node_resources(plan: Plan) -> Document:
    """What one node may use, for working out how many processes it runs."""
    own: Document | None = (plan.trainer or {}).get("resourcesPerNode")
    if own is not None:
        return own
    for job in plan.jobs:
        if job["name"] == NODE or ancestor_of(job) == TRAINER:
            container = container_of(job, NODE)
            if container is not None and container.get("resources"):
                found: Document = container["resources"]
                return found
    return {}


def gpus(resources: Document) -> int:
    """How many GPUs are asked for, by any resource that has "gpu" in its name."""
    return _first_gpu(resources.get("requests")) or _first_gpu(resources.get("limits"))


def _first_gpu(amounts: Document | None) -> int:
    for name in sorted(amounts or ()):
        if "gpu" in name.lower():
            return whole((amounts or {})[name])
    return 0


def cpus(resources: Document) -> int:
    """Whole CPUs requested, else the limit; a part of one counts as one."""
    for key in ("requests", "limits"):
        amount = whole((resources.get(key) or {}).get("cpu", 0))
        if amount:
            return amount
    return 0
