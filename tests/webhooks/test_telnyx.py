"""Telnyx over HTTP: signatures, both control planes, what is asked of the REST interface."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
import pytest
import respx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from media.errors import ConfigError
from media.secret import Secret
from tests.webhooks.rest import document, outline, send
from webhooks.base import (
    AnsweredBy,
    CallPhase,
    CallRef,
    CallStatus,
    CarrierRequest,
    DialOrder,
    Handled,
    InboundCall,
    NotAuthentic,
    Once,
    OutcomeKind,
    Purpose,
    Refusal,
    StreamOffer,
    StreamStatus,
    UnreadableRequest,
    Urls,
    WebRequest,
)
from webhooks.telnyx import TelnyxHttp, TelnyxSettings
from webhooks.telnyx_rest import pack_state, unpack_state

SEED = bytes(range(32))
PUBLIC = "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="
NOW = 1767225600
JSON_BODY = (
    b'{"data":{"event_type":"call.initiated","id":"0ccc7b54-4df3-4bca-a65a-3da1ecc777f0",'
    b'"payload":{"call_control_id":"v3:AAA"},"record_type":"event"},"meta":{"attempt":1}}'
)
JSON_SIGNATURE = "TatllLFxYG9Xq6thrMXQpkcTEHzTftCGtHHpxAvZ5r2VKJY5w3XALaOywiZbNZ8LnepXzTDcBbxzRsrR33GoBw=="
FORM_BODY = (
    b"AccountSid=f5586561-8ff0-4291-a51b-c7dfe4139ff9&CallSid=v3%3AAAA&From=%2B13125550100&To=%2B13125550199"
    b"&CallStatus=ringing"
)
FORM_SIGNATURE = "hsNelUNoyVAyYJxaCRAjVcFWeHcWJLUbNM2/KqfMKM7rKX0wIYc88fkucAEYSdnxiKSXbvZ7XUn2papBzKG9Cw=="
VECTORS = [(JSON_BODY, JSON_SIGNATURE), (FORM_BODY, FORM_SIGNATURE)]

BASE = "https://gw.example.com/phone"
URLS = Urls(base=BASE)
ANSWER = f"{BASE}/telnyx/answer"
EVENTS = f"{BASE}/telnyx/events"
ACCOUNT = "f5586561-8ff0-4291-a51b-c7dfe4139ff9"
FORM = "application/x-www-form-urlencoded"
API = "https://api.telnyx.com/v2"


@pytest.fixture(autouse=True)
def _api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELNYX_API_KEY", "KEY0123")


def texml(**changes: Any) -> TelnyxHttp:
    return TelnyxHttp(TelnyxSettings(public_key=PUBLIC, api_key=Secret(env="TELNYX_API_KEY"), **changes))


def call_control(**changes: Any) -> TelnyxHttp:
    return texml(control="call_control", connection_id="7267", **changes)


def sign(body: bytes, timestamp: str = str(NOW), seed: bytes = SEED) -> str:
    message = timestamp.encode() + b"|" + body
    return base64.b64encode(Ed25519PrivateKey.from_private_bytes(seed).sign(message)).decode()


def webhook(
    body: bytes,
    signature: str | None = None,
    *,
    timestamp: str | None = str(NOW),
    received: float = NOW + 1,
    method: str = "POST",
    url: str = ANSWER,
    content_type: str = FORM,
) -> WebRequest:
    headers = {"content-type": content_type}
    if signature is not None:
        headers["telnyx-signature-ed25519"] = signature
    if timestamp is not None:
        headers["telnyx-timestamp"] = timestamp
    return WebRequest(method=method, url=url, headers=headers, body=body, received=received)


def form(fields: Mapping[str, str], url: str = ANSWER, method: str = "POST") -> WebRequest:
    encoded = urlencode(fields)
    if method == "GET":
        return WebRequest(method="GET", url=f"{url}?{encoded}", headers={})
    return WebRequest(method="POST", url=url, headers={"content-type": FORM}, body=encoded.encode())


def event(event_type: str, id: str = "0ccc7b54-4df3-4bca-a65a-3da1ecc777f0", **payload: Any) -> WebRequest:
    data = {
        "event_type": event_type,
        "id": id,
        "occurred_at": "2026-01-01T00:00:00.000000Z",
        "payload": {"call_control_id": "v3:AAA", **payload},
        "record_type": "event",
    }
    body = json.dumps({"data": data, "meta": {"attempt": 1, "delivered_to": EVENTS}}).encode()
    return WebRequest(method="POST", url=EVENTS, headers={"content-type": "application/json"}, body=body)


def refusal_of(http: TelnyxHttp, request: WebRequest) -> NotAuthentic:
    with pytest.raises(NotAuthentic) as caught:
        http.authenticate("answer", request)
    return caught.value


def only(handled: Handled) -> CarrierRequest:
    assert handled.answer is not None
    assert (handled.answer.status, handled.answer.body) == (200, b"")
    (request,) = handled.requests
    assert request.repeatable
    return request


def command_of(request: CarrierRequest) -> tuple[str, dict[str, Any]]:
    """The action and the body, without the command's id, which must be one."""
    body = dict(request.json)
    assert uuid.UUID(body.pop("command_id"))
    assert request.method == "POST"
    assert request.url.startswith(f"{API}/calls/v3:AAA/actions/")
    return request.url.rpartition("/")[2], body


# ---------------------------------------------------------------- authenticity


@pytest.mark.parametrize(("body", "signature"), VECTORS)
def test_vectors(body: bytes, signature: str) -> None:
    assert sign(body) == signature
    once = texml().authenticate("answer", webhook(body, signature))
    assert once == Once(key=signature, for_s=600)


