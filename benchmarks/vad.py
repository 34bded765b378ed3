"""What voice detection costs a process that holds many calls, and how late it is.

    python benchmarks/vad.py [--calls N] [--seconds S] [--rate HZ ...] [--json]

N calls are fed in real time, 20 ms at a time, as the gateway's clock spreads them. Half of a call is speech over a
quiet line ("a conversation"), or all of it, over loud noise and with the gate of silence off ("the worst"). The same
feeding without a detector is run before and after, and its CPU time is taken off. Held loop: how late a timer of 1 ms
is, beside what it is without a detector. Exits 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.turns.corpus import TUNE, clips, mix, noise, telephone
from gateway.clock import Clock
from gateway.vad_engine import VoiceEngine
from media.resample import resample_all
from media.silero import WINDOW, load_model
from tests.endtoend.served import run

FRAME_S = 0.02
PHASES = 4
ROWS = 75  # what comes together of 300 calls
COST_MS = {8000: 1.0, 16000: 1.9}  # CPU per call-second
MEMORY_MB, ADDED_MS, HELD_MS = 0.1, 20.0, 5.0


@dataclass
class Cost:
    rate: int
    lines: str
    calls: int
    cpu_ms: float  # per call-second
    loop_ms: float  # of it: in the event loop's thread
    model_ms: float  # of it: the model alone, in batches of ROWS, all windows
    asked_share: float  # of windows that were shown to the model
    added_p50_ms: float  # from a window's last sample to its result
    added_p99_ms: float
    held_p999_ms: float
    held_without_p999_ms: float
    dropped: int


def conversation(seconds: float) -> bytes:
    """Sentences with as much silence, over a quiet line."""
    at, said = 0.5, []
    for clip in clips(TUNE):
        if at + clip.seconds > seconds - 0.5:
            break
        said.append((at, clip, -25.0))
        at += 2 * clip.seconds + 0.2
    return telephone(mix(seconds, said, noise("hiss", seconds, TUNE), -65.0))


def worst(seconds: float) -> bytes:
    return telephone(mix(seconds, (), noise("babble", seconds, TUNE), -20.0))


class Line:
    """One call: frames of 20 ms from a loop of audio, and how late each window's result came."""

    def __init__(self, pcm: bytes, rate: int, start: int, delays: list[float]) -> None:
        self.pcm, self.at, self.size = pcm, start * 2, int(rate * FRAME_S) * 2
        self.window, self.fed, self.done = WINDOW[rate] * 2, 0, 0
        self.times: dict[int, float] = {}
        self.delays = delays
        self.source: Any = None

    def deliver(self, confidence: float, volume: float) -> None:
        self.done += 1
        since = self.times.pop(self.done, None)
        if since is not None:
            self.delays.append(time.perf_counter() - since)

    def feed(self) -> None:
        piece = self.pcm[self.at : self.at + self.size]
        self.at = (self.at + self.size) % (len(self.pcm) - self.size)
        before, self.fed = self.fed // self.window, self.fed + len(piece)
        for window in range(before + 1, self.fed // self.window + 1):
            self.times[window] = time.perf_counter()
        if self.source is None:
            self.times.clear()
        else:
            self.source.feed(piece)


async def held(lateness: list[float], stop: asyncio.Event) -> None:
    while not stop.is_set():
        began = time.perf_counter()
        await asyncio.sleep(0.001)
        lateness.append(time.perf_counter() - began - 0.001)


async def feed(lines: Sequence[Line], seconds: float) -> tuple[float, float, list[float]]:
    """CPU seconds that it took, those of this thread among them, and how late timers were."""
    lateness: list[float] = []
    stop = asyncio.Event()
    watch = asyncio.create_task(held(lateness, stop))
    began, cpu, here = time.perf_counter(), time.process_time(), time.thread_time()
    for step in range(int(seconds / FRAME_S * PHASES)):
        due = began + step * FRAME_S / PHASES
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        for line in lines[step % PHASES :: PHASES]:
            line.feed()
    spent = time.process_time() - cpu, time.thread_time() - here
    stop.set()
    await watch
    return *spent, lateness


def model_ms(rate: int) -> float:
    """Of ROWS calls at once, per call-second."""
    model, size = load_model(), WINDOW[rate] + WINDOW[rate] // 8
    audio = np.random.default_rng(1).normal(0, 0.1, (ROWS, size)).astype(np.float32)
    state = np.zeros((2, ROWS, 128), np.float32)
    best = 1e9
    for _ in range(20):
        began = time.process_time()
        for _ in range(10):
            model.step(rate, audio, state)
        best = min(best, (time.process_time() - began) / 10)
    return best * 1e3 / ROWS / 0.032


async def cost(rate: int, name: str, pcm: bytes, count: int, seconds: float) -> Cost:
    if rate != 8000:
        pcm = resample_all(pcm, 8000, rate)
    delays: list[float] = []
    rng = np.random.default_rng(1)
    starts = rng.integers(0, len(pcm) // 2 - rate, count).tolist()
    bare = [Line(pcm, rate, start, delays) for start in starts]
    before, before_here, without = await feed(bare, seconds / 2)
    clock = Clock()
    clock.start()
    engine = VoiceEngine(clock)
    lines = [Line(pcm, rate, start, delays) for start in starts]
    for line in lines:
        line.source = engine.listen(None, rate, line.deliver)
        assert line.source is not None
        line.source.min_volume = 0.6 if name == "a conversation" else 0.0
    await feed(lines, 2.0)  # the model is loaded, every row is open
    delays.clear()
    spent, spent_here, lateness = await feed(lines, seconds)
    for line in lines:
        line.source.close()
    counted = engine.tally()
    await engine.close()
    clock.stop()
    after, after_here, more = await feed(bare, seconds / 2)
    added = np.array(delays) * 1e3
    return Cost(
        rate,
        name,
        count,
        (spent - before - after) * 1e3 / count / seconds,
        (spent_here - before_here - after_here) * 1e3 / count / seconds,
        model_ms(rate),
        1 - counted.get("asleep", 0) / counted["windows"],
        float(np.percentile(added, 50)),
        float(np.percentile(added, 99)),
        float(np.percentile(lateness, 99.9)) * 1e3,
        float(np.percentile([*without, *more], 99.9)) * 1e3,
        counted.get("dropped", 0),
    )


async def memory_mb(calls: int = 500) -> float:
    """Of one call more, everything that the engine keeps for it."""
    load_model()
    clock = Clock()
    clock.start()
    engine = VoiceEngine(clock)
    sources: list[Any] = []

    async def open_some(count: int) -> None:
        for _ in range(count):
            source = engine.listen(None, 16000, lambda *window: None)
            assert source is not None
            source.feed(bytes(WINDOW[16000] * 3))
            sources.append(source)
        async with asyncio.timeout(60):
            while engine.tally().get("windows", 0) < len(sources):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    await open_some(10)
    tracemalloc.start()
    first = tracemalloc.get_traced_memory()[0]
    await open_some(calls)
    used = tracemalloc.get_traced_memory()[0] - first
    tracemalloc.stop()
    for source in sources:
        source.close()
    await engine.close()
    clock.stop()
    return used / calls / 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=int, choices=(8000, 16000), action="append")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    memory = run(memory_mb())
    found = []
    for rate in options.rate or (8000, 16000):
        for name, pcm in (("a conversation", conversation(60.0)), ("the worst", worst(60.0))):
            found.append(run(cost(rate, name, pcm, options.calls, options.seconds)))
    if options.json:
        print(json.dumps({"memory_mb": memory, "costs": [asdict(one) for one in found]}, indent=1))
    else:
        print(f"{options.calls} calls, {memory:.4f} MB each\n")
        print(
            "| rate | lines | CPU ms per call-second | in the loop | the model | asked | added p50 / p99 | held p99.9 |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for one in found:
            print(
                f"| {one.rate} | {one.lines} | {one.cpu_ms:.2f} | {one.loop_ms:.2f} | {one.model_ms:.2f} "
                f"| {one.asked_share:.0%} | {one.added_p50_ms:.1f} / {one.added_p99_ms:.1f} "
                f"| {one.held_p999_ms:.1f} (without {one.held_without_p999_ms:.1f}) |"
            )
    missed = [
        f"{one.rate} Hz, {one.lines}"
        for one in found
        if one.cpu_ms > COST_MS[one.rate] or one.added_p99_ms > ADDED_MS or one.held_p999_ms > HELD_MS or one.dropped
    ]
    if memory > MEMORY_MB:
        missed.append("memory")
    print(*(f"MISSED: {what}" for what in missed), sep="\n", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
