"""One pod of the process runtime: its place and what has been made there."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubarium.api.resource import Document
from kubarium.node.downward import PodFacts
from kubarium.node.drivers.prepare import ANY_OTHER, Edits
from kubarium.node.runtimes.process.cgroups import Amounts
from kubarium.node.runtimes.process.checkpoint import Checkpoint
from kubarium.node.volumes import PodVolumes


@dataclass(slots=True)
class PodRecord:
    """A pod that was prepared or found."""

    facts: PodFacts
    place: Path
    volumes: PodVolumes
    devices: Mapping[str, Edits]
    containers: dict[str, str] = field(default_factory=dict)  # name -> current container ident
    running: dict[str, None] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)  # name -> current control group
    measured: dict[str, int] = field(default_factory=dict)  # ident -> bytes it was killed for
    kills: dict[str, int] = field(default_factory=dict)  # ident -> out-of-memory kills told of
    seen_kills: dict[str, int] = field(default_factory=dict)  # the same, seen at the last look
    amounts: dict[str, Amounts] = field(default_factory=dict)  # name -> what is in force
    whole: Amounts = field(default_factory=Amounts)
    told: dict[str, None] = field(default_factory=dict)
    stop_signals: dict[str, str] = field(default_factory=dict)  # name -> its image's
    checkpoint: Checkpoint | None = None
    # Volumes of an adopted pod, until they have been looked at again.
    adopting: asyncio.Task[None] | None = None

    def memory_limit(self, name: str) -> int | None:
        """A container's memory limit in force, in bytes."""
        amounts = self.amounts.get(name)
        return amounts.memory if amounts else None

    def edits(self, container: str) -> Edits:
        """What a container gets for its devices."""
        return self.devices.get(container) or self.devices.get(ANY_OTHER) or _NOTHING


_NOTHING = Edits()


class PodRecords:
    """All pods of one agent that were prepared or found, and what their containers' idents mean."""

    def __init__(self) -> None:
        self.by_uid: dict[str, PodRecord] = {}
        # Of containers that are on their way or run: pod uid, name, attempt.
        self.idents: dict[str, tuple[str, str, int]] = {}

    def get(self, uid: str) -> PodRecord | None:
        return self.by_uid.get(uid)

    def ident(self, uid: str, name: str, attempt: int) -> str | None:
        """Of this attempt of a container, unless it has ended."""
        pod = self.by_uid.get(uid)
        ident = pod.containers.get(name) if pod else None
        return ident if ident and self.idents.get(ident) == (uid, name, attempt) else None

    def attempt(self, pod: PodRecord, name: str) -> int | None:
        """Which attempt of a container runs now."""
        known = self.idents.get(pod.containers.get(name, ""))
        return known[2] if known else None


def container_ident(uid: str, name: str, attempt: int) -> str:
    """By what the zygote knows one attempt of a container."""
    return hashlib.sha256(f"{uid}/{name}/{attempt}".encode()).hexdigest()


def container_of(pod: Document, name: str) -> Mapping[str, Any]:
    """The spec of a container; {} if the pod has none of that name."""
    spec = pod["spec"]
    entries = [
        *(spec.get("initContainers") or ()),
        *(spec.get("containers") or ()),
        *(spec.get("ephemeralContainers") or ()),
    ]
    return next((entry for entry in entries if entry["name"] == name), {})
