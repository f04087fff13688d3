"""Distributed training: JobSets (start reading at jobset.py) and TrainJobs that become JobSets
(trainjob/).

Knows Jobs and Services; knows nothing of pods, queues or nodes."""

from __future__ import annotations

from kubarium.control.training.jobset import JobSetController
from kubarium.control.training.trainjob import TrainJobController
from kubarium.runtime.protocol import Component, Context

__all__ = ["JobSetController", "TrainJobController", "components"]


def components(context: Context) -> list[Component]:
    """All controllers of this family."""
    return [JobSetController(context), TrainJobController(context)]
