"""The collector of a serving process: what was there at the start is left alone, what calls leave behind is freed."""

from __future__ import annotations

import asyncio
import gc
import logging
import wave
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog

from bots.base import Build
from gateway import garbage
from gateway.simulator.base import CallPlan, fake_carrier
from gateway.simulator.script import HangUp, Press, Script, Step, Vanish, after_bot, at, while_bot_speaks
from media.frames import EndFrame, Frame, InputDTMFFrame, StartFrame
from media.processor import FrameDirection, FrameProcessor
from tests.endtoend import actors
from tests.endtoend.served import CARRIERS, Kept, Served, run, serve, until


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


# ---------------------------------------------------------------- what an ended call leaves: nothing


class Attentive(FrameProcessor):
    """Speaks until a key is pressed; then it says a short goodbye."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            self._say(20.0)
        elif isinstance(frame, InputDTMFFrame):
            self.broadcast_interruption()
            self._say(0.1)
            self.push_frame(EndFrame())

    def _say(self, seconds: float) -> None:
        for frame in actors.utterance(actors.tone(seconds), 8000):
            self.push_frame(frame)


def greets_and_goes_on(processor: actors.Act) -> None:
    for frame in actors.utterance(actors.tone(0.1), 8000):
        processor.push_frame(frame)
    actors.endless_task(processor)


# How calls end: the bot, and what the caller does when it has been heard.
EXITS: Mapping[str, tuple[Build, Sequence[Step]]] = {
    "the caller hangs up": (actors.saying(0.1), (Step(after_bot(0.1), HangUp()),)),
    "the bot hangs up": (actors.saying(0.1, then=actors.ending()), ()),
    "the socket breaks": (actors.saying(0.1), (Step(after_bot(0.1), Vanish()),)),
    "after an interruption": (lambda call: (Attentive(),), (Step(while_bot_speaks(0.1), Press("1")),)),
    "the bot cannot be built": (actors.broken_build, ()),
    "a timer of the bot fails": (actors.broken_timer, ()),
    "a task of the bot fails": (actors.acting(actors.broken_task), ()),
    "a task of the bot goes on": (actors.acting(greets_and_goes_on), (Step(after_bot(0.1), HangUp()),)),
    "a processor fails": (lambda call: (actors.Breaks(),), (Step(at(0.4), HangUp()),)),
    "the bot cancels": (actors.acting(actors.cancels), ()),
    "the process goes down": (actors.saying(0.5), ()),
}
WAIT_S = 300.0  # a busy machine is no fault of anybody's
ROUNDS = 6  # of which one leaves nothing: what a library does for the first time may leave something


@pytest.fixture
def silent() -> Iterator[None]:
    """A log that keeps its lines, as pytest does, keeps what they are about; one that draws tracebacks, frames."""
    before = structlog.get_config()
    structlog.configure(processors=[_said_nothing], cache_logger_on_first_use=False)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    structlog.configure(**before)


def _said_nothing(logger: Any, method: str, event: Any) -> Any:
    raise structlog.DropEvent


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("how", EXITS)
def test_nothing_is_left_of_calls_that_have_ended(how: str, tmp_path: Path) -> None:
    """Of no carrier, however they end: not one object that only the collector can free."""
    build, steps = EXITS[how]
    sorry = tmp_path / "sorry.wav"
    with wave.open(str(sorry), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(actors.tone(0.1))
    left: list[Any] = []
    callers: list[Any] = []  # they live on: what they leave is none of the gateway's business

    async def one_round(served: Served) -> None:
        fakes = [fake_carrier(name)(CallPlan()) for name in CARRIERS]
        calls = asyncio.gather(*(served.call(fake, Script(steps)) for fake in fakes))
        if how == "the process goes down":
            await until(
                lambda: [call.core.pipeline is None for call in served.gateway.calls] == [False] * len(fakes), WAIT_S
            )
            for session in served.gateway.calls:
                session.core.shutdown()
            del session
        callers.extend((fakes, await calls))
        await served.empty(WAIT_S)
        for _ in range(20):
            await asyncio.sleep(0.005)
        left[:] = ours(unreachable())

    async def main() -> None:
        async with serve({"bot": build}, kept=Kept(counts_only=True), apology=str(sorry)) as served:
            gc.collect()
            gc.disable()
            try:
                for _ in range(ROUNDS):
                    await one_round(served)
                    if not left:
                        break
            finally:
                gc.enable()

    run(main(), limit_s=WAIT_S)
    assert not left, sorted(shown(each) for each in left)


def unreachable() -> list[Any]:
    """What only the collector frees."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return list(gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def ours(garbage: Sequence[Any]) -> list[Any]:
    """Without what the callers' WebSocket library leaves as a connection breaks."""
    others = {id(each): each for each in garbage if type(each).__module__.startswith("websockets.")}
    known = {id(each): each for each in garbage}
    waiting = list(others.values())
    while waiting:
        for each in gc.get_referents(waiting.pop()):
            if id(each) in known and id(each) not in others:
                others[id(each)] = each
                waiting.append(each)
    return [each for each in garbage if id(each) not in others]


def shown(each: Any) -> str:
    """A class, and of a function or a method whose it is."""
    whose = getattr(each, "__qualname__", "") if callable(each) else ""
    return f"{type(each).__module__}.{type(each).__qualname__} {whose}".strip()


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_call_that_has_ended_needs_no_collector(carrier: str) -> None:
    """Its core and whatever else is large is freed as soon as nobody has it any more."""
    found: list[weakref.ref[Any]] = []

    async def main() -> None:
        async with serve({"bot": actors.saying(0.1)}) as served:
            gc.collect()
            gc.disable()
            try:
                call = asyncio.create_task(served.call(carrier, Script((Step(after_bot(0.2), HangUp()),))))
                await until(lambda: any(session.core.pipeline is not None for session in served.gateway.calls), WAIT_S)
                (session,) = served.gateway.calls
                core = session.core
                found.extend(map(weakref.ref, (core.input, core.output, core.pipeline)))  # it has them, they have it
                del session, core
                await call
                await served.empty(WAIT_S)
                await until(lambda: all(one() is None for one in found), WAIT_S)
            finally:
                gc.enable()

    run(main(), limit_s=WAIT_S)
    assert len(found) == 3
