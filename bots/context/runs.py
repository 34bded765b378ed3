"""Frames that change a context and let the model run: the same on both sides of the conversation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from bots.context.context import LLMContext
from media.flow import DOWNSTREAM, FrameDirection
from media.frames import (
    Frame,
    LLMContextFrame,
    LLMMessagesAppendFrame,
    LLMMessagesUpdateFrame,
    LLMRunFrame,
    LLMSetToolChoiceFrame,
    LLMSetToolsFrame,
)


class ContextRuns:
    """For an aggregator: each of these ends with it, and the context goes in `run_direction` when the model shall run.

    Messages whose frame does not say whether the model shall run do not let it.
    """

    run_direction: ClassVar[FrameDirection] = DOWNSTREAM
    _context: LLMContext
    push_frame: Callable[..., Any]

    def run_llm(self) -> None:
        """Let the model answer the context as it is."""
        self.push_frame(LLMContextFrame(self._context), self.run_direction)

    def _on_run(self, frame: Frame) -> bool:
        self.run_llm()
        return True

    def _on_append(self, frame: LLMMessagesAppendFrame) -> bool:
        self._context.add_messages(frame.messages)
        if frame.run_llm:
            self.run_llm()
        return True

    def _on_update(self, frame: LLMMessagesUpdateFrame) -> bool:
        self._context.set_messages(frame.messages)
        if frame.run_llm:
            self.run_llm()
        return True

    def _on_tools(self, frame: LLMSetToolsFrame) -> bool:
        self._context.set_tools(frame.tools)
        return True

    def _on_tool_choice(self, frame: LLMSetToolChoiceFrame) -> bool:
        self._context.set_tool_choice(frame.tool_choice)
        return True

    ACTS: ClassVar[Mapping[type, Callable[[Any, Any], bool]]] = {
        LLMRunFrame: _on_run,
        LLMMessagesAppendFrame: _on_append,
        LLMMessagesUpdateFrame: _on_update,
        LLMSetToolsFrame: _on_tools,
        LLMSetToolChoiceFrame: _on_tool_choice,
    }
