"""Keypad tones: made, and heard, by the rules of the telephone network.

The detector looks every 5 ms at the last 20 ms. A key is a run of looks in which one low and one high frequency
carry nearly all of the sound, steadily and within the twist, and in which the phases, from look to look, say that both
frequencies are right. Speech has such looks, but hardly six of them in a row. Six looks fit into 36 ms of tone and do
not fit into 30, so that 40 ms are always a key and 25 ms never.

Sources: ITU-T Q.23 (the frequencies) and Q.24 (what a receiver takes and refuses: levels, twist, tolerance,
durations, interruptions, speech).
"""

from __future__ import annotations

import cmath
import math
from collections import deque
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from media.codecs import audioop

LOW: Final = (697.0, 770.0, 852.0, 941.0)  # Hz
HIGH: Final = (1209.0, 1336.0, 1477.0, 1633.0)
_KEYPAD: Final = "123A456B789C*0#D"  # row by row: a row is a low frequency, a column a high one
FREQUENCIES: Final = {key: (LOW[place // 4], HIGH[place % 4]) for place, key in enumerate(_KEYPAD)}

_EDGE_S: Final = 0.004  # of rising and falling: no click, and 40 ms stay 40 ms

_LOOK_S: Final = 0.005
_WINDOW_S: Final = 0.020
_RUN: Final = 6  # looks that make a key: 30 ms
_RELEASE: Final = 5  # looks without the key that end it: 25 ms, so 40 ms of pause do, and a hole of 10 ms does not
_SPOILT: Final = 1  # looks in a row that a click or a syllable may spoil within a run
_SHARE: Final = 0.85  # least part of the last six looks' energy that is in the two tones
_LOOK_SHARE: Final = 0.6  # the same of one look
_STEADY: Final = 0.25  # least power, of the run's strongest look: half the amplitude
_COHERENCE: Final = 0.98  # least agreement of the run's phase steps; 1 is a tone that keeps its frequency
# Of the frequency, over a run: 1.5 % must be taken, 3.5 % refused. And of both together (root of the squares), since
# what fools a detector is a sung vowel whose third and fourth harmonics are 1.8 % below and above the tones of a key.
_TOLERANCE: Final = 0.0185
_BOTH_TOLERANCE: Final = 0.0225
_LOOK_TOLERANCE: Final = 0.032  # of the frequency, in one look
_LEAST_TWIST, _MOST_TWIST = 0.1, 4.0  # high over low, as powers: -10 to +6 dB, where -8 to +4 must be taken
_QUIETEST: Final = 300  # RMS of a window; the weakest that must be taken, -29 dBm0 for each tone, has 820

_S16: Final = np.dtype("<i2")
_F64: Final = np.dtype(np.float64)


def tone(
    digit: str, sample_rate: int, duration_ms: float = 100, gap_ms: float = 50, level_dbfs: float = -12.0
) -> bytes:
    """The sound of one key and the pause after it, s16le.

    Args:
        level_dbfs: of each of the two frequencies; 0 is a sine of full scale.

    Raises:
        ValueError: no such key, or a level above -6.1, where the sum would be clipped.
    """
    if digit not in FREQUENCIES:
        raise ValueError("not a key: 0 to 9, *, #, A to D")
    if level_dbfs > -6.1:
        raise ValueError(f"the sum of two tones of {level_dbfs} dB would be clipped: -6.1 at most")
    t = np.arange(round(sample_rate * duration_ms / 1000)) / sample_rate
    low, high = FREQUENCIES[digit]
    sound = 32768 * 10 ** (level_dbfs / 20) * (np.sin(2 * np.pi * low * t) + np.sin(2 * np.pi * high * t))
    edge = min(round(sample_rate * _EDGE_S), t.size // 2)
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / max(edge, 1))
    sound[:edge] *= rise
    sound[t.size - edge :] *= rise[::-1]
    return sound.round().astype(_S16).tobytes() + bytes(2 * round(sample_rate * gap_ms / 1000))


class _Probe:
    """What one sample rate needs: windows against the eight frequencies. Shared by all streams of that rate."""

    def __init__(self, sample_rate: int) -> None:
        self.size, self.step = round(sample_rate * _WINDOW_S), round(sample_rate * _LOOK_S)  # samples
        self.strides = (2 * self.step, 2)
        self.longest = 2 * 200 * self.step  # bytes in one go: a second, which bounds the memory
        window = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(self.size) + 0.5) / self.size)
        self.weights: NDArray[np.float64] = window**2
        seconds = np.arange(self.size) / sample_rate
        turns = np.exp(-2j * np.pi * np.outer(seconds, LOW + HIGH)) * window[:, None]
        # Scaled so that the square of a correlation is the energy of that tone in the window.
        turns *= math.sqrt(2 * self.weights.sum()) / window.sum()
        self.correlators: NDArray[np.float64] = np.hstack((turns.real, turns.imag))
        self.least_energy = float(_QUIETEST**2 * self.weights.sum())
        # A tone that is right turns by this between two looks, backwards; each hertz too much adds some radians.
        self.unturn = [cmath.exp(-2j * math.pi * frequency * self.step / sample_rate) for frequency in LOW + HIGH]
        self.hz_per_radian = sample_rate / self.step / (2 * math.pi)
        # What is left of the square of a correlation when the tone is 0, 1, 2 ... hertz beside.
        beside = np.exp(2j * np.pi * np.outer(np.arange(math.ceil(HIGH[-1] * _LOOK_TOLERANCE) + 1), seconds))
        self.left = (np.abs(beside @ window / window.sum()) ** 2).tolist()


_probe_for = cache(_Probe)


class ToneDetector:
    """Hears keys in one stream of mono s16le, given in blocks of any size.

    A key is told once, 30 to 50 ms after it went down, however long it is held.
    """

    def __init__(self, sample_rate: int) -> None:
        self._probe = _probe_for(sample_rate)
        self.reset()

    def reset(self) -> None:
        """Forget what was heard."""
        self._carried = bytes(2 * (self._probe.size - self._probe.step))
        self._before: list[float] | None = None  # the correlations of the look before, unless it was too quiet
        self._pair = self._held = -1  # place on the keypad of the run and of the key that was told; -1 is none
        self._run = 0  # looks
        self._spoilt = self._away = 0  # looks since the run's pair, and since the held key, was seen
        self._peak = 0.0  # energy of the run's strongest look
        self._shares: deque[float] = deque(maxlen=_RUN)  # of the run's last looks
        self._sum = (0j, 0j)  # of the run's phase steps, low and high ...
        self._steps = (0.0, 0.0)  # ... and of their lengths

    def feed(self, pcm: bytes) -> list[str]:
        """The keys that became certain with `pcm`; ValueError for an odd number of bytes."""
        if len(pcm) & 1:
            raise ValueError(f"{len(pcm)} bytes are not whole 16-bit samples")
        probe = self._probe
        if len(pcm) > probe.longest:
            pieces = range(0, len(pcm), probe.longest)
            return [key for start in pieces for key in self.feed(pcm[start : start + probe.longest])]
        data = self._carried + pcm
        looks = (len(data) // 2 - probe.size) // probe.step + 1
        if looks < 1:
            self._carried = data
            return []
        self._carried = data[2 * looks * probe.step :]
        if audioop.max(data, 2) < _QUIETEST:
            self._miss(looks)
            self._before = None
            return []
        windows: NDArray[np.float64] = np.ndarray((looks, probe.size), _S16, data, 0, probe.strides).astype(_F64)
        correlations = windows.dot(probe.correlators)
        squares = correlations * correlations
        powers = squares[:, :8] + squares[:, 8:]
        energies = (windows * windows).dot(probe.weights)
        keys = []
        for found, power, energy in zip(correlations.tolist(), powers.tolist(), energies.tolist(), strict=True):
            if self._look(found, power, energy):
                keys.append(_KEYPAD[self._held])
            self._before = found if energy >= probe.least_energy else None
        return keys

    def _look(self, found: list[float], power: list[float], energy: float) -> bool:
        """Take one window: its correlations (8 real, 8 imaginary parts), their squares, its energy. True: a new key."""
        probe, before = self._probe, self._before
        low, high = max(power[:4]), max(power[4:])
        if before is None or energy < probe.least_energy or low + high < 0.3 * energy:
            return self._miss()
        row, column = power.index(low), power.index(high, 4)
        low_step = complex(found[row], found[row + 8]) * complex(before[row], -before[row + 8]) * probe.unturn[row]
        high_step = (
            complex(found[column], found[column + 8])
            * complex(before[column], -before[column + 8])
            * probe.unturn[column]
        )
        low_off, high_off = self._hz(low_step), self._hz(high_step)
        if low_off > _LOOK_TOLERANCE * LOW[row] or high_off > _LOOK_TOLERANCE * HIGH[column - 4]:
            return self._miss()
        low /= probe.left[round(low_off)]
        high /= probe.left[round(high_off)]
        if low + high < _LOOK_SHARE * energy or not _LEAST_TWIST * low <= high <= _MOST_TWIST * low:
            return self._miss()
        pair = 4 * row + column - 4
        if pair != self._pair:
            self._pair, self._run, self._peak = pair, 0, 0.0
            self._shares.clear()
            self._sum, self._steps = (0j, 0j), (0.0, 0.0)
        self._peak = max(self._peak, low + high)
        if low + high < _STEADY * self._peak:
            return self._miss()
        self._run += 1
        self._shares.append((low + high) / energy)
        self._spoilt = 0
        self._sum = (self._sum[0] + low_step, self._sum[1] + high_step)
        self._steps = (self._steps[0] + abs(low_step), self._steps[1] + abs(high_step))
        if pair == self._held:
            self._away = 0
            return False
        self._away += 1
        if self._run < _RUN or not self._is_key(row, column):
            return False
        self._held, self._away = pair, 0
        return True

    def _is_key(self, row: int, column: int) -> bool:
        (low, high), (low_length, high_length) = self._sum, self._steps
        low_off, high_off = self._hz(low) / LOW[row], self._hz(high) / HIGH[column - 4]
        return (
            sum(self._shares) >= _SHARE * _RUN
            and abs(low) >= _COHERENCE * low_length
            and abs(high) >= _COHERENCE * high_length
            and max(low_off, high_off) <= _TOLERANCE
            and math.hypot(low_off, high_off) <= _BOTH_TOLERANCE
        )

    def _hz(self, step: complex) -> float:
        """By how much a phase step is beside its frequency."""
        return abs(cmath.phase(step)) * self._probe.hz_per_radian

    def _miss(self, looks: int = 1) -> bool:
        self._spoilt += looks
        if self._spoilt > _SPOILT:
            self._pair = -1
        self._away += looks
        if self._away >= _RELEASE:
            self._held = -1
        return False
