"""What was a moment ago: a likeness that is refuted by it, and somebody who speaks beside the line's echo."""

from __future__ import annotations

import numpy as np
import pytest

from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from media.echo import LONGEST_DELAY_S, RATE, WINDOW_S, Samples
from media.echo_before import PLAYED_S, is_new, leaves_voice, somebody_beside
from media.resample import resample_all
from tests.media.test_echo import voice
from tests.media.test_hum import hum

SPOKE_S = 0.16  # at the end


def pcm(samples: Samples) -> bytes:
    return samples.astype("<i2").tobytes()


def telephone(line: Samples, noise: float = 10.0) -> bytes:
    samples = line + np.random.default_rng(3).normal(0, noise, len(line))
    return ulaw_to_pcm(pcm_to_ulaw(np.clip(samples, -32768, 32767).astype("<i2").tobytes()))


def returned(said: Samples, delay_s: float, level_db: float, tail: int = 40) -> Samples:
    """All of it, late, weaker, and with a tail of 5 ms."""
    rng = np.random.default_rng(7)
    path = np.concatenate(([2.0], rng.normal(size=tail) * np.exp(-np.arange(tail) / 15)))
    path *= 10 ** (level_db / 20) / np.sqrt((path**2).sum())
    late = np.concatenate((np.zeros(round(delay_s * RATE)), said))[: len(said)]
    return np.asarray(np.convolve(late, path)[: len(said)])


def at_the_end(samples: Samples, length: int) -> Samples:
    return np.concatenate((np.zeros(length - len(samples)), samples))


SAID = voice(1)
DELAYS = pytest.mark.parametrize("delay_s", [0.0, 0.005, 0.05, 0.4, 0.75])


@DELAYS
@pytest.mark.parametrize("level_db", [-10.0, -30.0])
def test_an_echo_that_was_there_before_is_not_new_and_nobody_is_beside_it(delay_s: float, level_db: float) -> None:
    heard = telephone(returned(SAID, delay_s, level_db))
    delay_ms = round(delay_s * 1000)
    assert not is_new(heard, pcm(SAID), RATE, RATE, delay_ms)
    assert not somebody_beside(heard, pcm(SAID), RATE, RATE, delay_ms)


@DELAYS
def test_what_agrees_now_and_was_missing_before_is_new(delay_s: float) -> None:
    now = returned(SAID, delay_s, -15)[-int(WINDOW_S * RATE) :]
    heard = telephone(at_the_end(now, len(SAID)))
    assert is_new(heard, pcm(SAID), RATE, RATE, round(delay_s * 1000))


@pytest.mark.parametrize(("share", "new"), [(0.05, True), (0.2, False)])
def test_what_came_back_more_faintly_before_was_not_missing(share: float, new: bool) -> None:
    """A tenth of it is the limit."""
    echo = returned(SAID, 0.2, -15)
    echo[: -int(WINDOW_S * RATE)] *= share
    assert is_new(telephone(echo, noise=1.0), pcm(SAID), RATE, RATE, 200) is new


@pytest.mark.parametrize(("seconds_ago", "new"), [((0.7, 0.4), False), ((1.2, 0.9), False), ((1.7, 1.4), True)])
def test_the_second_before_is_what_tells(seconds_ago: tuple[float, float], new: bool) -> None:
    """Then it came back for a while, and now."""
    echo = returned(SAID, 0.75, -15)
    heard = at_the_end(echo[-int(WINDOW_S * RATE) :], len(SAID))
    then = slice(*(-int(ago * RATE) for ago in seconds_ago))
    heard[then] = echo[then]
    played = pcm(SAID)[-2 * int(PLAYED_S * RATE) :]
    assert is_new(telephone(heard, noise=1.0), played, RATE, RATE, 750) is new


def test_a_window_before_is_enough() -> None:
    now = returned(SAID, 0.2, -15)[-int(WINDOW_S * RATE) :]
    heard = telephone(at_the_end(now, len(SAID)))
    assert is_new(heard[-4 * int((WINDOW_S + 0.01) * RATE) :], pcm(SAID), RATE, RATE, 200)
    assert not is_new(heard[-4 * int((WINDOW_S - 0.01) * RATE) :], pcm(SAID), RATE, RATE, 200)


