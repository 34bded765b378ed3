"""Is what the caller's line brings the bot's own voice? By correlation, asked at one moment and not for every frame.

Line echo is what was played, later, quieter, and through some linear filter. A short filter is fitted by least
squares at the delay at which the two agree best. Echo it is if that explains most of what the line brings beside its
noise, or if what it leaves is no more than the noise. Somebody who speaks, also over echo, is not explained and leaves
more.
"""

from __future__ import annotations

import math
from bisect import bisect_left
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
TAPS: Final = 64  # of the fitted filter: 8 ms
_ROW, _COLUMN = np.indices((TAPS, TAPS))
_SYMMETRIC: Final = np.minimum(_ROW, _COLUMN) * TAPS + np.maximum(_ROW, _COLUMN)
LATER: Final = 48  # of them for what comes later than at the delay of the best agreement: an echo has a tail
_AROUND: Final = RATE // 25  # how far a known delay may be off
_RIDGE: Final = 1e-3
_QUIETEST: Final = 8.0  # rms under which there is nothing to compare
_FRAME: Final = RATE // 50
_WINDOW: Final = int(WINDOW_S * RATE)
_LINE: Final = int((WINDOW_S + NOISE_S) * RATE)
_DELAYS: Final = int(LONGEST_DELAY_S * RATE)
_EDGE: Final = RATE // 25  # of what is resampled: it begins out of nothing there
_SIZES: Final = sorted(
    2**twos * 3**threes * 5**fives for twos in range(5, 14) for threes in range(4) for fives in range(3)
)  # of transforms that take little time


@dataclass(frozen=True, slots=True)
class Likeness:
    """How much of the caller's audio is the bot's."""

    explained: float  # share of the power beside the noise, 0 to 1
    rest_db: float  # what is left, above the line's noise
    delay_ms: int  # from what the ledger says is being played; meaningless where little is explained
    refuted: bool = False  # by what was a moment ago (media/echo_before.py)

    def is_echo(self, known_ms: int | None = None) -> bool:
        """`known_ms`: at which delay there was echo on this line before."""
        if self.refuted:
            return False
        if self.explained >= _MOST:
            return True
        if known_ms is None:
            return self.explained >= _SOME and self.rest_db <= _NOISE_DB
        if self.is_near(known_ms):
            if self.explained >= _MOST_AGAIN:
                return True
            if self.explained >= _SOME_AGAIN:
                return self.rest_db <= _NOISE_AGAIN_DB
        return self.rest_db <= _SILENCE_DB

    def is_near(self, delay_ms: int) -> bool:
        return abs(self.delay_ms - delay_ms) <= _SAME_MS

    @property
    def tells_delay(self) -> bool:
        """Of what is echo: it may be so because nothing is left, wherever."""
        return self.explained >= _SOME

    @property
    def is_doubtful(self) -> bool:
        """Of what is not echo: no other voice is so much like the bot's, but for one in ten."""
        return self.explained >= _DOUBTFUL and not self.refuted


NOT_ECHO: Final = Likeness(0.0, 99.0, 0)


def likeness(
    heard: bytes,
    played: bytes,
    heard_rate: int,
    played_rate: int,
    around_ms: int | None = None,
) -> Likeness | None:
    """Compare the latest of the caller's audio with what was played until then; None if there is too little of it.

    Args:
        heard: the caller's audio, s16le: WINDOW_S, and up to NOISE_S before that.
        played: what the caller was played, ending with what is played now: LONGEST_DELAY_S more than WINDOW_S.
        around_ms: there was echo at about this delay: a third of the work.
    """
    x = latest(heard, heard_rate, _WINDOW)
    n = len(x)
    power = float(x @ x)
    if n < RATE // 10 or power < n * _QUIETEST**2:
        return None
    size = n + _DELAYS + TAPS
    first, last = 0, size
    if around_ms is not None:  # nothing before that is made
        delay = around_ms * RATE // 1000
        size = min(size, n + delay + _AROUND + LATER)
        first, last = max(0, size - n - delay - _AROUND), min(size, size - delay + _AROUND)
    r = latest(played, played_rate, min(size, n + _DELAYS))
    if float(r @ r) < n * _QUIETEST**2 and (around_ms is None or _is_silence(played, played_rate, n)):
        return NOT_ECHO  # nothing was played that could come back
    r = np.concatenate((np.zeros(size - len(r)), r))
    best = first + int(np.argmax(_agreement(x, r[first:last])))
    begin = min(max(best - LATER, 0), size - n - TAPS + 1)
    delay_ms = round(max(0, size - n - begin - LATER) * 1000 / RATE)
    r = r[begin : begin + n + TAPS - 1]
    _, rest = path(x, r)
    noise = _noise(latest(heard, heard_rate, _LINE - 1)) * n
    explained = (power - rest) / max(power - noise, power / 4)
    return Likeness(
        round(min(1.0, max(0.0, explained)), 3),
        round(10 * math.log10(max(rest, 1.0) / max(noise, n * _QUIETEST**2)), 1),
        delay_ms,
    )


