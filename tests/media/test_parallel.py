"""Branches: what enters each, what leaves once, and who waits for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from media.frames import (
    CancelFrame,
    DataFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    InputTextRawFrame,
    InterruptionFrame,
    LLMContextFrame,
    OutputAudioRawFrame,
    StartFrame,
    TextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
)
from media.pipeline import ParallelPipeline, Pipeline
from media.processor import FrameDirection, FrameProcessor, FrameProcessorSetup
from tests.media.rig import AsyncPass, Call, LiveRuntime, Pass, Rig, labels, live, run, started, turns

DOWN, UP = FrameDirection.DOWNSTREAM, FrameDirection.UPSTREAM


class Drop(FrameProcessor):
    """Lets only StartFrame, EndFrame and CancelFrame through."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, StartFrame | EndFrame | CancelFrame):
            self.push_frame(frame, direction)


class Holds(FrameProcessor):
    """Keeps frames of some classes until `release`."""

    def __init__(self, *classes: type[Frame]) -> None:
        super().__init__()
        self.classes = classes
        self.kept: list[Frame] = []
        self.seen: list[Frame] = []

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.seen.append(frame)
        if isinstance(frame, self.classes):
            self.kept.append(frame)
        else:
            self.push_frame(frame, direction)

    def release(self) -> None:
        kept, self.kept = self.kept, []
        for frame in kept:
            self.push_frame(frame)


# ---------------------------------------------------------------- construction


def test_no_branch_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one branch"):
        ParallelPipeline()


@pytest.mark.parametrize("branch", [Pass(), (Pass(),), None, "branch"])
def test_a_branch_is_a_list(branch: Any) -> None:
    with pytest.raises(TypeError, match="a branch is a list"):
        ParallelPipeline([Pass()], branch)


def test_empty_branches_pass_everything_once() -> None:
    rig = started(ParallelPipeline([], []))
    rig.push(TextFrame("x"))
    assert rig.down() == ["x"]


def test_the_processors_inside_are_known() -> None:
    a, b, c = Pass(), Pass(), Pass()
    parallel = ParallelPipeline([a, b], [Pipeline([c])])
    assert parallel.processors == [a, b, c]
    assert parallel.entry_processors == [a, c]


# ---------------------------------------------------------------- in and out


@pytest.mark.parametrize("direction", [DOWN, UP])
def test_every_frame_goes_into_each_branch_and_leaves_once(direction: FrameDirection) -> None:
    a, b = Pass(), Pass()
    rig = started(Pass(), ParallelPipeline([a], [b]), Pass())
    frames = [TextFrame("d"), InputTextRawFrame("s")]
    for frame in frames:
        rig.push(frame, direction)
    assert a.seen[1:] == b.seen[1:] == frames
    assert (rig.sunk if direction is DOWN else rig.risen) == frames


def test_branches_take_turns() -> None:
    order: list[str] = []

    def note(name: str) -> Call:
        return Call(lambda _, frame: order.append(name))

    rig = started(ParallelPipeline([note("a1"), note("a2")], [note("b")]))
    rig.push(TextFrame("x"))
    assert order == ["a1", "a2", "b"]


def test_a_frame_that_one_branch_drops_still_leaves() -> None:
    for branches in (([Drop()], [Pass()]), ([Pass()], [Drop()])):
        rig = started(ParallelPipeline(*branches))
        rig.push(TextFrame("x"))
        assert rig.down() == ["x"]


def test_a_frame_that_all_branches_drop_is_gone() -> None:
    rig = started(ParallelPipeline([Drop()], [Drop()]))
    rig.push(TextFrame("x"))
    assert rig.down() == []


def test_frames_made_in_the_branches_all_leave() -> None:
    def make(name: str) -> Call:
        return Call(lambda p, f: p.push_frame(TextFrame(name)) if isinstance(f, InputTextRawFrame) else None)

    rig = started(ParallelPipeline([make("a")], [make("b")]))
    rig.push(InputTextRawFrame("s"))
    assert rig.down() == ["a", "s", "b"]


