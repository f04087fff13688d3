"""Open files that come over a socket, on every system alike."""

from __future__ import annotations

import os
import socket

_FLAG = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # Linux: set as they come, as one step


def receive(connection: socket.socket, size: int, most: int) -> tuple[bytes, list[int]]:
    """At most ``size`` bytes and ``most`` descriptors, which programs that we start do not get.

    Errors are those of recvmsg(2).
    """
    data, found, _, _ = socket.recv_fds(connection, size, most, _FLAG)
    if not _FLAG:
        for descriptor in found:
            os.set_inheritable(descriptor, False)
    return data, found
