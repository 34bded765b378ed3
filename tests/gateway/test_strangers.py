"""Who is not the carrier: the right 4xx, no bot, no call, nothing asked of the carrier, one line that says why."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from bots.base import Build
from bots.echo import Echo
from gateway import answering
from gateway.simulator.base import CallPlan
from gateway.simulator.web import FakeWeb, Tampering, Webhook
from gateway.store import CallFilter
from gateway.tokens import TokenMint
from tests.matrix.desk import Desk, desk, web_of

CARRIERS = ("twilio", "telnyx", "telnyx-control", "plivo", "vonage", "exotel")
FIRST = ("answer", "call.initiated")


@dataclass(frozen=True, slots=True)
class Stranger:
    what: str
    webhook: Webhook
    status: int
    reason: str
    body: bytes | tuple[bytes | float, ...] = b""  # instead of the webhook's own
    event: str = "webhook.not_authentic"


def the_webhook(web: FakeWeb, tampering: Tampering = Tampering.NONE) -> Webhook:
    """The first of a new call."""
    call = web.place(CallPlan(from_number="+14155550123", to_number="+14155550100"), time.time())
    return web.signed(next(one for one in call.webhooks if one.what in FIRST), time.time(), tampering)


# What each scheme says to each. Exotel's scheme covers nothing of what is said.
STATUS = {"vonage": 401}
UNSIGNED_STATUS = {"vonage": 503}  # so that Vonage, if it was Vonage, signs it and sends it again
REASONS = {
    ("twilio", Tampering.UNSIGNED): "no-signature",
    ("twilio", Tampering.FORGED): "bad-signature",
    ("twilio", Tampering.ALTERED): "bad-signature",
    ("telnyx", Tampering.UNSIGNED): "no-signature",
    ("telnyx", Tampering.FORGED): "bad-signature",
    ("telnyx", Tampering.ALTERED): "bad-signature",
    ("telnyx", Tampering.STALE): "stale",
    ("plivo", Tampering.UNSIGNED): "no-signature",
    ("plivo", Tampering.FORGED): "bad-signature",
    ("plivo", Tampering.ALTERED): "bad-signature",
    ("vonage", Tampering.UNSIGNED): "no-signature",
    ("vonage", Tampering.FORGED): "bad-signature",
    ("vonage", Tampering.ALTERED): "body-changed",
    ("vonage", Tampering.STALE): "stale",
    ("exotel", Tampering.UNSIGNED): "no-credentials-shown",
    ("exotel", Tampering.FORGED): "bad-basic",
}


def strangers(web: FakeWeb) -> Iterator[Stranger]:
    status = STATUS.get(web.name, 403)
    for tampering in Tampering:
        if tampering in web.detects:
            answered = UNSIGNED_STATUS.get(web.name, status) if tampering is Tampering.UNSIGNED else status
            yield Stranger(tampering.value, the_webhook(web, tampering), answered, REASONS[web.name, tampering])
    good = replace(the_webhook(web), method="POST")
    huge = replace(good, headers={**good.headers, "content-length": str(answering.MAX_BODY + 1)})
    yield Stranger("too large, and says so", huge, 413, "too-large", event="webhook.refused")
    pieces = (b"x" * answering.MAX_BODY, b"x")
    yield Stranger("too large, without a word", good, 413, "too-large", body=pieces, event="webhook.refused")
    yield Stranger("too slow", good, 408, "too-slow", body=(b"a", 30.0, b"b"), event="webhook.refused")


class Floor:
    """A gateway that counts the bots it builds, and its log."""

    def __init__(self) -> None:
        self.built = 0
        self.bots: dict[str, Build] = {"echo": self._build}

    def _build(self, call: Any) -> tuple[Echo]:
        self.built += 1
        return (Echo(),)

    async def nothing_came_of_it(self, one: Desk) -> None:
        assert self.built == 0
        assert len(one.gateway.calls) == 0
        assert not (await one.gateway.store.records(CallFilter())).calls
        usage = await one.gateway.store.usage(time.time())
        assert (usage.reserved, usage.live) == (0, 0)
        assert not one.web.seen
        assert not one.gateway.metrics.answered


@pytest.mark.parametrize("name", CARRIERS)
def test_who_is_not_the_carrier_gets_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "BODY_S", 0.05)

    async def main() -> None:
        floor, web = Floor(), web_of(name)
        async with desk(tmp_path, [web], bots=floor.bots) as one:
            expected: Counter[str] = Counter()
            for each in strangers(web):
                with structlog.testing.capture_logs() as log:
                    reply = await one.send(replace(each.webhook, body=each.body or each.webhook.body))  # type: ignore[arg-type]
                assert (reply.status, reply.body) == (each.status, b""), each.what
                (said,) = log
                assert (said["event"], said["carrier"], said["reason"]) == (each.event, web.name, each.reason)
                no_secrets(said, each.webhook, web)
                expected[each.reason] += 1
            found = Counter({why: count for (which, _, why), count in one.gateway.metrics.webhooks.items() if which})
            assert found == expected
            await floor.nothing_came_of_it(one)
            # And what is signed is taken, by the same gateway.
            assert (await one.send(the_webhook(web))).status == 200
            assert sum(one.gateway.metrics.answered.values()) == 1

    asyncio.run(main())


def no_secrets(said: Any, webhook: Webhook, web: FakeWeb) -> None:
    text = json.dumps(said, default=str)
    for value in (*web.credentials.values(), "4155550123", "4155550100"):
        assert value not in text
    for header in ("authorization", "x-twilio-signature", "telnyx-signature-ed25519", "x-plivo-signature-v3"):
        assert webhook.headers.get(header) is None or webhook.headers[header] not in text


@pytest.mark.parametrize("name", ["telnyx", "telnyx-control", "plivo", "vonage"])
def test_what_was_shown_once_is_no_second_call(name: str, tmp_path: Path) -> None:
    """The same delivery again is the carrier's own retry, and the same call; elsewhere or later it is a stranger's."""

    async def main() -> None:
        floor, web = Floor(), web_of(name)
        async with desk(tmp_path, [web], bots=floor.bots) as one:
            webhook = the_webhook(web)
            assert (await one.send(webhook)).status == 200
            assert (await one.send(webhook)).status == 200
            assert len((await one.gateway.store.records(CallFilter())).calls) == 1
            later = one.gateway.answering._now() + 60
            one.gateway.answering._now = lambda: later  # a minute later it is too late for a retry
            with structlog.testing.capture_logs() as log:
                reply = await one.send(webhook)
            assert reply.status == 403
            assert [said["reason"] for said in log if said["event"] == "webhook.not_authentic"] == ["replayed"]
            assert len((await one.gateway.store.records(CallFilter())).calls) == 1

    asyncio.run(main())


@pytest.mark.parametrize("name", CARRIERS)
def test_what_is_authentic_and_makes_no_sense_is_a_400(name: str, tmp_path: Path) -> None:
    async def main() -> None:
        floor, web = Floor(), web_of(name)
        async with desk(tmp_path, [web], bots=floor.bots) as one:
            call = web.place(CallPlan(from_number="+14155550123", to_number="+14155550100"), time.time())
            webhook = next(each for each in call.webhooks if each.what in FIRST)
            if webhook.method == "GET":
                webhook = replace(webhook, url=webhook.url.replace("CallSid=", "CallSid=%2F"))
            else:
                webhook = replace(webhook, body=b"[]" if "json" in webhook.headers["content-type"] else b"a=1")
            with structlog.testing.capture_logs() as log:
                reply = await one.send(web.signed(webhook, time.time()))
            assert (reply.status, reply.body) == (400, b"")
            assert [said["event"] for said in log] == ["webhook.unreadable"]
            await floor.nothing_came_of_it(one)

    asyncio.run(main())


# ---------------------------------------------------------------- media sockets


async def upgrade(one: Desk, path: str, headers: dict[str, str] | None = None) -> int:
    """What the upgrade is answered with; 101: it was let in, and then closed by us."""
    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "wss",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"gw.example.com"), *((k.encode(), v.encode()) for k, v in (headers or {}).items())],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 8080),
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    events: list[Any] = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1006}]
    answered: list[Any] = []

    async def receive() -> Any:
        return events.pop(0)

    async def send(message: Any) -> None:
        answered.append(message)

    await one.app(scope, receive, send)
    first = answered[0]
    return 101 if first["type"] == "websocket.accept" else int(first.get("status", 403))


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo", "vonage", "exotel"])
def test_a_socket_without_a_good_token_stays_out(carrier: str, tmp_path: Path) -> None:
    async def main() -> None:
        floor, web = Floor(), web_of(carrier)
        keys: dict[str, Any] = {"plivo": {"handshake_signature": "off"}}.get(carrier, {})
        if carrier in ("twilio", "exotel"):
            keys = {"verify_signatures": False}  # else the handshake itself is signed, and refused before its token
        async with desk(tmp_path, [web], bots=floor.bots, carriers={carrier: keys}) as one:
            mint = one.gateway.mint
            claims: dict[str, Any] = {"to_number": "+14155550100", "call_id": "CA" + "1" * 32, "bot": "echo"}
            other = "plivo" if carrier != "plivo" else "twilio"
            good = mint.mint(carrier, trial=True, **claims)  # a call of which no carrier would have to be asked
            flipped = good[:40] + ("A" if good[40] != "A" else "B") + good[41:]
            for what, token, reason in (
                ("none", "", "malformed"),
                ("rubbish", "!" * 80, "malformed"),
                ("too long", good + "A" * 300, "malformed"),
                ("one character changed", flipped, "forged"),
                ("of another gateway", TokenMint("another secret").mint(carrier, **claims), "forged"),
                ("of another carrier", mint.mint(other, **claims), "forged"),
                ("expired", mint.mint(carrier, ttl_s=-2.0, **claims), "expired"),
            ):
                with structlog.testing.capture_logs() as log:
                    status = await upgrade(one, f"/{carrier}/media/{token}")
                assert status == 403, what
                assert [(said["event"], said["reason"]) for said in log] == [("media.refused", reason)], what
                assert token not in str(log) or not token
                assert log[0].get("call") == (claims["call_id"] if what == "expired" else None), what
            refused = {why: count for (_, why), count in one.gateway.metrics.refused.items()}
            assert refused == {"malformed": 3, "forged": 3, "expired": 1}
            await floor.nothing_came_of_it(one)

            # A good one is good once; Plivo and Exotel repeat their handshakes, for ten seconds.
            assert await upgrade(one, f"/{carrier}/media/{good}") == 101
            again = 101 if carrier in ("plivo", "exotel") else 403
            assert await upgrade(one, f"/{carrier}/media/{good}") == again
            assert floor.built == 0  # neither has said what call it is

    asyncio.run(main())


def test_a_twilio_handshake_is_signed_too(tmp_path: Path) -> None:
    async def main() -> None:
        floor, web = Floor(), web_of("twilio")
        async with desk(tmp_path, [web], bots=floor.bots) as one:
            token = one.gateway.mint.mint("twilio", to_number="+14155550100", call_id="CA" + "1" * 32, bot="echo")
            for headers, reason in (({}, "no-signature"), ({"x-twilio-signature": "A" * 27 + "="}, "bad-signature")):
                with structlog.testing.capture_logs() as log:
                    assert await upgrade(one, f"/twilio/media/{token}", headers) == 403
                assert [(said["event"], said["reason"]) for said in log] == [("media.refused", reason)]
                assert token not in str(log)
            await floor.nothing_came_of_it(one)

    asyncio.run(main())
