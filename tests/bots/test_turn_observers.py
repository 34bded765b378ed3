"""Turn tracking, latency and start-up observers, as Pipecat's pages on them use them, and what they measure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bots.runtime import PipelineParams, PipelineTask
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    ClientConnectedFrame,
    Frame,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
    MetricsFrame,
    StartFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.metrics import TextAggregationMetricsData, TTFBMetricsData
from media.pipeline import Pipeline
from media.processor import FrameDirection, FrameProcessor
from media.startup_observer import StartupTimingObserver, StartupTimingReport, TransportTimingReport
from media.turn_observers import LatencyBreakdown, TurnTrackingObserver, UserBotLatencyObserver
from tests.media.rig import AsyncPass, Pass, turns
from tests.media.rig import run_on_virtual_time as run


class LoopClock:
    """The task's clock on the test's virtual time."""

    def start(self) -> None:
        pass

    def get_time(self) -> int:
        return int(asyncio.get_running_loop().time() * 1e9)


class Middle(FrameProcessor):
    """Broadcasts what the test tells it to."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> Any:
        return self.push_frame(frame, direction)


class Stage:
    """A running task, in which the test plays caller and bot."""

    def __init__(self, **options: Any) -> None:
        self.middle = Middle()
        pipeline = Pipeline([Pass("first"), self.middle, AsyncPass("last")])
        self.task = PipelineTask(pipeline, clock=LoopClock(), **options)
        self.zero = 0.0

    def play(self, act: Callable[[Stage], Awaitable[None]]) -> None:
        async def program() -> None:
            running = asyncio.ensure_future(self.task.run())
            await turns()
            self.zero = asyncio.get_running_loop().time()
            await act(self)
            await self.task.stop_when_done()
            await running

        run(program(), 600.0)

    async def until(self, second: float) -> None:
        await asyncio.sleep(self.zero + second - asyncio.get_running_loop().time())

    async def at(self, second: float, kind: type[Frame], **fields: Any) -> None:
        await self.until(second)
        self.middle.broadcast_frame(kind, **fields)
        await turns()


def tracked(observer: TurnTrackingObserver) -> list[tuple[Any, ...]]:
    seen: list[tuple[Any, ...]] = []

    @observer.event_handler("on_turn_started")
    async def on_turn_started(observer: Any, turn_number: int) -> None:
        seen.append(("start", turn_number))

    @observer.event_handler("on_turn_ended")
    async def on_turn_ended(observer: Any, turn_number: int, duration: float, was_interrupted: bool) -> None:
        seen.append(("end", turn_number, round(duration, 1), was_interrupted))

    return seen


# ---------------------------------------------------------------- turns


def test_turns_of_a_task() -> None:
    stage = Stage()
    observer = stage.task.turn_tracking_observer
    assert observer is not None
    assert stage.task.turn_tracking_observer is observer
    seen = tracked(observer)

    async def act(stage: Stage) -> None:
        await stage.at(1.0, BotStartedSpeakingFrame)
        await stage.at(2.0, BotStoppedSpeakingFrame)
        await stage.at(3.0, UserStartedSpeakingFrame)  # after the bot has spoken
        await stage.at(4.0, UserStoppedSpeakingFrame)
        await stage.at(4.2, UserStartedSpeakingFrame)  # nobody has answered: he goes on
        await stage.at(5.0, BotStartedSpeakingFrame)
        await stage.at(6.0, UserStartedSpeakingFrame)  # while the bot speaks
        await stage.at(6.0, BotStoppedSpeakingFrame)
        await stage.at(7.0, BotStartedSpeakingFrame)
        await stage.at(8.0, BotStoppedSpeakingFrame)
        await stage.at(9.0, BotStartedSpeakingFrame)  # within the time-out: still the same
        await stage.at(10.0, BotStoppedSpeakingFrame)
        await stage.until(20.0)
        await stage.at(21.0, UserStartedSpeakingFrame)

    stage.play(act)
    assert seen == [
        ("start", 1),
        ("end", 1, 3.0, False),
        ("start", 2),
        ("end", 2, 3.0, True),
        ("start", 3),
        ("end", 3, 6.5, False),
        ("start", 4),
        ("end", 4, 0.0, True),  # the pipeline ended
    ]


def test_a_custom_observer_with_its_own_time_out() -> None:
    observer = TurnTrackingObserver(turn_end_timeout_secs=3.5)
    stage = Stage(observers=[observer], enable_turn_tracking=False)
    seen = tracked(observer)
    assert stage.task.turn_tracking_observer is None

    async def act(stage: Stage) -> None:
        await stage.at(1.0, BotStartedSpeakingFrame)
        await stage.at(2.0, BotStoppedSpeakingFrame)
        await stage.until(9.0)

    stage.play(act)
    assert seen == [("start", 1), ("end", 1, 5.5, False)]


def test_a_task_that_nobody_asks_is_not_tapped() -> None:
    stage = Stage()
    tapped = []

    async def act(stage: Stage) -> None:
        tapped.append(stage.task._pipeline.flow.tap)
        assert stage.task.turn_tracking_observer is None  # it is too late

    stage.play(act)
    assert tapped == [None]


def test_cancelled_in_a_turn() -> None:
    stage = Stage()
    observer = stage.task.turn_tracking_observer
    assert observer is not None
    seen = tracked(observer)

    async def act(stage: Stage) -> None:
        await stage.at(1.0, UserStartedSpeakingFrame)
        await stage.task.queue_frame(CancelFrame())

    stage.play(act)
    assert seen == [("start", 1), ("end", 1, 1.0, True)]


# ---------------------------------------------------------------- latency


