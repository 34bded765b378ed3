"""The fake Twilio: what it says, and everything that it must refuse."""

from __future__ import annotations

import base64
import json
import math
import struct
from typing import Any

import pytest
from twilio.request_validator import RequestValidator

from gateway.simulator.base import CallPlan, FakeCarrier, ProtocolViolation, carrier_names, fake_carrier
from gateway.simulator.twilio import FakeTwilio
from media.codecs import pcm_to_ulaw

PCM = struct.pack("<160h", *(round(8000 * math.sin(i / 5)) for i in range(160)))
ULAW = base64.b64encode(pcm_to_ulaw(PCM)).decode()


def opened(**options: Any) -> FakeTwilio:
    carrier = FakeTwilio(CallPlan(**options))
    carrier.opening(10.0)
    return carrier


def media(carrier: FakeTwilio, payload: str = ULAW) -> str:
    return json.dumps({"event": "media", "streamSid": carrier.stream_sid, "media": {"payload": payload}})


def mark(carrier: FakeTwilio, name: str) -> str:
    return json.dumps({"event": "mark", "streamSid": carrier.stream_sid, "mark": {"name": name}})


def clear(carrier: FakeTwilio) -> str:
    return json.dumps({"event": "clear", "streamSid": carrier.stream_sid})


def test_it_is_found_by_its_name() -> None:
    assert "twilio" in carrier_names()
    assert fake_carrier("twilio") is FakeTwilio
    for name in ("base", "caller", "nobody", "../twilio", ""):
        with pytest.raises(KeyError):
            fake_carrier(name)


def test_opening_is_connected_then_start() -> None:
    carrier = FakeTwilio(CallPlan(parameters={"bot": "sales"}, call_id="CA" + "1" * 32))
    assert not carrier.ready
    connected, start = map(json.loads, carrier.opening(10.0))
    assert carrier.ready
    assert connected == {"event": "connected", "protocol": "Call", "version": "1.0.0"}
    assert start == {
        "event": "start",
        "sequenceNumber": "1",
        "streamSid": carrier.stream_sid,
        "start": {
            "accountSid": carrier.account_sid,
            "streamSid": carrier.stream_sid,
            "callSid": "CA" + "1" * 32,
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
            "customParameters": {"bot": "sales"},
        },
    }


@pytest.mark.parametrize("numbers", [False, True])
def test_media_is_numbered(numbers: bool) -> None:
    carrier = opened(options={"numbers": numbers})
    kind = int if numbers else str
    for index in range(3):
        [message] = carrier.audio(PCM, 10.02 * index)
        assert json.loads(message) == {
            "event": "media",
            "sequenceNumber": kind(index + 2),
            "streamSid": carrier.stream_sid,
            "media": {"track": "inbound", "chunk": kind(index + 1), "timestamp": kind(index * 20), "payload": ULAW},
        }


def test_one_counter_runs_over_all_messages() -> None:
    carrier = opened()
    messages = [*carrier.audio(PCM, 10.02), *carrier.press("*", 10.03), *carrier.receive(mark(carrier, "m"), 10.03)]
    messages += carrier.hang_up(10.04)
    assert [(json.loads(m)["event"], json.loads(m)["sequenceNumber"]) for m in messages] == [
        ("media", "2"),
        ("dtmf", "3"),
        ("mark", "4"),
        ("stop", "5"),
    ]


def test_the_handshake_is_signed_as_twilio_signs() -> None:
    carrier = FakeTwilio(CallPlan(credentials={"auth_token": "0123456789abcdef0123456789abcdef"}))
    handshake = carrier.handshake("tok123", "wss://gw.example.com")
    assert handshake.path == "/twilio/media/tok123"
    url = "wss://gw.example.com" + handshake.path
    validator = RequestValidator("0123456789abcdef0123456789abcdef")
    assert validator.validate(url, {}, handshake.headers["x-twilio-signature"])
    # Twilio's own documentation gives no vector for a handshake; this one was made with its SDK.
    url = "wss://gw.example.com/ws/twilio/tok123"
    assert carrier.handshake_headers(url) == {"x-twilio-signature": "vycQH3C6Neh8o/nGRMo3YbWRoHQ="}
    assert FakeTwilio().handshake("t", "wss://gw.example.com").headers == {}


