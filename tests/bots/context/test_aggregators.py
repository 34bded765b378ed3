"""A conversation on one context: who said what, what was cut off, what functions brought."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest

from bots.context.context import LLMContext, LLMSpecificMessage, estimated_tokens
from bots.context.messages import AssistantThoughtMessage, AssistantTurnStoppedMessage, UserTurnStoppedMessage
from bots.context.pair import LLMContextAggregatorPair
from bots.context.user import LLMUserAggregatorParams
from bots.services.llm import FunctionCallParams
from media.frames import (
    EndFrame,
    FunctionCallFromLLM,
    FunctionCallResultProperties,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMMessagesAppendFrame,
    LLMMessagesUpdateFrame,
    LLMRunFrame,
    LLMSetToolsFrame,
    LLMTextFrame,
    LLMThoughtEndFrame,
    LLMThoughtStartFrame,
    LLMThoughtTextFrame,
    TranscriptionFrame,
    TTSSpeakFrame,
    TTSTextFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.turns.stop import SpeechTimeoutUserTurnStopStrategy
from media.turns.strategies import UserTurnStrategies
from tests.bots.services.rig import Rig, Speaker, Thinker, pipeline, settle
from tests.endtoend.served import until


def run(main: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await main

    asyncio.run(limited())


def quick() -> LLMUserAggregatorParams:
    stop = SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.01)
    return LLMUserAggregatorParams(user_turn_strategies=UserTurnStrategies(stop=[stop]))


def pair(*messages: Any) -> tuple[LLMContext, Any, Any]:
    context = LLMContext(messages)
    user, assistant = LLMContextAggregatorPair(context, user_params=quick())
    return context, user, assistant


async def say(rig: Rig, *texts: str) -> None:
    """The caller speaks, and is transcribed."""
    await rig.push(VADUserStartedSpeakingFrame(start_secs=0.2))
    for text in texts:
        await rig.push(TranscriptionFrame(text, "caller", "now"))
    await rig.push(VADUserStoppedSpeakingFrame(stop_secs=0.2))


def test_a_turn_and_its_answer() -> None:
    async def main() -> None:
        context, user, assistant = pair({"role": "system", "content": "Be kind."})
        llm, tts = Thinker(["Good ", "day. ", "How are you?"]), Speaker()
        told: list[Any] = []
        user.add_event_handler("on_user_turn_stopped", lambda who, strategy, message: told.append(message))
        assistant.add_event_handler("on_assistant_turn_stopped", lambda who, message: told.append(message))
        async with pipeline(user, llm, tts, assistant) as rig:
            await say(rig, "Hello", "there.")
            await until(lambda: len(context.messages) == 3)
            assert context.messages[1:] == [
                {"role": "user", "content": "Hello there."},
                {"role": "assistant", "content": "Good day. How are you?"},
            ]
            assert llm.contexts == [context.messages[:2]]
            await settle()
            asked, answered = told
            assert isinstance(asked, UserTurnStoppedMessage)
            assert (asked.content, asked.user_id) == ("Hello there.", "caller")
            assert isinstance(answered, AssistantTurnStoppedMessage)
            assert answered.content == "Good day. How are you?"
            assert rig.after.of(TranscriptionFrame) == []
            assert len(rig.after.of(UserStartedSpeakingFrame)) == len(rig.after.of(UserStoppedSpeakingFrame)) == 1

    run(main())


def test_what_was_cut_off_is_not_in_the_context() -> None:
    async def main() -> None:
        context, user, assistant = pair()
        llm, tts = Thinker(["I said this. And never this."], ["Yes?"]), Speaker(hold=["And never this."])
        async with pipeline(user, llm, tts, assistant) as rig:
            await say(rig, "Tell me")
            await until(lambda: rig.after.of(TTSTextFrame))
            await say(rig, "Stop")
            await until(lambda: len(context.messages) == 4)
            assert [message["content"] for message in context.messages] == ["Tell me", "I said this.", "Stop", "Yes?"]
            assert len(rig.after.of(InterruptionFrame)) == 2

    run(main())


def test_a_function_and_the_answer_to_its_result() -> None:
    async def weather(params: FunctionCallParams) -> None:
        await params.result_callback({"degrees": 21})

    async def main() -> None:
        context, user, assistant = pair()
        calls = [lambda context: [FunctionCallFromLLM("weather", "call-1", {"city": "Köln"}, context)]]
        llm = Thinker(calls, ["It is warm."])
        llm.register_function("weather", weather)
        async with pipeline(user, llm, Speaker(), assistant) as rig:
            await say(rig, "How warm is it?")
            await until(lambda: len(context.messages) == 4)
            asked, answered, spoken = context.messages[1:]
            (call,) = asked["tool_calls"]
            assert (call["id"], call["function"]["name"]) == ("call-1", "weather")
            assert json.loads(call["function"]["arguments"]) == {"city": "Köln"}
            assert answered == {"role": "tool", "content": '{"degrees": 21}', "tool_call_id": "call-1"}
            assert spoken == {"role": "assistant", "content": "It is warm."}
            assert len(llm.contexts) == 2

    run(main())


@pytest.mark.parametrize("run_llm", [None, False])
def test_of_several_functions_the_last_result_lets_the_model_go_on(run_llm: bool | None) -> None:
    async def main() -> None:
        context, user, assistant = pair()
        finish = {"a": asyncio.Event(), "b": asyncio.Event()}

        async def work(params: FunctionCallParams) -> None:
            await finish[params.function_name].wait()
            await params.result_callback("ok", properties=FunctionCallResultProperties(run_llm=run_llm))

        both = [lambda context: [FunctionCallFromLLM(name, name, {}, context) for name in "ab"]]
        llm = Thinker(both, ["Done."])
        llm.register_function(None, work)
        async with pipeline(user, llm, assistant) as rig:
            await rig.push(LLMRunFrame())
            finish["b"].set()
            await settle()
            assert len(llm.contexts) == 1
            results = {m["tool_call_id"]: m["content"] for m in context.messages if m["role"] == "tool"}
            assert results == {"a": "IN_PROGRESS", "b": '"ok"'}
            finish["a"].set()
            await settle()
            assert len(llm.contexts) == (2 if run_llm is None else 1)

    run(main())


def test_a_cancelled_function_is_marked() -> None:
    async def main() -> None:
        context, user, assistant = pair()

        async def hangs(params: FunctionCallParams) -> None:
            await asyncio.Event().wait()

        llm = Thinker([lambda context: [FunctionCallFromLLM("hangs", "1", {}, context)]])
        llm.register_function("hangs", hangs)
        async with pipeline(user, llm, assistant) as rig:
            await rig.push(LLMRunFrame())
            await rig.push(InterruptionFrame())
            await settle()
            assert context.messages[-1]["content"] == "CANCELLED"
            assert not assistant.has_function_calls_in_progress

    run(main())


def test_frames_that_change_the_context() -> None:
    async def main() -> None:
        context, user, assistant = pair()
        async with pipeline(user, assistant) as rig:
            await rig.push(LLMMessagesAppendFrame([{"role": "user", "content": "1"}]))
            assert rig.after.of(LLMContextFrame) == []
            await rig.push(LLMMessagesAppendFrame([{"role": "user", "content": "2"}], run_llm=True))
            assert len(rig.after.of(LLMContextFrame)) == 1
            await rig.push(LLMMessagesUpdateFrame([{"role": "user", "content": "3"}], run_llm=True))
            assert context.messages == [{"role": "user", "content": "3"}]
            await rig.push(LLMSetToolsFrame([]))
            assert not context.tools

    run(main())


def test_what_the_bot_says_by_itself_is_in_the_context_if_it_shall_be() -> None:
    async def main() -> None:
        context, user, assistant = pair()
        async with pipeline(user, Speaker(), assistant) as rig:
            await rig.push(TTSSpeakFrame("Welcome.", append_to_context=True))
            await rig.push(TTSSpeakFrame("One moment.", append_to_context=False))
            await settle()
            assert context.messages == [{"role": "assistant", "content": "Welcome."}]

    run(main())


def test_thoughts_are_told_and_kept_for_the_model_that_had_them() -> None:
    async def main() -> None:
        context, user, assistant = pair()
        told: list[AssistantThoughtMessage] = []
        assistant.add_event_handler("on_assistant_thought", lambda who, message: told.append(message))
        async with pipeline(assistant) as rig:
            await rig.push(
                LLMThoughtStartFrame(True, "anthropic"), LLMThoughtTextFrame("Hm."), LLMThoughtEndFrame("sig")
            )
            assert [message.content for message in told] == ["Hm."]
            (message,) = context.messages
            assert isinstance(message, LLMSpecificMessage)
            assert context.get_messages("openai") == []
            assert context.get_messages("anthropic") == [{"type": "thought", "text": "Hm.", "signature": "sig"}]
            assert user.context is context

    run(main())


def test_words_of_a_text_bot_without_a_voice() -> None:
    async def main() -> None:
        context, _, assistant = pair()
        async with pipeline(assistant) as rig:
            tokens = [LLMTextFrame(text) for text in ("Hel", "lo", " you", ".")]
            for token in tokens:
                token.includes_inter_frame_spaces = True
            await rig.push(LLMFullResponseStartFrame(), *tokens, LLMFullResponseEndFrame())
            words = [TTSTextFrame(word, "word") for word in ("Good", "bye.")]
            await rig.push(LLMFullResponseStartFrame(), *words, EndFrame())
            assert [message["content"] for message in context.messages] == ["Hello you.", "Good bye."]

    run(main())


def test_how_big_a_context_is() -> None:
    call = {"id": "1", "function": {"name": "four", "arguments": "{" + "x" * 35}, "type": "function"}
    image = {"type": "image_url", "image_url": {"url": "data:..."}}
    assert estimated_tokens({"role": "user", "content": "x" * 40}) == 20
    assert estimated_tokens({"role": "assistant", "tool_calls": [call]}) == 20
    assert estimated_tokens({"role": "user", "content": [{"type": "text", "text": "x" * 40}, image]}) == 520
