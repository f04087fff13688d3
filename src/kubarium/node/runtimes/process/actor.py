"""The actor of one pod: carries out what the pod's machine asks for, and tells it how that went."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from kubarium.api.resource import Document
from kubarium.base.errors import KubariumError
from kubarium.node.downward import PodFacts
from kubarium.node.lifecycle import events as ev
from kubarium.node.lifecycle.adoption import Adopted
from kubarium.node.lifecycle.conditions import NotedCondition
from kubarium.node.lifecycle.machine import PodMachine
from kubarium.node.lifecycle.plan import field_path
from kubarium.node.lifecycle.resize import with_resources
from kubarium.node.lifecycle.resume import resumed
from kubarium.node.lifecycle.saved import saved
from kubarium.node.lifecycle.status import others_fields, pod_status
from kubarium.node.network.addresses import PodAddresses
from kubarium.node.oci.errors import PullProblem
from kubarium.node.runner import NodeFacts, is_mirror
from kubarium.node.runtimes.process.pods import PrepareFailed, ProcessPods
from kubarium.node.runtimes.process.provisions import Provisions
from kubarium.node.runtimes.process.starts import StartFailed
from kubarium.node.saved_states import SavedStates
from kubarium.node.status_writer import StatusWriter
from kubarium.node.training.watch import TrainingWatch
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context
from kubarium.view import elastic


class Shell(Protocol):
    """What the actors of one agent share, and whom they tell."""

    context: Context
    recorder: EventRecorder
    addresses: PodAddresses
    states: SavedStates
    writer: StatusWriter
    pods: ProcessPods
    provisions: Provisions
    training: TrainingWatch

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it beside everything else."""
        ...

    async def network_joined(self) -> None:
        """A pod has come to the network: until its rules hold."""
        ...

    def network_changed(self) -> None:
        """A pod's network has gone."""
        ...

    def join_training(self, pod: Document) -> None:
        """A container of ``pod`` is about to start."""
        ...

    def started(self) -> None:
        """A container has come up."""
        ...

    def drop(self, uid: str) -> None:
        """The actor has nothing left to do and its pod is gone."""
        ...


