"""An agent that calls people: what it says to whom, on virtual time, with the offline services."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bots.base import PrepareContext
from bots.speech import speak
from gateway.registry import bot
from gateway.settings import parse_settings
from media.call import CallInfo
from media.errors import ConfigError
from tests.bots.live import LiveVirtualCall
from tests.bots.live import run_with_one_thread as run
from tests.endtoend.actors import tone

GREETING = "You have reached the voice mail of Anna Miller. Please leave a message after the tone."
RULES = [{"hears": ["hello"], "say": "Who is there?"}, {"hears": ["yes"], "say": "Good.", "end": True}]


async def prepared(**changes: Any) -> Any:
    """[bots.it] as it stands in a file; what it says lasts 0.1 s a letter, at a level of its own for each text."""
    table = {"use": "agent", "llm": {"use": "rules", "rules": RULES}, "voicemail": "voice mail", **changes}
    entry = parse_settings({"bots": {"it": table}}, Path(".")).bots["it"]
    made: Any = bot(entry.use).prepare(entry.options, PrepareContext(Path("."), (8000,), _spoken))
    return await made


def _spoken(text: str, voice: str, rate: int) -> bytes:
    return tone(len(text) / 10, rate, {"greeting": 500.0, "voice mail": 900.0}.get(text, 1500.0))


def pitches(pcm: bytes) -> list[float]:
    """Hz of what is heard, in order."""
    found: list[float] = []
    for at in range(0, len(pcm) - 3200, 3200):
        samples = np.frombuffer(pcm, "<i2", 1600, at).astype(float)
        if np.abs(samples).max() > 1000:
            hz = float(np.abs(np.fft.rfft(samples)).argmax() * 5)
            if not found or abs(found[-1] - hz) > 20:
                found.append(hz)
    return found


class Answered:
    """A call that the agent has placed."""

    def __init__(self, build: Any, direction: str = "outbound") -> None:
        self.call = LiveVirtualCall("twilio", build)
        core = self.call.core
        core._claims = dataclasses.replace(core._claims or CallInfo(carrier="twilio"), direction=direction)

    async def finish(self) -> None:
        """What the session does when the call is over: processors first, and then whatever task is left."""
        self.call.core.disconnected(1006, self.call.t)
        assert self.call.core.pipeline is not None
        await self.call.core.pipeline.close()
        left = set(self.call.tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    @property
    def heard(self) -> list[float]:
        return pitches(self.call.heard())

    @property
    def who(self) -> str:
        return self.call.core.answered_by


def test_a_person_is_greeted_when_he_has_said_hello() -> None:
    async def main() -> None:
        it = Answered(await prepared(greeting="greeting"))
        await it.call.go(1.0)
        assert it.heard == [], "nobody has said a word"
        it.call.say(speak("Hello?", "en-us+f3", 8000))
        await it.call.go_until(lambda: it.who == "human")
        await it.call.go_until(lambda: bool(it.heard))
        await it.call.go(2.0)
        assert it.heard == [500.0], "the greeting, and no answer to the hello"
        await it.finish()

    run(main())


def test_a_machine_gets_the_message_after_its_beep() -> None:
    async def main() -> None:
        it = Answered(await prepared(greeting="greeting"))
        it.call.say(speak(GREETING, "en-us+f3", 8000) + bytes(8000) + tone(0.4, hz=1000.0))
        await it.call.go_until(lambda: it.call.over)
        assert it.heard == [900.0]
        core = it.call.core
        assert (it.who, core.ended_by, core.reason) == ("machine", "bot", "voicemail")
        await it.finish()

    run(main())


def test_an_inbound_caller_is_greeted_at_once() -> None:
    async def main() -> None:
        it = Answered(await prepared(greeting="greeting"), direction="inbound")
        await it.call.go(0.5)
        assert it.heard == [500.0]
        assert it.who == ""
        await it.finish()

    run(main())


def test_a_model_that_hears_and_speaks_cannot_be_held_back() -> None:
    async def main() -> None:
        table = {"use": "agent", "voicemail": "x", "speech": {"use": "openai_realtime", "key": "k3y"}}
        entry = parse_settings({"bots": {"it": table}}, Path(".")).bots["it"]
        made: Any = bot(entry.use).prepare(entry.options, PrepareContext(Path("."), (8000,), _spoken))
        with pytest.raises(ConfigError, match="cannot be kept apart"):
            await made

    run(main())
