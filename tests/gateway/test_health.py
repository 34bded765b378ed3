"""Admission by health: refused while live calls would suffer, taken again when that is surely over."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from gateway.health import CALM_S, LOOK_S, Health
from gateway.simulator.base import CallPlan
from gateway.store import CallKey
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
