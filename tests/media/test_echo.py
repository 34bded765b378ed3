"""The bot's own voice on the caller's line, told from other voices. Whole calls: tests/gateway/test_floor.py."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from media.echo import LONGEST_DELAY_S, NOISE_S, NOT_ECHO, RATE, WINDOW_S, Likeness, latest, likeness, path
from media.resample import resample_all

Samples = NDArray[np.float64]


def voice(seed: int, seconds: float = 3.0) -> Samples:
    """A buzz of changing pitch with changing colour: voiced, and like no other of another seed."""
    rng = np.random.default_rng(seed)
    count = int(seconds * RATE)
    pitch = 110 + 60 * rng.random() + 20 * np.cumsum(rng.normal(0, 0.02, count))
    phase = np.cumsum(pitch) / RATE
    out = np.zeros(count)
    for harmonic in range(1, 20):
        strength = np.repeat(rng.random(count // 400 + 1), 400)[:count] / harmonic**0.5
        out += strength * np.sin(2 * np.pi * harmonic * phase)
    return np.asarray(out / np.sqrt((out**2).mean()) * 3000)


def line(*parts: Samples, noise: float = 10.0) -> bytes:
    """What arrives through mu-law."""
    count = int((WINDOW_S + NOISE_S) * RATE)
    out = np.random.default_rng(9).normal(0, noise, count)
    for part in parts:
        out[-len(part) :] += part[-count:]
    return ulaw_to_pcm(pcm_to_ulaw(np.clip(out, -32768, 32767).astype("<i2").tobytes()))


def later(said: Samples, delay_s: float, level_db: float) -> Samples:
    """The last 0.3 s of the echo of `said`."""
    shift = int(delay_s * RATE)
    return said[-shift - int(0.3 * RATE) : len(said) - shift] * 10 ** (level_db / 20)


def pcm(samples: Samples) -> bytes:
    return samples[-int((WINDOW_S + LONGEST_DELAY_S) * RATE) :].astype("<i2").tobytes()


@pytest.mark.parametrize("delay_s", [0.01, 0.05, 0.2, 0.45, 0.7])
@pytest.mark.parametrize("level_db", [-10.0, -20.0, -30.0])
def test_echo_is_found_at_its_delay(delay_s: float, level_db: float) -> None:
    said = voice(1)
    like = likeness(line(later(said, delay_s, level_db)), pcm(said), RATE, RATE)
    assert like is not None
    assert like.is_echo()
    assert like.delay_ms == pytest.approx(delay_s * 1000, abs=4)
    again = likeness(line(later(said, delay_s, level_db)), pcm(said), RATE, RATE, like.delay_ms)
    assert again is not None
    assert again.explained == pytest.approx(like.explained, abs=0.05)


def test_echo_in_noise_is_echo() -> None:
    said = voice(1)
    like = likeness(line(later(said, 0.2, -20), noise=150), pcm(said), RATE, RATE)
    assert like is not None
    assert like.is_echo()


@pytest.mark.parametrize("seed", range(2, 14))
def test_another_voice_is_not_echo(seed: int) -> None:
    like = likeness(line(voice(seed, 0.3) * 0.2), pcm(voice(1)), RATE, RATE)
    assert like is not None
    assert not like.is_echo()
    assert not like.is_echo(like.delay_ms)


def test_a_voice_over_echo_is_not_echo() -> None:
    said = voice(1)
    like = likeness(line(later(said, 0.2, -25), voice(5, 0.3) * 0.3), pcm(said), RATE, RATE, 200)
    assert like is not None
    assert not like.is_echo(200)


def test_a_wire_and_a_pipeline_of_other_rates() -> None:
    said = voice(1)
    heard = resample_all(line(later(said, 0.2, -15)), RATE, 16000)
    like = likeness(heard, resample_all(pcm(said), RATE, 24000), 16000, 24000)
    assert like is not None
    assert like.is_echo()


def test_the_longest_delay() -> None:
    """What agrees best a little later than that is looked for where there is room for the filter."""
    said = voice(1)
    for delay_s in (0.798, 0.803):
        heard = line(later(said, delay_s, -15))
        for around_ms in (None, 800):
            like = likeness(heard, pcm(said), RATE, RATE, around_ms)
            assert like is not None
            assert like.is_echo()
            assert like.delay_ms == pytest.approx(800, abs=4)


@pytest.mark.parametrize(("off_ms", "found"), [(-60, False), (-35, True), (35, True), (60, False)])
def test_around_a_known_delay_is_looked_and_nowhere_else(off_ms: int, found: bool) -> None:
    said = voice(1)
    like = likeness(line(later(said, 0.3, -15)), pcm(said), RATE, RATE, 300 + off_ms)
    assert like is not None
    assert (like.explained > 0.9) is found


def test_an_echo_is_found_where_its_words_are_however_soft_others_were() -> None:
    said = voice(1)
    echo = later(said, 0.2, -15)
    for loud_s, soft_s in ((0.6, 0.3), (1.0, 0.7)):  # before now
        part = said.copy()
        part[-int(loud_s * RATE) : -int(soft_s * RATE)] *= 0.03
        like = likeness(line(echo), pcm(part), RATE, RATE)
        assert like is not None
        assert like.delay_ms == pytest.approx(200, abs=4)


def test_of_the_line_no_more_is_looked_at_than_is_said() -> None:
    """What there was before that may have been loud or silent: neither is the line's noise."""
    said = voice(1)
    heard = line(later(said, 0.2, -20), noise=100.0)
    like = likeness(heard, pcm(said), RATE, RATE)
    assert like is not None
    for before in (bytes(4 * RATE), pcm(voice(2))):
        assert likeness(before + heard, pcm(said), RATE, RATE) == like


