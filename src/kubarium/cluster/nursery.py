"""A process that forks node agents.

It is forked itself before the server has threads or an event loop, and imports what agents alone
need while the server starts: an agent then starts (and starts again) in milliseconds, and shares
its code's memory with the server.
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import NoReturn

from kubarium.base.errors import ConfigError, KubariumError
from kubarium.cluster.agent_wire import AgentLaunch

_LENGTH = struct.Struct("=I")
# An HTTP client and kubeconfig: what a server does without.
_AGENT = "kubarium.cluster.agent_process"
RunAgent = Callable[[AgentLaunch, socket.socket], None]


class Nursery:
    """Make one while the process has a single thread and no event loop."""

    def __init__(self) -> None:
        self._ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        gc.collect()
        gc.freeze()  # keeps the collector from dirtying pages that the forks share
        if os.fork() == 0:
            _close_all_but(theirs.fileno())
            _serve(theirs)
        gc.unfreeze()
        theirs.close()

    def start(self, launch: AgentLaunch) -> tuple[int, socket.socket]:
        """Fork an agent: its process id, and the socket to it. ConfigError if that fails."""
        ours, theirs = socket.socketpair()
        data = pickle.dumps(launch)
        with theirs:
            try:
                socket.send_fds(self._ours, [_LENGTH.pack(len(data))], [theirs.fileno()])
                self._ours.sendall(data)
                answer = self._ours.recv(_LENGTH.size)
            except OSError:
                answer = b""
        if len(answer) != _LENGTH.size:
            ours.close()
            raise ConfigError("node agents cannot be started any more: start kubarium anew")
        return _LENGTH.unpack(answer)[0], ours

    def close(self) -> None:
        self._ours.close()


def _close_all_but(kept: int) -> None:
    """Whoever waits for the end of a pipe that the server holds must not wait for us."""
    os.closerange(3, kept)
    os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))


def _serve(requests: socket.socket) -> NoReturn:
    """The nursery's whole life: until the server's process has gone."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody needs their exit codes
        run_agent: RunAgent = import_module(_AGENT).run_agent
        gc.collect()
        gc.freeze()
        while True:
            flags = socket.MSG_CMSG_CLOEXEC
            head, descriptors, _, _ = socket.recv_fds(requests, _LENGTH.size, 1, flags)
            if len(head) != _LENGTH.size or not descriptors:
                break
            data = _exactly(requests, _LENGTH.unpack(head)[0])
            pid = os.fork()
            if pid == 0:
                requests.close()
                _become_agent(run_agent, data, descriptors[0])
            os.close(descriptors[0])
            requests.sendall(_LENGTH.pack(pid))
        code = 0
    finally:
        os._exit(code)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _become_agent(run_agent: RunAgent, data: bytes, control: int) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        launch: AgentLaunch = pickle.loads(data)
        run_agent(launch, socket.socket(fileno=control))
        code = 0
    except KubariumError as error:
        sys.stderr.write(f"node agent: {error}\n")
    except BaseException:  # the log is all that anyone will see
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
