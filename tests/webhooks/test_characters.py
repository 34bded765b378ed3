"""What callers send must neither break the document that answers them nor the record of their call."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from media.secret import GivenSecret
from webhooks.base import (
    CallRef,
    CarrierHttp,
    HttpAnswer,
    InboundCall,
    Refusal,
    StreamOffer,
    StreamStatus,
    Urls,
    WebRequest,
)
from webhooks.characters import for_xml, read_json, whole, writable
from webhooks.exotel import ExotelHttp, ExotelSettings
from webhooks.plivo import PlivoHttp, PlivoSettings
from webhooks.targets import read_target
from webhooks.telnyx import TelnyxHttp, TelnyxSettings
from webhooks.twilio import TwilioHttp, TwilioSettings

URLS = Urls(base="https://gw.example.com")
MEDIA = "wss://gw.example.com/x/media/T"
SECRET = GivenSecret("made-up-0123456789")
HALF = "\ud800"

XML: Mapping[str, Callable[[], CarrierHttp]] = {
    "twilio": lambda: TwilioHttp(TwilioSettings(account_sid="AC" + "0" * 32, auth_token=SECRET)),
    "telnyx": lambda: TelnyxHttp(TelnyxSettings(api_key=SECRET, verify_signatures=False)),
    "plivo": lambda: PlivoHttp(PlivoSettings(auth_id="MAXXXXXXXXXXXXXXXXXX", auth_token=SECRET)),
}
CALL_ID = "63f61863-4a51-4f6b-86e1-46edebcf9356"


def read(answer: HttpAnswer | None) -> ElementTree.Element:
    assert answer is not None
    return ElementTree.fromstring(answer.body)


@given(st.text())
def test_what_is_written_is_read_again(text: str) -> None:
    assert writable(for_xml(text))
    assert writable(text) == (for_xml(text) == text)
    ElementTree.fromstring(f"<a>{for_xml(text).translate({60: None, 38: None})}</a>".encode())


@pytest.mark.parametrize("carrier", XML)
@given(text=st.text(st.characters(min_codepoint=0, max_codepoint=0x2FF) | st.sampled_from("\ufffe\u2028\U0001f600")))
def test_no_parameter_makes_a_document_unreadable(carrier: str, text: str) -> None:
    """SIP headers are the caller's: what XML cannot hold is left out, and the call is answered."""
    call = InboundCall(carrier=carrier, call_id=CALL_ID)
    parameters = {"good": "1", "odd": text, f"x{text}": "2", "ref": text}
    answer = XML[carrier]().offer(call, StreamOffer(media_url=MEDIA, urls=URLS, parameters=parameters)).answer
    said = {one.get("name"): one.get("value") for one in read(answer).iter("Parameter")}
    if carrier != "plivo":  # it hands back one opaque id only
        assert said["good"] == "1"
        assert ("odd" in said) == writable(text) or len(text) > 490


@pytest.mark.parametrize("carrier", XML)
def test_what_is_said_has_no_control_characters(carrier: str) -> None:
    call = InboundCall(carrier=carrier, call_id=CALL_ID)
    refused = XML[carrier]().refuse(call, Refusal(reason="full", instead="say:We are <full>\x0b & closed\x00."))
    assert "".join(read(refused.answer).itertext()) == "We are <full> & closed."


@pytest.mark.parametrize("carrier", XML)
@pytest.mark.parametrize("target", ["sip:a\x0b@example.com", "client:\x00", "https://example.com/\x1f/x", "\ufffe"])
def test_a_target_that_no_document_can_hold_is_none(carrier: str, target: str) -> None:
    ref = CallRef(carrier=carrier, call_id=CALL_ID, account_id="AC" + "0" * 32)
    assert XML[carrier]().transfer(ref, target, URLS) is None
    assert read_target(target)[0] == ""


def test_halves_of_characters_become_question_marks() -> None:
    assert (whole(f"a{HALF}b"), whole("\U0001f600"), whole("plain")) == ("a?b", "\U0001f600", "plain")
    assert read_json(b'{"a\\ud800":["\\udfff", 1, null, {"b": "\\ud83d\\ude00"}]}') == {
        "a?": ["?", 1, None, {"b": "\U0001f600"}]
    }
    assert read_json(b'["\xed\xa0\x80"]') == ["?"]  # spelled as bytes, which the library lets pass


STREAMS: Mapping[str, Mapping[str, str]] = {  # how each carrier says that it could not reach our socket
    "twilio": {"CallSid": "CA1", "StreamEvent": "stream-error", "StreamError": "31920: {}"},
    "telnyx": {"CallSid": "v3:A", "StreamEvent": "stream-failed", "StreamError": "no 101 from {}"},
    "plivo": {"CallUUID": CALL_ID, "Status": "failed", "StatusReason": "connection_failed {}"},
}


@pytest.mark.parametrize("carrier", STREAMS)
@pytest.mark.parametrize("scheme", ["wss", "WS", "https"])
def test_what_is_told_of_a_stream_names_no_url(carrier: str, scheme: str) -> None:
    """The token in it is still good: nobody has come with it."""
    fields = {
        name: value.format(f"{scheme}://u:p@gw.example.com/x/media/TOKEN") for name, value in STREAMS[carrier].items()
    }
    request = WebRequest(method="POST", url=URLS.base, headers={}, body=urlencode(fields).encode())
    (event,) = XML[carrier]().handle("stream-status", request, URLS).events
    assert isinstance(event, StreamStatus)
    assert event.what == "failed"
    assert "<URL>" in event.problem
    assert "TOKEN" not in event.problem


BODIES: Mapping[str, Any] = {
    "telnyx": {
        "data": {"event_type": "call.initiated", "payload": {"call_control_id": "v3:A", "direction": "incoming"}}
    },
    "exotel": {"CallSid": "b6768d9e"},
}


@pytest.mark.parametrize("carrier", BODIES)
def test_a_caller_whose_name_has_half_a_character_is_answered(carrier: str) -> None:
    body = json.loads(json.dumps(BODIES[carrier]))
    if carrier == "telnyx":
        http: CarrierHttp = TelnyxHttp(TelnyxSettings(api_key=SECRET, control="call_control", verify_signatures=False))
        body["data"]["payload"] |= {"from": HALF, "sip_headers": [{"name": f"X-{HALF}", "value": HALF}]}
    else:
        http, body = ExotelHttp(ExotelSettings()), {**body, "From": HALF, f"x{HALF}": HALF}
    headers = {"content-type": "application/json"}
    request = WebRequest(method="POST", url=URLS.base, headers=headers, body=json.dumps(body).encode())
    call = http.handle("answer", request, URLS).incoming
    assert call is not None
    assert call.from_number == "?"
    for text in (*call.parameters, *call.parameters.values()):
        text.encode()
    http.offer(call, StreamOffer(media_url=MEDIA, urls=URLS, parameters=call.parameters))
