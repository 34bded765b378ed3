"""Do the first bytes of a call sound like what was negotiated?

A codec that is taken for another one, or for the other order of bytes, makes noise of speech and a loud hiss of
silence. The right reading is smooth: one sample says a lot about the next. So the first second is read in every way
that there is, and if the negotiated reading is rough and another one smooth, something is set wrong.

How fast samples come does not tell their rate: on a busy machine or line they come late, and then all at once. It must
be told by what the carrier says, too: by its timestamps, or where it has none by packets that are as long as they
always are only at another rate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np

from media.codecs import alaw_to_pcm, pcm_to_alaw, pcm_to_ulaw, swap16, ulaw_to_pcm

LISTENS_S: Final = 1.0
SETTLES_S: Final = 0.3  # what had gathered before the socket opened may come at once

_ROUGH: Final = 0.3  # speech has 0.05 to 0.5, read wrongly 0.5 to 1
_SMOOTHER: Final = 0.55  # the right reading is at most this much of the wrong one
_HISS: Final = 0.52  # what silence becomes, read wrongly, is no smoother
_ORDER: Final = 8
_SILENCE: Final = 30.0  # rms below which a line is silent, and any noise there is is its own
_RATES: Final = (8000, 16000, 24000, 32000, 48000)
_NEAR: Final = 0.12
_PACKETS_A_SECOND: Final = 50  # of carriers that tell no time

_SWAPPED: Final = "L16 with its bytes the other way round"
_Reading = Callable[[bytes], bytes]
_BYTES: Final[Mapping[str, _Reading]] = {"PCMU": pcm_to_ulaw, "PCMA": pcm_to_alaw, "L16": lambda pcm: pcm}
_READINGS: Final[Mapping[str, _Reading]] = {
    "PCMU": ulaw_to_pcm,
    "PCMA": alaw_to_pcm,
    "L16": lambda data: data[: len(data) & ~1],
    _SWAPPED: lambda data: swap16(data[: len(data) & ~1]),
}


@dataclass(frozen=True, slots=True)
class Contradiction:
    """The bytes do not sound like what was negotiated."""

    negotiated: str
    looks_like: str
    rough: float  # what was negotiated; 0 where it is about the rate
    smooth: float  # what it looks like


class CodecCheck:
    """Listens to the first second of one call, then says once what it thinks."""

    def __init__(self, encoding: str, sample_rate: int) -> None:
        self.encoding, self.sample_rate = encoding, sample_rate
        self.is_over = encoding not in _BYTES
        self._pieces: list[bytes] = []
        self._size = 0
        self._first: float | None = None
        self._counted_from: float | None = None
        self._counted = 0
        self._packets: list[tuple[int, int | None, int | None]] = []  # samples, the carrier's number and milliseconds

    def hear(
        self, pcm: bytes, now: float, seq: int | None = None, timestamp_ms: int | None = None
    ) -> Contradiction | None:
        """`pcm` of a packet as it was decoded, at the wire's rate, and the carrier's numbers of it. What is wrong, in
        the call that ends the listening."""
        if self._first is None:
            self._first = now
        self._packets.append((len(pcm) >> 1, seq, timestamp_ms))
        if self._size < 2 * LISTENS_S * self.sample_rate:
            self._pieces.append(pcm)
            self._size += len(pcm)
        since = now - self._first
        if since < SETTLES_S:
            return None
        if self._counted_from is None:
            self._counted_from = now
        else:
            self._counted += len(pcm) >> 1
        if since < SETTLES_S + LISTENS_S:
            return None
        self.is_over = True
        pcm = b"".join(self._pieces)
        self._pieces.clear()
        wrong = self._wrong_codec(pcm) or self._wrong_rate(self._counted / max(now - self._counted_from, LISTENS_S / 2))
        self._packets.clear()
        return wrong

    def _wrong_codec(self, pcm: bytes) -> Contradiction | None:
        data = _BYTES[self.encoding](pcm)
        rough = _roughness(pcm)
        if rough < _ROUGH:
            return None
        others = {name: _roughness(read(data)) for name, read in _READINGS.items() if name != self.encoding}
        likeliest = min(others, key=others.__getitem__)
        if others[likeliest] > _SMOOTHER * rough or (not others[likeliest] and rough < _HISS):
            return None
        return Contradiction(self.encoding, likeliest, round(rough, 2), round(others[likeliest], 2))

    def _wrong_rate(self, came: float) -> Contradiction | None:
        """`came`: samples in a second."""
        agreed = self.sample_rate
        has_time = any(timestamp is not None for _, _, timestamp in self._packets)
        told = self._rate_by_timestamps() if has_time else self._rate_by_length()
        for rate in _RATES:
            if rate == agreed or abs(told / rate - 1) >= _NEAR:
                continue
            between = (rate * agreed) ** 0.5  # it did not come as agreed, however late it came
            came_so = (came < between) == (rate < agreed) if has_time else abs(came / rate - 1) < _NEAR
            if came_so:
                return Contradiction(f"{self.encoding} at {agreed} Hz", f"{rate} Hz", 0.0, 0.0)
        return None

    def _rate_by_timestamps(self) -> float:
        """Samples in a second of the carrier's own time; 0 where it tells too little. What was lost is left out."""
        samples = milliseconds = 0
        for (_, number, before), (count, next_number, after) in pairwise(self._packets):
            follows = number is None or next_number is None or next_number == number + 1
            if follows and before is not None and after is not None and after > before:
                samples += count
                milliseconds += after - before
        return 1000 * samples / milliseconds if milliseconds >= 250 * LISTENS_S else 0.0

    def _rate_by_length(self) -> float:
        """At which packets have their usual length; 0 where they have several."""
        ((usual, times),) = Counter(count for count, _, _ in self._packets).most_common(1)
        return float(usual * _PACKETS_A_SECOND) if times > 0.9 * len(self._packets) else 0.0


def _roughness(pcm: bytes) -> float:
    """The share of the power that eight samples do not tell about the next: 1 for noise, near 0 for sound, silence."""
    x = np.frombuffer(pcm, "<i2").astype(np.float64)
    if len(x) <= _ORDER:
        return 0.0
    x -= x.mean()
    # No `@` of so many samples: a numeric library would wake a thread on every core for it.
    lags = np.array([np.einsum("i,i->", x[lag:], x[: len(x) - lag]) for lag in range(_ORDER + 1)]) / len(x)
    if lags[0] < _SILENCE**2:
        return 0.0
    matrix = lags[np.abs(np.subtract.outer(np.arange(_ORDER), np.arange(_ORDER)))]
    matrix[np.diag_indices(_ORDER)] *= 1.0001
    return float(1 - lags[1:] @ np.linalg.solve(matrix, lags[1:]) / lags[0])
