"""The example programs of Pipecat's pages on tasks, parameters and endings, with only their imports renamed.

`Pipeline([...])` of a page is filled with processors that note what they see; times are shorter.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bots.runtime import PipelineParams, PipelineRunner, PipelineTask
from media.frames import (
    BotSpeakingFrame,
    CancelFrame,
    EndFrame,
    EndTaskFrame,
    Frame,
    LLMRunFrame,
    StopFrame,
    TextFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    UserStoppedSpeakingFrame,
)
from media.observers import BaseObserver, FramePushed
from media.pipeline import Pipeline
from media.processor import FrameDirection
from tests.media.rig import AsyncPass, Pass, labels, turns
from tests.media.rig import run_on_virtual_time as run


async def left_alone() -> None:
    await turns()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_basic_usage() -> None:
    tts = AsyncPass()

    async def main() -> None:
        # Create a pipeline
        pipeline = Pipeline([tts])
        # Create a task with the pipeline
        task = PipelineTask(pipeline)
        # Queue frames for processing
        await task.queue_frame(TTSSpeakFrame("Hello, how can I help you today?"))
        # Run the pipeline
        runner = PipelineRunner()
        running = asyncio.ensure_future(runner.run(task))
        await turns()
        assert labels(tts.seen) == ["StartFrame", "Hello, how can I help you today?"]
        assert not task.has_finished()
        await task.stop_when_done()
        await running
        assert task.has_finished()
        await left_alone()

    run(main())


def test_cancel_and_has_finished(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        task = PipelineTask(Pipeline([AsyncPass()]))
        running = asyncio.ensure_future(PipelineRunner().run(task))
        await turns()
        await task.cancel()
        await running
        if task.has_finished():
            print("Task is complete")
        await left_alone()

    run(main())
    assert capsys.readouterr().out == "Task is complete\n"


def test_queueing_both_ways() -> None:
    last = Pass()

    async def main() -> None:
        task = PipelineTask(Pipeline([last]))
        running = asyncio.ensure_future(PipelineRunner().run(task))
        # Push a frame downstream (default behavior)
        await task.queue_frame(TTSSpeakFrame("Hello!"))
        # Push a frame upstream from the end of the pipeline
        await task.queue_frame(UserStoppedSpeakingFrame(), direction=FrameDirection.UPSTREAM)
        # Push frames downstream (default behavior)
        frames: list[Frame] = [TTSSpeakFrame("Hello!"), TTSSpeakFrame("How are you?")]
        await task.queue_frames(frames)
        # Push frames upstream from the end of the pipeline
        frames = [TranscriptionFrame("user input", "user", "now"), UserStoppedSpeakingFrame()]
        await task.queue_frames(frames, direction=FrameDirection.UPSTREAM)

        async def later() -> AsyncIterator[Frame]:
            yield LLMRunFrame()

        await task.queue_frames(later())
        await task.stop_when_done()
        await running

    run(main())
    assert labels(last.seen) == [
        "StartFrame",
        "Hello!",
        "UserStoppedSpeakingFrame",
        "Hello!",
        "How are you?",
        "user input",
        "UserStoppedSpeakingFrame",
        "LLMRunFrame",
        "EndFrame",
    ]


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (EndFrame(), "Pipeline ended normally"),
        (CancelFrame(), "Pipeline was cancelled"),
        (StopFrame(), "Pipeline was stopped"),
    ],
)
def test_life_cycle_events(frame: Frame, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        task = PipelineTask(Pipeline([Pass()]))

        @task.event_handler("on_pipeline_started")
        async def on_pipeline_started(task: PipelineTask, frame: Frame) -> None:
            print("Pipeline is running!")

        @task.event_handler("on_pipeline_finished")
        async def on_pipeline_finished(task: PipelineTask, frame: Frame) -> None:
            if isinstance(frame, EndFrame):
                print("Pipeline ended normally")
            elif isinstance(frame, CancelFrame):
                print("Pipeline was cancelled")
            elif isinstance(frame, StopFrame):
                print("Pipeline was stopped")

        running = asyncio.ensure_future(PipelineRunner().run(task))
        await turns()
        await task.queue_frame(frame)
        await running

    run(main())
    assert capsys.readouterr().out == f"Pipeline is running!\n{said}\n"


def test_error_event(capsys: pytest.CaptureFixture[str]) -> None:
    last = Pass()

    async def main() -> None:
        task = PipelineTask(Pipeline([last]))

        @task.event_handler("on_pipeline_error")
        async def on_pipeline_error(task: PipelineTask, frame: Any) -> None:
            print(f"Pipeline error: {frame.error}")
            if frame.fatal:
                print("Fatal error — pipeline will be cancelled")

        running = asyncio.ensure_future(PipelineRunner().run(task))
        await turns()
        await last.push_error("a hiccup")
        await turns()
        await last.push_error("no credit", fatal=True)
        await running

    run(main())
    assert capsys.readouterr().out == (
        "Pipeline error: a hiccup\nPipeline error: no credit\nFatal error — pipeline will be cancelled\n"
    )
    assert labels(last.seen)[-1] == "CancelFrame"


def test_reached_events(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        task = PipelineTask(Pipeline([Pass()]))
        # Configure which frame types to monitor
        task.set_reached_upstream_filter((TranscriptionFrame,))

        @task.event_handler("on_frame_reached_upstream")
        async def on_frame_reached_upstream(task: PipelineTask, frame: Frame) -> None:
            print(f"Frame reached upstream: {type(frame).__name__}")

        # Configure which frame types to monitor
        task.set_reached_downstream_filter((TTSAudioRawFrame,))

        @task.event_handler("on_frame_reached_downstream")
        async def on_frame_reached_downstream(task: PipelineTask, frame: Frame) -> None:
            print(f"Frame reached downstream: {type(frame).__name__}")

        await task.queue_frames([TTSAudioRawFrame(b"\0\0", 8000, 1), TextFrame("x")])
        await task.queue_frame(TranscriptionFrame("x", "user", "now"), FrameDirection.UPSTREAM)
        await task.queue_frame(EndFrame())
        await PipelineRunner().run(task)

    run(main())
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "Frame reached downstream: TTSAudioRawFrame",
        "Frame reached upstream: TranscriptionFrame",
    ]


def test_idle_event() -> None:
    last = Pass()

    async def main() -> None:
        # Custom configuration
        task = PipelineTask(
            Pipeline([last]),
            idle_timeout_secs=0.03,
            idle_timeout_frames=(BotSpeakingFrame,),  # Only monitor bot speaking
            cancel_on_idle_timeout=False,  # Don't auto-cancel, just notify
        )

        @task.event_handler("on_idle_timeout")
        async def on_idle_timeout(task: PipelineTask) -> None:
            print("Pipeline has been idle too long")
            await task.queue_frame(TTSSpeakFrame("Are you still there?"))

        running = asyncio.ensure_future(PipelineRunner().run(task))
        await asyncio.sleep(0.075)
        await task.cancel()
        await running

    run(main())
    assert labels(last.seen) == ["StartFrame", "Are you still there?", "Are you still there?", "CancelFrame"]


class FileObserver(BaseObserver):
    """The page's own example of an observer: one line of JSON for each push."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._lines = Path(path).open("a")  # noqa: SIM115

    async def on_push_frame(self, data: FramePushed) -> None:
        record = {"frame": type(data.frame).__name__, "from": str(data.source), "to": str(data.destination)}
        self._lines.write(json.dumps(record) + "\n")

    async def cleanup(self) -> None:
        await super().cleanup()
        self._lines.close()


