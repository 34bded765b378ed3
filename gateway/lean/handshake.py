"""The opening handshake of a WebSocket server, without I/O: a request's head to what was asked for, and the answers.

Source: RFC 6455, section 4.2; HTTP itself is h11's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import h11

Headers = list[tuple[bytes, bytes]]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES: Final = 16
_OURS: Final = frozenset({b"upgrade", b"connection", b"sec-websocket-accept", b"sec-websocket-extensions"})


@dataclass(frozen=True, slots=True)
class Upgrade:
    """A request to open a WebSocket."""

    target: bytes  # path and query, as they came
    headers: Headers  # names in lower case
    subprotocols: list[str]  # that the client offers, best first
    accept: bytes  # what proves that we have understood


class BadRequest(Exception):
    """No WebSocket can be opened by this request."""

    def __init__(self, status: int, problem: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(problem)
        self.status, self.problem, self.headers = status, problem, list(headers)


class Handshake:
    """One connection up to its upgrade."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.SERVER)

    def feed(self, data: bytes) -> Upgrade | None:
        """None: the head is not all there. Raises BadRequest."""
        self._http.receive_data(data)
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as exc:
            raise BadRequest(exc.error_status_hint, str(exc)) from None
        return _read(event) if isinstance(event, h11.Request) else None

    @property
    def rest(self) -> bytes:
        """What came behind the head."""
        return self._http.trailing_data[0]

    def accepted(self, upgrade: Upgrade, headers: Iterable[tuple[bytes, bytes]], subprotocol: str | None) -> bytes:
        """The answer that opens the socket. Raises ValueError where `headers` cannot be."""
        given = list(headers)
        for name, _ in given:
            if name.lower() in _OURS:
                raise ValueError(f"the header {name.decode('latin-1')} is the handshake's own")
        ours = [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), (b"Sec-WebSocket-Accept", upgrade.accept)]
        if subprotocol:
            ours.append((b"Sec-WebSocket-Protocol", subprotocol.encode("latin-1")))
        try:
            reply = h11.InformationalResponse(status_code=101, headers=ours + given, reason="Switching Protocols")
            return self._http.send(reply) or b""
        except h11.LocalProtocolError as exc:
            raise ValueError(str(exc)) from None

    def refused(self, status: int, headers: Iterable[tuple[bytes, bytes]] = (), body: bytes = b"") -> bytes:
        """An answer that does not open the socket. Raises ValueError where it cannot be sent."""
        given = [(name.lower(), value) for name, value in headers]
        if not any(name in (b"content-length", b"transfer-encoding") for name, _ in given):
            given.append((b"content-length", str(len(body)).encode()))
        given.append((b"connection", b"close"))
        try:
            head = h11.Response(status_code=status, headers=given, reason=_phrase(status))
            return b"".join(self._http.send(part) or b"" for part in (head, h11.Data(data=body), h11.EndOfMessage()))
        except h11.LocalProtocolError as exc:
            raise ValueError(str(exc)) from None

    def answer(self, bad: BadRequest) -> bytes:
        """What `bad` says to the client."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return b""
        text = bad.problem.encode() + b"\n"
        headers = [(name.encode(), value.encode()) for name, value in bad.headers]
        return self.refused(bad.status, [(b"content-type", b"text/plain; charset=utf-8"), *headers], text)


def _read(request: h11.Request) -> Upgrade:
    headers: Headers = [(bytes(name), bytes(value)) for name, value in request.headers]
    if request.method != b"GET":
        raise BadRequest(405, "a WebSocket is opened by GET", [("allow", "GET")])
    if request.http_version != b"1.1":
        raise BadRequest(505, "a WebSocket is opened by HTTP/1.1")
    if "upgrade" not in _tokens(headers, b"connection") or _tokens(headers, b"upgrade") != ["websocket"]:
        raise BadRequest(426, "this is a WebSocket", [("upgrade", "websocket")])
    if _values(headers, b"sec-websocket-version") != [b"13"]:
        raise BadRequest(426, "version 13 of WebSocket is spoken here", [("sec-websocket-version", "13")])
    if _values(headers, b"transfer-encoding") or any(value != b"0" for value in _values(headers, b"content-length")):
        raise BadRequest(400, "a request for a WebSocket has no body")
    keys = _values(headers, b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        raise BadRequest(400, "Sec-WebSocket-Key must be there once, 16 bytes in base64")
    accept = base64.b64encode(hashlib.sha1(keys[0] + _GUID, usedforsecurity=False).digest())
    offered = ",".join(value.decode("latin-1") for value in _values(headers, b"sec-websocket-protocol"))
    return Upgrade(
        target=bytes(request.target),
        headers=headers,
        subprotocols=[name for each in offered.split(",") if (name := each.strip())],
        accept=accept,
    )


def _values(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    return [value for each, value in headers if each == name]


def _tokens(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """Of a list that may be spread over several headers, in lower case."""
    listed = ",".join(value.decode("latin-1") for value in _values(headers, name))
    return [token for each in listed.split(",") if (token := each.strip().lower())]


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
