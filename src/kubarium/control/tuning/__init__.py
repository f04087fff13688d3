"""Hyperparameter search: Experiments (Katib) become Trials, these and OptimizationJobs (Trainer)
become TrainJobs or Jobs.

Knows runs by their conditions and pods by theirs; knows nothing of how a run is carried out."""

from __future__ import annotations

from kubarium.control.tuning.experiments import ExperimentController
from kubarium.control.tuning.optimization import OptimizationJobController
from kubarium.control.tuning.trials import TrialController
from kubarium.runtime.protocol import Component, Context

__all__ = ["ExperimentController", "OptimizationJobController", "TrialController", "components"]


def components(context: Context) -> list[Component]:
    """All controllers of this family."""
    return [
        ExperimentController(context),
        TrialController(context),
        OptimizationJobController(context),
    ]
