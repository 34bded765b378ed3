"""What watchers cost a gateway that carries calls: its CPU time, and how late its packets are, with and without them.

    python benchmarks/watching.py [--calls N] [--watchers N] [--audio KIND] [--format NAME] [--seconds S] [--pairs N]

The gateway and the callers, echo calls of Twilio's, are processes of their own and stay for the whole run. In turns of
S seconds nobody watches, then each watcher watches a call of his own, with words, events, levels and sound. CPU time
is the gateway's, from /proc; a packet is late by LATE_MS after its caller's play-out needed it. Each pair
of turns gives one difference; told are all of them and their median. Where the callers' own process was late by more
than 10 ms (p99) the machine had no room for them, and the count of late packets says nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from websockets.asyncio.client import connect

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gateway.commands.capacity import _sample, _started, cores
from gateway.load.crew import Moment, Server, perform
from gateway.load.plan import LoadPlan
from gateway.load.tally import MS_PER_BIN, Spread
from serializers.protobuf import packed_message

LATE_MS = 20.0
SETTLE_S = 1.0  # of each turn: does not count
ABOUT = {"version": "2.1.0", "about": {"library": "watching.py"}}
READY = json.dumps({"label": "rtvi-ai", "type": "client-ready", "id": "1", "data": ABOUT})


class Turn:
    """What the gateway has used, and how its packets came, from its first moment to its last."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []

    @property
    def core(self) -> float:
        """Percent of one core."""
        first, last = self.moments[0], self.moments[-1]
        assert first.server is not None
        assert last.server is not None
        return 100 * (last.server.cpu_s - first.server.cpu_s) / (last.t - first.t)

    @property
    def callers_late_ms(self) -> float:
        """How late the callers' own process was with one of a hundred of its rounds: past 10 ms, lateness is its."""
        first, last = self.moments[0].tally.own_lateness.bins, self.moments[-1].tally.own_lateness.bins
        return Spread(Counter({place: count - first[place] for place, count in last.items()}), 1e9).quantile(0.99) or 0

    @property
    def late(self) -> tuple[int, int]:
        """Packets that were late, and all of them."""
        first, last = self.moments[0].tally.lateness.bins, self.moments[-1].tally.lateness.bins
        came = {place: count - first[place] for place, count in last.items()}
        return sum(count for place, count in came.items() if place * MS_PER_BIN >= LATE_MS), sum(came.values())


@contextlib.asynccontextmanager
async def watched(base: str, count: int, audio: str, form: str, heard: list[int]) -> AsyncIterator[None]:
    """`heard`: messages and bytes that came."""
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30) as http:
        calls = (await http.get("/api/calls/live")).json()["calls"][:count]
        order = {"scope": "listen", "audio": audio, "format": form}
        asked = [await http.post(f"/api/calls/{one['carrier']}/{one['call_id']}/rtvi", json=order) for one in calls]

    async def watch(url: str) -> None:
        async with connect(url, proxy=None) as socket:
            await socket.send(READY if form == "json" else packed_message(READY))
            async for message in socket:
                heard[0] += 1
                heard[1] += len(message)

    tasks = [asyncio.create_task(watch(one.json()["wsUrl"])) for one in asked]
    try:
        yield
        assert len(tasks) == count
        assert not [task for task in tasks if task.done()], "a watcher was dropped"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def measure(options: argparse.Namespace, url: str, config: Path, server: Server) -> list[tuple[Turn, Turn]]:
    base = "http" + url[2:]
    now: list[Turn | None] = [None]
    began = time.monotonic()

    def tell(moment: Moment) -> None:
        turn = now[0]
        if turn is not None:
            turn.moments.append(moment)

    rise_s = options.calls / 20
    whole_s = 2 * options.pairs * (options.seconds + SETTLE_S + 1) + 4
    plan = LoadPlan(url=url, config=str(config), calls=options.calls, seconds=whole_s)
    load = asyncio.create_task(asyncio.to_thread(perform, plan, server, tell=tell))

    async def turn() -> Turn:
        await asyncio.sleep(SETTLE_S)
        now[0] = found = Turn()
        await asyncio.sleep(options.seconds)
        now[0] = None
        return found

    await asyncio.sleep(max(0.0, rise_s + 4 - (time.monotonic() - began)))
    pairs = []
    for number in range(options.pairs):
        heard = [0, 0]
        without = await turn()
        async with watched(base, options.watchers, options.audio, options.format, heard):
            watching = await turn()
        pairs.append((without, watching))
        (late, of), (late_watched, of_watched) = without.late, watching.late
        print(
            f"{number}: {without.core:6.1f} % of a core, {late} of {of} packets late;"
            f" watched {watching.core:6.1f} %, {late_watched} of {of_watched};"
            f" watchers got {heard[0]} messages, {heard[1] / 1e6:.1f} MB;"
            f" callers late by {without.callers_late_ms:.1f} and {watching.callers_late_ms:.1f} ms themselves",
            flush=True,
        )
    run = await load
    if run.tally.failed or run.tally.refused:
        print(f"calls that failed: {dict(run.tally.failed + run.tally.refused)}")
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--watchers", type=int, default=10)
    parser.add_argument("--audio", choices=("none", "mixed", "stereo"), default="mixed", help="default mixed")
    parser.add_argument("--format", choices=("protobuf", "json"), default="protobuf")
    parser.add_argument("--seconds", type=float, default=15.0, help="of a turn; default 15")
    parser.add_argument("--pairs", type=int, default=4)
    options = parser.parse_args()
    ours, theirs = cores()
    if ours:
        os.sched_setaffinity(0, ours)  # the watchers are not to take the gateway's core
    with _sample(None) as config, _started(config, theirs) as url:
        pairs = asyncio.run(measure(options, url, config, Server(url)))
    more = [watched.core - without.core for without, watched in pairs]
    late, late_watched = (sum(turn.late[0] for turn in turns) for turns in zip(*pairs, strict=True))
    print(
        f"{options.watchers} watchers of {options.calls} calls, {options.audio}: {statistics.median(more):+.2f} % of a"
        f" core (each pair: {', '.join(f'{one:+.1f}' for one in more)});"
        f" late packets {late} without, {late_watched} with"
    )


if __name__ == "__main__":
    main()
