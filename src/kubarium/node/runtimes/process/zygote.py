"""A small process that forks containers, so that the agent (big, threaded) never has to.

It reads commands as JSON lines from its standard input and writes events to a pipe. When
standard input ends - the agent has closed it, or was killed - every container is killed and the
zygote ends; unless pods are to survive their agent: then the zygote waits for the next one, which
finds it by a name that only one process of the machine can have, and keeps what is written to the
pipe meanwhile.

Pod namespaces (hostname, IPC, network) live as open descriptors here, and so does the
router's network; pod tmpfs mounts live in the zygote's own mount namespace: none of them can
outlive it.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kubarium.base.descriptors import receive
from kubarium.node.runtimes.oci.shim import Shim
from kubarium.node.runtimes.process import linux, networks
from kubarium.node.runtimes.process.forkserver import Forked, ForkServers
from kubarium.node.runtimes.process.group_files import remove_groups
from kubarium.node.runtimes.process.init import (
    Init,
    children,
    exit_code,
    kill_descendants,
    send_event,
)
from kubarium.node.runtimes.process.warm_python import Fresh

_END_PATIENCE_S = 0.1
# How long an init may be too busy to take a command; a stopped one never takes it.
_FORWARD_PATIENCE_S = 1.0
_MAX_DESCRIPTORS = 16
# How long pods go on without an agent: long enough to start it again, not for ever.
LINGER_S = 600.0
_EVENT_PIPE_BYTES, _F_SETPIPE_SZ = 1 << 20, 1031
PLAIN, USER_NAMESPACE, ROOT = "plain", "user-namespace", "root"


# A control connection: the init's end and ours.
_Pair = tuple[socket.socket, socket.socket]


@dataclass(slots=True)
class _Sandbox:
    """What the containers of one pod share."""

    namespaces: list[tuple[int, int]] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Container:
    ident: str
    pid: int
    control: socket.socket


class Zygote:
    """Commands in, forks and events out."""

    def __init__(
        self,
        level: str,
        events: int,
        groups: list[str],
        name: str = "",
        unread: int = -1,
        linger_s: float = LINGER_S,
    ) -> None:
        """``groups``: control groups that are to vanish with the containers. With a ``name`` the
        zygote survives its agent; ``unread`` is the other end of the pipe for events."""
        self._linger_s = linger_s
        self._listener = _listen(name) if name else None
        self._unread = unread
        self._level = level
        self._events = events
        self._groups = groups
        self._commands = socket.socket(fileno=0)
        self._descriptors: list[int] = []
        self._wakeup = -1
        self._limits = {"NOFILE": _many_descriptors()}
        self._warm = ForkServers(level, events, sys.path[0], self._limits)
        self._sandboxes: dict[str, _Sandbox] = {}
        self._by_pid: dict[int, _Container] = {}
        self._by_ident: dict[str, _Container] = {}
        # Containers that a fork server was asked for, in case that it cannot.
        self._cold: dict[str, dict[str, Any]] = {}
        self._pending = b""
        self._router = -1

    def prepare(self) -> None:
        """Enter the zygote's own namespaces; OSError where the level is not to be had."""
        if sys.platform == "linux":
            linux.become_subreaper()
        if self._level == PLAIN:
            return
        if self._level == USER_NAMESPACE:
            outer = (os.geteuid(), os.getegid())
            linux.unshare(linux.CLONE_NEWUSER)
            linux.map_single_user(0, 0, *outer)
        # Our own (in a user namespace: owned by it), so that we may come back to them.
        linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC)
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)

    def run(self) -> None:
        """Serve until standard input ends."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._wakeup = read
        while True:
            ready = select.select([0, read, *self._warm.links], [], [])[0]
            if read in ready:
                os.read(read, 512)
            if 0 in ready and not self._read_commands() and not self._wait_for_agent():
                break
            for link in set(ready) & self._warm.links.keys():
                for forked in self._warm.read(link):
                    self._take_warm(forked)
            self._reap()
        self._end()

    # Without an agent --------------------------------------------------------------------------

    def _do_end(self, command: dict[str, Any]) -> None:
        """The agent is about to go for good."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _wait_for_agent(self) -> bool:
        """Until another agent has come; false if none is to be expected (any more)."""
        end = time.monotonic_ns() / 1e9 + self._linger_s
        while self._listener is not None:
            left = end - time.monotonic_ns() / 1e9
            if left <= 0:
                break
            listener = self._listener
            waiting: list[Any] = [listener, self._wakeup]
            ready = select.select(waiting, [], [], left)[0]
            if self._wakeup in ready:
                os.read(self._wakeup, 512)
                self._reap()
            if listener in ready and self._accept(listener):
                return True
        return False

    def _accept(self, listener: socket.socket) -> bool:
        """Take commands from who has connected, if it is the same user; say what there is."""
        with listener.accept()[0] as peer:
            raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            if struct.unpack("3i", raw)[1] != os.geteuid():
                return False
            for descriptor in self._descriptors:
                os.close(descriptor)
            self._descriptors, self._pending = [], b""
            there = {ident: container.pid for ident, container in self._by_ident.items()}
            greeting = {"level": self._level, "pid": os.getpid(), "containers": there}
            try:
                socket.send_fds(peer, [b"+"], [self._unread])
                peer.sendall(json.dumps(greeting).encode() + b"\n")
            except OSError:
                return False
            self._commands.detach()
            os.dup2(peer.fileno(), 0, inheritable=False)
        self._commands = socket.socket(fileno=0)
        return True

    def _read_commands(self) -> bool:
        data, descriptors = receive(self._commands, 1 << 20, _MAX_DESCRIPTORS)
        self._descriptors += descriptors
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            command = json.loads(line)
            try:
                getattr(self, f"_do_{command['op']}")(command)
            except OSError as error:
                message = f"{error.strerror or error}"
                self.report({"event": "failed", "id": command["id"], "message": message})
        return bool(data)

    def report(self, event: dict[str, Any]) -> None:
        send_event(self._events, event)

    # Commands ----------------------------------------------------------------------------------

    def _do_sandbox(self, command: dict[str, Any]) -> None:
        sandbox = _Sandbox()
        if command.get("network"):
            with socket.socket(fileno=self._descriptors.pop(0)) as peer:
                sandbox.namespaces.append((_make_network(command, peer), linux.CLONE_NEWNET))
        if self._level != PLAIN:
            self._make_namespaces(sandbox, command["hostname"])
            for path, options in command["tmpfs"]:
                linux.mount("tmpfs", path, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, options)
                sandbox.mounts.append(path)
        self._sandboxes[command["id"]] = sandbox
        self.report({"event": "ready", "id": command["id"]})

    def _make_namespaces(self, sandbox: _Sandbox, hostname: str) -> None:
        kinds = {"uts": linux.CLONE_NEWUTS, "ipc": linux.CLONE_NEWIPC}
        own = {name: os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in kinds}
        try:
            linux.unshare(linux.CLONE_NEWUTS | linux.CLONE_NEWIPC)
            linux.sethostname(hostname)
            for name, kind in kinds.items():
                descriptor = os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
                sandbox.namespaces.append((descriptor, kind))
        finally:
            for name, descriptor in own.items():
                linux.setns(descriptor, kinds[name])
                os.close(descriptor)

    def _do_router(self, command: dict[str, Any]) -> None:
        """The network that joins those of the pods."""
        with socket.socket(fileno=self._descriptors.pop(0)) as peer:
            router = _make_network(command, peer)
        if self._router >= 0:
            os.close(self._router)
        self._router = router
        self.report({"event": "ready", "id": command["id"]})

    def _do_sockets(self, command: dict[str, Any]) -> None:
        """Sockets in a pod's network, or the router's; none if there is no such network."""
        sandbox = self._sandboxes.get(command["sandbox"], _Sandbox())
        found = [fd for fd, kind in sandbox.namespaces if kind == linux.CLONE_NEWNET]
        namespace = found[0] if found else -1 if command["sandbox"] else self._router
        with socket.socket(fileno=self._descriptors.pop(0)) as peer:
            if namespace >= 0:
                kinds = [tuple(kind) for kind in command["sockets"]]
                _hand_over(peer, networks.sockets_in(namespace, kinds))

    def _do_remove(self, command: dict[str, Any]) -> None:
        sandbox = self._sandboxes.pop(command["id"], _Sandbox())
        for descriptor, _ in sandbox.namespaces:
            os.close(descriptor)
        for path in reversed(sandbox.mounts):
            linux.unmount(path)
        self.report({"event": "ready", "id": command["id"]})

    def _do_start(self, command: dict[str, Any]) -> None:
        sandbox = self._sandboxes.get(command["sandbox"])
        if sandbox is None:
            raise OSError(0, f"no sandbox {command['sandbox']}")
        inner, outer = socket.socketpair()
        outer.settimeout(_FORWARD_PATIENCE_S)
        try:
            key = self._warm.start(command, sandbox.namespaces, inner)
            if key is not None:
                self._warm.expect(key, command["id"], outer)
                self._cold[command["id"]] = command
                return
            self._start_cold(command, sandbox, (inner, outer))
        except OSError:
            outer.close()
            raise
        finally:
            inner.close()

    def _start_cold(self, command: dict[str, Any], sandbox: _Sandbox, control: _Pair) -> None:
        def become_init() -> None:
            # Given once the zygote is our parent, and has told of us: what we have to tell must not
            # be heard before that, as it would be of a command that ends at once.
            control[1].close()
            if not control[0].recv(1):
                os._exit(1)  # the zygote has been killed
            self._become_init(command, sandbox, control)

        if self._level == PLAIN:
            pid = os.fork()
            if pid == 0:
                become_init()
        else:
            pid = self._fork_into_pid_namespace(command, become_init)
        self._note(command["id"], pid, control[1])
        control[1].send(b"\0")

    def _note(self, ident: str, pid: int, outer: socket.socket) -> None:
        container = _Container(ident, pid, outer)
        self._by_pid[pid] = self._by_ident[ident] = container
        self.report({"event": "forked", "id": ident, "pid": pid})

    def _take_warm(self, forked: Forked) -> None:
        """A fork server's answer: a container has its init, or starts cold after all."""
        command = self._cold.pop(forked.ident)
        if forked.pid:
            self._note(forked.ident, forked.pid, forked.control)
            with contextlib.suppress(OSError):
                forked.control.send(b"\0")
            self._kill_strays()
            return
        forked.control.close()
        command["spec"]["warm"] = []
        try:
            self._do_start(command)
        except OSError as error:
            message = f"{error.strerror or error}"
            self.report({"event": "failed", "id": forked.ident, "message": message})

    def become_warm_init(
        self,
        command: dict[str, Any],
        namespaces: list[tuple[int, int]],
        control: socket.socket,
        fresh: Fresh,
    ) -> None:
        """In a process that a fork server has forked, whose standard input is ours by name only."""
        self._commands.detach()
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.setsid()
        limits, spec = self._limits, command["spec"]
        Init(command["id"], spec, control, self._events, limits, fresh).run(namespaces)

    def _fork_into_pid_namespace(
        self, command: dict[str, Any], become_init: Callable[[], None]
    ) -> int:
        def enter() -> None:
            target = self._by_ident.get(command["spec"].get("beside") or "")
            if target is None:
                linux.unshare(linux.CLONE_NEWPID)
                return
            with open(f"/proc/{target.pid}/ns/pid", "rb") as namespace:
                linux.setns(namespace.fileno(), linux.CLONE_NEWPID)

        return _fork_between(enter, become_init)

    def _become_init(self, command: dict[str, Any], sandbox: _Sandbox, control: _Pair) -> None:
        try:
            signal.set_wakeup_fd(-1)
            for other in self._by_pid.values():
                other.control.close()
            self._warm.forget()
            os.close(self._wakeup)
            null = os.open("/dev/null", os.O_RDONLY)
            self._commands.detach()
            for descriptor in self._descriptors:  # meant for other containers
                os.close(descriptor)
            self._let_go_of_networks(sandbox)
            if self._listener is not None:
                self._listener.close()
                os.close(self._unread)
            os.dup2(null, 0)
            os.setsid()
            limits, spec = self._limits, command["spec"]
            kind = Shim if spec.get("runtime") else Init
            kind(command["id"], spec, control[0], self._events, limits).run(sandbox.namespaces)
        finally:
            os._exit(1)

    def _let_go_of_networks(self, but: _Sandbox) -> None:
        """An init must not keep what belongs to other pods beyond their end."""
        if self._router >= 0:
            os.close(self._router)
        for sandbox in self._sandboxes.values():
            if sandbox is not but:
                for descriptor, _ in sandbox.namespaces:
                    os.close(descriptor)

    def _do_destroy(self, command: dict[str, Any]) -> None:
        """For an init that no longer listens (someone stopped it)."""
        container = self._by_ident.get(command["id"])
        if container is None:
            self._cancel_warm(command["id"])
            return
        if self._level == PLAIN:
            kill_descendants(container.pid, frozenset())
        # In a pid namespace the end of its init is the end of every process in it.
        os.kill(container.pid, signal.SIGKILL)

    def _cancel_warm(self, ident: str) -> None:
        """Killed while its fork server was still importing."""
        if self._warm.cancel(ident):
            del self._cold[ident]
            message = "the container was killed before it started"
            self.report({"event": "failed", "id": ident, "message": message})

    def _do_signal(self, command: dict[str, Any]) -> None:
        if command["signal"] == signal.SIGKILL:
            self._cancel_warm(command["id"])
        self._forward(command)

    def _do_attach(self, command: dict[str, Any]) -> None:
        """Without a container the descriptor is closed, which says enough."""
        self._forward(command, self._descriptors.pop(0))

    def _do_exec(self, command: dict[str, Any]) -> None:
        descriptor = self._descriptors.pop(0) if command.get("stream") else -1
        if not self._forward(command, descriptor):
            message = "container is not running"
            self.report(
                {"event": "exec", "id": command["id"], "exec": command["exec"], "code": 126}
                | {"message": message}
            )

    def _forward(self, command: dict[str, Any], descriptor: int = -1) -> bool:
        container = self._by_ident.get(command["id"])
        try:
            if container is None:
                return False
            data = json.dumps(command).encode() + b"\n"
            if descriptor >= 0:
                data = data[socket.send_fds(container.control, [data], [descriptor]) :]
            container.control.sendall(data)
        except OSError:
            return False
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return True

    # Ends --------------------------------------------------------------------------------------

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            container = self._by_pid.pop(pid, None)
            if container is None:
                self._kill_strays()  # an orphan has ended: its own children are ours now
                continue
            del self._by_ident[container.ident]
            container.control.close()
            self._kill_strays()
            code, number = exit_code(status)
            self.report({"event": "gone", "id": container.ident, "code": code, "signal": number})

    def _kill_strays(self) -> None:
        """Plain level: orphans of an init that was itself killed have become our children. Only
        those and what is below them go: other containers may just be starting processes."""
        if self._level != PLAIN or self._cold:
            return  # an init of a fork server may be among them, of whom we have not heard yet
        for pid in children(os.getpid()):
            if pid not in self._by_pid and pid not in self._warm.pids:
                kill_descendants(pid, frozenset())
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _end(self) -> None:
        self._warm.close()
        for container in self._by_pid.values():
            container.control.close()
        if self._level == PLAIN:
            # Plain inits kill what they hold when their control pipe ends; sweep up after them.
            select.select([], [], [], _END_PATIENCE_S)
            kill_descendants(os.getpid(), frozenset())
        else:
            for container in self._by_pid.values():
                os.kill(container.pid, signal.SIGKILL)
        while True:
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                break
        for folder in self._groups:
            remove_groups(folder)


