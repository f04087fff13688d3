"""The way out of the pod network, for TCP: the router redirects connections to here, and they are
made anew from the machine's own network.

So pods reach the API server on the machine's loopback, and whatever the machine reaches, without
any change to the machine's own forwarding or firewall; and it works without root.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence

from kubarium.node.network.services import Backend

_SO_ORIGINAL_DST = 80
_CONNECT_S = 10.0
_PIECE_BYTES = 64 * 1024

Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[str, int], Awaitable[Opened]]


class Relay:
    """Serves on a listening socket of the router's namespace."""

    def __init__(self) -> None:
        # Where connections to an address and port go instead.
        self.instead: Mapping[Backend, Sequence[Backend]] = {}
        # Addresses of this machine under which pods know it, where they cannot reach it themselves.
        self.own_addresses: Mapping[str, None] = {}
        self._server: asyncio.Server | None = None
        self._turn = 0

    async def start(self, listening: socket.socket) -> None:
        self._server = await asyncio.start_server(self._connected, sock=listening)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def targets(self, wanted: Backend) -> list[Backend]:
        """Where to try, in this order."""
        self._turn += 1
        choices = list(self.instead.get(wanted, ()))
        if choices:
            at = self._turn % len(choices)
            return choices[at:] + choices[:at]
        address, port = wanted
        return [("127.0.0.1" if address in self.own_addresses else address, port)]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far: asyncio.StreamWriter | None = None
        try:
            wanted = original_target(writer)
            if wanted is None:
                return
            opened = await connect_first(self.targets(wanted), asyncio.open_connection)
            if opened is None:
                reset(writer)
                return
            far_reader, far = opened
            await join(reader, writer, far_reader, far)
        finally:
            writer.close()
            if far is not None:
                far.close()


def original_target(writer: asyncio.StreamWriter) -> Backend | None:
    """Where a redirected connection was meant to go; None if it was meant for the relay."""
    connection = writer.get_extra_info("socket")
    try:
        raw = connection.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
    except OSError:
        return None
    port, packed = struct.unpack_from(">2xH4s", raw)
    wanted = socket.inet_ntoa(packed), port
    return None if wanted == tuple(writer.get_extra_info("sockname")[:2]) else wanted


def reset(writer: asyncio.StreamWriter) -> None:
    """Break a connection off, as one that was refused."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def connect_first(targets: Sequence[Backend], connect: Connect) -> Opened | None:
    """The first of ``targets`` that takes a connection; None if none does."""
    for target in targets:
        try:
            async with asyncio.timeout(_CONNECT_S):
                return await connect(*target)
        except (OSError, TimeoutError):
            continue
    return None


async def join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    far_reader: asyncio.StreamReader,
    far_writer: asyncio.StreamWriter,
) -> None:
    """Bytes both ways, until both ends have said their last."""
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
        if not writer.is_closing() and writer.can_write_eof():
            writer.write_eof()
    except (OSError, RuntimeError):  # uvloop: RuntimeError for one that was just closed
        writer.close()
