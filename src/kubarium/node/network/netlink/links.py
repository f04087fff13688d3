"""Links, addresses and routes (``linux/rtnetlink.h``, ``if_link.h``). Pure, IPv4 only."""

from __future__ import annotations

import socket
import struct
import sys
from ipaddress import IPv4Network

from kubarium.node.network.netlink.wire import (
    CREATE,
    EXCLUSIVE,
    Answer,
    Message,
    attribute,
    attributes,
    native32,
    nested,
    text,
)

_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19
_NEWADDR, _NEWROUTE, _GETROUTE = 20, 24, 26
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_IFNAME, _MTU, _LINKINFO, _AF_SPEC, _NET_NS_FD = 3, 4, 18, 26, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_INET_CONF = 1
# Indexes of ``linux/ip.h``. Strict reverse-path filtering: a pod cannot send as another.
_FORWARDING, _SEND_REDIRECTS, _RP_FILTER = 1, 6, 8
_IFF_UP = 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC = 1, 4, 5, 7
_ONLINK = 4
_TABLE_MAIN, _PROTOCOL_STATIC, _UNICAST = 254, 4, 1
_SCOPE_UNIVERSE, _SCOPE_LINK, _SCOPE_HOST = 0, 253, 254
LOOPBACK_INDEX = 1


def veth(name: str, peer: str, peer_index: int, namespace: int) -> Message:
    """A pair: ``name`` here, ``peer`` in the namespace behind an open descriptor."""
    inside = _LINK.pack(socket.AF_UNSPEC, 0, peer_index, 0, 0)
    inside += text(_IFNAME, peer) + native32(_NET_NS_FD, namespace)
    info = nested(
        _LINKINFO, text(_INFO_KIND, "veth"), nested(_INFO_DATA, attribute(_VETH_PEER, inside))
    )
    payload = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(_IFNAME, name) + info
    return Message(_NEWLINK, payload, CREATE | EXCLUSIVE, f"link {name}")


def up(index: int, forward: bool = False) -> Message:
    """Switch a link on; with ``forward`` what comes in by it is routed on."""
    payload = _LINK.pack(socket.AF_UNSPEC, 0, index, _IFF_UP, _IFF_UP)
    if forward:
        settings = ((_FORWARDING, 1), (_SEND_REDIRECTS, 0), (_RP_FILTER, 1))
        conf = nested(_INET_CONF, *(native32(key, value) for key, value in settings))
        payload += nested(_AF_SPEC, nested(socket.AF_INET, conf))
    return Message(_SETLINK, payload, 0, f"link {index} up")


def delete_link(name: str) -> Message:
    payload = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(_IFNAME, name)
    return Message(_DELLINK, payload, 0, f"delete link {name}")


def all_links() -> Message:
    return Message(_GETLINK, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0), 0, "links")


def link_indexes(answers: list[Answer]) -> dict[str, int]:
    """Index by name, from the answers to :func:`all_links`."""
    found: dict[str, int] = {}
    for answer in answers:
        index = _LINK.unpack_from(answer.payload)[2]
        name = attributes(answer.payload[_LINK.size :]).get(_IFNAME, b"")
        found[name.rstrip(b"\0").decode()] = index
    return found


def address(index: int, ip: str) -> Message:
    """An address of its own (/32) on a link."""
    raw = socket.inet_aton(ip)
    scope = _SCOPE_HOST if ip.startswith("127.") else _SCOPE_UNIVERSE
    payload = _ADDRESS.pack(socket.AF_INET, 32, 0, scope, index)
    payload += attribute(_IFA_LOCAL, raw) + attribute(_IFA_ADDRESS, raw)
    return Message(_NEWADDR, payload, CREATE | EXCLUSIVE, f"address {ip}")


def route(index: int, target: str, gateway: str = "", source: str = "") -> Message:
    """``target`` (a network, "0.0.0.0/0" for all) by a link, perhaps by a gateway on it that no
    other route needs to know."""
    network = IPv4Network(target)
    scope = _SCOPE_UNIVERSE if gateway else _SCOPE_LINK
    flags = _ONLINK if gateway else 0
    payload = _ROUTE.pack(
        socket.AF_INET,
        network.prefixlen,
        0,
        0,
        _TABLE_MAIN,
        _PROTOCOL_STATIC,
        scope,
        _UNICAST,
        flags,
    )
    payload += native32(_RTA_OIF, index)
    if network.prefixlen:
        payload += attribute(_RTA_DST, network.network_address.packed)
    if gateway:
        payload += attribute(_RTA_GATEWAY, socket.inet_aton(gateway))
    if source:
        payload += attribute(_RTA_PREFSRC, socket.inet_aton(source))
    return Message(_NEWROUTE, payload, CREATE | EXCLUSIVE, f"route to {target}")


def all_routes() -> Message:
    payload = _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)
    return Message(_GETROUTE, payload, 0, "routes")


def routed_networks(answers: list[Answer], but_by: int = 0) -> list[IPv4Network]:
    """What the main table has routes to, but for the default one and those by link ``but_by``."""
    found = []
    for answer in answers:
        family, prefix, _, _, table, *_ = _ROUTE.unpack_from(answer.payload)
        found_in = attributes(answer.payload[_ROUTE.size :])
        raw = found_in.get(_RTA_DST)
        link = int.from_bytes(found_in.get(_RTA_OIF, b""), sys.byteorder)
        if link == but_by and but_by:
            continue
        if family == socket.AF_INET and table == _TABLE_MAIN and raw is not None:
            found.append(IPv4Network((raw, prefix)))
    return found