def test_one_frame_that_two_branches_push_leaves_once() -> None:
    shared = TextFrame("shared")

    def push(processor: FrameProcessor, frame: Frame) -> None:
        if isinstance(frame, InputTextRawFrame):
            processor.push_frame(shared)

    rig = started(ParallelPipeline([Call(push)], [Call(push)]))
    rig.push(InputTextRawFrame("s"))
    assert rig.down() == ["shared", "s"]


def test_a_sound_that_is_pushed_again_and_again_is_heard_each_time() -> None:
    ding = OutputAudioRawFrame(b"", 8000, 1)

    def push(processor: FrameProcessor, frame: Frame) -> None:
        if isinstance(frame, TextFrame):
            processor.push_frame(ding)

    rig = started(ParallelPipeline([Call(push)], [Pass()]))
    rig.push(TextFrame("1"))
    rig.push(TextFrame("2"))
    assert rig.down() == ["OutputAudioRawFrame", "1", "OutputAudioRawFrame", "2"]
    # and from above, through both branches
    rig.push(ding)
    rig.push(ding)
    assert rig.down()[4:] == ["OutputAudioRawFrame"] * 2


def test_a_reused_frame_may_leave_by_another_branch_the_next_time() -> None:
    class Gate(Pass):
        is_open = True

        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if self.is_open:
                super().process_frame(frame, direction)

    gate = Gate()
    rig = started(ParallelPipeline([gate], [Pass()]))
    ding = OutputAudioRawFrame(b"", 8000, 1)
    rig.push(ding)
    gate.is_open = False
    rig.push(ding)
    assert rig.sunk == [ding, ding]


def test_a_frame_that_comes_back_the_other_way_leaves_again() -> None:
    rig = started(ParallelPipeline([Pass()], [Pass()]))
    frame = TextFrame("x")
    rig.push(frame)
    rig.push(frame, UP)
    assert rig.sunk == rig.risen == [frame]


def test_unhashable_frames_of_users() -> None:
    @dataclass
    class Mine(DataFrame):
        text: str

    rig = started(ParallelPipeline([Pass()], [Pass()]))
    first, equal = Mine("x"), Mine("x")
    rig.push(first)
    rig.push(equal)
    assert len(rig.sunk) == 2


def test_no_set_of_ids_grows() -> None:
    parallel = ParallelPipeline([Pass()], [Pass()])
    rig = started(parallel)
    frame = TextFrame("x")
    rig.push(frame)
    assert not hasattr(frame, "_id")
    assert not parallel._held
    assert not parallel._kept


@pytest.mark.parametrize("nested_first", [True, False])
def test_nested_branches(nested_first: bool) -> None:
    a, b, c = Pass(), Pass(), Pass()
    inner = ParallelPipeline([a], [b])
    branches: list[list[FrameProcessor]] = [[inner], [c]] if nested_first else [[c], [inner]]
    rig = started(ParallelPipeline(*branches))
    for direction in (DOWN, UP):
        rig.push(TextFrame("x"), direction)
    assert (rig.down(), rig.up()) == (["x"], ["x"])
    assert [len(processor.seen) for processor in (a, b, c)] == [3, 3, 3]
    rig.push(EndFrame())
    assert rig.down() == ["x", "EndFrame"]


def test_nested_on_both_sides() -> None:
    def inner() -> ParallelPipeline:
        return ParallelPipeline([Pass()], [Pass()])

    rig = started(ParallelPipeline([inner(), inner()], [inner()], [inner()]))
    rig.push(TextFrame("x"))
    assert rig.down() == ["x"]


def test_in_a_row_with_a_slow_branch_no_copy_leaks() -> None:
    """The first one's slow branch lets its copy out when the frame has long been through the second."""
    slow = Holds(TextFrame)
    rig = started(ParallelPipeline([Pass()], [slow]), ParallelPipeline([Pass()], [Pass()]))
    rig.push(TextFrame("x"))
    slow.release()
    assert rig.down() == ["x"]


