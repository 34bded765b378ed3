"""A gateway in a process of its own, much more impatient than one in service, that can be stopped at a point.

`python -m tests.matrix.process <settings.toml> <plan as JSON>`. It says on its standard output, a line each: "up",
"held <call>" when a call has reached the point, "late" when the machine has not let it run for so long.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gateway.log
from bots.base import Build, Call
from gateway.app import Gateway
from gateway.carrier_api import Patience
from gateway.hangups import Rhythm
from gateway.registry import design_filters
from gateway.server import run, server
from gateway.settings import load_settings
from gateway.store import CallKey
from gateway.store_sql import SqlStore
from media.frames import EndFrame, Frame, StartFrame
from media.processor import FrameDirection, FrameProcessor
from tests.endtoend.actors import tone, utterance
from webhooks.base import CarrierHttp, CarrierRequest, Outcome, Purpose

WORD_S = 0.4  # what every bot says as the call starts
TARGET = "+15550199"


class Speaks(FrameProcessor):
    """Says its word, and then what `then` does."""

    def __init__(self, call: Call, then: Callable[[Speaks, Call], object]) -> None:
        super().__init__()
        self._call, self._then = call, then

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            for spoken in utterance(tone(WORD_S), 8000):
                self.push_frame(spoken)
            self._then(self, self._call)


def speaks(then: Callable[[Speaks, Call], object]) -> Build:
    return lambda call: (Speaks(call, then),)


def _fails(processor: Speaks, call: Call) -> None:
    async def soon() -> None:
        await asyncio.sleep(0.15)
        raise RuntimeError("cannot go on")

    processor.create_task(soon(), "fails")


BOTS: dict[str, Build] = {
    "talks": speaks(lambda processor, call: None),
    "ends": speaks(lambda processor, call: processor.push_frame(EndFrame("completed"))),
    "moves": speaks(lambda processor, call: call.transfer(TARGET)),
    "fails": speaks(_fails),
}


def say(*words: object) -> None:
    print(*words, flush=True)


async def told_of_lateness(late_s: float, tell: Callable[[], object]) -> None:
    """`tell()` whenever the loop has been late by that much."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + late_s / 2
        await asyncio.sleep(late_s / 2)
        if loop.time() - due > late_s:
            tell()


async def stand_still(key: CallKey) -> None:
    """From here on nothing happens for this call, whoever loses patience with it: the process is about to die."""
    say("held", key)
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()


def hold_requests(it: Gateway, before: bool) -> None:
    """Never get past the first request that ends a call: before it is made, or when its outcome is known.

    When a call is handed over, the outcome is noted too: where a process dies between the two, nobody can know whether
    the call has left, and most carriers take the repeated request for another one.
    """
    once, ending = it.api._once, (Purpose.HANG_UP, *([Purpose.TRANSFER] if before else ()))

    async def held(http: CarrierHttp, request: CarrierRequest) -> Outcome:
        if request.purpose not in ending:
            return await once(http, request)
        if not before:
            await once(http, request)
        await stand_still(CallKey(request.carrier, request.call_id))
        raise AssertionError

    it.api._once = held  # type: ignore[method-assign]


def hold_records(it: Gateway, before: bool) -> None:
    """The same for the records of calls; what was written is told."""
    write = it.store.ended

    async def held(key: CallKey, *given: Any, **more: Any) -> bool:
        if not before:
            await write(key, *given, **more)
        await stand_still(key)
        raise AssertionError

    it.store.ended = held  # type: ignore[method-assign]


async def main(config: Path, plan: dict[str, Any]) -> None:
    settings = load_settings(config, strict=True)
    design_filters(settings)
    scale = plan["scale"]
    it = Gateway(
        settings,
        BOTS,
        store=SqlStore(plan["store"]),
        patience=Patience(scale=scale),
        rhythm=Rhythm(scale=scale, look_s=2.0),
    )
    if plan.get("hold"):
        hold_requests(it, plan["hold"] == "before")
        hold_records(it, plan["hold"] == "before")
    running = server(it, host="127.0.0.1", port=plan["port"])
    task = asyncio.create_task(running.serve())
    await running.up.wait()
    assert running.started
    say("up")
    watch = asyncio.create_task(told_of_lateness(plan["late_s"], lambda: say("late")))
    await task
    watch.cancel()


if __name__ == "__main__":
    arguments: Sequence[str] = sys.argv[1:]
    gateway.log.configure("info", as_json=True)
    run(main(Path(arguments[0]), json.loads(arguments[1])))
