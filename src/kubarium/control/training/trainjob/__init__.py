"""Kubeflow Trainer v2: TrainJobs become JobSets. Start reading at controller.py."""

from kubarium.control.training.trainjob.controller import TrainJobController

__all__ = ["TrainJobController"]
