"""The shell around the pod machines: carries out what they ask for, with real processes."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from kubarium.api.kinds import (
    CONFIG_MAPS,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    RESOURCE_CLAIMS,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
)
from kubarium.api.logs import LogOptions
from kubarium.api.resource import Document, Resource
from kubarium.api.streams import Connection, Session, StreamOptions
from kubarium.api.usage import PodUse
from kubarium.base.errors import ApiError, KubariumError, internal
from kubarium.node.config import NodeConfig
from kubarium.node.downward import PodFacts
from kubarium.node.drivers.prepare import (
    ANY_OTHER,
    NO_GPUS,
    ClaimProblem,
    Edits,
    container_edits,
    fetch_claims,
    guards_gpus,
    has_claims,
)
from kubarium.node.environment import Sources
from kubarium.node.faults import FaultActor
from kubarium.node.images import Image
from kubarium.node.isolation import Report
from kubarium.node.lifecycle import events as ev
from kubarium.node.lifecycle.adoption import Adopted
from kubarium.node.lifecycle.conditions import NotedCondition
from kubarium.node.lifecycle.machine import PodMachine
from kubarium.node.lifecycle.resize import with_resources
from kubarium.node.lifecycle.resume import resumed
from kubarium.node.lifecycle.saved import saved
from kubarium.node.lifecycle.status import pod_status
from kubarium.node.network.addresses import PodAddresses
from kubarium.node.network.dns.server import DnsServer
from kubarium.node.network.dns.zone import Zone
from kubarium.node.network.followed import FollowedNetwork, zone_sources
from kubarium.node.network.hosts import HostsFiles
from kubarium.node.network.names import NameSources
from kubarium.node.network.pod_network import PodNetwork
from kubarium.node.network.ports import open_port, open_port_inside
from kubarium.node.oci.errors import PullProblem
from kubarium.node.oci.keeper import ImageKeeper
from kubarium.node.oci.pull import pull_secrets
from kubarium.node.references import referred_objects
from kubarium.node.resizing import Resizer
from kubarium.node.runner import Admit, NodeFacts, identity, is_mirror, is_new
from kubarium.node.runtimes.oci.classes import RuntimeClasses
from kubarium.node.runtimes.oci.handlers import UnknownHandler
from kubarium.node.runtimes.process.engine import ExitStatus, StartError
from kubarium.node.runtimes.process.pods import PrepareFailed, ProcessPods, StartFailed
from kubarium.node.runtimes.process.rates import UsageRates
from kubarium.node.runtimes.process.usage import MeasuredUsage
from kubarium.node.saved_states import SavedStates
from kubarium.node.status_writer import StatusWriter
from kubarium.node.training.checkpoints import PodCheckpoints
from kubarium.node.training.metrics import MetricsReader
from kubarium.node.training.watch import TrainingWatch, is_rank
from kubarium.node.volumes import MountProblem, VolumeSources
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context
from kubarium.view import elastic
from kubarium.view.memory import PRESSURE

_LOG = logging.getLogger("kubarium.node")

# kubelet looks at mounted objects about once a minute.
_REFRESH_S = 60.0
# The port of the kubernetes service.
API_PORT = 443
_READ = (CONFIG_MAPS, SECRETS, SERVICES, PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES)


class ProcessRunner:
    """Pods of the agent's nodes as processes. Satisfies :class:`kubarium.node.runner.PodRunner`."""

    def __init__(
        self,
        context: Context,
        config: NodeConfig,
        recorder: EventRecorder,
        drivers: Mapping[str, object],
        is_root: bool,
    ) -> None:
        self.context = context
        self.recorder = recorder
        self.addresses = PodAddresses(config.root)
        self.states = SavedStates(Path(config.root).resolve())
        self.writer = StatusWriter(context)
        self._drivers = drivers
        self._actors: dict[str, PodActor] = {}
        self._again: dict[str, tuple[Document, NodeFacts]] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        informers = context.informers
        for resource in (*_READ, RESOURCE_CLAIMS):
            informers.get(resource)
        self._hosts = HostsFiles(
            NameSources(
                lambda namespace: informers.get(PODS).items(namespace),
                lambda namespace: informers.get(SERVICES).items(namespace),
            ),
            config.cluster_domain,
            context.clock,
        )
        network = _pod_network(context, config)
        self._network: FollowedNetwork | None = None
        if network is not None:
            api = (config.api_host, config.api_port)
            self._network = FollowedNetwork(context, network, api)
        self.pods = ProcessPods(
            config,
            context.clock,
            self._hosts,
            self._volume_sources(config, is_root),
            self._exited,
            self._warn,
            self._pressed,
            network,
        )
        self.dialer = self.pods.dialer
        self.classes = RuntimeClasses(context)
        nodes = [node.name for node in config.nodes]
        self._keeper = ImageKeeper(context, self.pods.images.store, nodes, recorder)

        self._resizer = Resizer(context.clock, self._actors, self.pods)
        self.training = TrainingWatch(context, self, self.spawn)
        self.admit: Admit = lambda pod, node: None
        self.is_static: Callable[[str], bool] = lambda uid: False
        self._rates = UsageRates(context.clock, self.pods, self._actors)
        self.meter = MeasuredUsage(context.clock, self.pods, Path(config.root).resolve())
        names = {spec.name for spec in config.nodes}
        self._checkpoints = PodCheckpoints(
            context, self.training, lambda pod: pod["spec"].get("nodeName") in names
        )
        self._metrics = MetricsReader(context.clock, self)
        self._faults = FaultActor(context.clock, self.pods, self.spawn, recorder.event)

    def _volume_sources(self, config: NodeConfig, is_root: bool) -> VolumeSources:
        def reader(resource: Resource) -> Callable[[str, str], Document | None]:
            return lambda namespace, name: self.context.informers.get(resource).get(name, namespace)

        volumes = reader(PERSISTENT_VOLUMES)
        return VolumeSources(
            Sources(
                reader(CONFIG_MAPS),
                reader(SECRETS),
                lambda namespace: self.context.informers.get(SERVICES).items(namespace),
                config.api_host,
                config.api_port,
                (config.network.api, API_PORT) if config.network else None,
            ),
            reader(PERSISTENT_VOLUME_CLAIMS),
            lambda name: volumes("", name),
            self._token,
            Path(config.root).resolve() / "claims",
            self.context.clock.now,
            config.api_ca,
            is_root,
        )

    async def _token(self, pod: Document, audience: str, lifetime_s: int) -> str:
        metadata = pod["metadata"]
        account = pod["spec"].get("serviceAccountName") or "default"
        request: Document = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [audience] if audience else [],
                "expirationSeconds": lifetime_s,
                "boundObjectRef": {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                },
            },
        }
        try:
            answer = await self.context.client.create(
                SERVICE_ACCOUNTS,
                request,
                metadata.get("namespace", ""),
                name=account,
                subresource="token",
            )
        except ApiError as error:
            raise MountProblem(f"failed to fetch token: {error}") from error
        return str(answer["status"]["token"])

    def _warn(self, pod: Document, reason: str, message: str) -> None:
        self.recorder.event(pod, "Warning", reason, message)

    @property
    def actors(self) -> Mapping[str, PodActor]:
        """All pods of the agent's nodes, by uid."""
        return self._actors

    # PodRunner ---------------------------------------------------------------------------------

    def report(self) -> Report:
        """The isolation in force."""
        return self.pods.report()

    def usage(self) -> list[PodUse]:
        return self._rates.report()

    async def start(self) -> None:
        await self.pods.start()
        self.states.open()
        informers = self.context.informers
        for resource in (*_READ, RESOURCE_CLAIMS):
            await informers.get(resource).wait_synced()
        if self._network is not None:
            await self._network.start()
        pods = informers.get(PODS)
        await pods.wait_synced()
        there = {identity(pod) for pod in pods.items()}
        await self.pods.drop_orphans(lambda uid: uid in there or self.is_static(uid))
        self.states.drop_unknown(lambda uid: uid in there or self.is_static(uid))
        for resource in (PODS, SERVICES):
            informers.get(resource).on_change(lambda old, new: self._hosts.changed())

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.writer.run())
                group.create_task(self._hosts.run())
                group.create_task(self._keeper.run())
                if self._network is not None:
                    group.create_task(self._network.run())
                group.create_task(self._refresh())
                group.create_task(self.pods.watch_memory())
                group.create_task(self.pods.memory.run())
                group.create_task(self.training.run())
                group.create_task(self.training.follow_launchers())
                group.create_task(self._metrics.run())
                group.create_task(self._resizer.run())
                group.create_task(self._checkpoints.run())
                group.create_task(self._rates.run())
        finally:
            for actor in self._actors.values():
                actor.stop_timer()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.shield(self.pods.close())

    async def _refresh(self) -> None:
        while True:
            await self.context.clock.sleep(_REFRESH_S)
            await self.refresh_volumes()

    async def refresh_volumes(self) -> None:
        """Bring what is mounted up to date, with the pods' labels and annotations as they are."""
        for uid, actor in self._actors.items():
            if self.pods.place(uid) is not None and not actor.machine.finished:
                self.pods.update(actor.facts())
        await self.pods.refresh_volumes()

    def pod_seen(self, pod: Document, node: NodeFacts) -> None:
        uid = pod["metadata"]["uid"]
        actor = self._actors.get(uid)
        if actor is not None and actor.leaves:
            self._again[uid] = (pod, node)  # its node was lost and is back before it has ended
            return
        if actor is None:
            adopted = self.pods.find(uid)
            actor = self._actors[uid] = PodActor(self, pod, node, adopted)
            if adopted is None and is_new(pod):
                actor.refuse(self.admit(pod, node.name))
            if adopted is not None:
                self.addresses.keep(uid, adopted.pod_ips[0], node.pod_network)
                self.pods.adopt(actor.facts(), actor.machine.actual)
                self.pods.report_ended(uid)
                self.network_changed()
                if actor.machine.finished and actor.machine.released:
                    self.spawn(self.pods.release(uid))
        actor.deliver(ev.PodSynced(pod))
        if is_rank(pod):
            self.training.told(pod, self.pods.training_folder(uid))
        self._resizer.look(uid)
        self._faults.look(pod)
        self._metrics.look(pod)

    def publish(self, uid: str) -> None:
        """Write a pod's status: its mirror has just come."""
        actor = self._actors.get(uid)
        if actor is not None:
            actor.publish()

    def pod_gone(self, pod: Document) -> None:
        self._again.pop(pod["metadata"]["uid"], None)
        actor = self._actors.get(pod["metadata"]["uid"])
        if actor is not None:
            actor.gone()

    def pod_lost(self, pod: Document) -> None:
        actor = self._actors.get(pod["metadata"]["uid"])
        if actor is not None:
            actor.gone()
            self.spawn(self._kill(pod["metadata"]["uid"]))

    async def _kill(self, uid: str) -> None:
        for name in list(self.pods.running_attempts(uid)):
            await self.pods.signal_all(uid, name, signal.SIGKILL)

    def hold(self, node: str) -> None:
        self.writer.hold(node)

    def let_go(self, node: str) -> None:
        self.writer.let_go(node)

    def drop(self, uid: str) -> None:
        """An actor has nothing left to do and its pod is gone."""
        self._actors.pop(uid, None)
        self.training.drop(uid)
        self._faults.forget(uid)
        self._metrics.drop(uid)
        self.pods.forget(uid)
        self.states.drop(uid)
        self.addresses.give_back(uid)
        self.writer.forget(uid)
        self._resizer.freed()
        if again := self._again.pop(uid, None):
            self.pod_seen(*again)

    def logs(self, pod: Document, options: LogOptions) -> AsyncIterator[bytes]:
        return self.pods.logs(pod, options)

    async def open_session(self, pod: Document, options: StreamOptions) -> Session:
        uid = pod["metadata"]["uid"]
        try:
            return await self.pods.open_session(uid, options.container, options)
        except StartError as error:
            text = (
                "error executing command in container: failed to exec in container: failed to "
                "start exec: OCI runtime exec failed: exec failed: unable to start container "
                f"process: {error}"
            )
            raise internal(text if options.command else str(error)) from error

    async def open_port(self, pod: Document, port: int) -> Connection:
        status = pod.get("status") or {}
        address, uid = status.get("podIP", ""), pod["metadata"]["uid"]
        if self.pods.has_network(uid):
            return await open_port_inside(self.dialer, uid, address, port)
        return await open_port(list(self.processes(pod).values()), address, port)

    def processes(self, pod: Document) -> dict[str, int]:
        """Process ids of the running containers' inits, by container name."""
        return self.pods.process_ids(pod["metadata"]["uid"])

    def processes_of(self, uid: str) -> dict[str, int]:
        return self.pods.process_ids(uid)

    def output_bytes(self, uid: str, name: str) -> int:
        return self.pods.output_bytes(uid, name)

    def log_path(self, uid: str, name: str) -> Path | None:
        return self.pods.log_path(uid, name)

    def join_training(self, pod: Document) -> None:
        """A container of ``pod`` starts: follow its training, if it is a rank."""
        if is_rank(pod):
            self.training.add(pod, self.pods.training_folder(pod["metadata"]["uid"]))

    def started(self) -> None:
        """A container has come up, perhaps with other resources than before."""
        self._resizer.freed()

    # For the actors ----------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` beside everything else; its errors are logged, never lost."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("node agent: unexpected error", exc_info=task.exception())

    def _exited(
        self,
        uid: str,
        name: str,
        attempt: int,
        status: ExitStatus,
        message: str,
        out_of_memory: bool,
    ) -> None:
        actor = self._actors.get(uid)
        if actor is not None:
            self._metrics.read(uid)
            event = ev.ContainerExited(
                name, attempt, status.code, status.signal, out_of_memory, message
            )
            actor.exited(event)
            self._resizer.freed()
            self.training.ended(uid, _outcome(event))

    def _pressed(self, uid: str, name: str, reason: str, message: str) -> None:
        self.note(uid, PRESSURE + name, reason, message)

    def note(self, uid: str, kind: str, reason: str, message: str) -> None:
        """A condition that the node has noticed by itself; gone with an empty ``reason``."""
        actor = self._actors.get(uid)
        if actor is not None:
            actor.deliver(ev.ConditionNoted(kind, reason, message))

    async def fetch(self, pod: Document) -> None:
        """Bring in objects that the pod names and that no watch has shown yet: a pod may be seen
        before the ConfigMap that was created just before it."""
        namespace = pod["metadata"].get("namespace", "")
        for resource, name in referred_objects(pod):
            informer = self.context.informers.get(resource)
            if informer.get(name, namespace) is not None:
                continue
            try:
                informer.observe(await self.context.client.get(resource, name, namespace))
            except ApiError as error:
                if error.reason != "NotFound":
                    _LOG.warning("%s %s/%s: %s", resource.plural, namespace, name, error)

    async def check_handler(self, pod: Document) -> None:
        """Whether this node has what the pod's RuntimeClass asks for; PrepareFailed."""
        try:
            await self.classes.fetch(pod)
            self.pods.handlers.check(self.classes.handler(pod))
        except UnknownHandler as error:
            text = f"Failed to create pod sandbox: {error}"
            raise PrepareFailed("FailedCreatePodSandBox", text) from error

    async def provide_image(
        self, pod: Document, container: Mapping[str, Any], handler: str
    ) -> Image:
        """The image of a container; PullProblem."""
        auths = pull_secrets(pod, self.secret)

        def tell(kind: str, reason: str, text: str) -> None:
            self.recorder.event(pod, kind, reason, text)

        return await self.pods.images.provide(container, handler, auths, tell)

    def secret(self, namespace: str, name: str) -> Document | None:
        return self.context.informers.get(SECRETS).get(name, namespace)

    async def prepare(self, facts: PodFacts, devices: Mapping[str, Edits]) -> None:
        """Make the pod's place and join it to the network; PrepareFailed."""
        await self.pods.prepare(facts, devices)
        if self._network is not None:
            await self._network.confined()

    def network_changed(self) -> None:
        """A pod's network is there, or has gone."""
        if self._network is not None:
            self._network.changed()

    async def prepare_devices(self, pod: Document) -> dict[str, Edits]:
        """What containers get, from the pod's claims; PrepareFailed in kubelet's wording."""
        if not has_claims(pod):
            guarded = guards_gpus(self._drivers, pod["spec"].get("nodeName", ""))
            return {ANY_OTHER: NO_GPUS} if guarded else {}
        try:
            claims = await fetch_claims(self.context.client, pod)
            edits = container_edits(pod, lambda ns, name: claims.get(name), self._drivers)
            for note in dict.fromkeys(note for given in edits.values() for note in given.notes):
                self.recorder.event(pod, "Warning", "DeviceConfigNotApplied", note)
            return edits
        except ClaimProblem as problem:
            text = f"Failed to prepare dynamic resources: prepare dynamic resources: {problem}"
            raise PrepareFailed("FailedPrepareDynamicResources", text) from problem


