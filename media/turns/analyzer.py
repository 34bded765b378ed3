"""The contract of an end-of-turn model: it hears the turn, and is asked at each pause whether that was all."""

from __future__ import annotations

from enum import Enum
from typing import Any

from media.events import DONE, BaseObject, MaybeAwaitable


class EndOfTurnState(Enum):
    COMPLETE = 1
    INCOMPLETE = 2


class BaseTurnAnalyzer(BaseObject):
    """Override `append_audio`, `analyze_end_of_turn` and `clear`. One analyzer hears one call."""

    def __init__(self, *, sample_rate: int | None = None) -> None:
        super().__init__()
        self._init_sample_rate = sample_rate
        self._sample_rate = sample_rate or 0

    @property
    def sample_rate(self) -> int:
        """Of what `append_audio` gets, in Hz; 0 until it is known."""
        return self._sample_rate

    def set_sample_rate(self, sample_rate: int) -> None:
        """The pipeline's rate; the constructor's wins."""
        self._sample_rate = self._init_sample_rate or sample_rate

    @property
    def speech_triggered(self) -> bool:
        """Whether speech was heard since the last `clear`."""
        return False

    @property
    def params(self) -> Any:
        """What is told to others in SpeechControlParamsFrame."""
        return None

    def append_audio(self, buffer: bytes, is_speech: bool) -> EndOfTurnState:
        """Take PCM s16le mono. COMPLETE after so much silence that no model need be asked. Must not wait."""
        return EndOfTurnState.INCOMPLETE

    def analyze_end_of_turn(self) -> MaybeAwaitable:
        """Give (state, metrics or None) for what was heard; with `async def` frames flow meanwhile."""
        return EndOfTurnState.INCOMPLETE, None

    def update_vad_start_secs(self, vad_start_secs: float) -> None:
        """The detector took so long to hear speech: that much of what came before it was speech too."""

    def clear(self) -> None:
        """Forget what was heard."""

    def cleanup(self) -> MaybeAwaitable:
        return DONE
