"""A bot that speaks as its audio is made: silence in hand, so that a late packet is no gap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bots.base import Call
from bots.echo import Echo
from gateway.simulator.base import CallPlan
from media.frames import OutputAudioRawFrame
from media.processor import FrameProcessor
from tests.gateway.virtual import VirtualCall

LOUD = np.full(160, 8000, "<i2").tobytes()  # 20 ms at 8 kHz


def echo(call: Call) -> Sequence[FrameProcessor]:
    return (Echo(),)


def gaps(heard: bytes, rate: int) -> list[float]:
    """Milliseconds of each silence between two sounds."""
    loud = np.flatnonzero(np.abs(np.frombuffer(heard, "<i2").astype(int)) > 500)
    holes = np.diff(loud)
    return [hole * 1000 / rate for hole in holes[holes > 2]]


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo", "vonage"])
def test_a_late_packet_is_no_gap(carrier: str) -> None:
    call = VirtualCall(carrier, lambda call: ())
    call.run(0.5)
    rate = call.core.output.ledger.sample_rate  # type: ignore[union-attr]
    voice = np.full(rate // 50, 8000, "<i2").tobytes()
    begun = call.t
    for number in range(50):
        late = 0.010 if number in (10, 30) else 0.0
        call.run(begun + number * 0.020 + late - call.t)
        call.core.inject(OutputAudioRawFrame(voice, rate, 1))
    call.run(0.2)
    assert gaps(call.heard(), call.fake.playout.rate) == []


def test_what_is_not_live_is_not_delayed() -> None:
    """A recording comes at once, and has no need of silence."""
    call = VirtualCall("twilio", lambda call: ())
    call.run(0.5)
    call.core.inject(OutputAudioRawFrame(LOUD * 100, 8000, 1))
    ledger = call.core.output.ledger
    assert ledger is not None
    assert ledger.generated == 100 * 160


def test_one_stream_gets_it_once() -> None:
    """A stream that stumbles has in hand what it was late by: it is not delayed more and more."""
    call = VirtualCall("twilio", lambda call: ())
    call.run(0.5)
    for pause in (0.020, 0.020, 0.080, 0.020, 0.150, 0.020):
        call.core.inject(OutputAudioRawFrame(LOUD, 8000, 1))
        call.run(pause)
    ledger = call.core.output.ledger
    assert ledger is not None
    assert ledger.generated == 6 * 160 + 200
    call.run(1.0)
    call.core.inject(OutputAudioRawFrame(LOUD, 8000, 1))  # another stream
    assert ledger.generated == 7 * 160 + 400


@pytest.mark.parametrize(("carrier", "piece_ms"), [("exotel", 20), ("exotel", 100), ("genesys", 20), ("genesys", 200)])
def test_nor_where_packets_are_long(carrier: str, piece_ms: int) -> None:
    """Their caller's audio comes in long pieces, and so does an echo's."""
    call = VirtualCall(carrier, lambda call: ())
    call.run(0.5)
    begun = call.t
    voice = LOUD * (piece_ms // 20)
    for number in range(4000 // piece_ms):
        late = 0.015 if 1000 <= number * piece_ms < 2000 else 0.0  # and a message's last piece is among them
        call.run(begun + number * piece_ms / 1000 + late - call.t)
        call.core.inject(OutputAudioRawFrame(voice, 8000, 1))
    call.run(0.6)
    heard = call.heard()
    assert gaps(heard, 8000) == []
    assert np.count_nonzero(np.frombuffer(heard, "<i2")) == pytest.approx(4 * 8000, abs=80)
    assert not call.fake.violations


def test_the_echo_comes_in_time() -> None:
    call = VirtualCall("twilio", echo, plan=CallPlan(), step_s=0.001)
    call.run(0.5)
    begun = len(call.heard())
    call.say(LOUD * 5)
    call.run(0.5)
    loud = np.flatnonzero(np.frombuffer(call.heard()[begun:], "<i2"))
    assert loud[0] / 8 <= 60.0
