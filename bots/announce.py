"""Plays prompts in order, then ends the call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval, MinLen

from bots.base import Bot, Build, Call, PrepareContext
from bots.hearing import ears
from bots.prompts import Prompt, PromptMaker, PromptSetting, say
from media.errors import ConfigErrors
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    EndFrame,
    Frame,
    InputDTMFFrame,
    InterruptionFrame,
    StartFrame,
    VADUserStoppedSpeakingFrame,
)
from media.processor import FrameDirection, FrameProcessor


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnounceSettings:
    """[bots.<name>] with use = "announce"."""

    play: Annotated[tuple[PromptSetting, ...], MinLen(1)]  # WAV files and texts
    repeat: Annotated[int, Interval(ge=1, le=1000)] = 1  # how often all of it is played
    interruptible: bool = False  # a key skips to the next prompt
    barge_in: bool | None = None  # a caller's voice pauses a prompt, and skips it if it goes on; as `interruptible`
    voice: str = ""


class Announce(FrameProcessor):
    """One call's announcement. The next prompt starts when the caller has heard the one before."""

    def __init__(self, call: Call, prompts: Sequence[Prompt], *, repeat: int = 1, interruptible: bool = False) -> None:
        super().__init__()
        self._call = call
        self._prompts = prompts
        self._left = repeat * len(prompts)
        self._interruptible = interruptible
        self._sample_rate = call.info.send.sample_rate  # the wire's: what is said needs no resampling
        self._begun = False  # the prompt in play is being heard
        self._listening = False  # the caller has taken the floor and speaks
        self._skipping = False  # an interruption is on its way that a key has asked for

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)
        kind = type(frame)
        if kind is StartFrame:
            self._next()
        elif kind is BotStartedSpeakingFrame:
            self._begun = True
        elif kind is BotStoppedSpeakingFrame:
            if self._begun and not self._listening:
                self._next()
        elif kind is InterruptionFrame:
            self._listening = direction is FrameDirection.DOWNSTREAM and self._begun and not self._skipping
        elif kind is VADUserStoppedSpeakingFrame:
            if self._listening:
                self._listening = False
                self._next()
        elif kind is InputDTMFFrame:
            if self._interruptible:
                self._skipping = True
                self._call.interrupt()
                self._skipping = self._listening = False
                self._next()
        elif kind is EndFrame or kind is CancelFrame:
            self._left = 0

    def _next(self) -> None:
        self._begun = False
        if self._left == 0:
            return
        prompt = self._prompts[-self._left % len(self._prompts)]
        self._left -= 1
        say(self, (prompt,), self._sample_rate)
        if self._left == 0:
            self._call.end("completed")  # when the caller has heard it


class AnnounceBot:
    """use = "announce"."""

    settings = AnnounceSettings

    def prepare(self, settings: AnnounceSettings, context: PrepareContext) -> Build:
        maker = PromptMaker(context, settings.voice)
        prompts = [maker.make(f"play[{index}]", setting) for index, setting in enumerate(settings.play)]
        if maker.errors:
            raise ConfigErrors(maker.errors)
        barge_in = settings.interruptible if settings.barge_in is None else settings.barge_in
        if barge_in:
            context.will_hear()

        def build(call: Call) -> Sequence[FrameProcessor]:
            announce = Announce(call, prompts, repeat=settings.repeat, interruptible=settings.interruptible)
            return (*ears(barge_in), announce)

        return build


BOT: Bot = AnnounceBot()
