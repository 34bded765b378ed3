"""The fake Plivo over HTTP: what it sends, what it takes, what it refuses; and our own side against it."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from plivo.utils import validate_v3_signature

from gateway.simulator.base import CallPlan
from gateway.simulator.plivo import FakePlivo
from gateway.simulator.plivo_web import FakePlivoWeb
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
from webhooks.plivo import PlivoHttp, PlivoSettings

API = "http://127.0.0.1:9000/plivo"
PLAN = CallPlan(from_number="+14155550100", to_number="+14155550199", options={"sip_headers": {"Customer": "C-1"}})


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(decide: Any = lambda call: None, ours: Any = None, query: str = "", **theirs: Any) -> Wired:
        web = FakePlivoWeb(f"{BASE}/plivo/answer{query}", **theirs)
        monkeypatch.setenv("PLIVO_AUTH_TOKEN", web.credentials["auth_token"])
        settings = PlivoSettings(
            auth_id=web.credentials["auth_id"],
            auth_token=Secret(env="PLIVO_AUTH_TOKEN"),
            api_base=API,
            **(ours or {}),
        )
        return Wired(web, PlivoHttp(settings), decide)

    return make


def ref(call: WebCall) -> CallRef:
    return CallRef(carrier="plivo", call_id=call.call_id)


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
    assert fake_web("plivo") is FakePlivoWeb


# ---------------------------------------------------------------- signatures


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("query", ["", "?b=2&a=1%2F1&a="])
def test_webhooks_are_signed_as_plivo_s_own_validator_wants_it(method: Any, query: str) -> None:
    web = FakePlivoWeb(f"{BASE}/plivo/answer{query}", method=method, credentials={"main_token": "main" * 10})
    call = web.place(PLAN, NOW)
    signed = web.signed(call.webhooks[0], NOW)
    for header, token in (("v3", web.credentials["auth_token"]), ("ma-v3", "main" * 10)):
        fields = {} if method == "GET" else dict(pair.split("=") for pair in signed.body.decode().split("&"))
        assert any(
            validate_v3_signature(
                method=method,
                uri=signed.url,
                nonce=signed.headers["x-plivo-signature-v3-nonce"],
                auth_token=token,
                v3_signature=value.strip(),
                params=fields,
            )
            for value in signed.headers[f"x-plivo-signature-{header}"].split(",")
        )


@pytest.mark.parametrize(
    ("tampering", "reason"),
    [
        (Tampering.UNSIGNED, "no-signature"),
        (Tampering.FORGED, "bad-signature"),
        (Tampering.ALTERED, "bad-signature"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_tampered_webhooks_bring_nothing_about(wire: Any, method: Any, tampering: Tampering, reason: str) -> None:
    wired = wire(method=method)
    assert tampering in wired.web.detects
    wired.tampering = tampering
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    assert {refused.reason for refused in wired.refused} == {reason}
    assert (wired.incoming, wired.events, wired.web.seen) == ([], [], [])
    assert call.end.startswith("failed: 7011")
    assert not wired.web.violations


def test_there_is_no_time_in_a_signature_so_the_nonce_is_remembered(wire: Any) -> None:
    wired = wire()
    assert Tampering.STALE not in wired.web.detects
    call = wired.web.place(PLAN, NOW)
    wired.deliver(call, times=2)
    assert len(wired.keys) == 2
    assert wired.keys[0] == wired.keys[1]


def test_a_number_of_a_subaccount(wire: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its webhooks are good for the main account's token too."""
    wired = wire(credentials={"main_token": "0123456789" * 4})
    monkeypatch.setenv("PLIVO_MAIN", "0123456789" * 4)
    main = PlivoSettings(auth_id="MA0123456789ABCDEF01", auth_token=Secret(env="PLIVO_MAIN"), api_base=API)
    for http in (wired.http, PlivoHttp(main)):
        by = Wired(wired.web, http)
        call = by.web.place(PLAN, NOW)
        by.deliver_all(call)
        assert len(by.incoming) == 1


# ---------------------------------------------------------------- a call