@pytest.mark.parametrize(("age", "good"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)])
def test_a_signature_is_good_for_five_minutes_both_ways(age: int, good: bool) -> None:
    request = webhook(FORM_BODY, FORM_SIGNATURE, received=NOW + age)
    if good:
        assert texml().authenticate("answer", request)
    else:
        refused = refusal_of(texml(), request)
        assert (refused.reason, refused.checked["age_s"]) == ("stale", str(age))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"signature": None}, "no-signature"),
        ({"timestamp": None}, "no-signature"),
        ({"signature": ""}, "no-signature"),
        ({"body": FORM_BODY + b" "}, "bad-signature"),
        ({"signature": sign(FORM_BODY, seed=bytes(32))}, "bad-signature"),
        ({"signature": sign(FORM_BODY, timestamp=str(NOW + 1))}, "bad-signature"),
        # One time in milliseconds, signed as such, is a time far away.
        ({"timestamp": f"{NOW}000", "signature": sign(FORM_BODY, timestamp=f"{NOW}000")}, "bad-signature"),
        ({"timestamp": "", "signature": sign(FORM_BODY, timestamp="")}, "no-signature"),
        ({"timestamp": f" {NOW}", "signature": sign(FORM_BODY, timestamp=f" {NOW}")}, "bad-signature"),
        ({"timestamp": f"+{NOW}", "signature": sign(FORM_BODY, timestamp=f"+{NOW}")}, "bad-signature"),
        ({"timestamp": "1767225６00"}, "bad-signature"),
        ({"signature": f"{FORM_SIGNATURE}, {FORM_SIGNATURE}"}, "bad-signature"),
    ],
)
def test_what_is_not_signed_is_refused(changes: dict[str, Any], reason: str) -> None:
    fields = {"body": FORM_BODY, "signature": FORM_SIGNATURE, **changes}
    refused = refusal_of(texml(), webhook(**fields))
    assert (refused.reason, refused.status) == (reason, 403)


@pytest.mark.parametrize(
    "spelling",
    [
        FORM_SIGNATURE[:-3] + "x==",  # loose bits
        FORM_SIGNATURE.rstrip("="),
        FORM_SIGNATURE + "=",
        FORM_SIGNATURE + "\n",
        " " + FORM_SIGNATURE,
        FORM_SIGNATURE[:20] + " " + FORM_SIGNATURE[20:],
        FORM_SIGNATURE.replace("/", "_").replace("+", "-"),
        base64.b64encode(base64.b64decode(FORM_SIGNATURE) + b"\0").decode(),
        base64.b64encode(base64.b64decode(FORM_SIGNATURE)[:-1]).decode(),
    ],
)
def test_a_signature_has_one_spelling(spelling: str) -> None:
    assert spelling != FORM_SIGNATURE
    assert refusal_of(texml(), webhook(FORM_BODY, spelling)).reason == "bad-signature"


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_every_change_of_what_was_signed_is_refused(data: st.DataObject) -> None:
    body, signature = data.draw(st.sampled_from(VECTORS))
    signed = [bytearray(body), bytearray(str(NOW).encode()), bytearray(base64.b64decode(signature))]
    part = data.draw(st.sampled_from(signed))
    at = data.draw(st.integers(0, len(part)))
    match data.draw(st.sampled_from(["flip", "insert", "delete"])):
        case "flip" if at < len(part):
            part[at] ^= 1 << data.draw(st.integers(0, 7))
        case "delete" if at < len(part):
            del part[at]
        case _:
            part.insert(at, data.draw(st.integers(0, 255)))
    changed_body, timestamp, raw = bytes(signed[0]), signed[1].decode("latin-1"), bytes(signed[2])
    if (changed_body, timestamp, raw) == (body, str(NOW), base64.b64decode(signature)):
        return
    with pytest.raises(NotAuthentic):
        texml_plain().authenticate("answer", webhook(changed_body, base64.b64encode(raw).decode(), timestamp=timestamp))


def texml_plain() -> TelnyxHttp:
    """Without a key for REST: no fixture is needed inside a property."""
    return TelnyxHttp(TelnyxSettings(public_key=PUBLIC))


_JUDGE = """
import base64, json, sys, time
from telnyx.lib.webhook_verification import WebhookVerificationError, verify_webhook_signature
verdicts = []
for case in json.load(sys.stdin):
    time.time = lambda now=case["now"]: now
    try:
        verify_webhook_signature(base64.b64decode(case["body"]), case["headers"], case["key"])
        verdicts.append(True)
    except WebhookVerificationError:
        verdicts.append(False)
print(json.dumps(verdicts))
"""


def test_telnyx_own_verifier_agrees() -> None:
    """It runs in a process of its own: importing it replaces methods of Telnyx's client everywhere."""
    moved = sign(FORM_BODY, timestamp=str(NOW + 500))
    cases = [
        webhook(JSON_BODY, JSON_SIGNATURE),
        webhook(FORM_BODY, FORM_SIGNATURE),
        webhook(b"", sign(b"")),
        webhook("Zürich".encode(), sign("Zürich".encode())),
        webhook(FORM_BODY, moved, timestamp=str(NOW + 500), received=NOW + 700.9),
        webhook(FORM_BODY, FORM_SIGNATURE, received=NOW + 300.9),
        webhook(FORM_BODY, FORM_SIGNATURE, received=NOW + 301),
        webhook(FORM_BODY, FORM_SIGNATURE, received=NOW - 301),
        webhook(FORM_BODY + b" ", FORM_SIGNATURE),
        webhook(FORM_BODY, JSON_SIGNATURE),
        webhook(FORM_BODY, sign(FORM_BODY, seed=bytes(32))),
        webhook(FORM_BODY, None),
        webhook(FORM_BODY, FORM_SIGNATURE, timestamp=None),
        webhook(FORM_BODY, FORM_SIGNATURE, timestamp=str(NOW + 1)),
    ]
    told = [
        {
            "body": base64.b64encode(case.body).decode(),
            "headers": dict(case.headers),
            "key": PUBLIC,
            "now": case.received,
        }
        for case in cases
    ]
    judge = subprocess.run(
        [sys.executable, "-c", _JUDGE], input=json.dumps(told), capture_output=True, text=True, timeout=60, check=True
    )
    http = texml()
    assert [accepted(http, case) for case in cases] == json.loads(judge.stdout)
    assert sum(json.loads(judge.stdout)) == 6


def accepted(http: TelnyxHttp, request: WebRequest) -> bool:
    try:
        http.authenticate("answer", request)
    except NotAuthentic:
        return False
    return True


def test_a_get_is_taken_only_if_the_settings_say_so() -> None:
    """Its signature says nothing of its query, and two of one second have the same."""
    url = f"{ANSWER}?CallSid=v3%3AAAA"
    request = webhook(b"", sign(b""), method="GET", url=url)
    refused = refusal_of(texml(), request)
    assert (refused.reason, refused.status) == ("get-method", 405)
    assert "POST" in refused.checked["remedy"]
    open_minded = texml(accept_get=True)
    assert open_minded.authenticate("answer", request) == Once(key=f"{sign(b'')} {url}", for_s=600)
    forged = webhook(b"", sign(b"", seed=bytes(32)), method="GET", url=url)
    assert refusal_of(open_minded, forged).reason == "bad-signature"
    assert refusal_of(open_minded, webhook(b"", method="GET", url=url)).reason == "no-signature"


