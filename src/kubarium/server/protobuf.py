"""Request bodies in Kubernetes' protobuf, decoded into documents.

kubectl since 1.32 sends what it builds from typed structs (``create configmap``, ``auth can-i``) as
``application/vnd.kubernetes.protobuf``, as most Go controllers do. Answers are JSON: every client
accepts that beside protobuf. The field numbers come from a data file that
``scripts/distil_protobuf.py`` makes, which is read when the first such body arrives.

A body is the magic ``k8s\\0`` and a ``runtime.Unknown`` {typeMeta = 1, raw = 2}; raw is the
object's message. Nothing here trusts a length or a type: whatever is wrong is ApiError 400.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

import orjson

from kubarium.api.resource import Document
from kubarium.base.clock import rfc3339, rfc3339_micro
from kubarium.base.errors import ApiError, bad_request

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"
_MAX_DEPTH = 100  # messages within messages; no Kubernetes type comes near
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _Field(NamedTuple):
    """One row of the data file; its docstring explains the codes."""

    name: str
    code: str
    reference: int
    repeated: bool
    keep_zero: bool


_Message = dict[int, _Field]


class _Malformed(Exception):
    """The bytes are not the message that they claim to be."""


@lru_cache(maxsize=1)
def _table() -> tuple[dict[str, int], list[_Message]]:
    path = files("kubarium.server") / "data" / "protobuf-1.37.json"
    data = orjson.loads(path.read_bytes())
    messages = [
        {row[0]: _Field(row[1], row[2], row[3], bool(row[4]), bool(row[5])) for row in rows}
        for rows in data["messages"]
    ]
    return data["kinds"], messages


def decode_protobuf(body: bytes) -> Document:
    """The document in a protobuf body. ApiError 400 if it is malformed, 415 if the kind has no
    protobuf form here (custom resources have none anywhere)."""
    try:
        api_version, kind, raw = _unwrap(body)
        kinds, messages = _table()
        label = (
            "meta.k8s.io/v1 DeleteOptions" if kind == "DeleteOptions" else f"{api_version} {kind}"
        )
        index = kinds.get(label)
        if index is None:
            raise _not_served(api_version, kind)
        document = _Decoder(messages).message(raw, index, 0)
    except (_Malformed, struct.error, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise bad_request(f"unable to decode a protobuf body: {error}") from None
    return {"apiVersion": api_version, "kind": kind, **document}


def _not_served(api_version: str, kind: str) -> ApiError:
    message = f"{api_version} {kind} is not served as protobuf; send application/json"
    return ApiError(415, "UnsupportedMediaType", message)


def _unwrap(body: bytes) -> tuple[str, str, bytes]:
    if not body.startswith(_MAGIC):
        raise _Malformed("the body does not begin with k8s\\0")
    api_version = kind = ""
    raw = b""
    for number, wire, value in _fields(body[len(_MAGIC) :]):
        if number == 1 and wire == _BYTES:
            for inner, inner_wire, text in _fields(value):
                if inner_wire == _BYTES and inner == 1:
                    api_version = text.decode()
                elif inner_wire == _BYTES and inner == 2:
                    kind = text.decode()
        elif number == 2 and wire == _BYTES:
            raw = value
    if not kind:
        raise _Malformed("the body does not name its kind")
    return api_version, kind, raw


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _Malformed("a number has no end")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> Iterator[tuple[int, int, Any]]:
    """(field number, wire type, value) of each field."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        value: int | bytes
        if wire == _VARINT:
            value, at = _varint(data, at)
        elif wire == _BYTES:
            length, at = _varint(data, at)
            if length > len(data) - at:
                raise _Malformed(f"field {number} is longer than its message")
            value, at = data[at : at + length], at + length
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
            if size > len(data) - at:
                raise _Malformed(f"field {number} is cut off")
            value, at = data[at : at + size], at + size
        else:
            raise _Malformed(f"field {number} has wire type {wire}")
        yield number, wire, value


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


