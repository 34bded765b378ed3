"""How soon the carrier is told to be silent, and whether anything of the old reply comes after that.

    python benchmarks/interruption.py [--count N] [--rate HZ ...] [--carrier NAME ...] [--json]

A bot speaks, interrupts itself at random moments, and speaks anew, at once or a little later; N times for each rate
of its pipeline, in calls through all carriers at the same time. Measured is the time from the decision (the moment
before the interruption is asked for, in the gateway's own process) to the carrier's clear message at the other end of
the socket. What the carrier is sent between two clears must be, sample for sample, the beginning of the new reply as it
sounds in a call of its own. A client that cannot be cleared (web) plays what it has; measured there is the most that
it ever had, which is how long the old reply may be heard. Exits 1 if the 99th percentile is over 5 ms, or a single
sample is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bots.base import Build, Call
from gateway import log
from gateway.registry import carrier_names, serializer_class
from gateway.simulator.base import CallPlan, FakeCarrier, fake_carrier
from gateway.simulator.caller import Limits
from gateway.simulator.script import Script
from media.frames import Frame, StartFrame
from media.processor import FrameDirection, FrameProcessor
from tests.endtoend import actors
from tests.endtoend.apart import Apart
from tests.endtoend.served import run
from tests.gateway.virtual import VirtualCall

RATES = (8000, 16000, 24000)
TARGET_MS = 5.0
REPLIES = 5  # different ones
SPEAKS_S = 1.2
SHORTEST_S, LONGEST_S = 0.12, 0.45  # between two interruptions
CALLS = 12  # at the same time
QUIET_S = 4.0  # from the last interruption to the end of a call

decisions: dict[str, list[float]] = {}  # in the gateway's process: by call, when it interrupted itself


@cache
def reply(number: int, rate: int) -> bytes:
    return actors.noise(SPEAKS_S, rate, seed=number % REPLIES)


class Interrupts(FrameProcessor):
    """Speaks, and interrupts itself so many times."""

    def __init__(self, call: Call, times: int) -> None:
        super().__init__()
        self._call, self._left = call, times
        self._decisions = decisions.setdefault(call.info.call_id, [])
        self._random = random.Random(len(decisions))
        self._replies = 0

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            self._speak()

    def _speak(self) -> None:
        rate = self._call.sample_rate
        for frame in actors.utterance(reply(self._replies, rate), rate):
            self.push_frame(frame)
        self._replies += 1
        if self._left:
            self._left -= 1
            self._call.call_later(self._random.uniform(SHORTEST_S, LONGEST_S), self._decide)
        else:
            # The others are still measured: what a caller does when his call is over must not disturb them.
            self._call.call_later(QUIET_S, lambda: self._call.end("done"))

    def _decide(self) -> None:
        self._decisions.append(time.monotonic())
        self._call.interrupt()
        if self._random.random() < 0.5:
            self._speak()
        else:
            self._call.call_later(self._random.uniform(0.0, 0.1), self._speak)


def bots(times: int) -> Mapping[str, Build]:
    for number, rate in product(range(REPLIES), RATES):
        reply(number, rate)
    return {str(rate): partial(_build, times) for rate in RATES}


def _build(times: int, call: Call) -> Sequence[FrameProcessor]:
    return (Interrupts(call, times),)


def told() -> dict[str, list[float]]:
    return decisions


def gateway(count: int) -> Apart:
    """One whose bots interrupt themselves `count` times in all calls together, or a few times more."""
    times = -(-count // min(CALLS, count))
    return Apart(partial(bots, times), tell=told, sample_rates={str(rate): rate for rate in RATES})


# ---------------------------------------------------------------- the other end


def listening(name: str) -> tuple[FakeCarrier, list[list[bytes]], list[float]]:
    """A strict fake carrier, what it was sent between clears, message by message, and when the clears came."""
    cls = fake_carrier(name)
    spans: list[list[bytes]] = [[]]
    clears: list[float] = []

    def play(self: FakeCarrier, pcm: bytes, now: float) -> None:
        spans[-1].append(pcm)
        cls.play(self, pcm, now)

    def clear(self: FakeCarrier, now: float) -> list[str]:
        clears.append(time.monotonic())
        spans.append([])
        return cls.clear(self, now)

    # So many interruptions are more than Genesys takes in messages a second; that is not what is measured here.
    options = {"binary_rate": 0.0, "text_rate": 0.0} if name == "genesys" else {}
    listener = type(f"Listening{cls.__name__}", (cls,), {"play": play, "clear": clear})
    return listener(CallPlan(options=options)), spans, clears


@cache
def alone(name: str, number: int, rate: int) -> bytes:
    """What the carrier is sent of a reply that nothing comes before and nothing interrupts."""
    call = VirtualCall(name, sample_rate=rate)
    sent = bytearray()
    play = call.fake.play

    def hear(pcm: bytes, now: float) -> None:
        sent.extend(pcm)
        play(pcm, now)

    call.fake.play = hear  # type: ignore[method-assign]
    call.run(0.1)
    for frame in actors.utterance(reply(number, rate), rate):
        call.core.inject(frame)
    call.run(SPEAKS_S + 2)
    return bytes(sent)


def by_reply(name: str, rate: int, messages: Sequence[bytes]) -> list[list[bytes]]:
    """What a client that is never cleared was sent, reply by reply: an interruption falls between two messages."""
    spans: list[list[bytes]] = [[]]
    so_far = 0
    for message in messages:
        goes_on = alone(name, (len(spans) - 1) % REPLIES, rate)[so_far : so_far + len(message)] == message
        if not goes_on and alone(name, len(spans) % REPLIES, rate).startswith(message):
            spans.append([])
            so_far = 0
        spans[-1].append(message)
        so_far += len(message)
    return spans


@dataclass(slots=True)
class Outcome:
    """What came of the interruptions at one rate of the pipeline."""

    rate: int
    times_ms: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)  # by carrier: spans that are not the new reply's beginning
    missing: Counter[str] = field(default_factory=Counter)  # by carrier: interruptions without a clear
    problems: list[str] = field(default_factory=list)
    compared_s: float = 0.0  # of replies
    plays_on: dict[str, float] = field(default_factory=dict)  # ms: the most that a client held that cannot be cleared

    def quantile(self, share: float) -> float | None:
        """None where no carrier could be cleared."""
        ordered = sorted(self.times_ms)
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else None

    @property
    def reached(self) -> bool:
        p99 = self.quantile(0.99)
        return (p99 is None or p99 <= TARGET_MS) and not self.wrong and not +self.missing and not self.problems


async def interruptions(served: Apart, rate: int, carriers: Sequence[str], count: int) -> Outcome:
    outcome = Outcome(rate)
    for name, number in product(carriers, range(REPLIES)):
        alone(name, number, rate)
    listeners = [listening(carriers[index % len(carriers)]) for index in range(min(CALLS, count))]

    async def one(fake: FakeCarrier) -> None:
        report = await served.call(fake, Script(), bot=str(rate), limits=Limits(longest_s=300))
        outcome.problems += report.problems

    await asyncio.gather(*(one(fake) for fake, _, _ in listeners))
    decided = served.told()
    for fake, spans, clears in listeners:
        own = decided[fake.call_id]
        if not serializer_class(fake.name).clears:
            spans = by_reply(fake.name, rate, spans[0])
            held_ms = fake.playout.most_buffered_s * 1000
            outcome.plays_on[fake.name] = max(held_ms, outcome.plays_on.get(fake.name, 0.0))
            outcome.missing[fake.name] += len(own) + 1 - len(spans)
        elif len(own) != len(clears):
            outcome.missing[fake.name] += len(own) - len(clears)
            continue
        else:
            outcome.times_ms += [1000 * (heard - at) for at, heard in zip(own, clears, strict=True)]
        for number, span in enumerate(map(b"".join, spans)):
            outcome.compared_s += len(span) / 2 / fake.playout.rate
            if not alone(fake.name, number % REPLIES, rate).startswith(span):
                outcome.wrong[fake.name] += 1
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, metavar="N", help="for each rate; default 1000")
    parser.add_argument("--rate", action="append", type=int, choices=RATES, help="of the pipeline; may be repeated")
    parser.add_argument("--carrier", action="append", choices=carrier_names(), help="only this one; may be repeated")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args()

    log.configure("critical")
    outcomes = []
    with gateway(args.count) as served:
        for rate in args.rate or RATES:
            print(f"{rate} Hz: {args.count} interruptions ...", file=sys.stderr, flush=True)
            names = args.carrier or carrier_names()
            outcomes.append(run(interruptions(served, rate, names, args.count), limit_s=600))
    rows = [
        {
            "pipeline_hz": outcome.rate,
            "interruptions": len(outcome.times_ms),
            "median_ms": outcome.quantile(0.5),
            "p99_ms": outcome.quantile(0.99),
            "worst_ms": outcome.quantile(1.0),
            "compared_s": round(outcome.compared_s, 1),
            "wrong": dict(outcome.wrong),
            "missing": dict(+outcome.missing),
            "plays_on_ms": {name: round(held_ms) for name, held_ms in outcome.plays_on.items()},
            "problems": outcome.problems,
        }
        for outcome in outcomes
    ]
    reached = all(outcome.reached for outcome in outcomes)
    if args.json:
        print(json.dumps({"rows": rows, "target_p99_ms": TARGET_MS, "reached": reached}))
    else:
        print(f"{'pipeline':>9}{'count':>8}{'median':>10}{'p99':>10}{'worst':>10}{'compared':>12}{'wrong':>8}")
        for row, outcome in zip(rows, outcomes, strict=True):
            times = "".join(
                f"{'-' if row[key] is None else row[key]:>7} ms" for key in ("median_ms", "p99_ms", "worst_ms")
            )
            wrong = outcome.wrong.total() + (+outcome.missing).total()
            print(f"{outcome.rate:>6} Hz{row['interruptions']:>8}{times}{row['compared_s']:>10} s{wrong:>8}")
            for problem in (*outcome.problems, *(f"{name}: {n} wrong" for name, n in outcome.wrong.items())):
                print(f"  {problem}")
            for name, held_ms in outcome.plays_on.items():
                print(f"  {name} cannot be cleared: the old reply is heard for {held_ms:.0f} ms at most")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
