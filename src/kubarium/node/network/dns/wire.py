"""DNS messages as bytes (RFC 1035; EDNS size of RFC 6891): questions in, answers out. Pure."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

A, NS, CNAME, SOA, PTR, TXT, AAAA, SRV, OPT, ANY = 1, 2, 5, 6, 12, 16, 28, 33, 41, 255
NO_ERROR, FORMAT_ERROR, SERVER_FAILURE, NO_SUCH_NAME, NOT_IMPLEMENTED, REFUSED = range(6)
_HEADER = struct.Struct(">HHHHHH")
_RESPONSE, _AUTHORITATIVE, _TRUNCATED, _WANTED, _AVAILABLE = 0x8000, 0x400, 0x200, 0x100, 0x80
_OPCODE = 0x7800
UDP_BYTES, MOST_UDP_BYTES = 512, 4096
_IN = 1
# Answers are not to be remembered: names follow pods at once.
TTL_S = 5
_MOST_LABELS = 128


class Malformed(ValueError):
    """Not a question that we can read."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question. ``name`` is lower case, without its final dot; ``asked`` as it came."""

    ident: int
    name: str
    kind: int
    recursion: bool
    asked: bytes
    edns_bytes: int = 0

    @property
    def most_bytes(self) -> int:
        """How long a datagram its sender takes."""
        return min(max(self.edns_bytes, UDP_BYTES), MOST_UDP_BYTES)


@dataclass(frozen=True, slots=True)
class Answer:
    """A resource record; ``data`` as text: an address, a name, "priority weight port name"."""

    name: str
    kind: int
    data: str


def parse(message: bytes) -> Question:
    """The question in ``message``; Malformed if there is not exactly one to be read."""
    if len(message) < _HEADER.size:
        raise Malformed("shorter than a header")
    ident, flags, questions, answers, authorities, additional = _HEADER.unpack_from(message)
    if flags & _RESPONSE or flags & _OPCODE or questions != 1:
        raise Malformed("not a plain question")
    name, at = _read_name(message, _HEADER.size)
    if at + 4 > len(message):
        raise Malformed("the question is cut off")
    kind, _ = struct.unpack_from(">HH", message, at)
    edns = 0
    if additional and not answers and not authorities:
        edns = _edns_bytes(message, at + 4)
    asked = message[_HEADER.size : at + 4]
    return Question(ident, name.lower(), kind, bool(flags & _WANTED), asked, edns)


def _read_name(message: bytes, at: int) -> tuple[str, int]:
    labels: list[str] = []
    for _ in range(_MOST_LABELS):
        if at >= len(message):
            break
        size = message[at]
        if size == 0:
            return ".".join(labels), at + 1
        if size > 63:  # a question has nothing before it that it could point to
            raise Malformed("compressed name in a question")
        labels.append(message[at + 1 : at + 1 + size].decode("latin-1"))
        at += 1 + size
    raise Malformed("the name is cut off")


def _edns_bytes(message: bytes, at: int) -> int:
    if len(message) < at + 11 or message[at] != 0:
        return 0
    kind, size = struct.unpack_from(">HH", message, at + 1)
    return size if kind == OPT else 0


def response(
    question: Question,
    code: int,
    answers: Sequence[Answer] = (),
    zone: str = "",
    most_bytes: int = 0xFFFF,
    authoritative: bool = True,
) -> bytes:
    """An answer; with ``zone`` and no answers its SOA says that this is final. What does not fit
    into ``most_bytes`` is left out and the message marked as truncated."""
    flags = _RESPONSE | _AVAILABLE | code
    flags |= _AUTHORITATIVE if authoritative else 0
    flags |= _WANTED if question.recursion else 0
    records = [_record(answer) for answer in answers]
    authority = [] if answers or not zone else [_soa(zone)]
    extra = [_opt()] if question.edns_bytes else []
    size = _HEADER.size + len(question.asked) + sum(map(len, extra))
    kept: list[bytes] = []
    for record in records:
        if size + len(record) > most_bytes:
            flags |= _TRUNCATED
            break
        size += len(record)
        kept.append(record)
    head = _HEADER.pack(question.ident, flags, 1, len(kept), len(authority), len(extra))
    return b"".join((head, question.asked, *kept, *authority, *extra))


def _record(answer: Answer) -> bytes:
    data = _data(answer)
    head = struct.pack(">HHIH", answer.kind, _IN, TTL_S, len(data))
    return encode_name(answer.name) + head + data


def _data(answer: Answer) -> bytes:
    if answer.kind == A:
        return socket.inet_aton(answer.data)
    if answer.kind == SRV:
        priority, weight, port, name = answer.data.split()
        return struct.pack(">HHH", int(priority), int(weight), int(port)) + encode_name(name)
    if answer.kind == TXT:
        return bytes([len(answer.data)]) + answer.data.encode()
    return encode_name(answer.data)


def _soa(zone: str) -> bytes:
    numbers = struct.pack(">IIIII", 1, 7200, 1800, 86400, TTL_S)
    data = encode_name(f"ns.dns.{zone}") + encode_name(f"hostmaster.{zone}") + numbers
    return encode_name(zone) + struct.pack(">HHIH", SOA, _IN, TTL_S, len(data)) + data


def _opt() -> bytes:
    return b"\0" + struct.pack(">HHIH", OPT, MOST_UDP_BYTES, 0, 0)


def encode_name(name: str) -> bytes:
    """A name as labels. ValueError for a label that is empty or longer than 63 bytes."""
    data = bytearray()
    for label in name.rstrip(".").split("."):
        raw = label.encode("latin-1")
        if not 0 < len(raw) < 64:
            raise ValueError(f"{name!r}: labels have 1 to 63 bytes")
        data += bytes([len(raw)]) + raw
    return bytes(data) + b"\0"


def query(ident: int, name: str, kind: int) -> bytes:
    """A question, as a stub resolver asks it."""
    head = _HEADER.pack(ident, _WANTED, 1, 0, 0, 0)
    return head + encode_name(name) + struct.pack(">HH", kind, _IN)
