"""Plivo over HTTP: V3 signatures, documents, callbacks, what is asked of the REST interface."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

import httpx
import pytest
import respx
from hypothesis import given, settings
from hypothesis import strategies as st
from plivo.utils import validate_signature, validate_v3_signature

from media.errors import ConfigError
from media.secret import Secret
from tests.webhooks.rest import document, outline, send
from webhooks import plivo_signature
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
from webhooks.plivo import PlivoHttp, PlivoSettings

TOKEN = "TestAuthTokenTestAuthTokenTestAuthToken00"
NONCE = "05429567804466091622"
URL = "https://gw.example.com/webhooks/plivo/answer"
QUERY = "?bot=sales&n=1"
FIELDS = {
    "CallUUID": "12345678-1234-1234-1234-123456789abc",
    "From": "14155550100",
    "To": "14155550199",
    "CallStatus": "ringing",
    "Direction": "inbound",
    "Event": "StartApp",
}
SOCKET = "gw.example.com/ws/plivo/tok123"
SOCKET_SIGNATURE = "XII2g96Qsy6mlSqcvkUU0d6eipen1IaOvOlA9+ZtRdY="
V2 = "UG8fOz3Mwb1bgnR2bH+nxiJLYbXSZNO9esNJer8FDfQ="
# Method, URL, fields of the body, what is signed, signature.
FORM_PART = (
    "CallStatusringingCallUUID12345678-1234-1234-1234-123456789abcDirectioninboundEventStartApp"
    "From14155550100To14155550199"
)
VECTORS: list[tuple[str, str, dict[str, str], str, str]] = [
    ("POST", URL, FIELDS, f"{URL}?{FORM_PART}", "G5kl2DH4iVucdBhpr9juq5p0VJvh+EIvfsj92LkLako="),
    ("POST", URL + QUERY, FIELDS, f"{URL}{QUERY}.{FORM_PART}", "tct33PbsVnILAxXp9taUFmPs3XuEca3MmJNsUGmOxBo="),
    (
        "GET",
        f"{URL}{QUERY}&{urlencode(FIELDS)}",
        {},
        f"{URL}?CallStatus=ringing&CallUUID=12345678-1234-1234-1234-123456789abc&Direction=inbound&Event=StartApp"
        "&From=14155550100&To=14155550199&bot=sales&n=1",
        "wfKYf/7he76jrQeNwWCfnDUqe8kBMy6dbyhxO5YVd5U=",
    ),
    ("POST", URL, {}, URL, "U/jvUaa0tlEeesoZ5UCp/9ZLl8eJhpG6LaA6C9/+CuU="),
    ("GET", f"http://{SOCKET}", {}, f"http://{SOCKET}", SOCKET_SIGNATURE),
]
NAMES = ["post", "post with a query", "get", "post without fields", "handshake"]

BASE = "https://gw.example.com/phone"
URLS = Urls(base=BASE)
ACCOUNT = "MA0123456789ABCDEF01"
UUID = FIELDS["CallUUID"]


@pytest.fixture(autouse=True)
def _auth_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLIVO_AUTH_TOKEN", TOKEN)


def plivo(**changes: Any) -> PlivoHttp:
    return PlivoHttp(PlivoSettings(**{"auth_id": ACCOUNT, "auth_token": Secret(env="PLIVO_AUTH_TOKEN"), **changes}))


def webhook(
    method: str = "POST",
    url: str = URL,
    fields: Mapping[str, str] | Sequence[tuple[str, str]] | bytes = FIELDS,
    signature: str | None = None,
    *,
    nonce: str | None = NONCE,
    **headers: str,
) -> WebRequest:
    """`headers`: further ones, underscores for dashes."""
    body = b""
    if method == "POST":
        body = fields if isinstance(fields, bytes) else urlencode(fields).encode()
    said = {"content-type": "application/x-www-form-urlencoded"}
    if signature is not None:
        said["x-plivo-signature-v3"] = signature
    if nonce is not None:
        said["x-plivo-signature-v3-nonce"] = nonce
    said |= {name.replace("_", "-"): value for name, value in headers.items()}
    return WebRequest(method=method, url=url, headers=said, body=body)


def refusal_of(http: PlivoHttp, request: WebRequest) -> NotAuthentic:
    with pytest.raises(NotAuthentic) as caught:
        http.authenticate("answer", request)
    return caught.value


POST_SIGNATURE = VECTORS[0][4]

# ---------------------------------------------------------------- authenticity


@pytest.mark.parametrize(("method", "url", "fields", "text", "signature"), VECTORS, ids=NAMES)
def test_vectors(method: str, url: str, fields: dict[str, str], text: str, signature: str) -> None:
    assert plivo_signature.canonical(method, url, list(fields.items())) == text
    assert plivo_signature.sign(TOKEN, text, NONCE) == signature
    assert plivo().authenticate("answer", webhook(method, url, fields, signature)) == Once(key=NONCE, for_s=600)
    assert judged(method, url, fields, signature)


def judged(method: str, url: str, fields: Mapping[str, Any], signature: str, nonce: str = NONCE) -> bool:
    """Plivo's own verdict."""
    return bool(
        validate_v3_signature(
            method=method, uri=url, nonce=nonce, auth_token=TOKEN, v3_signature=signature, params=dict(fields)
        )
    )


