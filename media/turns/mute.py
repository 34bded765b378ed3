"""When the bot does not want to hear the caller. The caller is muted while any strategy says so."""

from __future__ import annotations

from typing import Any

from media.events import MaybeAwaitable
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    FunctionCallCancelFrame,
    FunctionCallResultFrame,
    FunctionCallsStartedFrame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    InterruptionFrame,
    TranscriptionFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.turns.base import ByClass, Strategy

# What a muted caller's side does not let through.
MUTABLE = ByClass(
    InterruptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
)

_BOT = (BotStartedSpeakingFrame, BotStoppedSpeakingFrame)


class BaseUserMuteStrategy(Strategy):
    """Override `process_frame`: look at one frame and say whether the caller is muted from here on.

    With `frame_types`, the last word stands until a frame of these types comes.
    """

    def process_frame(self, frame: Frame) -> Any:
        return False


class AlwaysUserMuteStrategy(BaseUserMuteStrategy):
    """While the bot speaks."""

    frame_types = _BOT
    _bot_speaking = False

    def process_frame(self, frame: Frame) -> bool:
        if isinstance(frame, BotStartedSpeakingFrame):
            self._bot_speaking = True
        elif isinstance(frame, BotStoppedSpeakingFrame):
            self._bot_speaking = False
        return self._bot_speaking


class FirstSpeechUserMuteStrategy(BaseUserMuteStrategy):
    """While the bot speaks for the first time."""

    frame_types = _BOT
    _bot_speaking = False
    _over = False

    def process_frame(self, frame: Frame) -> bool:
        if isinstance(frame, BotStartedSpeakingFrame):
            self._bot_speaking = True
        elif isinstance(frame, BotStoppedSpeakingFrame):
            self._over = self._over or self._bot_speaking
            self._bot_speaking = False
        return self._bot_speaking and not self._over


class MuteUntilFirstBotCompleteUserMuteStrategy(BaseUserMuteStrategy):
    """From StartFrame until the bot has spoken for the first time."""

    frame_types = (BotStoppedSpeakingFrame,)
    _over = False

    def process_frame(self, frame: Frame) -> bool:
        self._over = self._over or isinstance(frame, BotStoppedSpeakingFrame)
        return not self._over


class FunctionCallUserMuteStrategy(BaseUserMuteStrategy):
    """While functions run that the model has called."""

    frame_types = (FunctionCallsStartedFrame, FunctionCallResultFrame, FunctionCallCancelFrame)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._running: set[str] = set()

    def process_frame(self, frame: Frame) -> MaybeAwaitable:
        track_calls(self._running, frame)
        return bool(self._running)


def track_calls(running: set[str], frame: Frame) -> None:
    """Keep the ids of the function calls that run."""
    if isinstance(frame, FunctionCallsStartedFrame):
        running.update(call.tool_call_id for call in frame.function_calls)
    elif isinstance(frame, FunctionCallResultFrame | FunctionCallCancelFrame):
        running.discard(frame.tool_call_id)
