"""The controller: order, other strategies in mid-call, strategies that wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from media.frames import (
    StartFrame,
    TranscriptionFrame,
    UserStartedSpeakingFrame,
    VADUserStartedSpeakingFrame,
)
from media.turns.base import CONTINUE
from media.turns.processor import UserTurnProcessor
from media.turns.start import BaseUserTurnStartStrategy, MinWordsUserTurnStartStrategy, VADUserTurnStartStrategy
from media.turns.stop import SpeechTimeoutUserTurnStopStrategy, TranscriptionUserTurnStopStrategy
from media.turns.strategies import UserTurnStrategies, UserTurnStrategiesUpdateFrame
from tests.media.rig import live, run, turns
from tests.media.turns.rig import Turns


def test_the_order_of_a_whole_turn() -> None:
    it = Turns(stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.5)])
    it.speech()
    it.words("hello")
    it.silence()
    it.wait(0.6)
    assert it.told == ["user started", "interruption", "user stopped"]
    assert it.events == ["turn started by VADUserTurnStart", "turn stopped by SpeechTimeoutUserTurnStop"]


def test_other_strategies_in_mid_call() -> None:
    it = Turns()
    strategies = UserTurnStrategies(
        start=[MinWordsUserTurnStartStrategy(min_words=2)], stop=[TranscriptionUserTurnStopStrategy(timeout=0.1)]
    )
    it.bot(True)
    it.push(UserTurnStrategiesUpdateFrame(strategies))
    it.speech()
    it.words("no")
    assert it.events == []
    it.words("no no")
    assert it.events == ["turn started by MinWordsUserTurnStart"]


def test_an_open_turn_is_ended_by_the_new_strategies() -> None:
    it = Turns(stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=9)])
    it.speech()
    new = UserTurnStrategies(stop=[TranscriptionUserTurnStopStrategy(timeout=0.1)])
    it.push(UserTurnStrategiesUpdateFrame(new))
    it.words("yes")
    it.silence()
    it.wait(0.2)
    assert it.events[-1] == "turn stopped by TranscriptionUserTurnStop"


def test_another_time_out_in_mid_turn() -> None:
    it = Turns(stop=[TranscriptionUserTurnStopStrategy()])
    it.speech()
    it.silence()
    it.push(UserTurnStrategiesUpdateFrame(user_turn_stop_timeout=0.5))
    it.wait(0.6)
    assert it.events[-2:] == ["turn stop timeout", "turn stopped"]


def test_a_strategy_that_waits() -> None:
    class Asks(BaseUserTurnStartStrategy):
        async def process_frame(self, frame: Any) -> Any:
            if isinstance(frame, TranscriptionFrame):
                await asyncio.sleep(0)
                await self.trigger_user_turn_started()
            return CONTINUE

    async def main() -> None:
        strategies = UserTurnStrategies(start=[Asks()])
        async with live(UserTurnProcessor(user_turn_strategies=strategies)) as rig:
            rig.push(TranscriptionFrame("hello", "u", "now"))
            await turns(20)
            assert any(isinstance(frame, UserStartedSpeakingFrame) for frame in rig.sunk)

    run(main())


def test_a_strategy_that_waits_cannot_come_later() -> None:
    class Asks(BaseUserTurnStartStrategy):
        async def process_frame(self, frame: Any) -> Any:
            return CONTINUE

    it = Turns()
    with pytest.raises(ValueError, match="async def"):
        it.processor._turns.update_strategies(UserTurnStrategies(start=[Asks()]))


def test_start_frame_passes_before_anybody_looks_at_it() -> None:
    seen: list[str] = []

    class Looks(VADUserTurnStartStrategy):
        frame_types = (StartFrame, VADUserStartedSpeakingFrame)

        def process_frame(self, frame: Any) -> Any:
            seen.append(type(frame).__name__)
            return super().process_frame(frame)

    it = Turns([Looks()])
    it.speech()
    assert seen == ["StartFrame", "VADUserStartedSpeakingFrame"]
    assert it.told == ["user started", "interruption"]
