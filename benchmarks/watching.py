"""What watchers cost a gateway that carries calls: its CPU time, and how late its packets are, with and without them.

    python benchmarks/watching.py [--calls N] [--watchers N] [--audio KIND] [--format NAME] [--seconds S] [--pairs N]

In turns of S seconds nobody watches, then each watcher watches a call of his own, with words, events, levels and sound;
the whole takes less than two minutes. How it is measured, and when packets are called late: benchmarks/alternation.py.
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

from serializers.protobuf import packed_message

ABOUT = {"version": "2.1.0", "about": {"library": "watching.py"}}
READY = json.dumps({"label": "rtvi-ai", "type": "client-ready", "id": "1", "data": ABOUT})


@contextlib.asynccontextmanager
async def watchers(count: int, audio: str, form: str, base: str) -> AsyncIterator[Callable[[], str]]:
    heard = [0, 0]  # messages and bytes
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

    tasks = [asyncio.create_task(watch(one.raise_for_status().json()["wsUrl"])) for one in asked]
    try:
        yield lambda: f"watchers got {heard[0]} messages, {heard[1] / 1e6:.1f} MB"
        assert len(tasks) == count
        assert not [task for task in tasks if task.done()], "a watcher was dropped"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def main() -> None:
    parser = alternation.parser(__doc__, seconds=6.0, pairs=5)
    parser.add_argument("--watchers", type=int, default=10)
    parser.add_argument("--audio", choices=("none", "mixed", "stereo"), default="mixed", help="default mixed")
    parser.add_argument("--format", choices=("protobuf", "json"), default="protobuf")
    options = parser.parse_args()
    work = functools.partial(watchers, options.watchers, options.audio, options.format)
    alternation.run(options, f"{options.watchers} watchers, sound {options.audio},", work)


if __name__ == "__main__":
    main()
