"""Puts a model's text together ahead of the voice, so that everything behind sees the same pieces."""

from __future__ import annotations

import inspect

from bots.text.aggregators import Aggregation, BaseTextAggregator, SimpleTextAggregator
from media.events import DONE, MaybeAwaitable, drive_without_loop
from media.flow import DOWNSTREAM, FrameDirection
from media.frames import (
    AggregatedTextFrame,
    EndFrame,
    Frame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMTextFrame,
    StopFrame,
)
from media.processor import FrameProcessor


class LLMTextProcessor(FrameProcessor):
    """LLMTextFrames in, AggregatedTextFrames out; between the model and the voice, whose own aggregator then rests."""

    def __init__(self, *, text_aggregator: BaseTextAggregator | None = None) -> None:
        super().__init__()
        self._aggregator = text_aggregator or SimpleTextAggregator()
        self._skip_tts: bool | None = None
        if type(self._aggregator).aggregate is not BaseTextAggregator.aggregate:
            self._may_wait()

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        super().process_frame(frame, direction)
        if direction is DOWNSTREAM:
            if isinstance(frame, LLMTextFrame):
                self._skip_tts = frame.skip_tts
                return self._take(frame.text)
            if isinstance(frame, InterruptionFrame):
                reset = self._aggregator.handle_interruption()
                if inspect.iscoroutine(reset):
                    drive_without_loop(reset, f"{self}::reset")
            elif isinstance(frame, LLMFullResponseEndFrame | EndFrame | StopFrame):
                return self._flush(frame)
        self.push_frame(frame, direction)
        return DONE

    def _take(self, text: str) -> MaybeAwaitable:
        if type(self._aggregator).aggregate is not BaseTextAggregator.aggregate:
            return self._aggregate(text)
        for piece in self._aggregator.pieces(text):
            self._push_piece(piece)
        return DONE

    async def _aggregate(self, text: str) -> None:
        async for piece in self._aggregator.aggregate(text):
            self._push_piece(piece)

    def _flush(self, frame: Frame) -> MaybeAwaitable:
        if type(self._aggregator).flush is not BaseTextAggregator.flush:
            return self._flush_and_pass(frame)
        if (rest := self._aggregator.rest()) is not None:
            self._push_piece(rest)
        self.push_frame(frame)
        return DONE

    async def _flush_and_pass(self, frame: Frame) -> None:
        if (rest := await self._aggregator.flush()) is not None:
            self._push_piece(rest)
        self.push_frame(frame)

    def _push_piece(self, piece: Aggregation) -> None:
        frame = AggregatedTextFrame(piece.text, piece.type)
        frame.skip_tts = self._skip_tts
        self.push_frame(frame)
