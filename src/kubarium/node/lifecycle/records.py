"""One container of a pod machine: its state, its table of transitions, and what it remembers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from kubarium.base.errors import KubariumError
from kubarium.node.lifecycle import events as ev
from kubarium.node.lifecycle.plan import ContainerPlan


class State(Enum):
    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    EXITED = "exited"


_NEXT: dict[tuple[State, type], State] = {
    (State.WAITING, ev.StartContainer): State.STARTING,
    (State.EXITED, ev.StartContainer): State.STARTING,
    (State.STARTING, ev.ContainerStarted): State.RUNNING,
    (State.STARTING, ev.ContainerStartFailed): State.WAITING,
    (State.RUNNING, ev.SignalContainer): State.STOPPING,
    (State.RUNNING, ev.ContainerExited): State.EXITED,
    (State.STOPPING, ev.ContainerExited): State.EXITED,
}


# When the pod's machine is to look again, by what for: ("kill", container), ("probe", container,
# kind), ...
Deadlines = dict[tuple[str, ...], float]


class InvalidTransition(KubariumError):
    """A container was told something that cannot happen in its state: a bug of the shell."""


@dataclass(slots=True)
class ProbeState:
    """Where one probe of a running container stands."""

    successes: int = 0
    failures: int = 0
    passed: bool = False


@dataclass(frozen=True, slots=True)
class Termination:
    """One ended attempt."""

    code: int
    signal: int
    reason: str
    message: str
    started_at: float | None
    finished_at: float
    container_id: str


@dataclass(slots=True)
class ContainerRecord:
    """One container now, and what became of it before."""

    plan: ContainerPlan
    state: State = State.WAITING
    reason: str = ""
    message: str = ""
    attempt: int = -1
    # The last attempt before all containers of the pod were restarted; -1 if they never were.
    before_round: int = -1
    container_id: str = ""
    image_id: str = ""
    started_at: float = 0.0
    ended: Termination | None = None
    previous: Termination | None = None
    backoff_s: float = 0.0
    image_backoff_s: float = 0.0
    probes: dict[str, ProbeState] = field(default_factory=dict)
    started: bool = False
    ready: bool = False
    terminated_sent: bool = False
    in_hook: str = ""
    resizing: bool = False

    @property
    def in_post_start(self) -> bool:
        """The command runs, but is not said to before its postStart hook has ended."""
        return self.state is State.RUNNING and self.in_hook == ev.POST_START

    @property
    def restart_count(self) -> int:
        return max(self.attempt, 0)

    def move(self, cause: type) -> None:
        """Follow the table."""
        target = _NEXT.get((self.state, cause))
        if target is None:
            raise InvalidTransition(
                f"container {self.plan.name}: {cause.__name__} while {self.state.value}"
            )
        self.state = target


ALIVE = (State.STARTING, State.RUNNING, State.STOPPING)
# Of an attempt whose end nobody saw.
LOST = "ContainerStatusUnknown"
LOST_MESSAGE = "The container could not be located when the pod was terminated"