class _Decoder:
    """Decodes messages by the table of fields."""

    def __init__(self, messages: list[_Message]) -> None:
        self._messages = messages

    def message(self, data: bytes, index: int, depth: int) -> Document:
        """The document of one message; unknown fields are skipped, as protobuf wants it."""
        if depth > _MAX_DEPTH:
            raise _Malformed(f"messages nest deeper than {_MAX_DEPTH}")
        table = self._messages[index]
        document: Document = {}
        for number, wire, raw in _fields(data):
            field = table.get(number)
            if field is None:
                continue
            if field.code == "n":
                document |= self.message(_bytes(raw, wire), field.reference, depth + 1)
            elif len(field.code) == 2 or field.code in "SY":
                key, value = self._entry(field, _bytes(raw, wire), depth)
                document.setdefault(field.name, {})[key] = value
            else:
                self._put(document, field, self._value(field.code, field, wire, raw, depth))
        return document

    def _put(self, document: Document, field: _Field, value: Any) -> None:
        if field.repeated:
            document.setdefault(field.name, []).append(value)
        elif value is not None and (value or field.keep_zero):
            document[field.name] = value

    def _entry(self, field: _Field, data: bytes, depth: int) -> tuple[str, Any]:
        """One entry of a map: {key = 1, value = 2}."""
        code = {"S": "s", "Y": "y"}.get(field.code, field.code[1:])
        key, value = "", self._value(code, field, _BYTES, b"", depth)
        for number, wire, raw in _fields(data):
            if number == 1:
                key = _bytes(raw, wire).decode()
            elif number == 2:
                value = self._value(code, field, wire, raw, depth)
        return key, value

    def _value(self, code: str, field: _Field, wire: int, raw: Any, depth: int) -> Any:
        if code in "ib":
            if wire != _VARINT:
                raise _Malformed(f"{field.name} is no number")
            return bool(raw) if code == "b" else _signed(raw)
        if code == "d":
            return struct.unpack("<d", raw)[0] if wire == _FIXED64 else 0.0
        data = _bytes(raw, wire)
        if code == "s":
            return data.decode()
        if code == "y":
            return base64.b64encode(data).decode()
        if code == "m":
            return self.message(data, field.reference, depth + 1)
        return _SPECIAL[code](data)


def _bytes(raw: Any, wire: int) -> bytes:
    if wire != _BYTES:
        raise _Malformed("a number stands where text or a message is expected")
    assert isinstance(raw, bytes)
    return raw


def _numbers(data: bytes) -> dict[int, Any]:
    return {number: value for number, _, value in _fields(data)}


def _quantity(data: bytes) -> str:
    text = _numbers(data).get(1, b"")
    return text.decode() if isinstance(text, bytes) and text else "0"


def _time(data: bytes) -> str | None:
    if not data:
        return None
    return rfc3339(_signed(_integer(data, 1)))


def _micro_time(data: bytes) -> str | None:
    if not data:
        return None
    return rfc3339_micro(_signed(_integer(data, 1)) + _integer(data, 2) / 1e9)


def _integer(data: bytes, number: int) -> int:
    value = _numbers(data).get(number, 0)
    if not isinstance(value, int):
        raise _Malformed("a time is not made of numbers")
    return value


def _duration(data: bytes) -> str:
    return f"{_signed(_integer(data, 1)) / 1e9:g}s"


def _int_or_string(data: bytes) -> int | str:
    values = _numbers(data)
    if values.get(1):
        text = values.get(3, b"")
        return text.decode() if isinstance(text, bytes) else ""
    number = values.get(2, 0)
    return _signed(number) if isinstance(number, int) else 0


def _raw_json(data: bytes) -> Any:
    raw = _numbers(data).get(1, b"")
    return orjson.loads(raw) if isinstance(raw, bytes) and raw else None


def _items(data: bytes) -> list[str]:
    return [_bytes(value, wire).decode() for number, wire, value in _fields(data) if number == 1]


_SPECIAL: dict[str, Callable[[bytes], Any]] = {
    "Q": _quantity,
    "T": _time,
    "U": _micro_time,
    "D": _duration,
    "I": _int_or_string,
    "R": _raw_json,
    "F": _raw_json,
    "L": _items,
}