def measured(observer: UserBotLatencyObserver) -> tuple[list[tuple[str, float]], list[LatencyBreakdown]]:
    latencies: list[tuple[str, float]] = []
    found: list[LatencyBreakdown] = []

    @observer.event_handler("on_latency_measured")
    async def on_latency_measured(observer: Any, latency: float) -> None:
        latencies.append(("answer", round(latency, 2)))

    @observer.event_handler("on_first_bot_speech_latency")
    async def on_first_bot_speech_latency(observer: Any, latency: float) -> None:
        latencies.append(("first", round(latency, 2)))

    @observer.event_handler("on_latency_breakdown")
    async def on_latency_breakdown(observer: Any, breakdown: LatencyBreakdown) -> None:
        found.append(breakdown)

    return latencies, found


def test_latency_and_what_it_is_made_of() -> None:
    observer = UserBotLatencyObserver()
    stage = Stage(params=PipelineParams(observers=[observer], enable_metrics=True))
    latencies, found = measured(observer)
    before = time.time()

    async def act(stage: Stage) -> None:
        await stage.at(0.5, ClientConnectedFrame)
        await stage.at(1.3, BotStartedSpeakingFrame)
        await stage.at(2.0, BotStoppedSpeakingFrame)
        await stage.at(3.0, VADUserStartedSpeakingFrame, start_secs=0.2, timestamp=time.time())
        await stage.at(4.2, VADUserStoppedSpeakingFrame, stop_secs=0.2, timestamp=time.time())
        await stage.at(4.5, UserStoppedSpeakingFrame)
        fields = {"function_name": "get_weather", "tool_call_id": "1", "arguments": {}}
        await stage.at(4.6, FunctionCallInProgressFrame, **fields)
        await stage.at(4.75, FunctionCallResultFrame, **fields, result="sun")
        metrics: list[Any] = [
            TTFBMetricsData(processor="LLM#0", model="m", value=0.35),
            TextAggregationMetricsData(processor="TTS#0", value=0.1),
            TTFBMetricsData(processor="STT#0", value=0.0),  # the first, empty one
        ]
        await stage.at(4.9, MetricsFrame, data=metrics)
        await stage.at(5.0, BotStartedSpeakingFrame)
        await stage.at(6.0, BotStartedSpeakingFrame)  # nobody waits

    stage.play(act)
    assert latencies == [("first", 0.8), ("answer", 1.0)]
    greeting, answer = found
    assert greeting.chronological_events() == []
    assert answer.user_turn_secs == pytest.approx(0.5, abs=0.01)
    assert answer.user_turn_start_time is not None
    assert answer.user_turn_start_time > before
    assert [one.processor for one in answer.ttfb] == ["LLM#0"]
    assert answer.ttfb[0].model == "m"
    assert answer.chronological_events() == [
        "User turn: 0.500s",
        "LLM#0: TTFB 0.350s",
        "get_weather: 0.150s",
        "TTS#0: text aggregation 0.100s",
    ]


def test_who_speaks_on_is_not_answered_yet() -> None:
    observer = UserBotLatencyObserver()
    stage = Stage(observers=[observer])
    latencies, _ = measured(observer)

    async def act(stage: Stage) -> None:
        await stage.at(1.0, VADUserStartedSpeakingFrame)
        await stage.at(2.0, VADUserStoppedSpeakingFrame, stop_secs=0.2)
        await stage.at(2.1, VADUserStartedSpeakingFrame)
        await stage.at(2.2, BotStartedSpeakingFrame)
        await stage.at(3.0, VADUserStoppedSpeakingFrame, stop_secs=0.2)
        await stage.at(4.0, BotStartedSpeakingFrame)

    stage.play(act)
    assert latencies == [("answer", 1.2)]


# ---------------------------------------------------------------- start-up


class Slow(FrameProcessor):
    """Takes a while to start."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, StartFrame):
            await asyncio.sleep(0.4)
        await self.push_frame(frame, direction)


def started(
    *processors: FrameProcessor, **options: Any
) -> tuple[list[StartupTimingReport], list[TransportTimingReport]]:
    observer = StartupTimingObserver(**options)
    reports: list[StartupTimingReport] = []
    transports: list[TransportTimingReport] = []

    @observer.event_handler("on_startup_timing_report")
    async def on_startup_timing_report(observer: Any, report: StartupTimingReport) -> None:
        reports.append(report)

    @observer.event_handler("on_transport_timing_report")
    async def on_transport_timing_report(observer: Any, report: TransportTimingReport) -> None:
        transports.append(report)

    async def program() -> None:
        task = PipelineTask(Pipeline(list(processors)), observers=[observer], clock=LoopClock())
        running = asyncio.ensure_future(task.run())
        await asyncio.sleep(2.0)
        for _ in range(2):
            await task.queue_frame(ClientConnectedFrame())
        await task.stop_when_done()
        await running

    run(program())
    return reports, transports


def test_start_up_of_each_processor() -> None:
    (report,), (transport,) = started(Pass("fast"), Slow(name="slow"), Pass("behind"))
    assert [one.processor_name for one in report.processor_timings] == ["fast", "slow", "behind"]
    slow, behind = report.processor_timings[1:]
    assert slow.duration_secs == pytest.approx(0.4, abs=0.05)
    assert slow.start_offset_secs < 0.1
    assert behind.start_offset_secs == pytest.approx(0.4, abs=0.05)
    assert report.total_duration_secs == pytest.approx(0.4, abs=0.1)
    assert report.start_time == pytest.approx(time.time(), abs=60)
    assert transport.bot_connected_secs is None
    assert transport.client_connected_secs == pytest.approx(2.0, abs=0.1)
    assert transport.start_time == report.start_time


def test_start_up_of_some_types() -> None:
    (report,), _ = started(Pass("fast"), Slow(name="slow"), processor_types=(Slow,))
    assert [one.processor_name for one in report.processor_timings] == ["slow"]
