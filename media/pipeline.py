"""Pipelines: processors in a row, and rows side by side."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

from media.events import DONE, Each
from media.flow import marks_of
from media.frames import CancelFrame, EndFrame, ErrorFrame, Frame, StartFrame
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


class Pipeline(FrameProcessor):
    """Processors in a row. A pipeline inside another one is spliced in: nesting costs nothing per frame.

    `on_source` and `on_sink` are called with what reaches the top and the bottom of a bound pipeline. A `source` or
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
        self._row = _Row(self, self._processors, on_source, on_sink)
        self._bound = False

    @property
    def processors(self) -> list[FrameProcessor]:
        """As given: a nested pipeline is one processor."""
        return list(self._processors)

    @property
    def entry_processors(self) -> list[FrameProcessor]:
        return self._processors[:1]

    def processors_with_metrics(self) -> list[FrameProcessor]:
        return [processor for processor in self._row.processors if processor.can_generate_metrics()]

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
        if self._bound:
            raise RuntimeError(f"{self} is bound already")
        self._bound = True
        row = self._row
        row.top.reached = on_source or row.top.reached
        row.bottom.reached = on_sink or row.bottom.reached
        flow = Flow(runtime)
        flow.stray_error = self._stray_error
        self._join(flow)
        row.join(flow)
        return row.setup(setup or FrameProcessorSetup(runtime=runtime))

    @property
    def flow(self) -> Flow:
        """What the processors share, from `bind` on."""
        return self._flow

    def close(self) -> Awaitable[None]:
        """Clean all processors up. Await what comes back: clean-ups that wait, handlers that run, lanes that end."""
        return self._row.cleanup()

    def cleanup(self) -> MaybeAwaitable:
        return self.close()

    def _join(self, flow: Flow) -> None:
        """This pipeline is no link of the chain, but has tasks and events like one."""
        self._flow = flow
        self._base.drives = flow.runtime

    # ------------------------------------------------------------ frames

    def push(self, frame: Frame, direction: FrameDirection = DOWNSTREAM) -> None:
        """Push `frame` in from the top; upstream from the bottom."""
        if self._bound:
            self._row.push(frame, direction)
        elif self._row.processors:  # spliced into another pipeline
            self._row.processors[0 if direction is DOWNSTREAM else -1].queue_frame(frame, direction)

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
        """From a processor that StartFrame has not reached: straight to the top."""
        if self._row.top.reached is not None:
            self._row.top.reached(error)


class ParallelPipeline(FrameProcessor):
    """Rows of processors side by side: each takes every frame, and what they let out is one stream again.

    A frame that several branches let out leaves once. StartFrame, EndFrame and CancelFrame leave when all branches
    have let them out; until then what the branches let out is kept (it follows StartFrame, and precedes the others)
    and what arrives is held, save system frames behind an EndFrame, which a branch may need to come to its end, and
    CancelFrame, which takes the place of what is awaited.
    """

    def __init__(self, *branches: Sequence[FrameProcessor]) -> None:
        super().__init__()
        if not branches:
            raise ValueError("ParallelPipeline needs at least one branch")
        for branch in branches:
            if not isinstance(branch, list):
                raise TypeError(f"a branch is a list of processors, got {type(branch).__name__}")
        self._mark = next(_marks)
        self._rows = [
            _Row(self, branch, self._leaving(index, UPSTREAM), self._leaving(index, DOWNSTREAM))
            for index, branch in enumerate(branches)
        ]
        self._awaited: Frame | None = None  # StartFrame, EndFrame or CancelFrame, inside the branches
        self._missing: set[int] = set()  # branches that have not let it out
        self._kept: list[Frame] = []  # let out by branches meanwhile
        self._held: deque[tuple[Frame, FrameDirection]] = deque()  # arrived meanwhile
        self._releasing = False

    @property
    def processors(self) -> list[FrameProcessor]:
        return [processor for row in self._rows for processor in row.processors]

    @property
    def entry_processors(self) -> list[FrameProcessor]:
        return [row.processors[0] for row in self._rows if row.processors]

    def processors_with_metrics(self) -> list[FrameProcessor]:
        return [processor for processor in self.processors if processor.can_generate_metrics()]

    # ------------------------------------------------------------ frames in

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if (self._awaited is not None or self._held or self._releasing) and self._holds(frame):
            self._held.append((frame, direction))
        else:
            self._spread(frame, direction)
        return DONE

    def _holds(self, frame: Frame) -> bool:
        if isinstance(frame, CancelFrame):
            return isinstance(self._awaited, CancelFrame)
        return not (frame.is_system and isinstance(self._awaited, EndFrame))

    def _spread(self, frame: Frame, direction: FrameDirection) -> None:
        if direction is DOWNSTREAM and isinstance(frame, _COUNTED):
            self._awaited = frame
            self._missing = set(range(len(self._rows)))
        marks = getattr(frame, "_stamp", None)
        if marks:
            marks.pop(self._mark, None)  # it has been here before
        for row in self._rows:
            row.push(frame, direction)

    # ------------------------------------------------------------ frames out

    def _leaving(self, branch: int, direction: FrameDirection) -> Reached:
        mark = self._mark

        def leave(frame: Frame) -> None:
            if direction is DOWNSTREAM and self._awaited is not None:
                if frame is self._awaited:
                    self._missing.discard(branch)
                    if not self._missing:
                        self._all_out(frame)
                    return
                if not isinstance(frame, _COUNTED) and first(frame):
                    self._kept.append(frame)
            elif first(frame):
                self.push_frame(frame, direction)

        def first(frame: Frame) -> bool:
            """Whether no other branch has let it out. The same branch may do so again: a sound that is reused."""
            marks = marks_of(frame)
            if mark in marks:
                return marks[mark] == branch
            if len(marks) > _MARKS_KEPT:
                del marks[next(iter(marks))]
            marks[mark] = branch
            return True

        return leave

    def _all_out(self, frame: Frame) -> None:
        """All branches have let out the frame that was awaited."""
        self._awaited = None
        kept, self._kept = self._kept, []
        if isinstance(frame, StartFrame):
            self.push_frame(frame)
        for earlier in kept:
            self.push_frame(earlier)
        if not isinstance(frame, StartFrame):
            self.push_frame(frame)
        self._releasing = True
        while self._held and self._awaited is None:
            self._spread(*self._held.popleft())
        self._releasing = False

    # ------------------------------------------------------------ life

    def _attach(self, flow: Flow) -> None:
        super()._attach(flow)
        for row in self._rows:
            row.join(flow)

    def setup(self, setup: FrameProcessorSetup) -> MaybeAwaitable:
        super().setup(setup)
        return _together([row.setup(setup) for row in self._rows])

    def cleanup(self) -> MaybeAwaitable:
        return _together([super().cleanup(), *(row.cleanup() for row in self._rows)])


