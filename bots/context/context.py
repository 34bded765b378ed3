"""A conversation as a model sees it: messages in OpenAI's form, and the tools it may use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bots.context.tools import ToolsSchema
from bots.services.settings import NOT_GIVEN

Message = Mapping[str, Any]

CHARACTERS_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 10
TOKENS_PER_IMAGE = 500


@dataclass(frozen=True, slots=True)
class LLMSpecificMessage:
    """A message in one vendor's own form; other vendors never see it."""

    llm: str
    message: Any


class LLMContext:
    """Messages, tools and tool choice of one conversation.

    Args:
        messages: dictionaries with `role` ("system", "developer", "user", "assistant", "tool") and `content`, or
            LLMSpecificMessage. The list is copied.
        tools: ToolsSchema, or NOT_GIVEN.
        tool_choice: "auto", "none", "required", or a vendor's own; or NOT_GIVEN.
    """

    def __init__(
        self,
        messages: Iterable[Message | LLMSpecificMessage] | None = None,
        tools: Any = NOT_GIVEN,
        tool_choice: Any = NOT_GIVEN,
    ) -> None:
        self._messages: list[Any] = list(messages or ())
        self._tools: Any = NOT_GIVEN
        self._tool_choice = tool_choice
        self.set_tools(tools)

    # ------------------------------------------------------------ messages

    @property
    def messages(self) -> list[Any]:
        """The list itself."""
        return self._messages

    def get_messages(self, llm_specific_filter: str | None = None) -> list[Any]:
        """A copy. With a filter, messages of other vendors' own form are left out, and those of this one unpacked."""
        if llm_specific_filter is None:
            return list(self._messages)
        found = []
        for message in self._messages:
            if not isinstance(message, LLMSpecificMessage):
                found.append(message)
            elif message.llm == llm_specific_filter:
                found.append(message.message)
        return found

    def add_message(self, message: Message | LLMSpecificMessage) -> None:
        self._messages.append(message)

    def add_messages(self, messages: Iterable[Message | LLMSpecificMessage]) -> None:
        self._messages.extend(messages)

    def set_messages(self, messages: Iterable[Message | LLMSpecificMessage]) -> None:
        self._messages[:] = list(messages)

    # ------------------------------------------------------------ tools

    @property
    def tools(self) -> Any:
        return self._tools

    def set_tools(self, tools: Any = NOT_GIVEN) -> None:
        if isinstance(tools, Sequence):
            tools = ToolsSchema(tools) if tools else NOT_GIVEN
        self._tools = NOT_GIVEN if tools is None else tools

    @property
    def tool_choice(self) -> Any:
        return self._tool_choice

    def set_tool_choice(self, tool_choice: Any) -> None:
        self._tool_choice = tool_choice

    # ------------------------------------------------------------ size

    def estimated_tokens(self) -> int:
        """About how many tokens the messages are."""
        return sum(estimated_tokens(message) for message in self._messages)


def estimated_tokens(message: Any) -> int:
    """About how many tokens one message is: four characters each, and a little for the message itself."""
    if isinstance(message, LLMSpecificMessage):
        return TOKENS_PER_MESSAGE + len(str(message.message)) // CHARACTERS_PER_TOKEN
    tokens = TOKENS_PER_MESSAGE
    content = message.get("content")
    if isinstance(content, str):
        tokens += len(content) // CHARACTERS_PER_TOKEN
    else:
        for part in content or ():
            if part.get("type") in ("image_url", "image", "input_image"):
                tokens += TOKENS_PER_IMAGE
            else:
                tokens += len(str(part.get("text", ""))) // CHARACTERS_PER_TOKEN
    for call in message.get("tool_calls") or ():
        function = call.get("function", {})
        tokens += (len(function.get("name", "")) + len(str(function.get("arguments", "")))) // CHARACTERS_PER_TOKEN
    return tokens


def text_of(message: Any) -> str:
    """The words in a message; "" if there are none."""
    if isinstance(message, LLMSpecificMessage):
        return ""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content or () if part.get("type") in ("text", "input_text"))
