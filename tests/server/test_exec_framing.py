"""WebSocket and SPDY framing: what goes in comes out, however it is cut; nonsense is refused."""

import struct
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubarium.server import exec_spdy as spdy
from kubarium.server import websocket as ws


def from_client(opcode, data, *, final=True, mask=b"\x01\x02\x03\x04"):
    """A frame as clients send it: masked."""
    head = bytes([(0x80 if final else 0) | opcode])
    size = len(data)
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 1 << 16:
        head += bytes([0x80 | 126]) + struct.pack("!H", size)
    else:
        head += bytes([0x80 | 127]) + struct.pack("!Q", size)
    return head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data))


def cut(data, places):
    at = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(at)]


@given(
    st.lists(
        st.tuples(st.sampled_from([ws.TEXT, ws.BINARY]), st.binary(max_size=70_000)), max_size=4
    ),
    st.lists(st.integers(0, 1 << 20), max_size=5),
    st.binary(min_size=4, max_size=4),
)
def test_messages_arrive_whole_however_the_bytes_are_cut(messages, places, mask):
    data = b"".join(from_client(opcode, text, mask=mask) for opcode, text in messages)
    reader = ws.Reader()
    found = [message for part in cut(data, places) for message in reader.feed(part)]
    assert [(message.opcode, message.data) for message in found] == messages


def test_fragments_are_joined_around_control_frames():
    reader = ws.Reader()
    data = from_client(ws.BINARY, b"one ", final=False) + from_client(ws.PING, b"?")
    data += from_client(ws.CONTINUATION, b"two")
    found = [(message.opcode, message.data) for message in reader.feed(data)]
    assert found == [(ws.PING, b"?"), (ws.BINARY, b"one two")]


@pytest.mark.parametrize(
    "data",
    [
        bytes([0x82, 0x01, 0x00]),  # not masked
        from_client(0x3, b""),  # unknown opcode
        bytes([0xC2, 0x80, 0, 0, 0, 0]),  # a reserved bit
        from_client(ws.CONTINUATION, b"x"),  # nothing to continue
        from_client(ws.PING, b"x" * 126),
        from_client(ws.PING, b"x", final=False),
        bytes([0x82, 0xFF]) + struct.pack("!Q", 1 << 40),  # refused before it is sent
        from_client(ws.TEXT, b"x", final=False) + from_client(ws.TEXT, b"y"),
    ],
)
def test_a_client_that_breaks_the_protocol_is_told_how(data):
    with pytest.raises(ws.WebSocketError) as caught:
        ws.Reader().feed(data)
    assert caught.value.code in (ws.PROTOCOL_ERROR, ws.TOO_BIG)


def test_the_handshake_is_the_example_of_the_rfc():
    assert ws.accept_value("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    good = {"sec-websocket-version": "13", "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="}
    assert ws.handshake_problem(good) == ""
    assert "version" in ws.handshake_problem(good | {"sec-websocket-version": "8"})
    assert "key" in ws.handshake_problem(good | {"sec-websocket-key": "short"})


def test_the_header_dictionary_is_the_specification_s():
    assert len(spdy.DICTIONARY) == 1423
    assert zlib.adler32(spdy.DICTIONARY) == 0xE3C6A7C2


names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=20)


@given(
    st.lists(st.dictionaries(names, st.text(max_size=50), max_size=5), min_size=1, max_size=4),
    st.binary(max_size=2000),
    st.lists(st.integers(0, 1 << 20), max_size=6),
)
def test_spdy_frames_arrive_whole_however_the_bytes_are_cut(blocks, payload, places):
    encoder, decoder = spdy.Encoder(), spdy.Decoder()
    data = b""
    for number, headers in enumerate(blocks):
        data += encoder.syn_stream(2 * number + 1, headers)
    data += encoder.data(1, payload, final=True) + encoder.ping(7) + encoder.reset(3, spdy.CANCEL)
    frames = [frame for part in cut(data, places) for frame in decoder.feed(part)]
    opened = [frame.headers for frame in frames if frame.kind == spdy.SYN_STREAM]
    assert opened == blocks
    sent = next(frame for frame in frames if frame.kind == spdy.DATA)
    assert (sent.stream, sent.data, sent.final) == (1, payload, True)
    assert [(frame.kind, frame.code) for frame in frames[-2:]] == [
        (spdy.PING, 7),
        (spdy.RST_STREAM, spdy.CANCEL),
    ]


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!HHI", 0x8002, spdy.SYN_STREAM, 0),  # version 2
        struct.pack("!HHI", 0x8003, spdy.RST_STREAM, 4) + b"\0\0\0\1",  # too short
        struct.pack("!HHI", 0x8003, spdy.SYN_STREAM, 14) + bytes(10) + b"junk",
    ],
)
def test_what_is_not_spdy_3_is_refused(data):
    with pytest.raises(spdy.SpdyError):
        spdy.Decoder().feed(data)


@given(st.binary(max_size=200))
def test_no_bytes_make_a_decoder_fail_in_another_way(data):
    for feed, refusal in (
        (ws.Reader().feed, ws.WebSocketError),
        (spdy.Decoder().feed, spdy.SpdyError),
    ):
        try:
            feed(data)
        except refusal:
            continue
