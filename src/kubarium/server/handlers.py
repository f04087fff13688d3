"""From a decoded request to an answer: the resource paths of the API, without sockets.

A handler returns an :class:`Answer`, or another reply for watches and logs. The shell (``http``)
sends them; it also waits for the store to be durable first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from kubarium.api.catalog import Kind
from kubarium.api.decode import decode, identify
from kubarium.api.resource import Document
from kubarium.base.errors import ApiError, FieldError, bad_request, invalid, method_not_allowed
from kubarium.server.api_server import ApiServer
from kubarium.server.deletes import Deleted
from kubarium.server.documents import WARN, take_in
from kubarium.server.exec import STREAMED, Streaming
from kubarium.server.limits import WATCH_TIMEOUT_S
from kubarium.server.logs import open_log
from kubarium.server.node_pages import open_page
from kubarium.server.patching import (
    APPLY_PATCH,
    JSON_PATCH,
    PATCH_TYPES,
    Patch,
    unsupported_patch_type,
)
from kubarium.server.protobuf import MEDIA_TYPE as PROTOBUF
from kubarium.server.protobuf import decode_protobuf
from kubarium.server.registry import unknown_resource
from kubarium.server.representation import encode, present_object, present_page
from kubarium.server.requests import Call, Requester
from kubarium.server.watches import WatchStream
from kubarium.server.wire import (
    CONNECT,
    JSON,
    LIST_TRANSFORMS,
    NO_TRANSFORMS,
    OBJECT_TRANSFORMS,
    WATCH_TRANSFORMS,
    MediaType,
    Query,
    RequestInfo,
    delete_options,
    is_true,
    list_options,
    log_options,
    negotiate,
    watch_options,
    write_options,
)


@dataclass(slots=True)
class Request:
    """An authenticated request whose body has arrived."""

    info: RequestInfo
    parameters: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    user: Requester

    @property
    def query(self) -> Query:
        """The first value of each parameter."""
        return {key: values[0] for key, values in self.parameters.items()}

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "")

    def negotiate(self, transforms: frozenset[tuple[str, str, str]]) -> MediaType:
        """The form of the answer; ApiError 406."""
        return negotiate(self.headers.get("accept", ""), transforms)


@dataclass(slots=True)
class Answer:
    """A whole response."""

    status: int
    body: bytes
    content_type: str = JSON
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class WatchAnswer:
    """A response that is a sequence of watch events."""

    stream: WatchStream
    media: MediaType
    include_object: str
    first: ApiError | None = None  # sent as an ERROR event, and then the watch ends


@dataclass(slots=True)
class LogAnswer:
    """A response that is a container's output; 204 without ``chunks``."""

    chunks: AsyncIterator[bytes] | None


Reply = Answer | WatchAnswer | LogAnswer


# What is posted to subresources.
_POSTED = {"binding": "Binding", "eviction": "Eviction", "token": "TokenRequest"}


def _check_subresource_kind(subresource: str, document: Document) -> None:
    """ApiError 400 for a document of another kind; one that does not name its kind will do."""
    wanted, found = _POSTED.get(subresource), document.get("kind")
    if wanted and found and found != wanted:
        version = str(document.get("apiVersion") or "").rpartition("/")[2]
        raise bad_request(
            f'{found} in version "{version}" cannot be handled as a {wanted}: the kind in the data '
            f'("{found}") does not match the expected kind ("{wanted}")'
        )


def manager_of(request: Request, given: str) -> str:
    """The field manager: as given, or the program's name in the User-Agent."""
    if given:
        return given
    agent = request.headers.get("user-agent", "").partition("/")[0]
    return "".join(c for c in agent if c.isprintable())[:128] or "unknown"


