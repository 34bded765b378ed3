"""The opening handshake: what is asked for, and how each way of asking wrongly is answered."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from typing import Any

import pytest

from gateway.lean.handshake import BadRequest, Handshake
from gateway.lean.socket import LeanSocket
from tests.lean.line import KEY, Served, echo, masked, request, run


def status_of(data: bytes) -> int:
    with pytest.raises(BadRequest) as refused:
        Handshake().feed(data)
    return refused.value.status


def test_the_rfcs_own_example() -> None:
    upgrade = Handshake().feed(request("Origin: http://example.com", "Sec-WebSocket-Protocol: chat, superchat"))
    assert upgrade is not None
    assert upgrade.accept == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert upgrade.subprotocols == ["chat", "superchat"]
    assert (b"origin", b"http://example.com") in upgrade.headers


def test_a_head_in_pieces() -> None:
    handshake, head = Handshake(), request()
    assert [handshake.feed(head[n : n + 1]) for n in range(len(head) - 1)] == [None] * (len(head) - 1)
    assert handshake.feed(head[-1:]) is not None
    early = Handshake()
    assert early.feed(head + b"\x81\x80") is not None
    assert early.rest == b"\x81\x80"


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (request(leave_out="Upgrade"), 426),
        (request(leave_out="Connection"), 426),
        (request("Upgrade: h2c"), 426),
        (request("Connection: keep-alive", leave_out="Connection"), 426),
        (request(leave_out="Sec-WebSocket-Version"), 426),
        (request("Sec-WebSocket-Version: 8", leave_out="Sec-WebSocket-Version"), 426),
        (request("Sec-WebSocket-Version: 8"), 426),
        (request(leave_out="Sec-WebSocket-Key"), 400),
        (request(f"Sec-WebSocket-Key: {KEY}"), 400),
        (request("Sec-WebSocket-Key: c2hvcnQ=", leave_out="Sec-WebSocket-Key"), 400),
        (request("Sec-WebSocket-Key: not!base64", leave_out="Sec-WebSocket-Key"), 400),
        (request(leave_out="Host"), 400),
        (request("Content-Length: 5"), 400),
        (request("Transfer-Encoding: chunked"), 400),
        (request().replace(b"GET", b"POST"), 405),
        (request().replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
        (b"what is this\r\n\r\n", 400),
    ],
)
def test_what_is_refused(head: bytes, status: int) -> None:
    assert status_of(head) == status


@pytest.mark.parametrize(
    "head",
    [
        request("Connection: keep-alive"),
        request("Connection: keep-alive, UPGRADE", leave_out="Connection"),
        request("Upgrade: WebSocket", leave_out="Upgrade"),
        request("Content-Length: 0"),
        request("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"),
    ],
)
def test_what_is_taken_in_other_words(head: bytes) -> None:
    assert Handshake().feed(head) is not None


def test_a_refusal_says_what_would_do() -> None:
    async def main() -> None:
        for head, said in [
            (request("Sec-WebSocket-Version: 8", leave_out="Sec-WebSocket-Version"), b"sec-websocket-version: 13"),
            (request(leave_out="Upgrade"), b"upgrade: websocket"),
            (request().replace(b"GET", b"PUT"), b"allow: GET"),
        ]:
            line = Served(LeanSocket, echo).connect()
            line.protocol.data_received(head)
            await line.settle()
            assert said in line.transport.written
            assert b"connection: close" in line.transport.written
            assert line.transport.closing
            assert not line.state.tasks  # the application has not heard of it
            await line.hang_up()

    run(main())


async def answer_of(app: Any, *more: str) -> bytes:
    line = Served(LeanSocket, app).connect()
    line.protocol.data_received(request(*more))
    await line.settle()
    written = bytes(line.transport.written)
    await line.hang_up()
    return written


def test_the_answer_has_what_the_application_says_and_no_extension() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["subprotocols"] == ["a", "b", "c"]
        assert scope["query_string"] == b"q=1"
        assert scope["path"] == "/ä b"
        assert scope["raw_path"] == b"/%C3%A4%20b"
        assert scope["scheme"] == "ws"
        assert scope["type"] == "websocket"
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept", "subprotocol": "b", "headers": [(b"x-mine", b"1")]})
        await receive()

    async def main() -> list[str]:
        line = Served(LeanSocket, app).connect()
        offers = (
            "Sec-WebSocket-Protocol: a, b",
            "Sec-WebSocket-Protocol: c",
            "Sec-WebSocket-Extensions: permessage-deflate",
        )
        line.protocol.data_received(request(*offers, path="/%C3%A4%20b?q=1"))
        await line.settle()
        head = line.transport.written.decode().split("\r\n")
        await line.hang_up()
        return head

    head = run(main())
    accept = base64.b64encode(hashlib.sha1(KEY.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
    assert head[0] == "HTTP/1.1 101 Switching Protocols"
    assert sorted(head[1:]) == [
        "",
        "",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
        "Sec-WebSocket-Protocol: b",
        "Upgrade: websocket",
        "x-mine: 1",
    ]


def test_an_application_cannot_smuggle_a_header_in() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for headers in ([(b"x", b"1\r\ny: 2")], [(b"upgrade", b"other")]):
            with pytest.raises(ValueError, match="header"):
                await send({"type": "websocket.accept", "headers": headers})
        await send({"type": "websocket.accept", "headers": [(b"x", b"1")]})

    async def main() -> bytes:
        return await answer_of(app)

    assert run(main()).startswith(b"HTTP/1.1 101 ")


def test_an_application_refuses_with_whatever_status_it_likes() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert "websocket.http.response" in scope["extensions"]
        await receive()
        await send({"type": "websocket.http.response.start", "status": 418, "headers": [(b"X-Why", b"tea")]})
        await send({"type": "websocket.http.response.body", "body": b"short ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"and stout"})
        assert (await receive())["type"] == "websocket.disconnect"
        with pytest.raises(RuntimeError):
            await send({"type": "websocket.accept"})

    async def main() -> bytes:
        return await answer_of(app)

    head, _, body = run(main()).partition(b"\r\n\r\n")
    assert body == b"short and stout"
    assert head.split(b"\r\n")[0] == b"HTTP/1.1 418 I'm a Teapot"
    assert {b"x-why: tea", b"content-length: 15", b"connection: close"} <= set(head.split(b"\r\n"))


@pytest.mark.parametrize(("does", "status"), [("closes", 403), ("returns", 500), ("fails", 500), ("stops halfway", 0)])
def test_an_application_that_does_not_accept(does: str, status: int, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if does == "closes":
            await send({"type": "websocket.close"})
        elif does == "stops halfway":
            await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
        elif does == "fails":
            raise LookupError("as it happens")

    async def main() -> bytes:
        return await answer_of(app)

    written = run(main())
    if status:
        assert written.startswith(b"HTTP/1.1 %d " % status)
    else:
        assert not written  # half an answer is none
    assert bool(caplog.records) == (does != "closes")


def test_what_a_client_says_too_early_is_kept_and_not_without_end() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await echo(scope, receive, send)

    async def main() -> None:
        line = Served(LeanSocket, app).connect()
        line.protocol.data_received(request() + masked(1, b"one"))
        line.protocol.data_received(masked(1, b"two"))
        await line.settle()
        assert not line.transport.written
        go.set()
        await line.settle()
        line.read()
        assert line.said == [(1, b"one"), (1, b"two")]
        await line.hang_up()
        go.clear()
        line = Served(LeanSocket, app).connect()
        line.protocol.data_received(request())
        line.protocol.data_received(masked(2, bytes(70_000)))
        assert line.transport.aborted
        go.set()
        await line.hang_up()

    go = asyncio.Event()
    run(main())