@pytest.mark.parametrize("naming", ["reference", "guide"])
@pytest.mark.parametrize("status_url", ["", f"{BASE}/plivo/status"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_a_call(wire: Any, method: Any, status_url: str, naming: Any) -> None:
    wired = wire(method=method, status_url=status_url, naming=naming, query="?bot=sales")
    call = wired.web.place(PLAN, NOW)
    wired.deliver(call)
    (incoming,) = wired.incoming
    assert (incoming.from_number, incoming.to_number) == ("14155550100", "14155550199")
    assert incoming.parameters == {"bot": "sales", "X-PH-Customer": "C-1"}
    assert (call.stage, call.media_url) == (Stage.CONNECTING, "wss://gw.example.com/phone/plivo/media/tok-123")
    assert wired.upgrade(call) == ""
    fake = wired.connect(call)
    assert isinstance(fake, FakePlivo)
    assert (fake.rate, fake.linear, dict(fake.plan.parameters)) == (8000, False, {})
    wired.now += 41
    wired.caller_hangs_up(call)
    wired.deliver_all(call)
    assert what(wired) == ["stream started", "stream stopped", "completed by caller"]
    last = wired.events[-1]
    assert isinstance(last, CallStatus)
    assert (last.duration_s, last.details["HangupCauseCode"]) == (41, "4000")
    assert (len(wired.incoming), call.end, wired.web.violations) == (1, "completed", [])


@pytest.mark.parametrize(("rate", "expected"), [(None, 16000), (8000, 8000)])
def test_linear_audio(wire: Any, rate: int | None, expected: int) -> None:
    wired = wire(ours={"send_codec": "L16", "sample_rate": rate})
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    fake = wired.connect(call)
    assert isinstance(fake, FakePlivo)
    assert (fake.rate, fake.linear) == (expected, True)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_handshakes(wire: Any, scheme: str) -> None:
    wired = wire(ours={"handshake_signature": "enforce"})
    call = wired.web.place(replace(PLAN, options={"handshake_scheme": scheme}), NOW)
    wired.deliver_all(call)
    assert wired.upgrade(call) == ("" if scheme == "http" else "handshake signed over https://")
    assert call.media_plan is not None
    call.media_plan = replace(call.media_plan, credentials={"auth_token": "somebody else's"})
    with pytest.raises(NotAuthentic):
        wired.upgrade(call)


def test_the_gateway_closes_the_stream(wire: Any) -> None:
    """Nothing stands after the stream: the call ends (4010)."""
    wired = wire()
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    wired.connect(call)
    wired.gateway_closes(call)
    wired.deliver_all(call)
    assert (call.end, call.ended_by) == ("completed", "bot")
    assert what(wired)[-1] == "completed by bot"


def test_hang_up_by_rest(wire: Any) -> None:
    wired = wire()
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    wired.connect(call)
    request = wired.http.hang_up(ref(call))
    assert wired.ask(request).kind is OutcomeKind.DONE
    assert wired.ask(request).kind is OutcomeKind.ALREADY_OVER
    wired.cut(call)
    wired.deliver_all(call)
    assert what(wired)[-2:] == ["stream stopped", "completed by bot"]
    assert [seen.effective for seen in wired.web.seen] == [True, False]


def test_a_call_is_handed_over(wire: Any) -> None:
    wired = wire()
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    wired.connect(call)
    wired.wishes[call.call_id] = "+14155550123"
    transfer = wired.http.transfer(ref(call), "+14155550123", wired.urls)
    assert transfer is not None
    assert wired.ask(transfer.request).kind is OutcomeKind.DONE
    assert transfer.closes_socket
    wired.gateway_closes(call)
    wired.deliver_all(call)
    assert (call.handed_to, call.stage) == (["14155550123"], Stage.BETWEEN)
    wired.web.caller_gone(call, wired.now)
    wired.deliver_all(call)
    assert (what(wired)[-1], wired.web.violations) == ("completed by caller", [])


def test_a_call_is_handed_over_to_a_flow_elsewhere(wire: Any) -> None:
    wired = wire()
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    wired.connect(call)
    transfer = wired.http.transfer(ref(call), "https://flows.example.com/next", wired.urls)
    assert transfer is not None
    wired.ask(transfer.request)
    wired.cut(call)
    assert call.handed_to == ["https://flows.example.com/next"]


def test_nobody_to_hand_over_to_ends_the_call(wire: Any) -> None:
    wired = wire()
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    wired.connect(call)
    transfer = wired.http.transfer(ref(call), "+14155550123", wired.urls)
    assert transfer is not None
    wired.ask(transfer.request)
    wired.cut(call)
    wired.deliver_all(call)
    assert (call.end, call.ended_by, call.handed_to) == ("completed", "bot", [])


def test_a_socket_that_cannot_be_opened_is_tried_again(wire: Any) -> None:
    wired = wire()
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    for _ in range(2):
        wired.web.media_refused(call, 503, NOW)
        assert call.stage is Stage.CONNECTING
    wired.web.media_refused(call, 503, NOW)
    wired.deliver_all(call)
    failed = wired.events[0]
    assert isinstance(failed, StreamStatus)
    assert (failed.what, failed.problem) == ("failed", "connection_failed")
    assert call.over


def test_callbacks_repeated_and_out_of_order(wire: Any) -> None:
    wired = wire(repeats=True, disorder=True)
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    wired.connect(call)
    wired.deliver_all(call)
    wired.caller_hangs_up(call)
    wired.deliver_all(call)
    assert what(wired)[2:] == ["completed by caller"] * 2 + ["stream stopped"] * 2
    assert len(wired.events) == 2 * len({event.key for event in wired.events})


@pytest.mark.parametrize(
    ("instead", "end", "handed", "spoken"),
    [
        ("busy", "busy", [], []),
        ("rejected", "rejected", [], []),
        ("number:+14155550123", "", ["14155550123"], []),
        ("gateway:https://other.example.com", "", ["https://other.example.com/plivo/answer"], []),
        ("say:Sorry", "completed", [], ["Sorry"]),
    ],
)
def test_refusals(wire: Any, instead: str, end: str, handed: list[str], spoken: list[str]) -> None:
    wired = wire(decide=lambda call: Refusal(reason="full", instead=instead))
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    assert (call.end, call.handed_to, call.spoken, wired.web.violations) == (end, handed, spoken, [])


# ---------------------------------------------------------------- calls of ours


@pytest.mark.parametrize(("who", "said"), [("human", "a human"), ("machine", "a machine"), ("fax", "a machine")])
def test_a_call_is_placed(wire: Any, who: str, said: str) -> None:
    wired = wire()
    order = DialOrder(
        to_number="+14155550123",
        from_number="+14155550199",
        longest_s=600,
        detect_machine=True,
        parameters={"bot": "sales"},
    )
    outcome = wired.ask(wired.http.dial(order, wired.urls))
    call = wired.web.placed.popleft()
    assert (outcome.kind, outcome.call_id) == (OutcomeKind.DONE, call.call_id)
    wired.web.pick_up(call, wired.now, who)
    wired.deliver_all(call)
    (incoming,) = wired.incoming
    assert (incoming.direction, incoming.call_id, incoming.parameters) == (
        "outbound",
        call.call_id,
        {"bot": "sales"},
    )
    assert incoming.extra["request_uuid"] == outcome.call_id
    wired.connect(call)
    wired.caller_hangs_up(call)
    wired.deliver_all(call)
    assert what(wired) == ["ringing", said, "answered", "stream started", "stream stopped", "completed by caller"]
    assert not wired.web.violations


@pytest.mark.parametrize(
    ("how", "phase"), [("busy", CallPhase.BUSY), ("no-answer", CallPhase.NO_ANSWER), ("failed", CallPhase.FAILED)]
)
def test_calls_that_nobody_answers(wire: Any, how: str, phase: CallPhase) -> None:
    wired = wire()
    wired.ask(wired.http.dial(DialOrder(to_number="+14155550123", from_number="+14155550199"), wired.urls))
    call = wired.web.placed.popleft()
    wired.web.turn_down(call, how, wired.now)
    wired.deliver_all(call)
    assert wired.incoming == []
    last = wired.events[-1]
    assert isinstance(last, CallStatus)
    assert last.phase is phase


def test_an_answered_call_of_ours_is_turned_away(wire: Any) -> None:
    wired = wire(decide=lambda call: Refusal(reason="full"))
    wired.ask(wired.http.dial(DialOrder(to_number="+14155550123", from_number="+14155550199"), wired.urls))
    call = wired.web.placed.popleft()
    wired.web.pick_up(call, wired.now)
    wired.deliver_all(call)
    assert (call.end, call.ended_by, wired.web.violations) == ("completed", "bot", [])


# ---------------------------------------------------------------- what it refuses

WHOLE = {
    "bidirectional": "true",
    "keepCallAlive": "true",
    "contentType": "audio/x-mulaw;rate=8000",
}


def stream(url: str = "wss://gw.example.com/x", **changes: str | None) -> str:
    attributes = {name: value for name, value in {**WHOLE, **changes}.items() if value is not None}
    written = " ".join(f'{name}="{value}"' for name, value in attributes.items())
    return f"<Response><Stream {written}>{url}</Stream></Response>"


def taken(body: str) -> tuple[FakePlivoWeb, WebCall]:
    web = FakePlivoWeb(f"{BASE}/plivo/answer")
    call = web.place(PLAN, NOW)
    reply = Reply(status=200, headers={"content-type": "application/xml"}, body=body.encode())
    web.take_reply(call, call.webhooks.popleft(), reply, NOW)
    return web, call


def test_the_document_that_plivo_would_run() -> None:
    web, call = taken(stream("wss://gw.example.com/x?a=1&amp;b=2", extraHeaders="ref=a1,n=2"))
    assert not web.violations
    assert call.media_url == "wss://gw.example.com/x?a=1&b=2"
    assert call.media_plan is not None
    assert call.media_plan.parameters == {"ref": "a1", "n": "2"}


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("<Response>", "not XML"),
        ("<Reply/>", "<Response>"),
        ("<Response><Connect/></Response>", "unknown element"),
        (stream(bidirectional=None), "4010"),
        (stream(keepCallAlive=None), "4010"),
        (stream(keepCallAlive="True"), "4010"),
        (stream(audioTrack="both"), "audioTrack"),
        (stream(contentType=None), "contentType"),
        (stream(contentType="audio/x-mulaw"), "contentType"),
        (stream(contentType="audio/x-l16;rate=24000"), "contentType"),
        (stream(extraHeaders="number=+14155550100"), "letters and digits"),
        (stream(extraHeaders="a=1;b=2"), "letters and digits"),
        (stream(extraHeaders=f"a={'1' * 511}"), "512 bytes"),
        (stream(statusCallbackUrl="/plivo/stream-status"), "scheme"),
        (stream(keepalive="true"), "no attribute"),
        (stream("https://gw.example.com/x"), "scheme"),
        (stream(" wss://gw.example.com/x"), "text of the element"),
        (stream("wss://gw.example.com/" + "x" * 2048), "2048"),
        ('<Response><Hangup reason="full"/></Response>', "busy or rejected"),
        ('<Response><Hangup reason="busy"/><Hangup/></Response>', "stands alone"),
        ("<Response><Dial/></Response>", "nobody"),
        ("<Response><Redirect>/x</Redirect></Response>", "scheme"),
        (f"<Response>{'<Wait/>' * 20_000}</Response>", "bytes"),
    ],
)
def test_documents_that_plivo_would_not_run(body: str, rule: str) -> None:
    web, call = taken(body)
    assert rule in str(web.violations[0])
    assert call.end.startswith("failed")


