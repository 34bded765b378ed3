"""What really goes to the carriers' REST interfaces, how often, and what is said of it in the log."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import random
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import httpx
import pytest
import respx
import structlog

from gateway import carrier_api
from gateway.carrier_api import CarrierApi
from gateway.simulator.vonage_tokens import made_up_key
from media.secret import Secret
from webhooks.base import (
    CallPhase,
    CallRef,
    CarrierHttp,
    CarrierRequest,
    DialOrder,
    Outcome,
    OutcomeKind,
    Purpose,
    Urls,
)
from webhooks.exotel import ExotelHttp, ExotelSettings
from webhooks.plivo import PlivoHttp, PlivoSettings
from webhooks.telnyx import TelnyxHttp, TelnyxSettings
from webhooks.twilio import TwilioHttp, TwilioSettings
from webhooks.vonage import VonageHttp, VonageSettings

SECRETS = {name: f"made-up-{name.lower()}-0123456789" for name in ("TWILIO", "TELNYX", "PLIVO", "EXOTEL")}
URLS = Urls(base="https://gw.example.com/in")
THEM, US = "+14155550177", "+14155550100"
TWILIO_ID, TWILIO = "CA" + "1" * 32, "AC" + "0" * 32
LEG = "63f61863-4a51-4f6b-86e1-46edebcf9356"
FORM, JSON = "application/x-www-form-urlencoded", "application/json"
ORDER = DialOrder(to_number=THEM, from_number=US, ring_s=30, media_url="wss://gw.example.com/in/media/t")


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(f"{name}_SECRET", value)
    monkeypatch.setenv("VONAGE_KEY", made_up_key())


def secret(name: str) -> Secret:
    return Secret(env=f"{name}_SECRET")


MAKE: Mapping[str, Callable[[], CarrierHttp]] = {
    "twilio": lambda: TwilioHttp(TwilioSettings(account_sid=TWILIO, auth_token=secret("TWILIO"))),
    "telnyx": lambda: TelnyxHttp(
        TelnyxSettings(verify_signatures=False, api_key=secret("TELNYX"), connection_id="14", account_id="acc-1")
    ),
    "telnyx-control": lambda: TelnyxHttp(
        TelnyxSettings(verify_signatures=False, api_key=secret("TELNYX"), connection_id="14", control="call_control")
    ),
    "plivo": lambda: PlivoHttp(PlivoSettings(auth_id="MAXXXXXXXXXXXXXXXXXX", auth_token=secret("PLIVO"))),
    "vonage": lambda: VonageHttp(
        VonageSettings(application_id="app-1", private_key=Secret(env="VONAGE_KEY"), verify_signatures=False)
    ),
    "vonage-video": lambda: VonageHttp(
        VonageSettings(
            application_id="app-1", private_key=Secret(env="VONAGE_KEY"), verify_signatures=False, product="video"
        )
    ),
    "exotel": lambda: ExotelHttp(
        ExotelSettings(account_sid="acme1", api_key=secret("EXOTEL"), api_token=secret("EXOTEL"))
    ),
}
REF = {
    "twilio": CallRef(carrier="twilio", call_id=TWILIO_ID, account_id=TWILIO),
    "telnyx": CallRef(carrier="telnyx", call_id="v3:AAA", account_id="acc-1"),
    "telnyx-control": CallRef(carrier="telnyx", call_id="v3:AAA", extra={"control": "call_control"}),
    "plivo": CallRef(carrier="plivo", call_id=LEG),
    "vonage": CallRef(carrier="vonage", call_id=LEG, extra={"region_url": "https://api-eu-3.vonage.com"}),
    "vonage-video": CallRef(carrier="vonage", call_id=LEG, extra={"session_id": "2_MX", "connection_id": LEG}),
    "exotel": CallRef(carrier="exotel", call_id="b6768d9e"),
}


@cache
def http_of(name: str) -> CarrierHttp:
    return MAKE[name]()


def the_request(name: str, purpose: Purpose) -> CarrierRequest | None:
    http, ref = http_of(name), REF[name]
    if purpose is Purpose.TRANSFER:
        plan = http.transfer(ref, THEM, URLS)
        return plan.request if plan is not None else None
    made: Mapping[Purpose, Callable[[], CarrierRequest | None]] = {
        Purpose.HANG_UP: lambda: http.hang_up(ref),
        Purpose.DIAL: lambda: http.dial(dataclasses.replace(ORDER, command_id="o-1", at=1767225600.0), URLS),
        Purpose.FETCH: lambda: http.fetch(ref),
    }
    return made[purpose]()


TEXML = "https://api.telnyx.com/v2/texml/Accounts/acc-1/Calls"
CONTROL = "https://api.telnyx.com/v2/calls/v3:AAA/actions"
PLIVO = "https://api.plivo.com/v1/Account/MAXXXXXXXXXXXXXXXXXX/Call"
VONAGE = f"https://api-eu-3.vonage.com/v1/calls/{LEG}"
VIDEO = "https://video.api.vonage.com/v2/project/app-1"
ACCOUNT = f"https://api.twilio.com/2010-04-01/Accounts/{TWILIO}"
EXOTEL = "https://api.in.exotel.com/v1/Accounts/acme1/Calls"
# Carrier and purpose: the request line, the body's type, and whether it may be sent twice.
HARMLESS, ONCE = True, False
WIRE: Mapping[tuple[str, Purpose], tuple[str, str, bool]] = {
    ("twilio", Purpose.HANG_UP): (f"POST {ACCOUNT}/Calls/{TWILIO_ID}.json", FORM, HARMLESS),
    ("twilio", Purpose.TRANSFER): (f"POST {ACCOUNT}/Calls/{TWILIO_ID}.json", FORM, ONCE),
    ("twilio", Purpose.DIAL): (f"POST {ACCOUNT}/Calls.json", FORM, ONCE),
    ("twilio", Purpose.FETCH): (f"GET {ACCOUNT}/Calls/{TWILIO_ID}.json", "", HARMLESS),
    ("telnyx", Purpose.HANG_UP): (f"POST {CONTROL}/hangup", JSON, HARMLESS),
    ("telnyx", Purpose.TRANSFER): (f"POST {TEXML}/v3:AAA", FORM, ONCE),
    ("telnyx", Purpose.DIAL): (f"POST {TEXML}", FORM, ONCE),
    ("telnyx", Purpose.FETCH): (f"GET {TEXML}/v3:AAA", "", HARMLESS),
    ("telnyx-control", Purpose.HANG_UP): (f"POST {CONTROL}/hangup", JSON, HARMLESS),
    ("telnyx-control", Purpose.TRANSFER): (f"POST {CONTROL}/transfer", JSON, HARMLESS),
    ("telnyx-control", Purpose.DIAL): ("POST https://api.telnyx.com/v2/calls", JSON, HARMLESS),
    ("telnyx-control", Purpose.FETCH): ("GET https://api.telnyx.com/v2/calls/v3:AAA", "", HARMLESS),
    ("plivo", Purpose.HANG_UP): (f"DELETE {PLIVO}/{LEG}/", "", HARMLESS),
    ("plivo", Purpose.TRANSFER): (f"POST {PLIVO}/{LEG}/", JSON, ONCE),
    ("plivo", Purpose.DIAL): (f"POST {PLIVO}/", JSON, ONCE),
    ("plivo", Purpose.FETCH): (f"GET {PLIVO}/{LEG}/?status=live", "", HARMLESS),
    ("vonage", Purpose.HANG_UP): (f"PUT {VONAGE}", JSON, HARMLESS),
    ("vonage", Purpose.TRANSFER): (f"PUT {VONAGE}", JSON, ONCE),
    ("vonage", Purpose.DIAL): ("POST https://api.nexmo.com/v1/calls", JSON, ONCE),
    ("vonage", Purpose.FETCH): (f"GET {VONAGE}", "", HARMLESS),
    ("vonage-video", Purpose.HANG_UP): (f"DELETE {VIDEO}/session/2_MX/connection/{LEG}", "", HARMLESS),
    ("vonage-video", Purpose.DIAL): (f"POST {VIDEO}/connect", JSON, ONCE),
    ("exotel", Purpose.DIAL): (f"POST {EXOTEL}/connect.json", FORM, ONCE),
    ("exotel", Purpose.FETCH): (f"GET {EXOTEL}/b6768d9e.json", "", HARMLESS),
}
NONE = [
    ("exotel", Purpose.HANG_UP),  # closing the socket
    ("exotel", Purpose.TRANSFER),
    ("vonage-video", Purpose.TRANSFER),
    ("vonage-video", Purpose.FETCH),
]
requests = pytest.mark.parametrize(("name", "purpose"), WIRE, ids=lambda one: getattr(one, "value", one))


@pytest.fixture(scope="module", autouse=True)
def _opened() -> Iterator[None]:
    """One client for all: making its TLS context takes long."""
    with asyncio.Runner() as runner:
        api = CarrierApi({})
        runner.run(api.open())
        ask_by.append(lambda http, request: runner.run(api.ask(request, http=http)))
        yield
        ask_by.clear()
        runner.run(api.close())


ask_by: list[Callable[[CarrierHttp, CarrierRequest], Outcome]] = []


def asked(
    http: CarrierHttp, request: CarrierRequest, *replies: httpx.Response | Exception
) -> tuple[Outcome, list[httpx.Request], list[Any]]:
    """What came of it, what went over the wire, and the log. The last one of `replies` is given again and again."""

    waiting = list(replies)

    def reply(_: httpx.Request) -> httpx.Response:
        one = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if isinstance(one, Exception):
            raise one
        return one

    with respx.mock(assert_all_called=False) as mock, structlog.testing.capture_logs() as log:
        route = mock.route().mock(side_effect=reply)
        outcome = ask_by[0](http, request)
        return outcome, [call.request for call in route.calls], list(log)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds between attempts, which do not pass; without the jitter."""
    waited: list[float] = []
    sleep = asyncio.sleep

    async def no_sleep(seconds: float) -> None:
        waited.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", no_sleep)
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    return waited


