"""Bots that misbehave on purpose, and callers that do."""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from bots.base import Build, Call, PrepareContext
from bots.echo import Echo
from gateway.registry import bot
from gateway.settings import parse_settings
from gateway.simulator.base import CallPlan, FakeCarrier, Message, Messages, fake_carrier
from gateway.simulator.script import Voice
from media.frames import (
    CancelTaskFrame,
    EndFrame,
    Frame,
    InputAudioRawFrame,
    StartFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from media.processor import FrameDirection, FrameProcessor

# ---------------------------------------------------------------- sound


@cache
def tone(seconds: float, rate: int = 8000, hz: float = 440.0, level: int = 8000) -> bytes:
    count = round(seconds * rate)
    return struct.pack(f"<{count}h", *(int(level * math.sin(2 * math.pi * hz * n / rate)) for n in range(count)))


def noise(seconds: float, rate: int = 8000, level: float = 3000.0, seed: int = 1) -> bytes:
    """Speech's band only: what lies outside of it a call at 8 kHz may drop, and an echo must be alike."""
    count = round(seconds * rate)
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(0, 1, count))
    hz = np.fft.rfftfreq(count, 1 / rate)
    spectrum[(hz < 300) | (hz > 3300)] = 0
    samples = np.fft.irfft(spectrum, count)
    return bytes((samples / samples.std() * level).clip(-32000, 32000).astype("<i2").tobytes())


def voice(seconds: float, rate: int = 16000) -> Voice:
    return Voice(noise(seconds, rate), rate, "noise")


def utterance(pcm: bytes, rate: int) -> list[Frame]:
    return [TTSStartedFrame(), TTSAudioRawFrame(pcm, rate, 1), TTSStoppedFrame()]


# ---------------------------------------------------------------- bots


def echo(call: Call) -> Sequence[FrameProcessor]:
    return (Echo(),)


def from_toml(table: dict[str, Any]) -> Build:
    """One of our own bots, whose texts are spoken as tones of 0.1 s a letter."""
    entry = parse_settings({"bots": {"it": table}}).bots["it"]
    build = bot(entry.use).prepare(
        entry.options,
        PrepareContext(
            __import__("pathlib").Path("."), (8000, 16000), lambda text, _, rate: tone(len(text) / 10, rate)
        ),
    )
    assert callable(build)
    return build


class Act(FrameProcessor):
    """Does something when the call starts."""

    def __init__(self, act: Callable[[Act], None]) -> None:
        super().__init__()
        self._act = act

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        self.push_frame(frame, direction)
        if isinstance(frame, StartFrame):
            self._act(self)


def acting(act: Callable[[Act], None]) -> Build:
    return lambda call: (Act(act),)


def saying(seconds: float, *, then: Callable[[], Frame] | None = None, rate: int = 8000) -> Build:
    """Speaks as the call starts."""

    def act(processor: Act) -> None:
        for frame in utterance(tone(seconds, rate), rate):
            processor.push_frame(frame)
        if then is not None:
            processor.push_frame(then())

    return acting(act)


def ending(reason: str = "completed") -> Callable[[], Frame]:
    return lambda: EndFrame(reason)


def broken_build(call: Call) -> Sequence[FrameProcessor]:
    raise RuntimeError("cannot be built")


class Breaks(FrameProcessor):
    """Fails at every packet of the caller's."""

    def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        if isinstance(frame, InputAudioRawFrame):
            raise RuntimeError("cannot process")
        self.push_frame(frame, direction)


def broken_timer(call: Call) -> Sequence[FrameProcessor]:
    def late() -> None:
        raise RuntimeError("cannot be late")

    call.call_later(0.2, late)
    return (Echo(),)


def broken_task(processor: Act) -> None:
    async def task() -> None:
        await asyncio.sleep(0.2)
        raise RuntimeError("cannot go on")

    processor.create_task(task(), "broken")


def endless_task(processor: Act) -> None:
    async def task() -> None:
        await asyncio.sleep(3600)

    processor.create_task(task(), "endless")


def cancels(processor: Act) -> None:
    for frame in utterance(tone(5.0), 8000):
        processor.push_frame(frame)

    async def task() -> None:
        await asyncio.sleep(0.3)
        processor.push_frame(CancelTaskFrame("enough"), FrameDirection.UPSTREAM)

    processor.create_task(task(), "cancel")


# ---------------------------------------------------------------- callers


def with_options(name: str, **options: Any) -> FakeCarrier:
    return fake_carrier(name)(CallPlan(options=options))


def made(name: str, **changes: Any) -> FakeCarrier:
    """A fake carrier with some methods of its own."""
    cls = fake_carrier(name)
    return type(f"Odd{cls.__name__}", (cls,), changes)(CallPlan())  # type: ignore[no-any-return]


def says_nothing(name: str) -> FakeCarrier:
    """Opens the socket, and never says what call this is."""
    return made(name, open_messages=lambda self, now: ())


def falls_silent(name: str, after: int = 12) -> FakeCarrier:
    """Sends nothing any more after so many messages; its socket stays."""
    sent = fake_carrier(name)._sent

    def silent(self: FakeCarrier, messages: Messages) -> Messages:
        return () if self.messages_in >= after else sent(self, messages)

    return made(name, _sent=silent)


def also_says(name: str, messages: Sequence[Message], at: int = 5) -> FakeCarrier:
    """Says `messages` before its `at`-th packet of audio, and every hundredth after that."""
    audio = fake_carrier(name).audio_messages
    count = [0]

    def more(self: FakeCarrier, pcm: bytes, now: float) -> Messages:
        count[0] += 1
        due = count[0] % 100 == at
        return (*messages, *audio(self, pcm, now)) if due else audio(self, pcm, now)

    return made(name, audio_messages=more)
