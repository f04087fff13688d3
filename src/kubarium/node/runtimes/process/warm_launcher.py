"""In a forked launcher: its workers are forked too, from the nursery beside it.

torch's launcher starts each worker with ``subprocess.Popen``. Ours asks the nursery, and is the
real one for whatever that cannot do. The worker is the launcher's own child, with the streams,
folder, session, limits and signals that the real one would have given it.
"""

from __future__ import annotations

import inspect
import os
import socket
import subprocess
import sys
import threading
from typing import Any

from kubarium.node.runtimes.process import linux
from kubarium.node.runtimes.process.warm_shim import STARTED, launch_state, send

# Where torch takes Popen from.
_HANDLER = "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler"


def fork_workers_of(link: socket.socket) -> None:
    """Have torch's launcher in this process start its workers through a nursery."""
    handler = sys.modules.get(_HANDLER)
    if handler is None or getattr(handler, "Popen", None) is not subprocess.Popen:
        return
    parameters = inspect.signature(subprocess.Popen._execute_child).parameters  # type: ignore[attr-defined]
    if {"args", "p2cread", "c2pwrite", "errwrite", "start_new_session"} <= parameters.keys():
        handler.Popen = _popen_through(link, list(parameters)[1:])  # type: ignore[attr-defined]


def _popen_through(link: socket.socket, names: list[str]) -> type[subprocess.Popen[Any]]:
    lock = threading.Lock()

    class Popen(subprocess.Popen[Any]):
        """Popen, for programs that a nursery can fork."""

        def _execute_child(self, *values: Any) -> None:
            asked = dict(zip(names, values, strict=True))
            with lock:
                pid = _fork(link, asked) if _is_plain(asked) else 0
            if not pid:
                subprocess.Popen._execute_child(self, *values)  # type: ignore[attr-defined]
                return
            self.pid = pid
            self._child_created = True

    Popen.__qualname__ = "Popen"
    return Popen


def _is_plain(asked: dict[str, Any]) -> bool:
    """Whether all that is asked for is something that a nursery does."""
    unset = {
        "executable": None, "preexec_fn": None, "cwd": None, "startupinfo": None, "shell": False,
        "gid": None, "gids": None, "uid": None, "umask": -1, "process_group": -1,
        "p2cwrite": -1, "c2pread": -1, "errread": -1, "creationflags": 0, "pass_fds": (),
    }  # fmt: skip
    if any(asked.get(name, value) != value for name, value in unset.items()):
        return False
    args = asked["args"]
    return isinstance(args, (list, tuple)) and all(isinstance(one, str) for one in args)


def _fork(link: socket.socket, asked: dict[str, Any]) -> int:
    """The worker's process id; 0 if it is to be started as ever."""
    given = [asked["p2cread"], asked["c2pwrite"], asked["errwrite"]]
    streams = [number if given[number] == -1 else given[number] for number in range(3)]
    environment = os.environb if asked["env"] is None else asked["env"]
    request = {
        "argv": list(asked["args"]),
        "environment": {os.fsencode(k): os.fsencode(v) for k, v in environment.items()},
        "state": launch_state(),
        "new_session": bool(asked["start_new_session"]),
    }
    read, write = os.pipe()
    here = os.open(".", os.O_RDONLY)
    before = linux.set_subreaper(True)
    try:
        send(link, request, [*streams, here, write])
        os.close(write)
        write = -1
        return _answer(read)
    except (OSError, ValueError):
        return 0
    finally:
        linux.set_subreaper(before)
        for descriptor in {read, write, here} - {-1}:
            os.close(descriptor)


def _answer(read: int) -> int:
    data = b""
    while (piece := os.read(read, 64)) and not (data + piece).partition(b"\n")[2]:
        data += piece
    data += piece
    number, _, word = data.partition(b"\n")
    if not number.isdigit():
        return 0
    if word[:1] == STARTED:
        return int(number)
    os.waitpid(int(number), 0)
    return 0
