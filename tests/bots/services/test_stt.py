"""Hearing: nothing is lost while a service connects, and turns learn what they need."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from bots.services.stt import DEFAULT_TTFS_P99, SegmentedSTTService
from media.frames import (
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    MetricsFrame,
    StartFrame,
    STTMetadataFrame,
    STTMuteFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.metrics import TTFBMetricsData
from tests.bots.services.rig import RATE, Hearer, pipeline, settle, voice
from tests.endtoend.served import until


def run(main: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await main

    asyncio.run(limited())


def test_what_is_said_while_it_connects_is_heard_afterwards() -> None:
    async def main() -> None:
        connected = asyncio.Event()
        stt = Hearer(connect=connected)
        async with pipeline(stt) as rig:
            assert rig.after.of(StartFrame)  # the others do not wait for it
            await rig.push(*voice(1, 3), *voice(2, 2))
            assert stt.heard == []
            assert len(rig.after.of(InputAudioRawFrame)) == 5
            connected.set()
            await until(lambda: bool(stt.heard))
            assert b"".join(stt.heard) == b"".join(frame.audio for frame in voice(1, 3) + voice(2, 2))
            assert rig.after.of(TranscriptionFrame)[0].text == "1600 bytes"

    run(main())


def test_muted_it_hears_nothing_and_the_frame_goes_no_further() -> None:
    async def main() -> None:
        stt = Hearer(audio_passthrough=False)
        async with pipeline(stt) as rig:
            await rig.push(STTMuteFrame(True), *voice(), STTMuteFrame(False), *voice(2))
            await until(lambda: bool(stt.heard))
            assert stt.heard == [frame.audio for frame in voice(2)]
            assert rig.after.of(STTMuteFrame, InputAudioRawFrame) == []

    run(main())


def test_turns_learn_how_long_a_transcript_takes() -> None:
    async def main() -> None:
        async with pipeline(Hearer(ttfs_p99_latency=0.4)) as rig:
            (told,) = rig.after.of(STTMetadataFrame)
            assert told.ttfs_p99_latency == 0.4
        async with pipeline(Hearer(ttfs_p99_latency=None)) as rig:
            assert rig.after.of(STTMetadataFrame)[0].ttfs_p99_latency == DEFAULT_TTFS_P99

    run(main())


def test_the_time_to_a_final_transcript() -> None:
    async def main() -> None:
        stt = Hearer()
        async with pipeline(stt, enable_metrics=True) as rig:
            await rig.push(VADUserStartedSpeakingFrame(), VADUserStoppedSpeakingFrame(stop_secs=0.2))
            stt.transcript("so f", final=False)
            stt.request_finalize()
            stt.confirm_finalize()
            stt.transcript("so far", final=True)
            await settle()
            assert rig.after.of(InterimTranscriptionFrame)[0].text == "so f"
            assert rig.after.of(TranscriptionFrame)[0].finalized
            ((record,),) = [frame.data for frame in rig.after.of(MetricsFrame)]
            assert isinstance(record, TTFBMetricsData)
            assert 0.2 <= record.value < 1.0

    run(main())


def test_silence_keeps_a_line_alive() -> None:
    async def main() -> None:
        stt = Hearer(keepalive_timeout=0.02, keepalive_interval=0.01)
        async with pipeline(stt):
            await until(lambda: bool(stt.heard))
            assert set(b"".join(stt.heard)) == {0}
            assert len(stt.heard[0]) % 1600 == 0

    run(main())


def test_a_piece_between_two_silences_is_a_file_with_what_came_just_before() -> None:
    files: list[bytes] = []

    class Segments(SegmentedSTTService):
        async def run_stt(self, audio: bytes) -> AsyncGenerator[Frame | None, None]:
            files.append(audio)
            yield TranscriptionFrame("said", "", "now")

    async def main() -> None:
        stt = Segments(ttfs_p99_latency=1.0)
        async with pipeline(stt) as rig:
            await rig.push(*voice(9, 60), *voice(1, 40))  # two seconds, of which one is kept
            await rig.push(VADUserStartedSpeakingFrame(), *voice(2, 50), VADUserStoppedSpeakingFrame())
            await until(lambda: bool(rig.after.of(TranscriptionFrame)))
            with wave.open(io.BytesIO(files[0])) as file:
                assert file.getframerate() == RATE
                samples = file.readframes(file.getnframes())
            assert samples == b"\x09\x00" * 160 * 10 + b"\x01\x00" * 160 * 40 + b"\x02\x00" * 160 * 50
            assert rig.after.of(TranscriptionFrame)[0].finalized

    run(main())
