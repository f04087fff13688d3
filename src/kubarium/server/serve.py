"""Sockets: the ASGI application behind uvicorn's HTTP protocol, on the caller's event loop.

uvicorn's own server would install signal handlers and poll ten times a second; only its protocol
(httptools' parser, flow control, keep-alive) is used. It does not pass the client's certificate
into the ASGI scope, hence the subclass.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from kubarium.server.http import ApiApplication
from kubarium.server.websocket_connection import SpdyConnection, WebSocketConnection

_LOG = logging.getLogger("kubarium.server")

# Seconds that open requests get to finish at shutdown, after their watches were ended.
SHUTDOWN_GRACE_S = 2.0
# How often, and how many seconds apart, it is looked whether the connections are closed.
CLOSE_TURNS = 20
CLOSE_TURN_S = 0.01
# Seconds that an idle connection stays open: kubectl and client-go keep theirs for 90.
KEEP_ALIVE_S = 95
BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: the server's certificate and key, and the CA that signs client certificates."""

    certificate: Path
    key: Path
    client_ca: Path

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 and up; a client certificate is verified if there is one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.certificate, self.key)
        context.load_verify_locations(self.client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context


class _Protocol(HttpToolsProtocol):
    """Puts the verified client certificate, as ``ssl`` decodes it, into the scope."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._peer = transport.get_extra_info("peercert") or None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        scope: MutableMapping[str, Any] = self.scope  # type: ignore[assignment]
        scope["peer_certificate"] = self._peer

    def _should_upgrade(self) -> bool:
        return self._get_upgrade() in (b"websocket", b"spdy/3.1")

    def _unsupported_upgrade_warning(self) -> None:
        """Other protocols: the request is answered as any other."""

    def handle_websocket_upgrade(self) -> None:
        """Leave the connection to the API's own WebSocket protocol."""
        self.connections.discard(self)
        scope: MutableMapping[str, Any] = self.scope  # type: ignore[assignment]
        scope["raw_path"], _, scope["query_string"] = self.url.partition(b"?")
        application: Any = self.config.app
        kind = WebSocketConnection if self._get_upgrade() == b"websocket" else SpdyConnection
        connection = kind(self.transport, scope)
        connections: set[Any] = self.connections
        connections.add(connection)
        self.transport.set_protocol(connection)
        task = self.loop.create_task(application.serve_websocket(connection))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        task.add_done_callback(lambda _: connections.discard(connection))


class HttpServer:
    """A listening server. ``port`` is the real one, also if 0 was asked for."""

    def __init__(self, application: ApiApplication, end_watches: Callable[[], None]) -> None:
        self._application = application
        self._end_watches = end_watches
        self._state = ServerState()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self, host: str, port: int, tls: TlsFiles | None) -> None:
        """Listen; OSError if the address is taken."""
        config = Config(
            self._application,
            http=_Protocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        config.load()
        loop = asyncio.get_running_loop()

        def connect() -> asyncio.Protocol:
            protocol: asyncio.Protocol = _Protocol(config, self._state, {}, loop)
            return protocol

        context = tls.context() if tls else None
        self._server = await loop.create_server(
            connect, host, port, ssl=context, backlog=BACKLOG, start_serving=True
        )

    async def stop(self) -> None:
        """Take no more requests, end the watches, give the others a moment. Idempotent."""
        if self._server is None:
            return
        self._server.close()
        self._end_watches()
        for connection in list(self._state.connections):
            connection.shutdown()
        tasks = list(self._state.tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=SHUTDOWN_GRACE_S)
            for task in late:
                task.cancel()
        await self._close_connections()
        self._server = None

    async def _close_connections(self) -> None:
        """TLS takes a few turns of the loop to say goodbye; who does not answer is cut off."""
        clock = self._application.clock
        transports = [c.transport for c in self._state.connections if c.transport is not None]
        for transport in transports:
            transport.close()
        for _ in range(CLOSE_TURNS):
            if not self._state.connections:
                return
            await clock.sleep(CLOSE_TURN_S)
        for transport in transports:
            transport.abort()
        await clock.sleep(CLOSE_TURN_S)


async def serve(
    application: ApiApplication,
    end_watches: Callable[[], None],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    tls: TlsFiles | None = None,
    ready: Callable[[int], None] | None = None,
) -> None:
    """Serve until cancelled. ``ready`` is called with the port once requests are accepted."""
    server = HttpServer(application, end_watches)
    await server.start(host, port, tls)
    try:
        if ready is not None:
            ready(server.port)
        await asyncio.Event().wait()
    finally:
        await server.stop()
