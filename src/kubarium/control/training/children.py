"""The Jobs, the Service and the claims that a JobSet makes. Pure.

Names, labels and annotations are upstream's (``pkg/controllers/jobset_controller.go``): other
controllers and users' scripts read them.
"""

from __future__ import annotations

import hashlib

from kubarium.api.admission.jobset_pods import (
    EXCLUSIVE,
    JOB_KEY,
    JOBSET_NAME,
    NODE_SELECTOR_STRATEGY,
)
from kubarium.api.resource import Document, copy_document
from kubarium.runtime.writes import owner_reference
from kubarium.view.memory import LEARNED, learned, learned_text

JOBSET_UID = "jobset.sigs.k8s.io/jobset-uid"
REPLICATED_JOB = "jobset.sigs.k8s.io/replicatedjob-name"
REPLICATED_JOB_REPLICAS = "jobset.sigs.k8s.io/replicatedjob-replicas"
GLOBAL_REPLICAS = "jobset.sigs.k8s.io/global-replicas"
JOB_INDEX = "jobset.sigs.k8s.io/job-index"
JOB_GLOBAL_INDEX = "jobset.sigs.k8s.io/job-global-index"
GROUP_NAME = "jobset.sigs.k8s.io/group-name"
GROUP_REPLICAS = "jobset.sigs.k8s.io/group-replicas"
JOB_GROUP_INDEX = "jobset.sigs.k8s.io/job-group-index"
RESTART_ATTEMPT = "jobset.sigs.k8s.io/restart-attempt"
JOB_RESTART_ATTEMPT = "jobset.sigs.k8s.io/job-restart-attempt"
COORDINATOR = "jobset.sigs.k8s.io/coordinator"
NAMESPACED_JOB = "alpha.jobset.sigs.k8s.io/namespaced-job"
NO_SCHEDULE = "alpha.jobset.sigs.k8s.io/no-schedule"
DEFAULT_GROUP = "default"
# By which scheduler-plugins' coscheduling names a pod's group.
GROUP_LABEL = "scheduling.x-k8s.io/pod-group"


def replicated_jobs(jobset: Document) -> list[Document]:
    """``spec.replicatedJobs`` in order."""
    return list(jobset["spec"].get("replicatedJobs") or ())


def replicas_of(replicated_job: Document) -> int:
    """How many Jobs it asks for."""
    return int(replicated_job.get("replicas", 1))


def job_name(jobset: Document, replicated_job: Document, index: int) -> str:
    """``<jobset>-<replicatedJob>-<index>``."""
    return f"{jobset['metadata']['name']}-{replicated_job['name']}-{index}"


def subdomain(jobset: Document) -> str:
    """The name of the headless Service, by default the JobSet's."""
    network = jobset["spec"].get("network") or {}
    return str(network.get("subdomain") or jobset["metadata"]["name"])


def has_hostnames(jobset: Document) -> bool:
    """Whether pods are to be resolvable by name."""
    network = jobset["spec"].get("network") or {}
    return bool(network.get("enableDNSHostnames", False))


def coordinator_endpoint(jobset: Document) -> str:
    """The stable DNS name of the coordinator pod. Call only with a coordinator in the spec."""
    chosen = jobset["spec"]["coordinator"]
    pod = (
        f"{jobset['metadata']['name']}-{chosen['replicatedJob']}"
        f"-{chosen.get('jobIndex', 0)}-{chosen.get('podIndex', 0)}"
    )
    return f"{pod}.{subdomain(jobset)}"


def child_job(
    jobset: Document, replicated_job: Document, index: int, restarts: int, job_restarts: int = 0
) -> Document:
    """The Job of one replica: attempt ``restarts`` of the JobSet, ``job_restarts`` of its own."""
    template = replicated_job["template"]
    metadata = template.get("metadata") or {}
    spec = copy_document(template["spec"])
    identity = _identity(jobset, replicated_job, index, restarts, job_restarts)
    placement = _placement(jobset, template)
    pod = spec.setdefault("template", {})
    pod["metadata"] = _mark(pod.get("metadata") or {}, identity, placement)
    pod_spec = pod.setdefault("spec", {})
    name = job_name(jobset, replicated_job, index)
    namespace = jobset["metadata"]["namespace"]
    if has_hostnames(jobset):
        pod_spec["subdomain"] = subdomain(jobset)
    if EXCLUSIVE in placement and NODE_SELECTOR_STRATEGY in placement:
        _select_labelled_nodes(pod_spec, namespace, name)
    if exclusive_topology(jobset, replicated_job):
        pod_spec["schedulingGroup"] = {"podGroupName": name}
    _add_volumes(jobset, pod_spec)
    spec["suspend"] = bool(jobset["spec"].get("suspend"))
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            **_mark(metadata, identity, {**placement, **_learned_memory(jobset, name)}),
            "name": name,
            "namespace": namespace,
            "ownerReferences": [owner_reference(jobset)],
        },
        "spec": spec,
    }


def _learned_memory(jobset: Document, job: str) -> dict[str, str]:
    """The annotation with the memory that pods of this Job were found to need."""
    sizes = {
        key.removeprefix(f"{job}/"): found
        for key, found in learned(jobset).items()
        if key.startswith(f"{job}/")
    }
    return {LEARNED: learned_text(sizes)} if sizes else {}


