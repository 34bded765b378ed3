"""What the processors of one pipeline share: directions, the runtime they live on, and the push in progress."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from media.events import Drives, Handle
from media.frames import ErrorFrame, Frame, InterruptionFrame

if TYPE_CHECKING:
    from media.processor import FrameProcessor

log = logging.getLogger(__name__)

BUDGET_S = 0.005  # what one push may take before it is counted and logged
TIMED_S = 60.0  # how long processors are timed after a push over the budget, to name the culprit of the next one
QUIET_S = 10.0  # between a culprit's name and the next line: a crowded machine makes every processor look slow


class FrameDirection(Enum):
    DOWNSTREAM = 1  # from input to output
    UPSTREAM = 2


DOWNSTREAM, UPSTREAM = FrameDirection.DOWNSTREAM, FrameDirection.UPSTREAM

Entry = Callable[[Frame, FrameDirection], Any]
Tap = Callable[["FrameProcessor", "FrameProcessor", FrameDirection, Entry], Entry]


# ---------------------------------------------------------------- what a pipeline is given to live on


class Lanes(Protocol):
    """The two queues and tasks of an `async def` processor: system frames, and data with control."""

    process: Callable[[Frame, FrameDirection], Any]  # what takes a frame, in either lane

    def receive(self, frame: Frame, direction: FrameDirection) -> None: ...
    def purge(self) -> None:
        """Drop what waits in the data lane, save uninterruptible frames; the frame in hand goes on."""
        ...

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def guard(self, link: Entry) -> Entry:
        """`link` as long as no cancelled coroutine runs; else one that refuses what that coroutine pushes."""
        ...

    def close(self) -> Awaitable[None]:
        """Cancel both tasks; await it for their end."""
        ...

    def release(self) -> None:
        """After `close`: forget what would keep the processor alive."""
        ...


class Runtime(Drives, Protocol):
    """Time and tasks, as the call core, a PipelineTask or a test provides them."""

    def now(self) -> float: ...
    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Handle: ...
    def interrupting(self, frame: InterruptionFrame) -> None:
        """Called once for each interruption (for both frames of a broadcast together), before it travels."""
        ...

    # From `Drives`: spawn(coro, name) gives a task; drive(coro, name) runs it to its first wait and gives None or the
    # task that goes on; settle(handles) gives what waits for the end of all of them, however they end.

    def end_task(self, handle: Handle, timeout_s: float | None) -> Awaitable[None]:
        """Cancel and wait until it has ended, at most `timeout_s`."""
        ...

    def attach_async(self, processor: FrameProcessor) -> Lanes: ...


class TaskRuntime(Runtime, Protocol):
    """What the runtime of a PipelineTask offers on top, for processors that end in something which must be driven: a
    transport's call. A call core does that work itself and offers neither, so look for them with `getattr`. What
    comes back takes the callback away again by `cancel()`.
    """

    def add_interrupter(self, callback: Callable[[InterruptionFrame], None]) -> Handle:
        """Call `callback` for each interruption, before its frame travels."""
        ...

    def add_ticker(self, callback: Callable[[float], None]) -> Handle:
        """Call `callback(now)` every 20 ms, between pushes. Nothing ticks while nobody asks for it."""
        ...


@dataclass(eq=False)
class FrameProcessorSetup:
    """What `setup` is given. Without a runtime, `task_manager.runtime(clock)` gives one."""

    clock: Any = None
    task_manager: Any = None
    observer: Any = None
    runtime: Runtime | None = None


class Flow:
    """What the processors of one pipeline share: whether a push is in progress, and what waits for its end.

    `watch(frame)` is called after each outermost push; `probe(processor, frame, direction)` before each frame that is
    processed; `tap(source, destination, direction, entry)` gives the entry that a link shall lead to. They cost
    nothing unless set; after setting or taking away a probe or a tap, call `relink()`. Those who come and go while the
    pipeline runs have taps of their own: `add_tap`, `remove_tap`.
    """

    def __init__(self, runtime: Runtime | None) -> None:
        self.runtime = runtime
        self.busy = runtime is None  # nobody may begin a push without a runtime
        self.waiting: deque[tuple[Callable[[Frame], None], Frame]] = deque()
        self.watch: Callable[[Frame], None] | None = None
        self.tap: Tap | None = None
        self.taps: tuple[Tap, ...] = ()  # they see a frame before `tap` does, the last one first
        self.probe: Callable[[FrameProcessor, Frame, FrameDirection], None] | None = None
        self.stray_error: Callable[[ErrorFrame], None] | None = None  # an error of a processor with closed links
        self.processors: list[FrameProcessor] = []
        self.budget_s = BUDGET_S
        self.overruns = 0  # pushes over the budget
        self._timed_until = 0.0  # processors are timed until then
        self._quiet_until = 0.0
        self._nested_s = 0.0
        self._slowest_s = 0.0
        self._slowest: FrameProcessor | None = None

    def enter(self, owner: FrameProcessor, entry: Entry, frame: Frame, direction: FrameDirection) -> None:
        """The outermost push: into `owner` by `entry`, then whatever waited for its end."""
        self.busy = True
        began = perf_counter()
        try:
            try:
                entry(frame, direction)
            except Exception as exc:
                owner._frame_failed(exc, frame)
            waiting = self.waiting
            while waiting:
                push, waiter = waiting.popleft()
                push(waiter)
                del push, waiter  # an error that is told must not be held by the frames of its own traceback
        finally:
            self.busy = False
            ended = perf_counter()
            if ended - began > self.budget_s:
                self._overrun(owner, frame, ended - began, ended)
            elif self._timed_until and ended > self._timed_until:
                self._timed_until = 0.0
                self.relink()
        if self.watch is not None:
            self.watch(frame)

    def add_tap(self, tap: Tap) -> None:
        """`tap` sees every link from now on."""
        self.taps = (*self.taps, tap)
        self.relink()

    def remove_tap(self, tap: Tap) -> None:
        """`tap` sees nothing any more; one that is unknown is ignored."""
        self.taps = tuple(each for each in self.taps if each != tap)
        self.relink()

    def relink(self) -> None:
        """Work out all links anew: a tap or a probe came or went."""
        for processor in self.processors:
            processor._choose_entry()
            processor._choose_links()

    # ------------------------------------------------------------ who was slow

    def timed(self, owner: FrameProcessor, entry: Entry) -> Entry:
        """`entry`, with the time that `owner` itself takes measured while the flow looks for a culprit."""
        if not self._timed_until:
            return entry

        def timed(frame: Frame, direction: FrameDirection) -> None:
            above, self._nested_s = self._nested_s, 0.0
            began = perf_counter()
            try:
                entry(frame, direction)
            finally:
                took = perf_counter() - began
                own = took - self._nested_s
                self._nested_s = above + took
                if own > self._slowest_s:
                    self._slowest_s, self._slowest = own, owner

        return timed

    def _overrun(self, owner: FrameProcessor, frame: Frame, took: float, now: float) -> None:
        """Count it. The first one turns timing on, the next one names its culprit; then ten seconds of silence."""
        self.overruns += 1
        if now < self._quiet_until:
            return
        timing = bool(self._timed_until)
        log.warning(
            "pipeline.slow_push processor=%s own_ms=%.1f push_ms=%.1f frame=%s entered=%s overruns=%d",
            str(self._slowest) if timing and self._slowest is not None else "(the next one will be named)",
            self._slowest_s * 1e3,
            took * 1e3,
            type(frame).__name__,
            str(owner),  # a handler that keeps what it is given shall not keep the call
            self.overruns,
        )
        self._slowest_s, self._slowest = 0.0, None
        if timing:
            self._timed_until, self._quiet_until = 0.0, now + QUIET_S
        else:
            self._timed_until = now + TIMED_S
        self.relink()


UNBOUND = Flow(None)  # of a processor that is in no pipeline yet

ANNOUNCED = 0  # key of a frame's marks; the others are the numbers of parallel pipelines


def push_audio(processor: FrameProcessor, frame: Frame) -> None:
    """What `processor.push_frame(frame)` does with a frame that is not announced: the short way of what comes 50 times
    a second.
    """
    flow = processor._flow
    if flow.busy:
        processor.push_frame(frame)
    else:
        flow.enter(processor._wiring.next or processor, processor._downlink, frame, DOWNSTREAM)


def marks_of(frame: Frame) -> dict[int, int]:
    """The marks that pipelines leave on a frame."""
    try:
        return frame._stamp  # type: ignore[no-any-return]
    except AttributeError:
        marks: dict[int, int] = {}
        frame._stamp = marks
        return marks
