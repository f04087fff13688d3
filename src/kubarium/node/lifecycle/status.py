"""The status document of a pod, from its machine (source: kubelet's ``kubelet_pods.go``,
``status/generate.go``)."""

from __future__ import annotations

from typing import Any, NamedTuple

from kubarium.api.resource import Document
from kubarium.base.clock import rfc3339
from kubarium.node.lifecycle.conditions import (
    IN_PROGRESS,
    PENDING,
    RESTARTING_ALL,
    ResizeCondition,
)
from kubarium.node.lifecycle.machine import PodMachine, failed_for_good
from kubarium.node.lifecycle.plan import (
    EPHEMERAL,
    INIT,
    MAIN,
    SIDECAR,
    may_restart_all,
    qos_class,
)
from kubarium.node.lifecycle.records import ContainerRecord, State, Termination
from kubarium.node.lifecycle.resize import POD
from kubarium.view import elastic
from kubarium.view.memory import PRESSURE
from kubarium.view.stalls import STALLED

# Conditions that the node owns; all others in the document are somebody else's.
READY_TO_START = "PodReadyToStartContainers"
INITIALIZED = "Initialized"
CONTAINERS_READY = "ContainersReady"
READY = "Ready"
SCHEDULED = "PodScheduled"
DISRUPTION_TARGET = "DisruptionTarget"
_ENDED = {"Succeeded": "PodCompleted", "Failed": "PodFailed"}
# Conditions of containers, which the node notices by itself: prefixes of their types.
NOTED = (PRESSURE, STALLED, elastic.CONDITION)


class Condition(NamedTuple):
    type: str
    status: bool
    reason: str = ""
    message: str = ""


def pod_status(machine: PodMachine, host_ip: str, now: float) -> Document:
    """The status to write now: the node's fields, and foreign conditions as they are."""
    phase = pod_phase(machine)
    generation = machine.pod["metadata"].get("generation", 1)
    if machine.finished and _over_before(machine):
        # What was said when it ended stands: nobody else knows of exit codes, times and reasons.
        return {**machine.pod["status"], "observedGeneration": generation}
    status: Document = {
        "observedGeneration": generation,
        "phase": phase,
        "conditions": _conditions(machine, phase, now),
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "startTime": rfc3339(machine.start_time),
        "qosClass": (machine.pod.get("status") or {}).get("qosClass") or qos_class(machine.pod),
    }
    if machine.failure is not None:
        status["reason"], status["message"] = machine.failure
    if machine.pod_ips:
        status["podIP"] = machine.pod_ips[0]
        status["podIPs"] = [{"ip": ip} for ip in machine.pod_ips]
    if _refused(machine):  # nothing is said of containers that are not to be made
        return status
    mains = [r for r in machine.containers if r.plan.kind == MAIN]
    initial = [r for r in machine.containers if r.plan.kind in (INIT, SIDECAR)]
    added = [r for r in machine.containers if r.plan.kind == EPHEMERAL]
    waiting = "ContainerCreating" if _initialized(machine) or not initial else "PodInitializing"
    status["containerStatuses"] = [
        container_status(r, phase, waiting, machine)
        for r in sorted(mains, key=lambda r: r.plan.name)
    ]
    if initial:
        waiting = "PodInitializing"
        status["initContainerStatuses"] = [
            container_status(r, phase, waiting, machine) for r in initial
        ]
    if added:
        status["ephemeralContainerStatuses"] = [
            container_status(r, phase, "ContainerCreating", machine) for r in added
        ]
    status |= _pod_level(machine)
    _keep_device_health(machine.pod.get("status") or {}, status)
    return status


def _refused(machine: PodMachine) -> bool:
    """The pod ended before anything of it was there: its node would not have it."""
    untouched = not machine.pod_ips and all(r.attempt < 0 for r in machine.containers)
    return machine.failure is not None and machine.finished and untouched


def others_fields(pod: Document) -> Document:
    """What of a pod's status is not the node's to say. A reason that it has given may be no longer
    so: a static pod that ended with its node runs again when the node is back."""
    status = pod.get("status") or {}
    return {key: value for key, value in status.items() if key not in ("reason", "message")}


def _pod_level(machine: PodMachine) -> Document:
    """What of ``spec.resources`` is granted and in force, for a pod that has any (KEP-5419)."""
    wanted = machine.pod["spec"].get("resources")
    if not wanted or machine.finished:
        return {}
    actual, granted = machine.actual.get(POD, wanted), machine.allocated.get(POD, wanted)
    found: Document = {}
    shown = {key: actual[key] for key in ("limits", "requests") if actual.get(key)}
    if shown:
        found["resources"] = shown
    if granted.get("requests"):
        found["allocatedResources"] = granted["requests"]
    return found


def _keep_device_health(before: Document, status: Document) -> None:
    """What is said of containers' devices is written by the drivers (see drivers.report)."""
    field = "allocatedResourcesStatus"
    for kind in ("containerStatuses", "initContainerStatuses"):
        known = {e["name"]: e[field] for e in before.get(kind) or () if e.get(field)}
        for entry in status.get(kind) or () if known else ():
            if entry["name"] in known:
                entry[field] = known[entry["name"]]


