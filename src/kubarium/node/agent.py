"""The node agent: announces nodes, keeps them alive, publishes their devices, runs their pods.

One agent serves any number of nodes of one process. What happens inside a pod is the runtime's
affair (``runtimes``); which steps a pod takes is the lifecycle's.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from kubarium.api.kinds import LEASES, NODES, PODS
from kubarium.api.logs import LogOptions
from kubarium.api.resource import Document
from kubarium.api.streams import Connection, Session, StreamOptions
from kubarium.api.usage import PodUse
from kubarium.base.errors import ApiError, ConfigError, bad_request, internal
from kubarium.node.absence import Absences
from kubarium.node.agent_nodes import OwnNode, drivers_by_node, node_facts, own_node, spread
from kubarium.node.config import (
    PROCESS,
    SIMULATED_CAPACITY,
    NodeConfig,
    machine_capacity,
)
from kubarium.node.drivers.binding import BindingConditions
from kubarium.node.drivers.domains import ComputeDomainDriver
from kubarium.node.drivers.exposition import exposition
from kubarium.node.drivers.health import (
    HEALTH_ANNOTATION,
    Health,
    health_changes,
    node_health,
    without_events,
)
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
from kubarium.node.registration import (
    LEASE_NAMESPACE,
    STATUS_PERIOD_S,
    NodeHealth,
    changes,
    lease_document,
    lease_seconds,
    node_document,
    node_status,
    pod_cidr,
)
from kubarium.node.runner import identity, is_mirror
from kubarium.node.runtimes.process.runner import ProcessRunner
from kubarium.node.runtimes.simulated import SimulatedRunner
from kubarium.node.shutdown import NodeShutdown
from kubarium.node.static_pods import StaticPods
from kubarium.runtime.events import EventRecorder
from kubarium.runtime.protocol import Component, Context
from kubarium.runtime.writes import update_status

_LOG = logging.getLogger("kubarium.node")

# How many devices of a driver a node has, if that differs from the cluster file: patch the Node.
DEVICES_ANNOTATION = "kubarium.dev/devices."
_MAX_DEVICES = 4096
_FIRST_RETRY_S, _LAST_RETRY_S = 0.2, 10.0
# Nodes are announced, and leases renewed, by so many tasks at once.
_WORKERS = 16


_NodeAction = Callable[[OwnNode], Awaitable[None]]


class Agent:
    """A component. ``ready`` is set when all nodes are announced with their devices."""

    name = "node-agent"

    def __init__(self, context: Context, config: NodeConfig) -> None:
        self._context = context
        self._config = config
        self._nodes = context.informers.get(NODES)
        self._pods = context.informers.get(PODS)
        self._recorder = EventRecorder(context, "kubelet")
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
        self._status_changes: asyncio.Queue[str] = asyncio.Queue()
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
            self._status_changes.put_nowait,
        )
        self.shutdown = NodeShutdown(
            context.clock,
            {name: node.spec.kubelet for name, node in self._mine.items()},
            self._runner.actors,
            self._tell,
            self._status_changes.put_nowait,
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
        self._slices = SliceWatch(context, self._slices_changed) if mine else None
        self._schedule = HealthSchedule(context, config.nodes, config.health_events)
        self._duration_s = lease_seconds(len(self._mine))
        self._absences = Absences(self._leave, self._come_back)
        # Pods of a node that is away, which the API has forgotten meanwhile.
        self._unheard: dict[str, Document] = {}
        self._device_changes: asyncio.Queue[str] = asyncio.Queue()
        self._returned: asyncio.Queue[str] = asyncio.Queue()

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
        options = _with_container(pod, options)
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
                found += self._gpus.readings(share, self._meter.held(node))
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
                await asyncio.to_thread(self._gpus.open)
            await self._nodes.wait_synced()
            await self._pods.wait_synced()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._runner.run())
                for name in self._mine:
                    known = self._nodes.get(name)
                    if known is not None:
                        self.shutdown.look(known)
                await self._announce_all()
                self._pods.on_change(self._pod_changed)
                self._nodes.on_change(self._node_changed)
                self._tell_of_hardware()
                self.ready.set()
                if self._static:
                    await self._static.remove_stale_mirrors()
                    group.create_task(self._static.run())
                group.create_task(self._renew_leases())
                group.create_task(self._refresh_status())
                group.create_task(self._follow_devices())
                group.create_task(self._follow_status())
                group.create_task(self._eviction.run())
                group.create_task(self._follow_returns())
                if self._slices is not None:
                    await self._slices.start()
                if self._proxy is not None:
                    group.create_task(self._proxy.run())
                if self._health is not None:
                    group.create_task(self._health.controller.run())
                if self._gpus:
                    group.create_task(self._gpus.run())
                if self._domains is not None:
                    group.create_task(self._domains.controller.run())
                if self._schedule:
                    group.create_task(self._schedule.run())
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
        return self.shutdown.refuses(pod, node) or self._eviction.refuses(pod, node)

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
        self._status_changes.put_nowait(name)

    def _pods_on(self, name: str) -> list[Document]:
        """The API's pods of a node; what mirrors its static ones is not to be run."""
        return [
            pod
            for pod in self._pods.items()
            if pod["spec"].get("nodeName") == name and not is_mirror(pod)
        ]

    # Nodes -------------------------------------------------------------------------------------

    async def _announce_all(self) -> None:
        waiting = list(reversed(self._mine.values()))

        async def work() -> None:
            while waiting:
                await self._insist(self._announce, waiting.pop())

        async with asyncio.TaskGroup() as group:
            if self._process is not None:  # meanwhile: pods come after this
                group.create_task(self._process.pods.try_runtimes())
            for _ in range(min(_WORKERS, len(waiting))):
                group.create_task(work())

    async def _insist(self, action: _NodeAction, node: OwnNode) -> None:
        """Try until the API takes it: a node agent waits for its server."""
        delay_s = _FIRST_RETRY_S
        while True:
            try:
                await action(node)
                return
            except ApiError as error:
                _LOG.warning("node %s: %s", node.spec.name, error)
            await self._context.clock.sleep(delay_s)
            delay_s = min(delay_s * 2, _LAST_RETRY_S)

    async def _announce(self, node: OwnNode) -> None:
        now = self._context.clock.now()
        facts = node.facts
        document = node_document(
            node.spec, facts.allocatable, facts.address, node.machine_id, now, facts.pod_network
        )
        try:
            node.document = await self._context.client.create(NODES, document)
            node.doubted.update(node.published)  # what an earlier Node owned goes with it
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            await self._take_over(node, document)
        await self._renew(node)
        await self._publish_devices(node)

    async def _take_over(self, node: OwnNode, wanted: Document) -> None:
        """The Node is there already (a restart): bring labels and status up to date."""
        found = await self._context.client.get(NODES, node.spec.name)
        metadata = {
            **found["metadata"],
            "labels": {**(found["metadata"].get("labels") or {}), **wanted["metadata"]["labels"]},
        }
        spec = dict(found.get("spec") or {})
        if not spec.get("podCIDR"):
            spec |= pod_cidr(node.facts.pod_network) if node.facts.pod_network else {}
        if metadata.get("annotations"):  # events of an earlier run are not known to last
            metadata["annotations"] = without_events(metadata["annotations"])
        changed = {**found, "metadata": metadata, "spec": spec}
        if changed != found:
            found = await self._context.client.update(NODES, changed)
        node.document = found
        await self._write_status(node)

    async def _write_status(self, node: OwnNode) -> None:
        if self._absences.away(node.spec.name):
            return
        current = self._nodes.get(node.spec.name) or node.document
        assert current is not None
        facts = node.facts
        status = node_status(
            node.spec,
            facts.allocatable,
            facts.address,
            node.machine_id,
            current.get("status") or {},
            self._context.clock.now(),
            NodeHealth(
                self._eviction.conditions(node.spec.name), self.shutdown.not_ready(node.spec.name)
            ),
        )
        self._tell_of_pressure(node, current, status)
        node.document = await update_status(self._context, NODES, current, status)

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
        self._returned.put_nowait(name)
        if node.doubted:
            self._device_changes.put_nowait(name)

    async def _follow_returns(self) -> None:
        while True:
            node = self._mine[await self._returned.get()]
            await self._try(self._renew, node)
            await self._try(self._write_status, node)

    async def _renew(self, node: OwnNode) -> None:
        if self._absences.away(node.spec.name) or self.shutdown.is_off(node.spec.name):
            return
        assert node.document is not None
        now = self._context.clock.now()
        lease = lease_document(node.document, self._duration_s, now)
        client = self._context.client
        try:
            await client.patch(LEASES, node.spec.name, {"spec": lease["spec"]}, LEASE_NAMESPACE)
        except ApiError as error:
            if error.reason != "NotFound":
                raise
            await client.create(LEASES, lease, LEASE_NAMESPACE)

    async def _renew_leases(self) -> None:
        """Every lease once in a quarter of its duration, spread evenly over that time."""
        period_s = self._duration_s / 4
        clock = self._context.clock
        groups = spread(list(self._mine.values()), max(int(period_s), 1))
        while True:
            for group in groups:
                await clock.sleep(period_s / len(groups))
                for node in group:
                    await self._try(self._renew, node)

    async def _refresh_status(self) -> None:
        groups = spread(list(self._mine.values()), int(STATUS_PERIOD_S))
        while True:
            for group in groups:
                await self._context.clock.sleep(STATUS_PERIOD_S / len(groups))
                for node in group:
                    if not self.shutdown.is_off(node.spec.name):
                        await self._try(self._write_status, node)

    async def _follow_status(self) -> None:
        """What a node says of itself has changed: write it at once."""
        while True:
            node = self._mine[await self._status_changes.get()]
            await self._insist(self._write_status, node)

    def _tell(self, node: str, kind: str, reason: str, message: str) -> None:
        document = self._nodes.get(node) or self._mine[node].document
        if document is not None:
            self._recorder.event(document, kind, reason, message)

    def _tell_of_pressure(self, node: OwnNode, before: Document, status: Document) -> None:
        known = (before.get("status") or {}).get("conditions") or ()
        for reason in changes(known, status["conditions"]):
            name = node.spec.name
            self._tell(name, "Normal", reason, f"Node {name} status is now: {reason}")

    async def _try(self, action: _NodeAction, node: OwnNode) -> None:
        """Once; the next period tries again. A Node that somebody deleted is announced anew."""
        try:
            await action(node)
        except ApiError as error:
            if error.reason == "NotFound":
                await self._try_announce(node)
            elif error.reason != "Conflict":
                _LOG.warning("node %s: %s", node.spec.name, error)

    async def _try_announce(self, node: OwnNode) -> None:
        try:
            await self._announce(node)
        except ApiError as error:
            _LOG.warning("node %s: cannot be announced: %s", node.spec.name, error)

    # Devices -----------------------------------------------------------------------------------

    def _node_changed(self, old: Document | None, new: Document | None) -> None:
        if new is None or new["metadata"]["name"] not in self._mine:
            return
        self.shutdown.look(new)
        self._absences.look(new)
        before = {} if old is None else old["metadata"].get("annotations") or {}
        after = new["metadata"].get("annotations") or {}
        if before != after:
            self._device_changes.put_nowait(new["metadata"]["name"])

    def _slices_changed(self, name: str, driver: str) -> None:
        node = self._mine.get(name)
        if node is None or driver not in node.publishers:
            return
        node.doubted.add(driver)
        # A Node that is gone is announced anew with its devices; one that is away comes back first.
        if self._nodes.get(name) is not None and not self._absences.away(name):
            self._device_changes.put_nowait(name)

    async def _follow_devices(self) -> None:
        while True:
            node = self._mine[await self._device_changes.get()]
            await self._insist(self._publish_devices, node)

    async def _publish_devices(self, node: OwnNode) -> None:
        current = self._nodes.get(node.spec.name) or node.document
        assert current is not None
        for driver, publisher in node.publishers.items():
            wanted = self._wanted(node, current, driver)
            if node.published.get(driver) == wanted and driver not in node.doubted:
                continue
            node.doubted.discard(driver)
            if driver not in node.published:
                await publisher.publish_class()
            await publisher.publish(current, *wanted)
            before = node.published.get(driver, (0, {}))[1]
            node.published[driver] = wanted
            for type_, reason, message in health_changes(driver, before, wanted[1]):
                self._recorder.event(current, type_, reason, message)

    def _wanted(
        self, node: OwnNode, document: Document, driver: str
    ) -> tuple[int, dict[str, Health]]:
        """How many devices of which health; what an annotation gets wrong stays as it was."""
        count, health = node.published.get(driver, (node.counts[driver], {}))
        try:
            count = self._count(node, document, driver)
        except ConfigError as error:
            self._complain(node, document, "InvalidDeviceCount", str(error))
        try:
            health = node_health(document, driver)
        except ConfigError as error:
            key = HEALTH_ANNOTATION + driver
            self._complain(node, document, "InvalidDeviceHealth", f"annotation {key}: {error}")
        return count, health

    def _count(self, node: OwnNode, document: Document, driver: str) -> int:
        """The annotation's count, or the cluster file's; ConfigError if it is nonsense."""
        annotations = document["metadata"].get("annotations") or {}
        text = annotations.get(DEVICES_ANNOTATION + driver)
        if text is None:
            return node.counts[driver]
        if text.isdecimal() and int(text) <= _MAX_DEVICES:
            return int(text)
        raise ConfigError(
            f"annotation {DEVICES_ANNOTATION}{driver}: {text!r}: "
            f"must be a whole number from 0 to {_MAX_DEVICES}"
        )

    def _complain(self, node: OwnNode, document: Document, reason: str, message: str) -> None:
        """One warning event for each mistake."""
        if message not in node.complained:
            node.complained[message] = None
            self._recorder.event(document, "Warning", reason, message)


def _with_container(pod: Document, options: LogOptions) -> LogOptions:
    """Name the container if the caller did not; ApiError 400 if that is not clear."""
    spec, name = pod["spec"], pod["metadata"]["name"]
    initial = [entry["name"] for entry in spec.get("initContainers") or ()]
    mains = [entry["name"] for entry in spec.get("containers") or ()]
    added = [entry["name"] for entry in spec.get("ephemeralContainers") or ()]
    if options.container:
        if options.container not in initial + mains + added:
            raise bad_request(f"container {options.container} is not valid for pod {name}")
        return options
    if len(mains) == 1:
        return replace(options, container=mains[0])
    text = f"a container name must be specified for pod {name}, choose one of: [{' '.join(mains)}]"
    if initial:
        text += f" or one of the init containers: [{' '.join(initial)}]"
    raise bad_request(text)


def components(context: Context, config: NodeConfig) -> list[Component]:
    """The agent of ``config``'s nodes."""
    return [Agent(context, config)]