def certain(name: str, purpose: Purpose) -> CarrierRequest:
    request = the_request(name, purpose)
    assert request is not None
    return request


# ---------------------------------------------------------------- over the wire


@requests
def test_each_request_goes_once_with_its_credentials_and_none_of_it_into_the_log(name: str, purpose: Purpose) -> None:
    request = certain(name, purpose)
    outcome, (sent,), log = asked(http_of(name), request, httpx.Response(200, json={"status": "completed"}))
    line, content_type, again = WIRE[name, purpose]
    assert f"{sent.method} {sent.url}" == line
    assert sent.headers.get("content-type", "") == content_type
    assert bool(sent.content) == bool(content_type)
    assert request.repeatable is again
    assert sent.headers["user-agent"] == "telephony-gateway"
    scheme, _, shown = sent.headers["authorization"].partition(" ")
    if scheme == "Basic":
        shown = base64.b64decode(shown).decode().partition(":")[2]
    assert scheme in ("Basic", "Bearer")
    assert shown in SECRETS.values() or shown.count(".") == 2  # a secret, or a token signed with one

    (said,) = log
    assert said["event"] == "carrier_api.asked"
    assert (said["carrier"], said["purpose"], said["outcome"]) == (request.carrier, purpose.value, outcome.kind.value)
    for value in (shown, sent.headers["authorization"], THEM[1:], US[1:], "BEGIN"):
        assert value not in str(log)
        assert value not in repr(outcome)


