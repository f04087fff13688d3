"""Simulated pods: they take as long as they are told, write two statuses, and need no process.

A pod's annotations say how it goes:

    kubarium.dev/start-delay    how long until its containers run              ("0s")
    kubarium.dev/run-duration   how long they run; "never" = they do not end   (what their commands
                                say, else 1s; never with restartPolicy Always)
    kubarium.dev/exit-code      how they end                            (what they say, else "0")
    kubarium.dev/oom            "true": they end as out of memory (137, OOMKilled)

Durations are Go's ("1h30m", "250ms") or plain seconds. Of commands, ``sleep`` and the like are
understood (``simulated_commands``). The same pod machine as for processes
decides on phases, restarts and back-off; here its instructions are answered at once, or by a timer.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from kubarium.api.logs import LogOptions
from kubarium.api.resource import Document
from kubarium.api.streams import Connection, Session, StreamOptions
from kubarium.api.usage import PodUse
from kubarium.base.clock import Clock, rfc3339_micro
from kubarium.base.duration import duration_s
from kubarium.base.errors import KubariumError, bad_request
from kubarium.base.quoted import quoted
from kubarium.node.drivers.prepare import ClaimProblem, fetch_claims, has_claims, prepare_pod
from kubarium.node.eviction.injected import InjectedUsage, use_of
from kubarium.node.lifecycle import events as ev
from kubarium.node.lifecycle.plan import ALWAYS, INIT, MAIN, field_path
from kubarium.node.lifecycle.records import ContainerRecord, State
from kubarium.node.lifecycle.resume import resumed
from kubarium.node.lifecycle.status import others_fields, pod_status
from kubarium.node.logs import state_of, why_no_log
from kubarium.node.network.addresses import POD_NETWORK, AddressPool
from kubarium.node.resizing import Resizer
from kubarium.node.runner import Admit, NodeFacts, is_mirror, is_new
from kubarium.node.runtimes.simulated_commands import Outcome, told_by
from kubarium.node.status_writer import StatusWriter
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context
from kubarium.view.faults import KILL, MOMENTARY, OUT_OF_MEMORY, orders_of

T = TypeVar("T")

START_DELAY = "kubarium.dev/start-delay"
RUN_DURATION = "kubarium.dev/run-duration"
EXIT_CODE = "kubarium.dev/exit-code"
OOM = "kubarium.dev/oom"
DEFAULT_RUN_S = 1.0
_OOM_CODE = 137


class BadAnnotation(KubariumError):
    """An annotation's value cannot be read; the pod fails with this message."""


@dataclass(frozen=True, slots=True)
class Course:
    """How one pod goes. ``run_s`` None: it does not end by itself."""

    start_delay_s: float
    run_s: float | None
    exit_code: int
    oom: bool

    @staticmethod
    def of(pod: Document) -> Course:
        """Read a pod's annotations; BadAnnotation names the one that is wrong."""
        annotations = pod["metadata"].get("annotations") or {}
        oom = annotations.get(OOM, "false") == "true"
        # Whoever says by annotation how the pod ends means that, not what its commands say.
        told = None if annotations.keys() & {RUN_DURATION, EXIT_CODE, OOM} else told_by(pod)
        code = _read(annotations, EXIT_CODE, str(told.exit_code if told else 0), _number)
        if not 0 <= code <= 255:
            raise BadAnnotation(f"annotation {EXIT_CODE}: {code}: must be from 0 to 255")
        return Course(
            _read(annotations, START_DELAY, "0s", duration_s),
            _run_s(pod, annotations, told),
            _OOM_CODE if oom else code,
            oom,
        )


def _run_s(pod: Document, annotations: Mapping[str, str], told: Outcome | None) -> float | None:
    if RUN_DURATION in annotations:
        if annotations[RUN_DURATION] == "never":
            return None
        return _read(annotations, RUN_DURATION, "", duration_s)
    if told is not None:
        return None if math.isinf(told.run_s) else told.run_s
    return None if (pod["spec"].get("restartPolicy") or ALWAYS) == ALWAYS else DEFAULT_RUN_S


def _read(annotations: Mapping[str, str], key: str, default: str, parse: Callable[[str], T]) -> T:
    text = annotations.get(key, default)
    try:
        return parse(text)
    except ValueError as error:
        raise BadAnnotation(f"annotation {key}: {error}") from None


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"cannot read {quoted(text)}: must be from 0 to 255") from None


