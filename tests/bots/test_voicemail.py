"""VoicemailDetector on the level of frames, on virtual time; and with a model over a real socket."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from bots.context.context import LLMContext
from bots.services.openai import OpenAILLMService
from bots.voicemail import VoicemailDetector
from media.frames import (
    AnsweredByFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    StartFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.processor import FrameDirection
from tests.bots.services.rig import pipeline
from tests.bots.services.vendor import Reply, Vendor
from tests.endtoend.actors import noise, tone
from tests.endtoend.served import run, until
from tests.media.rig import Pass, Rig, labels

SPEECH = (TTSStartedFrame, TTSTextFrame, TTSAudioRawFrame, TTSStoppedFrame, LLMFullResponseEndFrame)
HUMAN, MACHINE = "on_conversation_detected", "on_voicemail_detected"


class Model:
    """Answers at once; keeps what it was asked."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers, self.asked = list(answers), list[tuple[str, str]]()

    async def run_inference(self, context: LLMContext, *, system_instruction: str) -> str:
        self.asked.append((str(context.messages[-1]["content"]), system_instruction))  # type: ignore[index]
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Outbound:
    """A pipeline of detector, a place where a bot would be, and gate; `told` are the events and when they came."""

    def __init__(self, **options: Any) -> None:
        self.detector = VoicemailDetector(**options)
        self.told: list[tuple[str, float]] = []
        for event in (HUMAN, MACHINE):
            self.detector.add_event_handler(event, lambda _, event=event: self.told.append((event, self.seconds)))
        self.bot = Pass()
        self.rig = Rig([self.detector.detector(), self.bot, self.detector.gate()])
        self.began = self.rig.runtime.time
        self.rig.start()

    @property
    def seconds(self) -> float:
        return round(self.rig.runtime.time - self.began, 2)

    @property
    def answered(self) -> list[tuple[str, str]]:
        return [(frame.who, frame.detail) for frame in self.rig.sunk if isinstance(frame, AnsweredByFrame)]

    def wait(self, seconds: float) -> None:
        self.rig.runtime.advance(seconds)

    def hear(self, pcm: bytes, rate: int = 8000) -> None:
        for at in range(0, len(pcm), rate // 25):
            self.rig.push(InputAudioRawFrame(pcm[at : at + rate // 25], rate, 1))
            self.wait(0.02)

    def speech(self, seconds: float, text: str = "") -> None:
        """As a voice detector and a recogniser tell it."""
        self.rig.push(VADUserStartedSpeakingFrame(start_secs=0.0))
        self.rig.push(UserStartedSpeakingFrame())
        self.wait(seconds)
        self.rig.push(VADUserStoppedSpeakingFrame(stop_secs=0.0))
        if text:
            self.rig.push(TranscriptionFrame(text, "", ""))
        self.rig.push(UserStoppedSpeakingFrame())

    def say(self) -> None:
        """What the bot says, at the place of its voice."""
        for frame in (TTSStartedFrame(), TTSTextFrame("hello", "sentence"), TTSAudioRawFrame(bytes(320), 8000, 1)):
            self.bot.push_frame(frame)
        self.bot.push_frame(TTSStoppedFrame())
        self.bot.push_frame(LLMFullResponseEndFrame())

    @property
    def spoken(self) -> list[str]:
        return [type(frame).__name__ for frame in self.rig.sunk if isinstance(frame, SPEECH)]


# ---------------------------------------------------------------- by the rules


def test_a_turn_that_begins_with_the_words_is_no_more_speech_than_there_was() -> None:
    out = Outbound()
    out.rig.push(VADUserStartedSpeakingFrame(start_secs=0.0))
    out.wait(2.2)
    out.rig.push(VADUserStoppedSpeakingFrame(stop_secs=0.0))
    out.wait(0.2)
    out.rig.push(TranscriptionFrame("hello, this is anna, who is calling", "", ""))
    out.rig.push(UserStartedSpeakingFrame(), FrameDirection.UPSTREAM)
    out.wait(0.6)
    out.rig.push(UserStoppedSpeakingFrame(), FrameDirection.UPSTREAM)
    out.wait(2.0)
    assert out.told == [(HUMAN, 3.4)]
    assert out.answered == [("human", "answer")]


def test_a_person_gets_what_was_kept_in_order() -> None:
    call = Outbound()
    call.say()
    assert call.spoken == []
    call.wait(0.5)
    call.speech(0.6, "hello?")
    call.wait(1.0)
    assert call.told == []
    call.wait(0.3)
    assert call.told == [(HUMAN, 2.3)]
    assert call.spoken == [kind.__name__ for kind in SPEECH]
    assert call.answered == [("human", "answer")]
    assert [f.who for f in call.rig.risen if isinstance(f, AnsweredByFrame)] == ["human"], "the call is told, too"
    call.say()
    assert len(call.spoken) == 10, "the gate stays open"
    assert "hello?" in labels(call.bot.seen), "the bot has heard it all the while"
    call.wait(60.0)
    assert len(call.told) == 1


def test_a_machine_hears_nothing_of_it_and_then_its_message() -> None:
    call = Outbound()

    @call.detector.event_handler("on_voicemail_detected")
    def leave_a_message(detector: VoicemailDetector) -> None:
        detector.push_frame(TTSSpeakFrame("please call us back"))

    call.say()
    call.speech(6.0)
    assert call.answered == [("machine", "greeting")]
    assert [type(f) for f in call.bot.seen].count(InterruptionFrame) == 1, "what the bot was at is over"
    assert call.told == [], "the greeting goes on"
    call.wait(1.9)
    call.speech(1.0, "after the tone")
    call.wait(1.9)
    assert call.told == []
    call.wait(0.2)
    assert call.told == [(MACHINE, 10.9)]
    assert call.spoken == []
    assert "please call us back" in labels(call.bot.seen)
    assert "after the tone" not in labels(call.bot.seen), "the bot does not converse with a machine"
    call.say()
    assert len(call.spoken) == 5
    assert call.detector.answered_by == "machine"


def test_a_beep_is_the_time_to_speak() -> None:
    call = Outbound(voicemail_response_delay=5.0)
    call.rig.push(VADUserStartedSpeakingFrame(start_secs=0.0))
    call.hear(noise(3.0) + bytes(3200) + tone(0.4, hz=1000.0) + bytes(16000))
    ((event, at),) = call.told
    assert event == MACHINE
    assert 3.6 < at < 4.2
    beeps = [frame.beep for frame in call.rig.sunk if isinstance(frame, AnsweredByFrame)]
    assert beeps == [False, True]


def test_a_beep_alone_tells_a_machine() -> None:
    call = Outbound()
    call.hear(tone(0.4, hz=1000.0) + bytes(8000))
    assert call.told[0][0] == MACHINE
    assert call.answered[0] == ("machine", "beep")


def test_phrases_tell_before_its_length_does() -> None:
    call = Outbound()
    call.speech(1.0, "you have reached the office of Smith and Sons")
    assert call.answered == [("machine", "phrase")]


def test_nobody_speaks() -> None:
    call = Outbound()
    call.say()
    call.wait(5.1)
    assert call.told == [(HUMAN, 5.0)], "the bot may try"
    assert call.answered == [("unknown", "silence")]
    assert len(call.spoken) == 5


def test_the_turns_of_an_aggregator_behind_it_will_do() -> None:
    call = Outbound()
    call.rig.push(UserStartedSpeakingFrame(), FrameDirection.UPSTREAM)
    call.wait(0.5)
    call.rig.push(UserStoppedSpeakingFrame(), FrameDirection.UPSTREAM)
    call.wait(1.3)
    assert call.told == [(HUMAN, 1.7)]


# ---------------------------------------------------------------- by the carrier


@pytest.mark.parametrize(("who", "event"), [("human", HUMAN), ("machine", MACHINE), ("fax", MACHINE)])
def test_the_carriers_word_counts_at_once(who: str, event: str) -> None:
    call = Outbound(llm=Model(), voicemail_response_delay=0.5)
    call.wait(0.4)
    call.rig.push(AnsweredByFrame(who, "its own word"))
    call.wait(1.0)
    assert [name for name, _ in call.told] == [event]
    assert call.answered == [(who, "its own word")], "told once"


def test_the_carriers_beep() -> None:
    call = Outbound(voicemail_response_delay=9.0)
    call.rig.push(AnsweredByFrame("machine", "machine_start"))
    call.wait(3.0)
    call.rig.push(AnsweredByFrame("machine", "machine_end_beep", beep=True))
    call.wait(0.5)
    assert call.told == [(MACHINE, 3.3)]


def test_a_carrier_that_does_not_know_changes_nothing() -> None:
    call = Outbound()
    call.rig.push(AnsweredByFrame("unknown", "not_sure"))
    call.speech(0.5)
    call.wait(1.3)
    assert call.told == [(HUMAN, 1.7)]


# ---------------------------------------------------------------- by a model


def test_a_model_is_asked_when_enough_was_said() -> None:
    model = Model("CONVERSATION")
    call = Outbound(llm=model)
    call.say()
    call.speech(0.5, "Hello?")
    call.wait(0.4)
    assert model.asked == []
    call.wait(0.2)
    assert call.told == [(HUMAN, 1.0)]
    assert len(call.spoken) == 5
    assert model.asked == [("Hello?", VoicemailDetector.DEFAULT_SYSTEM_PROMPT)]
    assert call.answered == [("human", "model")]


def test_an_answer_that_says_neither_is_asked_again_with_more() -> None:
    model = Model("I am not sure.", "It is: voicemail.")
    call = Outbound(llm=model, voicemail_response_delay=1.0)
    call.speech(3.0, "Hi.")
    call.wait(0.6)
    assert call.told == []
    call.speech(1.0, "This is Jim. I am out.")
    call.wait(0.6)
    assert [text for text, _ in model.asked] == ["Hi.", "Hi. This is Jim. I am out."]
    assert call.answered == [("machine", "model")]
    call.wait(1.0)
    assert call.told == [(MACHINE, 6.1)]


def test_while_somebody_speaks_on_the_model_waits() -> None:
    model = Model("VOICEMAIL")
    call = Outbound(llm=model)
    call.rig.push(UserStartedSpeakingFrame())
    call.rig.push(TranscriptionFrame("Hi, this is", "", ""))
    call.wait(0.2)
    call.rig.push(UserStartedSpeakingFrame())
    call.wait(3.0)
    assert model.asked == []
    call.rig.push(UserStoppedSpeakingFrame())
    call.wait(0.6)
    assert len(model.asked) == 1


def test_a_model_that_fails_leaves_it_to_the_rules() -> None:
    call = Outbound(llm=Model(ConnectionError("no route")))
    call.speech(0.5, "Hello?")
    call.wait(1.3)
    assert call.told == [(HUMAN, 1.7)]
    assert [type(frame) for frame in call.rig.risen].count(ErrorFrame) == 1


def test_in_the_end_the_bot_may_speak() -> None:
    call = Outbound(llm=Model(), timeout=8.0)
    call.say()
    call.wait(8.1)
    assert call.told == [(HUMAN, 8.0)]
    assert call.answered == [("unknown", "timeout")]
    assert len(call.spoken) == 5
    call = Outbound(llm=Model(), timeout=None)
    call.wait(60.0)
    assert call.told == []


def test_a_hello_that_needs_no_answer() -> None:
    call = Outbound(tells_bot=False)
    call.speech(0.5, "hello?")
    call.wait(1.3)
    assert call.told == [(HUMAN, 1.7)]
    assert "hello?" not in labels(call.bot.seen)
    call.speech(0.5, "who is there?")
    assert "who is there?" in labels(call.bot.seen)


def test_what_is_said_before_the_end_is_not_lost() -> None:
    call = Outbound()
    call.say()
    call.rig.push(EndFrame())
    assert [type(frame).__name__ for frame in call.rig.sunk] == [*(kind.__name__ for kind in SPEECH), "EndFrame"]
    call.wait(60.0)
    assert call.told == []


def test_a_custom_prompt(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        VoicemailDetector(custom_system_prompt="Who is it? CONVERSATION or VOICEMAIL")
        assert not caplog.records
        VoicemailDetector(custom_system_prompt="Is it voicemail?")
    assert "does not ask for CONVERSATION" in caplog.text
    model = Model("CONVERSATION")
    prompt = "Speaks a person? " + VoicemailDetector.CLASSIFIER_RESPONSE_INSTRUCTION
    call = Outbound(llm=model, custom_system_prompt=prompt)
    call.speech(0.5, "Hello?")
    call.wait(0.6)
    assert model.asked == [("Hello?", prompt)]


def test_with_a_vendors_model_and_the_documented_handlers() -> None:
    """The page's handlers, and the placement that it asks for."""
    printed: list[str] = []

    async def main(print: Callable[[str], None] = printed.append) -> None:
        answer = json.dumps({"choices": [{"message": {"content": "VOICEMAIL"}}]}).encode()
        async with Vendor(Reply([answer], headers={"content-type": "application/json"})).listening() as vendor:
            classifier_llm = OpenAILLMService(api_key="k3y", base_url=vendor.url)
            voicemail_detector = VoicemailDetector(llm=classifier_llm, voicemail_response_delay=0.05, timeout=None)

            @voicemail_detector.event_handler("on_conversation_detected")
            async def on_conversation_detected(detector: VoicemailDetector) -> None:
                print("Live person detected — starting conversation")

            @voicemail_detector.event_handler("on_voicemail_detected")
            async def on_voicemail_detected(detector: VoicemailDetector) -> None:
                print("Voicemail detected — leaving message")

            stt, tts = Pass(), Pass()
            async with pipeline(stt, voicemail_detector.detector(), tts, voicemail_detector.gate()) as rig:
                await rig.push(TranscriptionFrame("You have reached Anna.", "", ""))
                await until(lambda: bool(printed), 30.0)
            (asked,) = vendor.asked
            assert asked.json["messages"][-1] == {"role": "user", "content": "You have reached Anna."}

    run(main())
    assert printed == ["Voicemail detected — leaving message"]


def test_frames_of_the_start_and_what_is_no_speech_pass() -> None:
    call = Outbound()
    seen: list[Frame] = []
    call.rig.sunk.clear()
    call.bot.push_frame(UserStartedSpeakingFrame())
    seen += call.rig.sunk
    assert [type(frame) for frame in seen] == [UserStartedSpeakingFrame]
    assert not isinstance(call.rig.sunk[0], StartFrame)
