"""The runtime of pipelines that a program builds itself: `PipelineTask` runs one, `PipelineRunner` runs tasks.

Names, parameters and events are Pipecat's; docs/pipecat.md lists what runs. Per frame a task costs two look-ups by
class, one for idle detection and one at the pipeline's end: no task, queue or tap exists that nobody asked for.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
import warnings
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bots.observing import Observing
from bots.rtvi.observer import RTVIObserverParams
from bots.rtvi.processor import RTVIProcessor
from bots.runner import PipelineRunner
from bots.ticking import TaskRuntime
from bots.watching import Heartbeats, IdleWatch
from media.clock import Clock
from media.events import DONE, BaseObject, Handle, Handler
from media.flow import UNBOUND
from media.frames import (
    BotSpeakingFrame,
    CancelFrame,
    CancelTaskFrame,
    EndFrame,
    EndTaskFrame,
    ErrorFrame,
    Frame,
    HeartbeatFrame,
    InterruptionFrame,
    InterruptionTaskFrame,
    StartFrame,
    StopFrame,
    StopTaskFrame,
    TaskFrame,
    TaskSystemFrame,
    UserSpeakingFrame,
)
from media.observers import BaseObserver
from media.pipeline import Pipeline
from media.processor import DOWNSTREAM, UPSTREAM, FrameDirection, FrameProcessor, FrameProcessorSetup
from media.turn_observers import TurnTrackingObserver

__all__ = ["PipelineParams", "PipelineRunner", "PipelineTask", "TaskClock", "TaskRuntime"]

log = logging.getLogger(__name__)

START_LIMIT_S = 10.0  # for StartFrame to come through, before a line in the log says where it is
OBSERVERS_LIMIT_S = 1.0  # for observers to take the last records
FrameTypes = tuple[type[Frame], ...]
Act = Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class PipelineParams:
    """What a task tells its processors by StartFrame, and what it does beside."""

    allow_interruptions: bool = True  # older programs; user turn strategies decide
    audio_in_sample_rate: int = 16000
    audio_out_sample_rate: int = 24000
    enable_heartbeats: bool = False
    enable_metrics: bool = False
    enable_usage_metrics: bool = False
    heartbeats_period_secs: float = 1.0
    heartbeats_monitor_secs: float | None = None  # None: ten periods
    interruption_strategies: Sequence[Any] = ()  # older programs
    observers: Sequence[BaseObserver] = ()  # older programs; give them to the task
    report_only_initial_ttfb: bool = False
    send_initial_empty_metrics: bool = True
    start_metadata: Mapping[str, Any] = field(default_factory=dict)


class TaskClock(Clock):
    """Nanoseconds since the task started."""

    __slots__ = ("_zero",)

    def __init__(self) -> None:
        self._zero = time.monotonic_ns()

    def start(self) -> None:
        self._zero = time.monotonic_ns()

    def get_time(self) -> int:
        return time.monotonic_ns() - self._zero


class PipelineTask(BaseObject):
    """One run of a pipeline.

    Frames that are queued wait until StartFrame has come through, and behind an End or Stop frame nothing more goes
    in. EndFrame ends in order, StopFrame too but leaves the processors as they are, for another task; CancelFrame
    ends at once, and after `cancel_timeout_secs` whatever holds it up. Whatever ends `run`, no task is left behind.

    Events: on_pipeline_started(StartFrame), on_pipeline_finished(EndFrame, StopFrame or CancelFrame),
    on_pipeline_error(ErrorFrame), on_frame_reached_upstream(frame) and on_frame_reached_downstream(frame) for the
    types that were asked for, on_idle_timeout(). A fatal error and an idle time-out cancel the task when the handlers
    have run.
    """

    def __init__(
        self,
        pipeline: FrameProcessor,
        params: PipelineParams | None = None,
        *,
        additional_span_attributes: Mapping[str, Any] | None = None,
        cancel_on_idle_timeout: bool = True,
        cancel_timeout_secs: float = 20.0,
        check_dangling_tasks: bool = True,
        clock: Any = None,
        conversation_id: str | None = None,
        enable_tracing: bool = False,
        enable_turn_tracking: bool = True,
        enable_rtvi: bool = True,
        idle_timeout_frames: FrameTypes = (BotSpeakingFrame, UserSpeakingFrame),
        idle_timeout_secs: float | None = 300.0,
        observers: Iterable[BaseObserver] | None = None,
        rtvi_processor: FrameProcessor | None = None,
        rtvi_observer_params: RTVIObserverParams | None = None,
        task_manager: Any = None,
    ) -> None:
        super().__init__()
        self.params = params or PipelineParams()
        self.additional_span_attributes = dict(additional_span_attributes or {})
        self.conversation_id = conversation_id or str(uuid.uuid4())
        self.enable_tracing = enable_tracing
        self.enable_turn_tracking = enable_turn_tracking
        self.rtvi_observer_params = rtvi_observer_params
        self._rtvi: Any = rtvi_processor if enable_rtvi else None
        self._may_have_rtvi = enable_rtvi
        # The given pipeline is spliced in: it may be bound again by another task after a StopFrame.
        self._pipeline = Pipeline([pipeline])
        self._given = pipeline
        if self._rtvi is not None:
            self._put_first(self._rtvi)
        self._runtime = TaskRuntime(task_manager)
        self._base.drives = self._runtime
        self._task_manager = task_manager
        self._clock: Any = clock if clock is not None else TaskClock()
        self._cancel_on_idle = cancel_on_idle_timeout
        self._cancel_timeout_s = cancel_timeout_secs
        self._check_dangling = check_dangling_tasks

        self._held: deque[tuple[Frame, FrameDirection]] | None = deque()  # until StartFrame has come through
        self._starting = False  # StartFrame was pushed
        self._running = False
        self._finished = False
        self._last: Frame | None = None  # the End, Stop or Cancel frame that has gone in
        self._out: Frame | None = None  # the one that has come through
        self._over = asyncio.Event()
        self._limit: Handle | None = None

        self._reached_up: FrameTypes = ()
        self._reached_down: FrameTypes = ()
        self._top = _Actions(self._acts_at_top)
        self._bottom = _Actions(self._acts_at_bottom)
        self._observing: Observing | None = None
        self._turn_tracking: TurnTrackingObserver | None = None
        for observer in (*(observers or ()), *self.params.observers):
            self.add_observer(observer)
        self._heartbeats: Heartbeats | None = None
        if self.params.enable_heartbeats:
            self._heartbeats = Heartbeats(
                self,
                self._runtime,
                self._clock,
                self._beat,
                self.params.heartbeats_period_secs,
                self.params.heartbeats_monitor_secs,
            )
        self._idle: IdleWatch | None = None
        if idle_timeout_secs is not None and idle_timeout_frames:
            self._idle = IdleWatch(self._runtime, idle_timeout_frames, idle_timeout_secs, self._on_idle)
        for event in _EVENTS:
            self._register_event_handler(event)

    # ------------------------------------------------------------ what is known of it

    @property
    def pipeline(self) -> FrameProcessor:
        return self._given

    @property
    def runtime(self) -> TaskRuntime:
        """Time and tasks of this pipeline, with interrupters and tickers."""
        return self._runtime

    @property
    def rtvi(self) -> Any:
        """The RTVIProcessor, or what was given as rtvi_processor; RuntimeError if there is none.

        One is made for whoever asks before `run`, and for a transport whose other side speaks RTVI; a phone never does.
        """
        if self._rtvi is None and self._may_have_rtvi and not self._running:
            self._put_first(RTVIProcessor(name="RTVI"))
        if self._rtvi is None:
            raise RuntimeError(f"{self} has no RTVI processor: enable_rtvi is off, or it was asked for after the start")
        return self._rtvi

    def _put_first(self, rtvi: Any) -> None:
        """What happens is told as soon as a client says that it is ready; until then nobody watches for it."""
        self._rtvi = rtvi
        if isinstance(rtvi, RTVIProcessor):
            rtvi.observer_params = self.rtvi_observer_params or rtvi.observer_params or RTVIObserverParams()
            rtvi.attach = self.add_observer
            rtvi.ready_by_itself = True
        self._pipeline = Pipeline([rtvi, self._given])

    @property
    def turn_tracking_observer(self) -> TurnTrackingObserver | None:
        """Made for whoever asks, before `run`: a task that nobody asks pays nothing. None with it turned off."""
        if self._turn_tracking is None and self.enable_turn_tracking and not self._running:
            self._turn_tracking = TurnTrackingObserver()
            self.add_observer(self._turn_tracking)
        return self._turn_tracking

    @property
    def turn_trace_observer(self) -> BaseObserver | None:
        return None

    def has_finished(self) -> bool:
        """Whether `run` is over, or will not begin any more."""
        return self._finished

    # ------------------------------------------------------------ running

    async def run(self, params: Any = None) -> None:
        """Run until a terminal frame has come through; `params` is taken for compatibility and not used.

        If the task that awaits this is cancelled, the pipeline is cancelled first. Raises what a processor's plain
        `setup` raises.
        """
        if self._finished:
            return
        if self._running:
            raise RuntimeError(f"{self} runs already")
        self._running = True
        try:
            try:
                await self._start()
                await self._over.wait()
            except asyncio.CancelledError:
                self._cancel(CancelFrame("cancelled"))
                await self._over.wait()
                raise
        finally:
            await self._finish()

    async def _start(self) -> None:
        self._clock.start()
        if self._rtvi is None and self._may_have_rtvi and _speaks_rtvi(self._given):
            self._put_first(RTVIProcessor(name="RTVI"))
        pipeline, observing = self._pipeline, self._observing
        setup = FrameProcessorSetup(
            clock=self._clock, task_manager=self._task_manager, observer=observing, runtime=self._runtime
        )
        ready = pipeline.bind(self._runtime, on_source=self._on_source, on_sink=self._on_sink, setup=setup)
        if observing is not None:
            observing.attach(pipeline.flow)
        if self._idle is not None:
            pipeline.flow.watch = self._idle.watch
        if ready is not DONE:
            await self._until_over_or(ready)
        if self._out is not None:
            return  # cancelled meanwhile
        start = StartFrame(
            audio_in_sample_rate=self.params.audio_in_sample_rate,
            audio_out_sample_rate=self.params.audio_out_sample_rate,
            allow_interruptions=self.params.allow_interruptions,
            enable_metrics=self.params.enable_metrics,
            enable_tracing=self.enable_tracing,
            enable_usage_metrics=self.params.enable_usage_metrics,
            interruption_strategies=list(self.params.interruption_strategies),
            report_only_initial_ttfb=self.params.report_only_initial_ttfb,
        )
        if self.params.start_metadata:
            start.metadata = dict(self.params.start_metadata)
        self._starting = True
        self._limit = self._runtime.call_later(START_LIMIT_S, self._warn_of_start)
        pipeline.push(start)

    async def _until_over_or(self, ready: Awaitable[None]) -> None:
        """Wait for the set-ups, or give them up when the task is cancelled."""

        async def set_up() -> None:
            await ready

        waits = [asyncio.ensure_future(set_up()), asyncio.ensure_future(self._over.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            given_up = not waits[0].done()
            for wait in waits:
                wait.cancel()
            if given_up:
                for processor in self._pipeline.flow.processors:
                    for running in processor._base.running:
                        running.cancel()

    def _warn_of_start(self) -> None:
        closed = [processor for processor in self._pipeline.flow.processors if not processor._wiring.open]
        log.warning(
            "task.start_held_up task=%s: StartFrame has not come through after %s s; first without it: %s",
            self,
            START_LIMIT_S,
            closed[0] if closed else "none",
        )

    async def _finish(self) -> None:
        """Clean up, and leave nothing behind."""
        if self._limit is not None:
            self._limit.cancel()
        if self._heartbeats is not None:
            self._heartbeats.stop()
        if self._idle is not None:
            self._idle.stop()
        runtime = self._runtime
        stopped = isinstance(self._out, StopFrame)
        try:
            try:
                async with asyncio.timeout(self._cancel_timeout_s):
                    if stopped:
                        await self._end_lanes()
                        await runtime.drop_spare()
                    elif self._pipeline.flow is not UNBOUND:
                        await self._pipeline.close()
                    await self.cleanup()
            except TimeoutError:
                log.error("task.cleanup_too_slow task=%s limit_s=%s", self, self._cancel_timeout_s)
            except Exception:
                log.exception("task.cleanup_failed task=%s", self)
            if self._observing is not None:
                await self._close_observers(self._observing)
            if not stopped:
                if self._check_dangling and runtime.tasks:
                    await asyncio.sleep(0)  # what was cancelled without waiting for it ends now
                    self._warn_of_dangling()
                await runtime.close()
        finally:
            self._finished = True
            runtime.stop_ticking()
            runtime.drop_spare()
            self._held = self._idle = self._heartbeats = None
            if isinstance(self._rtvi, RTVIProcessor):
                self._rtvi.attach = None
            self._top = self._bottom = _OVER  # nothing refers to this task any more: it goes without the collector

    async def _close_observers(self, observing: Observing) -> None:
        try:
            async with asyncio.timeout(OBSERVERS_LIMIT_S):
                await observing.close()
        except TimeoutError:
            log.warning("task.observers_too_slow task=%s: their last records are lost", self)
            for task in observing.tasks:
                task.cancel()
        except Exception:
            log.exception("task.observer_cleanup_failed task=%s", self)

    async def _end_lanes(self) -> None:
        """The processors stay as they are for another task, which gives them lanes of its own."""
        for processor in self._pipeline.flow.processors:
            lanes = processor._wiring.lanes
            if lanes is not None:
                await lanes.close()

    def _warn_of_dangling(self) -> None:
        names = sorted(task.get_name() for task in self._runtime.tasks if not (task.done() or task.cancelling()))
        if names:
            log.warning("task.dangling_tasks task=%s: cancelled, for nobody ended them: %s", self, ", ".join(names))

    # ------------------------------------------------------------ what goes in

    async def stop_when_done(self) -> None:
        """End when all that is queued is done."""
        self.queue_frame(EndFrame())

    async def cancel(self, reason: str | None = None) -> None:
        """End at once. Returns when the pipeline has taken note of it, at most after `cancel_timeout_secs`."""
        self._cancel(CancelFrame(reason))
        if self._running:
            await self._over.wait()

    def queue_frame(self, frame: Frame, direction: FrameDirection = DOWNSTREAM) -> Awaitable[None]:
        """Push `frame` in from the top, or upstream from the bottom, once StartFrame has come through."""
        if isinstance(frame, CancelFrame):
            self._cancel(frame)
        elif self._out is not None:
            log.debug("task.over task=%s frame=%s: dropped", self, type(frame).__name__)
        elif self._held is not None:
            self._held.append((frame, direction))
        else:
            self._enter(frame, direction)
        return DONE

    def queue_frames(
        self, frames: Iterable[Frame] | AsyncIterable[Frame], direction: FrameDirection = DOWNSTREAM
    ) -> Awaitable[None]:
        """All of them, in order. Those of an asynchronous iterable are queued as they come, while this is awaited."""
        if isinstance(frames, AsyncIterable):
            return self._queue_all(frames, direction)
        for frame in frames:
            self.queue_frame(frame, direction)
        return DONE

    async def _queue_all(self, frames: AsyncIterable[Frame], direction: FrameDirection) -> None:
        async for frame in frames:
            self.queue_frame(frame, direction)

    def _enter(self, frame: Frame, direction: FrameDirection) -> None:
        """Into the pipeline: at once, or behind the push in progress."""
        pipeline = self._pipeline
        if direction is UPSTREAM:
            pipeline.push(frame, UPSTREAM)
        elif self._last is None or isinstance(frame, _ALWAYS):
            if isinstance(frame, EndFrame | StopFrame):
                self._last = frame
            if pipeline.flow.busy:
                pipeline.flow.waiting.append((pipeline.push, frame))
            else:
                pipeline.push(frame)

    def _push_up(self, frame: Frame) -> None:
        self._pipeline.push(frame, UPSTREAM)

    def _beat(self, frame: Frame) -> None:
        self._enter(frame, DOWNSTREAM)

    def _cancel(self, frame: CancelFrame) -> None:
        """Cancel enters at once, and nothing behind it."""
        if self._out is not None or isinstance(self._last, CancelFrame):
            return
        self._last = frame
        if self._held is not None:
            self._held.clear()
        if not self._starting:
            self._on_out(frame)
            return
        self._pipeline.push(frame)
        if self._out is None:
            if self._limit is not None:
                self._limit.cancel()
            self._limit = self._runtime.call_later(self._cancel_timeout_s, self._give_up)

    def _give_up(self) -> None:
        log.warning(
            "task.cancel_held_up task=%s: CancelFrame has not come through after %s s; finished without it",
            self,
            self._cancel_timeout_s,
        )
        if self._last is not None:
            self._on_out(self._last)

    # ------------------------------------------------------------ what comes out

    def _on_source(self, frame: Frame) -> None:
        act = self._top[type(frame)]
        if act is not None:
            act(frame)

    def _on_sink(self, frame: Frame) -> None:
        act = self._bottom[type(frame)]
        if act is not None:
            act(frame)

    def _acts_at_top(self, cls: type) -> Iterable[Act]:
        """What happens with a frame of this class that has come up to the top."""
        if self._reached_up and issubclass(cls, self._reached_up):
            yield lambda frame: self._call_event_handler("on_frame_reached_upstream", frame)
        if self._idle is not None and self._idle.counts(cls):
            yield self._idle.watch
        for base, act in (
            (ErrorFrame, self._on_error),
            (EndTaskFrame, lambda frame: self.queue_frame(EndFrame(frame.reason))),
            (StopTaskFrame, lambda frame: self.queue_frame(StopFrame())),
            (CancelTaskFrame, lambda frame: self._cancel(CancelFrame(frame.reason))),
            (InterruptionTaskFrame, lambda frame: self._pipeline.push(InterruptionFrame())),
        ):
            if issubclass(cls, base):
                yield act

    def _acts_at_bottom(self, cls: type) -> Iterable[Act]:
        """What happens with a frame of this class that has come through."""
        if self._reached_down and issubclass(cls, self._reached_down):
            yield lambda frame: self._call_event_handler("on_frame_reached_downstream", frame)
        if self._idle is not None and self._idle.counts(cls):
            yield self._idle.watch
        if issubclass(cls, StartFrame):
            yield self._on_started
        elif issubclass(cls, EndFrame | StopFrame | CancelFrame):
            yield self._on_out
        elif issubclass(cls, HeartbeatFrame) and self._heartbeats is not None:
            yield self._heartbeats.arrived
        elif issubclass(cls, TaskFrame | TaskSystemFrame):
            yield self._push_up  # pushed the wrong way: it is meant for the top

    def _on_started(self, frame: Frame) -> None:
        held, self._held = self._held, None
        if held is None:
            return
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        self._call_event_handler("on_pipeline_started", frame)
        if self._observing is not None:
            self._observing.started()
        for early, direction in held:
            self._enter(early, direction)
        if self._heartbeats is not None:
            self._heartbeats.start()
        if self._idle is not None:
            self._idle.start()

    def _on_out(self, frame: Frame) -> None:
        """A terminal frame has come through: `run` goes on to its end."""
        if self._out is not None:
            return
        self._out = frame
        self._over.set()
        if not self._running:  # cancelled before it began
            self._finished = True
            return
        self._call_event_handler("on_pipeline_finished", frame)
        self._call_event_handler(next(name for cls, name in _FINISHED.items() if isinstance(frame, cls)), frame)

    def _on_error(self, frame: Any) -> None:
        self._tell("on_pipeline_error", frame, then=CancelFrame("fatal error") if frame.fatal else None)

    def _on_idle(self) -> None:
        if self._cancel_on_idle and self._idle is not None:
            self._idle.stop()
            log.warning("task.idle task=%s: cancelled", self)
        self._tell("on_idle_timeout", then=CancelFrame("idle timeout") if self._cancel_on_idle else None)

    def _tell(self, event_name: str, *args: Any, then: CancelFrame | None) -> None:
        """Announce an event; cancel when its handlers have run, or have taken too long."""
        running = self._base.running
        before = set(running)
        self._call_event_handler(event_name, *args)
        if then is None:
            return
        handlers: set[Any] = running - before
        if handlers:
            self._await_at_cleanup(self._runtime.spawn(self._cancel_after(handlers, then), f"{self}::cancel"))
        else:
            self._cancel(then)

    async def _cancel_after(self, handlers: set[asyncio.Task[None]], frame: CancelFrame) -> None:
        await asyncio.wait(handlers, timeout=self._cancel_timeout_s)
        self._cancel(frame)

    # ------------------------------------------------------------ who wants to know

    def set_reached_upstream_filter(self, types: Iterable[type[Frame]]) -> None:
        """Which frames on_frame_reached_upstream tells of; none at first."""
        self._reached_up = tuple(types)
        self._top.clear()

    def set_reached_downstream_filter(self, types: Iterable[type[Frame]]) -> None:
        """Which frames on_frame_reached_downstream tells of; none at first."""
        self._reached_down = tuple(types)
        self._bottom.clear()

    def add_reached_upstream_filter(self, types: Iterable[type[Frame]]) -> None:
        self.set_reached_upstream_filter((*self._reached_up, *types))

    def add_reached_downstream_filter(self, types: Iterable[type[Frame]]) -> None:
        self.set_reached_downstream_filter((*self._reached_down, *types))

    @property
    def reached_upstream_types(self) -> FrameTypes:
        return self._reached_up

    @property
    def reached_downstream_types(self) -> FrameTypes:
        return self._reached_down

    def add_observer(self, observer: BaseObserver) -> None:
        """From now on, also while the pipeline runs."""
        if self._observing is None:
            self._observing = Observing(self._runtime, self._clock)
            if self._pipeline.flow is not UNBOUND:
                self._observing.attach(self._pipeline.flow)
        self._observing.add(observer)

    async def remove_observer(self, observer: BaseObserver) -> None:
        """What it has not seen yet it will not see."""
        if self._observing is not None:
            self._observing.remove(observer)

    def add_event_handler(self, event_name: str, handler: Handler) -> None:
        if event_name in _FINISHED.values():
            warnings.warn(f"{event_name} is old: use on_pipeline_finished", DeprecationWarning, stacklevel=3)
        super().add_event_handler(event_name, handler)


def _speaks_rtvi(processor: FrameProcessor) -> bool:
    """Whether one of these is a transport whose other side speaks RTVI."""
    return getattr(processor, "speaks_rtvi", False) or any(_speaks_rtvi(each) for each in processor.processors)


# What takes its own event for each terminal frame, beside on_pipeline_finished: older programs.
_FINISHED = {EndFrame: "on_pipeline_ended", StopFrame: "on_pipeline_stopped", CancelFrame: "on_pipeline_cancelled"}
_EVENTS = (
    "on_pipeline_started",
    "on_pipeline_finished",
    "on_pipeline_error",
    "on_frame_reached_upstream",
    "on_frame_reached_downstream",
    "on_idle_timeout",
    *_FINISHED.values(),
)
# What still goes in behind an End or Stop frame.
_ALWAYS = (InterruptionFrame, HeartbeatFrame)


class _Actions(dict[type, Act | None]):
    """What to do with a frame at one end of the pipeline, by its class; each is worked out once."""

    def __init__(self, work_out: Callable[[type], Iterable[Act]]) -> None:
        super().__init__()
        self._work_out = work_out

    def __missing__(self, cls: type) -> Act | None:
        acts = tuple(self._work_out(cls))
        self[cls] = None if not acts else acts[0] if len(acts) == 1 else _in_turn(acts)
        return self[cls]


_OVER = _Actions(lambda cls: ())


def _in_turn(acts: tuple[Act, ...]) -> Act:
    def all_of_them(frame: Frame) -> None:
        for act in acts:
            act(frame)

    return all_of_them
