"""PipelineTask: from StartFrame to the last one, whatever ends it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bots.rtvi import RTVIObserverParams, RTVIProcessor
from bots.runtime import PipelineParams, PipelineTask
from media.frames import (
    CancelFrame,
    CancelTaskFrame,
    EndFrame,
    EndTaskFrame,
    ErrorFrame,
    Frame,
    HeartbeatFrame,
    InterruptionFrame,
    InterruptionTaskFrame,
    LLMTextFrame,
    StartFrame,
    StopFrame,
    StopTaskFrame,
    TextFrame,
    TranscriptionFrame,
    UserStoppedSpeakingFrame,
)
from media.observers import BaseObserver, FramePushed
from media.pipeline import ParallelPipeline, Pipeline
from media.processor import FrameDirection, FrameProcessor, FrameProcessorSetup
from tests.media.rig import AsyncPass, Pass, labels, turns
from tests.media.rig import run_on_virtual_time as run

DOWN, UP = FrameDirection.DOWNSTREAM, FrameDirection.UPSTREAM
Program = Callable[[PipelineTask], Coroutine[Any, Any, None]]


async def beside(task: PipelineTask, program: Program) -> None:
    """Run `task` with `program` beside it; both must come to an end, and leave nothing."""
    running = asyncio.ensure_future(task.run())
    await turns()
    await program(task)
    await running
    assert task.has_finished()
    await turns()
    left = [other for other in asyncio.all_tasks() if other is not asyncio.current_task()]
    assert not left, left


def drive(task: PipelineTask, program: Program) -> None:
    run(beside(task, program))


async def end(task: PipelineTask) -> None:
    await task.stop_when_done()


def heard(task: PipelineTask, *events: str) -> list[tuple[str, str]]:
    """What the task announces: (event, class of the frame)."""
    told: list[tuple[str, str]] = []
    for event in events:

        def handler(task: PipelineTask, *frames: Frame, event: str = event) -> None:
            told.append((event, *(type(frame).__name__ for frame in frames)))  # type: ignore[arg-type]

        task.add_event_handler(event, handler)
    return told


class Slow(FrameProcessor):
    """Waits at StartFrame until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, StartFrame):
            await self.go.wait()
        await self.push_frame(frame, direction)


class Swallow(FrameProcessor):
    """Keeps frames of some types for itself."""

    def __init__(self, *types: type[Frame]) -> None:
        super().__init__()
        self.types = types
        self.seen: list[Frame] = []

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.seen.append(frame)
        if not isinstance(frame, self.types):
            self.push_frame(frame, direction)


# ---------------------------------------------------------------- start


def test_start_frame_carries_the_parameters() -> None:
    first = Pass()
    params = PipelineParams(
        audio_in_sample_rate=8000,
        audio_out_sample_rate=8000,
        enable_metrics=True,
        enable_usage_metrics=True,
        report_only_initial_ttfb=True,
        allow_interruptions=True,
        start_metadata={"conversation_id": "conv-123"},
    )
    task = PipelineTask(Pipeline([first]), params=params, enable_tracing=True)
    drive(task, end)
    start = first.seen[0]
    assert isinstance(start, StartFrame)
    assert (start.audio_in_sample_rate, start.audio_out_sample_rate) == (8000, 8000)
    assert start.enable_metrics
    assert start.enable_usage_metrics
    assert start.report_only_initial_ttfb
    assert start.allow_interruptions
    assert start.enable_tracing
    assert start.metadata == {"conversation_id": "conv-123"}
    start.metadata["more"] = 1
    assert params.start_metadata == {"conversation_id": "conv-123"}


def test_defaults_are_those_of_the_documentation() -> None:
    params = PipelineParams()
    assert (params.audio_in_sample_rate, params.audio_out_sample_rate) == (16000, 24000)
    assert params.send_initial_empty_metrics
    assert not params.enable_heartbeats
    assert params.heartbeats_period_secs == 1.0
    with pytest.raises(AttributeError):
        params.enable_metrics = True  # type: ignore[misc]


