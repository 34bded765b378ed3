"""Anthropic's messages against a server that speaks the protocol."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bots.context.context import LLMContext, LLMSpecificMessage
from bots.context.tools import FunctionSchema, ToolsSchema
from bots.services.anthropic import AnthropicLLMService, converted
from bots.services.llm import FunctionCallParams
from bots.services.settings import LLMSettings
from media.errors import ServiceError
from media.frames import (
    ErrorFrame,
    FunctionCallResultFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMTextFrame,
    MetricsFrame,
)
from media.metrics import LLMUsageMetricsData
from tests.bots.services.rig import Rig, pipeline, settle
from tests.bots.services.vendor import Reply, Vendor, events
from tests.endtoend.served import run, until


def text(*pieces: str) -> list[Any]:
    return [
        {"type": "message_start", "message": {"usage": {"input_tokens": 7, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": p}} for p in pieces),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]


def tool(*pieces: str) -> list[Any]:
    block = {"type": "tool_use", "id": "t1", "name": "weather", "input": {}}
    return [
        {"type": "content_block_start", "index": 1, "content_block": block},
        *(
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": piece}}
            for piece in pieces
        ),
        {"type": "message_stop"},
    ]


def reply(*chunks: Any, **how: Any) -> Reply:
    return Reply(events(*chunks, done=False), **how)


async def ask(rig: Rig, context: LLMContext | None = None) -> list[str]:
    before = len(rig.after.of(LLMFullResponseEndFrame))
    await rig.push(LLMContextFrame(context or LLMContext([{"role": "user", "content": "hello"}])))
    await until(lambda: len(rig.after.of(LLMFullResponseEndFrame)) == before + 1)
    return [frame.text for frame in rig.after.of(LLMTextFrame)]


def errors(rig: Rig) -> list[str]:
    return [frame.error for frame in rig.before.up if isinstance(frame, ErrorFrame)]


def test_an_answer_and_what_was_sent_for_it() -> None:
    async def main() -> None:
        async with Vendor(reply(*text("Good", " day."))).listening() as vendor:
            llm = AnthropicLLMService(api_key="k3y", base_url=vendor.url, settings=LLMSettings(temperature=0.5))
            weather = FunctionSchema(name="weather", description="?", properties={"city": {"type": "string"}})
            messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hello"}]
            context = LLMContext(messages, ToolsSchema([weather]), "required")
            async with pipeline(llm, enable_usage_metrics=True) as rig:
                assert await ask(rig, context) == ["Good", " day."]
                ((record,),) = [frame.data for frame in rig.after.of(MetricsFrame)]
                assert isinstance(record, LLMUsageMetricsData)
                assert (record.value.prompt_tokens, record.value.completion_tokens) == (7, 5)
            (asked,) = vendor.asked
            assert asked.path == "/v1/v1/messages"
            assert (asked.headers["x-api-key"], asked.headers["anthropic-version"]) == ("k3y", "2023-06-01")
            body = asked.json
            assert (body["system"], body["max_tokens"], body["temperature"]) == ("Be kind.", 1024, 0.5)
            assert body["messages"] == [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
            assert body["tools"][0]["input_schema"]["properties"] == {"city": {"type": "string"}}
            assert body["tool_choice"] == {"type": "any"}

    run(main())


def test_a_function_call_in_pieces() -> None:
    async def main() -> None:
        async with Vendor(reply(*tool('{"ci', 'ty": "Rom"}'))).listening() as vendor:
            llm = AnthropicLLMService(api_key="k", base_url=vendor.url)

            async def weather(params: FunctionCallParams) -> None:
                await params.result_callback(params.arguments["city"])

            llm.register_function("weather", weather)
            async with pipeline(llm) as rig:
                await ask(rig)
                await until(lambda: bool(rig.after.of(FunctionCallResultFrame)))
                (result,) = rig.after.of(FunctionCallResultFrame)
                assert (result.tool_call_id, result.result) == ("t1", "Rom")

    run(main())


def test_what_goes_wrong_is_told_and_what_may_pass_is_asked_again() -> None:
    async def main() -> None:
        overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
        late = Reply([json.dumps({"error": {"message": "slow down"}}).encode()], 429, {"retry-after": "30"})
        replies = [reply(overloaded), reply(*text("Yes.")), late, Reply([b"data: {\n\n"]), reply(5)]
        async with Vendor(*replies, reply(*text("Bro"), breaks=True)).listening() as vendor:
            async with pipeline(AnthropicLLMService(api_key="k", base_url=vendor.url)) as rig:
                assert await ask(rig) == ["Yes."]
                for _ in range(3):
                    await ask(rig)
                await ask(rig)
                found = errors(rig)
                assert found[0] == "anthropic: HTTP 429: slow down"
                assert found[1].startswith("anthropic: what it streams is not JSON")
                assert found[2] == "anthropic: what it streams is no event"
                assert "RemoteProtocolError" in found[3]
            assert len(vendor.asked) == 6

    run(main())


def test_an_interruption_ends_the_request() -> None:
    async def main() -> None:
        slow = reply(*text("One", "two"), delay_s=5)
        async with (
            Vendor(reply(*text("One"))).listening() as vendor,
            pipeline(AnthropicLLMService(api_key="k", base_url=vendor.url)) as rig,
        ):
            vendor.replies.insert(0, slow)
            await rig.push(LLMContextFrame(LLMContext([{"role": "user", "content": "hello"}])))
            await until(lambda: len(vendor.asked) == 1)
            await rig.push(InterruptionFrame())
            await settle()
            assert await ask(rig) == ["One"]

    run(main())


def test_a_conversation_is_written_as_anthropic_wants_it() -> None:
    call = {"id": "t1", "type": "function", "function": {"name": "book", "arguments": '{"n": 2}'}}
    context = LLMContext(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "assistant", "content": "Hello?"},
            {"role": "user", "content": "A table"},
            {"role": "user", "content": "for two."},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t1", "content": '"done"'},
            LLMSpecificMessage("openai", {"role": "user", "content": "not for them"}),
            {"role": "system", "content": "It is late."},
        ]
    )
    system, turns = converted(context.get_messages("anthropic"))
    assert system == "Be brief."
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user", "assistant", "user"]
    assert [block["text"] for block in turns[2]["content"]] == ["A table", "for two."]
    assert turns[3]["content"] == [{"type": "tool_use", "id": "t1", "name": "book", "input": {"n": 2}}]
    assert turns[4]["content"][0] == {"type": "tool_result", "tool_use_id": "t1", "content": '"done"'}
    assert turns[4]["content"][1]["text"] == "It is late."


def test_one_answer_outside_a_pipeline() -> None:
    async def main() -> None:
        whole = Reply([json.dumps({"content": [{"type": "text", "text": "Short."}]}).encode()])
        async with Vendor(whole, Reply([b"{}"])).listening() as vendor:
            llm = AnthropicLLMService(api_key="k", base_url=vendor.url)
            context = LLMContext([{"role": "user", "content": "long"}])
            assert await llm.run_inference(context, 50, "Summarise.") == "Short."
            assert (vendor.asked[0].json["max_tokens"], vendor.asked[0].json["system"]) == (50, "Summarise.")
            with pytest.raises(ServiceError) as raised:
                await llm.run_inference(context)
            assert raised.value.retryable

    run(main())
