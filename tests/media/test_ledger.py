"""The play-out ledger: by example, and against carriers whose true play-out is known to the sample."""

from __future__ import annotations

import re

import pytest

from media.ledger import PlayoutLedger
from tests.media.playout import CARRIERS, LONGER_MS, judge

PACKET = 160
SCHEDULES = 200  # per carrier here; benchmarks/bench_pacing.py --ledger runs as many as one likes


def speak(ledger: PlayoutLedger, seconds: float, now: float) -> None:
    """A burst: `seconds` of audio leave at once."""
    samples = int(seconds * ledger.sample_rate)
    ledger.generate(samples)
    for _ in range(samples // PACKET):
        ledger.send(PACKET, now)


def test_nothing_is_heard_before_anything_is_sent() -> None:
    ledger = PlayoutLedger(8000)
    ledger.generate(8000)
    assert (ledger.generated, ledger.sent, ledger.heard(5.0), ledger.held(5.0)) == (8000, 0, 0, 0)
    assert ledger.all_heard(5.0)
    assert ledger.heard_by() <= 5.0


def test_between_marks_the_carrier_plays_in_real_time() -> None:
    ledger = PlayoutLedger(8000, latency_s=0.02)
    speak(ledger, 1.0, 10.0)
    assert ledger.heard(10.02) == 0
    assert ledger.heard(10.52) == 4000
    assert ledger.held(10.52) == 4000
    assert ledger.heard_by() == pytest.approx(11.02)
    assert not ledger.all_heard(11.01)
    assert ledger.all_heard(ledger.heard_by())


def test_a_dry_carrier_starts_again_with_the_next_packet() -> None:
    ledger = PlayoutLedger(8000, latency_s=0.02)
    speak(ledger, 0.2, 0.0)
    speak(ledger, 0.2, 1.0)
    assert ledger.heard(1.01) == 1600
    assert ledger.heard(1.12) == 2400
    assert ledger.heard_by() == pytest.approx(1.22)


def test_an_echo_tells_of_a_late_start() -> None:
    """The carrier waits 150 ms before it starts; the way there and back has been measured."""
    ledger = PlayoutLedger(8000)
    ledger.latency_s = 0.01
    speak(ledger, 0.5, 0.0)
    name = ledger.mark(0.0)
    speak(ledger, 1.0, 0.0)
    assert ledger.played(name, 0.5 + 0.15 + 0.02)
    assert ledger.heard(1.16) == pytest.approx(8000, abs=80)
    assert ledger.heard_by() == pytest.approx(1.66, abs=0.01)
    speak(ledger, 0.2, 5.0)  # and it will start as late again
    assert ledger.heard_by() == pytest.approx(5.36, abs=0.01)


def test_an_echo_of_the_utterance_before_moves_the_one_behind_it() -> None:
    """The carrier waits 300 ms before it starts, as its echo tells; it will wait before the next one, too."""
    ledger = PlayoutLedger(8000)
    ledger.latency_s = 0.01
    speak(ledger, 0.5, 0.0)
    name = ledger.mark(0.0)
    speak(ledger, 0.2, 0.6)
    assert ledger.heard_by() == pytest.approx(0.6 + 0.2 + 0.01)  # until then it is thought to begin at once
    assert ledger.played(name, 0.01 + 0.3 + 0.5 + 0.01)
    assert ledger.heard_by() == pytest.approx(0.6 + 0.31 + 0.2, abs=0.011)
    assert ledger.heard(0.82) == pytest.approx(4000, abs=80)
    assert not ledger.all_heard(0.95)
    assert ledger.heard(ledger.heard_by()) == 5600


def test_a_mark_on_an_idle_carrier_measures_the_way() -> None:
    ledger = PlayoutLedger(8000)
    speak(ledger, 0.2, 0.0)
    assert ledger.played(ledger.mark(3.0), 3.12)
    assert ledger.latency_s == pytest.approx(0.06)
    assert ledger.played(ledger.mark(4.0), 4.5)  # this one was held up somewhere
    assert ledger.latency_s == pytest.approx(0.06)


def test_an_echo_is_proof_even_when_it_comes_before_the_clock() -> None:
    ledger = PlayoutLedger(8000)
    speak(ledger, 1.0, 0.0)
    name = ledger.mark()
    assert ledger.played(name, 0.95)  # a carrier with a fast clock
    assert ledger.heard(0.95) == 8000


def test_one_echo_that_comes_very_late_does_not_move_the_clock_but_two_do() -> None:
    ledger = PlayoutLedger(8000)
    ledger.latency_s = 0.0
    marks = []
    for _ in range(3):
        speak(ledger, 1.0, 0.0)
        marks.append(ledger.mark())
    speak(ledger, 1.0, 0.0)
    assert ledger.played(marks[0], 1.0)
    assert ledger.played(marks[1], 2.0 + 0.9)
    assert ledger.heard(2.9) == pytest.approx(23200, abs=80)
    assert ledger.played(marks[2], 3.0 + 0.9)
    assert ledger.heard_by() == pytest.approx(4.9, abs=0.01)


def test_names_are_short_unique_and_carry_the_generation() -> None:
    ledger = PlayoutLedger(8000)
    names = [ledger.mark() for _ in range(3)]
    ledger.cleared(1.0)
    names.append(ledger.mark())
    assert len(set(names)) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9-]{1,16}", name) for name in names)
    assert [name.split("-")[0] for name in names] == ["g0", "g0", "g0", "g1"]


