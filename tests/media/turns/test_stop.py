"""When a caller's turn ends."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from media.frames import (
    EndFrame,
    InputAudioRawFrame,
    MetricsFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from media.turns.analyzer import BaseTurnAnalyzer, EndOfTurnState
from media.turns.start import ExternalUserTurnStartStrategy
from media.turns.stop import (
    ExternalUserTurnStopStrategy,
    SpeechTimeoutUserTurnStopStrategy,
    TranscriptionUserTurnStopStrategy,
    TurnAnalyzerUserTurnStopStrategy,
)
from tests.media.turns.rig import Turns


def test_silence_and_words() -> None:
    turns = Turns(stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.6)])
    turns.speech()
    turns.words("hello")
    turns.silence()
    turns.wait(0.59)
    assert turns.open
    turns.wait(0.02)
    assert turns.events[-1] == "turn stopped by SpeechTimeoutUserTurnStop"
    assert turns.told_up[-1] == "user stopped"


def test_who_goes_on_speaking_keeps_the_turn() -> None:
    turns = Turns(stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.6)])
    turns.speech()
    turns.words("hello")
    turns.silence()
    turns.wait(0.4)
    turns.speech()
    turns.wait(3.0)
    assert turns.open


def test_words_that_come_late_end_the_turn_when_they_come() -> None:
    turns = Turns(stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.6)])
    turns.speech()
    turns.silence()
    turns.wait(2.0)
    assert turns.open
    turns.words("hello")
    assert not turns.open


def test_a_transcript_that_is_final_ends_the_turn_at_once() -> None:
    turns = Turns(stop=[SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=5)])
    turns.speech()
    turns.silence()
    turns.words("hello", finalized=True)
    assert not turns.open


@pytest.mark.parametrize(("p99", "stop_secs", "wait_s"), [(1.0, 0.2, 0.8), (0.5, 0.2, 0.3), (None, 0.2, 0.5)])
def test_as_long_as_a_transcript_may_take(p99: float | None, stop_secs: float, wait_s: float) -> None:
    turns = Turns(stop=[TranscriptionUserTurnStopStrategy(timeout=0.5)])
    if p99 is not None:
        turns.latency(p99)
    turns.speech()
    turns.words("hello")
    turns.silence(stop_secs)
    turns.wait(wait_s - 0.01)
    assert turns.open
    turns.wait(0.02)
    assert not turns.open


def test_a_detector_that_is_slower_than_the_transcript_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    turns = Turns(stop=[TranscriptionUserTurnStopStrategy()])
    turns.latency(0.4)
    turns.speech()
    with caplog.at_level(logging.WARNING):
        turns.silence(0.8)
        turns.silence(0.8)
    assert len([record for record in caplog.records if "turns.no_wait" in record.getMessage()]) == 1


def test_without_a_detector_each_transcript_may_have_another_behind_it() -> None:
    turns = Turns(stop=[TranscriptionUserTurnStopStrategy(timeout=0.5)])
    turns.words("one")
    turns.wait(0.4)
    turns.words("two")
    turns.wait(0.4)
    assert turns.open
    turns.wait(0.2)
    assert not turns.open


def test_another_processor_decides() -> None:
    turns = Turns([ExternalUserTurnStartStrategy()], [ExternalUserTurnStopStrategy(timeout=0.5)])
    turns.push(UserStartedSpeakingFrame())
    turns.words("hel", final=False)
    turns.push(UserStoppedSpeakingFrame())
    assert "turn stopped by ExternalUserTurnStop" not in turns.events  # the words are not whole yet
    turns.words("hello")
    turns.wait(0.6)
    assert turns.events[-1] == "turn stopped by ExternalUserTurnStop"
    assert turns.told.count("user stopped") == 1


def test_the_fallback_ends_what_nobody_ends() -> None:
    turns = Turns(stop=[TranscriptionUserTurnStopStrategy()], user_turn_stop_timeout=5.0)
    turns.speech()
    turns.wait(60)
    assert turns.open  # he speaks
    turns.silence()
    turns.wait(4.9)
    assert turns.open
    turns.wait(0.2)
    assert turns.events[-2:] == ["turn stop timeout", "turn stopped"]
    assert turns.told[-1] == "user stopped"


def test_the_end_of_the_call_ends_the_turn() -> None:
    turns = Turns()
    turns.speech()
    turns.push(EndFrame())
    assert turns.events[-1] == "turn stopped"


class Model(BaseTurnAnalyzer):
    """Answers what it is told to."""

    def __init__(self, *answers: EndOfTurnState) -> None:
        super().__init__()
        self.answers = list(answers)
        self.heard: list[tuple[int, bool]] = []
        self.cleared = 0

    def append_audio(self, buffer: bytes, is_speech: bool) -> EndOfTurnState:
        self.heard.append((len(buffer), is_speech))
        return EndOfTurnState.COMPLETE if buffer.startswith(b"end") else EndOfTurnState.INCOMPLETE

    def analyze_end_of_turn(self) -> Any:
        return self.answers.pop(0), None

    def clear(self) -> None:
        self.cleared += 1


COMPLETE, INCOMPLETE = EndOfTurnState.COMPLETE, EndOfTurnState.INCOMPLETE


def test_a_model_is_asked_at_each_pause() -> None:
    model = Model(INCOMPLETE, COMPLETE)
    turns = Turns(stop=[TurnAnalyzerUserTurnStopStrategy(turn_analyzer=model)])
    turns.speech()
    turns.push(InputAudioRawFrame(b"\x01" * 320, 8000, 1))
    turns.words("I would like")
    turns.silence()
    turns.wait(3.0)
    assert turns.open
    turns.speech()
    turns.words("a table")
    turns.silence()
    assert not turns.open
    assert model.heard == [(320, True)]
    assert model.cleared >= 1


def test_a_model_may_say_by_itself_that_it_was_long_enough() -> None:
    turns = Turns(stop=[TurnAnalyzerUserTurnStopStrategy(turn_analyzer=Model(INCOMPLETE))])
    turns.speech()
    turns.words("well")
    turns.silence()
    turns.push(InputAudioRawFrame(b"end" + bytes(317), 8000, 1))
    assert not turns.open


def test_a_models_measurements_are_told() -> None:
    class Measured(Model):
        def analyze_end_of_turn(self) -> Any:
            return COMPLETE, "the figures"

    turns = Turns(stop=[TurnAnalyzerUserTurnStopStrategy(turn_analyzer=Measured())])
    turns.speech()
    turns.words("yes")
    turns.silence()
    (metrics,) = [frame for frame in turns.rig.sunk if isinstance(frame, MetricsFrame)]
    assert metrics.data == ["the figures"]