class _End(FrameProcessor):
    """One end of a row: what comes out of the row is given to `reached`, what goes in passes."""

    def __init__(self, owner: FrameProcessor, name: str, outward: FrameDirection, reached: Reached | None) -> None:
        super().__init__(name=f"{owner}::{name}")
        self.outward = outward
        self.reached = reached

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if direction is not self.outward:
            self.push_frame(frame, direction)
        elif self.reached is not None:
            self.reached(frame)


class _Row:
    """Processors with an end at the top and one at the bottom; nested pipelines are spliced in."""

    def __init__(
        self, owner: FrameProcessor, given: Sequence[FrameProcessor], on_top: Reached | None, on_bottom: Reached | None
    ) -> None:
        self.top = _End(owner, "Source", UPSTREAM, on_top)
        self.bottom = _End(owner, "Sink", DOWNSTREAM, on_bottom)
        self.processors: list[FrameProcessor] = []
        self.spliced: list[Pipeline] = []
        for processor in given:
            if isinstance(processor, Pipeline):
                self.spliced.append(processor)
                self.spliced.extend(processor._row.spliced)
                self.processors.extend(processor._row.processors)
            else:
                self.processors.append(processor)

    def join(self, flow: Flow) -> None:
        """Give all of them the flow, and link them."""
        for pipeline in self.spliced:
            pipeline._join(flow)
        row = [self.top, *self.processors, self.bottom]
        for processor in row:
            processor._attach(flow)
        for before, behind in itertools.pairwise(row):
            before.link(behind)
        self.top._open_links()
        self.bottom._open_links()

    def setup(self, setup: FrameProcessorSetup) -> Awaitable[None]:
        return _together([self._begin(processor, setup) for processor in (self.top, *self.processors, self.bottom)])

    def _begin(self, processor: FrameProcessor, setup: FrameProcessorSetup) -> Awaitable[None] | None:
        """`setup` of one processor; its first step is taken here."""
        result: Awaitable[None] | None = processor.setup(setup)
        if not isinstance(result, Coroutine) or result is DONE:
            return result
        handle = processor._drive(result, f"{processor}::setup")
        return None if handle is None else processor._settle((handle,))

    def cleanup(self) -> Awaitable[None]:
        pending = []
        for processor in self.processors:
            pending.append(processor.cleanup())
            if processor._wiring.lanes is not None:  # also where a user's `cleanup` forgets the base's
                pending.append(processor._wiring.lanes.close())
        return _together(pending)

    def push(self, frame: Frame, direction: FrameDirection) -> None:
        if direction is DOWNSTREAM:
            self.top.push_frame(frame)
        else:
            self.bottom.push_frame(frame, UPSTREAM)


def _together(results: Iterable[Awaitable[None] | None]) -> Awaitable[None]:
    """One awaitable for what is not finished yet."""
    pending = [result for result in results if result is not None and result is not DONE]
    return Each(pending) if pending else DONE


_COUNTED = (StartFrame, EndFrame, CancelFrame)
_MARKS_KEPT = 16  # marks a reused frame may carry: each parallel pipeline that it passes leaves one
_marks = itertools.count(1)  # 0 is ANNOUNCED
