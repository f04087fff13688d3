"""Distributed training: the JobSet controller. Start reading at jobset.py.

Knows Jobs and Services, and the PodGroup of a Job that has a topology domain to itself; looks at
pods only where a JobSet restarts in place. Knows nothing of queues or nodes."""

from __future__ import annotations

from kubarium.control.training.jobset import JobSetController
from kubarium.runtime.protocol import Component, Context

__all__ = ["JobSetController", "components"]


def components(context: Context) -> list[Component]:
    """All controllers of this family."""
    return [JobSetController(context)]
