"""Exclusive placement: each Job of a JobSet alone in a topology domain. Pure.

Upstream schedules one pod of a Job and refuses the rest until its domain is known. Here the pods
of a Job are a PodGroup with that topology key, so that the scheduler looks for a domain that takes
them all, in one decision.
"""

from __future__ import annotations

from kubarium.api.admission.jobset_pods import JOBSET_NAME
from kubarium.api.kinds import POD_GROUPS
from kubarium.api.resource import Document
from kubarium.control.training.children import job_name
from kubarium.runtime.writes import owner_reference


def group(
    jobset: Document, entry: Document, index: int, topology: str, job: Document | None
) -> Document:
    """The PodGroup of one Job, named as the Job; ``job`` is the live one, if there is one."""
    spec: Document = {
        "schedulingPolicy": {"gang": {"minCount": pods_together(entry, job)}},
        "schedulingConstraints": {"topology": [{"key": topology}]},
    }
    pod = entry["template"]["spec"].get("template") or {}
    priority = (pod.get("spec") or {}).get("priorityClassName")
    if priority:
        spec["priorityClassName"] = priority
    return {
        "apiVersion": POD_GROUPS.api_version,
        "kind": POD_GROUPS.kind,
        "metadata": {
            "name": job_name(jobset, entry, index),
            "namespace": jobset["metadata"]["namespace"],
            "labels": {JOBSET_NAME: jobset["metadata"]["name"]},
            "ownerReferences": [owner_reference(jobset)],
        },
        "spec": spec,
    }


def pods_together(entry: Document, job: Document | None) -> int:
    """How many pods must find a place at once: all that run side by side.

    Only one where an index has failed for good: its pod never comes, and those that are made anew
    join the domain of the others anyway.
    """
    if job is not None and (job.get("status") or {}).get("failedIndexes"):
        return 1
    spec = entry["template"]["spec"]
    together = int(1 if spec.get("parallelism") is None else spec["parallelism"])
    if spec.get("completions") is not None:
        together = min(together, int(spec["completions"]))
    return max(together, 1)


def differs(held: Document, wanted: Document) -> bool:
    """Whether the number of pods, the only thing that may change, is another one now."""
    return bool(held["spec"].get("schedulingPolicy") != wanted["spec"]["schedulingPolicy"])
