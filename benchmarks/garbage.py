"""What Python's cyclic garbage collector costs a gateway with many calls: CPU time, and how long it holds the loop.

    python benchmarks/garbage.py [--calls N] [--seconds S] [--turnover N] [--json]

The whole gateway is imported; N calls are up and echo, on virtual time, and of these `--turnover` a second end and are
replaced by new ones. Each way of setting the collector runs in a process of its own. `longest` and `p99` are of single
collections of any generation, in milliseconds; `share` is of all CPU time; `left` is how many objects it found that
nobody else would have freed.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from itertools import cycle
from pathlib import Path

import structlog

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gateway.serving  # all that a gateway has in memory
from benchmarks.hotpath import CASES, SECOND, TICK_S, Shell, messages
from gateway.garbage import Collector, settle

assert gateway.serving


def frozen() -> None:
    gc.collect()
    gc.freeze()


def off() -> None:
    gc.disable()


OURS = "as the gateway has it"
WAYS: Mapping[str, Callable[[], None]] = {
    "as Python has it": lambda: None,
    "frozen": frozen,
    "frozen, and settled": settle,
    OURS: settle,
    "off": off,
}


def measure(way: str, calls: int, seconds: float, turnover: int) -> dict[str, float]:
    pauses: list[tuple[int, float]] = []
    found = [0]
    began = 0.0

    def watch(phase: str, info: Mapping[str, int]) -> None:
        nonlocal began
        if phase == "start":
            began = time.thread_time()
        else:
            pauses.append((info["generation"], time.thread_time() - began))
            found[0] += info["collected"]

    opening, spoken = messages(CASES[0], 1)
    WAYS[way]()
    shells: list[Shell] = []
    now = 1000.0

    def place() -> None:
        shell = Shell(CASES[0], None)
        shell.t = now
        for message in opening:
            shell.core.receive(message, now)
        shell.core.tick(now)
        shells.append(shell)

    for _ in range(calls):
        place()
    ended = 0
    collector = Collector(lambda: ended, lambda: calls, now)
    gc.callbacks.append(watch)
    message, spent, owed = cycle(spoken), time.thread_time(), 0.0
    next_at = now + 1.0
    for _ in range(int(seconds * SECOND)):
        now += TICK_S
        if way == OURS and now >= next_at:
            next_at = now + (collector.collect(now) if collector.is_due(now) else 1.0)
        said = next(message)
        for shell in shells:
            shell.t = now
            shell.core.receive(said, now)
            shell.core.tick(now)
            while shell.core.take() is not None:
                pass
        owed += turnover * TICK_S
        while owed >= 1:
            owed -= 1
            gone = shells.pop(0)
            gone.core.disconnected(1000, now)
            if gone.core.pipeline is not None:
                gone.core.pipeline.close()
            gone.core.record(now)
            gone.core.leave()
            ended += 1
            place()
    spent = time.thread_time() - spent
    gc.callbacks.remove(watch)
    lengths = sorted(length for _, length in pauses)
    return {
        "cpu_ms": round(1000 * spent / calls / seconds, 4),
        "collections": len(pauses),
        "full": sum(1 for generation, _ in pauses if generation == 2),
        "longest_ms": round(1000 * max(lengths, default=0.0), 2),
        "p99_ms": round(1000 * lengths[int(0.99 * len(lengths))], 2) if lengths else 0.0,
        "share": round(sum(lengths) / spent, 4),
        "left": found[0],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=200, metavar="N", help="at a time; default 200")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of virtual time; default 10")
    parser.add_argument("--turnover", type=int, default=20, metavar="N", help="calls that end in a second; default 20")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if args.way:
        print(json.dumps(measure(args.way, args.calls, args.seconds, args.turnover)))
        return 0
    own = [sys.executable, __file__, "--calls", str(args.calls), "--seconds", str(args.seconds)]
    rows = {}
    for way in WAYS:
        command = [*own, "--turnover", str(args.turnover), "--way", way]
        rows[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    if args.json:
        print(json.dumps(rows))
        return 0
    columns = list(next(iter(rows.values())))
    print(f"{'':<24}" + "".join(f"{column:>13}" for column in columns))
    for way, row in rows.items():
        print(f"{way:<24}" + "".join(f"{row[column]:>13}" for column in columns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
