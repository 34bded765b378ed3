"""Twilio's HTTP side. Twilio's own RequestValidator and TwiML are the judges."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]

from media.secret import Secret
from webhooks.base import (
    AnsweredBy,
    CallPhase,
    CallRef,
    CallStatus,
    CarrierRequest,
    DialOrder,
    InboundCall,
    NotAuthentic,
    OutcomeKind,
    Purpose,
    Refusal,
    StreamOffer,
    StreamStatus,
    UnreadableRequest,
    Urls,
    WebRequest,
)
from webhooks.twilio import TwilioHttp, TwilioSettings

TOKEN = "0123456789abcdef0123456789abcdef"
ACCOUNT = "AC00000000000000000000000000000001"
CALL = "CA00000000000000000000000000000001"
URLS = Urls(base="https://gw.example.com/prefix")
FORM = "application/x-www-form-urlencoded; charset=utf-8"

P = {
    "CallSid": CALL,
    "AccountSid": ACCOUNT,
    "From": "+14155550100",
    "To": "+14155550199",
    "CallStatus": "ringing",
    "ApiVersion": "2010-04-01",
    "Direction": "inbound",
    "CallerName": "",
}
VOICE = "https://gw.example.com/webhooks/twilio/voice"
BODY = '{"a":1}'
EVENTS = (
    "https://gw.example.com/webhooks/twilio/events"
    "?bodySHA256=015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
)
SOCKET = "wss://gw.example.com/ws/twilio/tok123"


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T_TOKEN", TOKEN)
    monkeypatch.setenv("T_OLD", "f" * 32)
    monkeypatch.setenv("T_KEY", TOKEN)
    monkeypatch.setenv("T_API", "api-secret")


def make(**fields: Any) -> TwilioHttp:
    return TwilioHttp(TwilioSettings(**{"account_sid": ACCOUNT, "auth_token": Secret(env="T_TOKEN"), **fields}))


def post(url: str, fields: Mapping[str, str] | Sequence[tuple[str, str]], sign: str = "", **headers: str) -> WebRequest:
    names = {"content-type": FORM, **{name.replace("_", "-"): value for name, value in headers.items()}}
    if sign:
        names["x-twilio-signature"] = sign
    return WebRequest(method="POST", url=url, headers=names, body=urlencode(fields).encode())


def signed(url: str, fields: Mapping[str, str], token: str = TOKEN) -> WebRequest:
    return post(url, fields, RequestValidator(token).compute_signature(url, dict(fields)))


def reason(http: TwilioHttp, request: WebRequest) -> str:
    with pytest.raises(NotAuthentic) as refused:
        http.authenticate("answer", request)
    assert refused.value.status == 403
    return refused.value.reason


# ---------------------------------------------------------------- signatures


@pytest.mark.parametrize(
    ("url", "signature"),
    [
        (VOICE, "Xk29KfLrg80ULJ/AQqd7naZqumU="),
        (VOICE + "?bot=sales&x=a%20b", "jvvWWqFLfRLBLRL0+JKzcGLMlC0="),
    ],
)
def test_forms_that_were_signed_elsewhere(url: str, signature: str) -> None:
    assert RequestValidator(TOKEN).validate(url, dict(P), signature)
    make().authenticate("answer", post(url, P, signature))


def test_hmac_sha256_with_a_shared_key() -> None:
    http = make(signing_key_id="webhooks_sharedkey_1", signing_key=Secret(env="T_KEY"))
    said = "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256"
    sha256, sha1 = "VM0t7QcDoAIhrYnRqlzML1fhgXTWwi626R9oYP5VBoo=", "Xk29KfLrg80ULJ/AQqd7naZqumU="
    request = post(VOICE, P, sha256, x_twilio_webhooks_signature_settings=said)
    assert RequestValidator(TOKEN).validate(VOICE, dict(P), sha256, "HMAC_SHA256")
    http.authenticate("answer", request)
    # The sender does not choose a weaker check than the operator.
    assert reason(http, post(VOICE, P, sha1)) == "weaker-algorithm"
    weak = said.replace("SHA256", "SHA1")
    assert reason(http, post(VOICE, P, sha1, x_twilio_webhooks_signature_settings=weak)) == "weaker-algorithm"
    other = said.replace("_1,", "_2,")
    assert reason(http, post(VOICE, P, sha256, x_twilio_webhooks_signature_settings=other)) == "unknown-key"
    # And a key that nobody configured is no key.
    assert reason(make(), request) == "unknown-key"
    assert reason(make(), post(VOICE, P, sha1, x_twilio_webhooks_signature_settings=weak)) == "unknown-key"


def test_the_handshake_of_the_media_socket() -> None:
    signature = "vycQH3C6Neh8o/nGRMo3YbWRoHQ="
    assert RequestValidator(TOKEN).validate(SOCKET, {}, signature)

    def upgrade(url: str) -> WebRequest:
        return WebRequest(method="GET", url=url, headers={"x-twilio-signature": signature})

    http = make()
    assert http.authenticate_upgrade(upgrade(SOCKET)) == ""
    for url in (SOCKET.replace("wss", "https"), SOCKET + "/", SOCKET + "4"):
        with pytest.raises(NotAuthentic, match="bad-signature"):
            http.authenticate_upgrade(upgrade(url))
        assert make(handshake_signature="warn").authenticate_upgrade(upgrade(url)) == "bad-signature"
        assert make(handshake_signature="off").authenticate_upgrade(upgrade(url)) == ""
    with pytest.raises(NotAuthentic, match="no-signature"):
        http.authenticate_upgrade(WebRequest(method="GET", url=SOCKET, headers={}))


def test_a_handshake_that_was_signed_with_its_port() -> None:
    with_port = SOCKET.replace(".com/", ".com:443/")
    signature = RequestValidator(TOKEN).compute_signature(with_port, {})
    request = WebRequest(method="GET", url=SOCKET, headers={"x-twilio-signature": signature})
    assert make().authenticate_upgrade(request) == ""


def json_request(url: str = EVENTS, body: str = BODY, signature: str = "uJMDIIOL2eMG5uqoTu7yPl5bGFM=") -> WebRequest:
    headers = {"content-type": "application/json", "x-twilio-signature": signature}
    return WebRequest(method="POST", url=url, headers=headers, body=body.encode())


def test_json_is_signed_by_its_hash() -> None:
    assert RequestValidator(TOKEN).validate(EVENTS, BODY, "uJMDIIOL2eMG5uqoTu7yPl5bGFM=")
    http = make()
    http.authenticate("events", json_request())
    assert reason(http, json_request(body='{"a":2}')) == "bad-body-hash"
    assert reason(http, json_request(body="")) == "bad-body-hash"
    other = hashlib.sha256(b'{"a":2}').hexdigest()
    assert reason(http, json_request(EVENTS.partition("=")[0] + "=" + other, '{"a":2}')) == "bad-signature"
    assert reason(http, json_request(f"{EVENTS}&bodySHA256={other}")) == "bad-body-hash"
    bare = EVENTS.partition("?")[0]
    without = RequestValidator(TOKEN).compute_signature(bare, {})
    assert reason(http, json_request(bare, signature=without)) == "no-body-hash"


def test_a_body_that_no_signature_covers_is_refused_whatever_it_is_called() -> None:
    """The signature over a bare URL would vouch for any body that is not taken for a form."""
    bare = RequestValidator(TOKEN).compute_signature(VOICE, {})
    for content_type in ("text/plain", "multipart/form-data; boundary=x", "application/json", ""):
        request = post(VOICE, P, bare, content_type=content_type)
        assert reason(make(), request) == "no-body-hash"
    assert reason(make(), WebRequest(method="PUT", url=VOICE, headers={"x-twilio-signature": bare})) == "method"


@pytest.mark.parametrize(
    "request_",
    [
        post(VOICE, {k: v for k, v in P.items() if k != "CallerName"}, "Xk29KfLrg80ULJ/AQqd7naZqumU="),
        post(VOICE + "?bot=sales&x=a+b", P, "jvvWWqFLfRLBLRL0+JKzcGLMlC0="),
        post(VOICE + "?x=a%20b&bot=sales", P, "jvvWWqFLfRLBLRL0+JKzcGLMlC0="),
        post(VOICE.replace("https", "http"), P, "Xk29KfLrg80ULJ/AQqd7naZqumU="),
        post(VOICE + "/", P, "Xk29KfLrg80ULJ/AQqd7naZqumU="),
        post(VOICE.replace("gw.", "GW."), P, "Xk29KfLrg80ULJ/AQqd7naZqumU="),
        post(VOICE, {**P, "To": "+14155550198"}, "Xk29KfLrg80ULJ/AQqd7naZqumU="),
        post(VOICE, [*P.items(), ("To", "+1")], "Xk29KfLrg80ULJ/AQqd7naZqumU="),
        WebRequest(
            method="GET", url=f"{VOICE}?{urlencode(P)}", headers={"x-twilio-signature": "Xk29KfLrg80ULJ/AQqd7naZqumU="}
        ),
    ],
)
def test_what_was_changed_is_refused(request_: WebRequest) -> None:
    assert reason(make(), request_) == "bad-signature"


@pytest.mark.parametrize(
    ("signature", "why"),
    [
        ("", "no-signature"),
        ("Xk29KfLrg80ULJ/AQqd7naZqumU", "malformed-signature"),
        ("Xk29KfLrg80ULJ/AQqd7naZqumV=", "malformed-signature"),  # the same 20 bytes, loosely spelled
        ("Xk29KfLrg80ULJ/AQqd7naZqumU==", "malformed-signature"),
        (" Xk29KfLrg80ULJ/AQqd7naZqumU=", "malformed-signature"),
        ("Xk29KfLrg80ULJ/AQqd7naZqumU=\n", "malformed-signature"),
        ("Xk29KfLrg80ULJ_AQqd7naZqumU=", "malformed-signature"),
        ("Xk29KfLrg80ULJ/AQqd7naZqumU=, Xk29KfLrg80ULJ/AQqd7naZqumU=", "malformed-signature"),
        ("VM0t7QcDoAIhrYnRqlzML1fhgXTWwi626R9oYP5VBoo=", "malformed-signature"),
        ("\u00fc" * 28, "malformed-signature"),
        (base64.b64encode(bytes(20)).decode(), "bad-signature"),
    ],
)
def test_signatures_that_are_none(signature: str, why: str) -> None:
    assert reason(make(), post(VOICE, P, signature)) == why


def test_a_form_that_is_not_one() -> None:
    signature = RequestValidator(TOKEN).compute_signature(VOICE, {"From": "\ufffd"})
    for body in (b"From=%FF", "From=\u00fc".encode(), b"From=\xff"):
        headers = {"content-type": FORM, "x-twilio-signature": signature}
        request = WebRequest(method="POST", url=VOICE, headers=headers, body=body)
        assert reason(make(), request) == "bad-form"


def test_a_get_is_signed_by_its_url() -> None:
    url = f"{VOICE}?{urlencode(P, quote_via=quote)}"
    signature = RequestValidator(TOKEN).compute_signature(url, {})
    make().authenticate("answer", WebRequest(method="GET", url=url, headers={"x-twilio-signature": signature}))


def test_repeated_names_count_each_value_once_in_order() -> None:
    class Multi(dict[str, list[str]]):
        def getlist(self, name: str) -> list[str]:
            return self[name]

    pairs = [("a", "2"), ("b", ""), ("a", "1"), ("a", "2"), ("B", "x")]
    judge = RequestValidator(TOKEN).compute_signature(VOICE, Multi(a=["2", "1", "2"], b=[""], B=["x"]))
    make().authenticate("answer", post(VOICE, pairs, judge))


@pytest.mark.parametrize(
    ("signed_over", "arrives_at"),
    [
        ("https://gw.example.com/x", "https://gw.example.com:8443/x"),
        ("https://gw.example.com:443/x", "https://gw.example.com/x"),
        ("https://gw.example.com:8443/x?a=1", "https://gw.example.com:8443/x?a=1"),
        ("https://gw.example.com:443", "https://gw.example.com"),
    ],
)
def test_ports_are_as_inconsistent_as_twilios_own_judge_takes_them(signed_over: str, arrives_at: str) -> None:
    signature = RequestValidator(TOKEN).compute_signature(signed_over, dict(P))
    assert RequestValidator(TOKEN).validate(arrives_at, dict(P), signature)
    make().authenticate("answer", post(arrives_at, P, signature))


def test_tokens_in_rotation() -> None:
    both = make(more_auth_tokens=(Secret(env="T_OLD"),))
    both.authenticate("answer", signed(VOICE, P))
    both.authenticate("answer", signed(VOICE, P, "f" * 32))
    assert reason(make(), signed(VOICE, P, "f" * 32)) == "bad-signature"
    assert reason(both, signed(VOICE, P, "e" * 32)) == "bad-signature"


def test_without_a_token_nobody_comes_in() -> None:
    http = TwilioHttp(TwilioSettings(account_sid=ACCOUNT))
    assert reason(http, signed(VOICE, P, "")) == "no-auth-token"
    assert reason(http, post(VOICE, P)) == "no-auth-token"


def test_what_was_checked_is_told_without_values() -> None:
    url = f"https://user:pw@gw.example.com/twilio/media/{'t' * 200}?bot=sales"
    with pytest.raises(NotAuthentic) as refused:
        make().authenticate("answer", signed(url, {**P, "SpeechResult": "my secret"}, "e" * 32))
    checked = refused.value.checked
    said = str(checked)
    assert checked["host"].startswith("gw.example.com #")
    assert checked["path"].startswith("/twilio/media/<200> #")
    assert checked["query"].startswith("bot=<5> #")
    assert "SpeechResult=<9>#" in checked["fields"]
    for secret in ("4155550100", "my secret", "sales", "pw", "ttt", TOKEN, "e" * 32):
        assert secret not in said
    # Two requests that differ in one part show where.
    with pytest.raises(NotAuthentic) as other:
        make().authenticate(
            "answer", signed(url.replace("sales", "sbles"), {**P, "SpeechResult": "my secret"}, "e" * 32)
        )
    assert {name for name in checked if checked[name] != other.value.checked[name]} == {"query"}


@pytest.mark.parametrize("host", ["[", "[::1", "a b", "x@y", "\u00fc", "h:99999999", ":", "#?"])
def test_whatever_stands_in_a_host_header_is_only_refused(host: str) -> None:
    assert (
        reason(make(), post(f"https://{host}/twilio/answer", P, base64.b64encode(bytes(20)).decode()))
        == "bad-signature"
    )


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), min_size=1, max_size=8)
FIELDS = st.dictionaries(
    NAMES, st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=12), max_size=8
)
CHANGES = st.tuples(st.sampled_from(["url", "body", "signature"]), st.integers(0, 10_000), st.integers(1, 255))


@given(fields=FIELDS, query=FIELDS, change=CHANGES)
@settings(max_examples=200, deadline=None)
def test_what_the_judge_signs_is_taken_and_what_it_refuses_is_refused(
    fields: dict[str, str], query: dict[str, str], change: tuple[str, int, int]
) -> None:
    url = VOICE + ("?" + urlencode(query) if query and "bodySHA256" not in query else "")
    judge = RequestValidator(TOKEN)
    signature = judge.compute_signature(url, fields)
    http = TwilioHttp(TwilioSettings(account_sid=ACCOUNT, auth_token=Secret(env="T_TOKEN")))
    http.authenticate("answer", post(url, fields, signature))

    part, at, flip = change
    body = urlencode(fields)
    texts = {"url": url, "body": body, "signature": signature}
    text = texts[part]
    if not text:
        return
    at %= len(text)
    texts[part] = text[:at] + chr(ord(text[at]) ^ (flip & 0x7F)) + text[at + 1 :]
    request = WebRequest(
        method="POST",
        url=texts["url"],
        headers={"content-type": FORM, "x-twilio-signature": texts["signature"]},
        body=texts["body"].encode("latin-1"),
    )
    try:
        http.authenticate("answer", request)
    except NotAuthentic:
        return
    # Taken all the same: then what was signed is the same text, by the judge's own word.
    pairs = parse_qsl(texts["body"], keep_blank_values=True)
    assert texts["signature"] == signature
    assert judge.validate(texts["url"], dict(pairs), texts["signature"])


# ---------------------------------------------------------------- webhooks


def handled(route: str, fields: Mapping[str, str], url: str = "https://gw.example.com/twilio/answer") -> Any:
    return make().handle(route, post(url, fields), URLS)


def test_a_call_comes_in() -> None:
    fields = {**P, "SipHeader_X-Customer": "42", "SipHeader_User-to-User": "abc", "SomethingNew": "1"}
    call = handled("answer", fields, "https://gw.example.com/twilio/answer?tier=gold&Upper=1").incoming
    assert call == InboundCall(
        carrier="twilio",
        call_id=CALL,
        from_number="+14155550100",
        to_number="+14155550199",
        account_id=ACCOUNT,
        parameters={"tier": "gold", "X-Customer": "42", "User-to-User": "abc"},
        extra={"ringing": "yes"},
    )


def test_a_call_comes_in_by_get() -> None:
    request = WebRequest(method="GET", url=f"{VOICE}?tier=gold&{urlencode(P)}", headers={})
    call = make().handle("answer", request, URLS).incoming
    assert call is not None
    assert (call.call_id, call.parameters) == (CALL, {"tier": "gold"})


def test_a_call_that_we_placed_is_answered() -> None:
    fields = {**P, "Direction": "outbound-api", "CallStatus": "in-progress", "AnsweredBy": "machine_end_beep"}
    came = handled("answer", fields, "https://gw.example.com/twilio/answer?bot=sales&campaign=a%26b")
    assert came.incoming.direction == "outbound"
    assert came.incoming.parameters == {"bot": "sales", "campaign": "a&b"}
    [event] = came.events
    assert (event.who, event.detail) == ("machine", "machine_end_beep")


@pytest.mark.parametrize("call_id", ["", "CA/../x", "CA 1", "x" * 65])
@pytest.mark.parametrize("route", ["answer", "status", "stream-status", "after"])
def test_a_webhook_without_a_call_is_unreadable(route: str, call_id: str) -> None:
    with pytest.raises(UnreadableRequest):
        handled(route, {**P, "CallSid": call_id, "StreamEvent": "stream-started"})


@pytest.mark.parametrize("route", ["events", "passthru", "nonsense"])
def test_routes_that_twilio_does_not_have(route: str) -> None:
    with pytest.raises(UnreadableRequest):
        handled(route, P)


@pytest.mark.parametrize(
    ("said", "phase"),
    [
        ("queued", CallPhase.QUEUED),
        ("initiated", CallPhase.QUEUED),
        ("ringing", CallPhase.RINGING),
        ("in-progress", CallPhase.ANSWERED),
        ("completed", CallPhase.COMPLETED),
        ("busy", CallPhase.BUSY),
        ("failed", CallPhase.FAILED),
        ("no-answer", CallPhase.NO_ANSWER),
        ("canceled", CallPhase.CANCELED),
    ],
)
def test_statuses(said: str, phase: CallPhase) -> None:
    fields = {**P, "CallStatus": said, "SequenceNumber": "3", "CallDuration": "41", "SipResponseCode": "486"}
    [status] = handled("status", fields).events
    assert isinstance(status, CallStatus)
    assert (status.call_id, status.phase, status.duration_s, status.cause) == (CALL, phase, 41.0, "SIP 486")
    # Delivered twice, it is the same report; the next one is another.
    assert handled("status", fields).events[0].key == status.key
    assert handled("status", {**fields, "SequenceNumber": "4"}).events[0].key != status.key


def test_statuses_without_figures_and_words_that_do_not_exist_yet() -> None:
    [status] = handled("status", {**P, "CallDuration": "soon"}).events
    assert (status.duration_s, status.cause) == (None, "")
    assert handled("status", {**P, "CallStatus": "levitating"}).events == []
    assert handled("stream-status", {**P, "StreamEvent": "stream-dreamt"}).events == ()
    for route in ("status", "stream-status"):
        with pytest.raises(UnreadableRequest):
            handled(route, {"CallSid": CALL})


@pytest.mark.parametrize(
    ("said", "who"),
    [
        ("human", "human"),
        ("machine_start", "machine"),
        ("machine_end_other", "machine"),
        ("fax", "fax"),
        ("unknown", "unknown"),
        ("parrot", "unknown"),
    ],
)
def test_who_answered(said: str, who: str) -> None:
    [event] = handled("status", {"CallSid": CALL, "AccountSid": ACCOUNT, "AnsweredBy": said}).events
    assert isinstance(event, AnsweredBy)
    assert (event.call_id, event.who, event.detail) == (CALL, who, said)
    assert event.beep == (said == "machine_end_other")


@pytest.mark.parametrize(
    ("said", "what"), [("stream-started", "started"), ("stream-stopped", "stopped"), ("stream-error", "failed")]
)
def test_stream_statuses(said: str, what: str) -> None:
    fields = {"CallSid": CALL, "StreamSid": "MZ1", "StreamEvent": said, "StreamError": "31920 handshake"}
    [event] = handled("stream-status", fields).events
    assert isinstance(event, StreamStatus)
    assert (event.call_id, event.what, event.stream_id, event.problem) == (CALL, what, "MZ1", "31920 handshake")


def test_the_stream_is_over_and_twilio_asks_what_now() -> None:
    assert handled("after", {**P, "CallStatus": "in-progress"}).asks_after == CALL


# ---------------------------------------------------------------- documents

INCOMING = InboundCall(carrier="twilio", call_id=CALL, from_number="+1415", extra={"ringing": "yes"})


def document(answer: Any) -> ElementTree.Element:
    assert answer is not None
    assert answer.status == 200
    assert answer.content_type.startswith("text/xml")
    root = ElementTree.fromstring(answer.body.decode())
    assert root.tag == "Response"
    return root


def test_the_offer_is_connect_and_stream() -> None:
    parameters = {"tier": 'g<o>l"d & more', "umlaut": "\u00fc", "empty": "", "long": "x" * 496, "": "nameless"}
    stream = StreamOffer(media_url=URLS.media("twilio", "tok"), urls=URLS, parameters=parameters)
    root = document(make().offer(INCOMING, stream).answer)
    [connect] = root
    assert (connect.tag, connect.attrib) == (
        "Connect",
        {"action": "https://gw.example.com/prefix/twilio/after", "method": "POST"},
    )
    [element] = connect
    assert element.attrib == {
        "url": "wss://gw.example.com/prefix/twilio/media/tok",
        "statusCallback": "https://gw.example.com/prefix/twilio/stream-status",
        "statusCallbackMethod": "POST",
    }
    # Twilio takes fewer than 500 characters a pair: what is longer would cost the whole stream.
    carried = {item.get("name"): item.get("value") for item in element}
    assert carried == {"tier": 'g<o>l"d & more', "umlaut": "\u00fc", "empty": ""}


@pytest.mark.parametrize(
    ("instead", "xml"),
    [
        ("busy", '<Reject reason="busy" />'),
        ("rejected", '<Reject reason="rejected" />'),
        ("number:+1 (415) 555-0123", "<Dial>+14155550123</Dial>"),
        ("number:sip:desk@example.com", "<Dial><Sip>sip:desk@example.com</Sip></Dial>"),
        (
            "gateway:https://gw2.example.com/p/",
            '<Redirect method="POST">https://gw2.example.com/p/twilio/answer</Redirect>',
        ),
        ("say:Please call <later>: 9 & 10", "<Say>Please call &lt;later&gt;: 9 &amp; 10</Say><Hangup />"),
        ("nonsense", '<Reject reason="busy" />'),
    ],
)
def test_refusals(instead: str, xml: str) -> None:
    answer = make().refuse(INCOMING, Refusal(reason="full", instead=instead)).answer
    document(answer)
    assert answer is not None
    assert answer.body.decode() == f'<?xml version="1.0" encoding="UTF-8"?><Response>{xml}</Response>'


@pytest.mark.parametrize(
    "call",
    [
        InboundCall(carrier="twilio", call_id=CALL, direction="outbound"),
        InboundCall(carrier="twilio", call_id=CALL, extra={}),  # somebody else's document had answered it
    ],
)
def test_a_call_that_is_answered_cannot_be_rejected(call: InboundCall) -> None:
    answer = make().refuse(call, Refusal(reason="full")).answer
    assert [verb.tag for verb in document(answer)] == ["Hangup"]


@pytest.mark.parametrize(
    ("target", "xml"),
    [
        (None, "<Hangup />"),
        ("+14155550123", "<Dial>+14155550123</Dial>"),
        ("sip:a@b.example;x=1", "<Dial><Sip>sip:a@b.example;x=1</Sip></Dial>"),
        ("client:alice", "<Dial><Client>alice</Client></Dial>"),
        (
            "https://flow.example.com/x?a=1&b=2",
            '<Redirect method="POST">https://flow.example.com/x?a=1&amp;b=2</Redirect>',
        ),
    ],
)
def test_what_follows_the_stream(target: str | None, xml: str) -> None:
    assert make().after(CALL, target).body.decode().endswith(f"<Response>{xml}</Response>")


def test_a_flow_goes_on_when_the_bot_has_left() -> None:
    http = make(auto_hang_up=False, next_url="https://webhooks.twilio.com/v1/Accounts/AC1/Flows/FW1?FlowEvent=return")
    assert b"FlowEvent=return</Redirect>" in http.after(CALL, None).body
    assert b"<Dial>" in http.after(CALL, "+14155550123").body


# ---------------------------------------------------------------- call control

REF = CallRef(carrier="twilio", call_id=CALL, account_id=ACCOUNT)
CALL_URL = f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Calls/{CALL}.json"


def authorization(request: CarrierRequest) -> str:
    return request.authorize(0.0)["authorization"]


def test_hang_up() -> None:
    request = make().hang_up(REF)
    assert request is not None
    assert (request.purpose, request.method, request.url) == (Purpose.HANG_UP, "POST", CALL_URL)
    assert request.form == [("Status", "completed")]
    assert request.repeatable
    assert authorization(request) == "Basic " + base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
    assert TOKEN not in repr(request)
    assert make().may_send_to(request.url)


def test_fetch() -> None:
    request = make().fetch(REF)
    assert request is not None
    assert (request.method, request.url, request.form) == ("GET", CALL_URL, None)
    assert request.repeatable


def test_regions_subaccounts_api_keys_and_the_simulator() -> None:
    regional = make(region="ie1", edge="dublin")
    request = regional.hang_up(REF)
    assert request is not None
    assert request.url.startswith("https://api.dublin.ie1.twilio.com/2010-04-01/")
    assert regional.may_send_to(request.url)
    sub = make().hang_up(CallRef(carrier="twilio", call_id=CALL, account_id="AC2"))
    assert sub is not None
    assert "/Accounts/AC2/" in sub.url
    keyed = make(api_key_sid="SK1", api_key_secret=Secret(env="T_API")).hang_up(REF)
    assert keyed is not None
    assert authorization(keyed) == "Basic " + base64.b64encode(b"SK1:api-secret").decode()
    fake = make(api_base="http://127.0.0.1:9000/twilio")
    local = fake.hang_up(REF)
    assert local is not None
    assert local.url.startswith("http://127.0.0.1:9000/twilio/2010-04-01/")
    assert fake.may_send_to(local.url)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.twilio.com.evil.example/2010-04-01/x",
        "http://api.twilio.com/2010-04-01/x",
        "https://api.twilio.com:8443/x",
        "https://api.twilio.com@evil.example/x",
        "https://evil.example/api.twilio.com",
        "https://evil.example\\@api.twilio.com/x",
        "http://127.0.0.1:9000/twilio/x",
    ],
)
def test_credentials_go_to_twilio_only(url: str) -> None:
    assert not make().may_send_to(url)


def test_without_credentials_there_is_nothing_to_ask() -> None:
    http = TwilioHttp(TwilioSettings())
    assert http.hang_up(REF) is None
    assert http.fetch(REF) is None
    assert http.dial(DialOrder(to_number="+1", from_number="+2"), URLS) is None
    transfer = http.transfer(REF, "+14155550123", URLS)
    assert transfer is not None
    assert (transfer.request, transfer.closes_socket) == (None, True)


def test_ids_cannot_leave_their_place_in_the_path() -> None:
    for call_id in ("../x", "a/b", "a?b", "a#b", "a%2fb", "a\nb"):
        assert make().hang_up(CallRef(carrier="twilio", call_id=call_id, account_id=ACCOUNT)) is None
        assert make().hang_up(CallRef(carrier="twilio", call_id=CALL, account_id=call_id)) is None


@pytest.mark.parametrize(
    ("target", "form"),
    [
        ("+1 415-555-0123", "<Dial>+14155550123</Dial>"),
        ("sip:desk@example.com", "<Dial><Sip>sip:desk@example.com</Sip></Dial>"),
    ],
)
def test_transfer_by_document(target: str, form: str) -> None:
    transfer = make().transfer(REF, target, URLS)
    assert transfer is not None
    assert not transfer.closes_socket
    request = transfer.request
    assert request is not None
    assert (request.purpose, request.url, request.repeatable) == (Purpose.TRANSFER, CALL_URL, False)
    assert request.form == [("Twiml", f'<?xml version="1.0" encoding="UTF-8"?><Response>{form}</Response>')]


def test_transfer_by_url() -> None:
    transfer = make().transfer(REF, "https://flow.example.com/x", URLS)
    assert transfer is not None
    assert transfer.request is not None
    assert transfer.request.form == [("Url", "https://flow.example.com/x"), ("Method", "POST")]


@pytest.mark.parametrize("target", ["", "sales", "+", "tel", "ftp://x", "+1<x>", "sip:" + "x" * 4000])
def test_targets_that_nobody_can_dial(target: str) -> None:
    assert make().transfer(REF, target, URLS) is None


def test_dial() -> None:
    order = DialOrder(
        to_number="+14155550123",
        from_number="+14155550199",
        ring_s=20,
        longest_s=600,
        detect_machine=True,
        parameters={"bot": "sales", "campaign": "a&b c"},
    )
    request = make().dial(order, URLS)
    assert request is not None
    assert request.url == f"https://api.twilio.com/2010-04-01/Accounts/{ACCOUNT}/Calls.json"
    assert (request.purpose, request.method, request.repeatable) == (Purpose.DIAL, "POST", False)
    base = "https://gw.example.com/prefix/twilio"
    assert request.form == [
        ("To", "+14155550123"),
        ("From", "+14155550199"),
        ("Url", f"{base}/answer?bot=sales&campaign=a%26b+c"),
        ("Method", "POST"),
        ("StatusCallback", f"{base}/status"),
        ("StatusCallbackMethod", "POST"),
        ("StatusCallbackEvent", "initiated"),
        ("StatusCallbackEvent", "ringing"),
        ("StatusCallbackEvent", "answered"),
        ("StatusCallbackEvent", "completed"),
        ("Timeout", "20"),
        ("TimeLimit", "600"),
        ("MachineDetection", "Enable"),
        ("AsyncAmd", "true"),
        ("AsyncAmdStatusCallback", f"{base}/status"),
        ("AsyncAmdStatusCallbackMethod", "POST"),
    ]
    plain = make().dial(DialOrder(to_number="+1", from_number="+2", ring_s=9999), URLS)
    assert plain is not None
    assert plain.form is not None
    names = dict(plain.form)
    assert names["Timeout"] == "600"
    assert names["Url"] == f"{base}/answer"
    assert not names.keys() & {"TimeLimit", "MachineDetection", "AsyncAmd"}
    # What we signed up for comes back signed, with the parameters in its URL.
    came = make()
    came.authenticate("answer", signed(dict(request.form)["Url"], P))


def error(code: int) -> bytes:
    return f'{{"code":{code},"message":"x","status":400}}'.encode()


OVER, DONE, RETRY, FAILED = OutcomeKind.ALREADY_OVER, OutcomeKind.DONE, OutcomeKind.RETRY, OutcomeKind.FAILED


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (200, b'{"sid":"CA1","status":"completed"}', DONE),
        (200, b"", DONE),
        (404, error(20404), OVER),
        (400, error(21220), OVER),
        (404, b"<html>not found</html>", FAILED),  # somebody else's 404
        (404, error(20003), FAILED),
        (400, error(20404), FAILED),
        (404, error(21220), FAILED),
        (400, error(21218), FAILED),
        (400, b'{"code":"21220"}', FAILED),
        (400, b"[21220]", FAILED),
        (401, error(20003), FAILED),
        (403, b"", FAILED),
        (302, b"", FAILED),
        (429, error(20429), RETRY),
        (500, b"", RETRY),
        (503, b"", RETRY),
    ],
)
def test_what_replies_to_a_hang_up_mean(status: int, body: bytes, kind: OutcomeKind) -> None:
    http = make()
    request = http.hang_up(REF)
    assert request is not None
    outcome = http.outcome(request, status, {"retry-after": "3"}, body)
    assert outcome.kind is kind
    assert outcome.retry_after_s == (3.0 if kind is RETRY else None)
    assert str(status) in outcome.detail


def test_what_replies_to_other_requests_mean() -> None:
    http = make()
    dial = http.dial(DialOrder(to_number="+1", from_number="+2"), URLS)
    fetch, transfer = http.fetch(REF), http.transfer(REF, "+14155550123", URLS)
    assert dial is not None
    assert fetch is not None
    assert transfer is not None
    assert transfer.request is not None
    placed = http.outcome(dial, 201, {}, b'{"sid":"CA9","status":"queued"}')
    assert (placed.kind, placed.call_id, placed.phase) == (DONE, "CA9", CallPhase.QUEUED)
    for nonsense in (b"{}", b'{"sid":7}', b"", b"[]"):
        assert http.outcome(dial, 201, {}, nonsense).kind is FAILED
    assert (
        http.outcome(dial, 404, {}, error(20404)).kind is FAILED
    )  # an account that does not exist is no call that ended
    assert http.outcome(dial, 429, {"retry-after": "soon"}, b"").retry_after_s is None
    state = http.outcome(fetch, 200, {}, b'{"status":"in-progress"}')
    assert (state.kind, state.phase) == (DONE, CallPhase.ANSWERED)
    assert http.outcome(fetch, 200, {}, b"{}").kind is FAILED
    assert http.outcome(fetch, 404, {}, error(20404)).kind is OVER
    assert http.outcome(transfer.request, 400, {}, error(21220)).kind is OVER
    assert http.outcome(transfer.request, 200, {}, b'{"status":"in-progress"}').kind is DONE


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"region": "ie1"}, "go together"),
        ({"region": "ie1/x", "edge": "dublin"}, "words"),
        ({"region": "ie1", "edge": "evil.example"}, "words"),
        ({"signing_key_id": "x"}, "go together"),
        ({"api_key_sid": "SK1"}, "go together"),
        ({"next_url": "javascript:x"}, "next_url"),
    ],
)
def test_settings_that_do_not_fit_together(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        TwilioSettings(**fields)


@pytest.mark.parametrize(
    "base", ["http://localhost:1/x", "https://127.0.0.1/x", "http://10.0.0.1/x", "http://127.0.0.1/"]
)
def test_the_simulator_is_on_this_machine(base: str) -> None:
    with pytest.raises(ValueError, match="api_base"):
        make(api_base=base)


def test_media_urls_have_no_query() -> None:
    # Twilio drops it: the token is in the path.
    assert urlsplit(URLS.media("twilio", "tok")).query == ""