class Timers:
    """One heap of things to do at their times, in order of (time, order of asking).

    One task sleeps until the first is due; thousands of pods cost one timer of the event loop.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._waker: asyncio.TimerHandle | None = None
        self._waker_at = float("inf")

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do ``action`` at ``when`` (clock.now() seconds). It cannot be cancelled: check there."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, action))
        if when < self._waker_at:
            self._arm()

    def close(self) -> None:
        if self._waker is not None:
            self._waker.cancel()
        self._heap.clear()

    def _arm(self) -> None:
        if self._waker is not None:
            self._waker.cancel()
        self._waker_at = self._heap[0][0]
        delay = max(self._waker_at - self._clock.now(), 0.0)
        self._waker = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._waker, self._waker_at = None, float("inf")
        now = self._clock.now()
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()
        if self._heap and self._heap[0][0] < self._waker_at:
            self._arm()


# What the machine looks at when its pod has changed, besides the spec.
_NEWS = ("deletionTimestamp", "deletionGracePeriodSeconds", "generation")


class SimulatedRunner:
    """Pods of the agent's nodes as state machines on a clock. Satisfies ``runner.PodRunner``."""

    def __init__(
        self, context: Context, recorder: EventRecorder, drivers: Mapping[str, object]
    ) -> None:
        self.context = context
        self.clock = context.clock
        self._began = context.clock.now()
        self.recorder = recorder
        self.addresses = AddressPool(POD_NETWORK)
        self.writer = StatusWriter(context)
        self.timers = Timers(context.clock)
        self._drivers = drivers
        self._pods: dict[str, SimulatedPod] = {}
        # Pods that went down with their node; faults that pods have suffered, by their Fault.
        self._lost: dict[str, bool] = {}
        self._ordered: dict[str, dict[str, str]] = {}
        self._resizer = Resizer(context.clock, self._pods, _NoLimits())
        self._tasks: dict[asyncio.Task[None], None] = {}
        self.admit: Admit = lambda pod, node: None
        self.is_static: Callable[[str], bool] = lambda uid: False
        self.meter = InjectedUsage(context.clock)

    @property
    def actors(self) -> Mapping[str, SimulatedPod]:
        """All pods of the agent's nodes, by uid."""
        return self._pods

    async def start(self) -> None:
        """Nothing is needed."""

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.writer.run())
                group.create_task(self._resizer.run())
        finally:
            self.timers.close()
            for task in list(self._tasks):
                task.cancel()

    def pod_seen(self, pod: Document, node: NodeFacts) -> None:
        uid = pod["metadata"]["uid"]
        known = self._pods.get(uid)
        self.meter.seen(pod)
        if known is None:
            survived = self._lost.pop(uid, True)
            known = self._pods[uid] = SimulatedPod(self, pod, node, survived)
            why = self.admit(pod, node.name) if is_new(pod) else None
            if why is not None:
                known.deliver(ev.Terminate(why[0], f"Pod was rejected: {why[1]}"))
        elif known.has_seen(pod):
            return
        known.deliver(ev.PodSynced(pod))
        self._resizer.look(uid)
        self._suffer(known, pod)

    def usage(self) -> list[PodUse]:
        """What the pods' annotations say."""
        now = self.context.clock.now()
        return [use_of(known.machine.pod, now) for known in self._pods.values() if known.runs]

    def _suffer(self, known: SimulatedPod, pod: Document) -> None:
        """Carry out the faults that end containers; others show only in processes."""
        for order in orders_of(pod):
            if order.healed or self._ordered.get(known.uid, {}).get(order.fault) == order.ident:
                continue
            self._ordered.setdefault(known.uid, {})[order.fault] = order.ident
            if order.action in MOMENTARY and order.at < self._began:
                continue  # an agent before this one has seen it
            if order.action in (KILL, OUT_OF_MEMORY):
                known.kill(order.container, order.action == OUT_OF_MEMORY)
            else:
                text = f"{order.action}: the pod is simulated: it has no processes to suffer it"
                self.recorder.event(pod, "Warning", "FaultNotInjected", text)

    def pod_lost(self, pod: Document) -> None:
        self.pod_gone(pod)
        self._lost[pod["metadata"]["uid"]] = False

    async def reclaim(self, least_free: int | None) -> int:
        """Simulated nodes keep no images."""
        return 0

    def hold(self, node: str) -> None:
        self.writer.hold(node)

    def let_go(self, node: str) -> None:
        self.writer.let_go(node)

    def publish(self, uid: str) -> None:
        """Write a pod's status: its mirror has just come."""
        known = self._pods.get(uid)
        if known is not None:
            known.publish()

    def pod_gone(self, pod: Document) -> None:
        uid = pod["metadata"]["uid"]
        self._lost.pop(uid, None)
        self._ordered.pop(uid, None)
        known = self._pods.pop(uid, None)
        if known is not None:
            known.gone = True
            self.addresses.give_back(uid)
            self.writer.forget(uid)
            self._resizer.freed()

    def freed(self) -> None:
        """A container has started or ended: a resize may go on."""
        self._resizer.freed()

    async def prepare(self, pod: SimulatedPod, document: Document) -> None:
        """Answer a pod that has claims."""
        try:
            claims = await fetch_claims(self.context.client, document)
            prepare_pod(document, lambda ns, name: claims.get(name), self._drivers)
        except ClaimProblem as problem:
            text = f"Failed to prepare dynamic resources: prepare dynamic resources: {problem}"
            pod.deliver(ev.PrepareFailed("FailedPrepareDynamicResources", text))
            return
        pod.deliver(pod.prepared())

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def open_session(self, pod: Document, options: StreamOptions) -> Session:
        name = pod["metadata"]["name"]
        raise bad_request(f'pod "{name}" is simulated: it has no processes to run a command beside')

    async def open_port(self, pod: Document, port: int) -> Connection:
        name = pod["metadata"]["name"]
        raise bad_request(f'pod "{name}" is simulated: nothing listens on its port {port}')

    async def logs(self, pod: Document, options: LogOptions) -> AsyncIterator[bytes]:
        """A simulated container prints one line that says so."""
        known = self._pods.get(pod["metadata"]["uid"])
        entry = state_of(pod, options.container) or {}
        state, last = entry.get("state") or {}, entry.get("lastState") or {}
        ran = last if options.previous else {**last, **state}
        if known is None or known.started_at is None or not ran.keys() & {"running", "terminated"}:
            raise bad_request(why_no_log(pod, options.container, options.previous))
        stamp = f"{rfc3339_micro(known.started_at)} " if options.timestamps else ""
        yield f"{stamp}simulated container {options.container}\n".encode()


