"""What a pod machine writes down before it asks for anything: the next agent goes on with it.

Kubelet keeps two such files for resources (``allocated_pods_state``, ``actuated_pods_state``); ours
hold the whole machine: back-off, restart counts, where probes and stops stand. Times are the wall
clock's. Only probes' own timers are left out, so that a probe that passes again changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from kubarium.api.resource import Document
from kubarium.node.lifecycle.conditions import NotedCondition, ResizeCondition
from kubarium.node.lifecycle.machine import PodMachine
from kubarium.node.lifecycle.records import ContainerRecord, ProbeState, State, Termination
from kubarium.node.lifecycle.resize import desired

_LOG = logging.getLogger("kubarium.node")
# Raise it when what is below changes its meaning: other versions are not read.
VERSION = 1
_PROBE = "probe"
_PLAIN = (
    "reason",
    "message",
    "attempt",
    "before_round",
    "container_id",
    "image_id",
    "started_at",
    "backoff_s",
    "image_backoff_s",
    "started",
    "ready",
    "terminated_sent",
    "in_hook",
    "resizing",
)


def saved(machine: PodMachine) -> Document:
    """The machine as a JSON document."""
    return {
        "version": VERSION,
        "uid": machine.uid,
        "allocated": machine.allocated,
        "actual": machine.actual,
        "resize": [asdict(condition) for condition in machine.resize],
        "startTime": machine.start_time,
        "podIPs": list(machine.pod_ips),
        "prepared": machine.prepared,
        "released": machine.released,
        "finished": machine.finished,
        "failure": machine.failure,
        "disrupted": machine.disrupted,
        "restartingAll": machine.restarting_all,
        "stopBy": machine.stop_by,
        "noted": {kind: asdict(noted) for kind, noted in machine.noted.items()},
        "conditionTimes": machine.condition_times,
        "deadlines": [[list(k), at] for k, at in machine.deadlines.items() if k[0] != _PROBE],
        "containers": {record.plan.name: _container(record) for record in machine.containers},
    }


def _container(record: ContainerRecord) -> Document:
    document: Document = {name: getattr(record, name) for name in _PLAIN}
    document["state"] = record.state.value
    document["probes"] = {
        kind: [probe.successes, probe.failures, probe.passed]
        for kind, probe in record.probes.items()
    }
    for name in ("ended", "previous"):
        ended: Termination | None = getattr(record, name)
        document[name] = None if ended is None else asdict(ended)
    return document


def restore(machine: PodMachine, document: Document) -> bool:
    """Set a new machine to what :func:`saved` wrote; false, with nothing changed, if it cannot be
    read."""
    try:
        if document["version"] != VERSION or document["uid"] != machine.uid:
            return False
        records = {
            name: _read_container(entry)
            for name, entry in document["containers"].items()
            if any(record.plan.name == name for record in machine.containers)
        }
        deadlines = {tuple(key): float(at) for key, at in document["deadlines"]}
        resize = tuple(ResizeCondition(**entry) for entry in document["resize"])
        noted = {kind: NotedCondition(**entry) for kind, entry in document["noted"].items()}
        times = {kind: (s, float(at)) for kind, (s, at) in document["conditionTimes"].items()}
        failure, disrupted = (document[k] and tuple(document[k]) for k in ("failure", "disrupted"))
        restore_resources(machine, document)
        machine.start_time = float(document["startTime"])
        machine.pod_ips = tuple(document["podIPs"])
        machine.prepared, machine.released = document["prepared"], document["released"]
        machine.finished = document["finished"]
        machine.restarting_all, machine.stop_by = document["restartingAll"], document["stopBy"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _LOG.warning("pod %s: its saved state cannot be read: %r", machine.label, error)
        return False
    machine.failure, machine.disrupted = failure or None, disrupted or None
    machine.resize, machine.noted, machine.condition_times = resize, noted, times
    machine.deadlines = deadlines
    for record in machine.containers:
        for name, value in records.get(record.plan.name, {}).items():
            setattr(record, name, value)
    return True


def restore_resources(machine: PodMachine, document: Document) -> None:
    """Only what was granted, and what was in force: of a pod whose processes are gone."""
    machine.allocated = _resources(machine, document, "allocated")
    machine.actual = _resources(machine, document, "actual")


def _resources(machine: PodMachine, document: Document, key: str) -> dict[str, Mapping[str, Any]]:
    found: Mapping[str, Any] = document.get(key) or {}
    return {name: found.get(name, wanted) for name, wanted in desired(machine.pod).items()}


def _read_container(entry: Document) -> dict[str, Any]:
    found: dict[str, Any] = {name: entry[name] for name in _PLAIN}
    found["state"] = State(entry["state"])
    found["probes"] = {kind: ProbeState(*values) for kind, values in entry["probes"].items()}
    for name in ("ended", "previous"):
        found[name] = None if entry[name] is None else Termination(**entry[name])
    return found
