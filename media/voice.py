"""One call's audio in windows, how loud they are, and the four states that follow from what a detector makes of them.

What detectors of one's own inherit from is in media/vad.py: this is compiled (setup.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from media.vad import VADParams


class VADState(Enum):
    QUIET = 1
    STARTING = 2  # speech, but not for `start_secs` yet
    SPEAKING = 3
    STOPPING = 4  # no speech, but not for `stop_secs` yet


_QUIET: Final = VADState.QUIET
_STARTING: Final = VADState.STARTING
_SPEAKING: Final = VADState.SPEAKING
_STOPPING: Final = VADState.STOPPING
# Loudness in dB, of samples as they are (full scale is 90 dB), that counts as volume 0 and as volume 1.
LOWEST_DB: Final = -20.0
HIGHEST_DB: Final = 80.0
_DOUBTFUL: Final = 0.7  # of the confidence that speech needs: a window that may be part of it


def loudness(powers: list[float]) -> list[float]:
    """Loudness of each power, 0 to 1: -20 to 80 dB laid over 0 to 1."""
    found: list[float] = []
    for power in powers:
        # Not numpy's logarithm, which may round the last rows of a batch in another way than the first ones.
        volume = (10 * math.log10(power) - 0.691 - LOWEST_DB) / (HIGHEST_DB - LOWEST_DB) if power > 1e-3 else 0.0
        found.append(1.0 if volume > 1.0 else max(0.0, volume))
    return found


class VoiceStates:
    """QUIET, STARTING, SPEAKING, STOPPING: one call's state, window by window.

    Words have consonants, on which every detector doubts. So a start of which half is there does not begin anew at the
    first window that is no speech: a doubtful one changes nothing, any other takes one back.
    """

    __slots__ = (
        "_confidence",
        "_count",
        "_doubtful",
        "_half",
        "_min_volume",
        "_params",
        "_start",
        "_stop",
        "_window_s",
        "state",
    )

    def __init__(self, params: VADParams, window_s: float = 0.032) -> None:
        self._window_s = window_s
        self.state = VADState.QUIET
        self._count = 0  # windows in favour of leaving the state
        self.params = params

    @property
    def window_s(self) -> float:
        """Seconds of one window, as the source cuts them."""
        return self._window_s

    @window_s.setter
    def window_s(self, window_s: float) -> None:
        self._window_s = window_s
        self.params = self._params

    @property
    def params(self) -> VADParams:
        return self._params

    @params.setter
    def params(self, params: VADParams) -> None:
        """New limits hold from the next window; who speaks goes on speaking."""
        self._params = params
        self._confidence: float = params.confidence
        self._doubtful: float = params.confidence * _DOUBTFUL
        self._min_volume: float = params.min_volume
        self._start = max(1, round(params.start_secs / self._window_s))
        self._half = (self._start + 1) // 2
        self._stop = max(1, round(params.stop_secs / self._window_s))

    def step(self, confidence: float, volume: float) -> VADState:
        speech = confidence >= self._confidence and volume >= self._min_volume
        state = self.state
        if state is _QUIET or state is _STARTING:
            if not speech:
                if self._count < self._half:
                    state, self._count = _QUIET, 0
                elif confidence < self._doubtful:
                    self._count -= 1
            else:
                self._count += 1
                state = _STARTING
                if self._count >= self._start:
                    state, self._count = _SPEAKING, 0
        elif speech:
            state, self._count = _SPEAKING, 0
        else:
            self._count += 1
            state = _STOPPING
            if self._count >= self._stop:
                state, self._count = _QUIET, 0
        self.state = state
        return state


class Windows:
    """Cuts a stream into windows of `size` bytes."""

    __slots__ = ("_rest", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._rest = b""

    def cut(self, samples: Any) -> Sequence[bytes]:
        """The windows that are whole with `samples`, which may be any buffer."""
        size = self.size
        pcm: bytes = self._rest + samples
        left = len(pcm) - size
        if left < 0:
            self._rest = pcm
            return ()
        if left < size:
            self._rest = pcm[size:]
            return (pcm[:size],)
        whole = len(pcm) // size
        self._rest = pcm[whole * size :]
        return [pcm[start : start + size] for start in range(0, whole * size, size)]
