"""The call core on virtual time, against strict fake carriers."""

from __future__ import annotations

import math
import struct

import pytest

from bots.echo import Echo
from gateway.ports import CallLimits
from gateway.simulator.base import CallPlan
from gateway.states import OVER, TRANSITIONS, CallEvent, CallState
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    EndFrame,
    EndTaskFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    OutputAudioRawFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from media.processor import FrameDirection, FrameProcessor
from tests.gateway.virtual import VirtualCall


def tone(seconds: float, hz: float = 440.0, rate: int = 8000, level: int = 12000) -> bytes:
    count = int(seconds * rate)
    return struct.pack(f"<{count}h", *(int(level * math.sin(2 * math.pi * hz * n / rate)) for n in range(count)))


def loud_s(pcm: bytes, rate: int = 8000) -> float:
    """Seconds of 10 ms blocks that are not silent."""
    block = rate // 100 * 2
    blocks = [pcm[at : at + block] for at in range(0, len(pcm), block)]
    return sum(any(abs(v) > 500 for v in struct.unpack(f"<{len(b) // 2}h", b)) for b in blocks) / 100


class Probe(FrameProcessor):
    """Keeps what comes by."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Frame] = []

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.seen.append(frame)
        self.push_frame(frame, direction)

    def count(self, kind: type[Frame]) -> int:
        return sum(isinstance(frame, kind) for frame in self.seen)


def speech(pcm: bytes, rate: int = 8000) -> list[Frame]:
    return [TTSStartedFrame(), TTSAudioRawFrame(pcm, rate, 1), TTSStoppedFrame()]


# ---------------------------------------------------------------- the table


def test_every_state_can_be_left_and_reached() -> None:
    left = {state for state, _ in TRANSITIONS}
    reached = set(TRANSITIONS.values())
    assert left == set(CallState) - OVER
    assert reached == set(CallState) - {CallState.OPENING}


def test_paused_leaves_by_everything_that_live_leaves_by() -> None:
    live = {event: target for (state, event), target in TRANSITIONS.items() if state is CallState.LIVE}
    paused = {event: target for (state, event), target in TRANSITIONS.items() if state is CallState.PAUSED}
    del live[CallEvent.PAUSED], paused[CallEvent.RESUMED]
    assert live == paused


# ---------------------------------------------------------------- a call


def test_an_echo_call_from_start_to_hang_up() -> None:
    call = VirtualCall("twilio", lambda call: [Echo()])
    call.say(tone(1.0))
    call.run(2.0)
    assert call.core.state is CallState.LIVE
    call.hang_up()
    call.run(1.0)
    assert call.core.state is CallState.CLOSED
    assert call.core.ended_by == "caller"
    assert call.fake.ended_by == "caller"
    assert not call.fake.violations
    assert loud_s(call.heard()) == pytest.approx(1.0, abs=0.05)


def test_the_bot_ends_only_when_its_last_word_was_heard() -> None:
    call = VirtualCall("twilio", latency_s=0.03)
    call.run(0.1)
    for frame in speech(tone(3.0)):
        call.core.inject(frame)
    call.core.inject(EndFrame("done"))
    call.run(2.5)
    assert call.core.state in (CallState.LIVE, CallState.DRAINING)
    call.run(5.0)
    assert call.core.state is CallState.CLOSED
    assert (call.core.ended_by, call.core.reason) == ("bot", "done")
    assert call.fake.ended_by == "bot"
    assert loud_s(call.heard()) == pytest.approx(3.0, abs=0.02)
    assert not call.fake.playout.gaps


def test_the_call_handle_ends_behind_what_is_queued() -> None:
    call = VirtualCall("twilio")
    call.run(0.1)
    for frame in speech(tone(1.0)):
        call.core.inject(frame)
    call.core.end("completed")
    assert call.core.state is CallState.DRAINING
    call.run(5.0)
    assert call.fake.ended_by == "bot"
    assert loud_s(call.heard()) == pytest.approx(1.0, abs=0.02)


def test_an_interruption_silences_the_carrier_at_once_and_the_next_reply_is_clean() -> None:
    call = VirtualCall("twilio", sample_rate=16000)
    call.run(0.1)
    for frame in speech(tone(5.0, 440, 16000), 16000):
        call.core.inject(frame)
    call.run(1.0)
    before = len(call.sent)
    call.core.inject(InterruptionFrame())
    assert '"clear"' in call.sent[before][1]
    assert len(call.sent) == before + 1
    call.run(0.5)
    assert not any('"media"' in message for _, message in call.sent[before:])
    loud_before = loud_s(call.heard())
    assert loud_before == pytest.approx(1.0, abs=0.03)
    for frame in speech(tone(0.5, 1000, 16000), 16000):
        call.core.inject(frame)
    call.run(2.0)
    assert loud_s(call.heard()) - loud_before == pytest.approx(0.5, abs=0.02)


def test_bot_speaking_edges_go_both_ways_and_stop_when_heard() -> None:
    probe = Probe()
    call = VirtualCall("twilio", lambda _: [probe])
    call.run(0.1)
    began = call.t
    for frame in speech(tone(1.0)):
        call.core.inject(frame)
    call.run(0.5)
    assert probe.count(BotStartedSpeakingFrame) == 1
    assert probe.count(BotStoppedSpeakingFrame) == 0
    call.run(3.0, until=lambda: probe.count(BotStoppedSpeakingFrame) > 0)
    assert call.t - began == pytest.approx(1.0, abs=0.08)


def test_a_second_interruption_request_from_below_reaches_the_carrier() -> None:
    class Interrupter(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if isinstance(frame, TTSStoppedFrame):
                self.broadcast_interruption()
            self.push_frame(frame, direction)

    call = VirtualCall("twilio", lambda _: [Interrupter()])
    call.run(0.1)
    for frame in speech(tone(2.0)):
        call.core.inject(frame)
    assert any('"clear"' in message for _, message in call.sent)
    assert call.core.counters["interruptions"] == 1


def test_a_processor_that_raises_costs_a_frame_not_the_call() -> None:
    class Broken(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if isinstance(frame, InputAudioRawFrame):
                raise RuntimeError("broken")
            self.push_frame(frame, direction)

    call = VirtualCall("twilio", lambda _: [Broken()])
    call.run(1.0)
    assert call.core.state is CallState.LIVE
    assert call.core.counters["errors"] > 10


def test_a_bot_that_cannot_be_built_ends_the_call_in_good_order() -> None:
    def broken(call: object) -> list[FrameProcessor]:
        raise RuntimeError("no such thing")

    call = VirtualCall("twilio", broken)
    call.run(2.0)
    assert call.core.state is CallState.CLOSED
    assert (call.core.ended_by, call.core.reason) == ("gateway", "error")
    assert call.fake.ended_by == "bot"


def test_a_request_from_inside_the_pipeline_ends_the_call() -> None:
    class Ender(FrameProcessor):
        def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            if isinstance(frame, StartFrame):
                self.push_frame(frame, direction)
                self.push_frame(EndTaskFrame("enough"), FrameDirection.UPSTREAM)
                return
            self.push_frame(frame, direction)

    call = VirtualCall("twilio", lambda _: [Ender()])
    call.run(1.0)
    assert (call.core.state, call.core.reason) == (CallState.CLOSED, "enough")


# ---------------------------------------------------------------- exits


def test_no_start_message_fails_the_call() -> None:
    call = VirtualCall("twilio", limits=CallLimits(start_s=1.0))
    call._to_core.clear()  # the carrier never says anything
    call.fake.ready = False
    call.run(0.9)
    assert call.core.state is CallState.OPENING
    call.run(0.5)
    assert (call.core.state, call.core.reason) == (CallState.FAILED, "no-start")
    assert call.closed_with == 1008


def test_a_carrier_that_falls_silent_is_given_up() -> None:
    call = VirtualCall("twilio", lambda _: [Echo()], limits=CallLimits(silence_s=2.0))
    call.run(0.5)
    call.fake.ready = False  # no more audio
    call.run(3.0)
    assert (call.core.state, call.core.reason) == (CallState.CLOSED, "carrier-silent")


def test_the_longest_call() -> None:
    call = VirtualCall("twilio", lambda _: [Echo()], limits=CallLimits(longest_s=1.0))
    call.run(3.0)
    assert (call.core.state, call.core.reason, call.core.ended_by) == (CallState.CLOSED, "longest-call", "gateway")


def test_shutdown_lets_the_last_words_be_heard() -> None:
    call = VirtualCall("twilio")
    call.run(0.1)
    for frame in speech(tone(1.0)):
        call.core.inject(frame)
    call.core.shutdown()
    call.run(5.0)
    assert (call.core.state, call.core.reason) == (CallState.CLOSED, "shutdown")
    assert loud_s(call.heard()) == pytest.approx(1.0, abs=0.02)


def test_cancel_does_not_wait() -> None:
    call = VirtualCall("twilio")
    call.run(0.1)
    for frame in speech(tone(5.0)):
        call.core.inject(frame)
    call.core.cancel()
    call.run(0.1)
    assert call.core.state is CallState.CLOSED


def test_a_socket_that_breaks_ends_the_call_once() -> None:
    call = VirtualCall("twilio", lambda _: [Echo()])
    call.run(0.5)
    call.core.disconnected(1006, call.t)
    call.core.disconnected(1006, call.t)
    assert (call.core.state, call.core.reason) == (CallState.CLOSED, "socket-lost")


def test_rubbish_is_counted_and_dropped() -> None:
    call = VirtualCall("twilio", lambda _: [Echo()])
    call.run(0.2)
    for rubbish in (
        "",
        "[]",
        "{",
        b"\xff\xfe",
        '{"event":"media"}',
        '{"event":"dtmf","dtmf":{"digit":[]}}',
        "x" * 70000,
    ):
        call.core.receive(rubbish, call.t)
    call.run(0.2)
    assert call.core.state is CallState.LIVE
    assert call.core.counters["bad_messages"] >= 6


def test_a_timer_that_raises_ends_this_call_only() -> None:
    call = VirtualCall("twilio")
    call.run(0.1)

    def broken() -> None:
        raise RuntimeError("late")

    call.core.call_later(0.1, broken)
    call.run(2.0)
    assert (call.core.state, call.core.reason) == (CallState.CLOSED, "error")


def test_a_sound_without_end_mark_is_heard_to_its_last_sample() -> None:
    call = VirtualCall("twilio")
    call.run(0.1)
    call.core.inject(OutputAudioRawFrame(tone(0.507), 8000, 1))
    call.run(2.0)
    assert loud_s(call.heard()) == pytest.approx(0.51, abs=0.011)


@pytest.mark.parametrize("latency_s", [0.03, 0.1, 0.2])
@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo", "exotel", "vonage", "genesys"])
def test_the_goodbye_is_heard_whole_on_a_slow_line(carrier: str, latency_s: float) -> None:
    call = VirtualCall(carrier, latency_s=latency_s)
    call.run(1.0)
    rate = call.fake.playout.rate
    for frame in speech(tone(1.0, rate=rate), rate):
        call.core.inject(frame)
    call.core.end()
    call.run(20.0)
    assert call.core.state is CallState.CLOSED
    assert not call.fake.violations
    assert loud_s(call.heard(), rate) == pytest.approx(1.0, abs=0.02)


def test_a_carrier_that_never_answers_marks_does_not_hold_the_call() -> None:
    call = VirtualCall("vonage", plan=CallPlan(options={"notify": False}))
    call.run(0.5)
    for frame in speech(tone(0.5, rate=16000), 16000):
        call.core.inject(frame)
    call.core.end()
    began = call.t
    call.run(20.0)
    assert call.core.state is CallState.CLOSED
    assert call.t - began < 5.0


@pytest.mark.parametrize(
    ("carrier", "said", "instead"),
    [
        ("twilio", '"audio/x-mulaw"', '"audio/opus"'),
        ("plivo", '"audio/x-mulaw"', '"audio/opus"'),
        ("telnyx", '"PCMU"', '"OPUS"'),
    ],
)
def test_a_stream_that_cannot_be_decoded_fails_at_once(carrier: str, said: str, instead: str) -> None:
    call = VirtualCall(carrier)
    call._to_core = [(at, message.replace(said, instead)) for at, message in call._to_core]
    call.run(0.1)
    assert (call.core.state, call.core.reason) == (CallState.FAILED, "unusable-stream")
