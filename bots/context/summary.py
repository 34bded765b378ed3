"""Making a long conversation short: when, what of it, and by whom."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bots.context.context import LLMContext, LLMSpecificMessage, text_of
from media.events import BaseObject
from media.frames import LLMContextSummaryRequestFrame, LLMContextSummaryResultFrame

log = logging.getLogger(__name__)

DEFAULT_PROMPT = """\
Summarise the conversation below for somebody who has to carry it on without having heard it. Keep names, numbers, \
dates, what was agreed, what the caller wants, and what is still open. Leave out greetings and small talk. Write plain \
sentences, in the language of the conversation, and nothing but the summary."""


@dataclass(frozen=True)
class LLMContextSummaryConfig:
    """How a summary is made.

    Raises ValueError for sizes that are not positive, and a template without {summary}.
    """

    target_context_tokens: int = 6000
    min_messages_after_summary: int = 4  # of the youngest messages, which stay as they are
    summarization_prompt: str | None = None
    summary_message_template: str = "Conversation summary: {summary}"
    llm: Any = None  # makes the summary directly; None: the pipeline's model
    summarization_timeout: float | None = 120.0

    def __post_init__(self) -> None:
        if self.target_context_tokens <= 0:
            raise ValueError(f"target_context_tokens must be positive, got {self.target_context_tokens}")
        if self.min_messages_after_summary < 0:
            raise ValueError(f"min_messages_after_summary must not be negative, got {self.min_messages_after_summary}")
        if "{summary}" not in self.summary_message_template:
            raise ValueError("summary_message_template must contain {summary}")

    @property
    def prompt(self) -> str:
        return self.summarization_prompt or DEFAULT_PROMPT


@dataclass(frozen=True)
class LLMAutoContextSummarizationConfig:
    """When it happens by itself: at either limit; None turns one off, and ValueError follows if both are."""

    max_context_tokens: int | None = 8000
    max_unsummarized_messages: int | None = 20
    summary_config: LLMContextSummaryConfig = field(default_factory=LLMContextSummaryConfig)

    def __post_init__(self) -> None:
        if self.max_context_tokens is None and self.max_unsummarized_messages is None:
            raise ValueError("max_context_tokens or max_unsummarized_messages must be set")
        for name in ("max_context_tokens", "max_unsummarized_messages"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")

    @property
    def target_context_tokens(self) -> int:
        """The summary's, cut to 80 % of what triggers it."""
        target = self.summary_config.target_context_tokens
        return target if self.max_context_tokens is None else min(target, int(0.8 * self.max_context_tokens))


@dataclass(frozen=True, slots=True)
class SummaryAppliedEvent:
    original_message_count: int
    new_message_count: int
    summarized_message_count: int
    preserved_message_count: int


# ---------------------------------------------------------------- what is summarised


def first_system(messages: Sequence[Any]) -> int:
    """Index of the first system message; -1 if there is none."""
    return next((index for index, message in enumerate(messages) if _role(message) == "system"), -1)


def last_to_summarise(messages: Sequence[Any], keep: int) -> int:
    """Index of the last message that goes into the summary; -1 if there is nothing to summarise.

    `keep` messages stay at least; a tool call and its results are never separated.
    """
    last = len(messages) - keep - 1
    start = first_system(messages) + 1 if first_system(messages) == 0 else 0
    if last < start:
        return -1
    for index in range(start, last + 1):
        calls = {call.get("id") for call in _get(messages[index], "tool_calls") or ()}
        if not calls:
            continue
        for other in range(index + 1, len(messages)):
            if _get(messages[other], "tool_call_id") in calls:
                calls.discard(messages[other]["tool_call_id"])
                if other > last:
                    return index - 1 if index > start else -1
        if calls:  # still at work
            return index - 1 if index > start else -1
    return last


def as_text(messages: Sequence[Any]) -> str:
    """A conversation to read."""
    lines = []
    for message in messages:
        if isinstance(message, LLMSpecificMessage):
            continue
        text = text_of(message)
        if text:
            lines.append(f"{str(_role(message)).upper()}: {text}")
        for call in message.get("tool_calls") or ():
            function = call.get("function", {})
            lines.append(f"FUNCTION CALL: {function.get('name', '')}({function.get('arguments', '')})")
    return "\n".join(lines)


class Inference(Protocol):
    async def run_inference(
        self, context: LLMContext, max_tokens: int | None = None, system_instruction: str | None = None
    ) -> str | None: ...


