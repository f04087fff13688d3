"""Descriptors that come over a socket."""

import os
import socket

import pytest

from kubarium.base.descriptors import receive


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("count", [0, 1, 3])
def test_programs_that_we_start_do_not_get_what_came(pair, count):
    ours, theirs = pair
    given = [os.open("/dev/null", os.O_RDONLY) for _ in range(count)]
    for descriptor in given:
        os.set_inheritable(descriptor, True)
    socket.send_fds(theirs, [b"word"], given)
    data, found = receive(ours, 100, 3)
    assert (data, len(found)) == (b"word", count)
    assert not any(os.get_inheritable(descriptor) for descriptor in found)
    for descriptor in given + found:
        os.close(descriptor)


def test_no_more_come_than_are_asked_for(pair):
    ours, theirs = pair
    with open("/dev/null") as file:
        socket.send_fds(theirs, [b"+"], [file.fileno()] * 3)
    before = len(os.listdir("/dev/fd"))
    _, found = receive(ours, 1, 1)
    assert len(found) == 1
    assert len(os.listdir("/dev/fd")) == before + 1
    os.close(found[0])


def test_the_end_of_a_connection_brings_nothing(pair):
    ours, theirs = pair
    theirs.close()
    assert receive(ours, 10, 2) == (b"", [])