def path(x: Samples, r: Samples) -> tuple[Samples, float]:
    """The filter of TAPS taps that makes what is most like `x` of `r`, and the power of `x` that it leaves.

    Args:
        x: n samples.
        r: n + TAPS - 1 samples: the first TAPS of them are what the first of `x` can have come from, and so on.

    Least squares, with nothing assumed of what is before and behind: where an echo has just begun that tells it from
    somebody beside it. An entry of the normal equations is the one above and to the left of it, less what the window
    leaves behind, plus what it gains: only the first row is made of products over all of the window. (A product of
    matrices would be as much work as all the rest, and would wake the threads of a numeric library, which would not
    let go of the event loop's core.)
    """
    n = len(x)
    left, gained = r[: TAPS - 1], r[n : n + TAPS - 1]
    entries = np.zeros(TAPS * (TAPS + 1))
    gram = entries[: TAPS * TAPS].reshape(TAPS, TAPS)
    gram[0] = np.correlate(r, r[:n])
    np.multiply.outer(gained, gained, out=gram[1:, 1:])
    gram[1:, 1:] -= np.multiply.outer(left, left)
    # Row by row of this, lag by lag from the diagonal on; what runs over its right end is below the diagonal.
    step = entries.itemsize
    lags = np.ndarray((TAPS, TAPS), buffer=entries, strides=((TAPS + 1) * step, step))
    np.add.accumulate(lags, axis=0, out=lags)
    gram = entries[_SYMMETRIC]
    against = np.correlate(r, x)
    ridge = _RIDGE * max(float(gram.trace()) / TAPS, 1.0)
    gram.ravel()[:: TAPS + 1] += ridge
    taps = np.linalg.solve(gram, against)
    return taps, max(0.0, float(x @ x) - float(taps @ against) - ridge * float(taps @ taps))


def _noise(line: Samples) -> float:
    """The mean square of the quieter parts of `line`: the first of five, when they are put in order."""
    count = len(line) // _FRAME
    frames = line[len(line) - count * _FRAME :].reshape(count, _FRAME)
    powers = sorted((np.einsum("ij,ij->i", frames, frames) / _FRAME).tolist())
    place = (count - 1) / 5
    below = int(place)
    return float(powers[below] + (place - below) * (powers[below + 1] - powers[below]))


def _is_silence(played: bytes, rate: int, n: int) -> bool:
    r = latest(played, rate, n + _DELAYS)
    return float(r @ r) < n * _QUIETEST**2


def latest(pcm: bytes, rate: int, count: int) -> Samples:
    """Up to `count` samples, at RATE, with less of the low frequencies, in which voices are much alike."""
    if rate == RATE:
        pcm = pcm[-2 * (count + 1) :]
    else:
        pcm = resample_all(pcm[-2 * ((count + 1 + _EDGE) * rate // RATE) :], rate, RATE)[-2 * (count + 1) :]
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    return samples[1:] - 0.5 * samples[:-1] if len(samples) > 1 else samples


def _agreement(x: Samples, r: Samples) -> Samples:
    """For each begin in `r`: the square of the correlation with `x`, in shares of the power of `r` there."""
    n = len(x)
    size = _SIZES[bisect_left(_SIZES, len(r))]  # what comes round again falls on begins that are too late
    spectrum = rfft(x, size)
    np.conjugate(spectrum, out=spectrum)
    spectrum *= rfft(r, size)
    agreement = irfft(spectrum, size)[: len(r) - n + 1]
    sums = np.zeros(len(r) + 1)
    np.add.accumulate(r * r, out=sums[1:])
    powers = sums[n:] - sums[: len(r) - n + 1]
    np.maximum(powers, n * _QUIETEST**2, out=powers)
    agreement *= agreement
    agreement /= powers
    return agreement


def _warm_up() -> None:
    """The first use of a transform and of a solver takes ten milliseconds and more: not in a call."""
    noise = np.random.default_rng(1).normal(0, 1000, RATE * 2).astype("<i2").tobytes()
    likeness(noise, noise, RATE, RATE)


_warm_up()
