"""One caller's turns on virtual time: what is heard goes in, what is decided comes out as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    InterimTranscriptionFrame,
    InterruptionFrame,
    STTMetadataFrame,
    TranscriptionFrame,
    UserMuteStartedFrame,
    UserMuteStoppedFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.processor import FrameDirection
from media.turns.processor import UserTurnProcessor
from media.turns.start import BaseUserTurnStartStrategy
from media.turns.stop import BaseUserTurnStopStrategy
from media.turns.strategies import UserTurnStrategies
from tests.media.rig import Rig, started

TOLD = {
    UserStartedSpeakingFrame: "user started",
    UserStoppedSpeakingFrame: "user stopped",
    InterruptionFrame: "interruption",
    UserMuteStartedFrame: "muted",
    UserMuteStoppedFrame: "unmuted",
}


class Turns:
    def __init__(
        self,
        start: Sequence[BaseUserTurnStartStrategy] | None = None,
        stop: Sequence[BaseUserTurnStopStrategy] | None = None,
        **options: Any,
    ) -> None:
        strategies = UserTurnStrategies(
            start=list(start) if start is not None else None, stop=list(stop) if stop is not None else None
        )
        self.processor = UserTurnProcessor(user_turn_strategies=strategies, **options)
        self.events: list[str] = []
        for event in ("turn_started", "turn_stopped", "turn_stop_timeout", "turn_idle", "mute_started", "mute_stopped"):
            self.processor.add_event_handler(f"on_user_{event}", self._handler(event))
        self.rig: Rig = started(self.processor)

    def _handler(self, event: str) -> Any:
        def handler(processor: Any, strategy: Any = "", *more: Any) -> None:
            by = f" by {type(strategy).__name__.removesuffix('Strategy')}" if strategy not in ("", None) else ""
            self.events.append(event.replace("_", " ") + by)

        return handler

    # ------------------------------------------------------------ what happens

    def push(self, *frames: Frame, up: bool = False) -> None:
        for frame in frames:
            self.rig.push(frame, FrameDirection.UPSTREAM if up else FrameDirection.DOWNSTREAM)

    def wait(self, seconds: float) -> None:
        self.rig.runtime.advance(seconds)

    def speech(self) -> None:
        self.push(VADUserStartedSpeakingFrame(start_secs=0.2))

    def silence(self, stop_secs: float = 0.2) -> None:
        self.push(VADUserStoppedSpeakingFrame(stop_secs=stop_secs))

    def words(self, text: str, *, final: bool = True, finalized: bool = False) -> None:
        if final:
            self.push(TranscriptionFrame(text, "u", "now", finalized=finalized))
        else:
            self.push(InterimTranscriptionFrame(text, "u", "now"))

    def bot(self, speaks: bool) -> None:
        self.push(BotStartedSpeakingFrame() if speaks else BotStoppedSpeakingFrame(), up=True)

    def latency(self, p99: float) -> None:
        self.push(STTMetadataFrame("stt", p99))

    # ------------------------------------------------------------ what came of it

    @property
    def told(self) -> list[str]:
        """Frames downstream that tell of turns, in order."""
        return [TOLD[type(frame)] for frame in self.rig.sunk if type(frame) in TOLD]

    @property
    def told_up(self) -> list[str]:
        return [TOLD[type(frame)] for frame in self.rig.risen if type(frame) in TOLD]

    @property
    def open(self) -> bool:
        return self.told.count("user started") > self.told.count("user stopped")
