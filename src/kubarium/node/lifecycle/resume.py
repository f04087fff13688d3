"""Pod machines of pods that an earlier agent has worked on.

What is known of them, the best first: what that agent wrote down (:mod:`.saved`) beside what still
runs (:class:`.Adopted`); what still runs alone; the pod's status alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubarium.api.resource import Document
from kubarium.base.clock import parse_rfc3339
from kubarium.node.lifecycle import events as ev
from kubarium.node.lifecycle import probing, stopping
from kubarium.node.lifecycle.adoption import Adopted, AdoptedContainer
from kubarium.node.lifecycle.conditions import RESTARTING_ALL
from kubarium.node.lifecycle.machine import PodMachine
from kubarium.node.lifecycle.order import is_done
from kubarium.node.lifecycle.plan import INIT, MAIN, SIDECAR
from kubarium.node.lifecycle.records import (
    LOST,
    LOST_MESSAGE,
    ContainerRecord,
    State,
    Termination,
)
from kubarium.node.lifecycle.resize import desired
from kubarium.node.lifecycle.saved import restore, restore_resources

# What is said of a container that waits for its turn, as it does in every round.
_NOT_YET = ("PodInitializing", "ContainerCreating")


def resumed(
    pod: Document,
    now: float,
    keeps_running: bool = False,
    adopted: Adopted | None = None,
    saved: Document | None = None,
) -> PodMachine:
    """The machine of a pod that may have been begun before.

    ``keeps_running``: containers that the status shows as running still are (simulated ones, after
    a restart of the agent); otherwise they are lost, as after a reboot - unless the pod was
    ``adopted``: then its containers are those that were found. ``saved``: the earlier agent's note.
    """
    machine = PodMachine(pod, now)
    status = pod.get("status") or {}
    if adopted is None and saved is None and _is_untouched(status):
        return machine
    if status.get("startTime"):
        machine.start_time = parse_rfc3339(status["startTime"])
    machine.set_active_deadline()
    if status.get("phase") in ("Succeeded", "Failed"):
        machine.finished = machine.released = True
        return machine
    if adopted is not None and saved is not None and restore(machine, saved):
        _go_on(machine, adopted, now)
        return machine
    if saved is not None:
        restore_resources(machine, saved)
    else:
        _read_resources(machine, status)
    if adopted is not None:
        _adopt(machine, adopted, now)
    else:
        _from_status(machine, now, keeps_running)
        if saved is not None:
            _restore_backoff(machine, saved)
    return machine


def _is_untouched(status: Document) -> bool:
    """Whether no node has said anything of the pod yet, and nobody has ended it."""
    is_pending = status.get("phase", "Pending") == "Pending"
    return is_pending and "startTime" not in status and not any(_entries(status))


def _entries(status: Document) -> list[Document]:
    return [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
        *(status.get("ephemeralContainerStatuses") or ()),
    ]


def _from_status(machine: PodMachine, now: float, keeps_running: bool) -> None:
    """Take up what the status says of an earlier agent's work. What has ended stays ended."""
    status = machine.pod.get("status") or {}
    records = {record.plan.name: record for record in machine.containers}
    for entry in _entries(status):
        record = records.get(entry["name"])
        if record is not None:
            _resume_container(record, entry, now, keeps_running)
    if _restarting(status).get("status") == "True" and not keeps_running:
        machine.begin_round()  # the agent ended in the middle of it; so did all containers
    if any(record.state is State.RUNNING for record in machine.containers):
        machine.prepared = True
        machine.pod_ips = tuple(entry["ip"] for entry in status.get("podIPs") or ())
        return
    mains = [record for record in machine.containers if record.plan.kind == MAIN]
    if all(is_done(record) for record in mains):
        machine.finished = True
        return
    for record in machine.containers:
        if record.plan.kind in (INIT, SIDECAR):
            # The new sandbox is empty: what init containers had made is gone.
            record.state, record.ended = State.WAITING, None


def _restarting(status: Document) -> Document:
    conditions = {c.get("type"): c for c in status.get("conditions") or ()}
    return conditions.get(RESTARTING_ALL) or {}


def _read_resources(machine: PodMachine, status: Document) -> None:
    """What was granted, as far as the status tells: containers that run have what it shows."""
    known: dict[str, Mapping[str, Any]] = {}
    for entry in _entries(status):
        if entry.get("resources") is not None and (entry.get("state") or {}).get("running"):
            known[entry["name"]] = entry["resources"]
    wanted = desired(machine.pod)
    machine.allocated = {name: known.get(name, wanted[name]) for name in wanted}
    machine.actual = machine.allocated


def _restore_backoff(machine: PodMachine, saved: Document) -> None:
    """A pod that crashed over and over goes on waiting as long, also in a new sandbox."""
    containers: Document = saved.get("containers") or {}
    for record in machine.containers:
        entry = containers.get(record.plan.name) or {}
        record.backoff_s = float(entry.get("backoff_s") or 0.0)


# With what still runs ----------------------------------------------------------------------------


