"""What a PipelineTask costs: per frame beside the bare pipeline, and per task from start to end.

python benchmarks/bench_task.py             microseconds per frame, best of several runs taken in turn
python benchmarks/bench_task.py --quick     fewer frames and runs

Frames are pushed where a transport pushes them, from the first processor, and 7 inline processors carry them.
`goal` is what the design was accepted for; "more" is what a row costs beyond the bare pipeline.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bots.lanes import LoopRuntime
from bots.runtime import PipelineParams, PipelineTask
from media.filters import FrameFilter, FunctionFilter, IdentityFilter
from media.frames import Frame, InputAudioRawFrame, OutputAudioRawFrame, StartFrame, TextFrame
from media.observers import BaseObserver, FrameProcessed, FramePushed
from media.pipeline import Pipeline
from media.processor import FrameDirection, FrameProcessor

PCM = bytes(320)
BATCH = 100  # frames between two turns of the loop
FRAMES, RUNS = 20_000, 9


class Plain(FrameProcessor):
    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)


class Every(BaseObserver):
    seen = 0

    async def on_push_frame(self, data: FramePushed) -> None:
        self.seen += 1


class EveryPlain(BaseObserver):
    seen = 0

    def on_push_frame(self, data: FramePushed) -> None:
        self.seen += 1


class Texts(EveryPlain):
    frame_types = (TextFrame,)


class Processing(BaseObserver):
    seen = 0

    def on_process_frame(self, data: FrameProcessed) -> None:
        self.seen += 1


def row(*instead: FrameProcessor) -> list[FrameProcessor]:
    """Seven processors, some of them given."""
    return [Plain(), *instead, *(Plain() for _ in range(6 - len(instead)))]


async def truth(frame: Frame) -> bool:
    return True


def with_filter() -> PipelineTask:
    task = PipelineTask(Pipeline(row()))
    task.set_reached_downstream_filter((TextFrame,))
    task.add_event_handler("on_frame_reached_downstream", lambda task, frame: None)
    return task


ROWS: list[tuple[str, Callable[[], PipelineTask], str]] = [
    ("a task as it comes", lambda: PipelineTask(Pipeline(row())), "0.3"),
    ("without idle detection", lambda: PipelineTask(Pipeline(row()), idle_timeout_secs=None), "0.2"),
    (
        "with heartbeats",
        lambda: PipelineTask(Pipeline(row()), params=PipelineParams(enable_heartbeats=True)),
        "0.3",
    ),
    ("with a reached filter for other frames", with_filter, "0.3"),
    ("observer of the start only", lambda: PipelineTask(Pipeline(row()), observers=[BaseObserver()]), "0.3"),
    ("observer of other frames", lambda: PipelineTask(Pipeline(row()), observers=[Texts()]), ""),
    ("observer of every push, def", lambda: PipelineTask(Pipeline(row()), observers=[EveryPlain()]), ""),
    ("observer of every push, async def", lambda: PipelineTask(Pipeline(row()), observers=[Every()]), "10"),
    ("observer of all processing, def", lambda: PipelineTask(Pipeline(row()), observers=[Processing()]), ""),
    ("identity filter for one of the seven", lambda: PipelineTask(Pipeline(row(IdentityFilter()))), "0.3"),
    ("frame filter", lambda: PipelineTask(Pipeline(row(FrameFilter((TextFrame,))))), ""),
    ("function filter, def", lambda: PipelineTask(Pipeline(row(FunctionFilter(lambda frame: True)))), ""),
    ("function filter, async def", lambda: PipelineTask(Pipeline(row(FunctionFilter(truth)))), ""),
]


def frame() -> Frame:
    return InputAudioRawFrame(PCM, 8000, 1)


class Bare:
    """The pipeline alone."""

    async def start(self) -> FrameProcessor:
        self.runtime = LoopRuntime()
        processors = row()
        self.pipeline = Pipeline(processors, on_sink=lambda frame: None)
        await self.pipeline.bind(self.runtime)
        self.pipeline.flow.budget_s = 10.0  # a crowded machine must not switch the timing of processors on
        self.pipeline.push(StartFrame())
        return processors[0]

    async def stop(self) -> None:
        await self.pipeline.close()
        await self.runtime.close()


class Driven:
    """A task."""

    def __init__(self, make: Callable[[], PipelineTask]) -> None:
        self.make = make

    async def start(self) -> FrameProcessor:
        self.task = self.make()
        self.running = asyncio.ensure_future(self.task.run())
        for _ in range(5):
            await asyncio.sleep(0)
        self.task._pipeline.flow.budget_s = 10.0
        return self.task.pipeline.processors[0]

    async def stop(self) -> None:
        await self.task.cancel()
        await self.running


async def run_once(first: FrameProcessor, count: int) -> float:
    push = first.push_frame
    began = time.perf_counter()
    for _ in range(count // BATCH):
        for _ in range(BATCH):
            push(frame())
        await asyncio.sleep(0)
    for _ in range(3):
        await asyncio.sleep(0)
    return (time.perf_counter() - began) / count * 1e6


async def report(frames: int, runs: int) -> None:
    rows: list[tuple[str, Bare | Driven, str]] = [("the bare pipeline", Bare(), "2.0")]
    rows += [(name, Driven(make), goal) for name, make, goal in ROWS]
    firsts = [await driven.start() for _, driven, _ in rows]
    best = [float("inf")] * len(rows)
    for _ in range(runs):  # in turn, so that a slow minute of the machine hits all of them
        for index, first in enumerate(firsts):
            best[index] = min(best[index], await run_once(first, frames))
    print(f"{'us per frame, Python ' + sys.version.split()[0]:<44}{'best':>6}{'more':>7}{'goal':>7}")
    for (name, driven, goal), took in zip(rows, best, strict=True):
        more = "" if isinstance(driven, Bare) else f"{took - best[0]:.2f}"
        print(f"{name:<44}{took:>6.2f}{more:>7}{goal:>7}")
        await driven.stop()


async def life(count: int) -> None:
    """From PipelineTask(...) to the end of `run`, and what one that runs holds."""

    async def one() -> None:
        task = PipelineTask(Pipeline(row()))
        await task.queue_frame(OutputAudioRawFrame(PCM, 8000, 1))
        await task.stop_when_done()
        await task.run()

    await one()
    began = time.perf_counter()
    for _ in range(count):
        await one()
    print(f"\na whole task of 7 processors, us            {(time.perf_counter() - began) / count * 1e6:>6.0f}")
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    tasks = [PipelineTask(Pipeline(row())) for _ in range(200)]
    running = [asyncio.ensure_future(task.run()) for task in tasks]
    for _ in range(5):
        await asyncio.sleep(0)
    held = (tracemalloc.get_traced_memory()[0] - before) / len(tasks) / 1024
    print(f"kB held by one that runs                     {held:>6.1f}")
    print(f"asyncio tasks of one that runs               {(len(asyncio.all_tasks()) - 1) / len(tasks):>6.1f}")
    for task in tasks:
        await task.cancel()
    await asyncio.gather(*running)
    del tasks, running, task
    gc.collect()
    left = (tracemalloc.get_traced_memory()[0] - before) / 200 / 1024
    print(f"kB left of it afterwards                     {left:>6.2f}")
    tracemalloc.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    logging.disable()
    asyncio.run(report(FRAMES // 10 if quick else FRAMES, 3 if quick else RUNS))
    asyncio.run(life(100 if quick else 1000))


if __name__ == "__main__":
    main()
