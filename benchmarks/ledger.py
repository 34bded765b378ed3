"""How true the play-out ledger is: random calls against fake carriers, which know what they played.

    python benchmarks/ledger.py [--count N] [--carrier NAME ...] [--way-ms MS] [--jobs N] [--json]

Each schedule is a call of eight seconds on virtual time (`tests/gateway/playout.py`): speech in bursts and live, sounds
without an end mark, items in mid-speech, pauses, interruptions, holds that are taken back; a process that stands still
for up to half a second; marks that come up to half a second late, or never; with Genesys also callers on hold and
messages refused by 429; and an end by bot, caller or cancellation, or none. Every few moments the ledger is asked how
much was heard. Its error should be at most one frame (20 ms) and the way, which nothing tells before the first mark
has come back. What nobody can know is allowed for, and counted: a clear that met Exotel as one message ended and the
next began may have gone either way, and Genesys does not say which message it refused.

Exits 1 if one schedule is beyond that, and names it: `--carrier NAME --first SEED --count 1` runs it again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gateway import log
from gateway.registry import carrier_names
from tests.gateway.playout import judge

BIN_MS = 0.1
CHUNK = 20  # schedules that a process is given at once
BAR = 40
NAMED = 10


@dataclass(slots=True)
class Found:
    """What came of some schedules of one carrier. Of bounded size, however many they are."""

    carrier: str
    schedules: int = 0
    errors: Counter[int] = field(default_factory=Counter)  # in bins of BIN_MS: how often
    worst_ms: float = 0.0
    beyond: list[int] = field(default_factory=list)  # the first seeds
    beyond_count: int = 0
    clears: int = 0
    close_calls: int = 0
    misjudged: int = 0
    heard_s: float = 0.0
    met: Counter[str] = field(default_factory=Counter)

    def add(self, other: Found) -> None:
        self.schedules += other.schedules
        self.errors.update(other.errors)
        self.worst_ms = max(self.worst_ms, other.worst_ms)
        self.beyond = sorted(self.beyond + other.beyond)[:NAMED]
        self.beyond_count += other.beyond_count
        self.clears += other.clears
        self.close_calls += other.close_calls
        self.misjudged += other.misjudged
        self.heard_s += other.heard_s
        self.met.update(other.met)

    def quantile(self, share: float) -> float:
        left = share * self.errors.total()
        for bin_, count in sorted(self.errors.items()):
            left -= count
            if left <= 0:
                return bin_ * BIN_MS
        return 0.0

    def row(self) -> dict[str, Any]:
        return {
            "carrier": self.carrier,
            "schedules": self.schedules,
            "questions": self.errors.total(),
            "median_ms": round(self.quantile(0.5), 1),
            "p99_ms": round(self.quantile(0.99), 1),
            "worst_ms": round(self.worst_ms, 1),
            "beyond": self.beyond_count,
            "beyond_seeds": self.beyond,
            "clears": self.clears,
            "close_calls": self.close_calls,
            "misjudged": self.misjudged,
            "heard_s": round(self.heard_s),
            "met": dict(sorted(self.met.items())),
        }


def run_some(job: tuple[str, range, float]) -> Found:
    """`errors` and `worst_ms` are of what was asked before something happened that nobody can know."""
    carrier, seeds, way_s = job
    log.configure("critical")
    found = Found(carrier)
    for seed in seeds:
        verdict = judge(carrier, seed, longest_way_s=way_s)
        found.schedules += 1
        known = [abs(error) for error in verdict.errors_ms[: verdict.known]]
        found.errors.update(int(error / BIN_MS) for error in known)
        found.worst_ms = max(found.worst_ms, *known, 0.0)
        if verdict.worst_ms > verdict.allowed_ms:
            found.beyond.append(seed)
            found.beyond_count += 1
        found.clears += verdict.clears
        found.close_calls += verdict.close_calls
        found.misjudged += bool(verdict.misjudged_ms)
        found.heard_s += verdict.heard_s
        found.met.update(verdict.met)
    return found


def collect(parts: Iterable[Found], total: int) -> dict[str, Found]:
    all_found: dict[str, Found] = {}
    done = 0
    for part in parts:
        all_found.setdefault(part.carrier, Found(part.carrier)).add(part)
        done += part.schedules
        if part.beyond:
            print(f"\n{part.carrier}: seeds {part.beyond}", file=sys.stderr)
        filled = done * BAR // total
        beyond = sum(found.beyond_count for found in all_found.values())
        bar = "#" * filled + "." * (BAR - filled)
        print(f"\r[{bar}] {done:>6} of {total}, {beyond} beyond", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return all_found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, metavar="N", help="in all; default 10000")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first seed of each carrier")
    parser.add_argument("--carrier", action="append", choices=carrier_names(), help="only this one; may be repeated")
    parser.add_argument("--way-ms", type=float, default=20.0, help="the longest way to a carrier; default 20")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; default one for each core")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()

    names = args.carrier or carrier_names()
    each = -(-args.count // len(names))
    last = args.first + each
    jobs = [
        (name, range(start, min(start + CHUNK, last)), args.way_ms / 1000)
        for start in range(args.first, last, CHUNK)
        for name in names
    ]
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        found = collect(pool.imap_unordered(run_some, jobs), each * len(names))
    rows = [found[name].row() for name in sorted(found)]
    if args.json:
        print(json.dumps({"way_ms": args.way_ms, "rows": rows}))
    else:
        columns = [name for name in rows[0] if name not in ("beyond_seeds", "met")]
        print("".join(f"{name:>12}" for name in columns))
        for row in rows:
            print("".join(f"{row[name]:>12}" for name in columns))
        for row in rows:
            print(f"{row['carrier']}: " + ", ".join(f"{what} {count}" for what, count in row["met"].items()))
            if row["beyond_seeds"]:
                print(f"  beyond, the first: seeds {row['beyond_seeds']}")
    return 0 if not any(row["beyond"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
