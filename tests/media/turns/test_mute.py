"""When the bot does not want to hear the caller."""

from __future__ import annotations

import pytest

from media.frames import (
    CancelFrame,
    FunctionCallCancelFrame,
    FunctionCallFromLLM,
    FunctionCallResultFrame,
    FunctionCallsStartedFrame,
    InputAudioRawFrame,
    InputDTMFFrame,
    InterruptionFrame,
    KeypadEntry,
    TranscriptionFrame,
)
from media.turns.mute import (
    AlwaysUserMuteStrategy,
    FirstSpeechUserMuteStrategy,
    FunctionCallUserMuteStrategy,
    MuteUntilFirstBotCompleteUserMuteStrategy,
)
from tests.media.turns.rig import Turns


def muted(turns: Turns) -> bool:
    return turns.told.count("muted") > turns.told.count("unmuted")


def started(*ids: str) -> FunctionCallsStartedFrame:
    return FunctionCallsStartedFrame([FunctionCallFromLLM("f", name, {}, None) for name in ids])


def test_while_the_bot_speaks() -> None:
    turns = Turns(user_mute_strategies=[AlwaysUserMuteStrategy()])
    for _ in range(2):
        assert not muted(turns)
        turns.bot(True)
        assert muted(turns)
        turns.bot(False)
    assert turns.events == ["mute started", "mute stopped"] * 2
    assert turns.told_up == ["muted", "unmuted"] * 2


def test_while_it_speaks_for_the_first_time() -> None:
    turns = Turns(user_mute_strategies=[FirstSpeechUserMuteStrategy()])
    assert not muted(turns)
    turns.bot(True)
    assert muted(turns)
    turns.bot(False)
    turns.bot(True)
    assert not muted(turns)


def test_from_the_beginning_until_it_has_spoken() -> None:
    turns = Turns(user_mute_strategies=[MuteUntilFirstBotCompleteUserMuteStrategy()])
    assert turns.events == ["mute started"]
    turns.bot(True)
    turns.bot(False)
    assert turns.events == ["mute started", "mute stopped"]


@pytest.mark.parametrize("cancelled", [True, False])
def test_while_functions_run(cancelled: bool) -> None:
    turns = Turns(user_mute_strategies=[FunctionCallUserMuteStrategy()])
    turns.push(started("1", "2"))
    turns.push(FunctionCallResultFrame("f", "1", {}, None))
    assert muted(turns)
    turns.push(FunctionCallCancelFrame("f", "2") if cancelled else FunctionCallResultFrame("f", "2", {}, None))
    assert not muted(turns)


def test_any_of_several_is_enough() -> None:
    turns = Turns(user_mute_strategies=[AlwaysUserMuteStrategy(), FunctionCallUserMuteStrategy()])
    turns.bot(True)
    turns.push(started("1"))
    turns.bot(False)
    assert muted(turns)
    turns.push(FunctionCallResultFrame("f", "1", {}, None))
    assert turns.told == ["muted", "unmuted"]


def test_what_is_dropped_and_what_is_not() -> None:
    turns = Turns(user_mute_strategies=[AlwaysUserMuteStrategy()])
    turns.bot(True)
    turns.rig.sunk.clear()
    turns.speech()
    turns.words("stop")
    turns.push(InputAudioRawFrame(b"\0" * 320, 8000, 1), InterruptionFrame())
    assert turns.rig.sunk == []
    digit = InputDTMFFrame(KeypadEntry.ONE)
    turns.push(digit)
    assert turns.rig.sunk == [digit]
    turns.bot(False)
    turns.words("now")
    assert any(isinstance(frame, TranscriptionFrame) for frame in turns.rig.sunk)
    turns.bot(True)
    turns.push(CancelFrame())
    assert isinstance(turns.rig.sunk[-1], CancelFrame)


def test_who_is_muted_in_mid_speech_is_not_taken_to_speak_for_ever() -> None:
    turns = Turns(user_mute_strategies=[AlwaysUserMuteStrategy()], user_turn_stop_timeout=1.0)
    turns.speech()
    turns.bot(True)
    turns.silence()
    turns.wait(1.1)
    assert turns.told[-1] == "user stopped"
