"""RTVI in a call of the gateway's own: whatever bot answers, its client is told what happens."""

from __future__ import annotations

from collections.abc import Sequence

from bots.base import Build, Call, Output
from bots.rtvi.observer import RTVIObserverParams
from bots.rtvi.processor import RTVIProcessor
from media.events import MaybeAwaitable
from media.frames import Frame
from media.processor import FrameDirection, FrameProcessor


class Last(FrameProcessor):
    """Stands behind the output, so that what leaves it passes a link: the words as they were spoken."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        return self.push_frame(frame, direction)


def with_rtvi(build: Build, params: RTVIObserverParams | None = None) -> Build:
    """`build` for a caller whose client speaks RTVI."""

    def built(call: Call) -> Sequence[FrameProcessor]:
        middle = list(build(call))  # which may fail
        rtvi = RTVIProcessor(
            name="RTVI",
            observer_params=params or RTVIObserverParams(),
            ready_by_itself=True,
            error_text="something in the bot has failed",  # what exactly is in the log
        )
        output = () if any(isinstance(each, Output) for each in middle) else (Output(),)
        return [rtvi, *middle, *output, Last(name="RTVILast")]

    return built
