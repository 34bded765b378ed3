"""Detection in a pipeline: a call's audio to an analyzer, and the edges of speech back as frames."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from media.codecs import audioop
from media.events import DONE, Handle, MaybeAwaitable
from media.flow import Runtime
from media.frames import (
    AudioRawFrame,
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
from media.resample import Resampler, make_resampler
from media.vad import VADAnalyzer, VADParams, VADState, VoiceSource, VoiceStates

log = logging.getLogger(__name__)

NO_AUDIO_S: Final = 1.0  # in the midst of speech: whose line has fallen dumb does not speak
_LOOK_S: Final = NO_AUDIO_S / 4  # so that audio which only waited, because everything did, is heard before that
_TALKING = frozenset({VADState.SPEAKING, VADState.STOPPING})


class VADController:
    """What one call needs of an analyzer: the source, the states, and three callbacks at their edges.

    `started` and `stopped` are called with nothing, `speaking` every `period_s` while there is speech. With a voice
    service they come from the event loop some milliseconds after the audio; else inside `hear`. An analyzer may serve
    many controllers at once.
    """

    def __init__(
        self,
        analyzer: VADAnalyzer,
        *,
        started: Callable[[], Any],
        stopped: Callable[[], Any],
        speaking: Callable[[], Any],
        period_s: float = 0.2,
    ) -> None:
        self.analyzer = analyzer
        self.waits = _overrides_analysis(analyzer)  # `hear` gives something to await
        self.state = VADState.QUIET
        self._params = self._seen = analyzer.params
        self._started, self._stopped, self._speaking = started, stopped, speaking
        self._period_s = period_s
        self._next_speaking = 0.0
        self._now: Callable[[], float] = time.monotonic
        self._call_later: Callable[[float, Callable[[], None]], Handle] | None = None
        self._look_at: Handle | None = None  # while there is speech
        self._unheard = 0  # such looks without audio since the last, one after the other
        self._rate = 0
        self._source: VoiceSource | None = None
        self._states: VoiceStates | None = None
        self._resampler: Resampler | None = None

    @property
    def params(self) -> VADParams:
        """Those of this call."""
        return self._params

    def start(self, runtime: Runtime | None, sample_rate: int) -> None:
        """Begin to listen to a pipeline at `sample_rate`. ValueError if the analyzer can do nothing with it."""
        self.close()
        analyzer = self.analyzer
        self._rate = rate = analyzer.rate_for(sample_rate)
        analyzer.set_sample_rate(rate)
        if runtime is not None:
            self._now, self._call_later = runtime.now, runtime.call_later
        self.state = VADState.QUIET
        if self.waits:
            return
        self._adopt()
        self._source = analyzer.listen(rate, self._on_window, getattr(runtime, "vad", None))
        self._states = VoiceStates(self._params, self._source.window_s)
        self._source.min_volume = self._params.min_volume

    def hear(self, frame: AudioRawFrame) -> MaybeAwaitable:
        """The caller's audio, at any rate."""
        pcm = frame.audio
        if frame.sample_rate != self._rate or frame.num_channels != 1:
            pcm = self._to_rate(frame)
        if self.waits:
            return self._ask(pcm)
        if self._source is not None:
            self._source.feed(pcm)
        return DONE

    def set_params(self, params: VADParams) -> None:
        """For this call only, from its next window."""
        self._params = params
        self._apply()
        if self.waits:
            self.analyzer.set_params(params)  # such an analyzer keeps the states itself

    def close(self) -> None:
        self._stop_looking()
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def _apply(self) -> None:
        if self._states is not None:
            self._states.params = self._params
        if self._source is not None:
            self._source.min_volume = self._params.min_volume

    def _adopt(self) -> None:
        """The analyzer was given other parameters: they are everybody's."""
        if self.analyzer.params is not self._seen:
            self._params = self._seen = self.analyzer.params
            self._apply()

    def _on_window(self, confidence: float, volume: float) -> None:
        if self.analyzer.params is not self._seen:
            self._adopt()
        if self._states is not None:
            state = self._states.step(confidence, volume)
            if state is not VADState.QUIET or self.state is not VADState.QUIET:
                self._move(state)

    async def _ask(self, pcm: bytes) -> None:
        self._move(await self.analyzer.analyze_audio(pcm))

    def _move(self, state: VADState) -> None:
        before, self.state = self.state, state
        if state in _TALKING:
            self._unheard = 0
            if before not in _TALKING:
                self._next_speaking = 0.0
                self._look_later()
                self._started()
            if state is VADState.SPEAKING and (now := self._now()) >= self._next_speaking:
                self._next_speaking = now + self._period_s
                self._speaking()
        elif before in _TALKING:
            self._stop_looking()
            self._stopped()

    def _look_later(self) -> None:
        if self._call_later is not None:
            self._look_at = self._call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        """Does audio still come? Without it there is no window that could tell of silence."""
        self._unheard += 1
        if self._unheard * _LOOK_S < NO_AUDIO_S:
            self._look_later()
            return
        self._look_at, self.state = None, VADState.QUIET
        if self._source is not None:
            self._states = VoiceStates(self._params, self._source.window_s)
        self._stopped()

    def _stop_looking(self) -> None:
        if self._look_at is not None:
            self._look_at.cancel()
            self._look_at = None

    def _to_rate(self, frame: AudioRawFrame) -> bytes:
        pcm = frame.audio
        if frame.num_channels == 2:
            pcm = audioop.tomono(pcm, 2, 0.5, 0.5)
        elif frame.num_channels != 1:
            raise ValueError(f"audio must have one or two channels, got {frame.num_channels}")
        if frame.sample_rate == self._rate:
            return pcm
        if self._resampler is None or self._resampler.in_rate != frame.sample_rate:
            self._resampler = make_resampler(frame.sample_rate, self._rate)
        return self._resampler.process(pcm)


def _overrides_analysis(analyzer: VADAnalyzer) -> bool:
    """It analyses audio in its own way, and not by windows."""
    return getattr(type(analyzer), "analyze_audio", None) is not VADAnalyzer.analyze_audio


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
