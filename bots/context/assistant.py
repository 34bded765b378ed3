"""The bot's side of a context: what was spoken, functions and their results, thoughts, summaries.

Stands behind the output, which lets text pass when its audio was heard. What an interruption cut off never comes, so
the context holds what the caller knows.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from bots.context.context import LLMContext, LLMSpecificMessage
from bots.context.messages import AssistantThoughtMessage, AssistantTurnStoppedMessage, iso_now
from bots.context.runs import ContextRuns
from bots.context.summary import LLMAutoContextSummarizationConfig, LLMContextSummarizer, SummaryAppliedEvent
from bots.context.words import Words
from media.events import DONE, MaybeAwaitable
from media.flow import UPSTREAM
from media.frames import (
    CancelFrame,
    EndFrame,
    Frame,
    FunctionCallCancelFrame,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
    FunctionCallsStartedFrame,
    InterruptionFrame,
    LLMAssistantPushAggregationFrame,
    LLMContextAssistantTimestampFrame,
    LLMContextFrame,
    LLMContextSummaryRequestFrame,
    LLMContextSummaryResultFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMSummarizeContextFrame,
    LLMThoughtEndFrame,
    LLMThoughtStartFrame,
    LLMThoughtTextFrame,
    TextFrame,
    UserImageRawFrame,
)
from media.processor import FrameDirection, FrameProcessor

IN_PROGRESS, CANCELLED, COMPLETED = "IN_PROGRESS", "CANCELLED", "COMPLETED"


@dataclass(frozen=True, kw_only=True)
class LLMAssistantAggregatorParams:
    expect_stripped_words: bool = True  # of old: pieces say themselves whether they bring spaces
    enable_auto_context_summarization: bool = False
    auto_context_summarization_config: LLMAutoContextSummarizationConfig | None = None


class LLMAssistantAggregator(ContextRuns, FrameProcessor):
    """Adds to the context what the bot has said and done.

    Events: on_assistant_turn_started(), on_assistant_turn_stopped(AssistantTurnStoppedMessage),
    on_assistant_thought(AssistantThoughtMessage), on_summary_applied(summarizer, SummaryAppliedEvent).
    """

    run_direction = UPSTREAM

    def __init__(
        self, context: LLMContext, *, params: LLMAssistantAggregatorParams | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._context = context
        params = params or LLMAssistantAggregatorParams()
        auto = None
        if params.enable_auto_context_summarization:
            auto = params.auto_context_summarization_config or LLMAutoContextSummarizationConfig()
        self._summarizer = LLMContextSummarizer(
            context,
            auto,
            request=self._request_summary,
            run=self.create_task,
            failed=self.push_error,
        )
        self._summarizer.add_event_handler("on_summary_applied", self._on_summary)
        self._words = Words()
        self._began = ""  # when the turn did; "" outside of one
        self._answers = 0  # begun, and not ended
        self._calls: dict[str, FunctionCallInProgressFrame | None] = {}  # functions at work
        self._thought: LLMThoughtStartFrame | None = None
        self._thought_words = Words()
        self._thought_began = ""
        for event in (
            "on_assistant_turn_started",
            "on_assistant_turn_stopped",
            "on_assistant_thought",
            "on_summary_applied",
        ):
            self._register_event_handler(event)

    @property
    def context(self) -> LLMContext:
        return self._context

    @property
    def has_function_calls_in_progress(self) -> bool:
        return bool(self._calls)

    # ------------------------------------------------------------ frames

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        act = _ACTS.get(type(frame))
        if act is None:
            act = _act_for(type(frame))
        if not act(self, frame):
            self.push_frame(frame, direction)
        return DONE

    def _pass(self, frame: Frame) -> bool:
        return False

    def _on_interruption(self, frame: InterruptionFrame) -> bool:
        self.push_frame(frame)
        if frame.heard is not None and frame.heard.text and self._words:
            # What has passed was sent; of that, this was heard.
            self._words.take()
            self._words.add(frame.heard.text, spaced=True)
        self._summarizer.interrupted()
        self._answers = 0
        self._thought = None
        self._thought_words.take()
        self._end_turn()
        return True

    def _on_end(self, frame: Frame) -> bool:
        self._end_turn()
        return False

    def _on_answer(self, frame: Frame) -> bool:
        self._answers += 1
        self._begin_turn()
        self._summarizer.answer_begins()
        return True

    def _on_answer_end(self, frame: Frame) -> bool:
        self._answers = max(0, self._answers - 1)
        if not self._answers:
            self._end_turn()
        return True

    def _on_text(self, frame: TextFrame) -> bool:
        if frame.append_to_context:
            self._words.add(frame.text, spaced=frame.includes_inter_frame_spaces)
        return False

    def _on_push(self, frame: Frame) -> bool:
        self._begin_turn()
        self._end_turn()
        return True

    # ------------------------------------------------------------ turns

    def _begin_turn(self) -> None:
        if not self._began:
            self._began = iso_now()
            self._call_event_handler("on_assistant_turn_started")

    def _end_turn(self) -> None:
        text = self._words.take()
        if text:
            self._context.add_message({"role": "assistant", "content": text})
            self.push_frame(LLMContextAssistantTimestampFrame(iso_now()))
        began, self._began = self._began, ""
        if began:
            self._call_event_handler("on_assistant_turn_stopped", AssistantTurnStoppedMessage(text, began))

    # ------------------------------------------------------------ functions

    def _on_calls(self, frame: FunctionCallsStartedFrame) -> bool:
        for call in frame.function_calls:
            self._calls[call.tool_call_id] = None
        return False

    def _on_call(self, frame: FunctionCallInProgressFrame) -> bool:
        self._calls[frame.tool_call_id] = frame
        function = {"name": frame.function_name, "arguments": json.dumps(frame.arguments, ensure_ascii=False)}
        call = {"id": frame.tool_call_id, "function": function, "type": "function"}
        self._context.add_message({"role": "assistant", "tool_calls": [call]})
        self._context.add_message({"role": "tool", "content": IN_PROGRESS, "tool_call_id": frame.tool_call_id})
        return False

    def _on_result(self, frame: FunctionCallResultFrame) -> bool:
        if frame.tool_call_id not in self._calls:
            return False  # cancelled, or of another context
        del self._calls[frame.tool_call_id]
        result = frame.result
        content = COMPLETED if result is None else json.dumps(result, ensure_ascii=False, default=str)
        self._set_result(frame.tool_call_id, content)
        wanted = frame.run_llm
        if frame.properties is not None and frame.properties.run_llm is not None:
            wanted = frame.properties.run_llm
        # Of several functions at once, the last result lets the model go on.
        if wanted if wanted is not None else not self._calls:
            self.push_frame(LLMContextFrame(self._context), UPSTREAM)
        if frame.properties is not None and frame.properties.on_context_updated is not None:
            self.create_task(_awaited(frame.properties.on_context_updated), "on-context-updated")
        return False

    def _on_cancelled(self, frame: FunctionCallCancelFrame) -> bool:
        call = self._calls.get(frame.tool_call_id)
        if call is not None and call.cancel_on_interruption:
            del self._calls[frame.tool_call_id]
            self._set_result(frame.tool_call_id, CANCELLED)
        return False

    def _set_result(self, tool_call_id: str, content: str) -> None:
        for message in reversed(self._context.messages):
            if not isinstance(message, LLMSpecificMessage) and message.get("tool_call_id") == tool_call_id:
                message["content"] = content
                return

    # ------------------------------------------------------------ thoughts

    def _on_thought(self, frame: LLMThoughtStartFrame) -> bool:
        self._thought, self._thought_began = frame, iso_now()
        return True

    def _on_thought_text(self, frame: LLMThoughtTextFrame) -> bool:
        if self._thought is not None:
            self._thought_words.add(frame.text, spaced=True)
        return True

    def _on_thought_end(self, frame: LLMThoughtEndFrame) -> bool:
        thought, self._thought = self._thought, None
        text = self._thought_words.take()
        if thought is None:
            return True
        if thought.append_to_context and thought.llm is not None:
            message = {"type": "thought", "text": text, "signature": frame.signature}
            self._context.add_message(LLMSpecificMessage(thought.llm, message))
        self._call_event_handler("on_assistant_thought", AssistantThoughtMessage(text, self._thought_began))
        return True

    # ------------------------------------------------------------ summaries

    def _request_summary(self, frame: LLMContextSummaryRequestFrame) -> None:
        self.push_frame(frame, UPSTREAM)

    def _on_summary_asked(self, frame: LLMSummarizeContextFrame) -> bool:
        self._summarizer.asked(frame.config)
        return True

    def _on_summary_result(self, frame: LLMContextSummaryResultFrame) -> bool:
        self._summarizer.result(frame)
        return True

    def _on_summary(self, summarizer: LLMContextSummarizer, event: SummaryAppliedEvent) -> None:
        self._call_event_handler("on_summary_applied", summarizer, event)

    def _on_image(self, frame: UserImageRawFrame) -> bool:
        self._end_turn()
        return False


async def _awaited(callback: Callable[[], Awaitable[None]]) -> None:
    await callback()


_ACTS: dict[type, Callable[[LLMAssistantAggregator, Any], bool]] = {
    InterruptionFrame: LLMAssistantAggregator._on_interruption,
    EndFrame: LLMAssistantAggregator._on_end,
    CancelFrame: LLMAssistantAggregator._on_end,
    LLMFullResponseStartFrame: LLMAssistantAggregator._on_answer,
    LLMFullResponseEndFrame: LLMAssistantAggregator._on_answer_end,
    TextFrame: LLMAssistantAggregator._on_text,
    LLMAssistantPushAggregationFrame: LLMAssistantAggregator._on_push,
    FunctionCallsStartedFrame: LLMAssistantAggregator._on_calls,
    FunctionCallInProgressFrame: LLMAssistantAggregator._on_call,
    FunctionCallResultFrame: LLMAssistantAggregator._on_result,
    FunctionCallCancelFrame: LLMAssistantAggregator._on_cancelled,
    LLMThoughtStartFrame: LLMAssistantAggregator._on_thought,
    LLMThoughtTextFrame: LLMAssistantAggregator._on_thought_text,
    LLMThoughtEndFrame: LLMAssistantAggregator._on_thought_end,
    LLMSummarizeContextFrame: LLMAssistantAggregator._on_summary_asked,
    LLMContextSummaryResultFrame: LLMAssistantAggregator._on_summary_result,
    UserImageRawFrame: LLMAssistantAggregator._on_image,
    **ContextRuns.ACTS,
}


def _act_for(cls: type) -> Callable[[LLMAssistantAggregator, Any], bool]:
    """Of a subclass; looked up once."""
    found = next((_ACTS[base] for base in cls.__mro__ if base in _ACTS), LLMAssistantAggregator._pass)
    _ACTS[cls] = found
    return found
