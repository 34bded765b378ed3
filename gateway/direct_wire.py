"""Between one call and a socket that was taken over (gateway/lean): no task, no queue, no event.

Apart from the other ways (gateway/wires.py), so that it can be compiled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from gateway.clock import Clock
from gateway.core import CallCore
from gateway.lean import DirectSocket, Taker
from serializers.base import Message

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.session")

TakeOver = Callable[[Taker], DirectSocket]
CloseSoon = Callable[[], None]

AT_ONCE: Final = 16  # messages in one write: more would be out of reach of an interruption, if the peer reads slowly


def nothing_to_close() -> None:
    """The CloseSoon of a wire that carries no call."""


class DirectWire:
    """A `Wire` (gateway/wires.py): a message goes to the core in the turn of the loop in which it came, and what that
    brings about leaves at the end of the same turn."""

    def __init__(self, take_over: TakeOver, clock: Clock) -> None:
        self._take_over, self._clock = take_over, clock
        self._close_soon: CloseSoon = nothing_to_close
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

    def tick(self, now: float) -> None:
        core = self._core
        if core is None:
            return
        self._is_due = True
        try:
            core.tick(now)
        finally:
            if core.outbox.waiting or core.close_at is not None:
                self._say()
            else:
                self._is_due = False
        if core.close_at is not None and now >= core.close_at:
            self._close_soon()

    async def carry(self, core: CallCore, close_soon: CloseSoon) -> None:
        self._core, self._close_soon = core, close_soon
        self._socket = self._take_over(self)
        self._socket.read_in(self._clock.rounds)
        self._say()
        self._clock.add(self)
        try:
            await self._over
        finally:
            self._clock.discard(self)

    def cut(self) -> None:
        self._core, self._socket, self._close_soon = None, None, nothing_to_close
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
