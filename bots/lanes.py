"""The event loop's side of a pipeline: tasks and timers, and the two lanes of an `async def` processor.

A processor that may wait has a system lane and a data lane, one coroutine at a time in each. A system frame gets its
first step by hand, inside the push: if the coroutine ends there, as it usually does, no task and no turn of the loop
was needed; if it waits, the lane's parked task goes on with it. A data or control frame always waits for its lane's
task. While a coroutine is stepped by hand, its lane's task is the current task, in its lane's context: what asks for
the current task (`asyncio.timeout`) must find the one that will go on.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import CancelledError
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from contextvars import copy_context
from types import CoroutineType
from typing import Any

from media.events import DONE, Handle
from media.flow import Entry, FrameDirection
from media.frames import (
    AudioRawFrame,
    CancelFrame,
    Frame,
    FrameProcessorResumeFrame,
    InterruptionFrame,
)
from media.processor import FrameProcessor

log = logging.getLogger(__name__)

QUEUE_LIMIT = 1000  # frames that one lane may hold before ordinary ones are dropped
CANCEL_LIMIT_S = 1.0  # what a cancelled coroutine may take to end before its lane goes on without it

# Documented for those who extend the loop: step a coroutine as if a task did.
_enter_task = asyncio.tasks._enter_task
_leave_task = asyncio.tasks._leave_task

Task = asyncio.Task[None]


class _Turn:
    """Awaited: one turn of the loop."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield


class _GoOn:
    """Awaited: the rest of a coroutine that was begun by hand and waits for `future`."""

    __slots__ = ("coro", "future", "thrown")

    def __init__(self, coro: Coroutine[Any, Any, Any], future: Any) -> None:
        self.coro = coro
        self.future = future
        self.thrown: BaseException | None = None  # a cancel that came before the task could take over

    def __await__(self) -> Generator[Any, Any, None]:
        coro = self.coro
        try:
            if self.thrown is not None:
                waits_for = coro.throw(self.thrown)
            else:
                waits_for = self.future
                if waits_for is not None:
                    waits_for._asyncio_future_blocking = True
            while True:
                try:
                    sent = yield waits_for
                except GeneratorExit:
                    coro.close()
                    raise
                except BaseException as exc:
                    waits_for = coro.throw(exc)
                else:
                    waits_for = coro.send(sent)
        except StopIteration:
            return


class _Stepper:
    """A task that is parked until a coroutine, begun by hand, has to wait."""

    __slots__ = ("context", "handed", "loop", "task", "wake")

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self.loop = loop
        self.handed: _GoOn | None = None
        self.wake: asyncio.Future[None] | None = None
        self.context = copy_context()
        # Begun here up to its first turn: a cancel before the loop's first step must land inside `run`, which knows
        # what to do with it, and not in a coroutine that has not begun.
        main = self.run()
        main.send(None)
        self.task: Task = loop.create_task(main, name=name, context=self.context)

    def step(self, coro: Coroutine[Any, Any, Any]) -> bool:
        """The first step of `coro` by hand. False: it waits, and the task goes on with it."""
        loop, task = self.loop, self.task
        outer = asyncio.current_task(loop)
        if outer is not None:
            _leave_task(loop, outer)
        _enter_task(loop, task)
        try:
            future = self.context.run(coro.send, None)
        except StopIteration:
            return True
        finally:
            _leave_task(loop, task)
            if outer is not None:
                _enter_task(loop, outer)
        if future is not None:
            # What a task does with a future that it is given: another task may await the same one before ours does.
            future._asyncio_future_blocking = False
        self.handed = _GoOn(coro, future)
        self.rouse()
        return False

    def rouse(self) -> None:
        if self.wake is not None and not self.wake.done():
            self.wake.set_result(None)

    async def park(self, wake: Awaitable[None]) -> None:
        """Wait to be roused. A cancel goes to the coroutine that was handed over, if there is one."""
        try:
            await wake
        except CancelledError as exc:
            if self.handed is not None:
                self.handed.thrown = exc
            elif not self.spared():
                raise
        finally:
            self.wake = None

    def until_roused(self) -> asyncio.Future[None]:
        self.wake = self.loop.create_future()
        return self.wake

    def spared(self) -> bool:
        """Whether a cancel that hits nothing is to be forgotten."""
        return False

    async def run(self) -> None:
        """Take one handed coroutine to its end."""
        await self.park(_Turn())
        while self.handed is None:
            await self.park(self.until_roused())
        await self.handed


