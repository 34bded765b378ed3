"""Calls through webhooks over real sockets, against a small gateway made for the purpose."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
import pytest
import uvicorn

from gateway.public_url import Addressing
from gateway.registry import serializer_class
from gateway.simulator.base import CallPlan
from gateway.simulator.caller import Limits
from gateway.simulator.exotel_web import FakeExotelWeb
from gateway.simulator.report import CallReport
from gateway.simulator.script import HangUp, Script, after_bot, at
from gateway.simulator.twilio_web import FakeTwilioWeb
from gateway.simulator.web import FakeWeb, Fault, Tampering
from gateway.simulator.webcaller import CarrierServer, Way, answer_placed_call, place_call_through_webhooks
from media.frames import MarkFrame, OutputAudioRawFrame
from media.secret import Secret
from serializers.base import WireOptions
from webhooks.base import (
    CallPhase,
    CallRef,
    CallStatus,
    CarrierHttp,
    CarrierRequest,
    DialOrder,
    HttpAnswer,
    NotAuthentic,
    Outcome,
    Refusal,
    StreamOffer,
    Urls,
    WebRequest,
)
from webhooks.exotel import ExotelHttp, ExotelSettings
from webhooks.twilio import TwilioHttp, TwilioSettings

PUBLIC = "https://gw.example.com:8443/prefix"
QUICK = Limits(connect_s=20, ready_s=20, longest_s=40, closing_s=5)
NOISE = np.random.default_rng(1).normal(0, 3000.0, 4000).clip(-32000, 32000).astype("<i2").tobytes()  # 0.5 s


@dataclass
class Small:
    """A gateway of one carrier and one bot, which speaks for half a second and hangs up by what the carrier has."""

    http: CarrierHttp
    addressing: Addressing
    refusal: Refusal | None = None
    wish: str | None = None
    bot: Callable[[Small, CallRef], Awaitable[None]] | None = None  # instead of hanging up, once it was heard
    delay_s: float = 0.0  # before each answer
    outcomes: list[Outcome] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    calls: dict[str, str] = field(default_factory=dict)  # token -> call id

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self._webhook(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._media(scope, receive, send)

    async def _webhook(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        await asyncio.sleep(self.delay_s)
        request = WebRequest(
            method=scope["method"],
            url=self.addressing.url(scope),
            headers=_headers(scope),
            body=body,
            received=time.time(),
        )
        route = scope["path"].split("/")[2]
        answer = self._answer(route, request, Urls(base=self.addressing.base(scope)))
        headers = {"content-type": answer.content_type, **answer.headers, "content-length": str(len(answer.body))}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": pairs})
        await send({"type": "http.response.body", "body": answer.body})

    def _answer(self, route: str, request: WebRequest, urls: Urls) -> HttpAnswer:
        try:
            self.http.authenticate(route, request)
        except NotAuthentic as exc:
            self.refused.append(exc.reason)
            return HttpAnswer(status=exc.status)
        handled = self.http.handle(route, request, urls)
        self.events += handled.events
        if handled.asks_after is not None:
            return self.http.after(handled.asks_after, self.wish)
        if (call := handled.incoming) is not None:
            token = f"t{len(self.calls)}"
            self.calls[token] = call.call_id
            stream = StreamOffer(media_url=urls.media(self.http.carrier, token), urls=urls, parameters=call.parameters)
            handled = self.http.refuse(call, self.refusal) if self.refusal else self.http.offer(call, stream)
        return handled.answer or HttpAnswer(status=204)

    async def _media(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        call_id = self.calls.pop(scope["path"].rpartition("/")[2], None)
        try:
            self.http.authenticate_upgrade(
                WebRequest(method="GET", url=self.addressing.url(scope), headers=_headers(scope))
            )
        except NotAuthentic as exc:
            self.refused.append(exc.reason)
            call_id = None
        if call_id is None:
            await send({"type": "websocket.close", "code": 1008})
            return
        await send({"type": "websocket.accept"})
        serializer = serializer_class(self.http.carrier).for_call(WireOptions())

        async def say(*frames: Any) -> None:
            for frame in frames:
                for data in serializer.encode(frame):
                    await send({"type": "websocket.send", "text" if isinstance(data, str) else "bytes": data})

        while (message := await receive())["type"] == "websocket.receive":
            for frame in serializer.decode(message.get("text") or message["bytes"]):
                match type(frame).__name__:
                    case "CallStartedFrame":
                        await say(OutputAudioRawFrame(NOISE, 8000, 1), MarkFrame("bye"))
                    case "PlayedFrame":
                        ref = CallRef(carrier=self.http.carrier, call_id=call_id)
                        if self.bot is not None:
                            await self.bot(self, ref)
                        elif (request := self.http.hang_up(ref)) is not None:
                            self.outcomes.append(await self.ask(request))
                        else:
                            await send({"type": "websocket.close", "code": 1000})

    async def ask(self, request: CarrierRequest, patience: float | httpx.Timeout = 30.0) -> Outcome:
        assert self.http.may_send_to(request.url)
        headers = {**request.headers, **request.authorize(time.time())}
        content = None
        if request.form is not None:
            headers["content-type"] = "application/x-www-form-urlencoded"
            content = urlencode(request.form).encode()
        async with httpx.AsyncClient(trust_env=False, timeout=patience) as http:
            reply = await http.request(request.method, request.url, headers=headers, content=content)
        names = {name.lower(): value for name, value in reply.headers.items()}
        return self.http.outcome(request, reply.status_code, names, reply.content)


def _headers(scope: Any) -> dict[str, str]:
    return {name.decode().lower(): value.decode() for name, value in scope["headers"]}


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    config = uvicorn.Config(app, host="127.0.0.1", port=0, lifespan="off", log_config=None, ws="websockets-sansio")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@pytest.fixture
def web() -> FakeTwilioWeb:
    return FakeTwilioWeb(f"{PUBLIC}/twilio/answer?campaign=a%20b", status_url=f"{PUBLIC}/twilio/status")


def twilio(web: FakeWeb, base: str, monkeypatch: pytest.MonkeyPatch) -> TwilioHttp:
    monkeypatch.setenv("T_TOKEN", web.credentials["auth_token"])
    account = web.credentials["account_sid"]
    return TwilioHttp(TwilioSettings(account_sid=account, auth_token=Secret(env="T_TOKEN"), api_base=base))


@asynccontextmanager
async def rig(web: FakeWeb, monkeypatch: pytest.MonkeyPatch, **options: Any) -> AsyncIterator[tuple[Small, Way]]:
    """A gateway behind a proxy that takes the prefix off."""
    async with CarrierServer([web]) as rest:
        small = Small(twilio(web, rest.base("twilio"), monkeypatch), Addressing(PUBLIC), **options)
        async with serving(small) as url:
            yield small, Way(gateway_url=url, public_url=PUBLIC)


def run(main: Awaitable[CallReport]) -> CallReport:
    async def limited() -> CallReport:
        async with asyncio.timeout(100):
            return await main

    return asyncio.run(limited())


def whats(report: CallReport) -> list[str]:
    return [f"{step.who} {step.what} {step.status}" for step in report.http]


def test_a_call_from_the_webhook_to_the_rest_hang_up(web: FakeTwilioWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> CallReport:
        async with rig(web, monkeypatch) as (small, way):
            report = await place_call_through_webhooks(web, way, Script(), plan=CallPlan(), limits=QUICK)
            assert [outcome.detail for outcome in small.outcomes] == ["HTTP 200"]
            assert not small.refused
            return report

    report = run(main())
    assert report.ok, report.problems
    assert (report.ended_by, report.end_reason, report.turned_away) == ("bot", "hang-up", "")
    assert report.heard_s == pytest.approx(0.5, abs=0.01)
    assert sorted(whats(report)) == [
        "rest hang-up 200",
        "webhook after 200",
        "webhook answer 200",
        "webhook status completed 204",
        "webhook stream-started 204",
        "webhook stream-stopped 204",
    ]
    first = report.http[0]
    assert (first.what, first.t < 0, first.ms > 0) == ("answer", True, True)
    rest = next(step for step in report.http if step.who == "rest")
    assert 0.45 < rest.t < 10  # once the last word was heard
    assert report.to_dict()["http"][0]["what"] == "answer"
    [call] = web.calls.values()
    assert call.plan.from_number == "+14155550101"
    assert call.media is not None
    assert call.media.plan.parameters == {"campaign": "a b"}


def test_the_caller_hangs_up_first(web: FakeTwilioWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> CallReport:
        async with rig(web, monkeypatch) as (_, way):
            return await place_call_through_webhooks(web, way, Script().then(at(0.2), HangUp()), limits=QUICK)

    report = run(main())
    assert report.ok, report.problems
    assert report.ended_by == "caller"
    assert not any(step.who == "rest" for step in report.http)


@pytest.mark.parametrize("tampering", [Tampering.UNSIGNED, Tampering.FORGED, Tampering.ALTERED])
def test_forged_webhooks(web: FakeTwilioWeb, monkeypatch: pytest.MonkeyPatch, tampering: Tampering) -> None:
    async def main() -> CallReport:
        async with rig(web, monkeypatch) as (small, way):
            report = await place_call_through_webhooks(web, way, Script(), limits=QUICK, tampering=tampering)
            assert len(small.refused) == 2  # answer, status
            return report

    report = run(main())
    assert report.turned_away == "failed: 11200: HTTP 403"
    assert report.heard == b""


def test_a_caller_who_is_turned_away(web: FakeTwilioWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> CallReport:
        async with rig(web, monkeypatch, refusal=Refusal(reason="full")) as (_, way):
            return await place_call_through_webhooks(web, way, Script(), limits=QUICK)

    report = run(main())
    assert report.ok, report.problems
    assert (report.turned_away, report.ended_by, report.duration_s) == ("busy", "bot", 0.0)


def test_a_transfer(web: FakeTwilioWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hand_over(small: Small, ref: CallRef) -> None:
        transfer = small.http.transfer(ref, "+14155550123", Urls(base=PUBLIC))
        assert transfer is not None
        assert transfer.request is not None
        small.outcomes.append(await small.ask(transfer.request))

    async def main() -> CallReport:
        async with rig(web, monkeypatch, bot=hand_over) as (_, way):
            return await place_call_through_webhooks(web, way, Script(), limits=QUICK)

    report = run(main())
    assert report.ok, report.problems
    assert (report.handed_to, report.ended_by, report.end_reason) == (["+14155550123"], "bot", "transfer")


def test_a_call_that_the_gateway_places(web: FakeTwilioWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> CallReport:
        async with rig(web, monkeypatch) as (small, way):
            order = DialOrder(to_number="+14155550123", from_number="+14155550100", detect_machine=True)
            request = small.http.dial(order, Urls(base=PUBLIC))
            assert request is not None
            callee = asyncio.create_task(answer_placed_call(web, way, Script(), who="machine", limits=QUICK))
            await asyncio.sleep(0)
            placed = await small.ask(request)
            report = await callee
            assert report.call_id == placed.call_id
            phases = [event.phase for event in small.events if isinstance(event, CallStatus)]
            queued, ringing, answered = CallPhase.QUEUED, CallPhase.RINGING, CallPhase.ANSWERED
            assert phases == [queued, ringing, answered, CallPhase.COMPLETED]
            return report

    report = run(main())
    assert report.ok, report.problems
    assert "webhook answered by machine_start 204" in whats(report)


@pytest.mark.parametrize("who", ["busy", "no-answer"])
def test_a_call_that_nobody_takes(web: FakeTwilioWeb, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    async def main() -> CallReport:
        async with rig(web, monkeypatch) as (small, way):
            request = small.http.dial(DialOrder(to_number="+1", from_number="+2"), Urls(base=PUBLIC))
            assert request is not None
            await small.ask(request)  # before anybody looks
            return await answer_placed_call(web, way, Script(), who=who, limits=QUICK)

    assert run(main()).turned_away == who


def test_nobody_is_called() -> None:
    async def main() -> CallReport:
        return await answer_placed_call(
            FakeTwilioWeb(), Way(gateway_url="http://127.0.0.1:1"), Script(), limits=Limits(connect_s=0.05)
        )

    with pytest.raises(TimeoutError):
        run(main())


def test_a_gateway_that_is_not_there(web: FakeTwilioWeb) -> None:
    way = Way(gateway_url="http://127.0.0.1:9", public_url=PUBLIC)
    report = run(place_call_through_webhooks(web, way, Script(), limits=QUICK))
    assert report.turned_away == "failed: 11205: no answer"
    assert [step.status for step in report.http if step.what == "answer"] == [0, 0]  # tried twice
    assert not report.ok


def test_a_gateway_that_gives_out_other_peoples_urls(web: FakeTwilioWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> CallReport:
        async with rig(web, monkeypatch) as (small, way):
            small.http.offer = _elsewhere(small.http.offer)  # type: ignore[method-assign]
            return await place_call_through_webhooks(web, way, Script(), limits=QUICK)

    report = run(main())
    assert "the media URL is not the gateway's: wss://evil.example" in report.problems


def _elsewhere(offer: Any) -> Any:
    def changed(call: Any, stream: StreamOffer) -> Any:
        urls = Urls(base="https://evil.example")
        return offer(call, StreamOffer(media_url=urls.media("twilio", "t"), urls=stream.urls))

    return changed


def test_a_carrier_waits_only_so_long(web: FakeTwilioWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTwilioWeb, "answer_timeout_s", 0.1)

    async def main() -> CallReport:
        async with rig(web, monkeypatch, delay_s=0.3) as (_, way):
            return await place_call_through_webhooks(web, way, Script(), limits=QUICK)

    report = run(main())
    assert report.turned_away == "failed: 11205: no answer"


def test_exotel_goes_by_basic_and_by_its_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain, without a public URL: what a developer's machine has."""

    async def main() -> CallReport:
        web = FakeExotelWeb(head=True)
        monkeypatch.setenv("E_PASSWORD", web.credentials["basic_password"])
        user = web.credentials["basic_user"]
        http = ExotelHttp(ExotelSettings(basic_user=user, basic_password=Secret(env="E_PASSWORD")))
        async with serving(Small(http, Addressing(), wish="agent")) as url:
            web.answer_url = f"{url}/exotel/answer"
            return await place_call_through_webhooks(web, Way(gateway_url=url), Script(), limits=QUICK)

    report = run(main())
    assert report.ok, report.problems
    assert (report.ended_by, report.handed_to) == ("bot", ["branch A"])
    assert whats(report) == ["webhook head 200", "webhook answer 200", "webhook passthru completed 200"]


