"""In which order a pod's containers run and are stopped: what is due, read from their states alone.

Pure. Init containers one after the other, sidecars among them as soon as they have started, then
the main ones; stopped in reverse. Source: kubelet's ``computePodActions`` and
``killContainersWithSyncResult``; sidecars after KEP-753.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kubarium.node.lifecycle.plan import EPHEMERAL, INIT, MAIN, NEVER, SIDECAR
from kubarium.node.lifecycle.records import ALIVE, ContainerRecord, State


@dataclass(frozen=True, slots=True)
class Due:
    """``run``: containers whose turn it is (some run already, or wait for their back-off);
    ``finished``: none of them will be started again."""

    run: Sequence[ContainerRecord]
    finished: bool = False


def due(containers: Sequence[ContainerRecord]) -> Due:
    """What should run of a pod that is not being stopped. ``containers`` in their plan's order."""
    run: list[ContainerRecord] = []
    for record in containers:
        if record.plan.kind == MAIN:
            break
        if record.plan.kind == SIDECAR:
            run.append(record)
            if not record.started and _mains_untouched(containers):
                return Due(run)
            continue
        ended = record.ended if record.state is State.EXITED else None
        if ended is not None and ended.code == 0:
            continue
        if is_done(record):
            return Due(run, finished=True)
        return Due([*run, record])
    mains = [record for record in containers if record.plan.kind == MAIN]
    run += mains
    run += [r for r in containers if r.plan.kind == EPHEMERAL and r.state is State.WAITING]
    return Due(run, finished=all(is_done(record) for record in mains))


def to_stop(containers: Sequence[ContainerRecord]) -> list[ContainerRecord]:
    """Those that run and whose turn to be stopped it is: all but sidecars at once; once these have
    ended the sidecars, one at a time from the last."""
    firsts = [r for r in containers if r.plan.kind != SIDECAR and r.state in ALIVE]
    if firsts:
        return [record for record in firsts if record.state is State.RUNNING]
    for record in reversed(containers):
        if record.plan.kind == SIDECAR and record.state in ALIVE:
            return [record] if record.state is State.RUNNING else []
    return []


def is_done(record: ContainerRecord) -> bool:
    """Ended for good."""
    ended = record.ended
    if record.state is not State.EXITED or ended is None or record.resizing:
        return False
    return not record.plan.restarts_after(ended.code)


def _mains_untouched(containers: Sequence[ContainerRecord]) -> bool:
    """In this round: since the start, or since all containers were restarted."""
    mains = (record for record in containers if record.plan.kind == MAIN)
    return all(record.attempt <= record.before_round for record in mains)


def ended_badly(containers: Sequence[ContainerRecord]) -> bool:
    """Whether an ended pod counts as Failed by what became of its containers."""
    for record in containers:
        if record.plan.kind in (SIDECAR, EPHEMERAL):
            continue
        if record.ended is None:
            if record.plan.kind == MAIN or record.plan.restart_policy == NEVER:
                return True
            continue
        if record.ended.code != 0 and record.plan.kind in (MAIN, INIT):
            return True
    return False