class _Lane(_Stepper):
    """A queue, and a task that takes frames from it one at a time."""

    __slots__ = ("_give_up", "by_hand", "cancels", "closing", "frame", "lanes", "overflowed", "queue", "retired")

    def __init__(
        self,
        lanes: AsyncLanes,
        name: str,
        by_hand: bool,
        queue: deque[tuple[Frame, FrameDirection]],
    ) -> None:
        self.lanes = lanes
        self.by_hand = by_hand
        self.queue = queue
        self.frame: Frame | None = None  # in hand
        self.cancels = 0  # how often we cancelled the coroutine in hand
        self.closing = False
        self.retired = False  # the coroutine would not end: another lane has taken the queue over
        self.overflowed = 0
        self._give_up: asyncio.TimerHandle | None = None
        super().__init__(lanes.loop, name)

    @property
    def busy(self) -> bool:
        return self.frame is not None or bool(self.queue)

    # ------------------------------------------------------------ inside the push

    def put(self, frame: Frame, direction: FrameDirection) -> None:
        if self.frame is None and not self.queue and self.by_hand and self.lanes.may_begin(self):
            self.begin(frame, direction)
            if self.frame is None:
                self.lanes.ended(self)
            return
        if len(self.queue) >= QUEUE_LIMIT and _may_be_dropped(frame):
            self.overflowed += 1
            if self.overflowed == 1:
                log.warning("lane.overflow processor=%s frame=%s", self.lanes.processor, type(frame).__name__)
            return
        self.queue.append((frame, direction))
        if self.frame is None:
            self.rouse()

    def begin(self, frame: Frame, direction: FrameDirection) -> None:
        """Step a frame by hand; `self.frame` is None afterwards if it is done."""
        self.frame = frame
        try:
            result = self.lanes.process(frame, direction)
            if result is not None and result is not DONE:
                coro = result if type(result) is CoroutineType else _coroutine(result)
                if not self.step(coro):
                    return
        except CancelledError:
            pass  # the coroutine's own: it waited for something cancelled
        except Exception as exc:
            self.lanes.processor._frame_failed(exc, frame)
        except BaseException:
            self.frame = None
            raise
        self.frame = None

    # ------------------------------------------------------------ the task

    async def run(self) -> None:
        try:
            await self.work()
        except CancelledError:
            if not self.closing:
                raise  # from outside: the loop ends
            # A task that ends as cancelled keeps the traceback, and by it the lane.

    async def work(self) -> None:
        await self.park(_Turn())
        while self.handed is not None or not (self.retired or self.closing):
            if self.handed is not None:
                rest: Any = self.handed
                self.handed = None
                await self._finish(rest)
            elif self.frame is None and self.queue and self.lanes.may_begin(self):
                frame, direction = self.queue.popleft()
                self.frame = frame
                await self._finish(_Begin(self.lanes, frame, direction))
            else:
                await self.park(self.until_roused())

    async def _finish(self, rest: Awaitable[None]) -> None:
        """Wait for the frame in hand, and survive what interrupts it."""
        landed = False
        try:
            await rest
        except CancelledError:
            landed = True
            if self.is_over():
                raise
        except Exception as exc:
            self.lanes.processor._frame_failed(exc, self.frame or _NO_FRAME)
        if self.cancels and not landed:
            # It ended before the cancel could land, or swallowed it: else it would hit the next frame.
            try:
                await asyncio.sleep(0)
            except CancelledError:
                if self.is_over():
                    raise
        self.forget_cancels()
        self.frame = None
        if not (self.retired or self.closing):
            self.lanes.ended(self)

    def is_over(self) -> bool:
        """Whether a cancel means the lane itself, not the frame in hand."""
        return self.closing or self.task.cancelling() > self.cancels

    def spared(self) -> bool:
        # The coroutine was stepped by hand and ended before the cancel could land.
        if self.is_over() or not self.cancels:
            return False
        self.forget_cancels()
        return True

    def forget_cancels(self) -> None:
        if self.cancels:
            for _ in range(self.cancels):
                self.task.uncancel()
            self.cancels = 0
            self.lanes.cancel_ended(self.task)
        if self._give_up is not None:
            self._give_up.cancel()
            self._give_up = None

    def interrupt(self) -> None:
        """Cancel the coroutine in hand."""
        self.cancels += 1
        self.task.cancel()
        if self._give_up is None:
            self._give_up = self.loop.call_later(CANCEL_LIMIT_S, self._overdue)

    def _overdue(self) -> None:
        if self.cancels and not self.retired and not self.closing:
            self.retired = True
            self.lanes.replace(self)

    def close(self) -> None:
        self.closing = True
        self.queue.clear()
        if self._give_up is not None:
            self._give_up.cancel()
        self.task.cancel()


