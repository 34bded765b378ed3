"""When an agent's caller begins and has finished, and what becomes of one who says nothing."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from bots.base import Call
from media.events import MaybeAwaitable
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    FloorFrame,
    Frame,
    InputDTMFFrame,
    TranscriptionFrame,
    TTSSpeakFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.turns.base import CONTINUE, Timer
from media.turns.processor import UserTurnProcessor
from media.turns.start import MinWordsUserTurnStartStrategy, VADUserTurnStartStrategy
from media.turns.stop import BaseUserTurnStopStrategy, SpeechTimeoutUserTurnStopStrategy
from media.turns.strategies import UserTurnStrategies

ECHO_S = 1.5  # after the bot has spoken: an echo's way, and what a recogniser takes to write it down


class ByWords(MinWordsUserTurnStartStrategy):
    """A turn begins with words, and not with those of the bot's own voice.

    Where the line brings that back, the floor holds the edges of speech back, but a recogniser that hears all the time
    writes it down. Until the detector hears somebody else, what is written down is taken for the bot's.
    """

    frame_types: ClassVar[tuple[type[Frame], ...]] = (
        *MinWordsUserTurnStartStrategy.frame_types,
        FloorFrame,
        VADUserStartedSpeakingFrame,
        InputDTMFFrame,
    )

    def __init__(self, *, min_words: int) -> None:
        super().__init__(min_words=min_words)
        self._echo = False
        self._echo_over = Timer(self.call_later, self._forget_echo)

    def process_frame(self, frame: Frame) -> MaybeAwaitable:
        if isinstance(frame, FloorFrame):
            self._echo = self._echo or frame.decision == "echo"
        elif isinstance(frame, VADUserStartedSpeakingFrame | InputDTMFFrame):  # keys become words
            self._forget_echo()
        elif isinstance(frame, BotStartedSpeakingFrame):
            self._echo_over.cancel()
        elif isinstance(frame, BotStoppedSpeakingFrame):
            self._echo_over.set(ECHO_S)
        elif self._echo:
            if isinstance(frame, TranscriptionFrame):
                self.trigger_reset_aggregation()
            return CONTINUE
        return super().process_frame(frame)

    def _forget_echo(self) -> None:
        self._echo = False

    def cleanup(self) -> MaybeAwaitable:
        self._echo_over.cancel()
        return super().cleanup()


class AfterSilence(SpeechTimeoutUserTurnStopStrategy):
    """A caller who pauses has not finished, though a service may call its transcript final: `silence_s` is waited for.

    What was not spoken (keys) has no silence behind it, and ends the turn at once.
    """

    def _maybe_stop(self) -> None:
        if self._waited or not self._edge:
            super()._maybe_stop()


class SilenceAlone(SpeechTimeoutUserTurnStopStrategy):
    """So much silence ends a turn, though nobody has written down what was said."""

    frame_types: ClassVar[tuple[type[Frame], ...]] = (VADUserStartedSpeakingFrame, VADUserStoppedSpeakingFrame)

    def _on_silence(self, frame: VADUserStoppedSpeakingFrame) -> None:
        self._words = True
        super()._on_silence(frame)


def spoken_turns(silence_s: float) -> UserTurnStrategies:
    """For a model that hears by itself. Who interrupts the bot is decided on the floor."""
    stop = SilenceAlone(user_speech_timeout=silence_s, enable_user_speaking_frames=False)
    return UserTurnStrategies(start=[VADUserTurnStartStrategy(enable_interruptions=False)], stop=[stop])


class SpeechTurns(UserTurnProcessor):
    """Turns before such a model. The end of the call is no turn that wants an answer."""

    def user_turn_stopped(self, strategy: BaseUserTurnStopStrategy | None) -> None:
        if isinstance(strategy, SilenceAlone):
            self.broadcast_frame(UserStoppedSpeakingFrame)
        super().user_turn_stopped(strategy)


class Patience(Protocol):
    """How a silent caller is dealt with."""

    @property
    def idle(self) -> str: ...
    @property
    def idle_tries(self) -> int: ...
    @property
    def goodbye(self) -> str: ...


class Idle:
    """Asks a silent caller whether he is there, and ends the call if nobody answers."""

    def __init__(self, call: Call, settings: Patience, user: Any) -> None:
        self._call, self._settings, self._user = call, settings, user
        self._asked = 0
        user.add_event_handler("on_user_turn_idle", self._on_idle)
        user.add_event_handler("on_user_turn_started", self._on_turn)

    def _on_turn(self, user: Any, strategy: Any) -> None:
        self._asked = 0

    def _on_idle(self, user: Any) -> None:
        self._asked += 1
        if self._asked <= self._settings.idle_tries:
            user.push_frame(TTSSpeakFrame(self._settings.idle, append_to_context=True))
            return
        if self._settings.goodbye:
            user.push_frame(TTSSpeakFrame(self._settings.goodbye))
        self._call.end("no-input")
