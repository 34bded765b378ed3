"""A gateway under a mixed load for a long time: does anything grow, is anything left, does the log complain?

    python benchmarks/soak.py [--minutes M] [--calls N | --knee N] [--json]

The gateway runs as an operator runs it, in a process of its own. N callers of five carriers are up all the time: they
talk, press keys, cut in, are hung up on, break the socket, fall silent without closing it, are refused, and never
start; besides, it places a call through Twilio every few seconds, which is picked up, and is hung up by REST. Memory,
descriptors and asyncio tasks are read from its /metrics. Exits 1 if, after the warm-up (a tenth, at least 30 s), memory
has changed by more than 10 MB, if a descriptor, task, call or pending hang-up is left at the end, if a call went wrong,
or if the log has a warning that does not belong to what these callers do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gateway.load.crew import Run, Server, perform
from gateway.load.plan import LoadPlan, Scenario
from gateway.simulator.accounts import make_up
from gateway.simulator.caller import Limits
from gateway.simulator.script import HangUp, Script, at
from gateway.simulator.web import FakeWeb
from gateway.simulator.webcaller import CarrierServer, Way, answer_placed_call

MEMORY_MB = 10.0
ORDER_S = 4.0  # from one placed call to the next
SAMPLE_S = 2.0
KEPT = 20  # placed calls that the fake carrier remembers, with all that was heard in them
IN = ("telnyx", "plivo", "exotel", "vonage", "genesys")

CONFIG = """
[gateway]
secret = { file = "secret" }
silence_timeout_s = 6
start_timeout_s = 3
max_calls = 10000
max_lateness_ms = 0
reload_on_change = false
log_format = "json"

[bots.echo]
use = "echo"
[bots.menu]
use = "menu"
start = "m"
[bots.menu.menus.m]
prompt = "Press nine to end this call. If you do not know what to press, wait, and this is said again to you."
[bots.menu.menus.m.choices]
9 = { say = "Goodbye.", end = true }
[bots.assistant]
use = "agent"
greeting = "Hello. Say goodbye when you have had enough of this."
[bots.assistant.llm]
use = "rules"
rules = [{ hears = ["goodbye"], say = "Goodbye.", end = true }]