@pytest.mark.parametrize(("name", "purpose"), NONE, ids=lambda one: getattr(one, "value", one))
def test_what_a_carrier_has_no_request_for(name: str, purpose: Purpose) -> None:
    assert the_request(name, purpose) is None


TWIML = '<?xml version="1.0" encoding="UTF-8"?><Response><Dial>+14155550177</Dial></Response>'


@pytest.mark.parametrize(
    ("name", "purpose", "body"),
    [
        ("twilio", Purpose.HANG_UP, {"Status": ["completed"]}),
        ("twilio", Purpose.TRANSFER, {"Twiml": [TWIML]}),
        (
            "twilio",
            Purpose.DIAL,
            {
                "To": [THEM],
                "From": [US],
                "Url": ["https://gw.example.com/in/twilio/answer?gw_order=o-1"],
                "Method": ["POST"],
                "StatusCallback": ["https://gw.example.com/in/twilio/status"],
                "StatusCallbackMethod": ["POST"],
                "StatusCallbackEvent": ["initiated", "ringing", "answered", "completed"],
                "Timeout": ["30"],
            },
        ),
        (
            "exotel",
            Purpose.DIAL,
            {
                "From": [THEM],
                "CallerId": [US],
                "StreamUrl": ["wss://gw.example.com/in/media/t"],
                "StreamType": ["bidirectional"],
                "CallType": ["trans"],
                "TimeOut": ["30"],
                "CustomField": ["o-1"],
                "StatusCallback": ["https://gw.example.com/in/exotel/status"],
                "StatusCallbackEvents[]": ["answered", "terminal"],
                "StatusCallbackContentType": ["application/json"],
            },
        ),
    ],
    ids=["twilio hang-up", "twilio transfer", "twilio dial", "exotel dial"],
)
def test_forms_with_repeated_names_as_they_are_sent(name: str, purpose: Purpose, body: Mapping[str, Any]) -> None:
    """The other carriers' bodies are checked beside what makes them: tests/webhooks."""
    _, (sent,), _ = asked(http_of(name), certain(name, purpose), httpx.Response(200, json={}))
    assert dict(httpx.QueryParams(sent.content.decode()).multi_items()).keys() == body.keys()
    said = httpx.QueryParams(sent.content.decode())
    assert {field: said.get_list(field) for field in said} == body


