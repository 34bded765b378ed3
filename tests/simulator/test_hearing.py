"""Speech, silence and echoes, on made-up sound whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.simulator import hearing

RATE = 8000


def noise(seconds: float, level: float = 3000.0, seed: int = 1) -> bytes:
    """Noise with the envelope of syllables, four a second."""
    count = int(seconds * RATE)
    generator = np.random.default_rng(seed)
    envelope = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * np.arange(count) / RATE)
    return (generator.normal(0, level, count) * envelope).clip(-32000, 32000).astype("<i2").tobytes()


def silence(seconds: float) -> bytes:
    return bytes(2 * int(seconds * RATE))


def test_turns() -> None:
    pcm = silence(0.5) + noise(1.0) + silence(0.2) + noise(0.5) + silence(1.0) + noise(0.3) + silence(0.3)
    [first, second] = hearing.turns(pcm, RATE)
    assert first == pytest.approx((0.5, 2.2), abs=0.02)
    assert second == pytest.approx((3.2, 3.5), abs=0.02)
    assert hearing.turns(silence(2.0), RATE) == []
    assert hearing.turns(b"", RATE) == []


def test_the_noise_of_an_idle_line_is_silence() -> None:
    assert hearing.turns(noise(1.0, 8.0), RATE) == []


@pytest.mark.parametrize("size", [2, 34, 160, 3200])
def test_the_ear_follows_in_pieces_of_any_size(size: int) -> None:
    pcm = silence(0.5) + noise(1.0) + silence(1.0) + noise(0.5) + silence(1.0)
    ear = hearing.Ear(RATE)
    spoke = []
    for start in range(0, len(pcm), size):
        ear.feed(pcm[start : start + size])
        spoke.append(ear.speaking((start + size) / 2 / RATE))
    changes = [i * size / 2 / RATE for i in range(1, len(spoke)) if spoke[i] != spoke[i - 1]]
    hangover = hearing.HANGOVER_S
    assert changes == pytest.approx([0.5, 1.5 + hangover, 2.5, 3.0 + hangover], abs=0.02 + size / 2 / RATE)
    assert ear.turn_began == pytest.approx(2.5, abs=0.02)
    assert ear.last_sound == pytest.approx(3.0, abs=0.02)


def test_first_and_last_sound_to_the_sample() -> None:
    pcm = silence(0.5) + (1000).to_bytes(2, "little") * 80 + silence(0.5)
    assert hearing.first_sound(pcm, RATE) == 0.5
    assert hearing.last_sound(pcm, RATE, 0.0, 2.0) == 0.51
    assert hearing.last_sound(pcm, RATE, 0.0, 0.505) == 0.505
    assert hearing.first_sound(pcm, RATE, 0.6) is None
    assert hearing.last_sound(pcm, RATE, 0.6, 2.0) is None


@pytest.mark.parametrize("latency", [0.0, 0.0415, 0.32, 1.5])
def test_echoes_are_timed_to_the_sample(latency: float) -> None:
    said = silence(0.7) + noise(5.0) + silence(3.0)
    heard = silence(latency) + said
    found = hearing.echoes(said, heard[: len(said)], RATE)
    assert len(found) >= 3
    for echo in found:
        assert echo.latency_s == pytest.approx(int(latency * RATE) / RATE, abs=1e-9)
        assert echo.similarity > 0.95


def test_an_echo_through_a_codec_with_another_voice_over_it() -> None:
    from media.codecs import pcm_to_ulaw, ulaw_to_pcm

    said = noise(5.0) + silence(3.0)
    echo = np.frombuffer(ulaw_to_pcm(pcm_to_ulaw(said)), "<i2") // 2
    other = np.frombuffer(noise(8.0, 700.0, seed=2), "<i2")
    heard = silence(0.05) + (echo + other).astype("<i2").tobytes()
    found = hearing.echoes(said, heard, RATE)
    assert len(found) == 5
    assert {echo.latency_s for echo in found} == {0.05}


def test_another_voice_is_no_echo() -> None:
    assert hearing.echoes(noise(5.0), noise(8.0, seed=9), RATE) == []
    assert hearing.echoes(noise(5.0), silence(8.0), RATE) == []
    assert hearing.echoes(silence(5.0), noise(8.0), RATE) == []
    assert hearing.echoes(noise(5.0), b"", RATE) == []