def test_on_a_line_of_digital_silence_what_is_next_to_nothing_is_nobody() -> None:
    for rms, nobody in ((9.0, True), (40.0, False)):
        hiss = np.random.default_rng(1).normal(0, rms, int(WINDOW_S * RATE))
        like = likeness(line(hiss, noise=0.0), pcm(voice(1)), RATE, RATE, 200)
        assert like is not None
        assert like.is_echo(200) is nobody


def test_where_parts_are_cut_from_other_rates_nothing_begins() -> None:
    """A filter that begins out of nothing in the middle of a word would leave a click."""
    said = voice(1)
    heard = resample_all(line(np.tile(later(said, 0.0, -10), 6)[-int(1.7 * RATE) :]), RATE, 16000)
    plain = latest(resample_all(heard, 16000, RATE), RATE, 1920)
    assert latest(heard, 16000, 1920) == pytest.approx(plain, abs=30)


def test_where_there_is_nothing_to_compare() -> None:
    said = voice(1)
    assert likeness(b"", pcm(said), RATE, RATE) is None
    assert likeness(bytes(8000), pcm(said), RATE, RATE) is None
    assert likeness(line(voice(2, 0.3)), bytes(16000), RATE, RATE) == NOT_ECHO
    assert likeness(line(voice(2, 0.3)), b"", RATE, RATE) == NOT_ECHO
    assert likeness(line(noise=20.0), bytes(16000), RATE, RATE, 200) == NOT_ECHO  # not even on a line that echoes


