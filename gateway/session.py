"""The shell of one call: its tasks, its tick and its end, and nothing left behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import structlog

from bots.lanes import LoopRuntime
from gateway.clock import Clock
from gateway.core import CallCore
from gateway.records import CallRecord
from gateway.store import CallKey
from gateway.wires import Wire

if TYPE_CHECKING:
    from gateway.snapshot import Snapshot

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.session")

CLOSE_WAIT_S = 3.0  # for the peer's half of the closing handshake
CLEANUP_S = 2.0  # for the clean-up of a bot's processors


class CallSession(LoopRuntime):
    """One accepted socket and its call. `run` returns when both are over and every task has ended."""

    def __init__(self, wire: Wire, clock: Clock) -> None:
        super().__init__()
        self._wire, self._clock = wire, clock
        self.now = clock.now  # type: ignore[method-assign]
        self.wake = wire.wake  # there is something to send, or the call has changed its state
        self._closing: asyncio.Timeout | None = None
        self.core: CallCore  # set by whoever builds the core, which needs this shell
        self.key: CallKey | None = None  # by which the call is known to others; set by the gateway
        self.snapshot: Snapshot | None = None  # the configuration with which it began, and which it keeps

    # ------------------------------------------------------------ what the core asks

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """A task of the bot's is over: what it raised ends this call and no other."""
        super()._ended(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.core.fail(f"task {task.get_name()} failed: {exc!r}", exc)

    def _close_soon(self) -> None:
        """The socket is closed, or is going to be: the end is waited for no longer than this."""
        if self._closing is not None and self._closing.when() is None:
            self._closing.reschedule(asyncio.get_running_loop().time() + CLOSE_WAIT_S)

    # ------------------------------------------------------------ the call

    async def run(self) -> CallRecord:
        """Carry the call until it is over and the socket is closed."""
        core, clock = self.core, self._clock
        try:
            async with asyncio.timeout(None) as self._closing:
                await self._wire.carry(core, self._close_soon)
        except TimeoutError:
            log.info("call.close_unanswered", call=core.info.call_id)
        finally:
            core.disconnected(1006, clock.now())
            self._wire.cut()
        await self._wire.ended()
        await self._clean_up()
        record = core.record(clock.now())
        core.leave()
        core.shell = _Afterwards()
        return record

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


class _Afterwards(LoopRuntime):
    """The shell of a call that is over: what a program still asks of it has no session to hold."""

    def wake(self) -> None:
        """Nothing is sent any more."""