def test_frames_wait_until_start_has_come_through() -> None:
    slow, last = Slow(), Pass()
    task = PipelineTask(Pipeline([slow, last]))
    told = heard(task, "on_pipeline_started")

    async def program(task: PipelineTask) -> None:
        await task.queue_frames([TextFrame("1"), TextFrame("2")])
        await task.queue_frame(TextFrame("up"), UP)
        await turns()
        assert last.seen == []
        assert told == []
        slow.go.set()
        await turns()
        assert labels(last.seen) == ["StartFrame", "up", "1", "2"]  # the first two go through the slow one's data lane
        assert told == [("on_pipeline_started", "StartFrame")]
        await task.stop_when_done()

    drive(task, program)


def test_frames_may_be_queued_before_the_task_runs() -> None:
    last = Pass()
    task = PipelineTask(Pipeline([last]))

    async def program() -> None:
        await task.queue_frame(TextFrame("hello"))
        await task.queue_frame(EndFrame())
        await task.run()

    run(program())
    assert labels(last.seen) == ["StartFrame", "hello", "EndFrame"]


def test_a_bare_processor_or_a_parallel_pipeline_may_be_the_pipeline() -> None:
    for pipeline in (Pass(), ParallelPipeline([Pass()], [AsyncPass()])):
        task = PipelineTask(pipeline)
        assert task.pipeline is pipeline
        drive(task, end)