# ---------------------------------------------------------------- again, or not


@requests
@pytest.mark.parametrize(
    "trouble",
    [
        httpx.Response(500),
        httpx.Response(503),
        httpx.Response(429),
        httpx.ConnectError("no route"),
        httpx.ReadError("reset"),
        httpx.ReadTimeout("silence"),
    ],
    ids=["500", "503", "429", "connect", "reset", "silence"],
)
def test_it_is_repeated_only_where_that_is_harmless(
    name: str, purpose: Purpose, trouble: httpx.Response | Exception, waits: list[float]
) -> None:
    request = certain(name, purpose)
    outcome, sent, log = asked(http_of(name), request, trouble)
    assert outcome.kind is OutcomeKind.RETRY
    assert (len(sent), len(log)) == ((3, 1) if WIRE[name, purpose][2] else (1, 1))
    assert waits == ([0.3, 0.6] if request.repeatable else [])
    assert len({one.content for one in sent}) == 1  # the same command, by the same id
    assert outcome.in_doubt is isinstance(trouble, httpx.ReadError | httpx.ReadTimeout)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize("name", ["twilio", "telnyx", "plivo", "vonage"])
def test_a_redirect_is_not_followed(name: str, status: int, waits: list[float]) -> None:
    """It would carry the credentials elsewhere."""
    elsewhere = httpx.Response(status, headers={"location": "https://elsewhere.example/"})
    outcome, sent, _ = asked(http_of(name), certain(name, Purpose.HANG_UP), elsewhere)
    assert (outcome.kind, len(sent)) == (OutcomeKind.FAILED, 1)


@pytest.mark.parametrize(
    ("said", "waited"),
    [("2", 2.0), ("0", 0.3), ("86400", 5.0), ("-3", 0.3), ("soon", 0.3), ("nan", 0.3), ("inf", 0.3)],
)
def test_what_retry_after_asks_for_is_waited_within_reason(said: str, waited: float, waits: list[float]) -> None:
    for name in ("twilio", "telnyx", "plivo", "vonage"):
        waits.clear()
        later = httpx.Response(429, headers={"retry-after": said})
        outcome, sent, _ = asked(http_of(name), certain(name, Purpose.HANG_UP), later, httpx.Response(204))
        assert (outcome.kind, len(sent), waits) == (OutcomeKind.DONE, 2, [waited])


