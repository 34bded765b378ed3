"""How a bot that only plays prompts hears its caller: a voice pauses a prompt, and ends it if it goes on."""

from __future__ import annotations

from collections.abc import Sequence

from media.floor import Floor, FloorParams
from media.processor import FrameProcessor
from media.silero import SileroVADAnalyzer
from media.vad_processor import VADProcessor


def ears(barge_in: bool, params: FloorParams | None = None) -> Sequence[FrameProcessor]:
    """What stands before such a bot; nothing if it is not to hear."""
    return (VADProcessor(vad_analyzer=SileroVADAnalyzer()), Floor(params)) if barge_in else ()
