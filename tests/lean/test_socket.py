"""Our protocol class beyond the frames: its two faces, slow peers, keep-alive, and the ends of connections."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from typing import Any

import pytest
from uvicorn.protocols.utils import ClientDisconnected

from gateway.lean import EXTENSION, DirectSocket
from gateway.lean.socket import QUEUED_LIMIT, LeanSocket
from tests.lean.line import Echo, Line, Served, close_of, direct_echo, echo, masked, request, run, until

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

Events = list[dict[str, Any]]


def listener(events: Events) -> Any:
    """An application that writes down what it gets."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while True:
            events.append(await receive())
            if events[-1]["type"] == "websocket.disconnect":
                break
        events.append(await receive())  # asked again, it does not wait for ever
        with pytest.raises(ClientDisconnected):
            await send({"type": "websocket.send", "text": "too late"})

    return app


# ---------------------------------------------------------------- the end, by whomever


@pytest.mark.parametrize(
    ("says", "code", "reason"),
    [
        (close_of(1000, b"bye"), 1000, "bye"),
        (masked(CLOSE), 1005, ""),
        (b"", 1006, ""),
        (masked(3), 1002, "an unknown opcode"),
        (masked(TEXT, b"\xff"), 1007, "text that is not UTF-8"),
    ],
)
def test_the_application_learns_how_the_peer_ended_it(says: bytes, code: int, reason: str) -> None:
    events: Events = []

    async def main() -> None:
        line = await Served(LeanSocket, listener(events)).open()
        await line.send(masked(TEXT, b"first"))
        if says:
            await line.send(masked(BINARY, b"last") + says)
        await line.hang_up()

    run(main())
    over = {"type": "websocket.disconnect", "code": code, "reason": reason}
    messages: Events = [{"type": "websocket.receive", "text": "first"}]
    messages += [{"type": "websocket.receive", "bytes": b"last"}] if says else []
    assert events == [*messages, over, over]


def test_a_peer_that_sends_no_more_is_gone() -> None:
    """Half of a TCP connection is no WebSocket."""
    events: Events = []

    async def main() -> None:
        line = await Served(LeanSocket, listener(events)).open()
        assert not line.protocol.eof_received()
        await line.settle()
        assert line.transport.closing
        assert line.said == []
        await line.hang_up()

    run(main())
    assert [event["code"] for event in events] == [1006, 1006]


def test_a_transport_that_is_closed_and_has_not_said_so_is_not_written_to() -> None:
    async def main() -> None:
        notes: list[Notes] = []
        line = await Served(LeanSocket, taking(notes)).open()
        line.transport.closing = True
        line.transport.write = None  # type: ignore[method-assign,assignment]
        assert notes[0].socket is not None
        notes[0].socket.send("into the void")
        line.protocol.connection_lost(OSError("reset"))
        await line.settle()
        assert notes[0].told == [1006]

    run(main())


