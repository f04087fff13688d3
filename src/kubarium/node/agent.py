"""The node agent: announces nodes, keeps them alive, publishes their devices, runs their pods.

One agent serves any number of nodes of one process. What happens inside a pod is the runtime's
affair (``runtimes``); which steps a pod takes is the lifecycle's.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import replace

from kubarium.api.kinds import NODES, PODS
from kubarium.api.logs import LogOptions, choose_container
from kubarium.api.resource import Document
from kubarium.api.streams import Connection, Session, StreamOptions
from kubarium.api.usage import PodUse
from kubarium.base.errors import bad_request, internal
from kubarium.node import sysctls
from kubarium.node.absence import Absences
from kubarium.node.agent_nodes import drivers_by_node, node_facts, own_node
from kubarium.node.config import (
    PROCESS,
    SIMULATED_CAPACITY,
    NodeConfig,
    machine_capacity,
)
from kubarium.node.device_publication import DevicePublication
from kubarium.node.drivers.binding import BindingConditions
from kubarium.node.drivers.domains import ComputeDomainDriver
from kubarium.node.drivers.events import DeviceEvents
from kubarium.node.drivers.exposition import exposition
from kubarium.node.drivers.meter import Meter
from kubarium.node.drivers.nvml.machine import MachineGpus
from kubarium.node.drivers.prepare import driver_key
from kubarium.node.drivers.profiles import COMPUTE_DOMAIN, driver_of
from kubarium.node.drivers.readings import Reading
from kubarium.node.drivers.report import HealthReport
from kubarium.node.drivers.schedule import HealthSchedule
from kubarium.node.drivers.watch import SliceWatch
from kubarium.node.eviction.manager import EvictionManager
from kubarium.node.isolation import Report
from kubarium.node.network.addresses import NODE_NETWORK, AddressPool, loopback_addresses
from kubarium.node.network.proxy import NodePorts, ServiceProxy
from kubarium.node.presence import NodePresence
from kubarium.node.registration import (
    NodeHealth,
)
from kubarium.node.runner import host_of, identity, is_mirror
from kubarium.node.runtimes.process.runner import ProcessRunner
from kubarium.node.runtimes.simulated import SimulatedRunner
from kubarium.node.shutdown import NodeShutdown
from kubarium.node.static_pods import StaticPods
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Component, Context

_LOG = logging.getLogger("kubarium.node")


# For the last statuses to be written before an agent that has shut its nodes down ends.
LAST_WORDS_S = 0.5


class Agent:
    """A component. ``ready`` is set when all nodes are announced with their devices."""

    name = "node-agent"

    def __init__(self, context: Context, config: NodeConfig) -> None:
        self._context = context
        self._config = config
        self._nodes = context.informers.get(NODES)
        self._pods = context.informers.get(PODS)
        self._recorder = EventRecorder(context, "kubelet", host_of)
        real = config.runtime == PROCESS
        addresses = loopback_addresses(NODE_NETWORK) if real else AddressPool(NODE_NETWORK)
        self._gpus = MachineGpus(context, config.nodes)
        capacity = machine_capacity() if real else SIMULATED_CAPACITY
        self._mine = {
            spec.name: own_node(
                context, spec, node_facts(config, index, capacity, addresses), self._gpus
            )
            for index, spec in enumerate(config.nodes)
        }
        drivers = drivers_by_node(config.nodes)
        drivers |= {driver_key(share.driver, share.node): share for share in self._gpus.shares}
        self._devices = DevicePublication(context, self._mine, self._is_away, self._recorder)
        self._gpus.found_late = self._devices.slices_changed
        self._presence = NodePresence(
            context,
            self._mine,
            self._health_of,
            self._is_away,
            self._is_off,
            self._devices.publish,
            self._tell,
        )
        self.ready = asyncio.Event()
        self._process: ProcessRunner | None = None
        self._runner: ProcessRunner | SimulatedRunner
        if real:
            is_root = os.geteuid() == 0
            self._process = ProcessRunner(context, config, self._recorder, drivers, is_root)
            self._runner = self._process
        else:
            self._runner = SimulatedRunner(context, self._recorder, drivers)
        self._eviction = EvictionManager(
            context.clock,
            {name: (node.facts, node.spec.kubelet) for name, node in self._mine.items()},
            self._runner.actors,
            self._runner.meter,
            self._tell,
            self._presence.changed,
            self._runner.reclaim,
        )
        self.shutdown = NodeShutdown(
            context.clock,
            {name: node.spec.kubelet for name, node in self._mine.items()},
            self._runner.actors,
            self._tell,
            self._presence.changed,
            self._node_started,
            self.ready,
        )
        self._runner.admit = self._admit
        self._static = StaticPods(
            context,
            {
                name: (node.facts, node.spec.kubelet.static_pod_path)
                for name, node in self._mine.items()
                if node.spec.kubelet.static_pod_path
            },
            self._runner.actors,
            self._runner.pod_seen,
            self._runner.pod_gone,
            self._tell,
            self._node_uid,
        )
        self._runner.is_static = self._static.is_known
        self._proxy: ServiceProxy | None = None
        if config.runtime == PROCESS and config.serve_services:
            proxy_recorder = EventRecorder(context, "kube-proxy")
            self._proxy = ServiceProxy(
                context,
                lambda s, reason, text: proxy_recorder.event(s, "Warning", reason, text),
                NodePorts([n.facts.address for n in self._mine.values()], config.network)
                if config.network
                else None,
                self._process.dialer.connect if self._process else None,
            )
        self._binding: BindingConditions | None = None
        if any(d.binding_conditions for spec in config.nodes for d in spec.devices):
            self._binding = BindingConditions(context, self._publishes)
        mine = dict.fromkeys(spec.name for spec in config.nodes if spec.devices)
        self._health = HealthReport(context, mine, drivers) if mine else None
        in_fabrics = [
            spec.name
            for spec in config.nodes
            if any(device.profile == COMPUTE_DOMAIN for device in spec.devices)
        ]
        self._domains = ComputeDomainDriver(context, set(in_fabrics)) if in_fabrics else None
        self._meter = Meter(context, drivers) if mine else None
        self._slices = SliceWatch(context, self._devices.slices_changed) if mine else None
        self._events = DeviceEvents(context)
        self._schedule = HealthSchedule(context, config.nodes, config.health_events, self._events)
        self._absences = Absences(self._leave, self._come_back)
        # Pods of a node that is away, which the API has forgotten meanwhile.
        self._unheard: dict[str, Document] = {}

    # What others ask ---------------------------------------------------------------------------

    @property
    def node_names(self) -> list[str]:
        """The nodes that this agent serves."""
        return list(self._mine)

    def isolation(self) -> Report | None:
        """What keeps containers apart; None for simulated nodes and before :meth:`run`."""
        return self._process.report() if self._process is not None else None

    def hardware(self) -> list[str]:
        """What devices of this machine there are, in sentences; empty if no node asks for any."""
        return self._gpus.lines() if self._gpus else []

    def processes(self, namespace: str, name: str) -> dict[str, int]:
        """Process ids of a pod's containers (their inits), by container name."""
        pod = self._pods.get(name, namespace)
        if pod is None or self._process is None:
            return {}
        return self._process.processes_of(identity(pod))

    async def logs(self, namespace: str, name: str, options: LogOptions) -> AsyncIterator[bytes]:
        """Output of a container of one of our pods, in pieces; ApiError if there is none."""
        pod = await self._own_pod(namespace, name)
        options = replace(options, container=choose_container(pod, options.container))
        async for piece in self._runner.logs(pod, options):
            yield piece

    async def open_session(self, namespace: str, name: str, options: StreamOptions) -> Session:
        """A command in a container of one of our pods, or (without a command) the one that runs;
        ApiError if that cannot be."""
        pod = await self._own_pod(namespace, name)
        return await self._runner.open_session(pod, options)

    async def open_port(self, namespace: str, name: str, port: int) -> Connection:
        """Connect to a port of one of our pods; ConnectionError if nothing listens there."""
        pod = await self._own_pod(namespace, name)
        return await self._runner.open_port(pod, port)

    def device_readings(self, node: str) -> list[Reading]:
        """What the devices of one of our nodes measure now."""
        found: list[Reading] = []
        if self._meter is None:
            return found
        mine = self._mine[node]
        for share in self._gpus.shares:
            if share.node == node:
                health = self._meter.health(node, share.driver)
                found += self._gpus.readings(share, self._meter.held(node), health)
        for config in mine.spec.devices:
            driver = driver_of(config)
            count = mine.published.get(driver, (config.count, {}))[0]
            found += self._meter.simulated(node, config, count)
        return found

    def metrics(self, node: str) -> bytes:
        """Those readings as Prometheus scrapes them."""
        return exposition(node, self.device_readings(node))

    async def usage(self) -> list[PodUse]:
        """What our pods use, as it was measured last."""
        found = self._runner.usage()
        return [use for use in found if not self._absences.away(use.node)]

    async def _own_pod(self, namespace: str, name: str) -> Document:
        pod = self._pods.get(name, namespace)
        if pod is None:
            pod = await self._context.client.get(PODS, name, namespace)
        if pod["spec"].get("nodeName") not in self._mine:
            raise bad_request(f'pod "{name}" does not run on a node of this agent')
        if self._absences.away(pod["spec"]["nodeName"]):
            raise internal(f'node "{pod["spec"]["nodeName"]}" is away: it does not answer')
        if is_mirror(pod):
            return {**pod, "metadata": pod["metadata"] | {"uid": identity(pod)}}
        return pod

    async def shut_down(self) -> None:
        """Shut those nodes down that are configured to: returns when their pods have ended, or
        their time, and the last statuses are written."""
        if self.shutdown.configured():
            await self.shutdown.shut_down()
            await self._context.clock.sleep(LAST_WORDS_S)

    async def close(self) -> None:
        """Kill what still runs; :meth:`run` does it too, unless cancelled before it began."""
        self.shutdown.close()
        if self._process is not None:
            await self._process.pods.close()
        if self._gpus:
            await asyncio.to_thread(self._gpus.close)

    def serves(self, node: str) -> bool:
        """Whether ``node`` is one of ours."""
        return node in self._mine

    # Work --------------------------------------------------------------------------------------

    async def run(self) -> None:
        try:
            self._static.read()  # so that what runs of them is found again
            await self._runner.start()
            if self._gpus:
                await self._gpus.start()
            await self._nodes.wait_synced()
            await self._pods.wait_synced()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._runner.run())
                for name in self._mine:
                    known = self._nodes.get(name)
                    if known is not None:
                        self.shutdown.look(known)
                async with asyncio.TaskGroup() as first:
                    if self._process is not None:  # meanwhile: pods come after this
                        first.create_task(self._process.pods.try_runtimes())
                    await self._presence.announce_all()
                self._pods.on_change(self._pod_changed)
                self._nodes.on_change(self._node_changed)
                self._tell_of_hardware()
                self.ready.set()
                if self._static:
                    await self._static.remove_stale_mirrors()
                    group.create_task(self._static.run())
                group.create_task(self._presence.run())
                group.create_task(self._devices.run())
                group.create_task(self._eviction.run())
                if self._slices is not None:
                    await self._slices.start()
                if self._proxy is not None:
                    group.create_task(self._proxy.run())
                if self._health is not None:
                    group.create_task(self._health.controller.run())
                if self._gpus:
                    group.create_task(self._gpus.run(self._events))
                if self._domains is not None:
                    group.create_task(self._domains.controller.run())
                if self._schedule:
                    group.create_task(self._schedule.run())
                if self._schedule or self._gpus:
                    group.create_task(self._events.run())
                if self._binding is not None:
                    group.create_task(self._binding.controller.run())
        finally:
            await self.close()

    def _tell_of_hardware(self) -> None:
        """A node that asked for GPUs of this machine and has none says why."""
        for share in self._gpus.shares:
            document = self._mine[share.node].document
            if not share.gpus and document is not None:
                reason = self._gpus.reason or "other nodes have them all"
                text = f"no NVIDIA GPU of this machine: {reason}"
                self._recorder.event(document, "Warning", "NoGpus", text)

    def _admit(self, pod: Document, node: str) -> tuple[str, str] | None:
        allowed = self._mine[node].spec.kubelet.unsafe_sysctls
        return (
            self.shutdown.refuses(pod, node)
            or self._eviction.refuses(pod, node)
            or sysctls.refused(pod, allowed)
        )

    def _is_away(self, node: str) -> bool:
        return self._absences.away(node)

    def _is_off(self, node: str) -> bool:
        return self.shutdown.is_off(node)

    def _health_of(self, node: str) -> NodeHealth:
        return NodeHealth(self._eviction.conditions(node), self.shutdown.not_ready(node))

    def _publishes(self, driver: str, pool: str) -> bool:
        node = self._mine.get(pool)
        return node is not None and driver in node.publishers

    def _node_uid(self, name: str) -> str:
        document = self._mine[name].document
        return document["metadata"]["uid"] if document else ""

    def _pod_changed(self, old: Document | None, new: Document | None) -> None:
        pod = new or old
        assert pod is not None
        if is_mirror(pod):
            if old is None and pod["spec"].get("nodeName") in self._mine:
                self._runner.publish(identity(pod))
            return
        if self._absences.away(pod["spec"].get("nodeName", "")):
            if new is None:
                self._unheard[pod["metadata"]["uid"]] = pod
            return
        if new is not None:
            node = self._mine.get(new["spec"].get("nodeName", ""))
            if node is not None and not self.shutdown.is_off(node.spec.name):
                self._runner.pod_seen(new, node.facts)
        elif old is not None and old["spec"].get("nodeName") in self._mine:
            self._runner.pod_gone(old)

    def _node_started(self, name: str) -> None:
        """A node that was off is on again: see what has come for it."""
        self._static.begin_anew(name)
        for pod in self._pods_on(name):
            self._runner.pod_seen(pod, self._mine[name].facts)
        self._presence.changed(name)

    def _pods_on(self, name: str) -> list[Document]:
        """The API's pods of a node; what mirrors its static ones is not to be run."""
        return [
            pod
            for pod in self._pods.items()
            if pod["spec"].get("nodeName") == name and not is_mirror(pod)
        ]

    def _tell(self, node: str, kind: str, reason: str, message: str) -> None:
        document = self._nodes.get(node) or self._mine[node].document
        if document is not None:
            self._recorder.event(document, kind, reason, message)

    # Nodes that go and come back -----------------------------------------------------------------

    def _node_changed(self, old: Document | None, new: Document | None) -> None:
        if new is None or new["metadata"]["name"] not in self._mine:
            return
        self.shutdown.look(new)
        self._absences.look(new)
        before = {} if old is None else old["metadata"].get("annotations") or {}
        after = new["metadata"].get("annotations") or {}
        if before != after:
            self._devices.changed(new["metadata"]["name"])

    def _leave(self, name: str, loses_pods: bool) -> None:
        """A node goes away; what its pods have to say waits."""
        self._runner.hold(name)
        for pod in self._pods_on(name) if loses_pods else ():
            self._runner.pod_lost(pod)

    def _come_back(self, name: str) -> None:
        """It hears what it has missed, and is heard again."""
        self._runner.let_go(name)
        node = self._mine[name]
        for uid, pod in list(self._unheard.items()):
            if pod["spec"]["nodeName"] == name:
                self._runner.pod_gone(self._unheard.pop(uid))
        for pod in self._pods_on(name):
            self._runner.pod_seen(pod, node.facts)
        for uid, actor in self._runner.actors.items():
            if actor.node.name == name:  # others may have said of them that they are not ready
                self._runner.publish(uid)
        self._presence.returned(name)
        if node.doubted:
            self._devices.changed(name)


def components(context: Context, config: NodeConfig) -> list[Component]:
    """The agent of ``config``'s nodes."""
    return [Agent(context, config)]
