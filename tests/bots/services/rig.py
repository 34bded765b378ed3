"""A pipeline round the service under test, and services whose vendors are scripts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from bots.context.context import LLMContext
from bots.runtime import PipelineParams, PipelineTask
from bots.services.llm import LLMService
from bots.services.stt import STTService
from bots.services.tts import TTSService
from media.frames import Frame, InputAudioRawFrame, TTSAudioRawFrame
from media.pipeline import Pipeline
from media.processor import FrameDirection, FrameProcessor
from tests.bots.services.vendor import NAME as VENDOR

RATE = 8000


class Watch(FrameProcessor):
    """Keeps what passes."""

    def __init__(self) -> None:
        super().__init__()
        self.down: list[Frame] = []
        self.up: list[Frame] = []

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        (self.down if direction is FrameDirection.DOWNSTREAM else self.up).append(frame)
        self.push_frame(frame, direction)

    def names(self, *leave_out: type[Frame]) -> list[str]:
        return [type(frame).__name__ for frame in self.down if not isinstance(frame, leave_out)]

    def of(self, *types: type[Frame]) -> list[Any]:
        return [frame for frame in self.down if isinstance(frame, types)]


class Rig:
    def __init__(self, task: PipelineTask, before: Watch, after: Watch) -> None:
        self.task, self.before, self.after = task, before, after

    async def push(self, *frames: Frame) -> None:
        await self.task.queue_frames(list(frames))
        await settle()


async def settle(turns: int = 30) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


@asynccontextmanager
async def pipeline(*services: FrameProcessor, rate: int = RATE, **params: Any) -> AsyncIterator[Rig]:
    """Runs, and ends without leaving a task."""
    others = asyncio.all_tasks()
    before, after = Watch(), Watch()
    task = PipelineTask(
        Pipeline([before, *services, after]),
        params=PipelineParams(audio_in_sample_rate=rate, audio_out_sample_rate=rate, **params),
        idle_timeout_secs=None,
    )
    running = asyncio.ensure_future(task.run())
    await settle()
    try:
        yield Rig(task, before, after)
    finally:
        await task.cancel()
        async with asyncio.timeout(60):
            await running
    await settle()
    left = {task for task in asyncio.all_tasks() - others if task.get_name() != VENDOR}
    assert not left, left


class Speaker(TTSService):
    """Says each text as 10 ms a letter; waits where `hold` names the text, until it is let go."""

    def __init__(self, *, hold: Sequence[str] = (), fail: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hold = {text: asyncio.Event() for text in hold}
        self.broken = fail
        self.asked: list[str] = []
        self.dropped: list[str] = []

    async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
        self.asked.append(text)
        if text in self.broken:
            raise ConnectionError("the vendor is gone")
        half = len(text) * RATE // 200
        yield TTSAudioRawFrame(b"\x01\x00" * half, self.sample_rate, 1)
        if text in self.hold:
            await self.hold[text].wait()
        yield None
        yield TTSAudioRawFrame(b"\x02\x00" * half, self.sample_rate, 1)

    async def on_interrupted(self, context_ids: Sequence[str]) -> None:
        self.dropped += context_ids


class Thinker(LLMService):
    """Answers each context with what the script says: texts, and events to wait for."""

    def __init__(self, *script: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.script = list(script)
        self.contexts: list[list[Any]] = []

    async def _process_context(self, context: LLMContext) -> None:
        self.contexts.append(list(context.messages))
        for item in self.script.pop(0):
            if isinstance(item, str):
                self.start_ttfb_metrics()
                self.stop_ttfb_metrics()
                self.push_text(item)
            elif isinstance(item, asyncio.Event):
                await item.wait()
            elif isinstance(item, BaseException):
                raise item
            else:
                await self.run_function_calls(item(context))

    async def run_inference(
        self, context: LLMContext, max_tokens: int | None = None, system_instruction: str | None = None
    ) -> str | None:
        self.contexts.append(list(context.messages))
        return str(self.script.pop(0))


class Hearer(STTService):
    """Transcribes into how many bytes it was given."""

    def __init__(self, *, connect: asyncio.Event | None = None, **kwargs: Any) -> None:
        super().__init__(**{"ttfs_p99_latency": 0.3, **kwargs})
        self.connect = connect
        self.heard: list[bytes] = []

    async def start(self, frame: Frame) -> None:
        if self.connect is not None:
            await self.connect.wait()

    async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
        self.heard.append(audio)
        self.transcript(f"{len(audio)} bytes", final=True)
        yield None


def voice(level: int = 1, frames: int = 1, rate: int = RATE) -> list[InputAudioRawFrame]:
    return [InputAudioRawFrame(level.to_bytes(2, "little") * (rate // 50), rate, 1) for _ in range(frames)]
