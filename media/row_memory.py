"""What is remembered of each call beside the network's own memory, and what is done with a window before the network
sees it and after.

Here with numpy, for all rows of a batch at once. The compiled build has one C type for it (media/rows.c), to the same
bits: numpy has some sixty calls for it, each little arithmetic and much code, which between two batches of few calls
grows cold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from media import second_look
from media.second_look import SecondLook
from media.vad import SHELF, VOLUME_FALL, VOLUME_RISE, powers, volumes
from media.voice import HIGHEST_DB, LOWEST_DB

try:
    import media.rows as rows
except ImportError:  # not compiled
    rows = None  # type: ignore[assignment]

Floats = NDArray[np.float32]
Samples = NDArray[np.int16]

WINDOW: Final = {8000: 256, 16000: 512}  # samples of a window: 32 ms
CONTEXT: Final = {8000: 32, 16000: 64}  # samples that the model wants again from the window before
STATE: Final = 128

# The model's memory. After long silence or noise it is slower to notice a voice than a model that remembers nothing,
# so it forgets: during silence, and after `_FORGET_AFTER` windows that it is sure are not speech (never in a word).
# It then hears the last `REPLAY` windows again: enough to hear what is soft at the start of a word.
_HUSH: Final = 8  # windows below the least volume until the model is not asked any more
_FORGET_AFTER: Final = 156  # 5 s, as in Pipecat, which forgets in mid-word too
_SURELY_NOT: Final = 0.2  # confidence
REPLAY: Final = 2

# The model is unsure of soft voices, and hears them late or not at all: it is shown each call as if its caller spoke
# up. His level is that of the loudest window, and comes down only while he speaks, so that neither noise nor pauses
# change it. Whole decibels from a table: a power that numpy makes may differ with a row's place in the batch.
_FULL: Final = 90  # of volume, in hundredths, that is loud enough: a voice of about -25 dBFS
_MOST_DB: Final = 20  # of gain
_GAINS: Final = np.array([10 ** (db / 20) for db in range(_MOST_DB + 1)], np.float32) / np.float32(32768)  # of s16
_LEVEL_AT_FIRST: Final = 0.75  # of volume: of a soft voice
_LEVEL_FALL: Final = 0.001  # of volume per window of speech: 3 dB in a second
_SURELY: Final = 0.7  # confidence
_LOUDER_DB: Final = 4  # than ever: then the model forgets the line as it was shown until now, which was too loud


class RowMemory(Protocol):
    """The memory of `capacity` slots at one rate. Not safe for threads.

    For each batch: `hear`; if there are rows whose network shall forget, `earlier` for each of `REPLAY` windows and
    then `begin`; `show` if the network is to be asked; `judge`. Arrays are C-contiguous float32.
    """

    def forget(self, slot: int) -> None:
        """A new call has the slot."""
        ...

    def grow(self) -> None:
        """Twice as many slots."""
        ...

    def hear(self, slots: Sequence[int], windows: Sequence[bytes], least: Sequence[float]) -> tuple[int, int]:
        """One window of each slot, and the volume below which nothing in it is speech.

        Returns:
            How many the network is to be shown; how many of those it shall see with an empty memory.
        """
        ...

    def earlier(self, turn: int, audio: Floats) -> None:
        """What those with an empty memory hear again, `turn` after the first: [n, context + window]."""
        ...

    def begin(self, state: Floats) -> None:
        """The network's memory of those, [2, n, 128]."""
        ...

    def show(self, audio: Floats, state: Floats) -> None:
        """What the network is to be shown, [n, context + window], and its memory, [2, n, 128], of those to be asked."""
        ...

    def judge(self, given: Floats, state: Floats) -> tuple[list[float], list[float]]:
        """The network's confidences [n] and its memory [2, n, 128] of those that it was asked about.

        Returns:
            Confidence and volume of each of all windows.
        """
        ...


def row_memory(sample_rate: int, capacity: int) -> RowMemory:
    """As this build has it."""
    if rows is None:
        return NumpyRowMemory(sample_rate, capacity)
    made: RowMemory = rows.RowMemory(WINDOW[sample_rate], CONTEXT[sample_rate], capacity, **numbers(sample_rate))
    return made


def numbers(sample_rate: int) -> dict[str, Any]:
    """What the C type is told of this file, and of those that it makes use of."""
    return {
        "shelf": SHELF[sample_rate],
        "lowest_db": LOWEST_DB,
        "highest_db": HIGHEST_DB,
        "volume_rise": VOLUME_RISE,
        "volume_fall": VOLUME_FALL,
        "hush": _HUSH,
        "forget_after": _FORGET_AFTER,
        "surely_not": _SURELY_NOT,
        "full": _FULL,
        "gains": _GAINS.tobytes(),
        "level_at_first": _LEVEL_AT_FIRST,
        "level_fall": _LEVEL_FALL,
        "surely": _SURELY,
        "louder_db": _LOUDER_DB,
        "at_floor": second_look.AT_FLOOR,
        "above_murmur": second_look.ABOVE_MURMUR,
        "like_speech": second_look.LIKE_SPEECH,
        "likeness_step": second_look.LIKENESS_STEP,
        "air_over_voice": second_look.AIR_OVER_VOICE,
        "sure": second_look.SURE,
        "is_voice": second_look.IS_VOICE,
        "is_air": second_look.IS_AIR,
        "surely_voice": second_look.SURELY_VOICE,
        "surely_air": second_look.SURELY_AIR,
    }


