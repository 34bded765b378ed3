"""The processor: what a pipeline is made of.

A push is a call. Downstream it goes straight into the next processor; upstream it waits in a deque until the push in
progress has unwound, so nobody is re-entered from below. `def process_frame` runs inline; `async def process_frame`
gets two lanes of its own from the runtime (see `Lanes`). docs/pipeline.md has the rules.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from copy import copy
from typing import Any, Self, TypeVar

from media.clock import Clock
from media.events import DONE, BaseObject, Each, Event, Finished, Handle, Handler, MaybeAwaitable, is_async
from media.flow import (
    ANNOUNCED,
    DOWNSTREAM,
    UNBOUND,
    UPSTREAM,
    Entry,
    Flow,
    FrameDirection,
    FrameProcessorSetup,
    Lanes,
    Runtime,
    marks_of,
)
from media.frames import (
    ErrorFrame,
    Frame,
    FrameProcessorPauseFrame,
    FrameProcessorPauseUrgentFrame,
    FrameProcessorResumeFrame,
    FrameProcessorResumeUrgentFrame,
    InterruptionFrame,
    StartFrame,
)

__all__ = [
    "DONE",
    "DOWNSTREAM",
    "UPSTREAM",
    "BaseObject",
    "Clock",
    "Finished",
    "Flow",
    "FrameDirection",
    "FrameProcessor",
    "FrameProcessorSetup",
    "Handle",
    "Lanes",
    "MaybeAwaitable",
    "Runtime",
    "TimerHandle",
]

log = logging.getLogger(__name__)

FrameT = TypeVar("FrameT", bound=Frame)
TimerHandle = Handle


class _Wiring:
    """What a processor keeps besides what each push reads."""

    __slots__ = (
        "direct_mode",
        "drives_pushes",
        "entry",
        "expected",
        "held",
        "lanes",
        "may_wait",
        "metrics",
        "next",
        "open",
        "paused",
        "previous",
        "replaying",
        "setup",
        "start",
    )

    def __init__(self, entry: Entry) -> None:
        self.may_wait = False  # `process_frame` gives something to await though it is not `async def`
        self.entry = entry  # where frames for this processor go
        self.previous: FrameProcessor | None = None
        self.next: FrameProcessor | None = None
        self.open = False  # StartFrame has been here: links lead to the neighbours
        self.lanes: Lanes | None = None
        self.drives_pushes = False  # `push_frame` is the user's coroutine function, driven by hand
        self.held: deque[tuple[Frame, FrameDirection]] | None = None  # of a plain processor that is paused
        self.paused = False
        self.replaying = False
        self.expected: Frame | None = None  # a pause frame on its way to this processor
        self.setup: FrameProcessorSetup | None = None
        self.start: StartFrame | None = None
        self.direct_mode = False
        self.metrics: Any = None


_HOOKS = (
    "on_error",
    "on_before_process_frame",
    "on_after_process_frame",
    "on_before_push_frame",
    "on_after_push_frame",
)


class FrameProcessor(BaseObject):
    """Takes frames and pushes frames. Override `process_frame`: with `def` if it never waits, else `async def`.

    A plain processor need not call the base's `process_frame`; an `async def` one must, and first. It works without
    `super().__init__()`. A plain one whose `process_frame` may give something to await, because it was given a
    coroutine function as callback, says so with `self._may_wait()` at construction. Subclasses
    are users', who name things as they like: what only this class needs has two underscores, and of those with one,
    `_base`, `_flow`, `_downlink`, `_uplink`, `_wiring` and the methods' names are taken.

    Events, all synchronous: on_error(ErrorFrame), on_before_process_frame(frame), on_after_process_frame(frame),
    on_before_push_frame(frame), on_after_push_frame(frame).
    """

    __slots__ = ("_downlink", "_flow", "_uplink", "_wiring")

    _flow: Flow
    _downlink: Entry
    _uplink: Entry
    _wiring: _Wiring

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self._flow = UNBOUND
        self._downlink = self._uplink = self.__refuse
        self._wiring = _Wiring(self.__take)
        return self

    def __init__(self, *, name: str | None = None, enable_direct_mode: bool = False, metrics: Any = None) -> None:
        super().__init__(name=name)
        self._wiring.direct_mode = enable_direct_mode
        self._wiring.metrics = metrics

    def _may_wait(self) -> None:
        """This processor needs lanes though its `process_frame` is `def`: it may return a coroutine."""
        self._wiring.may_wait = True

    # ------------------------------------------------------------ to be overridden

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        """Take one frame. The base opens the links at StartFrame, and pauses and resumes; it passes nothing on."""
        act = _ACTS.get(type(frame))
        if act is not None:
            act(self, frame)
        return DONE

    def setup(self, setup: FrameProcessorSetup) -> MaybeAwaitable:
        """Called once, before StartFrame."""
        self._wiring.setup = setup
        if self._flow is UNBOUND:  # set up by hand, outside a pipeline
            runtime = setup.runtime or setup.task_manager.runtime(setup.clock)
            self._join_flow(Flow(runtime))
        return DONE

    def cleanup(self) -> MaybeAwaitable:
        """Called after the last frame. Ends the lanes; awaiting it waits for them, and for handlers that still run."""
        lanes = self._wiring.lanes
        running = tuple(self._base.running)
        if lanes is None:
            return self._until_ended(running) if running else DONE
        ended = lanes.close()
        return Each((ended, self._until_ended(running))) if running else ended

    # ------------------------------------------------------------ pushing

    def push_frame(self, frame: Frame, direction: FrameDirection = DOWNSTREAM) -> Awaitable[None]:
        """Hand `frame` to the neighbour. What it does is done when this returns, save behind an async processor."""
        if direction is DOWNSTREAM and self._flow.busy and not frame.needs_announcement:
            try:
                self._downlink(frame, DOWNSTREAM)
            except Exception as exc:
                (self._wiring.next or self)._frame_failed(exc, frame)
            return DONE
        flow, wiring = self._flow, self._wiring
        if frame.needs_announcement and wiring.open:
            self.__announce(frame)
        if direction is UPSTREAM:
            if flow is UNBOUND:
                self._uplink(frame, UPSTREAM)  # refused
            elif flow.busy:
                flow.waiting.append((self.__push_up, frame))
            else:
                flow.enter(wiring.previous or self, self._uplink, frame, UPSTREAM)
        elif flow.busy:
            try:
                self._downlink(frame, DOWNSTREAM)
            except Exception as exc:
                (wiring.next or self)._frame_failed(exc, frame)
        else:
            flow.enter(wiring.next or self, self._downlink, frame, DOWNSTREAM)
        return DONE

    def __push_up(self, frame: Frame) -> None:
        try:
            self._uplink(frame, UPSTREAM)
        except Exception as exc:
            (self._wiring.previous or self)._frame_failed(exc, frame)

    def queue_frame(self, frame: Frame, direction: FrameDirection = DOWNSTREAM) -> Awaitable[None]:
        """Hand `frame` to this processor, as if a neighbour had pushed it."""
        flow = self._flow
        if flow is UNBOUND:
            self._downlink(frame, direction)  # refused
        elif not flow.busy:
            flow.enter(self, self._wiring.entry, frame, direction)
        elif direction is UPSTREAM:
            flow.waiting.append((self.__enter_up, frame))
        else:
            self.__enter(frame, direction)
        return DONE

    def __enter(self, frame: Frame, direction: FrameDirection) -> None:
        try:
            self._wiring.entry(frame, direction)
        except Exception as exc:
            self._frame_failed(exc, frame)

    def __enter_up(self, frame: Frame) -> None:
        self.__enter(frame, UPSTREAM)

    def broadcast_frame(self, frame_cls: type[FrameT], **fields: Any) -> Awaitable[None]:
        """Push a new frame each way; each knows the other's id as `broadcast_sibling_id`."""
        return self.__broadcast(frame_cls(**fields), frame_cls(**fields))

    def broadcast_frame_instance(self, frame: Frame) -> Awaitable[None]:
        """Push a copy of `frame` each way: all of it save id and name."""
        return self.__broadcast(_copy_of(frame), _copy_of(frame))

    def __broadcast(self, down: Frame, up: Frame) -> Awaitable[None]:
        down.broadcast_sibling_id, up.broadcast_sibling_id = up.id, down.id
        if down.needs_announcement and self._wiring.open:
            self.__announce(down)  # once for the two
            marks_of(up)[ANNOUNCED] = 1
            if isinstance(down, InterruptionFrame) and isinstance(up, InterruptionFrame):
                up.heard = down.heard
        self.push_frame(down, DOWNSTREAM)
        return self.push_frame(up, UPSTREAM)

    def broadcast_interruption(self) -> Awaitable[None]:
        """Interrupt from here, both ways. What waits in this processor is dropped; the frame in hand goes on."""
        wiring = self._wiring
        if wiring.lanes is not None:
            wiring.lanes.purge()
        elif wiring.held is not None:
            _purge(wiring.held)
            self.resume_processing_frames()
        self.stop_all_metrics()
        return self.broadcast_frame(InterruptionFrame)

    def __announce(self, frame: Frame) -> None:
        marks = marks_of(frame)
        if ANNOUNCED in marks:
            return
        marks[ANNOUNCED] = 1
        if isinstance(frame, InterruptionFrame):
            runtime = self._flow.runtime
            if runtime is not None:
                runtime.interrupting(frame)
        elif isinstance(frame, FrameProcessorPauseFrame | FrameProcessorPauseUrgentFrame):
            target = frame.processor
            if isinstance(target, FrameProcessor) and target._wiring.lanes is None:
                target._wiring.expected = frame
                target._choose_entry()

    # ------------------------------------------------------------ errors

    def push_error(self, error_msg: str, exception: Exception | None = None, fatal: bool = False) -> Awaitable[None]:
        """Tell on_error, then the log, then whoever is upstream. A fatal error ends the pipeline."""
        return self.push_error_frame(ErrorFrame(error_msg, fatal, self, exception))

    def push_error_frame(self, error: ErrorFrame) -> Awaitable[None]:
        """As `push_error`, for a frame that exists."""
        if error.processor is None:
            error.processor = self
        self._call_event_handler("on_error", error)
        log.error("processor.failed processor=%s: %s", self, error.error, exc_info=error.exception)
        if not self._wiring.open and self._flow.stray_error is not None:
            self._flow.stray_error(error)  # it cannot travel yet
            return DONE
        return self.push_frame(error, UPSTREAM)

    def _frame_failed(self, exc: Exception, frame: Frame) -> None:
        """`process_frame` raised: the frame is lost, the call goes on."""
        self.push_error(f"{type(exc).__name__} at {type(frame).__name__}: {exc}", exc)

    # ------------------------------------------------------------ pause and resume

    def pause_processing_frames(self) -> Awaitable[None]:
        """Hold data and control frames from now on; system frames pass."""
        wiring = self._wiring
        if wiring.lanes is not None:
            wiring.lanes.pause()
        else:
            wiring.paused = True
            if wiring.held is None:
                wiring.held = deque()
                self._choose_entry()
        return DONE

    def resume_processing_frames(self) -> Awaitable[None]:
        """Take what was held, in order, and go on; a pause among it stops that again."""
        wiring = self._wiring
        if wiring.lanes is not None:
            wiring.lanes.resume()
        elif wiring.held is not None:
            wiring.paused = False
            if not wiring.replaying:
                if self._flow.busy:
                    self.__replay()
                else:
                    self._flow.enter(self, self.__replay, _RESUMED, DOWNSTREAM)
        return DONE

    def __replay(self, *_: Any) -> None:
        wiring = self._wiring
        held = wiring.held
        wiring.replaying = True
        try:
            while held and not wiring.paused:
                frame, direction = held.popleft()
                try:
                    self.__take(frame, direction)
                except Exception as exc:
                    self._frame_failed(exc, frame)
        finally:
            wiring.replaying = False
        if not wiring.paused:
            wiring.held = None
            self._choose_entry()

    def __enter_held(self, frame: Frame, direction: FrameDirection) -> None:
        """Where frames arrive while the processor is paused, or takes what it held."""
        wiring = self._wiring
        held = wiring.held
        if held is None:
            wiring.entry(frame, direction)
        elif isinstance(frame, InterruptionFrame):
            _purge(held)
            self.__take(frame, direction)
            self.resume_processing_frames()
        elif frame.is_system:
            self.__take(frame, direction)
            if isinstance(frame, FrameProcessorResumeUrgentFrame) and frame.processor is self:
                self.resume_processing_frames()
        elif (
            not held
            and not wiring.replaying
            and isinstance(frame, FrameProcessorResumeFrame)
            and frame.processor is self
        ):
            self.__take(frame, direction)
            self.resume_processing_frames()
        else:
            held.append((frame, direction))

    def __enter_expecting(self, frame: Frame, direction: FrameDirection) -> None:
        """Where frames arrive while a pause for this processor is on its way."""
        self.__take(frame, direction)
        wiring = self._wiring
        if frame is wiring.expected:
            wiring.expected = None
            self.pause_processing_frames()
            self._choose_entry()

    # ------------------------------------------------------------ links

    def link(self, processor: FrameProcessor) -> None:
        """Put `processor` behind this one."""
        self._wiring.next = processor
        processor._wiring.previous = self
        self._choose_links()
        processor._choose_links()

    def _join_flow(self, flow: Flow) -> None:
        """Join a pipeline: its flow, and lanes if this processor may wait."""
        self._flow = flow
        flow.processors.append(self)
        self._run_on(flow.runtime)
        if self.is_async:
            self._wiring.lanes = self.runtime.attach_async(self)
        elif is_async(self.push_frame):
            self.__drive_pushes()
        self._choose_entry()

    def _leave_flow(self) -> None:
        """Leave the pipeline for good: nothing here refers to the neighbours or the runtime any more."""
        wiring = self._wiring
        if wiring.lanes is not None:
            wiring.lanes.release()
        if wiring.drives_pushes:
            del self.push_frame
        self._wiring = _Wiring(_closed)
        self._wiring.start, self._wiring.metrics = wiring.start, wiring.metrics
        self._wiring.may_wait, self._wiring.direct_mode = wiring.may_wait, wiring.direct_mode
        self._downlink = self._uplink = _closed
        self._flow = UNBOUND
        self._run_on(None)

    def __drive_pushes(self) -> None:
        """A user's `async def push_frame` over a plain processor, which does not await it: run it by hand.

        While one waits, those behind it wait in order; system frames overtake.
        """
        push = self.push_frame
        waiting: deque[tuple[Frame, FrameDirection]] = deque()
        running = False

        async def push_all() -> None:
            nonlocal running
            running = True
            try:
                while waiting:
                    await push_one(*waiting.popleft())
            finally:
                running = False

        async def push_one(frame: Frame, direction: FrameDirection) -> None:
            try:
                await push(frame, direction)
            except Exception as exc:
                self._frame_failed(exc, frame)

        def push_frame(frame: Frame, direction: FrameDirection = DOWNSTREAM) -> Awaitable[None]:
            if frame.is_system:
                handle = self._drive_by_hand(push_one(frame, direction), f"{self}::push_frame")
            else:
                waiting.append((frame, direction))
                if running:
                    return DONE
                handle = self._drive_by_hand(push_all(), f"{self}::push_frame")
            return DONE if handle is None else self._until_ended((handle,))

        self.push_frame = push_frame  # type: ignore[method-assign]
        self._wiring.drives_pushes = True

    def _open_links(self, start: StartFrame | None = None) -> None:
        wiring = self._wiring
        if start is not None:
            wiring.start = start
        if not wiring.open:
            wiring.open = True
            self._choose_links()
            self._choose_entry()

    def _choose_entry(self) -> None:
        """Work out where frames for this processor go, and tell the neighbours."""
        wiring = self._wiring
        entry: Entry
        hooked = self._flow.probe is not None or self.__has_handlers(
            "on_before_process_frame", "on_after_process_frame"
        )
        if wiring.lanes is not None:
            wiring.lanes.process = self.__process_hooked if hooked else self.process_frame
            entry = wiring.lanes.receive
        elif wiring.held is not None:
            entry = self.__enter_held
        elif wiring.expected is not None:
            entry = self.__enter_expecting
        elif not wiring.open:
            entry = self.__take
        elif hooked:
            entry = self.__enter_hooked
        else:
            entry = self.process_frame
        wiring.entry = entry
        if wiring.previous is not None:
            wiring.previous._choose_links()
        if wiring.next is not None:
            wiring.next._choose_links()

    def _choose_links(self) -> None:
        """Work out where pushes go: refused before StartFrame, else the neighbour, with what watches on the way."""
        wiring = self._wiring
        if wiring.open:
            self._downlink = self.__link_to(wiring.next, DOWNSTREAM)
            self._uplink = self.__link_to(wiring.previous, UPSTREAM)
        else:
            self._downlink = self._uplink = self.__refuse

    def __link_to(self, peer: FrameProcessor | None, direction: FrameDirection) -> Entry:
        if peer is None:
            return _nowhere
        flow = self._flow
        link = flow.timed(peer, peer._wiring.entry)
        if flow.tap is not None:
            link = flow.tap(self, peer, direction, link)
        for tap in flow.taps:
            link = tap(self, peer, direction, link)
        if self.__has_handlers("on_before_push_frame", "on_after_push_frame"):
            link = self.__hooked_link(link)
        if self._wiring.lanes is not None:
            link = self._wiring.lanes.guard(link)
        return link

    def __refuse(self, frame: Frame, direction: FrameDirection) -> None:
        log.error(
            "processor.not_started processor=%s frame=%s: dropped, for it was pushed before StartFrame came here",
            self,
            type(frame).__name__,
        )

    def __take(self, frame: Frame, direction: FrameDirection) -> None:
        """What an entry does in the end. At StartFrame the links of a plain processor open, base called or not."""
        if not self._wiring.open and isinstance(frame, StartFrame):
            self._open_links(frame)
        if self._base.events or self._flow.probe is not None:
            self.__enter_hooked(frame, direction)
        else:
            self.process_frame(frame, direction)

    # ------------------------------------------------------------ hooks

    def add_event_handler(self, event_name: str, handler: Handler) -> None:
        if event_name in _HOOKS and event_name not in self._base.events:
            self._base.events[event_name] = Event(sync=True)
        super().add_event_handler(event_name, handler)
        if event_name in _HOOKS:
            self._choose_entry()
            self._choose_links()

    def __has_handlers(self, *event_names: str) -> bool:
        events = self._base.events
        return any(name in events and events[name].handlers for name in event_names)

    def __enter_hooked(self, frame: Frame, direction: FrameDirection) -> None:
        if self._flow.probe is not None:
            self._flow.probe(self, frame, direction)
        self._call_event_handler("on_before_process_frame", frame)
        self.process_frame(frame, direction)
        self._call_event_handler("on_after_process_frame", frame)

    async def __process_hooked(self, frame: Frame, direction: FrameDirection) -> None:
        """The same in a lane, where a handler that waits may be waited for."""
        if self._flow.probe is not None:
            self._flow.probe(self, frame, direction)
        await self._call_event_handler("on_before_process_frame", frame)
        result = self.process_frame(frame, direction)
        if result is not None:
            await result
        await self._call_event_handler("on_after_process_frame", frame)

    def __hooked_link(self, link: Entry) -> Entry:
        def hooked(frame: Frame, direction: FrameDirection) -> None:
            self._call_event_handler("on_before_push_frame", frame)
            link(frame, direction)
            self._call_event_handler("on_after_push_frame", frame)

        return hooked

    # ------------------------------------------------------------ tasks, timers, time

    @property
    def runtime(self) -> Runtime:
        """Time and tasks of the pipeline that this processor is in."""
        runtime = self._flow.runtime
        if runtime is None:
            raise RuntimeError(f"{self} is in no pipeline yet")
        return runtime

    def create_task(self, coro: Coroutine[Any, Any, Any], name: str | None = None) -> Any:
        """Run `coro` beside the frames; the pipeline knows it by this processor's name."""
        runtime = self._flow.runtime
        if runtime is None:
            coro.close()
            raise RuntimeError(f"{self} is in no pipeline yet")
        return runtime.spawn(coro, f"{self}::{name or getattr(coro, '__name__', 'task')}")

    def cancel_task(self, task: Handle, timeout: float | None = 1.0) -> Awaitable[None]:
        """Cancel; awaiting it waits until the task has ended, at most `timeout` seconds."""
        return self.runtime.end_task(task, timeout)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Handle:
        """`callback` on the pipeline's clock; what it raises becomes an ErrorFrame."""

        def guarded() -> None:
            try:
                callback()
            except Exception as exc:
                self.push_error(f"{type(exc).__name__} in a timer: {exc}", exc)

        return self.runtime.call_later(delay_s, guarded)

    def get_clock(self) -> Any:
        """An object whose `get_time()` is nanoseconds."""
        setup = self._wiring.setup
        return setup.clock if setup is not None and setup.clock is not None else Clock(self.runtime)

    def get_event_loop(self) -> Any:
        """The loop of the pipeline's tasks."""
        return self.runtime.loop  # type: ignore[attr-defined]

    @property
    def task_manager(self) -> Any:
        setup = self._wiring.setup
        return None if setup is None else setup.task_manager

    # ------------------------------------------------------------ what is known of it

    @property
    def next(self) -> FrameProcessor | None:
        return self._wiring.next

    @property
    def previous(self) -> FrameProcessor | None:
        return self._wiring.previous

    @property
    def processors(self) -> list[FrameProcessor]:
        """The processors inside this one."""
        return []

    @property
    def entry_processors(self) -> list[FrameProcessor]:
        return []

    @property
    def is_async(self) -> bool:
        """Whether `process_frame` may wait, so that this processor has lanes."""
        return self._wiring.may_wait or is_async(self.process_frame)

    @property
    def enable_direct_mode(self) -> bool:
        return self._wiring.direct_mode

    # ------------------------------------------------------------ metrics: names of Pipecat's, for services to fill

    @property
    def metrics_enabled(self) -> bool:
        return self._wiring.start is not None and self._wiring.start.enable_metrics

    @property
    def usage_metrics_enabled(self) -> bool:
        return self._wiring.start is not None and self._wiring.start.enable_usage_metrics

    @property
    def report_only_initial_ttfb(self) -> bool:
        return self._wiring.start is not None and self._wiring.start.report_only_initial_ttfb

    @property
    def interruptions_allowed(self) -> bool:
        return self._wiring.start is not None and self._wiring.start.allow_interruptions

    def can_generate_metrics(self) -> bool:
        return False

    def set_core_metrics_data(self, data: Any) -> None:
        pass

    def start_ttfb_metrics(self, *, start_time: float | None = None) -> Awaitable[None]:
        return DONE

    def stop_ttfb_metrics(self, *, end_time: float | None = None) -> Awaitable[None]:
        return DONE

    def start_processing_metrics(self, *, start_time: float | None = None) -> Awaitable[None]:
        return DONE

    def stop_processing_metrics(self, *, end_time: float | None = None) -> Awaitable[None]:
        return DONE

    def start_text_aggregation_metrics(self) -> Awaitable[None]:
        return DONE

    def stop_text_aggregation_metrics(self) -> Awaitable[None]:
        return DONE

    def start_llm_usage_metrics(self, tokens: Any) -> Awaitable[None]:
        return DONE

    def start_tts_usage_metrics(self, text: str) -> Awaitable[None]:
        return DONE

    def stop_all_metrics(self) -> Awaitable[None]:
        return DONE


