"""Frames: our parser against the `websockets` library's, whatever comes and however it is cut."""

from __future__ import annotations

import codecs
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from gateway.lean import frames
from gateway.lean.frames import Broken, Closed, Event, Parser, Ping, Pong
from tests.lean.line import masked

URI = parse_uri("ws://localhost/")
LIMIT = 200_000  # bytes of a message; nothing that a strategy makes is so long, but it may say that it is


def ours(*chunks: bytes, limit: int = LIMIT) -> list[Event]:
    parser = Parser(limit)
    return [event for chunk in chunks for event in parser.feed(chunk)]


def problem(events: list[Event]) -> int:
    """The code of the failure at the end, and only there; 0: there is none."""
    assert not any(isinstance(event, Broken | Closed) for event in events[:-1])
    return events[-1].code if events and isinstance(events[-1], Broken) else 0


def theirs(stream: bytes) -> tuple[list[Event], int]:
    """The same of `websockets`, which leaves it to others to put messages together and to decode text."""
    server = ServerProtocol(state=State.OPEN, max_size=LIMIT)
    server.receive_data(stream)
    events: list[Event] = []
    opcode, pieces, decoder = Opcode.CONT, bytearray(), codecs.getincrementaldecoder("utf-8")()
    for frame in server.events_received():
        assert isinstance(frame, Frame)
        data, kind = bytes(frame.data), frame.opcode
        if kind is Opcode.PING:
            events.append(Ping(data))
        elif kind is Opcode.PONG:
            events.append(Pong(data))
        elif kind is Opcode.CLOSE:
            assert server.close_rcvd is not None
            events.append(Closed(int(server.close_rcvd.code), server.close_rcvd.reason))
        else:
            if kind is not Opcode.CONT:
                opcode = kind
            pieces += data
            if opcode is Opcode.TEXT:
                try:
                    decoder.decode(data, frame.fin)
                except UnicodeDecodeError:
                    return events, 1007
            if frame.fin:
                events.append(pieces.decode() if opcode is Opcode.TEXT else bytes(pieces))
                opcode, pieces = Opcode.CONT, bytearray()
    if server.parser_exc is None:
        return events, 0
    if server.close_rcvd is not None and "incomplete fragmented message" in str(server.parser_exc):
        # A control frame may stand between fragments (RFC 6455, 5.4), and a close frame is one.
        return [*events, Closed(int(server.close_rcvd.code), server.close_rcvd.reason)], 0
    assert server.close_sent is not None
    return events, int(server.close_sent.code)


