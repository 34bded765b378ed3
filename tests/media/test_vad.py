"""Loudness, the four states, windows, and analyzers of one's own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.signal import lfilter

from media.vad import (
    InlineSource,
    VADAnalyzer,
    VADParams,
    VADState,
    VoiceStates,
    Windows,
    follow,
    powers,
    volume_of,
    volumes,
)
from tests.media.rig import run

Q, ST, SP, EN = VADState.QUIET, VADState.STARTING, VADState.SPEAKING, VADState.STOPPING


def tone(dbfs: float, hz: float = 1000.0, seconds: float = 0.032, rate: int = 8000) -> bytes:
    t = np.arange(round(seconds * rate)) / rate
    return np.round(32767 * math.sqrt(2) * 10 ** (dbfs / 20) * np.sin(2 * np.pi * hz * t)).astype("<i2").tobytes()


# ---------------------------------------------------------------- parameters


def test_parameters_have_their_defaults() -> None:
    params = VADParams()
    assert (params.confidence, params.start_secs, params.stop_secs, params.min_volume) == (0.7, 0.2, 0.2, 0.6)


@pytest.mark.parametrize("name", ["confidence", "min_volume"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_share_is_between_0_and_1(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        VADParams(**{name: value})


@pytest.mark.parametrize("name", ["start_secs", "stop_secs"])
def test_a_time_is_not_negative(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        VADParams(**{name: -0.1})


# ---------------------------------------------------------------- volume


def test_the_default_least_volume_is_about_50_db_below_full_scale() -> None:
    assert volume_of(tone(-47.0), 8000) > 0.6 > volume_of(tone(-53.0), 8000)


def test_silence_has_no_volume_and_nothing_is_louder_than_1() -> None:
    assert volume_of(bytes(512), 8000) == 0.0
    assert volume_of(b"", 8000) == 0.0
    assert volume_of(tone(-3.01, hz=3000.0), 8000) == 1.0


def test_a_constant_offset_is_not_loud() -> None:
    assert volume_of(np.full(256, 8000, "<i2").tobytes(), 8000) == 0.0


@pytest.mark.parametrize("rate", [8000, 16000])
def test_loudness_is_that_of_bs_1770(rate: int) -> None:
    """Against its two filters (coefficients by the standard's analogue prototypes), on noise and on tones."""
    shelf, high = _bs1770(rate)
    rng = np.random.default_rng(1)
    t = np.arange(rate) / rate
    signals = [rng.normal(0, 800, rate), *(3000 * np.sin(2 * np.pi * hz * t) for hz in (150, 440, 1000, 2500, 3400))]
    for signal in signals:
        pcm = np.round(signal).astype("<i2")
        heard = lfilter(*high, lfilter(*shelf, pcm.astype(float)))
        wanted = (10 * math.log10((heard[rate // 4 :] ** 2).mean()) - 0.691 + 20) / 100
        assert volume_of(pcm.tobytes(), rate) == pytest.approx(wanted, abs=0.006)


def _bs1770(rate: int) -> tuple[tuple[list[float], list[float]], tuple[list[float], list[float]]]:
    gain, w, q = 10 ** (4 / 40), 2 * math.pi * 1500 / rate, math.sqrt(0.5)
    alpha, c, root = math.sin(w) / (2 * q), math.cos(w), 2 * math.sqrt(gain)
    b = [gain * (gain + 1 + (gain - 1) * c + root * alpha), -2 * gain * (gain - 1 + (gain + 1) * c)]
    b.append(gain * (gain + 1 + (gain - 1) * c - root * alpha))
    a = [gain + 1 - (gain - 1) * c + root * alpha, 2 * (gain - 1 - (gain + 1) * c)]
    a.append(gain + 1 - (gain - 1) * c - root * alpha)
    w = 2 * math.pi * 38 / rate
    alpha, c = math.sin(w) / (2 * 0.5), math.cos(w)
    high = [(1 + c) / 2, -(1 + c), (1 + c) / 2], [1 + alpha, -2 * c, 1 - alpha]
    return (b, a), high


def test_a_rows_loudness_does_not_depend_on_its_neighbours() -> None:
    rows = np.random.default_rng(2).integers(-32768, 32768, (32, 256)).astype(np.int16)
    together = volumes(powers(rows, 8000))
    assert together == [volumes(powers(row.reshape(1, -1), 8000))[0] for row in rows]


def test_volume_rises_at_once_and_falls_slowly() -> None:
    assert follow(0.1, 0.7) == pytest.approx(0.7)
    assert follow(0.7, 0.2) == pytest.approx(0.6)


# ---------------------------------------------------------------- states


def walk(states: VoiceStates, windows: str) -> list[VADState]:
    """`s` is a window of speech, `?` a doubtful one, `.` one without."""
    return [states.step({"s": 0.9, "?": 0.55, ".": 0.1}[sign], 0.9) for sign in windows]


@pytest.mark.parametrize(
    ("windows", "wanted"),
    [
        ("...", [Q, Q, Q]),
        ("sssss...", [ST] * 8),
        ("sssss....", [ST] * 8 + [Q]),
        ("ss?ss", [ST, ST, Q, ST, ST]),
        ("sss?????sss", [ST] * 10 + [SP]),
        ("ssssss", [ST, ST, ST, ST, ST, SP]),
        ("ss.ssssss", [ST, ST, Q, ST, ST, ST, ST, ST, SP]),
        ("sss.ssss", [ST] * 7 + [SP]),
        ("sss..sss", [ST] * 4 + [Q] + [ST] * 3),
        ("ssssss.....s", [ST] * 5 + [SP] + [EN] * 5 + [SP]),
        ("ssssss......", [ST] * 5 + [SP] + [EN] * 5 + [Q]),
        ("ssssss...s.....", [ST] * 5 + [SP] + [EN] * 3 + [SP] + [EN] * 5),
    ],
)
def test_states_follow_the_windows(windows: str, wanted: Sequence[VADState]) -> None:
    assert walk(VoiceStates(VADParams(), 0.032), windows) == wanted


def test_a_window_is_speech_by_confidence_and_volume_both() -> None:
    states = VoiceStates(VADParams(start_secs=0), 0.032)
    assert states.step(0.69, 1.0) is Q
    assert states.step(1.0, 0.59) is Q
    assert states.step(0.7, 0.6) is SP


@pytest.mark.parametrize(("window_s", "needed"), [(0.032, 6), (0.02, 10), (0.016, 12), (0.5, 1)])
def test_how_many_windows_it_takes(window_s: float, needed: int) -> None:
    states = VoiceStates(VADParams(), window_s)
    assert walk(states, "s" * needed) == [ST] * (needed - 1) + [SP]
    assert walk(states, "." * needed) == [EN] * (needed - 1) + [Q]


def test_parameters_change_while_somebody_speaks() -> None:
    states = VoiceStates(VADParams(), 0.032)
    walk(states, "ssssss")
    states.params = VADParams(confidence=0.95, stop_secs=0.064)
    assert states.state is SP
    assert [states.step(0.9, 0.9) for _ in range(2)] == [EN, Q]


# ---------------------------------------------------------------- windows and sources


@pytest.mark.parametrize("piece", [1, 2, 7, 320, 512, 700, 5000])
def test_windows_are_cut_from_pieces_of_any_size(piece: int) -> None:
    data = bytes(range(256)) * 20
    cutter = Windows(512)
    found = [window for start in range(0, len(data), piece) for window in cutter.cut(data[start : start + piece])]
    assert found == [data[start : start + 512] for start in range(0, len(data) - 511, 512)]


def test_nothing_is_delivered_after_close_not_even_of_the_same_piece() -> None:
    heard: list[float] = []

    def deliver(confidence: float, volume: float) -> None:
        heard.append(confidence)
        source.close()

    source = InlineSource(lambda window: 0.5, 256, 8000, deliver)
    source.feed(bytes(512 * 3))
    source.feed(bytes(512))
    assert heard == [0.5]


def test_a_window_must_have_samples() -> None:
    with pytest.raises(ValueError, match="samples"):
        InlineSource(lambda window: 0.5, 0, 8000, lambda confidence, volume: None)


class LoudIsSpeech(VADAnalyzer):
    def num_frames_required(self) -> int:
        return self.sample_rate // 100

    def voice_confidence(self, buffer: bytes) -> float:
        assert len(buffer) == self.num_frames_required() * 2
        return 1.0 if max(buffer) else 0.0


def test_an_analyzer_of_ones_own_used_by_hand() -> None:
    analyzer = LoudIsSpeech(params=VADParams(start_secs=0.05, stop_secs=0.02))
    analyzer.set_sample_rate(8000)

    async def test() -> None:
        assert await analyzer.analyze_audio(tone(-20.0, seconds=0.04)) is ST
        assert await analyzer.analyze_audio(tone(-20.0, seconds=0.01)) is SP
        analyzer.set_params(VADParams(stop_secs=0.05))
        assert await analyzer.analyze_audio(bytes(160 * 4)) is EN
        assert await analyzer.analyze_audio(bytes(160)) is Q

    run(test())


def test_an_analyzer_by_hand_needs_a_rate() -> None:
    async def test() -> None:
        with pytest.raises(ValueError, match="set_sample_rate"):
            await LoudIsSpeech().analyze_audio(b"")

    run(test())


def test_the_rate_at_which_it_listens() -> None:
    assert LoudIsSpeech().rate_for(24000) == 24000
    assert LoudIsSpeech(sample_rate=8000).rate_for(24000) == 8000
    analyzer = LoudIsSpeech(sample_rate=16000)
    analyzer.set_sample_rate(8000)
    assert analyzer.sample_rate == 16000
