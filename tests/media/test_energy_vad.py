"""The detector without a model."""

from __future__ import annotations

import numpy as np

from media.energy_vad import EnergyVADAnalyzer
from media.vad import VADParams, VADState, VoiceStates

RATE = 8000


def states_of(samples: np.ndarray, params: VADParams | None = None) -> list[VADState]:
    found: list[VADState] = []
    states = VoiceStates(params or VADParams(), 0.02)
    source = EnergyVADAnalyzer().listen(RATE, lambda *window: found.append(states.step(*window)))
    source.feed(np.round(samples).astype("<i2").tobytes())
    return found


def hiss(dbfs: float, seconds: float, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 32768 * 10 ** (dbfs / 20), round(seconds * RATE))


def test_a_burst_above_the_noise_begins_and_ends() -> None:
    found = states_of(np.concatenate((hiss(-60, 2.0), hiss(-25, 1.0), hiss(-60, 1.0))))
    began, ended = found.index(VADState.SPEAKING), found.index(VADState.STOPPING)
    assert 2.18 <= began * 0.02 <= 2.22
    assert 2.98 <= ended * 0.02 <= 3.15
    assert found[-1] is VADState.QUIET


def test_loud_noise_becomes_the_floor() -> None:
    found = states_of(hiss(-35, 40.0))
    assert found[-1] is VADState.QUIET
    assert states_of(np.concatenate((hiss(-35, 40.0), hiss(-15, 0.5))))[-1] is VADState.SPEAKING


def test_each_call_has_a_floor_of_its_own() -> None:
    analyzer = EnergyVADAnalyzer()
    noisy: list[float] = []
    clean: list[float] = []
    one = analyzer.listen(RATE, lambda confidence, volume: noisy.append(confidence))
    two = analyzer.listen(RATE, lambda confidence, volume: clean.append(confidence))
    loud = np.round(hiss(-30, 30.0)).astype("<i2").tobytes()
    one.feed(loud)
    two.feed(loud[: RATE // 50 * 2])
    assert noisy[-1] < 0.5 < clean[-1]
