"""Who has taken up the phone, a person or a machine, by how he speaks: the rules that need no model and no account.

A person says a word or two and waits; a machine has a greeting and does not wait; its tone gives it away, and so do
some phrases where a recogniser understands them. The lengths are those that carriers use for their own detection.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

HUMAN, MACHINE, UNKNOWN = "human", "machine", "unknown"

MACHINE_PHRASES: Final = (
    "leave a message",
    "leave your message",
    "leave your name",
    "record your message",
    "after the tone",
    "after the beep",
    "at the tone",
    "at the beep",
    "sound of the tone",
    "you have reached",
    "you've reached",
    "voicemail",
    "voice mail",
    "mailbox",
    "answering machine",
    "not available",
    "unable to take your call",
    "unable to come to the phone",
    "can't come to the phone",
    "cannot take your call",
    "can't take your call",
    "get back to you",
    "please call again later",
    "forwarded to",
)
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerParams:
    """Seconds."""

    greeting_s: float = 2.4  # of speech: as much is no "hello", but a greeting
    pause_s: float = 1.2  # of silence after less: somebody waits for an answer
    silence_s: float = 5.0  # from the beginning, without a sound: nobody can tell
    phrases: Sequence[str] = MACHINE_PHRASES  # in small letters: a machine says them

    def __post_init__(self) -> None:
        for name in ("greeting_s", "pause_s", "silence_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, got {getattr(self, name)}")


class Verdict(NamedTuple):
    who: str
    detail: str  # "phrase", "greeting", "beep", "answer", "silence"


class AnswerRules:
    """One call's first seconds. Its methods are told what is heard; `look` and `due` say what follows, and when."""

    def __init__(self, params: AnswerParams, now: float) -> None:
        self._params = params
        self._began = now
        self._spoken_s = 0.0
        self._since: float | None = None  # speech goes on since then
        self._silent_since: float | None = None  # after speech
        self._sure: Verdict | None = None

    def speech(self, begins: bool, now: float) -> None:
        """Speech begins, or has ended, at `now`; what is told twice counts once."""
        if begins:
            if self._since is None:
                self._since, self._silent_since = now, None
        elif self._since is not None:
            self._spoken_s += max(0.0, now - self._since)
            self._since, self._silent_since = None, now

    def text(self, said: str) -> None:
        """All that was understood so far."""
        said = _SPACE.sub(" ", said.lower())
        if any(phrase in said for phrase in self._params.phrases):
            self._sure = self._sure or Verdict(MACHINE, "phrase")

    def beep(self) -> None:
        self._sure = Verdict(MACHINE, "beep")

    def due(self) -> float:
        """When `look` will know, if nothing else is heard until then."""
        params = self._params
        if self._sure is not None:
            return self._began
        if self._since is not None:
            return self._since + params.greeting_s - self._spoken_s
        if self._silent_since is not None:
            return self._silent_since + params.pause_s
        return self._began + params.silence_s

    def look(self, now: float) -> Verdict | None:
        """Who it is, if that can be told by `now`."""
        if self._sure is not None:
            return self._sure
        params = self._params
        spoken = self._spoken_s + (now - self._since if self._since is not None else 0.0)
        if spoken >= params.greeting_s - _EPSILON:
            self._sure = Verdict(MACHINE, "greeting")
        elif self._silent_since is not None and now - self._silent_since >= params.pause_s - _EPSILON:
            self._sure = Verdict(HUMAN, "answer")
        elif self._since is None and self._silent_since is None and now - self._began >= params.silence_s - _EPSILON:
            self._sure = Verdict(UNKNOWN, "silence")
        return self._sure


_EPSILON: Final = 1e-6  # times are sums
