"""Is what the caller's line brings the bot's own voice? By correlation, asked at one moment and not for every frame.

Line echo is what was played, later, quieter, and through some linear filter. A short filter is fitted by least
squares at the delay at which the two agree best. Echo it is if that explains most of what the line brings beside its
noise, or if what it leaves is no more than the noise. Somebody who speaks, also over echo, is not explained and leaves
more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.fft import irfft, rfft
from numpy.typing import NDArray

from media.resample import resample_all

Samples = NDArray[np.float64]

RATE: Final = 8000
WINDOW_S: Final = 0.24  # of the caller's audio that is compared
NOISE_S: Final = 1.5  # of it that the line's noise is taken from
LONGEST_DELAY_S: Final = 0.8  # echo of up to 400 ms, the way back, and what the ledger cannot know

_MOST: Final = 0.45  # explained: echo
_SOME: Final = 0.25  # explained, and nothing but noise beside it: echo. Of other voices it is 0.25 at most
_NOISE_DB: Final = 6.0  # what is no louder than this above the noise may be noise
_MOST_AGAIN: Final = 0.3  # the same three, at a delay at which there was echo before
_SOME_AGAIN: Final = 0.1
_NOISE_AGAIN_DB: Final = 7.0
_DOUBTFUL: Final = 0.28  # explained: it may yet turn out to be echo
_SILENCE_DB: Final = 4.0  # and this certainly is: a detector that hears speech in it hears the echo just before
_SAME_MS: Final = 8
_TAPS: Final = 64  # of the fitted filter: 8 ms
_LAGS: Final = np.abs(np.subtract.outer(np.arange(_TAPS), np.arange(_TAPS)))
_ROWS: Final = np.minimum.outer(np.arange(_TAPS), np.arange(_TAPS))
_AT: Final = np.broadcast_to(np.arange(_TAPS - 1), (_TAPS, _TAPS - 1))  # for each lag, each row but the last
_AT_LAG: Final = np.minimum(_AT + np.arange(_TAPS)[:, None], _TAPS - 2)  # where it stops, nobody looks
_BEFORE: Final = 16  # of them before the delay of the best agreement
_AROUND: Final = RATE // 25  # how far a known delay may be off
_RIDGE: Final = 1e-3
_QUIETEST: Final = 8.0  # rms under which there is nothing to compare
_FRAME: Final = RATE // 50


@dataclass(frozen=True, slots=True)
class Likeness:
    """How much of the caller's audio is the bot's."""

    explained: float  # share of the power beside the noise, 0 to 1
    rest_db: float  # what is left, above the line's noise
    delay_ms: int  # from what the ledger says is being played; meaningless where little is explained

    def is_echo(self, known_ms: int | None = None) -> bool:
        """`known_ms`: at which delay there was echo on this line before."""
        if self.explained >= _MOST:
            return True
        if known_ms is None:
            return self.explained >= _SOME and self.rest_db <= _NOISE_DB
        if abs(self.delay_ms - known_ms) <= _SAME_MS:
            if self.explained >= _MOST_AGAIN:
                return True
            if self.explained >= _SOME_AGAIN:
                return self.rest_db <= _NOISE_AGAIN_DB
        return self.rest_db <= _SILENCE_DB

    @property
    def is_doubtful(self) -> bool:
        """Of what is not echo: no other voice is so much like the bot's, but for one in ten."""
        return self.explained >= _DOUBTFUL


NOT_ECHO: Final = Likeness(0.0, 99.0, 0)


