"""Fork servers: Python containers are forked from a parent that has imported what is heavy.

Importing torch costs a rank seconds and 200 MB; forked from a parent that has done it, milliseconds
and a tenth of the memory. There is one parent for each image environment: the interpreter, the
modules, and every variable that a library might read while it is imported. It is an interpreter
started as the container's own would be, so that flags, paths and hash seeds are the right ones.

This module is the zygote's side. ``warm_parent`` is the parent, ``warm_python`` what a forked child
does instead of starting an interpreter. Whatever they cannot do exactly as a fresh interpreter
would is started as one.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubarium.node.runtimes.process.warm_commands import (
    parents_environment,
    resolve,
    same_interpreter,
)

# Parents at a time; each holds what it has imported. Containers beyond start their own interpreter.
MAX_PARENTS = 4
# A parent that nobody has asked for so long goes.
IDLE_S = 600
ANNOTATION = "kubarium.dev/fork-server"
OFF = ("off", "false", "0")
# Image module -> what to import ahead. The first optimizer would import torch._dynamo.
HEAVY = {"torch": ("numpy", "torch", "torch._dynamo", "torch.distributed.run")}

_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1));"
    "from kubarium.node.runtimes.process.warm_parent import main; main()"
)

Key = tuple[str, tuple[str, ...], tuple[tuple[str, str], ...]]


def modules_for(image_modules: tuple[str, ...], annotations: Mapping[str, str]) -> list[str]:
    """What a container's parent is to import; [] for a container that is to start cold."""
    if annotations.get(ANNOTATION, "").lower() in OFF:
        return []
    return list(dict.fromkeys(m for name in image_modules for m in HEAVY.get(name, ())))


@dataclass(slots=True)
class _Parent:
    """A parent, and the starts that it has not answered yet: container -> our control socket.

    Until it has imported everything it reads nothing, so requests and their descriptors wait here:
    the zygote must never wait for it.
    """

    pid: int
    link: socket.socket
    is_ready: bool = False
    waiting: list[tuple[bytes, list[int]]] = field(default_factory=list)
    starting: dict[str, socket.socket] = field(default_factory=dict)
    received: bytes = b""

    def send_waiting(self) -> None:
        """OSError if the parent is gone."""
        while self.waiting:
            data, descriptors = self.waiting[0]
            done = socket.send_fds(self.link, [data], descriptors)
            self.link.sendall(data[done:])
            self.drop_first()

    def drop_first(self) -> None:
        _, descriptors = self.waiting.pop(0)
        for descriptor in descriptors:
            os.close(descriptor)

    def close(self) -> None:
        self.link.close()
        while self.waiting:
            self.drop_first()


@dataclass(frozen=True, slots=True)
class Forked:
    """A parent's answer: the init of a container, or why there is none (``pid`` 0)."""

    ident: str
    pid: int
    control: socket.socket
    message: str = ""