class _NoLimits:
    """What sets limits on containers that have no processes."""

    def resize(self, uid: str, pod: Document, names: list[str]) -> None:
        """Nothing runs that could be limited."""


class SimulatedPod:
    """One pod: its machine, answered by the course that its annotations set."""

    def __init__(
        self, runner: SimulatedRunner, pod: Document, node: NodeFacts, survived: bool = True
    ) -> None:
        """``survived``: what ran when an earlier agent ended goes on."""
        self._runner = runner
        self.node = node
        self.machine = resumed(pod, runner.clock.now(), keeps_running=survived)
        self._uid: str = pod["metadata"]["uid"]
        self._inbox: list[ev.Event] = []
        self._busy = False
        self._due: float | None = None
        self._publish = False
        self.gone = False
        self.started_at: float | None = None
        for address in self.machine.pod_ips[:1]:
            runner.addresses.keep(self._uid, address)
        for record in self.machine.containers:
            if record.state is State.RUNNING:
                self._resume(record)

    def _resume(self, record: ContainerRecord) -> None:
        """A container that ran when an earlier agent ended goes on as if nothing had been."""
        self.started_at = record.started_at
        try:
            course = Course.of(self.machine.pod)
        except BadAnnotation:
            return
        self._schedule_end(record, course, record.started_at)

    def _schedule_end(self, record: ContainerRecord, course: Course, started_at: float) -> None:
        """Init containers are over at once: the annotations speak of the main containers."""
        kind = record.plan.kind
        run_s = course.run_s if kind == MAIN else 0.0 if kind == INIT else None
        if run_s is None:
            return
        code, signal = (course.exit_code, 9 if course.oom else 0) if kind == MAIN else (0, 0)
        ended = ev.ContainerExited(
            record.plan.name, record.attempt, code, signal, course.oom and kind == MAIN
        )
        self._runner.timers.at(started_at + run_s, lambda: self._end(ended))

    @property
    def uid(self) -> str:
        return self._uid

    @property
    def runs(self) -> bool:
        """Whether a container of it runs."""
        return any(record.state is State.RUNNING for record in self.machine.containers)

    def kill(self, name: str, out_of_memory: bool) -> None:
        """End a container (the first one that runs, if not named) as SIGKILL does."""
        for record in self.machine.containers:
            if record.state is State.RUNNING and record.plan.name == (name or record.plan.name):
                self._end(
                    ev.ContainerExited(
                        record.plan.name, record.attempt, _OOM_CODE, 9, out_of_memory
                    )
                )
                return

    def has_seen(self, pod: Document) -> bool:
        """Take in a document that brings no news: all that differs is the status, ours mostly."""
        old, new = self.machine.pod["metadata"], pod["metadata"]
        same = pod["spec"] is self.machine.pod["spec"] and all(
            new.get(field) == old.get(field) for field in _NEWS
        )
        if new.get("annotations") != old.get("annotations") and orders_of(pod):
            same = False
        if same:
            self.machine.pod = pod
        return same

    def deliver(self, event: ev.Event) -> None:
        """Give the machine an event, and its answers back to it, until it is quiet."""
        self._inbox.append(event)
        if self._busy or self.gone:
            return
        self._busy = True
        try:
            while self._inbox:
                now = self._runner.clock.now()
                for instruction in self.machine.handle(self._inbox.pop(0), now):
                    getattr(self, f"_do_{type(instruction).__name__}")(instruction)
        finally:
            self._busy = False
        self._settle()

    def _settle(self) -> None:
        """Write once for all that happened at this moment; set a timer for what is next."""
        if self._publish:
            self._publish = False
            if self._worth_writing():
                self._runner.writer.write(self.machine.pod, self._status)
        due = self.machine.next_deadline()
        if due is not None and due != self._due:
            self._due = due
            self._runner.timers.at(due, lambda: self._tick(due))

    def _worth_writing(self) -> bool:
        """Steps on the way (sandbox made, nothing runs yet) are not, unless something is wrong."""
        machine = self.machine
        touched = any(r.attempt >= 0 or r.reason for r in machine.containers)
        return machine.finished or machine.terminating or touched

    def _tick(self, due: float) -> None:
        if self._due == due:
            self._due = None
            self.deliver(ev.Tick())

    def _status(self, pod: Document) -> Document:
        if not is_mirror(pod):
            self.machine.pod = pod
        new = pod_status(self.machine, self.node.address, self._runner.clock.now())
        return {**others_fields(pod), **new}

    # Instructions ------------------------------------------------------------------------------

    def publish(self) -> None:
        """Write the status as it is."""
        self._runner.writer.write(self.machine.pod, self._status)

    def _do_Publish(self, _: ev.Publish) -> None:
        self._publish = True

    def _do_Delete(self, _: ev.Delete) -> None:
        self._runner.writer.delete(self.machine.pod)

    def _do_Record(self, record: ev.Record) -> None:
        # Thousands of pods: only what is wrong, or rare, is worth an Event object.
        if record.kind == "Warning" or record.reason.startswith("Resize"):
            pod = self.machine.pod
            self._runner.recorder.event(
                pod,
                record.kind,
                record.reason,
                record.message,
                field_path=field_path(pod, record.container),
            )

    def _do_Prepare(self, _: ev.Prepare) -> None:
        pod = self.machine.pod
        if has_claims(pod):
            self._runner.spawn(self._runner.prepare(self, pod))
        else:
            self._inbox.append(self.prepared())

    def prepared(self) -> ev.Prepared:
        return ev.Prepared((self._runner.addresses.lend(self._uid),))

    def _do_Release(self, _: ev.Release) -> None:
        self._inbox.append(ev.Released())

    def _do_StartContainer(self, wanted: ev.StartContainer) -> None:
        try:
            course = Course.of(self.machine.pod)
        except BadAnnotation as problem:
            failed = ev.ContainerStartFailed(
                wanted.name, wanted.attempt, "CreateContainerConfigError", str(problem)
            )
            self._inbox.append(failed)
            return
        first = wanted.attempt == 0 and self.started_at is None
        delay = course.start_delay_s if first else 0.0
        if delay <= 0:
            self._started(wanted, course)
        else:
            now = self._runner.clock.now()
            self._runner.timers.at(now + delay, lambda: self._started(wanted, course))

    def _started(self, wanted: ev.StartContainer, course: Course) -> None:
        now = self._runner.clock.now()
        self.started_at = self.started_at or now
        digest = hashlib.sha256(f"{self._uid}/{wanted.name}/{wanted.attempt}".encode()).hexdigest()
        image = self.machine.record(wanted.name).plan.spec.get("image", "")
        self.deliver(
            ev.ContainerStarted(wanted.name, wanted.attempt, f"simulated://{digest}", image)
        )
        self._schedule_end(self.machine.record(wanted.name), course, now)
        self._runner.freed()

    def _end(self, ended: ev.ContainerExited) -> None:
        """The course is over, if the container was not stopped before."""
        record = self.machine.record(ended.name)
        if record.attempt == ended.attempt and record.state in (State.RUNNING, State.STOPPING):
            self.deliver(ended)
            self._runner.freed()

    def _do_SignalContainer(self, wanted: ev.SignalContainer) -> None:
        number = 9 if wanted.signal == "SIGKILL" else 15
        # A simulated program heeds SIGTERM at once.
        self._inbox.append(ev.ContainerExited(wanted.name, wanted.attempt, 128 + number, number))

    def _do_RunProbe(self, wanted: ev.RunProbe) -> None:
        self._inbox.append(ev.ProbeFinished(wanted.name, wanted.attempt, wanted.kind, "success"))

    def _do_RunHook(self, wanted: ev.RunHook) -> None:
        self._inbox.append(ev.HookFinished(wanted.name, wanted.attempt, wanted.hook))
