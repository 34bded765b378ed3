"""What a caller of a load test notices, on virtual time."""

from __future__ import annotations

import pytest

from gateway.load.ear import Ear, marker
from gateway.load.tally import Tally
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
    assert caller.ear.first_sound_at == pytest.approx(1.045, abs=0.001)


def test_an_echo_that_waits_at_the_carrier_is_heard_later() -> None:
    caller = Caller()
    said = marker(8000)
    caller.ear.said_marker(1.0)
    caller.hear(bytes(1600), 1.010)  # 100 ms of silence ahead of it
    caller.hear(said[:PACKET], 1.030)
    assert caller.tally.echo.worst_ms == pytest.approx(110, abs=1)


def test_lateness_is_against_the_best_schedule_of_the_stretch() -> None:
    caller = Caller()
    for n in range(50):
        late = 0.030 if n == 25 else 0.0
        caller.hear(bytes(PACKET), 1.0 + 0.02 * n + late)
    assert caller.tally.packets == 50
    assert caller.tally.lateness.worst_ms == pytest.approx(30, abs=0.1)
    assert caller.tally.lateness.quantile(0.9) == pytest.approx(0.5)
    assert caller.tally.jitter.worst_ms == pytest.approx(30, abs=0.1)
    assert len(caller.carrier.playout.gaps) == 1


def test_audio_ahead_of_time_is_not_late_afterwards() -> None:
    caller = Caller()
    for _ in range(10):
        caller.hear(bytes(PACKET), 1.0)  # 200 ms at once
    for n in range(50):
        caller.hear(bytes(PACKET), 1.02 + 0.02 * n)
    assert caller.tally.lateness.worst_ms < 1


def test_a_pause_of_the_bot_is_not_lateness() -> None:
    caller = Caller()
    for begin in (1.0, 5.0):
        for n in range(10):
            caller.hear(bytes(PACKET), begin + 0.02 * n)
    assert caller.tally.lateness.worst_ms < 1