@pytest.mark.parametrize(("louder", "new"), [(0.7, True), (1.5, False)])
def test_noise_hides_what_would_be_a_quarter_of_its_power(louder: float, new: bool) -> None:
    now = returned(SAID, 0.2, -15)
    before, now = now[: -int(WINDOW_S * RATE)], now[-int(WINDOW_S * RATE) :]
    noise = np.random.default_rng(5).normal(0, louder * float(np.sqrt((before[-RATE:] ** 2).mean())), len(before))
    assert is_new(telephone(np.concatenate((noise, now)), noise=1.0), pcm(SAID), RATE, RATE, 200) is new


def test_where_nothing_was_played_before_nothing_can_have_been_missing() -> None:
    said = SAID.copy()
    said[: -int((WINDOW_S + 0.05) * RATE)] = 0
    heard = telephone(returned(said, 0.05, -15))
    assert not is_new(heard, pcm(said), RATE, RATE, 50)


def test_what_noise_would_have_hidden_was_not_missing() -> None:
    """At that loss nothing of the echo would have been heard before."""
    now = returned(SAID, 0.2, -25)[-int(WINDOW_S * RATE) :]
    noise = np.random.default_rng(5).normal(0, 1500, len(SAID) - len(now))
    heard = telephone(np.concatenate((noise, now)))
    assert not is_new(heard, pcm(SAID), RATE, RATE, 200)


def test_what_would_have_been_next_to_nothing_was_not_missing() -> None:
    said = SAID.copy()
    said[: -int((WINDOW_S + 0.2) * RATE)] *= 0.01
    now = returned(said, 0.2, -15)[-int(WINDOW_S * RATE) :]
    heard = telephone(at_the_end(now, len(said)), noise=1.0)
    assert not is_new(heard, pcm(said), RATE, RATE, 200)


def test_a_hum_of_the_line_that_was_there_before_is_nobody() -> None:
    hum = 300 * np.sin(2 * np.pi * 150 / RATE * np.arange(len(SAID)))
    assert not somebody_beside(telephone(returned(SAID, 0.2, -20) + hum), pcm(SAID), RATE, RATE, 200)


@pytest.mark.parametrize("echo_db", [-15.0, -25.0])
@pytest.mark.parametrize("voice_db", [-6.0, 0.0, 10.0])  # beside the echo
@DELAYS
def test_somebody_speaks_beside_the_echo(delay_s: float, voice_db: float, echo_db: float) -> None:
    caller = voice(5, SPOKE_S) * 10 ** ((echo_db + voice_db) / 20)
    heard = telephone(returned(SAID, delay_s, echo_db) + at_the_end(caller, len(SAID)))
    assert somebody_beside(heard, pcm(SAID), RATE, RATE, round(delay_s * 1000))


def test_a_voice_far_below_the_echo_is_not_told_from_what_no_path_explains() -> None:
    caller = voice(5, SPOKE_S) * 10 ** (-35 / 20)
    heard = telephone(returned(SAID, 0.2, -15) + at_the_end(caller, len(SAID)), noise=1.0)
    assert not somebody_beside(heard, pcm(SAID), RATE, RATE, 200)


@pytest.mark.parametrize(("beside_db", "somebody"), [(-12.0, False), (-6.0, True)])
def test_it_is_the_loudest_of_the_echo_that_a_voice_is_measured_by(beside_db: float, somebody: bool) -> None:
    """One word of it, however soft the rest."""
    said = SAID.copy()
    said[-int(0.7 * RATE) :] *= 0.1
    caller = voice(5, SPOKE_S) * 10 ** ((-15 + beside_db) / 20)
    heard = telephone(returned(said, 0.2, -15) + at_the_end(caller, len(said)), noise=1.0)
    assert somebody_beside(heard, pcm(said), RATE, RATE, 200) is somebody


@pytest.mark.parametrize("seconds", [0.1, 0.7])
def test_a_voice_that_has_just_begun_or_lasts(seconds: float) -> None:
    caller = at_the_end(voice(5, seconds) * 0.1, len(SAID))
    assert somebody_beside(telephone(returned(SAID, 0.2, -20) + caller), pcm(SAID), RATE, RATE, 200)


