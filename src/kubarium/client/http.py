"""The client protocol over HTTP, to Kubarium or to any Kubernetes cluster.

The control plane starts without it and its HTTP library. Retries and resuming watches are left to
the informers.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx2
import orjson

from kubarium.api.logs import LogOptions
from kubarium.api.resource import Document, ListResult, Resource, WatchEvent
from kubarium.base.errors import ApiError, ConfigError
from kubarium.client.discovery import ServedResource, parse_aggregated, parse_legacy
from kubarium.client.kubeconfig import load_kubeconfig, select_context
from kubarium.client.protocol import MERGE_PATCH

# Inside the class ``list`` is a verb.
PatchBody = Document | list[Document]

_JSON = "application/json"
_AGGREGATED = f"{_JSON};g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,{_JSON}"

CONNECT_TIMEOUT_S = 5.0
# The server answers or gives up within its own 60 s request timeout.
REQUEST_TIMEOUT_S = 65.0
_TIMEOUT = httpx2.Timeout(REQUEST_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)

# A kubeconfig may name all kinds of credentials; a node agent has but a certificate, and lives in
# less memory without the library that knows them.
_CREDENTIALS = "kubarium.client.credentials"

# Reasons that apimachinery gives to codes without a Status body (NewGenericServerResponse).
_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Expired",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class HttpWatch:
    """A watch as a chunked response: one JSON document a line. Satisfies ``protocol.Watch``."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._chunks = response.aiter_bytes()
        self._rest = b""
        self._closed = False
        self._reading: asyncio.Task[list[WatchEvent]] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def next_batch(self) -> list[WatchEvent]:
        if self._closed:
            return []
        self._reading = asyncio.ensure_future(self._read())
        try:
            return await self._reading
        except asyncio.CancelledError:
            if self._is_closed():
                return []
            raise
        finally:
            self._reading = None

    async def _read(self) -> list[WatchEvent]:
        """Whole lines of the next chunks; an empty list at the end or when the connection fails."""
        try:
            async for chunk in self._chunks:
                *lines, self._rest = (self._rest + chunk).split(b"\n")
                events = [_watch_event(line) for line in lines if line.strip()]
                if events:
                    return events
        except httpx2.TransportError:
            return []  # the reader resumes from the last revision it saw
        return []

    def _is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._reading is not None:
            self._reading.cancel()
        self._closing = asyncio.ensure_future(self._response.aclose())


def _watch_event(line: bytes) -> WatchEvent:
    event = orjson.loads(line)
    return WatchEvent(event["type"], event["object"])


