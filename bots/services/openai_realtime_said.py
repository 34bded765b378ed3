"""What a model has said into a call, and how much of it was heard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from media.frames import Heard
from media.spoken import CHARACTERS_PER_S


class Place(NamedTuple):
    """Where the bot's speech stands: samples made for the caller so far, and the rate at which they are counted."""

    samples: int
    rate: int  # Hz


@dataclass(slots=True, eq=False)
class Piece:
    """What was said in one item. Positions are samples, as the call's ledger counts what the bot has made."""

    item_id: str
    index: int  # of the content in its item
    first: int
    last: int
    made: int = 0  # samples, at the model's rate
    text: str = ""
    whole: bool = False

    def heard_text(self, samples: int, rate: int) -> str:
        """The words in so many of its samples at `rate`; a word that was begun counts."""
        total = self.last - self.first
        if samples >= total and self.whole:
            return self.text
        share = samples / total * len(self.text) if self.whole and total else samples / rate * CHARACTERS_PER_S
        end = min(int(share), len(self.text))
        while 0 < end < len(self.text) and not self.text[end].isspace():
            end += 1
        return self.text[:end].strip()


class Cut(NamedTuple):
    """What an interruption has left of what was said."""

    truncated: list[tuple[Piece, int]]  # with the milliseconds that were heard
    text: str  # that was heard, of all pieces
    whole: str  # that was said


class Said:
    """The pieces since the caller last had heard all. `model_rate` is set before the first."""

    def __init__(self) -> None:
        self.model_rate = 8000
        self._pieces: list[Piece] = []

    def piece(self, event: Mapping[str, Any], place: Place) -> Piece:
        """The one that an event is of: the last, or a new one that begins at `place`; others are over by then."""
        pieces, item_id = self._pieces, event["item_id"]
        if pieces and pieces[-1].item_id == item_id and not pieces[-1].whole:
            return pieces[-1]
        piece = Piece(item_id, event.get("content_index") or 0, place.samples, place.samples)
        pieces.append(piece)
        return piece

    def is_new(self, event: Mapping[str, Any]) -> bool:
        """Whether an event is of none that is open."""
        return not any(piece.item_id == event["item_id"] and not piece.whole for piece in self._pieces[-1:])

    def end(self) -> Iterator[Piece]:
        """No more of what was begun will come: each of it, once."""
        for piece in self._pieces:
            if not piece.whole:
                piece.whole = True
                yield piece

    def all_heard(self) -> None:
        self._pieces = [piece for piece in self._pieces if not piece.whole]

    def cut(self, heard: Heard | None, place: Place) -> Cut:
        """It was interrupted at `place`; nothing of it counts any more."""
        pieces, self._pieces = self._pieces, []
        lost = round(heard.unheard_ms * place.rate / 1000) if heard is not None else 0
        texts, truncated = [], []
        for piece in pieces:
            samples = min(max(place.samples - lost - piece.first, 0), piece.last - piece.first)
            texts.append(piece.heard_text(samples, place.rate))
            if samples < piece.last - piece.first or not piece.whole:
                heard_ms = min(samples * 1000 // place.rate, piece.made * 1000 // self.model_rate)
                truncated.append((piece, heard_ms))
        return Cut(truncated, " ".join(filter(None, texts)), " ".join(piece.text for piece in pieces))
