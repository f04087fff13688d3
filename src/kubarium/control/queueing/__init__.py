"""Queueing: jobs wait in queues for quota. Kueue's controllers, over the API only.

Read ``admission.py`` first (plan and commit), then ``jobs.py`` (a job and its Workload).
"""

from __future__ import annotations

from kubarium.api.kinds import JOB_SETS
from kubarium.api.resource import Document
from kubarium.control.queueing.admission import AdmissionLoop
from kubarium.control.queueing.cache import QueueingCache
from kubarium.control.queueing.jobs import JobController
from kubarium.control.queueing.queues import (
    ClusterQueueController,
    CohortController,
    LocalQueueController,
    ResourceFlavorController,
)
from kubarium.control.queueing.workloads import WorkloadController
from kubarium.engine.queueing.snapshot import Options
from kubarium.runtime import writes
from kubarium.runtime.protocol import Component, Context
from kubarium.view.queueing.jobs import JOB, JOBSET, JobKind, train_job_kind


def components(context: Context, options: Options = Options()) -> list[Component]:  # noqa: B008
    """The family's components; ``options`` are the choices of Kueue's Configuration."""
    cache = QueueingCache(context, options)
    return [
        *(JobController(context, kind).controller for kind in (JOB, JOBSET, _train_jobs(context))),
        WorkloadController(context, cache).controller,
        ClusterQueueController(context, cache).controller,
        LocalQueueController(context, cache).controller,
        ResourceFlavorController(context).controller,
        CohortController(context, cache).controller,
        AdmissionLoop(context, cache),
    ]


def _train_jobs(context: Context) -> JobKind:
    jobsets = context.informers.get(JOB_SETS)

    def jobset_of(trainjob: Document) -> Document | None:
        metadata = trainjob["metadata"]
        found = jobsets.get(metadata["name"], metadata["namespace"])
        owned = found is not None and writes.is_controlled_by(found, trainjob)
        return found if owned else None

    return train_job_kind(jobset_of)
