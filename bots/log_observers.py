"""Observers that write what they see into the debug log, for whoever is looking for a fault.

They show what is said. Add them while you debug and not on calls of strangers; nothing here is on by itself.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from media.frames import (
    Frame,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
    InterimTranscriptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    TranscriptionFrame,
)
from media.observers import BaseObserver, FramePushed
from media.processor import FrameDirection

__all__ = ["DebugLogObserver", "FrameEndpoint", "LLMLogObserver", "TranscriptionLogObserver"]

log = logging.getLogger(__name__)

REMEMBERED = 200  # frames on their way through a pipeline at one time


class FrameEndpoint(Enum):
    """Which end of a hop a processor is at."""

    SOURCE = "source"
    DESTINATION = "destination"


# A frame's class -> (a processor's class, at which end of the hop it must be), or None: any hop.
Endpoints = Mapping[type[Frame], tuple[type, FrameEndpoint] | None]


class DebugLogObserver(BaseObserver):
    """Writes each hop of each frame, or of some types of frames, with the frame's fields.

    Sound, pictures and pressed keys are left out unless `exclude_fields` says otherwise.
    """

    def __init__(
        self,
        frame_types: tuple[type[Frame], ...] | Endpoints | None = None,
        exclude_fields: Collection[str] = ("audio", "image", "images", "button"),
    ) -> None:
        super().__init__()
        self._endpoints: Endpoints = frame_types if isinstance(frame_types, Mapping) else {}
        self.frame_types = None if frame_types is None else tuple(frame_types)
        self._exclude = frozenset(exclude_fields)

    async def on_push_frame(self, data: FramePushed) -> None:
        if log.isEnabledFor(logging.DEBUG) and self._is_wanted(data):
            arrow = "→" if data.direction is FrameDirection.DOWNSTREAM else "←"
            shown = " ".join([type(data.frame).__name__, ", ".join(self._shown(data.frame))]).strip()
            log.debug("%s %s %s: %s at %.2fs", data.source, arrow, data.destination, shown, data.timestamp / 1e9)

    def _is_wanted(self, data: FramePushed) -> bool:
        wanted = [end for cls, end in self._endpoints.items() if isinstance(data.frame, cls)]
        if not wanted:
            return True
        for end in wanted:
            if end is None:
                return True
            cls, side = end
            if isinstance(data.source if side is FrameEndpoint.SOURCE else data.destination, cls):
                return True
        return False

    def _shown(self, frame: Frame) -> list[str]:
        if not is_dataclass(frame):
            return []
        return [
            f"{field.name}: {_shortened(getattr(frame, field.name))}"
            for field in fields(frame)
            if field.name not in self._exclude
        ]


def _shortened(value: Any) -> str:
    return f"{len(value)} bytes" if isinstance(value, bytes | bytearray) else repr(value)


class _Origins(BaseObserver):
    """Sees a frame at its first hop only: there it comes from whoever made it."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: deque[int] = deque(maxlen=REMEMBERED)

    async def on_push_frame(self, data: FramePushed) -> None:
        if data.frame.id not in self._seen:
            self._seen.append(data.frame.id)
            line = self._line(data.frame, str(data.source), str(data.destination))
            log.debug("%s at %.2fs", line, data.timestamp / 1e9)

    def _line(self, frame: Any, source: str, destination: str) -> str:
        raise NotImplementedError


class LLMLogObserver(_Origins):
    """Writes what language models are given, what they say and what they call."""

    frame_types = (
        LLMFullResponseStartFrame,
        LLMFullResponseEndFrame,
        LLMTextFrame,
        FunctionCallInProgressFrame,
        FunctionCallResultFrame,
        LLMContextFrame,
    )

    def _line(self, frame: Any, source: str, destination: str) -> str:
        if isinstance(frame, LLMContextFrame):
            return f"🧠 → {destination} LLM CONTEXT FRAME: {frame.context!r}"
        if isinstance(frame, LLMTextFrame):
            return f"🧠 {source} → LLM GENERATING: {frame.text!r}"
        if isinstance(frame, FunctionCallInProgressFrame):
            return f"🧠 {source} → LLM FUNCTION CALL ({frame.tool_call_id}): {frame.function_name}({frame.arguments!r})"
        if isinstance(frame, FunctionCallResultFrame):
            return f"🧠 {source} → LLM FUNCTION CALL RESULT ({frame.tool_call_id}): {frame.result!r}"
        return f"🧠 {source} → LLM {'START' if isinstance(frame, LLMFullResponseStartFrame) else 'END'} RESPONSE"


class TranscriptionLogObserver(_Origins):
    """Writes what was understood of the caller."""

    frame_types = (TranscriptionFrame, InterimTranscriptionFrame)

    def _line(self, frame: Any, source: str, destination: str) -> str:
        kind = "TRANSCRIPTION" if isinstance(frame, TranscriptionFrame) else "INTERIM TRANSCRIPTION"
        return f"💬 {source} → {kind}: {frame.text!r} from {frame.user_id!r}"
