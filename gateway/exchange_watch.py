"""What a call's record and its timeline say of turns and answers, from edges that its output stage sees anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.trail import Trail
from media.exchange import Exchange
from media.frames import (
    Frame,
    TTSStartedFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.output import OutputStage


def watch_exchange(exchange: Exchange, trail: Trail, output: OutputStage, now: Callable[[], float]) -> None:
    def spoke(begins: bool) -> None:
        trail.bot(begins)
        (exchange.bot_started if begins else exchange.bot_stopped)(now())

    counted: Mapping[type[Frame], Callable[[Any], None]] = {
        VADUserStartedSpeakingFrame: lambda frame: exchange.voice(now()),
        VADUserStoppedSpeakingFrame: lambda frame: exchange.silence(now(), frame.stop_secs),
        UserStartedSpeakingFrame: lambda frame: exchange.turn_started(now()),
        UserStoppedSpeakingFrame: lambda frame: exchange.turn_stopped(now()),
        TTSStartedFrame: lambda frame: exchange.answering(now()),
    }
    output.spoke = spoke
    output.watch({**counted, **{cls: _both(seen, counted.get(cls)) for cls, seen in trail.sees.items()}})


def _both(seen: Callable[[Any], None], counted: Callable[[Any], None] | None) -> Callable[[Any], None]:
    if counted is None:
        return seen

    def both(frame: Any) -> None:
        seen(frame)
        counted(frame)

    return both
