"""Calls that were let in just before the gateway was told to stop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway import snapshot
from gateway.session import CallSession
from gateway.simulator.base import CallPlan, fake_carrier
from gateway.simulator.script import HangUp, Script, at
from gateway.store import CallKey
from tests.endtoend import actors
from tests.endtoend.served import run, serve, until
from tests.gateway.rig import Running, running
from tests.gateway.test_genesys_call import tone


def drained_when_answered(it: Running) -> list[asyncio.Task[None]]:
    """Drains as soon as a webhook was answered. Gives the drain."""
    drains: list[asyncio.Task[None]] = []
    put = it.gateway.expected.put

    def answered(*call: Any) -> None:
        put(*call)
        it.gateway.calls.draining = True
        drains.append(asyncio.create_task(it.gateway.drain()))

    it.gateway.expected.put = answered  # type: ignore[method-assign]
    return drains


def test_a_call_whose_webhook_was_answered_before_the_drain_is_taken(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, gateway="drain_s = 60") as it:
            drains = drained_when_answered(it)
            first = await it.call("twilio", Script().then(at(0.5), HangUp()))
            assert (first.ok, first.refused, first.ended_by) == (True, None, "caller")
            await drains[0]
            second = await it.call("twilio", Script().then(at(0.5), HangUp()))
            assert second.refused is not None or not second.heard
            assert it.gateway.metrics.started["twilio"] == 1

    run(main())


def test_a_call_that_does_not_come_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setattr(snapshot, "COMES_S", 0.3)
        async with running(tmp_path, gateway="drain_s = 3600") as it:
            drains = drained_when_answered(it)
            it.gateway.expected.put(CallKey("twilio", "CA1"), it.gateway.snapshot, 30.0)
            await drains[0]

    run(main())


def test_a_monitor_that_opens_while_the_gateway_drains_is_asked_to_come_again() -> None:
    async def main() -> None:
        plan = CallPlan(options={"session": "monitor", "agent": tone(1.0, 1000.0)})
        fake = fake_carrier("genesys")(plan)
        async with serve({"bot": actors.echo}) as served:
            calls = served.gateway.calls
            add = calls.add
            drains: list[asyncio.Task[Any]] = []

            def added(session: CallSession) -> None:
                add(session)
                assert session.core.state.value == "opening"
                drains.append(asyncio.get_running_loop().create_task(calls.drain(60.0)))

            calls.add = added  # type: ignore[method-assign]
            calling = asyncio.create_task(served.call(fake, Script().then(at(20.0), HangUp())))
            await until(lambda: served.records)
            (record,) = served.records
            assert (record.reason, record.counters["handed_over"]) == ("reconnect", 1)
            assert await drains[0] == 0
            await calling

    run(main())
