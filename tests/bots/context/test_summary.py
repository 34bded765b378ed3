"""Summaries: when, what of the conversation, and what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from bots.context.assistant import LLMAssistantAggregator, LLMAssistantAggregatorParams
from bots.context.context import LLMContext
from bots.context.summary import (
    LLMAutoContextSummarizationConfig,
    LLMContextSummaryConfig,
    SummaryAppliedEvent,
    last_to_summarise,
)
from media.frames import (
    ErrorFrame,
    InterruptionFrame,
    LLMContextSummaryRequestFrame,
    LLMContextSummaryResultFrame,
    LLMFullResponseStartFrame,
    LLMSummarizeContextFrame,
)
from tests.bots.services.rig import Thinker, pipeline, settle
from tests.endtoend.served import until


def run(main: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await main

    asyncio.run(limited())


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


SYSTEM = {"role": "system", "content": "Be kind."}


def assistant(context: LLMContext, **config: Any) -> LLMAssistantAggregator:
    summary = LLMContextSummaryConfig(min_messages_after_summary=1, **config)
    auto = LLMAutoContextSummarizationConfig(
        max_context_tokens=None, max_unsummarized_messages=3, summary_config=summary
    )
    params = LLMAssistantAggregatorParams(
        enable_auto_context_summarization=True, auto_context_summarization_config=auto
    )
    return LLMAssistantAggregator(context, params=params)


def test_many_messages_become_one() -> None:
    async def main() -> None:
        context = LLMContext([SYSTEM])
        aggregator, llm = assistant(context), Thinker("All well.")
        applied: list[SummaryAppliedEvent] = []
        aggregator.add_event_handler("on_summary_applied", lambda who, summarizer, event: applied.append(event))
        async with pipeline(llm, aggregator) as rig:
            context.add_messages([user("a"), user("b"), user("c")])
            await rig.push(LLMFullResponseStartFrame())
            await until(lambda: bool(applied))
            assert context.messages == [SYSTEM, user("Conversation summary: All well."), user("c")]
            assert applied == [SummaryAppliedEvent(4, 3, 2, 2)]
            await rig.push(LLMFullResponseStartFrame())  # not at once again
            assert not llm.script

    run(main())


def test_asked_for_it_happens_without_limits() -> None:
    async def main() -> None:
        context = LLMContext([user("a"), user("b")])
        config = LLMContextSummaryConfig(min_messages_after_summary=0, summary_message_template="<s>{summary}</s>")
        async with pipeline(Thinker("Short."), LLMAssistantAggregator(context)) as rig:
            await rig.push(LLMSummarizeContextFrame(config))
            await until(lambda: context.messages == [user("<s>Short.</s>")])

    run(main())


def test_another_model_may_do_it() -> None:
    async def main() -> None:
        context = LLMContext([user("a"), user("b"), user("c")])
        aggregator = LLMAssistantAggregator(context)
        own = Thinker("By the small one.")
        async with pipeline(aggregator) as rig:
            config = LLMContextSummaryConfig(min_messages_after_summary=1, llm=own)
            await rig.push(LLMSummarizeContextFrame(config))
            await until(lambda: len(context.messages) == 2)
            assert not [frame for frame in rig.before.up if isinstance(frame, LLMContextSummaryRequestFrame)]

    run(main())


def test_one_at_a_time_and_stale_answers_are_ignored() -> None:
    async def main() -> None:
        context = LLMContext([user("a"), user("b"), user("c")])
        async with pipeline(LLMAssistantAggregator(context)) as rig:
            for _ in range(2):
                await rig.push(LLMSummarizeContextFrame(LLMContextSummaryConfig(min_messages_after_summary=1)))
            (request,) = [frame for frame in rig.before.up if isinstance(frame, LLMContextSummaryRequestFrame)]
            await rig.push(LLMContextSummaryResultFrame("another", "x", 1))
            assert len(context.messages) == 3
            await rig.push(InterruptionFrame())
            await rig.push(LLMContextSummaryResultFrame(request.request_id, "x", 1))
            assert len(context.messages) == 3

    run(main())


def test_a_failure_leaves_the_context_as_it_is() -> None:
    async def main() -> None:
        context = LLMContext([user("a"), user("b"), user("c")])
        async with pipeline(Thinker(""), LLMAssistantAggregator(context)) as rig:
            await rig.push(LLMSummarizeContextFrame(LLMContextSummaryConfig(min_messages_after_summary=1)))
            await settle()
            (error,) = [frame for frame in rig.before.up if isinstance(frame, ErrorFrame)]
            assert error.error == "no summary: the model gave an empty summary"
            assert len(context.messages) == 3

    run(main())


def test_a_call_and_its_result_stay_together() -> None:
    call = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
    result = {"role": "tool", "tool_call_id": "1", "content": "x"}
    messages = [SYSTEM, user("a"), call, result, user("b")]
    assert [last_to_summarise(messages, keep) for keep in range(6)] == [4, 3, 1, 1, -1, -1]
    assert last_to_summarise([user("a"), call, user("b")], 0) == 0  # still at work


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: LLMContextSummaryConfig(target_context_tokens=0),
        lambda: LLMContextSummaryConfig(min_messages_after_summary=-1),
        lambda: LLMContextSummaryConfig(summary_message_template="nothing"),
        lambda: LLMAutoContextSummarizationConfig(max_context_tokens=None, max_unsummarized_messages=None),
        lambda: LLMAutoContextSummarizationConfig(max_context_tokens=0),
    ],
)
def test_sizes_that_make_no_sense(wrong: Any) -> None:
    with pytest.raises(ValueError, match="must"):
        wrong()


def test_the_target_is_less_than_what_triggers() -> None:
    assert LLMAutoContextSummarizationConfig(max_context_tokens=1000).target_context_tokens == 800