def test_what_was_checked_is_said_without_values() -> None:
    refused = refusal_of(texml(), webhook(FORM_BODY + b"&x=1", FORM_SIGNATURE))
    said = json.dumps(refused.checked)
    assert refused.checked["headers"] == "telnyx-signature-ed25519, telnyx-timestamp"
    assert f"{len(FORM_BODY) + 4} bytes" in said
    assert "3125550100" not in said
    assert PUBLIC not in said
    assert FORM_SIGNATURE not in said


def test_without_a_key_nothing_begins() -> None:
    with pytest.raises(ConfigError, match=r"public_key: is not set .*verify_signatures = false"):
        TelnyxHttp(TelnyxSettings())
    for wrong in ("A6EHv", PUBLIC + "=", PUBLIC[:-2] + "h=", base64.b64encode(bytes(31)).decode()):
        with pytest.raises(ConfigError, match="32 bytes"):
            TelnyxHttp(TelnyxSettings(public_key=wrong))
    unguarded = TelnyxHttp(TelnyxSettings(verify_signatures=False))
    assert refusal_of(unguarded, webhook(FORM_BODY, FORM_SIGNATURE)).reason == "no-key"


# ---------------------------------------------------------------- TeXML: webhooks

VOICE = {
    "AccountSid": ACCOUNT,
    "CallSid": "v3:KkQ2-_==",
    "CallSidLegacy": "11111111-2222-3333-4444-555555555555",
    "From": "+13125550100",
    "To": "+13125550199",
    "ConnectionId": "1494404757140276705",
    "CallStatus": "ringing",
    "Direction": "inbound",
    "ApiVersion": "2010-04-01",
    "CallerId": "+13125550100",
}


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_texml_call_comes_in(method: str) -> None:
    handled = texml().handle("answer", form({**VOICE, "SipHeader_X-Customer": "C-1"}, method=method), URLS)
    assert handled == Handled(
        incoming=InboundCall(
            carrier="telnyx",
            call_id="v3:KkQ2-_==",
            from_number="+13125550100",
            to_number="+13125550199",
            account_id=ACCOUNT,
            parameters={"X-Customer": "C-1"},
            extra={
                "connection_id": "1494404757140276705",
                "call_sid_legacy": "11111111-2222-3333-4444-555555555555",
            },
        )
    )


def test_what_the_answer_url_says_reaches_the_bot() -> None:
    incoming = texml().handle("answer", form(VOICE, url=f"{ANSWER}?bot=sales&Team=a+b"), URLS).incoming
    assert incoming is not None
    assert incoming.parameters == {"bot": "sales", "Team": "a b"}


def test_a_call_of_ours_asks_for_its_document() -> None:
    request = form({**VOICE, "Direction": "outbound-api", "CallStatus": "in-progress"})
    incoming = texml().handle("answer", request, URLS).incoming
    assert incoming is not None
    assert incoming.direction == "outbound"


@pytest.mark.parametrize("call_id", ["", "../../v2", "a b", "~1", "v3:" + "A" * 300])
def test_a_call_needs_an_id(call_id: str) -> None:
    with pytest.raises(UnreadableRequest):
        texml().handle("answer", form({**VOICE, "CallSid": call_id}), URLS)


OFFER = StreamOffer(
    media_url="wss://gw.example.com/phone/telnyx/media/tok-123", urls=URLS, parameters={"bot": 'sa"l<e>s', "n": "1"}
)
INBOUND = InboundCall(carrier="telnyx", call_id="v3:AAA")
PLACED = InboundCall(carrier="telnyx", call_id="v3:AAA", direction="outbound")


def test_the_texml_document() -> None:
    root = document(texml().offer(INBOUND, OFFER).answer)
    assert outline(root) == "Response(Connect(Stream(Parameter, Parameter)))"
    (stream,) = root.iter("Stream")
    assert stream.attrib == {
        "url": "wss://gw.example.com/phone/telnyx/media/tok-123",
        "track": "inbound_track",
        "codec": "default",
        "bidirectionalMode": "rtp",
        "bidirectionalCodec": "PCMU",
        "bidirectionalSamplingRate": "8000",
        "statusCallback": f"{BASE}/telnyx/stream-status",
        "statusCallbackMethod": "POST",
    }
    assert [child.attrib for child in stream] == [{"name": "bot", "value": 'sa"l<e>s'}, {"name": "n", "value": "1"}]


@pytest.mark.parametrize(
    ("changes", "codec", "send", "rate"),
    [
        ({"receive_codec": "PCMA"}, "PCMA", "PCMU", "8000"),
        ({"send_codec": "PCMA"}, "default", "PCMA", "8000"),
        ({"send_codec": "L16"}, "default", "L16", "16000"),
        ({"send_codec": "L16", "sample_rate": 24000}, "default", "L16", "24000"),
    ],
)
def test_codecs_of_the_texml_document(changes: dict[str, Any], codec: str, send: str, rate: str) -> None:
    (stream,) = document(texml(**changes).offer(INBOUND, OFFER).answer).iter("Stream")
    said = [stream.get(name) for name in ("codec", "bidirectionalCodec", "bidirectionalSamplingRate")]
    assert said == [codec, send, rate]


@pytest.mark.parametrize(
    ("call", "instead", "expected", "attributes"),
    [
        (INBOUND, "busy", "Response(Reject)", {"reason": "busy"}),
        (INBOUND, "rejected", "Response(Reject)", {"reason": "rejected"}),
        (PLACED, "busy", "Response(Hangup)", {}),
        (INBOUND, "number:+1 (312) 555-0123", "Response(Dial(Number=+13125550123))", {}),
        (INBOUND, "number:sip:a@b.example", "Response(Dial(Sip=sip:a@b.example))", {}),
        (
            INBOUND,
            "gateway:https://other.example.com/x/",
            "Response(Redirect=https://other.example.com/x/telnyx/answer)",
            {"method": "POST"},
        ),
        (INBOUND, "say:All <lines> are busy", "Response(Say=All <lines> are busy, Hangup)", {}),
    ],
)
def test_texml_refusals(call: InboundCall, instead: str, expected: str, attributes: dict[str, str]) -> None:
    root = document(texml().refuse(call, Refusal(reason="full", instead=instead)).answer)
    assert outline(root) == expected
    assert root[0].attrib == attributes


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, "Response(Hangup)"),
        ("+13125550123", "Response(Dial(Number=+13125550123))"),
        ("sip:agent@pbx.example", "Response(Dial(Sip=sip:agent@pbx.example))"),
        ("https://flows.example.com/next", "Response(Redirect=https://flows.example.com/next)"),
    ],
)
def test_what_follows_the_stream(target: str | None, expected: str) -> None:
    http = texml()
    assert http.handle("after", form(VOICE, url=f"{BASE}/telnyx/after"), URLS).asks_after == "v3:KkQ2-_=="
    assert outline(document(http.after("v3:AAA", target))) == expected