def test_complete_example_of_the_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    last: Any = Pass("the only one")

    async def main() -> None:
        # Create comprehensive parameters
        params = PipelineParams(
            audio_in_sample_rate=8000,
            audio_out_sample_rate=8000,
            enable_heartbeats=True,
            enable_metrics=True,
            enable_usage_metrics=True,
            heartbeats_period_secs=1.0,
            report_only_initial_ttfb=False,
            start_metadata={
                "conversation_id": "conv-123",
                "session_data": {"user_id": "user-456", "start_time": "2023-10-25T14:30:00Z"},
            },
        )
        # Create pipeline and task
        pipeline = Pipeline([last])
        task = PipelineTask(pipeline, params=params, observers=[FileObserver("pipeline_logs.jsonl")])
        await task.queue_frame(EndFrame())
        # Run the pipeline
        runner = PipelineRunner()
        await runner.run(task)

    run(main())
    start = last.seen[0]
    assert start.metadata["session_data"]["user_id"] == "user-456"
    assert last.metrics_enabled
    assert last.usage_metrics_enabled
    lines = [json.loads(line) for line in Path("pipeline_logs.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in lines if line["to"] == "the only one"] == [
        "StartFrame",
        "EndFrame",
        "HeartbeatFrame",
    ]


def test_old_parameters() -> None:
    """Interruption strategies given to the parameters arrive in StartFrame; user turns decide today."""
    last: Any = Pass()

    class MinWordsInterruptionStrategy:
        def __init__(self, min_words: int) -> None:
            self.min_words = min_words

    async def main() -> None:
        task = PipelineTask(
            Pipeline([last]),
            params=PipelineParams(
                allow_interruptions=True, interruption_strategies=[MinWordsInterruptionStrategy(min_words=3)]
            ),
        )
        await task.queue_frame(EndFrame())
        await PipelineRunner().run(task)

    run(main())
    assert last.interruptions_allowed
    assert [strategy.min_words for strategy in last.seen[0].interruption_strategies] == [3]


def test_ending_a_conversation_from_inside() -> None:
    """The goodbye is spoken, then the pipeline ends."""
    aggregator, tts = AsyncPass(), AsyncPass()

    async def main() -> None:
        task = PipelineTask(Pipeline([aggregator, tts]))
        running = asyncio.ensure_future(PipelineRunner().run(task))
        await turns()
        await aggregator.push_frame(TTSSpeakFrame("It seems like you're busy. Have a nice day!"))
        await aggregator.push_frame(EndTaskFrame(), FrameDirection.UPSTREAM)
        await running
        await left_alone()

    run(main())
    assert labels(tts.seen) == ["StartFrame", "It seems like you're busy. Have a nice day!", "EndFrame"]


def test_tracing_parameters() -> None:
    """Accepted and kept; the spans come with tracing."""

    async def main() -> None:
        task = PipelineTask(
            Pipeline([Pass()]),
            params=PipelineParams(
                enable_metrics=True,  # Required for some service metrics
            ),
            enable_tracing=True,  # Enable tracing for this task
            enable_turn_tracking=True,  # Enable turn tracking for this task
            conversation_id="customer-123",  # Optional - will auto-generate if not provided
            additional_span_attributes={"session.id": "abc-123"},
        )
        await task.queue_frame(EndFrame())
        await PipelineRunner(handle_sigint=False).run(task)

    run(main())
