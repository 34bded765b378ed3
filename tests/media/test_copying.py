"""Producers and consumers: copies from one branch to another."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from media.copying import ConsumerProcessor, ProducerProcessor, identity_transformer
from media.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    StartFrame,
    TextFrame,
    TTSAudioRawFrame,
)
from media.pipeline import ParallelPipeline, Pipeline
from media.processor import FrameDirection, FrameProcessor
from tests.media.rig import AsyncPass, Pass, labels, live, started, turns
from tests.media.rig import run_on_virtual_time as run

DOWN, UP = FrameDirection.DOWNSTREAM, FrameDirection.UPSTREAM


def texts(frame: Frame) -> bool:
    return isinstance(frame, TextFrame) and not frame.text.startswith("copy")


async def texts_async(frame: Frame) -> bool:
    return texts(frame)


def copied(frame: Frame) -> Frame:
    assert isinstance(frame, TextFrame)
    return TextFrame(f"copy of {frame.text}")


async def copied_async(frame: Frame) -> Frame:
    return copied(frame)


async def copied_slowly(frame: Frame) -> Frame:
    await asyncio.sleep(0.001)
    return copied(frame)


FILTERS = pytest.mark.parametrize("filter", [texts, texts_async], ids=["def filter", "async filter"])
COPIES = pytest.mark.parametrize("copy", [copied, copied_async, copied_slowly], ids=["def", "async", "slow"])


@FILTERS
@COPIES
@pytest.mark.parametrize("at", ["producer", "consumer"])
def test_copies_go_into_the_other_branch(filter: Any, copy: Any, at: str) -> None:
    async def program() -> None:
        producer = ProducerProcessor(filter, transformer=copy if at == "producer" else identity_transformer)
        consumer = ConsumerProcessor(producer, transformer=copy if at == "consumer" else identity_transformer)
        here, there = Pass(), Pass()
        async with live(ParallelPipeline([Pass(), producer, here], [Blocks(), consumer, there])) as rig:
            rig.push(TextFrame("1"))
            rig.push(TextFrame("2"))
            await asyncio.sleep(0.02)
            assert labels(here.seen) == ["StartFrame", "1", "2"]
            assert labels(there.seen) == ["StartFrame", "copy of 1", "copy of 2"]
            assert sorted(rig.down()) == ["1", "2", "copy of 1", "copy of 2"]

    run(program())


class Keeps(FrameProcessor):
    """Takes frames of one type and passes the others on."""

    def __init__(self, cls: type[Frame]) -> None:
        super().__init__()
        self.cls = cls
        self.seen: list[Frame] = []

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, self.cls):
            self.seen.append(frame)
        else:
            self.push_frame(frame, direction)


class Blocks(FrameProcessor):
    """Lets no text through."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if not isinstance(frame, TextFrame):
            self.push_frame(frame, direction)


def test_the_copy_comes_first() -> None:
    producer = ProducerProcessor(texts, transformer=copied)
    last = Pass()
    rig = started(producer, ConsumerProcessor(producer), last)
    rig.push(TextFrame("1"))
    assert rig.down() == ["copy of 1", "1"]


@FILTERS
def test_without_passthrough_the_chosen_frames_go_no_further(filter: Any) -> None:
    async def program() -> None:
        producer = ProducerProcessor(filter, transformer=copied, passthrough=False)
        here, there = Pass(), Pass()
        async with live(ParallelPipeline([producer, here], [Blocks(), ConsumerProcessor(producer), there])) as rig:
            rig.push(TextFrame("1"))
            await turns()
            rig.push(EndFrame())
            await turns()
            assert labels(here.seen) == ["StartFrame", "EndFrame"]
            assert labels(there.seen) == ["StartFrame", "copy of 1", "EndFrame"]

    run(program())


def test_several_consumers_each_get_a_copy_of_their_own() -> None:
    producer = ProducerProcessor(texts, transformer=copied)
    lasts = [Pass(), Pass()]
    started(ParallelPipeline([producer], *[[Blocks(), ConsumerProcessor(producer), last] for last in lasts])).push(
        TextFrame("1")
    )
    assert [labels(last.seen) for last in lasts] == [["StartFrame", "copy of 1"]] * 2
    assert lasts[0].seen[1] is not lasts[1].seen[1]


def test_upstream_copies() -> None:
    first = Pass()
    producer = ProducerProcessor(texts, transformer=copied)
    rig = started(first, ConsumerProcessor(producer, direction=UP), Pass(), producer)
    rig.push(TextFrame("1"))
    assert labels(first.seen) == ["StartFrame", "1", "copy of 1"]
    assert rig.up() == ["copy of 1"]


def test_a_copy_that_comes_round_to_its_producer_stands_behind_the_frame_in_hand() -> None:
    """The consumer above its producer pushes down into it."""

    def twice(frame: Frame) -> bool:
        return isinstance(frame, TextFrame) and len(frame.text) < 3

    def again(frame: Any) -> Frame:
        return TextFrame(frame.text + "'")

    producer = ProducerProcessor(twice, transformer=again)
    rig = started(ConsumerProcessor(producer), producer)
    rig.push(TextFrame("a"))
    assert rig.down() == ["a", "a'", "a''"]


