"""Queueing: jobs wait in queues for quota. Kueue's controllers, over the API only.

Read ``admission.py`` first (plan and commit), then ``jobs.py`` (a job and its Workload).
"""

from __future__ import annotations

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
from kubarium.runtime.protocol import Component, Context
from kubarium.view.queueing.jobs import KINDS


def components(context: Context, options: Options = Options()) -> list[Component]:  # noqa: B008
    """The family's components; ``options`` are the choices of Kueue's Configuration."""
    cache = QueueingCache(context, options)
    return [
        *(JobController(context, kind).controller for kind in KINDS),
        WorkloadController(context, cache).controller,
        ClusterQueueController(context, cache).controller,
        LocalQueueController(context, cache).controller,
        ResourceFlavorController(context).controller,
        CohortController(context, cache).controller,
        AdmissionLoop(context, cache),
    ]