class _Begin:
    """Awaited: process one frame from its beginning. Costs nothing if the processor does not wait."""

    __slots__ = ("direction", "frame", "lanes")

    def __init__(self, lanes: AsyncLanes, frame: Frame, direction: FrameDirection) -> None:
        self.lanes, self.frame, self.direction = lanes, frame, direction

    def __await__(self) -> Generator[Any, Any, None]:
        result = self.lanes.process(self.frame, self.direction)
        if result is not None:
            yield from result.__await__()


class AsyncLanes:
    """The lanes of one processor."""

    def __init__(self, processor: FrameProcessor, loop: asyncio.AbstractEventLoop) -> None:
        self.processor = processor
        self.loop = loop
        self.process: Callable[[Frame, FrameDirection], Any] = processor.process_frame
        self.paused = False
        self.cancelled = False  # a CancelFrame has come: nothing behind it is taken
        self.dropped = 0  # pushed by coroutines that had been cancelled
        self._dying: set[Task] = set()  # tasks whose coroutine was cancelled and has not ended
        self._old: list[_Lane] = []
        self.system = _Lane(self, f"{processor}::system", True, deque())
        self.data = _Lane(self, f"{processor}::data", processor.enable_direct_mode, deque())

    # ------------------------------------------------------------ frames arrive

    def receive(self, frame: Frame, direction: FrameDirection) -> None:
        if self.cancelled:
            return
        if frame.is_system:
            arrive = _ARRIVALS[type(frame)]
            if arrive is not None:
                arrive(self)
            system = self.system
            if system.frame is None and not system.queue:
                system.begin(frame, direction)
                if system.frame is None and (system.queue or self.data.queue):
                    self.ended(system)
            else:
                system.put(frame, direction)
        else:
            if self.paused and not self.data.busy and isinstance(frame, FrameProcessorResumeFrame):
                self.paused = frame.processor is not self.processor
            self.data.put(frame, direction)

    def may_begin(self, lane: _Lane) -> bool:
        """The data lane begins nothing while it is paused, or while the system lane has something to do."""
        return lane is self.system or not (self.paused or self.system.busy)

    def ended(self, lane: _Lane) -> None:
        """`lane` has done a frame: what may begin now?"""
        if lane.by_hand and asyncio.current_task(self.loop) is not lane.task:
            while lane.frame is None and lane.queue and self.may_begin(lane):
                lane.begin(*lane.queue.popleft())
        if lane is self.system and not lane.busy and self.data.queue:
            self.data.rouse()

    # ------------------------------------------------------------ interruption

    def purge(self) -> None:
        queue = self.data.queue
        kept = [item for item in queue if item[0].is_uninterruptible]
        queue.clear()
        queue.extend(kept)

    def _interrupt(self) -> None:
        self.purge()
        self.resume()
        frame = self.data.frame
        if frame is not None and not frame.is_uninterruptible:
            self._cancel_in_hand()

    def _cancel(self) -> None:
        self.cancelled = True
        self.data.queue.clear()
        self.paused = False
        if self.data.frame is not None:
            self._cancel_in_hand()

    def _cancel_in_hand(self) -> None:
        self._dying.add(self.data.task)
        self.data.interrupt()
        self.processor._choose_links()

    def cancel_ended(self, task: Task) -> None:
        self._dying.discard(task)
        if not self.cancelled:
            self.processor._choose_links()

    def replace(self, lane: _Lane) -> None:
        """The coroutine in hand was cancelled and goes on all the same: a new task takes the queue."""
        log.warning(
            "lane.cancel_ignored processor=%s frame=%s: it goes on, but what it pushes is dropped",
            self.processor,
            type(lane.frame).__name__,
        )
        self._old.append(lane)
        self.data = _Lane(self, f"{self.processor}::data", lane.by_hand, lane.queue)
        self.data.rouse()

    def guard(self, link: Entry) -> Entry:
        if not self._dying:
            return link

        def guarded(frame: Frame, direction: FrameDirection) -> None:
            dying = asyncio.current_task(self.loop) in self._dying
            if dying and not frame.is_system and not frame.is_uninterruptible:
                self.dropped += 1
            else:
                link(frame, direction)

        return guarded

    # ------------------------------------------------------------ pause, end

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.data.rouse()

    @property
    def queued(self) -> int:
        """Frames that wait in both lanes."""
        return len(self.system.queue) + len(self.data.queue)

    @property
    def overflowed(self) -> int:
        """Frames dropped because a lane was full."""
        return self.system.overflowed + self.data.overflowed

    def close(self) -> Awaitable[None]:
        self.cancelled = True
        lanes = (self.system, self.data, *self._old)
        for lane in lanes:
            lane.close()
        return Ended([lane.task for lane in lanes], CANCEL_LIMIT_S)

    def release(self) -> None:
        self._old.clear()
        del self.system, self.data