NAME = st.text(st.sampled_from("abAB01._-% &=+#?é"), min_size=1, max_size=6)
VALUE = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ASCII = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=8)


@settings(deadline=None, max_examples=200)
@given(
    method=st.sampled_from(["GET", "POST"]),
    query=st.lists(st.tuples(ASCII.filter(bool), ASCII), max_size=4),
    fields=st.lists(st.tuples(NAME, VALUE), max_size=5),
    nonce=st.text(st.sampled_from("0123456789"), min_size=1, max_size=20),
)
def test_plivo_s_own_validator_agrees(
    method: str, query: list[tuple[str, str]], fields: list[tuple[str, str]], nonce: str
) -> None:
    """For everything but bytes beyond ASCII in a query, on which it fails."""
    url = URL + (f"?{urlencode(query)}" if query else "")
    if method == "GET":
        fields = []
    grouped: dict[str, Any] = {}
    for name, value in fields:
        grouped.setdefault(name, []).append(value)
    signature = plivo_signature.sign(TOKEN, plivo_signature.canonical(method, url, fields), nonce)
    assert judged(method, url, grouped, signature, nonce)
    http = PlivoHttp(PlivoSettings(auth_token=Secret(env="PLIVO_AUTH_TOKEN")))
    assert http.authenticate("answer", webhook(method, url, fields, signature, nonce=nonce))


@pytest.mark.parametrize(
    "headers",
    [
        {"x_plivo_signature_v3": POST_SIGNATURE},
        {"x_plivo_signature_ma_v3": POST_SIGNATURE},
        {"x_plivo_signature_v3": f"{SOCKET_SIGNATURE},{POST_SIGNATURE}"},
        {"x_plivo_signature_v3": f"{SOCKET_SIGNATURE}, {POST_SIGNATURE}"},
        {"x_plivo_signature_v3": f"{POST_SIGNATURE} ,{SOCKET_SIGNATURE}"},
        {"x_plivo_signature_v3": SOCKET_SIGNATURE, "x_plivo_signature_ma_v3": POST_SIGNATURE},
        {"x_plivo_signature_v3": POST_SIGNATURE, "x_plivo_signature_v2": V2},
    ],
)
def test_any_of_several_signatures_counts(headers: dict[str, Any]) -> None:
    assert plivo().authenticate("answer", webhook(**headers))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "no-signature"),
        ({"signature": ""}, "no-signature"),
        ({"signature": POST_SIGNATURE, "nonce": None}, "no-signature"),
        ({"signature": POST_SIGNATURE, "nonce": ""}, "no-signature"),
        ({"signature": SOCKET_SIGNATURE}, "bad-signature"),
        ({"signature": POST_SIGNATURE, "nonce": NONCE[:-1] + "3"}, "bad-signature"),
        ({"signature": POST_SIGNATURE, "nonce": "0" * 201}, "bad-signature"),
        ({"signature": POST_SIGNATURE, "url": URL + "/"}, "bad-signature"),
        ({"signature": POST_SIGNATURE, "url": URL + "?x="}, "bad-signature"),
        ({"signature": POST_SIGNATURE, "url": URL.replace("https", "http")}, "bad-signature"),
        ({"signature": POST_SIGNATURE, "url": URL.replace(".com/", ".com:8443/")}, "bad-signature"),
        ({"signature": POST_SIGNATURE, "url": URL.replace("plivo", "pl%69vo")}, "bad-signature"),
        ({"signature": POST_SIGNATURE, "fields": {**FIELDS, "From": "14155550101"}}, "bad-signature"),
        ({"signature": POST_SIGNATURE, "fields": {**FIELDS, "Extra": ""}}, "bad-signature"),
        ({"signature": POST_SIGNATURE, "method": "GET", "url": f"{URL}?{urlencode(FIELDS)}"}, "bad-signature"),
        # V2 covers no parameters.
        ({"nonce": None, "x_plivo_signature_v2": V2, "x_plivo_signature_v2_nonce": NONCE}, "v2-only"),
        ({"nonce": NONCE, "x_plivo_signature_v2": V2, "x_plivo_signature_v2_nonce": NONCE}, "v2-only"),
        ({"signature": V2}, "bad-signature"),
    ],
)
def test_what_is_not_signed_is_refused(changes: dict[str, Any], reason: str) -> None:
    refused = refusal_of(plivo(), webhook(**changes))
    assert (refused.reason, refused.status) == (reason, 403)


