"""Transcriptions and speech over HTTP against a server that speaks the protocol."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bots.services.openai_audio import OpenAISTTService, OpenAITTSService
from bots.services.providers import choose, provider_names
from media.errors import ConfigError
from media.frames import (
    ErrorFrame,
    InterruptionFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStoppedFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from tests.bots.services.rig import Rig, pipeline, voice
from tests.bots.services.vendor import Reply, Vendor
from tests.endtoend.served import run, until


def errors(rig: Rig) -> list[str]:
    return [frame.error for frame in rig.before.up if isinstance(frame, ErrorFrame)]


def test_a_piece_of_speech_is_a_file_of_a_form_and_comes_back_as_text() -> None:
    async def main() -> None:
        replies = [json.dumps({"text": " A room, please. "}), json.dumps({"text": ""}), "[]", "nothing"]
        busy = Reply([json.dumps({"error": {"message": "slow down"}}).encode()], 429)
        async with Vendor(*(Reply([text.encode()]) for text in replies), busy).listening() as vendor:
            stt = OpenAISTTService(api_key="k3y", base_url=vendor.url, prompt="room, breakfast")
            async with pipeline(stt) as rig:
                for number in range(5):
                    await rig.push(VADUserStartedSpeakingFrame(), *voice(2, 25), VADUserStoppedSpeakingFrame())
                    await until(lambda number=number: len(vendor.asked) == number + 1)  # type: ignore[misc]
                await until(lambda: len(errors(rig)) == 3)
                (said,) = rig.after.of(TranscriptionFrame)
                assert (said.text, said.finalized) == ("A room, please.", True)
                assert errors(rig)[2] == "openai: HTTP 429: slow down"
            asked = vendor.asked[0]
            assert asked.path == "/v1/audio/transcriptions"
            assert asked.headers["authorization"] == "Bearer k3y"
            assert b'filename="speech.wav"' in asked.body
            assert b"room, breakfast" in asked.body
            assert asked.body.count(b"\x02\x00" * 160) >= 25

    run(main())


def test_speech_arrives_in_whole_samples_as_it_is_made() -> None:
    async def main() -> None:
        odd = Reply([b"\x01\x00" * 100 + b"\x01", b"\x00" + b"\x01\x00" * 99])
        async with Vendor(odd).listening() as vendor:
            tts = OpenAITTSService(api_key="k", base_url=vendor.url, instructions="Whisper.")
            async with pipeline(tts) as rig:
                await rig.push(TTSSpeakFrame("Good day."))
                await until(lambda: bool(rig.after.of(TTSStoppedFrame)))
                frames = rig.after.of(TTSAudioRawFrame)
                assert b"".join(frame.audio for frame in frames) == b"\x01\x00" * 200
                assert {frame.sample_rate for frame in frames} == {24000}
            (asked,) = vendor.asked
            assert asked.path == "/v1/audio/speech"
            assert (asked.json["input"], asked.json["instructions"]) == ("Good day.", "Whisper.")
            assert asked.json["response_format"] == "pcm"

    run(main())


def test_speech_that_is_refused_breaks_or_is_not_wanted() -> None:
    async def main() -> None:
        refused = Reply([json.dumps({"error": {"message": "no such voice"}}).encode()], 400)
        broken = Reply([b"\x01\x00" * 3000], breaks=True)
        endless = Reply([b"\x01\x00" * 3000] * 9, delay_s=1)
        whole = Reply([b"\x02\x00" * 2400])
        async with (
            Vendor(refused, broken, endless, whole).listening() as vendor,
            pipeline(OpenAITTSService(api_key="k", base_url=vendor.url)) as rig,
        ):
            await rig.push(TTSSpeakFrame("One."), TTSSpeakFrame("Two."))
            await until(lambda: len(errors(rig)) == 2)
            assert errors(rig)[0] == "openai: HTTP 400: no such voice"
            await rig.push(TTSSpeakFrame("Three."))
            await until(lambda: len(vendor.asked) == 3 and rig.after.of(TTSAudioRawFrame))
            await rig.push(InterruptionFrame())
            await rig.push(TTSSpeakFrame("Four."))
            await until(lambda: any(b"\x02" in frame.audio for frame in rig.after.of(TTSAudioRawFrame)))
            assert len(errors(rig)) == 2

    run(main())


def test_by_name() -> None:
    assert {"deepgram", "openai", "pocketsphinx"} <= set(provider_names("STT"))
    assert {"cartesia", "deepgram", "elevenlabs", "espeak", "openai"} <= set(provider_names("TTS"))
    assert {"anthropic", "openai", "rules"} <= set(provider_names("LLM"))

    async def main() -> None:
        for kind in ("STT", "TTS"):
            with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
                await choose(kind, {"use": "openai"}, Path(".")).prepare()
            own = choose(kind, {"use": "openai", "base_url": "http://127.0.0.1:1/v1"}, Path("."))
            await own.prepare()
            assert own.make() is not None

    run(main())
