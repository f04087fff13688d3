"""The HTTP shell: an ASGI application around the handlers.

No web framework: Kubernetes' paths are one grammar (``wire.request_info``), not a table of routes,
and every answer, errors included, must be a Status or an object. What a framework would add is
what would have to be switched off.

The order of a request: limits -> who -> what (path) -> may they -> body -> handler -> durable ->
response. **Nothing leaves before ``store.durable()``**: what a client has seen survives a crash.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from kubarium.base.errors import ApiError, internal, too_many_requests
from kubarium.server.api_server import ApiServer
from kubarium.server.authn import Authenticator, User
from kubarium.server.authz import Attributes
from kubarium.server.exec import Streaming
from kubarium.server.handlers import (
    Answer,
    Handlers,
    LogAnswer,
    Reply,
    Request,
    WatchAnswer,
)
from kubarium.server.limits import (
    MAX_BODY_BYTES,
    MAX_READS_IN_FLIGHT,
    MAX_WRITES_IN_FLIGHT,
    REQUEST_TIMEOUT_S,
)
from kubarium.server.metrics import Metrics
from kubarium.server.paths import Paths
from kubarium.server.progress import ProgressReports
from kubarium.server.representation import encode
from kubarium.server.streams import WatchEncoder, watch_chunks
from kubarium.server.websocket_connection import Disconnected, WebSocketConnection
from kubarium.server.wire import (
    CONNECT,
    JSON,
    RequestInfo,
    decode_path,
    parse_query,
    request_info,
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_LOG = logging.getLogger("kubarium.server")
_READING = frozenset({"get", "list", "watch"})
# Seconds within which a log source may still turn out to have an error to tell with a code.
_LOG_HEADERS_S = 1.0


class ApiApplication:
    """The ASGI application of one API server."""

    def __init__(self, server: ApiServer, authenticator: Authenticator, build: str = "dev") -> None:
        """``build`` is shown behind the version of Kubernetes in ``/version``."""
        self._server = server
        self._authenticator = authenticator
        self._handlers = Handlers(server)
        self._streaming = Streaming(server)
        self._progress = ProgressReports(server, authenticator)
        self.metrics = Metrics(server.registry)
        self._paths = Paths(server, self.metrics, build)
        self._encoder = WatchEncoder(server.registry.clock)
        self._chance = server.registry.chance.fork("request-ids")
        self.clock = server.registry.clock
        self._reads = 0
        self._writes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP exchange."""
        if scope["type"] != "http":
            raise ValueError(f"an ASGI scope of type {scope['type']!r} is not served")
        exchange = _Exchange(scope, receive, send, self._chance.uid())
        clock = self._server.registry.clock
        begun = clock.monotonic()
        try:
            await self._answer(exchange)
        except ApiError as error:
            await exchange.send_error(error)
        except _Disconnected:
            _LOG.debug("request %s: the client went away", exchange.id)
        except asyncio.CancelledError:
            raise
        except Exception:
            _LOG.exception("request %s (%s) failed", exchange.id, exchange.what)
            text = f"request {exchange.id} failed; the server's log says why"
            await exchange.send_error(internal(text))
        finally:
            self.metrics.observe(exchange.info, exchange.status, clock.monotonic() - begun)

    async def serve_websocket(self, connection: WebSocketConnection) -> None:
        """One connection that a client has asked to upgrade, to its end."""
        try:
            await self._serve_websocket(connection)
        except Disconnected:
            return
        except ApiError as error:
            connection.refuse(error)
        except Exception:
            _LOG.exception("WebSocket %s failed", connection.scope["raw_path"])
            connection.refuse(internal("the server's log says why"))
        finally:
            connection.close()

    async def _serve_websocket(self, connection: WebSocketConnection) -> None:
        scope = connection.scope
        parameters = parse_query(scope["query_string"])
        query = {key: values[0] for key, values in parameters.items()}
        info = request_info(scope["method"], decode_path(scope["raw_path"]), query)
        user = self._authenticator.authenticate(scope["headers"], scope.get("peer_certificate"))
        self._confirm(user, info)
        if info.subresource in CONNECT:
            # Starting something is more than reading, whatever the method of the handshake.
            self._confirm(user, replace(info, verb="create"))
        await self._streaming.serve(connection, info, parameters)

    async def _answer(self, exchange: _Exchange) -> None:
        path = decode_path(exchange.scope["raw_path"])
        parameters = parse_query(exchange.scope["query_string"])
        query = {key: values[0] for key, values in parameters.items()}
        info = exchange.info = request_info(exchange.scope["method"], path, query)
        if self._progress.takes(info):
            await self._take_report(exchange)
            return
        user = self._authenticator.authenticate(
            exchange.scope["headers"], exchange.scope.get("peer_certificate")
        )
        self._confirm(user, info)
        if info.long_running:
            await self._reply(exchange, parameters, user)
            return
        with self._slot(info):
            limit = asyncio.timeout(REQUEST_TIMEOUT_S)
            try:
                async with limit:
                    await self._reply(exchange, parameters, user)
            except TimeoutError:
                if not limit.expired():
                    raise
                raise _timed_out() from None

    async def _take_report(self, exchange: _Exchange) -> None:
        """Progress of training: its tokens are good for nothing else, so they come first."""
        with self._slot(exchange.info):
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                body = await exchange.read_body()
                headers = exchange.scope["headers"]
                reply = self._progress.answer(exchange.info, headers, body)
                await self._server.store.durable()
            await exchange.send_answer(reply)

    def _confirm(self, user: User, info: RequestInfo) -> None:
        authorizer = self._server.authorizer
        if not info.resource:
            authorizer.confirm(Attributes(user, info.verb, path=info.path))
            return
        authorizer.confirm(
            Attributes(
                user,
                info.verb,
                info.namespace,
                info.group,
                info.version,
                info.resource,
                info.subresource,
                info.name or info.selected_name,
            )
        )

    def _slot(self, info: RequestInfo) -> _Slot:
        return _Slot(self, info.verb in _READING)

    async def _reply(
        self, exchange: _Exchange, parameters: dict[str, list[str]], user: User
    ) -> None:
        info = exchange.info
        body = await exchange.read_body()
        request = Request(info, parameters, exchange.headers, body, user)
        reply: Reply
        try:
            if info.resource:
                reply = await self._handlers.handle(request)
            else:
                if info.path == "/metrics":
                    self._show_inflight()
                reply = self._paths.answer(request, exchange.address)
        finally:  # a refusal counts as well: "already exists" tells of a write
            await self._server.store.durable()
        if isinstance(reply, Answer):
            await exchange.send_answer(reply)
        elif isinstance(reply, WatchAnswer):
            await self._send_watch(exchange, reply)
        else:
            await self._send_log(exchange, reply)

    def _show_inflight(self) -> None:
        self.metrics.show_inflight(self._reads, self._writes, self._server.watches.open_count)

    async def _send_watch(self, exchange: _Exchange, answer: WatchAnswer) -> None:
        clock = self._server.registry.clock
        chunks = watch_chunks(answer, self._encoder, self._server.store.durable, clock)
        try:
            await exchange.send_stream(chunks, JSON, answer.stream.close)
        finally:
            answer.stream.close()

    async def _send_log(self, exchange: _Exchange, answer: LogAnswer) -> None:
        if answer.chunks is None:
            await exchange.send_nothing()
            return
        chunks = aiter(answer.chunks)
        first = asyncio.ensure_future(anext(chunks, None))
        done, _ = await asyncio.wait([first], timeout=_LOG_HEADERS_S)
        if done and (error := first.exception()) is not None:
            raise error
        await exchange.send_stream(_resumed(first, chunks), "text/plain", first.cancel)