STATUS = {
    "CallSid": "v3:AAA",
    "AccountSid": ACCOUNT,
    "From": "+13125550100",
    "To": "+13125550199",
    "CallStatus": "completed",
    "CallDuration": "41",
    "HangupSource": "caller",
    "SequenceNumber": "3",
    "CallbackSource": "call-progress-events",
    "Timestamp": "Thu, 01 Jan 2026 00:00:41 +0000",
}


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ("initiated", CallPhase.QUEUED),
        ("ringing", CallPhase.RINGING),
        ("in-progress", CallPhase.ANSWERED),
        ("answered", CallPhase.ANSWERED),
        ("completed", CallPhase.COMPLETED),
        ("busy", CallPhase.BUSY),
        ("no-answer", CallPhase.NO_ANSWER),
        ("canceled", CallPhase.CANCELED),
        ("failed", CallPhase.FAILED),
    ],
)
def test_texml_statuses(status: str, phase: CallPhase) -> None:
    handled = texml().handle("status", form({**STATUS, "CallStatus": status}), URLS)
    (reported,) = handled.events
    assert isinstance(reported, CallStatus)
    assert (reported.call_id, reported.phase, reported.ended_by) == ("v3:AAA", phase, "caller")
    assert (reported.duration_s, reported.key) == (41.0, f"v3:AAA {status} 3")
    assert handled.answer is not None
    assert handled.answer.status == 204


@pytest.mark.parametrize(
    ("direction", "source", "by"),
    [
        ("inbound", "caller", "caller"),
        ("inbound", "callee", "bot"),
        ("outbound-api", "caller", "bot"),
        ("outbound-api", "callee", "caller"),
        ("inbound", "unknown", ""),
        ("inbound", "", ""),
    ],
)
def test_who_ended_a_texml_call(direction: str, source: str, by: str) -> None:
    request = form({**STATUS, "Direction": direction, "HangupSource": source})
    (reported,) = texml().handle("status", request, URLS).events
    assert isinstance(reported, CallStatus)
    assert reported.ended_by == by


def test_an_end_that_is_reported_to_the_answer_url_is_no_call() -> None:
    handled = texml().handle("answer", form(STATUS), URLS)
    assert handled.incoming is None
    (reported,) = handled.events
    assert isinstance(reported, CallStatus)
    assert reported.phase is CallPhase.COMPLETED


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("stream-started", "started"),
        ("stream-stopped", "stopped"),
        ("stream-error", "failed"),
        ("stream-failed", "failed"),
    ],
)
def test_texml_stream_statuses(said: str, what: str) -> None:
    fields = {
        "AccountSid": ACCOUNT,
        "CallSid": "v3:AAA",
        "StreamSid": "32de0dea",
        "StreamEvent": said,
        "StreamError": "connection_failed" if what == "failed" else "",
        "Timestamp": "2026-01-01T00:00:00Z",
        "CallStatus": "in-progress",
    }
    assert texml().handle("stream-status", form(fields), URLS).events == [
        StreamStatus(
            carrier="telnyx",
            call_id="v3:AAA",
            what=what,
            key=f"32de0dea {what} 2026-01-01T00:00:00Z",
            stream_id="32de0dea",
            problem=fields["StreamError"],
        )
    ]


def test_unknown_reports_are_taken() -> None:
    for fields in ({"CallSid": "v3:AAA", "StreamEvent": "stream-quality"}, {"CallSid": "v3:AAA", "CallStatus": "odd"}):
        handled = texml().handle("stream-status", form(fields), URLS)
        assert (handled.events, handled.incoming) == ([], None)
        assert handled.answer is not None


@pytest.mark.parametrize(
    ("said", "who"), [("human", "human"), ("machine_end_beep", "machine"), ("fax", "fax"), ("not_sure", "unknown")]
)
def test_texml_machine_detection(said: str, who: str) -> None:
    (reported,) = texml().handle("status", form({"CallSid": "v3:AAA", "AnsweredBy": said}), URLS).events
    key, beep = f"v3:AAA amd {said}", said == "machine_end_beep"
    assert reported == AnsweredBy(carrier="telnyx", call_id="v3:AAA", who=who, key=key, detail=said, beep=beep)


def test_the_wrong_plane_is_named() -> None:
    with pytest.raises(UnreadableRequest, match="control = 'texml'"):
        texml().handle("events", event("call.initiated", direction="incoming"), URLS)
    with pytest.raises(UnreadableRequest, match="control = 'call_control'"):
        call_control().handle("answer", form(VOICE), URLS)


# ---------------------------------------------------------------- Call Control: events

INITIATED: dict[str, Any] = {
    "call_leg_id": "428c31b6-7af4-4bcb-b7f5-5013ef9657c1",
    "call_session_id": "428c31b6-abf3-3bc1-b7f4-5013ef9657c1",
    "client_state": None,
    "connection_id": "7267xxxxxxxxxxxxxx",
    "direction": "incoming",
    "from": "+13125550100",
    "to": "+13125550199",
    "state": "parked",
    "custom_headers": [{"name": "X-Customer", "value": "C-1"}],
    "sip_headers": [{"name": "User-to-User", "value": "00c8"}],
}


@pytest.mark.parametrize("name", ["call.initiated", "call_initiated"])
def test_a_call_control_call_comes_in(name: str) -> None:
    handled = call_control().handle("events", event(name, **INITIATED), URLS)
    assert handled == Handled(
        incoming=InboundCall(
            carrier="telnyx",
            call_id="v3:AAA",
            from_number="+13125550100",
            to_number="+13125550199",
            parameters={"X-Customer": "C-1", "User-to-User": "00c8"},
            extra={
                "call_leg_id": INITIATED["call_leg_id"],
                "call_session_id": INITIATED["call_session_id"],
                "connection_id": INITIATED["connection_id"],
                "control": "call_control",
                "event_id": "0ccc7b54-4df3-4bca-a65a-3da1ecc777f0",
            },
        )
    )


