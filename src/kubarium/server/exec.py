"""Subresources that talk to a pod: exec, attach and port-forward over WebSocket or SPDY, and logs.

Channels are those of ``v5.channel.k8s.io``: the first byte of each message says which stream it
belongs to (source: ``apimachinery/pkg/util/remotecommand``, ``client-go/tools/remotecommand``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace

from kubarium.api.logs import choose_container
from kubarium.api.resource import Document
from kubarium.api.streams import Outcome, Session, StreamOptions, StreamSource
from kubarium.base.errors import ApiError, bad_request, internal
from kubarium.server.api_server import ApiServer
from kubarium.server.exec_channels import (
    CLOSE_CHANNEL,
    RESIZE,
    STDIN,
    Channels,
    SpdyChannels,
    WebSocketChannels,
)
from kubarium.server.exec_portforward import (
    PORT_FORWARD_PROTOCOL,
    PORT_FORWARD_SPDY,
    PortForward,
)
from kubarium.server.logs import node_of, open_log
from kubarium.server.websocket import BINARY, handshake_problem
from kubarium.server.websocket_connection import SpdyConnection, WebSocketConnection
from kubarium.server.wire import RequestInfo, is_true, log_options

Parameters = Mapping[str, list[str]]

V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
_LOG_PROTOCOLS = ("binary.k8s.io", "")
STREAMED = ("exec", "attach", "portforward")


def stream_options(subresource: str, parameters: Parameters) -> StreamOptions:
    """``PodExecOptions`` or ``PodAttachOptions`` from a query; ApiError 400."""
    query = {key: values[0] for key, values in parameters.items()}
    options = StreamOptions(
        query.get("container", ""),
        tuple(parameters.get("command") or ()) if subresource == "exec" else (),
        is_true(query, "stdin"),
        is_true(query, "stdout"),
        is_true(query, "stderr"),
        is_true(query, "tty"),
    )
    if subresource == "exec" and not options.command:
        raise bad_request("you must specify at least one command for the container")
    if options.tty and options.stderr:
        options = replace(options, stderr=False)
    if not (options.stdin or options.stdout or options.stderr):
        raise bad_request("you must specify at least 1 of stdin, stdout, stderr")
    return options


class Streaming:
    """Serves connections that have been authenticated and authorized."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server

    def check(self, info: RequestInfo, parameters: Parameters) -> tuple[Document, StreamOptions]:
        """The pod, and what is wanted of it. ApiError if that cannot be, before any upgrade.

        Source: streamLocation of upstream's ``pkg/registry/core/pod/strategy.go``, and then the
        kubelet's ``pkg/kubelet/server``.
        """
        kind = self._server.registry.kind_of("", "v1", "pods")
        pod = self._server.get(kind, info.namespace, info.name)
        forwards, container = info.subresource == "portforward", ""
        if not forwards:
            container = choose_container(pod, (parameters.get("container") or [""])[0])
        if not node_of(self._server.registry, pod):
            raise bad_request(f"pod {info.name} does not have a host assigned")
        if forwards:
            return pod, StreamOptions()
        options = stream_options(info.subresource, parameters)  # its node looks at these
        if not _is_running(pod, container):
            raise _not_running(container)
        return pod, replace(options, container=container)

    async def serve(
        self, connection: WebSocketConnection, info: RequestInfo, parameters: Parameters
    ) -> None:
        """One upgraded connection, to its end. ApiError before it is accepted."""
        spdy = isinstance(connection, SpdyConnection)
        problem = "" if spdy else handshake_problem(connection.headers)
        if problem:
            raise bad_request(f"unable to upgrade: {problem}")
        streamed = STREAMED if spdy else (*STREAMED, "log")
        if info.resource != "pods" or info.subresource not in streamed:
            raise bad_request(f"unable to upgrade: {info.path} is not served as a stream")
        if info.subresource == "log":
            await self._serve_log(connection, info, parameters)
            return
        _, options = self.check(info, parameters)
        source = self._source()
        if info.subresource == "portforward":
            known = PORT_FORWARD_SPDY if spdy else PORT_FORWARD_PROTOCOL
            connection.accept(_choose(connection, (known,)))
            await PortForward(connection, source, info.namespace, info.name).serve()
            return
        connection.accept(_choose(connection, (V4,) if spdy else (V5, V4)))
        channels: Channels = WebSocketChannels(connection)
        if isinstance(connection, SpdyConnection):
            channels = SpdyChannels(connection)
        await _Remote(channels, source, info, options).serve()

    def _source(self) -> StreamSource:
        source: StreamSource | None = self._server.stream_source
        if source is None:
            raise ApiError(503, "ServiceUnavailable", "no node agent is here that runs pods")
        return source

    async def _serve_log(
        self, connection: WebSocketConnection, info: RequestInfo, parameters: Parameters
    ) -> None:
        kind = self._server.registry.kind_of("", "v1", "pods")
        pod = self._server.get(kind, info.namespace, info.name)
        options = log_options({key: values[0] for key, values in parameters.items()})
        chunks = open_log(self._server.registry, self._server.log_source, pod, options)
        connection.accept(_choose(connection, _LOG_PROTOCOLS))
        if chunks is not None:
            async for chunk in chunks:
                await connection.send(BINARY, chunk)
        connection.close()


