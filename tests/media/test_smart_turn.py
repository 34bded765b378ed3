"""Smart turn: what is kept of a turn, the features, and a real model in a real session."""

from __future__ import annotations

import asyncio
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bots.services import smart_turn
from bots.services.smart_turn import LocalSmartTurnAnalyzerV3, warm
from media.errors import ConfigError
from media.metrics import SmartTurnMetricsData
from media.smart_turn import BANDS, FRAMES, BaseSmartTurn, Endpoint, SmartTurnModel, SmartTurnParams, log_mel
from media.turns.analyzer import EndOfTurnState
from tests.media.small_onnx import mean_model

COMPLETE, INCOMPLETE = EndOfTurnState.COMPLETE, EndOfTurnState.INCOMPLETE
GAIN, OFFSET = 40.0, 0.0


class Asked(BaseSmartTurn):
    """Notes what it is asked of, and answers what it is told to."""

    def __init__(self, *answers: float, **options: Any) -> None:
        super().__init__(sample_rate=8000, **options)
        self.answers = list(answers)
        self.heard: list[bytes] = []

    async def predict(self, pcm: bytes) -> Endpoint:
        self.heard.append(pcm)
        return Endpoint(self.answers.pop(0), 0.01)

    def hear(self, seconds: float, speech: bool, value: int = 1) -> EndOfTurnState:
        state = INCOMPLETE
        for _ in range(round(seconds * 50)):
            state = self.append_audio(value.to_bytes(2, "little") * 160, speech)
            if state is COMPLETE:
                break
        return state

    def ask(self) -> tuple[EndOfTurnState, SmartTurnMetricsData | None]:
        return asyncio.run(self.analyze_end_of_turn())

    @property
    def seconds(self) -> float:
        return len(self.heard[-1]) / 16000


# ---------------------------------------------------------------- what is kept


def test_what_came_before_the_speech_is_shown_too() -> None:
    turn = Asked(0.4)
    turn.hear(20.0, speech=False, value=1)
    turn.hear(2.0, speech=True, value=2)
    turn.hear(0.2, speech=False, value=3)
    state, metrics = turn.ask()
    assert state is INCOMPLETE
    assert turn.speech_triggered
    samples = np.frombuffer(turn.heard[0], "<i2")
    assert (samples == 1).sum() == 8000 * 0.7  # pre_speech_ms, and what the detector needed
    assert (samples == 2).sum() == 16000
    assert (samples == 3).sum() == 1600
    assert metrics is not None
    assert (metrics.is_complete, metrics.probability, metrics.inference_time_ms) == (False, 0.4, 10.0)
    assert metrics.e2e_processing_time_ms >= 0


def test_the_detectors_own_time_counts() -> None:
    turn = Asked(0.4, params=SmartTurnParams(pre_speech_ms=100))
    turn.update_vad_start_secs(0.4)
    turn.hear(5.0, speech=False)
    turn.hear(1.0, speech=True)
    turn.ask()
    assert turn.seconds == pytest.approx(1.5)


def test_a_pause_belongs_to_the_turn_and_a_complete_one_is_forgotten() -> None:
    turn = Asked(0.1, 0.9, 0.9, params=SmartTurnParams(pre_speech_ms=0))
    turn.update_vad_start_secs(0.0)
    turn.hear(1.0, speech=True)
    turn.hear(0.5, speech=False)
    assert turn.ask()[0] is INCOMPLETE
    turn.hear(1.0, speech=True)
    turn.hear(0.5, speech=False)
    assert turn.ask()[0] is COMPLETE
    assert turn.seconds == pytest.approx(3.0)
    assert not turn.speech_triggered
    assert turn.ask() == (INCOMPLETE, None)  # nothing was said since
    turn.hear(0.5, speech=True)
    turn.ask()
    assert turn.seconds == pytest.approx(0.5)