def test_an_order_that_may_have_come_stays_in_doubt(waits: list[float]) -> None:
    """Telnyx takes the same order once by its id; but whether it has it, no later trouble tells."""
    request = certain("telnyx-control", Purpose.DIAL)
    outcome, sent, _ = asked(http_of("telnyx-control"), request, httpx.ReadError("reset"), httpx.ConnectError("gone"))
    assert (outcome.kind, len(sent), outcome.in_doubt) == (OutcomeKind.RETRY, 3, True)
    placed = httpx.Response(200, json={"data": {"call_control_id": "v3:BBB"}})
    outcome, _, _ = asked(http_of("telnyx-control"), request, httpx.ReadError("reset"), placed)
    assert (outcome.kind, outcome.call_id, outcome.in_doubt) == (OutcomeKind.DONE, "v3:BBB", False)


@pytest.mark.parametrize(("status", "in_doubt"), [(500, False), (502, True), (503, False), (504, True), (400, False)])
def test_a_proxy_before_the_carrier_does_not_know_what_became_of_an_order(
    status: int, in_doubt: bool, waits: list[float]
) -> None:
    outcome, sent, _ = asked(http_of("twilio"), certain("twilio", Purpose.DIAL), httpx.Response(status, text="<html>"))
    assert (outcome.kind is OutcomeKind.DONE, len(sent), outcome.in_doubt) == (False, 1, in_doubt)


# ---------------------------------------------------------------- a call that is over


def telnyx_error(code: str) -> Any:
    return {"errors": [{"code": code, "title": "x"}]}


OVER: Mapping[str, list[tuple[int, Any]]] = {
    "twilio": [(404, {"code": 20404}), (400, {"code": 21220})],
    "telnyx": [(422, telnyx_error("90018"))],
    "telnyx-control": [(422, telnyx_error("90018"))],
    "plivo": [(404, {"error": "not found"})],
    "vonage": [(400, {}), (404, {}), (409, {})],
    "vonage-video": [(404, {})],
}
LIKE_IT = [
    (status, body)
    for status in (400, 401, 403, 404, 405, 409, 410, 422)
    for body in (
        {"code": 20404},
        {"code": 21220},
        {"code": 20003},
        telnyx_error("90018"),
        telnyx_error("10005"),
        telnyx_error("90015"),
        {"error": "not found"},
        {},
    )
]


@pytest.mark.parametrize("name", OVER)
def test_what_says_that_a_call_is_over_and_nothing_else_does(name: str, waits: list[float]) -> None:
    http, request = http_of(name), certain(name, Purpose.HANG_UP)
    for status, body in OVER[name]:
        outcome, sent, _ = asked(http, request, httpx.Response(status, json=body))
        assert (outcome.kind, len(sent)) == (OutcomeKind.ALREADY_OVER, 1)
    by_status_alone = {status for status, _ in OVER[name]} if name in ("plivo", "vonage", "vonage-video") else set()
    for status, body in LIKE_IT:
        if (status, body) not in OVER[name] and status not in by_status_alone:
            outcome = http.outcome(request, status, {}, json.dumps(body).encode())
            assert outcome.kind is OutcomeKind.FAILED, (status, body)


@pytest.mark.parametrize("name", [*OVER, "exotel"])
def test_no_order_is_ever_taken_for_over(name: str) -> None:
    http, request = http_of(name), certain(name, Purpose.DIAL)
    for status, body in LIKE_IT:
        assert http.outcome(request, status, {}, json.dumps(body).encode()).kind is OutcomeKind.FAILED


# ---------------------------------------------------------------- limits


@requests
def test_credentials_go_to_the_carriers_own_hosts(name: str, purpose: Purpose) -> None:
    request = certain(name, purpose)
    for url in (
        request.url.replace("https://", "http://"),
        request.url.replace("https://", "https://x.", 1) if name != "twilio" else "https://twilio.com/",
        request.url.replace(".com/", ".com.evil.example/"),
        request.url.replace(".com/", ".com:8443/"),
        request.url.replace("https://", "https://evil.example\\@"),
        request.url.replace("https://", "https://evil.example/"),
        "https://127.0.0.1/",
        "https://[::1",
    ):
        assert not http_of(name).may_send_to(url)
    outcome, sent, log = asked(http_of(name), dataclasses.replace(request, url=url), httpx.Response(200))
    assert (outcome.kind, outcome.detail, sent) == (OutcomeKind.FAILED, "host not allowed", [])
    assert [said["event"] for said in log] == ["carrier_api.host_refused"]