def _choose(connection: WebSocketConnection, known: tuple[str, ...]) -> str:
    """The best protocol that both speak; ApiError 400."""
    offered = connection.offered
    for protocol in known:
        if protocol in offered or (not offered and not protocol):
            return protocol
    raise bad_request(
        f"unable to upgrade: none of the protocols {offered or ['(none)']} is served here; "
        f"supported: {[name for name in known if name]}"
    )


def _is_running(pod: Document, container: str) -> bool:
    status = pod.get("status") or {}
    entries = [
        *(status.get("containerStatuses") or ()),
        *(status.get("initContainerStatuses") or ()),
        *(status.get("ephemeralContainerStatuses") or ()),
    ]
    return any(e["name"] == container and (e.get("state") or {}).get("running") for e in entries)


def _not_running(container: str) -> ApiError:
    error = internal("")
    error.message = f'unable to upgrade connection: container not found ("{container}")'
    return error


class _Remote:
    """One command (or attachment) and its client."""

    def __init__(
        self,
        channels: Channels,
        source: StreamSource,
        info: RequestInfo,
        options: StreamOptions,
    ) -> None:
        self._channels = channels
        self._source = source
        self._info = info
        self._options = options

    async def serve(self) -> None:
        await self._channels.open(self._options)
        try:
            session = await self._source.open_session(
                self._info.namespace, self._info.name, self._options
            )
        except ApiError as error:
            await self._channels.finish(error.status())
            return
        try:
            await self._bridge(session)
        finally:
            session.close()

    async def _bridge(self, session: Session) -> None:
        """Output decides when it is over; a client that goes away ends it earlier."""
        outward = asyncio.ensure_future(self._forward_output(session))
        inward = asyncio.ensure_future(self._forward_input(session))
        try:
            await asyncio.wait((outward, inward), return_when=asyncio.FIRST_COMPLETED)
            if not outward.done():
                inward.result()
        finally:
            for task in (outward, inward):
                task.cancel()
            await asyncio.gather(outward, inward, return_exceptions=True)
        await self._channels.finish(_status_of(outward.result(), self._options.command))

    async def _forward_output(self, session: Session) -> Outcome:
        while (found := await session.read()) is not None:
            await self._channels.send(*found)
        return await session.outcome()

    async def _forward_input(self, session: Session) -> None:
        """Until the client goes away (Disconnected)."""
        while True:
            channel, data = await self._channels.receive()
            if channel == STDIN and data:
                await session.write(data)
            elif channel == RESIZE:
                _resize(session, data)
            elif channel == CLOSE_CHANNEL and data[:1] == bytes([STDIN]):
                session.close_input()


def _resize(session: Session, data: bytes) -> None:
    """``{"Width": …, "Height": …}``; nonsense is ignored, as kubelet does."""
    try:
        size = json.loads(data)
        width, height = int(size["Width"]), int(size["Height"])
    except (ValueError, KeyError, TypeError):
        return
    if width > 0 and height > 0:
        session.resize(width, height)


def _status_of(outcome: Outcome, command: tuple[str, ...]) -> Document:
    """The last message of the error channel (``v4.channel.k8s.io`` and up)."""
    if not outcome.code:
        return {"metadata": {}, "status": "Success"}
    if outcome.message:
        return internal(outcome.message).status()
    return {
        "metadata": {},
        "status": "Failure",
        "message": "command terminated with non-zero exit code: "
        f"error executing command {list(command)}, exit code {outcome.code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(outcome.code)}]},
    }
