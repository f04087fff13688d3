"""What a pod's machine is told (events) and what it asks for (instructions)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubarium.api.resource import Document
from kubarium.node.lifecycle.conditions import ResizeCondition

# Probe kinds, by the field that declares them.
STARTUP, READINESS, LIVENESS = "startupProbe", "readinessProbe", "livenessProbe"
PRE_STOP, POST_START = "preStop", "postStart"


@dataclass(frozen=True, slots=True)
class PodSynced:
    """The pod's document has changed, or is seen for the first time."""

    pod: Document


@dataclass(frozen=True, slots=True)
class PodRemoved:
    """The pod is gone from the API without us (forced deletion): stop at once."""


@dataclass(frozen=True, slots=True)
class Terminate:
    """The node ends the pod for good, or will not have it at all: it fails with this reason.

    ``grace_s`` None is the pod's own. ``disrupts``: it was none of the pod's doing (KEP-3329)."""

    reason: str
    message: str
    grace_s: float | None = None
    disrupts: bool = False


@dataclass(frozen=True, slots=True)
class Prepared:
    """Volumes, devices and the sandbox are there; the pod has its addresses."""

    pod_ips: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PrepareFailed:
    """``reason`` and ``message`` are those of the event to record (FailedMount, …)."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ContainerStarted:
    name: str
    attempt: int
    container_id: str
    image_id: str


@dataclass(frozen=True, slots=True)
class ContainerStartFailed:
    """``reason``: ErrImagePull, CreateContainerConfigError, … (stays waiting, is tried again) or
    StartError (counts as an exit with code 128, as containerd reports it)."""

    name: str
    attempt: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ContainerExited:
    name: str
    attempt: int
    code: int
    signal: int = 0
    oom_killed: bool = False
    message: str = ""


@dataclass(frozen=True, slots=True)
class ProbeFinished:
    """``outcome``: success, failure or error (the probe itself could not be made)."""

    name: str
    attempt: int
    kind: str
    outcome: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class HookFinished:
    name: str
    attempt: int
    hook: str
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Released:
    """Sandbox, volumes and devices have been given back."""


@dataclass(frozen=True, slots=True)
class Resized:
    """Resources by container: granted by the node, and in force; and the resize's conditions."""

    allocated: Mapping[str, Mapping[str, Any]]
    actual: Mapping[str, Mapping[str, Any]]
    conditions: tuple[ResizeCondition, ...]


@dataclass(frozen=True, slots=True)
class ConditionNoted:
    """Something about a container that the node has noticed by itself: out of memory, no progress.

    ``type`` is the pod condition that says so; with ``reason`` "" it no longer holds."""

    type: str
    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class ResizeRestart:
    """A resize of this container takes a restart."""

    name: str


@dataclass(frozen=True, slots=True)
class ResizeNoted:
    """An event about a resize is to be recorded."""

    kind: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: a deadline of the machine may be due."""


Event = (
    PodSynced
    | PodRemoved
    | Terminate
    | Prepared
    | PrepareFailed
    | ContainerStarted
    | ContainerStartFailed
    | ContainerExited
    | ProbeFinished
    | HookFinished
    | Released
    | Resized
    | ConditionNoted
    | ResizeRestart
    | ResizeNoted
    | Tick
)


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make volumes, devices and sandbox; answer Prepared or PrepareFailed."""


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Answer ContainerStarted or ContainerStartFailed; later ContainerExited."""

    name: str
    attempt: int


@dataclass(frozen=True, slots=True)
class SignalContainer:
    """``signal`` by name; SIGKILL means every process of the container."""

    name: str
    attempt: int
    signal: str


@dataclass(frozen=True, slots=True)
class RunProbe:
    """Answer ProbeFinished within ``timeout_s``."""

    name: str
    attempt: int
    kind: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class RunHook:
    """Answer HookFinished."""

    name: str
    attempt: int
    hook: str


@dataclass(frozen=True, slots=True)
class Record:
    """A Kubernetes Event about the pod, or about one container of it."""

    kind: str
    reason: str
    message: str
    container: str = ""


@dataclass(frozen=True, slots=True)
class Publish:
    """The status has changed: write it."""


@dataclass(frozen=True, slots=True)
class Release:
    """Give back sandbox, volumes and devices; answer Released."""


@dataclass(frozen=True, slots=True)
class Delete:
    """The pod may go: delete the object with grace period 0, after the last status is written."""


Instruction = (
    Prepare
    | StartContainer
    | SignalContainer
    | RunProbe
    | RunHook
    | Record
    | Publish
    | Release
    | Delete
)
