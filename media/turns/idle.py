"""The caller says nothing. Counted from the end of the bot's speech, reported once for each speech of the bot."""

from __future__ import annotations

from collections.abc import Callable

from media.events import Handle
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    FunctionCallCancelFrame,
    FunctionCallResultFrame,
    FunctionCallsStartedFrame,
    UserIdleTimeoutUpdateFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.turns.base import Timer
from media.turns.mute import track_calls


class UserIdle:
    """Calls `on_idle` after `timeout_s` seconds in which nobody spoke and no function ran; 0: never.

    The bot's speech makes a report due; a turn with words in it withdraws that, for the bot will answer. Noise that
    was taken for a turn, a function call, or speech that starts no turn only put it off.
    """

    frame_types = (
        BotStartedSpeakingFrame,
        BotStoppedSpeakingFrame,
        VADUserStartedSpeakingFrame,
        VADUserStoppedSpeakingFrame,
        FunctionCallsStartedFrame,
        FunctionCallResultFrame,
        FunctionCallCancelFrame,
        UserIdleTimeoutUpdateFrame,
    )

    def __init__(
        self,
        call_later: Callable[[float, Callable[[], None]], Handle],
        on_idle: Callable[[], None],
        timeout_s: float = 0.0,
    ) -> None:
        self._on_idle = on_idle
        self._timeout_s = timeout_s
        self._due = False
        self._bot_speaking = False
        self._user_speaking = False
        self._in_turn = False
        self._calls: set[str] = set()
        self._timer = Timer(call_later, self._report)

    def process_frame(self, frame: Frame) -> None:
        if isinstance(frame, BotStartedSpeakingFrame):
            self._bot_speaking, self._due = True, False
        elif isinstance(frame, BotStoppedSpeakingFrame):
            self._bot_speaking, self._due = False, True
        elif isinstance(frame, VADUserStartedSpeakingFrame):
            self._user_speaking = True
        elif isinstance(frame, VADUserStoppedSpeakingFrame):
            self._user_speaking = False
        elif isinstance(frame, UserIdleTimeoutUpdateFrame):
            self._timeout_s = frame.timeout
            self._timer.cancel()  # counted anew, from here
        else:
            track_calls(self._calls, frame)
        self._settle()

    def user_turn_started(self) -> None:
        self._in_turn = True
        self._settle()

    def user_turn_stopped(self, heard_words: bool) -> None:
        self._in_turn = False
        self._due = self._due and not heard_words
        self._settle()

    def cancel(self) -> None:
        self._due = False
        self._timer.cancel()

    def _settle(self) -> None:
        silent = not (self._bot_speaking or self._user_speaking or self._in_turn or self._calls)
        if not (self._due and silent and self._timeout_s > 0.0):
            self._timer.cancel()
        elif not self._timer.running:
            self._timer.set(self._timeout_s)

    def _report(self) -> None:
        self._due = False
        self._on_idle()
