"""Telnyx says `stop` when a stream ends, also of a call that goes on: which it is is found out, and none stays up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway import registry
from gateway.carrier_api import CarrierApi, Patience
from gateway.hangups import CallControl, HangUps, Rhythm
from gateway.simulator.base import CallPlan
from gateway.simulator.script import HangUp, Script, Step, after_bot
from gateway.simulator.telnyx_web import FakeTelnyxWeb
from gateway.simulator.web import FakeWeb, Stage
from gateway.simulator.webcaller import CarrierServer
from gateway.states import CallState
from gateway.store import CallKey, StoredCall, Worker
from gateway.store import HangUp as HungUp
from gateway.store_sql import SqlStore
from media.call import CallInfo
from tests.endtoend import actors
from tests.endtoend.served import run, until
from tests.gateway.rig import Running, running
from tests.gateway.virtual import VirtualCall
from tests.matrix.desk import carrier_settings, web_of
from webhooks.accounts import Accounts
from webhooks.base import Urls

WAIT_S = 60.0


def called(
    folder: Path, script: Script, meanwhile: Callable[[FakeWeb], None] | None = None
) -> tuple[StoredCall, FakeWeb]:
    """One call, while which `meanwhile` is done as soon as its stream stands; what is stored when all is settled."""

    async def main() -> tuple[StoredCall, FakeWeb]:
        bots, control = {"bot": actors.saying(0.2)}, 'control = "call_control"'
        async with running(folder, carriers=("telnyx",), bots=bots, account=control) as it:
            web = it.web("telnyx")
            assert isinstance(web, FakeTelnyxWeb)
            web.control = "call_control"
            call = asyncio.create_task(it.call("telnyx", script))
            if meanwhile is not None:
                await until(lambda: _speaks(it, web), WAIT_S)
                meanwhile(web)
            report = await call
            key = CallKey("telnyx", report.call_id)
            stored: list[StoredCall | None] = []

            async def settled() -> bool:
                stored[:] = [await it.gateway.store.call(key)]
                return stored[0] is not None and stored[0].ended is not None and stored[0].hang_up is not HungUp.PENDING

            for _ in range(round(WAIT_S / 0.05)):
                if await settled():
                    break
                await asyncio.sleep(0.05)
            assert stored[0] is not None
            return stored[0], web

    return run(main(), limit_s=300)


def _speaks(it: Running, web: FakeWeb) -> bool:
    streaming = any(call.stage is Stage.STREAMING for call in web.calls.values())
    return streaming and any(session.core.output.ledger is not None for session in it.gateway.calls)


def stop_stream(web: FakeWeb) -> None:
    """As a `streaming_stop` of anybody who has the account's key."""
    (call,) = web.calls.values()
    web.cut_stream(call, "streaming_stop")


def test_a_call_that_goes_on_without_its_stream_is_ended(tmp_path: Path) -> None:
    stored, web = called(tmp_path, Script(), stop_stream)
    (call,) = web.calls.values()
    assert (call.over, call.ended_by) == (True, "bot")
    assert (stored.hang_up, stored.hang_up_reason) == (HungUp.DONE, "stream-over")
    assert web.violations == []
    assert [seen.route for seen in web.seen if seen.route == "hang-up"] == ["hang-up"]


def test_a_caller_who_has_hung_up_is_not_hung_up_on(tmp_path: Path) -> None:
    stored, web = called(tmp_path, Script((Step(after_bot(0.2), HangUp()),)))
    (call,) = web.calls.values()
    assert (call.over, call.ended_by) == (True, "caller")
    assert (stored.ended_by, stored.hang_up) == ("caller", HungUp.NONE)
    assert [seen.route for seen in web.seen if seen.route == "hang-up"] == []


@pytest.mark.parametrize(("over", "outcome"), [(False, HungUp.DONE), (True, HungUp.NONE)])
def test_a_carrier_whose_reports_do_not_arrive_is_asked(over: bool, outcome: HungUp) -> None:
    async def main() -> tuple[StoredCall | None, list[str], HangUps]:
        web = web_of("telnyx-control", answer_url="https://gw.example.com/telnyx/answer")
        call = web.place(CallPlan(), time.time())
        call.answered_at = time.time()
        if over:
            web.finish(call, "caller", "completed", time.time())
        store = SqlStore()
        async with CarrierServer([web]) as rest:
            http = registry.carrier_http("telnyx")(carrier_settings(web, rest.base("telnyx")))
            api = CarrierApi({"telnyx": http}, patience=Patience())
            hang_ups = HangUps(store, api, Worker("here"), rhythm=Rhythm(report_s=0.0, look_s=0.05))
            await store.open()
            await api.open()
            await hang_ups.open()
            control = CallControl(hang_ups, http, api, Urls(base=""))
            control.info = CallInfo(call_id=call.call_id, carrier="telnyx")
            control.extra = {"control": "call_control"}
            control.stream_over()
            assert control.hang_up_state is HungUp.NONE
            await hang_ups.close(WAIT_S)
            stored = await store.call(CallKey("telnyx", call.call_id))
            await api.close()
            await store.close()
        return stored, [seen.route for seen in web.seen if seen.route == "hang-up"], hang_ups

    stored, asked, hang_ups = run(main(), limit_s=300)
    assert stored is not None
    assert (stored.hang_up, asked) == (outcome, [] if over else ["hang-up"])
    assert hang_ups.counters["ended_by_itself"] == over
    assert "none" not in hang_ups.counters


@pytest.mark.parametrize("by_us", [False, True])
def test_only_a_stream_that_the_carrier_ended_first_is_a_doubt(by_us: bool) -> None:
    call = VirtualCall("telnyx", actors.saying(0.2))
    call.core.control = control = Asked()
    call.run(0.1)
    if by_us:
        call.core.cancel("operator")
    assert call.core.state is (CallState.ENDING if by_us else CallState.LIVE)
    call.hang_up()
    call.run(1.0)
    assert call.core.over
    assert control.of_it == (["hang_up"] if by_us else ["stream_over"])


class Asked:
    """What a call has asked of its carrier; hanging up is taken, and the carrier's `stop` yet to come."""

    def __init__(self) -> None:
        self.of_it: list[str] = []

    def can_transfer(self, target: str) -> bool:
        return False

    def transfer(self, target: str) -> float | None:
        return None

    def hang_up(self, reason: str) -> float | None:
        self.of_it.append("hang_up")
        return 10.0

    def lost(self) -> None:
        self.of_it.append("lost")

    def stream_over(self) -> None:
        self.of_it.append("stream_over")


@pytest.mark.parametrize(("carrier", "expected"), [("telnyx", True), ("twilio", False)])
def test_several_accounts_are_as_one(carrier: str, expected: bool) -> None:
    settings = carrier_settings(web_of(carrier), "")
    side = registry.carrier_http(carrier)(settings)
    assert side.outlives_stream is expected
    assert Accounts(settings, side, {"sales": side}).outlives_stream is expected