def test_echoes_of_a_cleared_generation_prove_nothing() -> None:
    ledger = PlayoutLedger(8000, echoes_marks_on_clear=True)
    speak(ledger, 2.0, 0.0)
    name = ledger.mark()
    heard = ledger.cleared(0.5)
    assert not ledger.played(name, 0.53)
    assert not ledger.played("nobody-knows", 0.53)
    assert ledger.heard(3.0) == heard == pytest.approx(4000, abs=200)
    assert ledger.dropped == 16000 - heard
    assert ledger.held(3.0) == 0


def test_an_echo_much_too_early_proves_nothing_where_a_clear_echoes() -> None:
    """Somebody else cleared the carrier, or it cleared itself."""
    ledger = PlayoutLedger(8000, echoes_marks_on_clear=True)
    speak(ledger, 2.0, 0.0)
    assert not ledger.played(ledger.mark(), 0.3)
    assert ledger.heard(0.3) < 2400


def test_an_echo_that_never_comes_is_superseded() -> None:
    ledger = PlayoutLedger(8000)
    speak(ledger, 0.5, 0.0)
    first = ledger.mark()
    speak(ledger, 0.5, 0.0)
    second = ledger.mark()
    assert ledger.played(second, 1.05)
    assert ledger.heard(1.05) == ledger.confirmed == 8000
    assert ledger.played(first, 1.06)  # out of order, and true all the same
    assert ledger.heard(1.06) == 8000


def test_marks_that_are_never_answered_cost_no_memory() -> None:
    ledger = PlayoutLedger(8000)
    for i in range(5000):
        ledger.send(PACKET, i * 0.02)
        ledger.mark()
    assert len(ledger._marks) <= 256
    assert len(ledger._runs) <= 100


def test_a_clear_is_a_place_in_the_stream_to_rewind_to() -> None:
    ledger = PlayoutLedger(8000, latency_s=0.0)
    speak(ledger, 2.0, 0.0)
    assert ledger.position(0.5) == 4000
    ledger.cleared(0.5)
    unheard = ledger.dropped
    assert unheard == 12000
    assert ledger.position(0.5) == 16000  # all that was sent is either heard or dropped
    speak(ledger, 1.5, 2.0)  # the same again
    assert ledger.position(2.5) == 20000
    assert ledger.heard(2.5) == 8000


def test_a_carrier_that_finishes_its_message_is_heard_to_the_end_of_it() -> None:
    ledger = PlayoutLedger(8000, echoes_marks_on_clear=True, clear_grain_ms=200, latency_s=0.0)
    for _ in range(5):
        ledger.send(1600, 0.0)
    assert ledger.cleared(0.25) == 3200
    assert ledger.heard(0.3) == pytest.approx(2400, abs=8)
    assert ledger.cleared(0.3) == 3200  # a second clear changes nothing
    assert ledger.heard(0.4) == 3200
    assert ledger.dropped == 4800