def test_other_legs_are_not_answered() -> None:
    handled = call_control().handle("events", event("call.initiated", **{**INITIATED, "direction": "outgoing"}), URLS)
    assert handled.incoming is None
    assert handled.requests == ()
    (reported,) = handled.events
    assert isinstance(reported, CallStatus)
    assert reported.phase is CallPhase.QUEUED


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"data":{}}',
        b'{"data":{"event_type":"call.initiated","payload":[]}}',
        b'{"data":{"event_type":"call.hangup","payload":{}}}',
        b'{"data":{"event_type":"call.hangup","payload":{"call_control_id":"../x"}}}',
        b"[" * 50_000,
    ],
)
def test_unreadable_events(body: bytes) -> None:
    request = WebRequest(method="POST", url=EVENTS, headers={"content-type": "application/json"}, body=body)
    with pytest.raises(UnreadableRequest):
        call_control().handle("events", request, URLS)


NO_PARAMETERS = StreamOffer(media_url=OFFER.media_url, urls=URLS)


def test_answered_with_the_stream_in_one_command() -> None:
    handled = call_control().offer(INBOUND, NO_PARAMETERS)
    request = only(handled)
    assert request.purpose is Purpose.ANSWER
    action, body = command_of(request)
    assert unpack_state(body.pop("client_state")) == {"dir": "in"}
    assert (action, body) == (
        "answer",
        {
            "stream_url": OFFER.media_url,
            "stream_track": "inbound_track",
            "stream_codec": "default",
            "stream_bidirectional_mode": "rtp",
            "stream_bidirectional_codec": "PCMU",
        },
    )


@pytest.mark.parametrize(
    ("changes", "parameters", "rate"),
    [
        ({"send_codec": "L16"}, {}, 16000),
        ({"send_codec": "L16", "sample_rate": 8000}, {}, 8000),
        ({"stream_auth": True}, {}, None),
        ({}, {"bot": "sales", "ümlaut": "ß"}, None),
    ],
)
def test_what_answer_has_no_field_for_takes_two_commands(
    changes: dict[str, Any], parameters: dict[str, str], rate: int | None
) -> None:
    http = call_control(**changes)
    action, body = command_of(
        only(http.offer(INBOUND, StreamOffer(media_url=OFFER.media_url, urls=URLS, parameters=parameters)))
    )
    assert (action, list(body)) == ("answer", ["client_state"])
    answered = event("call.answered", client_state=body["client_state"], direction="incoming")
    handled = http.handle("events", answered, URLS)
    request = only(handled)
    assert request.purpose is Purpose.ANSWER
    action, body = command_of(request)
    assert unpack_state(body.pop("client_state")) == {"dir": "in"}  # the token does not travel on
    assert action == "streaming_start"
    token = body.pop("stream_auth_token")
    assert len(token) >= 40
    expected = {
        "stream_url": OFFER.media_url,
        "stream_track": "inbound_track",
        "stream_codec": "default",
        "stream_bidirectional_mode": "rtp",
        "stream_bidirectional_codec": changes.get("send_codec", "PCMU"),
    }
    if rate is not None:
        expected["stream_bidirectional_sampling_rate"] = rate
    if parameters:
        expected["custom_parameters"] = [{"name": name, "value": value} for name, value in parameters.items()]
    assert body == expected
    (reported,) = handled.events
    assert isinstance(reported, CallStatus)
    assert reported.phase is CallPhase.ANSWERED
    assert http.authenticate_upgrade(upgrade(token)) == ""


def upgrade(auth: str | None, token: str = "tok-123") -> WebRequest:
    headers = {} if auth is None else {"x-telnyx-streaming-auth-token": auth}
    return WebRequest(method="GET", url=f"wss://gw.example.com/phone/telnyx/media/{token}", headers=headers)


def test_the_second_secret_of_a_socket() -> None:
    http, strict = call_control(), call_control(stream_auth=True)
    _, body = command_of(only(strict.handle("events", event("call.answered", client_state=STREAM_STATE), URLS)))
    secret = body["stream_auth_token"]
    assert strict.authenticate_upgrade(upgrade(secret)) == ""
    assert http.authenticate_upgrade(upgrade(secret)) == ""
    assert http.authenticate_upgrade(upgrade(None)) == ""  # `answer` cannot hand one over
    assert texml().authenticate_upgrade(upgrade(None)) == ""
    for other in (secret[:-1], secret + "x", "", "tok-123"):
        with pytest.raises(NotAuthentic) as caught:
            strict.authenticate_upgrade(upgrade(other))
        assert caught.value.reason == ("bad-stream-token" if other else "no-stream-token")
    with pytest.raises(NotAuthentic):
        strict.authenticate_upgrade(upgrade(secret, "tok-124"))
    with pytest.raises(NotAuthentic):
        strict.authenticate_upgrade(upgrade(None))


STREAM_STATE = pack_state(dir="in", media="tok-123", parameters={})


def test_the_stream_goes_to_our_own_url_whatever_the_state_says() -> None:
    state = pack_state(dir="in", media="x@evil.example/tok", parameters=["no"])
    _, body = command_of(only(call_control().handle("events", event("call.answered", client_state=state), URLS)))
    assert body["stream_url"].startswith("wss://gw.example.com/phone/telnyx/media/")
    assert "custom_parameters" not in body


@pytest.mark.parametrize("state", [None, "", "aGVsbG8=", "not base64!", "W10=", 7])
def test_foreign_state_means_nothing(state: Any) -> None:
    handled = call_control().handle("events", event("call.answered", client_state=state), URLS)
    assert (handled.requests, handled.incoming, len(handled.events)) == ((), None, 1)


def test_commands_have_one_id_per_call_and_purpose() -> None:
    http = call_control()
    ids = {
        only(http.offer(INBOUND, NO_PARAMETERS)).json["command_id"],
        only(http.handle("events", event("call.answered", client_state=STREAM_STATE), URLS)).json["command_id"],
        hang_up_id(http, "v3:AAA"),
        hang_up_id(http, "v3:BBB"),
    }
    assert len(ids) == 4
    assert hang_up_id(call_control(), "v3:AAA") in ids  # also after a restart


def hang_up_id(http: TelnyxHttp, call_id: str) -> str:
    request = http.hang_up(CallRef(carrier="telnyx", call_id=call_id))
    assert request is not None
    return str(request.json["command_id"])


@pytest.mark.parametrize(
    ("instead", "action", "expected"),
    [
        ("busy", "reject", {"cause": "USER_BUSY"}),
        ("rejected", "reject", {"cause": "CALL_REJECTED"}),
        ("gateway:https://other.example.com", "reject", {"cause": "TEMPORARILY_UNAVAILABLE"}),
        ("number:+1 312 555 0123", "transfer", {"to": "+13125550123"}),
        ("say:Sorry", "answer", {"client_state": pack_state(say="Sorry")}),
    ],
)
def test_call_control_refusals(instead: str, action: str, expected: dict[str, Any]) -> None:
    request = only(call_control().refuse(INBOUND, Refusal(reason="full", instead=instead)))
    assert request.purpose is Purpose.REJECT
    assert command_of(request) == (action, expected)


