"""The generator's own WebSocket, against a server's bytes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Any, cast

import pytest
from websockets.frames import Opcode
from websockets.server import ServerProtocol

from gateway.load.wire import Wire


class Heard:
    """What the wire told."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def opened(self, now: float) -> None:
        self.said.append("opened")

    def refused(self, status: int) -> None:
        self.said.append(("refused", status))

    def message(self, data: str | bytes, now: float) -> None:
        self.said.append(data)

    def lost(self, code: int) -> None:
        self.said.append(("lost", code))


class Pipe:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.gone = ""

    def write(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.gone = "closed"

    def abort(self) -> None:
        self.gone = "aborted"


def connected() -> tuple[Wire, Heard, Pipe]:
    heard, pipe = Heard(), Pipe()
    wire = Wire("ws://127.0.0.1:1/twilio/media/x?y=1", {"x-signature": "s"}, heard)
    wire.connection_made(cast(asyncio.Transport, pipe))
    return wire, heard, pipe


def opened() -> tuple[Wire, Heard, Pipe, ServerProtocol]:
    """A wire whose other end is a strict server."""
    wire, heard, pipe = connected()
    server = ServerProtocol()
    server.receive_data(bytes(pipe.sent))
    pipe.sent.clear()
    (request,) = server.events_received()
    assert request.path == "/twilio/media/x?y=1"  # type: ignore[union-attr]
    assert request.headers["x-signature"] == "s"  # type: ignore[union-attr]
    server.send_response(server.accept(request))  # type: ignore[arg-type]
    wire.data_received(b"".join(server.data_to_send()))
    assert heard.said == ["opened"]
    heard.said.clear()
    return wire, heard, pipe, server


@pytest.mark.parametrize("size", [0, 1, 125, 126, 300, 65_535, 65_536, 100_000])
def test_messages_of_every_length_go_both_ways(size: int) -> None:
    wire, heard, pipe, server = opened()
    for message in ("x" * size, b"\x81" * size):
        wire.send(message)
        if isinstance(message, str):
            server.send_text(message.encode())
        else:
            server.send_binary(message)
    server.receive_data(bytes(pipe.sent))
    assert [frame.data for frame in server.events_received()] == [b"x" * size, b"\x81" * size]  # type: ignore[union-attr]
    stream = b"".join(server.data_to_send())
    for begin in range(0, len(stream), max(1, len(stream) // 7)):
        wire.data_received(stream[begin : begin + max(1, len(stream) // 7)])
    assert heard.said == ["x" * size, b"\x81" * size]


def test_pieces_and_pings_and_the_close() -> None:
    wire, heard, pipe, server = opened()
    server.send_text(b"one ", fin=False)
    server.send_ping(b"p")
    server.send_continuation(b"two", fin=True)
    server.send_close(1001)
    wire.data_received(b"".join(server.data_to_send()))
    assert heard.said == ["one two"]
    server.receive_data(bytes(pipe.sent))
    assert [frame.opcode for frame in server.events_received()] == [Opcode.PONG, Opcode.CLOSE]  # type: ignore[union-attr]
    assert pipe.gone == "closed"
    wire.connection_lost(None)
    assert heard.said[-1] == ("lost", 1001)
    wire.send("nobody is there")


@pytest.mark.parametrize(
    "data", [b"\x81\x81\0\0\0\0x", b"\xc1\x01x", b"\x83\0", b"\x80\x01x", b"\x82\x7f" + b"\x7f" * 8]
)
def test_a_server_that_breaks_the_protocol_is_left(data: bytes) -> None:
    wire, heard, pipe, _ = opened()
    wire.data_received(data)
    assert pipe.gone == "aborted"
    wire.connection_lost(None)
    assert heard.said == [("lost", 1002)]


def test_a_refused_handshake() -> None:
    wire, heard, pipe = connected()
    wire.data_received(b"HTTP/1.1 503 Service Unavailable\r\ncontent-le")
    assert heard.said == []
    wire.data_received(b"ngth: 0\r\n\r\n")
    assert heard.said == [("refused", 503)]
    assert pipe.gone == "aborted"


def test_a_handshake_with_the_wrong_key_is_none() -> None:
    wire, heard, pipe = connected()
    accept = base64.b64encode(hashlib.sha1(b"another").digest()).decode()
    wire.data_received(f"HTTP/1.1 101 S\r\nsec-websocket-accept: {accept}\r\n\r\n".encode())
    assert heard.said == []
    assert pipe.gone == "aborted"