def test_credentials_that_cannot_be_had_are_named_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(now: float) -> Mapping[str, str]:
        raise ValueError("made-up-secret")

    request = dataclasses.replace(certain("plivo", Purpose.HANG_UP), authorize=gone)
    outcome, sent, log = asked(http_of("plivo"), request, httpx.Response(204))
    assert (outcome.kind, outcome.detail, sent) == (OutcomeKind.FAILED, "no credentials: ValueError", [])
    assert "made-up-secret" not in str(log)


def test_a_reply_that_is_too_long_is_none() -> None:
    long = httpx.Response(200, content=b"x" * (carrier_api.MAX_REPLY + 1))
    outcome, sent, _ = asked(http_of("twilio"), certain("twilio", Purpose.FETCH), long)
    assert (outcome.kind, len(sent)) == (OutcomeKind.FAILED, 1)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"<html>", b"\xff\xfe", b'{"data":5,"Call":[],"status":{}}'])
@requests
def test_whatever_a_reply_says_it_is_read(name: str, purpose: Purpose, body: bytes, waits: list[float]) -> None:
    """Also rubbish with a good status: a hang-up is done then, and an order has placed no call that is known.
    Plivo is asked for live calls only, so its good status alone says that there is one."""
    outcome, _, log = asked(http_of(name), certain(name, purpose), httpx.Response(200, content=body))
    assert outcome.kind in (OutcomeKind.DONE, OutcomeKind.FAILED)
    assert (outcome.kind is OutcomeKind.DONE) or purpose in (Purpose.DIAL, Purpose.FETCH)
    assert outcome.call_id == ""
    assert outcome.phase is (CallPhase.ANSWERED if (name, purpose) == ("plivo", Purpose.FETCH) else None)
    assert [said["event"] for said in log] == ["carrier_api.asked"]


def test_so_many_at_once_and_no_more() -> None:
    at_once: list[int] = []

    async def main() -> None:
        api = CarrierApi({"plivo": http_of("plivo")}, patience=carrier_api.Patience(parallel=3))
        under_way = 0

        async def reply(_: httpx.Request) -> httpx.Response:
            nonlocal under_way
            under_way += 1
            at_once.append(under_way)
            for _turn in range(5):
                await asyncio.sleep(0)
            under_way -= 1
            return httpx.Response(204)

        with respx.mock() as mock:
            mock.route().mock(side_effect=reply)
            await api.open()
            request = certain("plivo", Purpose.HANG_UP)
            outcomes = await asyncio.gather(*(api.ask(request) for _ in range(12)))
            await api.close()
        assert {outcome.kind for outcome in outcomes} == {OutcomeKind.DONE}
        assert api.counters == {("plivo", "hang-up", "done"): 12}

    asyncio.run(main())
    assert (len(at_once), max(at_once)) == (12, 3)


def test_an_answer_comes_in_time_even_if_the_carrier_gives_none() -> None:
    async def main() -> tuple[Outcome, Outcome]:
        http = http_of("twilio")
        api = CarrierApi({"twilio": http}, patience=carrier_api.Patience(scale=0.01))

        async def silence(_: httpx.Request) -> httpx.Response:
            await asyncio.sleep(3600)
            raise AssertionError

        with respx.mock(assert_all_called=False) as mock:  # it is never over
            mock.route().mock(side_effect=silence)
            await api.open()
            request = certain("twilio", Purpose.HANG_UP)
            by_itself = await api.ask(request)
            sooner = await api.ask(request, within_s=1.0)
            await api.close()
        return by_itself, sooner

    for outcome in asyncio.run(main()):
        assert (outcome.kind, outcome.in_doubt) == (OutcomeKind.RETRY, True)
        assert "no answer in" in outcome.detail or "nothing better in 1 s" in outcome.detail
