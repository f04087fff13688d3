"""What an agent that starts finds of a pod that an earlier one left running."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AdoptedContainer:
    """The latest attempt of a container. Whether it still runs is told by an event, afterwards."""

    attempt: int
    container_id: str
    image_id: str
    started_at: float


@dataclass(frozen=True, slots=True)
class Adopted:
    """A pod whose sandbox is still there."""

    pod_ips: tuple[str, ...]
    containers: Mapping[str, AdoptedContainer] = field(default_factory=dict)
