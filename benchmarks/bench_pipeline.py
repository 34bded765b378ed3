"""What carrying a frame through processors costs.

python benchmarks/bench_pipeline.py             microseconds per frame, best of several runs
python benchmarks/bench_pipeline.py --quick     fewer frames and runs

Creating the frame is included, as a call creates each one. `goal` is what the design was accepted for.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bots.lanes import LoopRuntime
from media.frames import Frame, InputAudioRawFrame, OutputAudioRawFrame, StartFrame
from media.pipeline import ParallelPipeline, Pipeline
from media.processor import FrameDirection, FrameProcessor

PCM = bytes(320)
BATCH = 100  # frames between two turns of the loop
FRAMES, RUNS = 20_000, 9


class Plain(FrameProcessor):
    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)


class Waits(FrameProcessor):
    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        await self.push_frame(frame, direction)


def plain(count: int) -> list[FrameProcessor]:
    return [Plain() for _ in range(count)]


def system() -> Frame:
    return InputAudioRawFrame(PCM, 8000, 1)


def data() -> Frame:
    return OutputAudioRawFrame(PCM, 8000, 1)


def hooked() -> list[FrameProcessor]:
    row = plain(7)
    row[3].add_event_handler("on_before_process_frame", lambda processor, frame: None)
    return row


async def best_us(make: Callable[[], Sequence[FrameProcessor]], frame: Callable[[], Frame], **flow: Any) -> float:
    """Microseconds per frame in the best run; every frame must come out."""
    runtime, came_out = LoopRuntime(), 0

    def sink(_: Frame) -> None:
        nonlocal came_out
        came_out += 1

    pipeline = Pipeline(make(), on_sink=sink)
    await pipeline.bind(runtime)
    for name, value in flow.items():
        setattr(pipeline.flow, name, value)
    pipeline.flow.budget_s = 10.0  # a crowded machine must not switch the timing of processors on
    pipeline.flow.relink()
    pipeline.push(StartFrame())
    await asyncio.sleep(0)
    push, best = pipeline.push, float("inf")
    for _ in range(RUNS):
        start = time.perf_counter()
        for _ in range(FRAMES // BATCH):
            for _ in range(BATCH):
                push(frame())
            await asyncio.sleep(0)
        best = min(best, time.perf_counter() - start)
    for _ in range(20):
        await asyncio.sleep(0)
    expected = RUNS * (FRAMES // BATCH) * BATCH + 1
    await pipeline.close()
    await runtime.close()
    assert came_out == expected, f"{came_out} of {expected} frames came out"
    return best / FRAMES * 1e6


def creation_us(frame: Callable[[], Frame]) -> float:
    best = float("inf")
    for _ in range(RUNS):
        start = time.perf_counter()
        for _ in range(FRAMES):
            frame()
        best = min(best, time.perf_counter() - start)
    return best / FRAMES * 1e6


def named() -> Frame:
    frame = system()
    frame.id, frame.name, frame.metadata  # noqa: B018
    return frame


def tap(source: FrameProcessor, destination: FrameProcessor, direction: FrameDirection, entry: Any) -> Any:
    seen: list[Any] = []

    def tapped(frame: Frame, direction: FrameDirection) -> None:
        seen.append((source, destination, frame, direction))
        seen.clear()
        entry(frame, direction)

    return tapped


ROWS: list[tuple[str, Callable[[], Sequence[FrameProcessor]], Callable[[], Frame], str]] = [
    ("no processor", lambda: plain(0), system, ""),
    ("7 inline processors", lambda: plain(7), system, "2.0"),
    ("17 inline processors", lambda: plain(17), system, "4.0"),
    (
        "7, of which 4 in nested pipelines",
        lambda: [*plain(3), Pipeline([*plain(2), Pipeline(plain(2))])],
        system,
        "2.0",
    ),
    ("7 with one hook", hooked, system, "2.6"),
    ("5 and two branches of 1", lambda: [*plain(3), ParallelPipeline(plain(1), plain(1)), *plain(2)], system, "3.0"),
    ("7, one async: system frame, by hand", lambda: [*plain(3), Waits(), *plain(3)], system, "2.9"),
    ("7, one async: data frame, by its task", lambda: [*plain(3), Waits(), *plain(3)], data, "4.4"),
    ("6 async: system frame, by hand", lambda: [Waits() for _ in range(6)], system, "8.7"),
    ("6 async: data frame, by their tasks", lambda: [Waits() for _ in range(6)], data, ""),
]


async def report() -> None:
    print(f"{'us per frame, Python ' + sys.version.split()[0]:<44}{'best':>6}{'goal':>7}")
    line = "{:<44}{:>6.2f}{:>7}".format
    print(line("a frame alone", creation_us(system), "0.13"))
    print(line("a frame with id, name and metadata", creation_us(named), "2.0"))
    inline: dict[int, float] = {}
    for name, make, frame, goal in ROWS:
        took = await best_us(make, frame)
        print(line(name, took, goal))
        if name.endswith("inline processors"):
            inline[int(name.split()[0])] = took
    print(line("one hop more", (inline[17] - inline[7]) / 10, "0.2"))
    print(line("7 with an idle watch", await best_us(lambda: plain(7), system, watch=lambda frame: None), "2.1"))
    print(line("7 with a tap on every link", await best_us(lambda: plain(7), system, tap=tap), ""))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer frames and runs")
    if parser.parse_args().quick:
        FRAMES, RUNS = 5_000, 3
    asyncio.run(report())