def test_a_reused_frame_does_not_collect_marks_without_end() -> None:
    frame = OutputAudioRawFrame(b"", 8000, 1)
    for _ in range(100):
        rig = started(ParallelPipeline([Pass()], [Pass()]))
        rig.push(frame)
        assert rig.sunk == [frame]
    assert len(frame._stamp) < 20


def test_a_nested_pipeline_in_a_branch_is_spliced_in() -> None:
    a, b = Pass(), Pass()
    rig = started(ParallelPipeline([Pipeline([a, Pipeline([b])])], [Pass()]))
    assert a.next is b
    rig.push(TextFrame("x"))
    assert rig.down() == ["x"]


# ---------------------------------------------------------------- start, end and cancel


@pytest.mark.parametrize("make", [StartFrame, EndFrame, CancelFrame])
def test_lifecycle_frames_leave_once_and_when_all_branches_let_them_out(make: Any) -> None:
    slow = Holds(make)
    rig = Rig([ParallelPipeline([slow], [Pass()])])
    if make is not StartFrame:
        rig.start()
    rig.push(make())
    assert rig.down() == []
    slow._open_links()
    slow.release()
    assert rig.down() == [make.__name__]


def test_start_leaves_before_what_the_branches_let_out_meanwhile() -> None:
    class Eager(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            self.push_frame(frame, direction)
            if isinstance(frame, StartFrame):
                self.push_frame(TextFrame("ready"))

    slow = Holds(StartFrame)
    rig = Rig([ParallelPipeline([Eager()], [slow])])
    rig.push(StartFrame())
    assert rig.down() == []
    slow.release()
    assert rig.down() == ["StartFrame", "ready"]


@pytest.mark.parametrize("make", [EndFrame, CancelFrame])
def test_end_and_cancel_leave_after_what_the_branches_let_out_meanwhile(make: Any) -> None:
    slow, fast = Holds(make), Pass()
    rig = started(ParallelPipeline([slow], [fast]))
    rig.push(make())
    fast.push_frame(TextFrame("fast branch"))
    slow.push_frame(TextFrame("slow branch"))
    assert rig.down() == []  # the slow branch's End holds the fast branch's frames back
    slow.release()
    assert rig.down() == ["fast branch", "slow branch", make.__name__]


def test_a_kept_frame_leaves_once_too() -> None:
    slow, a, b = Holds(EndFrame), Pass(), Pass()
    rig = started(ParallelPipeline([slow], [a], [b]))
    rig.push(EndFrame())
    shared = TextFrame("shared")
    a.push_frame(shared)
    b.push_frame(shared)
    slow.release()
    assert rig.down() == ["shared", "EndFrame"]


def test_upstream_frames_of_the_branches_are_not_kept() -> None:
    slow, fast = Holds(EndFrame), Pass()
    rig = started(Pass(), ParallelPipeline([slow], [fast]))
    rig.push(EndFrame())
    fast.push_error("seen at once")
    assert [frame.error for frame in rig.risen if isinstance(frame, ErrorFrame)] == ["seen at once"]


@pytest.mark.parametrize("make", [StartFrame, EndFrame])
def test_arrivals_are_held_until_it_has_left(make: Any) -> None:
    slow = Holds(make)
    rig = Rig([ParallelPipeline([slow], [Pass()])])
    if make is EndFrame:
        rig.start()
    rig.push(make())
    rig.push(TextFrame("1"))
    rig.push(TextFrame("up"), UP)
    rig.push(TextFrame("2"))
    assert len(slow.seen) == (1 if make is StartFrame else 2)
    slow.release()
    assert rig.down() == [make.__name__, "1", "2"]
    assert rig.up() == ["up"]
    rig.push(TextFrame("3"))
    assert rig.down()[-1] == "3"


def test_system_frames_enter_at_once_while_an_end_is_on_its_way() -> None:
    """A branch that plays its last words needs to hear that they were played, or that the caller spoke."""
    slow = Holds(EndFrame)
    rig = started(ParallelPipeline([slow], [Pass()]))
    rig.push(EndFrame())
    rig.push(InterruptionFrame())
    assert labels(slow.seen)[-1] == "InterruptionFrame"
    slow.release()
    assert rig.down() == ["InterruptionFrame", "EndFrame"]


def test_system_frames_wait_behind_start() -> None:
    slow = Holds(StartFrame)
    rig = Rig([ParallelPipeline([slow], [Pass()])])
    rig.push(StartFrame())
    rig.push(InputTextRawFrame("s"))
    assert labels(slow.seen) == ["StartFrame"]
    slow.release()
    assert rig.down() == ["StartFrame", "s"]


def test_arrivals_during_a_release_stand_behind_what_is_held() -> None:
    slow = Holds(StartFrame)

    def inject(_: FrameProcessor, frame: Frame) -> None:
        if labels([frame]) == ["1"]:
            rig.push(TextFrame("late"))

    rig = Rig([ParallelPipeline([slow], [Pass()]), Call(inject)])
    rig.push(StartFrame())
    for text in "12":
        rig.push(TextFrame(text))
    slow.release()
    assert rig.down() == ["StartFrame", "1", "2", "late"]


def test_a_held_end_stops_the_release_until_it_has_left() -> None:
    slow = Holds(StartFrame, EndFrame)
    rig = Rig([ParallelPipeline([slow], [Pass()])])
    rig.push(StartFrame())
    for frame in (TextFrame("1"), EndFrame(), TextFrame("2")):
        rig.push(frame)
    slow.release()
    assert rig.down() == ["StartFrame", "1"]
    slow.release()
    assert rig.down() == ["StartFrame", "1", "EndFrame", "2"]


@pytest.mark.parametrize("awaited", [StartFrame, EndFrame])
def test_cancel_takes_the_place_of_what_is_awaited(awaited: Any) -> None:
    stuck = Holds(awaited)
    rig = Rig([ParallelPipeline([stuck], [Pass()])])
    if awaited is EndFrame:
        rig.start()
    rig.push(awaited())
    stuck._open_links()
    rig.push(CancelFrame())
    assert rig.down() == ["CancelFrame"]
    stuck.release()  # the old one is not let out behind it
    assert rig.down() == ["CancelFrame"]


def test_a_branch_that_swallows_end_keeps_it_in() -> None:
    class Swallows(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if not isinstance(frame, EndFrame):
                self.push_frame(frame, direction)

    rig = started(ParallelPipeline([Swallows()], [Pass()]))
    rig.push(EndFrame())
    assert rig.down() == []


def test_one_branch_that_lets_it_out_twice_does_not_speak_for_the_other() -> None:
    class Twice(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            self.push_frame(frame, direction)
            if isinstance(frame, EndFrame):
                self.push_frame(frame, direction)

    slow = Holds(EndFrame)
    rig = started(ParallelPipeline([Twice()], [slow]))
    rig.push(EndFrame())
    assert rig.down() == []
    slow.release()
    assert rig.down() == ["EndFrame"]


# ---------------------------------------------------------------- with the rest


def test_async_branches_end_in_their_own_time() -> None:
    async def test() -> None:
        gate = asyncio.Event()

        class Slow(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if labels([frame]) == ["last words"]:
                    await gate.wait()
                await self.push_frame(frame, direction)

        fast = AsyncPass()
        async with live(ParallelPipeline([Slow()], [fast]), Pass()) as rig:
            rig.push(TextFrame("last words"))
            rig.push(EndFrame())
            await turns()
            assert rig.down() == []  # the fast branch has let all out
            gate.set()
            await turns()
            assert rig.down() == ["last words", "EndFrame"]

    run(test())


def test_an_interruption_reaches_all_branches_inside_the_push() -> None:
    async def test() -> None:
        a, b = AsyncPass(), AsyncPass()
        async with live(ParallelPipeline([a], [b])) as rig:
            rig.push(TextFrame("dropped"))
            rig.push(InterruptionFrame())
            assert labels(a.seen)[-1] == labels(b.seen)[-1] == "InterruptionFrame"
            assert rig.down() == ["InterruptionFrame"]
            assert len(rig.runtime.interruptions) == 1
            await turns()
            assert rig.down() == ["InterruptionFrame"]

    run(test())


def test_an_interruption_from_a_branch_is_announced_once() -> None:
    inside = Pass()
    rig = started(Pass(), ParallelPipeline([Pass(), inside], [Pass()]), Pass())
    inside.broadcast_interruption()
    assert len(rig.runtime.interruptions) == 1
    assert (rig.down(), rig.up()) == (["InterruptionFrame"], ["InterruptionFrame"])


def test_an_error_in_a_branch_is_the_processors() -> None:
    class Breaks(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if isinstance(frame, TextFrame):
                raise ValueError("broken")
            self.push_frame(frame, direction)

    broken = Breaks()
    rig = started(Pass(), ParallelPipeline([broken], [Pass()]))
    rig.push(TextFrame("x"))
    assert rig.down() == ["x"]  # by the other branch
    (error,) = rig.risen
    assert isinstance(error, ErrorFrame)
    assert error.processor is broken


def test_set_up_and_clean_up_reach_the_branches() -> None:
    async def test() -> None:
        events: list[str] = []

        class Notes(AsyncPass):
            async def setup(self, setup: FrameProcessorSetup) -> None:
                await super().setup(setup)
                await asyncio.sleep(0)
                events.append(f"{self.name} up")

            async def cleanup(self) -> None:
                await super().cleanup()
                events.append(f"{self.name} down")

        rig = Rig([ParallelPipeline([Notes("a")], [Notes("b")])], LiveRuntime())
        await rig.bound
        assert events == ["a up", "b up"]
        rig.push(StartFrame())
        await turns()
        await rig.pipeline.close()
        await rig.runtime.close()
        assert events[2:] == ["a down", "b down"]

    run(test())


def test_a_paused_parallel_pipeline_holds_for_all_branches() -> None:
    a, b = Pass(), Pass()
    parallel = ParallelPipeline([a], [b])
    rig = started(parallel)
    parallel.pause_processing_frames()
    rig.push(TextFrame("x"))
    assert (len(a.seen), len(b.seen)) == (1, 1)
    parallel.resume_processing_frames()
    assert rig.down() == ["x"]


# ---------------------------------------------------------------- as documented for Pipecat, imports renamed


class Agent:
    """Stand-ins for the services of the documentation's examples: each marks what it makes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def stt(self) -> FrameProcessor:
        name = self.name

        class STT(FrameProcessor):
            def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                self.push_frame(frame, direction)
                if isinstance(frame, InputTextRawFrame):
                    self.push_frame(TranscriptionFrame(f"{name} heard {frame.text}", "user", "now"))

        return STT()

    def aggregator(self) -> FrameProcessor:
        class Aggregator(FrameProcessor):
            def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                if isinstance(frame, TranscriptionFrame):
                    self.push_frame(LLMContextFrame([frame.text]))
                else:
                    self.push_frame(frame, direction)

        return Aggregator()

    def llm(self, fails: bool = False) -> FrameProcessor:
        name = self.name

        class LLM(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if isinstance(frame, LLMContextFrame):
                    await asyncio.sleep(0)
                    if fails:
                        raise RuntimeError("no model")
                    await self.push_frame(TextFrame(f"{name} answers"))
                else:
                    await self.push_frame(frame, direction)

        return LLM()

    def tts(self) -> FrameProcessor:
        class TTS(FrameProcessor):
            async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
                await super().process_frame(frame, direction)
                if isinstance(frame, TextFrame) and not isinstance(frame, TranscriptionFrame):
                    await self.push_frame(TTSAudioRawFrame(frame.text.encode(), 8000, 1))
                else:
                    await self.push_frame(frame, direction)

        return TTS()


class Transport:
    def __init__(self) -> None:
        self._input, self._output = Pass("input"), Pass("output")

    def input(self) -> Pass:
        return self._input

    def output(self) -> Pass:
        return self._output


def voices(frames: Iterable[Frame]) -> list[bytes]:
    return [frame.audio for frame in frames if isinstance(frame, TTSAudioRawFrame)]


def test_documented_multi_agent_conversation() -> None:
    one, two, transport = Agent("one"), Agent("two"), Transport()
    stt_1, llm_agent_1, tts_agent_1 = one.stt(), one.llm(), one.tts()
    stt_2, llm_agent_2, tts_agent_2 = two.stt(), two.llm(), two.tts()

    class context_aggregator:
        user_a = staticmethod(one.aggregator)
        user_b = staticmethod(two.aggregator)

    async def test() -> None:
        pipeline = Pipeline([
            transport.input(),
            ParallelPipeline(
                # Agent 1: Customer service representative
                [
                    stt_1,
                    context_aggregator.user_a(),
                    llm_agent_1,
                    tts_agent_1,
                ],
                # Agent 2: Technical specialist
                [
                    stt_2,
                    context_aggregator.user_b(),
                    llm_agent_2,
                    tts_agent_2,
                ],
            ),
            transport.output(),
        ])  # fmt: skip
        async with live(pipeline) as rig:
            rig.push(InputTextRawFrame("hello"))
            await turns(20)
            assert sorted(voices(rig.sunk)) == [b"one answers", b"two answers"]
            assert rig.down().count("hello") == 1
            rig.push(EndFrame())
            await turns(20)
            assert rig.down()[-1] == "EndFrame"
            assert rig.down().count("EndFrame") == 1

    run(test())


@pytest.mark.parametrize("fails", [True, False])
def test_documented_failover(fails: bool) -> None:
    transport, primary, backup = Transport(), Agent("primary"), Agent("backup")

    class Gate(FrameProcessor):
        def __init__(self, is_open: bool) -> None:
            super().__init__()
            self.is_open = is_open

        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if self.is_open or not isinstance(frame, LLMContextFrame):
                self.push_frame(frame, direction)

    class ErrorDetector(FrameProcessor):
        """Above the model, where its errors come by: opens the other gate and sends the context there."""

        def __init__(self, other: Gate) -> None:
            super().__init__()
            self.other = other
            self.context: Frame | None = None

        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if isinstance(frame, LLMContextFrame):
                self.context = frame
            if isinstance(frame, ErrorFrame) and self.context is not None:
                self.other.is_open = True
                self.other.queue_frame(self.context)
            self.push_frame(frame, direction)

    stt, aggregator, tts = primary.stt(), primary.aggregator(), primary.tts()
    gate_primary, gate_backup = Gate(True), Gate(False)
    primary_llm, backup_llm = primary.llm(fails=fails), backup.llm()
    error_detector, fallback_processor = ErrorDetector(gate_backup), Pass()

    async def test() -> None:
        pipeline = Pipeline([
            transport.input(),
            stt,
            aggregator,
            ParallelPipeline(
                # Primary LLM service
                [
                    gate_primary,
                    error_detector,
                    primary_llm,
                ],
                # Backup LLM service (used only if primary fails)
                [
                    gate_backup,
                    backup_llm,
                    fallback_processor,
                ],
            ),
            tts,
            transport.output(),
        ])  # fmt: skip
        async with live(pipeline) as rig:
            rig.push(InputTextRawFrame("hello"))
            await turns(20)
            assert voices(rig.sunk) == [b"backup answers" if fails else b"primary answers"]

    run(test())
