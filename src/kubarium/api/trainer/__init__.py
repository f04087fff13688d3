"""Kubeflow Trainer v2: what a TrainJob and its runtime come to. Pure: documents in, documents out.

``template`` merges runtime and TrainJob into a plan, ``policies`` adds what each framework needs to
find its peers, ``children`` makes the objects. Admission, the controller and the queues all ask
the same code, so that what is validated is what runs.
"""

from kubarium.api.trainer.children import gang_of, job_set, mpi_hostfile, pod_group
from kubarium.api.trainer.policies import plan_of
from kubarium.api.trainer.template import Plan

__all__ = ["Plan", "gang_of", "job_set", "mpi_hostfile", "plan_of", "pod_group"]
