"""Runs: what carries a trial out, made so that its node reads the metrics from its output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kubarium.api.kinds import JOBS, TRAIN_JOBS
from kubarium.api.labels import COMPLETION_INDEX
from kubarium.api.resource import Document, Resource, copy_document
from kubarium.api.trainer import names as trainer_names
from kubarium.base.chance import Chance
from kubarium.base.errors import ApiError
from kubarium.runtime import writes
from kubarium.runtime.parts import of_metadata
from kubarium.runtime.protocol import Context, Informer
from kubarium.view.tuning import EXPERIMENT_LABEL, METRICS, TRIAL_LABEL, experiment_objective

RESOURCES: dict[str, Resource] = {"TrainJob": TRAIN_JOBS, "Job": JOBS}
MANAGER = "kubarium.dev/tuning"
BY_TRIAL = "trial"


def trial_name(search: Document, number: int) -> str:
    """As Katib names them, ``<search>-<eight letters>``; the same for the same trial, so that none
    is begun twice."""
    name, uid = search["metadata"]["name"], search["metadata"]["uid"]
    return f"{name[:50]}-{Chance(f'{uid}/{number}').suffix(8)}"


def watched(run: Document, trial: str, metrics: Sequence[str], job_name: str) -> Document:
    """The run whose pods carry the trial's label, and ask their node to read metrics. ``job_name``:
    of the part of a TrainJob that trains."""
    labels = {TRIAL_LABEL: trial}
    annotations = {METRICS: " ".join(metrics)}
    run = copy_document(run)
    run.setdefault("metadata", {}).setdefault("labels", {}).update(labels)
    if run["kind"] == "Job":
        metadata = run["spec"]["template"].setdefault("metadata", {})
        metadata["labels"] = {**(metadata.get("labels") or {}), **labels}
        metadata["annotations"] = {**(metadata.get("annotations") or {}), **annotations}
        return run
    pod = {"metadata": {"labels": labels, "annotations": annotations}}
    job = {"name": job_name, "template": {"spec": {"template": pod}}}
    patch = {
        "manager": MANAGER,
        "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [job]}}},
    }
    others = [p for p in run["spec"].get("runtimePatches") or () if p.get("manager") != MANAGER]
    run["spec"]["runtimePatches"] = [*others, patch]
    return run


def training_job(runtime: Document | None) -> str:
    """The replicated job of a training runtime that trains."""
    template = ((runtime or {}).get("spec") or {}).get("template") or {}
    for job in (template.get("spec") or {}).get("replicatedJobs") or ():
        labels = ((job.get("template") or {}).get("metadata") or {}).get("labels") or {}
        if labels.get(trainer_names.ANCESTOR) == trainer_names.TRAINER:
            return str(job["name"])
    return trainer_names.NODE


def runtime_of(
    run: Document, namespace: str, runtimes: Informer, cluster_runtimes: Informer
) -> Document | None:
    """The training runtime that a TrainJob names; None for a Job."""
    reference = run["spec"].get("runtimeRef") or {}
    if reference.get("kind") == "TrainingRuntime":
        return runtimes.get(reference.get("name", ""), namespace)
    return cluster_runtimes.get(reference.get("name", ""))


async def begin_run(context: Context, trial: Document, runtime: Document | None) -> None:
    """Make a trial's run, if it is not there. ApiError if it is refused."""
    metadata, spec = trial["metadata"], trial["spec"]
    objective = experiment_objective(spec["objective"])
    run = watched(spec["runSpec"], metadata["name"], objective.names, training_job(runtime))
    run["metadata"]["ownerReferences"] = [writes.owner_reference(trial)]
    experiment = (metadata.get("labels") or {}).get(EXPERIMENT_LABEL)
    if experiment:
        run["metadata"]["labels"][EXPERIMENT_LABEL] = experiment
    try:
        await writes.create(context, RESOURCES[run["kind"]], run, metadata["namespace"])
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise


def primary_pods(pods: Informer, namespace: str, trial: str) -> list[Document]:
    """The pods whose output counts: rank 0 of the run, or all of a Job without indexes."""
    found = pods.by_index(BY_TRIAL, f"{namespace}/{trial}")
    return [
        p for p in found if (p["metadata"].get("labels") or {}).get(COMPLETION_INDEX, "0") == "0"
    ]


@of_metadata
def trial_of(pod: Document) -> Iterable[str]:
    """For an index: the trial that a pod belongs to."""
    trial = (pod["metadata"].get("labels") or {}).get(TRIAL_LABEL)
    return (f"{pod['metadata']['namespace']}/{trial}",) if trial else ()


def is_final(error: Exception) -> bool:
    """Whether trying again would end the same: what is asked for is refused or makes no sense."""
    return not isinstance(error, ApiError) or error.code in (400, 403, 404, 422)
