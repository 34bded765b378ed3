"""Webhooks over connections that are kept, against servers that answer, break off, and are slow to close."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import pytest

from gateway.load import courier
from gateway.load.courier import Courier, NotDelivered
from tests.endtoend.served import run

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[bool]]
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/xml\r\ncontent-length: 4\r\n\r\n<a/>"


class Place:
    """A small server: `answer` is given each request, and says whether the connection is kept."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.connections = 0
        self.requests: list[bytes] = []

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/twilio/answer?a=b"

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0)
                self.requests.append(head + await reader.readexactly(size))
                if not await self._answer(self.requests[-1], writer):
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


async def well(request: bytes, writer: asyncio.StreamWriter) -> bool:
    writer.write(OK)
    return True


def test_one_connection_carries_one_webhook_after_the_other() -> None:
    place = Place(well)

    async def main() -> None:
        post = Courier()
        async with place as url:
            for body in (b"CallSid=CA1", b"", b"CallSid=CA2"):
                reply = await post.deliver("POST", url, {"host": "gw.example", "X-Signature": "abc"}, body)
                assert (reply.status, reply.media_type, reply.body) == (HTTPStatus.OK, "text/xml", b"<a/>")
            post.close()

    run(main())
    assert place.connections == 1
    first, second, third = place.requests
    assert first.startswith(b"POST /twilio/answer?a=b HTTP/1.1\r\n")
    assert b"\r\nhost: gw.example\r\n" in first.lower()
    assert first.endswith(b"\r\n\r\nCallSid=CA1")
    assert second.endswith(b"\r\n\r\n")
    assert third.endswith(b"CallSid=CA2")


def test_an_answer_in_pieces_and_a_gateway_that_closes() -> None:
    async def pieces(request: bytes, writer: asyncio.StreamWriter) -> bool:
        for piece in (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n", b"2\r\n<a\r\n"):
            writer.write(piece)
            await asyncio.sleep(0.01)
        writer.write(b"2\r\n/>\r\n0\r\n\r\n")
        return False

    place = Place(pieces)

    async def main() -> None:
        post = Courier()
        async with place as url:
            for _ in range(2):
                assert (await post.deliver("POST", url, {"host": "x"}, b"a=b")).body == b"<a/>"
            post.close()

    run(main())
    assert place.connections == 2


def test_a_connection_that_was_closed_meanwhile_is_no_failure() -> None:
    async def once(request: bytes, writer: asyncio.StreamWriter) -> bool:
        writer.write(OK)
        if place.connections == 1:  # the next request meets a connection that is going down
            await place_asked.wait()
            return False
        return True

    place, place_asked = Place(once), asyncio.Event()

    async def main() -> None:
        post = Courier()
        async with place as url:
            assert (await post.deliver("POST", url, {"host": "x"}, b"")).status == HTTPStatus.OK
            asking = asyncio.create_task(post.deliver("POST", url, {"host": "x"}, b""))
            await asyncio.sleep(0)
            place_asked.set()
            assert (await asking).status == HTTPStatus.OK
            post.close()

    run(main())
    assert place.connections == 2


async def nothing(request: bytes, writer: asyncio.StreamWriter) -> bool:
    return False


async def rubbish(request: bytes, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"what?\r\n\r\n")
    return False


async def much(request: bytes, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n" + bytes(2_000_000))
    return False


async def silence(request: bytes, writer: asyncio.StreamWriter) -> bool:
    await asyncio.sleep(1.0)
    return False


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (nothing, "ConnectionResetError"),
        (rubbish, "RemoteProtocolError"),
        (much, "RemoteProtocolError"),
        (silence, "TimeoutError"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_what_is_no_answer_is_told_in_a_word(answer: Answer, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if answer is silence:
        monkeypatch.setattr(courier, "ANSWER_S", 0.1)

    async def main() -> None:
        post = Courier()
        async with Place(answer) as url:
            with pytest.raises(NotDelivered, match=why):
                await post.deliver("POST", url, {"host": "x"}, b"a=b")
            post.close()

    run(main())


def test_nobody_there() -> None:
    async def main() -> None:
        async with Place(well) as url:
            pass
        with pytest.raises(NotDelivered, match="ConnectionRefusedError"):
            await Courier().deliver("POST", url, {"host": "x"}, b"")

    run(main())