async def _resumed(
    first: asyncio.Future[bytes | None], rest: AsyncIterator[bytes]
) -> AsyncIterator[bytes]:
    """The first chunk, which was asked for ahead, and the others."""
    chunk = await first
    if chunk is None:
        return
    yield chunk
    async for chunk in rest:
        yield chunk


class _Slot:
    """One of the places for requests in flight; ApiError 429 if there is none."""

    def __init__(self, application: ApiApplication, reading: bool) -> None:
        self._application = application
        self._reading = reading

    def __enter__(self) -> None:
        application = self._application
        if self._reading:
            if application._reads >= MAX_READS_IN_FLIGHT:
                raise too_many_requests("Too many requests, please try again later.")
            application._reads += 1
            return
        if application._writes >= MAX_WRITES_IN_FLIGHT:
            raise too_many_requests("Too many requests, please try again later.")
        application._writes += 1

    def __exit__(self, *_: object) -> None:
        if self._reading:
            self._application._reads -= 1
        else:
            self._application._writes -= 1


class _Disconnected(Exception):
    """The client closed the connection while its request was read."""


class _Exchange:
    """One request and its response on the ASGI channel."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self.scope = scope
        self.id = request_id
        self.status = 0
        self.info = RequestInfo(scope["method"].lower(), scope["path"])
        self.headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        self._receive = receive
        self._send = send
        self._started = False

    @property
    def what(self) -> str:
        """Method and path, for the log."""
        return f"{self.scope['method']} {self.scope['path']}"

    @property
    def address(self) -> str:
        """host:port that the server listens on."""
        host, port = self.scope.get("server") or ("127.0.0.1", 0)
        return f"{host}:{port}"

    async def read_body(self) -> bytes:
        """The whole body; ApiError 413 if it is too large."""
        declared = self.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
            raise _too_large()
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _Disconnected
            part = message.get("body", b"")
            size += len(part)
            if size > MAX_BODY_BYTES:
                raise _too_large()
            parts.append(part)
            if not message.get("more_body"):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def send_answer(self, answer: Answer) -> None:
        extra = [(b"warning", _warning(text)) for text in answer.warnings]
        await self._start(answer.status, answer.content_type, extra, len(answer.body))
        await self._send({"type": "http.response.body", "body": answer.body})

    async def send_nothing(self) -> None:
        """204: there is nothing to say."""
        await self._start(204, "", [], None)
        await self._send({"type": "http.response.body", "body": b""})

    async def send_error(self, error: ApiError) -> None:
        """A Status; nothing if the response has begun already, which then just ends."""
        if self._started:
            await self._send({"type": "http.response.body", "body": b""})
            return
        extra = []
        retry = error.details.get("retryAfterSeconds")
        if retry:
            extra.append((b"retry-after", str(retry).encode()))
        if error.code == 401:
            extra.append((b"www-authenticate", b'Bearer realm="kubarium"'))
        body = encode(error.status())
        await self._start(error.code, JSON, extra, len(body))
        await self._send({"type": "http.response.body", "body": body})

    async def send_stream(
        self, chunks: AsyncIterator[bytes], content_type: str, stop: Callable[[], object]
    ) -> None:
        """Chunks until they end or the client goes away, which calls ``stop``."""
        await self._start(200, content_type, [], None)
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})
        gone = asyncio.ensure_future(self._gone(stop))
        try:
            async with aclosing(chunks) as source:  # type: ignore[type-var]
                async for chunk in source:
                    message = {"type": "http.response.body", "body": chunk, "more_body": True}
                    await self._send(message)
            await self._send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()

    async def _gone(self, stop: Callable[[], object]) -> None:
        """Wait for the client to go away."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        stop()

    async def _start(
        self,
        status: int,
        content_type: str,
        extra: list[tuple[bytes, bytes]],
        length: int | None,
    ) -> None:
        self._started = True
        self.status = status
        headers = [
            (b"audit-id", self.id.encode()),
            (b"cache-control", b"no-cache, private"),
            *extra,
        ]
        if content_type:
            headers.append((b"content-type", content_type.encode()))
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


def _warning(text: str) -> bytes:
    """``299 - "..."`` (RFC 7234): quotes escaped, on one line."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'299 - "{quoted}"'.encode("latin-1", "replace")


def _timed_out() -> ApiError:
    message = "Timeout: request did not complete within the allotted timeout"
    return ApiError(504, "Timeout", message)


def _too_large() -> ApiError:
    message = f"Request entity too large: limit is {MAX_BODY_BYTES}"
    return ApiError(413, "RequestEntityTooLarge", message)
