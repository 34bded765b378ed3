"""The first processor of a call's pipeline. Apart from the core, which can be compiled: no processor can."""

from __future__ import annotations

from media.frames import Frame
from media.processor import FrameDirection, FrameProcessor


class CallInput(FrameProcessor):
    """What the carrier says is pushed from here."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)
