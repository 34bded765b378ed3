"""Pipelines: ends, nesting, life, and the documented example processors."""

from __future__ import annotations

import asyncio
import gc
import wave
import weakref
from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from media.flow import UNBOUND
from media.frames import (
    EndFrame,
    Frame,
    FunctionCallResultFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMMessagesAppendFrame,
    OutputAudioRawFrame,
    RTVIClientMessageFrame,
    RTVIServerMessageFrame,
    RTVIServerResponseFrame,
    StartFrame,
    STTUpdateSettingsFrame,
    TextFrame,
    TTSSpeakFrame,
    UserStartedSpeakingFrame,
)
from media.frames import EndTaskFrame as EndTask
from media.pipeline import ParallelPipeline, Pipeline
from media.processor import DONE, FrameDirection, FrameProcessor, FrameProcessorSetup
from tests.media.rig import AsyncPass, LiveRuntime, Pass, Rig, VirtualRuntime, labels, live, run, started, turns

DOWN, UP = FrameDirection.DOWNSTREAM, FrameDirection.UPSTREAM


# ---------------------------------------------------------------- ends


def test_an_empty_pipeline_passes_frames_through() -> None:
    rig = started()
    rig.push(TextFrame("d"))
    rig.push(TextFrame("u"), UP)
    assert (rig.down(), rig.up()) == (["d"], ["u"])


def test_push_enters_at_the_top_and_upstream_at_the_bottom() -> None:
    first, last = Pass(), Pass()
    rig = started(first, last)
    order: list[str] = []
    first.add_event_handler("on_before_process_frame", lambda processor, frame: order.append("first"))
    last.add_event_handler("on_before_process_frame", lambda processor, frame: order.append("last"))
    rig.push(TextFrame("d"))
    rig.push(TextFrame("u"), UP)
    assert order == ["first", "last", "last", "first"]


def test_the_ends_need_no_listeners() -> None:
    pipeline = Pipeline([Pass()])
    assert pipeline.bind(VirtualRuntime()) is DONE
    pipeline.push(StartFrame())
    pipeline.push(TextFrame("x"))
    pipeline.push(TextFrame("x"), UP)


def test_listeners_given_to_the_constructor() -> None:
    sunk: list[Frame] = []
    risen: list[Frame] = []
    pipeline = Pipeline([Pass()], on_sink=sunk.append, on_source=risen.append)
    pipeline.bind(VirtualRuntime())
    for frame, direction in ((StartFrame(), DOWN), (TextFrame("d"), DOWN), (TextFrame("u"), UP)):
        pipeline.push(frame, direction)
    assert (labels(sunk), labels(risen)) == (["StartFrame", "d"], ["u"])


def test_source_and_sink_processors_stand_at_the_ends() -> None:
    source, middle, sink = Pass(), Pass(), Pass()
    pipeline = Pipeline([middle], source=source, sink=sink)
    assert pipeline.processors == [source, middle, sink]
    assert pipeline.entry_processors == [source]


def test_a_listener_that_raises_becomes_an_error_frame() -> None:
    risen: list[Frame] = []

    def fails(frame: Frame) -> None:
        if isinstance(frame, TextFrame):
            raise ValueError("in the listener")

    pipeline = Pipeline([Pass()], on_sink=fails, on_source=risen.append)
    pipeline.bind(VirtualRuntime())
    pipeline.push(StartFrame())
    pipeline.push(TextFrame("x"))
    assert labels(risen) == ["ErrorFrame"]


# ---------------------------------------------------------------- life


def test_a_pipeline_is_bound_once() -> None:
    pipeline = Pipeline([Pass()])
    pipeline.bind(VirtualRuntime())
    with pytest.raises(RuntimeError, match="bound already"):
        pipeline.bind(VirtualRuntime())


def test_bind_sets_up_in_order_and_gives_the_runtime() -> None:
    order: list[str] = []

    class Notes(Pass):
        def setup(self, setup: FrameProcessorSetup) -> Awaitable[None]:
            super().setup(setup)
            assert setup.runtime is self.runtime
            order.append(self.name)
            return DONE

    rig = Rig([Notes("a"), Pipeline([Notes("b")]), Notes("c")])
    assert order == ["a", "b", "c"]
    assert rig.bound is DONE


