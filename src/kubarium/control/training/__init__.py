"""Distributed training: JobSets (start at jobset.py), TrainJobs that become JobSets (trainjob/),
and memory for pods that run out of it, hangs, and gangs that lose ranks and go on.

Knows Jobs, Services, pods, and the PodGroup of a Job that has a topology domain to itself; knows
nothing of queues or nodes."""

from __future__ import annotations

from kubarium.control.training.checkpoints import (
    GangCheckpointController,
    PodCheckpointController,
)
from kubarium.control.training.elastic import ElasticController
from kubarium.control.training.hangs import HangController
from kubarium.control.training.jobset import JobSetController
from kubarium.control.training.memory import MemoryController
from kubarium.control.training.trainjob import TrainJobController
from kubarium.runtime.protocol import Component, Context

__all__ = [
    "ElasticController",
    "GangCheckpointController",
    "HangController",
    "JobSetController",
    "MemoryController",
    "PodCheckpointController",
    "TrainJobController",
    "components",
]


def components(context: Context) -> list[Component]:
    """All controllers of this family."""
    return [
        JobSetController(context),
        TrainJobController(context),
        MemoryController(context),
        HangController(context),
        ElasticController(context),
        PodCheckpointController(context),
        GangCheckpointController(context),
    ]
