"""A hum is told from a voice with an open mouth, also over noise. Whole calls: tests/gateway/test_floor.py."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from media.hum import LINE_S, hums
from media.resample import resample_all
from tests.media.test_echo import voice

Samples = NDArray[np.float64]

RATE = 8000


def hum(pitch: float, seconds: float, steep: float = 2.0) -> Samples:
    """Partials that fall off as they do behind closed lips."""
    t = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * pitch * (t + 0.004 * np.sin(9 * t))
    out = np.sum([np.sin(k * phase) / k**steep for k in range(1, 12)], axis=0)
    return np.asarray(out / np.sqrt((out**2).mean()) * 3000)


def line(*parts: Samples, noise: float = 30.0) -> bytes:
    """One after the other, through mu-law, behind what there was on the line before."""
    said = np.concatenate(parts)
    samples = np.concatenate((np.zeros(max(0, int(LINE_S * RATE) - len(said))), said))
    samples += np.random.default_rng(2).normal(0, noise, len(samples))
    return ulaw_to_pcm(pcm_to_ulaw(np.clip(samples, -32768, 32767).astype("<i2").tobytes()))


@pytest.mark.parametrize("pitch", [90.0, 130.0, 180.0, 250.0])
@pytest.mark.parametrize("steep", [2.0, 2.5])
@pytest.mark.parametrize("noise", [0.0, 30.0, 700.0])  # the last is 13 dB below it
def test_closed_lips_are_a_hum(pitch: float, steep: float, noise: float) -> None:
    assert hums(line(hum(pitch, 0.25, steep), noise=noise), RATE)


@pytest.mark.parametrize("seconds", [0.12, 0.2, 0.6])
def test_a_hum_may_have_just_begun_or_last(seconds: float) -> None:
    assert hums(line(hum(150, seconds)), RATE)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise", [0.0, 30.0, 700.0])
def test_an_open_mouth_is_no_hum(seed: int, noise: float) -> None:
    assert not hums(line(voice(seed, 0.25), noise=noise), RATE)


@pytest.mark.parametrize("share", [0.006, 0.01])
def test_what_an_open_mouth_adds_is_8_thousandths_of_the_power_and_more(share: float) -> None:
    t = np.arange(int(0.25 * RATE)) / RATE
    said = 3000 * np.sin(2 * np.pi * 200 * t) + 3000 * share**0.5 * np.sin(2 * np.pi * 1500 * t)
    assert hums(line(said), RATE) is (share < 0.008)


@pytest.mark.parametrize(("hertz", "closed"), [(750, True), (850, False)])
def test_an_open_mouth_is_heard_from_850_hertz_on(hertz: float, closed: bool) -> None:
    t = np.arange(int(0.25 * RATE)) / RATE
    said = 3000 * np.sin(2 * np.pi * 200 * t) + 1500 * np.sin(2 * np.pi * hertz * t)
    assert hums(line(said), RATE) is closed


@pytest.mark.parametrize("seconds", [0.02, 0.04])
def test_who_opens_his_mouth_hums_no_more(seconds: float) -> None:
    assert not hums(line(hum(150, 0.4), voice(3, seconds)), RATE)


def test_what_was_said_a_while_ago_does_not_count() -> None:
    assert hums(line(voice(3, 0.3), np.zeros(1600), hum(150, 0.24)), RATE)


def test_nobody_hums_where_there_is_nothing_but_noise() -> None:
    assert not hums(line(np.zeros(100), noise=300.0), RATE)
    assert not hums(bytes(2 * int(LINE_S * RATE)), RATE)


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.3, 0.59])
def test_where_the_line_is_not_known_yet_nothing_is_a_hum(seconds: float) -> None:
    heard = line(hum(150, 0.24))
    assert not hums(heard[len(heard) - 2 * int(seconds * RATE) :], RATE)


def test_after_six_tenths_of_a_second_it_is_known() -> None:
    assert hums(line(hum(150, 0.24))[-2 * int(0.6 * RATE) :], RATE)


@pytest.mark.parametrize(("seconds", "closed"), [(0.2, True), (0.18, False)])
def test_lips_are_closed_for_a_fifth_of_a_second(seconds: float, closed: bool) -> None:
    assert hums(line(voice(3, 0.3), hum(150, seconds)), RATE) is closed


@pytest.mark.parametrize("rate", [16000, 24000])
def test_other_rates(rate: int) -> None:
    assert hums(resample_all(line(hum(150, 0.25)), RATE, rate), rate)
    assert not hums(resample_all(line(voice(3, 0.25)), RATE, rate), rate)


def test_no_more_of_the_line_counts_than_is_said() -> None:
    before = np.random.default_rng(4).normal(0, 5000, 3 * RATE).astype("<i2").tobytes()
    assert hums(before + line(hum(150, 0.24)), RATE)
    assert not hums(before + line(voice(3, 0.24)), RATE)
