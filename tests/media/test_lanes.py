"""Async processors: two lanes, order, interruption, what a hand-driven coroutine may do."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bots.lanes
from bots.lanes import AsyncLanes, LoopRuntime
from media.frames import (
    CancelFrame,
    ControlFrame,
    DataFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    FrameProcessorPauseFrame,
    FrameProcessorPauseUrgentFrame,
    FrameProcessorResumeFrame,
    FrameProcessorResumeUrgentFrame,
    InputAudioRawFrame,
    InputTextRawFrame,
    InterruptionFrame,
    StartFrame,
    TextFrame,
    UninterruptibleFrame,
)
from media.pipeline import Pipeline
from media.processor import DONE, FrameDirection, FrameProcessor, FrameProcessorSetup
from tests.media.rig import AsyncPass, Call, LiveRuntime, Pass, Rig, labels, live, turns
from tests.media.rig import run_on_virtual_time as run

DOWN, UP = FrameDirection.DOWNSTREAM, FrameDirection.UPSTREAM


@dataclass
class Important(DataFrame, UninterruptibleFrame):
    text: str


def system(text: str) -> InputTextRawFrame:
    return InputTextRawFrame(text)


class Gated(FrameProcessor):
    """Waits for `gates[text]`, where there is one, before it passes a frame on; tells what happens in `log`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gates: dict[str, asyncio.Event] = {}
        self.log: list[str] = []

    def gate(self, *texts: str) -> None:
        for text in texts:
            self.gates[text] = asyncio.Event()

    def open(self, text: str) -> None:
        self.gates[text].set()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        (text,) = labels([frame])
        self.log.append(f"+{text}")
        try:
            if text in self.gates:
                await self.gates[text].wait()
        except asyncio.CancelledError:
            self.log.append(f"x{text}")
            raise
        await self.push_frame(frame, direction)
        self.log.append(f"-{text}")


def lanes_of(processor: FrameProcessor) -> AsyncLanes:
    lanes = processor._wiring.lanes
    assert isinstance(lanes, AsyncLanes)
    return lanes


# ---------------------------------------------------------------- who is async


def test_only_a_coroutine_function_gets_lanes() -> None:
    async def test() -> None:
        plain, waiting = Pass(), AsyncPass()
        assert (plain.is_async, waiting.is_async) == (False, True)
        async with live(plain, waiting):
            assert plain._wiring.lanes is None
            assert lanes_of(waiting)

    run(test())


def test_a_builtin_with_a_coroutine_as_callback_says_so_at_construction() -> None:
    class Filter(FrameProcessor):
        def __init__(self, keep: Callable[[Frame], Any]) -> None:
            super().__init__()
            self._keep = keep
            self._may_wait()

        def process_frame(self, frame: Frame, direction: FrameDirection) -> Any:
            if isinstance(frame, StartFrame | CancelFrame):
                super().process_frame(frame, direction)
                return self.push_frame(frame, direction)
            return self._decide(frame, direction)

        async def _decide(self, frame: Frame, direction: FrameDirection) -> None:
            if await self._keep(frame):
                await self.push_frame(frame, direction)

    async def slowly(frame: Frame) -> bool:
        await asyncio.sleep(0)
        return labels([frame]) != ["no"]

    class Users(Filter):
        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)

    async def test() -> None:
        for cls in (Filter, Users):
            async with live(cls(slowly)) as rig:
                for text in ("1", "no", "2"):
                    rig.push(TextFrame(text))
                rig.push(system("s"))
                await turns()
                assert rig.down() == ["s", "1", "2"]

    run(test())


# ---------------------------------------------------------------- two lanes


def test_a_system_frame_that_does_not_wait_is_done_when_the_push_returns() -> None:
    async def test() -> None:
        async with live(AsyncPass(), Pass(), AsyncPass()) as rig:
            rig.push(system("s"))
            assert rig.down() == ["s"]

    run(test())


def test_a_data_frame_always_waits_for_its_task() -> None:
    async def test() -> None:
        async with live(Pass(), AsyncPass()) as rig:
            rig.push(TextFrame("d"))
            assert rig.down() == []
            await turns(2)
            assert rig.down() == ["d"]

    run(test())


def test_a_system_frame_that_waits_goes_on_in_the_lanes_task() -> None:
    async def test() -> None:
        gated = Gated()
        gated.gate("s")
        async with live(gated) as rig:
            rig.push(system("s"))
            assert gated.log[-1] == "+s"  # begun inside the push
            await turns()
            assert rig.down() == []
            gated.open("s")
            await turns()
            assert rig.down() == ["s"]

    run(test())


def test_one_coroutine_at_a_time_in_each_lane() -> None:
    async def test() -> None:
        gated = Gated()
        gated.gate("s1", "d1")
        async with live(gated) as rig:
            rig.push(TextFrame("d1"))
            await turns()
            rig.push(TextFrame("d2"))
            rig.push(system("s1"))
            rig.push(system("s2"))
            await turns()
            assert gated.log[2:] == ["+d1", "+s1"]
            gated.open("s1")
            await turns()
            assert gated.log[2:] == ["+d1", "+s1", "-s1", "+s2", "-s2"]
            gated.open("d1")
            await turns()
            assert rig.down() == ["s1", "s2", "d1", "d2"]

    run(test())


