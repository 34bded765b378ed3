"""Hands the caller over to somebody else, perhaps after an announcement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import MinLen

from bots.base import Bot, Build, Call, PrepareContext
from bots.prompts import Prompt, PromptMaker, PromptSetting, say
from media.errors import ConfigErrors
from media.frames import Frame, StartFrame
from media.processor import FrameDirection, FrameProcessor


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardSettings:
    """[bots.<name>] with use = "forward"."""

    to: Annotated[str, MinLen(1)]  # a number, a SIP URI, or a flow, as the carrier takes it
    announce: PromptSetting | None = None  # WAV file or text, before the caller is handed over
    failed: PromptSetting | None = None  # where this call cannot be handed over, before it ends
    voice: str = ""


class Forward(FrameProcessor):
    """Says its words as the call starts; the transfer comes when they were heard."""

    def __init__(self, call: Call, to: str, announce: Sequence[Prompt], failed: Sequence[Prompt]) -> None:
        super().__init__()
        self._call, self._to, self._announce, self._failed = call, to, announce, failed

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)
        if type(frame) is not StartFrame:
            return
        possible = self._call.can_transfer(self._to)
        if words := self._announce if possible else self._failed:
            say(self, words, self._call.info.send.sample_rate)
        self._call.transfer(self._to)  # which ends the call where it is not possible


class ForwardBot:
    """use = "forward"."""

    settings = ForwardSettings

    def prepare(self, settings: ForwardSettings, context: PrepareContext) -> Build:
        maker = PromptMaker(context, settings.voice)
        announce = [] if settings.announce is None else [maker.make("announce", settings.announce)]
        failed = [] if settings.failed is None else [maker.make("failed", settings.failed)]
        if maker.errors:
            raise ConfigErrors(maker.errors)

        def build(call: Call) -> Sequence[FrameProcessor]:
            return (Forward(call, settings.to, announce, failed),)

        return build


BOT: Bot = ForwardBot()
