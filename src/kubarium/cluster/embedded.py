"""A whole cluster in this process: store, API server, controllers, scheduler, nodes.

The same class serves `kubarium up` (real clock, SQLite, TLS) and tests (virtual clock, memory, no
sockets); only what is handed to it differs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from pathlib import Path

from kubarium import __version__
from kubarium.api.catalog import Catalog
from kubarium.api.kinds import NODES, PODS, SERVICES
from kubarium.api.logs import LogOptions
from kubarium.api.resource import Document
from kubarium.api.streams import Connection, Session, StreamOptions
from kubarium.api.usage import PodUse
from kubarium.base.chance import Chance
from kubarium.base.clock import Clock
from kubarium.base.errors import ApiError, ConfigError
from kubarium.cluster import api_endpoint, delegated_authn, scheduler_config
from kubarium.cluster.access import Access
from kubarium.cluster.agent_link import AgentProcess
from kubarium.cluster.agent_wire import AgentLaunch
from kubarium.cluster.bootstrap import AGENTS_GROUP, MANAGER, NODES_GROUP, bootstrap
from kubarium.cluster.clock import RealClock
from kubarium.cluster.file import ClusterFile
from kubarium.cluster.network import Choice, choose_network
from kubarium.cluster.nodes import has_fabric, node_configs
from kubarium.cluster.nursery import Nursery
from kubarium.cluster.state import StateDirectory
from kubarium.control import (
    core,
    devices,
    fabric,
    faults,
    gangs,
    queueing,
    scheduling,
    storage,
    training,
    tuning,
    workloads,
)
from kubarium.control.storage import OnDisk
from kubarium.node.agent import Agent
from kubarium.node.config import PROCESS, NodeConfig
from kubarium.node.drivers.exposition import CONTENT_TYPE
from kubarium.runtime.informer import SharedInformers
from kubarium.runtime.protocol import Component, Context
from kubarium.server.api_server import ApiServer
from kubarium.server.authn import Authenticator
from kubarium.server.http import ApiApplication
from kubarium.server.local import LocalClient
from kubarium.server.node_pages import Page
from kubarium.server.pki import Authority
from kubarium.server.serve import HttpServer, TlsFiles
from kubarium.server.tokens import ServiceAccountTokens, store_lookup
from kubarium.store import MemoryStore, Store
from kubarium.store.sqlite import SqliteStore

CONTROLLER_USER = "system:kube-controller-manager"
SCHEDULER_USER = "system:kube-scheduler"
LOOPBACK = "127.0.0.1"
COMPACT_EVERY_S = 5.0
# Announcing a node takes a millisecond and its agent starts within two seconds, or within twenty on
# a machine that has far more to do than it can; more means that something is refused for good.
READY_PATIENCE_S = 40.0
READY_PATIENCE_PER_NODE_S = 0.02
KUBELET_PORT = 10250  # upstream's, where a node does not say
AnyAgent = Agent | AgentProcess
FAMILIES = (workloads, training, devices, gangs, queueing, faults, tuning)
VOLUMES = "volumes"


def _how_busy() -> str:
    try:
        load = f"{os.getloadavg()[0]:.0f} programs want to run on {os.cpu_count()} CPUs"
    except OSError:
        load = "other programs take its time"
    return f"this machine is too busy ({load}): try again"


class EmbeddedCluster:
    """Build it, ``start`` it, use ``client``, ``stop`` it; or ``async with cluster.running()``."""

    def __init__(
        self,
        file: ClusterFile,
        clock: Clock,
        chance: Chance,
        store: Store | None = None,
        node_root: Path | None = None,
        authority: Authority | None = None,
    ) -> None:
        """``authority`` (certificates and keys) is needed to serve HTTPS and to sign tokens;
        ``node_root`` where pods are processes."""
        self.file = file
        self.clock = clock
        self.chance = chance
        self.store = store if store is not None else MemoryStore()  # an empty store is falsy
        self.node_root = node_root
        self.authority = authority
        self.tokens = tokens = _tokens(authority, self.store, clock, chance)
        self.server = ApiServer(
            self.store,
            Catalog.builtin(),
            clock,
            chance.fork("server"),
            token_authenticators=(tokens,) if tokens else (),
            token_issuer=tokens,
        )
        self.client = LocalClient(self.server, "system:admin", MANAGER)
        self.agents: list[AnyAgent] = []
        self._informers: list[SharedInformers] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._failed: asyncio.Future[None] | None = None
        self._network: Choice | None = None
        # Whether pods' processes go on when their agent is killed, for the next to take over.
        self.pods_survive = False
        # Where agents of processes are started as processes of their own; None: in this one.
        self.nursery: Nursery | None = None

    @staticmethod
    def on_disk(
        state: StateDirectory, file: ClusterFile, *, in_memory: bool = False
    ) -> EmbeddedCluster:
        """A cluster on the real clock whose keys, objects and pods' files live in ``state``."""
        clock = RealClock()
        store = MemoryStore() if in_memory else SqliteStore.open(state.store)
        authority = Authority.open(state.pki, clock)
        return EmbeddedCluster(file, clock, Chance(), store, state.nodes, authority)

    # --- life ----------------------------------------------------------------------------------

    async def start(self, access: Access | None = None) -> None:
        """Bootstrap objects, then run every component. Returns when the nodes are registered."""
        self._failed = asyncio.get_running_loop().create_future()
        self.server.log_source = self.logs
        self.server.stream_source = self
        self.server.page_source = self.node_page
        self.server.usage.source = self.usage
        port = access.port if access else 6443
        # To compile the rules of all definitions would take a fifth of a second of every start.
        ours = LocalClient(self.server, "system:admin", MANAGER, prechecked=True)
        await bootstrap(ours, port, with_fabric=has_fabric(self.file.pools))
        await scheduler_config.publish(self.client, self.file.scheduler)
        if self.authority is not None:
            await delegated_authn.publish(self.client, self.authority)
        await api_endpoint.publish(self.client, access.host if access else "127.0.0.1", port)
        configs = node_configs(
            self.file,
            self.node_root,
            access.host if access else "",
            port,
            access.ca_pem.decode() if access else "",
            self._network,
            self.pods_survive,
        )
        for component in self._components(configs, access):
            self._run(component)
        self._run(_Compaction(self.store, self.clock))
        await self._wait_for_nodes()

    def _components(self, configs: Sequence[NodeConfig], access: Access | None) -> list[Component]:
        control = self._context(CONTROLLER_USER)
        root_ca = self.authority.ca_pem.decode() if self.authority else ""
        found = core.components(control, root_ca=root_ca, catalog=self.server.catalog)
        found += [component for family in FAMILIES for component in family.components(control)]
        directories = OnDisk(self.node_root / VOLUMES) if self.node_root else None
        found += storage.components(control, directories)
        if has_fabric(self.file.pools):
            found += fabric.components(control)
        context = self._context(SCHEDULER_USER, control)
        found += scheduling.components(context, self.file.scheduler)
        for config in configs:
            agent = self._agent(config, control, access)
            self.agents.append(agent)
            found.append(agent)
        return found

    def _agent(self, config: NodeConfig, shares: Context, access: Access | None) -> AnyAgent:
        """In a process of its own where pods are to survive it, else in this one."""
        if access is None or self.nursery is None or self.node_root is None or not config.root:
            return Agent(self._context("system:node", shares), config)
        user = f"system:node:{config.nodes[0].name}"
        pair = access.authority.client(user, [NODES_GROUP, AGENTS_GROUP])
        launch = AgentLaunch(
            config,
            access.url,
            access.authority.ca_path,
            pair.certificate_path,
            pair.key_path,
        )
        return AgentProcess(launch, self.nursery, self.clock)

    def _context(self, user: str, shares: Context | None = None) -> Context:
        """A component's world under its own name; all read the same informers."""
        client = LocalClient(self.server, user)
        if shares is None:
            informers = SharedInformers(client, self.clock)
            self._informers.append(informers)
            return Context(client, informers, self.clock, self.chance.fork(user))
        return Context(client, shares.informers, self.clock, self.chance.fork(user))

    def _run(self, component: Component) -> None:
        task = asyncio.get_running_loop().create_task(component.run(), name=component.name)
        task.add_done_callback(self._note_end)
        self._tasks.append(task)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """A component that ends by itself is a bug that must be seen, not a quiet cluster."""
        if task.cancelled() or self._failed is None or self._failed.done():
            return
        self._failed.set_exception(
            task.exception() or RuntimeError(f"component {task.get_name()} ended by itself")
        )

    async def wait_failed(self) -> None:
        """Until a component dies; raises what killed it."""
        assert self._failed is not None
        await asyncio.shield(self._failed)

    async def _wait_for_nodes(self) -> None:
        """Until every agent has announced its nodes and devices, or something died."""
        nodes = sum(pool.count for pool in self.file.pools)
        patience_s = READY_PATIENCE_S + nodes * READY_PATIENCE_PER_NODE_S
        failed = asyncio.ensure_future(self.wait_failed())
        ready = asyncio.gather(*(agent.ready.wait() for agent in self.agents))
        late = asyncio.ensure_future(self.clock.sleep(patience_s))
        await asyncio.wait((ready, failed, late), return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            failed.result()
        if not ready.done():
            for waiting in (failed, ready):
                waiting.cancel()
            await asyncio.gather(failed, ready, return_exceptions=True)
            raise ConfigError(
                f"the nodes were not announced within {patience_s:.0f} s; the lines above in the "
                f"log say what was refused; if there are none, {_how_busy()}"
            )
        for waiting in (failed, late):
            waiting.cancel()

    async def shut_down(self) -> None:
        """Let pods end as their nodes' configuration says, before :meth:`stop`; at once where none
        says so. The API and the controllers are there meanwhile."""
        await asyncio.gather(*(agent.shut_down() for agent in self.agents))

    async def stop(self) -> None:
        """Stop everything, pods' processes included, and flush the store."""
        if self._failed and not self._failed.done():
            self._failed.cancel()
        for task in reversed(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for agent in self.agents:
            await agent.close()
        for informers in self._informers:
            await informers.close()
        await self.store.durable()
        self.store.close()
        if self._network is not None:
            self._network.close()

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator[Access]:
        """``start`` … ``stop`` with the API over HTTPS on loopback; ConfigError if it cannot."""
        assert self.authority is not None
        assert self.tokens is not None
        authenticator = Authenticator([self.tokens], self.server.authorizer.confirm_access)
        application = ApiApplication(self.server, authenticator, __version__)
        http = HttpServer(application, self.server.watches.end_all)
        self._network = self._choose_network()
        names = (self._network.plan.api,) if self._network and self._network.plan else ()
        pair = self.authority.server(names)
        tls = TlsFiles(pair.certificate_path, pair.key_path, self.authority.ca_path)
        try:
            await http.start(LOOPBACK, port, tls)
        except OSError as error:
            raise ConfigError(
                f"--port {port}: cannot listen on {LOOPBACK}: {error.strerror}; "
                "choose another, or leave it out to have a free one"
            ) from None
        access = Access(LOOPBACK, http.port, self.authority)
        try:
            await self.start(access)
            yield access
        finally:
            await http.stop()
            await self.stop()

    def _choose_network(self) -> Choice | None:
        """The pods' network, which also says where cluster IPs come from; None if all nodes are
        simulated."""
        if self.node_root is None or all(pool.runtime != PROCESS for pool in self.file.pools):
            return None
        kind = self.server.catalog.of(SERVICES)
        assert kind is not None
        stored = self.server.registry.read(kind, "default", "kubernetes") or {}
        address = (stored.get("spec") or {}).get("clusterIP") or ""
        choice = choose_network(str(self.node_root.resolve()), address)
        if choice.plan is not None:
            processes = (pool.count for pool in self.file.pools if pool.runtime == PROCESS)
            choice.plan.confirm(sum(processes))
            self.server.registry.service_range = IPv4Network(choice.plan.services)
        return choice

    @asynccontextmanager
    async def running(self) -> AsyncIterator[EmbeddedCluster]:
        """``start`` … ``stop``, without HTTP."""
        await self.start()
        try:
            yield self
        finally:
            await self.stop()

    def isolation(self) -> list[str]:
        """What keeps pods apart on this machine and which of its devices they may have, in
        sentences; empty if all nodes are simulated."""
        reports = (agent.isolation() for agent in self.agents)
        lines = [line for report in reports if report for line in report.lines()]
        return lines + [line for agent in self.agents for line in agent.hardware()]

    def node_page(self, node: str, path: str) -> Page | None:
        """A page that a node's agent serves (``/metrics``: its devices); None if there is none."""
        agent = next((agent for agent in self.agents if agent.serves(node)), None)
        if agent is None or path != "metrics":
            return None
        return agent.metrics(node), CONTENT_TYPE

    async def usage(self) -> list[PodUse]:
        """What the pods of all agents use."""
        return [use for agent in self.agents for use in await agent.usage()]

    # --- into pods ------------------------------------------------------------------------------

    async def logs(self, namespace: str, name: str, options: LogOptions) -> AsyncIterator[bytes]:
        """The output of a pod's container, from the agent whose node it is on."""
        path = f"/containerLogs/{namespace}/{name}/{options.container}"
        agent = await self._agent_of(namespace, name, path)
        async for chunk in agent.logs(namespace, name, options):
            yield chunk

    async def open_session(self, namespace: str, name: str, options: StreamOptions) -> Session:
        """A command in a container of a pod (``kubectl exec``), or the one that runs (attach)."""
        agent = await self._agent_of(namespace, name)
        return await agent.open_session(namespace, name, options)

    async def open_port(self, namespace: str, name: str, port: int) -> Connection:
        """A connection to a port of a pod (``kubectl port-forward``)."""
        agent = await self._agent_of(namespace, name)
        return await agent.open_port(namespace, name, port)

    async def _agent_of(self, namespace: str, name: str, path: str = "") -> AnyAgent:
        """The agent whose node a pod is on; ApiError 404 if the node is gone, 500 if there is none.

        ``path`` is what upstream's API server would get from the kubelet, "" for a stream.
        """
        pod = await self.client.get(PODS, name, namespace)
        node = pod["spec"].get("nodeName", "")
        agent = next((agent for agent in self.agents if agent.serves(node)), None)
        if agent is None:
            raise _unanswered(await self.client.get(NODES, node), path)
        return agent


def _unanswered(node: Document, path: str) -> ApiError:
    """What is said for a node on which no kubelet is, in the words of upstream's API server."""
    status = node.get("status") or {}
    addresses = [a["address"] for a in status.get("addresses") or () if a.get("address")]
    if not addresses:
        return ApiError(500, "", "no preferred addresses found; known addresses: []")
    port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port")
    place = f"{addresses[0]}:{port or KUBELET_PORT}"
    text = f"dial tcp {place}: connect: connection refused"
    asked = f'Get "https://{place}{path}"' if path else "error dialing backend"
    return ApiError(500, "", f"{asked}: {text}")


class _Compaction:
    """Lets the store forget history that no watcher can still ask for."""

    name = "compaction"

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def run(self) -> None:
        while True:
            self._store.tick(self._clock.monotonic())
            await self._clock.sleep(COMPACT_EVERY_S)


def _tokens(
    authority: Authority | None, store: Store, clock: Clock, chance: Chance
) -> ServiceAccountTokens | None:
    if authority is None:
        return None
    key = authority.service_account_key()
    return ServiceAccountTokens(key, store_lookup(store), clock, chance.fork("tokens"))