def test_an_answered_call_of_ours_is_hung_up_instead_of_rejected() -> None:
    call = InboundCall(carrier="telnyx", call_id="v3:AAA", direction="outbound", extra={"answered": "yes"})
    assert command_of(only(call_control().refuse(call, Refusal(reason="full")))) == ("hangup", {})


def test_a_spoken_refusal() -> None:
    http = call_control()
    _, body = command_of(only(http.refuse(INBOUND, Refusal(reason="full", instead="say:Bitte später"))))
    action, body = command_of(only(http.handle("events", event("call.answered", **body), URLS)))
    assert (action, body["payload"], body["language"]) == ("speak", "Bitte später", "en-US")
    ended = event("call.speak.ended", client_state=body["client_state"])
    assert command_of(only(http.handle("events", ended, URLS))) == ("hangup", {})
    foreign = http.handle("events", event("call.speak.ended"), URLS)
    assert foreign.requests == ()


@pytest.mark.parametrize(
    ("cause", "sip", "phase"),
    [
        ("normal_clearing", "200", CallPhase.COMPLETED),
        ("originator_cancel", "487", CallPhase.CANCELED),
        ("call_rejected", "603", CallPhase.FAILED),
        ("user_busy", "486", CallPhase.BUSY),
        ("timeout", "480", CallPhase.NO_ANSWER),
        ("time_limit", "200", CallPhase.COMPLETED),
        ("no_answer", "480", CallPhase.NO_ANSWER),
        ("not_found", "404", CallPhase.FAILED),
        ("unspecified", "200", CallPhase.COMPLETED),
        ("unspecified", "503", CallPhase.FAILED),
    ],
)
@pytest.mark.parametrize("name", ["call.hangup", "call_hangup"])
def test_hang_ups(name: str, cause: str, sip: str, phase: CallPhase) -> None:
    request = event(name, hangup_cause=cause, hangup_source="caller", sip_hangup_cause=sip)
    assert call_control().handle("events", request, URLS).events == [
        CallStatus(
            carrier="telnyx",
            call_id="v3:AAA",
            phase=phase,
            key="0ccc7b54-4df3-4bca-a65a-3da1ecc777f0",
            ended_by="caller",
            cause=cause,
            details={"sip_hangup_cause": sip},
        )
    ]


@pytest.mark.parametrize(
    ("state", "source", "by"),
    [
        (pack_state(dir="in"), "caller", "caller"),
        (pack_state(dir="in"), "callee", "bot"),
        (pack_state(dir="out"), "caller", "bot"),
        (pack_state(dir="out"), "callee", "caller"),
        (None, "caller", "caller"),
        (None, "unknown", ""),
    ],
)
def test_who_ended_a_call_control_call(state: str | None, source: str, by: str) -> None:
    request = event("call.hangup", client_state=state, hangup_source=source, hangup_cause="normal_clearing")
    (reported,) = call_control().handle("events", request, URLS).events
    assert isinstance(reported, CallStatus)
    assert reported.ended_by == by


def test_a_repeated_delivery_has_the_same_key() -> None:
    first = event("call.hangup", hangup_cause="normal_clearing")
    second = WebRequest(
        method="POST", url=EVENTS, headers=first.headers, body=first.body.replace(b'"attempt": 1', b'"attempt": 2')
    )
    assert first.body != second.body
    keys = [call_control().handle("events", request, URLS).events for request in (first, second)]
    assert keys[0] == keys[1]
    other = event("call.hangup", id="1111", hangup_cause="normal_clearing")
    assert call_control().handle("events", other, URLS).events != keys[0]


@pytest.mark.parametrize("separator", [".", "_"])
@pytest.mark.parametrize("what", ["started", "stopped", "failed"])
def test_call_control_stream_events(what: str, separator: str) -> None:
    said = "connection_failed wss://gw.example.com/telnyx/media/TOKEN"
    request = event(f"streaming{separator}{what}", stream_id="32de", failure_reason=said)
    (reported,) = call_control().handle("events", request, URLS).events
    assert isinstance(reported, StreamStatus)
    assert (reported.what, reported.stream_id, reported.problem) == (what, "32de", "connection_failed <URL>")


@pytest.mark.parametrize(
    ("name", "result", "who"),
    [
        ("call.machine.detection.ended", "human", "human"),
        ("call.machine.detection.ended", "machine", "machine"),
        ("call.machine.detection.ended", "not_sure", "unknown"),
        ("call.machine.greeting.ended", "beep_detected", "machine"),
        ("call.machine.greeting.ended", "ended", "machine"),
        ("call.machine.premium.detection.ended", "human_business", "human"),
        ("call.machine.premium.detection.ended", "human_residence", "human"),
        ("call.machine.premium.detection.ended", "fax_detected", "fax"),
        ("call.machine.premium.detection.ended", "silence", "unknown"),
        ("call_machine_premium_greeting_ended", "beep_detected", "machine"),
    ],
)
def test_call_control_machine_detection(name: str, result: str, who: str) -> None:
    (reported,) = call_control().handle("events", event(name, result=result), URLS).events
    assert isinstance(reported, AnsweredBy)
    assert (reported.who, reported.detail) == (who, result)
    assert reported.beep == ("greeting" in name)


@pytest.mark.parametrize("name", ["call.dtmf.received", "call.bridged", "call.cost", "", "future.event"])
def test_other_events_are_taken_and_mean_nothing(name: str) -> None:
    handled = call_control().handle("events", event(name, digit="1"), URLS)
    assert (handled.events, handled.requests, handled.incoming) == ((), (), None)
    assert handled.answer is not None
    assert handled.answer.status == 200


# ---------------------------------------------------------------- REST

REF = CallRef(carrier="telnyx", call_id="v3:AAA", account_id=ACCOUNT)
ORDER = DialOrder(to_number="+13125550123", from_number="+13125550100", ring_s=45, parameters={"bot": "sales"})


def sent(request: CarrierRequest | None) -> httpx.Request:
    """`request` as httpx puts it on the wire."""
    assert request is not None
    assert TelnyxHttp.carrier == request.carrier
    assert texml().may_send_to(request.url)
    with respx.mock(assert_all_called=True) as mock:
        route = mock.route(host="api.telnyx.com").respond(200, json={"data": {"result": "ok"}})
        assert send(request).status_code == 200
        raw: httpx.Request = route.calls.last.request
    assert raw.headers["authorization"] == "Bearer KEY0123"
    return raw


