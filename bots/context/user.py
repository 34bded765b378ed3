"""The caller's side of a context: what was said in a turn becomes a message, and the model is asked.

Stands behind speech-to-text. Its turn controller decides where turns begin and end; with a `vad_analyzer` it also
hears who speaks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bots.context.context import LLMContext
from bots.context.messages import UserTurnStoppedMessage, iso_now
from bots.context.runs import ContextRuns
from bots.context.words import Words
from media.events import DONE, Each, MaybeAwaitable
from media.flow import DOWNSTREAM
from media.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    SpeechControlParamsFrame,
    StartFrame,
    TranscriptionFrame,
    UserSpeakingFrame,
    VADParamsUpdateFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.processor import FrameDirection, FrameProcessor, FrameProcessorSetup
from media.turns.controller import UserTurnController
from media.turns.mute import BaseUserMuteStrategy
from media.turns.start import BaseUserTurnStartStrategy
from media.turns.stop import BaseUserTurnStopStrategy
from media.turns.strategies import UserTurnStrategies
from media.vad import VADAnalyzer
from media.vad_processor import VADController


@dataclass(frozen=True, kw_only=True)
class LLMUserAggregatorParams:
    user_turn_strategies: UserTurnStrategies | None = None
    user_mute_strategies: Sequence[BaseUserMuteStrategy] = ()
    user_turn_stop_timeout: float = 5.0  # seconds of silence after which a turn ends that no strategy has ended
    user_idle_timeout: float = 0.0  # seconds; 0: off
    vad_analyzer: VADAnalyzer | None = None
    filter_incomplete_user_turns: bool = False
    user_turn_completion_config: Any = None


class LLMUserAggregator(ContextRuns, FrameProcessor):
    """Collects what the caller says, and asks the model when a turn has ended.

    Events: on_user_turn_started(strategy), on_user_turn_stopped(strategy, UserTurnStoppedMessage),
    on_user_turn_stop_timeout(), on_user_turn_idle(), on_user_mute_started(), on_user_mute_stopped().
    """

    run_direction = DOWNSTREAM

    def __init__(self, context: LLMContext, *, params: LLMUserAggregatorParams | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._context = context
        params = self._params = params or LLMUserAggregatorParams()
        for event in (
            "on_user_turn_started",
            "on_user_turn_stopped",
            "on_user_turn_stop_timeout",
            "on_user_turn_idle",
            "on_user_mute_started",
            "on_user_mute_stopped",
        ):
            self._register_event_handler(event)
        self._words = Words()
        self._user_id: str | None = None
        self._began = ""
        self._over = False
        self._turns = UserTurnController(
            self,
            self,
            params.user_turn_strategies,
            stop_timeout=params.user_turn_stop_timeout,
            idle_timeout=params.user_idle_timeout,
            mute_strategies=params.user_mute_strategies,
        )
        self._voice: VADController | None = None
        if params.vad_analyzer is not None:
            self._voice = VADController(
                params.vad_analyzer,
                started=self._voice_started,
                stopped=self._voice_stopped,
                speaking=self._voice_goes_on,
            )
        if self._turns.waits or (self._voice is not None and self._voice.waits):
            self._may_wait()

    @property
    def context(self) -> LLMContext:
        return self._context

    # ------------------------------------------------------------ life

    def setup(self, setup: FrameProcessorSetup) -> MaybeAwaitable:
        super().setup(setup)
        return self._turns.setup()

    def cleanup(self) -> MaybeAwaitable:
        if self._voice is not None:
            self._voice.close()
        own = self._turns.cleanup()
        base = super().cleanup()
        return base if own is DONE else Each((own, base))

    # ------------------------------------------------------------ frames

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if self._wiring.may_wait:
            return self._process_waiting(frame, direction)
        if isinstance(frame, EndFrame | CancelFrame):
            self._over = True
            self._turns.finish()
        elif self._turns.admits(frame) is False:
            return DONE
        act = _act_of(type(frame))
        if act is None or not act(self, frame):
            self.push_frame(frame, direction)
            self._turns.process_frame(frame)
            self._hear(frame)
        return DONE

    async def _process_waiting(self, frame: Frame, direction: FrameDirection) -> None:
        super().process_frame(frame, direction)
        if isinstance(frame, EndFrame | CancelFrame):
            self._over = True
            self._turns.finish()
        elif not await self._turns.admits_waiting(frame):
            return
        act = _act_of(type(frame))
        if act is None or not act(self, frame):
            self.push_frame(frame, direction)
            await self._turns.process_frame(frame)
            await self._hear(frame)

    def _on_words(self, frame: TranscriptionFrame) -> bool:
        """Words end here: behind this stands what the caller meant, not how it was transcribed."""
        if frame.text.strip():
            self._words.add(frame.text, spaced=frame.includes_inter_frame_spaces)
            self._user_id = frame.user_id or self._user_id
        self._let_turns_see(frame)
        return True

    def _on_interim(self, frame: InterimTranscriptionFrame) -> bool:
        self._let_turns_see(frame)
        return True

    def _let_turns_see(self, frame: Frame) -> None:
        waiting = self._turns.process_frame(frame)
        if waiting is not DONE and waiting is not None:
            self.create_task(_awaited(waiting), "turns")

    # ------------------------------------------------------------ the voice

    def _hear(self, frame: Frame) -> MaybeAwaitable:
        voice = self._voice
        if voice is None:
            return DONE
        if isinstance(frame, InputAudioRawFrame):
            return voice.hear(frame)
        if isinstance(frame, StartFrame):
            voice.start(self.runtime, frame.audio_in_sample_rate)
            self.broadcast_frame(SpeechControlParamsFrame, vad_params=voice.params)
        elif isinstance(frame, VADParamsUpdateFrame):
            voice.set_params(frame.params)
            self.broadcast_frame(SpeechControlParamsFrame, vad_params=voice.params)
        return DONE

    def _voice_started(self) -> None:
        assert self._voice is not None
        self._tell(VADUserStartedSpeakingFrame, start_secs=self._voice.params.start_secs, timestamp=time.time())

    def _voice_stopped(self) -> None:
        assert self._voice is not None
        self._tell(VADUserStoppedSpeakingFrame, stop_secs=self._voice.params.stop_secs, timestamp=time.time())

    def _voice_goes_on(self) -> None:
        self._tell(UserSpeakingFrame)

    def _tell(self, cls: type[Frame], **fields: Any) -> None:
        """Both ways, and to our own turns as if it had come from a detector before us."""
        frame = cls(**fields)
        if self._turns.admits(frame):
            self.broadcast_frame_instance(frame)
            self._let_turns_see(frame)

    # ------------------------------------------------------------ what the controller tells

    def user_turn_started(self, strategy: BaseUserTurnStartStrategy) -> None:
        self._began = iso_now()
        self._call_event_handler("on_user_turn_started", strategy)

    def user_turn_stopped(self, strategy: BaseUserTurnStopStrategy | None) -> None:
        text = self._words.take()
        message = UserTurnStoppedMessage(text, self._began or iso_now(), self._user_id)
        self._began = ""
        if text:
            self._context.add_message({"role": "user", "content": text})
            if not self._over:
                self.run_llm()
        self._call_event_handler("on_user_turn_stopped", strategy, message)

    def user_turn_timed_out(self) -> None:
        self._call_event_handler("on_user_turn_stop_timeout")

    def user_idle(self) -> None:
        self._call_event_handler("on_user_turn_idle")

    def user_muted(self, muted: bool) -> None:
        self._call_event_handler("on_user_mute_started" if muted else "on_user_mute_stopped")

    def words_dropped(self) -> None:
        self._words.take()


async def _awaited(waiting: Any) -> None:
    await waiting


_ACTS: dict[type, Callable[[LLMUserAggregator, Any], bool] | None] = {
    TranscriptionFrame: LLMUserAggregator._on_words,
    InterimTranscriptionFrame: LLMUserAggregator._on_interim,
    **ContextRuns.ACTS,
}


def _act_of(cls: type) -> Callable[[LLMUserAggregator, Any], bool] | None:
    """A subclass is looked up once."""
    if cls not in _ACTS:
        _ACTS[cls] = next((_ACTS[base] for base in cls.__mro__ if base in _ACTS), None)
    return _ACTS[cls]
