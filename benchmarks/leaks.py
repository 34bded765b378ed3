"""What is left of a thousand calls that ended in every possible way.

    python benchmarks/leaks.py [--calls N] [--at-once N] [--json]

The gateway runs in a process of its own, with bots that end calls, fail and leave tasks behind; callers hang up,
vanish, fall silent, never start, send rubbish or too much, stop reading, or show a bad token. After a first part that
warms everything up, the rest is counted: no task, socket, file, call or connection may be left, and memory may not
grow: neither what Python has allocated, nor its objects, nor the memory of the process. Exits 1 if something does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from bots.base import Build
from gateway.simulator.base import FakeCarrier, fake_carrier
from gateway.simulator.caller import Limits
from gateway.simulator.script import HangUp, Press, Script, Step, Vanish, at
from media.frames import CancelTaskFrame
from media.processor import FrameDirection
from tests.endtoend import actors
from tests.endtoend.apart import Apart, Figures
from tests.endtoend.served import CARRIERS, run, token

# What may come with each call without being a leak: the allocators' rounding and the collections' spare room.
TRACED_BYTES = 100.0
OBJECTS = 0.2
RSS_BYTES = 4000.0
WARM_UP = 0.5  # so many more calls come before the counted ones
TTL_S = 4.0  # of the tokens

SETTINGS: dict[str, Any] = {
    "start_timeout_s": 0.5,
    "silence_timeout_s": 0.5,
    "blocked_timeout_s": 0.5,
    "longest_call_s": 1.0,
    "last_words_s": 0.5,
    "max_message_bytes": 16384,
    "outbox_messages": 50,
    "max_calls": 500,
}
LIMITS = Limits(connect_s=10, ready_s=5, longest_s=8, closing_s=1)

MENU = {"use": "menu", "start": "m", "menus": {"m": {"prompt": "menu", "choices": {"9": {"end": True}}}}}


def cancels_at_once(processor: actors.Act) -> None:
    processor.push_frame(CancelTaskFrame("enough"), FrameDirection.UPSTREAM)


def bots() -> Mapping[str, Build]:
    return {
        "echo": actors.echo,
        "menu": actors.from_toml(MENU),
        "ends": actors.saying(0.2, then=actors.ending()),
        "speaks": actors.saying(30.0),
        "cancels": actors.acting(actors.cancels),
        "cancels at once": actors.acting(cancels_at_once),
        "cannot be built": actors.broken_build,
        "cannot process": lambda call: (actors.Breaks(),),
        "cannot be late": actors.broken_timer,
        "cannot go on": actors.acting(actors.broken_task),
        "leaves a task": actors.acting(actors.endless_task),
    }


# ---------------------------------------------------------------- ways to end


Way = Callable[[Apart, str], Awaitable[object]]
Make = Callable[[str], FakeCarrier]


def plain(name: str) -> FakeCarrier:
    return fake_carrier(name)(record=False)


def way(bot: str, *steps: Step, fake: Make = plain) -> Way:
    """A call through the simulator. Tokens live shortly, for each is remembered until it expires."""

    async def call(served: Apart, name: str) -> None:
        report = await served.call(fake(name), Script(steps), bot=bot, limits=LIMITS, ttl_s=TTL_S)
        nobody = name == "genesys" and bot == "nobody" and report.refused == 404  # its URL names the bot
        assert report.refused is None or nobody, f"{name}, {bot}: refused with {report.refused}"

    return call


async def bad_token(served: Apart, name: str) -> None:
    with contextlib.suppress(InvalidStatus):
        async with connect(f"{served.url}/{name}/media/{'x' * 80}", proxy=None):
            raise AssertionError("a bad token was let in")


async def half_a_request(served: Apart, name: str) -> None:
    host, port = served.url.removeprefix("ws://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /{name}/media/x HTTP/1.1\r\nHost:".encode())
    await asyncio.sleep(0.1)
    writer.transport.abort()


async def stops_reading(served: Apart, name: str) -> None:
    """Says what call it is, and then neither reads nor writes; at last the connection breaks."""
    fake = plain(name)
    path = fake.media_path(token(served.mint, fake, "speaks", TTL_S))
    async with connect(served.url + path, proxy=None, compression=None, max_queue=1, ping_interval=None) as ws:
        for message in fake.opening(asyncio.get_running_loop().time()):
            await ws.send(message)
        await asyncio.sleep(0.8)
        ws.transport.abort()


WAYS: Mapping[str, Way] = {
    "caller hangs up": way("echo", Step(at(0.3), HangUp())),
    "caller hangs up at once": way("echo", Step(at(0.0), HangUp())),
    "caller hangs up in mid-speech": way("speaks", Step(at(0.4), HangUp())),
    "caller vanishes": way("speaks", Step(at(0.3), Vanish())),
    "caller vanishes at once": way("echo", Step(at(0.0), Vanish())),
    "caller presses the last key": way("menu", Step(at(0.3), Press("9"))),
    "bot ends": way("ends"),
    "longest call": way("speaks"),
    "bot cancels": way("cancels"),
    "bot cancels at once": way("cancels at once"),
    "bot cannot be built": way("cannot be built"),
    "bot cannot process": way("cannot process", Step(at(0.4), HangUp())),
    "bot's timer fails": way("cannot be late"),
    "bot's task fails": way("cannot go on"),
    "bot leaves a task": way("leaves a task", Step(at(0.3), HangUp())),
    "no such bot": way("nobody"),
    "never starts": way("echo", fake=actors.says_nothing),
    "falls silent": way("echo", fake=actors.falls_silent),
    "says too much": way("echo", fake=lambda name: actors.also_says(name, ["x" * 20_000], at=2)),
    "says rubbish": way("echo", Step(at(0.4), HangUp()), fake=lambda name: actors.also_says(name, ["{", b"{"], at=2)),
    "stops reading": stops_reading,
    "bad token": bad_token,
    "half a request": half_a_request,
}


# ---------------------------------------------------------------- counting


@dataclass(frozen=True, slots=True)
class Result:
    calls: int  # counted, after the warm-up
    seconds: float
    traced_per_call: float  # bytes
    objects_per_call: float
    rss_per_call: float  # bytes
    tasks: int  # more than before
    descriptors: int
    endings: dict[str, int]

    @property
    def reached(self) -> bool:
        return (
            self.traced_per_call <= TRACED_BYTES
            and self.objects_per_call <= OBJECTS
            and self.rss_per_call <= RSS_BYTES
            and self.tasks <= 0
            and self.descriptors <= 0
        )


async def measure(
    served: Apart, calls: int, at_once: int, progress: Callable[[int], None] = lambda done: None
) -> Result:
    """Each way to end through each carrier, over and over."""
    # In an order that mixes them: neighbours run at the same time.
    warm, began, done = int(calls * WARM_UP), time.monotonic(), 0
    plan = list(islice(cycle(product(WAYS, CARRIERS)), warm + calls))
    random.Random(1).shuffle(plan)
    gate = asyncio.Semaphore(at_once)

    async def one(name: str, carrier: str) -> None:
        nonlocal done
        async with gate:
            await WAYS[name](served, carrier)
        done += 1
        progress(done)

    await asyncio.gather(*(one(*entry) for entry in plan[:warm]))
    before = await rested(served)
    await asyncio.gather(*(one(*entry) for entry in plan[warm:]))
    after = await rested(served)
    return Result(
        calls=calls,
        seconds=round(time.monotonic() - began, 1),
        traced_per_call=round((after.traced - before.traced) / calls, 1),
        objects_per_call=round((after.objects - before.objects) / calls, 3),
        rss_per_call=round((after.rss - before.rss) / calls, 1),
        tasks=after.tasks - before.tasks,
        descriptors=after.descriptors - before.descriptors,
        endings={f"{state}, by {by}: {reason}": n for (state, by, reason), n in sorted(after.counts.items())},
    )


async def rested(served: Apart) -> Figures:
    """The figures when no call is left and what outlives calls for a while (tokens, timers) is gone too."""
    await served.empty(40.0)
    await asyncio.sleep(TTL_S + 0.5)
    with contextlib.suppress(AssertionError):
        await served.call(plain("twilio"), Script().then(at(0.1), HangUp()), bot="echo", limits=LIMITS, ttl_s=TTL_S)
    return await served.empty(40.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1000, metavar="N", help="that are counted; default 1000")
    parser.add_argument("--at-once", type=int, default=40, metavar="N", help="calls at the same time; default 40")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()

    def progress(done: int) -> None:
        if done % 100 == 0:
            print(f"{done} of {args.calls + int(args.calls * WARM_UP)} calls ...", file=sys.stderr, flush=True)

    with Apart(bots, trace=True, **SETTINGS) as served:
        result = run(measure(served, args.calls, args.at_once, progress), limit_s=900)
    if args.json:
        print(json.dumps({**asdict(result), "reached": result.reached}))
    else:
        print(f"{result.calls} calls counted, {result.seconds} s with those before; how all of them ended:")
        for ending, count in result.endings.items():
            print(f"{count:>6}  {ending}")
        print(f"left of each call: {result.traced_per_call} bytes allocated by Python ({TRACED_BYTES:.0f} at most),")
        print(f"    {result.objects_per_call} objects ({OBJECTS}), {result.rss_per_call} bytes of the process's memory")
        print(f"    ({RSS_BYTES:.0f}); {result.tasks} tasks and {result.descriptors} descriptors in all")
        print("nothing is left" if result.reached else "something is left")
    return 0 if result.reached else 1


if __name__ == "__main__":
    sys.exit(main())
