"""Who has the floor in an agent's call: what the caller says into its speech, with the offline services."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bots.agent_turns import ECHO_S, ByWords
from bots.base import PrepareContext
from bots.context.context import LLMContext
from bots.context.pair import LLMContextAggregatorPair
from bots.context.user import LLMUserAggregatorParams
from bots.services.rules import RulesLLMService
from bots.speech import speak
from gateway.registry import bot
from gateway.settings import parse_settings
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    FloorFrame,
    Frame,
    InputDTMFFrame,
    KeypadEntry,
    TranscriptionFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.processor import FrameDirection, FrameProcessor
from media.turns.strategies import UserTurnStrategies
from tests.bots.live import LiveVirtualCall, threads_are_done
from tests.bots.live import run_with_one_thread as run
from tests.endtoend.actors import tone
from tests.media.rig import started
from tests.media.turns.rig import Turns

HZ, GREETING_S = 1500.0, 8.0
RULES = [{"hears": ["opening hours"], "say": "We are open."}, {"hears": ["goodbye"], "say": "Goodbye."}]
QUESTION = speak("opening hours", "en-us+f3", 8000)
HUM = speak("mmm", "en-us+f3", 8000)  # the recogniser makes no words of it


class Talk:
    """A call in which the agent greets for GREETING_S, by a tone of HZ."""

    def __init__(self, build: Any) -> None:
        self.call = LiveVirtualCall("twilio", build)
        self.seen: list[tuple[float, Frame]] = []
        self._known: set[int] = set()

    @classmethod
    async def begin(cls, **changes: Any) -> Talk:
        """[bots.it] as it stands in a file."""
        table = {"use": "agent", "llm": {"use": "rules", "rules": RULES}, "greeting": "greeting", **changes}
        entry = parse_settings({"bots": {"it": table}}, Path(".")).bots["it"]
        context = PrepareContext(Path("."), (8000,), lambda text, voice, rate: tone(GREETING_S, rate, HZ))
        talk = cls(await bot(entry.use).prepare(entry.options, context))  # type: ignore[misc]
        await talk.go(0.1)
        assert talk.call.core.pipeline is not None
        flow = talk.call.core.pipeline._flow
        flow.probe = talk._see
        flow.relink()
        return talk

    def _see(self, processor: FrameProcessor, frame: Frame, direction: FrameDirection) -> None:
        if frame.id not in self._known:
            self._known.add(frame.id)
            self.seen.append((self.call.t, frame))

    def times(self, kind: type[Frame]) -> list[float]:
        return [at for at, frame in self.seen if isinstance(frame, kind)]

    async def go(self, seconds: float) -> None:
        """The call's time stands still while threads are at work, however slow they are."""
        for _ in range(round(seconds / 0.02)):
            await threads_are_done()
            await self.call.go(0.02)

    @property
    def greeted_s(self) -> float:
        """How much of the greeting was heard."""
        samples = np.frombuffer(self.call.heard(), "<i2").astype(float)
        pieces = samples[: len(samples) // 800 * 800].reshape(-1, 800)
        spectra = np.abs(np.fft.rfft(pieces, axis=1))
        loud = np.abs(pieces).max(axis=1) > 1000
        return float(0.1 * (loud & (np.abs(spectra.argmax(axis=1) * 10 - HZ) < 20)).sum())

    @property
    def counters(self) -> dict[str, int]:
        return dict(self.call.core.record(self.call.t).counters)

    async def end(self) -> None:
        self.call.core.disconnected(1006, self.call.t)
        assert self.call.core.pipeline is not None
        await self.call.core.pipeline.close()
        left = set(self.call.tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)


def test_a_short_question_into_the_bots_speech_ends_it_and_is_answered() -> None:
    async def main() -> None:
        talk = await Talk.begin()
        await talk.go(2.0)
        talk.call.say(QUESTION)  # 1.0 s: for a turn without words it is too short
        await talk.go(4.0)
        counters = talk.counters
        assert (counters["floor_held"], counters["floor_interrupted"]) == (1, 1)
        assert "floor_went_on" not in counters
        assert (counters["interruptions"], counters["turns_interrupted"]) == (1, 1)
        assert talk.greeted_s < 2.6
        assert counters["answers"] == 1
        assert counters["answer_ms"] < 2000, "not behind the rest of the greeting"
        await talk.end()

    run(main())


def test_a_hum_into_the_bots_speech_is_no_turn_and_wants_no_answer() -> None:
    async def main() -> None:
        talk = await Talk.begin(idle_s=12.0)
        await talk.go(2.0)
        talk.call.say(HUM)
        await talk.go(15.0)
        counters = talk.counters
        assert (counters["floor_held"], counters["floor_went_on"]) == (1, 1)
        assert "interruptions" not in counters
        assert (counters["turns"], counters["turns_interrupted"]) == (1, 0)
        assert talk.greeted_s > GREETING_S - 0.3
        assert "held" not in counters, "nobody has asked for anything that could take a moment"
        await talk.end()

    run(main())


def test_a_hum_while_nobody_speaks_is_no_turn_and_wants_no_answer() -> None:
    async def main() -> None:
        talk = await Talk.begin(idle_s=12.0)
        await talk.go(GREETING_S + 1.0)
        talk.call.say(HUM)
        await talk.go(9.0)
        assert talk.counters["turns"] == 1
        assert "held" not in talk.counters
        assert len(talk.times(BotStoppedSpeakingFrame)) == 2, "the greeting's, both ways"
        await talk.go(8.0)
        assert len(talk.times(BotStoppedSpeakingFrame)) == 4, "asked whether he is there"
        assert "answers" not in talk.counters
        await talk.end()

    run(main())


@pytest.mark.parametrize("hums", [False, True])
def test_one_moment_is_not_said_into_the_callers_voice(hums: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def thinks(service: Any, context: Any) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        monkeypatch.setattr(RulesLLMService, "_process_context", thinks)
        talk = await Talk.begin(hold="hold", patience_s=60.0, timeout_s=60.0)
        await talk.go(GREETING_S + 0.5)
        talk.call.say(QUESTION)
        await talk.go(2.2)
        (ended, _) = talk.times(UserStoppedSpeakingFrame)
        if hums:
            talk.call.say(HUM)
        await talk.go(4.0)
        assert talk.counters["held"] == 1
        said = talk.times(BotStartedSpeakingFrame)[-1]
        silent = talk.times(VADUserStoppedSpeakingFrame)[-1] if hums else ended
        assert said - silent == pytest.approx(1.7, abs=0.1)
        await talk.end()

    run(main())


def test_as_many_words_as_are_asked_for_interrupt() -> None:
    async def main() -> None:
        talk = await Talk.begin(interrupt_words=2)
        await talk.go(1.0)
        talk.call.say(speak("goodbye", "en-us+f3", 8000))
        await talk.go(2.0)
        assert len(talk.times(TranscriptionFrame)) == 1
        assert talk.times(UserStartedSpeakingFrame) == []
        assert "interruptions" not in talk.counters
        talk.call.say(QUESTION)
        await talk.go(3.0)
        assert len(talk.times(UserStartedSpeakingFrame)) == 2, "both ways"
        assert talk.counters["interruptions"] == 1
        await talk.end()

    run(main())


def test_while_the_bot_is_silent_one_word_is_enough() -> None:
    async def main() -> None:
        talk = await Talk.begin(interrupt_words=3)
        await talk.go(GREETING_S + 0.5)
        talk.call.say(speak("goodbye", "en-us+f3", 8000))
        await talk.go(3.0)
        assert talk.counters["turns"] == 2
        assert talk.counters["answers"] == 1
        await talk.end()

    run(main())


# ---------------------------------------------------------------- words of the bot's own


def echo() -> FloorFrame:
    return FloorFrame("echo", "the caller's line brings what the bot says")


def on_an_echoing_line() -> Turns:
    turns = Turns([ByWords(min_words=1)])
    turns.bot(True)
    turns.push(echo())
    return turns


def test_what_the_line_brings_back_of_the_bots_words_is_no_turn() -> None:
    turns = on_an_echoing_line()
    turns.words("we are open", final=False)
    turns.words("we are open from nine")
    turns.bot(False)
    turns.wait(ECHO_S - 0.1)
    turns.words("to five")
    assert turns.told == []
    turns.wait(0.2)
    turns.words("thank you")  # by somebody whom the detector does not hear
    assert turns.told == ["user started", "interruption"]


def test_between_two_sentences_of_the_bot_its_echo_is_not_forgotten() -> None:
    turns = on_an_echoing_line()
    turns.bot(False)
    turns.wait(ECHO_S - 0.1)
    turns.bot(True)
    turns.wait(1.0)
    turns.words("anything else?")
    assert turns.told == []


def test_who_is_heard_beside_the_echo_interrupts_by_words() -> None:
    turns = on_an_echoing_line()
    turns.speech()
    turns.words("stop", final=False)
    assert turns.told == ["user started", "interruption"]


def test_what_was_taken_for_echo_is_not_in_the_next_turn() -> None:
    context = LLMContext()
    strategies = UserTurnStrategies(start=[ByWords(min_words=1)])
    user = LLMContextAggregatorPair(
        context, user_params=LLMUserAggregatorParams(user_turn_strategies=strategies)
    ).user()
    rig = started(user)
    rig.push(BotStartedSpeakingFrame(), FrameDirection.UPSTREAM)
    rig.push(echo())
    rig.push(TranscriptionFrame("we are open", "u", "now"))
    rig.push(FloorFrame("held", "the caller made a sound"))
    rig.push(TranscriptionFrame("from nine", "u", "now"))
    rig.push(VADUserStartedSpeakingFrame(start_secs=0.2))
    rig.push(TranscriptionFrame("stop", "u", "now"))
    rig.push(VADUserStoppedSpeakingFrame(stop_secs=0.2))
    rig.runtime.advance(2.0)
    assert context.messages == [{"role": "user", "content": "stop"}]


def test_keys_are_nobodys_echo() -> None:
    turns = on_an_echoing_line()
    turns.push(InputDTMFFrame(KeypadEntry("1")))
    turns.words("DTMF: 1")
    assert turns.told == ["user started", "interruption"]
