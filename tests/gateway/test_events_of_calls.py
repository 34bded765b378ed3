"""What a whole gateway tells of its calls: simulated calls through webhooks, a real receiver."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.simulator.base import CallPlan
from gateway.simulator.script import HangUp, Press, Script, after_bot, at
from gateway.store import Caps
from gateway.store_sql import SqlStore
from tests.endtoend.actors import ending, saying
from tests.endtoend.served import run, until
from tests.gateway.receiver import Receiver
from tests.gateway.rig import Running, running
from webhooks.base import InboundCall

WAITS = Script().then(at(90.0), HangUp())
LEAVES = Script().then(at(0.5), HangUp())


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_EVENTS_SECRET", "a secret of more than sixteen bytes")


@asynccontextmanager
async def told(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[Running, Receiver]]:
    receiver = Receiver()
    async with receiver.listening():
        events = f'[events]\nurl = "{receiver.url}"\nsecret = {{ env = "TEST_EVENTS_SECRET" }}\n'
        async with running(tmp_path, more=events + options.pop("more", ""), **options) as it:
            yield it, receiver


def kinds(receiver: Receiver) -> list[str]:
    return [kind for kind, _ in receiver.told]


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo", "exotel", "vonage"])
def test_a_call_from_its_beginning_to_its_end(tmp_path: Path, carrier: str) -> None:
    async def main() -> None:
        bots = {"hello": saying(0.3, then=ending("completed"))}
        async with told(tmp_path, carriers=(carrier,), bots=bots) as (it, receiver):
            report = await it.call(carrier, WAITS, plan=CallPlan(parameters={}))
            assert report.problems == []
            await until(lambda: len(receiver.taken) == 3, 60)
        assert kinds(receiver) == ["call.started", "call.answered", "call.ended"]
        assert len({call for _, call in receiver.told}) == 1
        started, answered, ended = (delivery.event for delivery in receiver.taken)
        assert started["call"]["bot"] == answered["call"]["bot"] == ended["call"]["bot"] == "hello"
        assert started["call"]["to_number"].removeprefix("+") == "14155550100"
        record = ended["call"]
        assert (record["ended_by"], record["reason"], record["standing"]) == ("bot", "completed", "ended")
        assert record["hang_up"] == ("none" if carrier == "exotel" else "done")
        assert record["ended"] >= record["answered"] >= record["created"]

    run(main())


def test_pressed_digits_are_counted_and_not_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with told(tmp_path, bots={"hello": saying(0.2)}) as (it, receiver):
            await it.call("twilio", Script().then(after_bot(0.1), Press("739164820537")).then(at(6.0), HangUp()))
            await until(lambda: "call.ended" in kinds(receiver))
        ended = next(delivery for delivery in receiver.taken if delivery.event["kind"] == "call.ended")
        assert ended.event["call"]["counters"]["digits"] == 12
        assert not any(b"739164820537" in delivery.body for delivery in receiver.deliveries)

    run(main())


def test_a_call_that_is_handed_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with told(tmp_path) as (it, receiver), it.client() as api:
            caller = asyncio.create_task(it.call("twilio", WAITS))
            await until(lambda: "call.answered" in kinds(receiver))
            (live,) = (await api.get("/calls/live")).json()["calls"]
            await api.post(f"/calls/twilio/{live['call_id']}/transfer", json={"target": "+15550199"})
            await caller
            await until(lambda: "call.ended" in kinds(receiver))
        assert kinds(receiver) == ["call.started", "call.answered", "call.transferred", "call.ended"]
        assert receiver.taken[2].event["target"] == "+15550199"
        assert receiver.taken[3].event["call"]["reason"] == "transferred"

    run(main())


def test_calls_that_are_turned_away(tmp_path: Path) -> None:
    async def main() -> None:
        async with told(tmp_path, gateway="max_calls = 1") as (it, receiver):
            caller = asyncio.create_task(it.call("twilio", WAITS))
            await until(lambda: "call.answered" in kinds(receiver))
            second = await it.call("twilio", WAITS)
            assert second.turned_away
            (session,) = it.gateway.calls
            session.core.end("test")
            await caller
            await until(lambda: kinds(receiver).count("call.ended") == 1)
            await until(lambda: "call.refused" in kinds(receiver))
            await asyncio.sleep(0.3)
        assert sorted(kinds(receiver)) == ["call.answered", "call.ended", "call.refused", "call.started"]
        refused = next(delivery.event for delivery in receiver.taken if delivery.event["kind"] == "call.refused")
        assert (refused["reason"], refused["call"]["bot"]) == ("full", "echo")

    run(main())


def test_a_placed_call_that_nobody_takes(tmp_path: Path) -> None:
    async def main() -> None:
        async with told(tmp_path) as (it, receiver), it.client() as api:
            order = {"carrier": "twilio", "to_number": "+14155550177", "from_number": "+14155550100"}
            assert (await api.post("/calls", json=order)).status_code == 201
            await it.pick_up("twilio", WAITS, who="busy")
            await until(lambda: len(receiver.taken) == 2)
        assert kinds(receiver) == ["call.started", "call.ended"]
        record = receiver.taken[1].event["call"]
        assert (record["phase"], record["direction"], record["answered"]) == ("busy", "outbound", None)

    run(main())


def test_a_caller_who_leaves_and_what_is_counted(tmp_path: Path) -> None:
    async def main() -> None:
        async with told(tmp_path) as (it, receiver):
            await it.call("twilio", LEAVES)
            await until(lambda: len(receiver.taken) == 3)
            await until(lambda: it.gateway.events.counters["delivered"] == 3)
            async with httpx.AsyncClient(trust_env=False) as http:
                metrics = (await http.get(f"{it.url}/metrics")).text
            assert 'gateway_events_total{result="delivered"} 3.0' in metrics
        assert receiver.taken[2].event["call"]["ended_by"] == "caller"

    run(main())


def test_a_call_that_another_process_left_behind(tmp_path: Path) -> None:
    """Its webhook was answered, its socket never came, and whoever answered is gone."""

    async def main() -> None:
        path = f"sqlite:///{tmp_path}/gateway.db"
        before = SqlStore(path)
        await before.open()
        call = InboundCall(carrier="twilio", call_id="CA" + "0" * 32, account_id="AC1", to_number="+14155550100")
        await before.admit(call, Caps(), time.time() - 60, bot="echo", ttl_s=30.0)
        await before.close()
        async with told(tmp_path, gateway=f'store = "{path}"') as (_, receiver):
            await until(lambda: receiver.taken, 60)
            await asyncio.sleep(0.5)
        assert receiver.told == [("call.ended", call.call_id)]
        assert receiver.taken[0].event["call"]["standing"] == "never-came"

    run(main())
