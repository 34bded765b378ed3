"""Sends the caller's own voice back: the shortest way to hear that both directions work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bots.base import Bot, Build, Call, PrepareContext
from media.frames import Frame, InputAudioRawFrame, OutputAudioRawFrame
from media.processor import FrameDirection, FrameProcessor


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoSettings:
    """[bots.<name>] with use = "echo": nothing to set."""


class Echo(FrameProcessor):
    """Turns caller audio into audio for the caller; everything else passes."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, InputAudioRawFrame):
            self.push_frame(OutputAudioRawFrame(frame.audio, frame.sample_rate, frame.num_channels))
        else:
            self.push_frame(frame, direction)


class EchoBot:
    """use = "echo"."""

    settings = EchoSettings

    def prepare(self, settings: EchoSettings, context: PrepareContext) -> Build:
        return _build


def _build(call: Call) -> Sequence[FrameProcessor]:
    return (Echo(),)


BOT: Bot = EchoBot()
