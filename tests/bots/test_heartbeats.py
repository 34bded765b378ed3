"""Heartbeats: off by default; sent, timed, and missed."""

from __future__ import annotations

import asyncio
import logging

import pytest

from bots.runtime import PipelineParams, PipelineTask
from bots.watching import Heartbeats
from media.clock import Clock
from media.frames import Frame, HeartbeatFrame
from media.pipeline import Pipeline
from media.processor import FrameDirection, FrameProcessor
from tests.media.rig import AsyncPass, Pass, VirtualRuntime, turns
from tests.media.rig import run_on_virtual_time as run


def beating(window_s: float | None = None, *, arrive: bool = True) -> tuple[VirtualRuntime, Heartbeats, list[Frame]]:
    runtime = VirtualRuntime()
    sent: list[Frame] = []

    def push(frame: Frame) -> None:
        sent.append(frame)
        if arrive:
            assert isinstance(frame, HeartbeatFrame)
            heartbeats.arrived(frame)

    heartbeats = Heartbeats("task", runtime, Clock(runtime), push, 2.0, window_s)
    heartbeats.start()
    return runtime, heartbeats, sent


def test_one_at_the_start_and_one_each_period(caplog: pytest.LogCaptureFixture) -> None:
    runtime, heartbeats, sent = beating()
    assert len(sent) == 1
    runtime.advance(100)
    assert len(sent) == 51
    assert [frame.timestamp for frame in sent[:3]] == [100_000_000_000, 102_000_000_000, 104_000_000_000]  # type: ignore[attr-defined]
    assert "not received" not in caplog.text
    heartbeats.stop()
    runtime.advance(100)
    assert len(sent) == 51


@pytest.mark.parametrize(("window_s", "first"), [(None, 20.0), (5.0, 5.0)])
def test_a_warning_for_each_window_without_any(
    window_s: float | None, first: float, caplog: pytest.LogCaptureFixture
) -> None:
    runtime, _, _ = beating(window_s, arrive=False)
    runtime.advance(first - 0.1)
    assert caplog.text == ""
    runtime.advance(0.2)
    assert caplog.messages == [f"task: heartbeat frame not received for more than {first} seconds"]
    runtime.advance(first)
    assert len(caplog.messages) == 2


def test_the_time_on_the_way_is_in_the_debug_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "bots.watching"):
        beating()
    assert caplog.messages == ["task.heartbeat task=task ms=0.000"]


class Keeps(FrameProcessor):
    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if not isinstance(frame, HeartbeatFrame):
            self.push_frame(frame, direction)


def run_with(task: PipelineTask, seconds: float) -> None:
    async def program() -> None:
        running = asyncio.ensure_future(task.run())
        await asyncio.sleep(seconds)
        await task.stop_when_done()
        await running
        await turns()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(program())


def test_off_by_default() -> None:
    first = Pass()
    task = PipelineTask(Pipeline([first]))
    run_with(task, 0.03)
    assert task._heartbeats is None
    assert not [frame for frame in first.seen if isinstance(frame, HeartbeatFrame)]


def test_they_travel_the_whole_pipeline(caplog: pytest.LogCaptureFixture) -> None:
    last = Pass()
    params = PipelineParams(enable_heartbeats=True, heartbeats_period_secs=0.02, heartbeats_monitor_secs=0.04)
    with caplog.at_level(logging.DEBUG, "bots.watching"):
        run_with(PipelineTask(Pipeline([Pass(), AsyncPass(), last]), params), 0.09)
    beats = [frame for frame in last.seen if isinstance(frame, HeartbeatFrame)]
    assert 4 <= len(beats) <= 6
    assert caplog.text.count("task.heartbeat ") == len(beats)
    assert "not received" not in caplog.text


def test_one_that_does_not_come_through_is_a_warning_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    params = PipelineParams(enable_heartbeats=True, heartbeats_period_secs=0.02, heartbeats_monitor_secs=0.05)
    task = PipelineTask(Pipeline([Keeps()]), params=params)
    run_with(task, 0.08)
    # A push that was slow on this machine is in the log as well.
    told = [record.getMessage() for record in caplog.records if record.name == "bots.watching"]
    assert told == [f"{task}: heartbeat frame not received for more than 0.05 seconds"]


def test_documented_parameters() -> None:
    pipeline = Pipeline([Pass()])
    params = params = PipelineParams(enable_heartbeats=True)
    task = PipelineTask(pipeline, params)
    run_with(task, 0.01)