def test_the_older_scheme_is_what_we_say_it_is() -> None:
    assert validate_signature(URL, NONCE, V2, TOKEN)


@pytest.mark.parametrize(
    "spelling",
    [
        POST_SIGNATURE[:-2] + "p=",  # loose bits
        POST_SIGNATURE.rstrip("="),
        POST_SIGNATURE + "=",
        POST_SIGNATURE.replace("+", "-"),
        POST_SIGNATURE[:10] + " " + POST_SIGNATURE[10:],
        POST_SIGNATURE.lower(),
        "",
        ",",
    ],
)
def test_a_signature_has_one_spelling(spelling: str) -> None:
    assert refusal_of(plivo(), webhook(signature=spelling)).reason in ("bad-signature", "no-signature")


def test_loose_bits_would_decode_alike() -> None:
    assert base64.b64decode(POST_SIGNATURE[:-2] + "p=") == base64.b64decode(POST_SIGNATURE)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_every_change_of_what_was_signed_is_refused(data: st.DataObject) -> None:
    """Other spellings of the same fields are no change: what is signed are the decoded ones, sorted and joined."""
    method, url, fields, text, signature = data.draw(st.sampled_from(VECTORS))
    parts = {"url": url, "body": urlencode(fields), "nonce": NONCE, "signature": signature}
    name = data.draw(st.sampled_from([name for name, part in parts.items() if part]))
    part = parts[name]
    at = data.draw(st.integers(0, len(part) - 1))
    character = data.draw(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"))
    match data.draw(st.sampled_from(["replace", "insert", "delete"])):
        case "replace":
            part = part[:at] + character + part[at + 1 :]
        case "insert":
            part = part[:at] + character + part[at:]
        case "delete":
            part = part[:at] + part[at + 1 :]
    parts[name] = part
    request = webhook(method, parts["url"], parts["body"].encode(), parts["signature"], nonce=parts["nonce"])
    http = PlivoHttp(PlivoSettings(auth_token=Secret(env="PLIVO_AUTH_TOKEN")))
    shown = [value.strip() for value in parts["signature"].split(",")]
    try:
        pairs = parse_qsl(parts["body"], keep_blank_values=True, errors="strict") if method == "POST" else []
        same = plivo_signature.canonical(method, parts["url"], pairs) == text and parts["nonce"] == NONCE
    except ValueError:
        same = False
    if same and signature in shown:
        assert http.authenticate("answer", request)
    else:
        with pytest.raises(NotAuthentic):
            http.authenticate("answer", request)


@pytest.mark.parametrize(
    ("signed_over", "arrives_at", "good"),
    [
        ("https://gw.example.com:443/a", "https://gw.example.com/a", True),
        ("https://gw.example.com/a", "https://gw.example.com:443/a", True),
        ("http://gw.example.com:80/a?b=1", "http://gw.example.com/a?b=1", True),
        ("https://[2001:db8::1]:443/a", "https://[2001:db8::1]:443/a", True),
        ("https://gw.example.com:8443/a", "https://gw.example.com/a", False),
        ("https://gw.example.com:80/a", "https://gw.example.com/a", False),
        ("http://gw.example.com:443/a", "http://gw.example.com/a", False),
    ],
)
def test_a_port_that_goes_without_saying(signed_over: str, arrives_at: str, good: bool) -> None:
    signature = plivo_signature.sign(TOKEN, plivo_signature.canonical("POST", signed_over, list(FIELDS.items())), NONCE)
    assert judged("POST", signed_over, dict(FIELDS), signature, NONCE)
    request = webhook(url=arrives_at, signature=signature)
    if good:
        assert plivo().authenticate("answer", request)
    else:
        assert refusal_of(plivo(), request).reason == "bad-signature"


@pytest.mark.parametrize("body", [b"From=\xff", b"From=%FF", b"%C3=1"])
def test_fields_that_are_no_text_have_no_reading(body: bytes) -> None:
    refused = refusal_of(plivo(), webhook(fields=body, signature=POST_SIGNATURE))
    assert (refused.reason, refused.status) == ("unreadable", 400)


def test_what_was_checked_is_said_without_values() -> None:
    refused = refusal_of(plivo(), webhook(url=URL + QUERY, signature=POST_SIGNATURE))
    said = json.dumps(refused.checked)
    assert refused.checked["headers"] == "x-plivo-signature-v3, x-plivo-signature-v3-nonce"
    assert refused.checked["scheme"] == "https"
    assert refused.checked["host"].startswith("gw.example.com #")
    assert refused.checked["query"].startswith("bot=<5>&n=<1> #")
    assert "From=<11>#" in refused.checked["fields"]
    for value in (TOKEN, NONCE, "14155550100", "sales", POST_SIGNATURE):
        assert value not in said


def test_without_a_token_nothing_begins() -> None:
    with pytest.raises(ConfigError, match=r"auth_token: is not set .*verify_signatures = false"):
        PlivoHttp(PlivoSettings())
    unguarded = PlivoHttp(PlivoSettings(verify_signatures=False))
    assert refusal_of(unguarded, webhook(signature=POST_SIGNATURE)).reason == "no-key"
    assert unguarded.authenticate_upgrade(upgrade(SOCKET_SIGNATURE)) == "handshake: no-key"


# ---------------------------------------------------------------- the handshake


def upgrade(signature: str | None, url: str = f"wss://{SOCKET}", **headers: str) -> WebRequest:
    return webhook("GET", url, {}, signature, **headers)


def handshake(scheme: str, rest: str = SOCKET) -> str:
    return plivo_signature.sign(TOKEN, plivo_signature.canonical("GET", f"{scheme}://{rest}"), NONCE)


@pytest.mark.parametrize("strictness", ["warn", "enforce"])
@pytest.mark.parametrize("scheme", ["wss", "ws"])
def test_a_signed_handshake(strictness: str, scheme: str) -> None:
    http = plivo(handshake_signature=strictness)
    assert not judged("GET", f"https://{SOCKET}", {}, SOCKET_SIGNATURE)
    assert http.authenticate_upgrade(upgrade(SOCKET_SIGNATURE, f"{scheme}://{SOCKET}")) == ""
    over_https = http.authenticate_upgrade(upgrade(handshake("https"), f"{scheme}://{SOCKET}"))
    assert over_https == "handshake signed over https://"
    by_main_account = webhook("GET", f"wss://{SOCKET}", {}, None, x_plivo_signature_ma_v3=SOCKET_SIGNATURE)
    assert http.authenticate_upgrade(by_main_account) == ""
    queried = f"{SOCKET}:8443/x?b=2&a=1"
    assert http.authenticate_upgrade(upgrade(handshake("http", queried), f"wss://{queried}")) == ""


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (upgrade(None), "no-signature"),
        (upgrade(SOCKET_SIGNATURE, nonce=""), "no-signature"),
        (upgrade(handshake("wss")), "bad-signature"),
        (upgrade(SOCKET_SIGNATURE, f"wss://{SOCKET}/websocket"), "bad-signature"),
        (upgrade(SOCKET_SIGNATURE, f"wss://{SOCKET}?a=1"), "bad-signature"),
        (upgrade(SOCKET_SIGNATURE, f"wss://{SOCKET}?a=%FF"), "unreadable"),
        (upgrade(None, x_plivo_signature_v2=V2), "v2-only"),
    ],
)
def test_a_handshake_that_is_not_signed(request_: WebRequest, reason: str) -> None:
    assert plivo(handshake_signature="off").authenticate_upgrade(request_) == ""
    assert plivo().authenticate_upgrade(request_) == f"handshake: {reason}"
    with pytest.raises(NotAuthentic) as caught:
        plivo(handshake_signature="enforce").authenticate_upgrade(request_)
    assert caught.value.reason == reason


