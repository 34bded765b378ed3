"""The tone after which an answering machine records: one steady pitch for a moment, and then none."""

from __future__ import annotations

from typing import Final

import numpy as np

WINDOW_S: Final = 0.032
SHORTEST: Final = 4  # windows: 0.13 s, which any beep of 0.2 s fills
LONGEST_S: Final = 2.0  # what goes on for longer is a dial tone, a fax, or a line that is out of order
LOWEST_HZ, HIGHEST_HZ = 300.0, 2600.0  # speech's pitch is below, the telephone ends above
PURITY: Final = 0.9  # of the power, in the peak and its neighbours: a vowel has harmonics, a key has two tones
QUIETEST: Final = 300.0  # root mean square of 16-bit samples, about -40 dBFS
STEADY: Final = 1  # bins by which the pitch may wander


class BeepDetector:
    """Hears one call's audio. `hear` says that a beep has just ended.

    Costs 20 us for 32 ms of sound.
    """

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._size = int(WINDOW_S * sample_rate)
        self._shape = np.hanning(self._size)
        bin_hz = sample_rate / self._size
        self._lowest, self._highest = int(LOWEST_HZ / bin_hz), int(HIGHEST_HZ / bin_hz)
        self._rest = b""
        self._pitch = 0  # bin; 0: there is no tone
        self._windows = 0  # that it has lasted

    def hear(self, pcm: bytes) -> bool:
        """`pcm`: mono s16le, any number of samples."""
        found = False
        pcm = self._rest + pcm
        step = 2 * self._size
        whole = len(pcm) - len(pcm) % step
        self._rest = pcm[whole:]
        for at in range(0, whole, step):
            found = self._window(np.frombuffer(pcm, "<i2", self._size, at)) or found
        return found

    def _window(self, samples: np.ndarray[tuple[int], np.dtype[np.int16]]) -> bool:
        """Whether a beep ended before this window."""
        pitch = self._pitch_of(samples)
        if pitch and (not self._pitch or abs(pitch - self._pitch) <= STEADY):
            self._pitch = self._pitch or pitch
            self._windows += 1
            return False
        lasted, self._windows, self._pitch = self._windows, 1 if pitch else 0, pitch
        return not pitch and SHORTEST <= lasted <= LONGEST_S / WINDOW_S

    def _pitch_of(self, samples: np.ndarray[tuple[int], np.dtype[np.int16]]) -> int:
        wave = samples.astype(np.float64)
        wave -= wave.mean()
        if float(np.dot(wave, wave)) < QUIETEST * QUIETEST * self._size:
            return 0
        power = np.abs(np.fft.rfft(wave * self._shape)) ** 2
        peak = int(np.argmax(power))
        if not self._lowest <= peak <= self._highest:
            return 0
        pure = float(power[peak - 2 : peak + 3].sum()) >= PURITY * float(power.sum())
        return peak if pure else 0
