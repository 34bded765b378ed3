"""Runtimes for tests of the pipeline: one on virtual time without a loop, one on the loop that runs."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from bots.lanes import LoopRuntime
from media.events import DONE, drive_without_loop
from media.frames import Frame, InterruptionFrame, StartFrame
from media.pipeline import Pipeline
from media.processor import FrameDirection, FrameProcessor, Lanes


class Timer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class VirtualRuntime:
    """No loop: time moves by `advance`, and a coroutine must not wait."""

    def __init__(self) -> None:
        self.time = 100.0
        self.interruptions: list[InterruptionFrame] = []
        self._timers: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()

    def now(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        end = self.time + seconds
        while self._timers and self._timers[0][0] <= end:
            self.time, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                timer.callback()
        self.time = end

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._timers, (self.time + delay_s, next(self._count), timer))
        return timer

    def interrupting(self, frame: InterruptionFrame) -> None:
        self.interruptions.append(frame)

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> Any:
        drive_without_loop(coro, name)
        return Timer(lambda: None)

    def drive(self, coro: Coroutine[Any, Any, Any], name: str) -> None:
        drive_without_loop(coro, name)

    def settle(self, handles: Iterable[Any]) -> Awaitable[None]:
        return DONE

    def end_task(self, handle: Any, timeout_s: float | None) -> Awaitable[None]:
        handle.cancel()
        return DONE

    def attach_async(self, processor: FrameProcessor) -> Lanes:
        raise RuntimeError("no loop")


class LiveRuntime(LoopRuntime):
    """The running loop; interruptions are noted."""

    def __init__(self) -> None:
        super().__init__()
        self.interruptions: list[InterruptionFrame] = []

    def interrupting(self, frame: InterruptionFrame) -> None:
        self.interruptions.append(frame)


class Rig:
    """A bound pipeline and what came out of its ends."""

    def __init__(self, processors: Sequence[FrameProcessor], runtime: Any = None) -> None:
        self.runtime: Any = runtime or VirtualRuntime()
        self.sunk: list[Frame] = []  # reached the bottom
        self.risen: list[Frame] = []  # reached the top
        self.pipeline = Pipeline(processors)
        self.bound = self.pipeline.bind(self.runtime, on_sink=self.sunk.append, on_source=self.risen.append)

    def start(self) -> Rig:
        self.pipeline.push(StartFrame())
        self.sunk.clear()
        return self

    def push(self, frame: Frame, direction: FrameDirection = FrameDirection.DOWNSTREAM) -> None:
        self.pipeline.push(frame, direction)

    def down(self) -> list[str]:
        return labels(self.sunk)

    def up(self) -> list[str]:
        return labels(self.risen)


def started(*processors: FrameProcessor) -> Rig:
    """A started pipeline on virtual time."""
    return Rig(processors).start()


@asynccontextmanager
async def live(*processors: FrameProcessor) -> AsyncIterator[Rig]:
    """A started pipeline on the loop; nothing of it is left behind."""
    rig = Rig(processors, LiveRuntime())
    await rig.bound
    rig.pipeline.push(StartFrame())
    await turns()
    rig.sunk.clear()
    try:
        yield rig
    finally:
        await rig.pipeline.close()
        await rig.runtime.close()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, left


async def turns(count: int = 10) -> None:
    """Let the loop take a few turns."""
    for _ in range(count):
        await asyncio.sleep(0)


def labels(frames: Iterable[Frame]) -> list[str]:
    """What a frame says: its text, or the name of its class."""
    return [str(getattr(frame, "text", None) or type(frame).__name__) for frame in frames]


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test on a loop of its own; one that hangs fails, and one on a slow and busy machine does not."""
    asyncio.run(_limited(test, 100.0))


def run_on_virtual_time(test: Coroutine[Any, Any, None], limit_s: float = 10.0) -> None:
    """As `run`, with a clock that jumps: what sleeps is over at once, and no machine is too slow for it."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(_limited(test, limit_s))


async def _limited(test: Coroutine[Any, Any, None], limit_s: float) -> None:
    async with asyncio.timeout(limit_s):
        await test


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Its time stands still while anything can be done, and goes to the next timer when nothing can.

    It waits for threads that it has started itself. What comes from elsewhere (sockets, other threads) it takes, but
    does not wait for as long as there is a timer.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0
        self._threads = 0
        self._look = self._selector.select  # type: ignore[attr-defined]
        self._selector.select = self._wait  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._now

    def _wait(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0 or self._threads:
            return self._look(timeout)
        found = self._look(0)
        if not found:
            self._now += timeout
        return found

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        future = super().run_in_executor(executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: Any) -> None:
        self._threads -= 1

    async def shutdown_default_executor(self, *args: Any) -> None:
        self._threads += 1  # it waits for them in one more
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._threads -= 1


class Pass(FrameProcessor):
    """Passes everything on, and remembers it."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name=name)
        self.seen: list[Frame] = []

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.seen.append(frame)
        self.push_frame(frame, direction)


class AsyncPass(FrameProcessor):
    """The same with an `async def`."""

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.seen: list[Frame] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        self.seen.append(frame)
        await self.push_frame(frame, direction)


class Call(FrameProcessor):
    """Calls a function with itself and each frame but StartFrame, then passes the frame on."""

    def __init__(self, function: Callable[[FrameProcessor, Frame], Any]) -> None:
        super().__init__()
        self.function = function

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if not isinstance(frame, StartFrame):
            self.function(self, frame)
        self.push_frame(frame, direction)