@pytest.mark.parametrize(("level", "somebody"), [(0.01, False), (0.02, True)])  # 5 and 9 dB above noise of 10
def test_a_voice_in_the_noise_is_nobody(level: float, somebody: bool) -> None:
    heard = telephone(returned(SAID, 0.2, -35) + at_the_end(hum(150, SPOKE_S) * level, len(SAID)))
    assert somebody_beside(heard, pcm(SAID), RATE, RATE, 200) is somebody


def test_on_a_line_of_digital_silence_what_is_next_to_nothing_is_nobody() -> None:
    for level, somebody in ((0.008, False), (0.08, True)):
        heard = telephone(at_the_end(hum(150, SPOKE_S) * level, len(SAID)), noise=0.0)
        assert somebody_beside(heard, bytes(2 * len(SAID)), RATE, RATE, 200) is somebody


@pytest.mark.parametrize("played_s", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("delay_s", [0.005, 0.05, 0.4, 0.75])
def test_a_bot_that_has_just_begun_to_speak(delay_s: float, played_s: float) -> None:
    """After an interruption nothing is known of what was played before, and the line may be later than that."""
    begins, delay_ms = len(SAID) - int(played_s * RATE), round(delay_s * 1000)
    played = pcm(SAID[begins:])
    echo = returned(at_the_end(SAID[begins:], len(SAID)), delay_s, -15)
    caller = at_the_end(voice(5, SPOKE_S) * 0.2, len(SAID))
    assert somebody_beside(telephone(echo + caller), played, RATE, RATE, delay_ms)
    assert leaves_voice(telephone(echo + caller), played, RATE, RATE, delay_ms)
    assert not somebody_beside(telephone(echo), played, RATE, RATE, delay_ms)
    assert not leaves_voice(telephone(echo), played, RATE, RATE, delay_ms)
    assert not is_new(telephone(echo), played, RATE, RATE, delay_ms)


@pytest.mark.parametrize("seed", range(4))
def test_a_loud_noise_that_half_repeats_itself_is_nobody(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.normal(size=RATE))
    hertz = np.arange(len(spectrum))
    band = np.fft.irfft(spectrum * ((hertz > 250) & (hertz < 750)))[-int(SPOKE_S * RATE) :]
    heard = telephone(returned(SAID, 0.2, -35) + at_the_end(band / band.std() * 500, len(SAID)))
    assert not leaves_voice(heard, pcm(SAID), RATE, RATE, 200)


def test_noise_that_begins_beside_the_echo_is_nobody() -> None:
    car = np.random.default_rng(8).normal(0, 600, int(SPOKE_S * RATE))
    heard = telephone(returned(SAID, 0.2, -20) + at_the_end(car, len(SAID)))
    assert not somebody_beside(heard, pcm(SAID), RATE, RATE, 200)


def passing_car(seed: int, rms: float) -> Samples:
    """A band of noise that swells over a second, to so much at its end: half a voice, in pieces of 40 ms."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.normal(size=RATE))
    hertz = np.arange(len(spectrum))
    band = np.fft.irfft(spectrum * ((hertz > 250) & (hertz < 450))) * 10 ** np.linspace(-1.5, 0, RATE)
    return np.asarray(band / np.sqrt((band[-1280:] ** 2).mean()) * rms)


@pytest.mark.parametrize("seed", [1, 2, 4, 5])
@pytest.mark.parametrize(("rms", "nobody"), [(65.0, True), (140.0, False)])  # 9.5 and 15 dB above noise of 10
def test_what_is_faint_beside_an_echo_must_surely_be_a_voice(seed: int, rms: float, nobody: bool) -> None:
    heard = telephone(returned(SAID, 0.2, -35) + at_the_end(passing_car(seed, rms), len(SAID)))
    assert somebody_beside(heard, pcm(SAID), RATE, RATE, 200) is not nobody
    assert leaves_voice(heard, pcm(SAID), RATE, RATE, 200) is not nobody


@pytest.mark.parametrize("breath", [0.0, 15.0])
def test_a_faint_voice_beside_an_echo_is_somebody(breath: float) -> None:
    caller = hum(150, SPOKE_S) * 0.02
    caller += np.random.default_rng(6).normal(0, breath, len(caller))
    heard = telephone(returned(SAID, 0.2, -35) + at_the_end(caller, len(SAID)))
    assert somebody_beside(heard, pcm(SAID), RATE, RATE, 200)
    assert leaves_voice(heard, pcm(SAID), RATE, RATE, 200)


@pytest.mark.parametrize("pitch", [90.0, 120.0, 150.0])
@pytest.mark.parametrize("seconds", [0.3, 0.35, 0.45])
def test_an_echo_that_has_just_begun_leaves_nobody(pitch: float, seconds: float) -> None:
    """No more than a vowel of it has come back, of which the window cuts off the end."""
    said = at_the_end(hum(pitch, seconds), len(SAID))
    heard = telephone(returned(said, 0.2, -10), noise=20.0)
    assert not somebody_beside(heard, pcm(said), RATE, RATE, 200)
    assert not leaves_voice(heard, pcm(said), RATE, RATE, 200)


@DELAYS
def test_what_an_echo_leaves_is_a_voice_or_not(delay_s: float) -> None:
    delay_ms, echo = round(delay_s * 1000), returned(SAID, delay_s, -20)
    caller = at_the_end(voice(5, SPOKE_S) * 0.1, len(SAID))
    car = at_the_end(np.random.default_rng(8).normal(0, 600, int(SPOKE_S * RATE)), len(SAID))
    assert leaves_voice(telephone(echo + caller), pcm(SAID), RATE, RATE, delay_ms)
    assert not leaves_voice(telephone(echo + car), pcm(SAID), RATE, RATE, delay_ms)
    assert not leaves_voice(telephone(echo), pcm(SAID), RATE, RATE, delay_ms)


def test_of_a_line_that_is_too_short_nobody_is_known() -> None:
    heard = telephone(at_the_end(voice(5, SPOKE_S) * 0.2, 4000))
    assert somebody_beside(heard, bytes(2 * len(SAID)), RATE, RATE, 200)
    assert not somebody_beside(heard[-4 * int((WINDOW_S - 0.01) * RATE) :], bytes(2 * len(SAID)), RATE, RATE, 200)


def test_of_a_line_that_is_too_short_nothing_is_said_against_a_voice() -> None:
    heard = telephone(np.zeros(4000))
    assert leaves_voice(heard[: 4 * int(WINDOW_S * RATE) - 2], pcm(SAID), RATE, RATE, 200)
    assert not leaves_voice(heard, pcm(SAID), RATE, RATE, 200)


def test_noise_as_loud_as_before_is_nobody() -> None:
    heard = telephone(returned(SAID, 0.2, -20), noise=400.0)
    assert not somebody_beside(heard, pcm(SAID), RATE, RATE, 200)


@pytest.mark.parametrize("rates", [(16000, 24000), (8000, 16000)])
def test_other_rates(rates: tuple[int, int]) -> None:
    heard_rate, played_rate = rates
    echo = returned(SAID, 0.2, -15)
    caller = at_the_end(voice(5, SPOKE_S) * 0.2, len(SAID))
    played = resample_all(pcm(SAID), RATE, played_rate)
    for line, beside in ((echo, False), (echo + caller, True)):
        heard = resample_all(telephone(line), RATE, heard_rate)
        assert somebody_beside(heard, played, *rates, 200) is beside
        assert not is_new(heard, played, *rates, 200)
    now = at_the_end(echo[-int(WINDOW_S * RATE) :], len(SAID))
    assert is_new(resample_all(telephone(now), RATE, heard_rate), played, *rates, 200)


@pytest.mark.parametrize("played", [b"", bytes(2000), pcm(SAID)])
@pytest.mark.parametrize("samples", [0, 1, 1900, 3000, 5000])
def test_a_call_that_has_just_begun_tells_nothing(samples: int, played: bytes) -> None:
    heard = telephone(voice(5)[:samples])
    for delay_ms in (0, 300, round(LONGEST_DELAY_S * 1000)):
        assert not is_new(heard[: 2 * 3800], played, RATE, RATE, delay_ms)
        assert not somebody_beside(heard[: 2 * 3800], played, RATE, RATE, delay_ms)


def test_no_more_of_what_was_played_is_looked_at_than_is_said() -> None:
    echo = returned(SAID, 0.75, -15)
    heard = telephone(at_the_end(echo[-int(WINDOW_S * RATE) :], len(SAID)))
    for played in (pcm(SAID), pcm(SAID)[-2 * int((PLAYED_S + 0.001) * RATE) :]):
        assert is_new(heard, played, RATE, RATE, 750)
