"""Carries out resizes: grants them as the node has room, and sets the control groups.

One for each agent. A resize is granted as a whole; who cannot have it now waits its turn, and one
that fails holds up nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from kubarium.api.resource import Document
from kubarium.base.clock import Clock
from kubarium.node.lifecycle import events as ev
from kubarium.node.lifecycle.conditions import IN_PROGRESS, PENDING, ResizeCondition
from kubarium.node.lifecycle.machine import PodMachine
from kubarium.node.lifecycle.plan import priority_of
from kubarium.node.lifecycle.records import State
from kubarium.node.lifecycle.resize import (
    DEFERRED,
    ERROR,
    INFEASIBLE,
    RESIZABLE,
    Resources,
    Verdict,
    changed,
    desired,
    needs_restart,
    requested,
    retry_order,
    verdict,
    with_resources,
)
from kubarium.node.runner import NodeFacts

# Waiting resizes are looked at again at least so often (kubelet: three minutes, and on events).
RETRY_S = 5.0


class Resizable(Protocol):
    """A pod of ours, as the actors give it."""

    @property
    def machine(self) -> PodMachine: ...
    @property
    def node(self) -> NodeFacts: ...
    def deliver(self, event: ev.Event) -> None: ...


class Actuator(Protocol):
    """Who sets limits on what runs; OSError, with the kernel's word, where it refuses."""

    def resize(self, uid: str, pod: Document, names: list[str]) -> None: ...


@dataclass(slots=True)
class _Pending:
    """A pod whose spec and control groups differ."""

    since: float
    conditions: tuple[ResizeCondition, ...] = ()
    told: dict[str, None] = field(default_factory=dict)