# ---------------------------------------------------------------- the REST server


def hang_up(web: FakeWeb, base: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Small, CarrierRequest]:
    http = twilio(web, base, monkeypatch)
    call = web.place(CallPlan(), time.time())
    request = http.hang_up(CallRef(carrier="twilio", call_id=call.call_id))
    assert request is not None
    return Small(http, Addressing()), request


def test_faults_over_real_http(web: FakeTwilioWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with CarrierServer([web]) as rest:
            base = rest.base("twilio")
            assert base.startswith("http://127.0.0.1:")
            small, request = hang_up(web, base, monkeypatch)
            web.faults = [
                Fault(what="reset"),
                Fault(what="silent"),
                Fault(what="status", status=429, retry_after_s=7),
                Fault(what="slow", delay_s=0.2),
            ]
            with pytest.raises(httpx.NetworkError):
                await small.ask(request)
            with pytest.raises(httpx.ReadTimeout):
                await small.ask(request, httpx.Timeout(30.0, read=1.0))
            limited = await small.ask(request)
            assert limited.retry_after_s == 7.0
            began = time.monotonic()
            done = await small.ask(request)
            assert time.monotonic() - began >= 0.2
            assert done.detail == "HTTP 200"
            again = await small.ask(request)
            assert again.detail == "HTTP 400, code 21220"

    asyncio.run(asyncio.wait_for(main(), 100))
    assert [seen.effective for seen in web.seen] == [False, False, False, True, False]


def test_one_server_for_all_carriers_on_one_connection(web: FakeTwilioWeb) -> None:
    async def main() -> list[int]:
        exotel = FakeExotelWeb()
        async with CarrierServer([web, exotel]) as rest, httpx.AsyncClient(trust_env=False) as http:
            paths = [rest.base("twilio") + "/2010-04-01/x", rest.base("exotel") + "/v1/x", rest.base("nobody") + "/"]
            statuses = [(await http.get(path)).status_code for path in paths]
            statuses.append((await http.head(rest.base("exotel"))).status_code)
            statuses.append((await http.post(rest.base("twilio"), content=b"x" * 100_000)).status_code)
            return statuses

    assert asyncio.run(asyncio.wait_for(main(), 100)) == [401, 401, 404, 401, 401]


def test_rubbish_on_the_wire_hurts_nobody(web: FakeTwilioWeb) -> None:
    async def main() -> int:
        async with CarrierServer([web]) as rest:
            for rubbish in (b"\x16\x03\x01\x00", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n"):
                _, writer = await asyncio.open_connection("127.0.0.1", rest.port)
                writer.write(rubbish)
                await writer.drain()
                writer.close()
            async with httpx.AsyncClient(trust_env=False) as http:
                return (await http.get(rest.base("twilio"))).status_code

    assert asyncio.run(asyncio.wait_for(main(), 100)) == 401


def test_a_script_goes_on_as_ever(web: FakeTwilioWeb, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stay(small: Small, ref: CallRef) -> None:
        pass

    async def main() -> CallReport:
        async with rig(web, monkeypatch, bot=stay) as (_, way):
            return await place_call_through_webhooks(web, way, Script().then(after_bot(0.2), HangUp()), limits=QUICK)

    report = run(main())
    assert report.ok, report.problems
    assert report.ended_by == "caller"
