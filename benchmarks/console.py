"""What open consoles cost a gateway that carries calls: its CPU time and its packets' lateness, without and with them.

    python benchmarks/console.py --calls 200 --consoles 10

Runs in alternation: no console, then as many as asked for. Each asks for the live calls every two seconds, as the page
does; with --watch one of them also watches a call, with both voices. CPU time is the server's, from /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import connect

EVERY_S = 2.0
TICKS = os.sysconf("SC_CLK_TCK")
CONFIG = """
[gateway]
secret = { file = "gateway.secret" }
max_lateness_ms = 0
max_calls = 2000

[carriers.twilio]
auth_token = { file = "gateway.secret" }
auto_hang_up = false

[bots.echo]
use = "echo"

[numbers.default]
bot = "echo"
"""


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def console(base: str, began_s: float) -> None:
    await asyncio.sleep(began_s)
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30) as http:
        while True:
            (await http.get("/api/calls/live")).raise_for_status()
            await asyncio.sleep(EVERY_S)


async def watch(base: str) -> None:
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30) as http:
        (call, *_) = (await http.get("/api/calls/live")).json()["calls"]
        order = {"scope": "listen", "audio": "stereo", "rate": 0, "format": "json"}
        asked = await http.post(f"/api/calls/{call['carrier']}/{call['call_id']}/rtvi", json=order)
    data = {"version": "2.1.0", "about": {"library": "console.py"}}
    ready = {"label": "rtvi-ai", "type": "client-ready", "id": "1", "data": data}
    async with connect(asked.json()["wsUrl"], proxy=None) as socket:
        await socket.send(json.dumps(ready))
        async for _ in socket:
            pass


async def measure(options: argparse.Namespace, base: str, pid: int, consoles: int, config: Path) -> dict[str, Any]:
    command = ["-m", "gateway.cli", "loadtest", base.replace("http", "ws", 1), "--config", str(config), "--json"]
    command += ["--calls", str(options.calls), "--seconds", str(options.seconds + 6), "--server-pid", str(pid)]
    load = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=30) as http:
        while len((await http.get("/api/calls/live")).json()["calls"]) < options.calls:  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    tasks = [asyncio.create_task(console(base, n * EVERY_S / consoles)) for n in range(consoles)]
    if consoles and options.watch:
        tasks.append(asyncio.create_task(watch(base)))
    await asyncio.sleep(2)
    before = cpu_s(pid)
    await asyncio.sleep(options.seconds)
    used = cpu_s(pid) - before
    for task in tasks:
        if task.done():
            task.result()  # it has failed
        task.cancel()
    said, _ = await load.communicate()
    report = json.loads(said) if said.strip() else {}
    return {"core": 100 * used / options.seconds, "report": report}


def late(done: dict[str, Any]) -> str:
    report = done["report"]
    if not report:
        return "the generator was late: no word about packets"
    lateness, own = report["ms"]["lateness"]["p99"], report["ms"]["own_lateness"]["p99"]
    loop, gaps = report["server"]["loop_lag_p99_ms"], report["heard"]["gaps"]
    return f"99 of 100: packets late by {lateness} ms, the server's loop {loop} ms, the generator {own} ms; {gaps} gaps"


async def main(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "gateway.toml"
        config.write_text(CONFIG)
        (folder / "gateway.secret").write_text(os.urandom(24).hex())
        command = [sys.executable, "-m", "gateway.cli", "serve", "--config", str(config), "--port", "0"]
        with open(folder / "log", "wb") as log:  # noqa: ASYNC230
            server = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
        try:
            while not (found := re.search(r'"port": (\d+)', (folder / "log").read_text())):
                if server.returncode is not None:
                    sys.exit((folder / "log").read_text())
                await asyncio.sleep(0.2)
            base = f"http://127.0.0.1:{found[1]}"
            cores: dict[int, list[float]] = {0: [], options.consoles: []}
            for number in range(options.pairs):
                for consoles in cores:
                    done = await measure(options, base, server.pid, consoles, config)
                    cores[consoles].append(done["core"])
                    print(f"{number}: {consoles:2} consoles: {done['core']:.1f} % of a core, {late(done)}", flush=True)
            without, with_them = (statistics.median(values) for values in cores.values())
            print(f"{options.consoles} consoles on {options.calls} calls: {with_them - without:+.1f} % of a core")
        finally:
            with contextlib.suppress(ProcessLookupError):
                server.terminate()
            await server.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--consoles", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--watch", action="store_true", help="one of the consoles also watches a call")
    asyncio.run(main(parser.parse_args()))
