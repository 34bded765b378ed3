"""What a caller of a load test notices, on virtual time."""

from __future__ import annotations

import pytest

from gateway.load.ear import Ear, marker
from gateway.load.tally import MS_PER_BIN, Tally
from gateway.simulator.base import FakeCarrier, fake_carrier

PACKET = 320  # bytes: 20 ms


class Caller:
    """A fake carrier and its ear; `hear` is one packet that arrives."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.carrier: FakeCarrier = fake_carrier("twilio")(strict=False, record=False)
        self.carrier.opening(0.0)
        self.ear = Ear(self.carrier, self.tally)
        self.carrier.on_sound = self.ear.take

    def hear(self, pcm: bytes, now: float) -> None:
        self.carrier.tick(now)
        self.carrier.play(pcm, now)


def test_an_echo_is_measured_by_its_marker() -> None:
    caller = Caller()
    said = marker(8000)
    caller.ear.said_marker(1.0)
    for n in range(100):
        caller.hear(said[n * PACKET : (n + 1) * PACKET], 1.045 + 0.02 * n)
    caller.ear.said_marker(3.0)
    for n in range(100):
        caller.hear(said[n * PACKET : (n + 1) * PACKET], 3.045 + 0.02 * n)
    assert caller.tally.echo.count == 2
    assert caller.tally.echo.worst_ms == pytest.approx(45, abs=1)
    assert caller.tally.echo_added.worst_ms == pytest.approx(5, abs=1)  # 40 ms are the length of two packets
    assert caller.ear.first_sound_at == pytest.approx(1.045, abs=0.001)


def test_an_echo_that_waits_at_the_carrier_is_heard_later() -> None:
    caller = Caller()
    said = marker(8000)
    caller.ear.said_marker(1.0)
    caller.hear(bytes(1600), 1.010)  # 100 ms of silence ahead of it
    caller.hear(said[:PACKET], 1.030)
    assert caller.tally.echo.worst_ms == pytest.approx(110, abs=1)


def test_a_late_packet_is_late_by_what_the_caller_waits_for_it() -> None:
    caller = Caller()
    for n in range(50):
        late = 0.030 if n == 25 else 0.0
        caller.hear(bytes(PACKET), 1.0 + 0.02 * n + late)
    assert caller.tally.packets == 50
    assert caller.tally.lateness.worst_ms == pytest.approx(30, abs=0.1)
    assert caller.tally.lateness.quantile(0.9) == pytest.approx(0.5)
    assert caller.tally.jitter.worst_ms == pytest.approx(30, abs=0.1)
    assert len(caller.carrier.playout.gaps) == 1


def test_what_a_gap_has_put_in_hand_excuses_no_later_packet() -> None:
    caller = Caller()
    for n in range(100):
        late = 0.050 if n in (20, 40, 60, 80) else 0.0
        caller.hear(bytes(PACKET), 1.0 + 0.02 * n + late)
    assert caller.tally.lateness.quantile(0.95) == pytest.approx(0.5)
    assert caller.tally.lateness.quantile(0.97) == pytest.approx(50, abs=1)  # all four of 99
    assert len(caller.carrier.playout.gaps) == 1


def test_a_stall_makes_all_packets_late_that_it_kept() -> None:
    caller = Caller()
    for n in range(50):
        due = 1.0 + 0.02 * n
        caller.hear(bytes(PACKET), 1.6 if 1.3 < due < 1.6 else due)  # fourteen packets at once
    assert caller.tally.lateness.worst_ms == pytest.approx(280, abs=1)
    late = sum(count for place, count in caller.tally.lateness.bins.items() if place * MS_PER_BIN >= 15)
    assert late == 14


def test_audio_ahead_of_time_is_not_late_afterwards() -> None:
    caller = Caller()
    for _ in range(10):
        caller.hear(bytes(PACKET), 1.0)  # 200 ms at once
    for n in range(50):
        caller.hear(bytes(PACKET), 1.02 + 0.02 * n)
    assert caller.tally.lateness.worst_ms < 1


def prompt(caller: Caller, begin: float, packets: int, stall_s: float = 0.0) -> float:
    """A prompt that is sent 200 ms ahead, from its middle on later by `stall_s`. When the last of it is heard."""
    for n in range(packets):
        ahead = max(0.0, 0.02 * n - 0.2)
        caller.hear(bytes(PACKET), begin + ahead + (stall_s if n >= packets // 2 else 0.0))
    return begin + 0.02 * packets


def live(caller: Caller, begin: float, packets: int = 50) -> None:
    for n in range(packets):
        caller.hear(bytes(PACKET), begin + 0.02 * n)


@pytest.mark.parametrize("after_s", [-0.19, -0.1, 0.0])
def test_a_live_stream_behind_a_prompt_that_ran_ahead_is_not_late(after_s: float) -> None:
    caller = Caller()
    live(caller, prompt(caller, 1.0, 50) + after_s)
    assert caller.tally.lateness.worst_ms < 1
    assert not caller.carrier.playout.gaps


@pytest.mark.parametrize("after_s", [0.015, 0.1, 0.25])
def test_behind_the_mark_that_ends_a_prompt_another_schedule_begins(after_s: float) -> None:
    caller = Caller()
    end = prompt(caller, 1.0, 50)
    caller.carrier.playout.mark("end", end - 0.2)
    live(caller, end + after_s)
    assert caller.tally.lateness.worst_ms < 1
    assert not caller.carrier.playout.gaps


def test_without_a_mark_the_same_pause_is_a_gap_and_late() -> None:
    caller = Caller()
    live(caller, prompt(caller, 1.0, 50) + 0.1)
    assert caller.tally.lateness.worst_ms == pytest.approx(100, abs=1)
    assert len(caller.carrier.playout.gaps) == 1


def test_what_is_sent_ahead_may_be_late_by_what_the_carrier_has_in_hand() -> None:
    for stall_s, heard_ms in ((0.15, 0), (0.19, 0), (0.25, 50), (0.45, 250)):
        caller = Caller()
        prompt(caller, 1.0, 100, stall_s)
        assert caller.tally.lateness.worst_ms == pytest.approx(heard_ms, abs=1)
        assert len(caller.carrier.playout.gaps) == (heard_ms > 0)


def test_after_a_clear_another_schedule_begins() -> None:
    caller = Caller()
    prompt(caller, 1.0, 20)
    caller.carrier.playout.clear(1.25)
    live(caller, 1.40)
    assert caller.tally.lateness.worst_ms < 1


def test_a_pause_of_the_bot_is_not_lateness() -> None:
    caller = Caller()
    for begin in (1.0, 5.0):
        live(caller, begin, 10)
    assert caller.tally.lateness.worst_ms < 1
