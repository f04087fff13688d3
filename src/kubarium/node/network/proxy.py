"""Cluster IPs that work: a TCP proxy on each service address, to its ready endpoints.

It listens only while there are endpoints, so that a client of a service without any is refused at
once, as with kube-proxy's reject rule. An address that cannot be listened on is one event.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kubarium.api.kinds import ENDPOINT_SLICES, PODS, SERVICES
from kubarium.api.resource import Document
from kubarium.base.clock import Clock
from kubarium.node.network.plan import NetworkPlan
from kubarium.node.network.relay import Connect, connect_first, join
from kubarium.node.network.services import Backend, balanced, service_of
from kubarium.runtime.protocol import Context, Informer

_GATHER_S = 0.02
_LOOPBACK = "127.0.0.1"

# (service, reason, message): a warning about a service
Warn = Callable[[Document, str, str], None]


@dataclass(slots=True)
class _Listener:
    server: asyncio.Server
    backends: list[Backend]
    turn: int = 0
    connections: dict[asyncio.Task[None], None] = field(default_factory=dict)

    def pick(self) -> list[Backend]:
        """All backends, beginning with the one whose turn it is."""
        self.turn += 1
        at = self.turn % len(self.backends) if self.backends else 0
        return self.backends[at:] + self.backends[:at]


def service_backends(service: Document, slices: list[Document]) -> dict[Backend, list[Backend]]:
    """Ready endpoints by (cluster IP, port) and by node port; TCP only."""
    result: dict[Backend, list[Backend]] = {}
    for entry in balanced(service, slices):
        if entry.protocol == "TCP":
            result[(entry.address, entry.port)] = list(entry.backends)
            if entry.node_port:
                result[(_LOOPBACK, entry.node_port)] = list(entry.backends)
    return result


class NodePorts:
    """What is left to a proxy on the machine where pods have their own network, whose router does
    the cluster IPs: node ports of services and host ports of pods."""

    def __init__(self, nodes: Sequence[str], plan: NetworkPlan) -> None:
        """``nodes``: addresses of our nodes, which only an uplink gives to the machine."""
        self._addresses = [_LOOPBACK, *(nodes if plan.uplink else ())]

    def of_service(self, service: Document, slices: list[Document]) -> dict[Backend, list[Backend]]:
        """Ready endpoints by where the machine listens for them."""
        return {
            (address, entry.node_port): list(entry.backends)
            for entry in balanced(service, slices)
            if entry.protocol == "TCP" and entry.node_port
            for address in self._addresses
        }

    def of_pod(self, pod: Document) -> dict[Backend, list[Backend]]:
        """The pod's own ports by its host ports."""
        status, spec = pod.get("status") or {}, pod["spec"]
        address, node = status.get("podIP") or "", status.get("hostIP") or ""
        if not address or spec.get("hostNetwork") or status.get("phase") != "Running":
            return {}
        return {
            (where, port["hostPort"]): [(address, port["containerPort"])]
            for container in [*(spec.get("initContainers") or ()), *spec["containers"]]
            for port in container.get("ports") or ()
            if port.get("hostPort") and (port.get("protocol") or "TCP") == "TCP"
            for where in self._host_addresses(port.get("hostIP") or "", node)
        }

    def _host_addresses(self, asked: str, node: str) -> list[str]:
        if asked not in ("", "0.0.0.0", "::"):
            return [asked]
        return [where for where in self._addresses if where in (_LOOPBACK, node)]


