"""When a caller's turn begins."""

from __future__ import annotations

import pytest

from media.frames import TranscriptionFrame, UserStartedSpeakingFrame, VADUserStartedSpeakingFrame
from media.turns.start import (
    ExternalUserTurnStartStrategy,
    MinWordsUserTurnStartStrategy,
    TranscriptionUserTurnStartStrategy,
    VADUserTurnStartStrategy,
)
from tests.media.turns.rig import Turns


def test_by_default_at_once_when_speech_is_heard() -> None:
    turns = Turns()
    turns.speech()
    assert turns.told == ["user started", "interruption"]
    assert turns.told_up == ["user started", "interruption"]
    assert turns.events == ["turn started by VADUserTurnStart"]


def test_by_default_words_start_a_turn_that_nobody_has_heard() -> None:
    turns = Turns()
    turns.words("yes", final=False)
    assert turns.events == ["turn started by TranscriptionUserTurnStart"]


def test_what_starts_a_turn_has_passed_before_it() -> None:
    turns = Turns()
    turns.speech()
    kinds = [type(frame) for frame in turns.rig.sunk]
    assert kinds.index(VADUserStartedSpeakingFrame) < kinds.index(UserStartedSpeakingFrame)


def test_interim_words_may_be_left_out_and_empty_ones_always_are() -> None:
    turns = Turns([TranscriptionUserTurnStartStrategy(use_interim=False)])
    turns.words("yes", final=False)
    turns.words("  ")
    assert turns.events == []
    turns.words("yes")
    assert turns.events == ["turn started by TranscriptionUserTurnStart"]


def test_while_the_bot_speaks_some_words_are_needed() -> None:
    turns = Turns([MinWordsUserTurnStartStrategy(min_words=3)])
    turns.bot(True)
    turns.words("uh huh")
    assert turns.events == []
    turns.words("no wait a")
    assert turns.told == ["user started", "interruption"]


def test_while_the_bot_is_silent_one_word_is_enough() -> None:
    turns = Turns([MinWordsUserTurnStartStrategy(min_words=3)])
    turns.bot(True)
    turns.bot(False)
    turns.words("yes")
    assert turns.events == ["turn started by MinWordsUserTurnStart"]


@pytest.mark.parametrize("use_interim", [True, False])
def test_interim_words_count_if_they_may(use_interim: bool) -> None:
    turns = Turns([MinWordsUserTurnStartStrategy(min_words=2, use_interim=use_interim)])
    turns.bot(True)
    turns.words("wait please", final=False)
    assert bool(turns.events) is use_interim


def test_another_processor_decides_and_interrupts_itself() -> None:
    turns = Turns([ExternalUserTurnStartStrategy()])
    turns.speech()
    assert turns.events == []
    turns.push(UserStartedSpeakingFrame())
    assert turns.events == ["turn started by ExternalUserTurnStart"]
    assert turns.told == ["user started"]  # the one that came, and no second one


def test_a_turn_that_does_not_interrupt() -> None:
    turns = Turns([VADUserTurnStartStrategy(enable_interruptions=False)])
    turns.speech()
    assert turns.told == ["user started"]


def test_one_turn_at_a_time() -> None:
    turns = Turns()
    turns.speech()
    turns.words("one")
    turns.silence()
    turns.speech()
    assert turns.told.count("user started") == 1


def test_a_strategy_of_ones_own_that_fails_costs_nothing_else() -> None:
    class Broken(VADUserTurnStartStrategy):
        def process_frame(self, frame: object) -> object:
            raise RuntimeError("no")

    turns = Turns([Broken(), TranscriptionUserTurnStartStrategy()])
    turns.speech()
    turns.words("yes")
    assert turns.events == ["turn started by TranscriptionUserTurnStart"]
    assert any(isinstance(frame, TranscriptionFrame) for frame in turns.rig.sunk)


def test_a_strategy_serves_one_call() -> None:
    strategy = VADUserTurnStartStrategy()
    Turns([strategy])
    with pytest.raises(ValueError, match="another call"):
        Turns([strategy])
