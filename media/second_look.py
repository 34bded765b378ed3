"""What a voice detector's model is easily fooled by, and what gives it away: a crowd's murmur, and coughs.

Where there is doubt the model's confidence is halved. Thresholds were chosen by the tuning part of the corpus, see
docs/turns.md.

- A murmur of many voices sounds like speech all the time, and never rises far above its own floor. Somebody who speaks
  in a crowd does.
- The loudest part of a cough is a rush of air. The loudest part of a word is a voice, which repeats itself at its
  pitch.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Slots = NDArray[np.int64]
Truths = NDArray[np.bool_]

_BLOCK: Final = 16  # windows of 32 ms: the floor is the least volume of nine such blocks, 4.6 s
_BLOCKS: Final = 9
AT_FLOOR: Final = 0.06  # of volume, 6 dB above it: this is background
ABOVE_MURMUR: Final = 0.09
LIKE_SPEECH: Final = 0.25  # mean confidence in the background: it murmurs
LIKENESS_STEP: Final = 0.03  # its mean reaches back one second

_MEMORY: Final = 10  # windows in which voice and air are compared
AIR_OVER_VOICE: Final = 0.8  # in power, 1 dB: a cough
SURE: Final = 0.96  # such confidence is not doubted as a cough
IS_VOICE, IS_AIR = 0.6, 0.5  # periodicity
SURELY_VOICE, SURELY_AIR = 0.97, 0.1  # confidence with which periodicity is not looked at

_LAGS: Final = np.arange(66, 9, -1)  # at 4 kHz: 60 to 400 Hz
_LOOKED_AT: Final = 160  # samples at 4 kHz


class SecondLook:
    """What is remembered of each slot's background and last windows. Not safe for threads."""

    def __init__(self, capacity: int) -> None:
        self._floors: Doubles = np.zeros((capacity, _BLOCKS))
        self._block: Doubles = np.ones(capacity)
        self._likeness: Doubles = np.zeros(capacity)
        self._voice: Doubles = np.zeros((capacity, _MEMORY))
        self._air: Doubles = np.zeros((capacity, _MEMORY))
        self._count = np.zeros(capacity, np.int64)

    def grow(self) -> None:
        """Twice as many slots."""
        for name, value in vars(self).items():
            setattr(self, name, np.concatenate((value, np.zeros_like(value))))

    def forget(self, slot: int) -> None:
        """A new call has the slot."""
        for value in vars(self).values():
            value[slot] = 0
        self._block[slot] = 1.0

    def confidences(
        self, slots: Slots, given: Doubles, volume: Doubles, power: Doubles, least: Doubles, audio: NDArray[np.int16]
    ) -> Doubles:
        """The confidences that remain of those `given` by the model; 0 where it was not asked.

        Args:
            slots: n of them, each once; all other arguments have a row for each.
            volume: 0 to 1, as smoothed as the rest of the detector sees it.
            power: of the window itself, in any unit.
            least: volume below which nothing is speech.
            audio: 40 ms up to the end of the window, 320 samples at 8 kHz or 640 at 16.
        """
        doubtful = self._murmur(slots, given, volume, least) | self._cough(slots, given, volume, power, least, audio)
        return np.where(doubtful, given * 0.5, given)

    def _murmur(self, slots: Slots, given: Doubles, volume: Doubles, least: Doubles) -> Truths:
        floors, block, count = self._floors[slots], self._block[slots], self._count[slots]
        floor = np.minimum(floors.min(axis=1), block)
        likeness = self._likeness[slots]
        background = (volume < floor + AT_FLOOR) & (volume >= least)
        self._likeness[slots] = np.where(background, likeness + LIKENESS_STEP * (given - likeness), likeness)
        block = np.minimum(block, volume)
        full = slots[count % _BLOCK == _BLOCK - 1]
        self._block[slots] = block
        if len(full):
            self._floors[full, self._count[full] // _BLOCK % _BLOCKS] = self._block[full]
            self._block[full] = 1.0
        found: Truths = (volume < floor + ABOVE_MURMUR) & (likeness > LIKE_SPEECH)
        return found

    def _cough(
        self, slots: Slots, given: Doubles, volume: Doubles, power: Doubles, least: Doubles, audio: NDArray[np.int16]
    ) -> Truths:
        voice, air = given >= SURELY_VOICE, given < SURELY_AIR
        unsure = np.flatnonzero(~voice & ~air & (volume >= least))
        if len(unsure):
            repeats = periodicity(audio[unsure])
            voice[unsure], air[unsure] = repeats >= IS_VOICE, repeats < IS_AIR
        place = self._count[slots] % _MEMORY
        self._voice[slots, place] = np.where(voice, power, 0.0)
        self._air[slots, place] = np.where(air, power, 0.0)
        self._count[slots] += 1
        loudest_voice, loudest_air = self._voice[slots].max(axis=1), self._air[slots].max(axis=1)
        found: Truths = (given < SURE) & (loudest_voice < AIR_OVER_VOICE * loudest_air)
        return found


def periodicity(audio: NDArray[np.int16] | Doubles) -> Doubles:
    """How much the end of each row repeats at a pitch of 60 to 400 Hz: 0 to 1. Samples are whole numbers.

    All sums are of whole multiples of one number and below 2 ** 53 of it, hence exact, in whatever order they are made:
    a row's result does not depend on its neighbours.
    """
    samples = audio / 32768
    while samples.shape[1] > _LOOKED_AT:
        samples = samples[:, ::2] + samples[:, 1::2]
    x = samples - np.rint(np.einsum("ij->i", samples) / _LOOKED_AT * 32768)[:, None] / 32768
    late = x[:, _LAGS[0] :]
    row, step = x.strides
    shifted = np.ndarray((len(x), len(_LAGS), late.shape[1]), buffer=x.data, strides=(row, step, step))
    products = np.einsum("nkl,nl->nk", shifted, late)
    squares = np.zeros((len(x), _LOOKED_AT + 1))
    np.cumsum(x * x, axis=1, out=squares[:, 1:])
    starts = _LAGS[0] - _LAGS
    energies = squares[:, starts + late.shape[1]] - squares[:, starts]
    own = squares[:, -1:] - squares[:, _LAGS[0] : _LAGS[0] + 1]
    found: Doubles = (products / np.sqrt(np.maximum(energies * own, 1e-18))).max(axis=1)
    return found
