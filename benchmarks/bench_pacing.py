"""What pacing and the ledger cost per 20 ms frame, and how true they are.

python benchmarks/bench_pacing.py                 cost in microseconds, best of several runs
python benchmarks/bench_pacing.py --live 200      a minute of live audio with stalls, so many times
python benchmarks/bench_pacing.py --ledger 2000   so many random schedules per carrier against the true play-out
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from media.ledger import PlayoutLedger
from media.pacing import PacedBuffer
from tests.media.playout import CARRIERS, judge
from tests.media.test_pacing import Live, live

FRAMES = 50_000
PACKET = bytes(320)


def best_us(work: Callable[[], None], runs: int = 7) -> float:
    """Microseconds per frame in the best of `runs`."""
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best / FRAMES * 1e6


def live_frame() -> None:
    """One packet in, one packet out."""
    paced = PacedBuffer(8000, lead_ms=200)
    push, take = paced.push, paced.take
    for i in range(FRAMES):
        push(PACKET)
        take(i * 0.02)


def live_frame_remembered() -> None:
    """The same with a second of history for a hold."""
    paced = PacedBuffer(8000, lead_ms=200, keep_ms=1000)
    push, take = paced.push, paced.take
    for i in range(FRAMES):
        push(PACKET)
        take(i * 0.02)


def long_reply() -> None:
    """A quarter of an hour pushed at once, taken tick by tick."""
    paced = PacedBuffer(8000, lead_ms=200, max_s=2000)
    paced.push(bytes(len(PACKET) * FRAMES))
    take = paced.take
    for i in range(FRAMES):
        take(i * 0.02)


def odd_pieces() -> None:
    """Pieces of 30 ms cut into packets of 20 ms."""
    paced = PacedBuffer(8000, lead_ms=200)
    push, take = paced.push, paced.take
    piece = bytes(480)
    for i in range(FRAMES):
        if i % 3 != 2:
            push(piece)
        take(i * 0.02)


def idle_tick() -> None:
    """A tick at which nothing waits."""
    take = PacedBuffer(8000).take
    for i in range(FRAMES):
        take(i * 0.02)


def ledger_frame() -> None:
    """Generated, sent, and a question what was heard."""
    ledger = PlayoutLedger(8000)
    for i in range(FRAMES):
        ledger.generated += 160
        ledger.send(160, i * 0.02)


def ledger_question() -> None:
    """heard() in the middle of a reply."""
    ledger = PlayoutLedger(8000)
    ledger.send(FRAMES * 160, 0.0)
    heard = ledger.heard
    for i in range(FRAMES):
        heard(i * 0.02)


def cost() -> None:
    for work in (live_frame, live_frame_remembered, long_reply, odd_pieces, idle_tick, ledger_frame, ledger_question):
        print(f"{work.__name__:22} {best_us(work):6.3f} us   {(work.__doc__ or '').strip()}")


def minutes(count: int) -> None:
    kinds: dict[str, Callable[[int], Live]] = {
        "jitter of 8 ms": lambda seed: live(seed),
        "late ticks, taken on arrival": lambda seed: live(seed, stalls="ticks"),
        "late ticks, taken at ticks": lambda seed: live(seed, stalls="ticks", on_arrival=False),
        "stalled loop": lambda seed: live(seed, stalls="loop"),
        "stalled loop, lead 200": lambda seed: live(seed, stalls="loop", lead_ms=200),
    }
    print("the last 5 s of a minute, ms        waited with us: mean, worst   heard late: mean, worst")
    for name, kind in kinds.items():
        results = [kind(seed) for seed in range(count)]
        waited = [result.waited * 1000 for result in results]
        heard = [result.heard * 1000 for result in results]
        print(f"{name:30} {sum(waited) / count:24.0f} {max(waited):6.0f} {sum(heard) / count:18.0f} {max(heard):6.0f}")


def ledger(count: int) -> None:
    ways = {"up to 80 ms, 15 of jitter": (0.08, 0.015), "2 ms, 1 of jitter": (0.002, 0.001)}
    for name, (way, jitter) in ways.items():
        print(f"one way {name}; error in ms; beyond: schedules with more than 20 ms + the way (+ a message if close)")
        for carrier, rules in CARRIERS.items():
            verdicts = [judge(seed, carrier, longest_way_s=way, jitter_s=jitter) for seed in range(count)]
            sure = sorted(v.worst * 1000 for v in verdicts if not v.close_calls)
            beyond = sum(v.worst > 0.02 + v.one_way + v.close_calls * rules.grain_ms / 1000 for v in verdicts)
            p50, p99 = sure[len(sure) // 2], sure[int(len(sure) * 0.99)]
            print(f"  {carrier:8} p50 {p50:5.1f}  p99 {p99:5.1f}  worst {sure[-1]:5.1f}  beyond {beyond} of {count}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--live", type=int, metavar="N")
    parser.add_argument("--ledger", type=int, metavar="N")
    args = parser.parse_args()
    if args.live:
        minutes(args.live)
    if args.ledger:
        ledger(args.ledger)
    if not (args.live or args.ledger):
        cost()


if __name__ == "__main__":
    main()
