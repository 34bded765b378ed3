"""Exotel's HTTP side."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import pytest

from media.secret import Secret
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
    OutcomeKind,
    Purpose,
    Refusal,
    StreamOffer,
    StreamStatus,
    UnreadableRequest,
    Urls,
    WebRequest,
)
from webhooks.exotel import DIAL_S, STREAM_KEYS, ExotelHttp, ExotelSettings, stream_block

URLS = Urls(base="https://gw.example.com")
CALL = "3aa74daf25c74c4305d096ddf5a21a8o"
ANSWER = "https://gw.example.com/exotel/answer"
QUERY = {
    "CallSid": CALL,
    "CallFrom": "09876543210",
    "CallTo": "08047491899",
    "Direction": "incoming",
    "CallStatus": "in-progress",
    "flow_id": "123456",
}
BASIC = "Basic Z3dfZXhvdGVsX2tleTpnd19leG90ZWxfdG9rZW5fN2YzYQ=="


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E_PASSWORD", "gw_exotel_token_7f3a")
    monkeypatch.setenv("E_PATH", "c0ffee")
    monkeypatch.setenv("E_KEY", "apikey_0a1b2c")
    monkeypatch.setenv("E_TOKEN", "apitoken_9z8y7x")


BASIC_AUTH = {"basic_user": "gw_exotel_key", "basic_password": Secret(env="E_PASSWORD")}
PATH = {"path_token": Secret(env="E_PATH")}
REST = {"account_sid": "acme1", "api_key": Secret(env="E_KEY"), "api_token": Secret(env="E_TOKEN")}


def make(**fields: Any) -> ExotelHttp:
    return ExotelHttp(ExotelSettings(**(fields or BASIC_AUTH)))


def get(url: str = ANSWER, fields: Mapping[str, str] = QUERY, peer: str = "", **headers: str) -> WebRequest:
    return WebRequest(method="GET", url=f"{url}?{urlencode(fields)}" if fields else url, headers=headers, peer=peer)


def reason(http: ExotelHttp, request: WebRequest, route: str = "answer") -> str:
    with pytest.raises(NotAuthentic) as refused:
        http.authenticate(route, request)
    assert refused.value.status == 403
    return refused.value.reason


# ---------------------------------------------------------------- authenticity


def test_basic() -> None:
    make().authenticate("answer", get(authorization=BASIC))
    make().authenticate("answer", get(authorization=BASIC.replace("Basic", "bAsIc")))


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("", "no-credentials-shown"),
        (BASIC.replace("Basic", "Bearer"), "malformed-basic"),
        ("Basic Z3d!", "malformed-basic"),
        ("Basic " + base64.b64encode(b"gw_exotel_key").decode(), "malformed-basic"),
        (BASIC + "\n", "malformed-basic"),
        (BASIC[:-1], "malformed-basic"),
        ("Basic  " + BASIC[6:], "malformed-basic"),
        ("Basic " + base64.b64encode(b"\xff:x").decode(), "malformed-basic"),
        ("Basic", "malformed-basic"),
        ("Basic \u00fc", "malformed-basic"),
        ("Basic " + base64.b64encode(b"gw_exotel_key:wrong").decode(), "bad-basic"),
        ("Basic " + base64.b64encode(b"other:gw_exotel_token_7f3a").decode(), "bad-basic"),
        ("Basic " + base64.b64encode(b"gw_exotel_key:gw_exotel_token_7f3a ").decode(), "bad-basic"),
        ("Basic " + base64.b64encode(b":").decode(), "bad-basic"),
    ],
)
def test_basic_that_is_none(header: str, why: str) -> None:
    assert reason(make(), get(authorization=header)) == why


def test_a_password_may_have_colons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E_PASSWORD", "a:b:c")
    header = "Basic " + base64.b64encode(b"gw_exotel_key:a:b:c").decode()
    make().authenticate("answer", get(authorization=header))


def test_a_token_in_the_path() -> None:
    http = make(**PATH)
    for route in ("answer", "status", "passthru"):
        http.authenticate(route, get(f"https://gw.example.com/p/exotel/{route}/c0ffee"))
    assert reason(http, get(f"{ANSWER}/c0ffeE")) == "bad-token"
    assert reason(http, get(f"{ANSWER}/c0ffee/")) == "bad-token"
    assert reason(http, get(ANSWER)) == "no-credentials-shown"
    # Of another route, in the query, or in a parameter it is none.
    assert reason(http, get(f"{ANSWER}/c0ffee"), "status") == "no-credentials-shown"
    assert reason(http, get(f"{ANSWER}?x=/exotel/answer/c0ffee")) == "no-credentials-shown"


def test_either_will_do_but_nothing_wrong_is_made_good() -> None:
    http = make(**PATH, **BASIC_AUTH)
    http.authenticate("answer", get(f"{ANSWER}/c0ffee"))
    http.authenticate("answer", get(authorization=BASIC))
    http.authenticate("answer", get(f"{ANSWER}/c0ffee", authorization=BASIC))
    assert reason(http, get(f"{ANSWER}/wrong", authorization=BASIC)) == "bad-token"
    assert reason(http, get(f"{ANSWER}/c0ffee", authorization=BASIC[:-1])) == "malformed-basic"
    assert reason(http, get()) == "no-credentials-shown"


def test_addresses() -> None:
    http = make(allowed_ips=("203.0.113.0/24", "2001:db8::1"))
    for peer in ("203.0.113.7", "2001:db8::1", "::ffff:203.0.113.7"):
        http.authenticate("answer", get(peer=peer))
    for peer in ("203.0.114.7", "::1"):
        assert reason(http, get(peer=peer)) == "address"
    for peer in ("", "unix:", "203.0.113.7:80"):
        assert reason(http, get(peer=peer)) == "bad-address"
    # With a secret beside the list, both count.
    both = make(allowed_ips=("203.0.113.7",), **PATH)
    both.authenticate("answer", get(f"{ANSWER}/c0ffee", peer="203.0.113.7"))
    assert reason(both, get(ANSWER, peer="203.0.113.7")) == "no-credentials-shown"
    assert reason(both, get(f"{ANSWER}/c0ffee", peer="203.0.113.8")) == "address"


def test_with_nothing_configured_nobody_comes_in() -> None:
    assert reason(ExotelHttp(ExotelSettings()), get(authorization=BASIC)) == "no-credentials-configured"


def test_another_account() -> None:
    http = make(account_sid="acme1", **BASIC_AUTH)
    http.authenticate("answer", get(fields={**QUERY, "AccountSid": "acme1"}, authorization=BASIC))
    http.authenticate("answer", get(authorization=BASIC))
    assert reason(http, get(fields={**QUERY, "AccountSid": "acme2"}, authorization=BASIC)) == "wrong-account"


def test_what_was_checked_is_told_without_secrets() -> None:
    with pytest.raises(NotAuthentic) as refused:
        make(**PATH, **BASIC_AUTH).authenticate("answer", get(f"{ANSWER}/c0ffEE", authorization=BASIC))
    said = str(refused.value.checked)
    assert "/exotel/answer/" in said
    for secret in ("c0ff", "gw_exotel", BASIC[6:], "09876543210"):
        assert secret not in said


MEDIA = "wss://gw.example.com/exotel/media"


def test_the_handshake() -> None:
    http = make(**PATH, **BASIC_AUTH)
    one_call, standing = get(f"{MEDIA}/tok", {}), get(f"{MEDIA}/c0ffee", {})
    assert http.authenticate_upgrade(one_call) == ""
    assert not http.standing_stream(one_call)
    assert not http.standing_stream(get(f"{MEDIA}/", {}))
    # A URL that was typed into the applet shows what is configured.
    assert http.standing_stream(standing)
    with pytest.raises(NotAuthentic, match="no-basic"):
        http.authenticate_upgrade(standing)
    http.authenticate_upgrade(get(f"{MEDIA}/c0ffee", {}, authorization=BASIC))
    make(**PATH).authenticate_upgrade(standing)
    wrong = "Basic " + base64.b64encode(b"gw_exotel_key:wrong").decode()
    for url in ("tok", "c0ffee"):
        with pytest.raises(NotAuthentic, match="bad-basic"):
            http.authenticate_upgrade(get(f"{MEDIA}/{url}", {}, authorization=wrong))
    assert not make().standing_stream(get(f"{MEDIA}/", {}))
    with pytest.raises(NotAuthentic, match="address"):
        make(allowed_ips=("203.0.113.7",)).authenticate_upgrade(get(f"{MEDIA}/tok", {}, peer="203.0.113.8"))


# ---------------------------------------------------------------- the applet asks for a URL


def handle(route: str, request: WebRequest) -> Handled:
    return make().handle(route, request, URLS)


def test_a_call_comes_in() -> None:
    call = handle("answer", get(fields={**QUERY, "CustomField": "ref-42", "tier": "gold"})).incoming
    assert call == InboundCall(
        carrier="exotel",
        call_id=CALL,
        from_number="09876543210",
        to_number="08047491899",
        parameters={"CustomField": "ref-42", "tier": "gold"},
    )


@pytest.mark.parametrize(
    "request_",
    [
        get(fields={"CallSid": CALL, "From": "1", "To": "2", "Direction": "outbound-dial"}),
        WebRequest(
            method="POST",
            url=f"{ANSWER}?flow_id=1",
            headers={"content-type": "application/x-www-form-urlencoded"},
            body=urlencode({"CallSid": CALL, "CallFrom": "1", "To": "2", "Direction": "outbound"}).encode(),
        ),
        WebRequest(
            method="POST",
            url=ANSWER,
            headers={"content-type": "application/json; charset=utf-8"},
            body=json.dumps({"CallSid": CALL, "From": 1, "CallTo": "2", "Direction": "outbound-api"}).encode(),
        ),
    ],
)
def test_any_subset_in_any_encoding(request_: WebRequest) -> None:
    call = handle("answer", request_).incoming
    assert call is not None
    assert (call.call_id, call.from_number, call.to_number, call.direction) == (CALL, "1", "2", "outbound")


def test_head_admits_nobody() -> None:
    handled = handle("answer", WebRequest(method="HEAD", url=f"{ANSWER}?{urlencode(QUERY)}", headers={}))
    assert handled.incoming is None
    assert handled.answer is not None
    assert (handled.answer.status, handled.answer.content_type) == (200, "application/json")


@pytest.mark.parametrize("call_id", ["", "a/b", "x" * 65, "a b"])
@pytest.mark.parametrize("route", ["answer", "status", "passthru", "after"])
def test_a_webhook_without_a_call_is_unreadable(route: str, call_id: str) -> None:
    with pytest.raises(UnreadableRequest):
        handle(route, get(fields={**QUERY, "CallSid": call_id, "Status": "completed"}))


@pytest.mark.parametrize("body", [b"{", b"[" * 60_000, b'{"CallSid": 1', b'{"a":' * 10_000])
def test_bodies_that_are_no_json(body: bytes) -> None:
    request = WebRequest(method="POST", url=ANSWER, headers={"content-type": "application/json"}, body=body)
    with pytest.raises(UnreadableRequest):
        handle("answer", request)


def test_routes_that_exotel_does_not_have() -> None:
    for route in ("events", "stream-status"):
        with pytest.raises(UnreadableRequest):
            handle(route, get())


def offered(parameters: Mapping[str, str], **fields: Any) -> Any:
    stream = StreamOffer(media_url=URLS.media("exotel", "tok"), urls=URLS, parameters=parameters)
    answer = make(**fields).offer(InboundCall(carrier="exotel", call_id=CALL), stream).answer
    assert answer is not None
    assert (answer.status, answer.content_type) == (200, "application/json")
    return json.loads(answer.body)


def test_the_offer_is_a_url() -> None:
    assert offered({}) == {"url": "wss://gw.example.com/exotel/media/tok"}
    assert offered({"ref": "a b&c"}, sample_rate=16000) == {
        "url": "wss://gw.example.com/exotel/media/tok?sample-rate=16000&ref=a%20b%26c"
    }
    four = {"a": "1", "b": "2", "": "x", "c": "3", "d": "4"}
    assert offered(four) == {"url": "wss://gw.example.com/exotel/media/tok?a=1&b=2&c=3"}
    big = {"a": "x" * 248, "b": "y" * 10, "c": "z"}
    assert offered(big) == {"url": f"wss://gw.example.com/exotel/media/tok?a={'x' * 248}&c=z"}


@pytest.mark.parametrize(("why", "status"), [("no-bot", 404), ("full", 503), ("draining", 503), ("health", 503)])
def test_refusals(why: str, status: int) -> None:
    answer = make().refuse(InboundCall(carrier="exotel", call_id=CALL), Refusal(reason=why, instead="say:x")).answer
    assert answer is not None
    assert answer.status == status


# ---------------------------------------------------------------- reports

PASSTHRU_A = (
    "CallSid=56b1234567abcdef89abcdef12345678&flow_id=123456&Direction=incoming&CallFrom=09876543210"
    "&CallTo=08047491899&Stream%5BStreamSID%5D=6f048d2e897a0d2d4029560f3f541947&Stream%5BStatus%5D=completed"
    "&Stream%5BDuration%5D=28&Stream%5BStreamUrl%5D=wss%3A%2F%2Fgw.example.com%2Fexotel%2Fws%2Ft1"
    "&Stream%5BDisconnectedBy%5D=bot"
)
PASSTHRU_B = (
    "CallSid=56b1234567abcdef89abcdef12345678&Stream=%7B%22StreamSID%22%3A%2262aa%22%2C%22Status%22%3A%22failed%22"
    "%2C%22Duration%22%3A%220%22%2C%22StreamUrl%22%3A%22wss%3A%2F%2Fgw.example.com%2Fexotel%2Fws%2Ft1%22"
    "%2C%22Error%22%3A%223009+failed+to+establish+ws+conn%22%2C%22DisconnectedBy%22%3A%22NA%22%7D"
)
PASSTHRU = "https://gw.example.com/exotel/passthru"


def test_both_encodings_of_the_streams_block() -> None:
    a = dict(WebRequest(method="GET", url=f"{PASSTHRU}?{PASSTHRU_A}", headers={}).form)
    b = dict(WebRequest(method="GET", url=f"{PASSTHRU}?{PASSTHRU_B}", headers={}).form)
    assert tuple(stream_block(a)) == tuple(stream_block(b)) == STREAM_KEYS
    assert stream_block(a) | {"streamsid": ""} == {
        **dict.fromkeys(STREAM_KEYS, ""),
        "status": "completed",
        "duration": "28",
        "streamurl": "wss://gw.example.com/exotel/ws/t1",
        "disconnectedby": "bot",
    }
    assert stream_block(b)["error"] == "3009 failed to establish ws conn"
    both = {"Stream": '{"Status":"failed","Extra":"x"}', "Stream[Status]": "completed"}
    assert stream_block(both) == {**dict.fromkeys(STREAM_KEYS, ""), "status": "completed"}
    assert stream_block({"Stream": "yes", "Streams[Status]": "x"}) == dict.fromkeys(STREAM_KEYS, "")


@pytest.mark.parametrize("query", [PASSTHRU_A, PASSTHRU_B])
@pytest.mark.parametrize("how", ["get", "form", "json"])
def test_passthru_however_it_comes(query: str, how: str) -> None:
    if how == "get":
        request = WebRequest(method="GET", url=f"{PASSTHRU}?{query}", headers={})
    else:
        fields = dict(WebRequest(method="GET", url=f"x?{query}", headers={}).form)
        if how == "json":
            nested: dict[str, Any] = {k: v for k, v in fields.items() if not k.startswith("Stream[")}
            block = {k[7:-1]: v for k, v in fields.items() if k.startswith("Stream[")}
            if block:
                nested["Stream"] = block
            body, kind = json.dumps(nested).encode(), "application/json"
        else:
            body, kind = query.encode(), "application/x-www-form-urlencoded"
        request = WebRequest(method="POST", url=PASSTHRU, headers={"content-type": kind}, body=body)
    handled = handle("passthru", request)
    assert handled.asks_after == "56b1234567abcdef89abcdef12345678"
    [event] = handled.events
    assert isinstance(event, StreamStatus)
    if query is PASSTHRU_A:
        assert (event.what, event.problem, event.stream_id) == ("stopped", "", "6f048d2e897a0d2d4029560f3f541947")
    else:
        assert (event.what, event.problem, event.stream_id) == ("failed", "3009 failed to establish ws conn", "62aa")


def passthru(**stream: str) -> Handled:
    fields = {**QUERY, **{f"Stream[{name}]": value for name, value in stream.items()}}
    return handle("passthru", get(PASSTHRU, fields))


@pytest.mark.parametrize("by", ["user", "caller"])
@pytest.mark.parametrize("status", ["cancelled", "canceled", "completed"])
def test_the_caller_hung_up(status: str, by: str) -> None:
    stream, call = passthru(Status=status, DisconnectedBy=by, Duration="12", StreamSID="s").events
    assert isinstance(stream, StreamStatus)
    assert isinstance(call, CallStatus)
    assert (call.phase, call.ended_by, call.duration_s) == (CallPhase.COMPLETED, "caller", 12.0)
    assert stream.key != call.key


def test_the_error_is_believed_and_shows_no_url() -> None:
    error = "3009 failed to connect wss://user:pw@gw.example.com/exotel/media/tok"
    [event] = passthru(Status="completed", Error=error, DisconnectedBy="bot").events
    assert isinstance(event, StreamStatus)
    assert (event.what, event.problem) == ("failed", "3009 failed to connect <URL>")
    [throttled] = passthru(Status="failed", DetailedStatus="Streaming_call_throttled", DisconnectedBy="NA").events
    assert isinstance(throttled, StreamStatus)
    assert throttled.problem == "Streaming_call_throttled"


def test_a_passthru_elsewhere_in_the_flow_reports_nothing() -> None:
    handled = handle("passthru", get(PASSTHRU))
    assert handled.asks_after == CALL
    assert not handled.events


def test_the_branches() -> None:
    assert make().after(CALL, "agent").status == 200
    assert make().after(CALL, None).status == 302


FORM = "application/x-www-form-urlencoded"
TERMINAL = {
    "CallSid": CALL,
    "EventType": "terminal",
    "Status": "completed",
    "ConversationDuration": "28",
    "Legs[0][OnCallDuration]": "28",
    "Legs[0][Cause]": "NORMAL_CLEARING",
    "Legs[0][DisconnectedBy]": "callee",
}
MULTIPART = "".join(
    f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in TERMINAL.items()
)
AS_JSON = {
    "CallSid": CALL,
    "EventType": "terminal",
    "Status": "completed",
    "ConversationDuration": 28,
    "RecordingUrl": None,
    "Legs": [{"OnCallDuration": 28, "Cause": "NORMAL_CLEARING", "DisconnectedBy": "callee"}],
}


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (FORM, urlencode(TERMINAL)),
        ("multipart/form-data; boundary=x", MULTIPART + "--x--\r\n"),
        ('multipart/form-data; boundary="x"', MULTIPART + "--x--\r\n"),
        ("application/json", json.dumps(AS_JSON)),
        ("", json.dumps(AS_JSON)),
    ],
)
def test_status_in_three_encodings(content_type: str, body: str) -> None:
    request = WebRequest(
        method="POST",
        url="https://gw.example.com/exotel/status",
        headers={"content-type": content_type},
        body=body.encode(),
    )
    [status] = handle("status", request).events
    assert isinstance(status, CallStatus)
    assert (status.call_id, status.phase, status.duration_s) == (CALL, CallPhase.COMPLETED, 28.0)
    assert (status.cause, status.ended_by) == ("NORMAL_CLEARING", "caller")
    assert status.key == f"{CALL}/terminal"


@pytest.mark.parametrize(
    ("fields", "phase"),
    [
        ({"EventType": "answered", "Status": "in-progress"}, CallPhase.ANSWERED),
        ({"EventType": "terminal", "Status": "no-answer"}, CallPhase.NO_ANSWER),
        ({"EventType": "terminal", "Status": "busy"}, CallPhase.BUSY),
        ({"Status": "failed"}, CallPhase.FAILED),
        ({"CallStatus": "ringing"}, CallPhase.RINGING),
        ({"DialCallStatus": "canceled"}, CallPhase.CANCELED),
    ],
)
def test_phases(fields: dict[str, str], phase: CallPhase) -> None:
    [status] = handle("status", get("https://gw.example.com/exotel/status", {"CallSid": CALL, **fields})).events
    assert isinstance(status, CallStatus)
    assert (status.phase, status.ended_by) == (phase, "")


def test_statuses_that_say_more_or_nothing() -> None:
    url = "https://gw.example.com/exotel/status"
    _, machine = handle("status", get(url, {**TERMINAL, "Legs[0][AnsweredBy]": "Machine"})).events
    assert isinstance(machine, AnsweredBy)
    assert machine.who == "machine"
    assert handle("status", get(url, {"CallSid": CALL, "EventType": "terminal", "Status": "new"})).events == []
    with pytest.raises(UnreadableRequest):
        handle("status", get(url, {"CallSid": CALL}))


# ---------------------------------------------------------------- call control

REF = CallRef(carrier="exotel", call_id=CALL)


def authorization(request: CarrierRequest) -> str:
    return request.authorize(0.0)["authorization"]


def test_dial() -> None:
    order = DialOrder(
        to_number="+919876543210",
        from_number="08047491899",
        media_url="wss://gw.example.com/exotel/media/tok",
        ring_s=30,
        longest_s=600,
        parameters={"ref": "42"},
        command_id="order-1",
    )
    http = make(**REST, **PATH, sample_rate=16000)
    request = http.dial(order, URLS)
    assert request is not None
    assert (request.purpose, request.method) == (Purpose.DIAL, "POST")
    assert request.url == "https://api.in.exotel.com/v1/Accounts/acme1/Calls/connect.json"
    assert http.may_send_to(request.url)
    # It may take Exotel half a minute, and asking again would ring twice.
    assert (request.timeout_s, request.repeatable) == (DIAL_S, False)
    assert authorization(request) == "Basic YXBpa2V5XzBhMWIyYzphcGl0b2tlbl85ejh5N3g="
    assert request.form == [
        ("From", "+919876543210"),
        ("CallerId", "08047491899"),
        ("StreamUrl", "wss://gw.example.com/exotel/media/tok?sample-rate=16000&ref=42"),
        ("StreamType", "bidirectional"),
        ("CallType", "trans"),
        ("TimeOut", "30"),
        ("TimeLimit", "600"),
        ("CustomField", "order-1"),
        ("StatusCallback", "https://gw.example.com/exotel/status/c0ffee"),
        ("StatusCallbackEvents[]", "answered"),
        ("StatusCallbackEvents[]", "terminal"),
        ("StatusCallbackContentType", "application/json"),
    ]
    # The report that we asked for is taken when it comes.
    http.authenticate("status", get(dict(request.form)["StatusCallback"], {"CallSid": CALL}))


def test_the_callback_of_a_gateway_that_goes_by_basic() -> None:
    order = DialOrder(to_number="1", from_number="2", media_url="wss://gw.example.com/exotel/media/tok")
    request = make(**REST, **BASIC_AUTH).dial(order, URLS)
    assert request is not None
    assert request.form is not None
    callback = dict(request.form)["StatusCallback"]
    assert callback == "https://gw_exotel_key:gw_exotel_token_7f3a@gw.example.com/exotel/status"
    bare = make(**REST).dial(order, URLS)
    assert bare is not None
    assert bare.form is not None
    assert dict(bare.form)["StatusCallback"] == "https://gw.example.com/exotel/status"


def test_what_cannot_be_dialled() -> None:
    order = DialOrder(to_number="1", from_number="2")
    assert make(**REST).dial(order, URLS) is None
    long = DialOrder(to_number="1", from_number="2", media_url="wss://gw.example.com/" + "x" * 600)
    assert make(**REST).dial(long, URLS) is None
    whole = DialOrder(to_number="1", from_number="2", media_url="wss://gw.example.com/x")
    assert make().dial(whole, URLS) is None


def test_closing_the_socket_is_the_hang_up_and_the_transfer() -> None:
    http = make(**REST)
    assert http.hang_up(REF) is None
    transfer = http.transfer(REF, "agent", URLS)
    assert transfer is not None
    assert (transfer.request, transfer.closes_socket) == (None, True)


def test_fetch() -> None:
    request = make(**REST, region="sg").fetch(REF)
    assert request is not None
    assert (request.method, request.repeatable) == ("GET", True)
    assert request.url == f"https://api.exotel.com/v1/Accounts/acme1/Calls/{CALL}.json"
    assert make(**REST).fetch(CallRef(carrier="exotel", call_id="../x")) is None
    assert make().fetch(REF) is None
    local = make(**REST, api_base="http://127.0.0.1:9/exotel").fetch(REF)
    assert local is not None
    assert local.url.startswith("http://127.0.0.1:9/exotel/v1/")


DONE, RETRY, FAILED = OutcomeKind.DONE, OutcomeKind.RETRY, OutcomeKind.FAILED


@pytest.mark.parametrize(
    ("status", "body", "kind", "phase"),
    [
        (200, b'{"Call":{"Sid":"x","Status":"in-progress"}}', DONE, CallPhase.ANSWERED),
        (200, b'{"Call":{"Status":"completed"}}', DONE, CallPhase.COMPLETED),
        (200, b'{"Status":"no-answer"}', DONE, CallPhase.NO_ANSWER),
        (200, b'{"Call":{"Status":"resting"}}', FAILED, None),
        (200, b'{"Call":[]}', FAILED, None),
        (200, b"<TwilioResponse/>", FAILED, None),
        (404, b'{"RestException":{"Status":404}}', FAILED, None),  # not the same as over
        (401, b"", FAILED, None),
        (402, b"", FAILED, None),
        (429, b"", RETRY, None),
        (502, b"", RETRY, None),
    ],
)
def test_what_replies_to_a_fetch_mean(status: int, body: bytes, kind: OutcomeKind, phase: CallPhase | None) -> None:
    http = make(**REST)
    request = http.fetch(REF)
    assert request is not None
    outcome = http.outcome(request, status, {"retry-after": "2"}, body)
    assert (outcome.kind, outcome.phase) == (kind, phase)
    assert outcome.retry_after_s == (2.0 if kind is RETRY else None)


def test_what_replies_to_a_dial_mean() -> None:
    http = make(**REST)
    order = DialOrder(to_number="1", from_number="2", media_url="wss://gw.example.com/x")
    request = http.dial(order, URLS)
    assert request is not None
    placed = http.outcome(request, 200, {}, b'{"Call":{"Sid":"a1b2","Status":"in-progress"}}')
    assert (placed.kind, placed.call_id, placed.phase) == (DONE, "a1b2", None)  # it does not mean answered
    for body in (b'{"Call":{}}', b'{"Call":{"Sid":7}}', b"", b"[]"):
        assert http.outcome(request, 200, {}, body).kind is FAILED
    assert http.outcome(request, 402, {}, b"").kind is FAILED


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"allowed_ips": ("203.0.113",)}, "203.0.113"),
        ({"basic_user": "x"}, "go together"),
        ({"api_key": Secret(env="E_KEY")}, "go together"),
    ],
)
def test_settings_that_do_not_fit_together(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ExotelSettings(**fields)
