"""Which strategies decide where the caller's turns begin and end."""

from __future__ import annotations

from dataclasses import dataclass, field

from media.frames import SystemFrame
from media.turns.analyzer import BaseTurnAnalyzer
from media.turns.start import (
    BaseUserTurnStartStrategy,
    ExternalUserTurnStartStrategy,
    TranscriptionUserTurnStartStrategy,
    VADUserTurnStartStrategy,
)
from media.turns.stop import (
    BaseUserTurnStopStrategy,
    ExternalUserTurnStopStrategy,
    SpeechTimeoutUserTurnStopStrategy,
    TurnAnalyzerUserTurnStopStrategy,
)


def default_user_turn_start_strategies() -> list[BaseUserTurnStartStrategy]:
    """The detector, and transcripts for whom it does not hear."""
    return [VADUserTurnStartStrategy(), TranscriptionUserTurnStartStrategy()]


def default_user_turn_stop_strategies(turn_analyzer: BaseTurnAnalyzer | None = None) -> list[BaseUserTurnStopStrategy]:
    """The model, if there is one; else silence."""
    if turn_analyzer is not None:
        return [TurnAnalyzerUserTurnStopStrategy(turn_analyzer=turn_analyzer)]
    return [SpeechTimeoutUserTurnStopStrategy()]


@dataclass
class UserTurnStrategies:
    """Both lists; None: the defaults. The strategies belong to one call: make them for each."""

    start: list[BaseUserTurnStartStrategy] | None = None
    stop: list[BaseUserTurnStopStrategy] | None = None

    def __post_init__(self) -> None:
        if self.start is None:
            self.start = default_user_turn_start_strategies()
        if self.stop is None:
            self.stop = default_user_turn_stop_strategies()


def _external_start() -> list[BaseUserTurnStartStrategy]:
    return [ExternalUserTurnStartStrategy()]


def _external_stop() -> list[BaseUserTurnStopStrategy]:
    return [ExternalUserTurnStopStrategy()]


@dataclass
class ExternalUserTurnStrategies(UserTurnStrategies):
    """Another processor decides, and interrupts: a speech service with turn detection, or a UserTurnProcessor."""

    start: list[BaseUserTurnStartStrategy] | None = field(default_factory=_external_start)
    stop: list[BaseUserTurnStopStrategy] | None = field(default_factory=_external_stop)


@dataclass(slots=True, eq=False)
class UserTurnStrategiesUpdateFrame(SystemFrame):
    """Other strategies from here on, in the first controller that it meets; None: what is there stays."""

    strategies: UserTurnStrategies | None = None
    user_turn_stop_timeout: float | None = None
