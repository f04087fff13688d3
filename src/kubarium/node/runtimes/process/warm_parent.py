"""The parent of warm containers: imports, then forks an init for each start that the zygote asks.

It is a zygote without containers of its own: an init that it forks becomes the real zygote's child
(the nearest subreaper) before it starts. It must have one thread only: what others hold at a fork
is lost. One that has more, or cannot import, says so, and the containers start cold.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import json
import linecache
import os
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from kubarium.base.descriptors import receive
from kubarium.node.runtimes.process import linux, warm_shim
from kubarium.node.runtimes.process.warm_commands import shared_environment
from kubarium.node.runtimes.process.warm_python import Fresh
from kubarium.node.runtimes.process.zygote import Zygote, fork_reparented

_MAX_DESCRIPTORS = 16
_MAX_REQUEST = 1 << 20


class WarmParent:
    """Requests on standard input, answers on the same socket."""

    def __init__(self, level: str, events: int, fresh: Fresh, idle_s: float) -> None:
        self._level = level
        self._zygote = Zygote(level, events, [])
        self._fresh = fresh
        self._idle_s = idle_s
        self._link = socket.socket(fileno=0)
        self._received = b""
        self._descriptors: list[int] = []

    def serve(self, problem: str) -> None:
        """Until the zygote goes or nobody has asked for long. With a ``problem`` every request is
        answered with it."""
        self._link.sendall(b'{"ready": true}\n')
        while select.select([0], [], [], self._idle_s)[0]:
            data, found = receive(self._link, _MAX_REQUEST, _MAX_DESCRIPTORS)
            self._descriptors += found
            if not data:
                return
            *lines, self._received = (self._received + data).split(b"\n")
            if not problem and self._fresh.is_stale():
                problem = "what was imported has changed on disk"
            for line in lines:
                self._answer(json.loads(line), problem)
            if problem and self._fresh.is_stale():
                return  # the next one asked will import it anew

    def _answer(self, request: dict[str, Any], problem: str) -> None:
        command = request["command"]
        kinds = request["namespaces"]
        own, self._descriptors = (
            self._descriptors[: 1 + len(kinds)],
            self._descriptors[1 + len(kinds) :],
        )
        pid, message = 0, problem
        if not problem:
            try:
                pid = self._fork(command, own[0], list(zip(own[1:], kinds, strict=True)))
            except OSError as error:
                message = error.strerror or str(error)
        for descriptor in own:
            os.close(descriptor)
        answer = {"id": command["id"], "pid": pid, "message": message}
        self._link.sendall(json.dumps(answer).encode() + b"\n")

    def _fork(
        self, command: dict[str, Any], control: int, namespaces: list[tuple[int, int]]
    ) -> int:
        def become_init() -> None:
            connection = socket.socket(fileno=os.dup(control))
            if not connection.recv(1):  # given once the zygote is our parent and knows of us
                os._exit(1)  # we are not wanted any more
            for descriptor in self._descriptors:  # of starts to come
                os.close(descriptor)
            self._link.detach()
            self._zygote.become_warm_init(command, namespaces, connection, self._fresh)

        return fork_reparented(self._level, become_init)


def _threads() -> int:
    """How many threads a fork leaves us with: OpenBLAS ends its own before one, and starts them
    again in whoever needs them."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return len(os.listdir("/proc/self/task"))


def _import(names: str) -> str:
    """Import what is heavy; "" or why children cannot be forked from here."""
    for name in names.split(","):
        try:
            importlib.import_module(name)
        except Exception as error:
            if "." in name:
                continue  # a part that this version lacks
            return f"{name} cannot be imported: {error}"
    return "" if _threads() == 1 else f"importing {names} has started threads"


def _find_modules() -> None:
    """What ``inspect`` works out once about all modules, and torch's launcher asks for: where their
    files lie. Each fork would do it again, and touch every module's memory."""
    inspect.getmodule(main.__code__)
    for name, module in list(sys.modules.items()):
        if name.startswith("torch.distributed.elastic.") or name == "torch.distributed.run":
            linecache.getlines(getattr(module, "__file__", None) or "", vars(module))


def main() -> None:
    """``sys.argv``: the level, the descriptor for events, the modules, seconds to stay idle."""
    level, events, names, idle_s = sys.argv[1:5]
    os.set_inheritable(int(events), False)
    if sys.platform == "linux":
        linux.die_with_parent(signal.SIGKILL)
    sys.path[:] = sys.path[2:]  # without Kubarium's place and the current folder
    added = _added_by_start()
    given = {key: value for key, value in os.environ.items() if key not in added}
    shim = Path(warm_shim.__file__).read_bytes()
    fresh = Fresh(list(sys.path), added, shared_environment(given), shim)
    parent = WarmParent(level, int(events), fresh, float(idle_s))
    problem = _import(names)
    fresh.note_modules()
    _find_modules()
    gc.collect()
    gc.freeze()  # keeps the collector from dirtying pages that the forks share
    parent.serve(problem)


def _added_by_start() -> dict[str, str]:
    """Variables that the interpreter itself has set, such as LC_CTYPE in the C locale."""
    with open("/proc/self/environ", "rb") as file:
        given = {entry.partition(b"=")[0] for entry in file.read().split(b"\0")}
    return {key: value for key, value in os.environ.items() if os.fsencode(key) not in given}
