"""Calls that we place, where the carrier's reply to the order is lost, late or a refusal."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import respx

from gateway.app import Gateway
from gateway.control import RING_MARGIN_S, Order
from gateway.hangups import Rhythm
from gateway.settings import BotEntry, GatewaySettings, NumberEntry, Settings
from gateway.simulator.plivo_web import FakePlivoWeb
from gateway.simulator.script import HangUp as CallerHangsUp
from gateway.simulator.script import Script, at
from gateway.simulator.vonage_tokens import made_up_key
from gateway.simulator.web import Fault
from gateway.store import PROVISIONAL, CallFilter, CallKey, Caps, HangUp, Standing, StoredCall
from gateway.store_sql import SqlStore
from media.secret import GivenSecret
from tests.endtoend.actors import ending, saying
from tests.endtoend.served import until
from tests.gateway.rig import Running, running
from tests.matrix.desk import Desk
from webhooks.base import CallPhase, InboundCall, Urls
from webhooks.exotel import DIAL_S
from webhooks.vonage import VonageSettings

ORDER = {"carrier": "twilio", "to_number": "+14155550177", "from_number": "+14155550100"}
WAITS = Script().then(at(90.0), CallerHangsUp())


async def records(it: Running) -> list[StoredCall]:
    return list((await it.gateway.store.records(CallFilter())).calls)


async def record_when(it: Running, true: Callable[[StoredCall], bool]) -> StoredCall:
    """The only record, as soon as it is as it should be, or at last."""
    for _ in range(600):
        found = await records(it)
        if len(found) == 1 and true(found[0]):
            break
        await asyncio.sleep(0.05)
    (record,) = await records(it)
    return record


LOST = Fault(what="reset", route="dial", takes_effect=True)
LOST_BEHIND_A_PROXY = Fault(what="status", status=504, route="dial", takes_effect=True)


@pytest.mark.parametrize(
    ("carrier", "fault"),
    [*((carrier, LOST) for carrier in ("twilio", "telnyx", "plivo", "vonage")), ("twilio", LOST_BEHIND_A_PROXY)],
)
def test_an_order_whose_reply_is_lost_is_one_call_when_it_comes(carrier: str, fault: Fault, tmp_path: Path) -> None:
    async def main() -> None:
        bots = {"hello": saying(0.3, then=ending())}
        async with running(tmp_path, carriers=(carrier,), bots=bots) as it, it.client() as api:
            it.web(carrier).faults.append(replace(fault))
            reply = await api.post("/calls", json={**ORDER, "carrier": carrier})
            assert reply.status_code == 504
            assert "may come" in reply.json()["detail"]
            (waiting,) = await records(it)
            assert (waiting.standing, waiting.direction) == (Standing.DIALLING, "outbound")
            assert (await it.gateway.store.usage(time.time())).reserved == 1
            report = await it.pick_up(carrier, WAITS)
            assert (report.ended_by, report.problems) == ("bot", [])

            over = (HangUp.DONE, HangUp.ALREADY_OVER)
            record = await record_when(it, lambda one: one.hang_up in over and one.ended is not None)
            assert record.hang_up in over
            assert (record.key.call_id, record.direction, record.bot) == (report.call_id, "outbound", "hello")
            usage = await it.gateway.store.usage(time.time())
            assert (usage.reserved, usage.live) == (0, 0)

    asyncio.run(main())


@pytest.mark.parametrize("who", ["human", "busy"])
def test_a_call_may_have_another_id_than_its_order(who: str, tmp_path: Path) -> None:
    """Plivo's reply names the order; that the call has the same id was seen, and is promised nowhere."""

    async def main() -> None:
        bots = {"hello": saying(0.3, then=ending())}
        async with running(tmp_path, carriers=("plivo",), bots=bots) as it, it.client() as api:
            web = it.web("plivo")
            assert isinstance(web, FakePlivoWeb)
            web.own_request_ids = True
            reply = await api.post("/calls", json={**ORDER, "carrier": "plivo"})
            assert reply.status_code == 201, reply.text
            report = await it.pick_up("plivo", WAITS, who=who)
            assert report.problems == []
            record = await record_when(it, lambda one: one.ended is not None)
            assert reply.json()["call_id"] != record.key.call_id == report.call_id
            assert (record.direction, record.bot) == ("outbound", "hello")
            assert record.phase is (CallPhase.COMPLETED if who == "human" else CallPhase.BUSY)
            usage = await it.gateway.store.usage(time.time())
            assert (usage.reserved, usage.live) == (0, 0)

    asyncio.run(main())


def test_an_order_that_is_refused_is_over_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as it, it.client() as api:
            it.web("twilio").faults.append(Fault(what="status", status=500, route="dial"))
            assert (await api.post("/calls", json=ORDER)).status_code == 502
            (record,) = await records(it)
            assert record.standing is Standing.ENDED
            assert record.reason.startswith("not-placed: HTTP 500")
            assert (await it.gateway.store.usage(time.time())).reserved == 0

    asyncio.run(main())