def pod_phase(machine: PodMachine) -> str:
    """Pending, Running, Succeeded or Failed."""
    if machine.finished and _over_before(machine):
        return str(machine.pod["status"]["phase"])
    if machine.finished and all(
        r.state in (State.EXITED, State.WAITING) for r in machine.containers
    ):
        return "Failed" if failed_for_good(machine) else "Succeeded"
    mains = [r for r in machine.containers if r.plan.kind == MAIN]
    if not _initialized(machine) and all(r.attempt < 0 for r in mains):
        return "Pending"
    # One that has run before and waits for its next attempt does not make the pod Pending again.
    never_ran = [
        r for r in mains if not (r.ended or r.previous or (r.started_at and not r.in_post_start))
    ]
    return "Pending" if never_ran else "Running"


def _over_before(machine: PodMachine) -> bool:
    """The pod had ended before this agent saw it."""
    phase = (machine.pod.get("status") or {}).get("phase")
    return phase in ("Succeeded", "Failed") and all(r.attempt < 0 for r in machine.containers)


def _initialized(machine: PodMachine) -> bool:
    for record in machine.containers:
        if record.plan.kind == INIT:
            ended = record.ended
            if record.state is not State.EXITED or ended is None or ended.code != 0:
                return False
        elif record.plan.kind == SIDECAR and not (record.started or record.attempt > 0):
            mains = [r for r in machine.containers if r.plan.kind == MAIN]
            if all(r.attempt < 0 for r in mains):
                return False
    return True


def _conditions(machine: PodMachine, phase: str, now: float) -> list[Document]:
    own = [
        Condition(READY_TO_START, machine.prepared),
        _initialized_condition(machine, phase),
        *_ready_conditions(machine, phase),
        Condition(SCHEDULED, True),
    ]
    if may_restart_all(machine.pod):
        own.append(_restarting_all(machine, phase))
    if machine.disrupted is not None:
        own.append(Condition(DISRUPTION_TARGET, True, *machine.disrupted))
    generation = machine.pod["metadata"].get("generation", 1)
    before = {
        c.get("type", ""): c for c in (machine.pod.get("status") or {}).get("conditions") or ()
    }
    result = []
    for condition in own:
        text = "True" if condition.status else "False"
        known = machine.condition_times.get(condition.type)
        if known is None and condition.type == SCHEDULED and SCHEDULED in before:
            result.append(before[SCHEDULED] | {"observedGeneration": generation})
            continue
        if known is None or known[0] != text:
            machine.condition_times[condition.type] = (text, now)
        document: Document = {
            "type": condition.type,
            "status": text,
            "observedGeneration": generation,
            "lastTransitionTime": rfc3339(machine.condition_times[condition.type][1]),
        }
        if condition.reason:
            document["reason"] = condition.reason
        if condition.message:
            document["message"] = condition.message
        result.append(document)
    result += [_resize_condition(machine, found, now) for found in machine.resize]
    result += _noted(machine, now)
    names = {condition.type for condition in own} | {PENDING, IN_PROGRESS}
    names |= {kind for kind in before if kind.startswith(NOTED)}
    for kind in (PENDING, IN_PROGRESS):
        if not any(found.type == kind for found in machine.resize):
            machine.condition_times.pop(kind, None)
    return result + [condition for kind, condition in before.items() if kind not in names]


def _noted(machine: PodMachine, now: float) -> list[Document]:
    """What the node has noticed about containers by itself."""
    found = []
    for kind, noted in machine.noted.items():
        since = machine.condition_times.setdefault(kind, ("True", now))[1]
        found.append(
            {
                "type": kind,
                "status": "True",
                "observedGeneration": noted.generation,
                "lastTransitionTime": rfc3339(since),
                "reason": noted.reason,
                "message": noted.message,
            }
        )
    for kind in [k for k in machine.condition_times if k.startswith(NOTED)]:
        if kind not in machine.noted:
            del machine.condition_times[kind]
    return found


def _resize_condition(machine: PodMachine, found: ResizeCondition, now: float) -> Document:
    known = machine.condition_times.setdefault(found.type, ("True", now))
    document: Document = {
        "type": found.type,
        "status": "True",
        "observedGeneration": found.generation,
        "lastTransitionTime": rfc3339(known[1]),
    }
    texts = (("reason", found.reason), ("message", found.message))
    return document | {name: text for name, text in texts if text}