def _pod_network(context: Context, config: NodeConfig) -> PodNetwork | None:
    plan = config.network
    if plan is None:
        return None
    zone = Zone(config.cluster_domain, zone_sources(context.informers), (plan.pods, plan.services))
    nodes = [plan.node_address(index) for index in range(len(config.nodes))]
    return PodNetwork(plan, config.root, nodes, DnsServer(zone))


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


def _outcome(ended: ev.ContainerExited) -> str:
    """How a rank's attempt ended, in a few words."""
    if ended.code == 0:
        return "Completed"
    if ended.oom_killed:
        return "OutOfMemory"
    return f"Signal {ended.signal}" if ended.signal else f"ExitCode {ended.code}"


class PodActor:
    """One pod: its machine, and the tasks that carry out the machine's instructions."""

    def __init__(
        self,
        runner: ProcessRunner,
        pod: Document,
        node: NodeFacts,
        adopted: Adopted | None = None,
    ) -> None:
        self._runner = runner
        self._node = node
        self._clock = runner.context.clock
        self._uid: str = pod["metadata"]["uid"]
        note = runner.states.read(self._uid)
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
                    self._runner.states.write(self._uid, saved(self._machine))
                for instruction in instructions:
                    getattr(self, f"_do_{type(instruction).__name__}")(instruction)
        finally:
            self._busy = False
        self._set_timer()
        if self._gone and self._machine.released:
            self.stop_timer()
            self._runner.drop(self._uid)

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
            address = self._runner.addresses.lend(self._uid, self._node.pod_network)
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
            return {**(pod.get("status") or {}), **new}

        self._runner.writer.write(self._pod, status)

    def _do_Delete(self, _: ev.Delete) -> None:
        if not self._gone:
            self._runner.writer.delete(self._pod)

    def _do_Record(self, record: ev.Record) -> None:
        self._runner.recorder.event(self._pod, record.kind, record.reason, record.message)

    def _do_Prepare(self, _: ev.Prepare) -> None:
        self._runner.spawn(self._prepare())

    async def _prepare(self) -> None:
        try:
            facts = self.facts()
            await self._runner.check_handler(self._pod)
            await self._runner.fetch(self._pod)
            devices = await self._runner.prepare_devices(self._pod)
            await self._runner.prepare(facts, devices)
        except PrepareFailed as failure:
            self.deliver(ev.PrepareFailed(failure.reason, str(failure)))
            return
        except (OSError, KubariumError) as error:
            self.deliver(ev.PrepareFailed("FailedCreatePodSandBox", str(error)))
            return
        self.deliver(ev.Prepared(facts.pod_ips))

    def _do_Release(self, _: ev.Release) -> None:
        self._runner.spawn(self._release())

    async def _release(self) -> None:
        await self._runner.pods.release(self._uid)
        self._runner.network_changed()
        self.deliver(ev.Released())

    def _do_StartContainer(self, instruction: ev.StartContainer) -> None:
        self._runner.spawn(self._start(instruction.name, instruction.attempt))

    async def _start(self, name: str, attempt: int) -> None:
        container = self._machine.record(name).plan.spec
        if name in self._machine.allocated:
            container = {**container, "resources": self._machine.allocated[name]}
        self._starting[(name, attempt)] = None
        try:
            handler = self._runner.classes.handler(self._pod)
            image = await self._runner.provide_image(self._pod, container, handler)
            await self._runner.fetch(self._pod)
            self._runner.join_training(self._pod)
            started = await self._runner.pods.start_container(
                self._uid, container, attempt, image, handler
            )
        except (StartFailed, PullProblem) as failure:
            del self._starting[(name, attempt)]
            self.deliver(ev.ContainerStartFailed(name, attempt, failure.reason, str(failure)))
            return
        self.deliver(ev.ContainerStarted(name, attempt, started.container_id, started.image_id))
        self._runner.started()
        early = self._starting.pop((name, attempt))
        if early is not None:
            self.deliver(early)

    def _do_SignalContainer(self, instruction: ev.SignalContainer) -> None:
        if instruction.signal != "SIGKILL":
            self._runner.training.stop(self._uid)
        self._runner.spawn(
            self._runner.pods.send_signal(
                self._uid, instruction.name, instruction.attempt, instruction.signal
            )
        )

    def _do_RunProbe(self, instruction: ev.RunProbe) -> None:
        self._runner.spawn(self._probe(instruction))

    async def _probe(self, wanted: ev.RunProbe) -> None:
        container = self._machine.record(wanted.name).plan.spec
        outcome, message = await self._runner.pods.probe(
            self._uid, container, wanted.attempt, wanted.kind, wanted.timeout_s
        )
        self.deliver(ev.ProbeFinished(wanted.name, wanted.attempt, wanted.kind, outcome, message))

    def _do_RunHook(self, instruction: ev.RunHook) -> None:
        self._runner.spawn(self._hook(instruction))

    async def _hook(self, wanted: ev.RunHook) -> None:
        container = self._machine.record(wanted.name).plan.spec
        failure = await self._runner.pods.hook(self._uid, container, wanted.attempt, wanted.hook)
        self.deliver(ev.HookFinished(wanted.name, wanted.attempt, wanted.hook, failure))
