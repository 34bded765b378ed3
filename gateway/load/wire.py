"""The client's end of a WebSocket, for many calls in one process: bytes in, one call per message, bytes out.

No queue, no task and no event per message. Frames are masked, as a client's must be, with a key of zeros: the server
has the same work, and this side none. What the server may not do (mask, reserved bits, wrong lengths, an unknown
opcode) fails the call.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Protocol, cast
from urllib.parse import urlsplit

from gateway.load.sockets import Pipe

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MASK = b"\0\0\0\0"
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
MAX_HEAD = 16_384
MAX_MESSAGE = 4 << 20


class Listener(Protocol):
    """Who is told what happens on the wire."""

    def opened(self, now: float) -> None: ...

    def refused(self, status: int) -> None: ...

    def message(self, data: str | bytes, now: float) -> None: ...

    def lost(self, code: int) -> None:
        """The connection is gone: `code` is the server's close code, 1006 without one, 1002 for a broken protocol."""


def frame(first: int, payload: bytes) -> bytes:
    """One frame of a client."""
    return head(first, len(payload)) + payload


@lru_cache(maxsize=4096)
def head(first: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, 0x80 | size)) + _MASK
    if size < 65_536:
        return bytes((first, 0xFE, size >> 8, size & 0xFF)) + _MASK
    return bytes((first, 0xFF)) + size.to_bytes(8, "big") + _MASK


class Wire:
    """One WebSocket to `url`, with further `headers` in its handshake. It has the methods of an asyncio.Protocol."""

    def __init__(self, url: str, headers: Mapping[str, str], listener: Listener) -> None:
        there = urlsplit(url)
        self._key = base64.b64encode(secrets.token_bytes(16))
        target = there.path + (f"?{there.query}" if there.query else "")
        lines = [f"GET {target} HTTP/1.1", f"host: {there.netloc}", "upgrade: websocket", "connection: Upgrade"]
        lines += [f"sec-websocket-key: {self._key.decode()}", "sec-websocket-version: 13"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._request = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        self._listener = listener
        self._transport: asyncio.Transport | Pipe | None = None
        self._open = False
        self._given_up = False
        self._kept = b""
        self._pieces: list[bytes] = []  # of a message in several frames
        self._kind = 0
        self._code = 1006

    # ------------------------------------------------------------ out

    def send(self, message: str | bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        if isinstance(message, str):
            payload = message.encode()
            transport.write(head(_TEXT, len(payload)) + payload)
        else:
            transport.write(head(_BINARY, len(message)) + message)

    def close(self, code: int) -> None:
        """Say so; the server then closes."""
        if self._transport is not None:
            self._transport.write(frame(_CLOSE, code.to_bytes(2, "big")))

    def abort(self) -> None:
        self._given_up = True  # what connects only now is not wanted any more
        if self._transport is not None:
            self._transport.abort()

    def stop_reading(self) -> None:
        """As a machine that has lost its network."""
        if self._transport is not None:
            self._transport.pause_reading()

    # ------------------------------------------------------------ in

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.connected(cast(asyncio.Transport, transport))

    def connected(self, transport: asyncio.Transport | Pipe) -> None:
        self._transport = transport
        if self._given_up:
            transport.abort()
        else:
            transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._listener.lost(self._code)

    def data_received(self, data: bytes) -> None:
        self.received(data, time.monotonic())

    def eof_received(self) -> None:
        """Nothing more comes: the transport closes itself."""

    def pause_writing(self) -> None:
        """What a caller says is little: the transport keeps it."""

    def resume_writing(self) -> None: ...

    def received(self, data: bytes, now: float) -> None:
        """Bytes that came at `now`, by time.monotonic."""
        if self._kept:
            data, self._kept = self._kept + data, b""
        begin = 0
        if not self._open:
            begin = self._handshake(data, now)
            if begin < 0:
                return None
        size = len(data)
        while size - begin >= 2:
            first, length = data[begin], data[begin + 1]
            start = begin + 2
            if length == 126:
                if size < start + 2:
                    break
                length = data[start] << 8 | data[start + 1]
                start += 2
            elif length == 127:
                if size < start + 8:
                    break
                length = int.from_bytes(data[start : start + 8], "big")
                start += 8
            elif length > 127:
                return self._broken()
            end = start + length
            if length > MAX_MESSAGE:
                return self._broken()
            if size < end:
                break
            if first == _TEXT and not self._pieces:
                self._listener.message(str(data[start:end], "utf-8", "replace"), now)
            elif first == _BINARY and not self._pieces:
                self._listener.message(data[start:end], now)
            elif not self._seldom(first, data[start:end], now):
                return self._broken()
            begin = end
        self._kept = data[begin:]
        return None

    def _handshake(self, data: bytes, now: float) -> int:
        """Where frames begin; -1: not yet, or never."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self._kept = data
            if len(data) > MAX_HEAD:
                self._broken()
            return -1
        head = data[:end].split(b"\r\n")
        status = head[0].split(b" ", 2)[1] if head[0].count(b" ") else b"0"
        if status != b"101":
            self._listener.refused(int(status) if status.isdigit() else 0)
            self.abort()
            return -1
        names = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in head[1:])}
        accept = base64.b64encode(hashlib.sha1(self._key + _GUID, usedforsecurity=False).digest())
        if names.get(b"sec-websocket-accept") != accept:
            self._broken()
            return -1
        self._open = True
        self._listener.opened(now)
        return end + 4

    def _seldom(self, first: int, payload: bytes, now: float) -> bool:
        """Control frames, and messages in pieces. False: the server may not send that."""
        if first == _PING:
            if self._transport is not None:
                self._transport.write(frame(_PONG, payload))
        elif first == _CLOSE:
            self._code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
            if self._transport is not None:
                self._transport.write(frame(_CLOSE, payload[:2]))
                self._transport.close()
        elif first in (1, 2) and not self._pieces:
            self._kind, self._pieces = first, [payload]
        elif first in (0, 0x80) and self._pieces:
            self._pieces.append(payload)
            if first == 0x80:
                whole, self._pieces = b"".join(self._pieces), []
                self._listener.message(whole.decode("utf-8", "replace") if self._kind == 1 else whole, now)
        elif first != _PONG:
            return False
        return True

    def _broken(self) -> None:
        self._code = 1002
        self.abort()
