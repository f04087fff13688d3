"""nftables as bytes: tables, chains, sets, rules and their expressions (``nf_tables.h``). Pure.

A rule is the concatenation of its expressions; each loads something into a register, compares it
(leaving the rule if it differs) or gives a verdict.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from kubarium.node.network.netlink.wire import (
    APPEND,
    CREATE,
    Message,
    attribute,
    big32,
    nested,
    text,
)

_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _NEWSET, _NEWSETELEM = 0, 2, 3, 6, 9, 12
IPV4 = 2
PREROUTING, INPUT, FORWARD, POSTROUTING = 0, 1, 2, 4
DROP, ACCEPT, _CONTINUE, _BREAK, _JUMP, _GOTO, RETURN = 0, 1, -1, -2, -3, -4, -5
TCP, UDP, SCTP = 6, 17, 132
_VERDICT_REGISTER, _R1 = 0, 1
# The second half of the first register's room, for a second value.
_R32_1, _R32_2 = 8, 9
_INTERVAL, _CONSTANT = 4, 2
_INTERVAL_END = 1
# Elements in one message: an attribute holds 64 KiB.
_ELEMENTS_AT_ONCE = 1000
_SNAT, _DNAT = 0, 1
_CHANCES = 10_000
_IPV4_ADDRESS_TYPE = 7
# Bits of the connection's state and status.
_ESTABLISHED_OR_RELATED = 2 | 4
_STATUS_DNAT = 32

Rule = bytes


# Messages ------------------------------------------------------------------------------------


def _message(kind: int, payload: bytes, flags: int, what: str, family: int = IPV4) -> Message:
    return Message(_SUBSYSTEM << 8 | kind, _family(family, 0) + payload, flags, what)


def _family(family: int, resource: int) -> bytes:
    return struct.pack(">BBH", family, 0, resource)


def batch(messages: Sequence[Message]) -> list[Message]:
    """``messages`` as one transaction."""
    head = _family(0, _SUBSYSTEM)
    return [
        Message(_BATCH_BEGIN, head, 0, "begin"),
        *messages,
        Message(_BATCH_END, head, 0, "end"),
    ]


def replace_table(name: str) -> list[Message]:
    """An empty table, whether there was one or not."""
    named = text(1, name)
    return [
        _message(_NEWTABLE, named, CREATE, f"table {name}"),
        _message(_DELTABLE, named, 0, f"delete table {name}"),
        _message(_NEWTABLE, named, CREATE, f"table {name}"),
    ]


@dataclass(frozen=True, slots=True)
class Hook:
    """Where packets come into a chain. ``kind`` is "filter" or "nat"."""

    kind: str
    number: int
    priority: int


def chain(table: str, name: str, hook: Hook | None = None) -> Message:
    """A chain; without a hook one that others jump to."""
    payload = text(1, table) + text(3, name)
    if hook is not None:
        payload += nested(4, big32(1, hook.number), big32(2, hook.priority))
        payload += big32(5, ACCEPT) + text(7, hook.kind)
    return _message(_NEWCHAIN, payload, CREATE, f"chain {name}")


def rule(table: str, chain_name: str, expressions: Sequence[bytes]) -> Message:
    """A rule at the end of a chain."""
    payload = text(1, table) + text(2, chain_name) + nested(4, *expressions)
    return _message(_NEWRULE, payload, CREATE | APPEND, f"rule in {chain_name}")


def address_set(
    table: str, name: str, number: int, ranges: Sequence[tuple[int, int]]
) -> list[Message]:
    """A set of IPv4 addresses: disjoint, sorted ranges, both ends included."""
    payload = text(1, table) + text(2, name) + big32(3, _INTERVAL | _CONSTANT)
    payload += big32(4, _IPV4_ADDRESS_TYPE) + big32(5, 4) + big32(10, number)
    messages = [_message(_NEWSET, payload, CREATE, f"set {name}")]
    elements = [_element(0, True)] if not ranges or ranges[0][0] > 0 else []
    for first, last in ranges:
        elements.append(_element(first, False))
        if last < 0xFFFFFFFF:
            elements.append(_element(last + 1, True))
    for at in range(0, len(elements), _ELEMENTS_AT_ONCE):
        part = nested(3, *elements[at : at + _ELEMENTS_AT_ONCE])
        payload = text(1, table) + text(2, name) + big32(4, number) + part
        messages.append(_message(_NEWSETELEM, payload, CREATE, f"elements of {name}"))
    return messages


def _element(address: int, ends: bool) -> bytes:
    parts = [nested(1, attribute(1, struct.pack(">I", address)))]
    if ends:
        parts.append(big32(3, _INTERVAL_END))
    return nested(1, *parts)


# Expressions ---------------------------------------------------------------------------------


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *parts))


def _value(kind: int, data: bytes) -> bytes:
    return nested(kind, attribute(1, data))


def _equals(data: bytes, differs: bool = False) -> bytes:
    return _expression("cmp", big32(1, _R1), big32(2, 1 if differs else 0), _value(3, data))


def _load(base: int, offset: int, length: int, register: int = _R1) -> bytes:
    parts = (big32(1, register), big32(2, base), big32(3, offset), big32(4, length))
    return _expression("payload", *parts)


def _masked(mask: bytes) -> bytes:
    size = big32(3, len(mask))
    zero = _value(5, bytes(len(mask)))
    return _expression("bitwise", big32(1, _R1), big32(2, _R1), size, _value(4, mask), zero)


_NETWORK, _TRANSPORT = 1, 2
_SOURCE_AT, _TARGET_AT = 12, 16


def _address(at: int, network: str, differs: bool = False) -> bytes:
    text_, _, length = network.partition("/")
    bits = int(length or 32)
    data = _load(_NETWORK, at, 4)
    if bits < 32:
        data += _masked(struct.pack(">I", (0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF))
    return data + _equals(socket.inet_aton(text_), differs)


def from_network(network: str) -> bytes:
    """``ip saddr``."""
    return _address(_SOURCE_AT, network)


def to_network(network: str, differs: bool = False) -> bytes:
    """``ip daddr``; with ``differs`` all but it."""
    return _address(_TARGET_AT, network, differs)


def from_set(name: str, number: int) -> bytes:
    """``ip saddr @name``."""
    return _load(_NETWORK, _SOURCE_AT, 4) + _lookup(name, number)


def to_set(name: str, number: int) -> bytes:
    """``ip daddr @name``."""
    return _load(_NETWORK, _TARGET_AT, 4) + _lookup(name, number)


def _lookup(name: str, number: int) -> bytes:
    return _expression("lookup", text(1, name), big32(2, _R1), big32(4, number))


def protocol(number: int) -> bytes:
    """``meta l4proto``."""
    return _expression("meta", big32(1, _R1), big32(2, 16)) + _equals(bytes([number]))


def to_ports(first: int, last: int) -> bytes:
    """``th dport``; the protocol has to be looked at before."""
    load = _load(_TRANSPORT, 2, 2)
    if first == last:
        return load + _equals(struct.pack(">H", first))
    ends = (_value(3, struct.pack(">H", first)), _value(4, struct.pack(">H", last)))
    return load + _expression("range", big32(1, _R1), big32(2, 0), *ends)


def came_in_by(link: str, differs: bool = False) -> bytes:
    """``iifname``."""
    load = _expression("meta", big32(1, _R1), big32(2, 6))
    return load + _equals(link.encode().ljust(16, b"\0"), differs)


def goes_out_by(link: str, differs: bool = False) -> bytes:
    """``oifname``."""
    load = _expression("meta", big32(1, _R1), big32(2, 7))
    return load + _equals(link.encode().ljust(16, b"\0"), differs)


def of_known_connection() -> bytes:
    """``ct state established,related``."""
    return _connection(0, _ESTABLISHED_OR_RELATED)


def redirected() -> bytes:
    """``ct status dnat``."""
    return _connection(2, _STATUS_DNAT)


def by_who_answers() -> bytes:
    """``ct direction reply``."""
    return _expression("ct", big32(1, _R1), big32(2, 1)) + _equals(b"\1")


def _connection(key: int, bits: int) -> bytes:
    load = _expression("ct", big32(1, _R1), big32(2, key))
    return load + _masked(struct.pack("=I", bits)) + _equals(bytes(4), differs=True)


def every(count: int) -> bytes:
    """Each ``count``-th packet (of new connections, in a nat chain)."""
    if count == 1:
        return b""
    turn = _expression("numgen", big32(1, _R1), big32(2, count), big32(3, 0), big32(4, 0))
    return turn + _equals(struct.pack("=I", 0))


def by_chance(share: float) -> bytes:
    """This share of all packets, drawn for each."""
    count = min(max(round(share * _CHANCES), 0), _CHANCES)
    if count == _CHANCES:
        return b""
    drawn = _expression("numgen", big32(1, _R1), big32(2, _CHANCES), big32(3, 1), big32(4, 0))
    # What is compared for order has to be in network byte order.
    turned = _expression(
        "byteorder", big32(1, _R1), big32(2, _R1), big32(3, 1), big32(4, 4), big32(5, 4)
    )
    below = _expression("cmp", big32(1, _R1), big32(2, 2), _value(3, struct.pack(">I", count)))
    return drawn + turned + below


def source_is(share: int, count: int) -> bytes:
    """The ``share``-th of ``count`` parts of all source addresses: a client stays in one."""
    parts = (big32(1, _R1), big32(2, _R1), big32(3, 4), big32(4, count), big32(5, 1))
    hashed = _expression("hash", *parts, big32(6, 0), big32(7, 0))
    return _load(_NETWORK, _SOURCE_AT, 4) + hashed + _equals(struct.pack("=I", share))


def redirect(address: str, port: int) -> bytes:
    """``dnat to address:port``."""
    return (
        _immediate(_R32_1, socket.inet_aton(address))
        + _immediate(_R32_2, struct.pack(">H", port))
        + _expression("nat", big32(1, _DNAT), big32(2, IPV4), big32(3, _R32_1), big32(5, _R32_2))
    )


def appear_as(address: str) -> bytes:
    """``snat to address``."""
    nat = _expression("nat", big32(1, _SNAT), big32(2, IPV4), big32(3, _R1))
    return _immediate(_R1, socket.inet_aton(address)) + nat


def _immediate(register: int, data: bytes) -> bytes:
    return _expression("immediate", big32(1, register), _value(2, data))


def verdict(code: int, target: str = "") -> bytes:
    """ACCEPT, DROP, RETURN."""
    parts = [big32(1, code)] + ([text(2, target)] if target else [])
    return _expression("immediate", big32(1, _VERDICT_REGISTER), nested(2, nested(2, *parts)))


def jump(target: str) -> bytes:
    """On with the rules of another chain, and back."""
    return verdict(_JUMP, target)


def reject(with_reset: bool) -> bytes:
    """``reject``: a TCP reset, or "port unreachable"."""
    kind = big32(1, 1) if with_reset else big32(1, 0)
    return _expression("reject", kind, attribute(2, bytes([3])))
