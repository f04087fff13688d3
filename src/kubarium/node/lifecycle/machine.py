"""The pod machine: what a kubelet does with one pod, as a function of events and time.

Each container moves through the table below. After every event the machine looks at all containers
together (:meth:`PodMachine._advance`) and asks for what should happen next; the look is level-
triggered, so a repeated or late event changes nothing.

    state      on                    becomes
    WAITING    we start it           STARTING
    STARTING   ContainerStarted      RUNNING
    STARTING   ContainerStartFailed  WAITING, or EXITED if the runtime had made it already
    RUNNING    we stop it            STOPPING
    RUNNING    ContainerExited       EXITED
    STOPPING   ContainerExited       EXITED
    EXITED     we start it again     STARTING

Timing is data: :meth:`PodMachine.next_deadline` says when to send a Tick. Source of the rules:
kubelet's ``kuberuntime_manager.go`` (computePodActions), ``prober/worker.go``, ``kubelet_pods.go``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kubarium.api.resource import Document
from kubarium.node.lifecycle import backoff, order, probing, starting, stopping
from kubarium.node.lifecycle import events as ev
from kubarium.node.lifecycle.conditions import NotedCondition, ResizeCondition
from kubarium.node.lifecycle.plan import (
    EPHEMERAL,
    RESTART_ALL,
    SIDECAR,
    container_plans,
    ephemeral_plans,
)
from kubarium.node.lifecycle.records import ALIVE, ContainerRecord, Deadlines, State, Termination
from kubarium.node.lifecycle.resize import changed, desired
from kubarium.view.memory import KILLED, PRESSURE, grown, memory_limit

# Who ended a pod, as its condition DisruptionTarget says.
BY_KUBELET = "TerminationByKubelet"
# So long a container that was killed for its memory waits for the larger limit that its policy
# promises, before it begins anew with the old one.
GROWTH_WAIT_S = 5.0


class PodMachine:
    """One pod on one node. Call :meth:`handle`; carry out what it returns, in order."""

    def __init__(self, pod: Document, now: float) -> None:
        """A pod that nothing has been done for yet; see :mod:`.resume` for all others."""
        self.pod = pod
        self.uid: str = pod["metadata"]["uid"]
        self.containers = [ContainerRecord(plan) for plan in container_plans(pod)]
        self._by_name = {record.plan.name: record for record in self.containers}
        self.pod_ips: tuple[str, ...] = ()
        self.start_time = now
        self.prepared = False
        self.released = False
        self.finished = False
        # Why the node itself ended the pod, or would not have it: a reason and a message; and
        # what the condition DisruptionTarget says of it.
        self.failure: tuple[str, str] | None = None
        self.disrupted: tuple[str, str] | None = None
        # While all containers are being ended to begin anew (KEP-5532): why.
        self.restarting_all = ""
        # Resources by container (see lifecycle.resize): granted, in force; and what is said of it.
        self.allocated: Mapping[str, Mapping[str, Any]] = desired(pod)
        self.actual: Mapping[str, Mapping[str, Any]] = self.allocated
        self.resize: tuple[ResizeCondition, ...] = ()
        self.noted: dict[str, NotedCondition] = {}
        self.condition_times: dict[str, tuple[str, float]] = {}
        self.deadlines: Deadlines = {}
        self._out: list[ev.Instruction] = []
        self._preparing = False
        self._prepare_backoff_s = 0.0
        self._releasing = False
        self._deleted = False
        self._removed = False
        self.stop_by: float | None = None
        # What an earlier agent had asked for and did not hear of, to be asked for again.
        self.unanswered: list[ev.Instruction] = []
        self.set_active_deadline()

    def set_active_deadline(self) -> None:
        """``activeDeadlineSeconds`` count from the pod's start."""
        deadline = self.pod["spec"].get("activeDeadlineSeconds")
        if deadline is not None:
            self.deadlines[("deadline",)] = self.start_time + deadline

    # The outside -------------------------------------------------------------------------------

    def handle(self, event: ev.Event, now: float) -> list[ev.Instruction]:
        """Take one event; InvalidTransition if it cannot be. Late answers are ignored."""
        self._out, self.unanswered = self.unanswered, []
        getattr(self, f"_on_{type(event).__name__}")(event, now)
        self._fire_deadlines(now)
        self._advance(now)
        return self._out

    def next_deadline(self) -> float | None:
        """When a Tick is due; None if nothing waits for time."""
        return min(self.deadlines.values(), default=None)

    @property
    def terminating(self) -> bool:
        """Whether the pod is being stopped, for whatever reason."""
        return self._removed or self.failure is not None or self.deleting

    @property
    def deleting(self) -> bool:
        return bool(self.pod["metadata"].get("deletionTimestamp"))

    @property
    def _generation(self) -> int:
        return int(self.pod["metadata"].get("generation", 1))

    @property
    def label(self) -> str:
        """``name_namespace(uid)``, as kubelet names pods in its messages."""
        metadata = self.pod["metadata"]
        return f"{metadata['name']}_{metadata.get('namespace', '')}({self.uid})"

    def record(self, name: str) -> ContainerRecord:
        return self._by_name[name]

    # Events ------------------------------------------------------------------------------------

    def _on_PodSynced(self, event: ev.PodSynced, now: float) -> None:
        before = (self.deleting, self.pod["metadata"].get("deletionGracePeriodSeconds"))
        generation = self.pod["metadata"].get("generation")
        self.pod = event.pod
        self.add_ephemeral()
        after = (self.deleting, self.pod["metadata"].get("deletionGracePeriodSeconds"))
        if after != before:
            self._shorten_grace(now + self._grace())
        if generation != self.pod["metadata"].get("generation") and not self.finished:
            self.publish()

    def add_ephemeral(self) -> None:
        for plan in ephemeral_plans(self.pod):
            if plan.name not in self._by_name:
                record = self._by_name[plan.name] = ContainerRecord(plan)
                self.containers.append(record)

    def _on_PodRemoved(self, event: ev.PodRemoved, now: float) -> None:
        self._removed = True
        self.stop_by = now
        for record in self.containers:
            if record.state is State.STOPPING:
                self._out.append(stopping.signal(record, "SIGKILL"))

    def _on_Terminate(self, event: ev.Terminate, now: float) -> None:
        if self.finished or self.failure is not None or self._removed:
            return
        self.failure = (event.reason, event.message)
        if event.disrupts:
            self.disrupted = (BY_KUBELET, event.message)
        self._record("Warning", event.reason, event.message)
        grace_s = self._grace() if event.grace_s is None else min(event.grace_s, self._grace())
        self._shorten_grace(now + grace_s)
        self.publish()

    def _on_Prepared(self, event: ev.Prepared, now: float) -> None:
        self._preparing = False
        self.prepared = True
        self.pod_ips = event.pod_ips
        self.publish()

    def _on_PrepareFailed(self, event: ev.PrepareFailed, now: float) -> None:
        self._preparing = False
        self._record("Warning", event.reason, event.message)
        self._prepare_backoff_s = backoff.after_prepare(self._prepare_backoff_s)
        self.deadlines[("prepare",)] = now + self._prepare_backoff_s

    def _on_ContainerStarted(self, event: ev.ContainerStarted, now: float) -> None:
        record = self._current(event.name, event.attempt)
        if record is None:
            return
        self._out += starting.started(record, event.container_id, event.image_id, now)
        if event.name in self.allocated:  # it was made with what is granted
            self.actual = {**self.actual, event.name: self.allocated[event.name]}
        if not record.in_post_start:
            probing.begin(record, self.deadlines, now)
        self.publish()

    def _on_ContainerStartFailed(self, event: ev.ContainerStartFailed, now: float) -> None:
        record = self._current(event.name, event.attempt)
        if record is None:
            return
        record.move(ev.ContainerStartFailed)
        if event.reason == "StartError":
            self._record("Warning", "Failed", f"Error: {event.message}", event.name)
            ended = Termination(128, 0, "StartError", event.message, 0.0, now, record.container_id)
            self._end(record, ended)
            return
        self._out += starting.failed(record, self.deadlines, event.reason, event.message, now)
        self.publish()

    def _on_ContainerExited(self, event: ev.ContainerExited, now: float) -> None:
        record = self._current(event.name, event.attempt)
        if record is None or record.state in (State.EXITED, State.WAITING):
            return  # told again after an agent's restart
        record.move(ev.ContainerExited)
        reason = "Completed" if event.code == 0 else "OOMKilled" if event.oom_killed else "Error"
        self._end(
            record,
            Termination(
                event.code,
                event.signal,
                reason,
                event.message,
                record.started_at,
                now,
                record.container_id,
            ),
        )
        if event.oom_killed and self._awaits_memory(event.name):
            self.deadlines[("growth", event.name)] = now + GROWTH_WAIT_S
        if record.plan.action_after(event.code) == RESTART_ALL and not self.restarting_all:
            self._restart_all(record, event.code, now)

    def _on_ProbeFinished(self, event: ev.ProbeFinished, now: float) -> None:
        record = self._current(event.name, event.attempt)
        if record is None or not probing.wanted(record, event.kind):
            return
        effect = probing.Effect.NONE
        if event.outcome == "success":
            effect = probing.succeeded(record, self.deadlines, event.kind, now)
        else:
            text = probing.unhealthy(event.kind, event.outcome, event.message)
            self._record("Warning", "Unhealthy", text, event.name)
            if event.outcome == "error":
                probing.errored(record, self.deadlines, event.kind, now)
            else:
                effect = probing.failed(record, self.deadlines, event.kind, now)
        if effect is probing.Effect.CHANGED:
            self.publish()
        elif effect is probing.Effect.RESTART:
            grace_s = record.plan.probes[event.kind].grace_s
            why = probing.why_restarted(record, event.kind)
            self._stop(record, now, self._grace() if grace_s is None else grace_s, why)

    def _on_HookFinished(self, event: ev.HookFinished, now: float) -> None:
        record = self._current(event.name, event.attempt)
        if record is None or record.in_hook != event.hook:
            return
        record.in_hook = ""
        if event.failure:
            title = "PostStart" if event.hook == ev.POST_START else "PreStop"
            text = f"{title}Hook failed: {event.failure}"
            self._record("Warning", f"Failed{title}Hook", text, event.name)
        if event.hook == ev.PRE_STOP and record.state is State.STOPPING:
            self._out.append(stopping.terminate(record))
        elif record.state is State.RUNNING:
            if event.failure:
                self._stop(record, now, self._grace(), "FailedPostStartHook")
            else:
                probing.begin(record, self.deadlines, now)
                self.publish()

    def _on_Released(self, event: ev.Released, now: float) -> None:
        self._releasing = False
        self.released = True
        self.prepared = False
        self.publish()

    def _on_Resized(self, event: ev.Resized, now: float) -> None:
        for kind in [kind for kind in self.noted if kind.startswith(PRESSURE)]:
            name = kind.removeprefix(PRESSURE)
            before, after = self.actual.get(name) or {}, event.actual.get(name) or {}
            if "memory" in changed(before, after):
                del self.noted[kind]
                self.deadlines.pop(("growth", name), None)
            else:  # another resize than the one that it waits for
                self.noted[kind] = replace(self.noted[kind], generation=self._generation)
        self.allocated, self.actual = event.allocated, event.actual
        self.resize = event.conditions
        self.publish()

    def _on_ResizeRestart(self, event: ev.ResizeRestart, now: float) -> None:
        record = self._by_name[event.name]
        if record.state is State.RUNNING:
            record.resizing = True
            why = f"Container {event.name} resize requires restart"
            self._stop(record, now, self._grace(), why)

    def _on_ConditionNoted(self, event: ev.ConditionNoted, now: float) -> None:
        found = NotedCondition(event.reason, event.message, self._generation)
        before = self.noted.pop(event.type, None)
        if event.reason:
            self.noted[event.type] = found
        if before != (found if event.reason else None):
            self.publish()

    def _on_ResizeNoted(self, event: ev.ResizeNoted, now: float) -> None:
        self._record(event.kind, event.reason, event.message)

    def _on_Tick(self, event: ev.Tick, now: float) -> None:
        """Deadlines are looked at after every event anyway."""

    # Deadlines ---------------------------------------------------------------------------------

    def _fire_deadlines(self, now: float) -> None:
        for key in [key for key, at in self.deadlines.items() if at <= now]:
            if self.deadlines.pop(key, None) is not None:
                getattr(self, f"_due_{key[0]}")(now, *key[1:])

    def _due_deadline(self, now: float) -> None:
        if not self.terminating and not self.finished:
            message = "Pod was active on the node longer than the specified deadline"
            self.failure = ("DeadlineExceeded", message)
            self.stop_by = now + self._grace()
            self._record("Normal", "DeadlineExceeded", message)

    def _due_prepare(self, now: float) -> None:
        """The next look prepares again."""

    def _due_growth(self, now: float, name: str) -> None:
        """Nobody has given it more: it begins with what it had."""

    def _due_retry(self, now: float, name: str) -> None:
        """The next look starts the container again."""

    def _due_image(self, now: float, name: str) -> None:
        said = starting.pull_waits(self._by_name[name])
        if said:
            self._out += said
            self.publish()

    def _due_probe(self, now: float, name: str, kind: str) -> None:
        record = self._by_name[name]
        if probing.wanted(record, kind):
            timeout_s = record.plan.probes[kind].timeout_s
            self._out.append(ev.RunProbe(name, record.attempt, kind, timeout_s))

    def _due_kill(self, now: float, name: str) -> None:
        record = self._by_name[name]
        if record.state is State.STOPPING:
            self._out.append(stopping.overdue(record, self.deadlines, now))

    # What should happen next -------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        if self.terminating or self.finished:
            self._wind_down(now)
            return
        if not self.prepared:
            self._prepare()
            return
        if self.restarting_all and not self._all_ended(now):
            return
        due = order.due(self.containers)
        held = False
        for record in due.run:
            if not held or record.plan.kind == EPHEMERAL:
                self._run_unless_done(record, now)
            held = held or starting.holds_up(record)
        if due.finished:
            self.finished = True
            self._wind_down(now)

    def _prepare(self) -> None:
        if not self._preparing and ("prepare",) not in self.deadlines:
            self._preparing = True
            self._out.append(ev.Prepare())
            self.publish()

    def _run_unless_done(self, record: ContainerRecord, now: float) -> None:
        name = record.plan.name
        if record.state is State.EXITED and not order.is_done(record):
            self._back_off(record, now)
        if record.state not in (State.WAITING, State.EXITED) or order.is_done(record):
            return
        if ("retry", name) in self.deadlines or ("growth", name) in self.deadlines:
            return
        self._out.append(starting.begin(record))

    def _awaits_memory(self, name: str) -> bool:
        """Whether the pod's policy answers to what the node has just said of the container."""
        noted = self.noted.get(PRESSURE + name)
        if noted is None or noted.reason != KILLED:
            return False
        return grown(self.pod, memory_limit({"resources": self.allocated.get(name)})) is not None

    def _back_off(self, record: ContainerRecord, now: float) -> None:
        said = starting.back_off(record, self.deadlines, self.label, now)
        if said:
            self._out += said
            self.publish()

    # Restarting all containers in place (KEP-5532) -----------------------------------------------

    def _restart_all(self, cause: ContainerRecord, code: int, now: float) -> None:
        """An exit that a rule answers with RestartAllContainers: sandbox, addresses, volumes and
        devices stay; containers get no time to end, and no hook."""
        if self.terminating or self.finished:
            return
        name = cause.plan.name
        self.restarting_all = f"Container {name} exited with code {code}, triggering pod restart"
        # A pod that does it over and over waits as a single container would.
        self._back_off(cause, now)
        self.publish()

    def _all_ended(self, now: float) -> bool:
        """Kill what runs; once nothing does, begin a round from the first init container."""
        records = [r for r in self.containers if r.plan.kind != EPHEMERAL]
        for record in records:
            if record.state is State.RUNNING:
                self._stop(record, now, 0.0, self.restarting_all)
            elif record.state is State.STOPPING:
                kill = stopping.kill_now(record, self.deadlines)
                if kill is not None:
                    self._out.append(kill)
        if any(record.state in ALIVE for record in records):
            return False
        self.begin_round()
        self.publish()
        return True

    def begin_round(self) -> None:
        """As if no container but ephemeral ones had run; their counters go on."""
        for record in self.containers:
            if record.plan.kind != EPHEMERAL:
                self.begin_anew(record)
        self.restarting_all = ""

    def begin_anew(self, record: ContainerRecord) -> None:
        if record.ended is not None:
            record.previous, record.ended = record.ended, None
        record.state = State.WAITING
        record.before_round = record.attempt
        record.resizing = False

    # Stopping ----------------------------------------------------------------------------------

    def _wind_down(self, now: float) -> None:
        if self._preparing:
            return
        self._stop_containers(now)
        if any(r.state not in (State.WAITING, State.EXITED) for r in self.containers):
            return
        self.deadlines.clear()
        if not self.released:
            if not self._releasing:
                self._releasing = True
                self.finished = True
                self.publish()
                self._out.append(ev.Release())
            return
        self.finished = True
        if self.deleting and not self._deleted:
            self._deleted = True
            self.publish()
            self._out.append(ev.Delete())

    def _stop_containers(self, now: float) -> None:
        """Main containers (and a running init) first; then sidecars, the last one first."""
        if self.stop_by is None and self.terminating:
            self.stop_by = now + self._grace()
        remaining = self._grace() if self.stop_by is None else max(self.stop_by - now, 0.0)
        for record in order.to_stop(self.containers):
            grace_s = remaining
            if record.plan.kind == SIDECAR and not self._removed:
                grace_s = max(remaining, stopping.MINIMUM_GRACE_S)
            self._stop(record, now, grace_s, "")

    def _grace(self) -> float:
        return 0.0 if self._removed else stopping.pod_grace_s(self.pod)

    def _shorten_grace(self, stop_by: float) -> None:
        self.stop_by = stop_by if self.stop_by is None else min(stop_by, self.stop_by)
        stopping.shorten(self.containers, self.deadlines, self.stop_by)

    def _stop(self, record: ContainerRecord, now: float, grace_s: float, why: str) -> None:
        probing.forget(record, self.deadlines, stopping=True)
        self._out += stopping.begin(record, self.deadlines, now, grace_s, why)
        if grace_s > 0:
            self.publish()

    def _end(self, record: ContainerRecord, ended: Termination) -> None:
        record.state = State.EXITED
        record.ended = ended
        record.reason = record.message = ""
        record.started = record.ready = False
        record.in_hook = ""
        probing.forget(record, self.deadlines)
        self.deadlines.pop(("kill", record.plan.name), None)
        self.publish()

    # Output ------------------------------------------------------------------------------------

    def _current(self, name: str, attempt: int) -> ContainerRecord | None:
        """The container if the answer is about its present attempt; None for late answers."""
        record = self._by_name.get(name)
        return record if record is not None and record.attempt == attempt else None

    def _record(self, kind: str, reason: str, message: str, container: str = "") -> None:
        self._out.append(ev.Record(kind, reason, message, container))

    def publish(self) -> None:
        if ev.Publish() not in self._out:
            self._out.append(ev.Publish())


def failed_for_good(machine: PodMachine) -> bool:
    """Whether an ended pod counts as Failed: a failure of its own, or an exit code."""
    return machine.failure is not None or order.ended_badly(machine.containers)
