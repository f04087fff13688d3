"""SPDY/3.1 framing without I/O, as far as port forwarding needs it.

Frames, not windows: neither client-go nor kubelet does SPDY's flow control. Source: the SPDY draft
3.1 (chromium.org), and what ``moby/spdystream`` makes of it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

VERSION = 3
SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = (
    1,
    2,
    3,
    4,
    6,
    7,
    8,
    9,
)
DATA = 0
FLAG_FIN = 0x1
PROTOCOL_ERROR, REFUSED_STREAM, CANCEL, INTERNAL_ERROR = 1, 3, 5, 6
MAX_FRAME_BYTES = (1 << 24) - 1
_MAX_HEADER_BYTES = 64 * 1024
_CONTROL = 0x8000
_STREAM_ID = 0x7FFFFFFF

_NAMES = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language "
    "accept-ranges age allow authorization cache-control connection content-base "
    "content-encoding content-language content-length content-location content-md5 content-range "
    "content-type date etag expect expires from host if-match if-modified-since if-none-match "
    "if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate "
    "proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status"
)
_MORE_NAMES = ("200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive")
_CODES = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
)
_PHRASES = (
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request"
    "401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented"
    "503 Service Unavailable"
)
_VALUES = (
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, "
    "Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,"
    "application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,"
    "sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _dictionary() -> bytes:
    """The one that section 2.6.10.1 gives: counted names, then what values often hold."""
    counted = (*_NAMES.split(), *_MORE_NAMES, "origin")
    head = b"".join(struct.pack("!I", len(name)) + name.encode() for name in counted)
    return head + (_CODES + _PHRASES + _VALUES).encode()


DICTIONARY = _dictionary()


class SpdyError(Exception):
    """The peer broke the protocol."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame. ``data`` is a DATA frame's payload; ``code`` a RST_STREAM's status, a GOAWAY's
    last stream or a PING's id."""

    kind: int
    stream: int = 0
    flags: int = 0
    data: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    code: int = 0

    @property
    def final(self) -> bool:
        """Whether the sender sends no more on this stream."""
        return bool(self.flags & FLAG_FIN)


class Decoder:
    """Bytes in, frames out. Header blocks of one direction share one zlib stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now. SpdyError."""
        self._buffer += data
        found: list[Frame] = []
        while len(self._buffer) >= 8:
            first, rest = struct.unpack_from("!II", self._buffer)
            flags, size = rest >> 24, rest & MAX_FRAME_BYTES
            if len(self._buffer) < 8 + size:
                break
            body = bytes(self._buffer[8 : 8 + size])
            del self._buffer[: 8 + size]
            if first >> 31:
                found += self._control(first >> 16, first & 0xFFFF, flags, body)
            else:
                found.append(Frame(DATA, first & _STREAM_ID, flags, body))
        return found

    def _control(self, version: int, kind: int, flags: int, body: bytes) -> list[Frame]:
        if version != _CONTROL | VERSION:
            raise SpdyError(f"SPDY version {version & 0x7FFF} is not spoken here")
        try:
            if kind == SYN_STREAM:
                stream = struct.unpack_from("!I", body)[0] & _STREAM_ID
                return [Frame(kind, stream, flags, headers=self._headers(body[10:]))]
            if kind in (SYN_REPLY, HEADERS):
                stream = struct.unpack_from("!I", body)[0] & _STREAM_ID
                return [Frame(kind, stream, flags, headers=self._headers(body[4:]))]
            if kind in (RST_STREAM, WINDOW_UPDATE):
                stream, code = struct.unpack_from("!II", body)
                return [Frame(kind, stream & _STREAM_ID, code=code)]
            if kind in (PING, GOAWAY):
                return [Frame(kind, code=struct.unpack_from("!I", body)[0])]
        except struct.error as error:
            raise SpdyError(f"a frame of type {kind} is too short") from error
        return []  # settings and what is unknown may be ignored

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            text = self._inflate.decompress(block, _MAX_HEADER_BYTES)
        except zlib.error as error:
            raise SpdyError(f"headers cannot be decompressed: {error}") from error
        if self._inflate.unconsumed_tail:
            raise SpdyError(f"headers have more than {_MAX_HEADER_BYTES} bytes")
        count = struct.unpack_from("!I", text)[0]
        parts, at = [], 4
        for _ in range(2 * count):
            size = struct.unpack_from("!I", text, at)[0]
            parts.append(text[at + 4 : at + 4 + size].decode("utf-8", "replace"))
            at += 4 + size
        return dict(zip((name.lower() for name in parts[::2]), parts[1::2], strict=True))


class Encoder:
    """Frames to bytes."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def syn_stream(self, stream: int, headers: Mapping[str, str], *, final: bool = False) -> bytes:
        """Open a stream (clients do)."""
        body = struct.pack("!IIH", stream, 0, 0) + self._block(headers)
        return _control(SYN_STREAM, FLAG_FIN if final else 0, body)

    def syn_reply(self, stream: int) -> bytes:
        """Take a stream that the peer opens."""
        return _control(SYN_REPLY, 0, struct.pack("!I", stream) + self._block({}))

    def data(self, stream: int, data: bytes, *, final: bool = False) -> bytes:
        """Bytes of a stream; ``final`` half-closes it."""
        head = struct.pack("!II", stream, (FLAG_FIN if final else 0) << 24 | len(data))
        return head + data

    def reset(self, stream: int, code: int) -> bytes:
        """End a stream at once."""
        return _control(RST_STREAM, 0, struct.pack("!II", stream, code))

    def ping(self, number: int) -> bytes:
        """Also the answer to one of the same number."""
        return _control(PING, 0, struct.pack("!I", number))

    def goaway(self, last_stream: int) -> bytes:
        """No more streams are taken."""
        return _control(GOAWAY, 0, struct.pack("!II", last_stream, 0))

    def _block(self, headers: Mapping[str, str]) -> bytes:
        block = struct.pack("!I", len(headers))
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                block += struct.pack("!I", len(text)) + text
        return self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)


def _control(kind: int, flags: int, body: bytes) -> bytes:
    head = struct.pack("!HHI", _CONTROL | VERSION, kind, flags << 24 | len(body))
    return head + body
