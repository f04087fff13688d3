"""Port forwarding: SPDY streams inside a WebSocket, each pair a connection to a pod's port.

For every local connection kubectl opens an error stream and a data stream with the same
``requestid``; what is written into the first is what went wrong with the second (source:
``apimachinery/pkg/util/httpstream``, ``client-go/tools/portforward``, kubelet's
``pkg/kubelet/cri/streaming/portforward``).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from kubarium.api.streams import Connection, StreamSource
from kubarium.base.errors import ApiError
from kubarium.server.exec_spdy import (
    DATA,
    GOAWAY,
    PING,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    SYN_STREAM,
    Decoder,
    Encoder,
    Frame,
    SpdyError,
)
from kubarium.server.websocket import BINARY
from kubarium.server.websocket import PROTOCOL_ERROR as BAD_WEBSOCKET
from kubarium.server.websocket_connection import WebSocketConnection

PORT_FORWARD_SPDY = "portforward.k8s.io"
PORT_FORWARD_PROTOCOL = f"SPDY/3.1+{PORT_FORWARD_SPDY}"  # SPDY inside a WebSocket
# Pieces from one client that may wait for a slow pod; beyond it the client is not read.
_MANY_WAITING = 64
_MAX_STREAMS = 2048


@dataclass(slots=True)
class _Pair:
    """One forwarded connection."""

    port: int
    error: int = 0
    data: int = 0
    incoming: asyncio.Queue[bytes | None] = field(
        default_factory=lambda: asyncio.Queue(_MANY_WAITING)
    )
    task: asyncio.Task[None] | None = None


class PortForward:
    """One client's forwarding to one pod."""

    def __init__(
        self, connection: WebSocketConnection, source: StreamSource, namespace: str, name: str
    ) -> None:
        self._connection = connection
        self._source = source
        self._pod = (namespace, name)
        self._decoder = Decoder()
        self._encoder = Encoder()
        self._pairs: dict[str, _Pair] = {}
        self._by_data: dict[int, _Pair] = {}
        self._last = 0

    async def serve(self) -> None:
        """Until the client goes away, which raises Disconnected."""
        try:
            while True:
                message = await self._connection.receive()
                for frame in self._decoder.feed(message.data):
                    await self._take(frame)
        except SpdyError as error:
            self._connection.close(BAD_WEBSOCKET, str(error))
        finally:
            tasks = [pair.task for pair in self._pairs.values() if pair.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, data: bytes) -> None:
        await self._connection.send(BINARY, data)

    async def _take(self, frame: Frame) -> None:
        if frame.kind == SYN_STREAM:
            await self._open(frame)
        elif frame.kind == DATA:
            await self._incoming(frame)
        elif frame.kind == PING:
            if frame.code % 2:  # the client's own number; even ones would answer ours
                await self._send(self._encoder.ping(frame.code))
        elif frame.kind == RST_STREAM:
            pair = self._by_data.get(frame.stream)
            if pair is not None and pair.task is not None:
                pair.task.cancel()
        elif frame.kind == GOAWAY:
            return  # what is open goes on; the client closes the WebSocket in the end

    async def _open(self, frame: Frame) -> None:
        if frame.stream <= self._last or len(self._pairs) >= _MAX_STREAMS:
            code = PROTOCOL_ERROR if frame.stream <= self._last else REFUSED_STREAM
            await self._send(self._encoder.reset(frame.stream, code))
            return
        self._last = frame.stream
        kind, port = frame.headers.get("streamtype", ""), frame.headers.get("port", "")
        if kind not in ("error", "data") or not port.isdecimal() or not 0 < int(port) < 65536:
            await self._send(self._encoder.reset(frame.stream, PROTOCOL_ERROR))
            return
        request = frame.headers.get("requestid") or f"port-{port}"
        pair = self._pairs.setdefault(request, _Pair(int(port)))
        await self._send(self._encoder.syn_reply(frame.stream))
        if kind == "error":
            pair.error = frame.stream
        else:
            pair.data = frame.stream
            self._by_data[frame.stream] = pair
        if pair.error and pair.data and pair.task is None:
            pair.task = asyncio.ensure_future(self._forward(request, pair))

    async def _incoming(self, frame: Frame) -> None:
        pair = self._by_data.get(frame.stream)
        if pair is None:
            return
        if frame.data:
            await pair.incoming.put(frame.data)
        if frame.final:
            await pair.incoming.put(None)

    async def _forward(self, request: str, pair: _Pair) -> None:
        try:
            problem = await self._connect(pair)
            encoder = self._encoder
            await self._send(encoder.data(pair.data, b"", final=True))
            await self._send(encoder.data(pair.error, problem.encode(), final=True))
        finally:
            self._by_data.pop(pair.data, None)
            self._pairs.pop(request, None)
            while not pair.incoming.empty():  # lets a sender go on that waits for room
                pair.incoming.get_nowait()

    async def _connect(self, pair: _Pair) -> str:
        """Forward until both sides have ended; "" or what went wrong."""
        namespace, name = self._pod
        head = f"error forwarding port {pair.port} to pod {name}, namespace {namespace}: "
        try:
            connection = await self._source.open_port(namespace, name, pair.port)
        except (OSError, ApiError) as error:
            return head + str(error)
        inward = asyncio.ensure_future(self._inward(pair, connection))
        try:
            while data := await connection.read():
                await self._send(self._encoder.data(pair.data, data))
        except OSError as error:
            return head + str(error)
        finally:
            inward.cancel()
            connection.close()  # before anything is awaited: one may be cancelled twice
            await asyncio.gather(inward, return_exceptions=True)
        return ""

    async def _inward(self, pair: _Pair, connection: Connection) -> None:
        while True:
            data = await pair.incoming.get()
            if data is None:
                connection.close_input()
                return
            await connection.write(data)