def test_what_the_carrier_says_of_the_order_is_kept_for_the_hang_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, carriers=("vonage",)) as it, it.client() as api:
            it.web("vonage")
            reply = await api.post("/calls", json={**ORDER, "carrier": "vonage"})
            assert reply.status_code == 201, reply.text
            stored = await it.gateway.store.call(CallKey("vonage", reply.json()["call_id"]))
            assert stored is not None
            assert stored.extra["conversation_uuid"].startswith("CON-")
            await it.pick_up("vonage", WAITS, who="busy")

    asyncio.run(main())


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo", "vonage"])
def test_an_order_that_never_became_a_call_is_written_off(carrier: str, tmp_path: Path) -> None:
    """The process died before the reply, or nobody picked up: the carrier is not asked about a name of ours."""

    async def main() -> None:
        before = SqlStore(f"sqlite:///{tmp_path}/gateway.db")
        await before.open()
        order = InboundCall(
            carrier=carrier, call_id=f"{PROVISIONAL}0123", to_number="+14155550177", direction="outbound"
        )
        await before.admit(order, Caps(), time.time() - 100, bot="echo", ttl_s=75.0)
        await before.close()
        more = f"store = 'sqlite:///{tmp_path}/gateway.db'"
        async with running(tmp_path, carriers=(carrier,), gateway=more) as it:
            web = it.web(carrier)
            await until(lambda: it.gateway.hang_ups.counters["orphans"] == 1, 20)
            record = await record_when(it, lambda one: one.ended is not None)
            assert (record.standing, record.reason, record.hang_up) == (Standing.NEVER_CAME, "not-placed", HangUp.NONE)
            assert not web.seen

    asyncio.run(main())


# ---------------------------------------------------------------- Vonage Video: the stream is there before the reply

VIDEO = "https://video.api.vonage.com/v2/project/app-1"


class Participant:
    """Our Audio Connector in a session, as Vonage's server has it: it opens the socket, and then replies."""

    def __init__(self, one: Desk, starts_first: bool) -> None:
        self._one, self.starts_first = one, starts_first
        self._hello: Mapping[str, str] = {}
        self._to_us: asyncio.Queue[Any] = asyncio.Queue()
        self.accepted, self.closed = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def connect(self, request: httpx.Request) -> httpx.Response:
        said = json.loads(request.content)["websocket"]
        path = urlsplit(said["uri"]).path
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "wss",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"gw.example.com")],
            "client": ("127.0.0.1", 40000),
            "server": ("127.0.0.1", 8080),
            "subprotocols": [],
        }
        self._to_us.put_nowait({"type": "websocket.connect"})
        self._task = asyncio.create_task(self._one.app(scope, self._to_us.get, self._heard))
        await self.accepted.wait()
        self._hello = {"event": "websocket:connected", "content-type": "audio/l16;rate=16000", **said["headers"]}
        if self.starts_first:
            self.begin()
            await until(lambda: any(session.core.bot for session in self._one.gateway.calls), 20)
        return httpx.Response(200, json={"id": "b0a5a8c7", "connectionId": "e9f8c166"})

    def begin(self) -> None:
        self.say(self._hello)

    def say(self, message: Mapping[str, str]) -> None:
        self._to_us.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    async def disconnect(self, request: httpx.Request) -> httpx.Response:
        self.say({"event": "websocket:disconnected"})
        self._to_us.put_nowait({"type": "websocket.disconnect", "code": 1000})
        return httpx.Response(204)

    async def _heard(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "websocket.accept":
            self.accepted.set()
        elif message["type"] == "websocket.close":
            self._to_us.put_nowait({"type": "websocket.disconnect", "code": 1000})
            self.closed.set()

    async def gone(self) -> None:
        assert self._task is not None
        await asyncio.wait_for(self._task, 20)


@pytest.mark.parametrize("starts_first", [True, False], ids=["started before the reply", "after it"])
def test_a_session_that_is_joined_is_left_by_its_connection(starts_first: bool, tmp_path: Path) -> None:
    async def main() -> None:
        settings = VonageSettings(
            product="video", application_id="app-1", private_key=GivenSecret(made_up_key()), verify_signatures=False
        )
        builds = {"hello": saying(0.3, then=ending())}
        gateway = Gateway(
            Settings(
                gateway=GatewaySettings(public_url="https://gw.example.com"),
                carriers={"vonage": settings},
                bots={"hello": BotEntry(name="hello", use="echo")},
                numbers={"default": NumberEntry(key="default", bot="hello")},
            ),
            builds,
            store=SqlStore(f"sqlite:///{tmp_path}/calls.db"),
            rhythm=Rhythm(report_s=0.1, look_s=0.1),
        )
        with respx.mock(assert_all_called=True) as mock:
            await gateway.start()
            there = Participant(Desk(gateway, []), starts_first)
            mock.post(f"{VIDEO}/connect").mock(side_effect=there.connect)
            left = mock.delete(f"{VIDEO}/session/2_MX/connection/e9f8c166").mock(side_effect=there.disconnect)
            key = await gateway.desk.place(
                Order(carrier="vonage", to_number="2_MX", from_number=""), Urls(base="https://gw.example.com")
            )
            assert key == CallKey("vonage", "e9f8c166")
            # It has its place, by the name that Vonage gave it, for as long as it lives: nobody takes it for lost.
            (session,) = gateway.calls
            assert session.key == key
            assert session.core.info.call_id == "e9f8c166"
            if not starts_first:
                there.begin()
            await there.gone()
            assert left.call_count == 1
            for _ in range(400):
                (record,) = (await gateway.store.records(CallFilter())).calls
                if record.hang_up is HangUp.DONE and record.ended is not None:
                    break
                await asyncio.sleep(0.05)
            assert (record.key, record.standing, record.hang_up) == (key, Standing.ENDED, HangUp.DONE)
            assert (record.ended_by, record.direction, record.bot) == ("bot", "outbound", "hello")
            assert record.extra["session_id"] == "2_MX"
            assert record.extra["connection_id"] == "e9f8c166"
            usage = await gateway.store.usage(time.time())
            assert (usage.reserved, usage.live) == (0, 0)
            await gateway.stop()

    asyncio.run(main())


def test_what_lets_a_placed_call_in_outlives_its_ringing() -> None:
    """The token is made before the order is, and the slowest carrier takes its time to take one."""
    assert RING_MARGIN_S >= DIAL_S + 10
