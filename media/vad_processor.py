"""Detection in a pipeline: a call's audio to an analyzer, and the edges of speech back as frames."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from media.events import DONE, MaybeAwaitable
from media.frames import (
    CancelFrame,
    Frame,
    InputAudioRawFrame,
    SpeechControlParamsFrame,
    StartFrame,
    UserSpeakingFrame,
    VADParamsUpdateFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.processor import FrameDirection, FrameProcessor
from media.vad import VADAnalyzer, VADParams, VADState
from media.vad_controller import NO_AUDIO_S as NO_AUDIO_S
from media.vad_controller import VADController as VADController


class VADProcessor(FrameProcessor):
    """Pushes everything on, and tells both ways when the caller begins and ceases to speak.

    VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame, UserSpeakingFrame every `speech_activity_period` seconds
    of speech, and SpeechControlParamsFrame at the start and whenever a VADParamsUpdateFrame has changed something.
    Audio goes on before it is judged.
    """

    def __init__(self, *, vad_analyzer: VADAnalyzer, speech_activity_period: float = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._voice = VADController(
            vad_analyzer,
            started=self._on_started,
            stopped=self._on_stopped,
            speaking=self._on_speaking,
            period_s=speech_activity_period,
        )
        self._hear = self._voice.hear
        if self._voice.waits:
            self._may_wait()

    @property
    def vad_params(self) -> VADParams:
        """Those of this call."""
        return self._voice.params

    @property
    def vad_state(self) -> VADState:
        return self._voice.state

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        kind = type(frame)
        if kind is InputAudioRawFrame and direction is FrameDirection.DOWNSTREAM:  # 50 a second: no table, no base
            self.push_frame(frame, direction)
            return self._hear(frame)  # type: ignore[arg-type]
        super().process_frame(frame, direction)
        self.push_frame(frame, direction)
        act = _ACTS.get(kind)
        if act is None:
            act = _act_for(kind)
        return act(self, frame, direction)

    def cleanup(self) -> MaybeAwaitable:
        self._voice.close()
        return super().cleanup()

    # ------------------------------------------------------------ what comes in

    def _on_start(self, frame: StartFrame, direction: FrameDirection) -> MaybeAwaitable:
        self._voice.start(self.runtime, frame.audio_in_sample_rate)
        return self._tell_params()

    def _on_audio(self, frame: InputAudioRawFrame, direction: FrameDirection) -> MaybeAwaitable:
        return self._hear(frame) if direction is FrameDirection.DOWNSTREAM else DONE

    def _on_update(self, frame: VADParamsUpdateFrame, direction: FrameDirection) -> MaybeAwaitable:
        self._voice.set_params(frame.params)
        return self._tell_params()

    def _on_cancel(self, frame: CancelFrame, direction: FrameDirection) -> MaybeAwaitable:
        self._voice.close()
        return DONE

    def _nothing(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        return DONE

    # ------------------------------------------------------------ what goes out

    def _tell_params(self) -> MaybeAwaitable:
        return self.broadcast_frame(SpeechControlParamsFrame, vad_params=self._voice.params)

    def _on_started(self) -> None:
        seconds = self._voice.params.start_secs
        self.broadcast_frame(VADUserStartedSpeakingFrame, start_secs=seconds, timestamp=time.time())

    def _on_stopped(self) -> None:
        seconds = self._voice.params.stop_secs
        self.broadcast_frame(VADUserStoppedSpeakingFrame, stop_secs=seconds, timestamp=time.time())

    def _on_speaking(self) -> None:
        self.broadcast_frame(UserSpeakingFrame)


_ACTS: dict[type, Callable[[VADProcessor, Any, FrameDirection], MaybeAwaitable]] = {
    StartFrame: VADProcessor._on_start,
    InputAudioRawFrame: VADProcessor._on_audio,
    VADParamsUpdateFrame: VADProcessor._on_update,
    CancelFrame: VADProcessor._on_cancel,
}


def _act_for(cls: type) -> Callable[[VADProcessor, Any, FrameDirection], MaybeAwaitable]:
    """Of a subclass; looked up once."""
    found = next((_ACTS[base] for base in cls.__mro__ if base in _ACTS), VADProcessor._nothing)
    _ACTS[cls] = found
    return found
