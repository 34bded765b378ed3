"""How late a caller hears himself: the whole path, over real sockets, without lead.

    python benchmarks/echo.py [--carrier NAME ...] [--rate HZ ...] [--seconds S] [--json]

The gateway runs in a process of its own with the echo bot; the simulator calls it through each carrier's protocol,
speaks for S seconds, and compares what is heard with what was said, second by second. A packet has to be spoken before
it can be sent, so no echo is faster than the carrier's packets are long: 20 ms, with Exotel 100 ms and with Genesys
200 ms. Exits 1 if a median is over its target.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bots.base import Build
from gateway.registry import carrier_names
from gateway.simulator.caller import Limits
from gateway.simulator.report import CallReport
from gateway.simulator.script import HangUp, Say, Script, after, at
from tests.endtoend import actors
from tests.endtoend.apart import Apart
from tests.endtoend.served import run

RATES = (8000, 16000, 24000)  # of the pipeline
AT_8K_MS, ABOVE_MS = 50.0, 60.0
OWN_MS = {"exotel": 330.0, "genesys": 450.0}  # for their packets


def target_ms(carrier: str, rate: int) -> float:
    return OWN_MS.get(carrier, AT_8K_MS if rate == 8000 else ABOVE_MS)


def bots() -> Mapping[str, Build]:
    return {str(rate): actors.echo for rate in RATES}


def gateway() -> Apart:
    return Apart(
        bots,
        sample_rates={str(rate): rate for rate in RATES},
        carriers={name: {"lead_ms": 0} for name in carrier_names()},
    )


async def echoes(served: Apart, carriers: Sequence[str], rate: int, seconds: float) -> dict[str, CallReport]:
    """One call through each of `carriers` at once."""
    script = Script().then(at(0.5), Say(actors.voice(seconds))).then(after(1.0), HangUp())
    limits = Limits(longest_s=seconds + 10)
    calls = (served.call(name, script, bot=str(rate), limits=limits) for name in carriers)
    return {report.carrier: report for report in await asyncio.gather(*calls)}


@dataclass(frozen=True, slots=True)
class Row:
    carrier: str
    pipeline_hz: int
    median_ms: float | None
    worst_ms: float | None
    seconds: int  # of speech that came back
    target_ms: float
    problems: list[str]

    @classmethod
    def of(cls, report: CallReport, rate: int) -> Row:
        times = [1000 * echo.latency_s for echo in report.echoes]
        return cls(
            report.carrier,
            rate,
            round(statistics.median(times), 1) if times else None,
            round(max(times), 1) if times else None,
            len(times),
            target_ms(report.carrier, rate),
            report.problems,
        )

    @property
    def reached(self) -> bool:
        return self.median_ms is not None and self.median_ms <= self.target_ms and not self.problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--carrier", action="append", choices=carrier_names(), help="only this one; may be repeated")
    parser.add_argument("--rate", action="append", type=int, choices=RATES, help="of the pipeline; may be repeated")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of speech in each call; default 10")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    rows: list[Row] = []
    with gateway() as served:
        for rate in args.rate or RATES:
            print(f"{rate} Hz: {args.seconds:g} s of speech through each carrier ...", file=sys.stderr, flush=True)
            reports = run(echoes(served, args.carrier or carrier_names(), rate, args.seconds), limit_s=600)
            rows += [Row.of(report, rate) for report in reports.values()]
    if args.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "reached": all(row.reached for row in rows)}))
    else:
        print(f"{'carrier':<10}{'pipeline':>10}{'median':>10}{'worst':>10}{'target':>10}")
        for row in rows:
            cells = (f"{row.pipeline_hz} Hz", f"{row.median_ms} ms", f"{row.worst_ms} ms", f"{row.target_ms:.0f} ms")
            line = f"{row.carrier:<10}" + "".join(f"{cell:>10}" for cell in cells)
            print(line if row.reached else f"{line}  missed")
            for problem in row.problems:
                print(f"  {problem}")
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
