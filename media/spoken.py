"""Which words belong to which samples of a bot's speech, so that a count of samples heard becomes words heard.

Words come as TTSTextFrame among the audio. One with a `pts` stands where that says. One without belongs to the audio
before it, if there is any that no text has claimed yet (a service that tells what it has spoken), else to the audio
that follows (one that tells what it will speak); its words then share that audio by their length.

Positions are samples pushed since the last `clear`.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final, NamedTuple

CHARACTERS_PER_S: Final = 15.0  # of speech whose end is not known yet
LONGEST_WORD_S: Final = 1.2  # a word that is followed by a pause has ended before the next begins


class Word(NamedTuple):
    """One word, from sample `first` until before sample `last`."""

    first: int
    last: int
    text: str  # with the space that goes before it, if any


class Spoken:
    """The words of one call's current reply."""

    __slots__ = ("_claimed", "_open", "_rate", "_speech_from", "words")

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self.words: list[Word] = []  # by position
        self._open: tuple[int, str] | None = None  # text whose audio is still coming: (first, text)
        self._claimed = 0  # audio before this has its text
        self._speech_from = 0

    def clear(self) -> None:
        """All that was pushed is heard or dropped: positions begin at 0 again."""
        self.words.clear()
        self._open, self._claimed, self._speech_from = None, 0, 0

    def begin(self, position: int) -> None:
        """Speech begins with the next sample."""
        if self._open is not None and self._open[0] < position:
            self._settle(position)
        self._claimed = self._speech_from = position

    def end(self, position: int) -> None:
        """Speech has ended before `position`. If there was no text for the last of it, that may come yet."""
        if self._open is not None:
            self._settle(position)
            self._claimed = position

    def say(self, text: str, position: int, at_s: float | None = None, *, spaced: bool = False) -> None:
        """`text` was pushed behind `position` samples.

        Args:
            at_s: where it begins, in seconds of this speech, if that is known.
            spaced: it carries the spaces that it needs.
        """
        if not spaced and text and not text[0].isspace() and (self.words or self._open):
            text = " " + text
        if at_s is not None:
            first = self._speech_from + round(max(0.0, at_s) * self._rate)
            self._settle(first)
            self._open = (first, text)
        elif self._open is None and position > self._claimed:
            self._share(text, self._claimed, position)
            self._claimed = position
        else:
            self._settle(position)
            self._open = (position, text)
            self._claimed = position

    def heard(self, position: int, pushed: int) -> tuple[str, str]:
        """The words heard and those not heard, when `position` of `pushed` samples were. Half a word is heard."""
        words = self._all(pushed)
        middles = [(word.first + word.last) / 2 for word in words]
        count = bisect_right(middles, position)
        texts = [word.text for word in words]
        return "".join(texts[:count]).strip(), "".join(texts[count:]).strip()

    def word_at(self, position: int, pushed: int) -> Word | None:
        """The word that sample `position` is in."""
        return next((word for word in self._all(pushed) if word.first < position < word.last), None)

    def forget(self, position: int) -> None:
        """Words that ended before `position` were heard, and nobody asks for them again."""
        if self.words and self.words[0].last <= position:
            self.words = [word for word in self.words if word.last > position]

    # ------------------------------------------------------------ inside

    def _all(self, pushed: int) -> list[Word]:
        if self._open is None:
            return self.words
        first, text = self._open
        last = max(pushed, first + round(len(text.strip()) / CHARACTERS_PER_S * self._rate))
        return [*self.words, *self._spread(text, first, last)]

    def _settle(self, last: int) -> None:
        if self._open is not None:
            (first, text), self._open = self._open, None
            self._share(text, first, max(first, last))

    def _share(self, text: str, first: int, last: int) -> None:
        self.words += self._spread(text, first, last)

    def _spread(self, text: str, first: int, last: int) -> list[Word]:
        """The words of `text`, each as long as its share of the characters."""
        parts = _words(text)
        if not parts:
            return []
        if len(parts) == 1:
            last = min(last, first + round(LONGEST_WORD_S * self._rate))
        lengths = [len(part.strip()) for part in parts]
        per_character = (last - first) / sum(lengths)
        words, done = [], 0
        for part, length in zip(parts, lengths, strict=True):
            begin, done = done, done + length
            words.append(Word(first + round(begin * per_character), first + round(done * per_character), part))
        return words


def _words(text: str) -> list[str]:
    """`text` cut before each space that a word follows; nothing is lost but spaces at the end."""
    parts: list[str] = []
    begin = 0
    for index in range(1, len(text)):
        if text[index].isspace() and not text[index - 1].isspace():
            parts.append(text[begin:index])
            begin = index
    if text[begin:].strip():
        parts.append(text[begin:])
    return parts
