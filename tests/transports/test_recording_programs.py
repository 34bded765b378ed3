"""The programs of Pipecat's page on AudioBufferProcessor, with nothing but their imports renamed, in real calls."""

from __future__ import annotations

import asyncio
import io
import wave
from typing import Any

import pytest
from starlette.websockets import WebSocket

from bots.runtime import PipelineParams, PipelineRunner, PipelineTask
from gateway.simulator.script import HangUp, Press, Say, Script, after
from gateway.transports.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from gateway.transports.runner import WebSocketRunnerArguments, create_transport
from media.audio_buffer import AudioBufferProcessor
from media.frames import Frame, InputAudioRawFrame
from media.pipeline import Pipeline
from media.processor import FrameDirection
from tests.transports.programs import EchoProcessor
from tests.transports.serving import call, fake, loud_s, words

TALK = Script().then(after(0.5), Say(words(1.0))).then(after(1.5), Press("#"))


class Repeater(EchoProcessor):
    """Says what it hears, and lets the caller's audio pass, as a recogniser with `audio_passthrough` does."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, InputAudioRawFrame):
            await self.push_frame(frame, direction)


def recorded(carrier: str, audiobuffer: AudioBufferProcessor, script: Script = TALK, ended_by: str = "bot") -> None:
    """A call to an echo with the processor where the page puts it."""

    async def program(websocket: WebSocket) -> None:
        transport = await create_transport(
            WebSocketRunnerArguments(websocket=websocket),
            {carrier: lambda: FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True)},
        )
        assert isinstance(transport, FastAPIWebsocketTransport)

        # Add the AudioBufferProcessor after `transport.output()` to capture both user and bot audio
        pipeline = Pipeline(
            [
                transport.input(),
                Repeater(),
                transport.output(),
                audiobuffer,  # Place after audio output
            ]
        )
        task = PipelineTask(pipeline, params=PipelineParams(audio_in_sample_rate=8000, audio_out_sample_rate=8000))

        @transport.event_handler("on_client_connected")
        async def on_client_connected(transport: Any, client: Any) -> None:
            await audiobuffer.start_recording()

        @transport.event_handler("on_client_disconnected")
        async def on_client_disconnected(transport: Any, client: Any) -> None:
            await task.cancel()

        await PipelineRunner(handle_sigint=False).run(task)

    report = asyncio.run(call(program, fake(carrier), script))
    assert report.ok, report.problems
    assert report.ended_by == ended_by


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"):
        monkeypatch.setenv(name, "value")
    monkeypatch.setattr("gateway.transports.base.process_finisher", lambda: _Finisher())


class _Finisher:
    def submit(self, value: object) -> None: ...


def test_on_audio_data_into_a_wav_file() -> None:
    audiobuffer = AudioBufferProcessor(num_channels=2)
    files: list[bytes] = []

    @audiobuffer.event_handler("on_audio_data")
    async def on_audio_data(buffer: Any, audio: bytes, sample_rate: int, num_channels: int) -> None:
        # Handle merged audio data
        with io.BytesIO() as file:
            with wave.open(file, "wb") as wf:
                wf.setsampwidth(2)
                wf.setnchannels(num_channels)
                wf.setframerate(sample_rate)
                wf.writeframes(audio)
            await asyncio.sleep(0.05)  # a disk, or a store elsewhere
            files.append(file.getvalue())

    recorded("twilio", audiobuffer)
    (file,) = files
    with wave.open(io.BytesIO(file)) as wf:
        assert (wf.getnchannels(), wf.getframerate()) == (2, 8000)
        both = wf.readframes(wf.getnframes())
    left, right = (b"".join(both[at : at + 2] for at in range(side, len(both), 4)) for side in (0, 2))
    assert loud_s(left, 8000) > 0.5
    assert loud_s(right, 8000) > 0.5


def test_on_track_audio_data_in_chunks() -> None:
    audiobuffer = AudioBufferProcessor(sample_rate=16000, buffer_size=16000)
    chunks: list[tuple[bytes, bytes]] = []

    @audiobuffer.event_handler("on_track_audio_data")
    async def on_track_audio_data(
        buffer: Any, user_audio: bytes, bot_audio: bytes, sample_rate: int, num_channels: int
    ) -> None:
        # Handle separate audio tracks
        assert (sample_rate, num_channels) == (16000, 1)
        chunks.append((user_audio, bot_audio))

    recorded("vonage", audiobuffer)
    assert len(chunks) > 2
    assert {len(user) for user, _ in chunks[:-1]} == {16000}
    for side in zip(*chunks, strict=True):
        assert loud_s(b"".join(side), 16000) > 0.5


def test_a_caller_who_hangs_up_is_recorded_until_then() -> None:
    """The task is cancelled by on_client_disconnected; a handler that waits is waited for."""
    audiobuffer = AudioBufferProcessor()
    kept: list[bytes] = []

    @audiobuffer.event_handler("on_audio_data")
    async def on_audio_data(buffer: Any, audio: bytes, sample_rate: int, num_channels: int) -> None:
        await asyncio.sleep(0.05)
        kept.append(audio)

    recorded("twilio", audiobuffer, Script().then(after(0.5), Say(words(1.0))).then(after(1.0), HangUp()), "caller")
    (audio,) = kept
    assert loud_s(audio, 8000) > 0.5
