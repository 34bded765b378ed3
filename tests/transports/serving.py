"""Programs behind a real server, and callers: the strict fake carriers over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import math
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from gateway.simulator.base import CallPlan, FakeCarrier, fake_carrier
from gateway.simulator.caller import Limits, place_call
from gateway.simulator.report import CallReport
from gateway.simulator.script import Script, Voice

Program = Callable[[WebSocket], Awaitable[None]]
LIMITS = Limits(connect_s=20, ready_s=20, longest_s=60, closing_s=10)


@contextlib.asynccontextmanager
async def served(program: Program) -> AsyncIterator[str]:
    """The URL of a server that runs `program` for each WebSocket, as a web framework would; it is accepted already."""

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        await program(websocket)

    class Server(uvicorn.Server):
        def __init__(self, config: uvicorn.Config) -> None:
            super().__init__(config)
            self.up = asyncio.Event()

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            self.up.set()

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # the test's own are left alone

    config = uvicorn.Config(
        Starlette(routes=[WebSocketRoute("/ws", endpoint)]),
        host="127.0.0.1",
        port=0,
        ws="websockets-sansio",
        ws_ping_interval=None,
        log_config=None,
        lifespan="off",
    )
    server = Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        await server.up.wait()
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"ws://127.0.0.1:{port}/ws"
    finally:
        server.should_exit = True
        await serving


async def call(program: Program, carrier: FakeCarrier, script: Script, limits: Limits = LIMITS) -> CallReport:
    """One call to `program`; afterwards nothing of it may be left."""
    async with asyncio.timeout(100), served(program) as url, nothing_left():
        return await place_call(carrier, url, script, limits=limits)


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Whatever tasks and sockets there are afterwards, there were before."""
    tasks, sockets = asyncio.all_tasks(), open_sockets()
    yield
    for _ in range(3000):
        left = [task for task in asyncio.all_tasks() - tasks if task is not asyncio.current_task()]
        if not left and open_sockets() <= sockets:
            break
        await asyncio.sleep(0.01)
        gc.collect()
    assert not left, left
    assert open_sockets() <= sockets


def open_sockets() -> int:
    count = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return count


def fake(name: str, **plan: object) -> FakeCarrier:
    return fake_carrier(name)(CallPlan(**plan))  # type: ignore[arg-type]


def tone(seconds: float, hz: float = 440.0, rate: int = 8000, level: int = 9000) -> bytes:
    count = int(seconds * rate)
    return struct.pack(f"<{count}h", *(int(level * math.sin(2 * math.pi * hz * n / rate)) for n in range(count)))


def words(seconds: float = 1.0, rate: int = 16000) -> Voice:
    """Something that an echo can be recognised by: a tone whose pitch and loudness change all the time."""
    count = int(seconds * rate)
    phase, samples = 0.0, []
    for n in range(count):
        t = n / rate
        phase += (
            2 * math.pi * (500 + 300 * math.sin(2 * math.pi * 1.3 * t) + 200 * math.sin(2 * math.pi * 0.7 * t)) / rate
        )
        samples.append(int(9000 * (0.6 + 0.4 * math.sin(2 * math.pi * 3.1 * t)) * math.sin(phase)))
    return Voice(struct.pack(f"<{count}h", *samples), rate, "words")


def loud_s(pcm: bytes, rate: int, level: int = 500) -> float:
    """Seconds of 10 ms blocks that are not silent."""
    block = rate // 100 * 2
    blocks = [pcm[at : at + block] for at in range(0, len(pcm), block)]
    return sum(any(abs(v) > level for v in struct.unpack(f"<{len(b) // 2}h", b)) for b in blocks) / 100


def pitched_s(pcm: bytes, rate: int, hz: float) -> float:
    """Seconds of 20 ms blocks that sound like a tone of `hz`, by their zero crossings."""
    count = rate // 50
    wanted, found = hz / 25, 0
    for at in range(0, len(pcm) - 2 * count + 1, 2 * count):
        block = struct.unpack(f"<{count}h", pcm[at : at + 2 * count])
        crossings = sum((a < 0) != (b < 0) for a, b in itertools.pairwise(block))
        found += max(block) > 2000 and abs(crossings - wanted) <= 2
    return found / 50


def go(main: Callable[[], Awaitable[None]]) -> None:
    """Run a test with a network."""

    async def run() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(run())


class MemoryWebSocket:
    """Starlette's WebSocket without a network: the test is the other side. Marks come back when they were played."""

    def __init__(self, *messages: str | bytes) -> None:
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[str | bytes] = []
        self.closed_with: int | None = None
        for message in messages:
            self.say(message)

    def say(self, message: str | bytes) -> None:
        kind = "text" if isinstance(message, str) else "bytes"
        self._incoming.put_nowait({"type": "websocket.receive", kind: message})

    def leave(self, code: int = 1000) -> None:
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": code})

    async def receive(self) -> dict[str, Any]:
        return await self._incoming.get()

    async def send_text(self, data: str) -> None:
        assert self.closed_with is None
        self.sent.append(data)
        message = json.loads(data)
        if message.get("action") == "notify":
            message = {"event": "websocket:notify", "payload": message["payload"]}
        if message.get("event") in ("mark", "websocket:notify"):
            lead_s = 0.21 if message["event"] == "mark" else 0.41  # it was sent ahead by this much
            asyncio.get_running_loop().call_later(lead_s, self.say, json.dumps(message))

    async def send_bytes(self, data: bytes) -> None:
        assert self.closed_with is None
        self.sent.append(data)

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        self.closed_with = code
        self.leave(code)

    @property
    def messages(self) -> list[Any]:
        """What was sent as text, decoded."""
        return [json.loads(message) for message in self.sent if isinstance(message, str)]

    @property
    def audio(self) -> bytes:
        """What was sent as binary."""
        return b"".join(message for message in self.sent if isinstance(message, bytes))


async def until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Wait until `condition` holds, else fail."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)
