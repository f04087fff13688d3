"""How one container is stopped: its time, its preStop hook, its signal, and SIGKILL in the end.

Works on the container's record and on its pod's ``deadlines``; answers with what is to be done.
Source: kubelet's ``kuberuntime_container.go`` (killContainer).
"""

from __future__ import annotations

from collections.abc import Iterable

from kubarium.api.resource import Document
from kubarium.node.lifecycle import events as ev
from kubarium.node.lifecycle.records import ContainerRecord, Deadlines, State

# What a container still gets for SIGTERM when hooks have used up the grace period.
MINIMUM_GRACE_S = 2.0


def pod_grace_s(pod: Document) -> float:
    """How long a pod's containers get: what its deletion says, or its spec."""
    metadata, spec = pod["metadata"], pod["spec"]
    if metadata.get("deletionTimestamp") and metadata.get("deletionGracePeriodSeconds") is not None:
        return float(metadata["deletionGracePeriodSeconds"])
    grace = spec.get("terminationGracePeriodSeconds")
    return 30.0 if grace is None else float(grace)


def begin(
    record: ContainerRecord, deadlines: Deadlines, now: float, grace_s: float, why: str
) -> list[ev.Instruction]:
    """Stop a running container within ``grace_s``; 0 kills it, without its hook."""
    name = record.plan.name
    record.move(ev.SignalContainer)
    said = ev.Record("Normal", "Killing", why or f"Stopping container {name}", name)
    if grace_s <= 0:
        return [said, signal(record, "SIGKILL")]
    deadlines[("kill", name)] = now + grace_s
    if ev.PRE_STOP in record.plan.hooks:
        record.in_hook = ev.PRE_STOP
        return [said, ev.RunHook(name, record.attempt, ev.PRE_STOP)]
    return [said, terminate(record)]


def terminate(record: ContainerRecord) -> ev.SignalContainer:
    """Ask it to end."""
    record.terminated_sent = True
    return signal(record, record.plan.stop_signal)


def signal(record: ContainerRecord, name: str) -> ev.SignalContainer:
    return ev.SignalContainer(record.plan.name, record.attempt, name)


def overdue(record: ContainerRecord, deadlines: Deadlines, now: float) -> ev.SignalContainer:
    """Its time is over: SIGKILL, or first the signal that its hook has left no time for."""
    if record.terminated_sent:
        return signal(record, "SIGKILL")
    record.in_hook = ""
    deadlines[("kill", record.plan.name)] = now + MINIMUM_GRACE_S
    return terminate(record)


def kill_now(record: ContainerRecord, deadlines: Deadlines) -> ev.SignalContainer | None:
    """A container that is being stopped gets no more time; None if it was killed already."""
    if deadlines.pop(("kill", record.plan.name), None) is None:
        return None
    record.in_hook = ""
    return signal(record, "SIGKILL")


def shorten(records: Iterable[ContainerRecord], deadlines: Deadlines, by: float) -> None:
    """To be told again with less grace moves the kill forward, never back."""
    for record in records:
        key = ("kill", record.plan.name)
        if key in deadlines:
            deadlines[key] = min(deadlines[key], by)


def again(record: ContainerRecord, deadlines: Deadlines) -> ev.Instruction:
    """Another agent was killed while it stopped this container: what it did last, again."""
    assert record.state is State.STOPPING
    name = record.plan.name
    if record.in_hook == ev.PRE_STOP:
        return ev.RunHook(name, record.attempt, ev.PRE_STOP)
    record.in_hook = ""
    gently = record.terminated_sent and ("kill", name) in deadlines
    return signal(record, record.plan.stop_signal if gently else "SIGKILL")
