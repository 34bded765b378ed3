"""Pipelines: processors in a row, and rows side by side."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from typing import Any

from media.events import DONE, Each
from media.flow import UNBOUND, Entry
from media.frames import CancelFrame, EndFrame, Frame, StartFrame
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

log = logging.getLogger(__name__)

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
        self._on_source, self._on_sink = on_source, on_sink
        self._row = _Row(self, self._processors, self._at_source, self._at_sink)
        self._bound = False
        self._closed = False

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
        self._on_source = on_source or self._on_source
        self._on_sink = on_sink or self._on_sink
        flow = Flow(runtime)
        flow.stray_error = self._on_source  # of a processor that StartFrame has not reached: straight to the top
        self._join(flow)
        self._row.join(flow)
        return self._row.setup(setup or FrameProcessorSetup(runtime=runtime))

    @property
    def flow(self) -> Flow:
        """What the processors share, from `bind` on."""
        return self._flow

    def close(self) -> Awaitable[None]:
        """Clean all processors up. Await what comes back: clean-ups that wait, handlers that run, lanes that end.

        Then they are taken apart: nothing flows any more, and nothing keeps the others alive.
        """
        if self._closed:
            return DONE
        self._closed = True
        pending = self._row.cleanup()
        if pending is DONE:
            self._leave_flow()
            return DONE
        return Each((pending,), self._leave_flow)

    def cleanup(self) -> MaybeAwaitable:
        return self.close()

    def _join(self, flow: Flow) -> None:
        """This pipeline is no link of the chain, but has tasks and events like one."""
        self._flow = flow
        self._run_on(flow.runtime)

    def _leave_flow(self) -> None:
        self._flow.processors.clear()
        self._on_source = self._on_sink = None
        self._row.detach()
        super()._leave_flow()

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

    def _at_source(self, frame: Frame, direction: FrameDirection) -> None:
        if self._on_source is not None:
            self._on_source(frame)

    def _at_sink(self, frame: Frame, direction: FrameDirection) -> None:
        if self._on_sink is not None:
            self._on_sink(frame)


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
            _Row(self, branch, self._leaving(index), self._leaving(index)) for index, branch in enumerate(branches)
        ]
        self._awaited: Frame | None = None  # StartFrame, EndFrame or CancelFrame, inside the branches
        self._displaced: Frame | None = None  # was awaited until a CancelFrame came: does not leave any more
        self._missing: set[int] = set()  # branches that have not let it out
        self._kept: list[Frame] = []  # let out by branches meanwhile
        self._held: deque[tuple[Frame, FrameDirection]] = deque()  # arrived meanwhile
        self._calm = True  # nothing is awaited or held

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
        if self._calm or not self._holds(frame):
            self._spread(frame, direction)
        else:
            self._held.append((frame, direction))
        return DONE

    def _holds(self, frame: Frame) -> bool:
        if isinstance(frame, CancelFrame):
            return isinstance(self._awaited, CancelFrame)
        return not (frame.is_system and isinstance(self._awaited, EndFrame))

    def _spread(self, frame: Frame, direction: FrameDirection) -> None:
        marks = getattr(frame, "_stamp", None)
        if marks is None:
            frame._stamp = {}
        elif self._mark in marks:  # it has been here before
            del marks[self._mark]
        if direction is UPSTREAM:
            for row in self._rows:
                row.bottom.push_frame(frame, UPSTREAM)
            return
        if _is_counted[type(frame)]:
            self._calm = False
            self._displaced = self._awaited
            self._awaited = frame
            self._missing = set(range(len(self._rows)))
        for row in self._rows:
            row.top.push_frame(frame)

    # ------------------------------------------------------------ frames out

    def _leaving(self, branch: int) -> Entry:
        """What takes the frames that come out of `branch` at either end."""
        mark = self._mark

        def leave(frame: Frame, direction: FrameDirection) -> None:
            if self._awaited is not None and direction is DOWNSTREAM and _is_counted[type(frame)]:
                self._missing.discard(branch if frame is self._awaited else -1)
                if not self._missing:
                    self._all_out(frame)
                return
            if frame is self._displaced:
                return
            marks = getattr(frame, "_stamp", None)
            if marks is None:
                frame._stamp = {mark: branch}
            elif mark not in marks:
                if len(marks) > _MARKS_KEPT:
                    del marks[next(iter(marks))]
                marks[mark] = branch
            elif marks[mark] != branch:  # the same branch may let it out again: a sound that is reused
                return
            if self._awaited is not None and direction is DOWNSTREAM:
                self._kept.append(frame)
            else:
                self.push_frame(frame, direction)

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
        while self._held and self._awaited is None:
            self._spread(*self._held.popleft())
        self._calm = self._awaited is None

    # ------------------------------------------------------------ life

    def _join_flow(self, flow: Flow) -> None:
        super()._join_flow(flow)
        for row in self._rows:
            row.join(flow)

    def _leave_flow(self) -> None:
        for row in self._rows:
            row.detach()
        super()._leave_flow()

    def setup(self, setup: FrameProcessorSetup) -> MaybeAwaitable:
        super().setup(setup)
        return _together([row.setup(setup) for row in self._rows])

    def cleanup(self) -> MaybeAwaitable:
        return _together([super().cleanup(), *(row.cleanup() for row in self._rows)])


class _End(FrameProcessor):
    """One end of a row. Frames go in by its `push_frame`; what comes out of the row goes to `outlet`."""

    def __init__(self, owner: FrameProcessor, name: str, outlet: Entry) -> None:
        super().__init__(name=f"{owner}::{name}")
        self.process_frame = outlet  # type: ignore[assignment,method-assign]


class _Row:
    """Processors with an end at the top and one at the bottom; nested pipelines are spliced in."""

    def __init__(self, owner: FrameProcessor, given: Sequence[FrameProcessor], above: Entry, below: Entry) -> None:
        self.top = _End(owner, "Source", above)
        self.bottom = _End(owner, "Sink", below)
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
            processor._join_flow(flow)
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
        handle = processor._drive_by_hand(result, f"{processor}::setup")
        return None if handle is None else processor._until_ended((handle,))

    def cleanup(self) -> Awaitable[None]:
        pending: list[Awaitable[None] | None] = []
        for processor in self.processors:
            try:
                result = processor.cleanup()
            except Exception:
                log.exception("processor.cleanup_failed processor=%s", processor)
                result = None
            if result is not None and result is not DONE:
                pending.append(_CleanUp(processor, result))
            if processor._wiring.lanes is not None:  # also where a user's `cleanup` forgets the base's
                pending.append(processor._wiring.lanes.close())
        return _together(pending)

    def detach(self) -> None:
        for processor in (self.top, *self.processors, self.bottom):
            processor._leave_flow()
        for end in (self.top, self.bottom):
            del end.process_frame
        for pipeline in self.spliced:
            pipeline._flow = UNBOUND
            pipeline._run_on(None)

    def push(self, frame: Frame, direction: FrameDirection) -> None:
        if direction is DOWNSTREAM:
            self.top.push_frame(frame)
        else:
            self.bottom.push_frame(frame, UPSTREAM)


class _CleanUp:
    """Awaited: one processor's clean-up; its failure must not keep the others from theirs."""

    __slots__ = ("processor", "result")

    def __init__(self, processor: FrameProcessor, result: Awaitable[None]) -> None:
        self.processor, self.result = processor, result

    def __await__(self) -> Generator[Any, Any, None]:
        try:
            yield from self.result.__await__()
        except Exception:
            log.exception("processor.cleanup_failed processor=%s", self.processor)


def _together(results: Iterable[Awaitable[None] | None]) -> Awaitable[None]:
    """One awaitable for what is not finished yet."""
    pending = [result for result in results if result is not None and result is not DONE]
    return Each(pending) if pending else DONE


class _Counted(dict[type, bool]):
    """Which frames leave a parallel pipeline only when all branches have let them out; found once per class."""

    def __missing__(self, cls: type) -> bool:
        self[cls] = issubclass(cls, StartFrame | EndFrame | CancelFrame)
        return self[cls]


_is_counted = _Counted()
_MARKS_KEPT = 16  # marks a reused frame may carry: each parallel pipeline that it passes leaves one
_marks = itertools.count(1)  # 0 is ANNOUNCED
