"""Both sides of a conversation on one context."""

from __future__ import annotations

from collections.abc import Iterator

from bots.context.assistant import LLMAssistantAggregator, LLMAssistantAggregatorParams
from bots.context.context import LLMContext
from bots.context.user import LLMUserAggregator, LLMUserAggregatorParams


class LLMContextAggregatorPair:
    """`user()` stands between speech-to-text and the model, `assistant()` behind the output.

    It may also be unpacked: `user, assistant = LLMContextAggregatorPair(context)`.
    """

    def __init__(
        self,
        context: LLMContext,
        *,
        user_params: LLMUserAggregatorParams | None = None,
        assistant_params: LLMAssistantAggregatorParams | None = None,
    ) -> None:
        self._user = LLMUserAggregator(context, params=user_params)
        self._assistant = LLMAssistantAggregator(context, params=assistant_params)

    def user(self) -> LLMUserAggregator:
        return self._user

    def assistant(self) -> LLMAssistantAggregator:
        return self._assistant

    def __iter__(self) -> Iterator[LLMUserAggregator | LLMAssistantAggregator]:
        yield self._user
        yield self._assistant
