"""The name server's sockets: answers from the zone, and the machine's resolvers for the rest."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from kubarium.node.network.dns import wire
from kubarium.node.network.dns.wire import Answer, Malformed, Question
from kubarium.node.network.dns.zone import Zone

RESOLVERS_FILE = Path("/etc/resolv.conf")
_PORT = 53
_FORWARD_S = 3.0
_IDLE_S = 10.0
# Questions that are under way at the same time; more are dropped, and asked again by their senders.
_MOST_FORWARDED = 200
_LONGEST_ALIAS = 8


def resolvers(path: Path = RESOLVERS_FILE) -> list[str]:
    """The machine's IPv4 name servers."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return []
    found = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
    return [address for address in found if ":" not in address]


class DnsServer:
    """Serves on sockets that it is given: they may belong to another network namespace."""

    def __init__(self, zone: Zone, forward_to: Sequence[tuple[str, int]] | None = None) -> None:
        """``forward_to``: resolvers for other names; the machine's if None."""
        self._zone = zone
        self._forward_to = forward_to
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def start(self, datagrams: socket.socket, streams: socket.socket) -> None:
        """Serve on a bound UDP socket and a listening TCP socket."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self), sock=datagrams
        )
        self._server = await asyncio.start_server(self._connected, sock=streams)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()

    async def respond(self, message: bytes, over_udp: bool) -> bytes | None:
        """The answer to a message; None for what deserves none."""
        try:
            question = wire.parse(message)
        except Malformed:
            return None
        most = question.most_bytes if over_udp else 0xFFFF
        if not self._zone.holds(question.name):
            forwarded = await self._forward(message, question, over_udp)
            return forwarded or wire.response(question, wire.SERVER_FAILURE, authoritative=False)
        found = self._zone.answers(question.name, question.kind)
        if found is None:
            return wire.response(question, wire.NO_SUCH_NAME, zone=self._zone.domain)
        if question.kind in (wire.A, wire.ANY):
            found = [*found, *await self._behind_alias(found)]
        return wire.response(question, wire.NO_ERROR, found, self._zone.domain, most)

    async def _behind_alias(self, answers: list[Answer]) -> list[Answer]:
        """The addresses that an ExternalName leads to: stub resolvers do not follow it."""
        found: list[Answer] = []
        for _ in range(_LONGEST_ALIAS):
            if not answers or answers[-1].kind != wire.CNAME:
                break
            target = answers[-1].data.lower()
            if self._zone.holds(target):
                answers = self._zone.answers(target, wire.A) or []
            else:
                answers = [Answer(target, wire.A, a) for a in await _machine_addresses(target)]
            found += answers
        return found

    async def _forward(self, message: bytes, question: Question, over_udp: bool) -> bytes | None:
        servers = self._forward_to
        if servers is None:
            servers = [(address, _PORT) for address in resolvers()]
        for server in servers:
            with contextlib.suppress(OSError, TimeoutError, EOFError):
                async with asyncio.timeout(_FORWARD_S):
                    if over_udp:
                        return await _ask_by_datagram(server, message)
                    return await _ask_by_stream(server, message)
        return None

    def received(self, data: bytes, sender: tuple[str, int]) -> None:
        """A datagram has come."""
        if len(self._tasks) >= _MOST_FORWARDED:
            return
        task = asyncio.get_running_loop().create_task(self._answer(data, sender))
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _answer(self, data: bytes, sender: tuple[str, int]) -> None:
        answer = await self.respond(data, over_udp=True)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, sender)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                async with asyncio.timeout(_IDLE_S):
                    message = await _read_message(reader)
                answer = await self.respond(message, over_udp=False)
                if answer is None:
                    return
                writer.write(struct.pack(">H", len(answer)) + answer)
                await writer.drain()
        except (OSError, EOFError, TimeoutError):
            return
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        self._server.received(data, sender)


class _Reply(asyncio.DatagramProtocol):
    def __init__(self, ident: bytes) -> None:
        self._ident = ident
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        if data[:2] == self._ident and not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


async def _ask_by_datagram(server: tuple[str, int], message: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    transport, reply = await loop.create_datagram_endpoint(
        lambda: _Reply(message[:2]), remote_addr=server
    )
    try:
        transport.sendto(message)
        return await reply.answer
    finally:
        transport.close()


async def _ask_by_stream(server: tuple[str, int], message: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(struct.pack(">H", len(message)) + message)
        return await _read_message(reader)
    finally:
        writer.close()


async def _read_message(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">H", await reader.readexactly(2))
    return await reader.readexactly(size)


async def _machine_addresses(name: str) -> list[str]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_FORWARD_S):
            found = await loop.getaddrinfo(name, 0, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        return []
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
