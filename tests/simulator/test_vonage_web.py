"""The strict fake of Vonage's HTTP side, against the gateway's: each judges the other."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest

from gateway.simulator.base import CallPlan
from gateway.simulator.vonage import FakeVonage
from gateway.simulator.vonage_tokens import hs256
from gateway.simulator.vonage_web import FakeVonageWeb
from gateway.simulator.web import (
    Fault,
    Reply,
    RestRequest,
    Stage,
    Tampering,
    WebCall,
    fake_web,
)
from gateway.simulator.webcaller import CarrierServer
from media.secret import Secret
from tests.simulator.wired import BASE, NOW, Wired
from webhooks import vonage_ncco
from webhooks.base import (
    AnsweredBy,
    CallPhase,
    CallRef,
    CallStatus,
    CarrierRequest,
    DialOrder,
    Handled,
    InboundCall,
    OutcomeKind,
    Refusal,
    StreamOffer,
    StreamStatus,
    Urls,
    WebRequest,
)
from webhooks.vonage import VonageHttp, VonageSettings

ANSWER = f"{BASE}/vonage/answer"
URLS = Urls(base=BASE)


class Desk(Wired):
    """As much of a gateway as the two need: admits every call, knows which are over, and keeps what it is told."""

    def __init__(self, web: FakeVonageWeb, patch: pytest.MonkeyPatch, **fields: Any) -> None:
        own: dict[str, Any] = {"api_base": "http://127.0.0.1:9000/vonage"}
        for name, value in web.credentials.items():
            if name in ("signature_secret", "private_key", "api_secret"):
                patch.setenv(f"VW_{name}", value)
                own[name] = Secret(env=f"VW_{name}")
            else:
                own[name] = value
        super().__init__(web, VonageHttp(VonageSettings(**{**own, **fields})), self._decide)
        self.parameters: Mapping[str, str] = {}
        self.calls: dict[str, InboundCall] = {}
        self.over: set[str] = set()
        self.refusal: Refusal | None = None
        self.order: list[str] = []  # of the webhooks
        self.tokens = 0

    def _decide(self, call: InboundCall) -> Refusal | None:
        return Refusal(reason="over", instead="busy") if call.call_id in self.over else self.refusal

    # ------------------------------------------------------------ webhooks

    def serve(self, call: WebCall, tampering: Tampering = Tampering.NONE) -> None:
        """Everything that Vonage has to say."""
        self.tampering = tampering
        while call.webhooks:
            self.order.append(call.webhooks[0].what)
            self.deliver(call)

    def _admit(self, call: InboundCall) -> Handled:
        refusal = self.decide(call)
        if refusal is not None:
            return self.http.refuse(call, refusal)
        self.tokens += 1
        self.calls.setdefault(call.call_id, call)
        media_url = self.urls.media("vonage", f"T{self.tokens}")
        parameters = {**self.parameters, **call.parameters}
        return self.http.offer(call, StreamOffer(media_url=media_url, urls=self.urls, parameters=parameters))

    # ------------------------------------------------------------ the socket

    def open(self, call: WebCall) -> FakeVonage:
        """The media socket of a call that is to be connected, and what its opening brings about."""
        assert call.stage is Stage.CONNECTING
        fake = self.connect(call)
        assert isinstance(fake, FakeVonage)
        self.serve(call)
        assert call.media is fake
        return fake

    def close(self, call: WebCall, fake: FakeVonage, by: str) -> None:
        """The caller hangs up, the gateway closes or breaks, or REST has cut the stream."""
        if by == "caller":
            fake.hang_up(self.now)
        elif by == "rest":
            fake.api_hang_up(self.now)
        else:
            fake.socket_closed(1000 if by == "gateway" else 1006, "", self.now)
        self.web.media_closed(call, self.now)
        self.serve(call)

    # ------------------------------------------------------------ looking back

    def ref(self, call: WebCall) -> CallRef:
        known = self.calls.get(call.call_id)
        return CallRef(carrier="vonage", call_id=call.call_id, extra=known.extra if known is not None else {})

    def told(self, kind: type[Any]) -> list[Any]:
        """The reports of one kind, each once, as the store keeps them."""
        return list({event.key: event for event in self.events if isinstance(event, kind)}.values())


MakeDesk = Callable[..., Desk]


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> MakeDesk:
    def make(web: FakeVonageWeb | None = None, **fields: Any) -> Desk:
        return Desk(web or FakeVonageWeb(ANSWER), monkeypatch, **fields)

    return make


def put(request: CarrierRequest | None, **changes: Any) -> CarrierRequest:
    assert request is not None
    return replace(request, **changes)


# ---------------------------------------------------------------- a call comes in


def test_it_is_found_by_its_name() -> None:
    assert fake_web("vonage") is FakeVonageWeb


def test_a_call_from_its_webhook_to_its_bill(desk: MakeDesk) -> None:
    gw = desk()
    gw.parameters = {"tenant": "t1", "event": "no clash"}
    call = gw.web.place(CallPlan(from_number="+447700900001", to_number="+442079460000"), gw.now)
    gw.serve(call)
    assert (call.stage, call.media_url) == (Stage.CONNECTING, "wss://gw.example.com/phone/vonage/media/T1")
    fake = gw.open(call)
    assert (fake.rate, fake.headers["gw_call"]) == (16000, call.call_id)
    assert fake.headers["gw_data"] == "tenant=t1&event=no+clash"
    inbound = gw.calls[call.call_id]
    assert (inbound.from_number, inbound.to_number) == ("+447700900001", "+442079460000")
    assert inbound.extra["region_url"] == "https://api-eu-3.vonage.com"
    gw.now += 8
    assert gw.ask(gw.http.hang_up(gw.ref(call))).kind is OutcomeKind.DONE
    assert call.cut == "hang-up"
    gw.close(call, fake, "rest")
    assert (call.ended_by, call.end) == ("bot", "completed")
    assert gw.web.violations == []
    phases = [event.phase for event in gw.told(CallStatus)]
    assert phases == [CallPhase.QUEUED, CallPhase.RINGING, CallPhase.ANSWERED, CallPhase.COMPLETED]
    assert gw.told(CallStatus)[-1].duration_s == 8
    assert [event.what for event in gw.told(StreamStatus)] == ["started", "stopped"]
    assert {event.call_id for event in gw.events} == {call.call_id}
    assert [(seen.route, seen.status, seen.effective) for seen in gw.web.seen] == [("hang-up", 204, True)]


def test_the_caller_hangs_up(desk: MakeDesk) -> None:
    gw = desk()
    call = gw.web.place(CallPlan(), gw.now)
    gw.serve(call)
    gw.close(call, gw.open(call), "caller")
    assert (call.ended_by, call.end, call.spoken) == ("caller", "completed", [])
    assert gw.order[-2:] == ["socket completed", "event completed"]
    assert gw.ask(gw.http.hang_up(gw.ref(call))).kind is OutcomeKind.ALREADY_OVER
    assert gw.web.violations == []


@pytest.mark.parametrize("options", [{"disorder": True}, {"duplicates": True}, {"disorder": True, "duplicates": True}])
def test_events_in_disorder_and_twice(desk: MakeDesk, options: dict[str, bool]) -> None:
    gw = desk()
    call = gw.web.place(CallPlan(options=options), gw.now)
    gw.serve(call)
    gw.close(call, gw.open(call), "caller")
    phases = [event.phase for event in gw.told(CallStatus)]
    assert set(phases) == {CallPhase.QUEUED, CallPhase.RINGING, CallPhase.ANSWERED, CallPhase.COMPLETED}
    assert len(phases) == 4
    if "disorder" in options:
        assert phases == [CallPhase.RINGING, CallPhase.QUEUED, CallPhase.COMPLETED, CallPhase.ANSWERED]
    if "duplicates" in options:
        assert gw.order.count("event completed") == 2
    assert gw.web.violations == []


def test_by_get(desk: MakeDesk) -> None:
    gw = desk(FakeVonageWeb(ANSWER, method="GET"))
    call = gw.web.place(CallPlan(), gw.now)
    assert call.webhooks[0].body == b""
    gw.serve(call)
    gw.open(call)
    assert "region_url" not in gw.calls[call.call_id].extra  # nobody has signed the query
    assert gw.web.violations == []


def test_what_comes_along(desk: MakeDesk) -> None:
    gw = desk()
    options = {"sip_headers": {"X-Customer": "7"}, "custom_data": {"tenant": "t1"}, "region_url": ""}
    call = gw.web.place(CallPlan(options=options), gw.now)
    gw.serve(call)
    inbound = gw.calls[call.call_id]
    assert inbound.parameters == {"X-Customer": "7", "tenant": "t1"}
    assert "region_url" not in inbound.extra
    assert gw.open(call).headers["gw_data"] == "X-Customer=7&tenant=t1"


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_the_rate_is_the_documents(desk: MakeDesk, rate: int) -> None:
    gw = desk(sample_rate=rate)
    call = gw.web.place(CallPlan(), gw.now)
    gw.serve(call)
    assert gw.open(call).rate == rate


@pytest.mark.parametrize("how", ["warn", "enforce"])
def test_the_handshake_is_signed_where_the_document_asks_for_it(desk: MakeDesk, how: str) -> None:
    gw = desk(handshake_signature=how)
    call = gw.web.place(CallPlan(), gw.now)
    gw.serve(call)
    headers = {name.lower(): value for name, value in gw.web.media(call).handshake("T1").headers.items()}
    request = WebRequest(method="GET", url=call.media_url, headers=headers, received=gw.now)
    assert gw.http.authenticate_upgrade(request) == ""


# ---------------------------------------------------------------- who is not believed


@pytest.mark.parametrize("tampering", [one for one in Tampering if one in FakeVonageWeb.detects])
def test_every_tampering_is_noticed(desk: MakeDesk, tampering: Tampering) -> None:
    gw = desk()
    call = gw.web.place(CallPlan(), gw.now)
    gw.serve(call, tampering)
    # What is not signed at all is to be sent again: should it have been Vonage, it may be signed then.
    status = 503 if tampering is Tampering.UNSIGNED else 401
    assert (call.end, gw.tokens, gw.events) == (f"failed: HTTP {status}", 0, [])


def test_a_replay_has_the_same_name(desk: MakeDesk) -> None:
    gw = desk()
    call = gw.web.place(CallPlan(), gw.now)
    sent = gw.web.signed(call.webhooks[0], gw.now)
    request = WebRequest(method="POST", url=sent.url, headers=sent.headers, body=sent.body, received=gw.now)
    first, again = gw.http.authenticate("answer", request), gw.http.authenticate("answer", request)
    assert first is not None
    assert first == again  # the gateway's store takes a name once
    other = gw.web.signed(call.webhooks[0], gw.now)
    later = WebRequest(method="POST", url=sent.url, headers=other.headers, body=other.body, received=gw.now)
    assert gw.http.authenticate("answer", later) != first


# ---------------------------------------------------------------- who is turned away


@pytest.mark.parametrize(
    ("instead", "spoken", "handed_to"),
    [
        ("busy", [vonage_ncco.BUSY], []),
        ("rejected", [vonage_ncco.REJECTED], []),
        ("say:Come back tomorrow.", ["Come back tomorrow."], []),
        ("number:+442079460001", [], ["442079460001"]),
        ("gateway:https://gw2.example.com", [], ["https://gw2.example.com/vonage/answer"]),
    ],
)
def test_refusals(desk: MakeDesk, instead: str, spoken: list[str], handed_to: list[str]) -> None:
    gw = desk()
    gw.refusal = Refusal(reason="full", instead=instead)
    call = gw.web.place(CallPlan(), gw.now)
    gw.serve(call)
    assert (call.spoken, call.handed_to, gw.web.violations) == (spoken, handed_to, [])
    assert call.over != bool(handed_to)


def test_another_gateway_takes_what_the_first_passes_on(desk: MakeDesk) -> None:
    first, second = desk(), desk(FakeVonageWeb("https://gw2.example.com/vonage/answer"))
    first.refusal = Refusal(reason="draining", instead="gateway:https://gw2.example.com")
    call = first.web.place(CallPlan(options={"custom_data": {"tenant": "t1"}}), first.now)
    notify = json.loads(first.deliver(call).body)[0]
    assert call.handed_to == ["https://gw2.example.com/vonage/answer"]
    second.web.calls[call.call_id] = call
    call.webhooks.clear()
    second.web.post(call, "notify", notify["eventUrl"][0], json={"payload": notify["payload"]}, wants_document=True)
    second.serve(call)
    assert call.stage is Stage.CONNECTING
    passed_on = second.calls[call.call_id]
    assert (passed_on.from_number, passed_on.parameters) == ("+14155550101", {"tenant": "t1"})
    assert passed_on.extra["region_url"] == "https://api-eu-3.vonage.com"


# ---------------------------------------------------------------- a socket that was lost


def test_the_gateway_dies_and_the_socket_is_opened_again(desk: MakeDesk) -> None:
    gw = desk()
    gw.parameters = {"tenant": "t1"}
    call = gw.web.place(CallPlan(), gw.now)
    gw.serve(call)
    for times in (1, 2):
        gw.close(call, gw.open(call), "crash")
        assert (call.stage, gw.tokens) == (Stage.CONNECTING, times + 1)
        assert call.media_url.endswith(f"/T{times + 1}")
        assert call.media_plan is not None
        assert call.media_plan.parameters["gw_call"] == call.call_id
        assert call.media_plan.parameters["gw_data"] == "tenant=t1"
    gw.close(call, gw.open(call), "crash")
    assert (call.over, call.spoken, call.ended_by) == (True, [vonage_ncco.APOLOGY], "bot")
    assert gw.web.violations == []
    assert [event.what for event in gw.told(StreamStatus)] == ["started", "stopped"] * 3


def test_the_socket_cannot_be_opened(desk: MakeDesk) -> None:
    gw = desk()
    call = gw.web.place(CallPlan(), gw.now)
    gw.serve(call)
    for status in (503, 0, 403):
        assert call.stage is Stage.CONNECTING
        gw.web.media_refused(call, status, gw.now)
        gw.serve(call)
    assert (call.over, call.spoken) == (True, [vonage_ncco.APOLOGY])
    assert [event.what for event in gw.told(StreamStatus)] == ["failed"] * 3
    assert gw.web.violations == []


def test_the_gateway_closes_on_purpose(desk: MakeDesk) -> None:
    gw = desk()
    call = gw.web.place(CallPlan(), gw.now)
    gw.serve(call)
    fake = gw.open(call)
    gw.over.add(call.call_id)
    gw.close(call, fake, "gateway")
    assert (call.over, call.spoken, call.ended_by) == (True, [], "bot")
    assert gw.web.violations == []


def test_without_credentials_a_call_is_handed_over_by_leaving_its_socket(desk: MakeDesk) -> None:
    gw = desk(private_key=None)
    call = gw.web.place(CallPlan(), gw.now)
    gw.serve(call)
    fake = gw.open(call)
    transfer = gw.http.transfer(gw.ref(call), "+447700900002", URLS)
    assert transfer is not None
    assert transfer.closes_socket
    gw.wishes[call.call_id] = "+447700900002"
    gw.close(call, fake, "gateway")
    assert (call.stage, call.handed_to, gw.web.violations) == (Stage.BETWEEN, ["447700900002"], [])


# ---------------------------------------------------------------- REST


def test_transfer(desk: MakeDesk) -> None:
    gw = desk()
    call = gw.web.place(CallPlan(to_number="+442079460000"), gw.now)
    gw.serve(call)
    fake = gw.open(call)
    transfer = gw.http.transfer(gw.ref(call), "sip:ann@example.com", URLS)
    assert transfer is not None
    assert gw.ask(transfer.request).kind is OutcomeKind.DONE
    assert call.cut == "transfer"
    gw.close(call, fake, "rest")
    assert (call.stage, call.handed_to) == (Stage.BETWEEN, ["sip:ann@example.com"])
    assert gw.order[-2:] == ["socket completed", "event transfer"]
    gw.web.caller_gone(call, gw.now)
    gw.serve(call)
    assert call.over
    assert gw.web.violations == []


def test_the_state_of_a_call(desk: MakeDesk) -> None:
    gw = desk()
    call = gw.web.place(CallPlan(), gw.now)
    gw.serve(call)
    fake = gw.open(call)
    assert gw.ask(gw.http.fetch(gw.ref(call))).phase is CallPhase.ANSWERED
    gw.close(call, fake, "caller")
    assert gw.ask(gw.http.fetch(gw.ref(call))).phase is CallPhase.COMPLETED


@pytest.mark.parametrize("status", [400, 404, 409])
def test_a_call_that_is_over(desk: MakeDesk, status: Any) -> None:
    gw = desk(FakeVonageWeb(ANSWER, ended_status=status))
    call = gw.web.place(CallPlan(), gw.now)
    gw.serve(call)
    fake = gw.open(call)
    assert gw.ask(gw.http.hang_up(gw.ref(call))).kind is OutcomeKind.DONE
    assert gw.ask(gw.http.hang_up(gw.ref(call))).kind is OutcomeKind.ALREADY_OVER  # the socket still stands
    gw.close(call, fake, "rest")
    assert gw.ask(gw.http.hang_up(gw.ref(call))).kind is OutcomeKind.ALREADY_OVER
    transfer = gw.http.transfer(gw.ref(call), "+447700900002", URLS)
    assert transfer is not None
    assert gw.ask(transfer.request).kind is OutcomeKind.FAILED
    assert [seen.effective for seen in gw.web.seen] == [True, False, False, False]


def test_the_sockets_leg_is_the_wrong_one_to_hang_up(desk: MakeDesk) -> None:
    gw = desk()
    call = gw.web.place(CallPlan(), gw.now)
    gw.serve(call)
    gw.open(call)
    (started,) = gw.told(StreamStatus)
    wrong = CallRef(carrier="vonage", call_id=started.stream_id)
    assert gw.ask(gw.http.hang_up(wrong)).kind is OutcomeKind.DONE
    assert (call.cut, call.over) == ("socket", False)
    assert [violation.rule for violation in gw.web.violations] == ["a hang-up names the phone's leg"]


def test_wrong_credentials(desk: MakeDesk) -> None:
    gw, other = desk(), FakeVonageWeb(ANSWER)
    call = gw.web.place(CallPlan(), gw.now)
    gw.serve(call)
    request = put(gw.http.hang_up(gw.ref(call)))
    good = request.authorize(gw.now)
    claims = {"application_id": gw.web.credentials["application_id"], "iat": int(gw.now), "exp": int(gw.now) + 60}
    bad = [
        {},
        {"authorization": good["authorization"].replace("Bearer", "Basic")},
        {"authorization": good["authorization"][:-4] + "AAAA"},
        request.authorize(gw.now - 1000),  # expired
        request.authorize(gw.now + 100),  # from the future
        {"authorization": "Bearer " + hs256({**claims, "jti": "x"}, gw.web.credentials["private_key"])},
        {"authorization": "Bearer nothing"},
    ]
    for headers in bad:
        assert gw.ask(put(request, authorize=lambda now, headers=headers: headers)).detail == "401 Unauthorized"
    gw.web.credentials["application_id"] = other.credentials["application_id"]
    assert gw.ask(request).kind is OutcomeKind.FAILED
    assert not call.over
    assert not any(seen.effective for seen in gw.web.seen)


def test_a_token_is_good_for_one_request(desk: MakeDesk) -> None:
    gw = desk()
    call = gw.web.place(CallPlan(), gw.now)
    gw.serve(call)
    request = put(gw.http.fetch(gw.ref(call)))
    headers = request.authorize(gw.now)
    once = put(request, authorize=lambda now: headers)
    assert [gw.ask(once).kind for _ in range(2)] == [OutcomeKind.DONE, OutcomeKind.FAILED]


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {"action": "hang-up"},
        {"action": "hangup", "reason": "x"},
        {"action": "transfer"},
        {"action": "transfer", "destination": {"type": "ncco"}},
        {"action": "transfer", "destination": {"type": "url", "url": ["https://x.example.com"]}},
        {"action": "transfer", "destination": {"type": "ncco", "url": "https://x.example.com"}},
        {"action": "transfer", "destination": {"type": "ncco", "url": ["http://x.example.com"]}},
        {"action": "transfer", "destination": {"type": "ncco", "ncco": {"action": "talk"}}},
        {"action": "transfer", "destination": {"type": "ncco", "ncco": [{"action": "hangup"}]}},
    ],
)
def test_updates_that_vonage_would_not_understand(desk: MakeDesk, body: Any) -> None:
    gw = desk()
    call = gw.web.place(CallPlan(), gw.now)
    gw.serve(call)
    gw.open(call)
    request = put(gw.http.hang_up(gw.ref(call)), json=body)
    assert gw.ask(request).detail.startswith("400")
    assert len(gw.web.violations) == 1
    assert not call.cut


def test_a_body_that_is_not_json(desk: MakeDesk) -> None:
    gw = desk()
    call = gw.web.place(CallPlan(), gw.now)
    request = put(gw.http.hang_up(gw.ref(call)))
    path = f"/v1/calls/{call.call_id}"
    for content_type, body in (("text/plain", b'{"action":"hangup"}'), ("application/json", b"action=hangup")):
        headers = {**request.authorize(gw.now), "content-type": content_type}
        reply = gw.web.rest(RestRequest(method="PUT", target=path, headers=headers, body=body), gw.now).reply
        assert reply is not None
        assert reply.status == 400
        assert gw.web.violations[-1].rule == "the body is JSON"


def test_what_does_not_exist(desk: MakeDesk) -> None:
    gw = desk()
    stranger = CallRef(carrier="vonage", call_id="aaaaaaaa-bbbb-cccc-dddd-0123456789ab")
    assert gw.ask(gw.http.fetch(stranger)).detail == "404 Not Found"
    assert gw.ask(put(gw.http.fetch(stranger), url="http://127.0.0.1:9000/vonage/v2/calls")).detail == "404 Not Found"


# ---------------------------------------------------------------- documents that Vonage would not follow

GOOD_SOCKET = {
    "type": "websocket",
    "uri": "wss://gw.example.com/vonage/media/T",
    "content-type": "audio/l16;rate=16000",
    "headers": {"gw_call": "x"},
}
GOOD = {"action": "connect", "from": "442079460000", "endpoint": [GOOD_SOCKET]}


def without(value: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: one for key, one in value.items() if key != name}


def socket(**changes: Any) -> list[Any]:
    return [{**GOOD, "endpoint": [{**GOOD_SOCKET, **{key.replace("_", "-"): one for key, one in changes.items()}}]}]


@pytest.mark.parametrize(
    "document",
    [
        {"action": "talk", "text": "x"},
        "talk",
        [["talk"]],
        [{}],
        [{"action": "hangup"}],
        [{"action": "talk"}],
        [{"action": "talk", "text": "x", "say": "y"}],
        [{"action": "talk", "text": "x", "bargeIn": "false"}],
        [{"action": "notify", "payload": {}}],
        [{"action": "notify", "eventUrl": ["https://gw.example.com/x"]}],
        [without(GOOD, "endpoint")],
        [{**GOOD, "endpoint": GOOD_SOCKET}],
        [{**GOOD, "endpoint": [GOOD_SOCKET, GOOD_SOCKET]}],
        [{**GOOD, "from": "+442079460000"}],
        [{**GOOD, "from": 442079460000}],
        [{**GOOD, "randomFromNumber": True}],
        [{**GOOD, "eventType": "sync"}],
        [{**GOOD, "eventUrl": "https://gw.example.com/x"}],
        [{**GOOD, "eventUrl": ["/vonage/after"]}],
        [{**GOOD, "eventUrl": ["http://gw.example.com/x"]}],
        [{**GOOD, "limit": 7201}],
        [{**GOOD, "timeout": "60"}],
        [{**GOOD, "statusUrl": ["https://gw.example.com/x"]}],
        [GOOD, {"action": "talk", "text": "It is over."}],
        socket(type="ws"),
        socket(uri="https://gw.example.com/x"),
        socket(uri="ws://gw.example.com/x"),
        socket(uri="wss://user@gw.example.com/x"),
        socket(content_type="audio/l16;rate=48000"),
        socket(content_type=None),
        socket(headers={"a": "x" * 600}),
        socket(headers={"event": "x"}),
        socket(headers={"a": {"b": "c"}}),
        socket(headers=["a"]),
        socket(authorization={"type": "basic"}),
        socket(authorization={"type": "custom"}),
        socket(token="x"),
        [{**GOOD, "endpoint": [{"type": "phone", "number": "+447700900002"}]}],
        [{**GOOD, "endpoint": [{"type": "sip", "uri": "ann@example.com"}]}],
    ],
)
def test_documents_that_end_the_call(document: Any) -> None:
    web = FakeVonageWeb(ANSWER)
    call = web.place(CallPlan(), NOW)
    answer(web, call, document)
    assert call.end.startswith("failed")
    assert len(web.violations) == 1


@pytest.mark.parametrize(
    "document",
    [
        [],
        [{"action": "talk", "text": "x", "language": "en-GB", "style": 0, "bargeIn": False}],
        [GOOD],
        [without(GOOD, "from")],
        socket(uri="ws://127.0.0.1:8080/vonage/media/T"),
        socket(authorization={"type": "custom", "value": "Bearer abc"}),
        [{"action": "record"}, GOOD],
    ],
)
def test_documents_that_are_followed(document: Any) -> None:
    web = FakeVonageWeb(ANSWER)
    call = web.place(CallPlan(), NOW)
    answer(web, call, document)
    assert web.violations == []
    assert not call.end.startswith("failed")


def answer(web: FakeVonageWeb, call: WebCall, document: Any, content_type: str = "application/json") -> None:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    reply = Reply(status=200, headers={"content-type": content_type}, body=body)
    web.take_reply(call, call.webhooks.popleft(), reply, NOW)


def test_documents_that_are_none() -> None:
    for body, content_type in ((b"[]", "text/plain"), (b"", "application/json"), (b"<Response/>", "application/json")):
        web = FakeVonageWeb(ANSWER)
        call = web.place(CallPlan(), NOW)
        answer(web, call, body, content_type)
        assert call.end.startswith("failed")
        assert len(web.violations) == 1


def test_a_custom_authorization_is_shown_by_the_socket() -> None:
    web = FakeVonageWeb(ANSWER)
    call = web.place(CallPlan(), NOW)
    answer(web, call, socket(authorization={"type": "custom", "value": "Bearer abc"}))
    assert web.media(call).handshake("T").headers == {"Authorization": "Bearer abc"}


# ---------------------------------------------------------------- answers that do not come


def failing(web: FakeVonageWeb, statuses: list[int]) -> tuple[WebCall, list[str]]:
    """A call whose webhooks fail with these statuses (0: no answer), and then get a document."""
    call = web.place(CallPlan(), NOW)
    asked: list[str] = []
    while call.webhooks and call.stage is Stage.RINGING:
        webhook = call.webhooks.popleft()
        if not webhook.wants_document:
            continue
        asked.append(webhook.url)
        status = statuses.pop(0) if statuses else 200
        body = json.dumps([GOOD]).encode()
        headers = {"content-type": "application/json"}
        web.take_reply(call, webhook, Reply(status=status, headers=headers, body=body) if status else None, NOW)
    return call, asked


@pytest.mark.parametrize("status", [0, 429, 503, 504])
def test_the_answer_url_is_asked_twice_and_then_the_fallback_twice(status: int) -> None:
    fallback = f"{BASE}/vonage/answer?fallback=1"
    call, asked = failing(FakeVonageWeb(ANSWER), [status])
    assert (call.stage, asked) == (Stage.CONNECTING, [ANSWER] * 2)
    call, asked = failing(FakeVonageWeb(ANSWER), [status] * 2)
    assert (call.over, asked) == (True, [ANSWER] * 2)
    call, asked = failing(FakeVonageWeb(ANSWER, fallback_url=fallback), [status] * 3)
    assert (call.stage, asked) == (Stage.CONNECTING, [ANSWER] * 2 + [fallback] * 2)
    call, asked = failing(FakeVonageWeb(ANSWER, fallback_url=fallback), [status] * 4)
    assert (call.over, len(asked)) == (True, 4)


@pytest.mark.parametrize("status", [401, 403, 500, 204])
def test_other_statuses_end_the_call_at_once(status: int) -> None:
    call, asked = failing(FakeVonageWeb(ANSWER), [status])
    assert (call.end, asked) == (f"failed: HTTP {status}", [ANSWER])


def test_the_fallback_says_what_is_wrong_and_is_understood(desk: MakeDesk) -> None:
    gw = desk(FakeVonageWeb(ANSWER, fallback_url=ANSWER))
    call = gw.web.place(CallPlan(), gw.now)
    webhook = call.webhooks.popleft()
    gw.web.take_reply(call, webhook, None, gw.now)
    gw.web.take_reply(call, call.webhooks.popleft(), Reply(status=503), gw.now)
    said = json.loads(call.webhooks[0].body)
    assert said["reason"] == "status 503"
    assert said["original_request"] == {"url": ANSWER, "type": "answer"}
    gw.serve(call)
    assert call.stage is Stage.CONNECTING


# ---------------------------------------------------------------- calls that the gateway places

ORDER = DialOrder(to_number="+447700900001", from_number="+442079460000", detect_machine=True)


@pytest.mark.parametrize(
    ("detection", "who", "found"),
    [
        ("continue", "human", [("human", "")]),
        ("continue", "machine", [("machine", "")]),
        ("advanced", "human", [("human", "")]),
        ("advanced", "machine", [("machine", ""), ("machine", "beep_start")]),
    ],
)
def test_a_placed_call(desk: MakeDesk, detection: str, who: str, found: list[tuple[str, str]]) -> None:
    gw = desk(machine_detection=detection)
    outcome = gw.ask(gw.http.dial(ORDER, URLS))
    call = gw.web.placed.popleft()
    assert (outcome.kind, outcome.call_id) == (OutcomeKind.DONE, call.call_id)
    gw.serve(call)
    gw.web.pick_up(call, gw.now, who)
    gw.serve(call)
    assert [(event.who, event.detail) for event in gw.told(AnsweredBy)] == found
    inbound = gw.calls[call.call_id]
    assert (inbound.direction, inbound.from_number, inbound.to_number) == (
        "outbound",
        "+442079460000",
        "+447700900001",
    )
    gw.close(call, gw.open(call), "crash")
    gw.close(call, gw.open(call), "caller")
    assert gw.told(CallStatus)[-1].phase is CallPhase.COMPLETED
    assert gw.web.violations == []


@pytest.mark.parametrize(
    ("how", "phase"),
    [("busy", CallPhase.BUSY), ("no-answer", CallPhase.NO_ANSWER), ("failed", CallPhase.FAILED)],
)
def test_nobody_answers(desk: MakeDesk, how: str, phase: CallPhase) -> None:
    gw = desk()
    gw.ask(gw.http.dial(ORDER, URLS))
    call = gw.web.placed.popleft()
    assert gw.ask(gw.http.fetch(gw.ref(call))).phase is CallPhase.QUEUED
    gw.web.turn_down(call, how, gw.now)
    gw.serve(call)
    assert gw.told(CallStatus)[-1].phase is phase
    assert gw.ask(gw.http.fetch(gw.ref(call))).phase is phase
    assert gw.ask(gw.http.hang_up(gw.ref(call))).kind is OutcomeKind.ALREADY_OVER
    assert gw.web.violations == []


@pytest.mark.parametrize(
    "changes",
    [
        {"to": {"type": "phone", "number": "447700900001"}},
        {"to": [{"type": "phone", "number": "+447700900001"}]},
        {"to": [{"type": "websocket", "uri": "wss://x"}]},
        {"from": None},
        {"from": {"type": "phone", "number": "+442079460000"}},
        {"random_from_number": True},
        {"answer_url": None},
        {"answer_url": "https://gw.example.com/x"},
        {"answer_method": "PUT"},
        {"ncco": []},
        {"event_url": ["http://gw.example.com/x"]},
        {"ringing_timer": 121},
        {"length_timer": 0},
        {"machine_detection": "detect"},
        {"machine_detection": "hangup", "advanced_machine_detection": {}},
        {"advanced_machine_detection": {"mode": "beep"}, "machine_detection": None},
        {"advanced_machine_detection": {"beep_timeout": 30}, "machine_detection": None},
        {"status_url": "x"},
    ],
)
def test_orders_that_vonage_would_not_take(desk: MakeDesk, changes: dict[str, Any]) -> None:
    gw = desk()
    request = put(gw.http.dial(ORDER, URLS))
    body = {name: value for name, value in {**request.json, **changes}.items() if value is not None}
    outcome = gw.ask(put(request, json=body))
    assert outcome.kind is OutcomeKind.FAILED
    assert outcome.detail.startswith("400 Bad Request")
    assert not gw.web.placed


# ---------------------------------------------------------------- video


def video(gw: Desk, **fields: Any) -> DialOrder:
    own = {"to_number": "2_MX4made-up", "from_number": "", "command_id": "v-1", "at": gw.now}
    return DialOrder(**{**own, "media_url": URLS.media("vonage", "T1"), **fields})


def test_a_session_is_connected_and_left(desk: MakeDesk) -> None:
    gw = desk(product="video")
    outcome = gw.ask(gw.http.dial(video(gw, parameters={"tenant": "t1"}), URLS))
    call = gw.web.placed.popleft()
    assert (outcome.call_id, call.stage) == (call.call_id, Stage.CONNECTING)
    fake = gw.open(call)
    assert (fake.product, fake.headers) == ("video", {"gw_call": "v-1", "gw_data": "tenant=t1"})
    ref = CallRef(carrier="vonage", call_id=outcome.call_id, extra=outcome.extra)
    assert gw.ask(gw.http.hang_up(ref)).kind is OutcomeKind.DONE
    gw.close(call, fake, "rest")
    assert (call.end, call.ended_by, gw.order, gw.web.violations) == ("completed", "bot", [], [])
    assert gw.ask(gw.http.hang_up(ref)).kind is OutcomeKind.ALREADY_OVER


def test_a_project_of_the_old_kind(desk: MakeDesk) -> None:
    gw = desk(FakeVonageWeb(ANSWER, project=True), product="video")
    assert gw.ask(gw.http.dial(video(gw, parameters={"token": "T1==abc"}), URLS)).kind is OutcomeKind.DONE
    request = put(gw.http.dial(video(gw, parameters={"token": "T1==abc"}), URLS))
    for headers in ({}, {"x-opentok-auth": "a.b.c"}, request.authorize(gw.now - 600)):
        assert gw.ask(put(request, authorize=lambda now, headers=headers: headers)).detail == "401 Unauthorized"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"token": "eyJ.eyJ.x"}, 403),
        ({"sessionId": "another"}, 403),
        ({"websocket": {"uri": "wss://gw.example.com/x"}}, 400),  # one way
        ({"websocket": {"uri": "wss://x", "bidirectional": True}}, 400),
        ({"websocket": {"uri": "wss://gw.example.com/x", "bidirectional": True, "audioRate": 44100}}, 400),
        ({"websocket": {"uri": "wss://gw.example.com/x", "bidirectional": True, "streams": []}}, 400),
        ({"websocket": {"uri": "wss://gw.example.com/x", "bidirectional": True, "rate": 8000}}, 400),
        ({"websocket": None}, 400),
    ],
)
def test_connections_that_no_session_takes(desk: MakeDesk, changes: dict[str, Any], status: int) -> None:
    gw = desk(product="video")
    request = put(gw.http.dial(video(gw), URLS))
    assert gw.ask(put(request, json={**request.json, **changes})).detail.startswith(str(status))
    assert not gw.web.placed


# ---------------------------------------------------------------- faults, over HTTP


def over_http(web: FakeVonageWeb, act: Callable[[str], Any]) -> Any:
    """`act` with the base of the fake's REST interface, in a thread, while the fake serves."""

    async def run() -> Any:
        async with CarrierServer([web]) as server:
            return await asyncio.to_thread(act, server.base("vonage"))

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (None, "done"),
        (Fault(what="slow", delay_s=0.05), "done"),
        (Fault(what="status", status=429, retry_after_s=2), "retry"),
        (Fault(what="status", status=500), "retry"),
        (Fault(what="status", status=503, takes_effect=True), "retry"),
        (Fault(what="over"), "already-over"),
        (Fault(what="credentials"), "failed"),
        (Fault(what="reset"), "reset"),
        (Fault(what="silent"), "silent"),
        (Fault(what="reset", route="transfer"), "done"),
    ],
)
def test_faults(monkeypatch: pytest.MonkeyPatch, fault: Fault | None, expected: str) -> None:

    web = FakeVonageWeb(ANSWER)
    web.faults += [fault] if fault is not None else []
    call = web.place(CallPlan(), time.time())

    def act(base: str) -> str:
        gw = Desk(web, monkeypatch, api_base=base)
        request = put(gw.http.hang_up(CallRef(carrier="vonage", call_id=call.call_id)))
        headers = dict(request.authorize(time.time()))
        timeout = httpx.Timeout(30.0, read=1.0 if expected == "silent" else 30.0)
        try:
            reply = httpx.request(
                request.method, request.url, json=request.json, headers=headers, timeout=timeout, trust_env=False
            )
        except httpx.TimeoutException:
            return "silent"
        except httpx.TransportError:
            return "reset"
        outcome = gw.http.outcome(request, reply.status_code, dict(reply.headers), reply.content)
        if fault is not None and fault.retry_after_s is not None:
            assert outcome.retry_after_s == fault.retry_after_s
        return outcome.kind.value

    assert over_http(web, act) == expected
    took = fault is None or fault.takes_effect or fault.what == "slow" or fault.route == "transfer"
    assert call.over is took
    assert [seen.route for seen in web.seen] == ["hang-up"]


