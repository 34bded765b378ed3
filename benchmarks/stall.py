"""Whether a caller hears it when the event loop stands still for a moment.

    python benchmarks/stall.py [--seconds S] [--stall-ms MS] [--lead-ms MS] [--carrier NAME ...] [--json]

The gateway runs in a process of its own; its bot speaks for S seconds into a call through each carrier, and in the
middle of it the loop is held up once. Each caller counts the gaps in what he hears; those that his own process was
late for are told apart. Exits 1 if a caller hears a gap, or less than the whole reply.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bots.base import Build
from gateway.registry import carrier_names
from gateway.simulator.caller import Limits
from gateway.simulator.report import CallReport
from gateway.simulator.script import Script
from tests.endtoend import actors
from tests.endtoend.apart import Apart
from tests.endtoend.served import run

LENGTHS = (5, 60)  # seconds of the replies; 5: for a quick look


def bots() -> Mapping[str, Build]:
    return {str(seconds): actors.saying(seconds, then=actors.ending()) for seconds in LENGTHS}


@dataclass(frozen=True, slots=True)
class Row:
    carrier: str
    heard_s: float
    gaps: int
    gap_ms: float  # all of them, inaudible ones too
    own_gaps: int  # by the caller's own lateness
    problems: list[str]
    reached: bool

    @classmethod
    def of(cls, report: CallReport, seconds: float) -> Row:
        gaps = report.gaps_of_the_gateway()
        whole = seconds - 0.005 <= report.heard_s <= seconds + 0.45  # Exotel's last message is filled up
        return cls(
            report.carrier,
            round(report.heard_s, 3),
            len(gaps),
            round(1000 * sum(gap.duration_s for gap in gaps), 1),
            len(report.gaps) - len(gaps),
            report.problems,
            whole and not gaps and not report.problems,
        )


async def replies(served: Apart, carriers: Sequence[str], seconds: int, stall_s: float) -> list[CallReport]:
    """One call through each of `carriers` at once, the loop held up in the middle."""
    limits = Limits(longest_s=seconds + 20)
    calls = [asyncio.create_task(served.call(name, Script(), bot=str(seconds), limits=limits)) for name in carriers]
    await asyncio.sleep(seconds / 2)
    if stall_s:
        served.stall(stall_s)
    return list(await asyncio.gather(*calls))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, choices=LENGTHS, default=60, help="of the reply; default 60")
    parser.add_argument("--stall-ms", type=float, default=100.0, metavar="MS", help="default 100")
    parser.add_argument("--lead-ms", type=int, default=200, metavar="MS", help="of every carrier; default 200")
    parser.add_argument("--carrier", action="append", choices=carrier_names(), help="only this one; may be repeated")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()
    print(f"a reply of {args.seconds} s, held up for {args.stall_ms:g} ms ...", file=sys.stderr, flush=True)
    carriers = {name: {"lead_ms": args.lead_ms} for name in carrier_names()}
    with Apart(bots, carriers=carriers) as served:
        names = args.carrier or carrier_names()
        reports = run(replies(served, names, args.seconds, args.stall_ms / 1000), limit_s=args.seconds + 60)
    rows = [Row.of(report, args.seconds) for report in reports]
    if args.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "reached": all(row.reached for row in rows)}))
    else:
        print(f"{'carrier':<10}{'heard':>12}{'gaps':>8}{'caller late':>14}")
        for row in rows:
            line = f"{row.carrier:<10}{row.heard_s:>10.2f} s{row.gaps:>8}{row.own_gaps:>14}"
            print(line if row.reached else f"{line}  missed")
            for problem in row.problems:
                print(f"  {problem}")
    return 0 if all(row.reached for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
