"""Filters: what passes, which way, and with which kind of callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bots.notifier import EventNotifier
from media.filters import FrameFilter, FunctionFilter, IdentityFilter, NullFilter, WakeNotifierFilter
from media.frames import (
    AudioRawFrame,
    BotStartedSpeakingFrame,
    CancelFrame,
    EndFrame,
    Frame,
    HeartbeatFrame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMTextFrame,
    OutputAudioRawFrame,
    StopFrame,
    TextFrame,
    TranscriptionFrame,
    UserStartedSpeakingFrame,
)
from media.pipeline import ParallelPipeline, Pipeline
from media.processor import FrameDirection, FrameProcessor
from tests.media.rig import Pass, Rig, labels, live, run, started, turns

DOWN, UP = FrameDirection.DOWNSTREAM, FrameDirection.UPSTREAM
SOUND = OutputAudioRawFrame(b"\0\0", 8000, 1)


def push_all(rig: Rig, *frames: Frame, direction: FrameDirection = DOWN) -> list[str]:
    """What of `frames` comes out of the other end."""
    out = rig.sunk if direction is DOWN else rig.risen
    out.clear()
    for frame in frames:
        rig.push(frame, direction)
    return labels(out)


# ---------------------------------------------------------------- by type


@pytest.mark.parametrize("direction", [DOWN, UP])
def test_identity_passes_everything(direction: FrameDirection) -> None:
    rig = started(IdentityFilter())
    frames = TextFrame("x"), HeartbeatFrame(0), InterruptionFrame(), SOUND, EndFrame()
    assert push_all(rig, *frames, direction=direction) == labels(frames)


@pytest.mark.parametrize("direction", [DOWN, UP])
def test_null_passes_what_a_pipeline_cannot_live_without(direction: FrameDirection) -> None:
    rig = started(NullFilter())
    frames = TextFrame("x"), SOUND, HeartbeatFrame(0), InterruptionFrame(), StopFrame(), EndFrame(), CancelFrame()
    kept = ["InterruptionFrame", "StopFrame", "EndFrame", "CancelFrame"]
    assert push_all(rig, *frames, direction=direction) == kept


@pytest.mark.parametrize("direction", [DOWN, UP])
def test_frame_filter_passes_its_types_and_their_subclasses(direction: FrameDirection) -> None:
    rig = started(FrameFilter(types=(TextFrame, AudioRawFrame)))
    frames = TextFrame("x"), LLMTextFrame("y"), SOUND, HeartbeatFrame(0), BotStartedSpeakingFrame(), EndFrame()
    kept = ["x", "y", "OutputAudioRawFrame", "BotStartedSpeakingFrame", "EndFrame"]
    assert push_all(rig, *frames, direction=direction) == kept


def test_a_start_passes_all_of_them() -> None:
    last = Pass()
    started(
        IdentityFilter(),
        NullFilter(),
        FrameFilter(()),
        FunctionFilter(lambda frame: False, direction=None, filter_system_frames=True),
        last,
    )
    assert labels(last.seen) == ["StartFrame"]


def test_dead_ends_and_copies_in_parallel() -> None:
    """What the pages say that the two are for."""
    rig = started(ParallelPipeline([IdentityFilter()], [NullFilter()], [IdentityFilter()]))
    assert push_all(rig, TextFrame("x"), InterruptionFrame(), EndFrame()) == ["x", "InterruptionFrame", "EndFrame"]


# ---------------------------------------------------------------- by function


def short(frame: Frame) -> bool:
    return isinstance(frame, TextFrame) and len(frame.text) < 3


async def short_async(frame: Frame) -> bool:
    return short(frame)


PREDICATES = pytest.mark.parametrize("predicate", [short, short_async], ids=["def", "async def"])


async def through(filter: FrameProcessor, *frames: Frame, direction: FrameDirection = DOWN) -> list[str]:
    """What comes out when each frame had time to."""
    async with live(filter) as rig:
        out = rig.sunk if direction is DOWN else rig.risen
        for frame in frames:
            rig.push(frame, direction)
            await turns()
        return labels(out)


@PREDICATES
def test_function_filter_filters_data_in_its_direction(predicate: Callable[[Frame], Any]) -> None:
    frames = TextFrame("no"), TextFrame("long"), InterruptionFrame(), StopFrame(), EndFrame()

    async def program() -> None:
        passed = ["no", "InterruptionFrame", "StopFrame", "EndFrame"]
        assert await through(FunctionFilter(predicate), *frames) == passed
        assert await through(FunctionFilter(predicate), *frames, direction=UP) == labels(frames)
        assert await through(FunctionFilter(predicate, UP), *frames) == labels(frames)
        assert await through(FunctionFilter(predicate, UP), *frames, direction=UP) == passed

    run(program())


@PREDICATES
def test_both_directions_and_system_frames_if_asked(predicate: Callable[[Frame], Any]) -> None:
    frames = TextFrame("no"), TextFrame("long"), BotStartedSpeakingFrame(), StopFrame(), EndFrame(), CancelFrame()

    async def program() -> None:
        for direction in (DOWN, UP):
            filter = FunctionFilter(predicate, direction=None, filter_system_frames=True)
            assert await through(filter, *frames, direction=direction) == ["no", "StopFrame", "EndFrame", "CancelFrame"]
        assert await through(FunctionFilter(predicate, None), BotStartedSpeakingFrame()) == ["BotStartedSpeakingFrame"]

    run(program())


@PREDICATES
def test_the_predicate_is_asked_about_all_frames(predicate: Callable[[Frame], Any]) -> None:
    asked: list[Frame] = []

    def plain(frame: Frame) -> bool:
        asked.append(frame)
        return False

    async def waiting(frame: Frame) -> bool:
        return plain(frame)

    async def program() -> None:
        filter = FunctionFilter(plain if predicate is short else waiting)
        frames = TextFrame("x"), BotStartedSpeakingFrame(), EndFrame()
        assert await through(filter, *frames) == ["BotStartedSpeakingFrame", "EndFrame"]
        assert labels(asked) == ["StartFrame", *labels(frames)]

    run(program())


@PREDICATES
def test_a_predicate_that_fails_holds_up_nothing_that_must_pass(predicate: Callable[[Frame], Any]) -> None:
    def plain(frame: Frame) -> bool:
        raise ValueError("no")

    async def waiting(frame: Frame) -> bool:
        raise ValueError("no")

    async def program() -> None:
        filter = FunctionFilter(plain if predicate is short else waiting)
        async with live(filter) as rig:
            for frame in (TextFrame("x"), BotStartedSpeakingFrame(), EndFrame()):
                rig.push(frame)
                await turns()
            assert rig.down() == ["BotStartedSpeakingFrame", "EndFrame"]
            assert rig.up() == ["ErrorFrame"] * 4

    run(program())


def test_only_a_predicate_that_may_wait_costs_lanes() -> None:
    assert not FunctionFilter(short).is_async
    assert FunctionFilter(short_async).is_async


# ---------------------------------------------------------------- waking


class Bell:
    def __init__(self) -> None:
        self.rung = 0

    def notify(self) -> None:
        self.rung += 1


class AsyncBell(Bell):
    async def notify(self) -> None:  # type: ignore[override]
        self.rung += 1


@PREDICATES
@pytest.mark.parametrize("bell", [Bell, AsyncBell])
def test_waking_passes_everything_and_notifies_of_what_matches(
    predicate: Callable[[Frame], Any], bell: type[Bell]
) -> None:
    async def program() -> None:
        notifier = bell()
        filter = WakeNotifierFilter(notifier, types=(LLMTextFrame,), filter=predicate)
        frames = TextFrame("no"), LLMTextFrame("long"), LLMTextFrame("hi"), BotStartedSpeakingFrame(), EndFrame()
        assert await through(filter, *frames) == labels(frames)
        assert notifier.rung == 1
        assert await through(filter, LLMTextFrame("hi"), direction=UP) == ["hi"]
        assert notifier.rung == 2
        assert filter.is_async == (predicate is short_async or bell is AsyncBell)

    run(program())


def test_a_waking_predicate_that_fails_loses_no_frame() -> None:
    def fails(frame: Frame) -> bool:
        raise ValueError("no")

    rig = started(WakeNotifierFilter(Bell(), types=(TextFrame,), filter=fails))
    assert push_all(rig, TextFrame("x")) == ["x"]
    assert rig.up() == ["ErrorFrame"]


# ---------------------------------------------------------------- documented programs


def test_documented_frame_filter() -> None:
    source, destination = Pass(), Pass()
    # Create a filter that only passes TextFrames and AudioRawFrames
    text_and_audio_filter = FrameFilter(types=(TextFrame, AudioRawFrame))
    # Add to pipeline
    pipeline = Pipeline([source, text_and_audio_filter, destination])  # Filters out all other frame types
    rig = started(pipeline)
    push_all(rig, TextFrame("x"), InputAudioRawFrame(b"\0\0", 8000, 1), HeartbeatFrame(0))
    assert labels(destination.seen) == ["StartFrame", "x", "InputAudioRawFrame"]


def test_documented_function_filter() -> None:
    source, destination = Pass(), Pass()

    # Create filter that only allows TextFrames with more than 10 characters
    async def long_text_filter(frame: Frame) -> bool:
        if isinstance(frame, TextFrame):
            return len(frame.text) > 10
        return False

    # Apply filter to downstream frames only
    text_length_filter = FunctionFilter(filter=long_text_filter, direction=FrameDirection.DOWNSTREAM)
    # Add to pipeline
    pipeline = Pipeline([source, text_length_filter, destination])  # Filters out short text frames

    async def program() -> None:
        async with live(pipeline) as rig:
            rig.push(TextFrame("short"))
            rig.push(TextFrame("rather a long one"))
            rig.push(SOUND)
            await turns()
            assert rig.down() == ["rather a long one"]
            rig.push(TextFrame("short"), UP)
            await turns()
            assert rig.up() == ["short"]

    run(program())


def test_documented_identity_and_null_filters() -> None:
    source, destination = Pass(), Pass()
    # Create an identity filter
    pass_through = IdentityFilter()
    # Create a null filter that blocks all non-system frames
    blocker = NullFilter()
    pipeline = Pipeline([source, pass_through, blocker, destination])
    push_all(started(pipeline), TextFrame("x"), InterruptionFrame())
    assert labels(source.seen) == ["StartFrame", "x", "InterruptionFrame"]
    assert labels(destination.seen) == ["StartFrame", "InterruptionFrame"]


def test_documented_wake_notifier(capsys: pytest.CaptureFixture[str]) -> None:
    async def program() -> None:
        # Create an event notifier
        wake_event = EventNotifier()

        # Create filter that notifies when certain wake phrases are detected
        async def wake_phrase_filter(frame: Frame) -> bool:
            if isinstance(frame, TranscriptionFrame):
                return "hey assistant" in frame.text.lower()
            return False

        # Add to pipeline
        wake_notifier = WakeNotifierFilter(
            notifier=wake_event,
            types=(TranscriptionFrame, UserStartedSpeakingFrame),
            filter=wake_phrase_filter,
        )

        # In another component, wait for the notification
        async def handle_wake_event() -> None:
            await wake_event.wait()
            print("Wake phrase detected!")

        import asyncio

        handling = asyncio.ensure_future(handle_wake_event())
        async with live(wake_notifier) as rig:
            rig.push(UserStartedSpeakingFrame())
            rig.push(TranscriptionFrame("what?", "user", "now"))
            await turns()
            assert not handling.done()
            rig.push(TranscriptionFrame("Hey assistant, hello", "user", "now"))
            await turns()
            assert handling.done()
            assert rig.down() == ["UserStartedSpeakingFrame", "what?", "Hey assistant, hello"]
        assert wake_event.notify() is not None
        await wake_event.wait()  # a notification that came first is not lost

    run(program())
    assert capsys.readouterr().out == "Wake phrase detected!\n"
