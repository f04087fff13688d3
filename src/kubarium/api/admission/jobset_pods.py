"""What JobSet's webhook writes into pods: the priority label and the affinities of exclusive
placement. Source: jobset's ``pkg/webhooks/pod_webhook.go``.

Upstream lets the first pod of a Job be scheduled by these affinities and refuses the others until
it is. Here a Job's pods are a gang with one topology domain (see ``control.training.exclusive``),
so nothing is refused; the affinities keep other Jobs out, and say to others what holds.
"""

from __future__ import annotations

from kubarium.api.labels import COMPLETION_INDEX
from kubarium.api.resource import Document

JOBSET_NAME = "jobset.sigs.k8s.io/jobset-name"
JOB_KEY = "jobset.sigs.k8s.io/job-key"
PRIORITY = "jobset.sigs.k8s.io/priority"
EXCLUSIVE = "alpha.jobset.sigs.k8s.io/exclusive-topology"
NODE_SELECTOR_STRATEGY = "alpha.jobset.sigs.k8s.io/node-selector"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def mark(pod: Document) -> None:
    """Change a pod that is being created, in place; its own affinities stay. Pods of no JobSet,
    and of one whose nodes carry labels for its Jobs, are left alone."""
    metadata, spec = pod.get("metadata") or {}, pod.get("spec")
    annotations = metadata.get("annotations") or {}
    if JOBSET_NAME not in annotations or NODE_SELECTOR_STRATEGY in annotations:
        return
    if not isinstance(spec, dict):
        return
    priority = str(spec.get("priority") or 0)
    metadata["labels"] = {**(metadata.get("labels") or {}), PRIORITY: priority}
    topology = annotations.get(EXCLUSIVE)
    # A pod without an index has no leader to follow, so each says it for itself.
    if topology and annotations.get(COMPLETION_INDEX, "0") == "0":
        _keep_apart(spec, metadata["labels"].get(JOB_KEY, ""), topology, priority)


def _keep_apart(spec: Document, job_key: str, topology: str, priority: str) -> None:
    own = {"key": JOB_KEY, "operator": "In", "values": [job_key]}
    others = [
        {"key": JOB_KEY, "operator": "Exists"},
        {"key": JOB_KEY, "operator": "NotIn", "values": [job_key]},
        # A Job of another priority may push this one out, so it must not be kept out by it.
        {"key": PRIORITY, "operator": "In", "values": [priority]},
    ]
    affinity = dict(spec.get("affinity") or {})
    for kind, expressions in (("podAffinity", [own]), ("podAntiAffinity", others)):
        term = {
            "labelSelector": {"matchExpressions": expressions},
            "topologyKey": topology,
            "namespaceSelector": {},
        }
        held = affinity.get(kind) or {}
        affinity[kind] = {**held, _REQUIRED: [*(held.get(_REQUIRED) or ()), term]}
    spec["affinity"] = affinity