class PodActor:
    """One pod: its machine, and the tasks that carry out the machine's instructions."""

    def __init__(
        self,
        shell: Shell,
        pod: Document,
        node: NodeFacts,
        adopted: Adopted | None = None,
    ) -> None:
        self._shell = shell
        self._node = node
        self._clock = shell.context.clock
        self._uid: str = pod["metadata"]["uid"]
        note = shell.states.read(self._uid)
        self._machine = resumed(pod, self._clock.now(), adopted=adopted, saved=note)
        self._machine.noted |= _launcher_noted(pod)
        self._timer: asyncio.TimerHandle | None = None
        self._gone = False
        self._busy = False
        self._inbox: list[ev.Event] = []
        # A command may end before we have heard that it was started.
        self._starting: dict[tuple[str, int], ev.ContainerExited | None] = {}

    def exited(self, event: ev.ContainerExited) -> None:
        """A container's command has ended."""
        key = (event.name, event.attempt)
        if key in self._starting:
            self._starting[key] = event
        else:
            self.deliver(event)

    def deliver(self, event: ev.Event) -> None:
        """Give the machine an event and carry out its answer. Safe to call from within itself."""
        self._inbox.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._inbox:
                instructions = self._machine.handle(self._inbox.pop(0), self._clock.now())
                if not self._gone:  # written down before anything of it is done
                    self._shell.states.write(self._uid, saved(self._machine))
                for instruction in instructions:
                    getattr(self, f"_do_{type(instruction).__name__}")(instruction)
        finally:
            self._busy = False
        self._set_timer()
        if self._gone and self._machine.released:
            self.stop_timer()
            self._shell.drop(self._uid)

    def refuse(self, why: tuple[str, str] | None) -> None:
        """The node does not take the pod, if there is a reason."""
        if why is not None:
            self.deliver(ev.Terminate(why[0], f"Pod was rejected: {why[1]}"))

    def gone(self) -> None:
        """The pod is no longer in the API."""
        self._gone = True
        self.deliver(ev.PodRemoved())

    def _set_timer(self) -> None:
        self.stop_timer()
        due = self._machine.next_deadline()
        if due is not None:
            delay = max(due - self._clock.now(), 0.0)
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(delay, self.deliver, ev.Tick())

    def stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def leaves(self) -> bool:
        """Whether its pod is gone, and only processes remain to end."""
        return self._gone

    @property
    def machine(self) -> PodMachine:
        return self._machine

    @property
    def node(self) -> NodeFacts:
        return self._node

    @property
    def _pod(self) -> Document:
        return self._machine.pod

    def facts(self) -> PodFacts:
        """What containers see of the pod, its resources as granted; it has its address from here
        on."""
        if self._node.pod_network and self._pod["spec"].get("hostNetwork"):
            address = self._node.address
        else:
            address = self._shell.addresses.lend(self._uid, self._node.pod_network)
        granted = with_resources(self._pod, self._machine.allocated)
        return PodFacts(granted, (address,), self._node.address, self._node.allocatable)

    # Instructions ------------------------------------------------------------------------------

    def publish(self) -> None:
        """Write the status as it is."""
        self._do_Publish(ev.Publish())

    def _do_Publish(self, _: ev.Publish) -> None:
        if self._gone:
            return

        def status(pod: Document) -> Document:
            if not is_mirror(pod):
                self._machine.pod = pod
            new = pod_status(self._machine, self._node.address, self._clock.now())
            return {**others_fields(pod), **new}

        self._shell.writer.write(self._pod, status)

    def _do_Delete(self, _: ev.Delete) -> None:
        if not self._gone:
            self._shell.writer.delete(self._pod)

    def _do_Record(self, record: ev.Record) -> None:
        self._shell.recorder.event(
            self._pod,
            record.kind,
            record.reason,
            record.message,
            field_path=field_path(self._pod, record.container),
        )

    def _do_Prepare(self, _: ev.Prepare) -> None:
        self._shell.spawn(self._prepare())

    async def _prepare(self) -> None:
        try:
            facts = self.facts()
            await self._shell.provisions.check_handler(self._pod)
            await self._shell.provisions.fetch(self._pod)
            devices = await self._shell.provisions.prepare_devices(self._pod)
            await self._shell.pods.prepare(facts, devices)
            await self._shell.network_joined()
        except PrepareFailed as failure:
            self.deliver(ev.PrepareFailed(failure.reason, str(failure)))
            return
        except (OSError, KubariumError) as error:
            self.deliver(ev.PrepareFailed("FailedCreatePodSandBox", str(error)))
            return
        self.deliver(ev.Prepared(facts.pod_ips))

    def _do_Release(self, _: ev.Release) -> None:
        self._shell.spawn(self._release())

    async def _release(self) -> None:
        await self._shell.pods.release(self._uid)
        self._shell.network_changed()
        self.deliver(ev.Released())

    def _do_StartContainer(self, instruction: ev.StartContainer) -> None:
        self._shell.spawn(self._start(instruction.name, instruction.attempt))

    async def _start(self, name: str, attempt: int) -> None:
        container = self._machine.record(name).plan.spec
        if name in self._machine.allocated:
            container = {**container, "resources": self._machine.allocated[name]}
        self._starting[(name, attempt)] = None
        try:
            handler = self._shell.provisions.handler(self._pod)
            image = await self._shell.provisions.provide_image(self._pod, container, handler)
            await self._shell.provisions.fetch(self._pod)
            self._shell.join_training(self._pod)
            started = await self._shell.pods.starts.start(
                self._uid, container, attempt, image, handler
            )
        except (StartFailed, PullProblem) as failure:
            del self._starting[(name, attempt)]
            self.deliver(ev.ContainerStartFailed(name, attempt, failure.reason, str(failure)))
            return
        self.deliver(ev.ContainerStarted(name, attempt, started.container_id, started.image_id))
        self._shell.started()
        early = self._starting.pop((name, attempt))
        if early is not None:
            self.deliver(early)

    def _do_SignalContainer(self, instruction: ev.SignalContainer) -> None:
        if instruction.signal != "SIGKILL":
            self._shell.training.stop(self._uid)
        self._shell.spawn(
            self._shell.pods.send_signal(
                self._uid, instruction.name, instruction.attempt, instruction.signal
            )
        )

    def _do_RunProbe(self, instruction: ev.RunProbe) -> None:
        self._shell.spawn(self._probe(instruction))

    async def _probe(self, wanted: ev.RunProbe) -> None:
        container = self._machine.record(wanted.name).plan.spec
        outcome, message = await self._shell.pods.checks.probe(
            self._uid, container, wanted.attempt, wanted.kind, wanted.timeout_s
        )
        self.deliver(ev.ProbeFinished(wanted.name, wanted.attempt, wanted.kind, outcome, message))

    def _do_RunHook(self, instruction: ev.RunHook) -> None:
        self._shell.spawn(self._hook(instruction))

    async def _hook(self, wanted: ev.RunHook) -> None:
        container = self._machine.record(wanted.name).plan.spec
        failure = await self._shell.pods.checks.hook(
            self._uid, container, wanted.attempt, wanted.hook
        )
        self.deliver(ev.HookFinished(wanted.name, wanted.attempt, wanted.hook, failure))


def _launcher_noted(pod: Document) -> dict[str, NotedCondition]:
    """What the agent before us has said of a rank's launcher: true until it says something else,
    also if the pod has ended meanwhile."""
    found = {}
    for held in (pod.get("status") or {}).get("conditions") or ():
        if held.get("type") == elastic.CONDITION:
            generation = int(held.get("observedGeneration") or 1)
            noted = NotedCondition(held.get("reason", ""), held.get("message", ""), generation)
            found[elastic.CONDITION] = noted
    return found
