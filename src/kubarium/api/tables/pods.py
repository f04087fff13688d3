"""Pods and pod templates (source: pkg/printers/internalversion/printers.go, printPod)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kubarium.api.resource import Document
from kubarium.api.tables.columns import (
    NONE,
    Printer,
    age,
    columns,
    container_images,
    container_names,
    is_true,
    joined_labels,
    printer,
    spec_of,
    status_of,
)
from kubarium.api.tables.durations import human, seconds_of

_TERMINAL = ("Succeeded", "Failed")


@dataclass(slots=True)
class _Summary:
    """What the walk over container statuses finds out."""

    reason: str
    ready: int = 0
    restarts: int = 0
    last_restart: float | None = None
    sidecar_restarts: int = 0
    last_sidecar_restart: float | None = None
    initializing: bool = False


def _later(old: float | None, status: Document) -> float | None:
    ended = seconds_of((status.get("lastState") or {}).get("terminated", {}).get("finishedAt"))
    if ended is None:
        return old
    return ended if old is None else max(old, ended)


def _exit_text(terminated: Document, prefix: str) -> str:
    if terminated.get("reason"):
        return f"{prefix}{terminated['reason']}"
    if terminated.get("signal"):
        return f"{prefix}Signal:{terminated['signal']}"
    return f"{prefix}ExitCode:{terminated.get('exitCode', 0)}"


def _initial_reason(pod: Document) -> str:
    status = status_of(pod)
    for entry in status.get("conditions") or ():
        if entry.get("type") == "PodScheduled" and entry.get("reason") == "SchedulingGated":
            return "SchedulingGated"
    return str(status.get("reason") or status.get("phase") or "")


def _walk_init(pod: Document, summary: _Summary, sidecars: set[str]) -> None:
    """Up to the first init container that has not done its part."""
    for index, status in enumerate(status_of(pod).get("initContainerStatuses") or ()):
        state = status.get("state") or {}
        sidecar = status.get("name") in sidecars
        summary.restarts += status.get("restartCount", 0)
        summary.last_restart = _later(summary.last_restart, status)
        if sidecar:
            summary.sidecar_restarts += status.get("restartCount", 0)
            summary.last_sidecar_restart = _later(summary.last_sidecar_restart, status)
        terminated = state.get("terminated")
        if terminated is not None and terminated.get("exitCode", 0) == 0:
            continue
        if sidecar and status.get("started"):
            summary.ready += bool(status.get("ready"))
            continue
        waiting = (state.get("waiting") or {}).get("reason")
        summary.initializing = True
        if terminated is not None:
            summary.reason = _exit_text(terminated, "Init:")
        elif waiting and waiting != "PodInitializing":
            summary.reason = f"Init:{waiting}"
        else:
            summary.reason = f"Init:{index}/{len(spec_of(pod).get('initContainers') or ())}"
        return


def _walk_main(pod: Document, summary: _Summary) -> None:
    """Main containers, the last one's trouble hidden by the first one's."""
    summary.restarts = summary.sidecar_restarts
    summary.last_restart = summary.last_sidecar_restart
    running = False
    for status in reversed(status_of(pod).get("containerStatuses") or ()):
        state = status.get("state") or {}
        summary.restarts += status.get("restartCount", 0)
        summary.last_restart = _later(summary.last_restart, status)
        waiting, terminated = state.get("waiting") or {}, state.get("terminated")
        if waiting.get("reason"):
            summary.reason = waiting["reason"]
        elif terminated is not None:
            summary.reason = _exit_text(terminated, "")
        elif status.get("ready") and "running" in state:
            running = True
            summary.ready += 1
    if summary.reason == "Completed" and running:
        summary.reason = "Running" if is_true(pod, "Ready") else "NotReady"


def _sidecars(pod: Document) -> set[str]:
    containers = spec_of(pod).get("initContainers") or ()
    return {c.get("name", "") for c in containers if c.get("restartPolicy") == "Always"}


def summarise(pod: Document) -> _Summary:
    """Reason, ready containers and restarts of a pod."""
    summary = _Summary(_initial_reason(pod))
    sidecars = _sidecars(pod)
    _walk_init(pod, summary, sidecars)
    if not summary.initializing or is_true(pod, "Initialized"):
        _walk_main(pod, summary)
    status = status_of(pod)
    if pod["metadata"].get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            summary.reason = "Unknown"
        elif status.get("phase") not in _TERMINAL:
            summary.reason = "Terminating"
    return summary


def pod_status(pod: Document) -> str:
    """The STATUS column of one pod, for messages and reports."""
    return summarise(pod).reason


def _pod_cells(pod: Document, now: float) -> list[Any]:
    summary = summarise(pod)
    spec, status = spec_of(pod), status_of(pod)
    total = len(spec.get("containers") or ()) + len(_sidecars(pod))
    restarts = str(summary.restarts)
    if summary.restarts and summary.last_restart is not None:
        restarts = f"{restarts} ({human(now - summary.last_restart)} ago)"
    addresses = status.get("podIPs") or ()
    address = addresses[0].get("ip") if addresses else status.get("podIP")
    return [
        f"{summary.ready}/{total}",
        summary.reason,
        restarts,
        age(pod, now),
        address or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        _readiness_gates(pod),
    ]


def _readiness_gates(pod: Document) -> str:
    gates = spec_of(pod).get("readinessGates") or ()
    if not gates:
        return NONE
    met = sum(is_true(pod, gate.get("conditionType", "")) for gate in gates)
    return f"{met}/{len(gates)}"


def _completed(pod: Document) -> list[Document] | None:
    phase = status_of(pod).get("phase")
    if phase not in _TERMINAL:
        return None
    message = "The pod has completed successfully." if phase == "Succeeded" else "The pod failed."
    return [{"type": "Completed", "status": "True", "reason": phase, "message": message}]


_POD = printer(
    "Ready|Status|Restarts|Age|+IP|+Node|+Nominated Node|+Readiness Gates",
    _pod_cells,
)

PRINTERS: dict[tuple[str, str], Printer] = {
    ("", "Pod"): Printer(_POD.columns, _POD.cells, _completed),
    ("", "PodTemplate"): Printer(
        columns("Containers|Images|Pod Labels"),
        lambda d, now: [
            d["metadata"].get("name", ""),
            container_names(d.get("template")),
            container_images(d.get("template")),
            joined_labels(((d.get("template") or {}).get("metadata") or {}).get("labels")),
        ],
    ),
}
