"""The agent's side of the zygote: sandboxes, containers, signals and execs as awaitables."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kubarium.base.clock import Clock
from kubarium.base.descriptors import receive
from kubarium.base.errors import KubariumError
from kubarium.node.runtimes.process.rootfs import RootFs
from kubarium.node.runtimes.process.streams import (
    ExecResult,
    ProcessSession,
    readable,
    writable,
)
from kubarium.node.runtimes.process.zygote import LINGER_S, PLAIN, ROOT, USER_NAMESPACE

_LOG = logging.getLogger("kubarium.node")
_T = TypeVar("_T")

__all__ = [
    "LEVELS",
    "ExecResult",
    "ExitStatus",
    "ProcessEngine",
    "ProcessSession",
    "ProcessSpec",
    "RuntimeCall",
    "StartError",
    "User",
]

LEVELS = (ROOT, USER_NAMESPACE, PLAIN)
# How long a container's init may take to obey SIGKILL before it is killed itself.
_KILL_PATIENCE_S = 2.0
_READ_BYTES = 1 << 16
_MOST_SOCKETS = 64
# A zygote that waits for an agent answers at once.
_REATTACH_S = 5.0
_ENDING_S = 0.05
_CONTAINER_GONE = ExecResult(126, "container is not running")
_KILLED = 128 + int(signal.SIGKILL)
_TRIAL, _TRIAL_CONTAINER = "trial", "trial-container"
_TRIAL_ENV = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
# What the zygote's own interpreter imports from: it runs isolated from the environment.
_SOURCE = str(Path(__file__).resolve().parents[4])


class StartError(KubariumError):
    """A sandbox or container could not be started; the message is the runtime's."""


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a container's command ended. ``signal`` is 0 if it exited by itself."""

    code: int
    signal: int = 0


@dataclass(frozen=True, slots=True)
class User:
    """Who the command runs as. ``map``: only appears so, in a user namespace."""

    uid: int
    gid: int
    groups: list[int]
    capabilities: list[str]
    map: bool = False


@dataclass(frozen=True, slots=True)
class RuntimeCall:
    """An OCI runtime that is to start the container, and the config.json to give it."""

    name: str
    path: str
    config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """All that is needed to start one container."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    log: str
    user: User | None
    root: RootFs | None
    no_new_privileges: bool = False
    # A BPF program in hexadecimal that looks at each system call; "" for none.
    seccomp: str = ""
    rlimits: dict[str, tuple[int, int]] = field(default_factory=dict)
    # Control groups to enter: files that take a process id.
    joins: list[str] = field(default_factory=list)
    # The container whose processes it is to see ("": none), as debuggers ask.
    beside: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    # What the fork server that it may come from has imported; empty: it starts by itself.
    warm: list[str] = field(default_factory=list)
    # None: our own init starts the command by itself.
    runtime: RuntimeCall | None = None


@dataclass(slots=True)
class _Waiters:
    """Answers that are due for one container or sandbox."""

    started: asyncio.Future[int] | None = None
    pid: int = 0
    exited: bool = False
    execs: dict[str, asyncio.Future[ExecResult]] = field(default_factory=dict)


def _greeted(connection: socket.socket) -> tuple[dict[str, Any], int]:
    """What a zygote says to the agent that takes it over: what there is, and the pipe's end."""
    mark, descriptors = receive(connection, 1, 1)
    if mark != b"+" or not descriptors:
        raise ValueError("not taken")
    data = b""
    while not data.endswith(b"\n"):
        piece = connection.recv(_READ_BYTES)
        if not piece:
            raise ValueError("cut off")
        data += piece
    return json.loads(data), descriptors[0]


def _wait_for_stranger(pid: int) -> None:
    """Until a process that is no child of ours has ended; ProcessLookupError if it has already."""
    descriptor = os.pidfd_open(pid)
    try:
        select.select([descriptor], [], [])
    finally:
        os.close(descriptor)


