"""The server's side of a node agent that is a process of its own: start it, keep it up, ask it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import psutil

from kubarium.api.logs import LogOptions
from kubarium.api.streams import Connection, Session, StreamOptions
from kubarium.api.usage import ContainerUse, PodUse
from kubarium.base.clock import Clock
from kubarium.base.descriptors import receive
from kubarium.base.errors import ApiError, internal
from kubarium.cluster.agent_wire import (
    MAX_DESCRIPTORS,
    MAX_LINE,
    AgentLaunch,
    raise_error,
    send_line,
)
from kubarium.cluster.nursery import Nursery
from kubarium.node.isolation import Report
from kubarium.node.network.ports import TcpConnection
from kubarium.node.runtimes.process.streams import ExecResult, ProcessSession, readable

_LOG = logging.getLogger("kubarium.node")
_FIRST_RESTART_S, _LAST_RESTART_S = 0.2, 5.0
# An agent that has run so long is started again at once.
_STEADY_S = 10.0
_STOP_PATIENCE_S = 20.0
_PAGE_PATIENCE_S = 2.0


class AgentProcess:
    """A component. ``ready`` is set when the agent has announced its nodes for the first time."""

    name = "node-agent"

    def __init__(self, launch: AgentLaunch, nursery: Nursery, clock: Clock) -> None:
        self._launch = launch
        self._nursery = nursery
        self._clock = clock
        self._nodes = dict.fromkeys(spec.name for spec in launch.config.nodes)
        self._pid = 0
        self._process: psutil.Process | None = None
        self._control: socket.socket | None = None
        self._report: Report | None = None
        self._hardware: list[str] = []
        self._sending = asyncio.Lock()
        self.ready = asyncio.Event()

    def serves(self, node: str) -> bool:
        """Whether ``node`` is one of this agent's."""
        return node in self._nodes

    @property
    def pid(self) -> int:
        """The agent's process id; 0 while there is none."""
        return self._pid

    def isolation(self) -> Report | None:
        """What keeps containers apart, as the agent has found."""
        return self._report

    def hardware(self) -> list[str]:
        """Which of the machine's devices pods may have, as the agent has found."""
        return self._hardware

    def metrics(self, node: str) -> bytes:
        """The metrics page of a node's devices. Waits for the agent, which is at hand; empty if it
        is not."""
        if self._control is None:
            return b""
        ours, theirs = socket.socketpair()
        ours.settimeout(_PAGE_PATIENCE_S)
        data = b""
        with ours:
            try:
                with theirs:
                    request = json.dumps({"op": "metrics", "node": node}).encode() + b"\n"
                    socket.send_fds(self._control, [request], [theirs.fileno()])
                while piece := ours.recv(MAX_LINE):
                    data += piece
            except OSError:
                return b""
        return data.partition(b"\n")[2]

    async def usage(self) -> list[PodUse]:
        """What its pods use; nothing while there is no agent."""
        try:
            peer, answer, _, _ = await self._ask({"op": "usage"})
        except (ApiError, ConnectionError):
            return []
        peer.close()
        for use in answer["pods"]:
            use["containers"] = {n: ContainerUse(**u) for n, u in use["containers"].items()}
        return [PodUse(**use) for use in answer["pods"]]

    # Life --------------------------------------------------------------------------------------

    async def run(self) -> None:
        delay_s = _FIRST_RESTART_S
        while True:
            began = self._clock.monotonic()
            self._start()
            try:
                await self._listen()
            finally:
                await self._end()
            if self._clock.monotonic() - began > _STEADY_S:
                delay_s = _FIRST_RESTART_S
            _LOG.warning("the node agent has ended; it is started again, its pods go on")
            await self._clock.sleep(delay_s)
            delay_s = min(delay_s * 2, _LAST_RESTART_S)

    def _start(self) -> None:
        self._pid, self._control = self._nursery.start(self._launch)
        self._control.setblocking(False)
        self._process = psutil.Process(self._pid)

    async def _listen(self) -> None:
        """Until the agent has ended."""
        assert self._control is not None
        pending = b""
        loop = asyncio.get_running_loop()
        while True:
            try:
                data = await loop.sock_recv(self._control, MAX_LINE)
            except OSError:
                return
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                said = json.loads(line)
                self._hardware = said["hardware"]
                found = said["isolation"]
                if found is not None:
                    kinds = {key: tuple(found[key]) for key in ("applied", "missing")}
                    self._report = Report(**found | kinds)
                self.ready.set()

    async def _end(self) -> None:
        """If it still runs (we are to stop), have it stop its pods first; then let go of it."""
        control, process = self._control, self._process
        if control is None or process is None:
            return
        self._control = None
        try:
            with contextlib.suppress(OSError):
                control.send(b'{"op": "stop"}\n')
            await asyncio.shield(asyncio.to_thread(_wait, process))
        finally:
            control.close()
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
            await asyncio.shield(asyncio.to_thread(process.wait))
            self._pid = 0

    async def shut_down(self) -> None:
        """Have the agent shut down the nodes that are configured to; returns when their pods have
        ended. One that is just being started has nothing to end gently."""
        try:
            peer, _, _, _ = await self._ask({"op": "shutdown"})
        except (ApiError, OSError) as error:
            _LOG.warning("the nodes are not shut down gracefully: %s", error)
            return
        peer.close()

    async def close(self) -> None:
        """:meth:`run` stops the agent when it is cancelled; this is for one that never began."""
        await self._end()

    # Into pods ---------------------------------------------------------------------------------

    async def logs(self, namespace: str, name: str, options: LogOptions) -> AsyncIterator[bytes]:
        """Output of a container, in pieces; ApiError."""
        request = {"op": "logs", "namespace": namespace, "name": name, "options": asdict(options)}
        peer, _, rest, _ = await self._ask(request)
        with peer:
            if rest:
                yield rest
            while data := await asyncio.get_running_loop().sock_recv(peer, MAX_LINE):
                yield data

    async def open_session(self, namespace: str, name: str, options: StreamOptions) -> Session:
        """A command in a container, or the one that runs; ApiError."""
        wanted = asdict(options)
        request: dict[str, Any] = {"op": "session", "namespace": namespace, "name": name}
        request |= {"command": list(wanted.pop("command")), "options": wanted}
        peer, answer, rest, descriptors = await self._ask(request)
        streams = dict(zip(answer["streams"], descriptors, strict=True))
        ended = asyncio.get_running_loop().create_task(_ended(peer, rest))
        return ProcessSession(streams, ended if options.command else None)

    async def open_port(self, namespace: str, name: str, port: int) -> Connection:
        """Connect to a port of a pod; ConnectionError."""
        request = {"op": "port", "namespace": namespace, "name": name, "port": port}
        peer, _, rest, _ = await self._ask(request)
        reader, writer = await asyncio.open_connection(sock=peer)
        return TcpConnection(reader, writer, rest)

    async def _ask(
        self, request: dict[str, Any]
    ) -> tuple[socket.socket, dict[str, Any], bytes, list[int]]:
        """The socket for what follows, the first line, what came after it, and descriptors."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                async with self._sending:
                    if self._control is None:
                        raise internal("the node agent is just being started; try again")
                    await send_line(self._control, request, theirs.fileno())
            answer, rest, descriptors = await _first_line(ours)
            raise_error(answer)
        except BaseException:
            ours.close()
            raise
        return ours, answer, rest, descriptors


def _wait(process: psutil.Process) -> None:
    """Until our child has ended, or has had time enough to."""
    with contextlib.suppress(psutil.TimeoutExpired):
        process.wait(_STOP_PATIENCE_S)


async def _first_line(peer: socket.socket) -> tuple[dict[str, Any], bytes, list[int]]:
    data = b""
    descriptors: list[int] = []
    while b"\n" not in data:
        await readable(peer.fileno())
        piece, found = receive(peer, MAX_LINE, MAX_DESCRIPTORS)
        descriptors += found
        if not piece:
            for descriptor in descriptors:
                os.close(descriptor)
            raise internal("the node agent has ended; it is started again, try again")
        data += piece
    line, _, rest = data.partition(b"\n")
    return json.loads(line), rest, descriptors


async def _ended(peer: socket.socket, rest: bytes) -> ExecResult:
    """How the command ended; as if killed where the agent was before it could say."""
    data = rest
    with peer:
        while b"\n" not in data:
            piece = await asyncio.get_running_loop().sock_recv(peer, MAX_LINE)
            if not piece:
                return ExecResult(128 + int(signal.SIGKILL), "")
            data += piece
    answer = json.loads(data)
    return ExecResult(answer["code"], answer["message"])
