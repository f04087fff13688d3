"""Queues of links that hold packets back: netem (``linux/pkt_sched.h``). Pure."""

from __future__ import annotations

import struct

from kubarium.node.network.netlink.wire import CREATE, Message, attribute, text

_NEWQDISC, _DELQDISC = 36, 37
_REPLACE = 0x100
_HEAD = struct.Struct("=BxxxiIII")
_ROOT = 0xFFFFFFFF
_HANDLE = 1 << 16
_KIND, _OPTIONS = 1, 2
# latency (in ticks, given exactly below), limit, loss, gap, duplicate, jitter
_NETEM = struct.Struct("=IIIIII")
_LATENCY64 = 10
# As many packets may wait: a second of 1500-byte packets at about 1 Gbit/s.
_LIMIT = 100_000


def delayed(link: int, milliseconds: float) -> Message:
    """What leaves by a link leaves so much later."""
    options = _NETEM.pack(0, _LIMIT, 0, 0, 0, 0)
    options += attribute(_LATENCY64, struct.pack("=q", round(milliseconds * 1_000_000)))
    payload = _HEAD.pack(0, link, _HANDLE, _ROOT, 0) + text(_KIND, "netem")
    payload += attribute(_OPTIONS, options)
    return Message(_NEWQDISC, payload, CREATE | _REPLACE, f"delay on link {link}")


def undelayed(link: int) -> Message:
    """The link's own queue again."""
    payload = _HEAD.pack(0, link, 0, _ROOT, 0)
    return Message(_DELQDISC, payload, 0, f"no delay on link {link}")
