"""What a call's record says of turns and answers, from edges that its output stage sees anyway."""

from __future__ import annotations

from collections.abc import Callable

from media.exchange import Exchange
from media.frames import (
    TTSStartedFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.output import OutputStage


def watch_exchange(exchange: Exchange, output: OutputStage, now: Callable[[], float]) -> None:
    output.spoke = lambda begins: (exchange.bot_started if begins else exchange.bot_stopped)(now())
    output.watch(
        {
            VADUserStartedSpeakingFrame: lambda frame: exchange.voice(now()),
            VADUserStoppedSpeakingFrame: lambda frame: exchange.silence(now(), frame.stop_secs),
            UserStartedSpeakingFrame: lambda frame: exchange.turn_started(now()),
            UserStoppedSpeakingFrame: lambda frame: exchange.turn_stopped(now()),
            TTSStartedFrame: lambda frame: exchange.answering(now()),
        }
    )
