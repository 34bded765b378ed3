"""The fake Telnyx over HTTP: what it sends, what it takes, what it refuses; and our own side against it."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.simulator.base import CallPlan
from gateway.simulator.telnyx_web import FakeTelnyxWeb
from gateway.simulator.web import Fault, Reply, RestRequest, Stage, Tampering, WebCall, fake_web
from media.secret import Secret
from tests.simulator.wired import BASE, NOW, Wired
from webhooks.base import (
    AnsweredBy,
    CallPhase,
    CallRef,
    CallStatus,
    DialOrder,
    NotAuthentic,
    OutcomeKind,
    Refusal,
    StreamStatus,
)
from webhooks.telnyx import TelnyxHttp, TelnyxSettings

API = "http://127.0.0.1:9000/telnyx"
PLAN = CallPlan(from_number="+13125550100", to_number="+13125550199", options={"sip_headers": {"X-Customer": "C-1"}})


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(control: Any = "texml", decide: Any = lambda call: None, ours: Any = None, **theirs: Any) -> Wired:
        route = "answer" if control == "texml" else "events"
        web = FakeTelnyxWeb(f"{BASE}/telnyx/{route}", control=control, **theirs)
        monkeypatch.setenv("TELNYX_API_KEY", web.credentials["api_key"])
        settings = TelnyxSettings(
            public_key=web.credentials["public_key"],
            connection_id=web.credentials["connection_id"],
            account_id=web.credentials["account_id"],
            api_key=Secret(env="TELNYX_API_KEY"),
            api_base=API,
            control=control,
            **(ours or {}),
        )
        return Wired(web, TelnyxHttp(settings), decide)

    return make


def ref(call: WebCall, wired: Wired) -> CallRef:
    return CallRef(carrier="telnyx", call_id=call.call_id, account_id=wired.web.credentials["account_id"])


def what(wired: Wired) -> list[str]:
    """The events in short."""
    said = []
    for event in wired.events:
        match event:
            case CallStatus():
                said.append(event.phase.value + (f" by {event.ended_by}" if event.phase.final else ""))
            case StreamStatus():
                said.append(f"stream {event.what}")
            case AnsweredBy():
                said.append(f"a {event.who}")
    return said


def test_it_is_found_by_its_name() -> None:
    assert fake_web("telnyx") is FakeTelnyxWeb


# ---------------------------------------------------------------- signatures


@pytest.mark.parametrize("control", ["texml", "call_control"])
def test_webhooks_are_signed(control: Any) -> None:
    web = FakeTelnyxWeb(f"{BASE}/telnyx/answer", control=control)
    call = web.place(PLAN, NOW)
    signed = web.signed(call.webhooks[0], NOW)
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(web.credentials["public_key"]))
    message = signed.headers["telnyx-timestamp"].encode() + b"|" + signed.body
    key.verify(base64.b64decode(signed.headers["telnyx-signature-ed25519"]), message)
    assert signed.headers["telnyx-timestamp"] == "1767225600"
    forged = web.signed(call.webhooks[0], NOW, Tampering.FORGED)
    with pytest.raises(InvalidSignature):
        key.verify(base64.b64decode(forged.headers["telnyx-signature-ed25519"]), message)


@pytest.mark.parametrize("control", ["texml", "call_control"])
@pytest.mark.parametrize(
    ("tampering", "reason"),
    [
        (Tampering.UNSIGNED, "no-signature"),
        (Tampering.FORGED, "bad-signature"),
        (Tampering.ALTERED, "bad-signature"),
        (Tampering.STALE, "stale"),
    ],
)
def test_tampered_webhooks_bring_nothing_about(wire: Any, control: Any, tampering: Tampering, reason: str) -> None:
    wired = wire(control)
    assert tampering in wired.web.detects
    wired.tampering = tampering
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    assert {refused.reason for refused in wired.refused} == {reason}
    assert (wired.incoming, wired.events, wired.web.seen) == ([], [], [])
    assert call.over
    assert call.end.startswith("failed")
    assert not wired.web.violations


# ---------------------------------------------------------------- TeXML


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_texml_call(wire: Any, method: Any) -> None:
    wired = wire(method=method, status_url=f"{BASE}/telnyx/status", ours={"accept_get": True})
    call = wired.web.place(PLAN, NOW)
    wired.deliver(call)
    (incoming,) = wired.incoming
    assert (incoming.from_number, incoming.to_number) == ("+13125550100", "+13125550199")
    assert incoming.account_id == wired.web.credentials["account_id"]
    assert incoming.parameters == {"X-Customer": "C-1"}
    assert (call.stage, call.media_url) == (Stage.CONNECTING, "wss://gw.example.com/phone/telnyx/media/tok-123")
    assert call.media_plan is not None
    assert call.media_plan.parameters == {"X-Customer": "C-1"}
    fake = wired.connect(call)
    assert fake.plan.options["control"] == "texml"
    assert wired.upgrade(call) == ""
    wired.now += 41
    wired.caller_hangs_up(call)
    wired.deliver_all(call)
    assert what(wired) == ["stream started", "stream stopped", "completed by caller"]
    last = wired.events[-1]
    assert isinstance(last, CallStatus)
    assert last.duration_s == 41
    assert (call.end, wired.web.violations) == ("completed", [])
    assert len({event.key for event in wired.events}) == 3


def test_the_gateway_closes_a_texml_stream(wire: Any) -> None:
    wired = wire(status_url=f"{BASE}/telnyx/status")
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    wired.connect(call)
    wired.gateway_closes(call)
    wired.deliver_all(call)
    assert (call.over, call.ended_by) == (True, "bot")
    assert what(wired)[-1] == "completed by bot"


@pytest.mark.parametrize("control", ["texml", "call_control"])
def test_hang_up_by_rest(wire: Any, control: Any) -> None:
    wired = wire(control, status_url=f"{BASE}/telnyx/status")
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    wired.connect(call)
    wired.deliver_all(call)
    request = wired.http.hang_up(ref(call, wired))
    assert wired.ask(request).kind is OutcomeKind.DONE
    assert wired.ask(request).kind is OutcomeKind.DONE  # a repeated command is not a second one
    wired.cut(call)
    wired.deliver_all(call)
    assert (call.end, call.ended_by) == ("completed", "bot")
    assert what(wired)[-2:] == ["stream stopped", "completed by bot"]
    assert [seen.effective for seen in wired.web.seen if seen.route == "hang-up"] == [True, False]
    wired.now += 61  # the id is forgotten
    assert wired.ask(request).kind is OutcomeKind.ALREADY_OVER


def test_a_texml_call_is_handed_over(wire: Any) -> None:
    wired = wire()
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    wired.connect(call)
    transfer = wired.http.transfer(ref(call, wired), "+1 312 555 0123", wired.urls)
    assert transfer is not None
    assert wired.ask(transfer.request).kind is OutcomeKind.DONE
    wired.cut(call)
    assert call.handed_to == ["+13125550123"]
    assert call.stage is Stage.BETWEEN
    wired.web.caller_gone(call, wired.now)
    assert (call.ended_by, wired.web.violations) == ("caller", [])


def test_a_texml_call_is_not_transferred_by_a_command(wire: Any) -> None:
    """The document owns the leg: the transferred call would end with it."""
    wired = wire()
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    reply = command(wired, call, "transfer", {"to": "+13125550123"})
    assert reply.status == 422
    assert "documents" in wired.web.violations[0].rule
    assert call.handed_to == []


@pytest.mark.parametrize(
    ("instead", "end", "handed", "spoken"),
    [
        ("busy", "busy", [], []),
        ("rejected", "rejected", [], []),
        ("number:+13125550123", "", ["+13125550123"], []),
        ("gateway:https://other.example.com", "", ["https://other.example.com/telnyx/answer"], []),
        ("say:Sorry", "completed", [], ["Sorry"]),
    ],
)
def test_texml_refusals(wire: Any, instead: str, end: str, handed: list[str], spoken: list[str]) -> None:
    wired = wire(decide=lambda call: Refusal(reason="full", instead=instead))
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    assert (call.end, call.handed_to, call.spoken, wired.web.violations) == (end, handed, spoken, [])


STREAM = '<Response><Connect><Stream url="wss://gw.example.com/x" bidirectionalMode="rtp" {}/></Connect></Response>'


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("<Response>", "not XML"),
        ("<Reply/>", "<Response>"),
        ("<Response><Connect/></Response>", "one <Stream>"),
        ("<Response><Conect/></Response>", "unknown element"),
        ('<Response><Connect><Stream url="wss://gw.example.com/x"/></Connect></Response>', "rtp"),
        (
            '<Response><Connect><Stream url="https://gw.example.com/x" bidirectionalMode="rtp"/></Connect></Response>',
            "wss://",
        ),
        (STREAM.format('codec="opus"'), "codec"),
        (
            STREAM.format('bidirectionalSamplingRate="16000"'),
            "8000 Hz",
        ),
        (STREAM.format('bidirectionalmode="rtp"'), "no attribute"),
        ('<Response><Hangup/><Reject reason="busy"/></Response>', "comes first"),
        ('<Response><Reject reason="full"/></Response>', "reason"),
        ("<Response><Dial/></Response>", "nobody"),
        ("<Response><Redirect>/telnyx/answer</Redirect></Response>", "scheme"),
    ],
)
def test_documents_that_telnyx_would_not_run(body: str, rule: str) -> None:
    web = FakeTelnyxWeb(f"{BASE}/telnyx/answer")
    call = web.place(PLAN, NOW)
    reply = Reply(status=200, headers={"content-type": "application/xml"}, body=body.encode())
    web.take_reply(call, call.webhooks.popleft(), reply, NOW)
    assert rule in str(web.violations[0])
    assert call.end.startswith("failed")


@pytest.mark.parametrize(
    "reply",
    [
        None,
        Reply(status=500),
        Reply(status=403),
        Reply(status=200, headers={"content-type": "text/html"}, body=b"<Response/>"),
    ],
)
def test_no_document_no_call(reply: Reply | None) -> None:
    web = FakeTelnyxWeb(f"{BASE}/telnyx/answer")
    call = web.place(PLAN, NOW)
    web.take_reply(call, call.webhooks.popleft(), reply, NOW)
    assert call.end.startswith("failed")


def test_a_texml_call_is_placed(wire: Any) -> None:
    wired = wire(repeats=True)
    order = DialOrder(
        to_number="+13125550123",
        from_number="+13125550199",
        longest_s=600,
        detect_machine=True,
        parameters={"bot": "sales"},
    )
    outcome = wired.ask(wired.http.dial(order, wired.urls))
    call = wired.web.placed.popleft()
    assert (outcome.kind, outcome.call_id) == (OutcomeKind.DONE, call.call_id)
    wired.now += 3
    wired.web.pick_up(call, wired.now, "machine")
    wired.deliver_all(call)
    (incoming,) = wired.incoming
    assert (incoming.direction, incoming.call_id) == ("outbound", call.call_id)
    assert incoming.parameters == {"bot": "sales"}
    wired.connect(call)
    wired.caller_hangs_up(call)
    wired.deliver_all(call)
    assert list(dict.fromkeys(what(wired))) == [
        "queued",
        "ringing",
        "answered",
        "a machine",
        "stream started",
        "stream stopped",
        "completed by caller",
    ]
    statuses = [event for event in wired.events if isinstance(event, CallStatus)]
    assert len(statuses) == 2 * len({event.key for event in statuses})  # each came twice, and says so
    assert not wired.web.violations


@pytest.mark.parametrize(
    ("how", "phase"), [("busy", CallPhase.BUSY), ("no-answer", CallPhase.NO_ANSWER), ("failed", CallPhase.FAILED)]
)
@pytest.mark.parametrize("control", ["texml", "call_control"])
def test_calls_that_nobody_answers(wire: Any, control: Any, how: str, phase: CallPhase) -> None:
    wired = wire(control)
    wired.ask(wired.http.dial(DialOrder(to_number="+13125550123", from_number="+13125550199"), wired.urls))
    call = wired.web.placed.popleft()
    wired.web.turn_down(call, how, wired.now)
    wired.deliver_all(call)
    assert wired.incoming == []
    last = wired.events[-1]
    assert isinstance(last, CallStatus)
    assert last.phase is phase


# ---------------------------------------------------------------- Call Control


@pytest.mark.parametrize("underscores", [False, True])
@pytest.mark.parametrize(
    ("ours", "commands"),
    [
        ({}, ["answer", "streaming_start"]),  # there are parameters
        ({"send_codec": "L16"}, ["answer", "streaming_start"]),
        ({"stream_auth": True}, ["answer", "streaming_start"]),
    ],
)
def test_a_call_control_call(wire: Any, ours: dict[str, Any], commands: list[str], underscores: bool) -> None:
    wired = wire("call_control", ours=ours, underscores=underscores)
    call = wired.web.place(PLAN, NOW)
    reply = wired.deliver(call)
    assert (reply.status, reply.body) == (200, b"")
    wired.deliver(call)
    assert [seen.path.rpartition("/")[2] for seen in wired.web.seen] == commands
    assert call.stage is Stage.CONNECTING
    fake = wired.connect(call)
    assert fake.plan.parameters == {"X-Customer": "C-1"}
    assert fake.plan.send_codec == ours.get("send_codec", "PCMU")
    assert fake.plan.sample_rate == (16000 if "send_codec" in ours else 0)
    assert wired.upgrade(call) == ""
    wired.caller_hangs_up(call)
    wired.deliver_all(call)
    assert what(wired) == ["answered", "stream started", "stream stopped", "completed by caller"]
    assert not wired.web.violations


def test_the_stream_comes_with_the_answer_where_that_is_enough(wire: Any) -> None:
    wired = wire("call_control")
    call = wired.web.place(replace(PLAN, options={}), NOW)
    wired.deliver(call)
    assert [seen.path.rpartition("/")[2] for seen in wired.web.seen] == ["answer"]
    assert call.stage is Stage.CONNECTING
    wired.deliver_all(call)
    assert len(wired.web.seen) == 1


def test_a_socket_without_the_second_secret_stays_out(wire: Any) -> None:
    wired = wire("call_control", ours={"stream_auth": True})
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    assert call.media_plan is not None
    call.media_plan = replace(call.media_plan, credentials={"stream_auth_token": "guessed"})
    with pytest.raises(NotAuthentic):
        wired.upgrade(call)


def test_a_repeated_event_brings_about_nothing_new(wire: Any) -> None:
    wired = wire("call_control", repeats=True)
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    assert [(seen.path.rpartition("/")[2], seen.effective) for seen in wired.web.seen] == [
        ("answer", True),
        ("answer", False),
        ("streaming_start", True),
        ("streaming_start", False),
    ]
    assert len(wired.keys) == len(set(wired.keys))  # each delivery has its own signature
    wired.connect(call)
    wired.caller_hangs_up(call)
    wired.deliver_all(call)
    assert len(wired.events) == 2 * len({event.key for event in wired.events})
    assert not wired.web.violations


def test_events_out_of_order(wire: Any) -> None:
    wired = wire("call_control", disorder=True)
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    wired.connect(call)
    wired.deliver_all(call)
    wired.caller_hangs_up(call)
    wired.deliver_all(call)
    assert what(wired)[-2:] == ["completed by caller", "stream stopped"]


def test_an_event_that_is_not_taken_comes_again(wire: Any) -> None:
    wired = wire("call_control")
    call = wired.web.place(PLAN, NOW)
    first = call.webhooks.popleft()
    wired.web.take_reply(call, first, None, NOW)
    again = call.webhooks[0]
    before, after = json.loads(first.body), json.loads(again.body)
    assert (before["meta"]["attempt"], after["meta"]["attempt"]) == (1, 2)
    assert before["data"] == after["data"]
    wired.deliver_all(call)
    assert call.stage is Stage.CONNECTING


def test_a_closed_socket_leaves_a_call_control_call_up(wire: Any) -> None:
    wired = wire("call_control")
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    wired.connect(call)
    wired.gateway_closes(call)
    wired.deliver_all(call)
    assert call.stage is Stage.BETWEEN
    assert wired.ask(wired.http.fetch(ref(call, wired))).phase is CallPhase.ANSWERED
    assert wired.ask(wired.http.hang_up(ref(call, wired))).kind is OutcomeKind.DONE
    wired.deliver_all(call)
    assert what(wired)[-1] == "completed by bot"
    assert wired.ask(wired.http.fetch(ref(call, wired))).phase is CallPhase.COMPLETED


def test_a_socket_that_cannot_be_opened_leaves_it_up_too(wire: Any) -> None:
    wired = wire("call_control")
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    wired.web.media_refused(call, 403, NOW)
    wired.deliver_all(call)
    failed = wired.events[-1]
    assert isinstance(failed, StreamStatus)
    assert (failed.what, failed.problem) == ("failed", "connection_failed")
    assert call.stage is Stage.BETWEEN


def test_a_call_control_call_is_handed_over(wire: Any) -> None:
    wired = wire("call_control")
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    wired.connect(call)
    transfer = wired.http.transfer(ref(call, wired), "+13125550123", wired.urls)
    assert transfer is not None
    assert wired.ask(transfer.request).kind is OutcomeKind.DONE
    assert wired.ask(transfer.request).kind is OutcomeKind.DONE
    assert transfer.closes_socket
    wired.gateway_closes(call)
    assert (call.handed_to, call.stage) == (["+13125550123"], Stage.BETWEEN)
    wired.web.caller_gone(call, wired.now)
    assert call.over


@pytest.mark.parametrize(
    ("instead", "end", "handed", "spoken"),
    [
        ("busy", "busy", [], []),
        ("rejected", "rejected", [], []),
        ("gateway:https://other.example.com", "failed", [], []),
        ("number:+1 312 555 0123", "", ["+13125550123"], []),
        ("say:Sorry", "completed", [], ["Sorry"]),
    ],
)
def test_call_control_refusals(wire: Any, instead: str, end: str, handed: list[str], spoken: list[str]) -> None:
    wired = wire("call_control", lambda call: Refusal(reason="full", instead=instead))
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    assert (call.end, call.handed_to, call.spoken, wired.web.violations) == (end, handed, spoken, [])


@pytest.mark.parametrize(("with_stream", "parameters"), [(True, {}), (True, {"bot": "sales"}), (False, {})])
def test_a_call_control_call_is_placed(wire: Any, with_stream: bool, parameters: dict[str, str]) -> None:
    wired = wire("call_control", ours={"send_codec": "L16", "machine_detection": "premium"})
    order = DialOrder(
        to_number="+13125550123",
        from_number="+13125550199",
        detect_machine=True,
        media_url=wired.urls.media("telnyx", "tok-123") if with_stream else "",
        parameters=parameters,
        command_id="order-1",
    )
    first = wired.ask(wired.http.dial(order, wired.urls))
    second = wired.ask(wired.http.dial(order, wired.urls))
    assert first.call_id == second.call_id
    assert len(wired.web.placed) == 1
    call = wired.web.placed.popleft()
    wired.web.pick_up(call, wired.now, "human")
    wired.deliver_all(call)
    assert call.stage is Stage.CONNECTING
    assert wired.upgrade(call) == ""
    assert [dict(incoming.parameters) for incoming in wired.incoming] == (
        [] if with_stream and not parameters else [parameters]
    )
    fake = wired.connect(call)
    assert fake.plan.parameters == parameters
    assert (fake.plan.send_codec, fake.plan.sample_rate) == ("L16", 16000)
    wired.caller_hangs_up(call)
    wired.deliver_all(call)
    assert what(wired) == [
        "queued",
        "answered",
        "a human",
        "stream started",
        "stream stopped",
        "completed by caller",
    ]
    assert not wired.web.violations


# ---------------------------------------------------------------- REST: what it refuses


def command(wired: Wired, call: WebCall, action: str, body: Any, **changes: Any) -> Any:
    request = RestRequest(
        method="POST",
        target=f"/v2/calls/{call.call_id}/actions/{action}",
        headers={"content-type": "application/json", "authorization": f"Bearer {wired.web.credentials['api_key']}"},
        body=json.dumps(body).encode(),
    )
    return wired.web.rest(replace(request, **changes), wired.now).reply


STREAM_FIELDS = {
    "stream_url": "wss://gw.example.com/x",
    "stream_bidirectional_mode": "rtp",
    "stream_bidirectional_codec": "PCMU",
}


@pytest.mark.parametrize(
    ("action", "body", "rule"),
    [
        ("answer", {**STREAM_FIELDS, "stream_bidirectional_sampling_rate": 16000}, "unknown parameter"),
        ("answer", {**STREAM_FIELDS, "stream_auth_token": "x"}, "unknown parameter"),
        ("answer", {**STREAM_FIELDS, "custom_parameters": []}, "unknown parameter"),
        ("answer", {"client_state": "not base64"}, "base64"),
        ("answer", {**STREAM_FIELDS, "stream_bidirectional_mode": "mp3"}, "rtp"),
        ("answer", {"stream_url": "wss://gw.example.com/x"}, "rtp"),
        ("answer", {**STREAM_FIELDS, "stream_url": "https://gw.example.com/x"}, "wss://"),
        ("answer", {**STREAM_FIELDS, "stream_codec": "pcmu"}, "stream_codec"),
        ("answer", [], "object"),
        ("streaming_start", STREAM_FIELDS, "answered"),
        ("reject", {"cause": "BUSY"}, "cause"),
        ("transfer", {"to": "3125550123"}, "E.164"),
        ("transfer", {"to": "+13125550123", "timeout_secs": 1}, "timeout_secs"),
        ("transfer", {"to": "+13125550123", "timeout_secs": "30"}, "timeout_secs"),
        ("speak", {"payload": "x"}, "voice"),
        ("hangup", {"reason": "x"}, "unknown parameter"),
    ],
)
def test_commands_that_telnyx_would_refuse(wire: Any, action: str, body: Any, rule: str) -> None:
    wired = wire("call_control")
    call = wired.web.place(PLAN, NOW)
    reply = command(wired, call, action, body)
    assert reply.status == 422
    assert rule in str(wired.web.violations[0])
    assert not wired.web.seen[-1].effective


def test_a_second_stream_or_a_second_answer_is_refused(wire: Any) -> None:
    wired = wire("call_control")
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    for action, body in (("answer", {}), ("streaming_start", STREAM_FIELDS), ("reject", {"cause": "USER_BUSY"})):
        assert command(wired, call, action, body).status == 422
    assert len(wired.web.violations) == 3


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"headers": {"content-type": "application/json"}}, 404, "10005"),
        ({"headers": {"content-type": "application/json", "authorization": "Bearer KEYwrong"}}, 401, "10009"),
        ({"target": "/v2/calls/v3:other/actions/hangup"}, 422, "90015"),
        ({"target": "/v2/call/v3:other/actions/hangup"}, 404, "10005"),
    ],
)
def test_documented_replies(wire: Any, changes: dict[str, Any], status: int, code: str) -> None:
    wired = wire()
    call = wired.web.place(PLAN, NOW)
    reply = command(wired, call, "hangup", {}, **changes)
    assert (reply.status, json.loads(reply.body)["errors"][0]["code"]) == (status, code)
    assert not call.over


@pytest.mark.parametrize(
    ("fault", "kind", "detail", "retry"),
    [
        (Fault(what="over"), OutcomeKind.ALREADY_OVER, "422/90018", None),
        (Fault(what="credentials"), OutcomeKind.FAILED, "401/10009", None),
        (Fault(what="status", status=429, retry_after_s=2), OutcomeKind.RETRY, "429/10011", 2.0),
        (Fault(what="status", status=500), OutcomeKind.RETRY, "500/10016", None),
        (Fault(what="silent"), OutcomeKind.RETRY, "no reply", None),
        (Fault(what="reset"), OutcomeKind.RETRY, "no reply", None),
    ],
)
def test_faults(wire: Any, fault: Fault, kind: OutcomeKind, detail: str, retry: float | None) -> None:
    wired = wire()
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    wired.web.faults.append(fault)
    request = wired.http.hang_up(ref(call, wired))
    outcome = wired.ask(request)
    assert (outcome.kind, outcome.detail, outcome.retry_after_s) == (kind, detail, retry)
    assert not call.over
    assert wired.ask(request).kind is OutcomeKind.DONE
    assert call.over


def test_a_lost_reply_does_not_end_a_call_twice(wire: Any) -> None:
    wired = wire()
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    wired.web.faults.append(Fault(what="reset", takes_effect=True))
    request = wired.http.hang_up(ref(call, wired))
    assert wired.ask(request).kind is OutcomeKind.RETRY
    assert call.over
    assert wired.ask(request).kind is OutcomeKind.DONE
    assert [seen.effective for seen in wired.web.seen] == [True, False]
