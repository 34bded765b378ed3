"""How true the play-out ledger is: random calls against fake carriers, which know what they played.

    python benchmarks/ledger.py [--count N] [--carrier NAME ...] [--way-ms MS] [--json]

Each schedule is a call of eight seconds on virtual time: speech in bursts and live, sounds without an end mark, pauses,
interruptions, holds that are taken back. Every few moments the ledger is asked how much was heard. Its error should be
at most one frame (20 ms) and the way, which nothing tells before the first mark has come back; a clear that met Exotel
as one message ended and the next began may have gone either way.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gateway import log
from gateway.registry import carrier_names
from tests.gateway.playout import Verdict, judge


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def row(carrier: str, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    errors = [abs(error) for verdict in verdicts for error in verdict.errors_ms]
    return {
        "carrier": carrier,
        "schedules": len(verdicts),
        "questions": len(errors),
        "median_ms": round(quantile(errors, 0.5), 1),
        "p99_ms": round(quantile(errors, 0.99), 1),
        "worst_ms": round(max(errors), 1),
        "beyond": sum(verdict.worst_ms > verdict.allowed_ms for verdict in verdicts),
        "clears": sum(verdict.clears for verdict in verdicts),
        "close_calls": sum(verdict.close_calls for verdict in verdicts),
        "heard_s": round(sum(verdict.heard_s for verdict in verdicts)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="in all; default 10000")
    parser.add_argument("--carrier", action="append", choices=carrier_names(), help="only this one; may be repeated")
    parser.add_argument("--way-ms", type=float, default=20.0, help="the longest way to a carrier; default 20")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()

    log.configure("critical")
    names = args.carrier or carrier_names()
    rows = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        seeds = range(-(-args.count // len(names)))
        rows.append(row(name, [judge(name, seed, longest_way_s=args.way_ms / 1000) for seed in seeds]))
    if args.json:
        print(json.dumps(rows))
    else:
        print("".join(f"{name:>12}" for name in rows[0]))
        for one in rows:
            print("".join(f"{value:>12}" for value in one.values()))
    return 0 if not any(one["beyond"] for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
