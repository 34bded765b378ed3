"""Observers: what they see, what they cost, and that nobody waits for them."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest

from bots.log_observers import DebugLogObserver, FrameEndpoint, LLMLogObserver, TranscriptionLogObserver
from bots.observing import QUEUE_LIMIT
from bots.runtime import PipelineParams, PipelineTask
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    EndFrame,
    Frame,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
    InputDTMFFrame,
    InterimTranscriptionFrame,
    InterruptionFrame,
    KeypadEntry,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    OutputAudioRawFrame,
    TextFrame,
    TranscriptionFrame,
    UserStartedSpeakingFrame,
)
from media.observers import BaseObserver, FrameProcessed, FramePushed
from media.pipeline import ParallelPipeline, Pipeline
from media.processor import FrameDirection, FrameProcessor
from tests.media.rig import AsyncPass, Pass, labels, turns
from tests.media.rig import run_on_virtual_time as run

DOWN, UP = FrameDirection.DOWNSTREAM, FrameDirection.UPSTREAM


class Pushes(BaseObserver):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[FramePushed] = []

    async def on_push_frame(self, data: FramePushed) -> None:
        self.seen.append(data)

    def of(self, text: str) -> list[tuple[str, str]]:
        """(source, destination) of each hop of the frame that says `text`."""
        return [(str(d.source), str(d.destination)) for d in self.seen if labels([d.frame]) == [text]]


class Processes(BaseObserver):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[FrameProcessed] = []

    def on_process_frame(self, data: FrameProcessed) -> None:
        self.seen.append(data)


class Starts(BaseObserver):
    starts = 0

    async def on_pipeline_started(self) -> None:
        self.starts += 1


def run_task(task: PipelineTask, *frames: Frame) -> None:
    async def program() -> None:
        await task.queue_frames([*frames, EndFrame()])
        await task.run()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(program())


# ---------------------------------------------------------------- what they see


def test_each_push_is_seen_once_per_hop() -> None:
    watch = Pushes()
    task = PipelineTask(Pipeline([Pass("one"), AsyncPass("two"), Pass("three")]), observers=[watch])
    run_task(task, TextFrame("x"))
    top, bottom = f"{task._pipeline}::Source", f"{task._pipeline}::Sink"
    hops = [(top, "one"), ("one", "two"), ("two", "three"), ("three", bottom)]
    assert watch.of("x") == hops
    assert watch.of("StartFrame") == hops
    assert watch.of("EndFrame") == hops  # the last records come out too
    assert {d.direction for d in watch.seen} == {DOWN}
    stamps = [d.timestamp for d in watch.seen]
    assert stamps == sorted(stamps)
    assert 0 <= stamps[0] < 5_000_000_000  # since the task started


def test_upstream_pushes_have_their_direction() -> None:
    watch, last = Pushes(), Pass("two")
    task = PipelineTask(Pipeline([Pass("one"), last]), observers=[watch])

    async def program() -> None:
        running = asyncio.ensure_future(task.run())
        await turns()
        await last.push_frame(TextFrame("up"), UP)
        await task.stop_when_done()
        await running

    run(program())
    assert watch.of("up") == [("two", "one"), ("one", f"{task._pipeline}::Source")]
    assert [d.direction for d in watch.seen if isinstance(d.frame, TextFrame)] == [UP, UP]


def test_branches_are_seen_too() -> None:
    watch = Pushes()
    branches = ParallelPipeline([Pass("left")], [Pass("right")])
    run_task(PipelineTask(Pipeline([branches, Pass("behind")]), observers=[watch]), TextFrame("x"))
    sources = [source for source, _ in watch.of("x")]
    assert "left" in sources
    assert "right" in sources
    assert sources.count(str(branches)) == 1


def test_processing_is_seen_by_those_who_ask() -> None:
    watch = Processes()
    task = PipelineTask(Pipeline([Pass("one"), AsyncPass("two")]), observers=[watch])
    run_task(task, TextFrame("x"))
    assert [str(d.processor) for d in watch.seen if labels([d.frame]) == ["x"]] == [
        "one",
        "two",
        f"{task._pipeline}::Sink",
    ]
    assert task._pipeline.flow.tap is None


def test_the_start_is_told() -> None:
    watch = Starts()
    task = PipelineTask(Pipeline([Pass()]), observers=[watch])
    run_task(task)
    assert watch.starts == 1


def test_only_the_declared_types_are_recorded() -> None:
    class Texts(Pushes):
        frame_types = (TextFrame,)

    texts = Texts()
    transcript = TranscriptionFrame("hello", "user", "now")
    run_task(PipelineTask(Pipeline([Pass()]), observers=[texts]), TextFrame("x"), InterruptionFrame(), transcript)
    assert [labels([d.frame])[0] for d in texts.seen] == ["x", "x", "hello", "hello"]  # a transcript is a text


def test_the_older_form_with_five_arguments() -> None:
    class Old(BaseObserver):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[tuple[Any, ...]] = []

        async def on_push_frame(  # type: ignore[override]
            self, src: FrameProcessor, dst: FrameProcessor, frame: Frame, direction: FrameDirection, timestamp: int
        ) -> None:
            self.seen.append((str(src), labels([frame])[0], direction))

    old = Old()
    run_task(PipelineTask(Pipeline([Pass("one")]), observers=[old]), TextFrame("x"))
    assert ("one", "x", DOWN) in old.seen


def test_overridden_methods_may_call_the_base() -> None:
    class Calls(Pushes):
        async def on_push_frame(self, data: FramePushed) -> None:
            await BaseObserver.on_push_frame(self, data)
            await super().on_push_frame(data)

        async def on_process_frame(self, data: FrameProcessed) -> None:
            await super().on_process_frame(data)

        async def on_pipeline_started(self) -> None:
            await super().on_pipeline_started()

    calls = Calls()
    run_task(PipelineTask(Pipeline([Pass()]), observers=[calls]))
    assert calls.seen


# ---------------------------------------------------------------- adding and removing


def test_observers_come_and_go_while_the_pipeline_runs() -> None:
    first, second = Pushes(), Pushes()
    task = PipelineTask(Pipeline([Pass()]))

    async def program() -> None:
        running = asyncio.ensure_future(task.run())
        await turns()
        flow = task._pipeline.flow
        await task.queue_frame(TextFrame("1"))
        task.add_observer(first)
        await task.queue_frame(TextFrame("2"))
        task.add_observer(second)
        await task.queue_frame(TextFrame("3"))
        await turns()
        await task.remove_observer(first)
        await task.queue_frame(TextFrame("4"))
        await turns()
        assert flow.tap is not None
        await task.remove_observer(second)
        assert flow.tap is None
        await task.remove_observer(second)
        await task.queue_frame(TextFrame("5"))
        await task.stop_when_done()
        await running

    run(program())
    assert [labels([d.frame])[0] for d in first.seen] == ["2", "2", "3", "3"]
    assert [labels([d.frame])[0] for d in second.seen] == ["3", "3", "4", "4"]


# ---------------------------------------------------------------- nobody waits for them


def test_a_slow_observer_delays_nobody() -> None:
    class Slow(Pushes):
        async def on_push_frame(self, data: FramePushed) -> None:
            await asyncio.sleep(0.005)
            await super().on_push_frame(data)

    slow, fast, last = Slow(), Pushes(), Pass()
    task = PipelineTask(Pipeline([last]), observers=[slow, fast])

    async def program() -> None:
        running = asyncio.ensure_future(task.run())
        await turns()
        await task.queue_frames(TextFrame(str(number)) for number in range(20))
        assert len(last.seen) == 21
        await turns()
        assert len(fast.seen) == 42
        assert len(slow.seen) < 10
        await task.stop_when_done()
        await running

    run(program())
    assert [d.frame for d in slow.seen] == [d.frame for d in fast.seen]


def test_an_observer_that_does_not_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bots.runtime.OBSERVERS_LIMIT_S", 0.05)

    class Stuck(BaseObserver):
        async def on_push_frame(self, data: FramePushed) -> None:
            await asyncio.sleep(3600)

    run_task(PipelineTask(Pipeline([Pass()]), observers=[Stuck()]))
    assert "task.observers_too_slow" in caplog.text
    assert "dangling" not in caplog.text


def test_an_observer_that_fails_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Fails(Pushes):
        async def on_push_frame(self, data: FramePushed) -> None:
            await super().on_push_frame(data)
            raise ValueError("no disk")

    fails, fine, last = Fails(), Pushes(), Pass()
    run_task(PipelineTask(Pipeline([last]), observers=[fails, fine]), TextFrame("x"))
    assert len(fails.seen) == len(fine.seen) == 6
    assert labels(last.seen) == ["StartFrame", "x", "EndFrame"]
    assert caplog.text.count("observer.failed") == 6


def test_records_that_nobody_takes_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    watch = Pushes()
    task = PipelineTask(Pipeline([Pass()]), observers=[watch])

    async def program() -> None:
        running = asyncio.ensure_future(task.run())
        await turns()
        watch.seen.clear()
        for _ in range(QUEUE_LIMIT):
            task.queue_frame(TextFrame("x"))  # two hops each, and the loop gets no turn
        await turns()
        assert len(watch.seen) == QUEUE_LIMIT
        await task.stop_when_done()
        await running

    run(program())
    assert caplog.text.count("observer.too_slow") == 1


def test_their_clean_up_is_awaited() -> None:
    class Writes(Pushes):
        written = 0

        async def cleanup(self) -> None:
            await super().cleanup()
            self.written = len(self.seen)

    writes = Writes()
    run_task(PipelineTask(Pipeline([Pass()]), observers=[writes]))
    assert writes.written == len(writes.seen) == 4


# ---------------------------------------------------------------- nothing is paid when unused


def test_nothing_exists_for_observers_that_nobody_added() -> None:
    first, second = Pass(), Pass()
    task = PipelineTask(Pipeline([first, second]))

    async def program() -> None:
        running = asyncio.ensure_future(task.run())
        await turns()
        flow = task._pipeline.flow
        assert task._observing is None
        assert flow.tap is None
        assert flow.probe is None
        assert first._downlink == second.process_frame  # straight into the next processor
        assert asyncio.all_tasks() == {asyncio.current_task(), running}
        await task.queue_frame(TextFrame("x"))
        assert asyncio.all_tasks() == {asyncio.current_task(), running}
        await task.stop_when_done()
        await running

    run(program())


def test_an_observer_of_the_start_taps_nothing() -> None:
    task = PipelineTask(Pipeline([Pass()]), observers=[Starts()])

    async def program() -> None:
        running = asyncio.ensure_future(task.run())
        await turns()
        assert task._pipeline.flow.tap is None
        assert task._pipeline.flow.probe is None
        assert asyncio.all_tasks() == {asyncio.current_task(), running}
        await task.stop_when_done()
        await running

    run(program())


# ---------------------------------------------------------------- the observers that log


def logged(caplog: pytest.LogCaptureFixture, observer: BaseObserver, *frames: Frame) -> list[str]:
    """What `observer` writes, without the time at the end."""
    with caplog.at_level(logging.DEBUG, "bots.log_observers"):
        run_task(PipelineTask(Pipeline([Pass("one"), AsyncPass("two")]), observers=[observer]), *frames)
    records = [r.getMessage() for r in caplog.records if r.name == "bots.log_observers"]
    assert all(re.fullmatch(r".* at \d+\.\d\ds", record, re.S) for record in records)
    return [record.rsplit(" at ", 1)[0] for record in records]


def test_debug_log_of_everything(caplog: pytest.LogCaptureFixture) -> None:
    sound, key = OutputAudioRawFrame(bytes(320), 8000, 1), InputDTMFFrame(KeypadEntry.FIVE)
    lines = logged(caplog, DebugLogObserver(), TextFrame("hello"), sound, key)
    text = "one → two: TextFrame text: 'hello', skip_tts: None, includes_inter_frame_spaces: False"
    assert f"{text}, append_to_context: True" in lines
    assert "one → two: OutputAudioRawFrame sample_rate: 8000, num_channels: 1" in lines
    assert "one → two: InputDTMFFrame" in lines
    assert len(lines) == 5 * 3


def test_debug_log_of_some_types_and_fields(caplog: pytest.LogCaptureFixture) -> None:
    observer = DebugLogObserver(frame_types=(OutputAudioRawFrame,), exclude_fields={"num_channels"})
    lines = logged(caplog, observer, TextFrame("hello"), OutputAudioRawFrame(bytes(320), 8000, 1))
    assert lines[1] == "one → two: OutputAudioRawFrame audio: 320 bytes, sample_rate: 8000"
    assert len(lines) == 3


def test_debug_log_by_source_and_destination(caplog: pytest.LogCaptureFixture) -> None:
    observer = DebugLogObserver(
        frame_types={
            # Only log InterruptionFrame when source is AsyncPass
            InterruptionFrame: (AsyncPass, FrameEndpoint.SOURCE),
            # Only log UserStartedSpeakingFrame when destination is AsyncPass
            UserStartedSpeakingFrame: (AsyncPass, FrameEndpoint.DESTINATION),
            # Log LLMTextFrame regardless of source or destination
            LLMTextFrame: None,
        }
    )
    frames = InterruptionFrame(), UserStartedSpeakingFrame(), LLMTextFrame("x"), TextFrame("y")
    lines = logged(caplog, observer, *frames)
    assert [line.split(": ")[1].split(" ")[0] for line in lines].count("LLMTextFrame") == 3
    first, second = (line for line in lines if "LLMTextFrame" not in line)
    assert re.fullmatch(r"two → .*::Sink: InterruptionFrame reason: '', heard: None.*", first)
    assert second == "one → two: UserStartedSpeakingFrame emulated: False"
    assert not [line for line in lines if "'y'" in line]


def test_a_language_model_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    class Model(Pass):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if isinstance(frame, LLMContextFrame):
                for answer in answers:
                    self.push_frame(answer)
            else:
                self.push_frame(frame, direction)

    answers: list[Frame] = [
        LLMFullResponseStartFrame(),
        LLMTextFrame("Hello"),
        FunctionCallInProgressFrame("weather", "call-1", {"city": "Oslo"}),
        FunctionCallResultFrame("weather", "call-1", {"city": "Oslo"}, "rain"),
        LLMFullResponseEndFrame(),
    ]
    task = PipelineTask(Pipeline([Pass("one"), Model("model"), Pass("tts")]), observers=[LLMLogObserver()])
    with caplog.at_level(logging.DEBUG, "bots.log_observers"):
        run_task(task, LLMContextFrame(["be kind"]))
    lines = [record.getMessage() for record in caplog.records if record.name == "bots.log_observers"]
    assert [line.rsplit(" at ", 1)[0] for line in lines] == [
        "🧠 → one LLM CONTEXT FRAME: ['be kind']",
        "🧠 model → LLM START RESPONSE",
        "🧠 model → LLM GENERATING: 'Hello'",
        "🧠 model → LLM FUNCTION CALL (call-1): weather({'city': 'Oslo'})",
        "🧠 model → LLM FUNCTION CALL RESULT (call-1): 'rain'",
        "🧠 model → LLM END RESPONSE",
    ]


def test_transcripts_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    frames = InterimTranscriptionFrame("good", "user", "now"), TranscriptionFrame("good day", "user", "now")
    lines = logged(caplog, TranscriptionLogObserver(), *frames, TextFrame("x"))
    assert [line.split(" → ")[1] for line in lines] == [
        "INTERIM TRANSCRIPTION: 'good' from 'user'",
        "TRANSCRIPTION: 'good day' from 'user'",
    ]


# ---------------------------------------------------------------- documented programs

logger = logging.getLogger("program")


class CustomObserver(BaseObserver):
    async def on_push_frame(self, data: FramePushed) -> None:
        # Your frame observation logic here
        pass

    async def on_process_frame(self, data: FrameProcessed) -> None:
        # Your frame processing observation logic here
        pass

    async def on_pipeline_started(self) -> None:
        # Called when the pipeline has fully started
        pass


class DebugObserver(BaseObserver):
    """Observer to log interruptions and bot speaking events to the console."""

    async def on_push_frame(self, data: FramePushed) -> None:
        time_sec = data.timestamp / 1_000_000_000
        arrow = "→" if data.direction == FrameDirection.DOWNSTREAM else "←"
        if isinstance(data.frame, InterruptionFrame):
            logger.info(f"⚡ INTERRUPTION START: {data.source} {arrow} {data.destination} at {time_sec:.2f}s")
        elif isinstance(data.frame, BotStartedSpeakingFrame):
            logger.info(f"🤖 BOT START SPEAKING: {data.source} {arrow} {data.destination} at {time_sec:.2f}s")
        elif isinstance(data.frame, BotStoppedSpeakingFrame):
            logger.info(f"🤖 BOT STOP SPEAKING: {data.source} {arrow} {data.destination} at {time_sec:.2f}s")


def test_documented_observers(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = Pipeline([Pass("one")])
    task = PipelineTask(
        pipeline,
        params=PipelineParams(
            observers=[LLMLogObserver(), TranscriptionLogObserver(), CustomObserver(), DebugObserver()],
        ),
    )
    with caplog.at_level(logging.INFO, "program"):
        run_task(task, BotStartedSpeakingFrame(), TextFrame("x"), InterruptionFrame(), BotStoppedSpeakingFrame())
    top, bottom = f"{task._pipeline}::Source", f"{task._pipeline}::Sink"
    lines = [record.getMessage() for record in caplog.records if record.name == "program"]
    assert [line.rsplit(" ", 1)[0] for line in lines] == [
        f"🤖 BOT START SPEAKING: {top} → one at",
        f"🤖 BOT START SPEAKING: one → {bottom} at",
        f"⚡ INTERRUPTION START: {top} → one at",
        f"⚡ INTERRUPTION START: one → {bottom} at",
        f"🤖 BOT STOP SPEAKING: {top} → one at",
        f"🤖 BOT STOP SPEAKING: one → {bottom} at",
    ]
    assert all(re.fullmatch(r".* \d+\.\d\ds", line) for line in lines)
