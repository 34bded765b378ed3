"""Who speaks: windows of audio, a confidence and a loudness for each, and the four states that follow from them.

A detector is a `VADAnalyzer`: it judges windows. What it hears belongs to a call and not to the detector: each call
listens through a `VoiceSource` of its own, so one analyzer may serve any number of calls.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from media.events import DONE, BaseObject, MaybeAwaitable
from media.voice import VADState as VADState
from media.voice import VoiceStates as VoiceStates
from media.voice import Windows as Windows
from media.voice import loudness

# How volume follows loudness: up at once, down by a fifth of the way per window. Pipecat smooths both ways, and then
# the first word after a silence must wait until the average has climbed: 100 ms on a quiet line. A click is no
# speech without that, for the model and `start_secs` have to agree.
VOLUME_RISE: Final = 1.0
VOLUME_FALL: Final = 0.2
# Power gain of BS.1770's shelf, which lifts 1.5 kHz and above by 4 dB, as weights of the autocorrelation at lags 0 to
# 3: within 0.3 dB of it from 80 Hz up. Its high-pass at 38 Hz is taken for what it mostly removes: the mean.
SHELF: Final = {
    8000: (1.8798, -0.4324, -0.0915, 0.0680),
    16000: (2.1706, -0.3008, -0.2074, -0.1109),
}


@dataclass(frozen=True, slots=True)
class VADParams:
    """A window is speech if the model's confidence and the volume both reach their limit."""

    confidence: float = 0.7
    start_secs: float = 0.2  # of speech, before it counts
    stop_secs: float = 0.2  # of silence, before it counts
    min_volume: float = 0.6  # 0.6 is about -50 dBFS

    def __post_init__(self) -> None:
        for name in ("confidence", "min_volume"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be 0 to 1, got {getattr(self, name)}")
        for name in ("start_secs", "stop_secs"):
            if not 0.0 <= getattr(self, name) <= 60.0:
                raise ValueError(f"{name} must be 0 to 60 seconds, got {getattr(self, name)}")


class VoiceSource(Protocol):
    """One call's way to a detector. Each window's confidence and volume come to the callback it was made with."""

    window_s: float  # seconds of one window
    min_volume: float  # below it no window is speech, so the detector need not look

    def feed(self, pcm: bytes) -> None:
        """Any number of samples, mono s16le at the rate it was made for."""
        ...

    def close(self) -> None:
        """No window is judged, and none delivered, from now on."""
        ...


Deliver = Callable[[float, float], Any]  # (confidence, volume) of one window, in order


class VoiceService(Protocol):
    """A runtime's `vad`: detection for many calls at once, away from the event loop."""

    def listen(self, model: Path | None, sample_rate: int, deliver: Deliver) -> VoiceSource | None:
        """A source for one call; None if it has another model than the one asked for (None: whichever it has)."""
        ...


# ---------------------------------------------------------------- volume


def powers(windows: NDArray[np.int16], sample_rate: int) -> NDArray[np.float64]:
    """Mean square of each row, K-weighted as in BS.1770.

    Sums are whole numbers below 2 ** 53, hence exact: a row's result does not depend on its neighbours.
    """
    c0, *lags = SHELF.get(sample_rate) or SHELF[8000 if sample_rate < 12000 else 16000]
    x = windows.astype(np.float64)
    size = x.shape[1]
    mean = (np.einsum("ij->i", x) / size) ** 2
    power: NDArray[np.float64] = c0 * (np.einsum("ij,ij->i", x, x) / size - mean)
    for lag, weight in zip(range(1, size), lags, strict=False):
        products = np.einsum("ij,ij->i", x[:, lag:], x[:, :-lag])
        power += 2 * weight * (products / (size - lag) - mean)
    return power


def volumes(power: NDArray[np.float64]) -> list[float]:
    """Loudness of each row, 0 to 1: -20 to 80 dB laid over 0 to 1."""
    return loudness(power.tolist())


def volume_of(pcm: bytes, sample_rate: int) -> float:
    """Loudness of mono s16le, 0 to 1, not smoothed."""
    samples = np.frombuffer(pcm, "<i2")
    return volumes(powers(samples.reshape(1, -1), sample_rate))[0] if len(samples) else 0.0


def follow(volume: float, heard: float) -> float:
    """The next volume, when a window as loud as `heard` comes."""
    return volume + (VOLUME_RISE if heard > volume else VOLUME_FALL) * (heard - volume)


# ---------------------------------------------------------------- detectors


class VADAnalyzer(BaseObject):
    """Judges windows of speech. A detector of one's own overrides `num_frames_required` and `voice_confidence`.

    In a pipeline the windows are cut, and states and volume kept, outside the analyzer, for each call apart. A
    detector that remembers what it has heard overrides `for_call` as well. `analyze_audio` is for use by hand: it
    has a state of its own.
    """

    sample_rates: tuple[int, ...] = ()  # Hz it can take; empty: any. What comes at another rate is resampled

    def __init__(self, *, sample_rate: int | None = None, params: VADParams | None = None) -> None:
        super().__init__()
        self._init_sample_rate = sample_rate
        self._sample_rate = sample_rate or 0
        self._params = params or VADParams()
        self._own: tuple[VoiceSource, VoiceStates] | None = None

    @property
    def sample_rate(self) -> int:
        """Hz; 0 until it is known."""
        return self._sample_rate

    @property
    def num_channels(self) -> int:
        return 1

    @property
    def params(self) -> VADParams:
        return self._params

    @abstractmethod
    def num_frames_required(self) -> int:
        """Samples of a window at `sample_rate`."""

    @abstractmethod
    def voice_confidence(self, buffer: bytes) -> float:
        """How sure it is, 0 to 1, that one window of mono s16le is speech."""

    def for_call(self) -> VADAnalyzer:
        """What one call shall ask. Here the analyzer itself: it is taken to remember nothing."""
        return self

    def rate_for(self, sample_rate: int) -> int:
        """The rate at which it listens to a call of `sample_rate`."""
        if self._init_sample_rate:
            return self._init_sample_rate
        return sample_rate if not self.sample_rates or sample_rate in self.sample_rates else self.sample_rates[0]

    def set_sample_rate(self, sample_rate: int) -> None:
        """The rate of what comes, unless the constructor was given one."""
        self._sample_rate = self._init_sample_rate or sample_rate
        self._own = None

    def set_params(self, params: VADParams) -> None:
        """Holds from the next window on, in every call that listens through this analyzer."""
        self._params = params

    def listen(self, sample_rate: int, deliver: Deliver, service: VoiceService | None = None) -> VoiceSource:
        """A source for one call at `sample_rate`, which is one of `rate_for`'s."""
        analyzer = self.for_call()
        analyzer.set_sample_rate(sample_rate)
        return InlineSource(analyzer.voice_confidence, analyzer.num_frames_required(), sample_rate, deliver)

    async def analyze_audio(self, buffer: bytes) -> VADState:
        """The state after `buffer`, any number of samples."""
        if self._own is None:
            if not self._sample_rate:
                raise ValueError("set_sample_rate comes first")
            states = VoiceStates(self._params)
            self._own = self.listen(self._sample_rate, states.step), states
            states.window_s = self._own[0].window_s
        source, states = self._own
        if states.params is not self._params:
            states.params = self._params
        source.min_volume = self._params.min_volume
        source.feed(buffer)
        return states.state

    def cleanup(self) -> MaybeAwaitable:
        """Nothing is held."""
        return DONE


class InlineSource:
    """Judges each window where it is fed."""

    def __init__(self, judge: Callable[[bytes], Any], samples: int, sample_rate: int, deliver: Deliver) -> None:
        if samples <= 0:
            raise ValueError(f"a window must have samples, got {samples}")
        self.window_s, self.min_volume = samples / sample_rate, 0.0
        self._judge, self._rate = judge, sample_rate
        self._deliver: Deliver | None = deliver
        self._windows = Windows(samples * 2)
        self._volume = 0.0

    def feed(self, pcm: bytes) -> None:
        for window in self._windows.cut(pcm):
            if self._deliver is None:
                return
            self._volume = follow(self._volume, volume_of(window, self._rate))
            self._deliver(float(self._judge(window)), self._volume)

    def close(self) -> None:
        self._deliver = None
