"""Addresses of pod networks, and netlink messages."""

from __future__ import annotations

import errno
import struct
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.base.errors import ConfigError
from kubarium.node.network.netlink import wire
from kubarium.node.network.plan import (
    CHOICES,
    MOST_NODES,
    NetworkPlan,
    choose,
    number_of,
    overlaps,
)


@given(st.integers(0, CHOICES - 1), st.integers(0, MOST_NODES - 1), st.integers(0, MOST_NODES - 1))
def test_addresses_of_a_plan_lie_apart(number, one, other):
    plan = NetworkPlan(number)
    pods, services = IPv4Network(plan.pods), IPv4Network(plan.services)
    assert not pods.overlaps(services)
    assert IPv4Address(plan.api) in services
    assert number_of(plan.api) == number
    mine, node = IPv4Network(plan.pod_network(one)), IPv4Address(plan.node_address(one))
    assert mine.subnet_of(pods)
    assert node in IPv4Network(plan.nodes)
    assert node not in mine
    assert IPv4Address(plan.router) not in mine
    assert plan.node_address(one) != plan.router
    if one != other:
        assert not mine.overlaps(IPv4Network(plan.pod_network(other)))
        assert plan.node_address(one) != plan.node_address(other)


@given(st.integers(0, 100), st.sets(st.integers(0, CHOICES - 1)))
def test_a_choice_meets_no_other_network(start, taken):
    routes = [IPv4Network(NetworkPlan(number).pods) for number in taken]
    number = choose(start, routes)
    if len(taken) == CHOICES:
        assert number is None
    else:
        assert number not in taken
        assert not overlaps(NetworkPlan(number), routes)
        assert choose(start, [*routes, IPv4Network("10.0.0.0/8")]) is None


def test_a_node_too_many_is_an_error_that_says_so():
    with pytest.raises(ConfigError, match="at most 250 nodes"):
        NetworkPlan(0).pod_network(MOST_NODES)


def test_loopback_addresses_belong_to_no_choice():
    assert number_of("127.96.0.1") is None
    assert number_of("None") is None


@given(st.lists(st.tuples(st.integers(1, 200), st.binary(max_size=20)), max_size=5))
def test_attributes_are_read_as_they_were_written(pairs):
    data = b"".join(wire.attribute(kind, value) for kind, value in pairs)
    assert len(data) % 4 == 0
    assert wire.attributes(data) == dict(pairs)


@given(st.binary(max_size=100))
def test_no_answer_breaks_the_reader(data):
    try:
        list(wire.decode(data))
    except struct.error:
        pytest.skip("an error without its number: the kernel does not send these")


def test_an_error_says_what_and_why():
    text = str(wire.NetlinkError(errno.EPERM, "link eth0", "no capability"))
    assert text == "link eth0: Operation not permitted (no capability)"
