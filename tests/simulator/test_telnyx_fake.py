"""The fake Telnyx: what it says, what it plays, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from pybase64 import b64encode_as_string

from gateway.simulator.base import CallPlan, ProtocolViolation, fake_carrier
from gateway.simulator.telnyx import FakeTelnyx
from media.codecs import alaw_to_pcm, pcm_to_alaw, pcm_to_ulaw, swap16, ulaw_to_pcm
from tests.serializers.conformance import tone

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"


def opened(options: dict[str, Any] | None = None, **plan: Any) -> FakeTelnyx:
    fake = FakeTelnyx(CallPlan(options=options or {}, **plan))
    fake.opening(0.0)
    return fake


def media(audio: bytes) -> str:
    return json.dumps({"event": "media", "media": {"payload": b64encode_as_string(audio)}})


def mark(name: str) -> str:
    return json.dumps({"event": "mark", "mark": {"name": name}})


def parsed(messages: Any) -> list[Any]:
    return [json.loads(message) for message in messages]


CLEAR = '{"event":"clear"}'
SECOND = pcm_to_ulaw(tone(8000, 1.0))


def test_it_is_found_by_its_name() -> None:
    assert fake_carrier("telnyx") is FakeTelnyx


# ---------------------------------------------------------------- what it says


def test_opening() -> None:
    fake = FakeTelnyx(
        CallPlan(
            call_id="v3:AAA",
            from_number="+13125550100",
            to_number="+13125550199",
            parameters={"bot": "sales"},
            receive_codec="PCMA",
            credentials={"stream_auth_token": "t0k3n"},
            options={"client_state": "aGVsbG8="},
        )
    )
    assert fake.handshake("tok").headers == {"x-telnyx-streaming-auth-token": "t0k3n"}
    connected, start = parsed(fake.opening(0.0))
    assert connected == {
        "event": "connected",
        "version": "1.0.0",
        "connected": {"x-telnyx-streaming-auth-token": "t0k3n"},
    }
    inner = start.pop("start")
    assert start == {"event": "start", "sequence_number": "1", "stream_id": fake.stream_id}
    assert inner.pop("call_session_id")
    assert inner == {
        "user_id": "3e6f995f-85f7-4705-9741-53b116d28237",
        "call_control_id": "v3:AAA",
        "from": "+13125550100",
        "to": "+13125550199",
        "tags": [],
        "client_state": "aGVsbG8=",
        "custom_parameters": {"bot": "sales"},
        "media_format": {"encoding": "PCMA", "sample_rate": 8000, "channels": 1},
    }


def test_without_a_token_nothing_is_said_of_it() -> None:
    fake = FakeTelnyx()
    assert fake.handshake("tok").headers == {}
    assert parsed(fake.opening(0.0))[0] == {"event": "connected", "version": "1.0.0"}


def test_an_unanswered_call_has_no_start() -> None:
    fake = FakeTelnyx(CallPlan(options={"answered": False}))
    assert len(fake.opening(0.0)) == 1
    assert not fake.ready
    assert list(fake.audio(bytes(320), 0.02)) == list(fake.press("1", 0.02)) == []


@pytest.mark.parametrize(("codec", "read"), [("PCMU", ulaw_to_pcm), ("PCMA", alaw_to_pcm), ("L16", swap16)])
def test_the_callers_voice(codec: str, read: Any) -> None:
    fake = opened(receive_codec=codec)
    voice = tone(fake.audio_rate, 0.02)
    [first] = parsed(fake.audio(voice, 0.02))
    [second] = parsed(fake.audio(voice, 0.04))
    wire = {"PCMU": pcm_to_ulaw, "PCMA": pcm_to_alaw, "L16": swap16}[codec](voice)
    assert first["media"] == {"track": "inbound", "chunk": "1", "timestamp": "5", "payload": b64encode_as_string(wire)}
    assert (second["media"]["chunk"], second["media"]["timestamp"]) == ("2", "25")
    assert (first["sequence_number"], second["sequence_number"]) == ("2", "3")
    assert read(wire)


def test_little_endian_l16() -> None:
    fake = opened({"byte_order": "little"}, receive_codec="L16", send_codec="L16")
    voice = tone(16000, 0.02)
    [message] = parsed(fake.audio(voice, 0.02))
    assert message["media"]["payload"] == b64encode_as_string(voice)
    fake.receive(media(voice), 0.02)
    fake.tick(1.0)
    assert voice in fake.playout.heard


def test_numbers_as_numbers() -> None:
    fake = FakeTelnyx(CallPlan(options={"numbers": True}))
    assert parsed(fake.opening(0.0))[1]["sequence_number"] == 1
    [message] = parsed(fake.audio(bytes(320), 0.02))
    assert (message["sequence_number"], message["media"]["chunk"], message["media"]["timestamp"]) == (2, 1, 5)


def test_digit_and_stop() -> None:
    fake = opened()
    [digit] = parsed(fake.press("#", 1.0))
    assert (digit["event"], digit["dtmf"], digit["sequence_number"]) == ("dtmf", {"digit": "#"}, "2")
    [stop] = parsed(fake.hang_up(2.0))
    assert (stop["event"], stop["stop"]["call_control_id"]) == ("stop", fake.call_id)
    assert fake.closes_socket
    assert (fake.ended_by, fake.close_code) == ("caller", 1000)


def test_a_socket_that_breaks() -> None:
    fake = opened({"stop": False})
    assert list(fake.hang_up(2.0)) == []
    assert fake.closes_socket
    assert fake.close_code == 1006


def test_misbehaviour_can_be_asked_for() -> None:
    def chunks(options: dict[str, Any]) -> list[str]:
        fake = opened(options)
        messages = [message for _ in range(4) for message in parsed(fake.audio(bytes(320), 0.0))]
        return [message["media"]["chunk"] if message["event"] == "media" else message["event"] for message in messages]

    assert chunks({}) == ["1", "2", "3", "4"]
    assert chunks({"swap_every": 2}) == ["1", "3", "2"]
    assert chunks({"lose_every": 2}) == ["1", "3"]
    assert chunks({"repeat_every": 4}) == ["1", "2", "3", "4", "4"]
    assert chunks({"unknown": True})[:4] == ["1", "quality", "2", "quality"]
    assert chunks({"error": 100004})[:3] == ["1", "error", "2"]


# ---------------------------------------------------------------- what it plays


@pytest.mark.parametrize(("codec", "write"), [("PCMU", pcm_to_ulaw), ("PCMA", pcm_to_alaw), ("L16", swap16)])
def test_what_is_sent_is_heard(codec: str, write: Any) -> None:
    fake = opened(send_codec=codec)
    voice = tone(fake.send_rate, 0.1)
    fake.receive(media(write(voice)), 0.5)
    fake.tick(1.0)
    heard = fake.playout.heard[fake.send_rate : fake.send_rate + len(voice)]
    assert heard == {"PCMU": ulaw_to_pcm, "PCMA": alaw_to_pcm, "L16": swap16}[codec](write(voice))


def test_marks_come_back_when_played_and_at_once_when_idle() -> None:
    fake = opened()
    assert [message["mark"] for message in parsed(fake.receive(mark("idle"), 0.5))] == [{"name": "idle"}]
    assert list(fake.receive(media(SECOND), 1.0)) == []
    assert list(fake.receive(mark("a"), 1.0)) == []
    assert list(fake.tick(1.999)) == []
    assert fake.next_tick_at() == pytest.approx(2.0)
    assert [message["mark"] for message in parsed(fake.tick(2.0))] == [{"name": "a"}]


def test_a_clear_echoes_the_marks_it_overtakes() -> None:
    fake = opened()
    for name in ("a", "b", "c"):
        fake.receive(media(SECOND), 0.0)
        fake.receive(mark(name), 0.0)
    assert [message["mark"]["name"] for message in parsed(fake.tick(1.5))] == ["a"]
    assert [message["mark"]["name"] for message in parsed(fake.receive(CLEAR, 1.5))] == ["b", "c"]
    assert list(fake.tick(9.0)) == []
    assert fake.playout.clears[0].dropped_s == pytest.approx(1.5)


def test_a_call_control_call_outlives_its_socket() -> None:
    fake = opened({"control": "call_control"})
    fake.socket_closed(1000, "", 1.0)
    assert fake.left_up
    assert fake.ended_by is None
    fake.api_hang_up(2.0)
    assert fake.ended_by == "bot"

    texml = opened()
    texml.socket_closed(1000, "", 1.0)
    assert (texml.left_up, texml.ended_by) == (False, "bot")
    broken = opened({"control": "call_control"})
    broken.socket_closed(1006, "", 1.0)
    assert broken.ended_by == "error"


@pytest.mark.parametrize("name", ["telnyx_call", "telnyx_pcma", "telnyx_l16"])
def test_a_recorded_gateway_is_accepted_and_answered_as_recorded(name: str) -> None:
    steps = [json.loads(line) for line in (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines()]
    fake = FakeTelnyx(CallPlan(send_codec="L16" if name == "telnyx_l16" else "PCMU"))
    fake.opening(0.0)
    answers = []
    for step in steps:
        if step["dir"] == "out":
            answers += fake.receive(json.dumps(step["msg"]), step["t"])
        else:
            answers += fake.tick(step["t"])
    recorded = [step["msg"]["mark"] for step in steps if step["dir"] == "in" and step["msg"]["event"] == "mark"]
    assert [message["mark"] for message in parsed(answers)] == recorded
    assert not fake.violations


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        ("nonsense", "100003 malformed_frame"),
        ("[]", "100003 malformed_frame"),
        (b'{"event":"clear"}', "100003 malformed_frame"),
        ('{"event":"dance"}', "100003 malformed_frame"),
        ('{"label":"rtvi-ai"}', "100003 malformed_frame"),
        ('{"event":"media"}', "100003 malformed_frame"),
        ('{"event":"media","media":{}}', "100003 malformed_frame"),
        ('{"event":"media","media":{"payload":7}}', "100003 malformed_frame"),
        ('{"event":"media","stream_id":"x","media":{"payload":"/w=="}}', "100003 malformed_frame"),
        ('{"event":"media","media":{"payload":"%%"}}', "100004 invalid_media"),
        ('{"event":"media","media":{"payload":""}}', "100004 invalid_media"),
        ('{"event":"media","media":{"payload":"/w"}}', "100004 invalid_media"),
        (media(bytes(159)), "20 ms to 30 s"),
        (media(bytes(240_001)), "20 ms to 30 s"),
        (media(b"RIFF" + bytes(400)), "raw audio"),
        ('{"event":"mark"}', "100003 malformed_frame"),
        ('{"event":"mark","mark":{"name":""}}', "100003 malformed_frame"),
        ('{"event":"mark","mark":{"name":1}}', "100003 malformed_frame"),
        ('{"event":"clear","stream_id":"x"}', "100003 malformed_frame"),
    ],
)
def test_violations_name_the_rule(message: str | bytes, rule: str) -> None:
    fake = opened()
    with pytest.raises(ProtocolViolation, match=rule):
        fake.receive(message, 1.0)
    assert (fake.ended_by, fake.closes_socket) == ("error", True)
    assert len(fake.violations) == 1


def test_half_a_sample_of_l16() -> None:
    fake = opened(send_codec="L16")
    with pytest.raises(ProtocolViolation, match="whole samples"):
        fake.receive(media(bytes(641)), 1.0)


def test_the_limits_themselves_are_fine() -> None:
    fake = opened()
    fake.receive(media(bytes(160)), 1.0)
    fake.receive(media(bytes(240_000)), 1.0)
    linear = opened(send_codec="L16", sample_rate=48000)
    linear.receive(media(bytes(48000 * 2 * 30)), 1.0)
    assert not fake.violations
    assert not linear.violations


@pytest.mark.parametrize(
    "plan",
    [
        {"send_codec": "OPUS"},
        {"receive_codec": "G722"},
        {"send_codec": "L16", "sample_rate": 11025},
        {"options": {"control": "sip"}},
    ],
)
def test_plans_that_telnyx_does_not_have(plan: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|not 11025"):
        FakeTelnyx(CallPlan(**plan))


# ---------------------------------------------------------------- under load


@pytest.mark.parametrize("record", [True, False])
def test_without_strictness_the_audio_still_counts(record: bool) -> None:
    fake = FakeTelnyx(strict=False, record=record)
    fake.opening(0.0)
    message = '{"event":"media","media":{"payload":"' + b64encode_as_string(SECOND) + '"}}'
    fake.receive(message, 1.0)
    fake.receive(mark("a"), 1.0)
    assert [answer["mark"]["name"] for answer in parsed(fake.tick(2.0))] == ["a"]
    assert (ulaw_to_pcm(SECOND) in fake.playout.heard) == record
    with pytest.raises(ProtocolViolation, match="20 ms"):
        fake.receive('{"event":"media","media":{"payload":"/w=="}}', 3.0)
