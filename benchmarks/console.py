"""What open consoles cost a gateway that carries calls: its CPU time, and how late its packets are, with and without.

    python benchmarks/console.py [--calls N] [--consoles N] [--watch] [--seconds S] [--pairs N]

In turns of S seconds there is no console, then as many as asked for; the whole takes less than two minutes. Each asks
for the live calls every two seconds, as the page does; with --watch one of them also watches a call, with both voices.
How it is measured, and when packets are called late: benchmarks/alternation.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
from collections.abc import AsyncIterator, Callable

import alternation
import httpx
from websockets.asyncio.client import connect

EVERY_S = 2.0
READY = {"version": "2.1.0", "about": {"library": "console.py"}}


async def console(base: str, began_s: float, asked: list[int]) -> None:
    """`asked`: how often, and bytes that came."""
    await asyncio.sleep(began_s)
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30) as http:
        while True:
            reply = (await http.get("/api/calls/live")).raise_for_status()
            asked[0] += 1
            asked[1] += len(reply.content)
            await asyncio.sleep(EVERY_S)


async def watch(base: str) -> None:
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30) as http:
        (call, *_) = (await http.get("/api/calls/live")).json()["calls"]
        order = {"scope": "listen", "audio": "stereo", "rate": 0, "format": "json"}
        asked = await http.post(f"/api/calls/{call['carrier']}/{call['call_id']}/rtvi", json=order)
    async with connect(asked.raise_for_status().json()["wsUrl"], proxy=None) as socket:
        await socket.send(json.dumps({"label": "rtvi-ai", "type": "client-ready", "id": "1", "data": READY}))
        async for _ in socket:
            pass


@contextlib.asynccontextmanager
async def consoles(count: int, watched: bool, base: str) -> AsyncIterator[Callable[[], str]]:
    asked = [0, 0]
    tasks = [asyncio.create_task(console(base, n * EVERY_S / count, asked)) for n in range(count)]
    if watched:
        tasks.append(asyncio.create_task(watch(base)))
    try:
        yield lambda: f"asked {asked[0]} times, {asked[1] / 1e6:.1f} MB"
        for task in tasks:
            if task.done():
                task.result()  # it has failed
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def main() -> None:
    parser = alternation.parser(__doc__, seconds=6.0, pairs=5)
    parser.add_argument("--consoles", type=int, default=10)
    parser.add_argument("--watch", action="store_true", help="one of the consoles also watches a call")
    options = parser.parse_args()
    work = functools.partial(consoles, options.consoles, options.watch)
    alternation.run(options, f"{options.consoles} consoles", work)


if __name__ == "__main__":
    main()
