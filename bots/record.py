"""Voicemail: a greeting, a beep, and what the caller says goes into a WAV file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
from annotated_types import Interval, MinLen

from bots.base import Bot, Build, Call, PrepareContext, Recording, TimerHandle
from bots.prompts import Prompt, PromptMaker, PromptSetting, say
from media.errors import ConfigError, ConfigErrors
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    EndFrame,
    Frame,
    InputDTMFFrame,
    KeypadEntry,
    StartFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.processor import FrameDirection, FrameProcessor
from media.silero import SileroVADAnalyzer
from media.vad_processor import VADProcessor

BEEP_S, BEEP_HZ, BEEP_LEVEL = 0.4, 1000.0, 8000
_KEYS: Final = frozenset(key.value for key in KeypadEntry)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSettings:
    """[bots.<name>] with use = "record"."""

    greeting: PromptSetting  # WAV file or text, before the beep
    thanks: PromptSetting | None = None  # after the message, before the call ends
    nothing: PromptSetting | None = None  # instead of it where nothing was said
    beep: bool = True
    folder: Annotated[str, MinLen(1)] = "voicemail"  # where messages go, from gateway.toml
    finish_on: str = "#"  # these keys end a message; during the greeting they skip it
    silence_s: Annotated[float, Interval(ge=0.5, le=60)] = 4.0  # of which ends a message
    longest_s: Annotated[float, Interval(ge=1, le=3600)] = 180.0  # of a message
    voice: str = ""


class TakeMessage(FrameProcessor):
    """One caller's message. No file is left of a caller who has said nothing."""

    def __init__(
        self,
        call: Call,
        settings: RecordSettings,
        opening: Sequence[Prompt],
        thanks: Sequence[Prompt],
        nothing: Sequence[Prompt],
    ) -> None:
        super().__init__()
        self._call, self._settings = call, settings
        self._opening, self._thanks, self._nothing = opening, thanks, nothing
        self._sample_rate = call.info.send.sample_rate  # the wire's: what is said needs no resampling
        self._recording: Recording | None = None
        self._begun = False  # the greeting is being heard
        self._spoken = False  # the caller has said something
        self._over = False
        self._silence: TimerHandle | None = None
        self._acts: Mapping[type, Callable[[Any], None]] = {
            StartFrame: self._on_start,
            BotStartedSpeakingFrame: self._on_started,
            BotStoppedSpeakingFrame: self._on_stopped,
            InputDTMFFrame: self._on_digit,
            VADUserStartedSpeakingFrame: self._on_voice,
            VADUserStoppedSpeakingFrame: self._on_voice_end,
            EndFrame: self._on_end,
            CancelFrame: self._on_end,
        }

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)
        if (act := self._acts.get(type(frame))) is not None:
            act(frame)

    def _on_start(self, frame: StartFrame) -> None:
        say(self, self._opening, self._sample_rate)

    def _on_started(self, frame: BotStartedSpeakingFrame) -> None:
        self._begun = True

    def _on_stopped(self, frame: BotStoppedSpeakingFrame) -> None:
        if self._begun and self._recording is None and not self._over:
            self._listen()

    def _on_digit(self, frame: InputDTMFFrame) -> None:
        if self._over or frame.button.value not in self._settings.finish_on:
            return
        if self._recording is not None:
            self._finish()
        elif self._begun:
            self._begun = False
            self._call.interrupt()
            say(self, self._opening[1:], self._sample_rate)  # the beep alone, if there is one
            if len(self._opening) == 1:
                self._listen()

    def _listen(self) -> None:
        settings = self._settings
        self._recording = self._call.record(tracks="caller", folder=settings.folder, longest_s=settings.longest_s + 1)
        self._call.call_later(settings.longest_s, self._finish)
        self._wait()

    def _wait(self) -> None:
        self._stop_waiting()
        self._silence = self._call.call_later(self._settings.silence_s, self._finish)

    def _stop_waiting(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _on_voice(self, frame: VADUserStartedSpeakingFrame) -> None:
        if self._recording is not None:
            self._spoken = True
            self._stop_waiting()

    def _on_voice_end(self, frame: VADUserStoppedSpeakingFrame) -> None:
        if self._recording is not None and not self._over:
            self._wait()

    def _finish(self) -> None:
        if self._over:
            return
        self._close()
        words = self._thanks if self._spoken else self._nothing
        if words:
            say(self, words, self._sample_rate)
        self._call.end("completed" if self._spoken else "no-message")

    def _on_end(self, frame: Frame) -> None:
        if not self._over:
            self._close()

    def _close(self) -> None:
        self._over = True
        self._stop_waiting()
        if self._recording is not None:
            if self._spoken:
                self._recording.stop()
            else:
                self._recording.delete()


class RecordBot:
    """use = "record"."""

    settings = RecordSettings

    def prepare(self, settings: RecordSettings, context: PrepareContext) -> Build:
        maker = PromptMaker(context, settings.voice)
        wrong = [key for key in settings.finish_on if key not in _KEYS]
        if wrong:
            maker.errors.append(
                ConfigError("finish_on", "is no keys of a telephone", f"keys: {''.join(sorted(_KEYS))}")
            )
        opening = [maker.make("greeting", settings.greeting), *([Prompt(beep)] if settings.beep else ())]
        thanks = [] if settings.thanks is None else [maker.make("thanks", settings.thanks)]
        nothing = [] if settings.nothing is None else [maker.make("nothing", settings.nothing)]
        if maker.errors:
            raise ConfigErrors(maker.errors)
        context.will_hear()

        def build(call: Call) -> Sequence[FrameProcessor]:
            ear = VADProcessor(vad_analyzer=SileroVADAnalyzer())
            return ear, TakeMessage(call, settings, opening, thanks, nothing)

        return build


def beep(sample_rate: int) -> bytes:
    """What says "now", s16le."""
    time = np.arange(int(BEEP_S * sample_rate)) / sample_rate
    fade = np.minimum(1.0, np.minimum(time, time[::-1]) / 0.01)
    return bytes((BEEP_LEVEL * fade * np.sin(2 * np.pi * BEEP_HZ * time)).astype("<i2").tobytes())


BOT: Bot = RecordBot()