class ServiceProxy:
    """A component: follows Services and EndpointSlices and listens accordingly."""

    name = "service-proxy"

    def __init__(
        self,
        context: Context,
        warn: Warn,
        node_ports: NodePorts | None = None,
        connect: Connect | None = None,
    ) -> None:
        """``node_ports``: serve only those (pods have their own network); ``connect``: how to reach
        an endpoint."""
        self._node_ports = node_ports
        self._connect = connect or asyncio.open_connection
        self._pods: Informer | None = context.informers.get(PODS) if node_ports else None
        self._clock: Clock = context.clock
        self._services: Informer = context.informers.get(SERVICES)
        self._slices: Informer = context.informers.get(ENDPOINT_SLICES)
        self._slices.add_index("service", service_of)
        self._warn = warn
        self._listeners: dict[Backend, _Listener] = {}
        self._refused: dict[tuple[str, Backend], str] = {}
        self._owners: dict[Backend, str] = {}
        self._dirty = asyncio.Event()

    async def run(self) -> None:
        for informer in (self._services, self._slices, self._pods):
            if informer is None:
                continue
            informer.on_change(lambda old, new: self._dirty.set())
            await informer.wait_synced()
        self._dirty.set()
        try:
            while True:
                await self._dirty.wait()
                await self._clock.sleep(_GATHER_S)
                self._dirty.clear()
                await self._reconcile()
        finally:
            for address in list(self._listeners):
                self._close(address)

    async def _reconcile(self) -> None:
        wanted = self._wanted()
        self._owners = {at: owner["metadata"]["uid"] for at, (owner, _) in wanted.items()}
        for address in [address for address in self._listeners if address not in wanted]:
            self._close(address)
        for address, (service, backends) in wanted.items():
            if address in self._listeners:
                self._listeners[address].backends = backends
            else:
                await self._listen(address, service, backends)

    def _wanted(self) -> dict[Backend, tuple[Document, list[Backend]]]:
        """By where to listen: whose it is, and where to connect to."""
        wanted: dict[Backend, tuple[Document, list[Backend]]] = {}
        find = self._node_ports.of_service if self._node_ports else service_backends
        for service in self._services.items():
            metadata = service["metadata"]
            key = f"{metadata.get('namespace', '')}/{metadata['name']}"
            slices = self._slices.by_index("service", key)
            for address, backends in find(service, slices).items():
                if backends and not _serves_itself(address, backends):
                    wanted[address] = (service, backends)
        if self._node_ports is not None and self._pods is not None:
            for pod in sorted(self._pods.items(), key=self._precedence):
                for address, backends in self._node_ports.of_pod(pod).items():
                    if wanted.setdefault(address, (pod, backends))[0] is not pod:
                        in_use = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
                        self._refuse(address, pod, in_use)
        return wanted

    def _precedence(self, pod: Document) -> tuple[bool, str, str]:
        """Who has a host port keeps it; else the pod that is older."""
        metadata = pod["metadata"]
        newcomer = metadata["uid"] not in self._owners.values()
        return newcomer, metadata.get("creationTimestamp") or "", metadata["name"]

    async def _listen(self, address: Backend, service: Document, backends: list[Backend]) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._connected(address, reader, writer)

        try:
            server = await asyncio.start_server(accept, *address)
        except OSError as error:
            self._refuse(address, service, error)
            return
        self._refused.pop((service["metadata"]["uid"], address), None)
        self._listeners[address] = _Listener(server, backends)

    def _refuse(self, address: Backend, service: Document, error: OSError) -> None:
        """Say it once for each address and cause."""
        text = f"cannot listen on {address[0]}:{address[1]}: {error.strerror or error}"
        key = (service["metadata"]["uid"], address)
        if self._refused.get(key) != text:
            self._refused[key] = text
            self._warn(service, "FailedToListen", text)

    def _close(self, address: Backend) -> None:
        listener = self._listeners.pop(address)
        listener.server.close()
        for task in list(listener.connections):
            task.cancel()

    async def _connected(
        self, address: Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        listener = self._listeners.get(address)
        task = asyncio.current_task()
        if listener is None or task is None:
            writer.close()
            return
        listener.connections[task] = None
        try:
            upstream = await connect_first(listener.pick(), self._connect)
            if upstream is not None:
                await join(reader, writer, *upstream)
        except asyncio.CancelledError:
            pass  # the service has gone, and with it this connection's task
        finally:
            listener.connections.pop(task, None)
            writer.close()


def _serves_itself(address: Backend, backends: list[Backend]) -> bool:
    """Somebody else already serves on the cluster IP itself (the API server may)."""
    return address in backends