# ---------------------------------------------------------------- webhooks


def form(fields: Mapping[str, str], url: str = f"{BASE}/plivo/answer", method: str = "POST") -> WebRequest:
    if method == "GET":
        return webhook("GET", f"{url}{'&' if '?' in url else '?'}{urlencode(fields)}")
    return webhook("POST", url, fields)


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_call_comes_in(method: str) -> None:
    fields = {**FIELDS, "SIP-H-X-PH-Customer": "C-1", "X-PH-Ref": "7", "ALegUUID": UUID}
    handled = plivo().handle("answer", form(fields, f"{BASE}/plivo/answer?bot=sales", method), URLS)
    assert handled == Handled(
        incoming=InboundCall(
            carrier="plivo",
            call_id=UUID,
            from_number="14155550100",
            to_number="14155550199",
            parameters={"bot": "sales", "X-PH-Customer": "C-1", "X-PH-Ref": "7"},
            extra={"aleg_uuid": UUID},
        )
    )


def test_a_call_of_ours_asks_for_its_document() -> None:
    fields = {**FIELDS, "Direction": "outbound", "CallStatus": "in-progress", "RequestUUID": "req-1"}
    incoming = plivo().handle("answer", form(fields, f"{BASE}/plivo/answer?Team=a+b"), URLS).incoming
    assert incoming is not None
    assert (incoming.direction, incoming.extra) == ("outbound", {"request_uuid": "req-1"})
    assert incoming.parameters == {"Team": "a b"}


