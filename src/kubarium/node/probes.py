"""Making one probe: HTTP, TCP, gRPC; kubelet's outcomes and wording (source: ``pkg/probe``)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Any

SUCCESS, FAILURE, ERROR = "success", "failure", "error"
Outcome = tuple[str, str]
_Opened = tuple[asyncio.StreamReader, asyncio.StreamWriter]
# (host, port, TLS): a connection as the node makes it
Connect = Callable[[str, int, ssl.SSLContext | None], Awaitable[_Opened]]
_MAX_BODY_BYTES = 10 * 1024


def port_number(port: int | str, container: Mapping[str, Any]) -> int | None:
    """A probe's port; names are those of the container's ports."""
    if isinstance(port, int):
        return port
    for entry in container.get("ports") or ():
        if entry.get("name") == port:
            return int(entry["containerPort"])
    return int(port) if port.isdigit() else None


async def network_probe(
    probe: Mapping[str, Any],
    container: Mapping[str, Any],
    pod_ip: str,
    timeout_s: float,
    connect: Connect | None = None,
) -> Outcome:
    """An ``httpGet``, ``tcpSocket`` or ``grpc`` probe (or hook) against a pod."""
    call = probe.get("grpc")
    if call is not None:
        # Late: few pods have such probes, and HTTP/2 takes 2 MB.
        made: Outcome = await import_module("kubarium.node.grpc_probe").grpc_probe(
            pod_ip, call["port"], call.get("service") or "", timeout_s, connect or _plainly
        )
        return made
    action = probe.get("httpGet") or probe.get("tcpSocket")
    if action is None:
        return ERROR, "missing probe handler"
    number = port_number(action["port"], container)
    if number is None:
        return ERROR, f"couldn't find port: {action['port']}"
    host = action.get("host") or pod_ip
    if probe.get("httpGet"):
        return await http_probe(action, host, number, timeout_s, connect)
    return await tcp_probe(host, number, timeout_s, connect)


async def _plainly(host: str, port: int, tls: ssl.SSLContext | None) -> _Opened:
    return await asyncio.open_connection(host, port, ssl=tls)


async def tcp_probe(
    host: str, port: int, timeout_s: float, connect: Connect | None = None
) -> Outcome:
    """Succeeds if a connection can be made."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await (connect or _plainly)(host, port, None)
    except TimeoutError:
        return FAILURE, f"dial tcp {host}:{port}: i/o timeout"
    except OSError as error:
        return FAILURE, f"dial tcp {host}:{port}: connect: {reason(error)}"
    writer.close()
    return SUCCESS, ""


async def http_probe(
    action: Mapping[str, Any],
    host: str,
    port: int,
    timeout_s: float,
    connect: Connect | None = None,
) -> Outcome:
    """Succeeds with a status from 200 to 399."""
    scheme = (action.get("scheme") or "HTTP").lower()
    path = action.get("path") or "/"
    path = path if path.startswith("/") else f"/{path}"
    url = f"{scheme}://{host}:{port}{path}"
    try:
        async with asyncio.timeout(timeout_s):
            context = _unverified() if scheme == "https" else None
            opened = await (connect or _plainly)(host, port, context)
            status = await _get(*opened, path, _headers(action, host, port))
    except TimeoutError:
        text = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        return FAILURE, f'Get "{url}": {text}'
    except (OSError, EOFError, ValueError) as error:
        return FAILURE, f'Get "{url}": {_dial(error, host, port)}'
    if 200 <= status < 400:
        return SUCCESS, ""
    return FAILURE, f"HTTP probe failed with statuscode: {status}"


def _headers(action: Mapping[str, Any], host: str, port: int) -> dict[str, str]:
    headers = {"Host": f"{host}:{port}", "User-Agent": "kube-probe/1.37", "Accept": "*/*"}
    for entry in action.get("httpHeaders") or ():
        headers[entry["name"]] = entry.get("value") or ""
    return headers | {"Connection": "close"}


def _unverified() -> ssl.SSLContext:
    """kubelet does not verify either."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _get(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, headers: dict[str, str]
) -> int:
    try:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        await writer.drain()
        first = (await reader.readline()).split()
        if len(first) < 2 or not first[0].startswith(b"HTTP/"):
            raise EOFError("malformed HTTP response" if first else "EOF")
        await reader.read(_MAX_BODY_BYTES)
        return int(first[1])
    finally:
        writer.close()


def _dial(error: Exception, host: str, port: int) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"dial tcp {host}:{port}: connect: {reason(error)}"
    return str(error)


def reason(error: OSError) -> str:
    """Why a connection was not made, in the kernel's words."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return (error.strerror or str(error)).lower()
