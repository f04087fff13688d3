"""The node agent as a process of its own: a client of the API server, under a node's name.

The server's process starts it, and starts it again if it dies; pods go on meanwhile. It ends with
the server: at once if that was killed (pods go on, for the next), cleanly when told to stop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from dataclasses import asdict
from typing import Any

import uvloop

from kubarium.api.logs import LogOptions
from kubarium.api.streams import Connection, StreamOptions
from kubarium.base.chance import Chance
from kubarium.base.descriptors import receive
from kubarium.base.errors import KubariumError
from kubarium.client.http import HttpClient
from kubarium.cluster.agent_wire import (
    MAX_DESCRIPTORS,
    MAX_LINE,
    AgentLaunch,
    error_document,
    send_line,
)
from kubarium.cluster.clock import RealClock
from kubarium.node.agent import Agent
from kubarium.node.runtimes.process.streams import ProcessSession
from kubarium.runtime.informer import SharedInformers
from kubarium.runtime.protocol import Context

_LOG = logging.getLogger("kubarium.node")


class _Door:
    """Serves what the server's process asks for."""

    def __init__(self, agent: Agent, control: socket.socket, stopping: asyncio.Event) -> None:
        self._agent = agent
        self._control = control
        self._stopping = stopping
        self._pending = b""
        self._descriptors: list[int] = []
        self._tasks: dict[asyncio.Task[None], None] = {}

    def open(self) -> None:
        self._control.setblocking(False)
        asyncio.get_running_loop().add_reader(self._control.fileno(), self._readable)

    def _readable(self) -> None:
        data, found = receive(self._control, MAX_LINE, MAX_DESCRIPTORS)
        self._descriptors += found
        if not data:
            os._exit(1)  # the server was killed: leave everything as it is
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if request["op"] == "stop":
                self._stopping.set()
                continue
            peer = socket.socket(fileno=self._descriptors.pop(0))
            peer.setblocking(False)
            self._start(self._answer(request, peer))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _answer(self, request: dict[str, Any], peer: socket.socket) -> None:
        await self._agent.ready.wait()  # it may have been asked before it has found its pods again
        try:
            await getattr(self, f"_do_{request['op']}")(request, peer)
        except (KubariumError, ConnectionError) as error:
            try:
                await send_line(peer, error_document(error))
            except OSError:
                return  # nobody waits for it any more
        except OSError as error:
            _LOG.warning("node agent: %s: %s", request["op"], error)
        finally:
            peer.close()

    async def _do_logs(self, request: dict[str, Any], peer: socket.socket) -> None:
        options = LogOptions(**request["options"])
        pieces = self._agent.logs(request["namespace"], request["name"], options)
        first = await anext(pieces, b"")  # what is wrong with the request shows here
        await send_line(peer, {})
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer, first)
        async for piece in pieces:
            await loop.sock_sendall(peer, piece)

    async def _do_session(self, request: dict[str, Any], peer: socket.socket) -> None:
        options = StreamOptions(**request["options"] | {"command": tuple(request["command"])})
        session = await self._agent.open_session(request["namespace"], request["name"], options)
        assert isinstance(session, ProcessSession)
        streams = session.hand_over()
        try:
            await send_line(peer, {"streams": list(streams)}, *streams.values())
        finally:
            for descriptor in streams.values():
                os.close(descriptor)
        ended = await session.outcome()
        await send_line(peer, {"code": ended.code, "message": ended.message})

    async def _do_metrics(self, request: dict[str, Any], peer: socket.socket) -> None:
        await send_line(peer, {})
        text = self._agent.metrics(request["node"])
        await asyncio.get_running_loop().sock_sendall(peer, text)

    async def _do_usage(self, request: dict[str, Any], peer: socket.socket) -> None:
        await send_line(peer, {"pods": [asdict(use) for use in await self._agent.usage()]})

    async def _do_shutdown(self, request: dict[str, Any], peer: socket.socket) -> None:
        await self._agent.shut_down()
        await send_line(peer, {})

    async def _do_port(self, request: dict[str, Any], peer: socket.socket) -> None:
        far = await self._agent.open_port(request["namespace"], request["name"], request["port"])
        try:
            await send_line(peer, {})
            await asyncio.gather(_from_pod(far, peer), _to_pod(peer, far))
        finally:
            far.close()


async def _from_pod(far: Connection, peer: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await far.read():
        await loop.sock_sendall(peer, data)
    peer.shutdown(socket.SHUT_WR)


async def _to_pod(peer: socket.socket, far: Connection) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(peer, MAX_LINE):
        await far.write(data)
    far.close_input()


async def _serve(launch: AgentLaunch, control: socket.socket) -> None:
    stopping = asyncio.Event()
    clock, chance = RealClock(), Chance()
    credentials = (launch.authority, launch.certificate, launch.key)
    async with HttpClient.with_certificate(
        launch.server, *credentials, user_agent="kubelet"
    ) as client:
        informers = SharedInformers(client, clock)
        agent = Agent(Context(client, informers, clock, chance), launch.config)
        _Door(agent, control, stopping).open()
        running = asyncio.get_running_loop().create_task(agent.run())
        if agent.shutdown.configured():
            _heed_sigterm(agent, stopping)
        told = asyncio.get_running_loop().create_task(_tell_ready(agent, control))
        stop = asyncio.get_running_loop().create_task(stopping.wait())
        try:
            await asyncio.wait((running, stop), return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
        finally:
            for task in (told, stop, running):
                task.cancel()
            await asyncio.gather(told, stop, running, return_exceptions=True)
            await agent.close()
            await informers.close()


def _heed_sigterm(agent: Agent, stopping: asyncio.Event) -> None:
    """As at a machine's shutdown: pods are given their time, then the agent ends. Elsewhere SIGTERM
    ends the agent alone, and pods go on."""
    shutting: list[asyncio.Task[None]] = []

    async def shut_down() -> None:
        try:
            await agent.shut_down()
        except Exception:
            _LOG.exception("node agent: the shutdown was cut short")
        finally:
            stopping.set()

    def begin() -> None:
        if not shutting:
            shutting.append(asyncio.get_running_loop().create_task(shut_down()))

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, begin)


async def _tell_ready(agent: Agent, control: socket.socket) -> None:
    await agent.ready.wait()
    report = agent.isolation()
    found = None if report is None else asdict(report)
    await send_line(control, {"isolation": found, "hardware": agent.hardware()})


def run_agent(launch: AgentLaunch, control: socket.socket) -> None:
    """Until told to stop through ``control``; raises what the agent dies of."""
    uvloop.run(_serve(launch, control))