def test_the_server_goes_down() -> None:
    events: Events = []

    async def main() -> None:
        line = await Served(LeanSocket, listener(events)).open()
        line.protocol.shutdown()
        await line.settle()
        line.read()
        assert line.closed_with == 1012
        assert line.transport.closing
        await line.hang_up()
        waiting = Served(LeanSocket, asks_before).connect()
        waiting.protocol.data_received(b"GET / HTTP/1.1\r\n")
        waiting.protocol.shutdown()
        assert waiting.transport.closing
        assert not waiting.transport.written

    async def asks_before(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("nobody has asked for anything")

    run(main())
    assert [event.get("code") for event in events] == [1012, 1012]


def test_the_server_goes_down_while_the_application_thinks() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await go.wait()
            with pytest.raises(ClientDisconnected):
                await send({"type": "websocket.accept"})

        line = Served(LeanSocket, app).connect()
        line.protocol.data_received(request())
        await line.settle()
        line.protocol.shutdown()
        go.set()
        await line.settle()
        assert line.transport.written.startswith(b"HTTP/1.1 500 ")
        await line.hang_up()

    run(main())


def test_the_application_closes_and_the_peers_half_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    events: Events = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        await send({"type": "websocket.close", "code": 4000, "reason": "enough"})
        events.append(await receive())
        with pytest.raises(RuntimeError, match="closing"):
            await send({"type": "websocket.send", "text": "no"})
        await asyncio.Event().wait()

    async def main() -> None:
        served = Served(LeanSocket, app)
        line = await served.open()
        await line.send(masked(TEXT, b"x"))
        assert line.said == [(CLOSE, (4000).to_bytes(2, "big") + b"enough")]
        assert events == [{"type": "websocket.disconnect", "code": 4000, "reason": "enough"}]
        await line.send(masked(TEXT, b"crossed"), masked(PING))
        assert not line.transport.closing
        await line.send(close_of(4000))
        assert line.transport.closing
        assert not line.transport.aborted
        await end(line)
        monkeypatch.setattr("gateway.lean.socket.CLOSE_S", 0.0)
        deaf = await served.open()
        await deaf.send(masked(TEXT, b"x"))
        await until(lambda: deaf.transport.aborted)  # whose half never comes
        await end(deaf)

    async def end(line: Line) -> None:
        for task in list(line.state.tasks):
            task.cancel()
        await line.hang_up()

    run(main())


@pytest.mark.parametrize(("fails", "code"), [(False, 1000), (True, 1011)])
def test_an_application_that_ends_without_closing(
    fails: bool, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.lean.socket.LINGER_S", 0.0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        if fails:
            raise LookupError("as it happens")

    async def main() -> None:
        line = await Served(LeanSocket, app).open()
        await line.send(masked(TEXT, b"x"))
        assert line.closed_with == code
        await until(lambda: line.transport.aborted)  # the peer's half does not come
        await line.hang_up()

    run(main())
    assert ["application_failed" in record.message for record in caplog.records] == [True] * fails


# ---------------------------------------------------------------- slow ones


def test_a_slow_peer_holds_up_who_sends() -> None:
    sent: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": b"x"})
            sent.append(1)

    async def main() -> None:
        line = await Served(LeanSocket, app).open()
        await line.send(masked(TEXT))
        assert len(sent) == 1
        line.protocol.pause_writing()
        await line.send(masked(TEXT), masked(TEXT))
        assert len(sent) == 1
        line.protocol.resume_writing()
        await line.settle()
        assert len(sent) == 3
        line.protocol.pause_writing()
        await line.send(masked(TEXT))
        await line.hang_up()  # who waits is let go
        assert len(sent) == 3

    run(main())


def test_a_slow_application_holds_up_its_peer() -> None:
    got: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await go.wait()
        while (event := await receive())["type"] == "websocket.receive":
            got.append(event["text"])

    async def main() -> None:
        line = await Served(LeanSocket, app).open()
        said = 0
        while line.transport.reading:
            line.protocol.data_received(masked(TEXT, b"%d" % said + b"." * 1000))
            said += 1
        assert QUEUED_LIMIT // 2000 < said < QUEUED_LIMIT // 1000 + 2
        go.set()
        await line.settle()
        assert line.transport.reading
        assert [text.rstrip(".") for text in got] == [str(n) for n in range(said)]
        await line.hang_up()

    go = asyncio.Event()
    run(main())


def test_of_several_pings_a_peer_that_does_not_read_gets_the_last_answered() -> None:
    async def main() -> None:
        line = await Served(LeanSocket, echo).open()
        line.protocol.pause_writing()
        await line.send(*(masked(PING, b"%d" % n) for n in range(1000)))
        assert line.said == []
        line.protocol.resume_writing()
        line.read()
        assert line.said == [(PONG, b"999")]
        await line.hang_up()

    run(main())


# ---------------------------------------------------------------- keep-alive


def test_a_peer_that_answers_pings_stays() -> None:
    async def main() -> None:
        served = Served(LeanSocket, echo, ws_ping_interval=0.001, ws_ping_timeout=60.0)
        line = await served.open()
        for n in range(3):
            while len(line.said) == n:  # else the next one was there before the last answer had been looked at
                await asyncio.sleep(0.001)
                line.read()
            assert [opcode for opcode, _ in line.said] == [PING] * (n + 1)  # one at a time
            await line.send(masked(PONG, b"not that"), masked(PONG, line.said[-1][1]))
        await line.hang_up()

    run(main())


def test_a_peer_that_does_not_answer_pings_is_gone() -> None:
    events: Events = []

    async def main() -> None:
        line = await Served(LeanSocket, listener(events), ws_ping_interval=0.001, ws_ping_timeout=0.001).open()
        await until(lambda: line.transport.closing)
        await line.settle()
        line.read()
        assert [opcode for opcode, _ in line.said] == [PING, CLOSE]
        assert line.closed_with == 1011
        await line.hang_up()

    run(main())
    assert [event["code"] for event in events] == [1006, 1006]


# ---------------------------------------------------------------- taken over


class Notes(Echo):
    """Writes down what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []

    def on_message(self, data: str | bytes) -> None:
        self.told.append(data)
        if data == "fail":
            raise LookupError("as it happens")
        if data == "close" and self.socket is not None:
            self.socket.close(4001)

    def on_writable(self) -> None:
        self.told.append("writable")

    def on_close(self, code: int) -> None:
        self.told.append(code)
        super().on_close(code)


def taking(notes: list[Notes], *, waits: asyncio.Event | None = None) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        if waits is not None:
            await waits.wait()
        taker = Notes()
        notes.append(taker)
        taker.socket = scope["extensions"][EXTENSION]["take_over"](taker)
        await taker.over

    return app


def test_what_came_before_comes_first() -> None:
    notes: list[Notes] = []

    async def main() -> None:
        go = asyncio.Event()
        line = await Served(LeanSocket, taking(notes, waits=go)).open()
        await line.send(masked(TEXT, b"one"), masked(BINARY, b"two"))
        go.set()
        await line.send(masked(TEXT, b"three") + masked(TEXT, b"four") + close_of(1001) + masked(TEXT, b"five"))
        assert line.closed_with == 1001
        await line.hang_up()

    run(main())
    assert notes[0].told == ["one", b"two", "three", "four", 1001]


def test_a_socket_that_was_closed_before_is_taken_over_all_the_same() -> None:
    notes: list[Notes] = []

    async def main() -> None:
        go = asyncio.Event()
        line = await Served(LeanSocket, taking(notes, waits=go)).open()
        await line.send(masked(TEXT, b"one") + close_of(1000))
        go.set()
        await line.hang_up()

    run(main())
    assert notes[0].told == ["one", 1000]


def test_a_taker_that_closes_is_told_nothing_more() -> None:
    notes: list[Notes] = []

    async def main() -> None:
        line = await Served(LeanSocket, taking(notes)).open()
        await line.send(masked(TEXT, b"close") + masked(TEXT, b"crossed"))
        assert line.closed_with == 4001
        await line.send(masked(TEXT, b"late"), close_of(4001))
        assert line.transport.closing
        assert not line.transport.aborted
        notes[0].over.set_result(0)
        await line.hang_up()

    run(main())
    assert notes[0].told == ["close"]


def test_a_taker_that_fails_ends_its_socket(caplog: pytest.LogCaptureFixture) -> None:
    notes: list[Notes] = []

    async def main() -> None:
        line = await Served(LeanSocket, taking(notes)).open()
        await line.send(masked(TEXT, b"fail") + masked(TEXT, b"more"))
        assert line.closed_with == 1011
        await line.hang_up()

    run(main())
    assert notes[0].told == ["fail", 1011]
    assert ["taker_failed" in record.message for record in caplog.records] == [True]


def test_a_socket_is_taken_over_once_and_only_when_it_is_open() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        take_over = scope["extensions"][EXTENSION]["take_over"]
        with pytest.raises(RuntimeError, match="accepted"):
            take_over(Notes())
        await send({"type": "websocket.accept"})
        taker = Notes()
        take_over(taker)
        with pytest.raises(RuntimeError, match="once"):
            take_over(Notes())
        await taker.over
        seen.append("to its end")

    async def main() -> None:
        line = await Served(LeanSocket, app).open()
        await line.hang_up()

    seen: list[str] = []
    run(main())
    assert seen


def test_a_taker_runs_in_the_context_of_its_task() -> None:
    who = contextvars.ContextVar("who", default="nobody")
    seen: list[str] = []

    class Nosy(Notes):
        def on_message(self, data: str | bytes) -> None:
            seen.append(who.get())
            who.set(str(data))

        def on_close(self, code: int) -> None:
            seen.append(who.get())
            super().on_close(code)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        who.set("the application")
        taker = Nosy()
        scope["extensions"][EXTENSION]["take_over"](taker)
        await taker.over
        seen.append(who.get())

    async def main() -> None:
        line = await Served(LeanSocket, app).open()
        await line.send(masked(TEXT, b"a"), masked(TEXT, b"b"))
        await line.hang_up()

    run(main())
    assert seen == ["the application", "a", "b", "b"]
    assert who.get() == "nobody"


def test_what_a_taker_sends_leaves_at_once_and_together() -> None:
    async def main() -> None:
        notes: list[Notes] = []
        line = await Served(LeanSocket, taking(notes)).open()
        socket: DirectSocket | None = notes[0].socket
        assert socket is not None
        writes: list[bytes] = []
        line.transport.write = writes.append  # type: ignore[method-assign,assignment]
        socket.send("a", b"b", "c")
        socket.send("d")
        assert [len(write) for write in writes] == [9, 3]
        with pytest.raises(UnicodeEncodeError):
            socket.send("fine", "half \ud83d")
        assert len(writes) == 2
        assert socket.is_writable
        line.protocol.pause_writing()
        assert not socket.is_writable
        line.protocol.resume_writing()
        socket.close()
        socket.send("after the end")
        assert len(writes) == 3
        assert notes[0].told == ["writable"]
        line.transport.closing = True
        line.protocol.connection_lost(None)
        notes[0].over.set_result(0)
        await line.settle()

    run(main())


def test_nothing_holds_a_taker_when_its_application_has_ended() -> None:
    notes: list[Notes] = []

    async def main() -> None:
        line = await Served(LeanSocket, taking(notes)).open()
        await line.send(masked(TEXT, b"x"), close_of(1000))
        taker = weakref.ref(notes.pop())
        await line.settle()
        gc.collect()
        assert taker() is None
        await line.hang_up()

    run(main())


def test_many_sockets_in_one_loop() -> None:
    async def main() -> None:
        served = Served(LeanSocket, direct_echo)
        lines = [await served.open() for _ in range(50)]
        for n, line in enumerate(lines):
            line.protocol.data_received(masked(TEXT, b"%d" % n))
        for n, line in enumerate(lines):
            line.read()
            assert line.said == [(TEXT, b"%d" % n)]
            await line.hang_up()

    run(main())
