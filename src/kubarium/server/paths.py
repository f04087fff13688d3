"""Paths that name no resource: discovery, version, health, metrics, OpenAPI."""

from __future__ import annotations

from collections.abc import Callable

from kubarium.api.openapi import PROTOBUF_ACCEPTED, PROTOBUF_CONTENT_TYPE, OpenApi
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError
from kubarium.server import discovery
from kubarium.server.api_server import ApiServer
from kubarium.server.handlers import Answer, Request
from kubarium.server.metrics import CONTENT_TYPE, Metrics
from kubarium.server.representation import encode
from kubarium.server.wire import DISCOVERY_TRANSFORMS, NO_TRANSFORMS, MediaType

_HEALTH = ("/healthz", "/livez", "/readyz")
_CHECKS = ("ping", "log", "etcd")


class Paths:
    """Answers for everything outside of groups and versions."""

    def __init__(self, server: ApiServer, metrics: Metrics, build: str) -> None:
        self._server = server
        self._metrics = metrics
        self._build = build
        self._encoded: dict[tuple[str, ...], bytes] = {}
        self._generation = -1
        self._openapi_documents = OpenApi(server.catalog)

    def answer(self, request: Request, address: str) -> Answer:
        """ApiError 404 for a path that is not served, 405 for a method other than GET."""
        path = request.info.path.rstrip("/") or "/"
        if request.info.verb not in ("get", "head", "options"):
            raise ApiError(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            )
        if path.startswith(_HEALTH):
            return self._health(path, request)
        if path == "/metrics":
            return Answer(200, self._metrics.text(), CONTENT_TYPE)
        if path in ("/api", "/apis"):
            return self._groups(path, request, address)
        if path.startswith("/openapi/"):
            return self._openapi(path, request)
        media = request.negotiate(NO_TRANSFORMS)
        document = self._document(path)
        if document is None:
            raise page_not_found()
        return Answer(200, encode(document, media.type), media.type)

    def _document(self, path: str) -> Document | None:
        catalog = self._server.catalog
        parts = path.split("/")[1:]
        if path == "/":
            return discovery.root_paths(catalog)
        if path == "/version":
            return discovery.version_info(self._build)
        if not parts:  # "GET *"
            return None
        if parts[0] == "api" and len(parts) == 2:
            return discovery.api_resources(catalog, "", parts[1])
        if parts[0] == "apis" and len(parts) == 2:
            return discovery.api_group(catalog, parts[1])
        if parts[0] == "apis" and len(parts) == 3:
            return discovery.api_resources(catalog, parts[1], parts[2])
        return None

    def _groups(self, path: str, request: Request, address: str) -> Answer:
        media = request.negotiate(DISCOVERY_TRANSFORMS)
        catalog = self._server.catalog
        if media.as_:
            body = self._cached(
                (path, media.version, media.type),
                media,
                lambda: discovery.aggregated(catalog, path == "/api", media.version),
            )
            kind = f"{media.type};g={media.group};v={media.version};as={media.as_}"
            return Answer(200, body, kind)
        if path == "/api":
            return Answer(200, encode(discovery.api_versions(address), media.type), media.type)
        return Answer(200, encode(discovery.api_groups(catalog), media.type), media.type)

    def _openapi(self, path: str, request: Request) -> Answer:
        """JSON, and the protobuf form of v2 for clients that take nothing else; else 406."""
        accept = request.headers.get("accept", "")
        if path == "/openapi/v2" and any(form in accept for form in PROTOBUF_ACCEPTED):
            return Answer(200, self._openapi_documents.v2_protobuf(), PROTOBUF_CONTENT_TYPE)
        request.negotiate(NO_TRANSFORMS)
        if path == "/openapi/v3":
            return Answer(200, self._openapi_documents.index())
        if path == "/openapi/v2":
            return Answer(200, self._openapi_documents.v2())
        document = None
        if path.startswith("/openapi/v3/"):
            document = self._openapi_documents.group(path.removeprefix("/openapi/v3/"))
        if document is None:
            raise page_not_found()
        return Answer(200, document)

    def _cached(
        self, key: tuple[str, ...], media: MediaType, make: Callable[[], Document]
    ) -> bytes:
        """Encoded once for each state of the catalog."""
        if self._generation != self._server.catalog.generation:
            self._encoded.clear()
            self._generation = self._server.catalog.generation
        found = self._encoded.get(key)
        if found is None:
            found = self._encoded[key] = encode(make(), media.type)
        return found

    def _health(self, path: str, request: Request) -> Answer:
        """All checks are in process: a server that answers is healthy."""
        endpoint, _, check = path[1:].partition("/")
        if endpoint not in ("healthz", "livez", "readyz") or (check and check not in _CHECKS):
            raise page_not_found()
        if check or "verbose" not in request.parameters:
            return Answer(200, b"ok", "text/plain; charset=utf-8")
        excluded = request.parameters.get("exclude") or []
        lines = [f"[+]{name} ok" for name in _CHECKS if name not in excluded]
        text = "\n".join([*lines, f"{endpoint} check passed", ""])
        return Answer(200, text.encode(), "text/plain; charset=utf-8")


def page_not_found() -> ApiError:
    """404 for a path that nothing is behind."""
    return ApiError(404, "NotFound", "the server could not find the requested resource")
