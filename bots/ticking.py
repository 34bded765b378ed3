"""The runtime of a pipeline that a program drives itself: the loop's tasks and timers, ticks, and interrupters."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from bots.lanes import Ended, LoopRuntime
from media.events import Handle
from media.frames import InterruptionFrame

log = logging.getLogger(__name__)

TICK_S = 0.020


class _Registration:
    """A callback in a list, until it is cancelled."""

    __slots__ = ("_forget",)

    def __init__(self, forget: Callable[[], None]) -> None:
        self._forget: Callable[[], None] | None = forget

    def cancel(self) -> None:
        forget, self._forget = self._forget, None
        if forget is not None:
            forget()


class TaskRuntime(LoopRuntime):
    """A `media.flow.TaskRuntime`. With a task manager, tasks are made by its `create_task(coro, name)`."""

    def __init__(self, task_manager: Any = None) -> None:
        super().__init__()
        self._create_task = getattr(task_manager, "create_task", None)
        self._interrupters: list[Callable[[InterruptionFrame], None]] = []
        self._tickers: list[Callable[[float], None]] = []
        self._timer: Handle | None = None
        self._due = 0.0

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> Any:
        if self._create_task is None:
            return super().spawn(coro, name)
        return self._keep(self._create_task(coro, name))

    # ------------------------------------------------------------ interruptions

    def add_interrupter(self, callback: Callable[[InterruptionFrame], None]) -> Handle:
        self._interrupters.append(callback)
        return _Registration(lambda: self._interrupters.remove(callback))

    def interrupting(self, frame: InterruptionFrame) -> None:
        for interrupt in tuple(self._interrupters):
            try:
                interrupt(frame)
            except Exception:
                log.exception("runtime.interrupter_failed interrupter=%r", interrupt)

    # ------------------------------------------------------------ ticks

    def add_ticker(self, callback: Callable[[float], None]) -> Handle:
        self._tickers.append(callback)
        if self._timer is None:
            self._due = self.loop.time() + TICK_S
            self._timer = self.loop.call_at(self._due, self._tick)
        return _Registration(lambda: self._remove_ticker(callback))

    def _remove_ticker(self, callback: Callable[[float], None]) -> None:
        self._tickers.remove(callback)
        if not self._tickers and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        now = self.loop.time()
        # After a stall the missed ticks are not made up: whoever paces catches up by itself.
        self._due = self._due + TICK_S if now - self._due < TICK_S else now + TICK_S
        self._timer = self.loop.call_at(self._due, self._tick)
        for tick in tuple(self._tickers):
            try:
                tick(now)
            except Exception:
                log.exception("runtime.tick_failed ticker=%r", tick)

    # ------------------------------------------------------------ the end

    def stop_ticking(self) -> None:
        self._tickers.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def drop_spare(self) -> Awaitable[None]:
        """End the parked tasks that nothing runs in."""
        tasks = [spare.task for spare in self._spare]
        self._spare.clear()
        for task in tasks:
            task.cancel()
        return Ended(tasks)
