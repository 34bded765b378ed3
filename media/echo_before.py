"""What a line brought a moment ago, where the present does not tell an echo from a voice.

The path of an echo stays as it is. So what agrees with the bot's voice, and with as much played did not come back a
moment ago, is a voice that happens to agree (one in forty does). And where a path explains all that came back, what it
leaves now is somebody who speaks, even if no louder than the echo.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from media.echo import LATER, LONGEST_DELAY_S, RATE, TAPS, WINDOW_S, Samples, latest, path
from media.second_look import periodicity

PLAYED_S: Final = 1.0 + WINDOW_S + LONGEST_DELAY_S  # what is compared, and what of it may still be on its way

_WINDOW: Final = int(WINDOW_S * RATE)
_ALL: Final = RATE + _WINDOW
_QUIETEST: Final = 64.0  # power under which there is nothing to compare
_FRAME: Final = RATE // 50
_NOW: Final = 8  # frames
_VOICED: Final = 3  # of them, at least: a car that passes is nobody
_IS_VOICE: Final = 0.6  # periodicity
_SURELY_VOICE: Final = 0.8  # where it is faint: a car that passes reaches 0.79 in pieces so short
_FAINT: Final = 12.6  # 11 dB above the quieter parts of what was left before. A car that swells reaches 10

_MISSING: Final = 0.1  # of the echo that should have been there, at most: it was not
_TELLING: Final = 0.25  # of the line's power that it should have had
_BESIDE_NOISE: Final = 6.3  # 8 dB above the quieter parts of what was left before
_BESIDE_ECHO: Final = 0.07  # 11.5 dB below the loudest of the echo, of which no path explains all


def is_new(heard: bytes, played: bytes, heard_rate: int, played_rate: int, delay_ms: int) -> bool:
    """What agrees with the bot's voice at this delay was missing before, though it should have come back then too.

    Args:
        heard: the caller's audio, s16le: WINDOW_S, and a second before that.
        played: what the caller was played, ending with what is played now: PLAYED_S.
    """
    line, r = _aligned(heard, played, heard_rate, played_rate, delay_ms)
    before = len(line) - _WINDOW
    if before < _WINDOW:
        return False
    taps, _ = path(line[before:], r[before:])
    echo = np.correlate(r[: before + TAPS - 1], taps)
    line = line[:before]
    power = float(echo @ echo)
    should_be = power > max(_TELLING * float(line @ line), before * _QUIETEST)
    return should_be and float(line @ echo) < _MISSING * power


def somebody_beside(heard: bytes, played: bytes, heard_rate: int, played_rate: int, delay_ms: int) -> bool:
    """The line's echo leaves more than it did before, and that is a voice. Arguments as those of `is_new`."""
    left, echo = _parts(heard, played, heard_rate, played_rate, delay_ms)
    if len(left) < 2 * _WINDOW:
        return False
    now, noise = _now_and_before(left)
    if now <= _BESIDE_NOISE * noise or now <= _BESIDE_ECHO * float(np.max(_powers(echo))):
        return False
    return _is_voice(left)


def leaves_voice(heard: bytes, played: bytes, heard_rate: int, played_rate: int, delay_ms: int) -> bool:
    """What the line's echo leaves is a voice, or too short to say. Arguments as those of `is_new`."""
    left, _ = _parts(heard, played, heard_rate, played_rate, delay_ms)
    return len(left) < 2 * _WINDOW or _is_voice(left)


def _parts(heard: bytes, played: bytes, heard_rate: int, played_rate: int, delay_ms: int) -> tuple[Samples, Samples]:
    """What the line's echo leaves, and the echo; nothing of a line that is too short."""
    line, r = _aligned(heard, played, heard_rate, played_rate, delay_ms)
    if len(line) < 2 * _WINDOW:
        return line, line
    taps, _ = path(line, r)
    echo = np.correlate(r, taps)
    return line - echo, echo


def _is_voice(left: Samples) -> bool:
    now, noise = _now_and_before(left)
    return float(np.sort(_repeats(left))[-_VOICED]) >= (_SURELY_VOICE if now <= _FAINT * noise else _IS_VOICE)


def _now_and_before(left: Samples) -> tuple[float, float]:
    """The power of the latest, and that of the quieter parts of all."""
    powers = _powers(left)
    return float(powers[-_NOW:].mean()), max(float(np.quantile(powers, 0.2)), _QUIETEST)


def _repeats(samples: Samples) -> Samples:
    """How periodic the latest of them are, in pieces that overlap."""
    ends = len(samples) - _FRAME * np.arange(_NOW)
    pieces = samples[ends[:, None] + np.arange(-2 * _FRAME, 0)]
    return periodicity(np.rint(pieces))


def _aligned(heard: bytes, played: bytes, heard_rate: int, played_rate: int, delay_ms: int) -> tuple[Samples, Samples]:
    """The line, and what can have come back in it: the first TAPS of that in its first sample, and so on."""
    line = latest(heard, heard_rate, _ALL)
    r = latest(played, played_rate, int(PLAYED_S * RATE))
    late = delay_ms * RATE // 1000 + LATER - TAPS + 1  # than now, of the last that can; below 0 it is to come
    size = len(line) + TAPS - 1
    # Soon after an interruption less is known to have been played than the line is late.
    r = np.concatenate((np.zeros(size + max(0, late)), r, np.zeros(max(0, -late))))
    last = len(r) - max(0, late)
    return line, r[last - size : last]


def _powers(samples: Samples) -> Samples:
    count = len(samples) // _FRAME
    frames = samples[len(samples) - count * _FRAME :].reshape(count, _FRAME)
    return np.asarray(np.einsum("ij,ij->i", frames, frames) / _FRAME)