[numbers.default]
bot = "echo"
[numbers."+15550101"]
bot = "menu"
[numbers."+15550103"]
bot = "assistant"
"""

SCENARIOS = (
    Scenario(name="talks", weight=6, seconds=20),
    Scenario(name="presses the last key", weight=3, to="+15550101", seconds=12, digits="9", end="bot", says="silence"),
    Scenario(name="cuts in", weight=3, to="+15550101", seconds=9, barge_in_at_s=1, barge_in_by="1", says="silence"),
    Scenario(name="is listened to", weight=2, to="+15550103", seconds=15),
    Scenario(name="breaks the socket", weight=2, seconds=5, end="drop"),
    Scenario(name="is half open", weight=1, seconds=4, end="half-open"),
    Scenario(name="is refused", weight=1, seconds=3, end="refused", carriers=("telnyx", "plivo", "vonage")),
    Scenario(name="never starts", weight=1, seconds=3, end="never-start"),
)

# What belongs to these callers and this configuration, and what a machine does that is busy with other work.
EXPECTED = (
    "media.refused",  # one kind of caller shows no token
    "media.signature",  # nor a signature
    "settings.warning",  # streams of Exotel without a signature, no public URL
    "hangups.orphan",  # a socket broke, and the carrier may not be asked
    "pipeline.slow_push",
    "call.slow_build",
)


@dataclass(slots=True)
class Sample:
    t: float
    memory_mb: float
    descriptors: int
    tasks: int
    live: int


@dataclass(slots=True, kw_only=True)
class Result:
    seconds: float
    calls: int
    placed: int
    memory_mb: tuple[float, float] = (0.0, 0.0)  # after the warm-up, and at the end
    idle: tuple[int, int] = (0, 0)  # descriptors and tasks before the load
    left: tuple[int, int] = (0, 0)  # and behind it
    live_left: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    complaints: dict[str, int] = field(default_factory=dict)  # log lines, by event

    @property
    def problems(self) -> list[str]:
        grown = self.memory_mb[1] - self.memory_mb[0]
        found = [
            (abs(grown) > MEMORY_MB, f"memory changed by {grown:+.1f} MB"),
            (self.left[0] > self.idle[0], f"{self.left[0] - self.idle[0]} descriptors are left"),
            (self.left[1] > self.idle[1], f"{self.left[1] - self.idle[1]} tasks are left"),
            (self.live_left > 0, f"{self.live_left} calls are left"),
            (bool(self.failed), f"calls went wrong: {self.failed}"),
            (bool(self.complaints), f"the log complains: {self.complaints}"),
        ]
        return [text for wrong, text in found if wrong]


class Gateway:
    """`gateway serve` in a folder."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        (folder / "secret").write_text(os.urandom(24).hex())
        self.config = folder / "gateway.toml"
        self.config.write_text(config)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._metrics = Server(f"ws://127.0.0.1:{self.port}", 0)
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Gateway:
        command = [sys.executable, "-m", "gateway.cli", "serve", "--config", str(self.config), "--port", str(self.port)]
        environment = {**os.environ, "PYTHONPATH": sys.path[0]}
        with (self.folder / "log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, env=environment)
        async with httpx.AsyncClient(trust_env=False) as http:
            for _ in range(600):
                with suppress(httpx.HTTPError):
                    if (await http.get(f"{self.url}/ready")).status_code == 200:
                        return self
                await asyncio.sleep(0.1)
        raise SystemExit(f"the gateway does not start:\n{(self.folder / 'log').read_text()[-2000:]}")

    async def __aexit__(self, *exc: object) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()

    def sample(self, t: float) -> Sample:
        found = self._metrics.metrics()
        return Sample(
            round(t, 1),
            found.get("process_resident_memory_bytes", 0.0) / 1e6,
            int(found.get("process_open_fds", 0)),
            int(found.get("gateway_tasks", 0)),
            int(found.get("gateway_calls_live", 0)),
        )

    def complaints(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for line in (self.folder / "log").read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                found[line[:60]] += 1
                continue
            level, event = entry.get("level"), str(entry.get("event"))
            if level not in ("debug", "info") and not event.startswith(EXPECTED):
                found[f"{level} {event}"] += 1
        return dict(found)


async def soak(folder: Path, minutes: float, calls: int) -> tuple[Result, list[Sample]]:
    twilio = make_up("twilio", folder)
    web = twilio.web
    assert web is not None
    others = [make_up(name, folder) for name in IN]
    async with CarrierServer([web]) as rest:
        twilio.api_base = rest.base("twilio")
        quiet = [each.toml + ("auto_hang_up = false\n" if each.web is not None else "") for each in others]
        async with Gateway(folder, "\n".join([CONFIG, twilio.toml, *quiet])) as gateway:
            web.answer_url, web.status_url = f"{gateway.url}/twilio/answer", f"{gateway.url}/twilio/status"
            await _order(gateway, web, 1)  # some connections are kept from the first call on
            await asyncio.sleep(2.0)
            idle = await asyncio.to_thread(gateway.sample, 0.0)
            plan = LoadPlan(
                url=gateway.url.replace("http", "ws", 1),
                config=str(gateway.config),
                calls=calls,
                seconds=minutes * 60,
                carriers=IN,
                scenarios=SCENARIOS,
            )
            over = asyncio.Event()
            samples: list[Sample] = []
            watching = asyncio.create_task(_watch(gateway, samples, plan.whole_s, over))
            ordering = asyncio.create_task(_order(gateway, web, None, over))
            run: Run = await asyncio.to_thread(perform, plan, Server(plan.url))
            over.set()
            placed, wrong = await ordering
            await watching
            left = await _rested(gateway, idle)
            result = Result(
                seconds=plan.whole_s,
                calls=run.tally.connected,
                placed=placed,
                idle=(idle.descriptors, idle.tasks),
                left=(left.descriptors, left.tasks),
                live_left=left.live,
                failed={**run.tally.failed, **run.tally.refused, **wrong},
            )
        result.complaints = gateway.complaints()
    warm = max(30.0, plan.whole_s / 10)
    steady = [sample.memory_mb for sample in samples if warm <= sample.t <= plan.whole_s]
    if steady:
        part = max(1, len(steady) // 5)
        result.memory_mb = (round(statistics.median(steady[:part]), 1), round(statistics.median(steady[-part:]), 1))
    return result, samples


async def _watch(gateway: Gateway, samples: list[Sample], whole_s: float, over: asyncio.Event) -> None:
    began = time.monotonic()
    while not over.is_set():
        sample = await asyncio.to_thread(gateway.sample, time.monotonic() - began)
        samples.append(sample)
        if sys.stderr.isatty():
            line = f"{sample.t:5.0f}/{whole_s:.0f} s  {sample.live} live  {sample.memory_mb:.0f} MB  "
            print(
                f"\r{line}{sample.descriptors} descriptors  {sample.tasks} tasks ", end="", file=sys.stderr, flush=True
            )
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), SAMPLE_S)
    if sys.stderr.isatty():
        print(file=sys.stderr)


async def _order(
    gateway: Gateway, web: FakeWeb, count: int | None, over: asyncio.Event | None = None
) -> tuple[int, Mapping[str, int]]:
    """Calls that the gateway places: picked up, talked, and hung up by one side or the other in turn."""
    placed, wrong, over = 0, Counter[str](), over or asyncio.Event()
    limits = Limits(connect_s=10, ready_s=10, longest_s=30, closing_s=5)
    fresh = httpx.Limits(max_keepalive_connections=0)  # one that is kept may just be closed when it is used again
    async with httpx.AsyncClient(base_url=f"{gateway.url}/api", trust_env=False, timeout=20, limits=fresh) as api:
        while not over.is_set() and placed != count:
            order = {"carrier": "twilio", "to_number": "+14155550177", "from_number": "+15550100"}
            reply = await api.post("/calls", json=order)
            if reply.status_code != 201:
                wrong[f"an order was answered with {reply.status_code}"] += 1
            else:
                script = Script().then(at(2.0), HangUp()) if placed % 2 else Script()
                calling = asyncio.create_task(
                    answer_placed_call(web, Way(gateway_url=gateway.url), script, limits=limits)
                )
                if not placed % 2:
                    await _end(api, reply.json()["call_id"])
                wrong.update((await calling).problems)
                while len(web.calls) > KEPT:
                    web.calls.pop(next(iter(web.calls)))
            placed += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0 if placed == count else ORDER_S)
    return placed, wrong


