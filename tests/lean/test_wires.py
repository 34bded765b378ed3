"""A call on a socket that it has taken over: when what arrives and what is said takes effect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from bots.base import Build
from gateway.clock import Clock
from gateway.core import CallCore
from gateway.direct_wire import AT_ONCE, DirectWire
from gateway.lean.socket import LeanSocket
from gateway.ports import BotRoute, CallLimits
from gateway.records import CallRecord
from gateway.registry import serializer_class
from gateway.session import CallSession
from gateway.simulator.base import FakeCarrier, fake_carrier
from gateway.wires import wire
from media.frames import OutputTransportMessageUrgentFrame
from serializers.base import WireOptions
from tests.endtoend import actors
from tests.lean.line import Line, Served, close_of, masked, run

TEXT, CLOSE = 1, 8


class Stopped(Clock):
    """Time goes on when the test says so."""

    t = 1000.0

    @classmethod
    def now(cls) -> float:
        return cls.t


class OneCall:
    """A Twilio call with a bot that speaks for half a minute, on a lean socket, on virtual time."""

    def __init__(self, build: Build | None = None, limits: CallLimits | None = None) -> None:
        self.clock = Stopped()
        self.fake: FakeCarrier = fake_carrier("twilio")()
        self.build, self.limits = build or actors.saying(30.0), limits
        self.record: CallRecord | None = None
        self.session: CallSession
        self.line: Line

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        way = wire(scope, receive, send, self.clock)
        assert isinstance(way, DirectWire)
        self.way = way
        self.session = CallSession(way, self.clock)
        self.session.core = CallCore(
            serializer_class("twilio").for_call(WireOptions()),
            self.session,
            limits=self.limits,
            route=lambda info: BotRoute("bot", self.build),
            now=self.clock.now(),
        )
        self.record = await self.session.run()

    @property
    def core(self) -> CallCore:
        return self.session.core

    async def begin(self) -> None:
        """Up, and the bot has begun to speak."""
        self.line = await Served(LeanSocket, self._app).open()
        for message in self.fake.opening(self.clock.now()):
            await self.line.send(self.frame(message))
        self.go_on(0.04)
        self.line.read()
        assert self.heard("media")

    @staticmethod
    def frame(message: Any) -> bytes:
        return masked(TEXT, message if isinstance(message, bytes) else message.encode())

    def go_on(self, seconds: float) -> None:
        """Time passes; nothing is awaited."""
        for _ in range(round(seconds / 0.02)):
            Stopped.t += 0.02
            self.way.tick(Stopped.t)

    def heard(self, event: str) -> int:
        return sum(opcode == TEXT and json.loads(data)["event"] == event for opcode, data in self.line.said)

    async def end(self) -> CallRecord:
        await self.line.hang_up()
        assert self.record is not None
        return self.record


def count_writes(line: Line) -> list[bytes]:
    """From now on: what was written at once."""
    writes: list[bytes] = []
    write = line.transport.write

    def noted(data: Any) -> None:
        writes.append(bytes(data))
        write(data)

    line.transport.write = noted  # type: ignore[method-assign]
    return writes


@pytest.fixture(autouse=True)
def time() -> None:
    Stopped.t = 1000.0


def test_what_a_tick_brings_about_leaves_within_it() -> None:
    async def main() -> None:
        call = OneCall()
        await call.begin()
        before = call.heard("media")
        writes = count_writes(call.line)
        call.go_on(0.02)
        assert len(writes) == 1
        call.line.read()
        assert call.heard("media") == before + 1
        Stopped.t += 0.1  # a late tick: what is owed goes together
        call.way.tick(Stopped.t)
        assert len(writes) == 2
        call.line.read()
        assert call.heard("media") >= before + 5
        await call.end()

    run(main())


def test_what_a_message_brings_about_leaves_within_its_turn() -> None:
    async def main() -> None:
        call = OneCall(actors.echo)
        call.line = await Served(LeanSocket, call._app).open()
        for message in call.fake.opening(call.clock.now()):
            await call.line.send(call.frame(message))
        writes = count_writes(call.line)
        for _ in range(10):
            call.go_on(0.02)
            for message in call.fake.audio(bytes(160), call.clock.now()):
                call.line.protocol.data_received(call.frame(message))
        assert writes, "the echo was written, and the loop has not turned"
        await call.end()

    run(main())


def test_what_others_say_leaves_together_at_the_end_of_the_turn() -> None:
    async def main() -> None:
        call = OneCall()
        await call.begin()
        writes = count_writes(call.line)
        for n in range(3):
            call.core.inject(OutputTransportMessageUrgentFrame({"event": "x", "n": n}))
        assert writes == []
        await asyncio.sleep(0)
        assert len(writes) == 1
        call.line.read()
        assert [json.loads(data)["n"] for _, data in call.line.said[-3:]] == [0, 1, 2]
        await call.end()

    run(main())


def test_what_a_slow_peer_has_not_got_can_still_be_taken_back() -> None:
    async def main() -> None:
        call = OneCall()
        await call.begin()
        writes = count_writes(call.line)
        call.line.protocol.pause_writing()
        call.go_on(2.0)
        assert writes == []
        assert len(call.core.outbox) >= 90
        assert call.core.blocked_since is not None
        call.core.interrupt()
        assert len(call.core.outbox) == 1  # the carrier's clear
        call.line.protocol.resume_writing()
        assert len(writes) == 1
        assert call.core.blocked_since is None
        call.line.read()
        assert json.loads(call.line.said[-1][1])["event"] == "clear"
        await call.end()

    run(main())


def test_a_peer_that_becomes_slow_in_mid_speech_gets_no_more_than_it_takes() -> None:
    async def main() -> None:
        call = OneCall()
        await call.begin()
        call.line.protocol.pause_writing()
        call.go_on(2.0)
        waiting = len(call.core.outbox)
        write = call.line.transport.write

        def full(data: Any) -> None:
            write(data)
            call.line.protocol.pause_writing()  # as a transport does, from within

        call.line.transport.write = full  # type: ignore[method-assign]
        call.line.protocol.resume_writing()
        assert len(call.core.outbox) == waiting - AT_ONCE
        await call.end()

    run(main())


def test_a_peer_that_reads_nothing_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.session.CLOSE_WAIT_S", 0.0)

    async def main() -> None:
        call = OneCall(limits=CallLimits(blocked_s=1.0))
        await call.begin()
        call.line.protocol.pause_writing()
        call.go_on(1.5)
        await asyncio.wait_for(_until(lambda: call.record is not None), 30)
        record = await call.end()
        assert (record.ended_by, record.reason) == ("caller", "peer-not-reading")
        assert record.counters["peer_blocked"]

    run(main())


def test_a_goodbye_counts_before_the_close_behind_it() -> None:
    async def main() -> None:
        call = OneCall()
        await call.begin()
        goodbye = b"".join(call.frame(message) for message in call.fake.hang_up(call.clock.now()))
        await call.line.send(goodbye + close_of(1000))
        record = await call.end()
        assert (record.ended_by, record.reason) == ("caller", "caller")
        assert record.counters["close_code"] == 1000

    run(main())


def test_a_call_that_ends_closes_its_socket_in_the_same_turn() -> None:
    async def main() -> None:
        call = OneCall()
        await call.begin()
        call.core.cancel("enough")
        call.go_on(0.04)
        call.line.read()
        assert call.line.closed_with == 1000
        await call.line.settle()
        assert call.record is not None, "the peer's half is the server's to wait for"
        assert call.record.reason == "enough"
        await call.line.send(close_of(1000))
        await call.end()

    run(main())


def test_a_text_that_is_none_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.session.CLOSE_WAIT_S", 0.0)

    async def main() -> None:
        call = OneCall()
        await call.begin()
        call.core.outbox.add(['{"event":"\ud83d"}'])
        call.go_on(0.02)
        await asyncio.wait_for(_until(lambda: call.record is not None), 30)
        record = await call.end()
        assert record.counters["send_failed"] == 1
        assert record.reason == "socket-lost"

    run(main())


def test_after_the_call_nothing_is_written() -> None:
    async def main() -> None:
        call = OneCall()
        await call.begin()
        await call.line.send(close_of(1000))
        writes = count_writes(call.line)
        call.core.outbox.add(["late"])
        call.session.wake()
        await call.line.settle()
        assert writes == []
        await call.end()

    run(main())


async def _until(done: Callable[[], object]) -> None:
    while not done():  # noqa: ASYNC110 - what is waited for is the loop's own timer
        await asyncio.sleep(0.001)
