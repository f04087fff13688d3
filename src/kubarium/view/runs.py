"""Which attempt of which run a rank's pod is: what its programs are told, to know when they have
been replaced (:mod:`kubarium.train.fence`). Pure."""

from __future__ import annotations

from kubarium.api.resource import Document
from kubarium.view import elastic

RUN, RESTARTS = "KUBARIUM_RUN", "KUBARIUM_RESTARTS"
_JOBSET = "jobset.sigs.k8s.io/jobset-uid"
_RESTART = "jobset.sigs.k8s.io/restart-attempt"
_JOB_NAME = "batch.kubernetes.io/job-name"


def run_environment(pod: Document) -> dict[str, str]:
    """The run, and how often its JobSet was restarted. The gang's attempt within that is told by
    its launcher (``KUBARIUM_ATTEMPT``).

    Attempts of one run are in order. A gang counts its own, so that each Job of gangs is a run; all
    other Jobs of a JobSet are restarted together. {}: a Job whose pods have no attempts.
    """
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    is_gang = elastic.asks(metadata.get("annotations"))
    run = labels.get(_JOBSET, "")
    if is_gang:
        owners = metadata.get("ownerReferences") or ()
        job = next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")
        run = f"{run}/{labels.get(_JOB_NAME, '')}" if run else job
    return {RUN: run, RESTARTS: labels.get(_RESTART, "0")} if run else {}