@pytest.mark.parametrize("reply", [None, Reply(status=500), Reply(status=403)])
def test_no_document_no_call(reply: Reply | None) -> None:
    web = FakePlivoWeb(f"{BASE}/plivo/answer")
    call = web.place(PLAN, NOW)
    webhook = call.webhooks.popleft()
    web.take_reply(call, webhook, reply, NOW)
    if reply is None:  # once more
        assert call.webhooks.popleft() == webhook
        web.take_reply(call, webhook, reply, NOW)
    assert call.end.startswith("failed: 7011")


def rest(wired: Wired, method: str, path: str, body: Any = None, **changes: Any) -> Any:
    own = wired.web.credentials
    basic = base64.b64encode(f"{own['auth_id']}:{own['auth_token']}".encode()).decode()
    request = RestRequest(
        method=method,
        target=f"/v1/Account/{own['auth_id']}/{path}",
        headers={"content-type": "application/json", "authorization": f"Basic {basic}"},
        body=b"" if body is None else json.dumps(body).encode(),
    )
    return wired.web.rest(replace(request, **changes), wired.now).reply


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("DELETE", "Call/{call}", None, 404),  # without the slash at the end
        ("DELETE", "Call/12345678-0000-0000-0000-000000000000/", None, 404),
        ("POST", "Call/{call}/", {"legs": "both", "aleg_url": "https://x.example"}, 400),
        ("POST", "Call/{call}/", {"legs": "aleg"}, 400),
        ("POST", "Call/{call}/", {"legs": "aleg", "aleg_url": "/plivo/after"}, 400),
        ("POST", "Call/{call}/", {"legs": "aleg", "aleg_url": "https://x.example", "aleg_method": "PUT"}, 400),
        ("GET", "Call/{call}/", None, 400),  # past calls are another resource
        ("POST", "Call/", {"from": "1", "to": "2"}, 400),
        ("POST", "Call/", {"from": "1", "to": "2", "answer_url": "https://x.example", "url": "x"}, 400),
        ("POST", "Call/", {"from": "1", "to": "2", "answer_url": "https://x.example", "ring_timeout": "60"}, 400),
        ("POST", "Call/", {"from": "1", "to": "2", "answer_url": "https://x.example", "machine_detection": 1}, 400),
        ("POST", "Call/", [], 400),
    ],
)
def test_requests_that_plivo_would_refuse(wire: Any, method: str, path: str, body: Any, status: int) -> None:
    wired = wire()
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    wired.connect(call)
    target = path.format(call=call.call_id) + ("?status=live" if method == "GET" and status != 400 else "")
    assert rest(wired, method, target, body).status == status
    assert not wired.web.seen[-1].effective
    assert len(wired.web.violations) == (0 if "00000000" in path else 1)


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic eA=="}])
def test_wrong_credentials(wire: Any, headers: dict[str, str]) -> None:
    wired = wire()
    call = wired.web.place(PLAN, NOW)
    assert rest(wired, "DELETE", f"Call/{call.call_id}/", headers=headers).status == 401
    assert not call.over


