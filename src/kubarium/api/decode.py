"""From bytes on the wire to a typed document: media types, duplicate and unknown fields, types.

Two steps, as upstream: :func:`decode` gives a JSON value (or 400, 415), :func:`conform` makes it
a document of a kind: wrong types are refused naming the field, unknown fields are dropped and
reported (the caller decides by ``fieldValidation``), null means absent, and quantities become
canonical.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, NoReturn

import orjson

from kubarium.api.catalog import Kind
from kubarium.api.crds.pruning import prune
from kubarium.api.manifests import MAX_DEPTH, DuplicateKeys, decode_yaml, json_type, too_deep
from kubarium.api.paths import Path, path_text
from kubarium.api.resource import Document
from kubarium.api.schema import Schema, definition
from kubarium.api.templates import Remembered, spec_content
from kubarium.base.clock import parse_rfc3339
from kubarium.base.errors import ApiError, bad_request
from kubarium.base.quantity import QuantityError, canonical

QUANTITY_PATTERN = (
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)
TIME_LAYOUT = "2006-01-02T15:04:05Z07:00"
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_INT_RANGE = {"int32": 2**31, "int64": 2**63, "": 2**63}
_ANY_JSON = "io.k8s.apimachinery.pkg.runtime.RawExtension"
_GO_TYPES = {"string": "string", "boolean": "bool", "number": "float64"}


# --- bytes to JSON -------------------------------------------------------------------------------


def decode(
    body: bytes, content_type: str = "", *, find_duplicates: bool = True
) -> tuple[Document, list[str]]:
    """The JSON object in ``body`` and the paths of fields that it gives twice.

    Raises ApiError 415 for media types other than JSON and YAML, 400 for text that is malformed,
    is not an object, or nests deeper than ``MAX_DEPTH``.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in ("", "application/json") or media_type.endswith("+json"):
        value, duplicates = _decode_json(body, find_duplicates)
    elif media_type == "application/yaml" or media_type.endswith("+yaml"):
        value, duplicates = decode_yaml(body)
    else:
        raise unsupported_media_type(media_type)
    if not isinstance(value, dict):
        raise bad_request(
            "couldn't get version/kind; json parse error: json: cannot unmarshal "
            f"{json_type(value)} into Go value of type struct (the body must be an object)"
        )
    return value, duplicates


def unsupported_media_type(media_type: str) -> ApiError:
    """415: the body is neither JSON nor YAML."""
    hint = ""
    if "protobuf" in media_type or "cbor" in media_type:
        hint = f" ({media_type} is not served here)"
    return ApiError(
        415,
        "UnsupportedMediaType",
        "the body of the request was in an unknown format - accepted media types include: "
        f"application/json, application/yaml{hint}",
    )


def _decode_json(body: bytes, find_duplicates: bool) -> tuple[Any, list[str]]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from None
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        _check_depth(value)
    if not find_duplicates or len(orjson.dumps(value)) == len(body.strip()):
        return value, []  # as long as its canonical form: no room for a key that got lost
    return value, _duplicates_in_json(body)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise too_deep()


def _children(node: Any) -> Iterator[Any]:
    values = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return (value for value in values if isinstance(value, (dict, list)))


def _duplicates_in_json(body: bytes) -> list[str]:
    duplicates = DuplicateKeys()
    value = json.loads(body, object_pairs_hook=duplicates.build)
    return list(dict.fromkeys(duplicates.paths(value))) if duplicates.found else []


# --- documents of a kind -------------------------------------------------------------------------


def conform(kind: Kind, document: Document) -> list[str]:
    """Make a freshly decoded document one of ``kind``, in place; the paths of unknown fields.

    Raises ApiError 400 naming the first field whose value has the wrong type. Custom resources
    are pruned by their structural schema and their types are left to validation, as upstream.
    """
    visitor = _Conform()
    content = spec_content(kind, document)
    known = _CONFORMING.get(content)
    if known is not None:
        document["spec"] = {}  # keeps its place in the order of the fields
    try:
        if kind.custom:
            _conform_metadata(visitor, document)
            return visitor.unknown + prune(kind.schema, document)
        visitor.value(kind.schema, document, None)
    except _Mismatch as mismatch:
        raise cannot_be_handled(kind, str(mismatch)) from None
    if known is not None:
        document["spec"] = orjson.loads(known)
    elif content is not None and not visitor.unknown:
        _CONFORMING.put(content, orjson.dumps(document["spec"]))
    return visitor.unknown


# Specs as they came, and as they are once they conform.
_CONFORMING: Remembered[bytes] = Remembered()


