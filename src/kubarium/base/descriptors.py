"""Open files that come over a socket, on every system alike."""

from __future__ import annotations

import array
import os
import socket

_FLAG = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # Linux: set as they come, as one step


def receive(connection: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """At most ``size`` bytes and ``most`` descriptors, which programs that we start do not get.

    ``socket.recv_fds`` would not do: it drops its flags (CPython 3.9 to 3.13). Errors are those of
    recvmsg(2).
    """
    found = array.array("i")
    room = socket.CMSG_LEN(most * found.itemsize)
    data, ancillary, _, _ = connection.recvmsg(size, room, _FLAG)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(content[: len(content) - len(content) % found.itemsize])
    if not _FLAG:
        for descriptor in found:
            os.set_inheritable(descriptor, False)
    return data, found.tolist()