@pytest.mark.parametrize(("rms", "enough"), [(6.0, False), (10.0, True)])
def test_what_is_next_to_nothing_is_not_compared(rms: float, enough: bool) -> None:
    heard = line(noise=0.0)
    heard = heard[: -4 * RATE // 10] + np.random.default_rng(1).normal(0, rms, 2 * RATE // 10).astype("<i2").tobytes()
    assert (likeness(heard, pcm(voice(1)), RATE, RATE) is not None) is enough


def test_a_tenth_of_a_second_is_enough_to_compare() -> None:
    heard = line(voice(2, 0.3))
    assert likeness(heard[-2 * 780 :], pcm(voice(1)), RATE, RATE) is None
    assert likeness(heard[-2 * 820 :], pcm(voice(1)), RATE, RATE) is not None


def test_the_end_of_what_was_played_is_echo_too() -> None:
    """Half of the window, and then nothing more comes: least squares over the window itself, not as if it went on."""
    said = voice(1)
    said[-int(0.12 * RATE) :] = 0
    quiet = np.concatenate((later(said, 0.05, -15)[: -int(0.07 * RATE)], np.zeros(int(0.07 * RATE))))
    like = likeness(line(quiet, noise=0.0), pcm(said), RATE, RATE)
    assert like is not None
    assert like.explained > 0.9


def plainly(heard: bytes, played: bytes, around_ms: int | None) -> tuple[float, float, int]:
    """As `likeness`, by its definition: every delay by itself, the filter by a product of matrices."""
    x, r = (np.frombuffer(audio, "<i2").astype(float) for audio in (heard, played))
    x, r = x[1:] - 0.5 * x[:-1], r[1:] - 0.5 * r[:-1]
    quiet = x[len(x) % 160 :].reshape(-1, 160)
    x, taps, longest = x[-int(WINDOW_S * RATE) :], 64, int(LONGEST_DELAY_S * RATE)
    n = len(x)
    r = np.concatenate((np.zeros(n + longest + taps - len(r)), r))
    begins = range(len(r) - n + 1)
    if around_ms is not None:
        begins = range(*slice(*(len(r) - n - around_ms * 8 + way for way in (-320, 321))).indices(len(begins)))
    alike = [
        float(r[begin : begin + n] @ x) ** 2 / max(float(np.square(r[begin : begin + n]).sum()), 64 * n)
        for begin in begins
    ]
    begin = min(max(begins[int(np.argmax(alike))] - 48, 0), len(r) - n - taps + 1)
    late = np.array([r[begin + tap : begin + tap + n] for tap in range(taps)])
    gram = late @ late.T
    gram += np.eye(taps) * 1e-3 * max(float(np.trace(gram)) / taps, 1.0)
    rest = float(np.square(x - np.linalg.solve(gram, late @ x) @ late).sum())
    noise, power = n * float(np.quantile(np.square(quiet).mean(axis=1), 0.2)), float(x @ x)
    explained = min(1.0, max(0.0, (power - rest) / max(power - noise, power / 4)))
    rest_db = 10 * float(np.log10(max(rest, 1.0) / max(noise, 64 * n)))
    return explained, rest_db, round(max(0, len(r) - n - begin - 48) / 8)


@pytest.mark.parametrize("seed", range(12))
def test_the_quick_way_comes_to_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    said, delay_s = voice(100 + seed), float(rng.uniform(0.0, 0.75))
    parts = [later(said, delay_s, float(rng.uniform(-35, -5)))]
    if seed % 2:
        parts.append(voice(200 + seed, 0.3) * 10 ** float(rng.uniform(-40, -10) / 20))
    heard, played = line(*parts, noise=float(rng.uniform(3, 300))), pcm(said)
    known_ms = max(0, round(delay_s * 1000) + int(rng.integers(-6, 7)))
    for around_ms in (None, known_ms):
        like = likeness(heard, played, RATE, RATE, around_ms)
        assert like is not None
        explained, rest_db, delay_ms = plainly(heard, played, around_ms)
        assert like.explained == pytest.approx(explained, abs=0.0006)
        assert like.rest_db == pytest.approx(rest_db, abs=0.06)
        assert like.delay_ms == delay_ms


def test_a_known_line_on_which_nothing_came_back_lately() -> None:
    """What was played in the part that is looked at was silent, but not all of it."""
    said = voice(1)
    said[-int(0.8 * RATE) :] = 0
    like = likeness(line(voice(2, 0.3)), pcm(said), RATE, RATE, 50)
    assert like is not None
    assert not like.is_echo(50)
    assert like != NOT_ECHO
    assert like.rest_db < 99.0


def test_a_filter_never_leaves_more_than_there_was() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        r = rng.normal(0, 1000, 1983) * (np.arange(1983) < rng.integers(1, 1983))
        x = rng.normal(0, 1000, 1920) * (np.arange(1920) > rng.integers(1, 1900))
        assert path(x, r)[1] <= float(x @ x) * 1.000001
    taps = rng.normal(size=64)
    x = np.convolve(r, taps, "valid")
    assert path(x, r)[1] <= 1e-4 * float(np.square(x).sum())


def test_what_doubt_is() -> None:
    assert Likeness(0.28, 20.0, 200).is_doubtful
    assert not Likeness(0.279, 20.0, 200).is_doubtful


def test_what_explains_little_tells_no_delay() -> None:
    assert Likeness(0.25, 0.0, 200).tells_delay
    assert not Likeness(0.249, 0.0, 200).tells_delay


def test_what_is_refuted_is_neither_echo_nor_doubtful() -> None:
    assert not Likeness(0.6, 0.0, 200, refuted=True).is_echo()
    assert not Likeness(0.6, 0.0, 200, refuted=True).is_echo(200)
    assert not Likeness(0.6, 0.0, 200, refuted=True).is_doubtful


def test_what_is_explained_for_the_most_part_is_echo_whatever_is_left() -> None:
    for known_ms in (None, 0):
        assert Likeness(0.45, 99.0, 200).is_echo(known_ms)
        assert not Likeness(0.449, 99.0, 200).is_echo(known_ms)
    assert not Likeness(0.249, 0.0, 200).is_echo()


def test_a_known_line_needs_less() -> None:
    assert Likeness(0.3, 20.0, 208).is_echo(200)
    assert not Likeness(0.3, 20.0, 209).is_echo(200)
    assert not Likeness(0.299, 20.0, 200).is_echo(200)
    assert Likeness(0.1, 7.0, 200).is_echo(200)
    assert not Likeness(0.1, 7.1, 200).is_echo(200)
    assert not Likeness(0.099, 7.0, 200).is_echo(200)
    assert Likeness(0.0, 4.0, 0).is_echo(200)
    assert not Likeness(0.0, 4.1, 0).is_echo(200)
    assert not Likeness(0.0, 4.0, 0).is_echo()
    assert Likeness(0.25, 6.0, 0).is_echo()
    assert not Likeness(0.25, 6.1, 0).is_echo()
    doubtful = Likeness(explained=0.15, rest_db=5.0, delay_ms=200)
    assert not doubtful.is_echo()
    assert not doubtful.is_echo(300)
    assert doubtful.is_echo(203)
    assert Likeness(0.0, 3.0, 0).is_echo(203)  # no more than noise
    assert not Likeness(0.15, 20.0, 200).is_echo(200)
