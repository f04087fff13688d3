"""The channels of exec and attach on either protocol: WebSocket messages, or SPDY streams.

WebSocket: the first byte of a message is its channel. SPDY (kubectl before 1.31, and clients that
fall back to it): a stream for each channel, opened by the client with a ``streamtype`` header.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

import orjson

from kubarium.api.resource import Document
from kubarium.api.streams import StreamOptions
from kubarium.base.errors import ApiError
from kubarium.server.exec_spdy import (
    DATA,
    PING,
    PROTOCOL_ERROR,
    SYN_STREAM,
    Decoder,
    Encoder,
    Frame,
    SpdyError,
)
from kubarium.server.websocket import BINARY, TEXT, Message
from kubarium.server.websocket_connection import (
    Disconnected,
    SpdyConnection,
    WebSocketConnection,
)

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE_CHANNEL = 0, 1, 2, 3, 4, 255
_END_OF_INPUT = (CLOSE_CHANNEL, bytes([STDIN]))
_TYPES = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR, "resize": RESIZE}
# Seconds in which a client opens its streams, and in which it hangs up at the end.
_OPEN_S, _HANG_UP_S = 30.0, 2.0


class Channels(Protocol):
    """One client's. Every method raises Disconnected when it has gone."""

    async def open(self, options: StreamOptions) -> None:
        """Make the channels that are asked for ready."""
        ...

    async def send(self, channel: int, data: bytes) -> None: ...

    async def receive(self) -> tuple[int, bytes]:
        """Channel and data; CLOSE_CHANNEL says which one has ended."""
        ...

    async def finish(self, status: Document) -> None:
        """Say how it ended, and hang up."""
        ...


class WebSocketChannels:
    """``v4.channel.k8s.io`` and ``v5``. Satisfies :class:`Channels`."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self._connection = connection

    async def open(self, options: StreamOptions) -> None:
        # The client waits for a first message, to know that the connection stands.
        first = STDOUT if options.stdout else STDERR if options.stderr else ERROR
        await self.send(first, b"")

    async def send(self, channel: int, data: bytes) -> None:
        await self._connection.send(BINARY, bytes([channel]) + data)

    async def receive(self) -> tuple[int, bytes]:
        while True:
            message = await self._connection.receive()
            if message.opcode in (BINARY, TEXT) and message.data:
                return message.data[0], message.data[1:]

    async def finish(self, status: Document) -> None:
        await self.send(ERROR, orjson.dumps(status))
        self._connection.close()


class SpdyChannels:
    """``v4.channel.k8s.io`` on SPDY/3.1. Satisfies :class:`Channels`."""

    def __init__(self, connection: SpdyConnection) -> None:
        self._connection = connection
        self._decoder = Decoder()
        self._encoder = Encoder()
        self._streams: dict[int, int] = {}  # channel -> stream
        self._channels: dict[int, int] = {}
        self._waiting: deque[tuple[int, bytes]] = deque()

    async def open(self, options: StreamOptions) -> None:
        wanted = [_TYPES[name] for name in options.names] + [ERROR]
        wanted += [RESIZE] if options.tty else []
        try:
            async with asyncio.timeout(_OPEN_S):
                while any(channel not in self._streams for channel in wanted):
                    await self._read()
        except TimeoutError:
            raise ApiError(504, "Timeout", "the client did not open its streams") from None

    async def send(self, channel: int, data: bytes) -> None:
        stream = self._streams.get(channel)
        if stream is not None:
            await self._write(self._encoder.data(stream, data))

    async def receive(self) -> tuple[int, bytes]:
        while not self._waiting:
            await self._read()
        return self._waiting.popleft()

    async def finish(self, status: Document) -> None:
        await self.send(ERROR, orjson.dumps(status))
        for channel, stream in self._streams.items():
            if channel in (STDOUT, STDERR, ERROR):
                await self._write(self._encoder.data(stream, b"", final=True))
        try:
            async with asyncio.timeout(_HANG_UP_S):
                while True:
                    await self._read()
        except (TimeoutError, Disconnected):
            self._connection.close()

    async def _write(self, data: bytes) -> None:
        await self._connection.send(BINARY, data)

    async def _read(self) -> None:
        message: Message = await self._connection.receive()
        try:
            frames = self._decoder.feed(message.data)
        except SpdyError as error:
            self._connection.close()
            raise Disconnected from error
        for frame in frames:
            await self._take(frame)

    async def _take(self, frame: Frame) -> None:
        if frame.kind == SYN_STREAM:
            await self._opened(frame)
        elif frame.kind == DATA and frame.stream in self._channels:
            channel = self._channels[frame.stream]
            if frame.data:
                self._waiting.append((channel, frame.data))
            if frame.final and channel == STDIN:
                self._waiting.append(_END_OF_INPUT)
        elif frame.kind == PING and frame.code % 2:
            await self._write(self._encoder.ping(frame.code))

    async def _opened(self, frame: Frame) -> None:
        channel = _TYPES.get(frame.headers.get("streamtype", ""))
        if channel is None or channel in self._streams:
            await self._write(self._encoder.reset(frame.stream, PROTOCOL_ERROR))
            return
        self._streams[channel] = frame.stream
        self._channels[frame.stream] = channel
        await self._write(self._encoder.syn_reply(frame.stream))
