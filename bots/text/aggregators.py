"""Puts a model's tokens together to pieces that can be spoken: sentences, as a rule."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from bots.text.sentences import end_of_sentence
from media.events import DONE, MaybeAwaitable
from media.frames import AggregationType


class TextAggregationMode(StrEnum):
    SENTENCE = "sentence"
    TOKEN = "token"  # every piece as it comes: earliest, and least natural


@dataclass(frozen=True, slots=True)
class Aggregation:
    """A piece of text, and what it is: "sentence", "token", or a pattern's own name."""

    text: str
    type: str


class BaseTextAggregator:
    """What an aggregator of one's own overrides: `pieces`, `rest` and `reset`, or the `async def` ones."""

    @property
    @abstractmethod
    def text(self) -> Aggregation:
        """What is kept back."""

    def pieces(self, text: str) -> Sequence[Aggregation]:
        """What has become whole by `text`."""
        raise NotImplementedError

    def rest(self) -> Aggregation | None:
        """What is kept back, whole or not; then nothing is."""
        raise NotImplementedError

    async def aggregate(self, text: str) -> AsyncIterator[Aggregation]:
        """As `pieces`."""
        for piece in self.pieces(text):
            yield piece

    async def flush(self) -> Aggregation | None:
        """As `rest`."""
        return self.rest()

    def handle_interruption(self) -> MaybeAwaitable:
        """What is kept back will not be spoken."""
        return self.reset()

    def reset(self) -> MaybeAwaitable:
        return DONE


class SimpleTextAggregator(BaseTextAggregator):
    """Whole sentences; or everything as it comes."""

    def __init__(self, mode: TextAggregationMode = TextAggregationMode.SENTENCE) -> None:
        self._mode = mode
        self._text = ""

    @property
    def text(self) -> Aggregation:
        return Aggregation(self._text.strip(), AggregationType.SENTENCE)

    def pieces(self, text: str) -> Sequence[Aggregation]:
        if self._mode is TextAggregationMode.TOKEN:
            return (Aggregation(text, AggregationType.TOKEN),) if text else ()
        self._text += text
        return tuple(self._whole())

    def _whole(self) -> Iterable[Aggregation]:
        while end := self._end_of_sentence(self._text):
            sentence, self._text = self._text[:end].strip(), self._text[end:]
            if sentence:
                yield Aggregation(sentence, AggregationType.SENTENCE)

    def _end_of_sentence(self, text: str) -> int:
        return end_of_sentence(text)

    def rest(self) -> Aggregation | None:
        text, self._text = self._text.strip(), ""
        return Aggregation(text, AggregationType.SENTENCE) if text else None

    def reset(self) -> MaybeAwaitable:
        self._text = ""
        return DONE


class SkipTagsAggregator(SimpleTextAggregator):
    """Sentences that do not end between a tag and its end: a vendor's `<spell>` ... `</spell>`."""

    def __init__(self, tags: Iterable[tuple[str, str]]) -> None:
        super().__init__()
        self._tags = tuple(tags)

    def _end_of_sentence(self, text: str) -> int:
        start = 0
        while end := end_of_sentence(text[start:]):
            end += start
            inside = next(
                (close for begin, close in self._tags if text[:end].count(begin) > text[:end].count(close)), ""
            )
            if not inside:
                return end
            closed = text.find(inside, end)
            if closed < 0:
                return 0
            start = closed + len(inside)
        return 0
