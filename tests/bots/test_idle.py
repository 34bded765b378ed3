"""Idle detection: one time stamp, one timer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bots.runtime import PipelineTask
from bots.watching import IdleWatch
from media.frames import (
    BotSpeakingFrame,
    EndFrame,
    Frame,
    OutputAudioRawFrame,
    TextFrame,
    TTSSpeakFrame,
    UserSpeakingFrame,
)
from media.pipeline import Pipeline
from media.processor import FrameDirection, FrameProcessor
from tests.media.rig import AsyncPass, Pass, VirtualRuntime, labels, turns
from tests.media.rig import run_on_virtual_time as run

UP = FrameDirection.UPSTREAM


class Louder(UserSpeakingFrame):
    """A kind of speaking."""


# ---------------------------------------------------------------- on virtual time


def watch(timeout_s: float = 5.0) -> tuple[VirtualRuntime, IdleWatch, list[float]]:
    runtime = VirtualRuntime()
    told: list[float] = []
    idle = IdleWatch(
        runtime, (BotSpeakingFrame, UserSpeakingFrame), timeout_s, lambda: told.append(runtime.now() - 100)
    )
    idle.start()
    return runtime, idle, told


def test_silence_is_told_after_the_timeout_and_again_after_each_further_one() -> None:
    runtime, _, told = watch()
    runtime.advance(4.999)
    assert told == []
    runtime.advance(10.5)
    assert told == [5.0, 10.0, 15.0]


@pytest.mark.parametrize("frame", [BotSpeakingFrame(), UserSpeakingFrame(), Louder()], ids=lambda f: type(f).__name__)
def test_speaking_begins_the_time_anew(frame: Frame) -> None:
    runtime, idle, told = watch()
    runtime.advance(4)
    idle.watch(frame)
    runtime.advance(4)
    idle.watch(frame)
    runtime.advance(4.9)
    assert told == []
    runtime.advance(0.2)
    assert told == [13.0]


def test_other_frames_do_not_count() -> None:
    runtime, idle, told = watch()
    runtime.advance(4)
    idle.watch(TextFrame("x"))
    runtime.advance(1)
    assert told == [5.0]


def test_one_timer_sleeps_through_however_much_is_said() -> None:
    runtime, idle, _ = watch()
    for _ in range(1000):
        idle.watch(BotSpeakingFrame())
    assert len(runtime._timers) == 1
    idle.stop()
    runtime.advance(100)
    assert runtime._timers == []


# ---------------------------------------------------------------- in a task


def task_of(*processors: FrameProcessor, **kwargs: Any) -> tuple[PipelineTask, list[str]]:
    task = PipelineTask(Pipeline(list(processors)), **kwargs)
    told: list[str] = []

    @task.event_handler("on_idle_timeout")
    async def on_idle_timeout(task: PipelineTask) -> None:
        told.append("idle")

    @task.event_handler("on_pipeline_finished")
    async def on_pipeline_finished(task: PipelineTask, frame: Frame) -> None:
        told.append(type(frame).__name__)

    return task, told


def test_an_idle_task_is_cancelled_when_the_handlers_have_run() -> None:
    task, told = task_of(Pass(), idle_timeout_secs=0.05)

    @task.event_handler("on_idle_timeout")
    async def goodbye(task: PipelineTask) -> None:
        await asyncio.sleep(0.02)
        told.append("goodbye")

    run(task.run())
    assert told == ["idle", "goodbye", "CancelFrame"]


def test_without_cancelling_it_is_told_again() -> None:
    task, told = task_of(Pass(), idle_timeout_secs=0.03, cancel_on_idle_timeout=False)

    async def program() -> None:
        running = asyncio.ensure_future(task.run())
        await asyncio.sleep(0.11)
        assert told == ["idle"] * 3
        await task.stop_when_done()
        await running

    run(program())


def test_the_defaults() -> None:
    task = PipelineTask(Pipeline([]))
    assert task._idle is not None
    assert task._idle._timeout_s == 300
    assert [task._idle.counts(cls) for cls in (BotSpeakingFrame, UserSpeakingFrame, TextFrame)] == [True, True, False]


@pytest.mark.parametrize("off", [{"idle_timeout_secs": None}, {"idle_timeout_frames": ()}])
def test_off_means_that_nothing_watches(off: dict[str, Any]) -> None:
    task, _ = task_of(Pass(), **off)

    async def program() -> None:
        running = asyncio.ensure_future(task.run())
        await turns()
        assert task._pipeline.flow.watch is None
        await task.stop_when_done()
        await running

    run(program())


def test_it_begins_when_start_has_come_through() -> None:
    class Slow(AsyncPass):
        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await asyncio.sleep(0.1)
            await super().process_frame(frame, direction)

    task, told = task_of(Slow(), idle_timeout_secs=0.05)

    async def program() -> None:
        running = asyncio.ensure_future(task.run())
        await asyncio.sleep(0.09)
        assert told == []
        await running

    run(program())
    assert told == ["idle", "CancelFrame"]


class Speaks(FrameProcessor):
    """Says so inside another push, as a turn rule does."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, OutputAudioRawFrame):
            self.push_frame(UserSpeakingFrame(), self.way)
        self.push_frame(frame, direction)

    way = FrameDirection.DOWNSTREAM


class SpeaksUp(Speaks):
    way = UP


@pytest.mark.parametrize("speaks", [Speaks, SpeaksUp])
def test_activity_is_seen_where_it_is_pushed_and_at_the_ends(speaks: type[Speaks]) -> None:
    task, told = task_of(Pass(), speaks(), Pass(), idle_timeout_secs=0.08)

    async def program() -> None:
        running = asyncio.ensure_future(task.run())
        for _ in range(8):
            await asyncio.sleep(0.02)
            await task.queue_frame(OutputAudioRawFrame(b"\0\0", 8000, 1))
        assert told == []
        await running

    run(program())
    assert told == ["idle", "CancelFrame"]


def test_frames_pushed_from_a_task_of_a_processor_count_though_nobody_passes_them_on() -> None:
    class Keeps(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if not isinstance(frame, BotSpeakingFrame):
                self.push_frame(frame, direction)

    first = Pass()
    task, told = task_of(first, Keeps(), idle_timeout_secs=0.08)

    async def program() -> None:
        running = asyncio.ensure_future(task.run())
        for _ in range(8):
            await asyncio.sleep(0.02)
            await first.push_frame(BotSpeakingFrame())
        assert told == []
        await running

    run(program())


def test_documented_custom_handling() -> None:
    """A goodbye instead of a cancel."""
    last = Pass()

    async def main() -> None:
        pipeline = Pipeline([last])
        task = PipelineTask(
            pipeline,
            idle_timeout_secs=0.05,  # 180 on the page
            cancel_on_idle_timeout=False,  # Don't auto-cancel
        )

        @task.event_handler("on_idle_timeout")
        async def on_idle_timeout(task: PipelineTask) -> None:
            # Add a farewell message
            await task.queue_frame(TTSSpeakFrame("I haven't heard from you in a while. Goodbye!"))
            # Then end the conversation gracefully
            await task.queue_frame(EndFrame())

        from bots.runner import PipelineRunner

        runner = PipelineRunner()
        await runner.run(task)

    run(main())
    assert labels(last.seen) == ["StartFrame", "I haven't heard from you in a while. Goodbye!", "EndFrame"]