@pytest.mark.parametrize("call_id", ["", "..", "a/b", "a b", "~x", "a" * 101])
@pytest.mark.parametrize("route", ["answer", "status", "stream-status", "after"])
def test_a_call_needs_an_id(route: str, call_id: str) -> None:
    with pytest.raises(UnreadableRequest):
        plivo().handle(route, form({**FIELDS, "CallUUID": call_id}), URLS)


OFFER = StreamOffer(
    media_url="wss://gw.example.com/phone/plivo/media/tok123?a=1&b=2", urls=URLS, parameters={"bot": "sales"}
)
INBOUND = InboundCall(carrier="plivo", call_id=UUID)
PLACED = InboundCall(carrier="plivo", call_id=UUID, direction="outbound")


@pytest.mark.parametrize(
    ("changes", "content_type"),
    [
        ({}, "audio/x-mulaw;rate=8000"),
        ({"send_codec": "L16"}, "audio/x-l16;rate=16000"),
        ({"send_codec": "L16", "sample_rate": 8000}, "audio/x-l16;rate=8000"),
    ],
)
def test_the_document(changes: dict[str, Any], content_type: str) -> None:
    root = document(plivo(**changes).offer(INBOUND, OFFER).answer)
    (stream,) = root  # alone: what stood after it would run when the bot is done
    assert (stream.tag, stream.text) == ("Stream", OFFER.media_url)
    assert stream.attrib == {
        "bidirectional": "true",
        "keepCallAlive": "true",
        "audioTrack": "inbound",
        "contentType": content_type,
        "statusCallbackUrl": f"{BASE}/plivo/stream-status",
        "statusCallbackMethod": "POST",
    }


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"ref": "a1B2"}, "ref=a1B2"),
        ({"ref": "a1B2", "number": "+14155550100"}, "ref=a1B2"),
        ({"ref": "a-b"}, None),
        ({"ref": "ü"}, None),
        ({"ref": "a" * 501}, None),
        ({"number": "14155550100"}, None),
    ],
)
def test_only_an_opaque_id_goes_along(parameters: dict[str, str], said: str | None) -> None:
    offer = StreamOffer(media_url=OFFER.media_url, urls=URLS, parameters=parameters)
    (stream,) = document(plivo().offer(INBOUND, offer).answer)
    assert stream.get("extraHeaders") == said
    assert len((said or "").encode()) <= 512


@pytest.mark.parametrize(
    ("call", "instead", "expected", "attributes"),
    [
        (INBOUND, "busy", "Response(Hangup)", {"reason": "busy"}),
        (INBOUND, "rejected", "Response(Hangup)", {"reason": "rejected"}),
        (PLACED, "busy", "Response(Hangup)", {}),
        (INBOUND, "number:+1 (415) 555-0123", "Response(Dial(Number=14155550123))", {}),
        (INBOUND, "number:sip:a@b.example", "Response(Dial(User=sip:a@b.example))", {}),
        (
            INBOUND,
            "gateway:https://other.example.com/x/",
            "Response(Redirect=https://other.example.com/x/plivo/answer)",
            {"method": "POST"},
        ),
        (INBOUND, "say:All <lines> & more", "Response(Speak=All <lines> & more, Hangup)", {}),
    ],
)
def test_refusals(call: InboundCall, instead: str, expected: str, attributes: dict[str, str]) -> None:
    root = document(plivo().refuse(call, Refusal(reason="full", instead=instead)).answer)
    assert outline(root) == expected
    assert root[0].attrib == attributes


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, "Response(Hangup)"),
        ("+14155550123", "Response(Dial(Number=14155550123))"),
        ("sip:agent@pbx.example", "Response(Dial(User=sip:agent@pbx.example))"),
        ("https://flows.example.com/next", "Response(Redirect=https://flows.example.com/next)"),
    ],
)
def test_what_follows_the_stream(target: str | None, expected: str) -> None:
    http = plivo()
    asked = http.handle("after", form({**FIELDS, "CallStatus": "in-progress"}, f"{BASE}/plivo/after"), URLS)
    assert asked == Handled(asks_after=UUID)
    assert outline(document(http.after(UUID, target))) == expected


