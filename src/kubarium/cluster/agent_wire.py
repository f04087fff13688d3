"""What the server's process and a node agent's process say to each other.

One socket between them carries a JSON line for each request, and with it the end of a fresh
socket for the answer. There the first line is a JSON object (with ``error`` if it went wrong);
after it come bytes, or the descriptors of a command's own streams. The sockets have no names, so
nobody else can take part.
"""

from __future__ import annotations

import asyncio
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubarium.base.errors import ApiError
from kubarium.node.config import NodeConfig

MAX_LINE = 1 << 16
MAX_DESCRIPTORS = 4


@dataclass(frozen=True, slots=True)
class AgentLaunch:
    """What the server's process hands to the agent's."""

    config: NodeConfig
    server: str  # URL
    authority: Path  # what has signed the server's certificate
    certificate: Path
    key: Path


def error_document(error: Exception) -> dict[str, Any]:
    """An exception as the other process raises it again."""
    if isinstance(error, ApiError):
        return {"error": error.status(), "kind": "api"}
    return {"error": str(error), "kind": "connection"}


def raise_error(answer: dict[str, Any]) -> None:
    """The error in an answer, if there is one: ApiError or ConnectionError."""
    error = answer.get("error")
    if error is None:
        return
    if answer.get("kind") == "api":
        raise ApiError(error["code"], error["reason"], error["message"], error.get("details") or {})
    raise ConnectionError(error)


async def send_line(peer: socket.socket, document: dict[str, Any], *descriptors: int) -> None:
    """One JSON line, with descriptors; OSError if nobody is there any more."""
    data = json.dumps(document).encode() + b"\n"
    if descriptors:
        sent = socket.send_fds(peer, [data], list(descriptors))
        data = data[sent:]
    if data:
        await asyncio.get_running_loop().sock_sendall(peer, data)
