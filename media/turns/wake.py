"""The wake phrase: nothing that the caller says is for the bot until it is heard."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from media.events import MaybeAwaitable
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    Frame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
    UserSpeakingFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.turns.base import CONTINUE, STOP, ByClass, Timer
from media.turns.start import BaseUserTurnStartStrategy

REMEMBERED = 250  # characters of what was said in which a phrase is looked for

_PUNCTUATION = re.compile(r"[^\w\s]|_")


class Phrases:
    """Finds whole phrases in text, whatever their case, punctuation and spacing."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._phrases = [(phrase, f" {plain(phrase)} ") for phrase in phrases]
        if not self._phrases or any(not words.strip() for _, words in self._phrases):
            raise ValueError("a wake phrase needs at least one word")

    def find(self, text: str) -> str | None:
        """The first phrase of the list that is in `text`, which `plain` has made."""
        padded = f" {text} "
        return next((phrase for phrase, words in self._phrases if words in padded), None)


def plain(text: str) -> str:
    """Words in small letters with one space between them; punctuation is removed."""
    return " ".join(_PUNCTUATION.sub("", text.casefold()).split())


def last_words(text: str, limit: int = REMEMBERED) -> str:
    """The end of `text`, at most `limit` characters and no half word at its start."""
    if len(text) <= limit:
        return text
    return text[-limit - 1 :].partition(" ")[2]


class WakePhraseUserTurnStartStrategy(BaseUserTurnStartStrategy):
    """Holds up the strategies behind it until one of `phrases` is in a transcript; the phrase itself starts a turn.

    It stands first in the list. Awake, it lets everything through, until nobody has spoken for `timeout` seconds, or,
    with `single_activation`, until the turn is over.

    Events: on_wake_phrase_detected(phrase), on_wake_phrase_timeout() (not with `single_activation`).
    """

    frame_types = (
        VADUserStartedSpeakingFrame,
        VADUserStoppedSpeakingFrame,
        UserStartedSpeakingFrame,
        UserStoppedSpeakingFrame,
        UserSpeakingFrame,
        TranscriptionFrame,
        InterimTranscriptionFrame,
        BotStartedSpeakingFrame,
        BotStoppedSpeakingFrame,
    )
    # What could start a turn; the others must know who speaks also while this one sleeps.
    _HELD = ByClass(
        VADUserStartedSpeakingFrame,
        UserStartedSpeakingFrame,
        UserSpeakingFrame,
        TranscriptionFrame,
        InterimTranscriptionFrame,
    )

    def __init__(
        self, *, phrases: list[str], timeout: float = 10.0, single_activation: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._phrases = Phrases(phrases)
        self._timeout = timeout
        self._single_activation = single_activation
        self._heard = ""
        self._awake = False
        self._bot_speaking = False
        self._user_speaking = False
        self._timer = Timer(self.call_later, self._sleep)
        self._register_event_handler("on_wake_phrase_detected")
        self._register_event_handler("on_wake_phrase_timeout")

    @property
    def awake(self) -> bool:
        return self._awake

    def process_frame(self, frame: Frame) -> MaybeAwaitable:
        if isinstance(frame, BotStartedSpeakingFrame):
            self._bot_speaking = True
        elif isinstance(frame, BotStoppedSpeakingFrame):
            self._bot_speaking = False
        elif isinstance(frame, VADUserStartedSpeakingFrame | UserStartedSpeakingFrame):
            self._user_speaking = True
        elif isinstance(frame, VADUserStoppedSpeakingFrame | UserStoppedSpeakingFrame):
            self._user_speaking = False
        elif isinstance(frame, TranscriptionFrame) and not self._awake:
            self._listen(frame.text)
            return STOP
        if not self._awake:
            return STOP if self._HELD[type(frame)] else CONTINUE
        self._rest()
        return CONTINUE

    def _listen(self, text: str) -> None:
        self._heard = last_words(f"{self._heard} {plain(text)}".strip())
        phrase = self._phrases.find(self._heard)
        if phrase is None:
            self.trigger_reset_aggregation()
            return
        self._heard = ""
        self._awake = True
        self._call_event_handler("on_wake_phrase_detected", phrase)
        self.trigger_user_turn_started()
        self._rest()

    def _rest(self) -> None:
        """Count the silence from here, if it is one."""
        if self._bot_speaking or self._user_speaking or (self._turns is not None and self._turns.in_turn):
            self._timer.cancel()
        else:
            self._timer.set(self._timeout)

    def user_turn_stopped(self) -> None:
        if self._awake and self._single_activation:
            self._sleep()
        elif self._awake:
            self._rest()

    def _sleep(self) -> None:
        self._timer.cancel()
        self._awake = False
        self._heard = ""
        if not self._single_activation:
            self._call_event_handler("on_wake_phrase_timeout")

    def cleanup(self) -> MaybeAwaitable:
        self._timer.cancel()
        return super().cleanup()
