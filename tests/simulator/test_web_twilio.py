"""The fake of Twilio's HTTP side, against what answers Twilio in a gateway, and against what Twilio would refuse."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest

from gateway.simulator.base import CallPlan, FakeCarrier
from gateway.simulator.twilio_web import FakeTwilioWeb
from gateway.simulator.web import Fault, Reply, RestReply, RestRequest, Stage, Tampering, WebCall
from media.secret import Secret
from tests.simulator.desk import BASE, NOW, TOKEN, Desk
from webhooks.base import (
    AnsweredBy,
    CallPhase,
    CallRef,
    CallStatus,
    DialOrder,
    OutcomeKind,
    Refusal,
    StreamStatus,
    Urls,
)
from webhooks.twilio import TwilioHttp, TwilioSettings

ANSWER, STATUS = f"{BASE}/twilio/answer", f"{BASE}/twilio/status"
URLS = Urls(base=BASE)
ANY = CallPlan()


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return make(monkeypatch)


def make(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Desk:
    web = FakeTwilioWeb(ANSWER, status_url=STATUS, **options)
    own = dict(web.credentials)
    monkeypatch.setenv("T_TOKEN", own["auth_token"])
    fields: dict[str, Any] = {"account_sid": own["account_sid"], "auth_token": Secret(env="T_TOKEN")}
    if "signing_key" in own:
        monkeypatch.setenv("T_SIGN", own["signing_key"])
        fields |= {"signing_key_id": own["signing_key_id"], "signing_key": Secret(env="T_SIGN")}
    return Desk(web, TwilioHttp(TwilioSettings(**fields)))


def ref(call: WebCall) -> CallRef:
    return CallRef(carrier="twilio", call_id=call.call_id)


def streaming(desk: Desk, plan: CallPlan = ANY, url: str = "") -> tuple[WebCall, FakeCarrier]:
    desk.web.answer_url = url or ANSWER
    call = desk.serve(desk.web.place(plan, NOW))
    assert call.stage is Stage.CONNECTING, call.end
    fake = desk.web.media(call)
    fake.opening(0.0)
    desk.web.media_opened(call, fake, NOW)
    return desk.serve(call), fake


def statuses(desk: Desk) -> list[CallPhase]:
    return [event.phase for event in desk.events if isinstance(event, CallStatus)]


def streams(desk: Desk) -> list[str]:
    return [event.what for event in desk.events if isinstance(event, StreamStatus)]


# ---------------------------------------------------------------- inbound calls


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "GET"},
        {
            "credentials": {"signing_key_id": "webhooks_sharedkey_1", "signing_key": "s" * 32},
        },
    ],
)
def test_the_bot_leaves_the_stream(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]) -> None:
    desk = make(monkeypatch, **options)
    plan = CallPlan(from_number="+14155550101", options={"sip_headers": {"X-Tier": "gold"}})
    call, fake = streaming(desk, plan, ANSWER + "?campaign=a%20b#rc=2&ct=2000")
    [incoming] = desk.incoming
    assert (incoming.call_id, incoming.from_number) == (call.call_id, "+14155550101")
    # What the URL and the caller's SIP headers said comes back in `start`.
    assert call.media_url == f"wss://gw.example.com/prefix/twilio/media/{TOKEN}"
    assert fake.plan.parameters == {"campaign": "a b", "X-Tier": "gold"}
    assert fake.plan.credentials["auth_token"] == desk.web.credentials["auth_token"]
    fake.socket_closed(1000, "", 1.0)
    desk.web.media_closed(call, NOW + 2)
    desk.serve(call)
    assert (call.stage, call.ended_by, call.end) == (Stage.ENDED, "bot", "completed")
    assert desk.sent == ["answer", "stream-started", "stream-stopped", "after", "status completed"]
    assert streams(desk) == ["started", "stopped"]
    assert statuses(desk) == [CallPhase.COMPLETED]
    assert not desk.web.violations


def test_the_caller_hangs_up(desk: Desk) -> None:
    call, fake = streaming(desk)
    fake.hang_up(3.0)
    desk.web.media_closed(call, NOW + 3)
    desk.serve(call)
    assert (call.ended_by, call.end) == ("caller", "completed")
    assert desk.sent[2:] == ["stream-stopped", "after", "status completed"]
    [status] = [event for event in desk.events if isinstance(event, CallStatus)]
    assert status.duration_s == 3.0


def test_hang_up_by_rest_is_effective_once(desk: Desk) -> None:
    call, fake = streaming(desk)
    outcome, _ = desk.ask(desk.http.hang_up(ref(call)))
    assert outcome is not None
    assert outcome.kind is OutcomeKind.DONE
    assert call.cut == "hang-up"
    state, _ = desk.ask(desk.http.fetch(ref(call)))
    assert state is not None
    assert state.phase is CallPhase.COMPLETED
    fake.api_hang_up(1.0)
    desk.web.media_closed(call, NOW + 1)
    desk.serve(call)
    assert (call.ended_by, fake.ended_by) == ("bot", "bot")
    transfer = desk.http.transfer(ref(call), "+1415", URLS)
    assert transfer is not None
    for after in (desk.ask(desk.http.hang_up(ref(call))), desk.ask(transfer.request)):
        assert after[0] is not None
        assert after[0].kind is OutcomeKind.ALREADY_OVER
    assert [(seen.route, seen.effective) for seen in desk.web.seen] == [
        ("hang-up", True),
        ("fetch", False),
        ("hang-up", False),
        ("transfer", False),
    ]
    assert not desk.web.violations


@pytest.mark.parametrize(
    ("reply", "kind"),
    [("21220", OutcomeKind.ALREADY_OVER), ("20404", OutcomeKind.ALREADY_OVER), ("200", OutcomeKind.DONE)],
)
def test_what_twilio_says_of_a_call_that_is_over(
    monkeypatch: pytest.MonkeyPatch, reply: str, kind: OutcomeKind
) -> None:
    desk = make(monkeypatch, ended_reply=reply)
    call = desk.web.place(CallPlan(), NOW)
    desk.web.caller_gone(call, NOW)
    outcome, _ = desk.ask(desk.http.hang_up(ref(call)))
    assert outcome is not None
    assert outcome.kind is kind
    assert not desk.web.seen[0].effective


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault(what="status", status=429, retry_after_s=1.5), OutcomeKind.RETRY),
        (Fault(what="status", status=503), OutcomeKind.RETRY),
        (Fault(what="over"), OutcomeKind.ALREADY_OVER),
        (Fault(what="credentials"), OutcomeKind.FAILED),
        (Fault(what="slow"), OutcomeKind.DONE),
        (Fault(what="reset"), None),
        (Fault(what="silent"), None),
    ],
)
def test_faults_mean_what_they_should(desk: Desk, fault: Fault, kind: OutcomeKind | None) -> None:
    call, _ = streaming(desk)
    desk.web.faults.append(fault)
    outcome, _ = desk.ask(desk.http.hang_up(ref(call)))
    assert (outcome.kind if outcome else None) is kind
    if outcome is not None and fault.status == 429:
        assert outcome.retry_after_s == 1.5


def test_transfer_by_rest_to_a_number(desk: Desk) -> None:
    call, fake = streaming(desk)
    transfer = desk.http.transfer(ref(call), "+1 415 555 0123", URLS)
    assert transfer is not None
    outcome, _ = desk.ask(transfer.request)
    assert outcome is not None
    assert outcome.kind is OutcomeKind.DONE
    assert call.cut == "transfer"
    fake.api_hang_up(1.0)
    desk.web.media_closed(call, NOW + 1)
    desk.serve(call)
    assert (call.stage, call.handed_to) == (Stage.BETWEEN, ["+14155550123"])
    assert desk.sent[2:] == ["stream-stopped"]  # no action: the document is gone
    desk.web.caller_gone(call, NOW + 9)
    desk.serve(call)
    assert statuses(desk) == [CallPhase.COMPLETED]
    assert not desk.web.violations


def test_transfer_by_rest_to_somebody_elses_document(desk: Desk) -> None:
    call, _ = streaming(desk)
    transfer = desk.http.transfer(ref(call), "https://flow.example.com/x", URLS)
    assert transfer is not None
    desk.ask(transfer.request)
    desk.web.media_closed(call, NOW + 1)
    desk.serve(call)
    assert (call.stage, call.handed_to) == (Stage.BETWEEN, ["https://flow.example.com/x"])


@pytest.mark.parametrize(
    ("wish", "target"), [("sip:desk@example.com", "sip:desk@example.com"), ("client:a", "client:a")]
)
def test_transfer_by_leaving_the_stream(desk: Desk, wish: str, target: str) -> None:
    desk.wish = wish
    call, fake = streaming(desk)
    fake.socket_closed(1000, "", 1.0)
    desk.web.media_closed(call, NOW + 1)
    desk.serve(call)
    assert (call.stage, call.handed_to) == (Stage.BETWEEN, [target])
    assert not desk.web.violations


@pytest.mark.parametrize(
    ("instead", "by", "end", "spoken", "handed"),
    [
        ("busy", "bot", "busy", [], []),
        ("rejected", "bot", "rejected", [], []),
        ("say:We are closed.", "bot", "completed", ["We are closed."], []),
        ("number:+14155550123", "", "", [], ["+14155550123"]),
        ("gateway:https://gw2.example.com", "", "", [], ["https://gw2.example.com/twilio/answer"]),
    ],
)
def test_callers_who_are_turned_away(
    desk: Desk, instead: str, by: str, end: str, spoken: list[str], handed: list[str]
) -> None:
    desk.refusal = Refusal(reason="full", instead=instead)
    call = desk.serve(desk.web.place(CallPlan(), NOW))
    assert (call.ended_by, call.end, call.spoken, call.handed_to) == (by, end, spoken, handed)
    assert not desk.web.violations
    if end in ("busy", "rejected"):
        assert call.answered_at is None  # and so nobody pays
        assert statuses(desk) == [CallPhase.BUSY]


def test_the_socket_cannot_be_opened(desk: Desk) -> None:
    call = desk.serve(desk.web.place(CallPlan(), NOW))
    desk.web.media_refused(call, 403, NOW)
    desk.serve(call)
    assert call.end == "failed: 31920: handshake, HTTP 403"
    [stream] = [event for event in desk.events if isinstance(event, StreamStatus)]
    assert (stream.what, stream.problem) == ("failed", "31920: handshake, HTTP 403")


def test_the_socket_breaks_and_twilio_asks_what_now(desk: Desk) -> None:
    call, fake = streaming(desk)
    fake.socket_closed(1006, "", 1.0)
    desk.web.media_closed(call, NOW + 1)
    desk.serve(call)
    assert streams(desk) == ["started", "failed"]
    assert desk.sent[-2:] == ["after", "status completed"]


@pytest.mark.parametrize("tampering", sorted(FakeTwilioWeb.detects, key=str))
def test_forged_webhooks_start_nothing(desk: Desk, tampering: Tampering) -> None:
    desk.tampering = tampering
    call = desk.serve(desk.web.place(CallPlan(), NOW))
    assert call.end == "failed: 11200: HTTP 403"
    assert not desk.incoming
    assert desk.refused[0] == ("no-signature" if tampering is Tampering.UNSIGNED else "bad-signature")


def test_a_gateway_that_does_not_answer_is_asked_once_more() -> None:
    web = FakeTwilioWeb(ANSWER)
    call = web.place(CallPlan(), NOW)
    first = call.webhooks.popleft()
    web.take_reply(call, first, None, NOW)
    assert call.webhooks.popleft() == first
    web.take_reply(call, first, None, NOW)
    assert call.end == "failed: 11205: no answer"


# ---------------------------------------------------------------- calls that the gateway places


def placed(desk: Desk, **order: Any) -> WebCall:
    request = desk.http.dial(DialOrder(to_number="+14155550123", from_number="+14155550100", **order), URLS)
    outcome, _ = desk.ask(request)
    assert outcome is not None
    assert outcome.kind is OutcomeKind.DONE
    call = desk.web.placed.popleft()
    assert outcome.call_id == call.call_id
    return call


def test_a_placed_call_is_answered(desk: Desk) -> None:
    call = placed(desk, detect_machine=True, parameters={"bot": "sales"})
    desk.serve(call)
    assert statuses(desk) == [CallPhase.QUEUED, CallPhase.RINGING]
    desk.web.pick_up(call, NOW + 5, "machine")
    desk.serve(call)
    assert call.stage is Stage.CONNECTING
    [incoming] = desk.incoming
    assert (incoming.direction, incoming.parameters) == ("outbound", {"bot": "sales"})
    assert statuses(desk)[2:] == [CallPhase.ANSWERED]
    [machine] = [event for event in desk.events if isinstance(event, AnsweredBy)]
    assert machine.who == "machine"
    fake = desk.web.media(call)
    desk.web.media_opened(call, fake, NOW + 5)
    desk.ask(desk.http.hang_up(ref(call)))
    desk.web.media_closed(call, NOW + 9)
    desk.serve(call)
    assert statuses(desk)[3:] == [CallPhase.COMPLETED]
    keys = [event.key for event in desk.events]
    assert len(set(keys)) == len(keys)
    assert not desk.web.violations


@pytest.mark.parametrize(
    ("how", "phase"), [("busy", CallPhase.BUSY), ("no-answer", CallPhase.NO_ANSWER), ("failed", CallPhase.FAILED)]
)
def test_a_placed_call_is_not_answered(desk: Desk, how: str, phase: CallPhase) -> None:
    call = placed(desk)
    desk.web.turn_down(call, how, NOW + 5)
    desk.serve(call)
    assert statuses(desk) == [CallPhase.QUEUED, CallPhase.RINGING, phase]
    assert not desk.incoming


def test_a_placed_call_is_given_up_while_it_rings(desk: Desk) -> None:
    call = placed(desk)
    outcome, _ = desk.ask(desk.http.hang_up(ref(call)))
    assert outcome is not None
    assert outcome.kind is OutcomeKind.DONE
    assert (call.over, call.ended_by) == (True, "bot")


# ---------------------------------------------------------------- what Twilio would refuse


LONG = "x" * 499


def stream(inside: str) -> str:
    return f'<Response><Connect><Stream url="wss://gw.example.com/m/tok">{inside}</Stream></Connect></Response>'


@pytest.mark.parametrize(
    "document",
    [
        "",
        "hello",
        "<Response><Connect></Response>",
        "<Twiml/>",
        "<Response x='1'/>",
        "<Response><Fly/></Response>",
        "<Response><Hangup reason='x'/></Response>",
        "<Response><Say>x</Say><Reject/></Response>",
        '<Response><Reject reason="full"/></Response>',
        "<Response><Connect/></Response>",
        "<Response><Connect><Dial>+1</Dial></Connect></Response>",
        '<Response><Connect><Stream url="https://gw.example.com/m"/></Connect></Response>',
        '<Response><Connect><Stream url="ws://gw.example.com/m"/></Connect></Response>',
        '<Response><Connect><Stream url="wss://gw.example.com/m?token=x"/></Connect></Response>',
        '<Response><Connect><Stream url="wss://u:p@gw.example.com/m"/></Connect></Response>',
        '<Response><Connect><Stream url="wss://gw.example.com/m#x"/></Connect></Response>',
        '<Response><Connect><Stream track="both_tracks" url="wss://gw.example.com/m"/></Connect></Response>',
        '<Response><Connect><Stream url="wss://gw.example.com/m" statusCallback="/x"/></Connect></Response>',
        '<Response><Connect action="/after"><Stream url="wss://gw.example.com/m"/></Connect></Response>',
        '<Response><Connect method="PUT"><Stream url="wss://gw.example.com/m"/></Connect></Response>',
        stream("<Param/>"),
        stream('<Parameter name="a"/>'),
        stream(f'<Parameter name="a" value="{LONG}"/>'),
        "<Response><Redirect>/relative</Redirect></Response>",
        "<Response><Dial></Dial></Response>",
    ],
)
def test_documents_that_twilio_refuses(document: str) -> None:
    web = FakeTwilioWeb(ANSWER)
    call = web.place(CallPlan(), NOW)
    reply = Reply(status=200, headers={"content-type": "text/xml"}, body=document.encode())
    web.take_reply(call, call.webhooks.popleft(), reply, NOW)
    assert len(web.violations) == 1
    assert call.end.startswith("failed: ")


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "", "text/html; charset=utf-8"])
def test_the_content_type_matters(content_type: str) -> None:
    web = FakeTwilioWeb(ANSWER)
    call = web.place(CallPlan(), NOW)
    reply = Reply(status=200, headers={"content-type": content_type}, body=b"<Response/>")
    web.take_reply(call, call.webhooks.popleft(), reply, NOW)
    assert call.end.startswith("failed: 12300")


def test_a_callback_that_is_not_taken_is_a_fault_but_ends_no_call(desk: Desk) -> None:
    call, _ = streaming(desk)
    webhook = desk.web.post(call, "stream-x", f"{BASE}/twilio/stream-status", {})
    desk.web.take_reply(call, webhook, Reply(status=500), NOW)
    assert [violation.rule for violation in desk.web.violations] == ["15003: a callback must be answered with 2xx"]
    assert call.stage is Stage.STREAMING


def test_reject_is_for_calls_that_ring() -> None:
    web = FakeTwilioWeb(ANSWER)
    call = web.placed_call(CallPlan(), NOW)
    call.extra.clear()
    call.answered_at = NOW
    webhook = web.post(call, "answer", ANSWER, {}, wants_document=True)
    reply = Reply(status=200, headers={"content-type": "text/xml"}, body=b"<Response><Reject/></Response>")
    web.take_reply(call, webhook, reply, NOW)
    assert [violation.rule for violation in web.violations] == ["<Reject> is for calls that ring"]


def rest(web: FakeTwilioWeb, path: str, form: Any = (), method: str = "POST", **changes: Any) -> RestReply:
    import base64

    pair = f"{web.credentials['account_sid']}:{web.credentials['auth_token']}"
    headers = {
        "authorization": "Basic " + base64.b64encode(pair.encode()).decode(),
        "content-type": "application/x-www-form-urlencoded",
        **changes,
    }
    account = web.credentials["account_sid"]
    target = f"/2010-04-01/Accounts/{account}/{path}"
    reply = web.rest(
        RestRequest(method=method, target=target, headers=headers, body=urlencode(form).encode()), NOW
    ).reply
    assert reply is not None
    return reply


DIAL = {"To": "+1", "From": "+2", "Url": ANSWER}


@pytest.mark.parametrize(
    "form",
    [
        {**DIAL, "Answer": "x"},
        {"To": "+1", "Url": ANSWER},
        {"To": "+1", "From": "+2"},
        {**DIAL, "Twiml": "<Response/>"},
        {**DIAL, "Timeout": "601"},
        {**DIAL, "TimeLimit": "soon"},
        {**DIAL, "MachineDetection": "true"},
        {**DIAL, "StatusCallbackEvent": "in-progress"},
        {**DIAL, "Status": "completed"},
    ],
)
def test_orders_that_twilio_refuses(form: dict[str, str]) -> None:
    web = FakeTwilioWeb(ANSWER)
    assert rest(web, "Calls.json", form).status == 400
    assert len(web.violations) == 1
    assert not web.placed


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"Status": "busy"},
        {"status": "completed"},
        {"Twiml": "<Response/>", "Url": ANSWER},
        {"Twiml": "<Respons/>"},
        {"Twiml": f"<Response><Say>{'x' * 4000}</Say></Response>"},
        {"Url": "/relative"},
    ],
)
def test_updates_that_twilio_refuses(form: dict[str, str]) -> None:
    web = FakeTwilioWeb(ANSWER)
    call = web.place(CallPlan(), NOW)
    assert rest(web, f"Calls/{call.call_id}.json", form).status == 400
    assert len(web.violations) == 1
    assert not any(seen.effective for seen in web.seen)


def test_strangers_wrong_accounts_and_wrong_paths(desk: Desk) -> None:
    web = FakeTwilioWeb(ANSWER)
    call = web.place(CallPlan(), NOW)
    path, form = f"Calls/{call.call_id}.json", {"Status": "completed"}
    assert rest(web, path, form, authorization="Basic eDp5").status == 401
    assert rest(web, path, form, authorization="").status == 401
    assert rest(web, path, form, **{"content-type": "application/json"}).status == 400
    assert rest(web, "Calls/CA0.json", form).status == 404
    assert rest(web, path.removesuffix(".json"), form).status == 404
    assert rest(web, path, method="DELETE").status == 404
    assert not call.over
    other = CallRef(carrier="twilio", call_id=call.call_id, account_id="AC0")
    desk.web.calls = web.calls
    outcome, _ = desk.ask(desk.http.hang_up(other))
    assert outcome is not None
    assert outcome.kind is OutcomeKind.ALREADY_OVER  # as Twilio has it: no such call in that account
    assert not call.over


def test_canceled_is_for_calls_that_nobody_answered() -> None:
    web = FakeTwilioWeb(ANSWER)
    ringing, answered = web.place(CallPlan(), NOW), web.place(CallPlan(), NOW)
    answered.answered_at = NOW
    assert rest(web, f"Calls/{ringing.call_id}.json", {"Status": "canceled"}).status == 200
    assert rest(web, f"Calls/{answered.call_id}.json", {"Status": "canceled"}).status == 400
    assert (ringing.over, answered.over) == (True, False)
