"""A netlink socket that speaks in whole requests; errors come back as NetlinkError.

The kernel works on a request before ``send`` returns, so its answers are there at once and nothing
has to wait.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Iterable, Sequence

from kubarium.node.network.netlink.wire import (
    ACK,
    DONE,
    DUMP,
    ERROR,
    Answer,
    Message,
    NetlinkError,
    decode,
)

AF_NETLINK = 16  # Python has the name on Linux only
ROUTE, NETFILTER = 0, 12
_SOL_NETLINK, _EXT_ACK = 270, 11
_SNDBUFFORCE, _RCVBUFFORCE = 32, 33
# A rule set goes over in one piece.
_BUFFER_BYTES = 32 << 20
_READ_BYTES = 1 << 20


class Channel:
    """Owns ``connection``. Not for use by several threads at once."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._sequence = itertools.count(1)
        with contextlib.suppress(OSError):
            connection.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        for forced, plain in ((_SNDBUFFORCE, socket.SO_SNDBUF), (_RCVBUFFORCE, socket.SO_RCVBUF)):
            try:
                connection.setsockopt(socket.SOL_SOCKET, forced, _BUFFER_BYTES)
            except OSError:
                connection.setsockopt(socket.SOL_SOCKET, plain, _BUFFER_BYTES)
        connection.setblocking(False)

    @staticmethod
    def here(family: int = ROUTE) -> Channel:
        """A channel of the network namespace that this process is in."""
        return Channel(socket.socket(AF_NETLINK, socket.SOCK_RAW, family))

    def close(self) -> None:
        self._socket.close()

    def ask(self, message: Message) -> None:
        """One request; returns when the kernel has done it."""
        self.ask_all([message])

    def ask_all(self, messages: Sequence[Message]) -> None:
        """Several, as one datagram. Each is acknowledged; the first refusal is raised."""
        self._exchange(Message(m.kind, m.payload, m.flags | ACK, m.what) for m in messages)

    def batch(self, messages: Sequence[Message]) -> None:
        """Messages that the kernel takes all or none; only refusals are answered."""
        self._exchange(messages)

    def dump(self, message: Message) -> list[Answer]:
        """All that a question brings."""
        sequence = next(self._sequence)
        asked = Message(message.kind, message.payload, message.flags | DUMP, message.what)
        self._socket.send(asked.encode(sequence))
        found: list[Answer] = []
        while True:
            for answer in decode(self._socket.recv(_READ_BYTES)):
                if answer.sequence != sequence:
                    continue
                if answer.kind == DONE:
                    return found
                if answer.kind == ERROR:
                    raise NetlinkError(answer.error, message.what, answer.detail)
                found.append(answer)

    def _exchange(self, messages: Iterable[Message]) -> None:
        named: dict[int, str] = {}
        data = bytearray()
        for message in messages:
            sequence = next(self._sequence)
            named[sequence] = message.what
            data += message.encode(sequence)
        self._socket.send(data)
        problem: NetlinkError | None = None
        while True:
            try:
                received = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                break
            for answer in decode(received):
                if answer.kind == ERROR and answer.error and problem is None:
                    what = named.get(answer.sequence, "netlink")
                    problem = NetlinkError(answer.error, what, answer.detail)
        if problem is not None:
            raise problem
