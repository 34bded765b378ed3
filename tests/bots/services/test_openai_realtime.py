"""A model that hears and speaks, against a server that is as strict as the API is documented."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from bots.context.assistant import LLMAssistantAggregator
from bots.context.context import LLMContext
from bots.context.tools import FunctionSchema, ToolsSchema
from bots.services.llm import FunctionCallParams
from bots.services.openai_realtime import OpenAIRealtimeLLMService
from bots.services.switcher import LLMSwitcher, RestingFailover
from media.codecs import pcm_to_ulaw, ulaw_to_pcm
from media.frames import (
    BotStoppedSpeakingFrame,
    ErrorFrame,
    FloorFrame,
    Frame,
    FunctionCallResultProperties,
    InterruptionFrame,
    StartFrame,
    TranscriptionFrame,
    TTSAudioRawFrame,
    TTSStoppedFrame,
    TTSTextFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.output import OutputStage
from media.processor import FrameDirection
from tests.bots.services.realtime_vendor import Answer, RealtimeVendor, results, said_items
from tests.bots.services.rig import Rig, pipeline, settle, voice
from tests.endtoend.served import run, until
from tests.media.rig import LiveRuntime
from tests.media.rig import Rig as BareRig

HOURS = FunctionSchema(name="hours", description="opening hours", properties={"day": {"type": "string"}})


class ToVendor(OpenAIRealtimeLLMService):
    """Asks where the vendor listens when it connects."""

    def __init__(self, vendor: RealtimeVendor, **options: Any) -> None:
        super().__init__(api_key="k3y", beta=vendor.beta, **options)
        self.vendor = vendor

    def start(self, frame: StartFrame) -> None:
        self._base_url = self.vendor.url
        super().start(frame)


def service(vendor: RealtimeVendor, **options: Any) -> OpenAIRealtimeLLMService:
    return ToVendor(vendor, **options)


def conversation() -> LLMContext:
    return LLMContext([{"role": "system", "content": "Be brief."}], ToolsSchema([HOURS]))


@asynccontextmanager
async def talk(
    vendor: RealtimeVendor, llm: OpenAIRealtimeLLMService | LLMSwitcher, context: LLMContext, **options: Any
) -> AsyncIterator[Rig]:
    for each in llm.llms if isinstance(llm, LLMSwitcher) else [llm]:
        each.converse(context, **options)  # type: ignore[attr-defined]
    async with pipeline(llm, LLMAssistantAggregator(context)) as rig:
        yield rig


async def turn(rig: Rig, *spoken: Frame) -> None:
    """The caller says something."""
    frames = spoken or voice(7, 20)
    await rig.push(VADUserStartedSpeakingFrame(), UserStartedSpeakingFrame(), *frames)
    await rig.push(VADUserStoppedSpeakingFrame(), UserStoppedSpeakingFrame())


def errors(rig: Rig) -> list[str]:
    return [frame.error for frame in rig.before.up if isinstance(frame, ErrorFrame)]


def spoken_ms(rig: Rig) -> int:
    return sum(len(f.audio) * 1000 // (2 * f.sample_rate) for f in rig.after.of(TTSAudioRawFrame))


def messages(context: LLMContext) -> list[tuple[str, Any]]:
    return [(each["role"], each.get("content")) for each in context.messages]


@pytest.mark.parametrize("beta", [False, True], ids=["as it is", "beta"])
def test_a_turn_goes_as_it_was_spoken_and_comes_back_as_speech(beta: bool) -> None:
    async def main() -> None:
        vendor = RealtimeVendor(Answer("From nine to five.", 400), words=["when are you open"], beta=beta)
        context = conversation()
        options = {"max_output_tokens": 500} if not beta else {"max_response_output_tokens": 500}
        async with vendor.listening(), talk(vendor, service(vendor, options=options), context, said="Hello.") as rig:
            before = voice(3, 50)
            spoken = voice(7, 20)
            await rig.push(*before)
            await turn(rig, *spoken)
            await until(lambda: bool(rig.after.of(TTSStoppedFrame)))
            sound = b"".join(frame.audio for frame in [*before[-30:], *spoken])  # and a little before the word of ours
            assert ulaw_to_pcm(vendor.talk.heard[0]) == ulaw_to_pcm(pcm_to_ulaw(sound))
            assert spoken_ms(rig) == 400
            assert [frame.text for frame in rig.after.of(TTSTextFrame)] == ["From nine to five."]
            (heard,) = [frame for frame in rig.before.up if isinstance(frame, TranscriptionFrame)]
            assert heard.text == "when are you open"
            await until(lambda: len(context.messages) == 3)
            assert messages(context)[1:] == [("user", "when are you open"), ("assistant", "From nine to five.")]
            assert said_items(vendor.talk) == [("assistant", "Hello.")]
            session = vendor.talk.session
            assert session is not None
            assert session["instructions"] == "Be brief."
            assert [tool["name"] for tool in session["tools"]] == ["hours"]
            assert (session if beta else session["audio"]["input"])["turn_detection"] is None
            assert 500 in session.values()
            assert vendor.errors == errors(rig) == []
        headers = vendor.requests[0].headers
        assert headers["authorization"] == "Bearer k3y"
        assert headers.get("openai-beta") == ("realtime=v1" if beta else None)
        assert vendor.requests[0].path == "/realtime?model=gpt-realtime"

    run(main())


def test_nothing_is_lost_while_the_vendor_takes_its_time_to_connect() -> None:
    async def main() -> None:
        vendor = RealtimeVendor(Answer("Yes.", 200))
        vendor.gate = asyncio.Event()
        async with vendor.listening(), talk(vendor, service(vendor), conversation()) as rig:
            await turn(rig)
            vendor.gate.set()
            await until(lambda: bool(rig.after.of(TTSStoppedFrame)))
            assert len(vendor.talk.heard[0]) == 20 * 160
            assert errors(rig) == []

    run(main())


def test_where_the_wire_is_wide_it_is_sixteen_bits() -> None:
    async def main() -> None:
        vendor = RealtimeVendor(Answer("Yes.", 200), ulaw=False)
        llm = service(vendor)
        llm.converse(conversation())
        async with vendor.listening(), pipeline(llm, rate=16000) as rig:
            await turn(rig, *voice(7, 20, rate=16000))
            await until(lambda: bool(rig.after.of(TTSStoppedFrame)))
            (heard,) = vendor.talk.heard
            assert abs(len(heard) - 2 * 24000 * 20 // 50) < 960
            assert {frame.sample_rate for frame in rig.after.of(TTSAudioRawFrame)} == {24000}
            assert spoken_ms(rig) == 200

    run(main())


# ---------------------------------------------------------------- interruptions


class Telephone:
    """A wire that plays what it has got at once, 20 ms a packet, as its own clock goes on."""

    send_rate, packet_ms, lead_ms = 8000, 20, 0.0
    has_marks = reports_playback = echoes_marks_on_clear = False
    sends_digits = clears = True
    clear_grain_ms = cushion_ms = 0

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def clear(self, frame: InterruptionFrame) -> int:
        return 0

    def send_audio(self, pcm: bytes) -> Any:
        return 0  # nothing of it has to wait

    def send(self, frame: Frame) -> None:
        return

    def flush(self) -> None:
        return

    def released(self, frame: Frame) -> None:
        return

    def play(self, stage: OutputStage, seconds: float) -> None:
        for _ in range(round(seconds / 0.02)):
            self.time += 0.02
            stage.tick(self.time)


class Spoken(LiveRuntime):
    """Runs on the loop, and its interruptions take effect on what is being said."""

    def __init__(self, stage: OutputStage) -> None:
        super().__init__()
        self.speech = stage

    def interrupting(self, frame: InterruptionFrame) -> None:
        super().interrupting(frame)
        self.speech.interrupt(frame)


@pytest.mark.parametrize("complete", [True, False], ids=["made", "in the making"])
def test_what_was_not_heard_is_cut_off_to_the_millisecond(complete: bool) -> None:
    """Of 1000 ms the caller has heard 300, by the ledger; the model and the context are told."""

    async def main() -> None:
        hold = asyncio.Event()
        text = "one two three four five six seven eight nine ten"
        vendor = RealtimeVendor(Answer(text, 1000, hold=None if complete else hold), Answer("Next.", 200))
        context, wire = conversation(), Telephone()
        llm, stage = service(vendor), OutputStage(wire)
        llm.converse(context)
        runtime = Spoken(stage)
        async with vendor.listening():
            rig = BareRig([llm, stage, LLMAssistantAggregator(context)], runtime)
            await rig.bound
            rig.push(StartFrame(audio_in_sample_rate=8000, audio_out_sample_rate=8000))
            for frame in (VADUserStartedSpeakingFrame(), *voice(7, 20), UserStoppedSpeakingFrame()):
                rig.push(frame)
            made = 8000 if complete else 4000
            await until(lambda: stage.ledger is not None and stage.ledger.generated == made)
            await until(lambda: complete is (vendor.talk.active == ""))
            await settle()
            wire.play(stage, 0.3)
            rig.push(InterruptionFrame())
            await until(lambda: bool(vendor.talk.cut))
            heard = runtime.interruptions[0].heard
            assert heard is not None
            assert [end_ms for _, end_ms in vendor.talk.cut] == [heard.heard_ms] == [made // 8 - heard.unheard_ms]
            assert 240 <= heard.heard_ms <= 320
            said = messages(context)[-1]
            assert said[0] == "assistant"
            assert text.startswith(said[1])
            assert heard.text == said[1]
            assert 0 < len(said[1]) < len(text) / 2
            for frame in (VADUserStartedSpeakingFrame(), *voice(7, 20), UserStoppedSpeakingFrame()):
                rig.push(frame)
            await until(lambda: vendor.talk.created == 2 and vendor.talk.active == "")
            assert vendor.talk.cancelled == (0 if complete else 1)
            await until(lambda: stage.ledger is not None and stage.ledger.generated == made + 1600)
            assert vendor.errors == []
            await rig.pipeline.close()
            await runtime.close()

    run(main())


def test_an_answer_that_nobody_wants_any_more_is_not_heard() -> None:
    async def main() -> None:
        held = asyncio.Event()
        vendor = RealtimeVendor(Answer("Too late.", 400, before=held), Answer("At once.", 200))
        async with vendor.listening(), talk(vendor, service(vendor), conversation()) as rig:
            await turn(rig)
            await until(lambda: vendor.talk.created == 1)
            await turn(rig)  # he goes on before the bot has said a word
            await until(lambda: bool(rig.after.of(TTSStoppedFrame)))
            assert vendor.talk.cancelled == 1
            assert [frame.text for frame in rig.after.of(TTSTextFrame)] == ["At once."]
            assert spoken_ms(rig) == 200
            assert errors(rig) == []

    run(main())


def test_a_sound_into_the_bots_words_is_told_and_needs_no_answer() -> None:
    async def main() -> None:
        vendor = RealtimeVendor(Answer("Well.", 200))
        async with vendor.listening(), talk(vendor, service(vendor), conversation()) as rig:
            await rig.push(VADUserStartedSpeakingFrame(), UserStartedSpeakingFrame(), *voice(7, 20))
            await rig.push(VADUserStoppedSpeakingFrame(), FloorFrame("went on", "no turn followed"))
            await rig.push(UserStoppedSpeakingFrame())
            await until(lambda: bool(vendor.talk.heard))
            assert vendor.talk.created == 0
            assert not rig.after.of(UserStoppedSpeakingFrame)
            # ... unless the bot has ended just then: it may have been the answer to its question
            rig.after.push_frame(BotStoppedSpeakingFrame(), FrameDirection.UPSTREAM)
            await until(lambda: bool(rig.after.of(TTSStoppedFrame)))
            assert vendor.talk.created == 1

    run(main())


def test_keys_are_words_too() -> None:
    async def main() -> None:
        vendor = RealtimeVendor(Answer("Two.", 200))
        context = conversation()
        async with vendor.listening(), talk(vendor, service(vendor), context) as rig:
            await rig.push(TranscriptionFrame("DTMF: 2#", "", "now", finalized=True))
            await until(lambda: bool(rig.after.of(TTSStoppedFrame)))
            assert said_items(vendor.talk) == [("user", "DTMF: 2#")]
            assert messages(context)[1] == ("user", "DTMF: 2#")
            assert not rig.after.of(TranscriptionFrame)

    run(main())


# ---------------------------------------------------------------- functions


def test_functions_are_called_and_the_model_goes_on_with_what_they_give() -> None:
    async def main() -> None:
        vendor = RealtimeVendor(
            Answer(calls=[("hours", '{"day": "monday"}')]),
            Answer("From nine.", 200, calls=[("done", "{}")]),
        )
        asked: list[Any] = []
        context = conversation()
        llm = service(vendor)

        async def hours(params: FunctionCallParams) -> None:
            asked.append(dict(params.arguments))
            await params.result_callback({"from": 9})

        async def done(params: FunctionCallParams) -> None:
            assert llm.spoke
            await params.result_callback({"done": True}, properties=FunctionCallResultProperties(run_llm=False))

        llm.register_function("hours", hours)
        llm.register_function("done", done)
        async with vendor.listening(), talk(vendor, llm, context) as rig:
            await turn(rig)
            await until(lambda: len(results(vendor.talk)) == 2)
            await settle()
            assert asked == [{"day": "monday"}]
            assert results(vendor.talk) == [{"from": 9}, {"done": True}]
            assert vendor.talk.created == 2
            assert errors(rig) == vendor.errors == []

    run(main())


# ---------------------------------------------------------------- lines that break


def test_a_line_that_breaks_before_the_answer_is_made_anew_and_the_turn_is_told_again() -> None:
    async def main() -> None:
        held = asyncio.Event()
        vendor = RealtimeVendor(
            Answer("First.", 200),
            Answer("Lost.", 200, before=held),
            Answer("Second.", 200),
            words=["one", "two", "two"],
        )
        context = conversation()
        async with vendor.listening(), talk(vendor, service(vendor), context) as rig:
            await turn(rig)
            await until(lambda: len(rig.after.of(TTSStoppedFrame)) == 1)
            await turn(rig, *voice(9, 25))
            await until(lambda: vendor.talk.created == 2)
            vendor.connections[0].transport.abort()
            await until(lambda: len(rig.after.of(TTSStoppedFrame)) == 2)
            assert [frame.text for frame in rig.after.of(TTSTextFrame)] == ["First.", "Second."]
            again = vendor.talks[1]
            assert said_items(again)[:2] == [("user", "one"), ("assistant", "First.")]
            assert again.heard == [pcm_to_ulaw(b"".join(frame.audio for frame in voice(9, 25)))]
            assert errors(rig) == vendor.errors == []

    run(main())


def test_an_answer_that_breaks_off_is_an_error_and_the_next_turn_is_answered() -> None:
    async def main() -> None:
        vendor = RealtimeVendor(Answer("Half of it.", 400, breaks=True), Answer("Whole.", 200))
        async with vendor.listening(), talk(vendor, service(vendor), conversation()) as rig:
            await turn(rig)
            await until(lambda: bool(errors(rig)))
            await turn(rig)
            await until(lambda: len(rig.after.of(TTSStoppedFrame)) == 2)
            assert spoken_ms(rig) == 200 + 200
            assert len(errors(rig)) == 1

    run(main())


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Answer(error={"code": "rate_limit_exceeded", "message": "slow down"}), "rate_limit_exceeded: slow down"),
        (Answer(error={"type": "server_error", "message": "The server had an error"}), "The server had an error"),
        (Answer(), "an answer without a word"),
        (Answer(calls=[("hours", "[]")]), "the arguments of hours are not an object"),
        (Answer("x", 200, before=asyncio.Event()), "no answer in time"),
    ],
)
def test_an_answer_that_fails_is_an_error_and_not_silence(answer: Answer, problem: str) -> None:
    async def main() -> None:
        if answer.before is not None:
            answer.before = asyncio.Event()
        vendor = RealtimeVendor(answer, Answer("Yes.", 200))
        llm = service(vendor)
        async with vendor.listening(), talk(vendor, llm, conversation()) as rig:
            llm.patience_s = 0.2 if answer.before is not None else 30.0
            await turn(rig)
            await until(lambda: bool(errors(rig)))
            assert problem in errors(rig)[0]
            llm.patience_s = 30.0
            await turn(rig)
            await until(lambda: bool(rig.after.of(TTSStoppedFrame)))
            assert [frame.text for frame in rig.after.of(TTSTextFrame)] == ["Yes."]
            assert len(errors(rig)) == 1

    run(main())


def test_a_session_that_is_refused_is_not_used() -> None:
    async def main() -> None:
        vendor = RealtimeVendor()
        vendor.reject_session = "invalid_value"
        async with vendor.listening(), talk(vendor, service(vendor), conversation()) as rig:
            await until(lambda: len(errors(rig)) == 1)
            await turn(rig)
            await until(lambda: len(errors(rig)) == 2)
            assert errors(rig) == ["openai: invalid_value: no: invalid_value"] * 2
            assert vendor.talk.created == 0

    run(main())


def test_a_key_that_is_refused_is_an_error_at_each_turn() -> None:
    async def main() -> None:
        vendor = RealtimeVendor(refusals=((401, {}),))
        async with vendor.listening(), talk(vendor, service(vendor), conversation()) as rig:
            await until(lambda: len(errors(rig)) == 1)
            await turn(rig)
            await until(lambda: len(errors(rig)) == 2)
            assert "HTTP 401" in errors(rig)[0]

    run(main())


def test_garbage_costs_itself() -> None:
    async def main() -> None:
        vendor = RealtimeVendor(Answer("Yes.", 200))
        async with vendor.listening(), talk(vendor, service(vendor), conversation()) as rig:
            await until(lambda: bool(vendor.talks) and vendor.talk.session is not None)
            await vendor.connections[0].send("{nothing of that kind")
            await until(lambda: len(errors(rig)) == 1)
            await turn(rig)
            await until(lambda: bool(rig.after.of(TTSStoppedFrame)))
            assert len(errors(rig)) == 1

    run(main())


def test_another_one_takes_over_with_what_was_said_and_not_answered() -> None:
    async def main() -> None:
        broken = RealtimeVendor(Answer("First.", 200), Answer(error={"message": "no"}), words=["one"])
        sound = RealtimeVendor(Answer("Second.", 200))
        context = conversation()
        async with broken.listening(), sound.listening():
            llm = LLMSwitcher([service(broken), service(sound)], RestingFailover)
            async with talk(broken, llm, context, said="Hello.") as rig:
                await turn(rig)
                await until(lambda: len(rig.after.of(TTSStoppedFrame)) == 1)
                await turn(rig, *voice(9, 25))
                await until(lambda: len(rig.after.of(TTSStoppedFrame)) == 2)
                assert [frame.text for frame in rig.after.of(TTSTextFrame)] == ["First.", "Second."]
                assert said_items(sound.talk) == [("assistant", "Hello."), ("user", "one"), ("assistant", "First.")]
                assert sound.talk.heard == [pcm_to_ulaw(b"".join(frame.audio for frame in voice(9, 25)))]

    run(main())


# ---------------------------------------------------------------- turns of the server's


def test_the_server_may_decide_about_turns() -> None:
    async def main() -> None:
        held = asyncio.Event()
        vendor = RealtimeVendor(
            Answer("Good day to you.", 400, hold=held), Answer("Yes?", 200), words=["hello", "wait"]
        )
        context = conversation()
        async with vendor.listening(), talk(vendor, service(vendor, turns="server", silence_s=0.4), context) as rig:
            await until(lambda: bool(vendor.talks) and vendor.talk.session is not None)
            session = vendor.talk.session
            assert session is not None
            turns = session["audio"]["input"]["turn_detection"]
            assert (turns["type"], turns["silence_duration_ms"]) == ("server_vad", 400)
            connection = vendor.connections[0]
            for words in (2, 1):  # it goes on hearing while it speaks
                await rig.push(*voice(7, 15))
                await until(lambda: len(vendor.talk.buffer) == 15 * 160)
                await vendor._tell(connection, "input_audio_buffer.speech_started", item_id="x", audio_start_ms=0)
                if vendor.talk.active:
                    await vendor.cancel(connection, vendor.talk)
                await vendor._tell(connection, "input_audio_buffer.speech_stopped", item_id="x", audio_end_ms=300)
                await vendor.heard(connection, vendor.talk)
                await vendor.respond(connection, vendor.talk)
                await until(lambda left=words: len(rig.after.of(TTSAudioRawFrame)) >= 3 - left)  # type: ignore[misc]
            await until(lambda: bool(rig.after.of(TTSStoppedFrame)) and len(rig.after.of(TTSTextFrame)) == 2)
            assert [frame.text for frame in rig.after.of(TTSTextFrame)] == ["Good", "Yes?"]  # 200 ms of the first
            assert len(rig.after.of(UserStartedSpeakingFrame)) == len(rig.after.of(InterruptionFrame)) == 2
            assert [message for message in messages(context) if message[0] == "user"] == [
                ("user", "hello"),
                ("user", "wait"),
            ]
            assert errors(rig) == []

    run(main())
