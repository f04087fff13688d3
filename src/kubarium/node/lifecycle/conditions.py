"""Conditions that an event of the lifecycle may carry."""

from __future__ import annotations

from dataclasses import dataclass

PENDING, IN_PROGRESS = "PodResizePending", "PodResizeInProgress"
RESTARTING_ALL = "AllContainersRestarting"


@dataclass(frozen=True, slots=True)
class ResizeCondition:
    """One of the two conditions, where it is True. ``generation`` is the spec's it is about."""

    type: str
    reason: str
    message: str
    generation: int


@dataclass(frozen=True, slots=True)
class NotedCondition:
    """What the node has noticed about a container; True as long as it is there.

    ``generation`` is that of the spec it was noticed under: a later one may have answered already.
    """

    reason: str
    message: str
    generation: int