def likeness(
    heard: bytes, played: bytes, heard_rate: int, played_rate: int, around_ms: int | None = None
) -> Likeness | None:
    """Compare the latest of the caller's audio with what was played until then; None if there is too little of it.

    Args:
        heard: the caller's audio, s16le: WINDOW_S, and up to NOISE_S before that.
        played: what the caller was played, ending with what is played now: LONGEST_DELAY_S more than WINDOW_S.
        around_ms: the delay is known to be about this: a third of the work.
    """
    line = _emphasised(_last(heard, heard_rate, WINDOW_S + NOISE_S))
    x = line[-int(WINDOW_S * RATE) :]
    n = len(x)
    power = float(x @ x)
    if n < RATE // 10 or power < n * _QUIETEST**2:
        return None
    r = _emphasised(_last(played, played_rate, WINDOW_S + LONGEST_DELAY_S))
    if float(r @ r) < n * _QUIETEST**2:
        return NOT_ECHO  # nothing was played that could come back
    r = np.concatenate([np.zeros(max(0, n + int(LONGEST_DELAY_S * RATE) - len(r)) + _TAPS), r])
    first, last = 0, len(r)
    if around_ms is not None:
        middle = len(r) - n - around_ms * RATE // 1000
        first, last = max(0, middle - _AROUND), min(len(r), middle + n + _AROUND)
    begin = first + int(np.argmax(_agreement(x, r[first:last])))
    begin = min(max(begin - _BEFORE, 0), len(r) - n - _TAPS + 1)
    rest = _rest(x, r[begin : begin + n + _TAPS - 1])
    noise = _noise(line) * n
    explained = (power - rest) / max(power - noise, power / 4)
    delay = len(r) - n - begin - _BEFORE
    return Likeness(
        round(min(1.0, max(0.0, explained)), 3),
        round(10 * float(np.log10(max(rest, 1.0) / max(noise, n * _QUIETEST**2))), 1),
        round(max(0, delay) * 1000 / RATE),
    )


def _rest(x: Samples, r: Samples) -> float:
    """The power of `x` that no filter of _TAPS taps makes of `r`.

    Vectors all the way, since a product of matrices would wake the threads of a numeric library, and they would not let
    go of the event loop's core. An entry of the normal equations is the one above and to the left of it, less what the
    window leaves behind, plus what it gains: only the first row is made of products over all of the window.
    """
    n = len(x)
    first = np.array([float(r[:n] @ r[lag : lag + n]) for lag in range(_TAPS)])
    against = np.array([float(r[lag : lag + n] @ x) for lag in range(_TAPS)])
    left, gained = r[: _TAPS - 1], r[n : n + _TAPS - 1]
    steps = gained[_AT] * gained[_AT_LAG] - left[_AT] * left[_AT_LAG]
    gram = np.cumsum(np.concatenate((first[:, None], steps), axis=1), axis=1)[_LAGS, _ROWS]
    gram[np.diag_indices(_TAPS)] += _RIDGE * max(float(gram.trace()) / _TAPS, 1.0)
    residue = x - np.correlate(r, np.linalg.solve(gram, against), "valid")[:n]
    return float(residue @ residue)


def _noise(line: Samples) -> float:
    """The mean square of the quieter parts of `line`."""
    count = len(line) // _FRAME
    frames = line[len(line) - count * _FRAME :].reshape(count, _FRAME)
    return float(np.quantile((frames * frames).mean(axis=1), 0.2))


def _last(pcm: bytes, rate: int, seconds: float) -> Samples:
    pcm = pcm[-2 * int(seconds * rate) :]
    if rate != RATE:
        pcm = resample_all(pcm, rate, RATE)
    return np.frombuffer(pcm, "<i2").astype(np.float64)


def _emphasised(samples: Samples) -> Samples:
    """With less of the low frequencies, in which voices are much alike."""
    return samples[1:] - 0.5 * samples[:-1] if len(samples) > 1 else samples


def _agreement(x: Samples, r: Samples) -> Samples:
    """For each begin in `r`: the square of the normalised correlation with `x`."""
    n = len(x)
    size = 1 << (len(r) + n - 1).bit_length()
    products = irfft(rfft(r, size) * np.conj(rfft(x, size)), size)[: len(r) - n + 1]
    sums = np.concatenate([[0.0], np.cumsum(r * r)])
    powers = sums[n:] - sums[:-n]
    return np.asarray(products * products / np.maximum(powers, n * _QUIETEST**2))


def _warm_up() -> None:
    """The first use of a transform and of a solver takes ten milliseconds and more: not in a call."""
    noise = np.random.default_rng(1).normal(0, 1000, RATE * 2).astype("<i2").tobytes()
    likeness(noise, noise, RATE, RATE)


_warm_up()
