"""What a live call costs in memory.

    python benchmarks/memory.py [--calls N] [--carrier NAME ...] [--rate HZ] [--json]

The gateway runs in a process of its own with the echo bot; N calls come in through the carriers in turn and speak all
the time. Compared is the memory of that process (RSS) with one call and with N of them, each after the calls have run
for some seconds and garbage was collected. Exits 1 if a call costs more than 0.3 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bots.base import Build
from gateway.registry import carrier_names
from gateway.simulator.base import fake_carrier
from gateway.simulator.caller import Limits
from gateway.simulator.script import HangUp, Say, Script, at
from tests.endtoend import actors
from tests.endtoend.apart import Apart
from tests.endtoend.served import run

TARGET_MB = 0.3
WARM_UP = 12  # calls that come and go before anything is compared


def bots() -> Mapping[str, Build]:
    return {"bot": actors.echo}


@dataclass(frozen=True, slots=True)
class Result:
    calls: int
    one_mb: float  # of the process with one call
    all_mb: float  # with all of them
    per_call_mb: float
    target_mb: float = TARGET_MB

    @property
    def reached(self) -> bool:
        return self.per_call_mb <= self.target_mb


async def measure(served: Apart, carriers: list[str], calls: int, *, settle_s: float = 4.0) -> Result:
    async def call(name: str, seconds: float) -> None:
        fake = fake_carrier(name)(strict=False, record=False)
        script = Script().then(at(0.1), Say(actors.voice(seconds - 0.2))).then(at(seconds), HangUp())
        await served.call(fake, script, limits=Limits(longest_s=120))

    async def during(names: list[str]) -> int:
        lasts = settle_s + 0.02 * len(names)
        others = [asyncio.create_task(call(name, lasts + 2.0)) for name in names]
        await asyncio.sleep(lasts)
        figures = await asyncio.to_thread(served.figures)
        assert figures.calls == len(names), f"{figures.calls} calls are up, not {len(names)}"
        await asyncio.gather(*others)
        return figures.rss

    await asyncio.gather(*(call(name, 1.0) for name in islice(cycle(carriers), WARM_UP)))
    await served.empty()
    one = await during(carriers[:1])
    await served.empty()
    everyone = await during(list(islice(cycle(carriers), calls)))
    await served.empty()
    return Result(calls, round(one / 1e6, 2), round(everyone / 1e6, 2), round((everyone - one) / 1e6 / (calls - 1), 4))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=60, metavar="N", help="at a time; default 60")
    parser.add_argument("--carrier", action="append", choices=carrier_names(), help="only this one; may be repeated")
    parser.add_argument("--rate", type=int, choices=(8000, 16000, 24000), help="of the pipeline; default: the wire's")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    print(f"one call, then {args.calls} ...", file=sys.stderr, flush=True)
    with Apart(bots, sample_rates=args.rate, max_calls=args.calls + WARM_UP) as served:
        result = run(measure(served, list(args.carrier or carrier_names()), args.calls), limit_s=300)
    if args.json:
        print(json.dumps({**asdict(result), "reached": result.reached}))
    else:
        print(f"{result.one_mb:.1f} MB with one call, {result.all_mb:.1f} MB with {result.calls}")
        print(f"{result.per_call_mb:.3f} MB a call, {TARGET_MB} at most" + ("" if result.reached else ": missed"))
    return 0 if result.reached else 1


if __name__ == "__main__":
    sys.exit(main())
