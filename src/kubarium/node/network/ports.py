"""Connections to a port of a pod, for ``kubectl port-forward``.

Where pods share the machine's network, a program may listen on its pod's address, on all
addresses, or on 127.0.0.1, where another pod's (or the machine's) may be as well. So it is
looked up which address a process of this very pod listens on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator

import psutil

from kubarium.base.errors import KubariumError
from kubarium.node.network.dial import Dialer

_READ_BYTES = 32 * 1024
_ALL = {"0.0.0.0": "", "::": ""}


class TcpConnection:
    """Satisfies :class:`kubarium.api.streams.Connection`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes = b""
    ) -> None:
        """``first``: bytes that were read already."""
        self._reader, self._writer = reader, writer
        self._first = first

    async def read(self) -> bytes:
        """The next bytes; none at the end, also if the other side broke off."""
        if self._first:
            first, self._first = self._first, b""
            return first
        with contextlib.suppress(OSError):
            return await self._reader.read(_READ_BYTES)
        return b""

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def close_input(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()


def listening_address(inits: Iterable[int], port: int) -> str | None:
    """Where a process of the pod listens on ``port``; "" on all addresses; None if nowhere."""
    found = None
    for init in inits:
        for address, own in listeners(init):
            if own == port:
                found = address
                if not found:
                    return found
    return found


def listeners(init: int) -> Iterator[tuple[str, int]]:
    """Where a container's processes listen: address ("" for all of them) and port."""
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(init)
        for process in (parent, *parent.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                for entry in process.net_connections("tcp"):
                    if entry.status == psutil.CONN_LISTEN:
                        yield _ALL.get(entry.laddr.ip, entry.laddr.ip), entry.laddr.port


async def open_port_inside(dialer: Dialer, uid: str, pod_ip: str, port: int) -> TcpConnection:
    """The same where the pod has its own network: its localhost is tried first, as kubelet does."""
    try:
        return TcpConnection(*await dialer.connect_inside(uid, ("127.0.0.1", pod_ip), port))
    except (OSError, KubariumError) as error:
        reason = "connection refused" if isinstance(error, ConnectionRefusedError) else str(error)
        text = f"failed to connect to localhost:{port} inside the pod: {reason}"
        raise ConnectionError(text) from error


async def open_port(inits: Iterable[int], pod_ip: str, port: int) -> TcpConnection:
    """Connect; ConnectionError in kubelet's words if nothing of the pod listens there."""
    address = listening_address(inits, port)
    if address is None:
        text = f"failed to connect to localhost:{port} inside the pod: connection refused"
        raise ConnectionRefusedError(text)
    try:
        return TcpConnection(*await asyncio.open_connection(address or pod_ip, port))
    except OSError as error:
        text = f"failed to connect to localhost:{port} inside the pod: {error.strerror or error}"
        raise ConnectionError(text) from error