def _adopt(machine: PodMachine, adopted: Adopted, now: float) -> None:
    """Take over a sandbox and its containers; those that have ended are reported after this."""
    status = machine.pod.get("status") or {}
    machine.add_ephemeral()
    machine.prepared, machine.pod_ips = True, adopted.pod_ips
    for condition in status.get("conditions") or ():
        if condition.get("lastTransitionTime"):
            since = parse_rfc3339(condition["lastTransitionTime"])
            machine.condition_times[condition["type"]] = (condition["status"], since)
    known = {entry["name"]: entry for entry in _entries(status)}
    for record in machine.containers:
        entry = known.get(record.plan.name, {})
        if entry:
            _resume_container(record, entry, now, keeps_running=True)
        found = adopted.containers.get(record.plan.name)
        if found is not None:
            _adopt_container(machine, record, found, entry, now)
        waiting = (entry.get("state") or {}).get("waiting") or {}
        if record.state is State.EXITED and waiting.get("reason") in _NOT_YET:
            machine.begin_anew(record)  # not started yet in this round
    restarting = _restarting(status)
    if restarting.get("status") == "True":
        machine.restarting_all = restarting.get("message") or "triggering pod restart"


def _adopt_container(
    machine: PodMachine,
    record: ContainerRecord,
    found: AdoptedContainer,
    entry: Document,
    now: float,
) -> None:
    same = record.attempt == found.attempt
    if same and record.state is State.EXITED:
        return  # the status has its end already
    if not same and record.ended is not None:
        record.previous, record.ended = record.ended, None
    record.state = State.RUNNING
    record.attempt = found.attempt
    record.container_id, record.image_id = found.container_id, found.image_id
    record.started_at = found.started_at or now
    record.started = record.ready = False  # for the probes to say
    probing.begin(record, machine.deadlines, now, bool(same and entry.get("started")))
    if same and ev.READINESS in record.probes:
        record.ready = record.probes[ev.READINESS].passed = bool(entry.get("ready"))


# With what was written down ----------------------------------------------------------------------


def _go_on(machine: PodMachine, adopted: Adopted, now: float) -> None:
    """A restored machine asks again for what it had asked for and has no answer to."""
    machine.add_ephemeral()
    if not machine.finished:
        machine.prepared = True
    machine.pod_ips = machine.pod_ips or adopted.pod_ips
    machine.unanswered.append(ev.Publish())
    for record in machine.containers:
        found = adopted.containers.get(record.plan.name)
        if found is not None and found.attempt > record.attempt:
            _adopt_container(machine, record, found, {}, now)  # the disk was full: no note of it
        elif record.state is State.STARTING:
            _started_or_not(machine, record, found, now)
        elif record.state in (State.RUNNING, State.STOPPING) and found is None:
            record.ended = Termination(
                137, 0, LOST, LOST_MESSAGE, record.started_at, now, record.container_id
            )
            record.state = State.EXITED
        elif record.state is State.RUNNING:
            if record.in_post_start:  # which is not run twice
                record.in_hook = ""
                probing.begin(record, machine.deadlines, now)
            else:
                probing.resume(record, machine.deadlines, now)
        elif record.state is State.STOPPING:
            machine.unanswered.append(stopping.again(record, machine.deadlines))


def _started_or_not(
    machine: PodMachine, record: ContainerRecord, found: AdoptedContainer | None, now: float
) -> None:
    if found is not None and found.attempt == record.attempt:
        _adopt_container(machine, record, found, {}, now)
        return
    record.attempt -= 1
    record.ended, record.previous = record.previous, None
    record.state = State.WAITING if record.ended is None else State.EXITED


# With the status alone ---------------------------------------------------------------------------


def _resume_container(
    record: ContainerRecord, entry: Document, now: float, keeps_running: bool
) -> None:
    """Set a new record to what a ``containerStatuses`` entry says."""
    state, last = entry.get("state") or {}, entry.get("lastState") or {}
    if state.get("running"):
        record.attempt = entry.get("restartCount", 0)
        record.container_id = entry.get("containerID", "")
        record.image_id = entry.get("imageID", "")
        record.started_at = parse_rfc3339(state["running"]["startedAt"])
        if keeps_running:
            record.state = State.RUNNING
            record.started = record.ready = True
            if last.get("terminated"):
                record.previous = _termination(last["terminated"], now)
            return
        record.ended = Termination(
            137, 0, LOST, LOST_MESSAGE, record.started_at, now, record.container_id
        )
        record.state = State.EXITED
        return
    ended = state.get("terminated") or last.get("terminated")
    if ended:
        record.attempt = entry.get("restartCount", 0)
        record.state = State.EXITED
        record.ended = _termination(ended, now)


def _termination(ended: Document, now: float) -> Termination:
    return Termination(
        ended.get("exitCode", 0),
        ended.get("signal", 0),
        ended.get("reason", ""),
        ended.get("message", ""),
        parse_rfc3339(ended["startedAt"]) if ended.get("startedAt") else None,
        parse_rfc3339(ended["finishedAt"]) if ended.get("finishedAt") else now,
        ended.get("containerID", ""),
    )
