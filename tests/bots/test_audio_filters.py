"""Filters of the caller's audio, and noise suppression with the real library."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest

from bots.audio_filters import BaseAudioFilter, FilteredInput, NoiseSuppressor
from bots.base import Call
from media.errors import ConfigError
from media.events import MaybeAwaitable
from media.frames import FilterControlFrame, FilterEnableFrame, Frame, InputAudioRawFrame
from media.processor import FrameDirection, FrameProcessor
from tests.gateway.virtual import VirtualCall


class Ear(FrameProcessor):
    def __init__(self) -> None:
        super().__init__()
        self.pcm = b""
        self.controls = 0

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, InputAudioRawFrame):
            self.pcm += frame.audio
        self.controls += isinstance(frame, FilterControlFrame)
        self.push_frame(frame, direction)


class Half(BaseAudioFilter):
    def __init__(self) -> None:
        self.log: list[str] = []

    def start(self, sample_rate: int) -> MaybeAwaitable:
        self.log.append(f"start {sample_rate}")
        return super().start(sample_rate)

    def stop(self) -> MaybeAwaitable:
        self.log.append("stop")
        return super().stop()

    def filter(self, audio: bytes) -> bytes:
        return (np.frombuffer(audio, "<i2") // 2).astype("<i2").tobytes()


def noise(seconds: float, rate: int = 8000) -> bytes:
    return np.random.default_rng(1).normal(0, 1500, int(seconds * rate)).astype("<i2").tobytes()


def power(pcm: bytes) -> float:
    samples = np.frombuffer(pcm, "<i2").astype(float)
    return float((samples * samples).mean())


def call_through(audio_filter: BaseAudioFilter, carrier: str = "twilio") -> tuple[VirtualCall, Ear]:
    ear = Ear()

    def build(call: Call) -> Sequence[FrameProcessor]:
        return [FilteredInput(audio_filter), ear]

    return VirtualCall(carrier, build), ear


def test_a_filter_hears_the_whole_call() -> None:
    half = Half()
    call, ear = call_through(half)
    call.say(noise(1.0))
    call.run(1.0)
    assert power(ear.pcm) == pytest.approx(1500**2 / 4, rel=0.15)
    call.hang_up()
    call.run(0.5)
    assert half.log == ["start 8000", "stop"]


@pytest.mark.parametrize("carrier", ["twilio", "vonage"])  # 8 and 16 kHz
def test_noise_is_suppressed_and_time_is_kept(carrier: str) -> None:
    pytest.importorskip("webrtc_noise_gain", reason="the extra [noise] is not installed")
    call, ear = call_through(NoiseSuppressor(), carrier)
    rate = call.fake.audio_rate
    call.say(noise(4.0, rate))
    call.run(4.0)
    assert len(ear.pcm) / 2 / rate == pytest.approx(4.0, abs=0.06)
    assert power(ear.pcm[-2 * rate :]) < 1500**2 / 10
    call.core.inject(FilterEnableFrame(False))
    call.say(noise(1.0, rate))
    call.run(1.0)
    assert power(ear.pcm[-rate:]) == pytest.approx(1500**2, rel=0.2)
    assert ear.controls == 0


def test_speech_stays() -> None:
    pytest.importorskip("webrtc_noise_gain", reason="the extra [noise] is not installed")
    call, ear = call_through(NoiseSuppressor())
    at = np.arange(3 * 8000) / 8000
    buzz = sum(np.sin(2 * np.pi * 140 * k * at) / k for k in range(1, 12)) * (np.sin(2 * np.pi * 2.5 * at) > 0)
    call.say((buzz * 5000).astype("<i2").tobytes())
    call.run(3.2)
    assert power(ear.pcm[4000:]) > power((buzz * 5000).astype("<i2").tobytes()) / 6  # noise: a tenth and less


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webrtc_noise_gain", None)
    with pytest.raises(ConfigError, match="webrtc-noise-gain is not installed"):
        NoiseSuppressor()


@pytest.mark.parametrize("level", [0, 5])
def test_levels(level: int) -> None:
    with pytest.raises(ValueError, match="level must be 1 to 4"):
        NoiseSuppressor(level)