async def summarise(llm: Inference, request: LLMContextSummaryRequestFrame) -> tuple[str, int]:
    """The summary, and the index of the last message in it. ValueError if there is nothing to summarise."""
    messages = request.context.messages
    last = last_to_summarise(messages, request.min_messages_to_keep)
    if last < 0:
        raise ValueError("there is nothing to summarise")
    start = 1 if first_system(messages) == 0 else 0
    context = LLMContext([{"role": "user", "content": as_text(messages[start : last + 1])}])
    text = await llm.run_inference(
        context, max_tokens=request.target_context_tokens, system_instruction=request.summarization_prompt
    )
    if not text or not text.strip():
        raise ValueError("the model gave an empty summary")
    return text.strip(), last


# ---------------------------------------------------------------- when


_requests = itertools.count(1)


class LLMContextSummarizer(BaseObject):
    """Watches one context, asks for summaries and puts them in. One request at a time.

    Events: on_request_summarization(frame), by which whoever owns it sends the request on; on_summary_applied(event).

    Args:
        auto: the limits; None: only when asked.
        run: lets a coroutine go on beside the frames, for a config with an `llm` of its own.
    """

    def __init__(
        self,
        context: LLMContext,
        auto: LLMAutoContextSummarizationConfig | None,
        *,
        request: Callable[[LLMContextSummaryRequestFrame], Any],
        run: Callable[[Any, str], Any],
        failed: Callable[[str], Any],
    ) -> None:
        super().__init__()
        self._context, self._auto = context, auto
        self._request, self._run, self._failed = request, run, failed
        self._config = auto.summary_config if auto is not None else LLMContextSummaryConfig()
        self._pending: tuple[str, LLMContextSummaryConfig] | None = None
        self._counted = len(context.messages)  # messages there were at the last summary
        self._register_event_handler("on_summary_applied")

    @property
    def is_pending(self) -> bool:
        return self._pending is not None

    def answer_begins(self) -> None:
        """A model begins to answer: now nobody else writes."""
        auto = self._auto
        if auto is None or self._pending is not None:
            return
        tokens, messages = auto.max_context_tokens, auto.max_unsummarized_messages
        too_long = tokens is not None and self._context.estimated_tokens() >= tokens
        too_many = messages is not None and len(self._context.messages) - self._counted >= messages
        if too_long or too_many:
            self._ask(auto.summary_config, auto.target_context_tokens)

    def asked(self, config: LLMContextSummaryConfig | None) -> None:
        """Somebody wants one now."""
        if self._pending is None:
            config = config or self._config
            self._ask(config, config.target_context_tokens)

    def interrupted(self) -> None:
        """What is under way will be stale."""
        self._pending = None

    def _ask(self, config: LLMContextSummaryConfig, target_tokens: int) -> None:
        frame = LLMContextSummaryRequestFrame(
            request_id=f"summary-{next(_requests)}",
            context=self._context,
            min_messages_to_keep=config.min_messages_after_summary,
            target_context_tokens=target_tokens,
            summarization_prompt=config.prompt,
            summarization_timeout=config.summarization_timeout,
        )
        self._pending = frame.request_id, config
        if config.llm is None:
            self._request(frame)
        else:
            self._run(self._by(config.llm, frame), "summary")

    async def _by(self, llm: Inference, frame: LLMContextSummaryRequestFrame) -> None:
        try:
            async with asyncio.timeout(frame.summarization_timeout):
                summary, last = await summarise(llm, frame)
        except Exception as exc:
            self.result(LLMContextSummaryResultFrame(frame.request_id, "", -1, error=str(exc) or type(exc).__name__))
        else:
            self.result(LLMContextSummaryResultFrame(frame.request_id, summary, last))

    def result(self, frame: LLMContextSummaryResultFrame) -> None:
        """An answer has come; one to another question is ignored."""
        if self._pending is None or self._pending[0] != frame.request_id:
            return
        (_, config), self._pending = self._pending, None
        if frame.error is not None:
            self._failed(f"no summary: {frame.error}")
            return
        messages = self._context.messages
        if not 0 <= frame.last_summarized_index < len(messages):
            self._failed("the context has changed while it was summarised")
            return
        system = first_system(messages)
        kept = messages[frame.last_summarized_index + 1 :]
        head = [messages[system]] if 0 <= system <= frame.last_summarized_index else []
        summary = {"role": "user", "content": config.summary_message_template.format(summary=frame.summary)}
        before = len(messages)
        self._context.set_messages([*head, summary, *kept])
        self._counted = len(self._context.messages)
        event = SummaryAppliedEvent(
            original_message_count=before,
            new_message_count=self._counted,
            summarized_message_count=frame.last_summarized_index + 1 - len(head),
            preserved_message_count=len(kept) + len(head),
        )
        self._call_event_handler("on_summary_applied", event)


def _role(message: Any) -> Any:
    return _get(message, "role")


def _get(message: Any, key: str) -> Any:
    return None if isinstance(message, LLMSpecificMessage) else message.get(key)
