"""Anthropic's models: the Messages API, streamed, with tools.

Source: docs.anthropic.com, "Messages" and "Streaming Messages".
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bots.context.context import LLMContext, text_of
from bots.context.tools import ToolsSchema
from bots.services.http import HttpService, Keyed, answer_to, asked_again, problem_in, server_events
from bots.services.llm import LLMService, arguments_of
from bots.services.settings import NOT_GIVEN, LLMSettings, ServiceSettings, is_given
from media.errors import ServiceError
from media.frames import FunctionCallFromLLM, LLMThoughtEndFrame, LLMThoughtStartFrame, LLMThoughtTextFrame
from media.metrics import LLMTokenUsage
from media.secret import Secret

URL = "https://api.anthropic.com"
VERSION = "2023-06-01"
VARIABLE = "ANTHROPIC_API_KEY"
MAX_TOKENS = 1024  # must be given; a spoken answer is shorter
FIRST = "(The call begins.)"  # a conversation must begin with the user: here the bot has spoken first


@dataclass(kw_only=True)
class AnthropicThinkingConfig:
    """Whether the model thinks before it speaks, and for how many tokens at most."""

    type: str = "enabled"  # or "disabled"
    budget_tokens: int | None = None


@dataclass
class AnthropicLLMSettings(LLMSettings):
    enable_prompt_caching: Any = NOT_GIVEN  # what is the same in the next request need not be read again
    thinking: Any = NOT_GIVEN  # an AnthropicThinkingConfig


class AnthropicLLMService(HttpService, LLMService):
    """Answers by streamed messages. What the model thinks is not spoken; the context keeps it for the next request.

    Args:
        base_url: of the API, without /v1/messages.
        version: of the API, a date.
        settings: `extra` goes into each request as it is.
    """

    vendor: ClassVar[str] = "anthropic"
    Settings: ClassVar[type[ServiceSettings]] = AnthropicLLMSettings
    AnthropicThinkingConfig: ClassVar[type[AnthropicThinkingConfig]] = AnthropicThinkingConfig

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str = URL,
        model: str | None = None,
        version: str = VERSION,
        default_headers: Mapping[str, str] | None = None,
        settings: LLMSettings | None = None,
        retry_timeout_secs: float = 5.0,
        retry_on_timeout: bool = False,
        **kwargs: Any,
    ) -> None:
        defaults = AnthropicLLMSettings(model=model or "claude-sonnet-4-5", max_tokens=MAX_TOKENS)
        super().__init__(settings=defaults.joined_with(settings) if settings is not None else defaults, **kwargs)
        self._headers = {"x-api-key": api_key, "anthropic-version": version, **(default_headers or {})}
        self._url = base_url.rstrip("/") + "/v1/messages"
        self._first_s = retry_timeout_secs if retry_on_timeout else None

    # ------------------------------------------------------------ a request

    def _body(self, context: LLMContext, system_instruction: str | None = None) -> dict[str, Any]:
        given = self._settings.given()
        thinking = given.get("thinking")
        thinks = thinking is not None and thinking.type == "enabled"
        system, messages = converted(context.get_messages(self.vendor), thoughts=thinks)
        instruction = "\n\n".join(filter(None, (system_instruction or self.system_instruction, system)))
        body: dict[str, Any] = {"model": self.model_name, "messages": messages}
        if instruction:
            body["system"] = instruction
        if given.get("enable_prompt_caching"):
            _cache(body)
        if tools := self.tools_of(context):
            body["tools"] = [
                {"name": tool.name, "description": tool.description, "input_schema": tool.parameters} for tool in tools
            ]
            if isinstance(context.tools, ToolsSchema):
                body["tools"] += context.tools.custom_tools.get(self.vendor, ())
            if is_given(context.tool_choice):
                body["tool_choice"] = _CHOICES.get(str(context.tool_choice), context.tool_choice)
        if thinks:
            body["thinking"] = {"type": thinking.type, "budget_tokens": thinking.budget_tokens or MAX_TOKENS}
        for name in ("max_tokens", "temperature", "top_p", "top_k"):
            if given.get(name) is not None:
                body[name] = given[name]
        return {**body, **self._settings.extra}

    async def _process_context(self, context: LLMContext) -> None:
        body = {**self._body(context), "stream": True}
        self.start_ttfb_metrics()
        calls: dict[int, _Call] = {}
        usage: dict[str, Any] = {}
        thinking, signature = False, None
        async for event in asked_again(lambda: self._stream(body), self._first_s):
            kind = event.get("type")
            if kind == "content_block_delta":
                delta = event.get("delta") or {}
                if text := delta.get("text"):
                    self.stop_ttfb_metrics()
                    self.push_text(text)
                elif thought := delta.get("thinking"):
                    self.progress()
                    self.push_frame(LLMThoughtTextFrame(thought))
                elif delta.get("type") == "signature_delta":
                    signature = delta.get("signature")
                elif (piece := delta.get("partial_json")) is not None and event["index"] in calls:
                    self.progress()
                    calls[event["index"]].arguments += piece
            elif kind == "content_block_start":
                block = event.get("content_block") or {}
                if block.get("type") == "tool_use":
                    self.stop_ttfb_metrics()
                    self.progress()
                    calls[event["index"]] = _Call(block["id"], block["name"])
                elif block.get("type") == "thinking":
                    self.progress()
                    thinking, signature = True, None
                    self.push_frame(LLMThoughtStartFrame(append_to_context=True, llm=self.vendor))
            elif kind == "content_block_stop":
                if thinking:
                    thinking = False
                    self.push_frame(LLMThoughtEndFrame(signature=signature))
            elif kind == "message_start":
                usage.update((event.get("message") or {}).get("usage") or {})
            elif kind == "message_delta":
                usage.update(event.get("usage") or {})
        if usage:
            self.start_llm_usage_metrics(_usage(usage))
        await self.run_function_calls([call.complete(context) for _, call in sorted(calls.items())])

    async def _stream(self, body: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        async for event in server_events("anthropic", self.http, self._url, body):
            if not isinstance(event, dict):
                raise ServiceError("anthropic", "what it streams is no event")
            if event.get("type") == "error":
                raise ServiceError("anthropic", problem_in(event), retryable=True)
            yield event

    async def run_inference(
        self, context: LLMContext, max_tokens: int | None = None, system_instruction: str | None = None
    ) -> str | None:
        body = self._body(context, system_instruction)
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        try:
            async with self.lent() as http:
                content = (await answer_to("anthropic", http, self._url, body))["content"]
            return "".join(block["text"] for block in content if block["type"] == "text") or None
        except (LookupError, TypeError) as exc:
            raise ServiceError("anthropic", f"{type(exc).__name__}: {exc}", retryable=True) from exc


@dataclass(slots=True)
class _Call:
    """A function call that arrives in pieces."""

    id: str
    name: str
    arguments: str = ""

    def complete(self, context: LLMContext) -> FunctionCallFromLLM:
        return FunctionCallFromLLM(self.name, self.id, arguments_of("anthropic", self.name, self.arguments), context)


def _usage(usage: Mapping[str, Any]) -> LLMTokenUsage:
    prompt, completion = usage.get("input_tokens") or 0, usage.get("output_tokens") or 0
    return LLMTokenUsage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        cache_read_input_tokens=usage.get("cache_read_input_tokens"),
        cache_creation_input_tokens=usage.get("cache_creation_input_tokens"),
    )


# ---------------------------------------------------------------- messages

_CHOICES: Mapping[str, Any] = {"auto": {"type": "auto"}, "none": {"type": "none"}, "required": {"type": "any"}}


def converted(messages: Iterable[Any], *, thoughts: bool = False) -> tuple[str, list[dict[str, Any]]]:
    """OpenAI's messages as Anthropic writes them: the system's text, and turns of user and assistant by turns.

    `thoughts`: those of the model's own, which it wants to see again while it thinks.
    """
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = message.get("role")
        if role in ("system", "developer") and not turns:
            system.append(text_of(message))
            continue
        if message.get("type") == "thought":
            role, content = "assistant", _thought(message) if thoughts else []
        else:
            content = _content(message)
        if not content:
            continue
        role = "assistant" if role == "assistant" else "user"
        if not turns and role == "assistant":
            turns.append({"role": "user", "content": [{"type": "text", "text": FIRST}]})
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += content
        else:
            turns.append({"role": role, "content": content})
    return "\n\n".join(filter(None, system)), turns


def _thought(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not message.get("signature"):
        return []  # it was cut off: without its signature it is not taken
    return [{"type": "thinking", "thinking": message.get("text", ""), "signature": message["signature"]}]


def _cache(body: dict[str, Any]) -> None:
    """Mark the ends of what stays the same: the instruction, and what the user has said so far."""
    mark = {"cache_control": {"type": "ephemeral"}}
    if "system" in body:
        body["system"] = [{"type": "text", "text": body["system"], **mark}]
    for turn in [turn for turn in body["messages"] if turn["role"] == "user"][-2:]:
        turn["content"][-1] = {**turn["content"][-1], **mark}


def _content(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message.get("content")
    if message.get("role") == "tool":
        result = content if isinstance(content, str) else json.dumps(content)
        return [{"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": result}]
    if isinstance(content, str):
        blocks: list[dict[str, Any]] = [{"type": "text", "text": content}] if content.strip() else []
    else:  # parts; what is Anthropic's own already stays
        blocks = [dict(part) for part in content or () if part.get("type") != "text" or part.get("text", "").strip()]
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        arguments = function.get("arguments") or "{}"
        given = json.loads(arguments) if isinstance(arguments, str) else arguments
        blocks.append({"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": given})
    return blocks


# ---------------------------------------------------------------- in gateway.toml


@dataclass(frozen=True, slots=True, kw_only=True)
class AnthropicSettings:
    """llm = { use = "anthropic", key = { env = "ANTHROPIC_API_KEY" } }"""

    key: Secret | None = None
    base_url: str = URL
    version: str = VERSION  # of their API
    model: str = "claude-sonnet-4-5"
    temperature: float | None = None
    max_tokens: int = MAX_TOKENS
    extra: Mapping[str, Any] = field(default_factory=dict)  # into each request as it is


class Anthropic(Keyed):
    settings = AnthropicSettings
    variable = VARIABLE

    def make(self, settings: AnthropicSettings) -> AnthropicLLMService:
        wanted = LLMSettings(model=settings.model, max_tokens=settings.max_tokens, extra=dict(settings.extra))
        if settings.temperature is not None:
            wanted.temperature = settings.temperature
        return AnthropicLLMService(
            api_key=self.key(settings),
            base_url=settings.base_url,
            version=settings.version,
            settings=wanted,
        )


LLM = Anthropic()