def identify(kind: Kind, document: Document) -> None:
    """Fill in ``apiVersion`` and ``kind`` if absent; ApiError 400 if they name another kind."""
    for field in ("apiVersion", "kind"):
        if not isinstance(document.get(field), str | None):
            raise bad_request(
                f"{field} must be a string, but is {json.dumps(document[field], default=str)}"
            )
    api_version, name = document.get("apiVersion") or "", document.get("kind") or ""
    wanted = kind.resource.api_version
    if name and name != kind.resource.kind:
        version = str(api_version).rpartition("/")[2]
        raise bad_request(
            f'{name} in version "{version}" cannot be handled as a {kind.resource.kind}: '
            f'the kind in the data ("{name}") does not match the expected kind '
            f'("{kind.resource.kind}")'
        )
    if api_version and api_version != wanted:
        raise bad_request(
            f"the API version in the data ({api_version}) does not match the expected API version "
            f"({wanted})"
        )
    document["apiVersion"], document["kind"] = wanted, kind.resource.kind


def unknown_fields(schema: Schema, document: Document) -> list[str]:
    """Paths of the fields that ``schema`` does not name. Looks only; types do not matter."""
    found: list[str] = []
    _collect_unknown(schema, document, None, found)
    return found


def _collect_unknown(schema: Schema, value: Any, path: Path, found: list[str]) -> None:
    if isinstance(value, dict):
        fields, values = schema.fields(), schema.additional
        for key, item in value.items():
            child = fields.get(key) or values
            if child is not None:
                _collect_unknown(child, item, (path, key), found)
            elif schema.has_fields and not schema.preserve_unknown:
                found.append(path_text((path, key)))
    elif isinstance(value, list) and schema.items is not None:
        for index, item in enumerate(value):
            _collect_unknown(schema.items, item, (path, index), found)


def strict_complaints(unknown: list[str], duplicates: list[str]) -> list[str]:
    """``unknown field "spec.foo"``, ``duplicate field "spec.bar"``: one text for each warning."""
    return [f'unknown field "{path}"' for path in unknown] + [
        f'duplicate field "{path}"' for path in duplicates
    ]


def strict_decoding_error(kind: Kind, unknown: list[str], duplicates: list[str]) -> ApiError:
    """400 for ``fieldValidation=Strict``."""
    complaints = ", ".join(strict_complaints(unknown, duplicates))
    return cannot_be_handled(kind, f"strict decoding error: {complaints}")


def cannot_be_handled(kind: Kind, why: str) -> ApiError:
    """400: ``Pod in version "v1" cannot be handled as a Pod: …``."""
    name, version = kind.resource.kind, kind.resource.version
    return bad_request(f'{name} in version "{version}" cannot be handled as a {name}: {why}')


class _Mismatch(Exception):
    """A value of the wrong type."""


def _conform_metadata(visitor: _Conform, document: Document) -> None:
    metadata = document.get("metadata")
    if metadata is None:
        document["metadata"] = {}
        return
    schema = definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
    visitor.value(schema, metadata, (None, "metadata"))


class _Conform:
    """One walk over a document of a built-in kind."""

    def __init__(self) -> None:
        self.unknown: list[str] = []

    def value(self, schema: Schema, value: Any, path: Path) -> Any:
        """The value to keep in place of ``value``, which is not None."""
        kind = schema.type
        if kind == "object":
            return self._object(schema, value, path)
        if kind == "array":
            return self._array(schema, value, path)
        if kind == "string":
            return self._string(schema, value, path)
        if kind == "integer":
            return self._integer(schema, value, path)
        if kind == "boolean":
            if value is not True and value is not False:
                _mismatch(schema, value, path)
        elif kind == "number":
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                _mismatch(schema, value, path)
        elif schema.int_or_string and (
            isinstance(value, bool) or not isinstance(value, (int, str))
        ):
            _mismatch(schema, value, path)
        return value

    def _object(self, schema: Schema, value: Any, path: Path) -> Any:
        if type(value) is not dict:
            if schema.name == _ANY_JSON:
                return value  # what it may be is for validation to say
            _mismatch(schema, value, path)
        fields = schema.fields()
        if not fields:
            if schema.additional is not None:
                self._map(schema.additional, value, path)
            elif value and schema.name and not schema.preserve_unknown:
                self.unknown += [path_text((path, key)) for key in value]  # a Go type of no fields
                value.clear()
            return value
        dropped: list[str] = []
        for key, item in value.items():
            child = fields.get(key)
            if child is None:
                self.unknown.append(path_text((path, key)))
                dropped.append(key)
            elif item is None:
                dropped.append(key)
            elif not _fits(child, item):
                kept = self.value(child, item, (path, key))
                if kept is not item:
                    value[key] = kept
        for key in dropped:
            del value[key]
        return value

    def _map(self, values: Schema, value: dict[str, Any], path: Path) -> None:
        for key, item in value.items():
            if item is None:
                value[key] = _zero(values)
            else:
                value[key] = self.value(values, item, (path, key))

    def _array(self, schema: Schema, value: Any, path: Path) -> Any:
        if type(value) is not list:
            _mismatch(schema, value, path)
        items = schema.items
        if items is not None:
            for index, item in enumerate(value):
                kept = _zero(items) if item is None else self.value(items, item, (path, index))
                if kept is not item:
                    value[index] = kept
            for key in _written_keys(schema):
                for item in value:
                    item.setdefault(key, "")
        return value

    def _string(self, schema: Schema, value: Any, path: Path) -> Any:
        if schema.quantity:
            return _quantity(value, path)
        if type(value) is not str:
            _mismatch(schema, value, path)
        if schema.format == "date-time":
            _check_time(value, path)
        elif schema.format == "byte":
            _check_base64(value, path)
        return value

    def _integer(self, schema: Schema, value: Any, path: Path) -> Any:
        if type(value) is not int:
            if type(value) is float and value.is_integer() and abs(value) < 2**53:
                return int(value)  # 1.0, as JavaScript and some YAML writers put integers
            _mismatch(schema, value, path)
        bound = _INT_RANGE.get(schema.format, 2**63)
        if not -bound <= value < bound:
            _mismatch(schema, value, path)
        return value


