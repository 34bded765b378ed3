"""What live calls notice of a configuration that is read again and again, and what it leaves behind.

    python benchmarks/reload.py [--calls N] [--reloads N] [--json]

The gateway runs as an operator runs it, in a process of its own. N callers of five carriers listen to a speech of the
bot; meanwhile the configuration is changed and read again: another limit, another prompt of one bot, and a program
whose code has changed, each time. Each caller counts the gaps in what he hears; those that his own process was late for
are told apart. Then there are as many reloads again, with nobody there, twice: memory may not have grown between the
two. Exits 1 if a call was disturbed, or if a reload costs memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.soak import Gateway
from gateway.load.procfs import Usage, usage
from gateway.simulator.base import CallPlan, fake_carrier
from gateway.simulator.caller import Limits, place_call
from gateway.simulator.configured import mint_for
from gateway.simulator.report import CallReport
from gateway.simulator.script import Script
from gateway.tokens import TokenMint
from media.wav import write_wav
from tests.endtoend.actors import tone
from tests.endtoend.served import run

CARRIERS = ("twilio", "telnyx", "plivo", "exotel", "vonage")
RATE = 8000
EACH_S = 0.5  # from one reload to the next
BYTES_PER_RELOAD = 10_000.0  # of the process's memory: less is the allocator's noise

CONFIG = """
[gateway]
secret = { file = "secret" }
max_calls = 1000
max_lateness_ms = 0
reload_on_change = false
log_format = "json"

[bots.speech]
use = "announce"
play = ["speech.wav"]

[bots.news]
use = "announce"
play = ["news.wav"]

[bots.program]
use = "program:bot"

[numbers.default]
bot = "speech"
""" + "".join(f"\n[carriers.{name}]\nverify_signatures = false\n" for name in CARRIERS)


def change(folder: Path, number: int) -> None:
    """Another limit, another prompt, another program."""
    write_wav(folder / "news.wav", tone(1.0, RATE, 300.0 + number), RATE)
    folder.joinpath("program.py").write_text(
        f"NUMBER = {number}\n\nasync def bot(call):\n    await call.say('news.wav')\n"
    )
    folder.joinpath("gateway.toml").write_text(CONFIG.replace("max_calls = 1000", f"max_calls = {1000 + number}"))


async def reloads(gateway: Gateway, numbers: range) -> list[float]:
    """The configuration read again so often; the seconds until it was taken, each time."""
    took = []
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=60.0) as http:
        for number in numbers:
            began = time.monotonic()
            await asyncio.to_thread(change, gateway.folder, number)
            asked = time.monotonic()
            (await http.post("/api/reload")).raise_for_status()
            took.append(time.monotonic() - asked)
            await asyncio.sleep(max(0.0, began + EACH_S - time.monotonic()))
    return took


async def calls(gateway: Gateway, count: int, speech_s: float) -> list[CallReport]:
    """So many listeners at once, until the speech is over."""
    mint = TokenMint(gateway.folder.joinpath("secret").read_text())
    fakes = [fake_carrier(name)(CallPlan()) for name in islice(cycle(CARRIERS), count)]
    limits = Limits(connect_s=20, ready_s=20, longest_s=speech_s + 60)
    url = gateway.url.replace("http", "ws", 1)
    return await asyncio.gather(
        *(place_call(fake, url, Script(), token=mint_for(mint, fake), limits=limits) for fake in fakes)
    )


@dataclass(frozen=True, slots=True)
class Result:
    calls: int
    reloads: int
    reload_ms: float  # median, beside the calls
    cpu_ms: float  # of the gateway for one reload, with nobody there
    gaps: int  # of the gateway's
    callers_own_gaps: int
    cut_short: int  # calls that did not hear the whole speech, or broke a rule
    bytes_per_reload: float
    reached: bool


def used(gateway: Gateway) -> Usage:
    assert gateway._process is not None
    found = usage(gateway._process.pid)
    assert found is not None, "this needs /proc"
    return found


async def measured(count: int, times: int, folder: Path) -> Result:
    speech_s = times * EACH_S + 10.0
    write_wav(folder / "speech.wav", tone(speech_s, RATE), RATE)
    change(folder, 0)
    async with Gateway(folder, CONFIG) as gateway:
        listeners = asyncio.create_task(calls(gateway, count, speech_s))
        await asyncio.sleep(5.0)  # all are up
        took = await reloads(gateway, range(1, times + 1))
        reports = await listeners
        await reloads(gateway, range(times + 1, 2 * times + 1))
        before = used(gateway)
        await reloads(gateway, range(2 * times + 1, 3 * times + 1))
        after = used(gateway)
    gaps = sum(len(report.gaps_of_the_gateway()) for report in reports)
    cut_short = sum(report.heard_s < speech_s - 0.1 or bool(report.problems) for report in reports)
    grown = (after.rss - before.rss) / times
    return Result(
        calls=count,
        reloads=times,
        reload_ms=round(1000 * statistics.median(took), 1),
        cpu_ms=round(1000 * (after.cpu_s - before.cpu_s) / times, 1),
        gaps=gaps,
        callers_own_gaps=sum(len(report.gaps) for report in reports) - gaps,
        cut_short=cut_short,
        bytes_per_reload=round(grown),
        reached=not gaps and not cut_short and grown <= BYTES_PER_RELOAD,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=50, help="default 50")
    parser.add_argument("--reloads", type=int, default=100, help="default 100")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        limit_s = 4 * args.reloads * max(EACH_S, 1.0) + 300
        result = run(measured(args.calls, args.reloads, Path(folder)), limit_s=limit_s)
    if args.json:
        print(json.dumps(asdict(result)))
    else:
        print(f"{result.reloads} reloads under {result.calls} calls, {result.reload_ms:.0f} ms each (median)")
        print(f"gaps that callers heard: {result.gaps} (of their own making: {result.callers_own_gaps})")
        print(f"calls cut short: {result.cut_short}")
        print(
            f"with nobody there: {result.cpu_ms:.0f} ms of processor time and {result.bytes_per_reload:.0f} bytes each"
        )
    return 0 if result.reached else 1


if __name__ == "__main__":
    sys.exit(main())
