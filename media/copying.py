"""Copying frames from one place of a pipeline to others: a producer, and consumers wherever they stand."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from media.events import DONE, MaybeAwaitable, is_async
from media.flow import DOWNSTREAM, FrameDirection
from media.frames import CancelFrame, EndFrame, Frame, StartFrame, StopFrame
from media.processor import FrameProcessor

__all__ = ["ConsumerProcessor", "ProducerProcessor", "identity_transformer"]

HELD_LIMIT = 1000  # frames kept for a consumer that StartFrame has not reached


def identity_transformer(frame: Frame) -> Frame:
    """The frame itself."""
    return frame


class ProducerProcessor(FrameProcessor):
    """Gives the frames that `filter` chooses, transformed, to its consumers; then passes the frame itself on.

    `passthrough=False`: chosen frames are not passed on. Callbacks may be `def` or `async def`.
    """

    def __init__(
        self,
        filter: Callable[[Frame], Any],
        *,
        transformer: Callable[[Frame], Any] = identity_transformer,
        passthrough: bool = True,
    ) -> None:
        super().__init__()
        self._filter, self._transformer, self._passthrough = filter, transformer, passthrough
        self._filter_waits, self._transformer_waits = is_async(filter), is_async(transformer)
        self._consumers: list[ConsumerProcessor] = []
        self._active = False
        self._waiting: deque[tuple[Frame, FrameDirection]] = deque()
        if self._filter_waits or self._transformer_waits:
            self._may_wait()

    def add_consumer(self, consumer: ConsumerProcessor) -> None:
        """A ConsumerProcessor does this itself."""
        self._consumers.append(consumer)

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        if self._filter_waits or self._transformer_waits:
            return self._process_waiting(frame, direction)
        self._waiting.append((frame, direction))
        if self._active:  # what a consumer pushed has come round to here: behind the frame in hand
            return DONE
        self._active = True
        try:
            while self._waiting:
                frame, direction = self._waiting.popleft()
                try:
                    self._produce(frame, direction)
                except Exception as exc:
                    self._frame_failed(exc, frame)
        finally:
            self._active = False
        return DONE

    def _produce(self, frame: Frame, direction: FrameDirection) -> None:
        if self._filter(frame):
            for consumer in self._consumers:
                consumer.consume(self._transformer(frame))
            if not self._passthrough:
                return
        self.push_frame(frame, direction)

    async def _process_waiting(self, frame: Frame, direction: FrameDirection) -> None:
        super().process_frame(frame, direction)
        chosen = self._filter(frame)
        if self._filter_waits:
            chosen = await chosen
        if chosen:
            for consumer in self._consumers:
                copied = self._transformer(frame)
                consumer.consume(await copied if self._transformer_waits else copied)
            if not self._passthrough:
                return
        self.push_frame(frame, direction)


class ConsumerProcessor(FrameProcessor):
    """Passes everything, and pushes what its producer gives, transformed, in `direction`.

    What is produced before StartFrame comes here is kept until then; behind End, Stop and Cancel it is dropped.
    """

    def __init__(
        self,
        producer: ProducerProcessor,
        *,
        transformer: Callable[[Frame], Any] = identity_transformer,
        direction: FrameDirection = DOWNSTREAM,
    ) -> None:
        super().__init__()
        self._transformer, self._direction = transformer, direction
        self._transformer_waits = is_async(transformer)
        self._state = _NOT_STARTED
        self._copies: deque[Frame] = deque()
        self._transforming = False
        producer.add_consumer(self)

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        act = _ACTS.get(type(frame))
        if act is None:
            return self.push_frame(frame, direction)
        if act is _STARTED:
            self.push_frame(frame, direction)
            self._state = act
            self._push_copies()
        else:
            self._state = act
            self._copies.clear()
            self.push_frame(frame, direction)
        return DONE

    def consume(self, frame: Frame) -> None:
        """Push a copy. Does not raise."""
        if self._state is _ENDED or len(self._copies) >= HELD_LIMIT:
            return
        self._copies.append(frame)
        if self._state is _STARTED:
            self._push_copies()

    def _push_copies(self) -> None:
        if self._transforming:
            return
        self._transforming = True
        if self._transformer_waits:
            self._drive_by_hand(self._transform_all(), f"{self}::transform")
            return
        try:
            while self._copies:
                frame = self._copies.popleft()
                try:
                    frame = self._transformer(frame)
                except Exception as exc:
                    self._frame_failed(exc, frame)
                else:
                    self.push_frame(frame, self._direction)
        finally:
            self._transforming = False

    async def _transform_all(self) -> None:
        try:
            while self._copies:
                frame = self._copies.popleft()
                try:
                    frame = await self._transformer(frame)
                except Exception as exc:
                    self._frame_failed(exc, frame)
                else:
                    if self._state is _STARTED:
                        self.push_frame(frame, self._direction)
        finally:
            self._transforming = False


_NOT_STARTED, _STARTED, _ENDED = "not started", "started", "ended"
_ACTS = {StartFrame: _STARTED, EndFrame: _ENDED, StopFrame: _ENDED, CancelFrame: _ENDED}