@pytest.mark.parametrize("http", [texml, call_control])
def test_hang_up(http: Any) -> None:
    request = http().hang_up(REF)
    raw = sent(request)
    assert (raw.method, str(raw.url)) == ("POST", f"{API}/calls/v3:AAA/actions/hangup")
    assert raw.headers["content-type"] == "application/json"
    assert json.loads(raw.content) == {"command_id": request.json["command_id"]}
    assert request.repeatable
    assert request.purpose is Purpose.HANG_UP


def test_ids_stand_in_paths_as_they_are() -> None:
    raw = sent(texml().hang_up(CallRef(carrier="telnyx", call_id="v3:Kk-Q_2==")))
    assert raw.url.raw_path == b"/v2/calls/v3:Kk-Q_2==/actions/hangup"


@pytest.mark.parametrize("call_id", ["", "..", "a/b", "a?b", "~1", "a b", "a%2Fb"])
def test_nothing_is_asked_about_what_is_no_call(call_id: str) -> None:
    http, ref = texml(), CallRef(carrier="telnyx", call_id=call_id, account_id=ACCOUNT)
    assert http.hang_up(ref) is None
    assert http.transfer(ref, "+13125550123", URLS) is None
    assert http.fetch(ref) is None


@pytest.mark.parametrize(
    ("target", "form"),
    [
        (
            "+1 312 555 0123",
            {
                "Texml": '<?xml version="1.0" encoding="UTF-8"?>'
                "<Response><Dial><Number>+13125550123</Number></Dial></Response>"
            },
        ),
        ("https://flows.example.com/x?a=1", {"Url": "https://flows.example.com/x?a=1", "Method": "POST"}),
    ],
)
def test_a_texml_call_is_transferred_by_another_document(target: str, form: dict[str, str]) -> None:
    transfer = texml().transfer(REF, target, URLS)
    assert transfer is not None
    assert not transfer.closes_socket
    assert transfer.request is not None
    assert not transfer.request.repeatable  # it would start once more
    raw = sent(transfer.request)
    assert (raw.method, str(raw.url)) == ("POST", f"{API}/texml/Accounts/{ACCOUNT}/Calls/v3:AAA")
    assert raw.headers["content-type"] == FORM
    assert dict(parse_qsl(raw.content.decode())) == form


@pytest.mark.parametrize("target", ["+13125550123", "sip:agent@pbx.example"])
def test_a_call_control_call_is_transferred_by_command(target: str) -> None:
    transfer = call_control().transfer(REF, target, URLS)
    assert transfer is not None
    assert transfer.closes_socket
    raw = sent(transfer.request)
    assert str(raw.url) == f"{API}/calls/v3:AAA/actions/transfer"
    body = json.loads(raw.content)
    assert uuid.UUID(body.pop("command_id"))
    assert body == {"to": target, "timeout_secs": 30}


def test_transfers_that_cannot_be() -> None:
    assert texml().transfer(REF, "nobody", URLS) is None
    assert texml().transfer(CallRef(carrier="telnyx", call_id="v3:AAA"), "+13125550123", URLS) is None
    assert call_control().transfer(REF, "https://flows.example.com", URLS) is None


def test_a_texml_call_is_placed() -> None:
    http = texml(connection_id="1494", account_id=ACCOUNT)
    request = http.dial(ORDER, URLS)
    assert request is not None
    assert not request.repeatable  # there are no command ids here
    raw = sent(request)
    assert (raw.method, str(raw.url)) == ("POST", f"{API}/texml/Accounts/{ACCOUNT}/Calls")
    assert dict(parse_qsl(raw.content.decode())) == {
        "To": "+13125550123",
        "From": "+13125550100",
        "Timeout": "45",
        "ApplicationSid": "1494",
        "Url": f"{ANSWER}?bot=sales",
        "UrlMethod": "POST",
        "StatusCallback": f"{BASE}/telnyx/status",
        "StatusCallbackMethod": "POST",
        "StatusCallbackEvent": "initiated ringing answered completed",
    }
    detecting = DialOrder(
        to_number="+13125550123", from_number="+13125550100", ring_s=1, longest_s=5, detect_machine=True
    )
    form = dict(parse_qsl(sent(http.dial(detecting, URLS)).content.decode()))
    assert (form["Timeout"], form["TimeLimit"], form["Url"]) == ("5", "30", ANSWER)
    assert (form["MachineDetection"], form["DetectionMode"], form["AsyncAmd"]) == ("Enable", "Regular", "true")
    assert form["AsyncAmdStatusCallback"] == f"{BASE}/telnyx/status"


def test_a_call_control_call_is_placed_with_its_stream() -> None:
    http = call_control(send_codec="L16", machine_detection="premium")
    order = DialOrder(
        to_number="+13125550123",
        from_number="+13125550100",
        media_url=OFFER.media_url,
        ring_s=900,
        longest_s=600,
        detect_machine=True,
        command_id="order-7",
    )
    request = http.dial(order, URLS)
    assert request is not None
    assert request.repeatable
    raw = sent(request)
    assert (raw.method, str(raw.url)) == ("POST", f"{API}/calls")
    body = json.loads(raw.content)
    secret = body.pop("stream_auth_token")
    assert http.authenticate_upgrade(upgrade(secret)) == ""
    assert unpack_state(body.pop("client_state")) == {"dir": "out"}
    assert body == {
        "connection_id": "7267",
        "to": "+13125550123",
        "from": "+13125550100",
        "timeout_secs": 600,
        "time_limit_secs": 600,
        "command_id": "order-7",
        "webhook_url": EVENTS,
        "webhook_url_method": "POST",
        "stream_url": OFFER.media_url,
        "stream_track": "inbound_track",
        "stream_codec": "default",
        "stream_bidirectional_mode": "rtp",
        "stream_bidirectional_codec": "L16",
        "stream_bidirectional_sampling_rate": 16000,
        "answering_machine_detection": "premium",
    }


@pytest.mark.parametrize("media_url", ["", OFFER.media_url])
def test_a_call_control_call_with_parameters_asks_for_its_stream_when_it_is_answered(media_url: str) -> None:
    http = call_control()
    request = http.dial(replace(ORDER, media_url=media_url), URLS)
    assert request is not None
    assert not request.repeatable  # no id, no second try
    assert "stream_url" not in request.json
    answered = event("call.answered", client_state=request.json["client_state"], **{"from": "+1", "to": "+2"})
    handled = http.handle("events", answered, URLS)
    call = handled.incoming
    assert call is not None
    assert handled.answer is None
    assert (call.direction, call.parameters, call.from_number) == ("outbound", {"bot": "sales"}, "+1")
    action, body = command_of(only(http.offer(call, OFFER)))
    assert action == "streaming_start"
    assert body["stream_url"] == OFFER.media_url
    assert unpack_state(body["client_state"]) == {"dir": "out"}
    assert body["custom_parameters"] == [{"name": "bot", "value": 'sa"l<e>s'}, {"name": "n", "value": "1"}]


