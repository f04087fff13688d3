"""Jobs: the generated selector and the labels that make pods match it.

Source: upstream ``pkg/registry/batch/job/strategy.go``.
"""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.server.registry import Registry
from kubarium.server.requests import Call

CONTROLLER_UID = "batch.kubernetes.io/controller-uid"
JOB_NAME = "batch.kubernetes.io/job-name"
LEGACY_CONTROLLER_UID = "controller-uid"
LEGACY_JOB_NAME = "job-name"


def prepare_create(registry: Registry, call: Call, job: Document) -> None:
    """Give the template the Job's labels and the Job the selector for them.

    A Job with ``manualSelector: true`` brings its own. A label that is there already with another
    value stays as it is, and validation then says that the selector does not match. A Job without
    labels of its own has its template's, these included (``pkg/apis/batch/v1/defaults.go``, which
    is applied again when a Job is read), so that ``kubectl get jobs -l job-name=train`` finds it.
    """
    spec = job.get("spec")
    if not isinstance(spec, dict) or spec.get("manualSelector"):
        return
    metadata = job["metadata"]
    template = spec.setdefault("template", {})
    labels = template.setdefault("metadata", {}).setdefault("labels", {})
    borrowed = not metadata.get("labels") or metadata["labels"] is labels
    for key in (CONTROLLER_UID, LEGACY_CONTROLLER_UID):
        labels.setdefault(key, metadata["uid"])
    for key in (JOB_NAME, LEGACY_JOB_NAME):
        labels.setdefault(key, metadata["name"])
    selector = spec.get("selector") or {}
    matched = dict(selector.get("matchLabels") or {})
    matched.setdefault(CONTROLLER_UID, metadata["uid"])
    spec["selector"] = selector | {"matchLabels": matched}
    if borrowed:
        metadata["labels"] = dict(labels)
