"""What a call's record and its timeline say of turns and answers, from edges that its output stage sees anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from gateway.trail import Trail
from media.exchange import Answer, Exchange
from media.frames import (
    FloorFrame,
    Frame,
    TTSStartedFrame,
    UserMuteStartedFrame,
    UserMuteStoppedFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.call")


class ExchangeWatch:
    """Of one call: an output stage's watcher."""

    __slots__ = ("_exchange", "_now", "_trail")

    def __init__(self, exchange: Exchange, trail: Trail, now: Callable[[], float]) -> None:
        self._exchange, self._trail, self._now = exchange, trail, now

    @property
    def sees(self) -> frozenset[type[Frame]]:
        return _SEEN

    def see(self, frame: Any) -> None:
        _SEES[_class_of(frame)](self, frame)

    def spoke(self, begins: bool) -> None:
        """The bot begins (True) or has ceased to speak."""
        self._trail.edge("bot", begins)
        (self._exchange.bot_started if begins else self._exchange.bot_stopped)(self._now())

    def _voice(self, frame: VADUserStartedSpeakingFrame) -> None:
        self._trail.edge("voice", True, frame.start_secs)
        self._exchange.voice(self._now())

    def _silence(self, frame: VADUserStoppedSpeakingFrame) -> None:
        self._trail.edge("voice", False, frame.stop_secs)
        self._exchange.silence(self._now(), frame.stop_secs)

    def _turn_started(self, frame: UserStartedSpeakingFrame) -> None:
        self._trail.edge("turn", True)
        self._exchange.turn_started(self._now())

    def _turn_stopped(self, frame: UserStoppedSpeakingFrame) -> None:
        self._trail.edge("turn", False)
        self._exchange.turn_stopped(self._now())

    def _muted(self, frame: UserMuteStartedFrame) -> None:
        self._trail.edge("mute", True)

    def _unmuted(self, frame: UserMuteStoppedFrame) -> None:
        self._trail.edge("mute", False)

    def _floor(self, frame: FloorFrame) -> None:
        self._trail.floor(frame)

    def _answering(self, frame: TTSStartedFrame) -> None:
        self._exchange.answering(self._now())


def tell_answers(trail: Trail) -> Callable[[int, Answer], None]:
    """What an exchange calls with each answer."""

    def tell(turn: int, answer: Answer) -> None:
        trail.answer(answer)
        parts = {f"{part}_ms": round(seconds * 1000) for part, seconds in answer.parts.items()}
        log.info("turn.answered", turn=turn, wait_ms=round(answer.wait_s * 1000), **parts)

    return tell


_SEES: Final[Mapping[type[Frame], Callable[[ExchangeWatch, Any], None]]] = {
    VADUserStartedSpeakingFrame: ExchangeWatch._voice,
    VADUserStoppedSpeakingFrame: ExchangeWatch._silence,
    UserStartedSpeakingFrame: ExchangeWatch._turn_started,
    UserStoppedSpeakingFrame: ExchangeWatch._turn_stopped,
    UserMuteStartedFrame: ExchangeWatch._muted,
    UserMuteStoppedFrame: ExchangeWatch._unmuted,
    FloorFrame: ExchangeWatch._floor,
    TTSStartedFrame: ExchangeWatch._answering,
}
_SEEN: Final = frozenset(_SEES)


def _class_of(frame: Frame) -> type[Frame]:
    """The one of those seen that `frame`, perhaps of a user's subclass, belongs to."""
    return next(cls for cls in type(frame).__mro__ if cls in _SEEN)
