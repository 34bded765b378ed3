"""What may be done to the caller's audio before anybody hears it, and noise suppression.

A filter has Pipecat's four methods; each may be `def` or `async def` where a transport calls them (`audio_in_filter`).
In a pipeline, `FilteredInput` takes one whose methods are `def`.
"""

from __future__ import annotations

from typing import Any

from media.errors import ConfigError
from media.events import DONE, MaybeAwaitable
from media.frames import (
    CancelFrame,
    EndFrame,
    FilterControlFrame,
    FilterEnableFrame,
    Frame,
    InputAudioRawFrame,
    StartFrame,
)
from media.processor import FrameDirection, FrameProcessor
from media.resample import Resampler, make_resampler

RATE = 16000  # Hz that WebRTC's suppression works at
STEP_BYTES = RATE // 100 * 2


class BaseAudioFilter:
    """Passes audio as it is."""

    def start(self, sample_rate: int) -> MaybeAwaitable:
        """Hz of what will come."""
        return DONE

    def stop(self) -> MaybeAwaitable:
        return DONE

    def process_frame(self, frame: FilterControlFrame) -> MaybeAwaitable:
        return DONE

    def filter(self, audio: bytes) -> Any:
        """PCM in, PCM out; empty while it collects."""
        return audio


class NoiseSuppressor(BaseAudioFilter):
    """WebRTC's noise suppression, by the package webrtc-noise-gain (the extra `noise`): 0.1 ms for 20 ms, 10 ms late.

    Args:
        level: 1 (a little) to 4.

    Raises:
        ConfigError: the package is not installed.
    """

    def __init__(self, level: int = 2) -> None:
        if not 1 <= level <= 4:
            raise ValueError(f"level must be 1 to 4, got {level}")
        try:
            from webrtc_noise_gain import AudioProcessor
        except ImportError:
            raise ConfigError(
                "noise", "webrtc-noise-gain is not installed", "pip install 'telephony-gateway[noise]'"
            ) from None
        self._make, self._level = AudioProcessor, level
        self._suppress: Any = None
        self._up: Resampler | None = None
        self._down: Resampler | None = None
        self._rest = b""
        self.is_enabled = True

    def start(self, sample_rate: int) -> MaybeAwaitable:
        self._suppress = self._make(0, self._level)
        self._rest = b""
        self._up = self._down = None
        if sample_rate != RATE:
            self._up, self._down = make_resampler(sample_rate, RATE), make_resampler(RATE, sample_rate)
        return DONE

    def process_frame(self, frame: FilterControlFrame) -> MaybeAwaitable:
        if isinstance(frame, FilterEnableFrame):
            self.is_enabled = frame.enable
        return DONE

    def filter(self, audio: bytes) -> bytes:
        if not self.is_enabled or self._suppress is None:
            return audio
        pcm = self._rest + (audio if self._up is None else self._up.process(audio))
        whole = len(pcm) - len(pcm) % STEP_BYTES
        self._rest = pcm[whole:]
        step = self._suppress.Process10ms
        quiet = b"".join(step(pcm[at : at + STEP_BYTES]).audio for at in range(0, whole, STEP_BYTES))
        return quiet if self._down is None else self._down.process(quiet)


class FilteredInput(FrameProcessor):
    """Lets the caller's audio through a filter; stands first in a pipeline. FilterControlFrames are the filter's."""

    def __init__(self, audio_filter: BaseAudioFilter, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self._filter = audio_filter

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if isinstance(frame, InputAudioRawFrame):
            frame.audio = self._filter.filter(frame.audio)
            return self.push_frame(frame, direction) if frame.audio else DONE
        if isinstance(frame, StartFrame):
            self._filter.start(frame.audio_in_sample_rate)
        elif isinstance(frame, FilterControlFrame):
            self._filter.process_frame(frame)
            return DONE
        elif isinstance(frame, EndFrame | CancelFrame):
            self._filter.stop()
        return self.push_frame(frame, direction)
