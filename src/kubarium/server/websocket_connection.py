"""A WebSocket on a transport that uvicorn's HTTP protocol hands over when a client upgrades."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import MutableMapping
from typing import Any

from kubarium.base.errors import ApiError
from kubarium.server.representation import encode
from kubarium.server.websocket import (
    BINARY,
    CLOSE,
    INTERNAL_ERROR,
    NORMAL,
    PING,
    PONG,
    Message,
    Reader,
    WebSocketError,
    accept_value,
    close_frame,
    frame,
    offered_protocols,
)
from kubarium.server.wire import JSON

# Messages that wait to be taken before the client is asked to pause.
_MANY_WAITING = 32
_REASONS = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Disconnected(Exception):
    """The client has gone."""


class WebSocketConnection(asyncio.Protocol):
    """Before :meth:`accept` a request; after it messages in both directions."""

    def __init__(self, transport: asyncio.Transport, scope: MutableMapping[str, Any]) -> None:
        self.transport = transport
        self.scope = scope
        self.headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        self.accepted = False
        self._reader = Reader()
        self._waiting: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._paused = False
        self._closing = False
        self._lost = False

    # asyncio.Protocol --------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        try:
            messages = self._reader.feed(data)
        except WebSocketError as error:
            self.close(error.code, str(error))
            self._end()
            return
        for message in messages:
            self._take(message)

    def _take(self, message: Message) -> None:
        if message.opcode == PING:
            self.transport.write(frame(PONG, message.data))
        elif message.opcode == CLOSE:
            self.close(NORMAL)
            self._end()
        elif message.opcode != PONG:
            self._waiting.append(message)
            self._arrived.set()
            if len(self._waiting) >= _MANY_WAITING and not self._paused:
                self._paused = True
                self.transport.pause_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _end(self) -> None:
        self._lost = True
        self._arrived.set()
        self._writable.set()

    # The server's side -------------------------------------------------------------------------

    def accept(self, protocol: str) -> None:
        """Switch protocols; ``protocol`` is the subprotocol chosen ("" for none)."""
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept_value(self.headers['sec-websocket-key'])}",
        ]
        if protocol:
            lines.append(f"Sec-WebSocket-Protocol: {protocol}")
        self.transport.write("\r\n".join([*lines, "", ""]).encode())
        self.accepted = True

    def refuse(self, error: ApiError) -> None:
        """Answer the request with a Status; an accepted one is closed with its message."""
        if self.accepted or self._closing:
            self.close(INTERNAL_ERROR, error.message)
            return
        body = encode(error.status())
        lines = [
            f"HTTP/1.1 {error.code} {_REASONS.get(error.code, error.reason)}",
            f"Content-Type: {JSON}",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self._closing = True
        self.transport.close()

    async def receive(self) -> Message:
        """The next message; Disconnected when there will be no more."""
        while not self._waiting:
            if self._lost:
                raise Disconnected
            self._arrived.clear()
            await self._arrived.wait()
        message = self._waiting.popleft()
        if self._paused and not self._waiting:
            self._paused = False
            self.transport.resume_reading()
        return message

    async def send(self, opcode: int, data: bytes) -> None:
        """Send one message; waits while the client does not read. Disconnected if it has gone."""
        if self._lost or self._closing:
            raise Disconnected
        self.transport.write(frame(opcode, data))
        await self._writable.wait()

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Say goodbye. Idempotent."""
        if self._closing:
            return
        self._closing = True
        if not self.transport.is_closing():
            self.transport.write(close_frame(code, reason))
            self.transport.close()

    @property
    def offered(self) -> list[str]:
        """The subprotocols that the client offers, best first."""
        return offered_protocols(self.headers)

    def shutdown(self) -> None:
        """The server stops (what uvicorn's connections are told too)."""
        self.close(INTERNAL_ERROR, "the server is shutting down")
        self._end()


class SpdyConnection(WebSocketConnection):
    """The same for ``Upgrade: SPDY/3.1``: after it bytes in both directions, as messages."""

    @property
    def offered(self) -> list[str]:
        values = [
            value.decode("latin-1")
            for name, value in self.scope["headers"]
            if name == b"x-stream-protocol-version"
        ]
        return [part.strip() for value in values for part in value.split(",") if part.strip()]

    def accept(self, protocol: str) -> None:
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: SPDY/3.1",
            "Connection: Upgrade",
            f"X-Stream-Protocol-Version: {protocol}",
        ]
        self.transport.write("\r\n".join([*lines, "", ""]).encode())
        self.accepted = True

    def data_received(self, data: bytes) -> None:
        if not self._closing:
            self._take(Message(BINARY, data))

    async def send(self, opcode: int, data: bytes) -> None:
        if self._lost or self._closing:
            raise Disconnected
        self.transport.write(data)
        await self._writable.wait()

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        self._closing = True
        self.transport.close()