def test_marks_come_back_when_played_and_at_once_when_idle() -> None:
    carrier = opened()
    assert not carrier.receive(media(carrier), 10.0)
    assert not carrier.receive(mark(carrier, "a"), 10.001)
    assert carrier.next_tick_at() == pytest.approx(10.02)
    assert not carrier.tick(10.019)
    [echo] = carrier.tick(10.02)
    assert json.loads(echo)["mark"] == {"name": "a"}
    [echo] = carrier.receive(mark(carrier, "b"), 10.5)
    assert json.loads(echo)["mark"] == {"name": "b"}


def test_clear_empties_the_buffer_and_echoes_every_pending_mark() -> None:
    carrier = opened()
    for index in range(5):
        carrier.receive(media(carrier), 10.0)
        carrier.receive(mark(carrier, f"m{index}"), 10.0)
    echoes = carrier.receive(clear(carrier), 10.05)
    # m0 and m1 were reached on the way; the others are echoed although nobody heard what stood before them.
    assert [json.loads(echo)["mark"]["name"] for echo in echoes] == ["m0", "m1", "m2", "m3", "m4"]
    assert not carrier.playout.playing


def test_the_caller_hangs_up() -> None:
    carrier = opened()
    [stop] = carrier.hang_up(11.0)
    assert json.loads(stop)["stop"] == {"accountSid": carrier.account_sid, "callSid": carrier.call_id}
    assert carrier.closes_socket
    assert carrier.ended_by == "caller"
    assert not carrier.hang_up(11.0)
    assert not carrier.audio(PCM, 11.1)
    assert not carrier.receive("in flight, and nobody reads it", 11.1)


def test_the_line_may_go_dead_without_stop() -> None:
    carrier = opened(options={"stop": False})
    assert not carrier.hang_up(11.0)
    assert carrier.closes_socket


def test_the_bot_hangs_up_by_the_api() -> None:
    carrier = opened()
    [stop] = carrier.api_hang_up(11.0)
    assert json.loads(stop)["event"] == "stop"
    assert (carrier.ended_by, carrier.closes_socket) == ("bot", True)


@pytest.mark.parametrize(("code", "by"), [(1000, "bot"), (1011, "error"), (1006, "error")])
def test_the_gateway_closes(code: int, by: str) -> None:
    carrier = opened()
    carrier.socket_closed(code, "", 12.0)
    assert carrier.ended_by == by


def _sid(carrier: FakeCarrier) -> str:
    assert isinstance(carrier, FakeTwilio)
    return carrier.stream_sid


