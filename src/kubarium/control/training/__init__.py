"""Distributed training: JobSets, and memory for pods that run out of it. Start at jobset.py.

Knows Jobs, Services and pods; knows nothing of queues or nodes."""

from __future__ import annotations

from kubarium.control.training.hangs import HangController
from kubarium.control.training.jobset import JobSetController
from kubarium.control.training.memory import MemoryController
from kubarium.runtime.protocol import Component, Context

__all__ = ["HangController", "JobSetController", "MemoryController", "components"]


def components(context: Context) -> list[Component]:
    """All controllers of this family."""
    return [JobSetController(context), MemoryController(context), HangController(context)]
