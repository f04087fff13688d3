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
    SERVICES,
)
from kubarium.api.logs import LogOptions
from kubarium.api.resource import Document
from kubarium.api.streams import Connection, Session, StreamOptions
from kubarium.api.usage import PodUse
from kubarium.base.errors import internal
from kubarium.node.config import NodeConfig
from kubarium.node.faults import FaultActor
from kubarium.node.isolation import Report
from kubarium.node.kubelet_config import strictest
from kubarium.node.lifecycle import events as ev
from kubarium.node.network.addresses import PodAddresses
from kubarium.node.network.dns.server import DnsServer
from kubarium.node.network.dns.zone import Zone
from kubarium.node.network.followed import FollowedNetwork, zone_sources
from kubarium.node.network.hosts import HostsFiles
from kubarium.node.network.names import NameSources
from kubarium.node.network.pod_network import PodNetwork
from kubarium.node.network.ports import open_port, open_port_inside
from kubarium.node.oci.keeper import ImageKeeper
from kubarium.node.resizing import Resizer
from kubarium.node.runner import Admit, NodeFacts, identity, is_new
from kubarium.node.runtimes.process.actor import PodActor
from kubarium.node.runtimes.process.engine import ExitStatus, StartError
from kubarium.node.runtimes.process.pods import ProcessPods
from kubarium.node.runtimes.process.provisions import Provisions, volume_sources
from kubarium.node.runtimes.process.rates import UsageRates
from kubarium.node.runtimes.process.usage import MeasuredUsage
from kubarium.node.saved_states import SavedStates
from kubarium.node.status_writer import StatusWriter
from kubarium.node.training.checkpoints import PodCheckpoints
from kubarium.node.training.metrics import MetricsReader
from kubarium.node.training.watch import TrainingWatch, is_rank
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Context
from kubarium.view.memory import PRESSURE

_LOG = logging.getLogger("kubarium.node")

# kubelet looks at mounted objects about once a minute.
_REFRESH_S = 60.0
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
            volume_sources(context, config, is_root),
            self._exited,
            self._warn,
            self._pressed,
            network,
        )
        self.dialer = self.pods.dialer
        self.provisions = Provisions(context, recorder, self.pods, drivers)
        nodes = [node.name for node in config.nodes]
        rules = strictest(node.kubelet.images for node in config.nodes)
        self._keeper = ImageKeeper(context, self.pods.images.store, nodes, recorder, rules)
        self.reclaim = self._keeper.reclaim

        self._resizer = Resizer(context.clock, self._actors, self.pods)
        self.training = TrainingWatch(context, self, self.spawn)
        self.admit: Admit = lambda pod, node: None
        self.is_static: Callable[[str], bool] = lambda uid: False
        self._rates = UsageRates(context.clock, self.pods.oversight, self._actors)
        self.meter = MeasuredUsage(context.clock, self.pods, Path(config.root).resolve())
        names = {spec.name for spec in config.nodes}
        self._checkpoints = PodCheckpoints(
            context, self.training, lambda pod: pod["spec"].get("nodeName") in names
        )
        self._metrics = MetricsReader(context.clock, self)
        self._faults = FaultActor(context.clock, self.pods, self.spawn, recorder.event)

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
                group.create_task(self.pods.oversight.run())
                group.create_task(self.pods.oversight.memory.run())
                group.create_task(self.pods.oversight.follow_kills())
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
            adopted = self.pods.earlier.find(uid)
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
        return self.pods.output.read(pod, options)

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
        return self.pods.output.size(uid, name)

    def log_path(self, uid: str, name: str) -> Path | None:
        return self.pods.output.path(uid, name)

    def tell_kills(self, uid: str) -> None:
        self.pods.oversight.tell_kills(uid)

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

    async def network_joined(self) -> None:
        """A pod has come to the network: until its rules hold."""
        if self._network is not None:
            await self._network.confined()

    def network_changed(self) -> None:
        """A pod's network is there, or has gone."""
        if self._network is not None:
            self._network.changed()


def _pod_network(context: Context, config: NodeConfig) -> PodNetwork | None:
    plan = config.network
    if plan is None:
        return None
    zone = Zone(config.cluster_domain, zone_sources(context.informers), (plan.pods, plan.services))
    nodes = [plan.node_address(index) for index in range(len(config.nodes))]
    return PodNetwork(plan, config.root, nodes, DnsServer(zone))


def _outcome(ended: ev.ContainerExited) -> str:
    """How a rank's attempt ended, in a few words."""
    if ended.code == 0:
        return "Completed"
    if ended.oom_killed:
        return "OutOfMemory"
    return f"Signal {ended.signal}" if ended.signal else f"ExitCode {ended.code}"