def test_system_frames_keep_their_order_and_overtake_queued_data() -> None:
    async def test() -> None:
        gated = Gated()
        gated.gate("s1")
        async with live(gated) as rig:
            for frame in (TextFrame("d1"), system("s1"), TextFrame("d2"), system("s2"), system("s3"), TextFrame("d3")):
                rig.push(frame)
            gated.open("s1")
            await turns()
            assert rig.down() == ["s1", "s2", "s3", "d1", "d2", "d3"]

    run(test())


def test_the_data_lane_begins_no_frame_while_the_system_lane_is_busy() -> None:
    async def test() -> None:
        gated = Gated()
        gated.gate("s", "d1")
        async with live(gated) as rig:
            rig.push(TextFrame("d1"))
            await turns()
            rig.push(TextFrame("d2"))
            rig.push(system("s"))
            gated.open("d1")  # the one in hand goes on
            await turns()
            assert rig.down() == ["d1"]
            gated.open("s")
            await turns()
            assert rig.down() == ["d1", "s", "d2"]

    run(test())


def test_data_and_control_frames_share_one_order() -> None:
    class Boundary(ControlFrame):
        text = "boundary"

    async def test() -> None:
        async with live(AsyncPass()) as rig:
            for frame in (TextFrame("1"), Boundary(), TextFrame("2"), EndFrame()):
                rig.push(frame)
            await turns()
            assert rig.down() == ["1", "boundary", "2", "EndFrame"]

    run(test())


def test_a_frame_of_neither_family_is_data() -> None:
    class Odd(Frame):
        text = "odd"

    async def test() -> None:
        async with live(AsyncPass()) as rig:
            rig.push(Odd())
            rig.push(system("s"))
            assert rig.down() == ["s"]
            await turns()
            assert rig.down() == ["s", "odd"]

    run(test())


def test_upstream_frames_use_the_same_lanes() -> None:
    async def test() -> None:
        async with live(Pass(), AsyncPass(), Pass()) as rig:
            rig.push(TextFrame("d"), UP)
            rig.push(system("s"), UP)
            assert rig.up() == ["s"]
            await turns()
            assert rig.up() == ["s", "d"]

    run(test())


def test_code_after_push_frame_runs_after_inline_processors_and_before_async_ones() -> None:
    order: list[str] = []

    class Tells(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            await self.push_frame(frame, direction)
            if isinstance(frame, TextFrame):
                order.append("after")

    async def test() -> None:
        def note(name: str) -> Call:
            return Call(lambda _, frame: order.append(name) if isinstance(frame, TextFrame) else None)

        async with live(Tells(), note("inline"), AsyncPass(), note("behind async")) as rig:
            rig.push(TextFrame("x"))
            await turns()
            assert order == ["inline", "after", "behind async"]

    run(test())


def test_a_system_frame_that_comes_back_while_one_is_in_hand_waits_its_turn() -> None:
    """Re-entry from below: the processor is never entered twice."""
    depth: list[int] = []

    class Counts(FrameProcessor):
        inside = 0

        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            self.inside += 1
            depth.append(self.inside)
            await self.push_frame(frame, direction)
            self.inside -= 1

    async def test() -> None:
        counts = Counts()
        back = Call(lambda _, frame: counts.queue_frame(system("again")) if labels([frame]) == ["s"] else None)
        async with live(counts, back) as rig:
            rig.push(system("s"))
            assert rig.down() == ["s", "again"]
            assert set(depth) == {1}

    run(test())


def test_an_overflowing_lane_drops_ordinary_frames_and_counts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bots.lanes, "QUEUE_LIMIT", 3)

    async def test() -> None:
        gated = Gated()
        gated.gate("s")
        async with live(gated) as rig:
            for text in ("1", "2", "3", "lost", "lost"):
                rig.push(TextFrame(text))
            rig.push(Important("kept"))
            rig.push(system("s"))
            for text in ("s1", "s2", "s3", "s4"):
                rig.push(system(text))
            rig.push(InputAudioRawFrame(b"", 8000, 1))  # of system frames, only audio may be lost
            assert lanes_of(gated).overflowed == 3
            gated.open("s")
            await turns(20)
            assert rig.down() == ["s", "s1", "s2", "s3", "s4", "1", "2", "3", "kept"]
            assert caplog.text.count("lane.overflow") == 2  # once per lane

    run(test())


# ---------------------------------------------------------------- stepping by hand


