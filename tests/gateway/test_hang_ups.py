"""Transfers whose outcome the carrier does not tell, against the fake carrier's REST interface over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from gateway import registry
from gateway.carrier_api import CarrierApi, Patience
from gateway.hangups import HangUps, Rhythm
from gateway.simulator.base import CallPlan
from gateway.simulator.web import FakeWeb, Fault
from gateway.simulator.webcaller import CarrierServer
from gateway.store import CallKey, HangUp, StoredCall, Worker
from gateway.store_sql import SqlStore
from tests.matrix.desk import carrier_settings, web_of
from webhooks.base import CallRef, Urls

TARGET = "+15550199"
SCALE = 0.02


def handed_over(
    fault: Fault | None, lives: Callable[[float], bool], times: int = 1
) -> tuple[FakeWeb, list[bool], StoredCall]:
    """A call is handed over, `times` times; `lives` says whether its stream stands so many seconds later."""

    async def main() -> tuple[FakeWeb, list[bool], StoredCall]:
        web = web_of("telnyx-control", answer_url="https://gw.example.com/telnyx/answer")
        call = web.place(CallPlan(), time.time())
        call.answered_at = time.time()
        web.faults = [fault] if fault is not None else []
        store, told = SqlStore(), list[bool]()
        async with CarrierServer([web]) as rest:
            http = registry.carrier_http("telnyx")(carrier_settings(web, rest.base("telnyx")))
            api = CarrierApi({"telnyx": http}, patience=Patience(scale=SCALE))
            hang_ups = HangUps(store, api, Worker("here"), rhythm=Rhythm(scale=SCALE))
            await store.open()
            await api.open()
            await hang_ups.open()
            began = time.monotonic()
            hang_ups.lives = lambda key: lives(time.monotonic() - began)
            extra = {"control": "call_control", "call_leg_id": "leg"}
            ref = CallRef(carrier="telnyx", call_id=call.call_id, account_id="", extra=extra)
            for _ in range(times):
                plan = http.transfer(ref, TARGET, Urls(base="https://gw.example.com"))
                assert plan is not None
                decided = asyncio.Event()

                def tell(known: bool, decided: asyncio.Event = decided) -> None:
                    told.append(known)
                    decided.set()

                hang_ups.transfer(http, ref, TARGET, plan, tell)
                async with asyncio.timeout(20):
                    await decided.wait()
            await hang_ups.close(10.0)
            stored = await store.call(CallKey("telnyx", call.call_id))
            await api.close()
            await store.close()
        assert stored is not None
        return web, told, stored

    return asyncio.run(main())


SILENT = Fault(what="silent", route="transfer", times=1000)


@pytest.mark.parametrize(
    "lives",
    [
        pytest.param(lambda after_s: False, id="gone before it was asked"),
        pytest.param(lambda after_s: after_s < 3 * 10 * SCALE, id="closed by us, as nothing came"),
    ],
)
def test_a_stream_that_the_carrier_did_not_close_is_no_sign_of_a_transfer(lives: Callable[[float], bool]) -> None:
    web, told, stored = handed_over(SILENT, lives)
    assert told == [False]
    assert stored.hang_up in (HangUp.DONE, HangUp.ALREADY_OVER)
    assert all(call.over for call in web.calls.values())


def test_a_stream_that_the_carrier_closes_meanwhile_is_one() -> None:
    _, told, stored = handed_over(SILENT, lambda after_s: after_s < 0.1)
    assert told == [True]
    assert stored.hang_up is HangUp.LEFT_TO_CARRIER


def test_the_same_transfer_again_is_the_same_command() -> None:
    web, told, _ = handed_over(None, lambda after_s: True, times=2)
    assert told == [True, True]
    assert [list(call.handed_to) for call in web.calls.values()] == [[TARGET]]
