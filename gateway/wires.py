"""Between one call and its socket: messages to the core, and what its outbox holds to the peer.

Two ways. Any ASGI server has `receive` and `send`: a task reads, another writes. Where the server lets the socket be
taken over (gateway/lean), a message goes to the core in the turn of the loop in which it came, and what that brings
about leaves at the end of the same turn: no task, no queue, no event.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final, Protocol

import structlog

from gateway.clock import Clock
from gateway.core import CallCore
from gateway.lean import EXTENSION, DirectSocket, Taker
from serializers.base import Message

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.session")

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
TakeOver = Callable[[Taker], DirectSocket]
CloseSoon = Callable[[], None]

AT_ONCE: Final = 16  # messages in one write: more would be out of reach of an interruption, if the peer reads slowly


class Wire(Protocol):
    """One call's way to its socket."""

    def wake(self) -> None:
        """There is something to send, or the call has changed its state."""

    def tick(self, core: CallCore, now: float) -> None:
        """Tick the core, and send what it has to say."""

    async def carry(self, core: CallCore, close_soon: CloseSoon) -> None:
        """Until the socket is closed, of which the core has been told.

        Args:
            close_soon: nothing more can be sent, so that the end may not come by itself.
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

    def wake(self) -> None:
        self._awake.set()

    def tick(self, core: CallCore, now: float) -> None:
        core.tick(now)
        if core.close_at is not None and now >= core.close_at:
            self._awake.set()

    async def carry(self, core: CallCore, close_soon: CloseSoon) -> None:
        self._writer = asyncio.get_running_loop().create_task(self._write(core, close_soon), name="call-writer")
        await self._read(core)

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


class DirectWire:
    """A socket that was taken over."""

    def __init__(self, take_over: TakeOver, clock: Clock) -> None:
        self._take_over, self._clock = take_over, clock
        self._close_soon: CloseSoon = _nothing
        self._loop = asyncio.get_running_loop()
        self._core: CallCore | None = None
        self._socket: DirectSocket | None = None
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._is_due = False  # `_say` is going to be called in any case

    def wake(self) -> None:
        """From outside a message or a tick: at the end of this turn."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._say)

    def tick(self, core: CallCore, now: float) -> None:
        self._is_due = True
        try:
            core.tick(now)
        finally:
            if core.outbox.waiting or core.close_at is not None:
                self._say()
            else:
                self._is_due = False

    async def carry(self, core: CallCore, close_soon: CloseSoon) -> None:
        self._core, self._close_soon = core, close_soon
        self._socket = self._take_over(self)
        self._say()
        await self._over

    def cut(self) -> None:
        self._core, self._socket, self._close_soon = None, None, _nothing
        self._over.cancel()

    async def ended(self) -> None:
        pass

    # ------------------------------------------------------------ what the socket tells

    def on_message(self, data: Message) -> None:
        core = self._core
        if core is None:
            return
        self._is_due = True
        try:
            core.receive(data, self._clock.now())
        except Exception as exc:
            self._end(exc)
        self._say()

    def on_writable(self) -> None:
        if self._core is not None:
            self._core.blocked_since = None
        self._say()

    def on_close(self, code: int) -> None:
        self._over_with(code)

    def _over_with(self, code: int) -> None:
        self._socket = None
        try:
            if self._core is not None:
                self._core.disconnected(code, self._clock.now())
        finally:
            self._end()

    def _end(self, exc: Exception | None = None) -> None:
        if self._over.done():
            return
        if exc is None:
            self._over.set_result(None)
        else:
            self._over.set_exception(exc)

    # ------------------------------------------------------------ what the call says

    def _say(self) -> None:
        """Everything that may leave now, as far as the peer reads."""
        self._is_due = False
        core, socket = self._core, self._socket
        if core is None or socket is None:
            return
        try:
            while socket.is_writable:
                messages = core.take_some(AT_ONCE)
                if messages:
                    socket.send(*messages)
                if len(messages) < AT_ONCE:
                    break
        except Exception as exc:  # a text that is none
            core.counters["send_failed"] += 1
            log.debug("call.send_failed", problem=repr(exc))
            self._socket = None
            self._close_soon()
            return
        if not socket.is_writable:
            if core.blocked_since is None and core.outbox:
                core.blocked_since = self._clock.now()
        elif core.close_at is not None and self._clock.now() >= core.close_at:
            socket.close(core.close_code)
            self._over_with(core.close_code)


def _nothing() -> None:
    pass