def end_lingering(name: str) -> bool:
    """End a zygote that waits for an agent, and all that runs in it; false if there is none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_REATTACH_S)
        try:
            connection.connect(f"\0{name}")
            greeting, events = _greeted(connection)
        except (OSError, ValueError):
            return False
        os.close(events)
        connection.sendall(b'{"op": "end", "id": ""}\n')
    with contextlib.suppress(ProcessLookupError):
        _wait_for_stranger(greeting["pid"])
    return True


# Called with a network's descriptor and the sockets asked for in it, which are its own now.
OnNetwork = Callable[[list[int]], None]
SocketKind = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Network:
    """A network of its own for a pod: what to open in it, whom to give it to."""

    sockets: Sequence[SocketKind]
    on_network: OnNetwork
    sysctls: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Sandbox:
    """What was asked for, in case that it has to be made again."""

    hostname: str
    tmpfs: list[tuple[str, str]]
    network: Network | None


class ProcessEngine:
    """One zygote and what runs in it. ``on_exit(container, status)`` is called once for each."""

    def __init__(
        self,
        clock: Clock,
        on_exit: Callable[[str, ExitStatus], None],
        name: str = "",
        linger_s: float = LINGER_S,
    ) -> None:
        """With a ``name`` (of the machine's abstract sockets, which Linux alone has) containers
        survive this process, to be found again by :meth:`reattach` within ``linger_s``."""
        self._name = name if sys.platform == "linux" else ""
        self._linger_s = linger_s
        self._zygote_pid = 0
        self._clock = clock
        self._on_exit = on_exit
        self._waiters: dict[str, _Waiters] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._commands: socket.socket | None = None
        self._events = -1
        self._pending = b""
        self._sending = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._execs = 0
        self._sandboxes: dict[str, _Sandbox] = {}
        self._router: Network | None = None
        self._closing = False
        self._trial = asyncio.Event()
        self._up = asyncio.Event()
        self.level = PLAIN
        self.refusals: dict[str, str] = {}
        # Control groups that the zygote removes at its end, whoever ended it.
        self.groups: list[str] = []

    # The zygote itself -------------------------------------------------------------------------

    async def start(self, levels: tuple[str, ...] = LEVELS) -> None:
        """Start a zygote at the first of ``levels`` that this machine allows."""
        for level in levels:
            if level == ROOT and os.geteuid() != 0:
                self.refusals[level] = "not running as root"
                continue
            if level != PLAIN and sys.platform != "linux":
                self.refusals[level] = "namespaces exist on Linux only"
                continue
            problem = await self._spawn(level)
            if not problem:
                self.level = level
                self._up.set()
                problem = "" if level == PLAIN else await self._try_container()
            if not problem:
                return
            self.refusals[level] = problem
        raise StartError(f"no process runtime could be started: {self.refusals}")

    async def _spawn(self, level: str) -> str:
        ours, theirs = socket.socketpair()
        read, write = os.pipe()
        program = (
            "import sys; sys.path.insert(0, sys.argv.pop(1));"
            "from kubarium.node.runtimes.process.zygote import main; main()"
        )
        argv = [sys.executable, "-I", "-S", "-c", program, _SOURCE, level, str(write), str(read)]
        argv += [self._name, str(self._linger_s), *self.groups]
        self._process = subprocess.Popen(  # noqa: ASYNC220 - takes about a millisecond (vfork)
            argv, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, pass_fds=(write, read), cwd="/"
        )
        self._zygote_pid = self._process.pid
        theirs.close()
        os.close(write)
        ours.setblocking(False)
        os.set_blocking(read, False)
        self._commands, self._events, self._pending = ours, read, b""
        loop = asyncio.get_running_loop()
        greeting: asyncio.Future[int] = loop.create_future()
        self._waiters[""] = _Waiters(started=greeting)
        loop.add_reader(read, self._readable)
        try:
            await greeting
        except StartError as error:
            await self.close()
            self._closing = False
            return str(error)
        return ""

    async def reattach(self) -> bool:
        """Take over the zygote of an earlier agent, with all that runs in it; false if there is
        none. StartError if another agent has it."""
        if not self._name:
            return False
        deadline = self._clock.monotonic() + _REATTACH_S
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(_REATTACH_S)
            try:
                connection.connect(f"\0{self._name}")
            except OSError:
                connection.close()
                return False
            try:
                greeting, events = await asyncio.to_thread(_greeted, connection)
                break
            except (OSError, ValueError) as error:
                connection.close()
                if isinstance(error, TimeoutError) or self._clock.monotonic() >= deadline:
                    raise StartError(
                        "the containers of this node belong to an agent that still runs: stop it "
                        "first"
                    ) from error
            await self._clock.sleep(_ENDING_S)  # it has hung up: its time is over, and it ends
        connection.setblocking(False)
        os.set_blocking(events, False)
        self._commands, self._events, self._pending = connection, events, b""
        self.level, self._zygote_pid = greeting["level"], greeting["pid"]
        for ident, pid in greeting["containers"].items():
            self._waiters[ident] = _Waiters(pid=pid)
        asyncio.get_running_loop().add_reader(events, self._readable)
        self._up.set()
        return True

    def is_running(self, ident: str) -> bool:
        """Whether the container's command has not ended yet, as far as we have heard."""
        waiters = self._waiters.get(ident)
        return waiters is not None and not waiters.exited

    def adopt_sandbox(
        self, ident: str, hostname: str, tmpfs: list[tuple[str, str]], network: Network | None
    ) -> None:
        """A sandbox that the zygote has from an earlier agent, as it would have to be made."""
        self._sandboxes[ident] = _Sandbox(hostname, tmpfs, network)

    async def adopt_router(self, network: Network) -> None:
        """The router that the zygote has from an earlier agent: new sockets in it. StartError."""
        found = await self.sockets("", network.sockets)
        network.on_network([one.detach() for one in found])

    def remember_router(self, network: Network) -> None:
        """How the router would have to be made again."""
        self._router = network

    async def _wait_for_zygote(self) -> None:
        """Until it has ended, whoever's child it is."""
        if self._process is not None:
            await asyncio.to_thread(self._process.wait)
            return
        with contextlib.suppress(ProcessLookupError):
            await asyncio.to_thread(_wait_for_stranger, self._zygote_pid)

    async def _try_container(self) -> str:
        """Build one root and run one command in it: "" or why containers would fail here."""
        with tempfile.TemporaryDirectory(prefix="kubarium-") as folder:
            place = f"{folder}/root"
            os.mkdir(place)
            root = RootFs(place, working_dir="/")
            spec = ProcessSpec(["sh", "-c", ":"], _TRIAL_ENV, "/", f"{folder}/log", None, root)
            ended = self._trial = asyncio.Event()
            try:
                await self.create_sandbox(_TRIAL, "trial", [])
                await self.start_container(_TRIAL_CONTAINER, _TRIAL, spec)
                await ended.wait()
                await self.remove_sandbox(_TRIAL)
            except StartError as error:
                self._sandboxes.clear()
                await self.close()
                self._closing = False
                return str(error)
        return ""

    async def _respawn(self) -> None:
        """Somebody has killed the zygote: a new one, with the sandboxes that the pods still have.
        Their containers have ended with the old one and are restarted by their pods."""
        await self._wait_for_zygote()
        problem = await self._spawn(self.level)
        if problem:
            _LOG.error("the container runtime cannot be restarted: %s", problem)
            return
        if self._router is not None:
            await self._make_router(self._router)
        for ident, sandbox in list(self._sandboxes.items()):
            await self._make_sandbox(ident, sandbox)
        self._up.set()

    async def close(self) -> None:
        """Kill every container and end the zygote; returns when all of them are gone."""
        self._closing = True
        self._up.set()
        if self._commands is None:
            return
        with contextlib.suppress(OSError):
            self._commands.send(b'{"op": "end", "id": ""}\n')
        self._commands.close()
        self._commands = None
        await self._wait_for_zygote()
        self._readable()
        if self._events >= 0:
            self._stop_reading()

    @property
    def pid(self) -> int:
        """The zygote's process id; 0 before it is started."""
        return self._zygote_pid

    def pid_of(self, ident: str) -> int:
        """The process id of a container's init; 0 if it is gone."""
        waiters = self._waiters.get(ident)
        return waiters.pid if waiters else 0

    # Commands ----------------------------------------------------------------------------------

    async def open_router(self, network: Network) -> None:
        """The network that joins those of the pods. It is made again if the zygote has to be, so
        ``on_network`` may be called more than once. StartError."""
        await self._up.wait()
        await self._make_router(network)
        self._router = network

    async def _make_router(self, network: Network) -> None:
        command = {"op": "router", "id": "router", "sockets": list(network.sockets)}
        await self._ask_for_network(command, network)

    async def sockets(self, sandbox: str, kinds: Sequence[SocketKind]) -> list[socket.socket]:
        """Sockets in a pod's network ("": in the router's). StartError if there is none."""
        command = {"op": "sockets", "id": "", "sandbox": sandbox, "sockets": list(kinds)}
        found = await self._ask_for_descriptors(command)
        if not found:
            raise StartError("the pod has no network of its own")
        return [socket.socket(fileno=descriptor) for descriptor in found]

    async def create_sandbox(
        self,
        ident: str,
        hostname: str,
        tmpfs: list[tuple[str, str]],
        network: Network | None = None,
    ) -> None:
        """Namespaces and tmpfs mounts (path, options) that a pod's containers share; the machine's
        network unless it gets one of its own. StartError."""
        await self._up.wait()
        sandbox = _Sandbox(hostname, tmpfs, network)
        await self._make_sandbox(ident, sandbox)
        self._sandboxes[ident] = sandbox

    async def _make_sandbox(self, ident: str, sandbox: _Sandbox) -> None:
        command: dict[str, Any] = {"op": "sandbox", "id": ident, "hostname": sandbox.hostname}
        command["tmpfs"] = sandbox.tmpfs
        network = sandbox.network
        if network is None:
            await self._ask(command)
            return
        command |= {"network": True, "sockets": list(network.sockets), "sysctls": network.sysctls}
        await self._ask_for_network(command, network)

    async def _ask_for_network(self, command: dict[str, Any], network: Network) -> None:
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                await self._ask(command, [theirs.fileno()])
            _, descriptors = receive(ours, 1, _MOST_SOCKETS)
        network.on_network(descriptors)

    async def _ask_for_descriptors(self, command: dict[str, Any]) -> list[int]:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours:
            with theirs:
                await self._send(command, [theirs.fileno()])
            await readable(ours.fileno())
            return receive(ours, 1, _MOST_SOCKETS)[1]

    async def remove_sandbox(self, ident: str) -> None:
        """Give the namespaces and mounts back; containers in it must have ended."""
        if self._sandboxes.pop(ident, None) is None:
            return
        await self._ask({"op": "remove", "id": ident})

    async def start_container(self, ident: str, sandbox: str, spec: ProcessSpec) -> int:
        """The init's process id, once the command runs; StartError if it cannot be run."""
        await self._up.wait()
        command = {"op": "start", "id": ident, "sandbox": sandbox, "spec": asdict(spec)}
        return await self._ask(command)

    async def send_signal(self, ident: str, number: int) -> None:
        """To the command's process group; SIGKILL to every process of the container."""
        await self._send({"op": "signal", "id": ident, "signal": number})
        if number == signal.SIGKILL:
            self._start_task(self._make_sure(ident))

    async def _make_sure(self, ident: str) -> None:
        await self._clock.sleep(_KILL_PATIENCE_S)
        if ident in self._waiters:
            await self._send({"op": "destroy", "id": ident})

    async def execute(self, ident: str, argv: list[str], timeout_s: float | None) -> ExecResult:
        """Run a command inside the container, as its user, and keep 2,000 bytes of its output."""
        waiters = self._waiters.get(ident)
        if waiters is None or waiters.exited:
            return _CONTAINER_GONE
        self._execs += 1
        name = str(self._execs)
        answer: asyncio.Future[ExecResult] = asyncio.get_running_loop().create_future()
        waiters.execs[name] = answer
        await self._send({"op": "exec", "id": ident, "exec": name, "argv": argv})
        timer = (
            None if timeout_s is None else self._start_task(self._expire(ident, name, timeout_s))
        )
        try:
            return await answer
        finally:
            if timer is not None:
                timer.cancel()
            waiters.execs.pop(name, None)

    async def execute_streamed(
        self, ident: str, argv: list[str], streams: Sequence[str], tty: bool
    ) -> ProcessSession:
        """Run a command inside the container, with its streams (``stdin``, ``stdout``, ``stderr``,
        or one terminal) in our hands. StartError if it cannot be started."""
        waiters = self._waiters.get(ident)
        if waiters is None or waiters.exited:
            raise StartError("container is not running")
        self._execs += 1
        name = str(self._execs)
        answer: asyncio.Future[ExecResult] = asyncio.get_running_loop().create_future()
        waiters.execs[name] = answer
        command = {"op": "exec", "id": ident, "exec": name, "argv": argv, "stream": True}
        try:
            given = await self._ask_for_streams(command | {"streams": list(streams), "tty": tty})
            if not given:
                raise StartError((await answer).output)
        except BaseException:
            waiters.execs.pop(name, None)
            raise
        ended = self._start_task(self._ended_exec(waiters, name, answer))
        return ProcessSession(given, ended)

    async def _ended_exec(
        self, waiters: _Waiters, name: str, answer: asyncio.Future[ExecResult]
    ) -> ExecResult:
        """Who is in it when the container is killed is killed with it."""
        try:
            result = await answer
        finally:
            waiters.execs.pop(name, None)
        return ExecResult(_KILLED, "") if result == _CONTAINER_GONE else result

    async def attach(self, ident: str, streams: Sequence[str]) -> ProcessSession:
        """The main command's streams from now on. StartError if it does not run."""
        waiters = self._waiters.get(ident)
        if waiters is None or waiters.exited:
            raise StartError("container is not running")
        given = await self._ask_for_streams({"op": "attach", "id": ident, "streams": list(streams)})
        return ProcessSession(given, None)

    async def _ask_for_streams(self, command: dict[str, Any]) -> dict[str, int]:
        """Descriptors by name; empty if the container could not give them."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours:
            with theirs:
                await self._send(command, [theirs.fileno()])
            await readable(ours.fileno())
            names, descriptors = receive(ours, 1 << 10, 4)
        return dict(zip(json.loads(names or b"[]"), descriptors, strict=True))

    async def _expire(self, ident: str, name: str, timeout_s: float) -> None:
        await self._clock.sleep(timeout_s)
        answer = self._waiters[ident].execs.get(name) if ident in self._waiters else None
        if answer is not None and not answer.done():
            answer.set_result(ExecResult(124, f"command timed out after {timeout_s:g}s"))
        await self._send({"op": "signal", "id": ident, "exec": name, "signal": signal.SIGKILL})

    async def _ask(self, command: dict[str, Any], descriptors: Sequence[int] = ()) -> int:
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiters[command["id"]] = _Waiters(started=answer)
        await self._send(command, descriptors)
        return await answer

    async def _send(self, command: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        data = json.dumps(command).encode() + b"\n"
        async with self._sending:
            if self._commands is None:
                raise StartError("the container runtime is stopped")
            try:
                if descriptors:
                    data = data[await self._send_descriptors(data, descriptors) :]
                await asyncio.get_running_loop().sock_sendall(self._commands, data)
            except OSError as error:
                raise StartError(f"the container runtime is gone: {error}") from error

    async def _send_descriptors(self, data: bytes, descriptors: Sequence[int]) -> int:
        while True:
            assert self._commands is not None
            try:
                return socket.send_fds(self._commands, [data], list(descriptors))
            except BlockingIOError:
                await writable(self._commands.fileno())

    def _start_task(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Events ------------------------------------------------------------------------------------

    def _readable(self) -> None:
        while self._events >= 0:
            try:
                data = os.read(self._events, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._stop_reading()
                return
            *lines, self._pending = (self._pending + data).split(b"\n")
            for line in lines:
                event = json.loads(line)
                getattr(self, f"_on_{event['event']}")(event)

    def _stop_reading(self) -> None:
        """The zygote has gone, and its containers with it."""
        asyncio.get_running_loop().remove_reader(self._events)
        os.close(self._events)
        self._events = -1
        if not self._closing and self._commands is not None:
            self._commands.close()
            self._commands = None
            self._up.clear()
            if "" not in self._waiters:  # it had come up, so it is worth another try
                _LOG.error("the container runtime has gone; its containers ended with it")
                self._start_task(self._respawn())
        for ident in list(self._waiters):
            self._on_failed({"id": ident, "message": "the container runtime is gone"})
            self._end(ident, ExitStatus(_KILLED, int(signal.SIGKILL)))

    def _on_ready(self, event: dict[str, Any]) -> None:
        waiters = self._waiters.pop(event["id"])
        if waiters.started is not None and not waiters.started.done():
            waiters.started.set_result(0)

    def _on_refused(self, event: dict[str, Any]) -> None:
        self._on_failed(event)

    def _on_forked(self, event: dict[str, Any]) -> None:
        self._waiters[event["id"]].pid = event["pid"]

    def _on_started(self, event: dict[str, Any]) -> None:
        waiters = self._waiters[event["id"]]
        if waiters.started is not None and not waiters.started.done():
            waiters.started.set_result(waiters.pid)
        waiters.started = None

    def _on_failed(self, event: dict[str, Any]) -> None:
        waiters = self._waiters.get(event["id"])
        if waiters is None or waiters.started is None:
            return
        if not waiters.started.done():
            waiters.started.set_exception(StartError(event["message"]))
        waiters.started = None
        waiters.exited = True

    def _on_exec(self, event: dict[str, Any]) -> None:
        waiters = self._waiters.get(event["id"])
        answer = waiters.execs.get(event["exec"]) if waiters else None
        if answer is not None and not answer.done():
            answer.set_result(ExecResult(event["code"], event["message"]))

    def _on_exited(self, event: dict[str, Any]) -> None:
        self._end(event["id"], ExitStatus(event["code"], event["signal"]), forget=False)

    def _on_gone(self, event: dict[str, Any]) -> None:
        message = "the container's init ended before its command started"
        self._on_failed({"id": event["id"], "message": message})
        self._end(event["id"], ExitStatus(event["code"], event["signal"]))

    def _end(self, ident: str, status: ExitStatus, forget: bool = True) -> None:
        waiters = self._waiters.get(ident)
        if waiters is None:
            return
        if forget:
            del self._waiters[ident]
        for answer in waiters.execs.values():
            if not answer.done():
                answer.set_result(_CONTAINER_GONE)
        if not waiters.exited and waiters.pid:
            waiters.exited = True
            if ident == _TRIAL_CONTAINER:
                self._trial.set()
            else:
                self._on_exit(ident, status)