class Resizer:
    """See the module. ``pods`` are the actors by uid, live."""

    def __init__(self, clock: Clock, pods: Mapping[str, Resizable], actuator: Actuator) -> None:
        self._clock = clock
        self._pods = pods
        self._actuator = actuator
        self._pending: dict[str, _Pending] = {}
        self._changed = asyncio.Event()
        # By node, in one round: the priority of the most important resize that must wait.
        self._first: dict[str, int] = {}

    def look(self, uid: str) -> None:
        """A pod's spec may ask for other resources than it has."""
        actor = self._pods.get(uid)
        if actor is None or actor.machine.finished:
            return
        if _differs(desired(actor.machine.pod), actor.machine.actual):
            self._pending.setdefault(uid, _Pending(self._clock.now()))
            self._changed.set()
        elif uid in self._pending:  # carried out, or taken back before it was granted
            self._changed.set()

    def freed(self) -> None:
        """Room may have come: a pod has gone, a container has started."""
        if self._pending:
            self._changed.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            self._round()
            while self._pending and not self._changed.is_set():
                try:
                    async with asyncio.timeout(RETRY_S):
                        await self._changed.wait()
                except TimeoutError:
                    self._round()

    def _round(self) -> None:
        for uid in [uid for uid in self._pending if uid not in self._pods]:
            del self._pending[uid]
        self._first.clear()
        for uid in sorted(self._pending, key=self._order):
            self._try(uid, self._pods[uid])

    def _order(self, uid: str) -> tuple[int, int, int, float]:
        machine = self._pods[uid].machine
        held = with_resources(machine.pod, machine.allocated)
        return retry_order(machine.pod, held, self._pending[uid].since)

    def _try(self, uid: str, actor: Resizable) -> None:
        machine, pending = actor.machine, self._pending[uid]
        if machine.terminating or machine.finished:
            del self._pending[uid]
            return
        pod = machine.pod
        generation = int(pod["metadata"].get("generation", 1))
        conditions: list[ResizeCondition] = []
        allocated = machine.allocated
        found = Verdict()
        if not _differs(desired(pod), machine.actual):
            allocated = desired(pod)
        elif _differs(desired(pod), allocated):
            found = verdict(pod, self._others(uid, actor.node.name), actor.node.allocatable)
            if not found.reason and self._steps_back(uid, actor):
                found = Verdict(DEFERRED, "Node is making room for a resize of higher priority")
            if found.reason == DEFERRED:
                self._first.setdefault(actor.node.name, priority_of(pod))
            if found.reason:
                conditions.append(ResizeCondition(PENDING, found.reason, found.message, generation))
                self._tell(actor, pending, found)
            else:
                allocated = desired(pod)
        actual, problem = self._actuate(uid, actor, allocated)
        if problem:
            conditions.append(ResizeCondition(IN_PROGRESS, ERROR, problem, generation))
        elif _differs(allocated, actual):
            conditions.append(ResizeCondition(IN_PROGRESS, "", "", generation))
        elif not found.reason:
            del self._pending[uid]
        before = (pending.conditions, machine.allocated, machine.actual)
        pending.conditions = tuple(conditions)
        if before != (pending.conditions, allocated, actual):
            actor.deliver(ev.Resized(allocated, actual, pending.conditions))
        if uid not in self._pending:
            self._completed(actor, generation)

    def _steps_back(self, uid: str, actor: Resizable) -> bool:
        """Whether a resize that would fit leaves its room to a more important one.

        It does only while pods of the node are ending: they may have been evicted for the other,
        which would else need further victims. So it never waits for long.
        """
        node, grows = actor.node.name, self._order(uid)[0]
        return (
            bool(grows)
            and node in self._first
            and self._first[node] > priority_of(actor.machine.pod)
            and any(
                other.machine.terminating and not other.machine.finished
                for other in self._pods.values()
                if other.node.name == node
            )
        )

    def _others(self, uid: str, node: str) -> dict[str, int]:
        total = dict.fromkeys(RESIZABLE, 0)
        for other, actor in self._pods.items():
            if other == uid or actor.node.name != node or actor.machine.finished:
                continue
            held = with_resources(actor.machine.pod, actor.machine.allocated)
            for name, value in requested(held).items():
                total[name] += value
        return total

    def _actuate(
        self, uid: str, actor: Resizable, allocated: Mapping[str, Resources]
    ) -> tuple[dict[str, Resources], str]:
        """Bring what runs to ``allocated``; what is actual then, and the kernel's refusal."""
        machine = actor.machine
        actual = dict(machine.actual)
        in_place: list[str] = []
        for name, resources in allocated.items():
            names = changed(actual.get(name) or {}, resources)
            if not names:
                actual[name] = resources
                continue
            record = machine.record(name) if name else None
            if record is None or record.state is not State.RUNNING:
                if record is None or record.state in (State.WAITING, State.EXITED):
                    in_place.append(name)
            elif needs_restart(record.plan.spec, names):
                actor.deliver(ev.ResizeRestart(name))
            else:
                in_place.append(name)
        try:
            self._actuator.resize(uid, with_resources(machine.pod, allocated), in_place)
        except OSError as error:
            return actual, str(error.strerror or error)
        actual |= {name: allocated[name] for name in in_place}
        return actual, ""

    def _tell(self, actor: Resizable, pending: _Pending, found: Verdict) -> None:
        """One event for each reason that a pod waits for."""
        if found.message in pending.told:
            return
        pending.told[found.message] = None
        kind = "Warning" if found.reason == INFEASIBLE else "Normal"
        actor.deliver(ev.ResizeNoted(kind, f"Resize{found.reason}", found.message))

    def _completed(self, actor: Resizable, generation: int) -> None:
        text = f"Pod resize completed for generation {generation}"
        actor.deliver(ev.ResizeNoted("Normal", "ResizeCompleted", text))
        self.freed()


def _differs(first: Mapping[str, Resources], second: Mapping[str, Resources]) -> bool:
    names = dict.fromkeys([*first, *second])
    return any(changed(first.get(name) or {}, second.get(name) or {}) for name in names)