# ---------------------------------------------------------------- everything at once


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_a_call_comes_to_one_end(desk: MakeDesk, seed: int) -> None:
    rng = random.Random(seed)
    gw = desk()
    options = {"disorder": rng.random() < 0.5, "duplicates": rng.random() < 0.5}
    call = gw.web.place(CallPlan(options=options), gw.now)
    gw.serve(call)
    for _ in range(12):
        gw.now += rng.random()
        if call.over:
            break
        if call.stage is not Stage.CONNECTING:
            gw.web.caller_gone(call, gw.now)
            gw.serve(call)
            continue
        if rng.random() < 0.3:
            gw.web.media_refused(call, rng.choice([0, 403, 503]), gw.now)
            gw.serve(call)
            continue
        fake = gw.open(call)
        what = rng.choice(["caller", "crash", "hang-up", "transfer", "gateway"])
        if what == "hang-up":
            gw.ask(gw.http.hang_up(gw.ref(call)))
        elif what == "transfer":
            transfer = gw.http.transfer(gw.ref(call), "+447700900002", URLS)
            assert transfer is not None
            gw.ask(transfer.request)
        elif what == "gateway":
            gw.over.add(call.call_id)
        gw.close(call, fake, "rest" if what in ("hang-up", "transfer") else what)
    assert call.over
    assert gw.web.violations == []
    finals = [event for event in gw.told(CallStatus) if event.phase.final]
    assert [event.phase for event in finals] == [CallPhase.COMPLETED]
    assert gw.tokens <= 3
