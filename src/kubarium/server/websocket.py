"""WebSocket (RFC 6455) without I/O: the server's side of the handshake and of framing.

Only what Kubernetes' streaming uses: no extensions. A library would be one more dependency for two
hundred lines that never change.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NORMAL, PROTOCOL_ERROR, TOO_BIG, INTERNAL_ERROR = 1000, 1002, 1009, 1011

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION = "13"
_FIN, _RESERVED, _OPCODE, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x80, 0x7F
_MAX_CONTROL_BYTES = 125
# kubectl sends pieces of 32 KiB.
MAX_MESSAGE_BYTES = 4 << 20


class WebSocketError(Exception):
    """The client broke the protocol. ``code`` is the close code that says how."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message, or a control frame."""

    opcode: int
    data: bytes


def handshake_problem(headers: Mapping[str, str]) -> str:
    """ "" if these (lower-case) headers ask properly for an upgrade, else what is wrong."""
    if headers.get("sec-websocket-version", "") != _VERSION:
        return f"sec-websocket-version must be {_VERSION}"
    try:
        key = base64.b64decode(headers.get("sec-websocket-key", ""), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    return "" if len(key) == 16 else "sec-websocket-key must be 16 bytes in base64"


def accept_value(key: str) -> str:
    """The answer to a client's ``sec-websocket-key``."""
    digest = hashlib.sha1(key.encode() + _MAGIC, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def offered_protocols(headers: Mapping[str, str]) -> list[str]:
    """The subprotocols of a request, best first."""
    text = headers.get("sec-websocket-protocol", "")
    return [part.strip() for part in text.split(",") if part.strip()]


def frame(opcode: int, data: bytes) -> bytes:
    """One unfragmented, unmasked frame, as a server sends it."""
    size = len(data)
    if size <= _MAX_CONTROL_BYTES:
        head = struct.pack("!BB", _FIN | opcode, size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", _FIN | opcode, 126, size)
    else:
        head = struct.pack("!BBQ", _FIN | opcode, 127, size)
    return head + data


def close_frame(code: int, reason: str = "") -> bytes:
    """The frame that ends a connection."""
    return frame(CLOSE, struct.pack("!H", code) + reason.encode()[: _MAX_CONTROL_BYTES - 2])


class Reader:
    """Bytes of a client in, messages out."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._parts: list[bytes] = []
        self._opcode = 0

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are complete now. WebSocketError."""
        self._buffer += data
        found: list[Message] = []
        while True:
            one = self._next_frame()
            if one is None:
                return found
            message = self._assemble(*one)
            if message is not None:
                found.append(message)

    def _next_frame(self) -> tuple[int, bool, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        first, second = buffer[0], buffer[1]
        if first & _RESERVED:
            raise WebSocketError(PROTOCOL_ERROR, "reserved bits are set")
        if not second & _MASKED:
            raise WebSocketError(PROTOCOL_ERROR, "a client's frames must be masked")
        size, start = second & _LENGTH, 2
        for marker, length, form in ((126, 2, "!H"), (127, 8, "!Q")):
            if second & _LENGTH == marker:
                if len(buffer) < 2 + length:
                    return None
                size, start = struct.unpack_from(form, buffer, 2)[0], 2 + length
        opcode = first & _OPCODE
        _check_size(opcode, size, bool(first & _FIN))
        end = start + 4 + size
        if len(buffer) < end:
            return None
        data = _unmask(bytes(buffer[start : start + 4]), bytes(buffer[start + 4 : end]))
        del buffer[:end]
        return opcode, bool(first & _FIN), data

    def _assemble(self, opcode: int, final: bool, data: bytes) -> Message | None:
        if opcode >= CLOSE:
            return Message(opcode, data)
        if (opcode == CONTINUATION) != bool(self._opcode):
            raise WebSocketError(PROTOCOL_ERROR, "a continuation out of place")
        self._opcode = self._opcode or opcode
        self._parts.append(data)
        if sum(map(len, self._parts)) > MAX_MESSAGE_BYTES:
            raise WebSocketError(TOO_BIG, f"a message has more than {MAX_MESSAGE_BYTES} bytes")
        if not final:
            return None
        message = Message(self._opcode, b"".join(self._parts))
        self._parts, self._opcode = [], 0
        return message


def _check_size(opcode: int, size: int, final: bool) -> None:
    if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
        raise WebSocketError(PROTOCOL_ERROR, f"unknown opcode {opcode}")
    if opcode >= CLOSE and (size > _MAX_CONTROL_BYTES or not final):
        raise WebSocketError(PROTOCOL_ERROR, "a control frame is too large or fragmented")
    if size > MAX_MESSAGE_BYTES:
        raise WebSocketError(TOO_BIG, f"a frame has more than {MAX_MESSAGE_BYTES} bytes")


def _unmask(mask: bytes, data: bytes) -> bytes:
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data) ^ int.from_bytes(key)).to_bytes(size)
