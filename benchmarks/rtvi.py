"""What RTVI costs a call: microseconds of CPU for each audio frame, with nobody there, and with one who watches.

python benchmarks/rtvi.py
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bots.rtvi import RTVIObserverParams, RTVIProcessor
from media.frames import InputAudioRawFrame, InputTransportMessageFrame, StartFrame
from media.pipeline import Pipeline
from media.processor import FrameProcessor
from tests.media.rig import Pass, VirtualRuntime

FRAMES = 100_000
READY = {"label": "rtvi-ai", "type": "client-ready", "id": "1", "data": {"version": "2.1.0", "about": {"library": "x"}}}


class Plain(Pass):
    def process_frame(self, frame, direction):  # type: ignore[no-untyped-def]
        self.push_frame(frame, direction)


def cost_us(first: Sequence[FrameProcessor], ready: bool) -> float:
    """The least of five runs, so that what else the machine does counts as little as it can."""
    pipeline = Pipeline([*first, *(Plain() for _ in range(7))])
    pipeline.bind(VirtualRuntime())
    pipeline.push(StartFrame())
    if ready:
        pipeline.push(InputTransportMessageFrame(READY))
    pcm, best = bytes(640), float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(FRAMES // 5):
            pipeline.push(InputAudioRawFrame(pcm, 16000, 1))
        best = min(best, time.process_time() - began)
    return best / (FRAMES // 5) * 1e6


def main() -> None:
    plain = RTVIObserverParams()
    levels = RTVIObserverParams(user_audio_level_enabled=True, bot_audio_level_enabled=True)
    for name, params, ready in (
        ("without RTVI", None, False),
        ("with it, nobody ready", plain, False),
        ("a client that watches", plain, True),
        ("and asks for levels", levels, True),
    ):
        first = [] if params is None else [RTVIProcessor(observer_params=params, ready_by_itself=True)]
        print(f"{name:24} {cost_us(first, ready):6.2f} us a frame")


if __name__ == "__main__":
    main()