def test_of_a_long_turn_the_last_seconds_are_shown() -> None:
    turn = Asked(0.4, params=SmartTurnParams(max_duration_secs=4.0))
    turn.hear(6.0, speech=True, value=1)
    turn.hear(3.0, speech=True, value=2)
    turn.ask()
    assert turn.seconds == 4.0
    assert np.frombuffer(turn.heard[0], "<i2").mean() == 1.75


def test_long_silence_completes_a_turn_unasked() -> None:
    turn = Asked(params=SmartTurnParams(stop_secs=2.0))
    assert turn.hear(10.0, speech=False) is INCOMPLETE  # nobody has spoken
    turn.hear(1.0, speech=True)
    assert turn.hear(1.96, speech=False) is INCOMPLETE
    turn.hear(0.1, speech=True)
    assert turn.hear(1.96, speech=False) is INCOMPLETE
    assert turn.hear(0.1, speech=False) is COMPLETE
    assert not turn.speech_triggered


def test_who_goes_on_while_the_model_thinks_loses_nothing() -> None:
    class Slow(Asked):
        async def predict(self, pcm: bytes) -> Endpoint:
            self.hear(0.1, speech=True)
            return await super().predict(pcm)

    turn = Slow(0.9, 0.9, params=SmartTurnParams(pre_speech_ms=0))
    turn.hear(1.0, speech=True)
    turn.hear(0.2, speech=False)
    assert turn.ask()[0] is COMPLETE  # of what was asked; who asks sees that it is stale
    assert turn.speech_triggered
    turn.hear(0.2, speech=False)
    turn.ask()
    assert turn.seconds == pytest.approx(1.5)


def test_memory_is_bounded() -> None:
    turn = Asked()
    turn.hear(60.0, speech=True)
    assert turn._bytes <= 16000 * 8 + 320
    turn.clear()
    turn.hear(60.0, speech=False)
    assert turn._bytes <= 16000 * 0.7 + 320


@pytest.mark.parametrize(
    "options",
    [{"stop_secs": 0}, {"stop_secs": 61}, {"pre_speech_ms": -1}, {"max_duration_secs": 0}, {"max_duration_secs": 99}],
)
def test_parameters_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        SmartTurnParams(**options)


def test_defaults_are_those_of_the_documentation() -> None:
    assert SmartTurnParams() == SmartTurnParams(stop_secs=3, pre_speech_ms=500, max_duration_secs=8)


# ---------------------------------------------------------------- features


def whispers(samples: np.ndarray[Any, Any], frame: int) -> list[float]:
    """One column of the features before the last scaling, straight from the definition."""
    x = np.concatenate([np.zeros(128000 - len(samples)), samples.astype(np.float64)])
    x = (x - x.mean()) / math.sqrt(x.var() + 1e-7)
    x = np.concatenate([x[200:0:-1], x, x[-2:-202:-1]])
    piece = x[frame * 160 : frame * 160 + 400] * np.hanning(401)[:400]
    turns = np.exp(-2j * np.pi * np.outer(np.arange(201), np.arange(400)) / 400)
    power = np.abs((turns * piece).sum(axis=1)) ** 2

    def hz(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    top = 15 + 27 * math.log(8) / math.log(6.4)
    edges = [hz(top * i / 81) for i in range(82)]
    found = []
    for low, middle, high in zip(edges, edges[1:], edges[2:], strict=False):
        total = 0.0
        for line in range(201):
            f = line * 40.0
            weight = min((f - low) / (middle - low), (high - f) / (high - middle))
            total += max(0.0, weight) * 2 / (high - low) * power[line]
        found.append(math.log10(max(total, 1e-10)))
    return found


def test_features_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(1)
    samples = (rng.normal(0, 0.1, 60000) * np.linspace(0.2, 1, 60000)).astype(np.float32)
    features = log_mel(samples)
    assert features.shape == (BANDS, FRAMES)
    assert features.dtype == np.float32
    logs = features.astype(np.float64) * 4 - 4
    for frame in (430, 500, 798, 799):
        expected = np.maximum(whispers(samples, frame), logs.max() - 8)
        assert logs[:, frame] == pytest.approx(expected, abs=2e-3)


def test_a_tone_is_in_its_band() -> None:
    for hz in (200.0, 1000.0, 3000.0):
        tone = np.sin(2 * np.pi * hz * np.arange(32000) / 16000).astype(np.float32)
        band = int(log_mel(tone)[:, 700].argmax())
        mel = hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)
        assert band == pytest.approx(mel / (15 + 27 * math.log(8) / math.log(6.4)) * 81 - 1, abs=1)


