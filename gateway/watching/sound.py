"""Both voices of a call as watchers want them: one channel or two, at the wire's rate or at 24 kHz."""

from __future__ import annotations

import math
from typing import Final

from gateway.recording import Ear
from media.codecs import audioop
from media.ledger import PlayoutLedger
from media.recording import CallTape
from media.resample import Resampler, make_resampler

WAITING: Final = 20  # pieces that nobody has come for; then the oldest goes


class Listening(Ear):
    """Hears both sides. Pieces of a quarter of a second wait until somebody takes them, so that what is made of them
    costs the call nothing.

    Args:
        t: seconds of the call at `now`.
    """

    def __init__(self, ledger: PlayoutLedger, now: float, t: float) -> None:
        self._t = t
        self._pieces: list[tuple[float, bytes]] = []
        self._tape = CallTape(ledger, self._put, now)
        self._is_over = False

    @property
    def tape(self) -> CallTape:
        return self._tape

    @property
    def is_over(self) -> bool:
        return self._is_over

    def tick(self, now: float) -> None:
        self._tape.tick(now)

    def stop(self) -> None:
        self._is_over = True

    def _put(self, pcm: bytes) -> None:
        lasts_s = len(pcm) / (4 * self._tape.sample_rate)
        self._pieces.append((self._t + self._tape.seconds - lasts_s, pcm))
        del self._pieces[:-WAITING]

    def take(self) -> list[tuple[float, bytes]]:
        """(seconds of the call at which it begins, s16le of two channels, the caller left)."""
        pieces, self._pieces = self._pieces, []
        return pieces


class Sound:
    """One way of hearing a call.

    Args:
        kind: "mixed" or "stereo".
        sample_rate: Hz of what it is given.
        rate: Hz of what it gives; 0: the same.
    """

    def __init__(self, kind: str, sample_rate: int, rate: int) -> None:
        self.channels = 2 if kind == "stereo" else 1
        self.rate = rate or sample_rate
        self._resamplers: list[Resampler] = []
        if self.rate != sample_rate:
            self._resamplers = [make_resampler(sample_rate, self.rate) for _ in range(self.channels)]

    def of(self, pcm: bytes) -> bytes:
        """`pcm`: two channels."""
        if self.channels == 1:
            mixed = audioop.tomono(pcm, 2, 1, 1)  # both added; what is too loud is cut
            return self._resamplers[0].process(mixed) if self._resamplers else mixed
        if not self._resamplers:
            return pcm
        left, right = (
            resampler.process(audioop.tomono(pcm, 2, 1 - side, side)) for side, resampler in enumerate(self._resamplers)
        )
        return audioop.add(audioop.tostereo(left, 2, 1, 0), audioop.tostereo(right, 2, 0, 1), 2)


def levels(pcm: bytes) -> tuple[float, float]:
    """How loud each of two channels is, 0 to 1: the root of the mean square, on a scale of 60 dB."""
    left, right = (audioop.rms(audioop.tomono(pcm, 2, 1 - side, side), 2) for side in range(2))
    return _level(left), _level(right)


def _level(rms: int) -> float:
    return round(max(0.0, 1.0 + math.log10(rms / 32768) / 3.0), 3) if rms else 0.0
