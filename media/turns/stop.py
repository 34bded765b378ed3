"""When the caller's turn ends.

A transcript comes later than the silence. How much later is what the speech-to-text service tells with
STTMetadataFrame: its time from the end of speech to the final transcript, 99th percentile. The detector has used up
`stop_secs` of it when it reports the end, so `p99 - stop_secs` is left to wait.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable
from typing import Any, ClassVar

from media.events import DONE, MaybeAwaitable
from media.frames import (
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    MetricsFrame,
    SpeechControlParamsFrame,
    StartFrame,
    STTMetadataFrame,
    TranscriptionFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.turns.analyzer import BaseTurnAnalyzer, EndOfTurnState
from media.turns.base import CONTINUE, Strategy, Timer

__all__ = [
    "BaseUserTurnStopStrategy",
    "ExternalUserTurnStopStrategy",
    "SpeechTimeoutUserTurnStopStrategy",
    "TranscriptionUserTurnStopStrategy",
    "TurnAnalyzerUserTurnStopStrategy",
]

log = logging.getLogger(__name__)

MEASURED_STOP_SECS = 0.2  # with which the services' p99 figures were measured


class BaseUserTurnStopStrategy(Strategy):
    """Override `process_frame`, and call `trigger_user_turn_stopped()` when the caller has finished.

    Args:
        enable_user_speaking_frames: UserStoppedSpeakingFrame is broadcast; off where somebody else does it.
    """

    enable_user_speaking_frames = True

    def __init__(self, *, enable_user_speaking_frames: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.enable_user_speaking_frames = enable_user_speaking_frames

    def words_dropped(self) -> None:
        """What was said so far was not meant for the bot."""

    def trigger_user_turn_stopped(self) -> Awaitable[None]:
        """Stop the turn; nothing happens if there is none."""
        if self._turns is not None:
            self._turns.stop_turn(self)
        return DONE


class _AfterSpeech(BaseUserTurnStopStrategy):
    """What the strategies share that wait for silence and for words.

    The wait begins at the detector's end of speech; without a detector, at each transcript. `_maybe_stop` is called
    whenever a condition has come true.
    """

    frame_types: ClassVar[tuple[type[Frame], ...]] = (
        VADUserStartedSpeakingFrame,
        VADUserStoppedSpeakingFrame,
        TranscriptionFrame,
        STTMetadataFrame,
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._p99: float | None = None  # of the speech-to-text service that is active
        self._stop_secs = 0.0
        self._speaking = False
        self._edge = False  # the detector has reported an end of speech that no turn has used up
        self._words = False  # there is a transcript
        self._finalized = False  # the service has said that no other follows
        self._waited = False
        self._warned: set[str] = set()
        self._timer = Timer(self.call_later, self._wait_is_over)

    def process_frame(self, frame: Frame) -> MaybeAwaitable:
        if isinstance(frame, TranscriptionFrame):
            self._on_words(frame)
        elif isinstance(frame, VADUserStartedSpeakingFrame):
            self._on_speech(frame)
        elif isinstance(frame, VADUserStoppedSpeakingFrame):
            self._on_silence(frame)
        elif isinstance(frame, STTMetadataFrame):
            self._p99 = frame.ttfs_p99_latency
        return CONTINUE

    def _wait_s(self) -> float:
        raise NotImplementedError

    def _ready(self) -> bool:
        """Whether nothing but words and the wait is missing."""
        return True

    def _on_speech(self, frame: VADUserStartedSpeakingFrame) -> None:
        self._speaking = True
        self._finalized = self._waited = self._edge = False
        self._timer.cancel()

    def _on_silence(self, frame: VADUserStoppedSpeakingFrame) -> None:
        self._speaking = False
        self._edge = True
        self._stop_secs = frame.stop_secs
        self._check_stop_secs()
        self._begin_wait()

    def _on_words(self, frame: TranscriptionFrame) -> None:
        if not frame.text.strip():
            return
        self._words = True
        if self._speaking:
            return
        self._finalized = self._finalized or frame.finalized
        if not self._edge and not self._finalized:
            self._begin_wait()  # no detector: each transcript may have another behind it
        self._maybe_stop()

    def _begin_wait(self) -> None:
        wait_s = self._wait_s()
        self._waited = False
        if wait_s > 0.0:
            self._timer.set(wait_s)
        else:
            self._wait_is_over()

    def _wait_is_over(self) -> None:
        self._waited = True
        self._maybe_stop()

    def _maybe_stop(self) -> None:
        if self._words and not self._speaking and self._ready() and (self._finalized or self._waited):
            self.trigger_user_turn_stopped()

    def _check_stop_secs(self) -> None:
        if self._p99 is None:
            return
        if abs(self._stop_secs - MEASURED_STOP_SECS) > 1e-6:
            self._warn(
                "turns.stop_secs strategy=%s stop_secs=%.2f: the service's p99 of %.2f s was measured with 0.2; "
                "measure it with your stop_secs and give it to the service as ttfs_p99_latency"
            )
        if self._stop_secs >= self._p99:
            self._warn("turns.no_wait strategy=%s stop_secs=%.2f is not below the service's p99 of %.2f s: late turns")

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            log.warning(message, self, self._stop_secs, self._p99)

    def words_dropped(self) -> None:
        self._words = self._finalized = False

    def user_turn_started(self) -> None:
        self.words_dropped()  # words from before the turn do not end it

    def reset(self) -> MaybeAwaitable:
        self._words = self._finalized = self._waited = self._edge = False
        self._timer.cancel()
        return DONE

    def cleanup(self) -> MaybeAwaitable:
        self._timer.cancel()
        return super().cleanup()


class SpeechTimeoutUserTurnStopStrategy(_AfterSpeech):
    """When there are words and `user_speech_timeout` seconds of silence, or what a transcript needs if that is longer.

    A transcript that the service calls final ends the turn at once.
    """

    def __init__(self, *, user_speech_timeout: float = 0.6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._user_speech_timeout = user_speech_timeout

    def _wait_s(self) -> float:
        return max((self._p99 or 0.0) - self._stop_secs, self._user_speech_timeout)


class TranscriptionUserTurnStopStrategy(_AfterSpeech):
    """When there are words and no other can follow: `p99 - stop_secs`, or `timeout` while the p99 is not known."""

    def __init__(self, *, timeout: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._timeout = timeout

    def _wait_s(self) -> float:
        return self._timeout if self._p99 is None else max(0.0, self._p99 - self._stop_secs)


class TurnAnalyzerUserTurnStopStrategy(_AfterSpeech):
    """When the model says that the turn is complete and its words are there.

    The model is asked at each end of speech. With an `async def` analyzer frames flow meanwhile, and an answer that
    comes when the caller speaks again is not used.
    """

    frame_types = (*_AfterSpeech.frame_types, InputAudioRawFrame, StartFrame)

    def __init__(self, *, turn_analyzer: BaseTurnAnalyzer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._analyzer = turn_analyzer
        self._complete = False
        self._question = 0  # counts what makes an earlier answer stale

    def process_frame(self, frame: Frame) -> MaybeAwaitable:
        if isinstance(frame, InputAudioRawFrame):
            if self._analyzer.append_audio(frame.audio, self._speaking) is EndOfTurnState.COMPLETE:
                self._complete = True
                self._maybe_stop()
            return CONTINUE
        if isinstance(frame, StartFrame):
            self._analyzer.set_sample_rate(frame.audio_in_sample_rate)
            self.broadcast_frame(SpeechControlParamsFrame, turn_params=self._analyzer.params)
            return CONTINUE
        return super().process_frame(frame)

    def _wait_s(self) -> float:
        return max(0.0, (self._p99 or 0.0) - self._stop_secs)

    def _ready(self) -> bool:
        return self._complete or not self._edge  # nobody was asked where no detector has spoken

    def _on_speech(self, frame: VADUserStartedSpeakingFrame) -> None:
        super()._on_speech(frame)
        self._complete = False
        self._question += 1
        self._analyzer.update_vad_start_secs(frame.start_secs)

    def _on_silence(self, frame: VADUserStoppedSpeakingFrame) -> None:
        super()._on_silence(frame)
        self._question += 1
        answer = self._analyzer.analyze_end_of_turn()
        if inspect.isawaitable(answer):
            self._drive_by_hand(self._await_answer(answer, self._question), f"{self}::analyze")
        else:
            self._take_answer(answer, self._question)

    async def _await_answer(self, answer: Awaitable[Any], question: int) -> None:
        try:
            self._take_answer(await answer, question)
        except Exception:
            log.exception("turns.analyzer_failed strategy=%s: the time-out will end the turn", self)

    def _take_answer(self, answer: tuple[EndOfTurnState, Any], question: int) -> None:
        state, metrics = answer
        if self._turns is None:
            return
        if metrics is not None:
            self.push_frame(MetricsFrame([metrics]))
        if question == self._question:
            self._complete = self._complete or state is EndOfTurnState.COMPLETE
            self._maybe_stop()

    def reset(self) -> MaybeAwaitable:
        self._complete = False
        self._question += 1
        self._analyzer.clear()
        return super().reset()

    def cleanup(self) -> MaybeAwaitable:
        super().cleanup()
        return self._analyzer.cleanup()


class ExternalUserTurnStopStrategy(BaseUserTurnStopStrategy):
    """When another processor says so, by UserStoppedSpeakingFrame.

    If the words are not there yet, or not all of them, they are waited for: `timeout` seconds after the last one.
    """

    frame_types = (
        UserStartedSpeakingFrame,
        UserStoppedSpeakingFrame,
        TranscriptionFrame,
        InterimTranscriptionFrame,
    )

    def __init__(self, *, timeout: float = 0.5, **kwargs: Any) -> None:
        super().__init__(enable_user_speaking_frames=False, **kwargs)
        self._timeout = timeout
        self._speaking = False
        self._words = False
        self._more = False  # an interim transcript came after the last one
        self._timer = Timer(self.call_later, self._no_more_words)

    def process_frame(self, frame: Frame) -> MaybeAwaitable:
        if isinstance(frame, UserStartedSpeakingFrame):
            self._speaking = True
            self._timer.cancel()
        elif isinstance(frame, UserStoppedSpeakingFrame):
            self._speaking = False
            if self._more:
                self._timer.set(self._timeout)
            else:
                self._maybe_stop()
        elif frame.text.strip():  # type: ignore[attr-defined]
            self._more = isinstance(frame, InterimTranscriptionFrame)
            self._words = self._words or not self._more
            if not self._speaking:
                self._timer.set(self._timeout)
        return CONTINUE

    def _maybe_stop(self) -> None:
        if self._words and not self._speaking:
            self.trigger_user_turn_stopped()

    def _no_more_words(self) -> None:
        self._maybe_stop()
        self.words_dropped()  # outside a turn they came too late for the last one, and shall not end the next

    def words_dropped(self) -> None:
        self._words = self._more = False

    def reset(self) -> MaybeAwaitable:
        self._words = self._more = False
        self._timer.cancel()
        return DONE

    def cleanup(self) -> MaybeAwaitable:
        self._timer.cancel()
        return super().cleanup()
