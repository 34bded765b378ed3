"""Numbered packets: lost, late, twice, out of order, and numbers that mean nothing."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.concealment import DISTRUST, LONGEST_MS, WINDOW, Concealment
from media.frames import InputAudioRawFrame

LEVEL = 8000


def packet(number: int | None, *, timed: bool = True, level: int = LEVEL) -> InputAudioRawFrame:
    """20 ms that say their number in the first sample."""
    said = (number or 0) % 1000
    pcm = said.to_bytes(2, "little") + level.to_bytes(2, "little", signed=True) * 159
    return InputAudioRawFrame(pcm, 8000, 1, number, None if number is None or not timed else number * 20)


def numbers(frames: list[InputAudioRawFrame]) -> list[int | None]:
    return [frame.seq for frame in frames]


class Line:
    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self.care = Concealment(self.counters)
        self.heard: list[InputAudioRawFrame] = []

    def send(self, *sent: int | None, timed: bool = True) -> list[int | None]:
        """The numbers of what is heard of it; None stands for what was made up."""
        before = len(self.heard)
        for number in sent:
            self.heard += self.care.take(packet(number, timed=timed))
        return numbers(self.heard[before:])

    @property
    def peaks(self) -> list[int]:
        return [int.from_bytes(frame.audio[-2:], "little", signed=True) for frame in self.heard]


def test_what_comes_in_order_passes_as_it_is() -> None:
    line = Line()
    frames = [packet(number) for number in range(7, 27)]
    for frame in frames:
        assert line.care.take(frame) == (frame,)
    assert not line.counters


def test_a_lost_packet_is_made_up_by_the_last_one_fading() -> None:
    line = Line()
    assert line.send(1, 2, 5) == [1, 2, None, None, 5]
    assert line.peaks == pytest.approx([LEVEL, LEVEL, LEVEL * 0.8, LEVEL * 0.5, LEVEL], abs=1)
    assert line.counters == {"caller_lost": 2, "caller_concealed_ms": 40}
    assert [frame.num_frames for frame in line.heard] == [160] * 5


def test_after_three_there_is_silence() -> None:
    line = Line()
    line.send(1, 8)
    assert line.peaks[1:7] == pytest.approx([LEVEL * 0.8, LEVEL * 0.5, LEVEL * 0.2, 0, 0, 0], abs=1)


def test_a_long_hole_is_a_pause_of_the_line() -> None:
    line = Line()
    assert line.send(1, 2, 200, 201) == [1, 2, 200, 201]
    assert line.counters == {"caller_pauses": 1}


def test_numbers_that_jump_without_time_are_no_hole() -> None:
    """A carrier that numbers in steps of two."""
    line = Line()
    for number in range(10):
        frame = packet(2 * number)
        frame.timestamp_ms = number * 20
        line.heard += line.care.take(frame)
    assert numbers(line.heard) == list(range(0, 20, 2))
    assert not line.counters


def test_one_that_comes_late_has_been_made_up_for_and_from_then_on_is_waited_for() -> None:
    line = Line()
    assert line.send(1, 3, 2, 4) == [1, None, 3, 4]
    assert line.counters["caller_late"] == 1
    assert line.send(6, 5, 7) == [5, 6, 7]
    assert line.send(9, 10, 8) == [8, 9, 10]
    assert line.counters["caller_lost"] == 1


def test_waiting_ends_when_too_many_wait() -> None:
    line = Line()
    line.send(1, 3, 2)
    heard = line.send(*range(5, 5 + WINDOW))
    assert heard == []
    assert line.send(5 + WINDOW) == [None, *range(5, 6 + WINDOW)]


def test_what_is_sent_twice_is_heard_once() -> None:
    line = Line()
    assert line.send(1, 2, 2, 3) == [1, 2, 3]
    assert line.counters == {"caller_twice": 1}


def test_numbers_that_begin_anew() -> None:
    line = Line()
    assert line.send(500, 501, 1, 2, 3) == [500, 501, 1, 2, 3]
    assert not line.counters


def test_numbers_that_never_rise_are_not_believed() -> None:
    line = Line()
    line.heard += line.care.take(packet(3))
    for index in range(20):
        line.heard += line.care.take(packet(3, level=100 + index))
    assert len(line.heard) >= 20 - DISTRUST
    assert line.peaks[-3:] == [117, 118, 119]


def test_audio_without_numbers_passes() -> None:
    line = Line()
    assert line.send(None, None, None) == [None] * 3
    assert len(line.heard) == 3
    assert not line.counters


def test_carriers_that_do_not_tell_a_time() -> None:
    line = Line()
    assert line.send(1, 4, timed=False) == [1, None, None, 4]
    assert line.send(5 + int(LONGEST_MS) // 20 + 5, timed=False) == [5 + int(LONGEST_MS) // 20 + 5]


@given(st.integers(0, 2**32), st.floats(0, 0.2), st.integers(0, 2))
def test_whatever_the_line_does_order_and_length_hold(seed: int, loss: float, swaps: int) -> None:
    rng = random.Random(seed)
    sent = [number for number in range(100) if number == 0 or rng.random() >= loss]
    for _ in range(swaps * 5):
        at = rng.randrange(1, len(sent) - 1)
        sent[at], sent[at - 1] = sent[at - 1], sent[at]
    line = Line()
    heard = [number for number in line.send(*sent) if number is not None]
    assert heard == sorted(set(heard))  # in order, none twice
    assert set(heard) <= set(sent)
    assert len(set(sent) - set(heard)) <= line.counters["caller_late"] + WINDOW + 1
    # As long as it was at the caller's side, but for what still waits at the end.
    assert abs(len(line.heard) - (max(sent) - min(heard) + 1)) <= WINDOW + 1 + swaps * 5
