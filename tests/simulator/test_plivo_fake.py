"""The fake Plivo: what it says, what it plays, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import plivo.utils
import pytest
from pybase64 import b64encode_as_string

from gateway.simulator.base import CallPlan, ProtocolViolation, fake_carrier
from gateway.simulator.plivo import FakePlivo
from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from tests.serializers.conformance import tone

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"
TOKEN = "TestAuthTokenTestAuthTokenTestAuthToken00"


def opened(options: dict[str, Any] | None = None, **plan: Any) -> FakePlivo:
    fake = FakePlivo(CallPlan(options=options or {}, **plan))
    fake.opening(0.0)
    return fake


def play_audio(fake: FakePlivo, audio: bytes, **fields: Any) -> str:
    media = {"contentType": fake.content_type, "sampleRate": fake.rate, "payload": b64encode_as_string(audio)}
    return json.dumps({"event": "playAudio", "media": {**media, **fields}, "streamId": fake.stream_id})


def say(fake: FakePlivo, audio: bytes, now: float) -> list[Any]:
    """`audio` in chunks that Plivo takes; what it answers."""
    size = 8000
    chunks = [audio[at : at + size] for at in range(0, len(audio), size)]
    return [answer for chunk in chunks for answer in parsed(fake.receive(play_audio(fake, chunk), now))]


def checkpoint(fake: FakePlivo, name: str) -> str:
    return json.dumps({"event": "checkpoint", "streamId": fake.stream_id, "name": name})


def clear(fake: FakePlivo) -> str:
    return json.dumps({"event": "clearAudio", "streamId": fake.stream_id})


def parsed(messages: Any) -> list[Any]:
    return [json.loads(message) for message in messages]


SECOND = pcm_to_ulaw(tone(8000, 1.0))


def test_it_is_found_by_its_name() -> None:
    assert fake_carrier("plivo") is FakePlivo


# ---------------------------------------------------------------- the handshake


def test_handshake_signature_vector() -> None:
    fake = FakePlivo(CallPlan(credentials={"auth_token": TOKEN, "nonce": "05429567804466091622"}))
    headers = fake.handshake_headers("wss://gw.example.com/ws/plivo/tok123")
    assert headers["X-Plivo-Signature-V3"] == "XII2g96Qsy6mlSqcvkUU0d6eipen1IaOvOlA9+ZtRdY="
    assert headers["X-Plivo-Signature-V3-Nonce"] == "05429567804466091622"


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("path", ["/plivo/media/tok", "/plivo/media/tok?b=2&a=1"])
def test_plivos_own_library_accepts_the_signature(scheme: str, path: str) -> None:
    fake = FakePlivo(CallPlan(credentials={"auth_token": TOKEN}, options={"handshake_scheme": scheme}))
    headers = fake.handshake_headers(f"wss://gw.example.com:8443{path}")
    accepted = plivo.utils.validate_v3_signature(
        method="GET",
        uri=f"{scheme}://gw.example.com:8443{path}",
        nonce=headers["X-Plivo-Signature-V3-Nonce"],
        auth_token=TOKEN,
        v3_signature=headers["X-Plivo-Signature-V3"],
    )
    assert accepted
    assert FakePlivo().handshake_headers("wss://gw.example.com/x") == {}


# ---------------------------------------------------------------- what it says


def test_start_is_the_first_message() -> None:
    fake = FakePlivo(CallPlan(call_id="12345678-1234-1234-1234-123456789abc", parameters={"bot": "sales", "ref": "42"}))
    [start] = parsed(fake.opening(0.0))
    assert start == {
        "event": "start",
        "sequenceNumber": 1,
        "start": {
            "callId": "12345678-1234-1234-1234-123456789abc",
            "streamId": fake.stream_id,
            "accountId": "MA000000000000000001",
            "tracks": ["inbound"],
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000},
        },
        "extra_headers": "bot=sales,ref=42",
    }


@pytest.mark.parametrize(
    ("form", "written"),
    [
        ("comma", "a=1,b=2"),
        ("semicolon", "a=1;b=2"),
        ("braces", "{a=1, b=2}"),
        ("json", '{"a": "1", "b": "2"}'),
        ("object", {"a": "1", "b": "2"}),
    ],
)
def test_forms_of_the_extra_headers(form: str, written: Any) -> None:
    fake = FakePlivo(CallPlan(parameters={"a": "1", "b": "2"}, options={"headers": form}))
    assert parsed(fake.opening(0.0))[0]["extra_headers"] == written
    assert parsed(fake.audio(bytes(320), 0.02))[0]["extra_headers"] == written
    absent = FakePlivo(CallPlan(parameters={"a": "1"}, options={"headers": "absent"}))
    assert "extra_headers" not in parsed(absent.opening(0.0))[0]
    assert "extra_headers" not in parsed(absent.audio(bytes(320), 0.02))[0]


@pytest.mark.parametrize(
    ("plan", "size"),
    [({}, 160), ({"send_codec": "L16", "sample_rate": 8000}, 320), ({"send_codec": "L16"}, 640)],
)
def test_the_callers_voice(plan: dict[str, Any], size: int) -> None:
    fake = opened(**plan)
    voice = tone(fake.audio_rate, 0.02)
    wire = voice if fake.linear else pcm_to_ulaw(voice)
    assert len(wire) == size
    [first] = parsed(fake.audio(voice, 0.02))
    assert first == {
        "event": "media",
        "sequenceNumber": 2,
        "streamId": fake.stream_id,
        "media": {
            "track": "inbound",
            "timestamp": "1767225600020",
            "chunk": 1,
            "payload": b64encode_as_string(wire),
        },
        "extra_headers": "",
    }


def test_numbers_as_strings_and_timestamps_of_the_stream() -> None:
    fake = FakePlivo(CallPlan(options={"strings": True, "timestamps": "stream"}))
    [start] = parsed(fake.opening(0.0))
    assert (start["sequenceNumber"], start["start"]["mediaFormat"]["sampleRate"]) == ("1", "8000")
    [message] = parsed(fake.audio(bytes(320), 0.02))
    assert (message["sequenceNumber"], message["media"]["chunk"], message["media"]["timestamp"]) == ("2", "1", "20")


def test_digit() -> None:
    fake = opened()
    [digit] = parsed(fake.press("*", 1.0))
    assert (digit["event"], digit["dtmf"]["digit"], digit["dtmf"]["track"]) == ("dtmf", "*", "inbound")


def test_the_end_is_the_closing_of_the_socket() -> None:
    fake = opened()
    assert list(fake.hang_up(1.0)) == []
    assert (fake.closes_socket, fake.close_code) == (True, 1000)
    said = opened({"stop": True})
    assert [message["event"] for message in parsed(said.hang_up(1.0))] == ["stop"]
    broken = opened({"breaks": True})
    assert list(broken.hang_up(1.0)) == []
    assert broken.close_code == 1006


def test_misbehaviour_can_be_asked_for() -> None:
    def chunks(options: dict[str, Any]) -> list[Any]:
        fake = opened(options)
        messages = [message for _ in range(4) for message in parsed(fake.audio(bytes(320), 0.0))]
        return [message["media"]["chunk"] if message["event"] == "media" else message["event"] for message in messages]

    assert chunks({}) == [1, 2, 3, 4]
    assert chunks({"swap_every": 2}) == [1, 3, 2]
    assert chunks({"lose_every": 2}) == [1, 3]
    assert chunks({"unknown": True})[:4] == [1, "muteStream", 2, "muteStream"]
    assert chunks({"error": "buffer_overflow"})[:3] == [1, "error", 2]


# ---------------------------------------------------------------- what it plays


def test_what_is_sent_is_heard() -> None:
    fake = opened()
    say(fake, SECOND, 0.5)
    fake.tick(2.0)
    assert fake.playout.heard[8000:24000] == ulaw_to_pcm(SECOND)
    linear = opened(send_codec="L16")
    say(linear, tone(16000, 0.5), 0.0)
    linear.tick(1.0)
    assert linear.playout.heard.startswith(tone(16000, 0.5))


@pytest.mark.parametrize(("played", "event"), [(False, "playedStream"), (True, "played")])
def test_a_checkpoint_is_answered_when_it_was_played(played: bool, event: str) -> None:
    fake = opened({"played": played})
    assert say(fake, SECOND, 1.0) == []
    assert list(fake.receive(checkpoint(fake, "cp-1"), 1.0)) == []
    assert list(fake.tick(1.999)) == []
    [answer] = parsed(fake.tick(2.0))
    assert (answer["event"], answer["name"], answer["streamId"]) == (event, "cp-1", fake.stream_id)


def test_a_clear_drops_the_checkpoints_for_good() -> None:
    fake = opened()
    for name in ("a", "b"):
        say(fake, SECOND, 0.0)
        fake.receive(checkpoint(fake, name), 0.0)
    assert [answer["name"] for answer in parsed(fake.tick(1.5))] == ["a"]
    assert [answer["event"] for answer in parsed(fake.receive(clear(fake), 1.5))] == ["clearedAudio"]
    assert list(fake.tick(9.0)) == []
    say(fake, SECOND, 9.0)
    fake.receive(checkpoint(fake, "c"), 9.0)
    assert [answer["name"] for answer in parsed(fake.tick(10.0))] == ["c"]


def test_digits_over_the_socket() -> None:
    fake = opened()
    fake.receive('{"event":"sendDTMF","dtmf":"1234#"}', 1.0)
    assert fake.digits_sent == "1234#"
    assert not any("1234" in event.detail for event in fake.events)


@pytest.mark.parametrize("name", ["plivo_call", "plivo_l16", "plivo_lenient"])
def test_a_recorded_gateway_is_accepted_and_answered_as_recorded(name: str) -> None:
    steps = [json.loads(line) for line in (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines()]
    plan = CallPlan(send_codec="L16" if name == "plivo_l16" else "", options={"played": name == "plivo_lenient"})
    fake = FakePlivo(plan)
    fake.stream_id = steps[0]["msg"]["start"]["streamId"]
    fake.opening(0.0)
    answers = []
    for step in steps:
        if step["dir"] == "out":
            answers += fake.receive(json.dumps(step["msg"]), step["t"])
        else:
            answers += fake.tick(step["t"])
    kinds = ("playedStream", "played", "clearedAudio")
    recorded = [step["msg"] for step in steps if step["dir"] == "in" and step["msg"]["event"] in kinds]
    assert [(a["event"], a.get("name")) for a in parsed(answers)] == [(m["event"], m.get("name")) for m in recorded]
    assert not fake.violations


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"contentType": "audio/x-mulaw;rate=8000"}, "without ;rate="),
        ({"contentType": "audio/x-l16"}, "the stream's contentType"),
        ({"sampleRate": 16000}, "sampleRate"),
        ({"sampleRate": "8000"}, "documented shape"),
        ({"payload": "%%"}, "raw audio in base64"),
        ({"payload": ""}, "raw audio in base64"),
        ({"payload": b64encode_as_string(b"RIFF" + bytes(200))}, "raw audio in base64"),
        ({"payload": b64encode_as_string(bytes(12291))}, "16 KB"),
        ({"payload": b64encode_as_string(bytes(60_000))}, "message too large"),
        ({"track": "outbound"}, "documented shape"),
    ],
)
def test_audio_that_plivo_would_drop_or_spoil(fields: dict[str, Any], rule: str) -> None:
    fake = opened()
    with pytest.raises(ProtocolViolation, match=rule):
        fake.receive(play_audio(fake, b"\xff" * 160, **fields), 1.0)
    assert (fake.ended_by, fake.closes_socket) == ("error", True)


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        ("nonsense", "documented shape"),
        (b'{"event":"sendDTMF","dtmf":"1"}', "documented shape"),
        ('{"event":"media","media":{"payload":"/w=="}}', "documented shape"),
        ('{"label":"rtvi-ai"}', "documented shape"),
        ('{"event":"checkpoint","name":"a"}', "documented shape"),
        ('{"event":"checkpoint","streamId":"another","name":"a"}', "not this stream's"),
        ('{"event":"clearAudio"}', "documented shape"),
        ('{"event":"clearAudio","streamId":"another"}', "not this stream's"),
        ('{"event":"sendDTMF","dtmf":""}', "sendDTMF takes"),
        ('{"event":"sendDTMF","dtmf":"1x"}', "sendDTMF takes"),
        ('{"event":"sendDTMF","dtmf":1}', "documented shape"),
    ],
)
def test_violations_name_the_rule(message: str | bytes, rule: str) -> None:
    fake = opened()
    with pytest.raises(ProtocolViolation, match=rule):
        fake.receive(message, 1.0)
    assert len(fake.violations) == 1


def test_a_checkpoint_without_a_name() -> None:
    fake = opened()
    with pytest.raises(ProtocolViolation, match="without a name"):
        fake.receive(checkpoint(fake, ""), 1.0)


def test_half_a_sample_of_l16() -> None:
    fake = opened(send_codec="L16")
    with pytest.raises(ProtocolViolation, match="whole samples"):
        fake.receive(play_audio(fake, bytes(641)), 1.0)


def test_plivo_holds_40_s() -> None:
    fake = opened()
    for _ in range(40):
        say(fake, SECOND, 1.0)
    with pytest.raises(ProtocolViolation, match="more audio than the carrier buffers"):
        say(fake, SECOND, 1.0)
    paced = opened()
    for second in range(60):
        say(paced, SECOND, second * 0.5)
    assert not paced.violations


@pytest.mark.parametrize(
    "plan",
    [
        {"send_codec": "PCMA"},
        {"send_codec": "L16", "receive_codec": "PCMU"},
        {"sample_rate": 16000},
        {"send_codec": "L16", "sample_rate": 48000},
        {"options": {"headers": "yaml"}},
    ],
)
def test_plans_that_plivo_does_not_have(plan: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"PCMU|L16|headers"):
        FakePlivo(CallPlan(**plan))


# ---------------------------------------------------------------- under load


@pytest.mark.parametrize("record", [True, False])
def test_without_strictness_the_audio_still_counts(record: bool) -> None:
    fake = FakePlivo(strict=False, record=record)
    fake.opening(0.0)
    head = '{"event":"playAudio","media":{"contentType":"audio/x-mulaw","sampleRate":8000,"payload":"'
    fake.receive(f'{head}{b64encode_as_string(SECOND)}"}},"streamId":"{fake.stream_id}"}}', 1.0)
    fake.receive(checkpoint(fake, "a"), 1.0)
    assert [answer["name"] for answer in parsed(fake.tick(2.0))] == ["a"]
    assert (ulaw_to_pcm(SECOND) in fake.playout.heard) == record
