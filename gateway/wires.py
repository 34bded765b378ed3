"""Between one call and its socket: messages to the core, and what its outbox holds to the peer.

Two ways. Any ASGI server has `receive` and `send`: a task reads, another writes. Where the server lets the socket be
taken over (gateway/lean), a message goes to the core in the turn of the loop in which it came, and what that brings
about leaves at the end of the same turn: no task, no queue, no event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Protocol

import structlog

from gateway.clock import Clock
from gateway.core import CallCore
from gateway.direct_wire import CloseSoon, DirectWire, nothing_to_close
from gateway.lean import EXTENSION
from serializers.base import Message

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.session")

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


class Wire(Protocol):
    """One call's way to its socket."""

    def wake(self) -> None:
        """There is something to send, or the call has changed its state."""

    def tick(self, now: float) -> None:
        """The clock's, while the call is carried: tick the core, and send what it has to say."""

    async def carry(self, core: CallCore, close_soon: CloseSoon) -> None:
        """Until the socket is closed, of which the core has been told.

        Args:
            close_soon: the socket is closed, or nothing more can be sent: the end may not come by itself.
        """

    def cut(self) -> None:
        """Nothing goes to the core any more, nor to the peer."""

    async def ended(self) -> None:
        """After `cut`: no task is left."""


def wire(scope: Mapping[str, Any], receive: Receive, send: Send, clock: Clock) -> Wire:
    """The cheaper of the ways that the server offers."""
    extension = scope.get("extensions", {}).get(EXTENSION)
    return AsgiWire(receive, send, clock) if extension is None else DirectWire(extension["take_over"], clock)


class AsgiWire:
    """A reader and a writer."""

    def __init__(self, receive: Receive, send: Send, clock: Clock) -> None:
        self._receive, self._send, self._clock = receive, send, clock
        self._awake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._core: CallCore | None = None  # that is carried
        self._close_soon: CloseSoon = nothing_to_close

    def wake(self) -> None:
        self._awake.set()

    def tick(self, now: float) -> None:
        core = self._core
        if core is None:
            return
        core.tick(now)
        if core.close_at is not None and now >= core.close_at:
            self._awake.set()
            self._close_soon()

    async def carry(self, core: CallCore, close_soon: CloseSoon) -> None:
        self._core, self._close_soon = core, close_soon
        self._writer = asyncio.get_running_loop().create_task(self._write(core, close_soon), name="call-writer")
        self._clock.add(self)
        try:
            await self._read(core)
        finally:
            self._clock.discard(self)

    async def _read(self, core: CallCore) -> None:
        receive = self._receive
        while True:
            event = await receive()
            if event["type"] == "websocket.receive":
                text = event.get("text")
                data: Message = event["bytes"] if text is None else text
                if (waits := self._take(core, data)) is not None:
                    await waits
            elif event["type"] == "websocket.disconnect":
                core.disconnected(event.get("code") or 1006, self._clock.now())
                return

    def _take(self, core: CallCore, data: Message) -> Awaitable[None] | None:
        """One message; None if there is nothing to wait for."""
        core.receive(data, self._clock.now())
        return None

    def cut(self) -> None:
        self._core, self._close_soon = None, nothing_to_close
        if self._writer is not None:
            self._writer.cancel()

    async def ended(self) -> None:
        if self._writer is not None:
            await asyncio.wait([self._writer])

    async def _write(self, core: CallCore, close_soon: CloseSoon) -> None:
        clock, awake = self._clock, self._awake
        try:
            while True:
                while (message := core.take()) is not None:
                    core.blocked_since = clock.now()
                    await self._put(message)
                    core.blocked_since = None
                if core.close_at is not None and clock.now() >= core.close_at:
                    await self._send({"type": "websocket.close", "code": core.close_code, "reason": ""})
                    return
                awake.clear()  # nothing may leave now: a tick, or whatever puts something in, says when
                await awake.wait()
        except asyncio.CancelledError:
            raise
        except Exception as exc:  # the server's own exceptions for a socket that is gone
            # The reader hears of it too, behind what the carrier has said before: its goodbye may be among that.
            core.counters["send_failed"] += 1
            log.debug("call.send_failed", problem=repr(exc))
            close_soon()

    async def _put(self, message: Message) -> None:
        await self._send({"type": "websocket.send", "text" if isinstance(message, str) else "bytes": message})
