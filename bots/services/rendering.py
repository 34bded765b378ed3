"""Sentences that are known when the configuration loads, spoken once by the voice of the calls, and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bots.runtime import PipelineParams, PipelineTask
from bots.services.tts import TTSService
from media.errors import ServiceError
from media.events import MaybeAwaitable
from media.flow import FrameDirection
from media.frames import EndFrame, ErrorFrame, Frame, TTSAudioRawFrame, TTSSpeakFrame
from media.pipeline import Pipeline
from media.processor import FrameProcessor
from media.resample import resample_all

LIMIT_S = 10.0  # for all sentences of one voice
KEPT = 256  # sentences, of all configurations: a reload speaks only what is new

_kept: dict[tuple[str, str, int], bytes] = {}


class _Ear(FrameProcessor):
    """Keeps what is spoken, by sentence."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self._sample_rate = sample_rate
        self.heard = bytearray()

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if isinstance(frame, TTSAudioRawFrame):
            self.heard += resample_all(frame.audio, frame.sample_rate, self._sample_rate)
        return self.push_frame(frame, direction)


async def render(service: TTSService, text: str, sample_rate: int) -> bytes:
    """`text` as PCM s16le mono. The service is used up. Raises ServiceError, or TimeoutError after LIMIT_S."""
    service.patience_s = LIMIT_S / 2
    ear = _Ear(sample_rate)
    params = PipelineParams(audio_in_sample_rate=sample_rate, audio_out_sample_rate=sample_rate)
    task = PipelineTask(Pipeline([service, ear]), params=params, idle_timeout_secs=None)
    problems: list[str] = []

    def failed(task: PipelineTask, error: ErrorFrame) -> None:
        problems.append(error.error)

    task.add_event_handler("on_pipeline_error", failed)
    await task.queue_frames([TTSSpeakFrame(text), EndFrame()])
    running = asyncio.ensure_future(task.run())
    try:
        async with asyncio.timeout(LIMIT_S):
            await asyncio.shield(running)
    finally:
        if not running.done():
            await task.cancel()
            await asyncio.wait((running,), timeout=2.0)
            running.cancel()
    if problems or not ear.heard:
        raise ServiceError(type(service).__name__, problems[0] if problems else "it said nothing")
    return bytes(ear.heard)


async def rendered(voice: str, service: TTSService, text: str, sample_rates: Sequence[int]) -> dict[int, bytes]:
    """The same, once for each voice and text of this process, at the rates of the wires. `voice` is what to keep it by.

    Each rate is asked for by itself only where the service speaks it; the others are resampled from the highest.
    """
    rate = max(sample_rates, default=8000)
    key = voice, text, rate
    pcm = _kept.pop(key, None)
    if pcm is None:
        pcm = await render(service, text, rate)
    _kept[key] = pcm  # to the young end
    while len(_kept) > KEPT:
        del _kept[next(iter(_kept))]
    return {each: resample_all(pcm, rate, each) for each in sample_rates}
