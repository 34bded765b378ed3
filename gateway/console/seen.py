"""What the gateway sees of one of its live calls, as entries of a timeline: who speaks, who has the floor, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.core import CallCore
from media.flow import Entry
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    ErrorFrame,
    FloorFrame,
    Frame,
    FunctionCallInProgressFrame,
    InterruptionFrame,
    MetricsFrame,
    TranscriptionFrame,
    TTSTextFrame,
    UserMuteStartedFrame,
    UserMuteStoppedFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.metrics import TTFBMetricsData
from media.processor import FrameDirection, FrameProcessor

REMEMBERED = 200  # frames that were told: each passes several links, and some come both ways

Told = Mapping[str, Any]
Tell = Callable[[Told, float], None]


class Seen:
    """Watches one call until it ends.

    Args:
        tell: called with an entry, and how many seconds ago it was: {"what": "voice" | "turn" | "bot", "on": bool} is
            an edge, {"what": ..., "detail": ...} a moment.
    """

    def __init__(self, core: CallCore, tell: Tell) -> None:
        self._core, self._tell = core, tell
        self._told: dict[int, None] = {}
        self._answers = len(core.exchange.answers)
        self._state = core.state
        assert core.pipeline is not None
        flow = core.input._flow
        before = flow.tap

        def tap(source: FrameProcessor, peer: FrameProcessor, direction: FrameDirection, entry: Entry) -> Entry:
            return self._seeing(entry if before is None else before(source, peer, direction, entry))

        flow.tap = tap
        flow.relink()
        if core.exchange.turns.bot_speaks:
            self._tell({"what": "bot", "on": True}, 0.0)

    def look(self) -> None:
        """What no frame says: call it every now and then."""
        core = self._core
        for answer in core.exchange.answers[self._answers :]:
            parts = "".join(f", {_PARTS[part]} {1000 * seconds:.0f} ms" for part, seconds in answer.parts.items())
            self._tell({"what": "answer", "detail": f"after {1000 * answer.wait_s:.0f} ms{parts}"}, 0.0)
        self._answers = len(core.exchange.answers)
        if core.state is not self._state:
            self._state = core.state
            self._tell({"what": "state", "detail": core.state.value}, 0.0)

    def _seeing(self, entry: Entry) -> Entry:
        def seeing(frame: Frame, direction: FrameDirection) -> None:
            show = _SHOWN.get(type(frame))
            if show is not None and self._is_new(frame):
                self._tell(*show(frame))
            entry(frame, direction)

        return seeing

    def _is_new(self, frame: Frame) -> bool:
        told = self._told
        if frame.id in told or frame.broadcast_sibling_id in told:
            return False
        told[frame.id] = None
        if len(told) > REMEMBERED:
            del told[next(iter(told))]
        return True


_PARTS = {"turn_end": "end of turn", "answer": "answer", "speech": "speech"}


def _edge(what: str, on: bool, ago: str = "") -> Callable[[Any], tuple[Told, float]]:
    """`ago`: the field that says how long the detector took."""
    return lambda frame: ({"what": what, "on": on}, getattr(frame, ago) if ago else 0.0)


def _moment(what: str, words: Callable[[Any], str]) -> Callable[[Any], tuple[Told, float]]:
    return lambda frame: ({"what": what, "detail": words(frame)}, 0.0)


def _interruption(frame: InterruptionFrame) -> str:
    heard = frame.heard
    if heard is None:
        return frame.reason
    cut = f"{heard.heard_ms} ms of the reply were heard, {heard.unheard_ms} ms were not"
    return f"{frame.reason}: {cut}" if frame.reason else cut


def _floor(frame: FloorFrame) -> str:
    values = ", ".join(f"{name} {value:g}" for name, value in frame.values.items())
    return f"{frame.decision}: {frame.reason}{f' ({values})' if values else ''}"


def _first_bytes(frame: MetricsFrame) -> str:
    return ", ".join(
        f"{each.processor}: first answer after {1000 * each.value:.0f} ms"
        for each in frame.data
        if isinstance(each, TTFBMetricsData) and each.value > 0
    )


_SHOWN: Mapping[type, Callable[[Any], tuple[Told, float]]] = {
    VADUserStartedSpeakingFrame: _edge("voice", True, "start_secs"),
    VADUserStoppedSpeakingFrame: _edge("voice", False, "stop_secs"),
    UserStartedSpeakingFrame: _edge("turn", True),
    UserStoppedSpeakingFrame: _edge("turn", False),
    BotStartedSpeakingFrame: _edge("bot", True),
    BotStoppedSpeakingFrame: _edge("bot", False),
    FloorFrame: _moment("floor", _floor),
    InterruptionFrame: _moment("interruption", _interruption),
    TranscriptionFrame: _moment("caller says", lambda frame: frame.text),
    TTSTextFrame: _moment("bot says", lambda frame: frame.text),
    FunctionCallInProgressFrame: _moment("function", lambda frame: frame.function_name),
    MetricsFrame: _moment("service", _first_bytes),
    UserMuteStartedFrame: _moment("caller is muted", lambda frame: ""),
    UserMuteStoppedFrame: _moment("caller is heard again", lambda frame: ""),
    ErrorFrame: _moment("error", lambda frame: frame.error),
}