def test_a_setup_of_the_callers_reaches_all() -> None:
    given = FrameProcessorSetup(clock="clock", task_manager="tasks", runtime=VirtualRuntime())
    processor = Pass()
    Pipeline([processor]).bind(given.runtime, setup=given)  # type: ignore[arg-type]
    assert processor.get_clock() == "clock"
    assert processor.task_manager == "tasks"


def test_close_calls_each_cleanup_once() -> None:
    order: list[str] = []

    class Notes(Pass):
        def cleanup(self) -> Awaitable[None]:
            order.append(self.name)
            return DONE

    rig = Rig([Notes("a"), Pipeline([Notes("b")]), Notes("c")])
    assert rig.pipeline.close() is DONE
    assert not UNBOUND.waiting
    assert order == ["a", "b", "c"]


def test_a_closed_pipeline_is_freed_without_the_collector() -> None:
    """Processors know their neighbours; `close` cuts what would keep a whole call alive until a collection."""
    processors = [Pass(), Pass()]
    rig = Rig(processors).start()
    rig.push(TextFrame("x"))
    gone = [weakref.ref(processor) for processor in processors]
    gc.collect()
    gc.disable()
    try:
        rig.pipeline.close()
        del rig, processors
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


def test_a_closed_async_pipeline_is_freed_without_the_collector() -> None:
    async def test() -> None:
        processors = [AsyncPass(), Pass()]
        rig = Rig(processors, LiveRuntime()).start()
        rig.push(TextFrame("x"))
        await turns()
        gone = [weakref.ref(processor) for processor in processors]
        gc.collect()
        gc.disable()
        try:
            await rig.pipeline.close()
            await rig.runtime.close()
            await turns()
            del rig, processors
            assert [ref() for ref in gone] == [None, None]
        finally:
            gc.enable()

    run(test())