def _fits(schema: Schema, item: Any) -> bool:
    """Whether a plain value is seen at once to be what the schema says: most are."""
    kind = type(item)
    if kind is str:
        return schema.type == "string" and not schema.format
    if kind is bool:
        return schema.type == "boolean"
    return kind is int and schema.type == "integer" and -(2**31) <= item < 2**31


@cache
def _written_keys(schema: Schema) -> tuple[str, ...]:
    """The keys of a list's items that Go writes even if empty: strings that are required.

    Without them, merging by key would not find its key in an item that was stored without one.
    """
    items, keys = schema.items, (*schema.list_map_keys, schema.patch_merge_key)
    if items is None or not items.has_fields:
        return ()
    strings = [k for k in dict.fromkeys(keys) if k in items.required and _is_text(items.field(k))]
    return tuple(strings)


def _is_text(schema: Schema | None) -> bool:
    return schema is not None and schema.type == "string" and not schema.quantity


_ZEROES: dict[str, Any] = {"string": "", "integer": 0, "number": 0, "boolean": False}


def _zero(schema: Schema) -> Any:
    """What Go makes of null inside a list or map."""
    if schema.quantity:
        return "0"
    if schema.type == "object":
        return {}
    return [] if schema.type == "array" else _ZEROES.get(schema.type)


@lru_cache(maxsize=8192)
def _canonical_quantity(value: str | int | float) -> str:
    return canonical(value)


def _quantity(value: Any, path: Path) -> str:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            return _canonical_quantity(value)
        except QuantityError:
            pass
    shown = orjson.dumps(value).decode()
    raise _Mismatch(f"{path_text(path)}: {QUANTITY_PATTERN} (got {shown})")


@lru_cache(maxsize=4096)
def _is_time(value: str) -> bool:
    """Many objects are stamped in the same second."""
    try:
        return _RFC3339.fullmatch(value) is not None and parse_rfc3339(value) is not None
    except ValueError:
        return False


def _check_time(value: str, path: Path) -> None:
    if not _is_time(value):
        raise _Mismatch(
            f'{path_text(path)}: parsing time "{value}" as "{TIME_LAYOUT}": not an RFC 3339 time'
        )


def _check_base64(value: str, path: Path) -> None:
    try:
        base64.b64decode(value.replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError):
        raise _Mismatch(f"{path_text(path)}: illegal base64 data") from None


def _mismatch(schema: Schema, value: Any, path: Path) -> NoReturn:
    where = path_text(path)
    shown = json_type(value)
    if shown == "number" and schema.type == "integer":
        shown = f"number {orjson.dumps(value).decode()}"
    target = f"Go struct field {where}" if where else "Go value"
    raise _Mismatch(f"json: cannot unmarshal {shown} into {target} of type {go_type(schema)}")


def go_type(schema: Schema) -> str:
    """The Go type that upstream decodes this node into.

    >>> go_type(definition("io.k8s.api.core.v1.PodSpec").field("containers"))
    '[]v1.Container'
    """
    if schema.type == "integer":
        return schema.format or "int64"
    if schema.type == "array":
        return f"[]{go_type(schema.items)}" if schema.items else "[]interface {}"
    if schema.name:
        return ".".join(schema.name.split(".")[-2:])
    if schema.type == "object":
        return f"map[string]{go_type(schema.additional)}" if schema.additional else "object"
    return _GO_TYPES.get(schema.type, "interface {}")
