"""The collector of a serving process: what was there at the start is left alone, what calls leave behind is freed."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from gateway import garbage
from gateway.simulator.script import HangUp, Script, Step, at
from tests.endtoend import actors
from tests.endtoend.served import TELEPHONY, run, serve, until


class Knot:
    """Refers to itself: only the collector frees it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_was_there_stays_and_what_comes_later_is_freed() -> None:
    early = Knot()
    garbage.settle()
    assert gc.get_freeze_count() > 1000
    late = Knot()
    gone, kept = weakref.ref(late), weakref.ref(early)
    del early, late
    assert garbage.Collector(lambda: 0, lambda: 0, 0.0).collect(0.0) >= garbage.PERIOD_S
    assert gone() is None
    assert kept() is not None


class Calls:
    """Of which one may have left a number of knots."""

    def __init__(self) -> None:
        self.ended, self.live = 0, 10
        garbage.settle()
        self.collector = garbage.Collector(lambda: self.ended, lambda: self.live, 0.0)

    def end(self, count: int, knots_each: int) -> None:
        for _ in range(count * knots_each):
            Knot()
        self.ended += count


def test_calls_that_only_come_are_no_reason_for_it() -> None:
    calls = Calls()
    many = [[n] for n in range(50_000)]
    calls.live = 500
    assert not calls.collector.is_due(1.0)
    assert not calls.collector.is_due(garbage.LATEST_S - 1)
    assert calls.collector.is_due(garbage.LATEST_S)
    assert len(many) == 50_000


def test_it_is_due_when_those_that_have_ended_may_have_left_enough_behind() -> None:
    calls = Calls()
    calls.end(99, 0)
    assert not calls.collector.is_due(1.0)
    calls.end(1, 0)
    assert calls.collector.is_due(1.0)


def test_the_less_they_leave_the_rarer_it_is() -> None:
    calls = Calls()
    calls.end(100, 0)
    calls.collector.collect(1.0)
    calls.end(5000, 0)
    assert not calls.collector.is_due(2.0)
    gc.disable()  # the small collections would find them first
    calls.end(100, 300)
    calls.collector.collect(2.0)
    gc.enable()
    assert calls.collector.left_each >= 5  # 30,000 objects of 5,100 calls
    calls.end(round(garbage.ENOUGH / calls.collector.left_each) + 1, 0)
    assert calls.collector.is_due(3.0)


def test_when_the_last_call_has_ended_nobody_hears_it() -> None:
    calls = Calls()
    calls.end(1, 0)
    assert not calls.collector.is_due(1.0)
    calls.live = 0
    assert calls.collector.is_due(1.0)
    calls.collector.collect(1.0)
    assert not calls.collector.is_due(2.0)


def test_it_is_done_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "PERIOD_S", 0.001)
    monkeypatch.setattr(garbage, "SHARE", 1000.0)

    async def main() -> None:
        ended = 0
        garbage.keep_clear(lambda: ended, lambda: 0)
        for _ in range(2):
            gone = weakref.ref(Knot())
            ended += 1
            async with asyncio.timeout(60):
                while gone() is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)

    run(main())


@pytest.mark.parametrize("carrier", TELEPHONY)
def test_a_call_that_has_ended_needs_no_collector(carrier: str) -> None:
    """Its core and whatever else is large is freed as soon as nobody has it any more."""
    found: list[weakref.ref[Any]] = []

    async def main() -> None:
        async with serve({"bot": actors.echo}) as served:
            gc.collect()
            gc.disable()
            try:
                call = asyncio.create_task(served.call(carrier, Script((Step(at(0.3), HangUp()),))))
                await until(lambda: any(session.core.pipeline is not None for session in served.gateway.calls))
                (session,) = served.gateway.calls
                core = session.core
                found.extend(map(weakref.ref, (core.input, core.output, core.pipeline)))  # it has them, they have it
                del session, core
                await call
                await served.empty()
                await until(lambda: all(one() is None for one in found))
            finally:
                gc.enable()

    run(main())
    assert len(found) == 3
