"""What a call's record says of its turns and of how long the caller waited: whole calls on virtual time."""

from __future__ import annotations

import pytest

from gateway.metrics import Metrics, joined
from media.exchange import Answer, Exchange, Turns, Waits
from media.frames import (
    Frame,
    InterruptionFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from tests.gateway.test_metrics import samples
from tests.gateway.virtual import VirtualCall

Ended = list[tuple[int, float, bool]]


class Talk:
    """A call whose frames the test pushes, and what its record says."""

    def __init__(self, carrier: str = "twilio") -> None:
        self.call = VirtualCall(carrier, lambda _: [])
        self.call.run(0.5)

    def push(self, *frames: Frame) -> None:
        for frame in frames:
            self.call.core.inject(frame)

    def speak(self, seconds: float, *, wait: bool = True) -> None:
        rate = self.call.core.send_rate
        self.push(TTSStartedFrame(), TTSAudioRawFrame(b"\x10\x00" * int(rate * seconds), rate, 1), TTSStoppedFrame())
        if wait:
            self.call.run(seconds + 0.5)

    @property
    def counters(self) -> dict[str, int]:
        return self.call.core.record(self.call.t).counters


@pytest.mark.parametrize("carrier", ["twilio", "exotel", "genesys"])
def test_the_wait_is_told_in_parts(carrier: str) -> None:
    talk = Talk(carrier)
    talk.speak(1.0)
    talk.push(VADUserStartedSpeakingFrame(start_secs=0.2), UserStartedSpeakingFrame())
    talk.call.run(1.0)
    talk.push(VADUserStoppedSpeakingFrame(stop_secs=0.2))
    talk.call.run(0.3)
    talk.push(UserStoppedSpeakingFrame())
    talk.call.run(0.5)
    talk.push(TTSStartedFrame())
    talk.call.run(0.1)
    talk.speak(1.0)
    found = talk.counters
    assert found["turns"] == 2
    assert found["turns_interrupted"] == 0
    assert found["answers"] == 1
    assert found["answer_turn_end_ms"] == pytest.approx(500, abs=15)
    assert found["answer_answer_ms"] == pytest.approx(500, abs=15)
    assert found["answer_speech_ms"] == pytest.approx(100, abs=30)
    assert found["answer_ms"] == found["answer_slowest_ms"] == pytest.approx(1100, abs=50)
    assert found["first_word_ms"] == pytest.approx(500, abs=50)
    assert found["bot_start_ms"] < 100
    (answer,) = talk.call.core.record(talk.call.t).answers
    assert answer.wait_s == pytest.approx(sum(answer.parts.values()))


def test_who_cuts_the_bot_off_begins_a_turn() -> None:
    talk = Talk()
    talk.speak(3.0, wait=False)
    talk.call.run(1.0)
    talk.push(VADUserStartedSpeakingFrame(start_secs=0.2), UserStartedSpeakingFrame(), InterruptionFrame())
    talk.call.run(0.5)
    assert talk.counters["turns"] == 2
    assert talk.counters["turns_interrupted"] == 1


def test_without_strategies_a_sound_is_a_turn_only_if_it_interrupts() -> None:
    talk = Talk()
    talk.speak(3.0, wait=False)
    talk.call.run(0.5)
    talk.push(VADUserStartedSpeakingFrame(start_secs=0.2), VADUserStoppedSpeakingFrame(stop_secs=0.2))
    talk.call.run(0.5)
    assert talk.counters["turns"] == 1
    talk.push(VADUserStartedSpeakingFrame(start_secs=0.2), InterruptionFrame())
    talk.call.run(0.5)
    assert talk.counters["turns"] == 2
    assert talk.counters["turns_interrupted"] == 1
    talk.push(VADUserStoppedSpeakingFrame(stop_secs=0.2))
    talk.call.run(0.5)
    talk.speak(1.0)
    talk.push(VADUserStartedSpeakingFrame(start_secs=0.2))
    assert talk.counters["turns"] == 3


def test_a_bot_that_speaks_unasked_made_nobody_wait() -> None:
    talk = Talk()
    talk.speak(0.5)
    talk.speak(0.5)
    assert "answers" not in talk.counters
    assert talk.counters["turns"] == 1


def test_where_turns_are_told_a_bot_that_asks_after_a_cough_answers_nobody() -> None:
    exchange = Exchange()
    exchange.begin(0.0)
    exchange.tells_turns()
    exchange.voice(1.0)
    exchange.silence(1.5, 0.2)
    exchange.bot_started(9.0)
    exchange.bot_stopped(10.0)
    assert exchange.counters(10.0)["turns"] == 1
    assert exchange.answers == []
    exchange.voice(11.0)
    exchange.turn_started(11.5)
    exchange.silence(12.0, 0.2)
    exchange.turn_stopped(12.6)
    exchange.bot_started(13.0)
    assert exchange.counters(13.0)["turns"] == 2
    assert [round(answer.wait_s, 6) for answer in exchange.answers] == [1.2]


def test_turns() -> None:
    started: list[int] = []
    ended: Ended = []
    turns = Turns(started.append, lambda *what: ended.append(what))
    turns.begin(0.0)
    turns.bot_started(1.0)
    turns.user_spoke(2.0)
    assert ended == [(1, 2.0, True)]
    turns.bot_started(3.0)
    turns.bot_stopped(4.0)
    turns.user_spoke(5.0)
    turns.user_spoke(5.5)  # nobody has answered: the same turn
    turns.bot_started(6.0)
    turns.timed_out(6.5)  # the bot speaks
    turns.bot_stopped(7.0)
    turns.timed_out(9.5)
    turns.user_spoke(20.0)
    turns.cut_off(21.0)
    assert ended[1:] == [(2, 3.0, False), (3, 4.5, False), (4, 1.0, True)]
    assert started == [1, 2, 3, 4]


def test_a_part_that_nobody_told_belongs_to_the_next() -> None:
    waits = Waits()
    waits.silent(1.0)
    waits.answering(2.0)
    assert waits.answered(2.5) == Answer(1.5, {"answer": 1.0, "speech": 0.5})
    assert waits.answered(3.0) is None
    waits.silent(4.0)
    waits.heard(4.2)  # he goes on
    assert waits.answered(5.0) is None


def test_a_long_call_keeps_what_it_keeps() -> None:
    exchange = Exchange()
    exchange.begin(0.0)
    for at in range(0, 2000, 2):
        exchange.voice(at)
        exchange.silence(at + 0.5, 0.2)
        exchange.bot_started(at + 1.0)
        exchange.bot_stopped(at + 1.5)
    assert len(exchange.answers) == 500
    assert exchange.counters(2000.0)["answers"] == 1000


def test_histograms() -> None:
    talk = Talk()
    talk.speak(0.5)
    talk.push(VADUserStartedSpeakingFrame(start_secs=0.2))
    talk.call.run(1.0)
    talk.push(VADUserStoppedSpeakingFrame(stop_secs=0.2))
    talk.call.run(0.6)
    talk.speak(0.5)
    metrics = Metrics()
    metrics.count(talk.call.core.record(talk.call.t))
    found = samples(metrics.render())
    assert found["gateway_turns_total", ()] == 2
    assert found["gateway_answer_seconds_count", (("part", "all"),)] == 1
    assert found["gateway_answer_seconds_bucket", (("le", "0.7"), ("part", "all"))] == 0
    assert found["gateway_answer_seconds_bucket", (("le", "1.0"), ("part", "all"))] == 1
    assert found["gateway_answer_seconds_sum", (("part", "all"),)] == pytest.approx(0.8, abs=0.05)
    assert found["gateway_first_word_seconds_count", (("carrier", "twilio"),)] == 1
    whole = samples(joined({"0": metrics.render(), "1": metrics.render()}))
    for worker in "01":
        assert whole["gateway_answer_seconds_bucket", (("le", "+Inf"), ("part", "all"), ("worker", worker))] == 1
