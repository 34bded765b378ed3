"""STTMuteFilter: holds the caller's words and interruptions back. New programs use mute strategies (`media/turns/`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from media.events import DONE, MaybeAwaitable, is_async
from media.flow import FrameDirection
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    EndFrame,
    Frame,
    FunctionCallCancelFrame,
    FunctionCallResultFrame,
    FunctionCallsStartedFrame,
    StartFrame,
    StopFrame,
    STTMuteFrame,
)
from media.processor import FrameProcessor
from media.turns.base import ByClass
from media.turns.mute import (
    MUTABLE,
    AlwaysUserMuteStrategy,
    BaseUserMuteStrategy,
    FirstSpeechUserMuteStrategy,
    FunctionCallUserMuteStrategy,
    MuteUntilFirstBotCompleteUserMuteStrategy,
)


class STTMuteStrategy(Enum):
    FIRST_SPEECH = "first_speech"
    MUTE_UNTIL_FIRST_BOT_COMPLETE = "mute_until_first_bot_complete"
    FUNCTION_CALL = "function_call"
    ALWAYS = "always"
    CUSTOM = "custom"


_BUILT_IN: dict[STTMuteStrategy, type[BaseUserMuteStrategy]] = {
    STTMuteStrategy.FIRST_SPEECH: FirstSpeechUserMuteStrategy,
    STTMuteStrategy.MUTE_UNTIL_FIRST_BOT_COMPLETE: MuteUntilFirstBotCompleteUserMuteStrategy,
    STTMuteStrategy.FUNCTION_CALL: FunctionCallUserMuteStrategy,
    STTMuteStrategy.ALWAYS: AlwaysUserMuteStrategy,
}

# Only these can change whether the caller is muted.
_TURNING = ByClass(
    StartFrame,
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    FunctionCallsStartedFrame,
    FunctionCallResultFrame,
    FunctionCallCancelFrame,
)
_FIRST = ByClass(StartFrame, EndFrame, CancelFrame, StopFrame)


@dataclass
class STTMuteConfig:
    """Which strategies; `should_mute_callback(filter)`, `def` or `async def`, is asked for CUSTOM as the bot speaks.

    ValueError: CUSTOM without a callback, or both strategies for the first speech.
    """

    strategies: set[STTMuteStrategy]
    should_mute_callback: Callable[[STTMuteFilter], Any] | None = None

    def __post_init__(self) -> None:
        if {STTMuteStrategy.FIRST_SPEECH, STTMuteStrategy.MUTE_UNTIL_FIRST_BOT_COMPLETE} <= set(self.strategies):
            raise ValueError("FIRST_SPEECH and MUTE_UNTIL_FIRST_BOT_COMPLETE exclude each other")
        if STTMuteStrategy.CUSTOM in self.strategies and self.should_mute_callback is None:
            raise ValueError("CUSTOM needs should_mute_callback")


class STTMuteFilter(FrameProcessor):
    """Drops what is the caller's while muted; STTMuteFrame goes both ways at each change."""

    def __init__(self, *, config: STTMuteConfig, stt_service: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._strategies = [make() for strategy, make in _BUILT_IN.items() if strategy in config.strategies]
        self._callback = config.should_mute_callback if STTMuteStrategy.CUSTOM in config.strategies else None
        self._bot_speaking = False
        self._muted = False
        self._waits = self._callback is not None and is_async(self._callback)
        if self._waits:
            self._may_wait()

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if self._waits:
            return self._process_waiting(frame, direction)
        cls = type(frame)
        if not _TURNING[cls]:
            if not (self._muted and MUTABLE[cls]):
                self.push_frame(frame, direction)
            return DONE
        if _FIRST[cls]:
            self.push_frame(frame, direction)
        try:
            muted = self._hear(frame)
            if not muted and self._callback is not None and self._bot_speaking:
                muted = bool(self._callback(self))
            self._mute(muted)
        finally:
            if not _FIRST[cls]:
                self.push_frame(frame, direction)
        return DONE

    async def _process_waiting(self, frame: Frame, direction: FrameDirection) -> None:
        super().process_frame(frame, direction)
        cls = type(frame)
        if not _TURNING[cls]:
            if not (self._muted and MUTABLE[cls]):
                self.push_frame(frame, direction)
            return
        if _FIRST[cls]:
            self.push_frame(frame, direction)
        try:
            muted = self._hear(frame)
            if not muted and self._callback is not None and self._bot_speaking:
                muted = bool(await self._callback(self))
            self._mute(muted)
        finally:
            if not _FIRST[cls]:
                self.push_frame(frame, direction)

    def _hear(self, frame: Frame) -> bool:
        """What the built-in strategies say."""
        if isinstance(frame, BotStartedSpeakingFrame):
            self._bot_speaking = True
        elif isinstance(frame, BotStoppedSpeakingFrame):
            self._bot_speaking = False
        words = [strategy.process_frame(frame) for strategy in self._strategies]  # each of them must see it
        return any(words)

    def _mute(self, muted: bool) -> None:
        if muted is not self._muted:
            self._muted = muted
            self.broadcast_frame(STTMuteFrame, mute=muted)
