"""A Job's ``spec.scheduling`` as a Workload and a PodGroup (KEP-5547, KEP-6089). Pure.

Names are for people to read; who belongs to whom is told by references.
"""

from __future__ import annotations

import hashlib

from kubarium.api.kinds import GANG_WORKLOADS, POD_GROUPS
from kubarium.api.resource import Document, copy_document
from kubarium.runtime.writes import owner_reference

# The one template of a Workload that is made from a Job.
TEMPLATE = "pods"
# Names can be label values this way.
_MOST = 63
_COPIED = ("schedulingConstraints", "disruptionMode", "resourceClaims")


def least_together(job: Document) -> int:
    """A gang's minCount when the Job does not say: all pods that can run at the same time.

    Upstream takes ``parallelism`` alone, with which a Job of fewer completions never starts.
    """
    spec = job["spec"]
    least = int(1 if spec.get("parallelism") is None else spec["parallelism"])
    if spec.get("completions") is not None:
        least = min(least, int(spec["completions"]))
    return max(1, least)


def template_of(job: Document) -> Document:
    """The PodGroupTemplate: basic if the Job names no policy, a gang of its minCount otherwise."""
    scheduling = job["spec"].get("scheduling") or {}
    policy = copy_document(scheduling.get("schedulingPolicy") or {"basic": {}})
    if "gang" in policy:
        gang = policy["gang"] or {}
        policy["gang"] = {"minCount": gang.get("minCount") or least_together(job)}
    template: Document = {"name": TEMPLATE, "schedulingPolicy": policy}
    for field in _COPIED:
        if scheduling.get(field):
            template[field] = copy_document(scheduling[field])
    priority = job["spec"]["template"]["spec"].get("priorityClassName")
    if priority:
        template["priorityClassName"] = priority
    return template


def workload_of(job: Document) -> Document:
    """The Workload that stands for the Job, owned by it."""
    metadata = job["metadata"]
    return {
        "apiVersion": GANG_WORKLOADS.api_version,
        "kind": GANG_WORKLOADS.kind,
        "metadata": {
            "name": _name(metadata["name"], metadata["uid"]),
            "namespace": metadata["namespace"],
            "ownerReferences": [owner_reference(job)],
        },
        "spec": {
            "controllerRef": {"apiGroup": "batch", "kind": "Job", "name": metadata["name"]},
            "podGroupTemplates": [template_of(job)],
        },
    }


def group_of(job: Document, workload: Document, template: Document, parent: str = "") -> Document:
    """The Job's PodGroup, made from a template of the Workload.

    A Workload that is the Job's own owns the group too, but does not wait for it to go;
    ``parent`` is the composite above it.
    """
    metadata = job["metadata"]
    owners = [owner_reference(job)]
    if is_owned_by(workload, job):
        owners.append(owner_reference(workload, controller=False, block_owner_deletion=False))
    spec = {k: copy_document(v) for k, v in template.items() if k != "name"}
    reference = {"workloadName": workload["metadata"]["name"], "templateName": template["name"]}
    if parent:
        spec["parentCompositePodGroupName"] = parent
    return {
        "apiVersion": POD_GROUPS.api_version,
        "kind": POD_GROUPS.kind,
        "metadata": {
            "name": _name(f"{metadata['name']}-{template['name']}", metadata["uid"]),
            "namespace": metadata["namespace"],
            "ownerReferences": owners,
        },
        "spec": {**spec, "workloadRef": reference},
    }


def templates_in(parent: Document) -> dict[str, Document]:
    """The pod group templates of a Workload's spec at every level, by name."""
    found = {template["name"]: template for template in parent.get("podGroupTemplates") or ()}
    for composite in parent.get("compositePodGroupTemplates") or ():
        found |= templates_in(composite)
    return found


def min_count(policy_holder: Document) -> int | None:
    """The minCount of a template or a group's spec; None if it is no gang."""
    gang = (policy_holder.get("schedulingPolicy") or {}).get("gang")
    return None if gang is None else int(gang.get("minCount") or 0)


def is_owned_by(document: Document, job: Document) -> bool:
    """Whether the Job is the controller of the object."""
    uid = job["metadata"]["uid"]
    owners = document["metadata"].get("ownerReferences") or ()
    return any(o.get("controller") and o.get("uid") == uid for o in owners)


def _name(readable: str, uid: str) -> str:
    tail = hashlib.sha256(uid.encode()).hexdigest()[:8]
    return f"{readable[: _MOST - len(tail) - 1].rstrip('-.')}-{tail}"
