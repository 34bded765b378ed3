"""Bots as people write them for Pipecat: `async def` processors, a task, a runner."""

from __future__ import annotations

from collections.abc import Callable

from bots.runtime import PipelineParams, PipelineRunner, PipelineTask
from gateway.transports.base import BaseTransport
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    EndFrame,
    EndTaskFrame,
    Frame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InterruptionFrame,
    InterruptionTaskFrame,
    KeypadEntry,
    OutputAudioRawFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from media.pipeline import Pipeline
from media.processor import FrameDirection, FrameProcessor

PHONE = PipelineParams(audio_in_sample_rate=8000, audio_out_sample_rate=8000)


class EchoProcessor(FrameProcessor):
    """Says what it hears; # ends the call, any other key interrupts."""

    def __init__(self) -> None:
        super().__init__()
        self.digits = ""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            await self.push_frame(OutputAudioRawFrame(frame.audio, frame.sample_rate, frame.num_channels))
        elif isinstance(frame, InputDTMFFrame):
            self.digits += frame.button.value
            if frame.button is KeypadEntry.POUND:
                await self.push_frame(EndTaskFrame(), FrameDirection.UPSTREAM)
            else:
                await self.push_frame(InterruptionTaskFrame(), FrameDirection.UPSTREAM)
        else:
            await self.push_frame(frame, direction)


class Talker(FrameProcessor):
    """Says `pcm` when the client has come; a key interrupts it, and it says `answer`, and ends the call."""

    def __init__(self, pcm: bytes, rate: int, answer: bytes = b"") -> None:
        super().__init__()
        self._pcm, self._rate, self._answer = pcm, rate, answer
        self.seen: list[Frame] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        self.seen.append(frame)
        if isinstance(frame, InputDTMFFrame):
            await self.broadcast_interruption()
            await self.say(self._answer)
            await self.push_frame(EndTaskFrame(), FrameDirection.UPSTREAM)
        elif not isinstance(frame, InputAudioRawFrame):
            await self.push_frame(frame, direction)

    async def say(self, pcm: bytes | None = None) -> None:
        pcm = self._pcm if pcm is None else pcm
        await self.push_frame(TTSStartedFrame())
        step = self._rate // 50 * 2
        for at in range(0, len(pcm), step):
            await self.push_frame(TTSAudioRawFrame(pcm[at : at + step], self._rate, 1))
        await self.push_frame(TTSStoppedFrame())

    def names(self, *kinds: type[Frame]) -> list[str]:
        wanted = kinds or (BotStartedSpeakingFrame, BotStoppedSpeakingFrame, InterruptionFrame, EndFrame)
        return [type(frame).__name__ for frame in self.seen if isinstance(frame, wanted)]


async def run_bot(
    transport: BaseTransport,
    *middle: FrameProcessor,
    params: PipelineParams = PHONE,
    started: Callable[[PipelineTask], None] | None = None,
    on_connected: Callable[[PipelineTask], None] | None = None,
) -> None:
    """A pipeline with `middle` in it, until it ends or the client leaves."""
    task = PipelineTask(Pipeline([transport.input(), *middle, transport.output()]), params=params)

    @transport.event_handler("on_client_connected")
    async def connected(transport: BaseTransport, client: object) -> None:
        if on_connected is not None:
            on_connected(task)
        for processor in middle:
            if isinstance(processor, Talker):
                await processor.say()

    @transport.event_handler("on_client_disconnected")
    async def disconnected(transport: BaseTransport, client: object) -> None:
        await task.cancel()

    if started is not None:
        started(task)
    await PipelineRunner(handle_sigint=False).run(task)
