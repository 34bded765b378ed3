"""Is what the caller's line brings the bot's own voice? By correlation, asked at one moment and not for every frame.

Line echo is what was played, later, quieter, and through some linear filter. A short filter is fitted by least
squares at the delay at which the two agree best: the share of the caller's power that it explains is near one for
echo, whatever its level, and small for somebody who speaks, also over echo.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from media.resample import resample_all

Samples = NDArray[np.float64]

RATE: Final = 8000
WINDOW_S: Final = 0.24  # of the caller's audio that is looked at
LONGEST_DELAY_S: Final = 0.8  # echo of up to 400 ms, the way back, and what the ledger cannot know
EXPLAINED: Final = 0.4  # this share of the caller's power, or more, is echo
_TAPS: Final = 24  # of the fitted filter: 3 ms
_AROUND: Final = RATE // 25  # how far a known delay may be off
_RIDGE: Final = 1e-3
_QUIETEST: Final = 8.0  # rms under which there is nothing to compare


class Likeness(NamedTuple):
    """How much of the caller's audio is the bot's."""

    explained: float  # share of the power, 0 to 1
    delay_ms: int  # from what the ledger says is being played; meaningless where little is explained
    level_db: float  # of the caller's audio against that

    @property
    def is_echo(self) -> bool:
        return self.explained >= EXPLAINED


def likeness(
    heard: bytes, played: bytes, heard_rate: int, played_rate: int, around_ms: int | None = None
) -> Likeness | None:
    """Compare the latest of the caller's audio with what was played until then; None if there is too little of either.

    Args:
        heard: the caller's audio, s16le; its last WINDOW_S are looked at.
        played: what the caller was played, ending with what is played now: LONGEST_DELAY_S more than that.
        around_ms: the delay is known to be about this: a third of the work.
    """
    x = _emphasised(_last(heard, heard_rate, WINDOW_S))
    r = _emphasised(_last(played, played_rate, WINDOW_S + LONGEST_DELAY_S))
    n = len(x)
    if n < RATE // 10 or len(r) < n // 2:
        return None
    r = np.concatenate([np.zeros(max(0, n + int(LONGEST_DELAY_S * RATE) - len(r)) + _TAPS), r])
    power = float(x @ x)
    if power < n * _QUIETEST**2 or float(r @ r) < n * _QUIETEST**2:
        return None
    first, last = 0, len(r)
    if around_ms is not None:
        middle = len(r) - n - around_ms * RATE // 1000
        first, last = max(0, middle - _AROUND), min(len(r), middle + n + _AROUND)
    begin = first + int(np.argmax(_agreement(x, r[first:last])))
    begin = min(max(begin - _TAPS // 3, 0), len(r) - n - _TAPS + 1)
    rows = np.lib.stride_tricks.sliding_window_view(r[begin : begin + n + _TAPS - 1], n)  # one tap each
    gram = rows @ rows.T
    gram[np.diag_indices(_TAPS)] += _RIDGE * max(float(np.trace(gram)) / _TAPS, 1.0)
    against = rows @ x
    taps = np.linalg.solve(gram, against)
    residue = x - taps @ rows
    explained = min(1.0, max(0.0, 1.0 - float(residue @ residue) / power))
    part = r[begin : begin + n]
    level_db = 10 * np.log10(power / max(float(part @ part), 1.0))
    delay = len(r) - n - begin - _TAPS // 3
    return Likeness(round(explained, 3), round(max(0, delay) * 1000 / RATE), round(float(level_db), 1))


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
    products = np.fft.irfft(np.fft.rfft(r, size) * np.conj(np.fft.rfft(x, size)), size)[: len(r) - n + 1]
    sums = np.concatenate([[0.0], np.cumsum(r * r)])
    powers = sums[n:] - sums[:-n]
    return np.asarray(products * products / np.maximum(powers, n * _QUIETEST**2))
