"""How long a pipeline takes to start, and which of its processors."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from media.events import DONE, MaybeAwaitable
from media.flow import DOWNSTREAM
from media.frames import BotConnectedFrame, ClientConnectedFrame, StartFrame
from media.observers import BaseObserver, FrameProcessed, FramePushed
from media.pipeline import ParallelPipeline, Pipeline
from media.processor import FrameProcessor

__all__ = ["ProcessorStartupTiming", "StartupTimingObserver", "StartupTimingReport", "TransportTimingReport"]


@dataclass(slots=True)
class ProcessorStartupTiming:
    """One processor: from StartFrame's arrival at it until it passed it on."""

    processor_name: str
    start_offset_secs: float  # since StartFrame arrived at the first one
    duration_secs: float


@dataclass(slots=True)
class StartupTimingReport:
    """`start_time`: Unix seconds; `total_duration_secs`: the sum of what was measured."""

    start_time: float
    total_duration_secs: float
    processor_timings: list[ProcessorStartupTiming] = field(default_factory=list)


@dataclass(slots=True)
class TransportTimingReport:
    """Seconds from StartFrame. `bot_connected_secs` is of transports with rooms; None elsewhere."""

    start_time: float
    bot_connected_secs: float | None = None
    client_connected_secs: float | None = None


class StartupTimingObserver(BaseObserver):
    """Events, once each: on_startup_timing_report and on_transport_timing_report, with the report.

    Args:
        processor_types: only processors of these types are reported; None: all but pipelines.
    """

    frame_types = (StartFrame, ClientConnectedFrame, BotConnectedFrame)

    def __init__(self, *, processor_types: tuple[type[FrameProcessor], ...] | None = None) -> None:
        super().__init__()
        for event in ("on_startup_timing_report", "on_transport_timing_report"):
            self._register_event_handler(event)
        self._types = processor_types
        self._unix: float | None = None  # when StartFrame arrived at the first processor
        self._began = 0
        self._arrived: dict[FrameProcessor, int] = {}
        self._timings: list[ProcessorStartupTiming] = []
        self._bot_connected_s: float | None = None
        self._transport_told = self._told = False

    def on_process_frame(self, data: FrameProcessed) -> MaybeAwaitable:
        if isinstance(data.frame, StartFrame) and data.direction is DOWNSTREAM:
            if self._unix is None:
                self._unix, self._began = time.time(), data.timestamp
            if not isinstance(data.processor, Pipeline | ParallelPipeline):
                self._arrived.setdefault(data.processor, data.timestamp)
        return DONE

    def on_push_frame(self, data: FramePushed) -> MaybeAwaitable:
        frame = data.frame
        if isinstance(frame, StartFrame):
            self._passed_on(data.source, data.timestamp)
        elif self._unix is None:
            pass
        elif isinstance(frame, BotConnectedFrame):
            if self._bot_connected_s is None:
                self._bot_connected_s = (data.timestamp - self._began) / 1e9
        elif not self._transport_told:
            self._transport_told = True
            connected_s = (data.timestamp - self._began) / 1e9
            report = TransportTimingReport(self._unix, self._bot_connected_s, connected_s)
            self._call_event_handler("on_transport_timing_report", report)
        return DONE

    def _passed_on(self, processor: FrameProcessor, now: int) -> None:
        arrived = self._arrived.pop(processor, None)
        if arrived is None or (self._types is not None and not isinstance(processor, self._types)):
            return
        self._timings.append(
            ProcessorStartupTiming(str(processor), (arrived - self._began) / 1e9, (now - arrived) / 1e9)
        )

    def on_pipeline_started(self) -> MaybeAwaitable:
        if not self._told and self._unix is not None:
            self._told = True
            self._arrived.clear()
            timings = sorted(self._timings, key=lambda timing: timing.start_offset_secs)
            total_s = sum(timing.duration_secs for timing in timings)
            self._call_event_handler("on_startup_timing_report", StartupTimingReport(self._unix, total_s, timings))
        return DONE