def _may_be_dropped(frame: Frame) -> bool:
    """Of system frames only audio may be dropped from a full lane."""
    return isinstance(frame, AudioRawFrame) if frame.is_system else not frame.is_uninterruptible


def _coroutine(result: Any) -> Coroutine[Any, Any, Any]:
    return result if isinstance(result, Coroutine) else _awaiting(result)


async def _awaiting(result: Awaitable[Any]) -> None:
    await result


class _Arrivals(dict[type, Callable[[AsyncLanes], None] | None]):
    """What happens as a system frame arrives, before it is processed; a subclass is looked up once."""

    def __missing__(self, cls: type) -> Callable[[AsyncLanes], None] | None:
        found = next((self[base] for base in cls.__mro__[1:] if base in self), None)
        self[cls] = found
        return found


_ARRIVALS = _Arrivals({InterruptionFrame: AsyncLanes._interrupt, CancelFrame: AsyncLanes._cancel})


class Ended:
    """Awaited: until all tasks have ended, whatever their end, at most `timeout_s`. Need not be awaited."""

    __slots__ = ("tasks", "timeout_s")

    def __init__(self, tasks: Iterable[Any], timeout_s: float | None = None) -> None:
        self.tasks = list(tasks)
        self.timeout_s = timeout_s

    def __await__(self) -> Generator[Any, Any, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        current = asyncio.current_task()
        tasks = [task for task in self.tasks if task is not current and not task.done()]
        if tasks:
            await asyncio.wait(tasks, timeout=self.timeout_s)


_NO_FRAME = Frame()


class LoopRuntime:
    """Time and tasks of the running event loop. A subclass says what an interruption does, and how tasks are made."""

    def __init__(self) -> None:
        self.tasks: set[Task] = set()  # spawned and not ended
        self._spare: list[_Stepper] = []  # parked tasks for coroutines that are driven by hand
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def now(self) -> float:
        return self.loop.time()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self.loop.call_later(delay_s, callback)

    def interrupting(self, frame: InterruptionFrame) -> None:
        """Nothing to clear: there is no call."""

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> Task:
        """Run `coro` as a task; what it raises is logged."""
        return self._keep(self.loop.create_task(coro, name=name))

    def drive(self, coro: Coroutine[Any, Any, Any], name: str) -> Task | None:
        """The first step of `coro` by hand. None if it ended, else the task that goes on with it."""
        spare = self._spare.pop() if self._spare else _Stepper(self.loop, "spare")
        try:
            ended = spare.step(coro)
        except CancelledError:  # the coroutine's own: it waited for something cancelled
            ended = True
        except BaseException:
            self._spare.append(spare)
            raise
        if ended:
            self._spare.append(spare)
            return None
        spare.task.set_name(name)
        return self._keep(spare.task)

    def _keep(self, task: Task) -> Task:
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: Task) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("task.failed task=%s", task.get_name(), exc_info=task.exception())

    def settle(self, handles: Iterable[Handle]) -> Awaitable[None]:
        return Ended(handles)

    def end_task(self, handle: Handle, timeout_s: float | None) -> Awaitable[None]:
        handle.cancel()
        return Ended((handle,), timeout_s)

    def attach_async(self, processor: FrameProcessor) -> AsyncLanes:
        return AsyncLanes(processor, self.loop)

    def close(self) -> Awaitable[None]:
        """Cancel every task that is left."""
        tasks = [*self.tasks, *(spare.task for spare in self._spare)]
        self._spare.clear()
        for task in tasks:
            task.cancel()
        return Ended(tasks, CANCEL_LIMIT_S)
