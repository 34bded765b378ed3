"""Chat completions against a server that speaks the protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bots.context.context import LLMContext
from bots.context.tools import FunctionSchema, ToolsSchema
from bots.services.llm import FunctionCallParams
from bots.services.openai import OpenAILLMService, OpenAILLMSettings
from bots.services.providers import choose
from media.errors import ConfigError, ServiceError
from media.frames import (
    ErrorFrame,
    FunctionCallResultFrame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMTextFrame,
    LLMUpdateSettingsFrame,
    MetricsFrame,
)
from media.metrics import LLMUsageMetricsData
from tests.bots.services.rig import pipeline, settle
from tests.bots.services.vendor import Reply, Vendor, events
from tests.endtoend.served import run, until


def text(*tokens: str) -> list[Any]:
    return [{"choices": [{"delta": {"content": token}}]} for token in tokens]


def refusal(status: int, **headers: str) -> Reply:
    body = json.dumps({"error": {"message": f"no: {status}"}}).encode()
    return Reply([body], status, {"content-type": "application/json", **headers})


def hello(*tools: FunctionSchema) -> LLMContext:
    return LLMContext([{"role": "user", "content": "hello"}], ToolsSchema(tools) if tools else [])


def errors(rig: Any) -> list[str]:
    return [frame.error for frame in rig.before.up if isinstance(frame, ErrorFrame)]


async def ask(rig: Any, context: LLMContext | None = None, answers: int = 1) -> list[str]:
    before = len(rig.after.of(LLMFullResponseEndFrame))
    await rig.push(LLMContextFrame(context or hello()))
    await until(lambda: len(rig.after.of(LLMFullResponseEndFrame)) == before + answers)
    return [frame.text for frame in rig.after.of(LLMTextFrame)]


def test_an_answer_and_what_was_sent_for_it() -> None:
    async def main() -> None:
        usage = {"usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}, "choices": []}
        async with Vendor(Reply(events(*text("Good", " day."), usage))).listening() as vendor:
            settings = OpenAILLMSettings(model="small", temperature=0.5, system_instruction="Be kind.")
            llm = OpenAILLMService(api_key="k3y", base_url=vendor.url, settings=settings)
            weather = FunctionSchema(name="weather", description="?", properties={"city": {"type": "string"}})
            async with pipeline(llm, enable_usage_metrics=True) as rig:
                assert await ask(rig, hello(weather)) == ["Good", " day."]
                ((record,),) = [frame.data for frame in rig.after.of(MetricsFrame)]
                assert isinstance(record, LLMUsageMetricsData)
                assert record.value.total_tokens == 5
            (asked,) = vendor.asked
            assert asked.path == "/v1/chat/completions"
            assert asked.headers["authorization"] == "Bearer k3y"
            body = asked.json
            assert body["messages"] == [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "hello"},
            ]
            assert (body["model"], body["temperature"], body["stream"]) == ("small", 0.5, True)
            assert "max_tokens" not in body
            assert body["tools"][0]["function"]["name"] == "weather"

    run(main())


def test_a_function_call_in_pieces() -> None:
    def piece(**function: str) -> Any:
        return {"choices": [{"delta": {"tool_calls": [{"index": 0, "id": "c1", "function": function}]}}]}

    async def main() -> None:
        reply = Reply(
            events(piece(name="weather", arguments=""), piece(arguments='{"ci'), piece(arguments='ty": "Rom"}'))
        )
        async with Vendor(reply).listening() as vendor:
            llm = OpenAILLMService(base_url=vendor.url)

            async def weather(params: FunctionCallParams) -> None:
                await params.result_callback(params.arguments["city"])

            llm.register_function("weather", weather)
            async with pipeline(llm) as rig:
                await ask(rig)
                await until(lambda: bool(rig.after.of(FunctionCallResultFrame)))
                (result,) = rig.after.of(FunctionCallResultFrame)
                assert (result.tool_call_id, result.result) == ("c1", "Rom")

    run(main())


def test_an_interruption_ends_the_request() -> None:
    async def main() -> None:
        slow = Reply(events(*text("One", "two", "three")), delay_s=5)
        async with (
            Vendor(slow, Reply(events(*text("Four")))).listening() as vendor,
            pipeline(OpenAILLMService(base_url=vendor.url)) as rig,
        ):
            await rig.push(LLMContextFrame(hello()))
            await until(lambda: bool(rig.after.of(LLMTextFrame)))
            await rig.push(InterruptionFrame())
            await settle()
            assert await ask(rig) == ["One", "Four"]

    run(main())


@pytest.mark.parametrize(
    ("replies", "heard", "problems"),
    [
        ([refusal(503), Reply(events(*text("Yes")))], ["Yes"], []),
        ([refusal(401)], [], ["openai: HTTP 401: no: 401"]),
        ([refusal(429), refusal(429)], [], ["openai: HTTP 429: no: 429"]),
        ([Reply([b"data: {broken\n\n"])], [], ["openai: what it streams is not JSON"]),
        ([Reply(events(*text("Half"), done=False), breaks=True)], ["Half"], ["openai: RemoteProtocolError"]),
        ([Reply(breaks=True), Reply(events(*text("Yes")))], ["Yes"], []),
    ],
)
def test_faults(replies: list[Reply], heard: list[str], problems: list[str]) -> None:
    async def main() -> None:
        async with Vendor(*replies).listening() as vendor, pipeline(OpenAILLMService(base_url=vendor.url)) as rig:
            assert await ask(rig) == heard
            found = errors(rig)
            assert len(found) == len(problems)
            assert all(one.startswith(problem) for one, problem in zip(found, problems, strict=True)), found
            assert not vendor.replies

    run(main())


def test_nobody_waits_for_a_vendor_that_wants_to_be_asked_much_later() -> None:
    async def main() -> None:
        late = refusal(429, **{"retry-after": "20"})
        async with Vendor(late).listening() as vendor, pipeline(OpenAILLMService(base_url=vendor.url)) as rig:
            await ask(rig)
            assert errors(rig) == ["openai: HTTP 429: no: 429"]

    run(main())


def test_a_first_token_that_does_not_come_is_asked_for_once_more() -> None:
    async def main() -> None:
        replies = Reply(events(*text("Late")), first_s=5), Reply(events(*text("Now")))
        async with Vendor(*replies).listening() as vendor:
            llm = OpenAILLMService(base_url=vendor.url, retry_on_timeout=True, retry_timeout_secs=0.1)
            async with pipeline(llm) as rig:
                assert await ask(rig) == ["Now"]

    run(main())


def test_settings_change_in_mid_call() -> None:
    async def main() -> None:
        async with (
            Vendor(Reply(events()), Reply(events())).listening() as vendor,
            pipeline(OpenAILLMService(base_url=vendor.url)) as rig,
        ):
            await ask(rig)
            await rig.push(LLMUpdateSettingsFrame(delta=OpenAILLMSettings(model="other", seed=7)))
            await ask(rig)
            first, second = (asked.json for asked in vendor.asked)
            assert (first["model"], "seed" in first) == ("gpt-4.1", False)
            assert (second["model"], second["seed"]) == ("other", 7)

    run(main())


def test_one_shot() -> None:
    async def main() -> None:
        body = json.dumps({"choices": [{"message": {"content": "Short."}}]}).encode()
        async with Vendor(Reply([body]), refusal(500)).listening() as vendor:
            llm = OpenAILLMService(base_url=vendor.url)
            assert await llm.run_inference(hello(), max_tokens=9, system_instruction="Shorten.") == "Short."
            asked = vendor.asked[0].json
            assert asked["max_tokens"] == 9
            assert asked["messages"][0] == {"role": "system", "content": "Shorten."}
            assert "stream" not in asked
            with pytest.raises(ServiceError, match="HTTP 500"):
                await llm.run_inference(hello())

    run(main())


def test_in_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        here = Path(".")
        monkeypatch.delenv("GROQ_API_KEY", raising=False)
        with pytest.raises(ConfigError, match="GROQ_API_KEY"):
            await choose("LLM", {"use": "openai", "vendor": "groq"}, here).prepare()
        with pytest.raises(ConfigError, match="vendor"):
            choose("LLM", {"use": "openai", "vendor": "nobody"}, here)
        monkeypatch.setenv("GROQ_API_KEY", "k")
        chosen = choose("LLM", {"use": "openai", "vendor": "groq", "key": {"env": "GROQ_API_KEY"}}, here)
        await chosen.prepare()
        service = chosen.make()
        assert service._url == "https://api.groq.com/openai/v1/chat/completions"
        assert "k" not in repr(chosen.settings.key)

    run(main())
