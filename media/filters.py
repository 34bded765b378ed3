"""Filters: processors that let some frames through.

A predicate may be `def` or `async def`. With `def` the filter runs inline and costs a call; with `async def` it gets
lanes of its own. What a pipeline cannot live without always passes: system frames, EndFrame and StopFrame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from media.events import DONE, MaybeAwaitable, is_async
from media.flow import DOWNSTREAM, FrameDirection
from media.frames import CancelFrame, EndFrame, Frame, StartFrame, StopFrame, SystemFrame
from media.processor import FrameProcessor

__all__ = ["FrameFilter", "FunctionFilter", "IdentityFilter", "NullFilter", "WakeNotifierFilter"]

# Gives whether a frame passes, or a coroutine that does.
Predicate = Callable[[Frame], Any]


class _Matches(dict[type, bool]):
    """Whether frames of a class are of one of the types; each class is looked up once."""

    def __init__(self, types: Iterable[type]) -> None:
        super().__init__()
        self._types = tuple(types)

    def __missing__(self, cls: type) -> bool:
        self[cls] = issubclass(cls, self._types)
        return self[cls]


class IdentityFilter(FrameProcessor):
    """Passes everything."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        return self.push_frame(frame, direction)


class FrameFilter(FrameProcessor):
    """Passes frames of `types`, either way; and what always passes."""

    def __init__(self, types: Iterable[type]) -> None:
        super().__init__()
        self._passes = _Matches((*types, SystemFrame, EndFrame, StopFrame))

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        return self.push_frame(frame, direction) if self._passes[type(frame)] else DONE


class NullFilter(FrameFilter):
    """Passes nothing but what always passes."""

    def __init__(self) -> None:
        super().__init__(())


class FunctionFilter(FrameProcessor):
    """Passes what `filter` says in one direction, or in both (None); the other direction passes.

    StartFrame, EndFrame, StopFrame and CancelFrame always pass, other system frames unless `filter_system_frames`.
    `filter` is called for all frames, also for those that pass anyway.
    """

    def __init__(
        self,
        filter: Predicate,
        direction: FrameDirection | None = DOWNSTREAM,
        filter_system_frames: bool = False,
    ) -> None:
        super().__init__()
        self._filter = filter
        self._direction = direction
        ends = (StartFrame, EndFrame, StopFrame, CancelFrame)
        self._always = _Matches(ends if filter_system_frames else (*ends, SystemFrame))
        self._waits = is_async(filter)
        if self._waits:
            self._may_wait()

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if self._waits:
            return self._process_waiting(frame, direction)
        if self._passes_anyway(frame, direction):
            try:
                self._filter(frame)
            finally:
                self.push_frame(frame, direction)
        elif self._filter(frame):
            self.push_frame(frame, direction)
        return DONE

    async def _process_waiting(self, frame: Frame, direction: FrameDirection) -> None:
        super().process_frame(frame, direction)
        if self._passes_anyway(frame, direction):
            try:
                await self._filter(frame)
            finally:
                self.push_frame(frame, direction)
        elif await self._filter(frame):
            self.push_frame(frame, direction)

    def _passes_anyway(self, frame: Frame, direction: FrameDirection) -> bool:
        return (self._direction is not None and direction is not self._direction) or self._always[type(frame)]


class WakeNotifierFilter(FrameProcessor):
    """Passes everything; `notifier.notify()` when a frame of `types` satisfies `filter`."""

    def __init__(self, notifier: Any, *, types: Iterable[type], filter: Predicate) -> None:
        super().__init__()
        self._notifier = notifier
        self._types = _Matches(types)
        self._filter = filter
        self._waits = is_async(filter) or is_async(notifier.notify)
        if self._waits:
            self._may_wait()

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if self._waits:
            return self._process_waiting(frame, direction)
        try:
            if self._types[type(frame)] and self._filter(frame):
                self._notifier.notify()
        finally:
            self.push_frame(frame, direction)
        return DONE

    async def _process_waiting(self, frame: Frame, direction: FrameDirection) -> None:
        super().process_frame(frame, direction)
        try:
            if self._types[type(frame)]:
                wanted = self._filter(frame)
                if await wanted if is_async(self._filter) else wanted:
                    notified = self._notifier.notify()
                    if notified is not None:
                        await notified
        finally:
            self.push_frame(frame, direction)
