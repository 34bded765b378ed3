"""One simulated caller of a load test, on virtual time: what it does, and what it says came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from gateway.load.line import BOT_LATE_S, HALF_OPEN_S, SILENCED_S, Line, Over
from gateway.load.plan import Arrival, Scenario
from gateway.load.tally import Tally
from gateway.load.wire import Wire
from gateway.registry import serializer_class
from gateway.simulator.base import CallPlan, fake_carrier
from media.dtmf import tone
from media.frames import InterruptionFrame, OutputAudioRawFrame
from serializers.base import WireOptions

STEP_S = 0.02
SOUND = tone("5", 8000, 20, 0)


class Caller:
    """A line without a socket; what a gateway would say is said by hand."""

    def __init__(self, carrier: str = "twilio", lasts: float = 1e9, **scenario: Any) -> None:
        self.t = 1000.0
        self.outcome: tuple[Over, str] | None = None
        self.tally = Tally()
        fake = fake_carrier(carrier)(CallPlan(), strict=False, record=False)
        fake.records, fake.playout.marks_only = True, not fake.tells_playback
        self.line = Line(Arrival(0.0, 0, lasts, Scenario(**scenario), carrier), fake, self.tally, self, self.t)
        self.written: list[bytes] = []
        self.is_gone = False
        self.line.wire = Wire("ws://127.0.0.1:1/", {}, self.line)
        self.line.wire.connection_made(cast(asyncio.Transport, self))
        self.written.clear()
        self.line.opened(self.t)
        self.gateway = serializer_class(carrier).for_call(WireOptions())
        for message in self.said():
            self.gateway.decode(message)

    # The transport, and who keeps the lines.

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.is_gone = True

    def pause_reading(self) -> None: ...

    def now(self) -> float:
        return self.t

    def over(self, line: Line, how: Over, reason: str) -> None:
        self.outcome = how, reason

    # The test's side.

    def said(self) -> list[str]:
        """What the line has written since the last time: texts of less than 64 kB."""
        texts = [data[6 if data[1] & 0x7F < 126 else 8 :].decode() for data in self.written]
        self.written.clear()
        return texts

    def events(self) -> list[str]:
        return [msgspec.json.decode(text)["event"] for text in self.said()]

    def run(self, seconds: float, bot: Callable[[], Any] = lambda: None) -> None:
        for _ in range(round(seconds / STEP_S)):
            self.t += STEP_S
            bot()
            self.line.visit(self.t, self.t)

    def speak(self, pcm: bytes = SOUND) -> None:
        for message in self.gateway.encode(OutputAudioRawFrame(pcm, 8000, 1)):
            self.line.message(message, self.t)

    def clear(self) -> None:
        for message in self.gateway.encode(InterruptionFrame()):
            self.line.message(message, self.t)


def test_a_key_that_clears_the_carrier_is_timed_from_the_key() -> None:
    caller = Caller(barge_in_at_s=1.0, barge_in_by="1", says="silence")
    caller.run(0.5)
    caller.events()
    caller.run(1.0, caller.speak)
    assert caller.events().count("dtmf") == 1
    caller.t += 0.005
    caller.clear()
    caller.run(0.04)
    assert caller.tally.barge_in.count == 1
    assert caller.tally.barge_in.worst_ms == pytest.approx(505, abs=21)  # the key was pressed at 1.0 s
    caller.run(5.0, caller.speak)
    assert caller.tally.barge_in.count == 1
    assert caller.tally.uninterrupted == 0


def test_a_tone_that_makes_the_bot_fall_silent_without_a_clear() -> None:
    caller = Caller(barge_in_at_s=1.0, says="silence")
    caller.run(1.5, caller.speak)
    caller.run(1.0)
    assert caller.tally.barge_in.count == 1
    assert caller.tally.barge_in.worst_ms == pytest.approx(500, abs=50)  # it has spoken on for half a second
    assert caller.tally.uninterrupted == 0


def test_a_bot_that_speaks_on_is_counted() -> None:
    caller = Caller(barge_in_at_s=1.0, barge_in_by="1")
    caller.run(1.0 + SILENCED_S + 0.5, caller.speak)
    assert (caller.tally.barge_in.count, caller.tally.uninterrupted) == (0, 1)


def test_who_cuts_in_waits_until_the_bot_can_be_heard() -> None:
    caller = Caller(barge_in_at_s=1.0, barge_in_by="1")
    caller.run(3.0)
    assert "dtmf" not in caller.events()
    caller.run(1.0, lambda: caller.speak(bytes(320)))  # silence is nothing to cut into
    assert "dtmf" not in caller.events()
    caller.run(0.2, caller.speak)
    assert caller.events().count("dtmf") == 1


def test_the_bot_ends_the_call() -> None:
    caller = Caller(lasts=1.0, end="bot")
    caller.run(1.5)
    assert caller.outcome is None
    caller.line.lost(1000)
    assert caller.outcome == (Over.DONE, "")


def test_a_bot_that_does_not_end_the_call_in_time() -> None:
    caller = Caller(lasts=1.0, end="bot")
    caller.run(BOT_LATE_S + 0.9)
    assert caller.outcome is None
    caller.run(0.2)
    assert caller.outcome == (Over.FAILED, "the bot did not end the call")
    assert caller.is_gone


def test_a_bot_that_ends_the_call_before_its_caller_does() -> None:
    caller = Caller(lasts=5.0)
    caller.run(1.0)
    caller.line.lost(1000)
    assert caller.outcome == (Over.FAILED, "the bot ended the call before the caller")


@pytest.mark.parametrize("carrier", ["twilio", "exotel", "vonage"])
def test_all_say_their_marker_every_two_seconds(carrier: str) -> None:
    caller = Caller(carrier)
    fake = caller.line.carrier
    heard: list[tuple[bytes, float]] = []
    audio = fake.audio

    def listen(pcm: bytes, now: float) -> Any:
        heard.append((pcm, now))
        return audio(pcm, now)

    fake.audio = listen  # type: ignore[method-assign]
    caller.run(6.05)
    spoken = b"".join(pcm for pcm, _ in heard)
    period = 2 * 2 * fake.audio_rate
    assert len(spoken) >= 2 * period
    assert any(spoken[:period])
    assert spoken[:period] == spoken[period : 2 * period]


@pytest.mark.parametrize("given_up", [True, False])
def test_a_half_open_call_ends_when_the_gateway_gives_it_up_and_else_after_some_minutes(given_up: bool) -> None:
    caller = Caller(lasts=1.0, end="half-open")
    caller.run(30.0)
    assert (caller.outcome, caller.tally.live) == (None, 1)
    if given_up:
        caller.line.lost(1006)
    else:
        caller.run(HALF_OPEN_S)
    assert (caller.outcome, caller.tally.live) == ((Over.DONE, ""), 0)
    assert caller.is_gone is not given_up


def test_a_call_that_connects_after_it_was_given_up_is_not_begun() -> None:
    caller = Caller()
    wire = Wire("ws://127.0.0.1:1/", {}, caller.line)
    wire.abort()
    wire.connection_made(cast(asyncio.Transport, caller))
    assert caller.is_gone
    assert caller.written == []
