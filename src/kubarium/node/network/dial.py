"""Connections from the agent to its pods.

Where the machine is connected to the pod network they are plain ones. Elsewhere, and to reach what
listens on a pod's own 127.0.0.1, the socket comes out of the right network namespace; the pod's
loopback mode (no networks at all) is in ``ports``.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv4Network

from kubarium.node.network.plan import NetworkPlan

STREAM = (socket.AF_INET, socket.SOCK_STREAM, 0)
Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]
# (sandbox, kinds): sockets in a pod's network, or ("") the router's
Sockets = Callable[[str, Sequence[tuple[int, int, int]]], Awaitable[list[socket.socket]]]


class Dialer:
    """``plan`` None: pods share the machine's network."""

    def __init__(self, plan: NetworkPlan | None, sockets: Sockets) -> None:
        self._plan = plan
        self._sockets = sockets

    async def connect(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> Opened:
        """To an address, as a node reaches it. OSError."""
        if self._plan is None or self._plan.uplink:
            return await asyncio.open_connection(host, port, ssl=tls)
        try:
            address = IPv4Address(host)
        except ValueError:
            return await asyncio.open_connection(host, port, ssl=tls)
        if address in IPv4Network(self._plan.nodes):
            return await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        if address not in IPv4Network(self._plan.pods):
            return await asyncio.open_connection(host, port, ssl=tls)
        return await self._through("", host, port, tls)

    async def connect_inside(self, uid: str, hosts: Sequence[str], port: int) -> Opened:
        """From inside a pod's network, to the first of ``hosts`` that takes it. OSError."""
        problem: OSError | None = None
        for host in hosts:
            try:
                return await self._through(uid, host, port, None)
            except OSError as error:
                problem = problem or error
        raise problem or ConnectionRefusedError("connection refused")

    async def _through(
        self, sandbox: str, host: str, port: int, tls: ssl.SSLContext | None
    ) -> Opened:
        (one,) = await self._sockets(sandbox, [STREAM])
        one.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(one, (host, port))
        except BaseException:
            one.close()
            raise
        name = host if tls is not None else None
        return await asyncio.open_connection(sock=one, ssl=tls, server_hostname=name)
