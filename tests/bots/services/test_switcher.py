"""Switching: by hand, and when a service fails; and no word is lost by it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from bots.context.context import LLMContext
from bots.services.llm import FunctionCallParams
from bots.services.switcher import (
    LLMSwitcher,
    RestingFailover,
    ServiceSwitcher,
    ServiceSwitcherStrategy,
    ServiceSwitcherStrategyFailover,
)
from media.frames import (
    EndFrame,
    ErrorFrame,
    FunctionCallFromLLM,
    FunctionCallResultFrame,
    InputAudioRawFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    ManuallySwitchServiceFrame,
    StartFrame,
    STTMetadataFrame,
    STTMuteFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    TTSUpdateSettingsFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from tests.bots.services.rig import Hearer, Rig, Speaker, Thinker, pipeline, settle, voice
from tests.endtoend.served import run, until


def said(rig: Rig) -> list[str]:
    return [frame.text for frame in rig.after.of(TTSTextFrame)]


def test_one_is_at_work_and_another_one_when_it_is_named() -> None:
    async def main() -> None:
        one, two = Speaker(), Speaker()
        switcher = ServiceSwitcher([one, two])
        switched: list[Any] = []
        switcher.strategy.add_event_handler("on_service_switched", lambda strategy, service: switched.append(service))
        async with pipeline(switcher) as rig:
            assert len(rig.after.of(StartFrame)) == 1
            await rig.push(TTSSpeakFrame("One."))
            await rig.push(ManuallySwitchServiceFrame(two), TTSSpeakFrame("Two."))
            await rig.push(ManuallySwitchServiceFrame(Speaker()))
            await until(lambda: said(rig) == ["One.", "Two."])
            assert (one.asked, two.asked, switched) == (["One."], ["Two."], [two])
            await rig.push(TTSUpdateSettingsFrame(settings={"voice": "bob"}, service=one))
            assert one.settings.voice == "bob"
            await rig.push(EndFrame())
            await until(lambda: len(rig.after.of(EndFrame)) == 1)

    run(main())


def test_what_every_service_must_know_reaches_all_and_metadata_come_from_the_new_one() -> None:
    async def main() -> None:
        one, two = Hearer(ttfs_p99_latency=0.1), Hearer(ttfs_p99_latency=0.9)
        async with pipeline(ServiceSwitcher([one, two])) as rig:
            assert [frame.ttfs_p99_latency for frame in rig.after.of(STTMetadataFrame)] == [0.1]
            await rig.push(STTMuteFrame(True), ManuallySwitchServiceFrame(two), *voice(5))
            assert (one.heard, two.heard, two.muted) == ([], [], True)
            assert [frame.ttfs_p99_latency for frame in rig.after.of(STTMetadataFrame)] == [0.1, 0.9]
            assert len(rig.after.of(InputAudioRawFrame)) == 1

    run(main())


def test_a_strategy_of_ones_own_and_no_service_at_all() -> None:
    class Never(ServiceSwitcherStrategy):
        errors: int = 0

        async def handle_error(self, error: ErrorFrame) -> None:
            self.errors += 1

    async def main() -> None:
        one = Speaker(fail=["Bad."])
        switcher = ServiceSwitcher([one, Speaker()], Never)
        async with pipeline(switcher) as rig:
            await rig.push(TTSSpeakFrame("Bad."))
            await settle()
            assert switcher.strategy.errors == 1  # type: ignore[attr-defined]
            assert switcher.active_service is one

    run(main())
    with pytest.raises(ValueError, match="at least one"):
        ServiceSwitcher([])


def test_sentences_that_a_voice_fails_at_are_spoken_by_the_next_in_their_order() -> None:
    async def main() -> None:
        one, two = Speaker(fail=["Two."], hold=["Two."]), Speaker()
        async with pipeline(ServiceSwitcher([one, two], ServiceSwitcherStrategyFailover)) as rig:
            await rig.push(
                LLMFullResponseStartFrame(),
                *(LLMTextFrame(text) for text in ("One. ", "Two. ", "Three. ", "And")),
                LLMFullResponseEndFrame(),
            )
            await until(lambda: len(said(rig)) == 4)
            assert said(rig) == ["One.", "Two.", "Three.", "And"]
            assert (one.asked[:2], two.asked) == (["One.", "Two."], ["Two.", "Three.", "And"])
            await until(lambda: bool(rig.after.of(LLMFullResponseEndFrame)))
            names = rig.after.names(StartFrame, TTSAudioRawFrame)
            assert names[0] == "LLMFullResponseStartFrame"
            assert names[-1] == "LLMFullResponseEndFrame"
            assert len(rig.after.of(TTSStartedFrame)) == len(rig.after.of(TTSStoppedFrame)) == 4

    run(main())


def test_a_voice_that_falls_silent_in_mid_sentence_is_replaced_and_the_sentence_said_again() -> None:
    async def main() -> None:
        one, two = Speaker(hold=["A long one."]), Speaker()
        one.patience_s = 0.05
        async with pipeline(ServiceSwitcher([one, two], ServiceSwitcherStrategyFailover)) as rig:
            await rig.push(TTSSpeakFrame("A long one."), EndFrame())
            await until(lambda: bool(rig.after.of(EndFrame)))
            assert said(rig) == ["A long one."]
            errors = [frame.error for frame in rig.before.up if isinstance(frame, ErrorFrame)]
            assert errors == ["TimeoutError: no speech in time"]
            assert rig.after.names()[-2:] == ["TTSStoppedFrame", "EndFrame"]

    run(main())


def context() -> LLMContextFrame:
    return LLMContextFrame(LLMContext([{"role": "user", "content": "hello"}]))


def answers(rig: Rig) -> list[str]:
    return [frame.text for frame in rig.after.of(LLMTextFrame)]


def test_an_answer_that_a_model_does_not_give_another_does() -> None:
    async def main() -> None:
        broken, slow, good = Thinker([ConnectionError("gone")]), Thinker([asyncio.Event()]), Thinker(["Hello."])
        slow.patience_s = 0.05
        async with pipeline(LLMSwitcher([broken, slow, good], RestingFailover)) as rig:
            await rig.push(context())
            await until(lambda: answers(rig) == ["Hello."])
            await until(
                lambda: len(rig.after.of(LLMFullResponseEndFrame)) == len(rig.after.of(LLMFullResponseStartFrame))
            )
            assert len(good.contexts) == 1

    run(main())


def test_what_a_model_has_begun_to_say_is_not_said_again() -> None:
    async def main() -> None:
        broken, good = Thinker(["I think", ConnectionError("gone")]), Thinker(["Hello."])
        switcher = LLMSwitcher([broken, good], RestingFailover)
        async with pipeline(switcher) as rig:
            await rig.push(context())
            await until(lambda: bool(rig.after.of(LLMFullResponseEndFrame)))
            assert answers(rig) == ["I think"]
            assert switcher.active_llm is good
            await rig.push(context())
            await until(lambda: answers(rig) == ["I think", "Hello."])

    run(main())


def test_an_error_that_passes_on_its_way_up_is_not_ones_own() -> None:
    async def main() -> None:
        voices, models = [Speaker(), Speaker()], [Thinker(), Thinker()]
        voices[0].broken = ["Bad."]
        llm, tts = LLMSwitcher(models, RestingFailover), ServiceSwitcher(voices, RestingFailover)
        async with pipeline(llm, tts) as rig:
            await rig.push(TTSSpeakFrame("Bad."))
            await until(lambda: said(rig) == ["Bad."])
            assert tts.active_service is voices[1]
            assert llm.active_service is models[0]

    run(main())


def test_a_function_that_fails_is_no_fault_of_the_model() -> None:
    async def main() -> None:
        def call(of: LLMContext) -> list[FunctionCallFromLLM]:
            return [FunctionCallFromLLM("book", "1", {}, of)]

        one, two = Thinker([call]), Thinker()

        async def book(params: FunctionCallParams) -> None:
            raise KeyError("no table")

        switcher = LLMSwitcher([one, two], RestingFailover)
        switcher.register_function("book", book)
        async with pipeline(switcher) as rig:
            await rig.push(context())
            await until(lambda: bool(rig.after.of(FunctionCallResultFrame)))
            assert switcher.active_llm is one
            assert two.has_function("book")

    run(main())


def test_when_all_have_failed_that_is_told_and_each_was_tried_once() -> None:
    async def main() -> None:
        exhausted: list[str] = []
        failures: list[str] = []
        models = [Thinker([ConnectionError(str(number))]) for number in range(3)]
        switcher = LLMSwitcher(models, RestingFailover)
        switcher.on_failure = lambda service, error: failures.append(error.error)
        switcher.strategy.add_event_handler("on_exhausted", lambda strategy, error: exhausted.append(error.error))
        async with pipeline(switcher) as rig:
            await rig.push(context())
            await until(lambda: bool(exhausted))
            await settle()
            assert failures == [f"ConnectionError: {number}" for number in range(3)]
            assert exhausted == failures[-1:]
            starts, ends = rig.after.of(LLMFullResponseStartFrame), rig.after.of(LLMFullResponseEndFrame)
            assert len(starts) == len(ends)

    run(main())


def test_speech_without_a_transcript_is_heard_by_the_next() -> None:
    class Deaf(Hearer):
        async def run_stt(self, audio: bytes) -> Any:
            self.heard.append(audio)
            yield None

    async def main() -> None:
        deaf, good = Deaf(), Hearer()
        deaf.keep_unheard()
        deaf.patience_s = 0.05
        async with pipeline(ServiceSwitcher([deaf, good], RestingFailover)) as rig:
            await rig.push(VADUserStartedSpeakingFrame(), *voice(3, 30))
            deaf._spoke_at = deaf._now() - 1.0
            await rig.push(VADUserStoppedSpeakingFrame(stop_secs=0.2))
            await until(lambda: bool(rig.after.of(TranscriptionFrame)))
            assert b"".join(good.heard) == b"".join(frame.audio for frame in voice(3, 30))
            assert len(rig.after.of(InputAudioRawFrame)) == 30

    run(main())
