"""Speaking: sentences, order, interruption, words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import pytest

from bots.services.settings import NOT_GIVEN, TTSSettings
from bots.services.tts import TTSService
from media.errors import ServiceError
from media.frames import (
    AggregatedTextFrame,
    EndFrame,
    ErrorFrame,
    Frame,
    FunctionCallResultFrame,
    InterruptionFrame,
    LLMAssistantPushAggregationFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
    MetricsFrame,
    StartFrame,
    TextFrame,
    TTSAudioRawFrame,
    TTSSpeakFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    TTSUpdateSettingsFrame,
)
from media.metrics import TTFBMetricsData, TTSUsageMetricsData
from tests.bots.services.rig import RATE, Rig, Speaker, pipeline, settle


def run(main: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await main

    asyncio.run(limited())


def answer(*tokens: str) -> list[Frame]:
    return [LLMFullResponseStartFrame(), *(LLMTextFrame(token) for token in tokens), LLMFullResponseEndFrame()]


def spoken_ms(rig: Rig) -> float:
    return sum(len(frame.audio) for frame in rig.after.of(TTSAudioRawFrame)) / (2 * RATE) * 1000


def test_a_vendor_that_is_gone_is_a_line_in_the_log_and_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        tts, told = Speaker(), []
        tts.add_event_handler("on_error", lambda processor, error: told.append(error.exception))
        async with pipeline(tts):
            try:
                raise ServiceError("acme", "nobody is there") from ConnectionError("no such host")
            except ServiceError as exc:
                tts.fail(exc)
            await settle()
            assert [type(exception) for exception in told] == [ServiceError]

    run(main())
    assert "acme: nobody is there" in caplog.text
    assert "Traceback" not in caplog.text


def test_an_answer_is_spoken_by_sentences_and_in_order() -> None:
    async def main() -> None:
        tts = Speaker()
        async with pipeline(tts) as rig:
            await rig.push(*answer("Hello the", "re. How are", " you?"))
            await settle()
            assert tts.asked == ["Hello there.", "How are you?"]
            assert rig.after.names(StartFrame, TTSAudioRawFrame) == [
                "LLMFullResponseStartFrame",
                *["TTSStartedFrame", "TTSTextFrame", "TTSStoppedFrame"] * 2,
                "LLMFullResponseEndFrame",
            ]
            assert [frame.text for frame in rig.after.of(TTSTextFrame)] == ["Hello there.", "How are you?"]
            assert spoken_ms(rig) == 240

    run(main())


def test_nothing_overtakes_speech_and_system_frames_do() -> None:
    async def main() -> None:
        tts = Speaker(hold=["One."])
        async with pipeline(tts) as rig:
            result = FunctionCallResultFrame("f", "1", {}, None)
            await rig.push(TTSSpeakFrame("One."), TTSSpeakFrame("Two."), result)
            assert rig.after.of(FunctionCallResultFrame) == []
            await rig.push(MetricsFrame([]))
            assert rig.after.of(MetricsFrame)
            tts.hold["One."].set()
            await settle()
            assert rig.after.down[-1] is result
            texts = [frame.text for frame in rig.after.of(TTSTextFrame)]
            assert texts == ["One.", "Two."]

    run(main())


def test_the_end_waits_for_the_last_word() -> None:
    async def main() -> None:
        tts = Speaker(hold=["Good bye"])
        async with pipeline(tts) as rig:
            await rig.push(LLMFullResponseStartFrame(), LLMTextFrame("Good bye"), EndFrame())
            assert not rig.after.of(EndFrame)
            assert tts.asked == ["Good bye"]
            tts.hold["Good bye"].set()
            await settle()
            assert rig.after.names()[-2:] == ["TTSStoppedFrame", "EndFrame"]

    run(main())


def test_an_interruption_ends_what_is_being_said_and_nothing_of_it_follows() -> None:
    async def main() -> None:
        tts = Speaker(hold=["A long one."])
        async with pipeline(tts) as rig:
            kept = FunctionCallResultFrame("f", "1", {}, None)
            await rig.push(*answer("A long one. ", "And more.", " And"), kept)
            before = spoken_ms(rig)
            await rig.push(InterruptionFrame())
            tts.hold["A long one."].set()
            await settle()
            assert spoken_ms(rig) == before
            assert rig.after.of(TTSTextFrame) == []
            assert rig.after.of(FunctionCallResultFrame) == [kept]
            assert tts.asked == ["A long one."]
            assert len(tts.dropped) == 3
            await rig.push(*answer("Anew."))
            await settle()
            assert [frame.text for frame in rig.after.of(TTSTextFrame)] == ["Anew."]

    run(main())


def test_a_vendor_that_fails_costs_one_sentence() -> None:
    async def main() -> None:
        tts = Speaker(fail=["One."])
        async with pipeline(tts) as rig:
            await rig.push(*answer("One. ", "Two."))
            await settle()
            (error,) = [frame for frame in rig.before.up if isinstance(frame, ErrorFrame)]
            assert error.error == "ConnectionError: the vendor is gone"
            assert not error.fatal
            assert [frame.text for frame in rig.after.of(TTSTextFrame)] == ["Two."]
            assert len(rig.after.of(TTSStartedFrame)) == len(rig.after.of(TTSStoppedFrame)) == 1

    run(main())


def test_words_stand_before_the_audio_in_which_they_begin() -> None:
    class Socket(TTSService):
        closes_contexts = True

        async def run_tts(self, text: str, context_id: str) -> AsyncGenerator[Frame | None, None]:
            self.add_words(context_id, [("one", 0.0), ("two", 0.1)])
            self.add_audio(context_id, bytes(2 * RATE // 5))
            self.add_words(context_id, [("three", 0.15), ("four", 0.3)])
            self.add_audio(context_id, bytes(2 * RATE // 5))
            self.close_context(context_id)
            self.add_audio(context_id, b"late" * 100)
            yield None

    async def main() -> None:
        async with pipeline(Socket()) as rig:
            await rig.push(TTSSpeakFrame("one two three four"))
            await settle()
            seen = [
                frame.text if isinstance(frame, TTSTextFrame) else len(frame.audio) / 2 / RATE
                for frame in rig.after.of(TTSTextFrame, TTSAudioRawFrame)
            ]
            assert seen == ["one", 0.1, "two", 0.1, "three", 0.1, "four", 0.1]

    run(main())


def test_what_is_not_to_be_spoken_passes() -> None:
    async def main() -> None:
        tts = Speaker(skip_aggregator_types=["code"])
        async with pipeline(tts) as rig:
            silent = TextFrame("not aloud")
            silent.skip_tts = True
            code = AggregatedTextFrame("x = 1", "code")
            await rig.push(silent, code, AggregatedTextFrame("Aloud.", "sentence"), TTSTextFrame("said", "word"))
            await settle()
            assert tts.asked == ["Aloud."]
            assert rig.after.down[1] is silent
            assert [frame.text for frame in rig.after.of(AggregatedTextFrame)] == ["x = 1", "Aloud.", "said"]

    run(main())


def test_text_is_transformed_and_filtered_for_the_voice_only() -> None:
    class NoStars:
        async def filter(self, text: str) -> str:
            return text.replace("*", "")

    async def spell(text: str, kind: str) -> str:
        return f"<{kind}>{text}"

    async def main() -> None:
        tts = Speaker(text_transforms=[("number", spell)], text_filters=[NoStars()], append_trailing_space=True)
        async with pipeline(tts) as rig:
            await rig.push(AggregatedTextFrame("*12*", "number"), AggregatedTextFrame("*Hi*", "sentence"))
            await settle()
            assert tts.asked == ["<number>12 ", "Hi "]
            assert [frame.text for frame in rig.after.of(TTSTextFrame)] == ["*12*", "*Hi*"]

    run(main())


def test_what_is_said_beside_an_answer_may_go_into_the_context() -> None:
    async def main() -> None:
        async with pipeline(Speaker()) as rig:
            await rig.push(TTSSpeakFrame("Into it.", append_to_context=True))
            await rig.push(TTSSpeakFrame("Not.", append_to_context=False))
            await settle()
            assert [frame.append_to_context for frame in rig.after.of(TTSTextFrame)] == [True, False]
            names = rig.after.names(StartFrame, TTSAudioRawFrame)
            assert names.index("LLMAssistantPushAggregationFrame") == names.index("TTSStoppedFrame") + 1
            assert len(rig.after.of(LLMAssistantPushAggregationFrame)) == 1

    run(main())


def test_settings_change_in_mid_call_and_only_what_is_given() -> None:
    async def main() -> None:
        tts = Speaker(settings=TTSSettings(voice="ann", model="m1"))
        async with pipeline(tts) as rig:
            await rig.push(TTSUpdateSettingsFrame(delta=TTSSettings(voice="bob")))
            assert (tts.settings.voice, tts.settings.model) == ("bob", "m1")
            await rig.push(TTSUpdateSettingsFrame(settings={"speed": 2, "language": "de"}))
            assert (tts.settings.voice, tts.settings.language, tts.settings.extra) == ("bob", "de", {"speed": 2})
            other = TTSUpdateSettingsFrame(delta=TTSSettings(voice="x"), service=Speaker())
            await rig.push(other)
            assert tts.settings.voice == "bob"
            assert rig.after.of(TTSUpdateSettingsFrame) == [other]
            assert tts.settings.given() == {"voice": "bob", "model": "m1", "language": "de"}
            assert not NOT_GIVEN

    run(main())


@pytest.mark.parametrize("on", [True, False])
def test_measurements(on: bool) -> None:
    async def main() -> None:
        async with pipeline(Speaker(), enable_metrics=on, enable_usage_metrics=on) as rig:
            await rig.push(TTSSpeakFrame("Four"))
            await settle()
            records = [record for frame in rig.after.of(MetricsFrame) for record in frame.data]
            assert [type(record) for record in records] == ([TTSUsageMetricsData, TTFBMetricsData] if on else [])
            if on:
                assert records[0].value == 4
                assert 0 <= records[1].value < 1

    run(main())