def test_the_lanes_task_is_the_current_one_while_stepping_by_hand() -> None:
    async def test() -> None:
        tasks: list[Any] = []

        class Who(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if isinstance(frame, StartFrame):
                    return
                tasks.append(asyncio.current_task())
                await asyncio.sleep(0)
                tasks.append(asyncio.current_task())

        who = Who()
        async with live(who) as rig:
            mine = asyncio.current_task()
            rig.push(system("s"))
            assert asyncio.current_task() is mine
            await turns()
            assert tasks == [lanes_of(who).system.task] * 2

    run(test())


def test_stepping_from_a_loop_callback_where_no_task_runs() -> None:
    async def test() -> None:
        async with live(AsyncPass()) as rig:
            asyncio.get_running_loop().call_soon(rig.push, system("s"))
            await turns()
            assert rig.down() == ["s"]

    run(test())


@pytest.mark.parametrize("seconds", [0.0, 0.01])
def test_a_timeout_inside_a_processor_does_not_hit_the_pusher(seconds: float) -> None:
    async def test() -> None:
        class Times(FrameProcessor):
            outcome = ""

            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if isinstance(frame, StartFrame):
                    return
                try:
                    async with asyncio.timeout(seconds):
                        await asyncio.sleep(10)
                except TimeoutError:
                    self.outcome += "timed out "
                await self.push_frame(frame, direction)

        times = Times()
        async with live(times) as rig:
            rig.push(system("s"))
            rig.push(TextFrame("d"))
            await asyncio.sleep(seconds * 4 + 0.02)  # the pusher is not cancelled
            assert times.outcome == "timed out timed out "
            assert rig.down() == ["s", "d"]
            rig.push(system("t"))
            await asyncio.sleep(seconds * 2 + 0.02)
            assert rig.down() == ["s", "d", "t"]

    run(test())


def test_wait_for_and_task_groups_inside_a_hand_driven_step() -> None:
    async def test() -> None:
        class Uses(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if not isinstance(frame, StartFrame):
                    assert await asyncio.wait_for(asyncio.sleep(0, "slept"), 1) == "slept"
                    async with asyncio.TaskGroup() as group:
                        group.create_task(asyncio.sleep(0))
                    await asyncio.gather(self.push_frame(frame), asyncio.sleep(0))

        async with live(Uses()) as rig:
            rig.push(system("s"))
            await turns(20)
            assert rig.down() == ["s"]

    run(test())


def test_a_context_variable_set_by_hand_can_be_reset_after_the_wait() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")

    async def test() -> None:
        class Scoped(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if isinstance(frame, StartFrame):
                    return
                token = variable.set("inside")
                await asyncio.sleep(0)
                assert variable.get() == "inside"
                variable.reset(token)  # raises in another context
                await self.push_frame(frame, direction)

        async with live(Scoped()) as rig:
            rig.push(system("s"))
            assert variable.get() == "outside"
            await turns()
            assert rig.down() == ["s"]
            assert rig.risen == []

    run(test())


def test_a_future_that_another_task_awaits_in_between() -> None:
    async def test() -> None:
        shared: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        class Waits(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if not isinstance(frame, StartFrame):
                    await self.push_frame(TextFrame(await shared))

        async def other() -> str:
            return await shared

        async with live(Waits()) as rig:
            task = asyncio.create_task(other())  # its first step comes before that of the lane's task
            rig.push(system("s"))
            await turns()
            shared.set_result("result")
            assert await task == "result"
            await turns()
            assert rig.down() == ["result"]
            assert rig.risen == []

    run(test())


def test_a_coroutine_that_awaits_something_cancelled_ends_its_frame_not_its_lane() -> None:
    async def test() -> None:
        async def forever() -> None:
            await asyncio.sleep(10)

        class Awaits(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if labels([frame]) == ["bad"]:
                    task = asyncio.create_task(forever())
                    asyncio.get_running_loop().call_soon(task.cancel)
                    await task
                await self.push_frame(frame, direction)

        async with live(Awaits()) as rig:
            for frame in (system("bad"), system("s"), TextFrame("bad"), TextFrame("d")):
                rig.push(frame)
            await turns(20)
            assert rig.down() == ["s", "d"]

    run(test())


def test_six_in_a_row_by_hand() -> None:
    async def test() -> None:
        processors = [AsyncPass() for _ in range(6)]
        async with live(*processors) as rig:
            rig.push(system("s"))
            assert rig.down() == ["s"]
            assert asyncio.current_task() is not None
            rig.push(TextFrame("d"))
            await turns(12)
            assert rig.down() == ["s", "d"]

    run(test())


# ---------------------------------------------------------------- interruption


def test_an_interruption_purges_as_it_arrives_not_as_it_is_processed() -> None:
    async def test() -> None:
        gated = Gated()
        gated.gate("s", "d1")
        async with live(gated) as rig:
            rig.push(TextFrame("d1"))
            await turns()
            for frame in (TextFrame("d2"), Important("u"), TextFrame("d3")):
                rig.push(frame)
            rig.push(system("s"))  # the system lane is busy with this
            rig.push(InterruptionFrame())
            assert lanes_of(gated).queued == 2  # the interruption itself, and what is uninterruptible
            await turns()
            assert "xd1" in gated.log
            rig.push(TextFrame("d4"))
            gated.open("s")
            await turns()
            assert rig.down() == ["s", "InterruptionFrame", "u", "d4"]

    run(test())


def test_uninterruptible_frames_stay_in_their_order() -> None:
    async def test() -> None:
        gated = Gated()
        gated.gate("d")
        async with live(gated) as rig:
            rig.push(TextFrame("d"))
            await turns()
            for frame in (Important("1"), TextFrame("lost"), Important("2"), EndFrame()):
                rig.push(frame)
            rig.push(InterruptionFrame())
            await turns()
            assert rig.down() == ["InterruptionFrame", "1", "2", "EndFrame"]

    run(test())


def test_an_uninterruptible_frame_in_hand_is_left_to_finish() -> None:
    async def test() -> None:
        gated = Gated()
        gated.gate("u")
        async with live(gated) as rig:
            rig.push(Important("u"))
            await turns()
            rig.push(TextFrame("lost"))
            rig.push(InterruptionFrame())
            await turns()
            assert "xu" not in gated.log
            gated.open("u")
            await turns()
            assert rig.down() == ["InterruptionFrame", "u"]

    run(test())


def test_the_lane_survives_its_own_cancel() -> None:
    async def test() -> None:
        gated = Gated()
        async with live(gated) as rig:
            task = lanes_of(gated).data.task
            for number in range(5):
                gated.gate(f"{number}")
                rig.push(TextFrame(f"{number}"))
                await turns()
                rig.push(InterruptionFrame())
                await turns()
            rig.push(TextFrame("after"))
            await turns()
            assert rig.down() == ["InterruptionFrame"] * 5 + ["after"]
            assert lanes_of(gated).data.task is task
            assert task.cancelling() == 0

    run(test())


def test_two_interruptions_at_once_are_one_cancel_too_many_for_nobody() -> None:
    async def test() -> None:
        gated = Gated()
        gated.gate("d")
        async with live(gated) as rig:
            rig.push(TextFrame("d"))
            await turns()
            rig.push(InterruptionFrame())
            rig.push(InterruptionFrame())
            rig.push(TextFrame("after"))
            await turns()
            assert rig.down() == ["InterruptionFrame", "InterruptionFrame", "after"]

    run(test())


def test_a_coroutine_that_ended_before_the_cancel_could_land_does_not_kill_the_next_frame() -> None:
    async def test() -> None:
        class Interrupts(FrameProcessor):
            """Its own data frame brings an interruption down upon it, and ends without another wait."""

            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if labels([frame]) == ["go"]:
                    rig.push(InterruptionFrame())
                    return
                if isinstance(frame, TextFrame):
                    await asyncio.sleep(0)  # here a left-over cancel would hit
                await self.push_frame(frame, direction)

        async with live(Interrupts()) as rig:
            rig.push(TextFrame("go"))
            await turns()
            rig.push(TextFrame("next"))
            await turns()
            assert rig.down() == ["InterruptionFrame", "next"]

    run(test())


def test_what_a_cancelled_coroutine_pushes_is_dropped_unless_it_must_arrive() -> None:
    async def test() -> None:
        class Clings(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if labels([frame]) == ["d"]:
                    try:
                        await asyncio.sleep(10)
                    finally:
                        await self.push_frame(TextFrame("stale"))
                        await self.push_frame(TextFrame("stale"), UP)
                        await self.push_frame(Important("kept"))
                        await self.push_frame(system("system"))
                await self.push_frame(frame, direction)

        clings = Clings()
        async with live(clings) as rig:
            rig.push(TextFrame("d"))
            await turns()
            rig.push(InterruptionFrame())
            rig.push(TextFrame("after"))
            await turns()
            assert rig.down() == ["InterruptionFrame", "kept", "system", "after"]
            assert rig.risen == []
            assert lanes_of(clings).dropped == 2
            assert clings._downlink == rig.pipeline._row.bottom.process_frame  # the guard is gone

    run(test())


def test_the_system_lane_may_push_while_the_data_lane_is_dying() -> None:
    async def test() -> None:
        class Answers(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if labels([frame]) == ["d"]:
                    await asyncio.sleep(10)
                elif isinstance(frame, InterruptionFrame):
                    await self.push_frame(TextFrame("sorry"))
                else:
                    await self.push_frame(frame, direction)

        async with live(Answers()) as rig:
            rig.push(TextFrame("d"))
            await turns()
            rig.push(InterruptionFrame())
            assert rig.down() == ["sorry"]

    run(test())


def test_a_coroutine_that_swallows_the_cancel_holds_the_lane_up_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bots.lanes, "CANCEL_LIMIT_S", 0.05)

    async def test() -> None:
        release = asyncio.Event()

        class Stubborn(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if labels([frame]) == ["d"]:
                    while not release.is_set():
                        with contextlib.suppress(asyncio.CancelledError):
                            await release.wait()
                    await self.push_frame(TextFrame("stale"))
                else:
                    await self.push_frame(frame, direction)

        stubborn = Stubborn()
        async with live(stubborn) as rig:
            rig.push(TextFrame("d"))
            await turns()
            rig.push(InterruptionFrame())
            rig.push(TextFrame("after"))
            await turns()
            assert rig.down() == ["InterruptionFrame"]
            await asyncio.sleep(0.1)
            assert rig.down() == ["InterruptionFrame", "after"]
            assert "lane.cancel_ignored" in caplog.text
            release.set()
            await turns()
            assert rig.down() == ["InterruptionFrame", "after"]
            assert lanes_of(stubborn).dropped == 1
            rig.push(TextFrame("more"))
            await turns()
            assert rig.down()[-1] == "more"

    assert bots.lanes.CANCEL_LIMIT_S == 0.05
    run(test())


def test_the_limit_for_a_swallowed_cancel_is_one_second() -> None:
    assert bots.lanes.CANCEL_LIMIT_S == 1.0


def test_a_cancel_that_is_swallowed_at_once_costs_nothing_to_the_next_frame() -> None:
    async def test() -> None:
        class Swallows(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if labels([frame]) == ["d"]:
                    try:
                        await asyncio.sleep(10)
                    except asyncio.CancelledError:
                        return
                await asyncio.sleep(0)
                await self.push_frame(frame, direction)

        async with live(Swallows()) as rig:
            rig.push(TextFrame("d"))
            await turns()
            rig.push(InterruptionFrame())
            rig.push(TextFrame("after"))
            await turns()
            assert rig.down() == ["InterruptionFrame", "after"]

    run(test())


def test_a_processor_that_interrupts_from_inside_only_purges_its_queue() -> None:
    async def test() -> None:
        class Interrupts(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if labels([frame]) == ["go"]:
                    await asyncio.sleep(0)
                    await self.broadcast_interruption()
                    await asyncio.sleep(0)  # not cancelled
                await self.push_frame(frame, direction)

        async with live(Pass(), Interrupts(), Pass()) as rig:
            rig.push(TextFrame("go"))
            rig.push(TextFrame("queued"))
            rig.push(Important("kept"))
            await turns()
            assert rig.down() == ["InterruptionFrame", "go", "kept"]
            assert rig.up() == ["InterruptionFrame"]
            assert len(rig.runtime.interruptions) == 1

    run(test())


def test_one_interruption_passes_all_async_processors_inside_the_push() -> None:
    async def test() -> None:
        async with live(AsyncPass(), AsyncPass(), AsyncPass()) as rig:
            for number in range(3):
                rig.push(TextFrame(f"{number}"))
            rig.push(InterruptionFrame())
            assert rig.down() == ["InterruptionFrame"]
            await turns(20)
            assert rig.down() == ["InterruptionFrame"]

    run(test())


# ---------------------------------------------------------------- cancel, handshake, errors


def test_cancel_drops_everything_and_nothing_behind_it_is_taken() -> None:
    async def test() -> None:
        gated = Gated()
        gated.gate("u")
        async with live(gated) as rig:
            rig.push(Important("u"))
            await turns()
            rig.push(TextFrame("queued"))
            rig.push(Important("queued"))
            rig.push(CancelFrame())
            assert rig.down() == ["CancelFrame"]
            rig.push(system("ignored"))
            rig.push(TextFrame("ignored"))
            await turns()
            assert "xu" in gated.log
            assert rig.down() == ["CancelFrame"]

    run(test())


def test_an_async_processor_opens_when_the_base_has_seen_start(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        class Hasty(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                if isinstance(frame, StartFrame):
                    await self.push_frame(TextFrame("too early"))
                await super().process_frame(frame, direction)
                await self.push_frame(frame, direction)

        hasty = Hasty()
        rig = Rig([hasty], LiveRuntime())
        rig.push(StartFrame())
        assert rig.down() == ["StartFrame"]
        assert "processor.not_started" in caplog.text
        await rig.pipeline.close()
        await rig.runtime.close()

    run(test())


def test_an_async_processor_that_never_calls_the_base_stays_closed(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        class Forgets(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await self.push_frame(frame, direction)

        async with live(Forgets()) as rig:
            rig.push(system("s"))
            assert rig.sunk == []
            assert "processor.not_started" in caplog.text

    run(test())


@pytest.mark.parametrize("when", ["by hand", "in the system task", "in the data task"])
def test_an_exception_in_a_lane_loses_one_frame(when: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        class Breaks(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if labels([frame]) == ["bad"]:
                    if when != "by hand":
                        await asyncio.sleep(0)
                    raise ValueError("broken")
                await self.push_frame(frame, direction)

        broken = Breaks()
        make: Any = TextFrame if when == "in the data task" else system
        async with live(Pass(), broken) as rig:
            rig.push(make("bad"))
            rig.push(make("good"))
            await turns()
            assert rig.down() == ["good"]
            (error,) = rig.risen
            assert isinstance(error, ErrorFrame)
            assert error.processor is broken
            assert isinstance(error.exception, ValueError)
            assert "broken" in caplog.text

    run(test())


def test_an_exception_while_dying_is_reported_and_the_lane_goes_on() -> None:
    async def test() -> None:
        class Breaks(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if labels([frame]) == ["d"]:
                    try:
                        await asyncio.sleep(10)
                    finally:
                        raise ValueError("in the clean-up")
                await self.push_frame(frame, direction)

        async with live(Breaks()) as rig:
            rig.push(TextFrame("d"))
            await turns()
            rig.push(InterruptionFrame())
            rig.push(TextFrame("after"))
            await turns()
            assert rig.down() == ["InterruptionFrame", "after"]
            assert rig.up() == ["ErrorFrame"]

    run(test())


# ---------------------------------------------------------------- pause


def test_a_paused_async_processor_holds_data_and_takes_system_frames() -> None:
    async def test() -> None:
        paused = AsyncPass()
        async with live(paused) as rig:
            rig.push(TextFrame("0"))
            rig.push(FrameProcessorPauseFrame(processor=paused))  # in order
            rig.push(TextFrame("1"))
            await turns()
            rig.push(system("s"))
            assert rig.down() == ["0", "FrameProcessorPauseFrame", "s"]
            rig.push(FrameProcessorResumeFrame(processor=paused))  # stands behind "1"
            await turns()
            assert len(rig.sunk) == 3
            rig.push(FrameProcessorResumeUrgentFrame(processor=paused))
            await turns()
            assert rig.down()[3:] == ["FrameProcessorResumeUrgentFrame", "1", "FrameProcessorResumeFrame"]

    run(test())


def test_an_urgent_pause_stops_before_the_next_queued_frame() -> None:
    async def test() -> None:
        paused = AsyncPass()
        async with live(paused) as rig:
            rig.push(TextFrame("1"))
            rig.push(FrameProcessorPauseUrgentFrame(processor=paused))
            await turns()
            assert rig.down() == ["FrameProcessorPauseUrgentFrame"]
            paused.resume_processing_frames()
            await turns()
            assert rig.down()[1:] == ["1"]

    run(test())


def test_an_ordinary_resume_with_nothing_queued_resumes_an_async_processor() -> None:
    async def test() -> None:
        paused = AsyncPass()
        async with live(paused) as rig:
            paused.pause_processing_frames()
            rig.push(FrameProcessorResumeFrame(processor=paused))
            rig.push(TextFrame("1"))
            await turns()
            assert rig.down() == ["FrameProcessorResumeFrame", "1"]

    run(test())


def test_an_async_processor_pauses_itself_and_stops_the_replay_when_paused_again() -> None:
    async def test() -> None:
        class Speaks(FrameProcessor):
            """As a TTS does: one utterance at a time, the next when a system frame says so."""

            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if isinstance(frame, TextFrame):
                    await self.pause_processing_frames()
                elif isinstance(frame, InputTextRawFrame):
                    await self.resume_processing_frames()
                await self.push_frame(frame, direction)

        async with live(Speaks()) as rig:
            for text in "123":
                rig.push(TextFrame(text))
            await turns()
            assert rig.down() == ["1"]
            rig.push(system("stopped"))
            await turns()
            assert rig.down() == ["1", "stopped", "2"]

    run(test())


def test_an_interruption_resumes_a_paused_async_processor() -> None:
    async def test() -> None:
        paused = AsyncPass()
        async with live(paused) as rig:
            paused.pause_processing_frames()
            rig.push(TextFrame("lost"))
            rig.push(Important("kept"))
            rig.push(InterruptionFrame())
            rig.push(TextFrame("after"))
            await turns()
            assert rig.down() == ["InterruptionFrame", "kept", "after"]

    run(test())


# ---------------------------------------------------------------- direct mode, set-up by hand, push_frame of the user's


def test_direct_mode_drives_both_lanes_by_hand() -> None:
    async def test() -> None:
        gated = Gated(enable_direct_mode=True)
        gated.gate("wait")
        async with live(gated) as rig:
            rig.push(TextFrame("1"))
            rig.push(system("s"))
            assert rig.down() == ["1", "s"]
            rig.push(TextFrame("wait"))
            rig.push(TextFrame("2"))
            await turns()
            assert rig.down() == ["1", "s"]
            gated.open("wait")
            await turns()
            assert rig.down() == ["1", "s", "wait", "2"]
            rig.push(TextFrame("3"))
            assert rig.down()[-1] == "3"

    run(test())


def test_direct_mode_survives_an_interruption_from_inside() -> None:
    async def test() -> None:
        class Interrupts(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if labels([frame]) == ["go"]:
                    rig.push(InterruptionFrame())
                await self.push_frame(frame, direction)

        async with live(Interrupts(enable_direct_mode=True)) as rig:
            rig.push(TextFrame("go"))
            await turns()
            rig.push(TextFrame("next"))
            await turns()
            assert rig.down() == ["InterruptionFrame", "next"]

    run(test())


def test_a_set_up_with_clock_and_task_manager_alone_attaches_the_lanes() -> None:
    class Tasks:
        def __init__(self) -> None:
            self.made = LoopRuntime()

        def runtime(self, clock: Any) -> LoopRuntime:
            return self.made

    async def test() -> None:
        first, second, tasks = AsyncPass(), Pass(), Tasks()
        first.link(second)
        setup = FrameProcessorSetup(clock=None, task_manager=tasks)
        for processor in (first, second):
            await processor.setup(setup)
        await first.queue_frame(StartFrame())
        await first.queue_frame(system("s"))
        await first.queue_frame(TextFrame("d"))
        await turns()
        assert labels(second.seen) == ["StartFrame", "s", "d"]
        assert first.task_manager is tasks
        await first.cleanup()
        await second.cleanup()

    run(test())


def test_a_users_async_push_frame_over_a_plain_builtin_is_driven_in_order() -> None:
    async def test() -> None:
        class Slowly(Pass):
            async def push_frame(self, frame: Frame, direction: FrameDirection = DOWN) -> None:
                if labels([frame]) == ["slow"]:
                    await asyncio.sleep(0)
                await super().push_frame(frame, direction)

        async with live(Slowly()) as rig:
            rig.push(TextFrame("1"))
            assert rig.down() == ["1"]  # by hand: done inside the push
            for frame in (TextFrame("slow"), TextFrame("2"), system("s")):
                rig.push(frame)
            assert rig.down() == ["1", "s"]
            await turns()
            assert rig.down() == ["1", "s", "slow", "2"]

    run(test())


def test_an_exception_in_a_users_push_frame_becomes_an_error_frame() -> None:
    async def test() -> None:
        class Breaks(Pass):
            async def push_frame(self, frame: Frame, direction: FrameDirection = DOWN) -> None:
                if labels([frame]) == ["bad"]:
                    raise ValueError("in push_frame")
                await super().push_frame(frame, direction)

        async with live(Breaks()) as rig:
            rig.push(TextFrame("bad"))
            rig.push(TextFrame("good"))
            assert rig.down() == ["good"]
            assert rig.up() == ["ErrorFrame"]

    run(test())


def test_an_async_processors_own_push_frame_is_left_as_it_is() -> None:
    async def test() -> None:
        class Both(AsyncPass):
            async def push_frame(self, frame: Frame, direction: FrameDirection = DOWN) -> None:
                await asyncio.sleep(0)
                await super().push_frame(frame, direction)

        async with live(Both()) as rig:
            rig.push(TextFrame("1"))
            rig.push(TextFrame("2"))
            await turns()
            assert rig.down() == ["1", "2"]

    run(test())


# ---------------------------------------------------------------- set-up, clean-up, tasks


def test_set_ups_that_wait_are_begun_by_bind_and_awaited_by_its_result() -> None:
    async def test() -> None:
        done: list[str] = []

        class Connects(FrameProcessor):
            async def setup(self, setup: FrameProcessorSetup) -> None:
                await super().setup(setup)
                done.append("begun")
                await asyncio.sleep(0)
                done.append("connected")

        class Quick(FrameProcessor):
            async def setup(self, setup: FrameProcessorSetup) -> None:
                await super().setup(setup)
                done.append("quick")

        rig = Rig([Connects(), Quick()], LiveRuntime())
        assert done == ["begun", "quick"]
        await rig.bound
        assert done[-1] == "connected"
        assert Rig([Quick()], LiveRuntime()).bound is DONE

    run(test())


def test_close_cleans_up_and_leaves_no_task() -> None:
    async def test() -> None:
        cleaned: list[str] = []

        class Cleans(AsyncPass):
            async def cleanup(self) -> None:
                await super().cleanup()
                await asyncio.sleep(0)
                cleaned.append("async")

        class Forgets(AsyncPass):
            async def cleanup(self) -> None:
                cleaned.append("without the base")

        async with live(Cleans(), Pass(), Forgets()) as rig:
            rig.push(TextFrame("x"))
            await turns()
        assert cleaned == ["async", "without the base"]  # `live` looks for tasks that are left

    run(test())


def test_close_cancels_what_is_in_hand() -> None:
    async def test() -> None:
        gated = Gated()
        gated.gate("s", "d")
        async with live(gated) as rig:
            rig.push(TextFrame("d"))
            await turns()
            rig.push(system("s"))  # begun by hand, and not yet taken over by its task
        assert gated.log[-2:] == ["xs", "xd"] or gated.log[-2:] == ["xd", "xs"]

    run(test())


def test_a_real_cancel_of_a_lane_ends_it() -> None:
    """As when the whole loop is shut down: the lane must not take it for an interruption."""

    async def test() -> None:
        gated = Gated()
        gated.gate("d")
        rig = Rig([gated], LiveRuntime())
        rig.push(StartFrame())
        rig.push(TextFrame("d"))
        await turns()
        rig.push(InterruptionFrame())
        lanes = lanes_of(gated)
        for lane in (lanes.data, lanes.system):
            lane.task.cancel()
        await turns()
        assert lanes.data.task.cancelled()
        assert lanes.system.task.cancelled()

    run(test())


def test_tasks_of_a_processor_bear_its_name_and_can_be_cancelled() -> None:
    async def test() -> None:
        processor = Pass(name="speaker")

        async def speak() -> None:
            await asyncio.sleep(10)

        async with live(processor) as rig:
            task = processor.create_task(speak())
            named = processor.create_task(speak(), "named")
            assert (task.get_name(), named.get_name()) == ("speaker::speak", "speaker::named")
            assert rig.runtime.tasks == {task, named}
            await processor.cancel_task(task)
            assert task.cancelled()
            processor.cancel_task(named)  # not awaited: cancelled all the same
            await turns()
            assert named.cancelled()
            assert rig.runtime.tasks == set()

    run(test())


def test_cancelling_a_task_that_will_not_end_is_bounded() -> None:
    async def test() -> None:
        processor = Pass()
        release = asyncio.Event()

        async def clings() -> None:
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await release.wait()

        async with live(processor):
            task = processor.create_task(clings())
            await turns()
            await processor.cancel_task(task, timeout=0.02)
            assert not task.done()
            release.set()
            await task

    run(test())


def test_what_a_task_raises_is_logged_and_goes_no_further(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        processor = Pass(name="p")

        async def fails() -> None:
            raise ValueError("in a task")

        async with live(processor) as rig:
            processor.create_task(fails())
            await turns()
            assert rig.runtime.tasks == set()
        assert "task.failed task=p::fails" in caplog.text

    run(test())


def test_a_task_may_close_the_pipeline_it_runs_in() -> None:
    async def test() -> None:
        processor = Pass()
        rig = Rig([processor], LiveRuntime())

        async def ends() -> None:
            await rig.pipeline.close()
            await rig.runtime.settle(rig.runtime.tasks)

        await processor.create_task(ends())

    run(test())


def test_pushing_from_a_task_is_a_push_of_its_own() -> None:
    async def test() -> None:
        processor = Pass()

        async def speaks() -> None:
            await processor.push_frame(TextFrame("1"))
            await asyncio.sleep(0)
            await processor.push_frame(InputTextRawFrame("up"), UP)

        async with live(Pass(), processor, Pass()) as rig:
            await processor.create_task(speaks())
            assert rig.down() == ["1"]
            assert rig.up() == ["up"]

    run(test())


def test_hooks_of_an_async_processor_run_in_its_lane() -> None:
    async def test() -> None:
        order: list[str] = []
        gated = Gated()

        @gated.event_handler("on_before_process_frame")
        async def before(processor: FrameProcessor, frame: Frame) -> None:
            await asyncio.sleep(0)
            order.append(f"before {labels([frame])[0]}")

        @gated.event_handler("on_after_process_frame")
        def after(processor: FrameProcessor, frame: Frame) -> None:
            order.append(f"after {labels([frame])[0]}")

        async with live(gated) as rig:
            order.clear()
            rig.push(TextFrame("d"))
            await turns()
            rig.push(system("s"))
            await turns()
            assert order == ["before d", "after d", "before s", "after s"]
            assert rig.down() == ["d", "s"]

    run(test())


def test_an_eager_task_factory_changes_nothing() -> None:
    factory = getattr(asyncio, "eager_task_factory", None)
    if factory is None:
        pytest.skip("from Python 3.12 on")

    async def test() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        gated = Gated()
        gated.gate("s", "d")
        async with live(Pass(), gated) as rig:
            rig.push(TextFrame("d"))
            rig.push(TextFrame("d2"))
            await turns()
            rig.push(system("s"))
            rig.push(InterruptionFrame())
            gated.open("s")
            rig.push(TextFrame("after"))
            await turns()
            assert rig.down() == ["s", "InterruptionFrame", "after"]

    run(test())


def test_on_uvloop_too() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def test() -> None:
        gated = Gated()
        gated.gate("s", "d")
        async with live(gated) as rig:
            rig.push(TextFrame("d"))
            await turns()
            rig.push(system("s"))
            rig.push(InterruptionFrame())
            rig.push(TextFrame("after"))
            gated.open("s")
            await turns()
            assert rig.down() == ["s", "InterruptionFrame", "after"]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


def test_without_a_loop_an_async_processor_cannot_be_bound() -> None:
    with pytest.raises(RuntimeError, match="no running event loop"):
        Pipeline([AsyncPass()]).bind(LoopRuntime())


def test_logging_names_no_text(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bots.lanes, "QUEUE_LIMIT", 1)
    caplog.set_level(logging.DEBUG)

    async def test() -> None:
        async with live(AsyncPass()) as rig:
            for _ in range(3):
                rig.push(TextFrame("4929123456"))
            await turns()

    run(test())
    assert "lane.overflow" in caplog.text
    assert "4929123456" not in caplog.text


# ---------------------------------------------------------------- any sequence


class Wanders(FrameProcessor):
    """Waits as many turns as the frame's text says for this place in the row, and clings a little when cancelled."""

    def __init__(self, place: int, clings: bool) -> None:
        super().__init__()
        self.place, self.clings = place, clings
        self.inside = {True: 0, False: 0}  # system, data

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        lane = frame.is_system
        self.inside[lane] += 1
        assert self.inside[lane] == 1, "two coroutines in one lane"
        try:
            waits = int(labels([frame])[0].split("/")[1][self.place]) if hasattr(frame, "text") else 0
            try:
                for _ in range(waits):
                    await asyncio.sleep(0)
            except asyncio.CancelledError:
                if not self.clings:
                    raise
                await asyncio.sleep(0)
            await self.push_frame(frame, direction)
        finally:
            self.inside[lane] -= 1


KINDS = st.sampled_from(["plain", "async", "direct", "clings"])
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["system", "data", "important", "interrupt", "turns"]),
        st.text("0012", min_size=4, max_size=4),
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(kinds=st.lists(KINDS, min_size=1, max_size=4), actions=ACTIONS)
def test_the_rules_hold_for_any_sequence(kinds: list[str], actions: list[tuple[str, str]]) -> None:
    def build(place: int, kind: str) -> FrameProcessor:
        if kind == "plain":
            return Pass()
        wanders = Wanders(place, clings=kind == "clings")
        wanders._wiring.direct_mode = kind == "direct"
        return wanders

    async def test() -> None:
        pushed: list[Frame] = []
        async with live(*(build(place, kind) for place, kind in enumerate(kinds))) as rig:
            for number, (action, waits) in enumerate(actions):
                text = f"{number}/{waits}"
                frame: Frame
                if action == "turns":
                    await turns(int(waits[0]) + 1)
                    continue
                if action == "interrupt":
                    frame = InterruptionFrame()
                else:
                    make: Any = {"system": InputTextRawFrame, "data": TextFrame, "important": Important}[action]
                    frame = make(text)
                pushed.append(frame)
                rig.push(frame)
            await turns(20 * len(actions) + 20)
            out = rig.sunk
            assert rig.risen == []  # no errors
            place_of = {id(frame): place for place, frame in enumerate(pushed)}
            for family in (lambda f: f.is_system, lambda f: not f.is_system):
                places = [place_of[id(frame)] for frame in out if family(frame)]
                assert places == sorted(places), "order within a family"
                assert len(places) == len(set(places)), "nothing comes twice"
            must_arrive = [frame for frame in pushed if frame.is_system or frame.is_uninterruptible]
            assert {id(frame) for frame in must_arrive} <= {id(frame) for frame in out}, "what must arrive is lost"
            if not any(isinstance(frame, InterruptionFrame) for frame in pushed):
                assert len(out) == len(pushed), "nothing is lost without an interruption"
            for at, interruption in enumerate(out):
                if isinstance(interruption, InterruptionFrame):
                    for later in out[at + 1 :]:
                        stale = place_of[id(later)] < place_of[id(interruption)]
                        assert not stale or later.is_uninterruptible, "nothing stale after an interruption"
            assert len(rig.runtime.interruptions) == sum(isinstance(f, InterruptionFrame) for f in pushed)
            for processor in rig.pipeline.processors:
                lanes = processor._wiring.lanes
                if isinstance(lanes, AsyncLanes):
                    assert lanes.queued == 0
                    assert lanes.data.task.cancelling() == lanes.system.task.cancelling() == 0

    run(test())
