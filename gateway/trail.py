"""What has happened in one call, in the order of time: edges of speech and turns, keys, marks, interruptions, answers.

It is kept for every call, for none of it comes by the packet, and has neither words nor keys: those are told to
whoever watches at that moment. docs/watching.md has the shapes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from media.exchange import Answer
from media.frames import FloorFrame, InterruptionFrame

KEPT: Final = 300  # entries of one call
SMALL: Final = frozenset({"mark", "played"})  # not what somebody wants to know who asks for the last of it

Entry = Mapping[str, Any]


class Trail:
    """Of one call.

    Args:
        now: the call's clock.
        began: when the call's socket came, on that clock: `t` is 0 there.
    """

    def __init__(self, now: Callable[[], float], began: float) -> None:
        self.entries: deque[Entry] = deque(maxlen=KEPT)
        self.tell: Callable[[Entry], None] | None = None  # who watches; must not raise
        self._now, self._began = now, began

    @property
    def latest(self) -> Entry | None:
        """The last that has happened, marks left out."""
        return next((entry for entry in reversed(self.entries) if entry["what"] not in SMALL), None)

    # ------------------------------------------------------------ what happens

    def edge(self, what: str, on: bool, ago_s: float = 0.0) -> None:
        """Something begins or ends, or did `ago_s` ago."""
        self._add({"t": self._t(ago_s), "what": what, "on": on})

    def moment(self, what: str, detail: str = "", **fields: Any) -> None:
        self._add({"t": self._t(), "what": what, "detail": detail, **fields})

    def digit(self, key: str) -> None:
        """Which key it was is told, not kept."""
        kept = {"t": self._t(), "what": "digit", "detail": ""}
        self.entries.append(kept)
        self._tell({**kept, "detail": key})

    def interruption(self, frame: InterruptionFrame) -> None:
        """It has taken effect: what was heard is known. The words are told, not kept."""
        heard, detail = frame.heard, frame.reason
        kept: dict[str, Any] = {"t": self._t(), "what": "interruption", "detail": detail, "reason": frame.reason}
        words = {}
        if heard is not None:
            cut = f"{heard.heard_ms} ms of the reply were heard, {heard.unheard_ms} ms were not"
            kept["detail"] = f"{detail}: {cut}" if detail else cut
            kept |= {"heard_ms": heard.heard_ms, "unheard_ms": heard.unheard_ms}
            words = {"heard": heard.text} if heard.text else {}
        self.entries.append(kept)
        self._tell({**kept, **words})

    def answer(self, answer: Answer) -> None:
        parts = {part: round(seconds * 1000) for part, seconds in answer.parts.items()}
        wait_ms = round(answer.wait_s * 1000)
        words = "".join(f", {part.replace('_', ' ')} {ms} ms" for part, ms in parts.items())
        self.moment("answer", f"after {wait_ms} ms{words}", wait_ms=wait_ms, parts=parts)

    def floor(self, frame: FloorFrame) -> None:
        values = ", ".join(f"{name} {value:g}" for name, value in frame.values.items())
        detail = f"{frame.decision}: {frame.reason}{f' ({values})' if values else ''}"
        self.moment("floor", detail, decision=frame.decision, reason=frame.reason, values=dict(frame.values))

    # ------------------------------------------------------------ small things

    def _t(self, ago_s: float = 0.0) -> float:
        return max(0.0, round(self._now() - self._began - ago_s, 3))

    def _add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._tell(entry)

    def _tell(self, entry: Entry) -> None:
        if self.tell is not None:
            self.tell(entry)