def test_the_live_call(wire: Any) -> None:
    wired = wire()
    call = wired.web.place(PLAN, NOW)
    fetch = wired.http.fetch(ref(call))
    assert wired.ask(fetch).phase is CallPhase.RINGING
    wired.deliver_all(call)
    assert wired.ask(fetch).phase is CallPhase.ANSWERED
    wired.web.caller_gone(call, NOW)
    gone = wired.ask(fetch)
    assert (gone.kind, gone.phase) == (OutcomeKind.ALREADY_OVER, CallPhase.COMPLETED)


@pytest.mark.parametrize(
    ("fault", "kind", "detail", "retry"),
    [
        (Fault(what="over"), OutcomeKind.ALREADY_OVER, "404", None),
        (Fault(what="credentials"), OutcomeKind.FAILED, "401", None),
        (Fault(what="status", status=429, retry_after_s=2), OutcomeKind.RETRY, "429", 2.0),
        (Fault(what="status", status=503), OutcomeKind.RETRY, "503", None),
        (Fault(what="silent"), OutcomeKind.RETRY, "no reply", None),
        (Fault(what="reset"), OutcomeKind.RETRY, "no reply", None),
    ],
)
def test_faults(wire: Any, fault: Fault, kind: OutcomeKind, detail: str, retry: float | None) -> None:
    wired = wire()
    call = wired.web.place(PLAN, NOW)
    wired.deliver_all(call)
    wired.web.faults.append(fault)
    request = wired.http.hang_up(ref(call))
    outcome = wired.ask(request)
    assert (outcome.kind, outcome.detail, outcome.retry_after_s) == (kind, detail, retry)
    assert not call.over
    assert wired.ask(request).kind is OutcomeKind.DONE
    assert call.over
