"""What is written down of each pod, so that another agent can take it over.

One small file in the pod's folder, replaced as a whole before anything that it tells of happens.
How containers ended is beside their logs (``init.OUTCOME``): their own init writes it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kubarium.node.drivers.prepare import Edits

_NAME = "checkpoint.json"


@dataclass(slots=True)
class StartedContainer:
    """The latest attempt of a container; ``started_at`` is 0 until its command runs."""

    attempt: int
    image_id: str
    started_at: float = 0.0
    # The image's, instead of SIGTERM.
    stop_signal: str = ""


@dataclass(slots=True)
class Checkpoint:
    """A pod as the runtime has made it."""

    uid: str
    address: str
    hostname: str
    tmpfs: list[tuple[str, str]]
    own_network: bool
    # What containers get for their claims.
    devices: Mapping[str, Edits] = field(default_factory=dict)
    containers: dict[str, StartedContainer] = field(default_factory=dict)
    # The container's resources at its start: a resize may have changed the pod since.
    resources: dict[str, Any] = field(default_factory=dict)

    def write(self, place: Path) -> None:
        """OSError if the disk is full."""
        temporary = place / f".{_NAME}"
        temporary.write_text(json.dumps(asdict(self)))
        os.replace(temporary, place / _NAME)


def read(place: Path) -> Checkpoint | None:
    """The checkpoint in a pod's folder; None if there is none that can be read."""
    try:
        found = json.loads((place / _NAME).read_text())
        found["tmpfs"] = [(path, options) for path, options in found["tmpfs"]]
        containers = {n: StartedContainer(**c) for n, c in found.pop("containers").items()}
        devices = {name: _edits(given) for name, given in found.pop("devices").items()}
        return Checkpoint(**found, containers=containers, devices=devices)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _edits(found: dict[str, Any]) -> Edits:
    nodes = found.pop("nodes")
    notes = tuple(found.pop("notes"))
    return Edits(**found, nodes=None if nodes is None else tuple(nodes), notes=notes)


def outcome(log: Path, suffix: str) -> tuple[int, int, float] | None:
    """(exit code, signal, time) of the container with this log; None if it has not ended."""
    try:
        code, number, ended_at = json.loads(log.with_suffix(suffix).read_text())
    except (OSError, ValueError):
        return None
    return int(code), int(number), float(ended_at)