def test_placing_calls_needs_an_application() -> None:
    with pytest.raises(ValueError, match="connection_id"):
        texml().dial(ORDER, URLS)
    with pytest.raises(ValueError, match="account_id"):
        texml(connection_id="1494").dial(ORDER, URLS)


def test_without_an_api_key_there_is_no_rest() -> None:
    http = TelnyxHttp(TelnyxSettings(public_key=PUBLIC))
    assert http.hang_up(REF) is None
    assert http.transfer(REF, "+13125550123", URLS) is None
    assert http.dial(ORDER, URLS) is None
    assert http.fetch(REF) is None


def test_fetch() -> None:
    raw = sent(call_control().fetch(REF))
    assert (raw.method, str(raw.url)) == ("GET", f"{API}/calls/v3:AAA")
    raw = sent(texml().fetch(REF))
    assert str(raw.url) == f"{API}/texml/Accounts/{ACCOUNT}/Calls/v3:AAA"
    raw = sent(texml().fetch(CallRef(carrier="telnyx", call_id="v3:AAA")))
    assert str(raw.url) == f"{API}/calls/v3:AAA"


def test_the_simulator_gets_what_is_meant_for_telnyx() -> None:
    http = texml(api_base="http://127.0.0.1:9000/telnyx")
    request = http.hang_up(REF)
    assert request is not None
    assert request.url == "http://127.0.0.1:9000/telnyx/v2/calls/v3:AAA/actions/hangup"
    assert http.may_send_to(request.url)
    assert not http.may_send_to(f"{API}/calls/v3:AAA/actions/hangup")


def error(code: str) -> bytes:
    errors = [{"code": code, "title": "t", "detail": "+13125550100", "meta": {"url": "https://..."}}]
    return json.dumps({"errors": errors}).encode()


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "detail", "retry"),
    [
        (200, {}, b'{"data":{"result":"ok"}}', OutcomeKind.DONE, "200", None),
        (422, {}, error("90018"), OutcomeKind.ALREADY_OVER, "422/90018", None),
        (422, {}, error("90015"), OutcomeKind.FAILED, "422/90015", None),
        (404, {}, error("10005"), OutcomeKind.FAILED, "404/10005", None),
        (404, {}, error("90018"), OutcomeKind.FAILED, "404/90018", None),
        (401, {}, error("10009"), OutcomeKind.FAILED, "401/10009", None),
        (403, {}, error("10010"), OutcomeKind.FAILED, "403/10010", None),
        (422, {}, b"not json", OutcomeKind.FAILED, "422", None),
        (422, {}, b'{"errors":{"code":"90018"}}', OutcomeKind.FAILED, "422", None),
        (422, {}, b'{"errors":["90018",{"title":"x"}]}', OutcomeKind.FAILED, "422", None),
        (429, {}, error("10011"), OutcomeKind.RETRY, "429/10011", None),
        (429, {"retry-after": "3"}, b"", OutcomeKind.RETRY, "429", 3.0),
        (429, {"x-ratelimit-reset": "7"}, b"", OutcomeKind.RETRY, "429", 7.0),
        (429, {"x-ratelimit-reset": "86400"}, b"", OutcomeKind.RETRY, "429", 60.0),
        (429, {"x-ratelimit-reset": "soon"}, b"", OutcomeKind.RETRY, "429", None),
        (429, {"x-ratelimit-reset": "nan"}, b"", OutcomeKind.RETRY, "429", None),
        (
            429,
            {"x-ratelimit-reset": str(NOW + 4), "date": "Thu, 01 Jan 2026 00:00:00 GMT"},
            b"",
            OutcomeKind.RETRY,
            "429",
            4.0,
        ),
        (429, {"x-ratelimit-reset": str(NOW + 4)}, b"", OutcomeKind.RETRY, "429", None),
        (500, {}, b"", OutcomeKind.RETRY, "500", None),
        (503, {"retry-after": "2"}, b"", OutcomeKind.RETRY, "503", 2.0),
    ],
)
def test_outcomes_of_a_hang_up(
    status: int, headers: dict[str, str], body: bytes, kind: OutcomeKind, detail: str, retry: float | None
) -> None:
    http = texml()
    request = http.hang_up(REF)
    assert request is not None
    outcome = http.outcome(request, status, headers, body)
    assert (outcome.kind, outcome.detail, outcome.retry_after_s) == (kind, detail, retry)


@pytest.mark.parametrize(
    ("body", "phase"),
    [
        ({"data": {"is_alive": True}}, CallPhase.ANSWERED),
        ({"data": {"is_alive": False}}, CallPhase.COMPLETED),
        ({"status": "in-progress"}, CallPhase.ANSWERED),
        ({"data": {"status": "busy"}}, CallPhase.BUSY),
        ({"data": {}}, None),
        ([], None),
    ],
)
def test_outcomes_of_a_fetch(body: Any, phase: CallPhase | None) -> None:
    http = call_control()
    request = http.fetch(REF)
    assert request is not None
    outcome = http.outcome(request, 200, {}, json.dumps(body).encode())
    assert (outcome.kind, outcome.phase) == (OutcomeKind.DONE, phase)
    over = http.outcome(request, 422, {}, error("90018"))
    assert (over.kind, over.phase) == (OutcomeKind.ALREADY_OVER, CallPhase.COMPLETED)


@pytest.mark.parametrize(
    ("body", "call_id"),
    [
        ({"data": {"call_control_id": "v3:NEW", "call_leg_id": "x", "is_alive": False}}, "v3:NEW"),
        ({"sid": "v3:NEW", "status": "queued"}, "v3:NEW"),
        ({"call_sid": "v3:NEW", "status": "queued"}, "v3:NEW"),
        ({"from": "+1", "to": "+2", "status": "queued"}, ""),  # its first webhook names it
    ],
)
def test_outcomes_of_a_dial(body: Any, call_id: str) -> None:
    http = call_control()
    request = http.dial(ORDER, URLS)
    assert request is not None
    outcome = http.outcome(request, 200, {}, json.dumps(body).encode())
    assert (outcome.kind, outcome.call_id) == (OutcomeKind.DONE, call_id)
    assert http.outcome(request, 403, {}, error("90041")).kind is OutcomeKind.FAILED