class NumpyRowMemory:
    """See `RowMemory`."""

    def __init__(self, sample_rate: int, capacity: int) -> None:
        self._rate = sample_rate
        self._window, self._context = WINDOW[sample_rate], CONTEXT[sample_rate]
        self._looked_at = self._window * 5 // 4
        self._look = SecondLook(capacity)
        self._tails: Samples = np.zeros((capacity, self._context + REPLAY * self._window), np.int16)
        self._states: Floats = np.zeros((2, capacity, STATE), np.float32)
        self._volume = np.zeros(capacity)
        self._hush = np.zeros(capacity, np.int64)  # windows below the least volume
        self._age = np.zeros(capacity, np.int64)  # windows since the model forgot
        self._given = np.zeros(capacity)  # the model's last confidence
        self._level = np.zeros(capacity)  # volume of the caller's voice
        self._batch: _Heard

    def forget(self, slot: int) -> None:
        self._states[:, slot] = 0.0
        for kept in (self._tails, self._volume, self._hush, self._age, self._given):
            kept[slot] = 0
        self._level[slot] = _LEVEL_AT_FIRST
        self._look.forget(slot)

    def grow(self) -> None:
        for name in ("_tails", "_volume", "_hush", "_age", "_given", "_level"):
            kept = getattr(self, name)
            setattr(self, name, np.concatenate((kept, np.zeros_like(kept))))
        self._states = np.concatenate((self._states, np.zeros_like(self._states)), axis=1)
        self._look.grow()

    def hear(self, slots: Sequence[int], windows: Sequence[bytes], least: Sequence[float]) -> tuple[int, int]:
        batch = self._batch = _Heard()
        mine = batch.slots = np.array(slots)
        batch.least = np.array(least)
        batch.pcm = np.frombuffer(b"".join(windows), "<i2").reshape(len(windows), self._window)
        batch.power = powers(batch.pcm, self._rate)
        heard = np.array(volumes(batch.power))
        volume = self._volume[mine]
        volume += np.where(heard > volume, VOLUME_RISE, VOLUME_FALL) * (heard - volume)
        self._volume[mine] = batch.volume = volume
        level = self._level[mine]
        gain_before = _gain_db(level)
        level = np.maximum(heard, np.where(self._given[mine] >= _SURELY, level - _LEVEL_FALL, level))
        self._level[mine] = level
        gain_db = _gain_db(level)
        batch.gain = _GAINS[gain_db][:, None]

        before, age = self._hush[mine], self._age[mine] + 1
        hush = np.where(volume < batch.least, before + 1, 0)
        self._hush[mine] = hush
        awake = hush <= _HUSH
        fresh = awake & ((before > _HUSH) | ((age > _FORGET_AFTER) & (self._given[mine] < _SURELY_NOT)))
        fresh |= awake & (gain_before - gain_db >= _LOUDER_DB)
        self._age[mine] = np.where(fresh, 0, age)
        batch.asked, batch.fresh = np.flatnonzero(awake), np.flatnonzero(fresh)
        return len(batch.asked), len(batch.fresh)

    def earlier(self, turn: int, audio: Floats) -> None:
        fresh, start = self._batch.fresh, turn * self._window
        tails = self._tails[self._batch.slots[fresh], start : start + self._context + self._window]
        audio[:] = tails * self._batch.gain[fresh]

    def begin(self, state: Floats) -> None:
        self._states[:, self._batch.slots[self._batch.fresh]] = state

    def show(self, audio: Floats, state: Floats) -> None:
        batch, context = self._batch, self._context
        mine = batch.slots[batch.asked]
        now = np.concatenate((self._tails[mine, -context:], batch.pcm[batch.asked]), axis=1)
        audio[:] = now * batch.gain[batch.asked]
        state[:] = self._states[:, mine]

    def judge(self, given: Floats, state: Floats) -> tuple[list[float], list[float]]:
        batch = self._batch
        slots = batch.slots
        confidence = np.zeros(len(slots))
        confidence[batch.asked] = given
        self._states[:, slots[batch.asked]] = state
        self._given[slots] = confidence
        audio = np.concatenate((self._tails[slots], batch.pcm), axis=1)
        self._tails[slots] = audio[:, self._window :]
        looked_at = audio[:, -self._looked_at :]
        left = self._look.confidences(slots, confidence, batch.volume, batch.power, batch.least, looked_at)
        return left.tolist(), batch.volume.tolist()


class _Heard:
    """The batch at work: arrays with a row for each of its windows; of `asked` and `fresh`, the places of some."""

    slots: NDArray[Any]
    least: NDArray[np.float64]
    pcm: Samples
    power: NDArray[np.float64]
    volume: NDArray[np.float64]
    gain: Floats
    asked: NDArray[np.int64]
    fresh: NDArray[np.int64]


def _gain_db(level: NDArray[np.float64]) -> NDArray[np.int64]:
    missing: NDArray[np.int64] = np.clip(_FULL - np.rint(level * 100), 0, _MOST_DB).astype(np.int64)
    return missing