def test_a_start_that_is_held_up_is_named(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bots.runtime.START_LIMIT_S", 0.02)
    slow = Slow()
    behind = Pass(name="the one behind")
    task = PipelineTask(Pipeline([slow, behind]))

    async def program(task: PipelineTask) -> None:
        await asyncio.sleep(0.04)
        assert "first without it: the one behind" in caplog.text
        slow.go.set()
        await turns()
        await task.stop_when_done()

    drive(task, program)


def test_run_twice() -> None:
    first = Pass()
    task = PipelineTask(Pipeline([first]))

    async def program(task: PipelineTask) -> None:
        with pytest.raises(RuntimeError, match="runs already"):
            await task.run()
        await task.stop_when_done()

    drive(task, program)
    run(task.run())  # over: returns at once
    assert labels(first.seen) == ["StartFrame", "EndFrame"]


# ---------------------------------------------------------------- frames in


def test_upstream_frames_enter_at_the_sink() -> None:
    first, second = Pass(), Pass()
    task = PipelineTask(Pipeline([first, second]))
    ways: list[tuple[str, FrameDirection]] = []

    class Note(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            ways.append((str(labels([frame])[0]), direction))
            self.push_frame(frame, direction)

    task = PipelineTask(Pipeline([Note(), second]))

    async def program(task: PipelineTask) -> None:
        await task.queue_frame(UserStoppedSpeakingFrame(), direction=UP)
        await task.queue_frames([TextFrame("up")], UP)
        await task.stop_when_done()

    drive(task, program)
    assert labels(second.seen) == ["StartFrame", "UserStoppedSpeakingFrame", "up", "EndFrame"]
    assert ways[1:3] == [("UserStoppedSpeakingFrame", UP), ("up", UP)]


def test_frames_of_any_iterable() -> None:
    last = Pass()
    task = PipelineTask(Pipeline([last]))

    def some() -> Iterator[Frame]:
        yield TextFrame("3")
        yield TextFrame("4")

    async def others() -> AsyncIterator[Frame]:
        for number in "56":
            await asyncio.sleep(0)
            yield TextFrame(number)

    async def program(task: PipelineTask) -> None:
        await task.queue_frames((TextFrame("1"), TextFrame("2")))
        await task.queue_frames(some())
        await task.queue_frames(others())
        await task.stop_when_done()

    drive(task, program)
    assert labels(last.seen) == ["StartFrame", "1", "2", "3", "4", "5", "6", "EndFrame"]


def test_a_frame_queued_from_inside_stands_behind_the_push_in_progress() -> None:
    first, last = Pass(), Pass()

    class Ends(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if isinstance(frame, TextFrame):
                task.queue_frames([TextFrame("queued"), EndFrame()]) if frame.text == "last" else None
            self.push_frame(frame, direction)

    task = PipelineTask(Pipeline([first, Ends(), last]))

    async def program(task: PipelineTask) -> None:
        await task.queue_frame(TextFrame("last"))

    drive(task, program)
    assert labels(last.seen) == ["StartFrame", "last", "queued", "EndFrame"]


# ---------------------------------------------------------------- frames out


def test_reached_events_tell_of_the_types_that_were_asked_for() -> None:
    task = PipelineTask(Pipeline([Pass()]))
    told = heard(task, "on_frame_reached_upstream", "on_frame_reached_downstream")

    async def program(task: PipelineTask) -> None:
        await task.queue_frames([TextFrame("1"), LLMTextFrame("2")])
        await turns()
        assert told == []
        task.set_reached_downstream_filter((LLMTextFrame,))
        task.set_reached_upstream_filter((TranscriptionFrame,))
        await task.queue_frames([TextFrame("3"), LLMTextFrame("4")])
        await task.queue_frames([TranscriptionFrame("5", "user", "now"), LLMTextFrame("6")], UP)
        await turns()
        assert told == [
            ("on_frame_reached_downstream", "LLMTextFrame"),
            ("on_frame_reached_upstream", "TranscriptionFrame"),
        ]
        told.clear()
        task.add_reached_downstream_filter((TextFrame,))
        task.add_reached_upstream_filter((TextFrame,))
        assert task.reached_downstream_types == (LLMTextFrame, TextFrame)
        await task.queue_frames([TextFrame("7"), LLMTextFrame("8")])
        await task.queue_frame(LLMTextFrame("9"), UP)  # a subclass counts
        await turns()
        assert told == [
            ("on_frame_reached_downstream", "TextFrame"),
            ("on_frame_reached_downstream", "LLMTextFrame"),
            ("on_frame_reached_upstream", "LLMTextFrame"),
        ]
        await task.stop_when_done()

    drive(task, program)


def test_terminal_frames_can_be_asked_for_too() -> None:
    task = PipelineTask(Pipeline([Pass()]))
    task.set_reached_downstream_filter((EndFrame,))
    told = heard(task, "on_frame_reached_downstream", "on_pipeline_finished")
    drive(task, end)
    assert told == [("on_frame_reached_downstream", "EndFrame"), ("on_pipeline_finished", "EndFrame")]


# ---------------------------------------------------------------- end, stop


def test_end_stands_behind_what_is_queued_and_nothing_behind_it() -> None:
    last = AsyncPass()
    task = PipelineTask(Pipeline([last]))
    told = heard(task, "on_pipeline_finished")

    async def program(task: PipelineTask) -> None:
        await task.queue_frames([TextFrame("1"), EndFrame("bye"), TextFrame("2"), EndFrame()])
        await task.queue_frame(TextFrame("3"))

    drive(task, program)
    assert labels(last.seen) == ["StartFrame", "1", "EndFrame"]
    assert last.seen[-1].reason == "bye"  # type: ignore[attr-defined]
    assert told == [("on_pipeline_finished", "EndFrame")]


def test_interruptions_and_heartbeats_still_enter_behind_an_end_that_is_on_its_way() -> None:
    first, held = Pass(), Swallow(EndFrame)
    task = PipelineTask(Pipeline([first, held]))

    async def program(task: PipelineTask) -> None:
        await task.stop_when_done()
        await task.queue_frames([TextFrame("no"), InterruptionFrame(), HeartbeatFrame(0), StopFrame()])
        await task.queue_frame(TextFrame("up"), UP)
        assert labels(first.seen) == ["StartFrame", "EndFrame", "InterruptionFrame", "HeartbeatFrame", "up"]
        await task.cancel()

    drive(task, program)
    assert labels(first.seen)[-1] == "CancelFrame"


@pytest.mark.parametrize(
    ("asked", "got", "reason"),
    [
        (EndTaskFrame("done"), EndFrame, "done"),
        (StopTaskFrame(), StopFrame, None),
        (CancelTaskFrame("enough"), CancelFrame, "enough"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("direction", [UP, DOWN], ids=["upstream", "the wrong way"])
def test_requests_from_inside(asked: Frame, got: type[Frame], reason: str | None, direction: FrameDirection) -> None:
    first, last = Pass(), AsyncPass()
    task = PipelineTask(Pipeline([first, last]))
    told = heard(task, "on_pipeline_finished")

    async def program(task: PipelineTask) -> None:
        await last.push_frame(asked, direction)

    drive(task, program)
    assert type(first.seen[-1]) is got
    assert getattr(first.seen[-1], "reason", None) == reason
    assert told == [("on_pipeline_finished", got.__name__)]


def test_an_interruption_asked_for_from_below_goes_down_from_the_top() -> None:
    first, last = Pass(), Pass()
    task = PipelineTask(Pipeline([first, last]))

    async def program(task: PipelineTask) -> None:
        last.push_frame(InterruptionTaskFrame(), UP)
        assert labels(first.seen) == ["StartFrame", "InterruptionTaskFrame", "InterruptionFrame"]
        assert labels(last.seen) == ["StartFrame", "InterruptionFrame"]
        await task.stop_when_done()

    drive(task, program)


def test_an_end_asked_for_while_starting_waits_like_all_others() -> None:
    class EndsAtOnce(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            self.push_frame(frame, direction)
            if isinstance(frame, StartFrame):
                self.push_frame(EndTaskFrame(), UP)

    last = AsyncPass()
    task = PipelineTask(Pipeline([EndsAtOnce(), last]))

    async def program() -> None:
        await task.run()

    run(program())
    assert labels(last.seen) == ["StartFrame", "EndFrame"]


def test_stop_leaves_the_processors_for_another_task() -> None:
    class Service(AsyncPass):
        def __init__(self) -> None:
            super().__init__()
            self.life: list[str] = []
            self.connection: Any = None

        async def setup(self, setup: FrameProcessorSetup) -> None:
            await super().setup(setup)
            self.life.append("setup")
            if self.connection is None:
                self.connection = self.create_task(asyncio.sleep(3600), "connection")

        async def cleanup(self) -> None:
            await super().cleanup()
            await self.cancel_task(self.connection)
            self.life.append("cleanup")

    async def program() -> None:
        service = Service()
        pipeline = Pipeline([service, Pass()])
        first = PipelineTask(pipeline)
        await first.queue_frames([TextFrame("1"), StopFrame()])
        await first.run()
        assert first.has_finished()
        assert service.life == ["setup"]
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == [service.connection]
        second = PipelineTask(pipeline)
        await second.queue_frames([TextFrame("2"), EndFrame()])
        await second.run()
        assert service.life == ["setup", "setup", "cleanup"]
        assert labels(service.seen) == ["StartFrame", "1", "StopFrame", "StartFrame", "2", "EndFrame"]
        assert service.connection.cancelled()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(program())


# ---------------------------------------------------------------- cancel


def test_cancel_enters_at_once_and_overtakes() -> None:
    stuck = asyncio.Event()

    class Stuck(AsyncPass):
        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, TextFrame):
                await stuck.wait()

    first, slow, last = Pass(), Stuck(), Pass()
    task = PipelineTask(Pipeline([first, slow, last]))
    told = heard(task, "on_pipeline_finished")

    async def program(task: PipelineTask) -> None:
        await task.queue_frames([TextFrame("1"), TextFrame("2")])
        await turns()
        await task.cancel("enough")
        assert labels(last.seen)[-1] == "CancelFrame"
        assert last.seen[-1].reason == "enough"  # type: ignore[attr-defined]
        await task.queue_frame(TextFrame("3"))
        await task.cancel()

    drive(task, program)
    assert labels(first.seen) == ["StartFrame", "1", "2", "CancelFrame"]
    assert told == [("on_pipeline_finished", "CancelFrame")]


def test_a_cancel_frame_that_is_queued_is_a_cancel() -> None:
    slow, last = Slow(), Pass()
    task = PipelineTask(Pipeline([slow, last]), cancel_timeout_secs=0.05)

    async def program(task: PipelineTask) -> None:
        await task.queue_frames([TextFrame("1"), CancelFrame("now")])

    drive(task, program)
    assert last.seen == []


def test_a_cancel_that_is_held_up_ends_by_timer(caplog: pytest.LogCaptureFixture) -> None:
    task = PipelineTask(Pipeline([Swallow(CancelFrame)]), cancel_timeout_secs=0.05)
    told = heard(task, "on_pipeline_finished")

    async def program(task: PipelineTask) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await task.cancel()
        assert 0.04 < loop.time() - began < 1

    drive(task, program)
    assert "task.cancel_held_up" in caplog.text
    assert told == [("on_pipeline_finished", "CancelFrame")]


def test_cancel_before_the_task_runs() -> None:
    first = Pass()
    task = PipelineTask(Pipeline([first]))

    async def program() -> None:
        await task.cancel()
        assert task.has_finished()
        await task.run()

    run(program())
    assert first.seen == []


@pytest.mark.parametrize("outside", [False, True], ids=["by the task", "by whoever awaits run"])
def test_cancel_while_setting_up(outside: bool) -> None:
    class Connects(AsyncPass):
        cleaned = False

        async def setup(self, setup: FrameProcessorSetup) -> None:
            await super().setup(setup)
            await asyncio.sleep(3600)

        async def cleanup(self) -> None:
            await super().cleanup()
            self.cleaned = True

    connects = Connects()
    task = PipelineTask(Pipeline([connects]))

    async def program() -> None:
        running = asyncio.ensure_future(task.run())
        await turns()
        if outside:
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        else:
            await task.cancel()
            await running
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(program())
    assert connects.seen == []
    assert connects.cleaned


def test_whoever_awaits_run_may_be_cancelled() -> None:
    last = Pass()
    task = PipelineTask(Pipeline([AsyncPass(), last]))

    async def program() -> None:
        running = asyncio.ensure_future(task.run())
        await turns()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert task.has_finished()
        assert labels(last.seen) == ["StartFrame", "CancelFrame"]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(program())


def test_a_second_cancel_does_not_wait_for_the_pipeline() -> None:
    task = PipelineTask(Pipeline([Swallow(CancelFrame), AsyncPass()]))

    async def program() -> None:
        running = asyncio.ensure_future(task.run())
        await turns()
        running.cancel()
        await turns()
        assert not running.done()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert task.has_finished()
        await turns()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(program())


def test_a_processor_may_cancel_the_task_it_runs_in() -> None:
    class Cancels(AsyncPass):
        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, TextFrame):
                await task.cancel()

    task = PipelineTask(Pipeline([Cancels(), AsyncPass()]))

    async def program(task: PipelineTask) -> None:
        await task.queue_frame(TextFrame("x"))

    drive(task, program)


# ---------------------------------------------------------------- errors


def test_an_error_is_announced_and_the_pipeline_goes_on() -> None:
    class Breaks(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if isinstance(frame, TextFrame):
                raise ValueError("not this one")
            self.push_frame(frame, direction)

    errors: list[ErrorFrame] = []
    breaks = Breaks()
    task = PipelineTask(Pipeline([Pass(), breaks]))
    task.add_event_handler("on_pipeline_error", lambda task, frame: errors.append(frame))
    told = heard(task, "on_pipeline_finished")

    async def program(task: PipelineTask) -> None:
        await task.queue_frames([TextFrame("x"), EndFrame()])

    drive(task, program)
    assert [(error.fatal, error.processor) for error in errors] == [(False, breaks)]
    assert isinstance(errors[0].exception, ValueError)
    assert told == [("on_pipeline_finished", "EndFrame")]


def test_a_fatal_error_cancels_when_the_handlers_have_run() -> None:
    first, last = Pass(), Pass()
    order: list[str] = []
    task = PipelineTask(Pipeline([first, last]))

    @task.event_handler("on_pipeline_error")
    async def on_pipeline_error(task: PipelineTask, frame: ErrorFrame) -> None:
        await asyncio.sleep(0.01)
        order.append(f"{frame.error}: {labels(last.seen)[-1]}")

    @task.event_handler("on_pipeline_finished")
    async def on_pipeline_finished(task: PipelineTask, frame: Frame) -> None:
        order.append(type(frame).__name__)

    async def program(task: PipelineTask) -> None:
        last.push_error("no credit", fatal=True)

    drive(task, program)
    assert order == ["no credit: StartFrame", "CancelFrame"]


def test_a_fatal_error_without_handlers_cancels_at_once() -> None:
    last = Pass()
    task = PipelineTask(Pipeline([Pass(), last]))

    async def program(task: PipelineTask) -> None:
        last.push_error("no credit", fatal=True)
        assert labels(last.seen)[-1] == "CancelFrame"

    drive(task, program)


def test_an_error_before_start_has_come_reaches_the_task() -> None:
    class FailsToConnect(AsyncPass):
        async def setup(self, setup: FrameProcessorSetup) -> None:
            await super().setup(setup)
            await self.push_error("no route", fatal=True)

    first = Pass()
    task = PipelineTask(Pipeline([first, FailsToConnect()]))
    told = heard(task, "on_pipeline_error", "on_pipeline_finished")

    async def program() -> None:
        await task.run()

    run(program())
    assert told == [("on_pipeline_error", "ErrorFrame"), ("on_pipeline_finished", "CancelFrame")]


def test_a_setup_that_raises_ends_run_with_it() -> None:
    class Broken(AsyncPass):
        def setup(self, setup: FrameProcessorSetup) -> None:
            raise LookupError("no key")

    task = PipelineTask(Pipeline([AsyncPass(), Broken()]))

    async def program() -> None:
        with pytest.raises(LookupError):
            await task.run()
        assert task.has_finished()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(program())


# ---------------------------------------------------------------- events


@pytest.mark.parametrize(
    ("event", "frame"),
    [("on_pipeline_ended", EndFrame()), ("on_pipeline_stopped", StopFrame()), ("on_pipeline_cancelled", CancelFrame())],
)
def test_old_event_names_work_and_say_that_they_are_old(event: str, frame: Frame) -> None:
    task = PipelineTask(Pipeline([Pass()]))
    with pytest.warns(DeprecationWarning, match="on_pipeline_finished"):
        told = heard(task, "on_pipeline_finished", event)

    async def program(task: PipelineTask) -> None:
        await task.queue_frame(frame)

    drive(task, program)
    assert told == [("on_pipeline_finished", type(frame).__name__), (event, type(frame).__name__)]


def test_run_waits_for_the_handlers_of_its_last_event() -> None:
    done: list[str] = []
    task = PipelineTask(Pipeline([Pass()]))

    @task.event_handler("on_pipeline_finished")
    async def on_pipeline_finished(task: PipelineTask, frame: Frame) -> None:
        await asyncio.sleep(0.01)
        done.append("written")

    async def program(task: PipelineTask) -> None:
        await task.stop_when_done()
        await asyncio.sleep(0.05)

    drive(task, program)
    assert done == ["written"]


# ---------------------------------------------------------------- clean-up


def test_tasks_that_nobody_ended_are_named_and_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    class Leaks(AsyncPass):
        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, StartFrame):
                self.left = self.create_task(asyncio.sleep(3600), "forgotten")
                self.ended = self.create_task(asyncio.sleep(3600), "ended")
            await self.push_frame(frame, direction)

        async def cleanup(self) -> None:
            await super().cleanup()
            self.ended.cancel()

    leaks = Leaks(name="Leaks")
    drive(PipelineTask(Pipeline([leaks])), end)
    lines = [record.getMessage() for record in caplog.records if "dangling" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].endswith("Leaks::forgotten")
    assert leaks.left.cancelled()
    caplog.clear()
    drive(PipelineTask(Pipeline([Leaks()]), check_dangling_tasks=False), end)
    assert "dangling" not in caplog.text


def test_a_clean_up_that_does_not_end_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    class Hangs(AsyncPass):
        async def cleanup(self) -> None:
            await super().cleanup()
            await asyncio.sleep(3600)

    drive(PipelineTask(Pipeline([Hangs()]), cancel_timeout_secs=0.05), end)
    assert "task.cleanup_too_slow" in caplog.text


def test_tasks_are_made_by_a_task_manager_if_there_is_one() -> None:
    class Manager:
        def __init__(self) -> None:
            self.names: list[str] = []

        def create_task(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
            self.names.append(name)
            return asyncio.get_running_loop().create_task(coro, name=name)

    class Works(AsyncPass):
        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, StartFrame):
                await self.create_task(asyncio.sleep(0), "work")
            await self.push_frame(frame, direction)

    manager = Manager()
    works = Works(name="Works")
    drive(PipelineTask(Pipeline([works]), task_manager=manager), end)
    assert "Works::work" in manager.names


@pytest.mark.parametrize("last", [EndFrame, CancelFrame])
def test_a_finished_task_goes_without_the_collector(last: type[Frame]) -> None:
    class Sees(BaseObserver):
        async def on_push_frame(self, data: FramePushed) -> None:
            await asyncio.sleep(0)

    async def program() -> weakref.ref[PipelineTask]:
        params = PipelineParams(enable_heartbeats=True)
        task = PipelineTask(Pipeline([Pass(), AsyncPass()]), params=params, observers=[Sees()])
        heard(task, "on_pipeline_started", "on_pipeline_finished", "on_frame_reached_downstream")
        task.set_reached_downstream_filter((TextFrame,))
        running = asyncio.ensure_future(task.run())
        await turns()
        task.queue_frames([TextFrame("x"), last()])
        await running
        await turns()
        return weakref.ref(task)

    async def check() -> None:
        gc.collect()
        gc.disable()
        try:
            gone = await program()
            await turns()
            assert gone() is None
        finally:
            gc.enable()

    run(check())


# ---------------------------------------------------------------- what comes with later versions


def test_rtvi_is_there_for_whoever_asks_unless_it_was_turned_off() -> None:
    assert isinstance(PipelineTask(Pipeline([])).rtvi, RTVIProcessor)
    rtvi, first = Pass(), Pass()
    task = PipelineTask(Pipeline([first]), rtvi_processor=rtvi, rtvi_observer_params=RTVIObserverParams())
    assert task.rtvi is rtvi
    drive(task, end)
    assert labels(rtvi.seen) == labels(first.seen) == ["StartFrame", "EndFrame"]
    with pytest.raises(RuntimeError, match="enable_rtvi"):
        _ = PipelineTask(Pipeline([]), rtvi_processor=Pass(), enable_rtvi=False).rtvi


def test_tracing_parameters_are_kept() -> None:
    task = PipelineTask(
        Pipeline([]),
        conversation_id="customer-123",
        additional_span_attributes={"session.id": "abc-123"},
        enable_turn_tracking=False,
    )
    assert task.conversation_id == "customer-123"
    assert task.additional_span_attributes == {"session.id": "abc-123"}
    assert task.turn_tracking_observer is None
    assert task.turn_trace_observer is None
    assert PipelineTask(Pipeline([])).conversation_id != PipelineTask(Pipeline([])).conversation_id


# ---------------------------------------------------------------- the runtime's own offers


def test_interrupters_are_called_before_the_frame_travels() -> None:
    last = AsyncPass()
    order: list[str] = []

    class Wire(FrameProcessor):
        def setup(self, setup: FrameProcessorSetup) -> Any:
            self.handle = self.runtime.add_interrupter(  # type: ignore[attr-defined]
                lambda frame: order.append(f"{type(frame).__name__} behind {labels(last.seen)[-1]}")
            )
            return super().setup(setup)

        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            self.push_frame(frame, direction)

    wire = Wire()
    task = PipelineTask(Pipeline([last, wire]))

    async def program(task: PipelineTask) -> None:
        task.runtime.add_interrupter(lambda frame: 1 / 0)  # type: ignore[arg-type]
        await task.queue_frame(InterruptionFrame())
        assert labels(last.seen)[-1] == "InterruptionFrame"
        assert order == ["InterruptionFrame behind StartFrame"]
        wire.handle.cancel()
        wire.handle.cancel()
        await task.queue_frame(InterruptionFrame())
        assert len(order) == 1
        await task.stop_when_done()

    drive(task, program)


def test_tickers_tick_every_20_ms_and_nothing_ticks_without_them(caplog: pytest.LogCaptureFixture) -> None:
    task = PipelineTask(Pipeline([Pass()]))
    times: list[float] = []

    async def program(task: PipelineTask) -> None:
        runtime = task.runtime
        assert runtime._timer is None

        def fails(now: float) -> None:
            raise ValueError

        ticking, failing = runtime.add_ticker(times.append), runtime.add_ticker(fails)
        await asyncio.sleep(0.11)
        assert 3 <= len(times) <= 5
        assert all(later - sooner > 0.01 for sooner, later in itertools.pairwise(times))
        assert caplog.text.count("runtime.tick_failed") == len(times)
        failing.cancel()
        ticking.cancel()
        assert runtime._timer is None
        runtime.add_ticker(times.append)
        await task.stop_when_done()

    with caplog.at_level(logging.ERROR):
        drive(task, program)
    count = len(times)
    with suppress(asyncio.CancelledError):
        run(asyncio.sleep(0.03))
    assert len(times) == count
    assert task.runtime._timer is None


# ---------------------------------------------------------------- any order of things

FRAMES: dict[str, Callable[[], Frame]] = {
    "text": lambda: TextFrame("x"),
    "interruption": InterruptionFrame,
    "end": EndFrame,
    "stop": StopFrame,
    "cancel": CancelFrame,
    "end from inside": EndTaskFrame,
    "stop from inside": StopTaskFrame,
    "cancel from inside": CancelTaskFrame,
    "interruption from inside": InterruptionTaskFrame,
    "error": lambda: ErrorFrame("hiccup"),
    "fatal error": lambda: ErrorFrame("no credit", fatal=True),
}
STEPS = st.lists(st.tuples(st.sampled_from(sorted(FRAMES)), st.booleans(), st.sampled_from(["", "turn", "pause"])))


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, started=st.booleans(), asynchronous=st.lists(st.booleans(), min_size=1, max_size=3))
def test_any_order_of_frames_ends_once_and_leaves_nothing(
    steps: list[tuple[str, bool, str]], started: bool, asynchronous: list[bool]
) -> None:
    row = [AsyncPass() if waits else Pass() for waits in asynchronous]

    async def program() -> None:
        task = PipelineTask(Pipeline(list(row)), cancel_timeout_secs=5)
        told = heard(task, "on_pipeline_finished")
        running = asyncio.ensure_future(task.run())
        if started:
            await turns()
        for name, up, then in steps:
            if task.has_finished():
                break
            frame = FRAMES[name]()
            await task.queue_frame(frame, UP if up and not isinstance(frame, EndFrame | StopFrame) else DOWN)
            if then == "turn":
                await asyncio.sleep(0)
            elif then == "pause":
                await turns()
        await task.cancel()
        await running
        assert task.has_finished()
        # One that is cancelled before it begins tells nobody.
        assert [event for event, _ in told] == ["on_pipeline_finished"] * bool(row[0].seen)
        await turns()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(program())
    for processor in row:
        seen = processor.seen
        assert sum(isinstance(frame, StartFrame) for frame in seen) <= 1
        assert sum(isinstance(frame, EndFrame | StopFrame) for frame in seen) <= 1
        assert sum(isinstance(frame, CancelFrame) for frame in seen) <= 1


@pytest.mark.parametrize("loop", ["uvloop", "eager tasks"])
def test_on_other_loops(loop: str) -> None:
    class Sees(BaseObserver):
        seen = 0

        async def on_push_frame(self, data: FramePushed) -> None:
            self.seen += 1

    last, sees = AsyncPass(), Sees()

    async def program() -> None:
        if loop == "eager tasks":
            if not hasattr(asyncio, "eager_task_factory"):
                pytest.skip("from Python 3.12 on")
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        params = PipelineParams(enable_heartbeats=True, heartbeats_period_secs=0.01)
        task = PipelineTask(Pipeline([Pass(), last]), params, observers=[sees])
        told = heard(task, "on_pipeline_started", "on_pipeline_finished", "on_pipeline_error")
        await task.queue_frames([TextFrame("1"), TextFrame("2")])
        running = asyncio.ensure_future(task.run())
        await asyncio.sleep(0.03)
        await last.push_error("no credit", fatal=True)
        await running
        assert [event for event, _ in told] == ["on_pipeline_started", "on_pipeline_error", "on_pipeline_finished"]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    if loop == "uvloop":
        uvloop = pytest.importorskip("uvloop")

        async def limited() -> None:
            async with asyncio.timeout(10):
                await program()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(limited())
    else:
        run(program())
    texts = [label for label in labels(last.seen) if label != "HeartbeatFrame"]
    assert texts == ["StartFrame", "1", "2", "CancelFrame"]
    assert sees.seen == 3 * len(last.seen) + 2  # each frame three hops down, the error two up
