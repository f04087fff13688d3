"""Where the processes of node agents come from.

The first is forked before the server has threads or an event loop, and imports what agents alone
need while the server starts: it becomes an agent in milliseconds, and shares its code's memory with
the server. It does not stay to fork the next one: a process that only keeps untouched copies of
what its relatives have written over since costs as much memory as an agent. So an agent that is
started again begins with a new interpreter, and takes a second to import.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import NoReturn

from kubarium.base.descriptors import receive
from kubarium.base.errors import ConfigError, KubariumError
from kubarium.cluster.agent_wire import AgentLaunch

_LENGTH = struct.Struct("=I")
# An HTTP client: what a server does without.
_AGENT = "kubarium.cluster.agent_process"
_NEW_INTERPRETER = (
    "import sys; sys.path[:] = sys.argv[2:];"
    "from kubarium.cluster.nursery import grow_up; grow_up(int(sys.argv[1]))"
)
RunAgent = Callable[[AgentLaunch, socket.socket], None]


class Nursery:
    """Make one while the process has a single thread and no event loop."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        gc.collect()
        gc.freeze()  # keeps the collector from dirtying pages that the forks share
        pid = os.fork()
        if pid == 0:
            _close_all_but(theirs.fileno())
            grow_up(theirs.fileno())
        gc.unfreeze()
        theirs.close()
        self._waiting: tuple[int, socket.socket] | None = (pid, ours)

    def start(self, launch: AgentLaunch) -> tuple[int, socket.socket]:
        """Have an agent: its process id (a child of ours), and the socket to it.

        ConfigError if that fails.
        """
        pid, requests = self._waiting or _spawn()
        self._waiting = None
        ours, theirs = socket.socketpair()
        data = pickle.dumps(launch)
        with theirs, requests:
            try:
                socket.send_fds(requests, [_LENGTH.pack(len(data))], [theirs.fileno()])
                requests.sendall(data)
            except OSError as error:
                ours.close()
                raise ConfigError(f"a node agent cannot be started: {error}") from None
        return pid, ours

    def close(self) -> None:
        if self._waiting is not None:
            self._waiting[1].close()


def _spawn() -> tuple[int, socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-c", _NEW_INTERPRETER, str(theirs.fileno()), *sys.path]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    process.returncode = 0  # whoever has its id waits for it
    return process.pid, ours


def _close_all_but(kept: int) -> None:
    """Whoever waits for the end of a pipe that the server holds must not wait for us."""
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def grow_up(descriptor: int) -> NoReturn:
    """A future agent's whole life; it ends, too, if the server has gone before it is asked."""
    code = 1
    try:
        requests = socket.socket(fileno=descriptor)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        run_agent: RunAgent = import_module(_AGENT).run_agent
        gc.collect()
        gc.freeze()
        head, descriptors = receive(requests, _LENGTH.size, 1)
        if len(head) == _LENGTH.size and descriptors:
            launch: AgentLaunch = pickle.loads(_exactly(requests, _LENGTH.unpack(head)[0]))
            requests.close()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            run_agent(launch, socket.socket(fileno=descriptors[0]))
        code = 0
    except KubariumError as error:
        sys.stderr.write(f"node agent: {error}\n")
    except BaseException:  # the log is all that anyone will see
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data
