"""The Swagger document as protobuf, which kubectl 1.28 and older ask for and insist on.

The messages are those of gnostic's ``openapiv2/OpenAPIv2.proto``; extensions, defaults and enum
values travel as YAML text, of which JSON is a subset.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any

import orjson

# What clients accept (the first form is what they send, though "@" is no media type character)
# and what the answer must call itself, or client-go cannot parse the header.
ACCEPTED = (
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
)
CONTENT_TYPE = ACCEPTED[1]

Json = dict[str, Any]
_Field = tuple[int, Callable[[int, Any], bytes]]


def _varint(value: int) -> bytes:
    out = bytearray()
    value &= 2**64 - 1
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _blob(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _string(number: int, value: str) -> bytes:
    return _blob(number, value.encode())


def _strings(number: int, values: Iterable[str]) -> bytes:
    return b"".join(_string(number, value) for value in values)


def _integer(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(int(value))


def _double(number: int, value: float) -> bytes:
    return _varint(number << 3 | 1) + struct.pack("<d", value)


def _any(number: int, value: Any) -> bytes:
    return _blob(number, _string(2, orjson.dumps(value).decode()))


def _anys(number: int, values: Iterable[Any]) -> bytes:
    return b"".join(_any(number, value) for value in values)


def _named(number: int, name: str, value: bytes) -> bytes:
    return _blob(number, _string(1, name) + _blob(2, value))


def _message(value: Json, fields: dict[str, _Field], extensions: int) -> bytes:
    """The known members in order, then the ``x-`` members as extensions."""
    parts = [
        encode(number, value[name]) for name, (number, encode) in fields.items() if name in value
    ]
    for name, content in value.items():
        if name.startswith("x-"):
            yaml = _string(2, orjson.dumps(content).decode())
            parts.append(_named(extensions, name, yaml))
    return b"".join(parts)


# --- schemas --------------------------------------------------------------------------------------


def _schema(value: Json) -> bytes:
    return _message(value, _SCHEMA, 31)


def _schemas(number: int, values: Json) -> bytes:
    """A map of schemas: a message of named ones."""
    return _blob(number, b"".join(_named(1, name, _schema(s)) for name, s in values.items()))


def _items(number: int, value: Json) -> bytes:
    return _blob(number, _blob(1, _schema(value)))


_SCHEMA: dict[str, _Field] = {
    "$ref": (1, _string),
    "format": (2, _string),
    "description": (4, _string),
    "default": (5, _any),
    "multipleOf": (6, _double),
    "maximum": (7, _double),
    "minimum": (9, _double),
    "maxLength": (11, _integer),
    "minLength": (12, _integer),
    "pattern": (13, _string),
    "maxItems": (14, _integer),
    "minItems": (15, _integer),
    "maxProperties": (17, _integer),
    "minProperties": (18, _integer),
    "required": (19, _strings),
    "enum": (20, _anys),
    "additionalProperties": (21, _items),
    "type": (22, lambda number, value: _blob(number, _string(1, value))),
    "items": (23, _items),
    "properties": (25, _schemas),
}


# --- paths ----------------------------------------------------------------------------------------

_BODY: dict[str, _Field] = {
    "name": (2, _string),
    "in": (3, _string),
    "required": (4, _integer),
    "schema": (5, lambda number, value: _blob(number, _schema(value))),
}
_QUERY: dict[str, _Field] = {
    "required": (1, _integer),
    "in": (2, _string),
    "name": (4, _string),
    "type": (6, _string),
    "uniqueItems": (20, _integer),
}
_PATH: dict[str, _Field] = {
    "required": (1, _integer),
    "in": (2, _string),
    "name": (4, _string),
    "type": (5, _string),
    "uniqueItems": (19, _integer),
}


def _parameters(number: int, values: list[Json]) -> bytes:
    return b"".join(_blob(number, _blob(1, _parameter(value))) for value in values)


def _parameter(value: Json) -> bytes:
    if value["in"] == "body":
        return _blob(1, _message(value, _BODY, 6))
    if value["in"] == "query":
        return _blob(2, _blob(3, _message(value, _QUERY, 23)))
    return _blob(2, _blob(4, _message(value, _PATH, 22)))


def _responses(number: int, values: Json) -> bytes:
    return _blob(number, b"".join(_named(1, code, _response(r)) for code, r in values.items()))


def _response(value: Json) -> bytes:
    schema = _blob(2, _blob(1, _schema(value["schema"])))
    return _blob(1, _string(1, value["description"]) + schema)


_OPERATION: dict[str, _Field] = {
    "tags": (1, _strings),
    "operationId": (5, _string),
    "consumes": (7, _strings),
    "parameters": (8, _parameters),
    "responses": (9, _responses),
}


def _operation(number: int, value: Json) -> bytes:
    return _blob(number, _message(value, _OPERATION, 13))


_PATH_ITEM: dict[str, _Field] = {
    "get": (2, _operation),
    "put": (3, _operation),
    "post": (4, _operation),
    "delete": (5, _operation),
    "patch": (8, _operation),
    "parameters": (9, _parameters),
}


def _paths(number: int, values: Json) -> bytes:
    items = (_named(2, path, _message(item, _PATH_ITEM, 10)) for path, item in values.items())
    return _blob(number, b"".join(items))


def _info(number: int, value: Json) -> bytes:
    return _blob(number, _string(1, value["title"]) + _string(2, value["version"]))


_DOCUMENT: dict[str, _Field] = {
    "swagger": (1, _string),
    "info": (2, _info),
    "paths": (8, _paths),
    "definitions": (9, _schemas),
}


def encode(document: Json) -> bytes:
    """The ``openapi.v2.Document`` of a Swagger 2.0 document."""
    return _message(document, _DOCUMENT, 16)