async def _end(api: httpx.AsyncClient, call_id: str) -> None:
    """Two seconds after it is up."""
    for _ in range(100):
        if (await api.get(f"/calls/twilio/{call_id}")).json()["standing"] == "live":
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(2.0)
    await api.post(f"/calls/twilio/{call_id}/end", json={})


async def _rested(gateway: Gateway, idle: Sample, limit_s: float = 60.0) -> Sample:
    """When all that was begun for calls is over."""
    until = time.monotonic() + limit_s
    while True:
        sample = await asyncio.to_thread(gateway.sample, 0.0)
        quiet = not sample.live and sample.descriptors <= idle.descriptors and sample.tasks <= idle.tasks
        if quiet or time.monotonic() > until:
            return sample
        await asyncio.sleep(1.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, metavar="M", help="default 60")
    parser.add_argument("--calls", type=int, default=50, metavar="N", help="up at the same time; default 50")
    parser.add_argument("--knee", type=int, metavar="N", help="what `gateway capacity` has found: 80 %% of it are up")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    calls = args.calls if args.knee is None else max(1, int(0.8 * args.knee))
    with tempfile.TemporaryDirectory(prefix="gateway-soak-") as folder:
        result, samples = asyncio.run(soak(Path(folder), args.minutes, calls))
    if args.json:
        print(
            json.dumps({**asdict(result), "problems": result.problems, "samples": [asdict(each) for each in samples]})
        )
    else:
        print(f"{result.calls} calls came in {result.seconds:.0f} s, {result.placed} were placed")
        print(f"memory {result.memory_mb[0]} MB after the warm-up, {result.memory_mb[1]} MB at the end")
        print(f"descriptors {result.idle[0]} before, {result.left[0]} after; tasks {result.idle[1]}, {result.left[1]}")
        for problem in result.problems or ["nothing has grown, nothing is left, the log is quiet"]:
            print(problem)
    return 1 if result.problems else 0


if __name__ == "__main__":
    sys.exit(main())