payloads = st.one_of(
    st.binary(max_size=40),
    st.text(max_size=20).map(str.encode),
    st.sampled_from(
        [b"\xce\xba", b"\xce", b"\xba", b"\xf0\x9f\x98", b"\x80", b"\xed\xa0\x80", b"\x03\xe8", b"\x03\xed"]
    ),
    st.integers(0, 0xFFFF).map(lambda code: struct.pack("!H", code) + b"bye"),
    st.sampled_from([124, 125, 126, 127, 300]).map(bytes),
    st.just(bytes(0x10000)),
)
good = st.builds(
    masked,
    st.sampled_from([0, 0, 0, 1, 1, 2, 8, 9, 10]),
    payloads,
    fin=st.booleans(),
    mask=st.binary(min_size=4, max_size=4),
    wide=st.sampled_from([0, 0, 0, 2, 8]),
)
any_frame = st.builds(
    masked,
    st.integers(0, 15),
    payloads,
    fin=st.booleans(),
    reserved=st.sampled_from([0, 0, 0, 1, 2, 4, 7]),
    mask=st.one_of(st.binary(min_size=4, max_size=4), st.none()),
    says=st.one_of(st.none(), st.sampled_from([0, 1, 125, 126, 0xFFFF, LIMIT, LIMIT + 1, 2**63 - 1, 2**64 - 1])),
    wide=st.sampled_from([0, 2, 8]),
)
controls = st.builds(masked, st.sampled_from([9, 10]), st.binary(max_size=125))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A message as it should be, or nearly: in fragments, with control frames between them."""
    opcode = draw(st.sampled_from([1, 2]))
    whole = draw(st.text(max_size=30)).encode() if opcode == 1 else draw(payloads)
    pieces = cut(whole, draw(st.lists(st.integers(0, 100), max_size=3))) or [b""]
    stream = b""
    for n, piece in enumerate(pieces):
        if draw(st.booleans()):
            stream += draw(controls)
        stream += masked(
            opcode if n == 0 else 0, piece, fin=n == len(pieces) - 1, wide=draw(st.sampled_from([0, 2, 8]))
        )
    return stream


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(place % (len(stream) + 1) for place in places)})
    return [stream[a:b] for a, b in pairwise(edges)]


faults = st.lists(st.one_of(good, any_frame, st.binary(max_size=12)), max_size=3).map(b"".join)
streams = st.tuples(st.lists(messages(), max_size=4).map(b"".join), faults).map(b"".join)


@given(streams, st.lists(st.integers(0, 2**20), max_size=12))
def test_we_agree_with_websockets(stream: bytes, places: list[int]) -> None:
    events = ours(*cut(stream, places))
    code = problem(events)
    if code:
        events.pop()
    expected, their_code = theirs(stream)
    if code and not their_code:
        # We say so at a frame's head, they when the frame is all there.
        expected, their_code = theirs(stream + bytes(LIMIT + 16))
    assert events == expected
    if (code, their_code) != (frames.PROTOCOL_ERROR, frames.TOO_BIG):  # a frame that is both
        assert code == their_code


@given(streams, st.lists(st.integers(0, 2**20), max_size=12))
def test_where_the_stream_is_cut_does_not_matter(stream: bytes, places: list[int]) -> None:
    assert ours(*cut(stream, places)) == ours(stream)


def test_a_stream_octet_by_octet() -> None:
    stream = masked(1, b"a" * 300) + masked(9, b"?") + masked(2, bytes(70_000)) + masked(8, b"\x03\xe8")
    events = ours(*(stream[n : n + 1] for n in range(len(stream))))
    assert events == ["a" * 300, Ping(b"?"), bytes(70_000), Closed(1000, "")]


def test_a_message_has_a_limit_however_it_comes() -> None:
    limit = 1000
    assert ours(masked(2, bytes(1000)), limit=limit) == [bytes(1000)]
    assert problem(ours(masked(2, bytes(1001))[:8], limit=limit)) == 1009  # before it has come
    parts = [masked(2, bytes(400), fin=False), masked(0, bytes(400), fin=False), masked(9, bytes(125))]
    assert problem(ours(*parts, masked(0, bytes(200)), limit=limit)) == 0
    assert problem(ours(*parts, masked(0, bytes(201)), limit=limit)) == 1009
    assert ours(masked(2, bytes(1000)), masked(2, bytes(1000)), limit=limit) == [bytes(1000)] * 2


def test_fragments_without_content_need_no_room() -> None:
    parser = Parser(10)
    assert parser.feed(masked(1, b"", fin=False)) == []
    empty = masked(0, b"", fin=False)
    for _ in range(1000):
        assert parser.feed(empty) == []
    assert parser.feed(masked(0, b"0123456789")) == ["0123456789"]


def test_text_that_is_none_is_noticed_before_the_message_is_all_there() -> None:
    assert problem(ours(masked(1, b"\xce\xba\xce", fin=False))) == 0
    assert problem(ours(masked(1, b"\xce\xba\xce", fin=False), masked(0, b"x", fin=False))) == 1007
    assert problem(ours(masked(1, b"\xce", fin=False), masked(0, b""))) == 1007


def test_nothing_counts_after_the_end() -> None:
    parser = Parser(LIMIT)
    assert parser.feed(masked(8, b"\x03\xe8") + masked(1, b"late")) == [Closed(1000, "")]
    assert parser.feed(masked(1, b"later")) == []
    assert parser.is_over
    broken = Parser(LIMIT)
    assert problem(broken.feed(b"\xff\xff" + masked(1, b"late"))) == 1002
    assert broken.feed(masked(1, b"later")) == []


@given(
    st.one_of(st.text(max_size=300), st.binary(max_size=300), st.sampled_from([125, 126, 65_535, 65_536]).map(bytes))
)
def test_what_we_send_is_read(data: str | bytes) -> None:
    client = ClientProtocol(URI, state=State.OPEN, max_size=None)
    client.receive_data(frames.message(data))
    (frame,) = client.events_received()
    assert isinstance(frame, Frame)
    expected = (Opcode.TEXT, data.encode()) if isinstance(data, str) else (Opcode.BINARY, data)
    assert (frame.opcode, bytes(frame.data)) == expected
    assert client.parser_exc is None


@given(st.sampled_from([1000, 1001, 1008, 1011, 1012, 3000, 4999]), st.text(max_size=200))
def test_a_close_frame_we_send_is_read(code: int, reason: str) -> None:
    client = ClientProtocol(URI, state=State.OPEN)
    client.receive_data(frames.close(code, reason))
    assert client.close_rcvd is not None
    assert client.close_rcvd.code == code
    assert reason.startswith(client.close_rcvd.reason)
    assert client.close_rcvd.reason == reason or len(client.close_rcvd.reason.encode()) > 119


def test_what_we_do_not_send() -> None:
    for code in (0, 999, 1004, 1006, 1015, 2999, 5000):
        with pytest.raises(ValueError, match="no code"):
            frames.close(code)
    for control in (frames.ping, frames.pong):
        assert len(control(bytes(125))) == 127
        with pytest.raises(ValueError, match="126 bytes"):
            control(bytes(126))
    with pytest.raises(UnicodeEncodeError):
        frames.message("half a \ud83d")
    assert frames.close() == b"\x88\x00"
