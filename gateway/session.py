"""The shell of one call: the socket, a reader and a writer, and nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import structlog

from bots.lanes import LoopRuntime
from gateway.clock import Clock
from gateway.core import CallCore
from gateway.records import CallRecord
from gateway.store import CallKey
from serializers.base import Message

if TYPE_CHECKING:
    from gateway.snapshot import Snapshot

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.session")

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

CLOSE_WAIT_S = 3.0  # for the peer's half of the closing handshake
CLEANUP_S = 2.0  # for the clean-up of a bot's processors


class CallSession(LoopRuntime):
    """One accepted socket and its call. `run` returns when both are over and every task has ended."""

    def __init__(self, receive: Receive, send: Send, clock: Clock) -> None:
        super().__init__()
        self._receive, self._send, self._clock = receive, send, clock
        self._awake = asyncio.Event()
        self._closing: asyncio.Timeout | None = None
        self.core: CallCore  # set by whoever builds the core, which needs this shell
        self.key: CallKey | None = None  # by which the call is known to others; set by the gateway
        self.snapshot: Snapshot | None = None  # the configuration with which it began, and which it keeps

    # ------------------------------------------------------------ what the core asks

    def now(self) -> float:
        return self._clock.now()

    def wake(self) -> None:
        self._awake.set()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """A task of the bot's is over: what it raised ends this call and no other."""
        super()._ended(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.core.fail(f"task {task.get_name()} failed: {exc!r}", exc)

    # ------------------------------------------------------------ the clock

    def tick(self, now: float) -> None:
        core = self.core
        core.tick(now)
        if core.close_at is not None and now >= core.close_at:
            self._awake.set()
            self._close_soon()

    def _close_soon(self) -> None:
        """The socket is closed, or is going to be: the reader waits no longer than this for the end."""
        if self._closing is not None and self._closing.when() is None:
            self._closing.reschedule(asyncio.get_running_loop().time() + CLOSE_WAIT_S)

    # ------------------------------------------------------------ the call

    async def run(self) -> CallRecord:
        """Carry the call until it is over and the socket is closed."""
        core, clock = self.core, self._clock
        writer = asyncio.get_running_loop().create_task(self._write(), name="call-writer")
        clock.add(self)
        try:
            async with asyncio.timeout(None) as self._closing:
                await self._read()
        except TimeoutError:
            log.info("call.close_unanswered", call=core.info.call_id)
        finally:
            clock.discard(self)
            core.disconnected(1006, clock.now())
            writer.cancel()
        await asyncio.wait([writer])
        await self._clean_up()
        return core.record(clock.now())

    async def _read(self) -> None:
        core, clock, receive = self.core, self._clock, self._receive
        while True:
            event = await receive()
            if event["type"] == "websocket.receive":
                data = event.get("text")
                core.receive(event["bytes"] if data is None else data, clock.now())
            elif event["type"] == "websocket.disconnect":
                core.disconnected(event.get("code", 1006), clock.now())
                return

    async def _write(self) -> None:
        core, clock, send, awake = self.core, self._clock, self._send, self._awake
        try:
            while True:
                while (message := core.take()) is not None:
                    core.blocked_since = clock.now()
                    await self._put(message)
                    core.blocked_since = None
                if core.close_at is not None and clock.now() >= core.close_at:
                    await send({"type": "websocket.close", "code": core.close_code, "reason": ""})
                    return
                awake.clear()  # nothing may leave now: a tick, or whatever puts something in, says when
                await awake.wait()
        except asyncio.CancelledError:
            raise
        except Exception as exc:  # the server's own exceptions for a socket that is gone
            # The reader hears of it too, behind what the carrier has said before: its goodbye may be among that.
            core.counters["send_failed"] += 1
            log.debug("call.send_failed", problem=repr(exc))
            self._close_soon()

    async def _put(self, message: Message) -> None:
        await self._send(_outgoing(message))

    async def _clean_up(self) -> None:
        """Processors first, for their clean-up may need their tasks; then whatever task is left."""
        core = self.core
        if core.pipeline is not None:
            try:
                async with asyncio.timeout(CLEANUP_S):
                    await core.pipeline.close()
            except TimeoutError:
                log.error("call.cleanup_too_slow", call=core.info.call_id, limit_s=CLEANUP_S)
            except Exception:
                log.exception("call.cleanup_failed", call=core.info.call_id)
        await self.close()
        for task in self.tasks:
            log.error("call.task_will_not_end", call=core.info.call_id, task=task.get_name())


def _outgoing(message: Message) -> Event:
    if isinstance(message, str):
        return {"type": "websocket.send", "text": message}
    return {"type": "websocket.send", "bytes": message}
