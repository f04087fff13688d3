"""Cluster IPs that work: a TCP proxy on each service address, to its ready endpoints.

It listens only while there are endpoints, so that a client of a service without any is refused at
once, as with kube-proxy's reject rule. An address that cannot be listened on is one event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from kubarium.api.kinds import ENDPOINT_SLICES, SERVICES
from kubarium.api.resource import Document
from kubarium.base.clock import Clock
from kubarium.runtime.protocol import Context, Informer

_GATHER_S = 0.02
_PIECE_BYTES = 64 * 1024
_CONNECT_S = 5.0
SERVICE_LABEL = "kubernetes.io/service-name"

Backend = tuple[str, int]
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
    """Ready endpoints by (cluster IP, port); TCP only."""
    spec = service.get("spec") or {}
    result: dict[Backend, list[Backend]] = {}
    address = spec.get("clusterIP")
    if not address or address == "None":
        return {}
    for port in spec.get("ports") or ():
        if (port.get("protocol") or "TCP") != "TCP":
            continue
        found = [b for s in slices for b in _slice_backends(s, port.get("name") or "")]
        result[(address, port["port"])] = sorted(dict.fromkeys(found))
        if port.get("nodePort"):
            result[("127.0.0.1", port["nodePort"])] = result[(address, port["port"])]
    return result


def _slice_backends(slice_: Document, port_name: str) -> list[Backend]:
    numbers = [
        port["port"]
        for port in slice_.get("ports") or ()
        if (port.get("name") or "") == port_name and port.get("port")
    ]
    return [
        (address, number)
        for endpoint in slice_.get("endpoints") or ()
        if (endpoint.get("conditions") or {}).get("ready") is not False
        for address in endpoint.get("addresses") or ()
        for number in numbers
    ]


class ServiceProxy:
    """A component: follows Services and EndpointSlices and listens accordingly."""

    name = "service-proxy"

    def __init__(self, context: Context, warn: Warn) -> None:
        self._clock: Clock = context.clock
        self._services: Informer = context.informers.get(SERVICES)
        self._slices: Informer = context.informers.get(ENDPOINT_SLICES)
        self._slices.add_index("service", _service_of)
        self._warn = warn
        self._listeners: dict[Backend, _Listener] = {}
        self._refused: dict[Backend, str] = {}
        self._dirty = asyncio.Event()

    async def run(self) -> None:
        for informer in (self._services, self._slices):
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
        wanted: dict[Backend, tuple[Document, list[Backend]]] = {}
        for service in self._services.items():
            metadata = service["metadata"]
            key = f"{metadata.get('namespace', '')}/{metadata['name']}"
            slices = self._slices.by_index("service", key)
            for address, backends in service_backends(service, slices).items():
                if backends and not _serves_itself(address, backends):
                    wanted[address] = (service, backends)
        for address in [address for address in self._listeners if address not in wanted]:
            self._close(address)
        for address, (service, backends) in wanted.items():
            if address in self._listeners:
                self._listeners[address].backends = backends
            else:
                await self._listen(address, service, backends)

    async def _listen(self, address: Backend, service: Document, backends: list[Backend]) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._connected(address, reader, writer)

        try:
            server = await asyncio.start_server(accept, *address)
        except OSError as error:
            self._refuse(address, service, error)
            return
        self._refused.pop(address, None)
        self._listeners[address] = _Listener(server, backends)

    def _refuse(self, address: Backend, service: Document, error: OSError) -> None:
        """Say it once for each address and cause."""
        text = f"cannot listen on {address[0]}:{address[1]}: {error.strerror or error}"
        if self._refused.get(address) != text:
            self._refused[address] = text
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
            upstream = await _connect(listener.pick())
            if upstream is not None:
                await _join(reader, writer, *upstream)
        except asyncio.CancelledError:
            pass  # the service has gone, and with it this connection's task
        finally:
            listener.connections.pop(task, None)
            writer.close()


def _service_of(slice_: Document) -> list[str]:
    metadata = slice_["metadata"]
    name = (metadata.get("labels") or {}).get(SERVICE_LABEL)
    return [f"{metadata.get('namespace', '')}/{name}"] if name else []


def _serves_itself(address: Backend, backends: list[Backend]) -> bool:
    """Somebody else already serves on the cluster IP itself (the API server may)."""
    return address in backends


async def _connect(
    backends: list[Backend],
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    for backend in backends:
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await asyncio.open_connection(*backend)
        except (OSError, TimeoutError):
            continue
    return None


async def _join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    far_reader: asyncio.StreamReader,
    far_writer: asyncio.StreamWriter,
) -> None:
    try:
        await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
    finally:
        far_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Bytes one way; the end is passed on, so that half-closed connections work."""
    try:
        while data := await reader.read(_PIECE_BYTES):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()
