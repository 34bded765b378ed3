"""Calls that we place, where the carrier's reply to the order is lost, late or a refusal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.simulator.script import HangUp as CallerHangsUp
from gateway.simulator.script import Script, at
from gateway.simulator.web import Fault
from gateway.store import PROVISIONAL, CallFilter, CallKey, Caps, HangUp, Standing, StoredCall
from gateway.store_sql import SqlStore
from tests.endtoend.actors import ending, saying
from tests.endtoend.served import until
from tests.gateway.rig import Running, running
from webhooks.base import InboundCall

ORDER = {"carrier": "twilio", "to_number": "+14155550177", "from_number": "+14155550100"}
WAITS = Script().then(at(12.0), CallerHangsUp())


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


@pytest.mark.parametrize("carrier", ["twilio", "telnyx", "plivo", "vonage"])
def test_an_order_whose_reply_is_lost_is_one_call_when_it_comes(carrier: str, tmp_path: Path) -> None:
    async def main() -> None:
        bots = {"hello": saying(0.3, then=ending())}
        async with running(tmp_path, carriers=(carrier,), bots=bots) as it, it.client() as api:
            it.web(carrier).faults.append(Fault(what="reset", route="dial", takes_effect=True))
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
