"""A server's WebSocket protocol class on a transport in memory: bytes in, frames out, and no clock.

`Line` is the client. The loop turns only while something is left to do, so nothing depends on how fast it is.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.server import ServerState

from gateway.lean import EXTENSION, DirectSocket
from gateway.lean.socket import LeanSocket
from gateway.server import StockSocket

T = TypeVar("T")
App = Callable[[Any, Any, Any], Awaitable[None]]

LIMIT = 1_048_576  # bytes of a message
TURNS = 25  # of the loop, after which whatever was set in motion is over
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def masked(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bytes | None = b"\x12\x34\x56\x78",
    says: int | None = None,
    wide: int = 0,
) -> bytes:
    """A client's frame.

    Args:
        reserved: the three bits.
        mask: None: a frame that is not masked.
        says: a length that is not true.
        wide: 2, 8: at least so many bytes for the length.
    """
    length = len(payload) if says is None else says
    first, bit = (0x80 if fin else 0) | reserved << 4 | opcode, 0 if mask is None else 0x80
    if length < 126 and not wide:
        head = struct.pack("!BB", first, bit | length)
    elif length < 0x10000 and wide < 8:
        head = struct.pack("!BBH", first, bit | 126, length)
    else:
        head = struct.pack("!BBQ", first, bit | 127, length)
    if mask is None:
        return head + payload
    key = int.from_bytes((mask * (len(payload) // 4 + 1))[: len(payload)], "big")
    return head + mask + (int.from_bytes(payload, "big") ^ key).to_bytes(len(payload), "big")


def close_of(code: int, reason: bytes = b"") -> bytes:
    return masked(8, struct.pack("!H", code) + reason)


def request(*more: str, path: str = "/x", leave_out: str = "") -> bytes:
    """The head of a request for an upgrade."""
    lines = [
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
    ]
    kept = [line for line in lines if not leave_out or not line.startswith(leave_out)]
    return "\r\n".join([f"GET {path} HTTP/1.1", *kept, *more, "", ""]).encode("latin-1")


class Transport(asyncio.Transport):
    """What asyncio's are, as far as a protocol sees them; the peer is the test."""

    def __init__(self) -> None:
        super().__init__({"socket": None, "peername": ("127.0.0.1", 40_000), "sockname": ("127.0.0.1", 8080)})
        self.protocol: Any = None
        self.written = bytearray()
        self.closing = self.half_closed = self.aborted = False
        self.reading = True

    def write(self, data: Any) -> None:
        assert not self.half_closed, "after the end of what there was to write"
        if not self.closing:
            self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol


@dataclass
class Line:
    """The client's end, once the socket is open."""

    protocol: Any
    transport: Transport
    state: ServerState
    failures: list[BaseException]  # of the application: checks of a test among them
    said: list[tuple[int, bytes]] = field(default_factory=list)  # whole messages and control frames of the server
    head: bytes = b""

    async def settle(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    async def send(self, *chunks: bytes) -> None:
        """Each as soon as the server reads, and has dealt with the one before."""
        for chunk in chunks:
            await self.settle()
            if self.transport.closing:
                break
            assert self.transport.reading, "the server does not read any more"
            self.protocol.data_received(chunk)
        await self.settle()
        self.read()

    def read(self) -> None:
        """Take apart what the server has written."""
        written = self.transport.written
        if not self.head:
            end = written.find(b"\r\n\r\n") + 4
            assert end >= 4, "no answer to the handshake"
            self.head = bytes(written[:end])
            del written[:end]
        while len(written) >= 2:
            first, length, at = written[0], written[1], 2
            assert length < 0x80, "a server masks nothing"
            if length == 126:
                length, at = int.from_bytes(written[2:4], "big"), 4
                assert length >= 126
            elif length == 127:
                length, at = int.from_bytes(written[2:10], "big"), 10
                assert length >= 0x10000
            assert first & 0xF0 == 0x80, "each of them in one frame, without reserved bits"
            assert len(written) >= at + length, "half a frame"
            self.said.append((first & 0x0F, bytes(written[at : at + length])))
            del written[: at + length]
        assert not written

    @property
    def closed_with(self) -> int | None:
        """The code of the server's close frame, which is its last; 1005: it had none; None: there is no close frame."""
        places = [n for n, (opcode, _) in enumerate(self.said) if opcode == 8]
        if not places:
            return None
        assert places == [len(self.said) - 1], "nothing comes after a close frame"
        payload = self.said[-1][1]
        return int.from_bytes(payload[:2], "big") if payload else 1005

    @property
    def has_ended(self) -> bool:
        """The server has closed the connection, or its half of it."""
        return self.transport.closing or self.transport.half_closed

    async def hang_up(self) -> None:
        """The peer is gone; nothing of the connection may be left."""
        if not self.transport.closing:
            self.transport.closing = True
            self.protocol.connection_lost(None)
        await self.settle()
        assert not self.state.connections
        assert not self.state.tasks
        if self.failures:
            raise self.failures[0]


class Served:
    """A protocol class, and the application behind it."""

    def __init__(self, protocol_class: type[Any], app: App, **config: Any) -> None:
        self._class = protocol_class
        self._failures: list[BaseException] = []

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            except (LookupError, asyncio.CancelledError, ClientDisconnected):  # as a test wants it
                raise
            except BaseException as exc:
                self._failures.append(exc)

        self._config = Config(
            watched,
            ws_max_size=LIMIT,
            ws_per_message_deflate=False,
            **{"ws_ping_interval": None, "ws_ping_timeout": None, "log_config": None, "lifespan": "off", **config},
        )
        self._config.load()

    def connect(self) -> Line:
        """A connection on which nothing was said."""
        transport, state = Transport(), ServerState()
        protocol = self._class(config=self._config, server_state=state, app_state={})
        transport.protocol = protocol
        protocol.connection_made(transport)
        return Line(protocol, transport, state, self._failures)

    async def open(self, *more: str) -> Line:
        """A WebSocket."""
        line = self.connect()
        line.protocol.data_received(request(*more))
        await line.settle()
        line.read()
        assert line.head.startswith(b"HTTP/1.1 101 ")
        return line


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """In the way of ASGI."""
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})


class Echo:
    """One that has taken the socket over."""

    def __init__(self) -> None:
        self.over: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.socket: DirectSocket | None = None

    def on_message(self, data: str | bytes) -> None:
        assert self.socket is not None
        self.socket.send(data)

    def on_writable(self) -> None:
        pass

    def on_close(self, code: int) -> None:
        self.over.set_result(code)


async def direct_echo(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    taker = Echo()
    taker.socket = scope["extensions"][EXTENSION]["take_over"](taker)
    await taker.over


ECHOES: dict[str, tuple[type[Any], App]] = {
    "lean": (LeanSocket, echo),
    "lean, taken over": (LeanSocket, direct_echo),
    "websockets": (StockSocket, echo),
}


async def until(done: Callable[[], object]) -> None:
    while not done():  # noqa: ASYNC110 - what is waited for are the loop's own timers, or the kernel
        await asyncio.sleep(0.001)


def run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(main, 60))
