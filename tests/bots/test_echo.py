"""The echo bot."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from bots.base import PrepareContext
from bots.echo import BOT, Echo, EchoSettings
from gateway.registry import carrier_names
from gateway.states import CallState
from tests.bots.talk import Talk


def tone(seconds: float, rate: int = 8000) -> bytes:
    """A square wave of 250 Hz: its level survives any law."""
    half = rate // 500
    samples = ([9000] * half + [-9000] * half) * round(seconds * 250)
    return struct.pack(f"<{len(samples)}h", *samples)


def loud_s(pcm: bytes, rate: int = 8000) -> float:
    samples: tuple[int, ...] = struct.unpack(f"<{len(pcm) // 2}h", pcm)
    return sum(abs(sample) > 4000 for sample in samples) / rate


@pytest.mark.parametrize("carrier", carrier_names())
def test_all_of_the_callers_voice_comes_back(carrier: str) -> None:
    it = Talk({"use": "echo"}, carrier)
    it.run(0.2)
    it.call.say(tone(1.0, it.call.fake.audio_rate))
    it.run(2.0)
    fake = it.call.fake
    edges = 0.002 if fake.playout.rate == fake.audio_rate else 0.03  # resampled ones are not so steep
    assert loud_s(it.call.heard(), fake.playout.rate) == pytest.approx(1.0, abs=edges)
    assert it.state is CallState.LIVE


def test_it_needs_no_preparation_and_one_processor() -> None:
    build: Any = BOT.prepare(EchoSettings(), PrepareContext(Path(), ()))
    assert [type(processor) for processor in build(None)] == [Echo]
