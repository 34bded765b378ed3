"""PipelineRunner: several tasks, and the signals that end them."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from typing import Any

import pytest

import bots.runner
from bots.runtime import PipelineRunner, PipelineTask
from media.frames import EndFrame, Frame, TextFrame
from media.pipeline import Pipeline
from tests.media.rig import AsyncPass, Pass, labels, turns
from tests.media.rig import run_on_virtual_time as run


def test_a_runner_runs_a_task_to_its_end() -> None:
    last = Pass()
    task = PipelineTask(Pipeline([last]))

    async def program() -> None:
        await task.queue_frames([TextFrame("1"), EndFrame()])
        await PipelineRunner().run(task)
        assert task.has_finished()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(program())
    assert labels(last.seen) == ["StartFrame", "1", "EndFrame"]


def test_several_at_once() -> None:
    lasts: list[Any] = [Pass(), AsyncPass(), Pass()]
    tasks = [PipelineTask(Pipeline([last])) for last in lasts]

    async def program() -> None:
        runner = PipelineRunner(name="the runner")
        assert str(runner) == "the runner"
        running = [asyncio.ensure_future(runner.run(task)) for task in tasks]
        await turns()
        await tasks[0].cancel()
        await running[0]
        assert [task.has_finished() for task in tasks] == [True, False, False]
        await runner.stop_when_done()
        await asyncio.gather(*running)

    run(program())
    assert [labels(last.seen)[-1] for last in lasts] == ["CancelFrame", "EndFrame", "EndFrame"]


def test_cancel_cancels_all() -> None:
    lasts: list[Any] = [Pass(), AsyncPass()]

    async def program() -> None:
        runner = PipelineRunner(handle_sigint=False)
        running = [asyncio.ensure_future(runner.run(PipelineTask(Pipeline([last])))) for last in lasts]
        await turns()
        await runner.cancel("shutdown")
        await asyncio.gather(*running)

    run(program())
    assert [last.seen[-1].reason for last in lasts] == ["shutdown", "shutdown"]


def test_what_run_raises_is_raised() -> None:
    class Broken(Pass):
        def setup(self, setup: Any) -> None:
            raise LookupError("no key")

    async def program() -> None:
        with pytest.raises(LookupError):
            await PipelineRunner().run(PipelineTask(Pipeline([Broken()])))

    run(program())
    assert not bots.runner._listening


@pytest.mark.parametrize(
    ("number", "handled"), [(signal.SIGINT, {"handle_sigint": True}), (signal.SIGTERM, {"handle_sigterm": True})]
)
def test_a_signal_cancels_the_tasks(number: signal.Signals, handled: dict[str, bool]) -> None:
    lasts: list[Any] = [Pass(), AsyncPass()]
    before: Any = None

    async def program() -> None:
        nonlocal before
        before = signal.getsignal(number)
        runner = PipelineRunner(**handled)  # type: ignore[arg-type]
        running = [asyncio.ensure_future(runner.run(PipelineTask(Pipeline([last])))) for last in lasts]
        await turns()
        assert signal.getsignal(number) != before
        os.kill(os.getpid(), number)
        await asyncio.gather(*running)
        assert signal.getsignal(number) == before

    run(program())
    assert [last.seen[-1].reason for last in lasts] == [number.name, number.name]
    assert not bots.runner._listening


def test_a_second_signal_does_what_it_did_before() -> None:
    class Holds(Pass):
        def process_frame(self, frame: Frame, direction: Any) -> None:
            if labels([frame]) != ["CancelFrame"]:
                super().process_frame(frame, direction)

    got: list[int] = []

    async def program() -> None:
        runner = PipelineRunner(handle_sigterm=True)
        running = asyncio.ensure_future(runner.run(PipelineTask(Pipeline([Holds()]), cancel_timeout_secs=0.2)))
        await turns()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.05)
        assert not running.done()
        os.kill(os.getpid(), signal.SIGTERM)
        await running

    before = signal.signal(signal.SIGTERM, lambda number, stack: got.append(number))
    try:
        run(program())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]


def test_two_runners_share_a_signal() -> None:
    lasts = [Pass(), Pass()]

    async def program() -> None:
        running = [asyncio.ensure_future(PipelineRunner().run(PipelineTask(Pipeline([last])))) for last in lasts]
        await turns()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.gather(*running)

    run(program())
    assert [labels(last.seen)[-1] for last in lasts] == ["CancelFrame", "CancelFrame"]


def test_signals_are_left_alone_unless_asked_for() -> None:
    async def program() -> None:
        before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        task = PipelineTask(Pipeline([Pass()]))
        running = asyncio.ensure_future(PipelineRunner(handle_sigint=False).run(task))
        await turns()
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
        await task.stop_when_done()
        await running

    run(program())


def test_a_runner_in_another_thread_has_no_signals() -> None:
    last = Pass()

    async def program() -> None:
        task = PipelineTask(Pipeline([last]))
        await task.queue_frame(EndFrame())
        await PipelineRunner().run(task)

    thread = threading.Thread(target=lambda: run(program()))
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert labels(last.seen) == ["StartFrame", "EndFrame"]
    assert not bots.runner._listening


def test_the_collector_runs_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    collected: list[bool] = []
    monkeypatch.setattr(gc, "collect", lambda: collected.append(True))

    async def program() -> None:
        for force_gc in (False, True):
            task = PipelineTask(Pipeline([]))
            await task.queue_frame(EndFrame())
            await PipelineRunner(force_gc=force_gc).run(task)

    run(program())
    assert collected == [True]
