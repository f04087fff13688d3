"""Conditions that an event of the lifecycle may carry."""

from __future__ import annotations

from dataclasses import dataclass

PENDING, IN_PROGRESS = "PodResizePending", "PodResizeInProgress"


@dataclass(frozen=True, slots=True)
class ResizeCondition:
    """One of the two conditions, where it is True. ``generation`` is the spec's it is about."""

    type: str
    reason: str
    message: str
    generation: int


@dataclass(frozen=True, slots=True)
class MemoryPressure:
    """A container that needs more than its limit; see :mod:`kubarium.view.memory`.

    ``generation`` is the spec's whose limit is too small: a later spec may have answered already.
    """

    reason: str
    message: str
    generation: int
