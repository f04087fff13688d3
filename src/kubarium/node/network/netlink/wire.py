"""Netlink messages as bytes: headers, attributes, answers (``linux/netlink.h``). Pure."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from kubarium.base.errors import KubariumError

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
EXCLUSIVE, CREATE, APPEND = 0x200, 0x400, 0x800
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED, _TYPE_MASK = 0x8000, 0x3FFF
ERROR, DONE = 2, 3
_CAPPED, _ACK_TLVS = 0x100, 0x200
_EXTACK_MESSAGE = 1


class NetlinkError(KubariumError):
    """The kernel refused a message; ``number`` is its errno."""

    def __init__(self, number: int, what: str, detail: str = "") -> None:
        super().__init__(f"{what}: {os.strerror(number)}" + (f" ({detail})" if detail else ""))
        self.number = number


@dataclass(frozen=True, slots=True)
class Message:
    """One request. ``what`` names it in errors."""

    kind: int
    payload: bytes
    flags: int
    what: str

    def encode(self, sequence: int) -> bytes:
        size = _HEADER.size + len(self.payload)
        head = _HEADER.pack(size, self.kind, self.flags | REQUEST, sequence, 0)
        return pad(head + self.payload)


@dataclass(frozen=True, slots=True)
class Answer:
    """One message of the kernel's. For an error ``error`` is the errno (0: acknowledged)."""

    kind: int
    sequence: int
    payload: bytes
    error: int = 0
    detail: str = ""


def pad(data: bytes) -> bytes:
    """Aligned to four bytes."""
    return data + bytes(-len(data) % 4)


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute. ValueError for one that its 16-bit length cannot hold."""
    if len(value) > 0xFFFF - _ATTRIBUTE.size:
        raise ValueError(f"netlink attribute {kind} of {len(value)} bytes")
    return pad(_ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value)


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NESTED, b"".join(parts))


def text(kind: int, value: str) -> bytes:
    """A string, with its final zero byte."""
    return attribute(kind, value.encode() + b"\0")


def native32(kind: int, value: int) -> bytes:
    """A number in the machine's byte order, as routing messages have it."""
    return attribute(kind, struct.pack("=I", value))


def big32(kind: int, value: int) -> bytes:
    """A number in network byte order, as netfilter messages have it."""
    return attribute(kind, struct.pack(">i" if value < 0 else ">I", value))


def attributes(data: bytes) -> dict[int, bytes]:
    """Attributes by kind; of several of one kind the last."""
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = data[at + _ATTRIBUTE.size : at + size]
        at += size + (-size % 4)
    return found


def decode(data: bytes) -> Iterator[Answer]:
    """The messages in what was received at once."""
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if size < _HEADER.size:
            return
        payload = data[at + _HEADER.size : at + size]
        if kind == ERROR:
            number = -struct.unpack_from("=i", payload)[0]
            yield Answer(kind, sequence, payload, number, _detail(payload, flags))
        else:
            yield Answer(kind, sequence, payload)
        at += size + (-size % 4)


def _detail(payload: bytes, flags: int) -> str:
    """The kernel's own words on an error, where it has some."""
    if not flags & _ACK_TLVS:
        return ""
    inner = struct.unpack_from("=I", payload, 4)[0]
    start = 4 + (_HEADER.size if flags & _CAPPED else inner + (-inner % 4))
    return attributes(payload[start:]).get(_EXTACK_MESSAGE, b"").rstrip(b"\0").decode()
