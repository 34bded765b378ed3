"""Admission by health: refused while live calls would suffer, taken again when that is surely over."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from gateway.health import CALM_S, LOOK_S, Health
from gateway.simulator.base import CallPlan
from gateway.sql import slots
from gateway.store import CallKey, StoreError
from gateway.store_sql import SqlStore
from tests.gateway.rig import running
from tests.matrix.desk import desk, web_of

LIMIT_S = 0.040


class Load:
    """A health whose lateness the test sets, on a clock of its own."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.late, self.t = 0.0, 100.0
        self.health = Health(lambda: self.late, lambda: limit_s)

    def after(self, seconds: float, late: float) -> bool:
        """Whether calls are refused after `seconds` with that lateness, looked at as calls come."""
        self.late = late
        end = self.t + seconds
        while self.t < end:
            self.t += 0.05
            refused = self.health.look(self.t)
        return refused


def test_calls_are_refused_past_the_limit_and_not_at_it() -> None:
    load = Load()
    assert not load.after(5.0, LIMIT_S)
    assert load.after(LOOK_S + 0.1, LIMIT_S + 0.001)


def test_they_are_taken_again_only_when_it_has_been_calm() -> None:
    load = Load()
    assert load.after(1.0, 0.2)
    assert load.after(30.0, 0.7 * LIMIT_S)  # below the limit, and not calm
    assert load.after(CALM_S - 0.5, 0.4 * LIMIT_S)
    assert load.after(0.3, 0.6 * LIMIT_S)  # once more: the calm begins anew
    assert load.after(CALM_S - 0.5, 0.4 * LIMIT_S)
    assert not load.after(1.5, 0.4 * LIMIT_S)
    assert not load.after(5.0, 0.9 * LIMIT_S)  # what was no calm is no overload either


def test_a_lateness_around_the_limit_does_not_flutter() -> None:
    load, changes, before = Load(), 0, False
    for n in range(200):
        now = load.after(0.5, LIMIT_S * (1.1 if n % 2 else 0.9))
        changes, before = changes + (now != before), now
    assert changes == 1


def test_without_a_limit_nobody_is_refused() -> None:
    load = Load(0.0)
    assert not load.after(5.0, 10.0)


async def answers(folder: Path) -> tuple[list[bool], str, int]:
    """Whether three webhooks got a stream: before, and in, an overload; and the first one again, in it.

    Then what the record of the second says, and how many refusals were counted.
    """
    web = web_of("twilio")
    load = Load()
    async with desk(folder, [web]) as one:
        one.gateway.health = Health(lambda: load.late, lambda: LIMIT_S)
        calls = [web.place(CallPlan(to_number="+14155550100"), time.time()) for _ in range(2)]
        webhooks = [web.signed(call.webhooks.popleft(), time.time()) for call in calls]
        got = [b"<Stream" in (await one.send(webhooks[0])).body]
        one.gateway.health = Health(lambda: 0.2, lambda: LIMIT_S)
        got.append(b"<Stream" in (await one.send(webhooks[1])).body)
        got.append(b"<Stream" in (await one.send(webhooks[0])).body)
        stored = await one.gateway.store.call(CallKey("twilio", calls[1].call_id))
        text = one.gateway.metrics.render().decode()
        assert "gateway_overloaded 1.0" in text
        assert stored is not None
        return got, stored.reason, one.gateway.metrics.refused["twilio", "overloaded"]


def test_new_calls_are_turned_away_and_those_let_in_are_not(tmp_path: Path) -> None:
    assert asyncio.run(answers(tmp_path)) == ([True, False, True], "overloaded", 1)


async def until_said(lines: Sequence[Mapping[str, Any]], event: str, times: int) -> None:
    async with asyncio.timeout(60):
        while sum(one["event"] == event for one in lines) < times:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def test_it_is_not_ready_while_the_database_refuses_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with running(tmp_path, lease_s=0.3) as it, it.client() as http:

            async def until(status: int) -> dict[str, Any]:
                async with asyncio.timeout(60):
                    while (reply := await http.get(f"{it.url}/ready")).status_code != status:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                assert (await http.get(f"{it.url}/health")).status_code == 200
                return dict(reply.json())

            assert await until(200) == {"status": "ready"}
            refuses = sqlite3.OperationalError("database or disk is full")
            refuses.sqlite_errorname = "SQLITE_FULL"

            def refused(*anything: Any) -> bool:
                raise OperationalError("INSERT", {}, refuses)

            with monkeypatch.context() as broken, capture_logs() as lines:
                broken.setattr(slots, "renew", refused)
                problem = "the database refused: OperationalError SQLITE_FULL"
                assert await until(503) == {"status": "store", "problem": problem}
                await until_said(lines, "worker.lease_not_renewed", 2)
                assert [one for one in lines if one["event"] == "gateway.store_refuses"] == [
                    {"event": "gateway.store_refuses", "log_level": "error", "problem": problem}
                ]
            assert await until(200) == {"status": "ready"}

    asyncio.run(main())


def test_who_asks_whether_it_is_ready_hears_nothing_of_where_the_database_is() -> None:
    async def main() -> None:
        url = "postgresql+psycopg://gateway:secret@127.0.0.1:9/gateway"
        with pytest.raises(StoreError) as caught:
            await SqlStore(url, wait_s=0.2).open()
        assert "9" in str(caught.value)
        assert caught.value.brief == "the database cannot be reached"

    asyncio.run(main())
