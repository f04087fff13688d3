"""Faults on purpose: picks victims by schedule and seed, and orders node agents to do the rest.

Knows pods and nodes; knows nothing of what runs in them."""

from __future__ import annotations

from kubarium.control.faults.controller import FaultController
from kubarium.runtime.protocol import Component, Context

__all__ = ["FaultController", "components"]


def components(context: Context) -> list[Component]:
    """All controllers of this family."""
    return [FaultController(context)]
