"""Bots in a whole call on virtual time; what the caller hears is read back as text.

The synthesiser is replaced by one whose "speech" is a level: each text has its own, and lasts 0.1 s a letter. What
comes out of the fake carrier's play-out buffer can then be told apart, with its duration.
"""

from __future__ import annotations

import statistics
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bots.base import PrepareContext
from gateway import registry
from gateway.settings import parse_settings
from gateway.states import CallState
from tests.gateway.virtual import VirtualCall

LETTER_S = 0.1
_BLOCK_S = 0.02


class Tongue:
    """`PrepareContext.speak`, and its inverse."""

    def __init__(self) -> None:
        self._levels: dict[str, int] = {}

    def level(self, text: str) -> int:
        # Steps of 25 %, both signs: mu-law's own error is 3 % at most.
        if text not in self._levels:
            index = len(self._levels)
            self._levels[text] = round(600 * 1.25 ** (index // 2)) * (1 if index % 2 else -1)
            assert abs(self._levels[text]) < 32000, "too many texts to tell apart"
        return self._levels[text]

    def speak(self, text: str, voice: str, sample_rate: int) -> bytes:
        return struct.pack("<h", self.level(text)) * round(len(text) * LETTER_S * sample_rate)

    def read(self, pcm: bytes, sample_rate: int = 8000) -> list[tuple[str, float]]:
        """(text, seconds heard) in order; silence between is left out, a text that goes on after it counts anew."""
        size = 2 * int(_BLOCK_S * sample_rate)
        heard: list[tuple[str, float]] = []
        before = ""
        for at in range(0, len(pcm), size):
            block = pcm[at : at + size]
            level = statistics.median_low(struct.unpack(f"<{len(block) // 2}h", block))  # a mean would mix two texts
            text = min(self._levels, key=lambda text: abs(self._levels[text] - level), default="")
            if abs(level) < 300:
                text = ""
            if text and text == before:
                heard[-1] = (text, heard[-1][1] + _BLOCK_S)
            elif text:
                heard.append((text, _BLOCK_S))
            before = text
        return [(text, round(seconds, 2)) for text, seconds in heard]


class Talk:
    """One call to one bot."""

    def __init__(
        self, table: dict[str, Any], carrier: str = "twilio", base_dir: Path = Path("."), **options: Any
    ) -> None:
        self.tongue = Tongue()
        settings = parse_settings({"bots": {"it": table}}, base_dir)
        entry = settings.bots["it"]
        context = PrepareContext(base_dir, (8000,), self.tongue.speak)
        build: Any = registry.bot(entry.use).prepare(entry.options, context)
        self.transfers: list[str] = []
        self.call = VirtualCall(carrier, build, **options)
        transfer = self.call.core.transfer

        def keep(target: str) -> None:
            self.transfers.append(target)
            transfer(target)

        self.call.core.transfer = keep  # type: ignore[method-assign]

    def run(self, seconds: float) -> None:
        self.call.run(seconds)

    def press(self, digits: str) -> None:
        self.call.press(digits)
        self.call.run(0.05)

    @property
    def heard(self) -> list[tuple[str, float]]:
        return self.tongue.read(self.call.heard())

    @property
    def texts(self) -> list[str]:
        return [text for text, _ in self.heard]

    @property
    def state(self) -> CallState:
        return self.call.core.state

    @property
    def reason(self) -> str:
        return self.call.core.reason


def whole(*texts: str) -> Sequence[tuple[str, float]]:
    """What `Talk.heard` is when each text was heard to its end."""
    return [(text, round(len(text) * LETTER_S, 2)) for text in texts]
