"""A gateway that carries calls, by turns alone and with something else to do: what that costs, and whom it delays.

For benchmarks/console.py and benchmarks/watching.py. The gateway and the callers, echo calls of Twilio's, are processes
of their own, on cores of their own where there are two, and stay for the whole run. CPU time is the gateway's, from
/proc. A packet is late when it comes LATE_MS after the moment at which its caller's play-out needed it.

How much is chance is judged by the pairs themselves: if the other work delayed nothing, each pair of turns could as
well have come the other way round. Told is in how many of all 2**pairs ways of turning pairs round the turns with the
work would have had as many late packets more as they really had, or more than that. Below 5 of 100 it is no chance.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gateway.commands.capacity import _sample, _started, cores
from gateway.load.crew import Moment, Server, perform
from gateway.load.plan import LoadPlan
from gateway.load.tally import MS_PER_BIN, Spread, Tally

LATE_MS = 20.0
CALLERS_MS = 10.0  # late by more than that themselves (p99), they measure themselves
SETTLE_S = 1.0  # of each turn: does not count
STARTED_PER_S = 20

# What is done beside the calls of a gateway at that URL; gives what to say of it at the end.
Work = Callable[[str], AbstractAsyncContextManager[Callable[[], str]]]


class Turn:
    """What the gateway has used, and how its packets came, from its first moment to its last."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self._first = self._last = Tally()  # what was counted until then

    def note(self, moment: Moment, tally: Tally) -> None:
        if not self.moments:
            self._first = tally
        self._last = tally
        self.moments.append(moment)

    @property
    def core(self) -> float:
        """Percent of one core."""
        first, last = self.moments[0], self.moments[-1]
        assert first.server is not None
        assert last.server is not None
        return 100 * (last.server.cpu_s - first.server.cpu_s) / (last.t - first.t)

    @property
    def callers_late_ms(self) -> float:
        """How late the callers' own process was with one of a hundred of its rounds."""
        return _between(self._first.own_lateness, self._last.own_lateness).quantile(0.99) or 0.0

    @property
    def lateness(self) -> Spread:
        return _between(self._first.lateness, self._last.lateness)

    @property
    def late(self) -> int:
        return _late(self.lateness)


Pair = tuple[Turn, Turn]  # without the work, and with it


def parser(doc: str | None, *, seconds: float, pairs: int) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--calls", type=int, default=200)
    made.add_argument("--seconds", type=float, default=seconds, help=f"of a turn; default {seconds:g}")
    made.add_argument("--pairs", type=int, default=pairs, help=f"of turns; default {pairs}")
    return made


def run(options: argparse.Namespace, name: str, work: Work) -> None:
    """Measure, and tell."""
    ours, theirs = cores()
    if ours:
        os.sched_setaffinity(0, ours)  # whoever does the work is not to take the gateway's core
    with _sample(None) as config, _started(config, theirs) as url:
        pairs = asyncio.run(_alternate(options, url, config, work))
    _tell(name, options.calls, pairs)


async def _alternate(options: argparse.Namespace, url: str, config: Path, work: Work) -> Sequence[Pair]:
    now: list[Turn | None] = [None]
    began = time.monotonic()

    def tell(moment: Moment, tally: Tally) -> None:
        turn = now[0]
        if turn is not None:
            turn.note(moment, tally)

    whole_s = 2 * options.pairs * (options.seconds + SETTLE_S + 1) + 4
    plan = LoadPlan(url=url, config=str(config), calls=options.calls, seconds=whole_s)
    load = asyncio.create_task(asyncio.to_thread(perform, plan, Server(url), tell=tell))

    async def turn() -> Turn:
        await asyncio.sleep(SETTLE_S)
        now[0] = found = Turn()
        await asyncio.sleep(options.seconds)
        now[0] = None
        return found

    await asyncio.sleep(max(0.0, options.calls / STARTED_PER_S + 4 - (time.monotonic() - began)))
    pairs = []
    for number in range(options.pairs):
        without = await turn()
        async with work("http" + url[2:]) as said:
            working = await turn()
        pairs.append((without, working))
        print(
            f"{number}: without {without.core:5.1f} % of a core, {without.late} packets late;"
            f" with {working.core:5.1f} %, {working.late}; {said()};"
            f" callers late by {without.callers_late_ms:.1f} and {working.callers_late_ms:.1f} ms themselves",
            flush=True,
        )
    done = await load
    if failed := done.tally.failed + done.tally.refused:
        print(f"calls that failed: {dict(failed)}")
    return pairs


# ---------------------------------------------------------------- what it says


def _tell(name: str, calls: int, pairs: Sequence[Pair]) -> None:
    more = [working.core - without.core for without, working in pairs]
    each = ", ".join(f"{one:+.1f}" for one in more)
    print(f"\n{name} on {calls} calls: {statistics.median(more):+.2f} % of a core, the median of {each}\n")
    spreads = [_together(turn.lateness for turn in turns) for turns in zip(*pairs, strict=True)]
    print(f"lateness of packets, ms {'p50':>8} {'p99':>8} {'p99.9':>8} {f'>= {LATE_MS:g} ms':>10} {'of':>10}")
    for who, spread in zip(("without", "with"), spreads, strict=True):
        shares = "".join(f" {spread.quantile(share) or 0:8.1f}" for share in (0.5, 0.99, 0.999))
        print(f"  {who:<21}{shares} {_late(spread):>10} {spread.count:>10}")
    without, working = spreads
    share, share_with = (_late(spread) / max(1, spread.count) for spread in spreads)
    if not _late(without) and not _late(working):
        print("no packet was late")
    else:
        ratio = f"{share_with / share:.2f} times as many" if share else "late ones only with it"
        chance = by_chance([working.late - without.late for without, working in pairs])
        verdict = "no more than chance explains" if chance >= 0.05 else "more of them"
        print(f"late packets: {ratio}; by chance alone that many more in {100 * chance:.0f} of 100 runs: {verdict}")
    disturbed = max(turn.callers_late_ms for pair in pairs for turn in pair)
    if disturbed > CALLERS_MS:
        print(f"the callers themselves were late by {disturbed:.0f} ms: this machine had no room for them; try fewer")


def by_chance(more: Sequence[float]) -> float:
    """The share of all ways to turn pairs round that give a sum as large as this one, or larger."""
    signs = itertools.product((1, -1), repeat=len(more))
    sums = [sum(sign * one for sign, one in zip(way, more, strict=True)) for way in signs]
    return sum(one >= sum(more) for one in sums) / len(sums)


def _between(first: Spread, last: Spread) -> Spread:
    bins = Counter({place: count - first.bins[place] for place, count in last.bins.items()})
    return Spread(bins, max(bins, default=0) * MS_PER_BIN + MS_PER_BIN)


def _together(spreads: Iterable[Spread]) -> Spread:
    whole = Spread()
    for spread in spreads:
        whole.merge(spread)
    return whole


def _late(spread: Spread) -> int:
    return sum(count for place, count in spread.bins.items() if place * MS_PER_BIN >= LATE_MS)
