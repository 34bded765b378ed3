"""The shell of one call: the socket, a reader and a writer, and nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

import structlog

from gateway.clock import Clock
from gateway.core import CallCore, CallRecord
from serializers.base import Message

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.session")

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

CLOSE_WAIT_S = 3.0  # for the peer's half of the closing handshake
TASKS_WAIT_S = 2.0  # for a bot's tasks after they were cancelled


class CallSession:
    """One accepted socket and its call. `run` returns when both are over and every task has ended."""

    def __init__(self, receive: Receive, send: Send, clock: Clock) -> None:
        self._receive, self._send, self._clock = receive, send, clock
        self._awake = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Timeout | None = None
        self.core: CallCore  # set by whoever builds the core, which needs this shell

    # ------------------------------------------------------------ what the core asks

    def now(self) -> float:
        return self._clock.now()

    def wake(self) -> None:
        self._awake.set()

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """A task of the bot's: what it raises ends this call and no other."""
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._reaped)
        return task

    def _reaped(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.core.fail(f"task {task.get_name()} failed: {exc!r}", exc)

    # ------------------------------------------------------------ the clock

    def tick(self, now: float) -> None:
        core = self.core
        core.tick(now)
        if core.close_at is not None and now >= core.close_at:
            self._awake.set()
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
            for task in self._tasks:
                task.cancel()
        await self._reap(writer)
        if core.pipeline is not None:
            await self._close_pipeline()
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
                    await send(_outgoing(message))
                    core.blocked_since = None
                if core.close_at is not None and clock.now() >= core.close_at:
                    await send({"type": "websocket.close", "code": core.close_code, "reason": ""})
                    return
                awake.clear()
                if not core.outbox:
                    await awake.wait()
        except asyncio.CancelledError:
            raise
        except Exception as exc:  # the server's own exceptions for a socket that is gone
            core.counters["send_failed"] += 1
            log.debug("call.send_failed", problem=repr(exc))
            core.disconnected(1006, clock.now())

    async def _reap(self, writer: asyncio.Task[None]) -> None:
        left = {writer, *self._tasks}
        _, pending = await asyncio.wait(left, timeout=TASKS_WAIT_S)
        for task in pending:
            log.error("call.task_will_not_end", task=task.get_name(), call=self.core.info.call_id)

    async def _close_pipeline(self) -> None:
        try:
            async with asyncio.timeout(TASKS_WAIT_S):
                for leftover in self.core.pipeline.close():  # type: ignore[union-attr]
                    await leftover
        except TimeoutError:
            log.error("call.cleanup_too_slow", call=self.core.info.call_id)
        except Exception:
            log.exception("call.cleanup_failed", call=self.core.info.call_id)


def _outgoing(message: Message) -> Event:
    if isinstance(message, str):
        return {"type": "websocket.send", "text": message}
    return {"type": "websocket.send", "bytes": message}
