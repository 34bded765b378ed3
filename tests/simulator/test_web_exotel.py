"""The fake of Exotel's HTTP side, against what answers Exotel in a gateway, and against what Exotel would refuse."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import urlencode

import pytest

from gateway.simulator.base import CallPlan, FakeCarrier
from gateway.simulator.exotel_web import FakeExotelWeb, without_user
from gateway.simulator.web import Fault, Reply, RestReply, RestRequest, Stage, Tampering, WebCall
from media.secret import Secret
from tests.simulator.desk import BASE, NOW, TOKEN, Desk
from webhooks.base import CallPhase, CallRef, CallStatus, DialOrder, OutcomeKind, Refusal, StreamStatus, Urls
from webhooks.exotel import ExotelHttp, ExotelSettings

ANSWER = f"{BASE}/exotel/answer"
URLS = Urls(base=BASE)
ANY = CallPlan()


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return make(monkeypatch)


def make(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any] | None = None, **options: Any) -> Desk:
    web = FakeExotelWeb(ANSWER, **options)
    fields: dict[str, Any] = {"account_sid": "acme1", "basic_user": web.credentials["basic_user"]}
    for name in ("api_key", "api_token", "basic_password"):
        monkeypatch.setenv(f"E_{name}", web.credentials[name])
        fields[name] = Secret(env=f"E_{name}")
    return Desk(web, ExotelHttp(ExotelSettings(**{**fields, **(settings or {})})))


def streaming(desk: Desk, plan: CallPlan = ANY) -> tuple[WebCall, FakeCarrier]:
    call = desk.serve(desk.web.place(plan, NOW))
    assert call.stage is Stage.CONNECTING, call.end
    return call, opened(desk, call)


def opened(desk: Desk, call: WebCall) -> FakeCarrier:
    fake = desk.web.media(call)
    fake.opening(0.0)
    desk.web.media_opened(call, fake, NOW)
    return fake


ENCODINGS = ["brackets", "json", "form", "post-json", "multipart"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("head", [False, True])
def test_the_bot_closes_the_socket(monkeypatch: pytest.MonkeyPatch, encoding: Any, head: bool) -> None:
    desk = make(monkeypatch, encoding=encoding, head=head)
    call, fake = streaming(desk, CallPlan(from_number="09876543210", options={"custom_field": "ref-42"}))
    [incoming] = desk.incoming
    assert (incoming.call_id, incoming.from_number) == (call.call_id, "09876543210")
    assert incoming.parameters == {"CustomField": "ref-42"}
    # The query is gone from the handshake and comes back in `start`.
    assert call.media_url == f"wss://gw.example.com/prefix/exotel/media/{TOKEN}"
    assert fake.plan.parameters == {"CustomField": "ref-42"}
    fake.socket_closed(1000, "", 1.0)
    desk.web.media_closed(call, NOW + 28)
    desk.serve(call)
    assert (call.ended_by, call.end, call.handed_to) == ("bot", "completed", [])
    [event] = desk.events
    assert isinstance(event, StreamStatus)
    assert event.what == "stopped"
    assert not desk.web.violations


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_caller_hangs_up(monkeypatch: pytest.MonkeyPatch, encoding: Any) -> None:
    desk = make(monkeypatch, encoding=encoding)
    call, fake = streaming(desk)
    fake.hang_up(1.0)
    desk.web.media_closed(call, NOW + 28)
    desk.serve(call)
    assert (call.ended_by, call.end) == ("caller", "completed")
    stream, status = desk.events
    assert isinstance(stream, StreamStatus)
    assert isinstance(status, CallStatus)
    assert (status.phase, status.ended_by, status.duration_s) == (CallPhase.COMPLETED, "caller", 28.0)


def test_transfer_is_the_flows_first_branch(desk: Desk) -> None:
    desk.wish = "agent"
    call, fake = streaming(desk)
    fake.socket_closed(1000, "", 1.0)
    desk.web.media_closed(call, NOW + 1)
    desk.serve(call)
    assert (call.stage, call.handed_to) == (Stage.BETWEEN, ["branch A"])


@pytest.mark.parametrize("rate", [None, 8000, 16000, 24000])
def test_the_rate_that_was_asked_for(monkeypatch: pytest.MonkeyPatch, rate: int | None) -> None:
    desk = make(monkeypatch, {"sample_rate": rate})
    call, fake = streaming(desk)
    assert fake.audio_rate == (rate or 8000)
    assert "?" not in call.media_url


def test_more_parameters_than_exotel_carries(desk: Desk) -> None:
    desk.parameters = lambda call: {"a": "1 &=", "b": "x" * 300, "c": "\u00fc", "d": "4", "e": "5"}
    _, fake = streaming(desk)
    assert fake.plan.parameters == {"a": "1 &=", "c": "\u00fc", "d": "4"}
    assert not desk.web.violations


@pytest.mark.parametrize(("reason", "status"), [("no-bot", 404), ("full", 503), ("draining", 503)])
def test_callers_who_are_turned_away(desk: Desk, reason: str, status: int) -> None:
    desk.refusal = Refusal(reason=reason)
    call = desk.serve(desk.web.place(CallPlan(), NOW))
    assert call.end == f"refused: HTTP {status}"
    assert not desk.web.violations


def test_a_handshake_is_tried_twice(desk: Desk) -> None:
    call = desk.serve(desk.web.place(CallPlan(), NOW))
    desk.web.media_refused(call, 503, NOW)
    assert call.stage is Stage.CONNECTING
    desk.web.media_refused(call, 503, NOW)
    desk.serve(call)
    assert call.end == "failed: 3009 failed to establish ws conn"
    [event] = desk.events
    assert isinstance(event, StreamStatus)
    assert (event.what, event.problem) == ("failed", "3009 failed to establish ws conn")


@pytest.mark.parametrize("tampering", sorted(FakeExotelWeb.detects, key=str))
def test_forged_webhooks_start_nothing(desk: Desk, tampering: Tampering) -> None:
    desk.tampering = tampering
    call = desk.serve(desk.web.place(CallPlan(), NOW))
    assert call.end == "refused: HTTP 403"
    assert desk.refused == ["no-credentials-shown" if tampering is Tampering.UNSIGNED else "bad-basic"]
    assert not desk.incoming


def test_a_static_url_with_user_and_password() -> None:
    web = FakeExotelWeb(stream_url="wss://user:p%40ss@gw.example.com/exotel/media/standing?sample-rate=16000&ref=42")
    call = web.place(CallPlan(), NOW)
    assert (call.stage, call.media_url) == (Stage.CONNECTING, "wss://gw.example.com/exotel/media/standing")
    fake = web.media(call)
    pair = base64.b64encode(b"user:p@ss").decode()
    assert fake.handshake_headers(call.media_url) == {"Authorization": f"Basic {pair}"}
    assert (fake.plan.parameters, fake.audio_rate) == ({"ref": "42"}, 16000)
    assert without_user("https://a.example/x") == ("https://a.example/x", "")


# ---------------------------------------------------------------- calls that the gateway places


def placed(desk: Desk) -> WebCall:
    order = DialOrder(
        to_number="+919876543210",
        from_number="08047491899",
        media_url=URLS.media("exotel", TOKEN),
        longest_s=600,
        parameters={"ref": "42"},
        command_id="order-1",
    )
    outcome, _ = desk.ask(desk.http.dial(order, URLS))
    assert outcome is not None
    assert outcome.kind is OutcomeKind.DONE
    call = desk.web.placed.popleft()
    assert outcome.call_id == call.call_id
    return call


def test_a_placed_call_goes_to_the_bot(desk: Desk) -> None:
    call = placed(desk)
    ref = CallRef(carrier="exotel", call_id=call.call_id)
    state, _ = desk.ask(desk.http.fetch(ref))
    assert state is not None
    assert state.phase is CallPhase.RINGING
    desk.web.pick_up(call, NOW + 5)
    desk.serve(call)
    assert call.media_url == URLS.media("exotel", TOKEN)
    fake = opened(desk, call)
    assert fake.plan.parameters == {"ref": "42"}
    fake.hang_up(9.0)
    desk.web.media_closed(call, NOW + 9)
    desk.serve(call)
    assert desk.sent == ["status answered", "status terminal"]
    answered, terminal = desk.events
    assert isinstance(answered, CallStatus)
    assert isinstance(terminal, CallStatus)
    assert (answered.phase, answered.ended_by) == (CallPhase.ANSWERED, "")
    assert (terminal.phase, terminal.ended_by, terminal.cause) == (CallPhase.COMPLETED, "caller", "NORMAL")
    assert terminal.duration_s == 4.0
    state, _ = desk.ask(desk.http.fetch(ref))
    assert state is not None
    assert state.phase is CallPhase.COMPLETED
    assert not desk.web.violations


@pytest.mark.parametrize("how", ["busy", "no-answer", "failed"])
@pytest.mark.parametrize("encoding", ["form", "multipart"])
def test_a_placed_call_is_not_answered(monkeypatch: pytest.MonkeyPatch, encoding: Any, how: str) -> None:
    desk = make(monkeypatch, encoding=encoding)
    call = placed(desk)
    call.extra["json"] = False  # Exotel does not always do as it is asked
    desk.web.turn_down(call, how, NOW + 5)
    desk.serve(call)
    [status] = desk.events
    assert isinstance(status, CallStatus)
    assert status.phase.value == how


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(what="status", status=429, retry_after_s=1.5), OutcomeKind.RETRY),
        (Fault(what="status", status=500), OutcomeKind.RETRY),
        (Fault(what="credentials"), OutcomeKind.FAILED),
        (Fault(what="over"), OutcomeKind.FAILED),  # Exotel has no reply that means it
    ],
)
def test_faults_mean_what_they_should(desk: Desk, fault: Fault, kind: OutcomeKind) -> None:
    call = desk.web.place(CallPlan(), NOW)
    desk.web.faults.append(fault)
    outcome, _ = desk.ask(desk.http.fetch(CallRef(carrier="exotel", call_id=call.call_id)))
    assert outcome is not None
    assert outcome.kind is kind


# ---------------------------------------------------------------- what Exotel would refuse


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/xml", "<Response/>"),
        ("text/plain", '{"url": "wss://gw.example.com/x"}'),
        ("application/json", "wss://gw.example.com/x"),
        ("application/json", '["wss://gw.example.com/x"]'),
        ("application/json", '{"URL": "wss://gw.example.com/x"}'),
        ("application/json", '{"url": "wss://gw.example.com/x", "record": true}'),
        ("application/json", '{"url": 7}'),
        ("application/json", '{"url": "https://gw.example.com/x"}'),
        ("application/json", '{"url": "ws://gw.example.com/x"}'),
        ("application/json", '{"url": "wss://gw.example.com/x#y"}'),
        ("application/json", '{"url": "wss://gw.example.com/x?sample-rate=44100"}'),
        ("application/json", '{"url": "wss://gw.example.com/x?a=1&b=2&c=3&d=4"}'),
        ("application/json", json.dumps({"url": f"wss://gw.example.com/x?a={'x' * 255}"})),
    ],
)
def test_answers_that_exotel_refuses(content_type: str, body: str) -> None:
    web = FakeExotelWeb(ANSWER)
    call = web.place(CallPlan(), NOW)
    reply = Reply(status=200, headers={"content-type": content_type}, body=body.encode())
    web.take_reply(call, call.webhooks.popleft(), reply, NOW)
    assert len(web.violations) == 1
    assert call.end.startswith("failed: ")


def test_a_passthru_knows_two_answers(desk: Desk) -> None:
    call, fake = streaming(desk)
    fake.socket_closed(1000, "", 1.0)
    desk.web.media_closed(call, NOW + 1)
    desk.web.take_reply(call, call.webhooks.popleft(), Reply(status=204), NOW)
    assert [violation.rule for violation in desk.web.violations] == ["a Passthru applet knows 200 and 302"]
    assert call.over


def rest(web: FakeExotelWeb, target: str, form: Any = (), method: str = "POST", **changes: str) -> RestReply:
    pair = f"{web.credentials['api_key']}:{web.credentials['api_token']}"
    headers = {
        "authorization": "Basic " + base64.b64encode(pair.encode()).decode(),
        "content-type": "application/x-www-form-urlencoded",
        **changes,
    }
    request = RestRequest(method=method, target=target, headers=headers, body=urlencode(form).encode())
    reply = web.rest(request, NOW).reply
    assert reply is not None
    return reply


CONNECT = "/v1/Accounts/acme1/Calls/connect.json"
ORDER = {"From": "+91", "CallerId": "080", "StreamUrl": "wss://gw.example.com/x", "StreamType": "bidirectional"}


@pytest.mark.parametrize(
    "form",
    [
        {**ORDER, "To": "+91"},
        {**ORDER, "From": ""},
        {**ORDER, "StreamType": "both"},
        {**ORDER, "StreamUrl": "wss://gw.example.com/" + "x" * 600},
        {**ORDER, "CustomField": "x" * 129},
        {**ORDER, "TimeLimit": "14401"},
        {**ORDER, "TimeOut": "soon"},
        {**ORDER, "StatusCallbackEvents[]": "completed"},
    ],
)
def test_orders_that_exotel_refuses(form: dict[str, str]) -> None:
    web = FakeExotelWeb(ANSWER)
    assert rest(web, CONNECT, form).status == 400
    assert len(web.violations) == 1
    assert not web.placed


def test_strangers_wrong_accounts_and_wrong_paths() -> None:
    web = FakeExotelWeb(ANSWER)
    assert rest(web, CONNECT, ORDER, authorization="Basic eDp5").status == 401
    assert rest(web, CONNECT.replace("acme1", "acme2"), ORDER).status == 404
    assert rest(web, CONNECT.removesuffix(".json"), ORDER).status == 404  # without it the answer is XML
    assert rest(web, CONNECT.lower(), ORDER).status == 404
    assert rest(web, CONNECT, ORDER, **{"content-type": "application/json"}).status == 400
    assert rest(web, CONNECT.replace("connect", "nobody"), method="GET").status == 404
    assert not web.placed
    assert rest(web, CONNECT, ORDER).status == 200
