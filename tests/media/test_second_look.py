"""A crowd's murmur and coughs, told from speech by what the model does not look at."""

from __future__ import annotations

import numpy as np
import pytest

from media.second_look import SecondLook, periodicity

WINDOW = 256


def look(
    given: list[float], volume: list[float], *, audio: list[np.ndarray] | None = None, power: list[float] | None = None
) -> list[float]:
    """Confidences that remain, window by window, of one slot. Without `audio` all is a voice."""
    second, slots = SecondLook(1), np.zeros(1, np.int64)
    found = []
    for place, (one, loud) in enumerate(zip(given, volume, strict=True)):
        heard = (audio[place] if audio else hum(120.0)).reshape(1, -1)
        strength = np.array([power[place] if power else 1.0])
        left = second.confidences(slots, np.array([one]), np.array([loud]), strength, np.array([0.6]), heard)
        found.append(float(left[0]))
    return found


def rounded(samples: np.ndarray) -> np.ndarray:
    return np.rint(samples * 8000).astype(np.int16)


def hum(pitch: float, rate: int = 8000) -> np.ndarray:
    t = np.arange(rate // 25) / rate
    return rounded(sum(np.sin(2 * np.pi * pitch * k * t) / k for k in range(1, 8)))


def air(seed: int, rate: int = 8000) -> np.ndarray:
    return rounded(np.random.default_rng(seed).normal(0, 0.5, rate // 25))


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("pitch", [70.0, 110.0, 180.0, 260.0, 380.0])
def test_a_voice_repeats_itself_and_air_does_not(pitch: float, rate: int) -> None:
    assert periodicity(hum(pitch, rate).reshape(1, -1))[0] > 0.9
    assert periodicity(air(1, rate).reshape(1, -1))[0] < 0.5


def test_an_offset_is_no_voice_and_silence_is_none() -> None:
    assert periodicity(np.rint(air(2) * 0.05 + 8192).astype(np.int16).reshape(1, -1))[0] < 0.5
    assert periodicity(np.zeros((1, 320), np.int16))[0] == 0.0


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    rows = np.array([air(seed) if seed % 2 else hum(80.0 + seed) for seed in range(32)])
    assert periodicity(rows).tolist() == [periodicity(row.reshape(1, -1))[0] for row in rows]


def test_a_murmur_is_doubted_and_who_rises_above_it_is_not() -> None:
    murmur = [0.8] * 300
    assert look(murmur, [0.7] * 300)[-1] == pytest.approx(0.4)
    assert look([*murmur, 0.8], [*[0.7] * 300, 0.85])[-1] == pytest.approx(0.8)


def test_speech_with_pauses_is_no_murmur_however_long() -> None:
    given, volume = ([0.95] * 40 + [0.02] * 8) * 20, ([0.8] * 40 + [0.3] * 8) * 20
    assert look(given, volume) == given


def test_a_steady_noise_that_is_not_like_speech_changes_nothing() -> None:
    assert look([*[0.05] * 300, 0.8], [0.7] * 301)[-1] == 0.8


def test_a_cough_is_doubted() -> None:
    """Air, and then a voice that is not as loud."""
    audio, given = [air(1), air(2), *[hum(200.0)] * 5], [0.6, 0.7, *[0.85] * 5]
    assert look(given, [0.8] * 7, audio=audio, power=[1.0, 1.0, *[0.5] * 5]) == [one * 0.5 for one in given]


def test_a_word_that_begins_with_air_is_not_doubted_once_it_is_voiced() -> None:
    audio, given = [air(1), air(2), *[hum(200.0)] * 5], [0.6, 0.7, *[0.85] * 5]
    assert look(given, [0.8] * 7, audio=audio, power=[0.2, 0.2, *[1.0] * 5])[2:] == given[2:]


def test_what_the_model_is_sure_of_is_no_cough() -> None:
    assert look([0.97] * 5, [0.8] * 5, audio=[air(seed) for seed in range(5)]) == [0.97] * 5


def test_a_new_call_begins_without_memory() -> None:
    second, slots = SecondLook(1), np.zeros(1, np.int64)
    one, row = np.ones(1), hum(120.0).reshape(1, -1)
    for _ in range(300):
        second.confidences(slots, one * 0.8, one * 0.7, one, one * 0.6, row)
    second.forget(0)
    assert second.confidences(slots, one * 0.8, one * 0.7, one, one * 0.6, row)[0] == pytest.approx(0.8)
