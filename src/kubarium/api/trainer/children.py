"""The objects that a plan asks for: JobSet, PodGroup, MPI's hosts."""

from __future__ import annotations

from collections.abc import Mapping

from kubarium.api.resource import Document, copy_document
from kubarium.api.trainer import names
from kubarium.api.trainer.names import INITIALIZERS, LAUNCHER, NODE, TRAINER
from kubarium.api.trainer.template import Plan, ancestor_of, container_of, job_spec, set_env


def job_set(plan: Plan) -> Document:
    """The JobSet, to be applied; without owner. The plan is used up: its documents go in."""
    for job in plan.jobs:
        ancestor = ancestor_of(job)
        if ancestor in INITIALIZERS:
            job["replicas"] = 1
            _initializer(plan, job, ancestor)
        elif ancestor == TRAINER:
            job["replicas"] = 1
            _trainer(plan, job)
        elif job["name"] == NODE and (plan.ml_policy.get("mpi") or {}).get("runLauncherAsNode"):
            _trainer_env(plan, job)
    _mark_pods(plan)
    spec = {**plan.spec, "suspend": bool(plan.trainjob["spec"].get("suspend"))}
    metadata: Document = {
        "name": plan.name,
        "namespace": plan.trainjob["metadata"].get("namespace", ""),
    }
    for key, value in (("labels", plan.labels), ("annotations", plan.annotations)):
        if value:
            metadata[key] = dict(value)
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": spec,
    }


def _initializer(plan: Plan, job: Document, step: str) -> None:
    initializer = plan.trainjob["spec"].get("initializer") or {}
    given = initializer.get(INITIALIZERS[step])
    container = container_of(job, step)
    if given is None or container is None:
        return
    if given.get("storageUri") is not None:
        set_env(container, [{"name": names.STORAGE_URI, "value": given["storageUri"]}])
    set_env(container, copy_document(given.get("env") or []))
    if given.get("secretRef"):
        source = {"secretRef": {"name": given["secretRef"]["name"]}}
        container["envFrom"] = [*(container.get("envFrom") or ()), source]


def _trainer(plan: Plan, job: Document) -> None:
    container = container_of(job, NODE)
    if container is not None:
        for key in ("image", "command", "args"):
            value = (plan.trainer or {}).get(key)
            if value is not None:
                container[key] = copy_document(value)
    _trainer_env(plan, job)


def _trainer_env(plan: Plan, job: Document) -> None:
    container = container_of(job, NODE)
    if container is not None:
        set_env(container, copy_document((plan.trainer or {}).get("env") or []))


def _mark_pods(plan: Plan) -> None:
    """What the scheduler must know of the gang, on the pods that belong to it."""
    policy = plan.pod_group_policy
    if policy.get("coscheduling") is None and policy.get("volcano") is None:
        return
    labels = {names.COSCHEDULING_LABEL: plan.name}
    annotations: dict[str, str] = {}
    if policy.get("volcano") is not None:
        annotations[names.VOLCANO_GROUP] = plan.name
    after = _waited_for(plan)
    for job in plan.jobs:
        if job["name"] not in after:
            metadata = job_spec(job).setdefault("template", {}).setdefault("metadata", {})
            for key, more in (("labels", labels), ("annotations", annotations)):
                if more:
                    metadata[key] = {**(metadata.get(key) or {}), **more}


# the gang


def gang_of(plan: Plan) -> dict[str, int]:
    """Replicated job -> pods of it that must start together.

    Not those that others wait for to complete, and not those that wait for others to be ready:
    neither is there when the rest is placed, and a gang that waited for them would wait for ever
    (upstream counts all pods).
    """
    after = _waited_for(plan)
    return {
        job["name"]: plan.counts[job["name"]]
        for job in plan.jobs
        if job["name"] not in after
        and not any(entry["status"] == "Ready" for entry in job.get("dependsOn") or ())
    }


def _waited_for(plan: Plan) -> set[str]:
    return {
        entry["name"]
        for job in plan.jobs
        for entry in job.get("dependsOn") or ()
        if entry["status"] == "Complete"
    }


def pod_group(plan: Plan, resources: Mapping[str, str]) -> Document | None:
    """The scheduler's PodGroup, or None without a policy. ``resources``: what the gang requests.

    A policy for Volcano, which is not served here, asks for the same gang.
    """
    policy = plan.pod_group_policy
    coscheduling = policy.get("coscheduling")
    if coscheduling is None and policy.get("volcano") is None:
        return None
    timeout_s = int((coscheduling or {}).get("scheduleTimeoutSeconds") or 60)
    spec: Document = {
        "minMember": sum(gang_of(plan).values()),
        "scheduleTimeoutSeconds": timeout_s,
    }
    if resources:
        spec["minResources"] = dict(resources)
    return {
        "apiVersion": "scheduling.x-k8s.io/v1alpha1",
        "kind": "PodGroup",
        "metadata": {"name": plan.name, "namespace": plan.trainjob["metadata"]["namespace"]},
        "spec": spec,
    }


def mpi_hostfile(plan: Plan) -> Document | None:
    """The ConfigMap with a line for each host, or None without MPI."""
    policy = plan.ml_policy.get("mpi")
    if policy is None:
        return None
    hosts = [NODE, LAUNCHER] if policy.get("runLauncherAsNode") else [NODE]
    lines = [
        f"{endpoint} slots={plan.slots}\n"
        for job in plan.jobs
        if job["name"] in hosts
        for endpoint in plan.endpoints(job)
    ]
    name = names.hostfile_name(plan.name)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": plan.trainjob["metadata"]["namespace"]},
        "data": {names.MPI_HOSTFILE: "".join(lines)},
    }
