"""The strict fake of Exotel: what it says, what it plays, and every message that it refuses."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from bots.echo import Echo
from gateway.simulator.base import CallPlan, ProtocolViolation, fake_carrier
from gateway.simulator.exotel import FakeExotel
from media.codecs import pcm_to_ulaw
from tests.gateway.test_core import loud_s, speech, tone
from tests.gateway.virtual import VirtualCall

NOW = 100.0


def ramp(samples: int) -> bytes:
    return struct.pack(f"<{samples}h", *(i % 1999 + 1 for i in range(samples)))


def opened(strict: bool = True, record: bool = True, **plan: Any) -> FakeExotel:
    fake = FakeExotel(CallPlan(**plan), strict=strict, record=record)
    fake.opening(NOW)
    return fake


def said(messages: Any) -> list[Any]:
    return [json.loads(message) for message in messages]


def media(fake: FakeExotel, pcm: bytes, **fields: Any) -> str:
    payload = base64.b64encode(pcm).decode()
    return json.dumps({"event": "media", "stream_sid": fake.stream_sid, "media": {"payload": payload}, **fields})


def mark(fake: FakeExotel, name: str) -> str:
    return json.dumps({"event": "mark", "stream_sid": fake.stream_sid, "mark": {"name": name}})


def clear(fake: FakeExotel) -> str:
    return json.dumps({"event": "clear", "stream_sid": fake.stream_sid})


# ---------------------------------------------------------------- what it says


def test_it_is_found_by_its_name() -> None:
    assert fake_carrier("exotel") is FakeExotel


def test_it_opens_with_connected_and_start_in_the_types_of_real_calls() -> None:
    fake = FakeExotel(CallPlan(from_number="09876543210", to_number="08047491899", parameters={"ref": "42"}))
    connected, start = said(fake.opening(NOW))
    assert connected == {"event": "connected"}
    assert start["sequence_number"] == "1"
    assert start["stream_sid"] == start["start"]["stream_sid"] == fake.stream_sid
    assert start["start"] == {
        "stream_sid": fake.stream_sid,
        "call_sid": fake.call_id,
        "account_sid": "acme1",
        "from": "09876543210",
        "to": "08047491899",
        "custom_parameters": {"ref": "42"},
        "media_format": {"encoding": "base64", "sample_rate": "8000", "bit_rate": "128kbps"},
    }
    assert fake.ready


def test_caller_audio_is_100_ms_numbered_from_one() -> None:
    fake = opened()
    assert (fake.audio_rate, fake.packet_ms) == (8000, 100)
    for chunk in (1, 2, 3):
        (message,) = said(fake.audio(ramp(800), NOW))
        assert message["sequence_number"] == str(chunk + 1)
        assert (message["media"]["chunk"], message["media"]["timestamp"]) == (str(chunk), str(chunk * 100))
        assert base64.b64decode(message["media"]["payload"]) == ramp(800)


def test_digits_and_the_column_that_is_never_reported() -> None:
    fake = opened()
    for digit in "0123456789*#":
        (message,) = said(fake.press(digit, NOW))
        assert message["dtmf"] == {"duration": "200", "digit": digit}
    assert list(fake.press("A", NOW)) == []
    fake = opened(options={"flat_dtmf": True})
    (message,) = said(fake.press("5", NOW))
    assert (message["event"], message["digit"], "dtmf" in message) == ("dtmf", "5", False)


def test_numbers_as_numbers_and_keys_in_camel_case() -> None:
    fake = FakeExotel(CallPlan(parameters={"my_ref": "1"}, options={"numbers": True, "camel": True}))
    _, start = said(fake.opening(NOW))
    assert (start["sequenceNumber"], start["streamSid"]) == (1, fake.stream_sid)
    assert start["start"]["mediaFormat"] == {"encoding": "base64", "sampleRate": 8000, "bitRate": "128kbps"}
    assert start["start"]["customParameters"] == {"my_ref": "1"}
    (message,) = said(fake.audio(ramp(800), NOW))
    assert (message["media"]["chunk"], message["media"]["timestamp"]) == (1, 100)


def test_the_start_can_be_without_connected_and_with_another_rate() -> None:
    fake = FakeExotel(CallPlan(sample_rate=16000, options={"connected": False, "start_rate": 8000}))
    (start,) = said(fake.opening(NOW))
    assert start["start"]["media_format"]["sample_rate"] == "8000"


def test_lost_packets_leave_holes_in_the_numbers() -> None:
    fake = opened(options={"lose_every": 3})
    chunks = [message["media"]["chunk"] for _ in range(6) for message in said(fake.audio(ramp(800), NOW))]
    assert chunks == ["1", "2", "4", "5"]


def test_silence_events_come_before_the_audio() -> None:
    fake = opened(options={"silence": True})
    assert [message["event"] for message in said(fake.audio(ramp(800), NOW))] == ["silence", "media"]


@pytest.mark.parametrize(("by", "reason"), [("caller", "callended"), ("bot", "stopped")])
def test_it_ends_with_stop(by: str, reason: str) -> None:
    fake = opened()
    messages = fake.hang_up(NOW + 1) if by == "caller" else fake.api_hang_up(NOW + 1)
    (stop,) = said(messages)
    assert stop["stop"] == {"call_sid": fake.call_id, "account_sid": "acme1", "reason": reason}
    assert (fake.closes_socket, fake.close_code, fake.ended_by) == (True, 1000, by)
    assert fake.audio(ramp(800), NOW + 1) == ()


def test_it_can_break_off_without_stop() -> None:
    fake = opened(options={"stop": False})
    assert list(fake.hang_up(NOW + 1)) == []
    assert (fake.closes_socket, fake.close_code) == (True, 1006)


def test_the_gateway_ends_the_call_by_closing() -> None:
    fake = opened()
    fake.socket_closed(1000, "", NOW + 1)
    assert fake.ended_by == "bot"


def test_basic_credentials_of_the_applets_url() -> None:
    fake = FakeExotel(CallPlan(credentials={"basic_user": "gw_exotel_key", "basic_password": "gw_exotel_token_7f3a"}))
    handshake = fake.handshake("T0KEN", "wss://gw.example.com")
    assert handshake.path == "/exotel/media/T0KEN"
    assert handshake.headers == {"Authorization": "Basic Z3dfZXhvdGVsX2tleTpnd19leG90ZWxfdG9rZW5fN2YzYQ=="}
    assert FakeExotel().handshake("T0KEN").headers == {}


def test_plans_that_exotel_does_not_have() -> None:
    with pytest.raises(ValueError, match="Hz"):
        FakeExotel(CallPlan(sample_rate=44100))
    with pytest.raises(ValueError, match="parameters"):
        FakeExotel(CallPlan(parameters=dict.fromkeys("abcd", "1")))
    with pytest.raises(ValueError, match="parameters"):
        FakeExotel(CallPlan(parameters={"a": "1" * 256}))


# ---------------------------------------------------------------- what it plays


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_audio_is_heard_at_the_streams_rate(rate: int) -> None:
    fake = opened(sample_rate=rate)
    fake.receive(media(fake, ramp(2400)), NOW)
    fake.tick(NOW + 1)
    assert fake.playout.heard[:4800] == ramp(2400)
    assert not any(fake.playout.heard[4800:])


def test_mu_law_is_heard_decoded() -> None:
    fake = FakeExotel(CallPlan(receive_codec="PCMU"))
    _, start = said(fake.opening(NOW))
    assert start["start"]["media_format"]["encoding"] == "audio/x-mulaw"
    fake.receive(media(fake, pcm_to_ulaw(struct.pack("<1600h", *[8000] * 1600))), NOW)
    fake.tick(NOW + 0.3)
    assert 7800 < struct.unpack("<h", fake.playout.heard[1000:1002])[0] < 8200
    (message,) = said(fake.audio(ramp(800), NOW))
    assert base64.b64decode(message["media"]["payload"]) == pcm_to_ulaw(ramp(800))


def test_a_mark_comes_back_when_what_stood_before_it_was_played() -> None:
    fake = opened()
    fake.receive(media(fake, ramp(1600)), NOW)
    assert fake.receive(mark(fake, "m"), NOW) == ()
    assert fake.tick(NOW + 0.19) == ()
    (echo,) = said(fake.tick(NOW + 0.2))
    assert (echo["event"], echo["mark"]) == ("mark", {"name": "m"})
    (echo,) = said(fake.receive(mark(fake, "idle"), NOW + 1))
    assert echo["mark"] == {"name": "idle"}


def test_a_clear_lets_the_message_in_play_finish_and_echoes_the_marks() -> None:
    fake = opened()
    for name in "abc":
        fake.receive(media(fake, ramp(1600)), NOW)
        fake.receive(mark(fake, name), NOW)
    messages = said(fake.receive(clear(fake), NOW + 0.25))
    assert [message["mark"]["name"] for message in messages] == ["a", "c"]
    (echo,) = said(fake.tick(NOW + 0.4))
    assert echo["mark"]["name"] == "b"
    fake.tick(NOW + 1)
    heard = fake.playout.heard
    assert heard[:6400] == ramp(1600) * 2
    assert not any(heard[6400:])


def test_marks_of_dropped_audio_can_stay_away() -> None:
    fake = opened(options={"echo_on_clear": False})
    for name in "ab":
        fake.receive(media(fake, ramp(1600)), NOW)
        fake.receive(mark(fake, name), NOW)
    assert list(fake.receive(clear(fake), NOW + 0.05)) == []
    assert [message["mark"]["name"] for message in said(fake.tick(NOW + 1))] == ["a"]


# ---------------------------------------------------------------- what it refuses


def refused(fake: FakeExotel, message: Any, rule: str) -> None:
    with pytest.raises(ProtocolViolation, match=rule) as caught:
        fake.receive(message, NOW + 0.1)
    assert caught.value.carrier == "exotel"
    assert fake.violations == [caught.value]
    assert (fake.ended_by, fake.closes_socket) == ("error", True)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("size", "rule"),
    [
        (0, "payload"),
        (3201, "multiple of 320"),
        (3300, "multiple of 320"),
        (2880, "at least 3200"),
        (100_160, "at most 100000"),
    ],
)
def test_sizes(size: int, rule: str, strict: bool) -> None:
    fake = opened(strict)
    message = json.dumps(json.loads(media(fake, bytes(size))), separators=(",", ":"))
    refused(fake, message, rule)


@pytest.mark.parametrize(("codec", "size"), [("", 3200), ("", 99_840), ("PCMU", 1600), ("PCMU", 1760)])
def test_legal_sizes(codec: str, size: int) -> None:
    fake = opened(receive_codec=codec)
    fake.receive(media(fake, bytes(size)), NOW)
    assert fake.audio_messages_out == 1


def test_smaller_messages_where_the_plan_allows_them() -> None:
    fake = opened(options={"min_bytes": 320})
    fake.receive(media(fake, ramp(160)), NOW)
    refused(fake, media(fake, ramp(80)), "multiple of 320")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda m: {**m, "streamSid": m.pop("stream_sid")}, "snake_case"),
        (lambda m: {**m, "sequenceNumber": "1"}, "snake_case"),
        (lambda m: {k: v for k, v in m.items() if k != "stream_sid"}, "lacks 'stream_sid'"),
        (lambda m: {**m, "stream_sid": "other"}, "stream_sid is that of start"),
        (lambda m: {**m, "sequence_number": 1}, "sequence_number is int"),
        (lambda m: {**m, "extra": "1"}, "unknown field"),
        (lambda m: {**m, "media": m["media"]["payload"]}, "media is str"),
        (lambda m: {**m, "media": {**m["media"], "chunk": 1}}, "chunk is int"),
        (lambda m: {**m, "media": {**m["media"], "track": "outbound"}}, "unknown field"),
        (lambda m: {**m, "media": {}}, "lacks 'payload'"),
        (lambda m: {**m, "media": {"payload": "%%%%"}}, "base64"),
        (lambda m: {**m, "event": "hangup"}, "media, mark and clear"),
        (lambda m: {**m, "event": "dtmf"}, "media, mark and clear"),
        (lambda m: {"media": m["media"]}, "media, mark and clear"),
        (lambda m: [m], "one JSON object"),
    ],
)
def test_shapes(change: Any, rule: str) -> None:
    fake = opened()
    refused(fake, json.dumps(change(json.loads(media(fake, ramp(1600))))), rule)


@pytest.mark.parametrize(
    ("message", "rule"), [(b"\0" * 3200, "text frame"), ("{", "JSON"), ('{"event":"media"', "JSON"), ("NaN", "JSON")]
)
def test_what_is_no_json_text(message: Any, rule: str) -> None:
    refused(opened(), message, rule)


def test_marks_and_clears_of_the_wrong_shape() -> None:
    for message, rule in (
        ({"event": "mark", "mark": {"name": ""}}, "a mark has a name"),
        ({"event": "mark", "mark": {"name": 1}}, "name is int"),
        ({"event": "mark"}, "lacks 'mark'"),
        ({"event": "clear", "mark": {"name": "x"}}, "unknown field"),
    ):
        fake = opened()
        refused(fake, json.dumps({**message, "stream_sid": fake.stream_sid}), rule)


def test_media_may_be_numbered_in_strings() -> None:
    fake = opened()
    message = json.loads(media(fake, ramp(1600), sequence_number="1"))
    message["media"] |= {"chunk": "1", "timestamp": "0"}
    fake.receive(json.dumps(message), NOW)
    assert fake.audio_messages_out == 1


def test_more_than_a_minute_of_audio() -> None:
    fake = opened()
    for _ in range(300):
        fake.receive(media(fake, ramp(1600)), NOW)
    with pytest.raises(ProtocolViolation, match="buffers"):
        fake.receive(media(fake, ramp(1600)), NOW)


def test_load_mode_counts_without_keeping() -> None:
    fake = opened(strict=False, record=False)
    message = json.dumps(json.loads(media(fake, ramp(1600))), separators=(",", ":"))
    fake.receive(message, NOW)
    fake.tick(NOW + 1)
    assert (fake.audio_messages_out, fake.playout.played_s, len(fake.playout.heard)) == (1, 0.2, 0)


# ---------------------------------------------------------------- the gateway at its other end


def call(processors: Any = lambda call: (), **plan: Any) -> VirtualCall:
    line = VirtualCall("exotel", processors, plan=CallPlan(**plan), latency_s=0.02)
    line.run(0.5)
    return line


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_the_echo_is_whole_and_in_time(rate: int) -> None:
    line = call(lambda call: [Echo()], sample_rate=rate)
    line.say(tone(1.0, rate=rate))
    line.run(3)
    heard = line.heard()
    first = next(at for at in range(0, len(heard), 2) if abs(struct.unpack_from("<h", heard, at)[0]) > 500)
    assert loud_s(heard, rate) == pytest.approx(1.0, abs=0.02)
    assert first / 2 / rate - 0.5 <= 0.33
    assert line.fake.playout.audible_gaps() == []


def test_the_goodbye_is_heard_and_marked_before_the_socket_closes() -> None:
    line = call()
    for frame in speech(tone(1.05)):
        line.core.inject(frame)
    line.core.end("bye")
    line.run(5)
    assert loud_s(line.heard()) == pytest.approx(1.05, abs=0.02)
    assert (line.closed_with, line.fake.ended_by, line.core.reason) == (1000, "bot", "bye")


def test_an_interruption_and_what_the_caller_had_heard_by_then() -> None:
    line = call()
    for frame in speech(tone(3.0)):
        line.core.inject(frame)
    line.run(1.03)
    line.core.interrupt()
    line.run(1.0)
    (cleared,) = line.fake.playout.clears
    assert cleared.silent_at - cleared.at <= 0.2
    ledger = line.core.output.ledger
    assert ledger is not None
    assert ledger.heard(line.t) / 8000 == pytest.approx(line.fake.playout.played_s, abs=0.02)
    for frame in speech(tone(0.4, hz=600)):
        line.core.inject(frame)
    line.run(1.0)
    assert line.fake.playout.utterances == 2


@pytest.mark.parametrize(("stop", "reason"), [(True, "caller"), (False, "socket-lost")])
def test_the_caller_leaves_or_the_socket_breaks(stop: bool, reason: str) -> None:
    line = call(options={"stop": stop})
    line.hang_up()
    line.run(5)
    assert (line.over, line.core.reason) == (True, reason)
    assert line.fake.violations == []


@pytest.mark.parametrize(
    "options",
    [{"camel": True, "numbers": True}, {"connected": False}, {"flat_dtmf": True}, {"silence": True}, {"lose_every": 4}],
    ids=str,
)
def test_a_call_with_every_oddity(options: Any) -> None:
    line = call(lambda call: [Echo()], options=options)
    line.say(tone(1.0))
    line.press("5")
    line.run(2)
    assert line.core.counters["digits"] == 1
    assert line.core.counters["bad_messages"] == 0
    assert loud_s(line.heard()) >= 0.7
    assert line.fake.violations == []