class Handlers:
    """The handlers of resource requests."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._streaming = Streaming(server)

    async def handle(self, request: Request) -> Reply:
        """Answer a resource request; ApiError for everything that is refused."""
        kind = self._kind(request.info)
        reply = await self._handle(kind, request)
        if kind.deprecation_warning and isinstance(reply, Answer):
            reply.warnings = [kind.deprecation_warning, *reply.warnings]
        return reply

    async def _handle(self, kind: Kind, request: Request) -> Reply:
        info = request.info
        if info.subresource:
            return await self._subresource(kind, request)
        misplaced = bool(info.name) == (info.verb == "create")
        if info.verb not in kind.verbs or (
            misplaced and info.verb in ("create", "update", "patch")
        ):
            raise method_not_allowed(info.verb, info.resource, info.group)
        if info.verb == "get":
            return await self._get(kind, request)
        if info.verb == "list":
            return await self._list(kind, request)
        if info.verb == "watch":
            return await self._watch(kind, request)
        if info.verb == "create":
            return self._create(kind, request)
        if info.verb == "update":
            return self._update(kind, request)
        if info.verb == "patch":
            return self._patch(kind, request)
        if info.verb == "delete":
            return self._delete(kind, request)
        return await self._delete_collection(kind, request)

    def _kind(self, info: RequestInfo) -> Kind:
        """The kind behind the path; ApiError 404 where no route would be."""
        kind = self._server.registry.kind_of(info.group, info.version, info.resource)
        plain = info.resource == "namespaces" and not info.group
        if not kind.namespaced and info.namespace and not plain:
            raise unknown_resource(info.path)
        if kind.namespaced and not info.namespace and info.verb not in ("list", "watch"):
            if info.name or info.verb == "deletecollection":
                raise unknown_resource(info.path)
            if kind.stored:
                raise method_not_allowed(info.verb, info.resource, info.group)
        if info.subresource and info.subresource not in kind.subresources:
            raise unknown_resource(info.path)
        return kind

    def _home(self, kind: Kind, info: RequestInfo) -> str:
        """The namespace to look in: a Namespace itself is in none."""
        return info.namespace if kind.namespaced else ""

    # reading

    async def _get(self, kind: Kind, request: Request) -> Answer:
        info, media = request.info, request.negotiate(OBJECT_TRANSFORMS)
        version = request.query.get("resourceVersion", "")
        document = await self._server.read(kind, self._home(kind, info), info.name, version)
        return self._answer(kind, document, media, request)

    async def _list(self, kind: Kind, request: Request) -> Answer:
        media = request.negotiate(LIST_TRANSFORMS)
        options = list_options(request.query)
        page = await self._server.read_page(kind, self._home(kind, request.info), options)
        include = request.query.get("includeObject", "")
        now = self._server.registry.clock.now()
        document = present_page(kind, page, media, now, include)
        return Answer(200, encode(document, media.type, _pretty(request)), media.type)

    async def _watch(self, kind: Kind, request: Request) -> WatchAnswer:
        media = request.negotiate(WATCH_TRANSFORMS)
        options = watch_options(request.query, request.info.name)
        if options.timeout_s is None:
            # Spread, so that the clients of one minute do not all come back in one minute.
            limit = self._server.registry.chance.uniform(WATCH_TIMEOUT_S, 2 * WATCH_TIMEOUT_S)
            options = replace(options, timeout_s=limit)
        include = request.query.get("includeObject", "")
        home = self._home(kind, request.info)
        try:
            stream = await self._server.watch(kind, home, options)
        except ApiError as error:
            if error.code != 410:
                raise
            # The stream begins, and its only event says that it cannot go on.
            stream = self._server.watches.ended(kind)
            return WatchAnswer(stream, media, include, error)
        return WatchAnswer(stream, media, include)

    # writing

    def _create(self, kind: Kind, request: Request) -> Answer:
        info, media = request.info, request.negotiate(OBJECT_TRANSFORMS)
        call = self._call(request, "CreateOptions")
        document, duplicates = _body(request)
        identify(kind, document)
        take_in(kind, document, duplicates, call)
        home = self._home(kind, info)
        answered = self._server.create(kind, document, home, call)
        return self._answer(kind, answered, media, request, 201, call)

    def _update(self, kind: Kind, request: Request) -> Answer:
        info, media = request.info, request.negotiate(OBJECT_TRANSFORMS)
        call = self._call(request, "UpdateOptions")
        document, duplicates = _body(request)
        home = self._home(kind, info)
        if info.subresource != "scale":
            identify(kind, document)
            take_in(kind, document, duplicates, call)
        written = self._server.update(
            kind, document, home, info.name, call, info.subresource, fresh=True
        )
        status = 201 if written.created else 200
        return self._answer(kind, written.document, media, request, status, call)

    def _patch(self, kind: Kind, request: Request) -> Answer:
        info, media = request.info, request.negotiate(OBJECT_TRANSFORMS)
        patch = decode_patch(request.content_type, request.body)
        options = write_options(request.parameters, "PatchOptions")
        if patch.is_apply and not options.field_manager:
            raise _manager_required()
        if options.force is not None and not patch.is_apply:
            raise _force_forbidden()
        call = self._call(request, "PatchOptions")
        home = self._home(kind, info)
        written = self._server.patch(kind, info.name, patch, home, call, info.subresource)
        status = 201 if written.created else 200
        return self._answer(kind, written.document, media, request, status, call)

    def _delete(self, kind: Kind, request: Request) -> Answer:
        info, media = request.info, request.negotiate(OBJECT_TRANSFORMS)
        options = delete_options(request.parameters, _optional_body(request))
        call = Call(request.user, manager_of(request, ""), options.dry_run)
        deleted = self._server.delete(kind, info.name, self._home(kind, info), options, call)
        if deleted.gone and not self._server.strategies.of(kind).returns_deleted:
            body = encode(_deleted_status(kind, deleted), media.type)
            return Answer(200, body, media.type, call.warnings)
        return self._answer(kind, deleted.document, media, request, 200, call)

    async def _delete_collection(self, kind: Kind, request: Request) -> Answer:
        media = request.negotiate(LIST_TRANSFORMS)
        options = delete_options(request.parameters, _optional_body(request))
        selection = list_options(request.query)
        call = Call(request.user, manager_of(request, ""), options.dry_run)
        home = self._home(kind, request.info)
        documents = await self._server.delete_collection(kind, home, selection, options, call)
        body = {
            "kind": kind.list_kind,
            "apiVersion": kind.resource.api_version,
            "metadata": {"resourceVersion": str(self._server.store.revision)},
            "items": list(documents),
        }
        return Answer(200, encode(body, media.type), media.type, call.warnings)

    # subresources

    async def _subresource(self, kind: Kind, request: Request) -> Reply:
        info = request.info
        subresource = info.subresource
        if (info.verb, info.resource, subresource) == ("get", "nodes", "proxy"):
            self._server.get(kind, "", info.name)
            body, content_type = open_page(self._server.page_source, info.name, info.rest)
            return Answer(200, body, content_type)
        if subresource in CONNECT:
            raise self._not_streamed(request)
        if subresource == "log":
            return self._log(kind, request)
        if info.verb == "create":
            return self._create_subresource(kind, request)
        if info.verb == "get":
            if subresource == "scale":
                media = request.negotiate(NO_TRANSFORMS)
                home = self._home(kind, info)
                scale = self._server.scale.get(kind, home, info.name)
                return Answer(200, encode(scale, media.type, _pretty(request)), media.type)
            return await self._get(kind, request)
        if info.verb == "update":
            return self._update(kind, request)
        if info.verb == "patch":
            return self._patch(kind, request)
        raise method_not_allowed(info.verb, f"{info.resource}/{subresource}", info.group)

    def _create_subresource(self, kind: Kind, request: Request) -> Answer:
        info, media = request.info, request.negotiate(NO_TRANSFORMS)
        call = self._call(request, "CreateOptions")
        document, _ = _body(request)
        _check_subresource_kind(info.subresource, document)
        answered = self._server.create_subresource(
            kind, self._home(kind, info), info.name, info.subresource, document, call
        )
        return Answer(201, encode(answered, media.type), media.type, call.warnings)

    def _log(self, kind: Kind, request: Request) -> LogAnswer:
        info = request.info
        if info.verb != "get":
            raise method_not_allowed(info.verb, "pods/log", info.group)
        pod = self._server.get(kind, info.namespace, info.name)
        options = log_options(request.query)
        server = self._server
        return LogAnswer(open_log(server.registry, server.log_source, pod, options))

    def _not_streamed(self, request: Request) -> ApiError:
        """Only WebSocket is spoken; what is wrong with the request itself is said first."""
        info = request.info
        if info.resource == "pods" and info.subresource in STREAMED:
            self._streaming.check(info, request.parameters)
            if request.headers.get("upgrade"):
                error = bad_request(
                    f"{info.subresource} is served over WebSocket and SPDY/3.1; this client asks "
                    f"for {request.headers['upgrade']}"
                )
            else:
                error = bad_request("Upgrade request required")
            return error
        refusal = method_not_allowed(info.subresource, info.resource, info.group)
        refusal.message = f"{info.resource}/{info.subresource} is not served here"
        return refusal

    # forms

    def _call(self, request: Request, options_kind: str) -> Call:
        options = write_options(request.parameters, options_kind)
        return Call(
            request.user,
            manager_of(request, options.field_manager),
            options.dry_run,
            options.field_validation or WARN,
            bool(options.force),
        )

    def _answer(
        self,
        kind: Kind,
        document: Document,
        media: MediaType,
        request: Request,
        status: int = 200,
        call: Call | None = None,
    ) -> Answer:
        include = request.query.get("includeObject", "")
        now = self._server.registry.clock.now()
        form = present_object(kind, document, media, now, include)
        warnings = call.warnings if call else []
        return Answer(status, encode(form, media.type, _pretty(request)), media.type, warnings)


def _body(request: Request) -> tuple[Document, list[str]]:
    """The document sent, and the fields that it gives twice. ApiError 400 or 415."""
    if request.content_type.startswith(PROTOBUF):
        return decode_protobuf(request.body), []
    return decode(request.body, request.content_type)


def _pretty(request: Request) -> bool:
    return is_true(request.query, "pretty")


def decode_patch(content_type: str, body: bytes) -> Patch:
    """A patch and its type. ApiError 400 or 415."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in PATCH_TYPES:
        raise unsupported_patch_type(media_type)
    if media_type == APPLY_PATCH:
        return Patch(media_type, decode(body, "application/yaml")[0])
    if media_type == JSON_PATCH:
        try:
            return Patch(media_type, orjson.loads(body))
        except orjson.JSONDecodeError as error:
            raise bad_request(f"error decoding patch: {error}") from None
    return Patch(media_type, decode(body, "application/json")[0])


def _optional_body(request: Request) -> dict[str, Any] | None:
    """DeleteOptions from the body, None if there is none. ApiError 400 or 415."""
    if not request.body.strip():
        return None
    document, _ = _body(request)
    if document.get("kind") not in ("DeleteOptions", None):
        raise bad_request(f"expected DeleteOptions in the body, found {document.get('kind')!r}")
    return document


def _deleted_status(kind: Kind, deleted: Deleted) -> Document:
    metadata = deleted.document["metadata"]
    details: Document = {"name": metadata["name"], "kind": kind.resource.plural}
    if kind.resource.group:
        details["group"] = kind.resource.group
    details["uid"] = metadata["uid"]
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    }


def _manager_required() -> ApiError:
    error = FieldError("Required", "fieldManager", detail="is required for apply patch")
    return invalid("PatchOptions", "meta.k8s.io", "", [error])


def _force_forbidden() -> ApiError:
    error = FieldError("Forbidden", "force", detail="may not be specified for non-apply patch")
    return invalid("PatchOptions", "meta.k8s.io", "", [error])