REFUSED: dict[str, Any] = {
    "binary": lambda sid: b"\xff" * 160,
    "binary JSON": lambda sid: json.dumps({"event": "clear", "streamSid": sid}).encode(),
    "no JSON": lambda sid: "hello",
    "NaN": lambda sid: '{"event":NaN}',
    "a list": lambda sid: "[]",
    "no event": lambda sid: json.dumps({"streamSid": sid}),
    "event of no string": lambda sid: json.dumps({"event": ["media"], "streamSid": sid}),
    "unknown event": lambda sid: json.dumps({"event": "playAudio", "streamSid": sid}),
    "Twilio's own event": lambda sid: json.dumps({"event": "dtmf", "streamSid": sid, "dtmf": {"digit": "1"}}),
    "media without streamSid": lambda sid: json.dumps({"event": "media", "media": {"payload": ULAW}}),
    "stream_sid": lambda sid: json.dumps({"event": "media", "stream_sid": sid, "media": {"payload": ULAW}}),
    "foreign streamSid": lambda sid: json.dumps({"event": "media", "streamSid": "MZ1", "media": {"payload": ULAW}}),
    "streamSid of no string": lambda sid: json.dumps({"event": "clear", "streamSid": 7}),
    "sequenceNumber": lambda sid: json.dumps(
        {"event": "media", "sequenceNumber": "1", "streamSid": sid, "media": {"payload": ULAW}}
    ),
    "media without object": lambda sid: json.dumps({"event": "media", "streamSid": sid}),
    "media of a string": lambda sid: json.dumps({"event": "media", "streamSid": sid, "media": ULAW}),
    "extra field in media": lambda sid: json.dumps(
        {"event": "media", "streamSid": sid, "media": {"payload": ULAW, "track": "outbound"}}
    ),
    "payload of no string": lambda sid: json.dumps({"event": "media", "streamSid": sid, "media": {"payload": [1]}}),
    "empty payload": lambda sid: json.dumps({"event": "media", "streamSid": sid, "media": {"payload": ""}}),
    "no base64": lambda sid: json.dumps({"event": "media", "streamSid": sid, "media": {"payload": "%%%%"}}),
    "unpadded base64": lambda sid: json.dumps({"event": "media", "streamSid": sid, "media": {"payload": "fn5"}}),
    "a WAV": lambda sid: json.dumps(
        {
            "event": "media",
            "streamSid": sid,
            "media": {"payload": base64.b64encode(b"RIFF\0\0\0\0WAVEfmt ").decode()},
        }
    ),
    "mark without name": lambda sid: json.dumps({"event": "mark", "streamSid": sid, "mark": {}}),
    "mark with an empty name": lambda sid: json.dumps({"event": "mark", "streamSid": sid, "mark": {"name": ""}}),
    "mark with a number": lambda sid: json.dumps({"event": "mark", "streamSid": sid, "mark": {"name": 1}}),
    "clear with more": lambda sid: json.dumps({"event": "clear", "streamSid": sid, "clear": {}}),
    "a huge message": lambda sid: json.dumps({"event": "media", "streamSid": sid, "media": {"payload": "/" * 70_000}}),
    "two objects": lambda sid: json.dumps({"event": "clear", "streamSid": sid}) * 2,
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_refuses(what: str) -> None:
    carrier = opened()
    with pytest.raises(ProtocolViolation) as caught:
        carrier.receive(REFUSED[what](_sid(carrier)), 10.5)
    assert str(caught.value).startswith("twilio: ")
    assert caught.value.rule
    assert carrier.violations == [caught.value]
    assert (carrier.ended_by, carrier.closes_socket) == ("error", True)
    assert carrier.events[-2].what == "violation"


def test_it_refuses_more_than_it_buffers() -> None:
    carrier = opened()
    second = base64.b64encode(b"\xff" * 8000).decode()
    for _ in range(60):
        carrier.receive(media(carrier, second), 10.0)
    with pytest.raises(ProtocolViolation, match="buffers"):
        carrier.receive(media(carrier, second), 10.0)


def test_a_violation_shows_no_values() -> None:
    carrier = opened()
    secret = "4111111111111111"
    for message in (
        json.dumps({"event": "mark", "streamSid": secret, "mark": {"name": "m"}}),
        json.dumps({"event": "mark", "streamSid": carrier.stream_sid, "mark": {"name": [secret]}}),
        secret,
    ):
        with pytest.raises(ProtocolViolation) as caught:
            opened().receive(message, 10.5)
        assert secret not in str(caught.value)


def test_without_strictness_the_cost_falls_and_the_clock_still_runs() -> None:
    carrier = FakeTwilio(strict=False, record=False)
    carrier.opening(10.0)
    for index in range(10):
        carrier.receive(media(carrier).replace(" ", ""), 10.0 + index / 50)
    carrier.receive(mark(carrier, "end").replace(" ", ""), 10.18)
    [echo] = carrier.tick(10.2)
    assert json.loads(echo)["mark"] == {"name": "end"}
    assert carrier.playout.played_s == pytest.approx(0.2)
    with pytest.raises(ProtocolViolation):
        carrier.receive('{"event":"media","streamSid":"x"}', 10.3)


def test_keys_that_no_telephone_has() -> None:
    for key in ("", "12", "E", " "):
        with pytest.raises(ValueError, match="not a key"):
            opened().press(key, 10.1)
