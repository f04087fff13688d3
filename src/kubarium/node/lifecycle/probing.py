"""Probes of one container: when each is due, and what their outcomes make of it.

Works on the container's record and on its pod's ``deadlines``; what follows for the pod (a status,
a restart) is the machine's affair. Source: kubelet's ``prober/worker.go``.
"""

from __future__ import annotations

from enum import Enum

from kubarium.node.lifecycle import events as ev
from kubarium.node.lifecycle.plan import Probe
from kubarium.node.lifecycle.records import ContainerRecord, Deadlines, ProbeState, State

_TITLES = {ev.STARTUP: "Startup", ev.READINESS: "Readiness", ev.LIVENESS: "Liveness"}


class Effect(Enum):
    """Of a probe's outcome."""

    NONE = "none"
    CHANGED = "changed"  # started or ready is another now
    RESTART = "restart"


def begin(record: ContainerRecord, deadlines: Deadlines, now: float, started: bool = False) -> None:
    """The container runs; ``started``: its startup probe has passed before."""
    record.probes = {kind: ProbeState() for kind in record.plan.probes}
    if ev.STARTUP in record.probes and not started:
        _schedule(record, deadlines, ev.STARTUP, now)
    else:
        _container_up(record, deadlines, now)


def resume(record: ContainerRecord, deadlines: Deadlines, now: float) -> None:
    """Go on probing a container whose counts are known."""
    startup = record.probes.get(ev.STARTUP)
    waits = startup is not None and not startup.passed
    for kind in record.probes:
        if (kind == ev.STARTUP) == waits:
            _schedule(record, deadlines, kind, now)


def forget(record: ContainerRecord, deadlines: Deadlines, *, stopping: bool = False) -> None:
    """No more probes: the container has ended; or is ``stopping``, and is asked for nothing but
    its readiness any more."""
    for kind in record.probes:
        if not (stopping and kind == ev.READINESS):
            deadlines.pop(("probe", record.plan.name, kind), None)


def wanted(record: ContainerRecord, kind: str) -> bool:
    """Whether a probe still matters: what is being stopped stays ready until it says no."""
    return record.state is State.RUNNING or (
        record.state is State.STOPPING and kind == ev.READINESS
    )


def succeeded(record: ContainerRecord, deadlines: Deadlines, kind: str, now: float) -> Effect:
    """Count a success, and schedule the next probe."""
    probe, state = _again(record, deadlines, kind, now), record.probes[kind]
    state.failures = 0
    state.successes = min(state.successes + 1, probe.success_threshold)
    if state.successes < probe.success_threshold or state.passed:
        return Effect.NONE
    state.passed = True
    if kind == ev.STARTUP:
        deadlines.pop(("probe", record.plan.name, kind), None)
        _container_up(record, deadlines, now)
        return Effect.CHANGED
    if kind == ev.READINESS:
        record.ready = True
        return Effect.CHANGED
    return Effect.NONE


def failed(record: ContainerRecord, deadlines: Deadlines, kind: str, now: float) -> Effect:
    """Count a failure, and schedule the next probe."""
    probe, state = _again(record, deadlines, kind, now), record.probes[kind]
    state.successes = 0
    state.failures = min(state.failures + 1, probe.failure_threshold)
    if state.failures < probe.failure_threshold:
        return Effect.NONE
    if kind != ev.READINESS:
        return Effect.RESTART
    state.passed = False
    was_ready, record.ready = record.ready, False
    return Effect.CHANGED if was_ready else Effect.NONE


def errored(record: ContainerRecord, deadlines: Deadlines, kind: str, now: float) -> None:
    """A probe that could not be made says nothing of the container: it is only made again."""
    _again(record, deadlines, kind, now)


def unhealthy(kind: str, outcome: str, message: str) -> str:
    """The event's text on a probe that did not succeed."""
    verb = "errored" if outcome == "error" else "failed"
    return f"{_TITLES[kind]} probe {verb}: {message}"


def why_restarted(record: ContainerRecord, kind: str) -> str:
    """The event's text on a container that its probes have given up."""
    word = "startup" if kind == ev.STARTUP else "liveness"
    return f"Container {record.plan.name} failed {word} probe, will be restarted"


def _again(record: ContainerRecord, deadlines: Deadlines, kind: str, now: float) -> Probe:
    probe = record.plan.probes[kind]
    deadlines[("probe", record.plan.name, kind)] = now + probe.period_s
    return probe


def _container_up(record: ContainerRecord, deadlines: Deadlines, now: float) -> None:
    """Started: readiness and liveness probes begin, without one it is ready at once."""
    record.started = True
    if ev.READINESS not in record.probes:
        record.ready = True
    for kind in (ev.READINESS, ev.LIVENESS):
        if kind in record.probes:
            _schedule(record, deadlines, kind, now)


def _schedule(record: ContainerRecord, deadlines: Deadlines, kind: str, now: float) -> None:
    """Initial delays count from the container's start."""
    due = record.started_at + record.plan.probes[kind].initial_delay_s
    deadlines[("probe", record.plan.name, kind)] = max(due, now)
