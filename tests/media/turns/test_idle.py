"""A caller who says nothing."""

from __future__ import annotations

from media.frames import (
    FunctionCallFromLLM,
    FunctionCallResultFrame,
    FunctionCallsStartedFrame,
    UserIdleTimeoutUpdateFrame,
)
from media.turns.stop import SpeechTimeoutUserTurnStopStrategy
from tests.media.turns.rig import Turns


def idle(timeout: float = 3.0) -> Turns:
    return Turns(stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.5)], user_idle_timeout=timeout)


def count(turns: Turns) -> int:
    return turns.events.count("turn idle")


def test_counted_from_the_end_of_the_bots_speech_and_told_once() -> None:
    turns = idle()
    turns.wait(60)
    assert count(turns) == 0  # it has not spoken yet
    turns.bot(True)
    turns.wait(60)
    turns.bot(False)
    turns.wait(2.9)
    assert count(turns) == 0
    turns.wait(0.2)
    assert count(turns) == 1
    turns.wait(60)
    assert count(turns) == 1
    turns.bot(True)
    turns.bot(False)
    turns.wait(3.1)
    assert count(turns) == 2


def test_off_unless_asked_for() -> None:
    turns = idle(0.0)
    turns.bot(True)
    turns.bot(False)
    turns.wait(600)
    assert count(turns) == 0


def test_who_speaks_is_not_idle() -> None:
    turns = idle()
    turns.bot(True)
    turns.bot(False)
    turns.wait(2.0)
    turns.speech()
    turns.words("well")
    turns.wait(10)
    turns.silence()
    turns.wait(10)
    assert count(turns) == 0  # his turn is over, the bot will answer


def test_noise_only_puts_it_off() -> None:
    turns = idle()
    turns.bot(True)
    turns.bot(False)
    turns.speech()
    turns.silence()
    turns.wait(5.1)  # the turn without words ends by its time-out
    assert count(turns) == 0
    turns.wait(3.1)
    assert count(turns) == 1


def test_nobody_is_idle_while_a_function_runs() -> None:
    turns = idle()
    turns.bot(True)
    turns.bot(False)
    turns.push(FunctionCallsStartedFrame([FunctionCallFromLLM("f", "1", {}, None)]))
    turns.wait(10)
    assert count(turns) == 0
    turns.push(FunctionCallResultFrame("f", "1", {}, None))
    turns.wait(3.1)
    assert count(turns) == 1


def test_another_time_in_mid_call() -> None:
    turns = idle(0.0)
    turns.bot(True)
    turns.bot(False)
    turns.push(UserIdleTimeoutUpdateFrame(1.0))
    turns.wait(1.1)
    assert count(turns) == 1
    turns.push(UserIdleTimeoutUpdateFrame(0.0))
    turns.bot(True)
    turns.bot(False)
    turns.wait(60)
    assert count(turns) == 1
