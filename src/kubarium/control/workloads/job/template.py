"""The pods that a Job makes."""

from __future__ import annotations

from kubarium.api.labels import COMPLETION_INDEX
from kubarium.api.resource import Document
from kubarium.control.workloads.job.facts import (
    FAILURES,
    IGNORED_FAILURES,
    TRACKING,
    JobFacts,
)
from kubarium.control.workloads.pods import pod_from_template
from kubarium.view.elastic import SPARE, keep_apart, put_launcher_first
from kubarium.view.memory import ANY_INDEX, apply_learned, of_any

JOB_NAME = "batch.kubernetes.io/job-name"
# Of a generated name, so that the index is not cut off (MaxGeneratedNameLength).
_MAX_PREFIX = 58
_ENV = {
    "name": "JOB_COMPLETION_INDEX",
    "valueFrom": {
        "fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.labels['{COMPLETION_INDEX}']"}
    },
}


def job_pod(facts: JobFacts, index: int | None, group: str = "") -> Document:
    """A pod of the Job; ``index`` is its completion index in an Indexed Job.

    ``group`` is the PodGroup that it joins, unless its template names one.
    """
    job = facts.job
    pod = pod_from_template(job["spec"]["template"], job)
    if group:
        pod["spec"]["schedulingGroup"] = {"podGroupName": group}
    metadata = pod["metadata"]
    metadata["finalizers"] = [*metadata.get("finalizers", ()), TRACKING]
    apply_learned(
        pod["spec"], facts.learned_memory.get(ANY_INDEX if index is None else str(index), {})
    )
    if facts.elastic is not None:
        put_launcher_first(pod)
    if index is None:
        return pod
    name = f"{job['metadata']['name']}-{index}"
    tail = f"-{index}-"
    metadata["generateName"] = job["metadata"]["name"][: _MAX_PREFIX - len(tail)] + tail
    metadata["labels"] = {**metadata.get("labels", {}), COMPLETION_INDEX: str(index)}
    annotations = {**metadata.get("annotations", {}), COMPLETION_INDEX: str(index)}
    if facts.per_index_limit is not None:
        counted, ignored = facts.failure_counts_for(index)
        annotations[FAILURES] = str(counted)
        if ignored:
            annotations[IGNORED_FAILURES] = str(ignored)
    metadata["annotations"] = annotations
    pod["spec"]["hostname"] = name
    for field in ("initContainers", "containers"):
        for container in pod["spec"].get(field) or ():
            _add_index_variable(container)
    return pod


def spare_pod(facts: JobFacts, group: str = "") -> Document:
    """A pod of the Job that waits for a rank to take: as the ranks' pods are, but without index."""
    pod = job_pod(facts, None, group)
    apply_learned(pod["spec"], of_any(facts.learned_memory))  # whichever rank it will take
    metadata = pod["metadata"]
    # Nothing of it is counted before it has a rank, so nothing holds it.
    metadata["finalizers"] = [name for name in metadata["finalizers"] if name != TRACKING]
    metadata["generateName"] = f"{facts.job['metadata']['name']}-spare-"
    metadata["labels"] = {**metadata.get("labels", {}), SPARE: "true"}
    keep_apart(pod, {JOB_NAME: facts.job["metadata"]["name"]})
    for field in ("initContainers", "containers"):
        for container in pod["spec"].get(field) or ():
            _add_index_variable(container)
    return pod


def _add_index_variable(container: Document) -> None:
    env = container.get("env") or []
    if not any(variable["name"] == _ENV["name"] for variable in env):
        container["env"] = [*env, _ENV]