def _initialized_condition(machine: PodMachine, phase: str) -> Condition:
    if phase == "Succeeded":
        return Condition(INITIALIZED, True, _ENDED[phase])
    # A pod that was initialized stays so while its init containers run again (KEP-5532).
    again = any(record.before_round >= 0 for record in machine.containers)
    was = machine.condition_times.get(INITIALIZED, ("", 0.0))[0] == "True"
    if _initialized(machine) or (again and was):
        return Condition(INITIALIZED, True)
    missing = [
        r.plan.name
        for r in machine.containers
        if (r.plan.kind == INIT and not (r.ended and r.ended.code == 0))
        or (r.plan.kind == SIDECAR and not r.started)
    ]
    message = f"containers with incomplete status: [{' '.join(missing)}]"
    return Condition(INITIALIZED, False, "ContainersNotInitialized", message)


def _restarting_all(machine: PodMachine, phase: str) -> Condition:
    if phase in ("Succeeded", "Failed"):
        return Condition(RESTARTING_ALL, False, _ENDED[phase])
    why = machine.restarting_all
    return Condition(RESTARTING_ALL, bool(why), "RestartAllContainersStarted" if why else "", why)


def _ready_conditions(machine: PodMachine, phase: str) -> list[Condition]:
    if phase in ("Succeeded", "Failed"):
        reason = _ENDED[phase]
        return [Condition(READY, False, reason), Condition(CONTAINERS_READY, False, reason)]
    unready = [
        r.plan.name for r in machine.containers if r.plan.kind in (MAIN, SIDECAR) and not r.ready
    ]
    if unready:
        message = f"containers with unready status: [{' '.join(unready)}]"
        found = (False, "ContainersNotReady", message)
        return [Condition(READY, *found), Condition(CONTAINERS_READY, *found)]
    return [_gated(machine), Condition(CONTAINERS_READY, True)]


def _gated(machine: PodMachine) -> Condition:
    """Ready, unless a readiness gate says otherwise."""
    conditions = (machine.pod.get("status") or {}).get("conditions") or ()
    by_type = {condition.get("type"): condition.get("status") for condition in conditions}
    problems = []
    for gate in machine.pod["spec"].get("readinessGates") or ():
        kind = gate["conditionType"]
        if kind not in by_type:
            problems.append(
                f'corresponding condition of pod readiness gate "{kind}" does not exist.'
            )
        elif by_type[kind] != "True":
            problems.append(
                f'the status of pod readiness gate "{kind}" is not "True", but {by_type[kind]}'
            )
    if problems:
        return Condition(READY, False, "ReadinessGatesNotReady", ", ".join(problems))
    return Condition(READY, True)


def container_status(
    record: ContainerRecord, phase: str, waiting_reason: str, machine: PodMachine
) -> Document:
    """One entry of ``containerStatuses``."""
    spec = record.plan.spec
    running = _runs(record)
    status: dict[str, Any] = {
        "name": record.plan.name,
        "state": _state(record, phase, waiting_reason),
        "lastState": _last_state(record, phase),
        "ready": (record.ready and record.plan.kind != EPHEMERAL) or _completed_init(record),
        "restartCount": record.restart_count,
        "image": spec.get("image", ""),
        "imageID": record.image_id,
        "started": running and record.started,
    }
    if record.container_id:
        status["containerID"] = record.container_id
    resources = machine.actual.get(record.plan.name, spec.get("resources") or {})
    granted = machine.allocated.get(record.plan.name, resources)
    shown = {key: resources[key] for key in ("limits", "requests") if resources.get(key)}
    if shown and running:
        status["resources"] = shown
        if granted.get("requests"):
            status["allocatedResources"] = granted["requests"]
    return status


def _completed_init(record: ContainerRecord) -> bool:
    return record.plan.kind == INIT and record.ended is not None and record.ended.code == 0


def _state(record: ContainerRecord, phase: str, waiting_reason: str) -> Document:
    if _runs(record):
        return {"running": {"startedAt": rfc3339(record.started_at)}}
    if record.ended is not None and not _waits_again(record, phase):
        return {"terminated": _terminated(record.ended)}
    waiting: Document = {"reason": record.reason or waiting_reason}
    if record.message:
        waiting["message"] = record.message
    return {"waiting": waiting}


def _runs(record: ContainerRecord) -> bool:
    running = record.state in (State.RUNNING, State.STOPPING)
    return running and not record.in_post_start


def _waits_again(record: ContainerRecord, phase: str) -> bool:
    """Whether an ended container waits to be started again, as none of an ended pod does."""
    return bool(record.reason) and phase not in _ENDED


def _last_state(record: ContainerRecord, phase: str) -> Document:
    """The attempt before the one that ``state`` shows."""
    if record.ended is not None and _waits_again(record, phase):
        return {"terminated": _terminated(record.ended)}
    return {"terminated": _terminated(record.previous)} if record.previous else {}


def _terminated(ended: Termination) -> Document:
    document: Document = {
        "exitCode": ended.code,
        "reason": ended.reason,
        "finishedAt": rfc3339(ended.finished_at),
    }
    if ended.started_at is not None:
        document["startedAt"] = rfc3339(ended.started_at)
    if ended.signal:
        document["signal"] = ended.signal
    if ended.message:
        document["message"] = ended.message
    if ended.container_id:
        document["containerID"] = ended.container_id
    return document
