"""The wire protocol without I/O: paths, query options and media types of Kubernetes' REST API.

Nothing here reads a socket or knows the store: bytes and strings in, values or an ApiError out.
The path grammar is so regular (``/apis/{group}/{version}/namespaces/{ns}/{plural}/{name}/{sub}``)
that one function replaces a routing table, which CustomResourceDefinitions would have to change at
run time. (Upstream: ``apiserver/pkg/endpoints/request/requestinfo.go``.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

from kubarium.api.logs import LogOptions
from kubarium.api.selectors import selected_name
from kubarium.base.errors import ApiError, FieldError, bad_request, invalid
from kubarium.server.requests import DeleteOptions, ListOptions, WatchOptions

Query = Mapping[str, str]

# Subresources that answer a request by talking to the pod rather than by a document.
CONNECT = ("attach", "exec", "portforward", "proxy")
# What stands behind a namespace's name and is not a resource in it.
_OF_NAMESPACE = ("status", "finalize")

_ONE_VERBS = {
    "GET": "get",
    "HEAD": "get",
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """What a request is about. ``resource`` "" is a path that names no resource."""

    verb: str
    path: str
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    name: str = ""
    subresource: str = ""
    rest: str = ""  # what follows the subresource (proxy paths)
    selected_name: str = ""  # the one object that a list or watch selects by its name

    @property
    def long_running(self) -> bool:
        """Whether the request may take as long as it likes."""
        return self.verb == "watch" or self.subresource in ("log", *CONNECT)


def request_info(method: str, path: str, query: Query) -> RequestInfo:
    """The meaning of method, decoded path and query. A path with more segments than the grammar
    knows has no ``resource``."""
    parts = [part for part in path.split("/") if part]
    if len(parts) >= 3 and parts[0] == "api":
        return _resource(method, path, query, "", parts[1], parts[2:])
    if len(parts) >= 4 and parts[0] == "apis":
        return _resource(method, path, query, parts[1], parts[2], parts[3:])
    return RequestInfo(method.lower(), path)


def _resource(
    method: str, path: str, query: Query, group: str, version: str, parts: list[str]
) -> RequestInfo:
    watching = parts[0] == "watch"  # /api/v1/watch/pods: deprecated, still in use by old clients
    if watching:
        parts = parts[1:]
    namespace = ""
    if len(parts) >= 3 and parts[0] == "namespaces" and parts[2] not in _OF_NAMESPACE:
        namespace, parts = parts[1], parts[2:]
    if not parts:
        return RequestInfo(method.lower(), path)
    resource, name = parts[0], parts[1] if len(parts) > 1 else ""
    subresource = parts[2] if len(parts) > 2 else ""
    rest = "/".join(parts[3:])
    if resource == "namespaces" and not namespace:
        namespace = name
    verb = _verb(method, name, query)
    if watching and method == "GET":
        verb = "watch"
    selected = ""
    if not name and verb in ("list", "watch") and "fieldSelector" in query:
        selected = selected_name(query["fieldSelector"])
    return RequestInfo(
        verb, path, group, version, namespace, resource, name, subresource, rest, selected
    )


def _verb(method: str, name: str, query: Query) -> str:
    verb = _ONE_VERBS.get(method, method.lower())
    if verb == "get" and (not name or is_true(query, "watch")):
        if is_true(query, "watch"):
            return "watch"
        return "list"
    if verb == "delete" and not name:
        return "deletecollection"
    return verb


# Query


def parse_query(text: bytes) -> dict[str, list[str]]:
    """Parameters in order; ApiError 400 if they are not text."""
    try:
        pairs = parse_qsl(text.decode("ascii"), keep_blank_values=True, errors="strict")
    except (ValueError, UnicodeError) as error:
        raise bad_request(f"invalid query string: {error}") from None
    parameters: dict[str, list[str]] = {}
    for key, value in pairs:
        parameters.setdefault(key, []).append(value)
    return parameters


def decode_path(raw: bytes) -> str:
    """The decoded path; ApiError 400 if it is not UTF-8."""
    try:
        return unquote(raw.decode("ascii"), errors="strict")
    except UnicodeError:
        raise bad_request("the path of the request is not valid UTF-8") from None


def is_true(query: Query, name: str) -> bool:
    """A boolean parameter as upstream reads it: present and not "0" or "false"."""
    value = query.get(name)
    return value is not None and value != "" and value.lower() not in ("0", "false")


def integer(query: Query, name: str) -> int | None:
    """An integer parameter, None if absent; ApiError 400."""
    value = query.get(name, "")
    if not value:
        return None
    digits = value[1:] if value[0] in "+-" else value
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 18:
        raise bad_request(
            f'invalid value for query parameter {name}: strconv.ParseInt: parsing "{value}": '
            "invalid syntax"
        )
    return int(value)


def list_options(query: Query) -> ListOptions:
    """``metav1.ListOptions`` of a list or deletecollection; ApiError 400 or 422."""
    integer(query, "timeoutSeconds")  # means nothing here, but must be a number
    if query.get("sendInitialEvents"):
        is_true(query, "sendInitialEvents")
        detail = "sendInitialEvents is forbidden for list"
        error = FieldError("Forbidden", "sendInitialEvents", detail=detail)
        raise invalid("ListOptions", "meta.k8s.io", "", [error])
    return ListOptions(
        query.get("labelSelector", ""),
        query.get("fieldSelector", ""),
        integer(query, "limit") or 0,
        query.get("continue", ""),
        query.get("resourceVersion", ""),
        query.get("resourceVersionMatch", ""),
    )


def watch_options(query: Query, name: str = "") -> WatchOptions:
    """``metav1.ListOptions`` of a watch; ``name`` narrows it to one object. ApiError 400."""
    fields = query.get("fieldSelector", "")
    if name:
        own = f"metadata.name={name}"
        fields = f"{fields},{own}" if fields else own
    timeout_s = integer(query, "timeoutSeconds")
    initial = is_true(query, "sendInitialEvents") if query.get("sendInitialEvents") else None
    return WatchOptions(
        query.get("labelSelector", ""),
        fields,
        query.get("resourceVersion", ""),
        query.get("resourceVersionMatch", ""),
        is_true(query, "allowWatchBookmarks"),
        initial,
        float(timeout_s) if timeout_s is not None and timeout_s > 0 else None,
    )


@dataclass(frozen=True, slots=True)
class WriteOptions:
    """``metav1.CreateOptions``, ``UpdateOptions`` and ``PatchOptions`` in one."""

    dry_run: bool = False
    field_manager: str = ""
    field_validation: str = ""
    force: bool | None = None


_VALIDATIONS = ("", "Ignore", "Strict", "Warn")
_MAX_MANAGER = 128


def write_options(parameters: Mapping[str, list[str]], kind: str) -> WriteOptions:
    """``kind`` (CreateOptions, ...) is named in errors. ApiError 422."""
    query = {key: values[0] for key, values in parameters.items()}
    errors: list[FieldError] = []
    dry_run = _dry_run(parameters.get("dryRun") or [], errors)
    validation = query.get("fieldValidation", "")
    if validation not in _VALIDATIONS:
        supported = ", ".join(f'"{value}"' for value in _VALIDATIONS)
        detail = f"supported values: {supported}"
        errors.append(FieldError("NotSupported", "fieldValidation", validation, detail))
    manager = query.get("fieldManager", "")
    if len(manager.encode()) > _MAX_MANAGER:
        detail = f"may not be more than {_MAX_MANAGER} bytes"
        errors.append(FieldError("TooLong", "fieldManager", manager, detail))
    elif not manager.isprintable():
        detail = "should only contain printable characters"
        errors.append(FieldError("Invalid", "fieldManager", manager, detail))
    if errors:
        raise invalid(kind, "meta.k8s.io", "", errors)
    force = is_true(query, "force") if query.get("force") else None
    return WriteOptions(dry_run, manager, validation, force)


def _dry_run(values: list[str], errors: list[FieldError]) -> bool:
    asked = [value for value in values if value]
    errors.extend(
        FieldError("NotSupported", "dryRun", value, 'supported values: "All"')
        for value in asked
        if value != "All"
    )
    return bool(asked)


def delete_options(
    parameters: Mapping[str, list[str]], body: dict[str, Any] | None
) -> DeleteOptions:
    """``metav1.DeleteOptions`` of a body, else of the query. ApiError 400 or 422."""
    query = {key: values[0] for key, values in parameters.items()}
    errors: list[FieldError] = []
    if body is None:
        dry_run = _dry_run(parameters.get("dryRun") or [], errors)
        policy = query.get("propagationPolicy", "")
        grace = integer(query, "gracePeriodSeconds")
        orphan = is_true(query, "orphanDependents") if query.get("orphanDependents") else None
        preconditions: dict[str, Any] = {}
    else:
        dry_run = _dry_run(_strings(body, "dryRun"), errors)
        policy = _text(body, "propagationPolicy")
        grace = _whole(body, "gracePeriodSeconds")
        orphan = body.get("orphanDependents")
        preconditions = body.get("preconditions") or {}
        if not isinstance(preconditions, dict):
            raise bad_request("DeleteOptions: preconditions must be an object")
    if orphan is not None and policy:
        detail = "orphanDependents and deletionPropagation cannot be both set"
        errors.append(FieldError("Invalid", "propagationPolicy", policy, detail))
    if errors:
        raise invalid("DeleteOptions", "meta.k8s.io", "", errors)
    if orphan is not None:
        policy = "Orphan" if orphan else "Background"
    uid, version = _text(preconditions, "uid"), _text(preconditions, "resourceVersion")
    return DeleteOptions(policy, grace, uid, version, dry_run)


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise bad_request(f"DeleteOptions: {name} must be a string")
    return value


def _whole(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise bad_request(f"DeleteOptions: {name} must be an integer")
    return value


def _strings(body: Mapping[str, Any], name: str) -> list[str]:
    value = body.get(name) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise bad_request(f"DeleteOptions: {name} must be a list of strings")
    return value


def log_options(query: Query) -> LogOptions:
    """``v1.PodLogOptions``. ApiError 400 or 422."""
    options = LogOptions(
        container=query.get("container", ""),
        follow=is_true(query, "follow"),
        previous=is_true(query, "previous"),
        timestamps=is_true(query, "timestamps"),
        tail_lines=integer(query, "tailLines"),
        limit_bytes=integer(query, "limitBytes"),
        since_seconds=integer(query, "sinceSeconds"),
        since_time=query.get("sinceTime", ""),
    )
    errors: list[FieldError] = []
    for name, value, least in (
        ("tailLines", options.tail_lines, 0),
        ("limitBytes", options.limit_bytes, 1),
        ("sinceSeconds", options.since_seconds, 1),
    ):
        if value is not None and value < least:
            detail = f"must be greater than {'or equal to ' if not least else ''}0"
            errors.append(FieldError("Invalid", name, value, detail))
    if options.since_seconds is not None and options.since_time:
        detail = "at most one of `sinceTime` or `sinceSeconds` may be specified"
        errors.append(FieldError("Forbidden", "", detail=detail))
    if errors:
        raise invalid("PodLogOptions", "", "", errors)
    return options


# Media types

JSON = "application/json"
YAML = "application/yaml"
_ACCEPTED = f"{JSON}, {JSON};stream=watch, {YAML}"


@dataclass(frozen=True, slots=True)
class MediaType:
    """One alternative of an Accept header that can be served."""

    type: str = JSON
    as_: str = ""  # Table, PartialObjectMetadata, APIGroupDiscoveryList, ...
    group: str = ""
    version: str = ""


def _clauses(accept: str) -> list[tuple[str, dict[str, str]]]:
    """(media type, parameters), most wanted first; order breaks ties."""
    found: list[tuple[float, str, dict[str, str]]] = []
    for clause in accept.split(","):
        head, *rest = [part.strip() for part in clause.split(";")]
        if not head:
            continue
        parameters = {}
        for part in rest:
            key, _, value = part.partition("=")
            parameters[key.strip()] = value.strip().strip('"')
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            quality = 1.0
        found.append((quality, head.lower(), parameters))
    return [(head, parameters) for _, head, parameters in sorted(found, key=lambda f: -f[0])]


def _base_type(head: str) -> str:
    if head in ("*/*", "application/*", JSON):
        return JSON
    return YAML if head in (YAML, "application/x-yaml", "text/yaml") else ""


def negotiate(accept: str, transforms: frozenset[tuple[str, str, str]]) -> MediaType:
    """The first alternative that can be served; ``transforms`` are the (as, group, version) that
    this answer exists in besides its own. ApiError 406 if there is none."""
    if not accept.strip():
        return MediaType()
    for head, parameters in _clauses(accept):
        base = _base_type(head)
        if not base:
            continue
        wanted = parameters.get("as", "")
        if not wanted:
            return MediaType(base)
        group, version = parameters.get("g", ""), parameters.get("v", "")
        if (wanted, group, version) in transforms:
            return MediaType(base, wanted, group, version)
    raise not_acceptable()


def not_acceptable() -> ApiError:
    """406 naming what is served."""
    message = f"only the following media types are accepted: {_ACCEPTED}"
    return ApiError(406, "NotAcceptable", message)


_META = ("v1", "v1beta1")
OBJECT_TRANSFORMS = frozenset(
    (name, "meta.k8s.io", version)
    for name in ("Table", "PartialObjectMetadata")
    for version in _META
)
LIST_TRANSFORMS = frozenset(
    (name, "meta.k8s.io", version)
    for name in ("Table", "PartialObjectMetadataList")
    for version in _META
)
WATCH_TRANSFORMS = OBJECT_TRANSFORMS
DISCOVERY_TRANSFORMS = frozenset(
    ("APIGroupDiscoveryList", "apidiscovery.k8s.io", version) for version in ("v2", "v2beta1")
)
NO_TRANSFORMS: frozenset[tuple[str, str, str]] = frozenset()