def test_a_clean_up_that_fails_does_not_keep_the_others_from_theirs(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        order: list[str] = []

        class Fails(Pass):
            def cleanup(self) -> Awaitable[None]:
                raise ValueError("plain")

        class FailsLater(AsyncPass):
            async def cleanup(self) -> None:
                await super().cleanup()
                raise ValueError("async")

        class Cleans(AsyncPass):
            async def cleanup(self) -> None:
                await super().cleanup()
                order.append(self.name)

        async with live(Fails(), FailsLater(), Cleans("cleaned")):
            pass
        assert order == ["cleaned"]
        assert caplog.text.count("processor.cleanup_failed") == 2

    run(test())


def test_processors_that_were_left_as_they_are_can_be_bound_again() -> None:
    """As after a StopFrame: another run of the same processors, with lanes of its own."""

    async def test() -> None:
        waits, inside = AsyncPass(), Pass()
        given = Pipeline([waits, ParallelPipeline([inside], [Pass()])])
        for text in ("first run", "second run"):
            async with asyncio.timeout(60):
                rig = Rig([given], LiveRuntime())
                await rig.bound
                rig.push(StartFrame())
                rig.push(TextFrame(text))
                await turns()
                assert rig.down() == ["StartFrame", text]
                assert waits._wiring.lanes is not None
                await waits._wiring.lanes.close()
        await rig.pipeline.close()

    run(test())


def test_the_loop_is_that_of_the_runtime() -> None:
    async def test() -> None:
        processor = AsyncPass()
        async with live(processor):
            assert processor.get_event_loop() is asyncio.get_running_loop()

    run(test())


def test_nothing_flows_through_a_closed_pipeline() -> None:
    processor = Pass()
    rig = started(processor)
    rig.pipeline.close()
    rig.push(TextFrame("x"))
    processor.push_frame(TextFrame("x"))
    processor.push_frame(InterruptionFrame(), UP)
    processor.queue_frame(TextFrame("x"))
    assert rig.sunk == rig.risen == rig.runtime.interruptions == []
    assert rig.pipeline.close() is DONE


# ---------------------------------------------------------------- nesting


def test_nested_pipelines_are_spliced_in() -> None:
    a, b, c, d = Pass(), Pass(), Pass(), Pass()
    inner = Pipeline([b, Pipeline([c])])
    rig = started(a, inner, d)
    assert a.next is b
    assert b.next is c
    assert c.next is d
    rig.push(TextFrame("x"))
    assert rig.down() == ["x"]
    assert rig.pipeline.processors == [a, inner, d]


def test_a_nested_pipeline_can_be_pushed_into() -> None:
    before, inside, behind = Pass(), Pass(), Pass()
    inner = Pipeline([inside])
    rig = started(before, inner, behind)
    inner.push_frame(TextFrame("x"))
    assert labels(inside.seen)[-1] == "x"
    assert "x" not in labels(before.seen)
    assert rig.down() == ["x"]
    inner.push_frame(TextFrame("u"), UP)
    assert rig.up() == ["u"]
    assert "u" not in labels(behind.seen)


def test_a_nested_pipeline_has_the_runtime_of_the_whole() -> None:
    inner = Pipeline([Pass()])
    rig = started(inner)
    assert inner.runtime is rig.runtime


def test_nested_empty_pipelines() -> None:
    rig = started(Pipeline([]), Pass(), Pipeline([Pipeline([])]))
    rig.push(TextFrame("x"))
    assert rig.down() == ["x"]


def test_push_frame_of_the_pipeline_enters_at_its_top() -> None:
    """As the documentation's time-out handler does: `await pipeline.push_frame(TTSSpeakFrame(...))`."""

    async def test() -> None:
        async with live(Pass(), AsyncPass()) as rig:
            await rig.pipeline.push_frame(TTSSpeakFrame(text="This session is now ending."))
            await turns()
            assert rig.down() == ["This session is now ending."]

    run(test())


# ---------------------------------------------------------------- as documented for Pipecat, imports renamed


def test_documented_sound_effect(tmp_path: Path) -> None:
    path = str(tmp_path / "ding.wav")
    with wave.open(path, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(b"\x01\x00" * 80)

    with wave.open(path) as f:
        ding = OutputAudioRawFrame(f.readframes(-1), f.getframerate(), f.getnchannels())

    class SoundEffect(FrameProcessor):
        async def process_frame(self, frame, direction):  # type: ignore[no-untyped-def]
            await super().process_frame(frame, direction)
            if isinstance(frame, LLMFullResponseEndFrame):
                await self.push_frame(ding)
            await self.push_frame(frame, direction)

    async def test() -> None:
        async with live(SoundEffect()) as rig:
            for _ in range(2):  # the same frame object, twice
                for frame in (LLMFullResponseStartFrame(), TextFrame("hi"), LLMFullResponseEndFrame()):
                    rig.push(frame)
            await turns()
            assert rig.down() == [
                "LLMFullResponseStartFrame", "hi", "OutputAudioRawFrame", "LLMFullResponseEndFrame",
            ] * 2  # fmt: skip
            assert rig.sunk[2] is rig.sunk[6] is ding
            assert ding.audio == b"\x01\x00" * 80

    run(test())


def test_documented_response_logger() -> None:
    class Logger:
        lines: list[str] = []  # noqa: RUF012

        def info(self, line: str) -> None:
            self.lines.append(line)

    logger = Logger()

    class ResponseLogger(FrameProcessor):
        async def process_frame(self, frame, direction):  # type: ignore[no-untyped-def]
            await super().process_frame(frame, direction)
            if isinstance(frame, LLMFullResponseStartFrame):
                logger.info("LLM response started")
            elif isinstance(frame, LLMFullResponseEndFrame):
                logger.info("LLM response finished")
            await self.push_frame(frame, direction)

    async def test() -> None:
        async with live(ResponseLogger()) as rig:
            for frame in (LLMFullResponseStartFrame(), TextFrame("hi"), LLMFullResponseEndFrame()):
                rig.push(frame)
            await turns()
            assert rig.down() == ["LLMFullResponseStartFrame", "hi", "LLMFullResponseEndFrame"]

    run(test())
    assert logger.lines == ["LLM response started", "LLM response finished"]


def test_documented_directions() -> None:
    class Both(FrameProcessor):
        async def process_frame(self, frame, direction):  # type: ignore[no-untyped-def]
            await super().process_frame(frame, direction)
            # Push downstream (default)
            await self.push_frame(frame, FrameDirection.DOWNSTREAM)
            # Push upstream
            if isinstance(frame, TextFrame):
                await self.push_frame(frame, FrameDirection.UPSTREAM)

    async def test() -> None:
        async with live(Pass(), Both(), Pass()) as rig:
            rig.push(TextFrame("x"))
            await turns()
            assert (rig.down(), rig.up()) == (["x"], ["x"])

    run(test())


def test_documented_broadcasts() -> None:
    class Broadcasts(FrameProcessor):
        async def process_frame(self, frame, direction):  # type: ignore[no-untyped-def]
            await super().process_frame(frame, direction)
            if isinstance(frame, TextFrame):
                # Create and push instances upstream and downstream
                await self.broadcast_frame(UserStartedSpeakingFrame)
                # Broadcast an existing frame instance in both directions
                await self.broadcast_frame_instance(frame)
            else:
                await self.push_frame(frame, direction)

    async def test() -> None:
        async with live(Pass(), Broadcasts(), Pass()) as rig:
            rig.push(TextFrame("x"))
            await turns()
            assert rig.down() == rig.up() == ["UserStartedSpeakingFrame", "x"]

    run(test())


def test_documented_must_deliver_frame() -> None:
    """FunctionCallResultFrame: "Must be delivered even if the user interrupts"."""

    async def test() -> None:
        async with live(AsyncPass()) as rig:
            rig.push(TextFrame("dropped"))
            rig.push(FunctionCallResultFrame("lookup", "id", {}, "result"))
            rig.push(InterruptionFrame())
            await turns()
            assert rig.down() == ["InterruptionFrame", "FunctionCallResultFrame"]

    run(test())


def test_documented_pushes_from_outside() -> None:
    """An aggregator or a service pushes and queues frames from an event handler."""

    async def test() -> None:
        aggregator, tts = AsyncPass(), AsyncPass()
        async with live(Pass(), aggregator, tts) as rig:
            message = {
                "role": "user",
                "content": "The user has been quiet. Ask if they're still there.",
            }
            await aggregator.push_frame(LLMMessagesAppendFrame([message], run_llm=True))
            await tts.queue_frame(TTSSpeakFrame("Let me check on that."))
            await aggregator.push_frame(TTSSpeakFrame("It seems like you're busy. Have a nice day!"))
            await aggregator.push_frame(EndTask(), FrameDirection.UPSTREAM)
            await turns()
            assert rig.down() == [
                "LLMMessagesAppendFrame",
                "Let me check on that.",
                "It seems like you're busy. Have a nice day!",
            ]
            assert rig.up() == ["EndTaskFrame"]

    run(test())


def test_documented_server_message() -> None:
    @dataclass
    class SomeEventFrame(TextFrame):
        value: int = 0

    class MyProcessor(FrameProcessor):
        async def process_frame(self, frame, direction):  # type: ignore[no-untyped-def]
            await super().process_frame(frame, direction)
            if isinstance(frame, SomeEventFrame):
                await self.push_frame(RTVIServerMessageFrame(data={"type": "event", "value": frame.value}))
            await self.push_frame(frame, direction)

    async def test() -> None:
        async with live(MyProcessor()) as rig:
            rig.push(SomeEventFrame("event", value=7))
            await turns()
            assert rig.down() == ["RTVIServerMessageFrame", "event"]
            assert isinstance(rig.sunk[0], RTVIServerMessageFrame)
            assert rig.sunk[0].data == {"type": "event", "value": 7}

    run(test())


def test_documented_client_messages(capsys: pytest.CaptureFixture[str]) -> None:
    language_now = "en-US"

    def get_current_language() -> str:
        return language_now

    class SetsLanguage(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection):  # type: ignore[no-untyped-def]
            await super().process_frame(frame, direction)
            if isinstance(frame, RTVIClientMessageFrame):
                print("RTVI client message:", frame.msg_id, frame.type, frame.data)
                if frame.type == "set-language":
                    language = frame.data.get("language", "en-US")
                    await self.push_frame(STTUpdateSettingsFrame(language=language))
                    return
            await self.push_frame(frame, direction)

    class GetsLanguage(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection):  # type: ignore[no-untyped-def]
            await super().process_frame(frame, direction)
            if isinstance(frame, RTVIClientMessageFrame):
                print("RTVI client message:", frame.msg_id, frame.type, frame.data)
                if frame.type == "get-language":
                    data = {"language": get_current_language()}
                    await self.push_frame(
                        RTVIServerResponseFrame(
                            client_msg=frame,
                            data=data,
                        ),
                    )
                    return
                else:
                    await self.push_frame(
                        RTVIServerResponseFrame(
                            client_msg=frame,
                            error="Unknown request type",
                        )
                    )
            await self.push_frame(frame, direction)

    class TellsLanguage(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection):  # type: ignore[no-untyped-def]
            await super().process_frame(frame, direction)
            if isinstance(frame, STTUpdateSettingsFrame):
                for key, value in frame.settings.items():
                    if key == "language":
                        await self.push_frame(
                            RTVIServerMessageFrame(data={"msg": "language-updated", "language": value})
                        )
            await self.push_frame(frame, direction)

    async def test() -> None:
        async with live(SetsLanguage(), TellsLanguage(), GetsLanguage()) as rig:
            rig.push(RTVIClientMessageFrame("m1", "set-language", {"language": "fr-FR"}))
            await turns()
            rig.push(RTVIClientMessageFrame("m2", "get-language", {}))
            rig.push(RTVIClientMessageFrame("m3", "sing", {}))
            await turns()
            told, updated, answered, unknown, passed = rig.sunk
            assert isinstance(told, RTVIServerMessageFrame)
            assert told.data == {"msg": "language-updated", "language": "fr-FR"}
            assert isinstance(updated, STTUpdateSettingsFrame)
            assert isinstance(answered, RTVIServerResponseFrame)
            assert (answered.client_msg.msg_id, answered.data) == ("m2", {"language": "en-US"})
            assert isinstance(unknown, RTVIServerResponseFrame)
            assert unknown.error == "Unknown request type"
            assert isinstance(passed, RTVIClientMessageFrame)

    run(test())
    assert "RTVI client message: m1 set-language {'language': 'fr-FR'}" in capsys.readouterr().out


def test_documented_speaking_one_at_a_time() -> None:
    """A TTS pauses itself while it speaks and resumes as the bot stops speaking; what came meanwhile follows."""
    from media.frames import BotStoppedSpeakingFrame

    class TTS(FrameProcessor):
        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, TTSSpeakFrame):
                await self.push_frame(OutputAudioRawFrame(b"", 8000, 1))
                await self.pause_processing_frames()
            elif isinstance(frame, BotStoppedSpeakingFrame):
                await self.resume_processing_frames()
            await self.push_frame(frame, direction)

    async def test() -> None:
        async with live(TTS()) as rig:
            for frame in (TTSSpeakFrame("one"), TTSSpeakFrame("two"), EndFrame()):
                rig.push(frame)
            await turns()
            assert rig.down() == ["OutputAudioRawFrame", "one"]
            rig.push(BotStoppedSpeakingFrame(), UP)
            await turns()
            assert rig.down()[2:] == ["OutputAudioRawFrame", "two"]
            rig.push(BotStoppedSpeakingFrame(), UP)
            await turns()
            assert rig.down()[4:] == ["EndFrame"]

    run(test())


def test_frames_of_users_need_not_be_hashable() -> None:
    @dataclass
    class Mine(TextFrame):
        payload: Any = None

    async def test() -> None:
        async with live(Pass(), AsyncPass(), Pass()) as rig:
            frame = Mine("x", payload={})
            with pytest.raises(TypeError):
                hash(frame)
            rig.push(frame)
            rig.push(frame)
            await turns()
            assert rig.sunk == [frame, frame]

    run(test())