# ---------------------------------------------------------------- small things


def _nowhere(frame: Frame, direction: FrameDirection) -> None:
    """Beyond the first and the last processor."""


def _closed(frame: Frame, direction: FrameDirection) -> None:
    """The pipeline is over."""


def _purge(queue: deque[tuple[Frame, FrameDirection]]) -> None:
    """Drop what an interruption drops; the rest keeps its order."""
    kept = [item for item in queue if item[0].is_uninterruptible]
    queue.clear()
    queue.extend(kept)


def _copy_of(frame: Frame) -> Frame:
    copied = copy(frame)
    for own in ("_id", "_name", "_stamp"):
        if hasattr(copied, own):
            delattr(copied, own)
    if hasattr(frame, "_metadata"):
        copied.metadata = dict(frame._metadata)
    return copied


def _started(processor: FrameProcessor, frame: Any) -> None:
    processor._open_links(frame)


def _interrupted(processor: FrameProcessor, frame: Any) -> None:
    processor.stop_all_metrics()


def _pause(processor: FrameProcessor, frame: Any) -> None:
    if frame.processor is processor:
        processor.pause_processing_frames()


def _resume(processor: FrameProcessor, frame: Any) -> None:
    if frame.processor is processor:
        processor.resume_processing_frames()


class _ByType(dict[type, Callable[[FrameProcessor, Any], None] | None]):
    """Handlers by a frame's class; a subclass inherits its base's, and is looked up once."""

    def __missing__(self, cls: type) -> Callable[[FrameProcessor, Any], None] | None:
        found = next((self[base] for base in cls.__mro__[1:] if base in self), None)
        self[cls] = found
        return found


_ACTS = _ByType(
    {
        StartFrame: _started,
        InterruptionFrame: _interrupted,
        FrameProcessorPauseFrame: _pause,
        FrameProcessorPauseUrgentFrame: _pause,
        FrameProcessorResumeFrame: _resume,
        FrameProcessorResumeUrgentFrame: _resume,
    }
)

_RESUMED = Frame()  # stands for a resumption in the budget's log