def test_less_is_padded_in_front_and_more_is_cut_there() -> None:
    rng = np.random.default_rng(2)
    samples = rng.normal(0, 0.1, 200000).astype(np.float32)
    assert np.array_equal(log_mel(samples), log_mel(samples[-128000:]))
    short = log_mel(samples[:16000])
    assert short[:, :690].max() < short[:, 710:].mean()
    assert np.isfinite(log_mel(np.zeros(0, np.float32))).all()


# ---------------------------------------------------------------- a model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(mean_model(GAIN, OFFSET))
    return path


def speech(seconds: float, rate: int = 16000) -> bytes:
    rng = np.random.default_rng(3)
    return rng.normal(0, 3000, int(seconds * rate)).astype("<i2").tobytes()


def test_the_model_is_run_on_the_features(model: Path) -> None:
    pcm = speech(2.0)
    found = SmartTurnModel(model).probability(pcm, 16000)
    mean = float(log_mel(np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)).mean())
    assert found.probability == pytest.approx(1 / (1 + math.exp(-(mean * GAIN + OFFSET))), rel=1e-3)
    assert 0.001 < found.probability < 0.999
    assert found.inference_s > 0


def test_telephone_audio_is_brought_to_its_rate(model: Path) -> None:
    tone = (np.sin(2 * np.pi * 700 * np.arange(32000) / 16000) * 8000).astype("<i2")
    it = SmartTurnModel(model)
    assert it.probability(tone[::2].tobytes(), 8000).probability == pytest.approx(
        it.probability(tone.tobytes(), 16000).probability, abs=0.1
    )


def test_a_call_asks_it_away_from_the_loop(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    ask = smart_turn._ask

    def noted(*args: Any) -> Endpoint:
        threads.append(threading.current_thread().name)
        return ask(*args)

    monkeypatch.setattr(smart_turn, "_ask", noted)
    analyzer = LocalSmartTurnAnalyzerV3(smart_turn_model_path=model, params=SmartTurnParams(stop_secs=2))
    analyzer.set_sample_rate(8000)
    pcm = speech(2.0, 8000)
    for at in range(0, len(pcm), 320):
        analyzer.append_audio(pcm[at : at + 320], True)
    analyzer.append_audio(bytes(320), False)

    async def main() -> tuple[EndOfTurnState, SmartTurnMetricsData | None]:
        await warm(model)
        return await analyzer.analyze_end_of_turn()

    state, metrics = asyncio.run(main())
    assert metrics is not None
    assert state is (COMPLETE if metrics.probability > 0.5 else INCOMPLETE)
    assert metrics.processor == "LocalSmartTurnAnalyzerV3"
    assert all(name.startswith("smart-turn") for name in threads)
    assert len(threads) == 2
    assert smart_turn._loaded(model, 1) is smart_turn._loaded(model, 1)


def test_files_that_are_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not given"):
        LocalSmartTurnAnalyzerV3()
    with pytest.raises(ConfigError, match="there is no file"):
        LocalSmartTurnAnalyzerV3(smart_turn_model_path=str(tmp_path / "none.onnx"))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        SmartTurnModel(broken)
    other = tmp_path / "other.onnx"
    other.write_bytes(mean_model(1.0, 0.0, name="audio", shape=(1, 512)))
    with pytest.raises(ConfigError, match="not input_features"):
        SmartTurnModel(other)
