"""What a generator tells who started it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from gateway.load.doorway import Doorway, settings_of
from gateway.load.generator import Generator, write_whole
from gateway.load.plan import End, LoadPlan, Scenario
from gateway.load.tally import Tally


def test_a_report_is_written_whole_whatever_interrupts_it() -> None:
    told = b"x" * 300_000  # a pipe holds 65,536
    read: list[bytes] = []
    out, into = os.pipe()
    begun = threading.Event()

    def reader() -> None:
        begun.wait(10.0)
        while piece := os.read(out, 10_000):
            read.append(piece)

    def interrupted(*_: object) -> None:
        begun.set()  # before, nobody reads: the write is in its middle

    before = signal.signal(signal.SIGALRM, interrupted)
    reading = threading.Thread(target=reader)
    reading.start()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.001)
        write_whole(into, told)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        os.close(into)
        reading.join()
        os.close(out)
    assert b"".join(read) == told


async def impatient(caller: ServerConnection) -> None:
    """A gateway that gives up who is silent."""
    try:
        while True:
            await asyncio.wait_for(caller.recv(), 0.5)
    except TimeoutError:
        caller.transport.abort()
    except ConnectionClosed:
        pass


OF_A_CALL = 10  # objects of the gateway's own classes, while it is up


def held() -> int:
    """Objects of the gateway's own classes."""
    gc.collect()
    return sum(str(type(each).__module__).startswith("gateway.") for each in gc.get_objects())


def config_in(folder: Path) -> Path:
    config = folder / "gateway.toml"
    (folder / "secret").write_text("0123456789abcdef0123456789abcdef")
    config.write_text(
        '[gateway]\nsecret = { file = "secret" }\n[carriers.twilio]\nauth_token = { file = "secret" }\n'
        '[bots.echo]\nuse = "echo"\n[numbers.default]\nbot = "echo"\n'
    )
    return config


def test_whose_parent_is_gone_ends_its_calls_and_says_nothing(tmp_path: Path) -> None:
    came, left = [], []

    async def answers(caller: ServerConnection) -> None:
        came.append(caller)
        with contextlib.suppress(ConnectionClosed):
            async for _ in caller:
                pass
        left.append(caller.close_code)

    async def main() -> None:
        async with serve(answers, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            plan = LoadPlan(url=f"ws://127.0.0.1:{port}", config=str(config_in(tmp_path)), calls=3, seconds=600.0)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gateway.load.generator",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdin.write(json.dumps(plan.packed()).encode() + b"\n")
            while len(came) < 3:
                assert await process.stdout.readline()
            process.stdout._transport.close()  # type: ignore[attr-defined]
            process.stdin.close()
            assert await process.stderr.read() == b""
            assert await process.wait() == 0
            while len(left) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("end", ["drop", "half-open", "never-start"])
def test_of_a_call_that_has_ended_nothing_is_kept(end: End, tmp_path: Path) -> None:
    config = config_in(tmp_path)
    kept: list[int] = []
    generators: list[Generator] = []

    def tell(t: float, tally: Tally) -> None:
        ended = tally.done + tally.failed.total()
        if len(kept) < 3 and ended >= 50 * (len(kept) + 1):
            kept.append(held() - OF_A_CALL * (tally.placed - ended))
        if len(kept) == 3 or t > 60 * (len(kept) + 1):
            generators[0].stop()

    async def main() -> None:
        async with serve(impatient, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            scenarios = (Scenario(seconds=0.2, end=end),)
            plan = LoadPlan(
                url=f"ws://127.0.0.1:{port}", config=str(config), calls=10, seconds=600.0, scenarios=scenarios
            )
            doorway = Doorway(plan, settings_of(config))
            generators.append(Generator(plan, doorway, tell))
            await generators[0].run()
            doorway.close()

    asyncio.run(main())
    assert len(kept) == 3
    assert kept[2] - kept[0] < 50  # in which 100 calls have ended
