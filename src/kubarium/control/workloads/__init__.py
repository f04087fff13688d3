"""Controllers of workloads: Job, Deployment, ReplicaSet, StatefulSet, DaemonSet, CronJob.

They turn templates into pods and count what becomes of them; they know nothing of queues or
devices, and only DaemonSets of nodes."""

from __future__ import annotations

from kubarium.control.workloads.cronjob.controller import CronJobController
from kubarium.control.workloads.daemonset.controller import DaemonSetController
from kubarium.control.workloads.deployment.controller import DeploymentController
from kubarium.control.workloads.job.backoff import BackoffTimes
from kubarium.control.workloads.job.controller import JobController
from kubarium.control.workloads.replicaset import ReplicaSetController
from kubarium.control.workloads.statefulset.controller import StatefulSetController
from kubarium.runtime.protocol import Component, Context

__all__ = [
    "BackoffTimes",
    "CronJobController",
    "DaemonSetController",
    "DeploymentController",
    "JobController",
    "ReplicaSetController",
    "StatefulSetController",
    "components",
]


def components(context: Context, *, job_backoff: BackoffTimes | None = None) -> list[Component]:
    """All controllers of this family. ``job_backoff``: upstream's 10 s to 600 s if None."""
    return [
        DeploymentController(context),
        ReplicaSetController(context),
        StatefulSetController(context),
        DaemonSetController(context),
        JobController(context, job_backoff),
        CronJobController(context),
    ]