def test_a_message_that_begins_a_live_stream_is_longer_than_the_others() -> None:
    ledger = PlayoutLedger(8000, clear_grain_ms=200, latency_s=0.0)
    ledger.send(320, 0.0, 320)  # 40 ms of silence, which wait for the rest of the message
    ledger.send(1600, 0.0)
    ledger.send(1600, 0.2)
    ledger.send(1600, 0.4)
    assert ledger.cleared(0.43) == 1920 + 1600
    ledger.send(3520, 1.0)  # two in one go, and the second the longer
    assert ledger.cleared(1.1) == 3520 + 1600


def test_padding_takes_time_and_is_not_heard() -> None:
    ledger = PlayoutLedger(8000, clear_grain_ms=200, latency_s=0.0)
    ledger.send(400, 0.0)  # 50 ms, padded to 200
    ledger.flush()
    ledger.send(1600, 0.0)
    assert ledger.heard(0.1) == 400
    assert ledger.heard(0.3) == pytest.approx(1200, abs=8)
    assert ledger.sent == 2000
    assert ledger.heard_by() == pytest.approx(0.4)


def test_playback_events_do_for_a_carrier_without_marks() -> None:
    ledger = PlayoutLedger(8000)
    ledger.latency_s = 0.01
    speak(ledger, 1.0, 0.0)
    ledger.playback_started(0.32)  # it gathers 300 ms first
    assert ledger.heard(0.81) == pytest.approx(4000, abs=80)
    ledger.playback_completed(1.36)
    assert ledger.heard(1.36) == ledger.confirmed == 8000
    speak(ledger, 1.0, 1.37)
    ledger.playback_completed(1.38)  # late news of the first reply
    assert ledger.heard(1.38) == 8000
    assert ledger.confirmed == 8000


def test_questions_out_of_order_never_take_back_what_was_heard() -> None:
    ledger = PlayoutLedger(8000)
    speak(ledger, 1.0, 0.0)
    assert ledger.heard(0.8) == ledger.heard(0.4)


def longest_message_s(carrier: str) -> float:
    grain_ms = CARRIERS[carrier].grain_ms
    return (grain_ms + LONGER_MS) / 1000 if grain_ms else 0.0


@pytest.mark.parametrize("carrier", [name for name in CARRIERS if name != "silent"])
def test_error_against_the_true_play_out(carrier: str) -> None:
    """Within a frame and the way there: bursts, pauses, stalls, clears, up to 80 ms of latency with 15 ms of jitter.

    How far a clear came is nothing that any carrier tells, so that its jitter stays in the count for good; and one
    that meets the carrier as one message ends and the next begins may go either way, by one message.
    """
    beyond = 0
    for seed in range(SCHEDULES):
        verdict = judge(seed, carrier)
        allowed = 0.02 + verdict.one_way + verdict.close_calls * longest_message_s(carrier)
        assert verdict.worst <= allowed + verdict.clears * 0.015, f"schedule {seed}"
        beyond += verdict.worst > allowed
    assert beyond <= SCHEDULES // 100


@pytest.mark.parametrize("carrier", CARRIERS)
def test_error_on_a_short_way_is_one_frame(carrier: str) -> None:
    """As between the gateway and a carrier on the same machine, with or without marks."""
    for seed in range(SCHEDULES // 2):
        verdict = judge(seed, carrier, longest_way_s=0.002, jitter_s=0.001)
        allowed = 0.02 + verdict.one_way + verdict.close_calls * longest_message_s(carrier)
        assert verdict.worst <= allowed, f"schedule {seed}"


@pytest.mark.parametrize("drift", [-2e-4, 2e-4])
def test_marks_follow_a_carrier_whose_clock_drifts(drift: float) -> None:
    for seed in range(SCHEDULES // 4):
        verdict = judge(seed, "twilio", drift=drift)
        assert verdict.worst <= 0.02 + verdict.one_way, f"schedule {seed}"


def test_a_jitter_buffer_is_found_out() -> None:
    """The carrier starts 60 ms late: the error is no more than the buffer and the way, until a mark has told."""
    for seed in range(SCHEDULES // 4):
        verdict = judge(seed, "plivo", jitter_buffer_s=0.06)
        assert verdict.worst <= 0.02 + verdict.one_way + 0.12, f"schedule {seed}"