def _identity(
    jobset: Document, replicated_job: Document, index: int, restarts: int, job_restarts: int
) -> dict[str, str]:
    """What is written both as labels and as annotations, on the Job and on its pods."""
    jobs = replicated_jobs(jobset)
    group = replicated_job.get("groupName") or DEFAULT_GROUP
    peers = [job for job in jobs if (job.get("groupName") or DEFAULT_GROUP) == group]
    namespace = jobset["metadata"]["namespace"]
    name = job_name(jobset, replicated_job, index)
    # SHA-1 is upstream's choice for a short key, not for safety.
    key = hashlib.sha1(f"{namespace}/{name}".encode(), usedforsecurity=False).hexdigest()
    identity = {
        JOBSET_NAME: jobset["metadata"]["name"],
        JOBSET_UID: jobset["metadata"]["uid"],
        REPLICATED_JOB: replicated_job["name"],
        RESTART_ATTEMPT: str(restarts),
        JOB_RESTART_ATTEMPT: str(job_restarts),
        REPLICATED_JOB_REPLICAS: str(replicas_of(replicated_job)),
        GLOBAL_REPLICAS: str(sum(map(replicas_of, jobs))),
        JOB_INDEX: str(index),
        JOB_KEY: key,
        JOB_GLOBAL_INDEX: str(_before(jobs, replicated_job) + index),
        GROUP_NAME: group,
        GROUP_REPLICAS: str(sum(map(replicas_of, peers))),
        JOB_GROUP_INDEX: str(_before(peers, replicated_job) + index),
    }
    if jobset["spec"].get("coordinator"):
        identity[COORDINATOR] = coordinator_endpoint(jobset)
    return identity


def _before(jobs: list[Document], replicated_job: Document) -> int:
    """How many Jobs the entries ahead of this one have."""
    total = 0
    for job in jobs:
        if job["name"] == replicated_job["name"]:
            break
        total += replicas_of(job)
    return total


def _placement(jobset: Document, template: Document) -> dict[str, str]:
    """Annotations of exclusive placement; the replicated job's win over the JobSet's."""
    result: dict[str, str] = {}
    for metadata in (jobset["metadata"], template.get("metadata") or {}):
        annotations = metadata.get("annotations") or {}
        if EXCLUSIVE in annotations:
            names = (EXCLUSIVE, NODE_SELECTOR_STRATEGY)
            result.update({name: annotations[name] for name in names if name in annotations})
    return result


def exclusive_topology(jobset: Document, replicated_job: Document) -> str:
    """The node label of which each Job gets a value to itself, as one decision of the scheduler;
    "" if there is none, the nodes are labelled by hand, or the pods have a group already."""
    template = replicated_job["template"]
    placement = _placement(jobset, template)
    pod = template["spec"].get("template") or {}
    has_group = (pod.get("spec") or {}).get("schedulingGroup") or GROUP_LABEL in (
        (pod.get("metadata") or {}).get("labels") or {}
    )
    if has_group or NODE_SELECTOR_STRATEGY in placement:
        return ""
    return placement.get(EXCLUSIVE, "")


def _mark(metadata: Document, identity: dict[str, str], placement: dict[str, str]) -> Document:
    return {
        "labels": {**(metadata.get("labels") or {}), **identity},
        "annotations": {**(metadata.get("annotations") or {}), **identity, **placement},
    }


def _select_labelled_nodes(pod_spec: Document, namespace: str, name: str) -> None:
    selector = pod_spec.get("nodeSelector") or {}
    pod_spec["nodeSelector"] = {**selector, NAMESPACED_JOB: f"{namespace}_{name}"}
    toleration = {"key": NO_SCHEDULE, "operator": "Exists", "effect": "NoSchedule"}
    pod_spec["tolerations"] = [*(pod_spec.get("tolerations") or ()), toleration]


def _add_volumes(jobset: Document, pod_spec: Document) -> None:
    """A volume for each claim that some container mounts by name."""
    mounted = {
        mount["name"]
        for field in ("initContainers", "containers")
        for container in pod_spec.get(field) or ()
        for mount in container.get("volumeMounts") or ()
    }
    for _, template in claim_templates(jobset):
        name = template["metadata"]["name"]
        if name in mounted:
            claim = {"claimName": claim_name(jobset, template)}
            volume = {"name": name, "persistentVolumeClaim": claim}
            pod_spec["volumes"] = [*(pod_spec.get("volumes") or ()), volume]


def claim_templates(jobset: Document) -> list[tuple[Document, Document]]:
    """(policy, claim template) of all volumeClaimPolicies."""
    return [
        (policy, template)
        for policy in jobset["spec"].get("volumeClaimPolicies") or ()
        for template in policy.get("templates") or ()
    ]


def claim_name(jobset: Document, template: Document) -> str:
    """``<claim>-<jobset>``."""
    return f"{template['metadata']['name']}-{jobset['metadata']['name']}"


def claim(jobset: Document, policy: Document, template: Document) -> Document:
    """The PersistentVolumeClaim of a template; owned by the JobSet unless it is to be retained."""
    given = template["metadata"]
    metadata: Document = {
        "name": claim_name(jobset, template),
        "namespace": jobset["metadata"]["namespace"],
        "labels": {**(given.get("labels") or {}), JOBSET_NAME: jobset["metadata"]["name"]},
    }
    if given.get("annotations"):
        metadata["annotations"] = given["annotations"]
    if (policy.get("retentionPolicy") or {}).get("whenDeleted", "Delete") == "Delete":
        metadata["ownerReferences"] = [owner_reference(jobset)]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": copy_document(template["spec"]),
    }


def headless_service(jobset: Document) -> Document:
    """The Service that gives the pods their names."""
    network = jobset["spec"].get("network") or {}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": subdomain(jobset),
            "namespace": jobset["metadata"]["namespace"],
            "ownerReferences": [owner_reference(jobset)],
        },
        "spec": {
            "clusterIP": "None",
            "selector": {JOBSET_NAME: jobset["metadata"]["name"]},
            "publishNotReadyAddresses": bool(network.get("publishNotReadyAddresses", True)),
        },
    }
