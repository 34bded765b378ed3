"""Observers: who watches frames travel without being in their way.

An observer sees each frame once per hop. It gets records by a queue of its own, so a slow one delays nobody; see
`bots/observing.py`. A pipeline without observers pays nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from media.events import DONE, BaseObject, MaybeAwaitable
from media.flow import FrameDirection
from media.frames import Frame
from media.processor import FrameProcessor

__all__ = ["BaseObserver", "FrameProcessed", "FramePushed"]


@dataclass(slots=True, eq=False)
class FrameProcessed:
    """A processor is about to take a frame. `timestamp`: nanoseconds of the task's clock."""

    processor: FrameProcessor
    frame: Frame
    direction: FrameDirection
    timestamp: int


@dataclass(slots=True, eq=False)
class FramePushed:
    """A frame goes from one processor to its neighbour. `timestamp`: nanoseconds of the task's clock."""

    source: FrameProcessor
    destination: FrameProcessor
    frame: Frame
    direction: FrameDirection
    timestamp: int


class BaseObserver(BaseObject):
    """Override what you want to see, with `def` or `async def`; the rest is not even recorded."""

    # Only frames of these types are recorded; None: all. Declare it: a record costs more than the frame itself.
    frame_types: tuple[type[Frame], ...] | None = None

    def on_push_frame(self, data: FramePushed) -> MaybeAwaitable:
        """A frame was pushed. The form with five arguments (source, destination, frame, direction, timestamp) works."""
        return DONE

    def on_process_frame(self, data: FrameProcessed) -> MaybeAwaitable:
        """A processor takes a frame."""
        return DONE

    def on_pipeline_started(self) -> MaybeAwaitable:
        """StartFrame has come through the whole pipeline."""
        return DONE
