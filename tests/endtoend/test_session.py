"""One session at a hand-made socket: orders of events that real sockets bring about only now and then."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.clock import Clock
from gateway.core import CallCore
from gateway.ports import BotRoute
from gateway.records import CallRecord
from gateway.registry import serializer_class
from gateway.session import CallSession
from gateway.simulator.base import FakeCarrier, fake_carrier
from gateway.wires import AsgiWire
from serializers.base import WireOptions
from tests.endtoend import actors
from tests.endtoend.served import run, until


class HandMade:
    """A socket whose server forgets to send once it is told to."""

    def __init__(self, name: str) -> None:
        self.fake: FakeCarrier = fake_carrier(name)()
        self.events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.broken = False
        self.sent = 0
        clock = Clock()
        self.clock = clock
        self.session = CallSession(AsgiWire(self.events.get, self.send, clock), clock)
        self.session.core = CallCore(
            serializer_class(name).for_call(WireOptions()),
            self.session,
            route=lambda info: BotRoute("bot", actors.saying(30.0)),
            now=clock.now(),
        )

    async def send(self, event: Any) -> None:
        if self.broken:
            raise ConnectionError("the peer has closed")
        self.sent += 1

    def says(self, messages: Any) -> None:
        for message in messages:
            kind = "bytes" if isinstance(message, bytes) else "text"
            self.events.put_nowait({"type": "websocket.receive", kind: message})

    async def speaking(self) -> asyncio.Task[CallRecord]:
        """The call is up, and the bot speaks."""
        self.clock.start()
        call = asyncio.create_task(self.session.run())
        self.says(self.fake.opening(self.clock.now()))
        await until(lambda: self.sent >= 3)
        return call


def test_a_goodbye_that_was_not_read_yet_counts_before_the_socket_that_is_gone() -> None:
    """The server learns of the close before we have read the carrier's `stop`: then sending fails first."""

    async def main() -> CallRecord:
        socket = HandMade("twilio")
        call = await socket.speaking()
        socket.broken = True
        await asyncio.sleep(0.1)  # the writer has run into it
        socket.says(socket.fake.hang_up(socket.clock.now()))
        socket.events.put_nowait({"type": "websocket.disconnect", "code": 1000})
        record = await call
        socket.clock.stop()
        return record

    record = run(main())
    assert record.counters["send_failed"] == 1
    assert (record.ended_by, record.reason) == ("caller", "caller")


def test_a_server_that_only_fails_to_send_ends_the_call_all_the_same(monkeypatch: Any) -> None:
    monkeypatch.setattr("gateway.session.CLOSE_WAIT_S", 0.2)

    async def main() -> CallRecord:
        socket = HandMade("twilio")
        call = await socket.speaking()
        socket.broken = True
        record = await asyncio.wait_for(call, 60)
        socket.clock.stop()
        return record

    assert run(main()).reason == "socket-lost"
