"""Several processes that are one gateway: `gateway serve --workers 2`, as an operator runs it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.cli import _parser
from gateway.commands.call import call
from tests.endtoend.served import until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets, signals, SO_REUSEPORT")

CONFIG = """
[gateway]
drain_s = 1
max_lateness_ms = 0
log_format = "json"
secret = { file = "secret" }
[carriers.exotel]
verify_signatures = false
[bots.echo]
use = "echo"
[numbers.default]
bot = "echo"
"""
PATIENCE_S = 180.0


class Running:
    """A supervisor in a folder, and what it logs."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        (folder / "gateway.toml").write_text(CONFIG)
        (folder / "secret").write_text("of a test, and long enough for one")
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TMPDIR": str(folder)}
        with (folder / "log").open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "serve", "--workers", "2", *arguments],
                cwd=folder,
                env=environment,
                stdout=out,
                stderr=out,
            )

    def lines(self, event: str) -> list[dict[str, Any]]:
        said = (self.folder / "log").read_text()
        return [line for line in map(_read, said.splitlines()) if line.get("event") == event]

    async def until(self, true: Callable[[], bool]) -> None:
        await until(lambda: true() or self.process.poll() is not None, PATIENCE_S)
        assert true(), (self.folder / "log").read_text()

    @property
    def pids(self) -> set[int]:
        return {line["pid"] for line in self.lines("worker.up")}

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def _read(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or ") Z " not in stat.read_text()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    found = Running(tmp_path, "--port", "0")
    try:
        yield found
    finally:
        found.end()


def test_calls_of_all_workers_are_one_gateways(running: Running) -> None:
    async def main() -> None:
        await running.until(lambda: bool(running.lines("gateway.listening")))
        url = f"http://127.0.0.1:{running.lines('gateway.listening')[0]['port']}"
        calls: list[asyncio.Task[int]] = []

        def place() -> None:
            command = f"call --carrier exotel --to +15550100 --max-s 120 --hang-up-at 110 --json --url ws{url[4:]}"
            arguments = [*command.split(), "--config", str(running.folder / "gateway.toml")]
            calls.append(asyncio.create_task(call(_parser().parse_args(arguments))))

        workers: set[str] = set()
        while len(workers) < 2 or len(calls) < 6:
            assert len(calls) < 40, "the kernel gives all connections to one worker"
            place()
            await running.until(lambda: len(running.lines("call.started")) == len(calls))
            workers = {line["worker"] for line in running.lines("call.started")}

        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http:
            # Each request is a connection of its own, and lands anywhere.
            live = (await http.get("/api/calls/live")).json()["calls"]
            assert len(live) == len(calls)
            metrics = (await http.get("/metrics")).text
            started = re.findall(r'gateway_calls_started_total\{carrier="exotel",worker="(\d)"\} (\d+)', metrics)
            assert {worker for worker, _ in started} == {"0", "1"}
            assert sum(int(count) for _, count in started) == len(calls)
        for one in live:
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http:
                reply = await http.post(f"/api/calls/exotel/{one['call_id']}/end", json={})
                assert reply.status_code == 202, reply.text
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http:
            assert (await http.post("/api/calls/exotel/nobody/end", json={})).status_code == 404
            await running.until(lambda: len(running.lines("call.ended")) == len(calls))
            assert {line["reason"] for line in running.lines("call.ended")} == {"api"}
            await asyncio.gather(*calls)
            assert (await http.get("/api/calls/live")).json()["calls"] == []
            came = (await http.post("/api/reload")).json()
            assert came["taken"]
            assert {line["worker"] for line in running.lines("configuration.taken")} == {"0", "1"}

    asyncio.run(main())
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(PATIENCE_S) == 0
    assert not any(alive(pid) for pid in running.pids)
    assert not list(running.folder.glob("gateway-*"))


def test_a_worker_that_falls_is_started_again(running: Running) -> None:
    async def main() -> None:
        await running.until(lambda: bool(running.lines("gateway.listening")))
        os.kill(min(running.pids), signal.SIGKILL)
        await running.until(lambda: len(running.pids) == 3)
        (ended,) = running.lines("worker.ended")
        assert ended["code"] == -signal.SIGKILL
        # What it had is taken up at once, not when its lease has run out.
        await running.until(lambda: bool(running.lines("hangups.worker_fell")))

    asyncio.run(main())
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(PATIENCE_S) == 0


def test_workers_do_not_outlive_their_supervisor(running: Running) -> None:
    async def main() -> None:
        await running.until(lambda: bool(running.lines("gateway.listening")))
        running.end()
        await until(lambda: not any(alive(pid) for pid in running.pids), PATIENCE_S)
        assert len(running.lines("gateway.draining")) == 2

    asyncio.run(main())


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        found = Running(tmp_path, "--port", str(taken.getsockname()[1]))
        try:
            assert found.process.wait(PATIENCE_S) == 1
        finally:
            found.end()
    (line,) = found.lines("gateway.cannot_listen")
    assert "another port" in line["remedy"]
