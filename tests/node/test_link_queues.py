"""Delays as the kernel is asked for them (``linux/pkt_sched.h``)."""

import struct

from kubarium.node.network.netlink import queues
from kubarium.node.network.netlink.wire import attributes


def test_a_delay_is_a_netem_queue_at_the_links_root():
    message = queues.delayed(7, 12.5)
    family, link, handle, parent, _ = struct.unpack_from("=BxxxiIII", message.payload)
    assert (message.kind, family, link, handle, parent) == (36, 0, 7, 0x10000, 0xFFFFFFFF)
    found = attributes(message.payload[20:])
    assert found[1] == b"netem\0"
    limit = struct.unpack_from("=I", found[2], 4)[0]
    assert limit >= 1000
    assert struct.unpack("=q", attributes(found[2][24:])[10]) == (12_500_000,)


def test_it_is_taken_away_from_there():
    message = queues.undelayed(7)
    assert message.kind == 37
    assert struct.unpack_from("=BxxxiIII", message.payload)[1:4:2] == (7, 0xFFFFFFFF)
