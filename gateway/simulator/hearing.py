"""What can be told from sound: who speaks, since when, and how late an echo is. All audio is s16le, mono."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.simulator.playout import SILENCE_PEAK
from media.codecs import audioop

SILENCE_RMS = 100  # about -50 dBFS; mu-law noise of an idle line is below 10
WINDOW_S = 0.01
HANGOVER_S = 0.35  # pauses between words are shorter, between turns longer


class Ear:
    """Follows one voice while it is heard. `feed` takes all of it, from the clock's zero and without a hole.

    Times are seconds of that clock. A turn is sound without a pause of more than HANGOVER_S.
    """

    def __init__(self, rate: int) -> None:
        self.turn_began: float | None = None  # of the latest turn
        self.last_sound: float | None = None
        self._window = max(2, int(rate * WINDOW_S) * 2)  # bytes
        self.rate = rate
        self._rest = b""
        self._at = 0  # bytes listened to

    def feed(self, pcm: bytes) -> None:
        window, rms = self._window, audioop.rms
        pcm = self._rest + pcm
        for start in range(0, len(pcm) - window + 1, window):
            begins = self._at / (2 * self.rate)
            self._at += window
            if rms(pcm[start : start + window], 2) >= SILENCE_RMS:
                if self.last_sound is None or begins - self.last_sound > HANGOVER_S:
                    self.turn_began = begins
                self.last_sound = self._at / (2 * self.rate)
        self._rest = pcm[len(pcm) - len(pcm) % window :]

    def speaking(self, now: float) -> bool:
        return self.last_sound is not None and now - self.last_sound <= HANGOVER_S


def turns(pcm: bytes, rate: int, hangover_s: float = HANGOVER_S) -> list[tuple[float, float]]:
    """(begin, end) in seconds of each stretch of sound without a pause of more than `hangover_s`."""
    size = max(1, int(rate * WINDOW_S))
    samples = _samples(pcm)
    windows = len(samples) // size
    if not windows:
        return []
    energy = np.sqrt((samples[: windows * size].reshape(windows, size) ** 2).mean(axis=1))
    found: list[tuple[float, float]] = []
    for index in np.flatnonzero(energy >= SILENCE_RMS).tolist():
        begin, end = index * size / rate, (index + 1) * size / rate
        if found and begin - found[-1][1] <= hangover_s:
            found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return found


def first_sound(pcm: bytes, rate: int, begin: float = 0.0) -> float | None:
    """When the first sample that is no silence comes, in seconds; None if there is none from `begin` on."""
    start = round(begin * rate)
    loud = np.flatnonzero(np.abs(_samples(pcm)[start:]) > SILENCE_PEAK)
    return (start + int(loud[0])) / rate if len(loud) else None


def last_sound(pcm: bytes, rate: int, begin: float, end: float) -> float | None:
    """When the last sample that is no silence ends, between `begin` and `end`; None if there is none."""
    start = round(begin * rate)
    loud = np.flatnonzero(np.abs(_samples(pcm)[start : round(end * rate)]) > SILENCE_PEAK)
    return (start + int(loud[-1]) + 1) / rate if len(loud) else None


@dataclass(frozen=True, slots=True)
class Echo:
    """How late a second of what was said came back."""

    at: float  # when it was said, in seconds
    latency_s: float
    similarity: float  # 0 to 1: the correlation at this latency


def echoes(
    said: bytes, heard: bytes, rate: int, *, window_s: float = 1.0, longest_s: float = 3.0, alike: float = 0.6
) -> list[Echo]:
    """The latency of each spoken second that came back, by cross-correlation.

    Args:
        said, heard: on one clock and at one rate. Speech or noise: a steady tone is alike at every period.
        window_s: how much is compared at a time.
        longest_s: latest echo looked for.
        alike: least similarity that counts as an echo.
    """
    return list(_echoes(_samples(said), _samples(heard), rate, window_s, longest_s, alike))


def _echoes(
    said: NDArray[np.float64], heard: NDArray[np.float64], rate: int, window_s: float, longest_s: float, alike: float
) -> Iterator[Echo]:
    size, reach = int(window_s * rate), int(longest_s * rate)
    padded = 1 << (2 * size + reach - 1).bit_length()
    for start in range(0, len(said) - size + 1, size):
        word = said[start : start + size]
        if np.sqrt((word**2).mean()) < 2 * SILENCE_RMS:
            continue
        place = heard[start : start + size + reach]
        if len(place) < size:
            return
        spectrum = np.fft.rfft(place, padded) * np.conj(np.fft.rfft(word, padded))
        correlation = np.fft.irfft(spectrum, padded)[: len(place) - size + 1]
        energy = np.concatenate(([0.0], np.cumsum(place**2)))
        local = energy[size:] - energy[:-size]
        similarity = correlation / np.sqrt(np.maximum(local, 1.0) * (word**2).sum())
        best = int(similarity.argmax())
        if similarity[best] >= alike:
            yield Echo(start / rate, best / rate, float(similarity[best]))


def _samples(pcm: bytes) -> NDArray[np.float64]:
    return np.frombuffer(pcm, "<i2", len(pcm) // 2).astype(np.float64)
