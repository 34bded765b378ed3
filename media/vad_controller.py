"""What one call needs of a voice detector: compiled (setup.py), for it runs for each packet and each window."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from media.codecs import audioop
from media.events import DONE, Handle, MaybeAwaitable
from media.flow import Runtime
from media.frames import AudioRawFrame
from media.resample import Resampler, make_resampler
from media.vad import VADAnalyzer, VADParams, VoiceSource
from media.voice import VADState, VoiceStates

NO_AUDIO_S: Final = 1.0  # in the midst of speech: whose line has fallen dumb does not speak
_LOOK_S: Final = NO_AUDIO_S / 4  # so that audio which only waited, because everything did, is heard before that
_QUIET: Final = VADState.QUIET
_SPEAKING: Final = VADState.SPEAKING
_STOPPING: Final = VADState.STOPPING


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
        self.state = _QUIET
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
        self.state = _QUIET
        if self.waits:
            return
        self._adopt()
        self._source = analyzer.listen(rate, self._on_window, getattr(runtime, "vad", None))
        self._states = VoiceStates(self._params, self._source.window_s)
        self._source.min_volume = self._params.min_volume

    def hear(self, frame: AudioRawFrame) -> MaybeAwaitable:
        """The caller's audio, at any rate."""
        pcm: Any = frame.audio  # whatever buffer a processor before put there
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

    def _on_window(self, confidence: Any, volume: Any) -> None:
        """Numbers of any kind, which a detector of one's own may give."""
        if self.analyzer.params is not self._seen:
            self._adopt()
        if self._states is not None:
            state = self._states.step(float(confidence), float(volume))
            if state is not _QUIET or self.state is not _QUIET:
                self._move(state)

    async def _ask(self, pcm: Any) -> None:
        self._move(await self.analyzer.analyze_audio(pcm))

    def _move(self, state: VADState) -> None:
        before, self.state = self.state, state
        talked = before is _SPEAKING or before is _STOPPING
        if state is _SPEAKING or state is _STOPPING:
            self._unheard = 0
            if not talked:
                self._next_speaking = 0.0
                self._look_later()
                self._started()
            if state is _SPEAKING and (now := self._now()) >= self._next_speaking:
                self._next_speaking = now + self._period_s
                self._speaking()
        elif talked:
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
        self._look_at, self.state = None, _QUIET
        if self._source is not None:
            self._states = VoiceStates(self._params, self._source.window_s)
        self._stopped()

    def _stop_looking(self) -> None:
        if self._look_at is not None:
            self._look_at.cancel()
            self._look_at = None

    def _to_rate(self, frame: AudioRawFrame) -> Any:
        pcm: Any = frame.audio
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
