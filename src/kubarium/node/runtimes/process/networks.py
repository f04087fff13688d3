"""Network namespaces, and sockets inside them, as open descriptors.

A process in between goes into the namespace and hands out what was opened there, so that the zygote
never leaves the machine's (to which a user namespace would not let it return). Descriptors are all
that keeps a network: it ends with the last of them, links and rules included, whoever was killed.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Sequence

from kubarium.base.descriptors import receive
from kubarium.node.runtimes.process import linux

# (family, type, protocol) of a socket.
SocketKind = tuple[int, int, int]
_MOST_SOCKETS = 64
# As container runtimes set them: low ports need no privilege inside a pod.
_SETTINGS = {
    "/proc/sys/net/ipv4/ip_unprivileged_port_start": "0",
    "/proc/sys/net/ipv4/ping_group_range": "0 2147483647",
}


def new_network(kinds: Sequence[SocketKind], sysctls: dict[str, str]) -> list[int]:
    """A new namespace: its descriptor, then a socket of each kind. OSError."""

    def enter() -> list[int]:
        linux.unshare(linux.CLONE_NEWNET)
        for path, value in _SETTINGS.items():
            with contextlib.suppress(OSError):
                _write(path, value)
        for name, value in sysctls.items():
            _write("/proc/sys/" + name.replace(".", "/"), value)
        return [os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)]

    return _from_inside(enter, kinds)


def sockets_in(namespace: int, kinds: Sequence[SocketKind]) -> list[int]:
    """A socket of each kind in an existing namespace. OSError."""

    def enter() -> list[int]:
        linux.setns(namespace, linux.CLONE_NEWNET)
        return []

    return _from_inside(enter, kinds)


def _from_inside(enter: Callable[[], list[int]], kinds: Sequence[SocketKind]) -> list[int]:
    ours, theirs = socket.socketpair()
    with ours:
        pid = os.fork()
        if pid == 0:
            try:
                ours.close()
                _give_all(enter, kinds, theirs)
            finally:
                os._exit(0)
        theirs.close()
        text, descriptors = receive(ours, 1 << 10, _MOST_SOCKETS)
        os.waitpid(pid, 0)
    if text != b"+":
        raise OSError(0, text.decode() or "the network process has ended")
    return descriptors


def _give_all(
    enter: Callable[[], list[int]], kinds: Sequence[SocketKind], peer: socket.socket
) -> None:
    try:
        found = enter()
        found += [socket.socket(*kind).detach() for kind in kinds]
    except OSError as error:
        peer.sendall((error.strerror or str(error)).encode()[:500])
        return
    socket.send_fds(peer, [b"+"], found)


def _write(path: str, value: str) -> None:
    try:
        with open(path, "w") as file:
            file.write(value)
    except OSError as error:
        raise OSError(error.errno, f"{path}: {error.strerror}") from None
