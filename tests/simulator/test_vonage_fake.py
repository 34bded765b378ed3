"""The strict fake of Vonage: what it says, what it plays, and every message that it refuses."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from bots.echo import Echo
from gateway.simulator.base import CallPlan, ProtocolViolation, fake_carrier
from gateway.simulator.vonage import MAX_MESSAGES, FakeVonage
from tests.gateway.test_core import loud_s, speech, tone
from tests.gateway.virtual import VirtualCall

NOW = 100.0


def ramp(samples: int) -> bytes:
    return struct.pack(f"<{samples}h", *(i % 1999 + 1 for i in range(samples)))


def opened(strict: bool = True, record: bool = True, **plan: Any) -> FakeVonage:
    fake = FakeVonage(CallPlan(**plan), strict=strict, record=record)
    fake.opening(NOW)
    return fake


def notify(name: str) -> str:
    return json.dumps({"action": "notify", "payload": {"id": name}})


CLEAR = '{"action":"clear"}'


# ---------------------------------------------------------------- what it says


def test_it_is_found_by_its_name() -> None:
    assert fake_carrier("vonage") is FakeVonage


@pytest.mark.parametrize("rate", [0, 8000, 16000, 24000])
def test_it_opens_with_our_headers_flattened(rate: int) -> None:
    fake = FakeVonage(CallPlan(sample_rate=rate, parameters={"tenant": "t1"}))
    (message,) = fake.opening(NOW)
    assert json.loads(message) == {
        "event": "websocket:connected",
        "content-type": f"audio/l16;rate={rate or 16000}",
        "gw_call": fake.call_id,
        "tenant": "t1",
    }
    assert fake.ready
    assert (fake.audio_rate, fake.packet_ms) == (rate or 16000, 20)


def test_caller_audio_is_binary() -> None:
    assert list(opened().audio(ramp(320), NOW)) == [ramp(320)]


def test_connected_can_be_late_or_missing_or_say_another_rate() -> None:
    fake = FakeVonage(CallPlan(options={"audio_first": 2}))
    assert list(fake.opening(NOW)) == []
    said = [message for _ in range(3) for message in fake.audio(ramp(320), NOW)]
    assert [type(message) for message in said] == [bytes, bytes, str, bytes]
    fake = FakeVonage(CallPlan(options={"connected": False}))
    assert list(fake.opening(NOW)) == []
    assert all(isinstance(message, bytes) for _ in range(9) for message in fake.audio(ramp(320), NOW))
    fake = FakeVonage(CallPlan(options={"content_type": "audio/l16;rate=8000"}))
    assert json.loads(fake.opening(NOW)[0])["content-type"] == "audio/l16;rate=8000"


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("flat", {"event": "websocket:dtmf", "digit": "5", "duration": 260}),
        ("legacy", {"digit": "5", "duration": 260}),
        ("nested", {"event": "websocket:dtmf", "dtmf": {"digit": "5"}}),
        ("int", {"event": "websocket:dtmf", "digit": 5, "duration": 260}),
    ],
)
def test_digits_in_every_shape_that_was_seen(shape: str, expected: Any) -> None:
    fake = opened(options={"dtmf": shape})
    assert [json.loads(message) for message in fake.press("5", NOW)] == [expected]


def test_lost_packets() -> None:
    fake = opened(options={"lose_every": 3})
    assert sum(len(list(fake.audio(ramp(320), NOW))) for _ in range(9)) == 6


def test_a_voice_leg_ends_with_the_socket_a_video_session_says_so_first() -> None:
    fake = opened()
    assert list(fake.hang_up(NOW + 1)) == []
    assert (fake.closes_socket, fake.close_code, fake.ended_by) == (True, 1000, "caller")
    fake = opened(options={"product": "video", "close_code": 1006})
    (message,) = fake.api_hang_up(NOW + 1)
    assert json.loads(message) == {"event": "websocket:disconnected", "gw_call": fake.call_id}
    assert (fake.closes_socket, fake.close_code, fake.ended_by) == (True, 1006, "bot")


def test_a_participant_is_muted() -> None:
    fake = opened(options={"product": "video"})
    (message,) = fake.set_active(False, NOW)
    assert json.loads(message) == {
        "event": "websocket:media:update",
        "method": "update",
        "active": False,
        "content-type": "audio/l16;rate=16000",
        "gw_call": fake.call_id,
    }


def test_the_authorization_that_the_answer_asked_for() -> None:
    fake = FakeVonage(CallPlan(credentials={"authorization": "Bearer abc"}))
    assert fake.handshake("T0KEN").path == "/vonage/media/T0KEN"
    assert fake.handshake("T0KEN").headers == {"Authorization": "Bearer abc"}
    assert FakeVonage().handshake("T0KEN").headers == {}


def test_plans_that_vonage_does_not_have() -> None:
    with pytest.raises(ValueError, match="Hz"):
        FakeVonage(CallPlan(sample_rate=44100))
    with pytest.raises(ValueError, match="512 bytes"):
        FakeVonage(CallPlan(parameters={"a": "x" * 512}))


# ---------------------------------------------------------------- what it plays


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_frames_are_heard_one_after_another_however_early_they_come(rate: int) -> None:
    fake = opened(sample_rate=rate)
    pcm = ramp(rate // 5)
    size = rate // 25
    for at in range(0, len(pcm), size):
        fake.receive(pcm[at : at + size], NOW)
    fake.tick(NOW + 0.1)
    assert fake.playout.heard == pcm[: len(pcm) // 2]
    fake.tick(NOW + 0.3)
    assert fake.playout.heard[: len(pcm)] == pcm
    assert not any(fake.playout.heard[len(pcm) :])


def test_a_notify_is_echoed_when_what_stood_before_it_was_played() -> None:
    fake = opened()
    fake.receive(ramp(320), NOW)
    assert fake.receive(notify("a"), NOW) == ()
    assert fake.receive('{"action":"notify","payload":{"step":["x"]}}', NOW) == ()
    assert fake.tick(NOW + 0.019) == ()
    echoes = [json.loads(message) for message in fake.tick(NOW + 0.02)]
    assert echoes == [
        {"event": "websocket:notify", "payload": {"id": "a"}},
        {"event": "websocket:notify", "payload": {"step": ["x"]}},
    ]


def test_a_notify_can_stay_unanswered() -> None:
    fake = opened(options={"notify": False})
    fake.receive(ramp(320), NOW)
    fake.receive(notify("a"), NOW)
    assert list(fake.tick(NOW + 9)) == []


def test_a_clear_drops_everything_and_is_answered_a_little_later() -> None:
    fake = opened()
    for _ in range(10):
        fake.receive(ramp(320), NOW)
    fake.receive(notify("a"), NOW)
    (echo,) = fake.receive(CLEAR, NOW + 0.05)
    assert json.loads(str(echo)) == {"event": "websocket:notify", "payload": {"id": "a"}}
    assert fake.next_tick_at() == pytest.approx(NOW + 0.19)
    assert fake.tick(NOW + 0.18) == ()
    assert list(fake.tick(NOW + 0.19)) == ['{"event":"websocket:cleared"}']
    fake.tick(NOW + 1)
    heard = fake.playout.heard
    assert heard[:1600] == (ramp(320) * 3)[:1600]
    assert not any(heard[1600:])


def test_what_a_clear_may_leave_out() -> None:
    fake = opened(options={"notify_on_clear": False, "cleared_after_s": None})
    fake.receive(ramp(320), NOW)
    fake.receive(notify("a"), NOW)
    assert list(fake.receive(CLEAR, NOW)) == []
    assert fake.tick(NOW + 9) == ()
    fake.receive(ramp(320), NOW + 10)
    fake.receive(notify("a"), NOW + 10)
    assert len(fake.tick(NOW + 11)) == 1


def test_a_minute_may_wait_and_no_more() -> None:
    fake = opened(sample_rate=8000)
    for _ in range(MAX_MESSAGES):
        fake.receive(bytes(320), NOW)
    with pytest.raises(ProtocolViolation, match="more audio than the carrier buffers"):
        fake.receive(bytes(320), NOW)


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("size", [0, 1, 320, 638, 639, 641, 642, 1280])
def test_one_frame_of_another_size_and_vonage_stops_reading(size: int, strict: bool) -> None:
    fake = opened(strict)
    fake.receive(bytes(640), NOW)
    with pytest.raises(ProtocolViolation, match=f"unexpected frame size {size / 2:g}, when required 320"):
        fake.receive(bytes(size), NOW)
    assert (fake.ended_by, fake.closes_socket, fake.close_code) == ("error", True, 1006)
    assert fake.receive(bytes(640), NOW) == ()
    assert fake.audio_messages_out == 1


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        ("", "JSON"),
        ("[]", "JSON"),
        ("{}", "clear and notify"),
        ('{"action":"hangup"}', "clear and notify"),
        ('{"event":"clear"}', "clear and notify"),
        ('{"action":["clear"]}', "clear and notify"),
        ('{"action":"clear","payload":{}}', "unknown field"),
        ('{"action":"notify"}', "lacks 'payload'"),
        ('{"action":"notify","payload":"turn-1"}', "payload is str"),
        ('{"action":"notify","payload":{},"id":"x"}', "unknown field"),
    ],
)
def test_texts(message: str, rule: str) -> None:
    fake = opened()
    with pytest.raises(ProtocolViolation, match=rule) as caught:
        fake.receive(message, NOW)
    assert caught.value.carrier == "vonage"
    assert fake.violations == [caught.value]
    assert fake.ended_by == "error"


def test_load_mode_counts_without_keeping() -> None:
    fake = opened(strict=False, record=False)
    fake.receive(ramp(320), NOW)
    fake.tick(NOW + 1)
    assert (fake.audio_messages_out, fake.playout.played_s, len(fake.playout.heard)) == (1, 0.02, 0)


# ---------------------------------------------------------------- the gateway at its other end


def call(processors: Any = lambda call: (), **plan: Any) -> VirtualCall:
    line = VirtualCall("vonage", processors, plan=CallPlan(**plan), latency_s=0.02)
    line.run(0.5)
    return line


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
@pytest.mark.parametrize("product", ["voice", "video"])
def test_the_echo_is_whole_and_in_time(rate: int, product: str) -> None:
    line = call(lambda call: [Echo()], sample_rate=rate, options={"product": product})
    line.say(tone(1.0, rate=rate))
    line.run(3)
    heard = line.heard()
    first = next(at for at in range(0, len(heard), 2) if abs(struct.unpack_from("<h", heard, at)[0]) > 500)
    assert loud_s(heard, rate) == pytest.approx(1.0, abs=0.02)
    assert first / 2 / rate - 0.5 <= 0.1
    assert line.fake.playout.audible_gaps() == []


@pytest.mark.parametrize("notify", [True, False])
def test_the_goodbye_is_heard_whether_or_not_notify_is_answered(notify: bool) -> None:
    line = call(options={"notify": notify})
    for frame in speech(tone(1.05, rate=16000), 16000):
        line.core.inject(frame)
    line.core.end("bye")
    line.run(10)
    assert loud_s(line.heard(), 16000) == pytest.approx(1.05, abs=0.02)
    assert (line.over, line.core.reason, line.fake.ended_by) == (True, "bye", "bot")


@pytest.mark.parametrize("options", [{}, {"notify_on_clear": False}, {"cleared_after_s": None}], ids=str)
def test_an_interruption_and_what_the_caller_had_heard_by_then(options: Any) -> None:
    line = call(options=options)
    for frame in speech(tone(3.0, rate=16000), 16000):
        line.core.inject(frame)
    line.run(1.03)
    line.core.interrupt()
    line.run(1.0)
    (cleared,) = line.fake.playout.clears
    assert cleared.silent_at == cleared.at
    ledger = line.core.output.ledger
    assert ledger is not None
    assert ledger.heard(line.t) / 16000 == pytest.approx(line.fake.playout.played_s, abs=0.02)


@pytest.mark.parametrize(("code", "product"), [(1000, "voice"), (1006, "voice"), (1000, "video")])
def test_a_closed_socket_is_the_callers_end(code: int, product: str) -> None:
    line = call(options={"close_code": code, "product": product})
    line.hang_up()
    line.run(5)
    assert (line.over, line.core.reason) == (True, "caller")


@pytest.mark.parametrize("options", [{"connected": False}, {"audio_first": 5}, {"dtmf": "legacy"}], ids=str)
def test_a_call_with_every_oddity(options: Any) -> None:
    line = call(lambda call: [Echo()], options=options)
    line.say(tone(1.0, rate=16000))
    line.press("5")
    line.run(2)
    assert line.core.counters["digits"] == 1
    assert line.core.counters["bad_messages"] == 0
    assert loud_s(line.heard(), 16000) == pytest.approx(1.0, abs=0.02)
    assert line.fake.violations == []