HANGUP = {
    "CallUUID": UUID,
    "From": "14155550100",
    "To": "14155550199",
    "Direction": "inbound",
    "Event": "Hangup",
    "CallStatus": "completed",
    "Duration": "41",
    "BillDuration": "60",
    "HangupCause": "NORMAL_CLEARING",
    "HangupCauseName": "Normal Hangup",
    "HangupCauseCode": "4000",
    "HangupSource": "Caller",
    "TotalCost": "0.00400",
}


@pytest.mark.parametrize("route", ["status", "answer", "after"])
@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ("completed", CallPhase.COMPLETED),
        ("busy", CallPhase.BUSY),
        ("failed", CallPhase.FAILED),
        ("timeout", CallPhase.NO_ANSWER),
        ("no-answer", CallPhase.NO_ANSWER),
        ("cancel", CallPhase.CANCELED),
        ("", CallPhase.COMPLETED),
        ("in-progress", CallPhase.COMPLETED),
    ],
)
def test_hang_ups(route: str, status: str, phase: CallPhase) -> None:
    """Without a hangup_url of its own an application reports the end where it asks for documents."""
    handled = plivo().handle(route, form({**HANGUP, "CallStatus": status}), URLS)
    assert (handled.incoming, handled.asks_after) == (None, None)
    assert handled.answer is not None
    assert handled.answer.status == 204
    assert handled.events == [
        CallStatus(
            carrier="plivo",
            call_id=UUID,
            phase=phase,
            key=f"{UUID} Hangup {status}",
            ended_by="caller",
            cause="Normal Hangup",
            duration_s=41.0,
            details={"HangupCauseCode": "4000", "TotalCost": "0.00400"},
        )
    ]


@pytest.mark.parametrize(
    ("direction", "source", "by"),
    [
        ("inbound", "Caller", "caller"),
        ("inbound", "Callee", "bot"),
        ("outbound", "Caller", "bot"),
        ("outbound", "Callee", "caller"),
        ("inbound", "API Request", "bot"),
        ("inbound", "Answer XML", "bot"),
        ("inbound", "Carrier", "carrier"),
        ("inbound", "Plivo", "carrier"),
        ("inbound", "", ""),
    ],
)
def test_who_ended_it(direction: str, source: str, by: str) -> None:
    request = form({**HANGUP, "Direction": direction, "HangupSource": source})
    (reported,) = plivo().handle("status", request, URLS).events
    assert isinstance(reported, CallStatus)
    assert reported.ended_by == by


def test_a_call_of_ours_rings() -> None:
    fields = {**FIELDS, "Event": "Ring", "Direction": "outbound", "RequestUUID": "req-1"}
    (reported,) = plivo().handle("status", form(fields), URLS).events
    assert isinstance(reported, CallStatus)
    assert (reported.phase, reported.ended_by) == (CallPhase.RINGING, "")
    assert reported.details == {"RequestUUID": "req-1"}


@pytest.mark.parametrize(
    ("changes", "renamed"),
    [
        ({"RequestUUID": "req-1"}, ("req-1", UUID)),
        ({"RequestUUID": UUID}, None),
        ({"RequestUUID": "../x"}, None),
        ({}, None),
        ({"RequestUUID": "req-1", "Direction": "inbound"}, None),
    ],
)
@pytest.mark.parametrize(("route", "event"), [("answer", "StartApp"), ("status", "Ring"), ("status", "Hangup")])
def test_a_call_of_ours_may_have_another_id_than_its_order(
    changes: dict[str, str], renamed: tuple[str, str] | None, route: str, event: str
) -> None:
    fields = {**FIELDS, "Direction": "outbound", "Event": event, **changes}
    assert plivo().handle(route, form(fields), URLS).renamed == renamed


