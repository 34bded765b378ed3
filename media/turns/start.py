"""When the caller's turn begins. The first strategy of the list to say so wins."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, ClassVar

from media.events import DONE, MaybeAwaitable
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
    UserStartedSpeakingFrame,
    VADUserStartedSpeakingFrame,
)
from media.turns.base import CONTINUE, STOP, ProcessFrameResult, Strategy

__all__ = [
    "BaseUserTurnStartStrategy",
    "ExternalUserTurnStartStrategy",
    "MinWordsUserTurnStartStrategy",
    "ProcessFrameResult",
    "TranscriptionUserTurnStartStrategy",
    "VADUserTurnStartStrategy",
]


class BaseUserTurnStartStrategy(Strategy):
    """Override `process_frame`, and call `trigger_user_turn_started()` when the caller has taken the floor.

    Args:
        enable_interruptions: the start of a turn interrupts the bot.
        enable_user_speaking_frames: UserStartedSpeakingFrame is broadcast; off where somebody else does it.
    """

    enable_interruptions = True
    enable_user_speaking_frames = True

    def __init__(
        self, *, enable_interruptions: bool = True, enable_user_speaking_frames: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.enable_interruptions = enable_interruptions
        self.enable_user_speaking_frames = enable_user_speaking_frames

    def trigger_user_turn_started(self) -> Awaitable[None]:
        """Start the turn; nothing happens if there is one."""
        if self._turns is not None:
            self._turns.start_turn(self)
        return DONE

    def trigger_reset_aggregation(self) -> Awaitable[None]:
        """What the caller has said so far is not meant for the bot. Nothing is dropped in the middle of a turn."""
        if self._turns is not None:
            self._turns.drop_words()
        return DONE


class VADUserTurnStartStrategy(BaseUserTurnStartStrategy):
    """As soon as the detector hears speech."""

    frame_types = (VADUserStartedSpeakingFrame,)

    def process_frame(self, frame: Frame) -> MaybeAwaitable:
        if isinstance(frame, VADUserStartedSpeakingFrame):
            self.trigger_user_turn_started()
            return STOP
        return CONTINUE


class TranscriptionUserTurnStartStrategy(BaseUserTurnStartStrategy):
    """When words arrive: for callers whom the detector does not hear."""

    frame_types = (TranscriptionFrame, InterimTranscriptionFrame)

    def __init__(self, *, use_interim: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._use_interim = use_interim

    def process_frame(self, frame: Frame) -> MaybeAwaitable:
        if isinstance(frame, InterimTranscriptionFrame) and not self._use_interim:
            return CONTINUE
        if isinstance(frame, TranscriptionFrame | InterimTranscriptionFrame) and frame.text.strip():
            self.trigger_user_turn_started()
            return STOP
        return CONTINUE


class MinWordsUserTurnStartStrategy(BaseUserTurnStartStrategy):
    """While the bot speaks, not before `min_words` words in one transcript; fewer are dropped. Else one is enough."""

    frame_types: ClassVar[tuple[type[Frame], ...]] = (
        TranscriptionFrame,
        InterimTranscriptionFrame,
        BotStartedSpeakingFrame,
        BotStoppedSpeakingFrame,
    )

    def __init__(self, *, min_words: int, use_interim: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._min_words = min_words
        self._use_interim = use_interim
        self._bot_speaking = False

    def process_frame(self, frame: Frame) -> MaybeAwaitable:
        if isinstance(frame, BotStartedSpeakingFrame):
            self._bot_speaking = True
        elif isinstance(frame, BotStoppedSpeakingFrame):
            self._bot_speaking = False
        elif isinstance(frame, TranscriptionFrame):
            if self._enough(frame.text):
                self.trigger_user_turn_started()
                return STOP
            self.trigger_reset_aggregation()
        elif isinstance(frame, InterimTranscriptionFrame) and self._use_interim and self._enough(frame.text):
            self.trigger_user_turn_started()
            return STOP
        return CONTINUE

    def _enough(self, text: str) -> bool:
        return len(text.split()) >= (self._min_words if self._bot_speaking else 1)


class ExternalUserTurnStartStrategy(BaseUserTurnStartStrategy):
    """When another processor says so, by UserStartedSpeakingFrame. That one also interrupts, so this one does not."""

    frame_types = (UserStartedSpeakingFrame,)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(enable_interruptions=False, enable_user_speaking_frames=False, **kwargs)

    def process_frame(self, frame: Frame) -> MaybeAwaitable:
        if isinstance(frame, UserStartedSpeakingFrame):
            self.trigger_user_turn_started()
            return STOP
        return CONTINUE
