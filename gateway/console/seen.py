"""What the gateway sees of one of its live calls, as entries of a timeline: what every call keeps, and the words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.core import CallCore
from gateway.trail import Entry as Told
from media.flow import Entry
from media.frames import (
    Frame,
    FunctionCallInProgressFrame,
    MetricsFrame,
    TranscriptionFrame,
    TTSTextFrame,
)
from media.metrics import TTFBMetricsData
from media.processor import FrameDirection, FrameProcessor

REMEMBERED: Final = 200  # frames that were told: each passes several links, and some come both ways
# Of what a call keeps; the rest the carrier tells from its own side.
KEPT: Final = frozenset({"voice", "turn", "bot", "mute", "state", "floor", "interruption", "answer", "error"})


class Seen:
    """Watches one call until it ends.

    Args:
        tell: called with each entry; `t` is seconds since the call's socket came, plus `offset_s`.
    """

    def __init__(self, core: CallCore, tell: Callable[[Told], None], offset_s: float) -> None:
        self._core, self._tell, self._offset_s = core, tell, offset_s
        self._last: Told | None = None  # of the entries that the call keeps
        self._told: dict[int, None] = {}
        core.input._flow.add_tap(self._tap)

    def look(self) -> None:
        """What has come since the last time."""
        new: list[Told] = []
        for entry in reversed(self._core.trail.entries):
            if entry is self._last:
                break
            new.append(entry)
        if new:
            self._last = new[0]
        for entry in reversed(new):
            if entry["what"] in KEPT:
                self._say(entry)

    def _say(self, entry: Told) -> None:
        self._tell({**entry, "t": max(0.0, round(entry["t"] + self._offset_s, 3))})

    def _tap(self, source: FrameProcessor, peer: FrameProcessor, direction: FrameDirection, entry: Entry) -> Entry:
        def seeing(frame: Frame, direction: FrameDirection) -> None:
            show = _SHOWN.get(type(frame))
            if show is not None and self._is_new(frame) and (words := show[1](frame)):
                core = self._core
                self.look()
                self._say({"t": core.now() - core.opened, "what": show[0], "detail": words})
            entry(frame, direction)

        return seeing

    def _is_new(self, frame: Frame) -> bool:
        told = self._told
        if frame.id in told:
            return False
        told[frame.id] = None
        if len(told) > REMEMBERED:
            del told[next(iter(told))]
        return True


def _first_bytes(frame: MetricsFrame) -> str:
    return ", ".join(
        f"{each.processor}: first answer after {1000 * each.value:.0f} ms"
        for each in frame.data
        if isinstance(each, TTFBMetricsData) and each.value > 0
    )


_SHOWN: Mapping[type, tuple[str, Callable[[Any], str]]] = {
    TranscriptionFrame: ("caller says", lambda frame: frame.text),
    TTSTextFrame: ("bot says", lambda frame: frame.text),
    FunctionCallInProgressFrame: ("function", lambda frame: frame.function_name),
    MetricsFrame: ("service", _first_bytes),
}
