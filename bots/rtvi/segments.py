"""How far the bot has come in what it says: what `bot-output` tells clients of version 2.

A piece of text is a segment. It is told when it is known, again as its words are spoken, and at its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

WAITING: Final = 100  # segments that were not spoken; then the oldest is forgotten


@dataclass(slots=True)
class Segment:
    """`raw` is what is said, `shown` what the client is told of it."""

    number: int
    raw: str
    shown: str
    aggregated_by: str
    spoken: int = 0  # characters of `raw`

    def told(self, status: str) -> dict[str, Any]:
        """Fields of bot-output; `spoken` is for readers of version 1."""
        done = status == "completed"
        at = len(self.shown) if done else self.spoken if self.raw == self.shown else 0
        progress = {"accumulated_text": self.shown[:at].rstrip(), "remaining_text": self.shown[at:].lstrip()}
        return {
            "text": self.shown,
            "aggregated_by": self.aggregated_by,
            "spoken": done,
            "segment_id": self.number,
            "will_be_spoken": True,
            "spoken_status": status,
            "spoken_progress": progress,
        }


class Segments:
    """Of one bot. Each method gives what is to be told."""

    def __init__(self) -> None:
        self._last = 0
        self._waiting: deque[Segment] = deque(maxlen=WAITING)  # the first may be half spoken

    def begin(self, raw: str, shown: str, aggregated_by: str, *, will_be_spoken: bool) -> dict[str, Any]:
        """Text that the bot is going to say, or to show."""
        segment = self._new(raw, shown, aggregated_by)
        if will_be_spoken:
            self._waiting.append(segment)
            return segment.told("new")
        told = {"text": shown, "aggregated_by": aggregated_by, "spoken": False}
        return {**told, "segment_id": segment.number, "will_be_spoken": False}

    def say(self, raw: str, shown: str, aggregated_by: str) -> Sequence[dict[str, Any]]:
        """Words were spoken. A segment in which nothing more of them is found has come to its end."""
        words = raw.strip()
        place = next((n for n, each in enumerate(self._waiting) if each.raw.find(words, each.spoken) >= 0), None)
        if place is None:
            if self._waiting and len(words) < len(self._waiting[0].raw):
                return (self._waiting[0].told("in-progress"),)  # said otherwise than it was written
            return (self._new(raw, shown, aggregated_by).told("completed"),)
        told = [self._waiting.popleft().told("completed") for _ in range(place)]
        segment = self._waiting[0]
        segment.spoken = segment.raw.find(words, segment.spoken) + len(words)
        if segment.raw[segment.spoken :].strip():
            return (*told, segment.told("in-progress"))
        return (*told, self._waiting.popleft().told("completed"))

    def silent(self) -> Sequence[dict[str, Any]]:
        """The bot has ceased to speak: what it has begun is done."""
        if self._waiting and self._waiting[0].spoken:
            return (self._waiting.popleft().told("completed"),)
        return ()

    def interrupted(self) -> None:
        """What was not said never will be."""
        self._waiting.clear()

    def _new(self, raw: str, shown: str, aggregated_by: str) -> Segment:
        self._last += 1
        return Segment(self._last, raw, shown, aggregated_by)