@pytest.mark.parametrize(("said", "who"), [("true", "machine"), ("false", "human")])
def test_machine_detection(said: str, who: str) -> None:
    fields = {"CallUUID": UUID, "Event": "MachineDetection", "Machine": said}
    assert plivo().handle("status", form(fields), URLS).events == [
        AnsweredBy(carrier="plivo", call_id=UUID, who=who, key=f"{UUID} machine {said}")
    ]


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"Event": "StartStream"}, "started"),
        ({"Event": "started"}, "started"),
        ({"Status": "started", "Event": "stream"}, "started"),
        ({"Event": "StopStream"}, "stopped"),
        ({"Status": "stopped"}, "stopped"),
        ({"Event": "DroppedStream", "StatusReason": "connection_failed"}, "failed"),
        ({"Status": "failed", "StatusReason": "authentication_failed"}, "failed"),
        ({"Event": "DegradedStream", "StatusReason": "buffer_overflow"}, "degraded"),
    ],
)
def test_stream_callbacks_in_both_namings(fields: dict[str, str], what: str) -> None:
    common = {"CallUUID": UUID, "StreamID": "b77e037d", "ServiceURL": "wss://x", "Timestamp": "1767225600"}
    assert plivo().handle("stream-status", form({**common, **fields}), URLS).events == [
        StreamStatus(
            carrier="plivo",
            call_id=UUID,
            what=what,
            key=f"b77e037d {what} 1767225600",
            stream_id="b77e037d",
            problem=fields.get("StatusReason", ""),
        )
    ]


@pytest.mark.parametrize("event", ["PlayedStream", "ClearedAudio", "", "Future"])
def test_other_callbacks_are_taken_and_mean_nothing(event: str) -> None:
    handled = plivo().handle("stream-status", form({"CallUUID": UUID, "Event": event}), URLS)
    assert handled.events == []
    assert handled.answer is not None
    assert handled.answer.status == 204


# ---------------------------------------------------------------- REST

REF = CallRef(carrier="plivo", call_id=UUID)
API = f"https://api.plivo.com/v1/Account/{ACCOUNT}"
BASIC = "Basic " + base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()


def sent(request: CarrierRequest | None, status: int = 204) -> httpx.Request:
    """`request` as httpx puts it on the wire."""
    assert request is not None
    assert plivo().may_send_to(request.url)
    with respx.mock(assert_all_called=True) as mock:
        route = mock.route(host="api.plivo.com").respond(status)
        assert send(request).status_code == status
        raw: httpx.Request = route.calls.last.request
    assert raw.headers["authorization"] == BASIC
    return raw


def test_hang_up() -> None:
    request = plivo().hang_up(REF)
    raw = sent(request)
    assert (raw.method, str(raw.url), raw.content) == ("DELETE", f"{API}/Call/{UUID}/", b"")
    assert request is not None
    assert request.repeatable
    assert request.purpose is Purpose.HANG_UP


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("+14155550123", f"{BASE}/plivo/after"),
        ("sip:agent@pbx.example", f"{BASE}/plivo/after"),
        ("https://flows.example.com/next", "https://flows.example.com/next"),
    ],
)
def test_transfer(target: str, url: str) -> None:
    """First the request, then the socket: the other way round the call may end between the two."""
    transfer = plivo().transfer(REF, target, URLS)
    assert transfer is not None
    assert transfer.closes_socket
    raw = sent(transfer.request, 202)
    assert (raw.method, str(raw.url)) == ("POST", f"{API}/Call/{UUID}/")
    assert json.loads(raw.content) == {"legs": "aleg", "aleg_url": url, "aleg_method": "POST"}
    assert plivo().transfer(REF, "nobody", URLS) is None


def test_a_call_is_placed() -> None:
    order = DialOrder(to_number="+1 415 555 0123", from_number="+14155550199", ring_s=45, parameters={"bot": "sales"})
    request = plivo().dial(order, URLS)
    assert request is not None
    assert not request.repeatable
    raw = sent(request, 201)
    assert (raw.method, str(raw.url)) == ("POST", f"{API}/Call/")
    body = {
        "from": "14155550199",
        "to": "14155550123",
        "answer_url": f"{BASE}/plivo/answer?bot=sales",
        "answer_method": "POST",
        "ring_url": f"{BASE}/plivo/status",
        "ring_method": "POST",
        "hangup_url": f"{BASE}/plivo/status",
        "hangup_method": "POST",
        "ring_timeout": 45,
    }
    assert json.loads(raw.content) == body
    order = DialOrder(to_number="sip:a@b.example", from_number="14155550199", longest_s=600, detect_machine=True)
    assert json.loads(sent(plivo().dial(order, URLS), 201).content) == {
        **body,
        "to": "sip:a@b.example",
        "answer_url": f"{BASE}/plivo/answer",
        "ring_timeout": 60,
        "time_limit": 600,
        "machine_detection": "true",
        "machine_detection_url": f"{BASE}/plivo/status",
        "machine_detection_method": "POST",
    }


