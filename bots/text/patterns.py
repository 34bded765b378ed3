"""Pieces of a model's text that stand between two marks: taken out, kept, or given as pieces of their own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self

from bots.text.aggregators import Aggregation, SimpleTextAggregator, TextAggregationMode
from media.events import MaybeAwaitable, drive_without_loop
from media.frames import AggregationType

_RESERVED = frozenset({"sentence", "word", "token"})


class MatchAction(Enum):
    REMOVE = "remove"  # as if it had never been written
    KEEP = "keep"  # without its marks
    AGGREGATE = "aggregate"  # a piece of its own, of the pattern's type


@dataclass(frozen=True, slots=True)
class PatternMatch(Aggregation):
    """What stood between the marks; `full_match` has them too."""

    full_match: str = ""

    @property
    def content(self) -> str:
        """The same as `text`."""
        return self.text


Handler = Callable[[PatternMatch], Any]


@dataclass(frozen=True, slots=True)
class _Pattern:
    type: str
    start: str
    end: str
    action: MatchAction


class PatternPairAggregator(SimpleTextAggregator):
    """Sentences, and what stands between marks. A mark that has begun holds back the text from there on.

    Handlers may be `async`, if they do not wait; they cannot change the text.
    """

    def __init__(self, mode: TextAggregationMode = TextAggregationMode.SENTENCE) -> None:
        super().__init__(mode)
        self._patterns: dict[str, _Pattern] = {}
        self._handlers: dict[str, Handler] = {}
        self._raw = ""  # not looked at yet, or from the start of an open pattern on

    # ------------------------------------------------------------ what programs say

    def add_pattern(
        self, type: str, start_pattern: str, end_pattern: str, action: MatchAction = MatchAction.REMOVE
    ) -> Self:
        """Raises ValueError for a type that has another meaning, or a mark that is empty."""
        if type in _RESERVED:
            raise ValueError(f"{type!r} is what ordinary pieces are called")
        if not start_pattern or not end_pattern:
            raise ValueError(f"pattern {type!r} needs a mark at its start and one at its end")
        self._patterns[type] = _Pattern(type, start_pattern, end_pattern, action)
        return self

    def add_pattern_pair(
        self, pattern_id: str, start_pattern: str, end_pattern: str, remove_match: bool = True
    ) -> Self:
        """The old name."""
        action = MatchAction.REMOVE if remove_match else MatchAction.KEEP
        return self.add_pattern(pattern_id, start_pattern, end_pattern, action)

    def on_pattern_match(self, type: str, handler: Handler) -> Self:
        """`handler(PatternMatch)` is called for each whole pattern of that type."""
        self._handlers[type] = handler
        return self

    # ------------------------------------------------------------ text

    @property
    def text(self) -> Aggregation:
        return Aggregation((self._text + self._raw).strip(), AggregationType.SENTENCE)

    def pieces(self, text: str) -> Sequence[Aggregation]:
        self._raw += text
        found: list[Aggregation] = []
        while self._raw:
            pattern, start = self._first()
            if pattern is None:
                safe = len(self._raw) - self._begun()
                found += super().pieces(self._raw[:safe])
                self._raw = self._raw[safe:]
                break
            found += super().pieces(self._raw[:start])
            self._raw = self._raw[start:]
            if pattern.action is MatchAction.AGGREGATE:
                found += self._sentence_so_far()
            end = self._raw.find(pattern.end, len(pattern.start))
            if end < 0:
                break
            whole, self._raw = self._raw[: end + len(pattern.end)], self._raw[end + len(pattern.end) :]
            match = PatternMatch(whole[len(pattern.start) : end].strip(), pattern.type, whole)
            self._tell(match)
            if pattern.action is MatchAction.AGGREGATE:
                found.append(match)
            elif pattern.action is MatchAction.KEEP:
                found += super().pieces(match.text)
        return found

    def rest(self) -> Aggregation | None:
        self._text, self._raw = self._text + self._raw, ""
        return super().rest()

    def reset(self) -> MaybeAwaitable:
        self._raw = ""
        return super().reset()

    def _first(self) -> tuple[_Pattern | None, int]:
        """The pattern that begins first in what is to be looked at."""
        best, at = None, len(self._raw)
        for pattern in self._patterns.values():
            start = self._raw.find(pattern.start)
            if 0 <= start < at:
                best, at = pattern, start
        return best, at

    def _begun(self) -> int:
        """How many characters at the end may be the beginning of a mark."""
        return max((_overlap(self._raw, pattern.start) for pattern in self._patterns.values()), default=0)

    def _sentence_so_far(self) -> Iterable[Aggregation]:
        sentence = super().rest()
        return () if sentence is None else (sentence,)

    def _tell(self, match: PatternMatch) -> None:
        handler = self._handlers.get(match.type)
        if handler is not None:
            done = handler(match)
            if inspect.iscoroutine(done):
                drive_without_loop(done, f"on_pattern_match({match.type})")


def _overlap(text: str, mark: str) -> int:
    """The longest end of `text` that is a beginning of `mark`, but not all of it."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:size])), 0)
