"""Which carrier is calling: the first messages of each, and what is read again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.transports import telephony
from gateway.transports.telephony import parse_telephony_websocket, read_so_far, serializer_for
from serializers.exotel import ExotelFrameSerializer
from serializers.genesys import GenesysAudioHookSerializer
from serializers.plivo import PlivoFrameSerializer
from serializers.telnyx import TelnyxFrameSerializer
from serializers.twilio import TwilioFrameSerializer
from serializers.vonage import VonageFrameSerializer
from tests.transports.serving import MemoryWebSocket, fake

CALLER, CALLED = "+14155550101", "+14155550100"


def opening(name: str, **plan: Any) -> tuple[MemoryWebSocket, Any]:
    """A socket with what the carrier says first, and the carrier."""
    carrier = fake(name, **plan)
    return MemoryWebSocket(*carrier.opening(0.0)), carrier


def parse(websocket: Any) -> tuple[str, dict[str, Any]]:
    return asyncio.run(asyncio.wait_for(parse_telephony_websocket(websocket), 60))


def test_twilio() -> None:
    websocket, carrier = opening("twilio", parameters={"first": "one"})
    assert parse(websocket) == (
        "twilio",
        {"stream_id": carrier.stream_sid, "call_id": carrier.call_id, "body": {"first": "one"}},
    )


def test_telnyx() -> None:
    websocket, carrier = opening("telnyx", receive_codec="PCMA")
    kind, data = parse(websocket)
    assert kind == "telnyx"
    assert data.pop("stream_id")
    assert data == {
        "call_control_id": carrier.call_id,
        "outbound_encoding": "PCMA",
        "from": CALLER,
        "to": CALLED,
    }


def test_plivo() -> None:
    websocket, carrier = opening("plivo")
    assert parse(websocket) == ("plivo", {"stream_id": carrier.stream_id, "call_id": carrier.call_id})


def test_exotel() -> None:
    websocket, carrier = opening("exotel", parameters={"a": "b"})
    assert parse(websocket) == (
        "exotel",
        {
            "stream_id": carrier.stream_sid,
            "call_id": carrier.call_id,
            "account_sid": "acme1",
            "from": CALLER,
            "to": CALLED,
            "custom_parameters": {"a": "b"},
        },
    )


def test_vonage_and_genesys_which_pipecat_does_not_know() -> None:
    websocket, _ = opening("vonage")
    kind, data = parse(websocket)
    assert kind == "vonage"
    assert data["content_type"] == "audio/l16;rate=16000"
    websocket, carrier = opening("genesys", parameters={"intent": "pay"})
    kind, data = parse(websocket)
    assert kind == "genesys"
    assert (data["conversation_id"], data["input_variables"]) == (carrier.call_id, {"intent": "pay"})
    assert data["to"].endswith(CALLED)


@pytest.mark.parametrize("name", ["plivo", "vonage", "genesys"])
def test_a_first_message_that_says_it_is_enough(name: str) -> None:
    websocket, _ = opening(name)  # and nothing follows: waiting for a second message would take for ever
    assert parse(websocket)[0] == name
    assert len(read_so_far(websocket)) == 1


def test_what_was_read_is_read_again_and_the_result_is_kept() -> None:
    async def run() -> None:
        websocket, carrier = opening("twilio")
        first = await parse_telephony_websocket(websocket)
        assert [json.loads(message)["event"] for message in read_so_far(websocket)] == ["connected", "start"]
        websocket.say(carrier.audio(bytes(320), 0.02)[0])
        assert await parse_telephony_websocket(websocket) is first
        assert json.loads((await websocket.receive())["text"])["event"] == "media"

    asyncio.run(run())


def test_closed_before_the_first_message() -> None:
    websocket = MemoryWebSocket()
    websocket.leave()
    with pytest.raises(ValueError, match="first message"):
        parse(websocket)


def test_closed_after_the_first_message() -> None:
    websocket = MemoryWebSocket('{"event":"connected"}')
    websocket.leave()
    with capture_logs() as logs:
        assert parse(websocket) == ("unknown", {})
    assert [(entry["event"], entry["messages"]) for entry in logs] == [("telephony.unknown_carrier", 1)]


def test_a_carrier_that_stays_silent_does_not_hold_the_call_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telephony, "WAIT_S", 0.05)
    assert parse(MemoryWebSocket('{"event":"connected"}')) == ("unknown", {})
    with pytest.raises(ValueError, match="silent"):
        parse(MemoryWebSocket())


@pytest.mark.parametrize(
    "message",
    [
        "no JSON",
        "[]",
        "7",
        "{}",
        "[" * 100_000,
        '{"event":"start"}',
        '{"event":"start","start":[]}',
        '{"event":"start","start":{"streamSid":"MZ1"}}',
        '{"stream_id":"s","start":{}}',
        '{"type":"open","version":"2"}',
        b"\x00\x01",
    ],
    ids=lambda message: repr(message)[:40],
)
def test_what_no_carrier_says(message: str | bytes) -> None:
    with capture_logs() as logs:
        assert parse(MemoryWebSocket(message, message)) == ("unknown", {})
    assert logs[-1]["event"] == "telephony.unknown_carrier"


# ---------------------------------------------------------------- serializers

CALLS: dict[str, tuple[dict[str, Any], type, tuple[str, ...]]] = {
    "twilio": (
        {"stream_id": "MZ1", "call_id": "CA1", "body": {}},
        TwilioFrameSerializer,
        ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"),
    ),
    "telnyx": (
        {"stream_id": "s", "call_control_id": "v3:1", "outbound_encoding": "PCMA"},
        TelnyxFrameSerializer,
        ("TELNYX_API_KEY",),
    ),
    "plivo": ({"stream_id": "s", "call_id": "c"}, PlivoFrameSerializer, ("PLIVO_AUTH_ID", "PLIVO_AUTH_TOKEN")),
    "exotel": ({"stream_id": "s", "call_id": "c"}, ExotelFrameSerializer, ()),
    "vonage": ({}, VonageFrameSerializer, ()),
    "genesys": ({}, GenesysAudioHookSerializer, ()),
}


@pytest.mark.parametrize("carrier", CALLS)
def test_serializers_take_their_credentials_from_the_environment(carrier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, cls, variables = CALLS[carrier]
    for name in variables:
        monkeypatch.setenv(name, f"value of {name}")
    serializer = serializer_for(carrier, data)
    assert isinstance(serializer, cls)
    request = serializer.hang_up_request()
    assert (request is not None) is bool(variables)
    if request is not None:
        assert request.secret == f"value of {variables[-1]}"
        assert request.call_id == data.get("call_id", data.get("call_control_id"))


@pytest.mark.parametrize("carrier", [name for name, (_, _, variables) in CALLS.items() if variables])
def test_a_variable_that_is_missing_is_named(carrier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _, variables = CALLS[carrier]
    for name in variables:
        monkeypatch.setenv(name, "x")
    monkeypatch.delenv(variables[-1])
    with pytest.raises(ValueError, match=variables[-1]):
        serializer_for(carrier, data)


def test_a_carrier_that_nobody_knows() -> None:
    with pytest.raises(ValueError, match="no carrier 'unknown'"):
        serializer_for("unknown", {})
