"""What the fake carriers' HTTP sides share: calls, webhooks, faults."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pytest

from gateway.simulator.base import CallPlan, FakeCarrier
from gateway.simulator.twilio import FakeTwilio
from gateway.simulator.twilio_web import FakeTwilioWeb
from gateway.simulator.web import (
    FakeWeb,
    Fault,
    Handler,
    Reply,
    RestReply,
    RestRequest,
    Stage,
    Tampering,
    WebCall,
    Webhook,
    altered,
    fake_web,
    form_webhook,
    json_webhook,
    on_loopback,
)
from gateway.simulator.webcaller import Way


class Toy(FakeWeb):
    """A carrier that says "hello" and takes "take"."""

    name = "twilio"  # for the ids of its calls

    def made_up_credentials(self) -> Mapping[str, str]:
        return {"key": "k1"}

    def sign(self, webhook: Webhook, now: float, credentials: Mapping[str, str]) -> Webhook:
        headers = {**webhook.headers, "key": credentials["key"], "at": f"{now:g}"}
        return Webhook(what=webhook.what, method=webhook.method, url=webhook.url, headers=headers, body=webhook.body)

    def forged_credentials(self) -> Mapping[str, str]:
        return {"key": "k2"}

    def ring(self, call: WebCall, now: float) -> None:
        self.post(call, "hello", "https://gw.example.com/x", {"a": "1"}, wants_document=True)

    def replied(self, call: WebCall, webhook: Webhook, reply: Reply | None, now: float) -> None:
        if reply is None or reply.body != b"take":
            self.violate("say take")
        self.connect(call, "wss://gw.example.com/m", call.plan)

    def routes(self) -> Sequence[tuple[str, str, str, Handler]]:
        return (("POST", r"/calls/(?P<call>\w+)/end", "hang-up", self._end),)

    def authorized(self, request: RestRequest, now: float) -> RestReply | None:
        return None if request.headers.get("key") == "k1" else self.wrong_credentials(request)

    def _end(self, request: RestRequest, match: re.Match[str], now: float) -> RestReply:
        call = self.calls[match["call"]]
        if call.gone:
            return self.already_over(request, "hang-up")
        if request.body:
            self.violate("no body")
        self.hang_up(call, now)
        return RestReply.of(200, {"ok": True})


def streaming(web: FakeWeb) -> WebCall:
    call = web.place(CallPlan(), 1.0)
    web.take_reply(call, call.webhooks.popleft(), Reply(status=200, body=b"take"), 1.0)
    assert call.stage is Stage.CONNECTING
    fake: FakeCarrier = web.media(call)
    fake.opening(0.0)
    web.media_opened(call, fake, 2.0)
    return call


def end(call: WebCall, **headers: str) -> RestRequest:
    return RestRequest(method="POST", target=f"/calls/{call.call_id}/end?x=1", headers={"key": "k1", **headers})


def test_a_call_from_ring_to_end() -> None:
    web = Toy()
    call = streaming(web)
    assert (call.stage, call.answered_at) == (Stage.STREAMING, 2.0)
    assert isinstance(call.media, FakeTwilio)
    assert call.media.call_id == call.call_id
    call.media.hang_up(5.0)
    web.media_closed(call, 6.0)
    assert (call.stage, call.ended_by, call.end) == (Stage.ENDED, "caller", "completed")
    web.finish(call, "bot", "again", 7.0)
    assert call.ended_by == "caller"


def test_a_violation_ends_a_call_that_waits_for_its_document() -> None:
    web = Toy()
    call = web.place(CallPlan(), 1.0)
    web.take_reply(call, call.webhooks.popleft(), Reply(status=200, body=b"leave"), 1.0)
    assert call.end == "failed: say take"
    assert [violation.rule for violation in web.violations] == ["say take"]
    other = web.place(CallPlan(), 1.0)
    web.caller_gone(other, 2.0)
    assert (other.ended_by, other.end) == ("caller", "canceled")


def test_rest_ends_a_call_once_and_through_its_socket() -> None:
    web = Toy()
    call = streaming(web)
    result = web.rest(end(call), 3.0)
    assert result.reply is not None
    assert result.reply.status == 200
    assert (call.stage, call.cut, call.gone) == (Stage.STREAMING, "hang-up", True)
    again = web.rest(end(call), 3.0)
    assert again.reply is not None
    assert again.reply.status == 404
    web.media_closed(call, 4.0)
    assert (call.over, call.ended_by) == (True, "bot")
    assert [(seen.route, seen.status, seen.effective, seen.call_id) for seen in web.seen] == [
        ("hang-up", 200, True, call.call_id),
        ("hang-up", 404, False, call.call_id),
    ]


def test_rest_ends_a_call_that_still_rings() -> None:
    web = Toy()
    call = web.place(CallPlan(), 1.0)
    web.rest(end(call), 1.0)
    assert (call.over, call.ended_by) == (True, "bot")


def test_requests_that_the_carrier_does_not_understand() -> None:
    web = Toy()
    call = streaming(web)
    missing = web.rest(RestRequest(method="GET", target="/nowhere", headers={"key": "k1"}), 1.0)
    body = web.rest(RestRequest(method="POST", target=end(call).target, headers={"key": "k1"}, body=b"x"), 1.0)
    stranger = web.rest(RestRequest(method="POST", target=end(call).target), 1.0)
    assert [r.reply.status for r in (missing, body, stranger) if r.reply] == [404, 400, 401]
    assert [violation.rule for violation in web.violations] == ["no such resource", "no body"]
    assert not call.gone


@pytest.mark.parametrize("takes_effect", [False, True])
@pytest.mark.parametrize("what", ["reset", "silent", "status"])
def test_a_fault_may_come_before_or_after_the_effect(what: str, takes_effect: bool) -> None:
    web = Toy()
    call = streaming(web)
    web.faults.append(Fault(what=what, status=500, takes_effect=takes_effect))
    result = web.rest(end(call), 1.0)
    assert result.reset is (what == "reset")
    assert (result.reply is not None) is (what == "status")
    assert call.gone is takes_effect
    assert [(seen.status, seen.effective, seen.fault) for seen in web.seen] == [
        (500 if what == "status" else 0, takes_effect, what)
    ]
    after = web.rest(end(call), 1.0).reply  # once only
    assert after is not None
    assert after.status == (404 if takes_effect else 200)


def test_faults_of_one_route_of_some_times_and_for_ever() -> None:
    web = Toy()
    call = streaming(web)
    web.faults += [Fault(what="status", route="transfer", times=None), Fault(what="status", status=503, times=2)]
    statuses = []
    for _ in range(3):
        reply = web.rest(end(call), 1.0).reply
        assert reply is not None
        statuses.append(reply.status)
    assert statuses == [503, 503, 200]

    web.faults = [Fault(what="status", status=429, retry_after_s=2.5, times=None)]
    for _ in range(3):
        reply = web.rest(end(call), 1.0).reply
        assert reply is not None
        assert (reply.status, reply.headers) == (429, {"retry-after": "2.5"})


def test_a_slow_carrier_a_call_that_is_over_and_wrong_credentials() -> None:
    web = Toy()
    call = streaming(web)
    web.faults += [Fault(what="over"), Fault(what="credentials"), Fault(what="slow", delay_s=0.7)]
    over, wrong, slow = (web.rest(end(call), 1.0) for _ in range(3))
    assert [r.reply.status for r in (over, wrong, slow) if r.reply] == [404, 401, 200]
    assert [r.delay_s for r in (over, wrong, slow)] == [0.0, 0.0, 0.7]
    assert [seen.effective for seen in web.seen] == [False, False, True]


def test_tampering() -> None:
    web = Toy()
    call = web.place(CallPlan(), 1.0)
    webhook = call.webhooks[0]
    plain, forged = web.signed(webhook, 9000.0), web.signed(webhook, 9000.0, Tampering.FORGED)
    assert (plain.headers["key"], plain.headers["at"]) == ("k1", "9000")
    assert forged.headers["key"] == "k2"
    assert "key" not in web.signed(webhook, 9000.0, Tampering.UNSIGNED).headers
    assert web.signed(webhook, 9000.0, Tampering.STALE).headers["at"] == "5400"
    changed = web.signed(webhook, 9000.0, Tampering.ALTERED)
    assert (changed.headers, changed.body) == (plain.headers, b"a=1&Altered=1")
    assert altered(json_webhook("x", "https://a/b", {"a": 1})).body == b'{"a":1,"altered":1}'
    assert altered(form_webhook("x", "https://a/b?c=1", {}, "GET")).url == "https://a/b?c=1&Altered=1"


def test_fields_of_a_get_go_into_its_query() -> None:
    assert form_webhook("x", "https://a/b?c=1", {"d": "+1"}, "GET").url == "https://a/b?c=1&d=%2B1"
    assert form_webhook("x", "https://a/b", {}, "GET").url == "https://a/b"


@pytest.mark.parametrize(
    ("gateway_url", "public_url", "url", "reached"),
    [
        ("http://127.0.0.1:80", "", "http://127.0.0.1:80/t/answer?a=b", "http://127.0.0.1:80/t/answer?a=b"),
        ("http://127.0.0.1:80/", "", "ws://127.0.0.1:80/t/media/x", "ws://127.0.0.1:80/t/media/x"),
        ("http://127.0.0.1:80", "https://gw.example.com/p/", "https://gw.example.com/p/t", "http://127.0.0.1:80/t"),
        ("http://127.0.0.1:80/p", "https://gw.example.com/p", "wss://gw.example.com/p/m", "ws://127.0.0.1:80/p/m"),
        ("http://127.0.0.1:80", "https://gw.example.com/p", "https://gw.example.com/t", None),
        ("http://127.0.0.1:80", "https://gw.example.com", "https://gw.example.com.evil.example/t", None),
        ("http://127.0.0.1:80", "https://gw.example.com", "http://gw.example.com/t", None),
        ("http://127.0.0.1:80", "", "http://127.0.0.1:8080/t", None),
    ],
)
def test_only_the_gateways_own_urls_are_reached(
    gateway_url: str, public_url: str, url: str, reached: str | None
) -> None:
    assert Way(gateway_url=gateway_url, public_url=public_url).reach(url) == reached


def test_who_has_an_http_side() -> None:
    assert fake_web("twilio") is FakeTwilioWeb
    for name in ("genesys", "nobody", "web", "../x"):
        with pytest.raises(KeyError):
            fake_web(name)


def test_loopback() -> None:
    assert [on_loopback(f"http://{host}/x") for host in ("127.0.0.1:1", "[::1]", "localhost", "10.0.0.1", "h")] == [
        True,
        True,
        True,
        False,
        False,
    ]
