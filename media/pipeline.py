"""Pipelines: processors in a row, and rows side by side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any

from media.events import DONE
from media.frames import ErrorFrame, Frame
from media.processor import (
    DOWNSTREAM,
    UPSTREAM,
    Flow,
    FrameDirection,
    FrameProcessor,
    FrameProcessorSetup,
    MaybeAwaitable,
    Runtime,
)

Reached = Callable[[Frame], Any]


class _End(FrameProcessor):
    """One end of a pipeline: what comes out is given to `reached` of the pipeline, what goes in passes."""

    def __init__(self, pipeline: Pipeline, outward: FrameDirection) -> None:
        super().__init__(name=f"{pipeline}::{'Sink' if outward is DOWNSTREAM else 'Source'}")
        self._outward = outward
        self._reached: Reached | None = None

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if direction is not self._outward:
            self.push_frame(frame, direction)
        elif self._reached is not None:
            self._reached(frame)


class Pipeline(FrameProcessor):
    """Processors in a row. A pipeline inside another one is spliced in: nesting costs nothing per frame.

    `on_sink` and `on_source` are called with what reaches the bottom and the top of a bound pipeline. A `source` or
    `sink` processor stands before the first or behind the last.
    """

    def __init__(
        self,
        processors: Sequence[FrameProcessor],
        *,
        source: FrameProcessor | None = None,
        sink: FrameProcessor | None = None,
        on_source: Reached | None = None,
        on_sink: Reached | None = None,
    ) -> None:
        super().__init__()
        self._processors = [*([source] if source else []), *processors, *([sink] if sink else [])]
        self._on_source, self._on_sink = on_source, on_sink
        self._top: _End | None = None
        self._bottom: _End | None = None
        self._row: list[FrameProcessor] = []  # flattened, without the two ends
        self._bound: Flow | None = None

    @property
    def processors(self) -> list[FrameProcessor]:
        """As given: nested pipelines are one processor each."""
        return list(self._processors)

    @property
    def entry_processors(self) -> list[FrameProcessor]:
        return self._processors[:1]

    @property
    def flow(self) -> Flow:
        """What the processors share; RuntimeError before `bind`."""
        if self._bound is None:
            raise RuntimeError(f"{self} is not bound to a runtime")
        return self._bound

    # ------------------------------------------------------------ life

    def bind(
        self,
        runtime: Runtime,
        *,
        on_source: Reached | None = None,
        on_sink: Reached | None = None,
        setup: FrameProcessorSetup | None = None,
    ) -> Awaitable[None]:
        """Link everything and set it up, here and now. Await what comes back before StartFrame: set-ups that wait."""
        if self._bound is not None:
            raise RuntimeError(f"{self} is bound already")
        flow = self._bound = Flow(runtime)
        self._top, self._bottom = _End(self, UPSTREAM), _End(self, DOWNSTREAM)
        self._top._reached = on_source or self._on_source
        self._bottom._reached = on_sink or self._on_sink
        flow.stray_error = self._stray_error
        self._flow = flow
        self._base.drives = runtime
        row = self._row = list(_flat(self._processors))
        return join([self._top, *row, self._bottom], flow, setup or FrameProcessorSetup(runtime=runtime), ends=True)

    def close(self) -> Awaitable[None]:
        """Clean all processors up: what comes back waits for clean-ups, handlers and lanes."""
        return close_all(self._row, self.flow)

    def cleanup(self) -> MaybeAwaitable:
        if self._bound is not None:
            return self.close()
        return super().cleanup()

    # ------------------------------------------------------------ frames

    def push(self, frame: Frame, direction: FrameDirection = DOWNSTREAM) -> None:
        """Push `frame` in from the top; upstream from the bottom."""
        end = self._top if direction is DOWNSTREAM else self._bottom
        if end is None:
            self._refuse(frame, direction)
        else:
            end.push_frame(frame, direction)

    def push_frame(self, frame: Frame, direction: FrameDirection = DOWNSTREAM) -> Awaitable[None]:
        self.push(frame, direction)
        return DONE

    def queue_frame(self, frame: Frame, direction: FrameDirection = DOWNSTREAM) -> Awaitable[None]:
        self.push(frame, direction)
        return DONE

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        self.push(frame, direction)
        return DONE

    def _stray_error(self, error: ErrorFrame) -> None:
        if self._top is not None and self._top._reached is not None:
            self._top._reached(error)


def _flat(processors: Sequence[FrameProcessor]) -> Sequence[FrameProcessor]:
    """Pipelines replaced by what is in them."""
    row: list[FrameProcessor] = []
    for processor in processors:
        row.extend(_flat(processor._processors) if isinstance(processor, Pipeline) else (processor,))
    return row


def join(row: Sequence[FrameProcessor], flow: Flow, setup: FrameProcessorSetup, *, ends: bool) -> Awaitable[None]:
    """Link `row`, give it its flow, and call each `setup`."""
    for processor in row:
        processor._attach(flow)
    for before, behind in pairwise(row):
        before.link(behind)
    if ends:
        row[0]._open_links()
        row[-1]._open_links()
    waiting = []
    for processor in row:
        result = processor.setup(setup)
        if result is not None and result is not DONE:
            handle = processor._drive(result, f"{processor}::setup")
            if handle is not None:
                waiting.append(handle)
    return flow.runtime.settle(waiting) if waiting and flow.runtime is not None else DONE


def close_all(row: Sequence[FrameProcessor], flow: Flow) -> Awaitable[None]:
    pending: list[Any] = []
    for processor in row:
        result = processor.cleanup()
        if result is not None and result is not DONE:
            pending.append(result)
        lanes = processor._wiring.lanes
        if lanes is not None:
            pending.append(lanes.close())
    return _all(pending) if pending else DONE


async def _all(pending: Sequence[Awaitable[None]]) -> None:
    for one in pending:
        await one