def test_fetch() -> None:
    raw = sent(plivo().fetch(REF), 200)
    assert (raw.method, str(raw.url)) == ("GET", f"{API}/Call/{UUID}/?status=live")


@pytest.mark.parametrize("call_id", ["", "..", "a/b", "a?b", "~1", "a%2Fb"])
def test_nothing_is_asked_about_what_is_no_call(call_id: str) -> None:
    http, ref = plivo(), CallRef(carrier="plivo", call_id=call_id)
    assert http.hang_up(ref) is None
    assert http.transfer(ref, "+14155550123", URLS) is None
    assert http.fetch(ref) is None


@pytest.mark.parametrize("lacking", [{"auth_id": ""}, {"auth_token": None, "verify_signatures": False}])
def test_without_credentials_there_is_no_rest(lacking: dict[str, Any]) -> None:
    http = plivo(**lacking)
    assert http.hang_up(REF) is None
    assert http.transfer(REF, "+14155550123", URLS) is None
    assert http.dial(DialOrder(to_number="+1", from_number="+2"), URLS) is None
    assert http.fetch(REF) is None


def test_the_simulator_gets_what_is_meant_for_plivo() -> None:
    http = plivo(api_base="http://127.0.0.1:9000/plivo")
    request = http.hang_up(REF)
    assert request is not None
    assert request.url == f"http://127.0.0.1:9000/plivo/v1/Account/{ACCOUNT}/Call/{UUID}/"
    assert http.may_send_to(request.url)


@pytest.mark.parametrize(
    ("status", "headers", "kind", "retry"),
    [
        (204, {}, OutcomeKind.DONE, None),
        (200, {}, OutcomeKind.DONE, None),
        (404, {}, OutcomeKind.ALREADY_OVER, None),
        (400, {}, OutcomeKind.FAILED, None),
        (401, {}, OutcomeKind.FAILED, None),
        (403, {}, OutcomeKind.FAILED, None),
        (409, {}, OutcomeKind.FAILED, None),
        (429, {}, OutcomeKind.RETRY, None),
        (429, {"retry-after": "2"}, OutcomeKind.RETRY, 2.0),
        (500, {}, OutcomeKind.RETRY, None),
        (503, {"retry-after": "1"}, OutcomeKind.RETRY, 1.0),
    ],
)
def test_outcomes_of_a_hang_up(status: int, headers: dict[str, str], kind: OutcomeKind, retry: float | None) -> None:
    http = plivo()
    request = http.hang_up(REF)
    assert request is not None
    outcome = http.outcome(request, status, headers, b'{"api_id":"x","error":"+14155550100 ..."}')
    assert (outcome.kind, outcome.detail, outcome.retry_after_s) == (kind, str(status), retry)


def test_outcomes_of_other_requests() -> None:
    http = plivo()
    fetch = http.fetch(REF)
    dial = http.dial(DialOrder(to_number="+1", from_number="+2"), URLS)
    assert fetch is not None
    assert dial is not None
    live = http.outcome(fetch, 200, {}, b'{"call_status":"in-progress"}')
    assert (live.kind, live.phase) == (OutcomeKind.DONE, CallPhase.ANSWERED)
    ringing = http.outcome(fetch, 200, {}, b'{"call_status":"ringing"}')
    assert ringing.phase is CallPhase.RINGING
    gone = http.outcome(fetch, 404, {}, b"")
    assert (gone.kind, gone.phase) == (OutcomeKind.ALREADY_OVER, CallPhase.COMPLETED)
    fired = http.outcome(dial, 201, {}, b'{"message":"call fired","request_uuid":"req-1","api_id":"x"}')
    assert (fired.kind, fired.call_id) == (OutcomeKind.DONE, "req-1")
    several = http.outcome(dial, 201, {}, b'{"request_uuid":["req-1","req-2"]}')
    assert several.call_id == "req-1"
    assert http.outcome(dial, 201, {}, b"[]").call_id == ""
    assert http.outcome(dial, 404, {}, b"").kind is OutcomeKind.FAILED  # no call was there that could be over


def test_a_webhook_is_answered_in_time() -> None:
    """Signature, reading and document together; 5 ms is what the whole way through the gateway may take."""
    http = plivo()
    request = webhook(signature=POST_SIGNATURE)
    took = []
    for _ in range(50):
        began = time.thread_time()
        http.authenticate("answer", request)
        incoming = http.handle("answer", request, URLS).incoming
        assert incoming is not None
        http.offer(incoming, OFFER)
        took.append(time.thread_time() - began)
    assert sorted(took)[25] < 0.002
