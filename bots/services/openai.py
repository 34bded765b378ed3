"""Models that speak OpenAI's chat completions: OpenAI's own, and everybody who took over its protocol.

Source: platform.openai.com/docs/api-reference/chat (streamed chunks as server-sent events).
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bots.context.context import LLMContext
from bots.context.tools import ToolsSchema
from bots.services.http import (
    HttpService,
    Keyed,
    answer_to,
    asked_again,
    checked_key,
    problem_in,
    server_events,
)
from bots.services.llm import LLMService, arguments_of
from bots.services.openai_audio import Speech, Transcriptions
from bots.services.settings import NOT_GIVEN, LLMSettings, ServiceSettings, is_given
from media.errors import ServiceError
from media.frames import FunctionCallFromLLM
from media.metrics import LLMTokenUsage
from media.secret import Secret

log = logging.getLogger(__name__)

# Who speaks it, and where: { vendor = "..." }.
BASE_URLS: Mapping[str, str] = {
    "openai": "https://api.openai.com/v1",
    "groq": "https://api.groq.com/openai/v1",
    "cerebras": "https://api.cerebras.ai/v1",
    "deepseek": "https://api.deepseek.com/v1",
    "fireworks": "https://api.fireworks.ai/inference/v1",
    "grok": "https://api.x.ai/v1",
    "mistral": "https://api.mistral.ai/v1",
    "novita": "https://api.novita.ai/v3/openai",
    "nvidia": "https://integrate.api.nvidia.com/v1",
    "ollama": "http://localhost:11434/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "perplexity": "https://api.perplexity.ai",
    "qwen": "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
    "sambanova": "https://api.sambanova.ai/v1",
    "together": "https://api.together.xyz/v1",
}


@dataclass
class OpenAILLMSettings(LLMSettings):
    max_completion_tokens: Any = NOT_GIVEN


class OpenAILLMService(HttpService, LLMService):
    """Answers by streamed chat completions.

    Args:
        api_key: sent as a bearer token; "" sends none.
        base_url: of the API, without /chat/completions.
        default_headers: beside our own.
        retry_timeout_secs, retry_on_timeout: if the first chunk is not there by then, ask once more without limit.
    """

    Settings: ClassVar[type[ServiceSettings]] = OpenAILLMSettings

    def __init__(
        self,
        *,
        api_key: str = "",
        base_url: str = BASE_URLS["openai"],
        model: str | None = None,
        organization: str | None = None,
        project: str | None = None,
        default_headers: Mapping[str, str] | None = None,
        settings: OpenAILLMSettings | None = None,
        retry_timeout_secs: float = 5.0,
        retry_on_timeout: bool = False,
        **kwargs: Any,
    ) -> None:
        defaults = OpenAILLMSettings(model=model or "gpt-4.1")
        super().__init__(settings=defaults.joined_with(settings) if settings is not None else defaults, **kwargs)
        headers = dict(default_headers or {})
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        if organization:
            headers["openai-organization"] = organization
        if project:
            headers["openai-project"] = project
        self._headers, self._url = headers, base_url.rstrip("/") + "/chat/completions"
        self._first_s = retry_timeout_secs if retry_on_timeout else None

    # ------------------------------------------------------------ a request

    def _body(self, context: LLMContext, system_instruction: str | None = None) -> dict[str, Any]:
        messages = [dict(message) for message in context.get_messages(self.vendor)]
        instruction = system_instruction or self.system_instruction
        if instruction:
            messages.insert(0, {"role": "system", "content": instruction})
        body: dict[str, Any] = {"model": self.model_name, "messages": messages}
        tools = self.tools_of(context)
        if tools:
            body["tools"] = [tool.to_default_dict() for tool in tools]
            if isinstance(context.tools, ToolsSchema):
                body["tools"] += context.tools.custom_tools.get(self.vendor, ())
            if is_given(context.tool_choice):
                body["tool_choice"] = context.tool_choice
        given = self._settings.given()
        for name in (
            "temperature",
            "max_tokens",
            "max_completion_tokens",
            "top_p",
            "frequency_penalty",
            "presence_penalty",
            "seed",
        ):
            if name in given:
                body[name] = given[name]
        return {**body, **self._settings.extra}

    async def _process_context(self, context: LLMContext) -> None:
        body = {**self._body(context), "stream": True, "stream_options": {"include_usage": True}}
        self.start_ttfb_metrics()
        calls: dict[int, _Call] = {}
        async for chunk in self._chunks(body):
            if usage := chunk.get("usage"):
                self.start_llm_usage_metrics(_usage(usage))
            for choice in chunk.get("choices") or ():
                delta = choice.get("delta") or {}
                if delta.get("content") or delta.get("tool_calls"):
                    self.stop_ttfb_metrics()
                if text := delta.get("content"):
                    self.push_text(text)
                for piece in delta.get("tool_calls") or ():
                    self.progress()
                    calls.setdefault(piece.get("index", len(calls)), _Call()).add(piece)
        await self.run_function_calls([call.complete(context) for _, call in sorted(calls.items())])

    def _chunks(self, body: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        """Each event's object. Asked again where nothing was said yet and asking again can help."""
        return asked_again(lambda: self._stream(body), self._first_s)

    async def _stream(self, body: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        async for chunk in server_events("openai", self.http, self._url, body):
            if "error" in chunk:
                raise ServiceError("openai", problem_in(chunk), retryable=True)
            yield chunk

    async def run_inference(
        self, context: LLMContext, max_tokens: int | None = None, system_instruction: str | None = None
    ) -> str | None:
        body = self._body(context, system_instruction)
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        try:
            async with self.lent() as http:
                content = (await answer_to("openai", http, self._url, body))["choices"][0]["message"].get("content")
        except (LookupError, TypeError, AttributeError) as exc:
            raise ServiceError("openai", f"{type(exc).__name__}: {exc}", retryable=True) from exc
        return content if isinstance(content, str) else None


@dataclass(slots=True)
class _Call:
    """A function call that arrives in pieces."""

    id: str = ""
    name: str = ""
    arguments: str = ""

    def add(self, piece: Mapping[str, Any]) -> None:
        function = piece.get("function") or {}
        self.id = piece.get("id") or self.id
        self.name += function.get("name") or ""
        self.arguments += function.get("arguments") or ""

    def complete(self, context: LLMContext) -> FunctionCallFromLLM:
        arguments = arguments_of("openai", self.name, self.arguments)
        return FunctionCallFromLLM(self.name, self.id or f"call-{time.monotonic_ns()}", arguments, context)


def _usage(usage: Mapping[str, Any]) -> LLMTokenUsage:
    prompt = usage.get("prompt_tokens_details") or {}
    completion = usage.get("completion_tokens_details") or {}
    return LLMTokenUsage(
        prompt_tokens=usage.get("prompt_tokens") or 0,
        completion_tokens=usage.get("completion_tokens") or 0,
        total_tokens=usage.get("total_tokens") or 0,
        cache_read_input_tokens=prompt.get("cached_tokens"),
        reasoning_tokens=completion.get("reasoning_tokens"),
    )


# ---------------------------------------------------------------- in gateway.toml


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAISettings:
    """llm = { use = "openai", key = { env = "OPENAI_API_KEY" } }"""

    key: Secret | None = None
    vendor: str = "openai"  # whose address it is, where `base_url` does not say
    base_url: str = ""
    model: str = "gpt-4.1-mini"
    temperature: float | None = None
    max_tokens: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)  # into each request as it is

    def __post_init__(self) -> None:
        if not self.base_url and self.vendor not in BASE_URLS:
            raise ValueError(f"vendor is not known: give base_url, or one of {', '.join(BASE_URLS)}")


class OpenAI(Keyed):
    settings = OpenAISettings

    def key(self, settings: OpenAISettings) -> str:
        """A server of one's own may need none."""
        if settings.key is None and (settings.vendor == "ollama" or settings.base_url):
            return ""
        return checked_key(settings.key, f"{settings.vendor.upper()}_API_KEY")

    def make(self, settings: OpenAISettings) -> OpenAILLMService:
        wanted = OpenAILLMSettings(model=settings.model, extra=dict(settings.extra))
        if settings.temperature is not None:
            wanted.temperature = settings.temperature
        if settings.max_tokens is not None:
            wanted.max_tokens = settings.max_tokens
        return OpenAILLMService(
            api_key=self.key(settings),
            base_url=settings.base_url or BASE_URLS[settings.vendor],
            settings=wanted,
        )


LLM = OpenAI()
STT = Transcriptions()
TTS = Speech()
