"""The wake phrase."""

from __future__ import annotations

import pytest

from media.turns.start import TranscriptionUserTurnStartStrategy, VADUserTurnStartStrategy
from media.turns.stop import SpeechTimeoutUserTurnStopStrategy
from media.turns.wake import WakePhraseUserTurnStartStrategy
from tests.media.turns.rig import Turns


def waking(**options: object) -> tuple[Turns, list[str]]:
    strategy = WakePhraseUserTurnStartStrategy(phrases=["hey robot", "hello"], **options)  # type: ignore[arg-type]
    told: list[str] = []
    strategy.add_event_handler("on_wake_phrase_detected", lambda who, phrase: told.append(phrase))
    strategy.add_event_handler("on_wake_phrase_timeout", lambda who: told.append("asleep"))
    start = [strategy, VADUserTurnStartStrategy(), TranscriptionUserTurnStartStrategy()]
    return Turns(start, [SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.5)]), told


def say(turns: Turns, text: str) -> None:
    turns.speech()
    turns.words(text)
    turns.silence()
    turns.wait(0.6)


def test_nothing_starts_a_turn_before_the_phrase() -> None:
    turns, told = waking()
    say(turns, "what is the weather")
    assert turns.events == []
    say(turns, "Hey, Robot! Good day.")
    assert told == ["hey robot"]
    assert turns.events[0] == "turn started by WakePhraseUserTurnStart"


def test_the_phrase_may_come_in_pieces_but_not_inside_a_word() -> None:
    turns, told = waking()
    say(turns, "othello")
    assert told == []
    say(turns, "hey")
    say(turns, "robot")
    assert told == ["hey robot"]


def test_awake_until_nobody_has_spoken_for_a_while() -> None:
    turns, told = waking(timeout=10.0)
    say(turns, "hello")
    say(turns, "what time is it")
    assert turns.events.count("turn started by VADUserTurnStart") == 1
    turns.bot(True)
    turns.wait(60)
    turns.bot(False)
    turns.wait(9.9)
    assert told == ["hello"]
    turns.wait(0.2)
    assert told == ["hello", "asleep"]
    say(turns, "anybody there")
    assert turns.events.count("turn started by VADUserTurnStart") == 1


def test_one_turn_for_one_phrase() -> None:
    turns, told = waking(single_activation=True)
    say(turns, "hello what time is it")
    say(turns, "and the weather")
    assert len([event for event in turns.events if event.startswith("turn started")]) == 1
    assert told == ["hello"]


@pytest.mark.parametrize("phrases", [[], [""], ["..."]])
def test_a_phrase_has_words(phrases: list[str]) -> None:
    with pytest.raises(ValueError, match="at least one word"):
        WakePhraseUserTurnStartStrategy(phrases=phrases)