def fork_reparented(level: str, become: Callable[[], None]) -> int:
    """A process of the nearest subreaper's, in a pid namespace of its own unless the level is
    PLAIN. OSError if that cannot be."""

    def enter() -> None:
        if level != PLAIN:
            linux.unshare(linux.CLONE_NEWPID)

    return _fork_between(enter, become)


def _fork_between(enter: Callable[[], None], become: Callable[[], None]) -> int:
    """A process in between enters the namespace, so that we never have to leave it again (which a
    user namespace forbids). Its child, which ``become``s, is the subreaper's."""
    answer, end = os.pipe()
    between = os.fork()
    if between == 0:
        try:
            os.close(answer)
            enter()
            pid = os.fork()
            if pid == 0:
                os.close(end)
                become()
            os.write(end, str(pid).encode())
        except OSError as error:
            os.write(end, str(error).encode())
        finally:
            os._exit(0)
    os.close(end)
    with os.fdopen(answer, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(between, 0)
    if not text.isdigit():
        raise OSError(0, text)
    return int(text)


def _many_descriptors() -> tuple[int, int]:
    """Allow ourselves as many as we may have: a pod takes about four. Returns what was allowed."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # a Mac's own bound is below "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    return before


def _listen(name: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(f"\0{name}")
    listener.listen(4)
    return listener


def _make_network(command: dict[str, Any], peer: socket.socket) -> int:
    """A new network, whose sockets go to ``peer``; its descriptor."""
    kinds = [tuple(kind) for kind in command["sockets"]]
    namespace, *found = networks.new_network(kinds, command.get("sysctls", {}))
    _hand_over(peer, [os.dup(namespace), *found])
    return namespace


def _hand_over(peer: socket.socket, descriptors: list[int]) -> None:
    """Give them away, and keep none. That nobody waits for them any more is no error."""
    try:
        socket.send_fds(peer, [b"+"], descriptors)
    except OSError:
        return
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def main() -> None:
    """``sys.argv``: the level, the inherited descriptors for events (both ends of the pipe), the
    name to be found by, how long to wait for the next agent, and our control groups."""
    level, events, unread, name, linger_s, *groups = sys.argv[1:]
    for descriptor in (int(events), int(unread)):
        os.set_inheritable(descriptor, False)
    try:
        zygote = Zygote(level, int(events), groups, name, int(unread), float(linger_s))
    except OSError as error:
        text = f"another agent's containers still run here ({error.strerror})"
        send_event(int(events), {"event": "refused", "id": "", "message": text})
        return
    if name:
        with contextlib.suppress(OSError):
            fcntl.fcntl(int(events), _F_SETPIPE_SZ, _EVENT_PIPE_BYTES)
    else:
        os.close(int(unread))
    try:
        zygote.prepare()
    except OSError as error:
        zygote.report({"event": "refused", "id": "", "message": str(error.strerror)})
        return
    zygote.report({"event": "ready", "id": ""})
    gc.collect()
    gc.freeze()  # keeps the collector from dirtying pages that the forks share
    zygote.run()
