"""What a simulated caller does: steps, each with the moment when it is due. Data only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import soxr


@dataclass(frozen=True, slots=True)
class Voice:
    """Something to say: s16le, mono."""

    pcm: bytes
    rate: int  # Hz
    name: str = ""  # for the timeline

    def at(self, rate: int) -> bytes:
        """The PCM at `rate`, resampled as a whole."""
        if rate == self.rate or not self.pcm:
            return self.pcm
        import numpy as np

        samples = np.frombuffer(self.pcm, "<i2", len(self.pcm) // 2)
        return bytes(soxr.resample(samples, self.rate, rate, quality="HQ").astype("<i2").tobytes())

    @property
    def duration_s(self) -> float:
        return len(self.pcm) / 2 / self.rate


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """A moment: every condition that is given must hold. "The step before" is at first the start of the call."""

    at_s: float | None = None  # seconds since the connection stood
    after_s: float | None = None  # seconds since the step before was done
    bot_quiet_s: float | None = None  # the bot has spoken since the step before, and been silent for so long
    bot_spoke_s: float | None = None  # the bot has been speaking for so long, without falling silent
    within_s: float = 30.0  # of the step before; otherwise the script has failed


def at(seconds: float) -> When:
    return When(at_s=seconds, within_s=math.inf)


def after(seconds: float) -> When:
    return When(after_s=seconds, within_s=math.inf)


def after_bot(quiet_s: float = 0.6, *, within_s: float = 30.0) -> When:
    """When the bot has had its say."""
    return When(bot_quiet_s=quiet_s, within_s=within_s)


def while_bot_speaks(spoke_s: float = 1.0, *, within_s: float = 30.0) -> When:
    """In the middle of the bot's words: a barge-in, whose effect is measured."""
    return When(bot_spoke_s=spoke_s, within_s=within_s)


@dataclass(frozen=True, slots=True)
class Say:
    """Say it to the end; the step is done then."""

    voice: Voice


@dataclass(frozen=True, slots=True)
class Press:
    """Press keys, one after the other."""

    digits: str
    gap_s: float = 0.25


@dataclass(frozen=True, slots=True)
class HangUp:
    """The caller hangs up."""


@dataclass(frozen=True, slots=True)
class Vanish:
    """The connection breaks, without a word."""


@dataclass(frozen=True, slots=True)
class Note:
    """Do nothing but write `text` to the timeline: the moment itself was the point."""

    text: str


Action = Say | Press | HangUp | Vanish | Note


@dataclass(frozen=True, slots=True)
class Step:
    when: When
    do: Action


@dataclass(frozen=True, slots=True)
class Script:
    """Steps in order. After the last one the caller waits for the bot to end the call."""

    steps: Sequence[Step] = field(default_factory=tuple)

    def then(self, when: When, do: Action) -> Script:
        return Script((*self.steps, Step(when, do)))
