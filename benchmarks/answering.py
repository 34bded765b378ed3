"""How long a webhook takes inside the process: authenticated, admitted, committed, answered.

The whole ASGI application with a store in a file; no sockets. Each request is another call, signed as its carrier
signs it.

python benchmarks/answering.py                   every carrier, one after the other and 200 at once
python benchmarks/answering.py --carrier twilio --calls 2000
python benchmarks/answering.py --storm 100       so often: 1,000 calls at once against a limit of 50
python benchmarks/answering.py --profile         where the time goes
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gateway.log
from gateway.server import run
from gateway.simulator.base import CallPlan
from gateway.simulator.web import FakeWeb, Webhook
from tests.matrix.desk import Desk, desk, web_of

CARRIERS = ("twilio", "telnyx", "telnyx-control", "plivo", "vonage", "exotel")
TARGET_MS = 5.0


def calls(web: FakeWeb, count: int) -> list[Webhook]:
    """The answer webhooks of so many new calls."""
    made = []
    for n in range(count):
        call = web.place(CallPlan(from_number=f"+1415{n % 10**7:07d}", to_number="+14155550100"), time.time())
        made.append(
            web.signed(next(one for one in call.webhooks if one.what in ("answer", "call.initiated")), time.time())
        )
    return made


async def timed(one: Desk, webhook: Webhook) -> float:
    began = time.perf_counter()
    reply = await one.send(webhook)
    took = time.perf_counter() - began
    assert reply.status == 200, reply
    return took


def spread(times: Sequence[float]) -> str:
    cuts = statistics.quantiles(times, n=100)
    points = {"median": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(times)}
    return "   ".join(f"{name} {value * 1e3:7.2f}" for name, value in points.items()) + " ms"


async def measure(names: Sequence[str], count: int, at_once: int) -> bool:
    good = True
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            async with desk(Path(folder), [web_of(name)], gateway={"max_calls": 1_000_000}) as one:
                web = one.web
                for webhook in calls(web, 30):
                    await one.send(webhook)  # whatever is made at the first request
                ready = calls(web, count)
                began = time.process_time()
                times = [await timed(one, webhook) for webhook in ready]
                cpu_ms = (time.process_time() - began) / count * 1e3  # of all threads: the store's too
                good &= statistics.median(times) * 1e3 <= TARGET_MS
                print(f"{name:15} one by one   {spread(times)}   {cpu_ms:5.2f} ms of CPU each")
                ready = calls(web, max(at_once, count // at_once * at_once))
                times, used = [], time.process_time()
                began = time.perf_counter()
                for start in range(0, len(ready), at_once):
                    times += await asyncio.gather(*(timed(one, webhook) for webhook in ready[start : start + at_once]))
                per_s = len(ready) / (time.perf_counter() - began)
                cpu_ms = (time.process_time() - used) / len(ready) * 1e3
                rate = f"{cpu_ms:5.2f} ms of CPU each, {per_s:5.0f} per s"
                print(f"{name:15} {at_once} at once  {spread(times)}   {rate}", flush=True)
    return good


async def storm(runs: int, callers: int, limit: int) -> bool:
    """So many answer webhooks at once against a limit: how many are let in."""
    admitted: Counter[int] = Counter()
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            async with desk(Path(folder), [web_of("twilio")], gateway={"max_calls": limit}) as one:
                ready = calls(one.web, callers)
                replies = await asyncio.gather(*(one.send(webhook) for webhook in ready))
                admitted[sum(b"<Stream" in reply.body for reply in replies)] += 1
    print(
        f"{callers} at once, limit {limit}: " + ", ".join(f"{n} let in {times} times" for n, times in admitted.items())
    )
    return set(admitted) == {limit}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--carrier", action="append", choices=CARRIERS)
    arguments.add_argument("--calls", type=int, default=1000)
    arguments.add_argument("--at-once", type=int, default=200)
    arguments.add_argument("--storm", type=int, default=0, metavar="RUNS")
    arguments.add_argument("--profile", action="store_true")
    args = arguments.parse_args()
    gateway.log.configure("error", as_json=True)
    if args.storm:
        return 0 if run(storm(args.storm, 1000, 50)) else 1
    profile = cProfile.Profile()
    if args.profile:
        profile.enable()
    good = run(measure(args.carrier or CARRIERS, args.calls, args.at_once))
    if args.profile:
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
    print("target: median one by one of at most 5 ms:", "reached" if good else "missed")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