class ForkServers:
    """The parents of one zygote. Only the zygote's loop calls it."""

    def __init__(
        self, level: str, events: int, source: str, limits: dict[str, tuple[int, int]]
    ) -> None:
        """``source``: the folder that Kubarium is imported from. ``limits`` (of ``RLIMIT_…``) are
        those that the zygote itself began with, and that the parents are given back."""
        self._limits = limits
        self._level = level
        self._events = events
        self._source = source
        self._parents: dict[Key, _Parent] = {}

    @property
    def pids(self) -> set[int]:
        """Processes of ours that are no containers."""
        return {parent.pid for parent in self._parents.values()}

    @property
    def links(self) -> dict[int, Key]:
        """Descriptors to wait for, and whose they are."""
        return {parent.link.fileno(): key for key, parent in self._parents.items()}

    def start(
        self, command: dict[str, Any], namespaces: list[tuple[int, int]], inner: socket.socket
    ) -> Key | None:
        """Ask a parent for a container's init; None if it is to start cold. The answer comes
        through ``read``; ``expect`` says whom it is for."""
        key = _key_of(command["spec"])
        if key is None:
            return None
        parent = self._parents.get(key) or self._make(key)
        if parent is None:
            return None
        sent = {"command": command, "namespaces": [kind for _, kind in namespaces]}
        descriptors = [inner.fileno(), *(descriptor for descriptor, _ in namespaces)]
        data = json.dumps(sent).encode() + b"\n"
        parent.waiting.append((data, [os.dup(descriptor) for descriptor in descriptors]))
        if parent.is_ready:
            self._send(parent)
        return key

    def _send(self, parent: _Parent) -> None:
        """A parent that has just ended answers by the end of its link."""
        with contextlib.suppress(OSError):
            parent.send_waiting()

    def expect(self, key: Key, ident: str, outer: socket.socket) -> None:
        """``outer`` is our end of the control connection of a container that was asked for."""
        self._parents[key].starting[ident] = outer

    def cancel(self, ident: str) -> bool:
        """Forget a start that is not answered yet; True if there was one. An init that comes all
        the same finds its control connection closed, and ends."""
        for parent in self._parents.values():
            outer = parent.starting.pop(ident, None)
            if outer is not None:
                outer.close()
                return True
        return False

    def read(self, descriptor: int) -> Iterator[Forked]:
        """The answers that have come in on a link."""
        key = self.links[descriptor]
        parent = self._parents[key]
        try:
            data = parent.link.recv(1 << 16)
        except OSError:
            data = b""
        *lines, parent.received = (parent.received + data).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            if answer.get("ready"):
                parent.is_ready = True
                self._send(parent)
                continue
            outer = parent.starting.pop(answer["id"], None)
            if outer is not None:
                yield Forked(answer["id"], answer["pid"], outer, answer.get("message", ""))
        if not data:
            parent.close()
            del self._parents[key]
            for ident, outer in parent.starting.items():
                yield Forked(ident, 0, outer, "the fork server has ended")

    def close(self) -> None:
        """End all parents. Their containers are the zygote's."""
        for parent in self._parents.values():
            parent.close()
            os.kill(parent.pid, signal.SIGKILL)
        self._parents.clear()

    def forget(self) -> None:
        """For a process that the zygote forks: the parents are not its own."""
        for parent in self._parents.values():
            parent.close()
            for outer in parent.starting.values():
                outer.close()

    def _make(self, key: Key) -> _Parent | None:
        if len(self._parents) >= MAX_PARENTS:
            return None
        python, modules, environment = key
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            try:
                self._become_parent(python, modules, dict(environment), theirs)
            finally:
                os._exit(127)
        theirs.close()
        parent = self._parents[key] = _Parent(pid, ours)
        return parent

    def _become_parent(
        self,
        python: str,
        modules: tuple[str, ...],
        environment: dict[str, str],
        link: socket.socket,
    ) -> None:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for number in (1, 2):
            os.dup2(null, number)
        os.dup2(link.fileno(), 0)
        os.set_inheritable(self._events, True)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        os.umask(0o022)
        for name, limit in self._limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), limit)
        names = ",".join(modules)
        given = [self._source, self._level, str(self._events), names, str(IDLE_S)]
        os.execve(python, [python, "-c", _PROGRAM, *given], environment)


def _key_of(spec: Mapping[str, Any]) -> Key | None:
    """The environment that a container's parent must have; None if none can stand in."""
    if not spec.get("warm") or spec.get("beside"):
        return None
    command = resolve(spec["argv"], spec["env"])
    if command is None or (command.program is None and spec.get("tty")):
        return None
    usual = os.path.join(os.path.dirname(command.python), "python3")
    python = usual if same_interpreter(usual, command.python) else command.python
    environment = parents_environment(command, spec["env"])
    return python, tuple(spec["warm"]), tuple(environment.items())