class HttpClient:
    """Satisfies :class:`kubarium.client.protocol.Client` over HTTP."""

    def __init__(
        self,
        http: httpx2.AsyncClient,
        server: str,
        *,
        context: str = "",
        namespace: str = "default",
        user_agent: str = "kubarium",
        field_manager: str = "",
        refusals: tuple[type[Exception], ...] = (),
    ) -> None:
        """Use one of the two class methods. ``http`` has the credentials, and raises ``refusals``
        when those turn out not to be usable."""
        self.server = server
        self.context = context
        self.namespace = namespace
        self._field_manager = field_manager
        self._refusals = refusals
        self._http = http
        self._http.headers["User-Agent"] = user_agent
        self._http.headers["Accept"] = _JSON

    @classmethod
    def from_kubeconfig(
        cls, path: str = "", context: str = "", *, user_agent: str = "kubarium"
    ) -> HttpClient:
        """A client for ``context`` (default: the current one) of a kubeconfig file.

        ``path`` "" follows kubectl: ``KUBECONFIG``, then ``~/.kube/config``. Raises ConfigError.
        """
        document = load_kubeconfig(path)
        name, cluster, _, namespace = select_context(document, context)
        credentials = import_module(_CREDENTIALS)
        return cls(
            credentials.connect(document, name, _TIMEOUT),
            cluster["server"],
            context=name,
            namespace=namespace,
            user_agent=user_agent,
            refusals=credentials.REFUSALS,
        )

    @classmethod
    def with_certificate(
        cls, server: str, authority: Path, certificate: Path, key: Path, *, user_agent: str
    ) -> HttpClient:
        """A client of a ``server`` (URL) on this machine, whatever the environment says of proxies.

        ``authority`` has signed the server's certificate; ``certificate`` and ``key`` are shown to
        it. Raises ConfigError when the files (PEM) cannot be used.
        """
        try:
            tls = ssl.create_default_context(cafile=authority)
            tls.load_cert_chain(certificate, key)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"{certificate}: the credentials cannot be used: {error}") from error
        http = httpx2.AsyncClient(base_url=server, verify=tls, timeout=_TIMEOUT, trust_env=False)
        return cls(http, server, user_agent=user_agent)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> HttpClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # reading

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Document:
        return await self._document("GET", _path(resource, namespace, name))

    async def list(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 0,
        continue_token: str = "",
        resource_version: str = "",
        resource_version_match: str = "",
    ) -> ListResult:
        answer = await self._document(
            "GET",
            _path(resource, namespace),
            {
                "labelSelector": label_selector,
                "fieldSelector": field_selector,
                "limit": str(limit) if limit else "",
                "continue": continue_token,
                "resourceVersion": resource_version,
                "resourceVersionMatch": resource_version_match,
            },
        )
        metadata = answer.get("metadata") or {}
        items = answer.get("items") or []
        for item in items:  # typed servers leave both out of lists
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        return ListResult(
            items,
            metadata.get("resourceVersion", ""),
            metadata.get("continue", ""),
            metadata.get("remainingItemCount"),
        )

    async def watch(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        resource_version: str = "",
        label_selector: str = "",
        field_selector: str = "",
        allow_bookmarks: bool = False,
        send_initial_events: bool = False,
        timeout_s: float | None = None,
    ) -> HttpWatch:
        parameters = {
            "watch": "1",
            "resourceVersion": resource_version,
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "allowWatchBookmarks": _flag(allow_bookmarks),
            "sendInitialEvents": _flag(send_initial_events),
            "resourceVersionMatch": "NotOlderThan" if send_initial_events else "",
            "timeoutSeconds": str(int(timeout_s)) if timeout_s is not None else "",
        }
        return HttpWatch(await self._stream(_path(resource, namespace), parameters))

    async def logs(
        self, namespace: str, name: str, options: LogOptions | None = None
    ) -> AsyncIterator[bytes]:
        """The output of a container as it comes; ends when it ends (or never, with ``follow``)."""
        options = options or LogOptions()
        parameters = {
            "container": options.container,
            "follow": _flag(options.follow),
            "previous": _flag(options.previous),
            "timestamps": _flag(options.timestamps),
            "tailLines": _number(options.tail_lines),
            "limitBytes": _number(options.limit_bytes),
            "sinceSeconds": _number(options.since_seconds),
            "sinceTime": options.since_time,
        }
        path = f"/api/v1/namespaces/{namespace}/pods/{name}/log"
        response = await self._stream(path, parameters, accept="*/*")
        try:
            async for chunk in response.aiter_bytes():
                yield chunk
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        finally:
            await response.aclose()

    async def raw(self, path: str, parameters: Mapping[str, str] | None = None) -> bytes:
        """The body of a GET of any path, such as ``/version`` or ``/healthz``."""
        return (await self._send("GET", path, parameters or {}, accept="*/*")).content

    async def discover(self) -> Sequence[ServedResource]:
        """Everything that the server serves, in its order of preference."""
        served: list[ServedResource] = []
        for root in ("/api", "/apis"):
            response = await self._send("GET", root, {}, accept=_AGGREGATED)
            document = _parse(response)
            if document.get("kind") == "APIGroupDiscoveryList":
                served += parse_aggregated(document)
            else:
                served += await self._discover_legacy(root, document)
        return served

    async def _discover_legacy(self, root: str, document: Document) -> Sequence[ServedResource]:
        if "versions" in document:
            versions = list(document["versions"])
        else:
            versions = [
                version["groupVersion"]
                for group in document.get("groups") or ()
                for version in group.get("versions") or ()
            ]
        served: list[ServedResource] = []
        for version in versions:
            served += parse_legacy(await self._document("GET", f"{root}/{version}"))
        return served

    # writing

    async def create(
        self,
        resource: Resource,
        document: Document,
        namespace: str = "",
        *,
        name: str = "",
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "",
        fresh: bool = False,
    ) -> Document:
        path = _path(resource, namespace, name, subresource)
        parameters = self._write_parameters(dry_run, field_manager)
        return await self._document("POST", path, parameters, document)

    async def update(
        self,
        resource: Resource,
        document: Document,
        namespace: str = "",
        *,
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "",
        fresh: bool = False,
    ) -> Document:
        metadata = document["metadata"]
        namespace = namespace or metadata.get("namespace", "")
        path = _path(resource, namespace, metadata["name"], subresource)
        parameters = self._write_parameters(dry_run, field_manager)
        return await self._document("PUT", path, parameters, document)

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: PatchBody,
        namespace: str = "",
        *,
        patch_type: str = MERGE_PATCH,
        subresource: str = "",
        dry_run: bool = False,
        field_manager: str = "",
        force: bool = False,
    ) -> Document:
        path = _path(resource, namespace, name, subresource)
        parameters = self._write_parameters(dry_run, field_manager) | {"force": _flag(force)}
        return await self._document("PATCH", path, parameters, patch, content_type=patch_type)

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        propagation_policy: str = "",
        grace_period_s: int | None = None,
        uid: str = "",
        resource_version: str = "",
        dry_run: bool = False,
    ) -> Document:
        options: Document = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if propagation_policy:
            options["propagationPolicy"] = propagation_policy
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        if any(preconditions.values()):
            options["preconditions"] = {key: text for key, text in preconditions.items() if text}
        if dry_run:
            options["dryRun"] = ["All"]
        return await self._document("DELETE", _path(resource, namespace, name), {}, options)

    async def delete_collection(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        propagation_policy: str = "",
    ) -> None:
        parameters = {
            "labelSelector": label_selector,
            "fieldSelector": field_selector,
            "propagationPolicy": propagation_policy,
        }
        await self._send("DELETE", _path(resource, namespace), parameters)

    # one request

    def _write_parameters(self, dry_run: bool, field_manager: str) -> dict[str, str]:
        return {
            "dryRun": "All" if dry_run else "",
            "fieldManager": field_manager or self._field_manager,
        }

    async def _document(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str] | None = None,
        body: Any = None,
        *,
        content_type: str = _JSON,
    ) -> Document:
        response = await self._send(
            method, path, parameters or {}, body=body, content_type=content_type
        )
        return _parse(response)

    async def _send(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str],
        *,
        body: Any = None,
        content_type: str = _JSON,
        accept: str = _JSON,
    ) -> httpx2.Response:
        headers = {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            response = await self._http.request(
                method,
                path,
                params=_present(parameters),
                content=None if body is None else orjson.dumps(body),
                headers=headers,
            )
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        except self._refusals as error:
            raise ConfigError(f"kubeconfig context {self.context!r}: {error}") from error
        if response.status_code >= 400:
            raise _failure(response)
        return response

    async def _stream(
        self, path: str, parameters: Mapping[str, str], *, accept: str = _JSON
    ) -> httpx2.Response:
        request = self._http.build_request(
            "GET",
            path,
            params=_present(parameters),
            headers={"Accept": accept},
            timeout=httpx2.Timeout(REQUEST_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, read=None),
        )
        try:
            response = await self._http.send(request, stream=True)
            if response.status_code >= 400:
                await response.aread()
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        if response.status_code >= 400:
            await response.aclose()
            raise _failure(response)
        return response

    def _unreachable(self, error: httpx2.TransportError) -> ApiError:
        if isinstance(error, httpx2.ReadTimeout):
            message = f"the server at {self.server} did not answer in {REQUEST_TIMEOUT_S:g} s"
            return ApiError(504, "Timeout", message)
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            why = (
                f"its certificate is not signed by the authority in context {self.context!r} "
                f"({cause.verify_message}); an old kubeconfig? `kubarium up` renews it"
            )
        else:
            why = f"{error}; is the cluster running? `kubarium status` shows it"
        message = f"the server at {self.server} cannot be reached: {why}"
        return ApiError(503, "ServiceUnavailable", message)


def _path(resource: Resource, namespace: str = "", name: str = "", subresource: str = "") -> str:
    root = f"/apis/{resource.group}" if resource.group else "/api"
    parts = [f"{root}/{resource.version}"]
    if resource.namespaced and namespace:
        parts.append(f"namespaces/{_segment(namespace)}")
    parts.append(resource.plural)
    if name:
        parts.append(_segment(name))
    if subresource:
        parts.append(subresource)
    return "/".join(parts)


def _segment(text: str) -> str:
    """A path segment; names with a slash or dots only would become another path."""
    if "/" in text or "%" in text or text in ("", ".", ".."):
        raise ApiError(400, "BadRequest", f"name {text!r} may not be used in a path")
    return text


def _flag(value: bool) -> str:
    return "true" if value else ""


def _number(value: int | None) -> str:
    return "" if value is None else str(value)


def _present(parameters: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if value}


def _parse(response: httpx2.Response) -> Document:
    try:
        document = orjson.loads(response.content)
    except orjson.JSONDecodeError as error:
        raise _not_json(response) from error
    if not isinstance(document, dict):
        raise _not_json(response)
    return document


def _not_json(response: httpx2.Response) -> ApiError:
    start = response.text[:80]
    message = f"{response.url} did not answer with a JSON object but with {start!r}"
    return ApiError(500, "InternalError", f"{message}; is this a Kubernetes API server?")


def _failure(response: httpx2.Response) -> ApiError:
    try:
        document = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        document = None
    if isinstance(document, dict) and document.get("kind") == "Status":
        return ApiError.from_status({"code": response.status_code} | document)
    code = response.status_code
    text = response.text.strip()[:200] or response.reason_phrase
    return ApiError(code, _REASONS.get(code, "Unknown"), text)