def test_what_is_produced_before_the_consumer_has_started_waits_for_it() -> None:
    producer = ProducerProcessor(
        lambda frame: isinstance(frame, StartFrame), transformer=lambda frame: TextFrame("copy of the start")
    )
    last = Pass()
    started(ParallelPipeline([producer], [ConsumerProcessor(producer), last]))
    assert labels(last.seen) == ["StartFrame", "copy of the start"]


@pytest.mark.parametrize("over", [EndFrame(), CancelFrame()])
def test_behind_the_end_nothing_is_copied(over: Frame) -> None:
    async def program() -> None:
        producer = ProducerProcessor(texts)
        consumer = ConsumerProcessor(producer, transformer=copied_slowly)
        last = Pass()
        async with live(consumer, last) as rig:
            consumer.consume(TextFrame("1"))
            rig.push(over)
            consumer.consume(TextFrame("2"))
            await asyncio.sleep(0.01)
            assert labels(last.seen) == ["StartFrame", type(over).__name__]

    run(program())


@FILTERS
@pytest.mark.parametrize("waits", [False, True])
def test_a_transformer_that_fails_loses_one_frame(filter: Any, waits: bool) -> None:
    def fails(frame: Frame) -> Frame:
        assert isinstance(frame, TextFrame)
        if frame.text == "1":
            raise ValueError("not this one")
        return copied(frame)

    async def fails_async(frame: Frame) -> Frame:
        return fails(frame)

    async def program() -> None:
        producer = ProducerProcessor(filter)
        consumer = ConsumerProcessor(producer, transformer=fails_async if waits else fails)
        here, there = Pass(), Pass()
        async with live(ParallelPipeline([producer, here], [Blocks(), consumer, there])) as rig:
            rig.push(TextFrame("1"))
            rig.push(TextFrame("2"))
            await turns()
            assert labels(here.seen) == ["StartFrame", "1", "2"]
            assert labels(there.seen) == ["StartFrame", "copy of 2"]
            assert rig.up() == ["ErrorFrame"]
            error: Any = rig.risen[0]
            assert error.processor is consumer

    run(program())


def test_a_filter_that_fails_loses_one_frame() -> None:
    def fails(frame: Frame) -> bool:
        if isinstance(frame, TextFrame) and frame.text == "1":
            raise ValueError("not this one")
        return texts(frame)

    producer = ProducerProcessor(fails, transformer=copied)
    rig = started(producer, ConsumerProcessor(producer))
    rig.push(TextFrame("1"))
    rig.push(TextFrame("2"))
    assert rig.down() == ["copy of 2", "2"]
    assert rig.up() == ["ErrorFrame"]


def test_only_callbacks_that_may_wait_cost_lanes() -> None:
    assert not ProducerProcessor(texts).is_async
    assert ProducerProcessor(texts_async).is_async
    assert ProducerProcessor(texts, transformer=copied_async).is_async
    assert not ConsumerProcessor(ProducerProcessor(texts), transformer=copied_async).is_async


def test_documented_speech_from_one_branch_to_another() -> None:
    llm, tts, realtime = Pass(), AsyncPass(), Keeps(InputAudioRawFrame)

    # Create a producer that captures TTS audio frames
    async def is_tts_audio(frame: Frame) -> bool:
        return isinstance(frame, TTSAudioRawFrame)

    # Define an async transformer function
    async def tts_to_input_audio_transformer(frame: Frame) -> Frame:
        if isinstance(frame, TTSAudioRawFrame):
            # Convert TTS audio to input audio format
            return InputAudioRawFrame(audio=frame.audio, sample_rate=frame.sample_rate, num_channels=frame.num_channels)
        return frame

    producer = ProducerProcessor(
        filter=is_tts_audio,
        transformer=tts_to_input_audio_transformer,
        passthrough=True,  # Keep these frames in original pipeline
    )
    # Create a consumer to receive the frames
    consumer = ConsumerProcessor(producer=producer, direction=FrameDirection.DOWNSTREAM)
    # Use in a ParallelPipeline
    pipeline = Pipeline(
        [
            ParallelPipeline(
                # Branch 1: LLM for bot responses
                [llm, tts, producer],  # Capture TTS audio here
                # Branch 2: Audio processing branch
                [consumer, realtime],  # Receive TTS audio here; speech-to-speech LLM (audio in)
            ),
        ]
    )

    async def program() -> None:
        async with live(pipeline) as rig:
            await tts.push_frame(TTSAudioRawFrame(b"\1\0", 8000, 1))
            await turns()
            assert [frame.audio for frame in realtime.seen if isinstance(frame, InputAudioRawFrame)] == [b"\1\0"]
            assert rig.down() == ["TTSAudioRawFrame"]

    run(program())
