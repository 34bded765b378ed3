"""Who has answered, by how he speaks; and the tone of a machine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.answerer import HUMAN, MACHINE, UNKNOWN, AnswerParams, AnswerRules
from media.beep import BeepDetector
from tests.endtoend.actors import noise, tone

NOW = 50.0


def rules(**params: float) -> AnswerRules:
    return AnswerRules(AnswerParams(**params), NOW)  # type: ignore[arg-type]


def played(*stretches: tuple[float, float]) -> tuple[str, str, float]:
    """Who it is, why, and when that is known, for speech from each first to each second of seconds."""
    it = rules()
    edges = sorted([(begin, True) for begin, _ in stretches] + [(end, False) for _, end in stretches])
    while True:
        due = it.due()
        if edges and NOW + edges[0][0] < due:
            at, begins = edges.pop(0)
            it.speech(begins, NOW + at)
            continue
        verdict = it.look(due)
        if verdict is not None:
            return verdict.who, verdict.detail, round(due - NOW, 2)


def test_a_word_and_then_silence_is_a_person() -> None:
    assert played((0.5, 1.0)) == (HUMAN, "answer", 2.2)
    assert played((0.5, 0.9), (1.5, 1.9)) == (HUMAN, "answer", 3.1), "hello? ... hello?"


def test_who_goes_on_and_on_is_a_machine() -> None:
    assert played((0.5, 9.0)) == (MACHINE, "greeting", 2.9)
    assert played((0.5, 1.5), (2.0, 3.0), (3.5, 9.0)) == (MACHINE, "greeting", 3.9), "pauses do not count"


def test_nobody_says_a_word() -> None:
    assert played() == (UNKNOWN, "silence", 5.0)


@pytest.mark.parametrize("said", ["Hi! You've reached Jim's", "please leave a  MESSAGE", "the mailbox is full"])
def test_phrases_of_machines(said: str) -> None:
    it = rules()
    it.text(said)
    verdict = it.look(NOW)
    assert verdict is not None
    assert (verdict.who, verdict.detail) == (MACHINE, "phrase")


def test_a_person_says_none_of_them() -> None:
    it = rules()
    it.text("hello, this is Anna speaking")
    assert it.look(NOW) is None


def test_a_beep_is_a_machines() -> None:
    it = rules()
    it.speech(True, NOW)
    it.beep()
    assert it.look(NOW) == (MACHINE, "beep")


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.booleans()), max_size=12))
def test_whatever_is_told_it_comes_to_an_end(told: list[tuple[float, bool]]) -> None:
    """After the last of what it is told it decides by the time that it names."""
    it, now = rules(), NOW
    for after, begins in told:
        now += after
        it.speech(begins, now)
    assert it.look(max(it.due(), now)) is not None


def test_lengths_must_be_positive() -> None:
    with pytest.raises(ValueError, match="pause_s must be more than 0, got 0"):
        AnswerParams(pause_s=0)


# ---------------------------------------------------------------- the tone


def beeps(pcm: bytes, rate: int = 8000, piece: int = 320) -> int:
    detector = BeepDetector(rate)
    return sum(detector.hear(pcm[at : at + piece]) for at in range(0, len(pcm), piece))


@pytest.mark.parametrize("rate", [8000, 16000])
@pytest.mark.parametrize("hz", [440.0, 1000.0, 1400.0, 2100.0])
@pytest.mark.parametrize("seconds", [0.2, 0.5, 1.5])
def test_a_beep_is_heard_when_it_ends(rate: int, hz: float, seconds: float) -> None:
    pcm = noise(1.0, rate) + bytes(rate) + tone(seconds, rate, hz)
    assert beeps(pcm + bytes(rate), rate) == 1
    assert beeps(pcm, rate) == 0, "it has not ended"


def test_what_is_none() -> None:
    assert beeps(noise(5.0) + bytes(16000)) == 0
    assert beeps(tone(0.05) + bytes(16000)) == 0
    assert beeps(tone(4.0) + bytes(16000)) == 0, "a dial tone"
    assert beeps(tone(0.5, level=100) + bytes(16000)) == 0, "too quiet"
    both = np.frombuffer(tone(0.3, hz=770.0), "<i2") + np.frombuffer(tone(0.3, hz=1336.0), "<i2")
    assert beeps(both.astype("<i2").tobytes() + bytes(16000)) == 0, "a key"
    voice = sum(np.frombuffer(tone(1.0, hz=150.0 * n, level=int(6000 / n)), "<i2").astype(int) for n in range(1, 9))
    assert beeps(np.asarray(voice).astype("<i2").tobytes() + bytes(16000)) == 0, "a vowel"
