"""Observers of turns and of waits, for programs: what every call's record says, as events while it happens.

Each sees a frame once, at its first hop; frames that are broadcast count once for both directions.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from media.events import DONE, Handle, MaybeAwaitable
from media.exchange import Turns
from media.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    CancelFrame,
    ClientConnectedFrame,
    EndFrame,
    Frame,
    FunctionCallInProgressFrame,
    FunctionCallResultFrame,
    MetricsFrame,
    StartFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from media.metrics import TextAggregationMetricsData, TTFBMetricsData
from media.observers import BaseObserver, FramePushed

__all__ = [
    "FunctionCallMetrics",
    "LatencyBreakdown",
    "TTFBBreakdownMetrics",
    "TextAggregationBreakdownMetrics",
    "TurnTrackingObserver",
    "UserBotLatencyObserver",
]


class _Edges(BaseObserver):
    """Acts on frames by class, each of them once."""

    def __init__(self, max_frames: int, acts: dict[type[Frame], Callable[[Any, float], None]]) -> None:
        super().__init__()
        self._seen: deque[int | None] = deque(maxlen=2 * max_frames)
        self._acts = acts
        self.frame_types = tuple(acts)

    def on_push_frame(self, data: FramePushed) -> MaybeAwaitable:
        frame = data.frame
        if frame.id in self._seen:
            return DONE
        self._seen.extend((frame.id, frame.broadcast_sibling_id))
        for cls in type(frame).__mro__:
            act = self._acts.get(cls)
            if act is not None:
                act(frame, data.timestamp / 1e9)
                break
        return DONE


class TurnTrackingObserver(_Edges):
    """Counts turns: what the caller says, and the bot's answer. The first turn begins with StartFrame.

    Events: on_turn_started(number), on_turn_ended(number, seconds, was_interrupted). A turn is interrupted if the
    caller speaks while the bot does, or the pipeline ends.

    Args:
        max_frames: so many frames are remembered, to take each once.
        turn_end_timeout_secs: so long after the bot's last word a turn ends where nobody says anything.
    """

    def __init__(self, max_frames: int = 100, turn_end_timeout_secs: float = 2.5) -> None:
        super().__init__(
            max_frames,
            {
                StartFrame: lambda frame, now: self._turns.begin(now),
                UserStartedSpeakingFrame: self._on_user,
                BotStartedSpeakingFrame: self._on_bot,
                BotStoppedSpeakingFrame: self._on_bot_silent,
                EndFrame: self._on_end,
                CancelFrame: self._on_end,
            },
        )
        for event in ("on_turn_started", "on_turn_ended"):
            self._register_event_handler(event)
        self._timeout_s = turn_end_timeout_secs
        self._timer: Handle | None = None
        self._turns = Turns(
            lambda number: self._tell("on_turn_started", number), lambda *turn: self._tell("on_turn_ended", *turn)
        )

    def _tell(self, event: str, *args: Any) -> None:
        self._call_event_handler(event, *args)

    def _on_user(self, frame: Frame, now: float) -> None:
        self._stop_timer()
        self._turns.user_spoke(now)

    def _on_bot(self, frame: Frame, now: float) -> None:
        self._stop_timer()
        self._turns.bot_started(now)

    def _on_bot_silent(self, frame: Frame, now: float) -> None:
        self._stop_timer()
        self._turns.bot_stopped(now)
        runtime: Any = self._base.drives
        if self._turns.is_open and runtime is not None:
            end = now + self._timeout_s
            self._timer = runtime.call_later(self._timeout_s, lambda: self._turns.timed_out(end))

    def _on_end(self, frame: Frame, now: float) -> None:
        self._stop_timer()
        self._turns.cut_off(now)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def cleanup(self) -> MaybeAwaitable:
        self._stop_timer()
        return super().cleanup()


# ---------------------------------------------------------------- from the caller's last sound to the bot's first


@dataclass(slots=True)
class TTFBBreakdownMetrics:
    """A service's first byte. `start_time`: Unix seconds, as everywhere here."""

    processor: str
    start_time: float
    duration_secs: float
    model: str | None = None


@dataclass(slots=True)
class TextAggregationBreakdownMetrics:
    """From a model's first token to its first sentence."""

    processor: str
    start_time: float
    duration_secs: float


@dataclass(slots=True)
class FunctionCallMetrics:
    function_name: str
    start_time: float
    duration_secs: float


@dataclass(slots=True)
class LatencyBreakdown:
    """What one wait was made of; the services' times are there if the task has `enable_metrics`."""

    ttfb: list[TTFBBreakdownMetrics] = field(default_factory=list)
    text_aggregation: TextAggregationBreakdownMetrics | None = None
    user_turn_start_time: float | None = None  # the caller's last sound
    user_turn_secs: float | None = None  # from there until his turn was over
    function_calls: list[FunctionCallMetrics] = field(default_factory=list)

    def chronological_events(self) -> list[str]:
        """A line for each, as they began."""
        events = [(one.start_time, f"{one.processor}: TTFB {one.duration_secs:.3f}s") for one in self.ttfb]
        events += [
            (call.start_time, f"{call.function_name}: {call.duration_secs:.3f}s") for call in self.function_calls
        ]
        if (text := self.text_aggregation) is not None:
            events.append((text.start_time, f"{text.processor}: text aggregation {text.duration_secs:.3f}s"))
        if self.user_turn_start_time is not None and self.user_turn_secs is not None:
            events.append((self.user_turn_start_time, f"User turn: {self.user_turn_secs:.3f}s"))
        return [line for _, line in sorted(events, key=lambda event: event[0])]


class UserBotLatencyObserver(_Edges):
    """How long the caller waited for each answer.

    Events: on_latency_measured(seconds), on_latency_breakdown(LatencyBreakdown), on_first_bot_speech_latency(seconds
    from ClientConnectedFrame, once).
    """

    def __init__(self, max_frames: int = 100) -> None:
        super().__init__(
            max_frames,
            {
                StartFrame: self._on_start,
                ClientConnectedFrame: self._on_client,
                VADUserStartedSpeakingFrame: self._on_voice,
                VADUserStoppedSpeakingFrame: self._on_silence,
                UserStoppedSpeakingFrame: self._on_turn_end,
                MetricsFrame: self._on_metrics,
                FunctionCallInProgressFrame: self._on_function,
                FunctionCallResultFrame: self._on_result,
                BotStartedSpeakingFrame: self._on_bot,
            },
        )
        for event in ("on_latency_measured", "on_latency_breakdown", "on_first_bot_speech_latency"):
            self._register_event_handler(event)
        self._unix = 0.0  # Unix seconds at the task clock's zero
        self._connected_at: float | None = None
        self._spoken = False
        self._silent_at: float | None = None
        self._functions: dict[str, float] = {}
        self._found = LatencyBreakdown()

    def _begin(self) -> None:
        self._found = LatencyBreakdown()
        self._functions.clear()

    def _on_start(self, frame: Frame, now: float) -> None:
        self._unix = time.time() - now

    def _on_client(self, frame: Frame, now: float) -> None:
        if self._connected_at is None:
            self._connected_at = now

    def _on_voice(self, frame: Frame, now: float) -> None:
        self._silent_at = None
        self._begin()

    def _on_silence(self, frame: VADUserStoppedSpeakingFrame, now: float) -> None:
        self._silent_at = now - frame.stop_secs
        self._found.user_turn_start_time = self._unix + self._silent_at

    def _on_turn_end(self, frame: Frame, now: float) -> None:
        if self._silent_at is not None and self._found.user_turn_secs is None:
            self._found.user_turn_secs = now - self._silent_at

    def _on_metrics(self, frame: MetricsFrame, now: float) -> None:
        for data in frame.data:
            if isinstance(data, TTFBMetricsData) and data.value > 0:
                began = self._unix + now - data.value
                self._found.ttfb.append(TTFBBreakdownMetrics(data.processor, began, data.value, data.model))
            elif isinstance(data, TextAggregationMetricsData) and self._found.text_aggregation is None:
                began = self._unix + now - data.value
                self._found.text_aggregation = TextAggregationBreakdownMetrics(data.processor, began, data.value)

    def _on_function(self, frame: FunctionCallInProgressFrame, now: float) -> None:
        self._functions[frame.tool_call_id] = now

    def _on_result(self, frame: FunctionCallResultFrame, now: float) -> None:
        began = self._functions.pop(frame.tool_call_id, None)
        if began is not None:
            self._found.function_calls.append(FunctionCallMetrics(frame.function_name, self._unix + began, now - began))

    def _on_bot(self, frame: Frame, now: float) -> None:
        first = not self._spoken and self._connected_at is not None
        self._spoken = True
        if first and self._connected_at is not None:
            self._call_event_handler("on_first_bot_speech_latency", now - self._connected_at)
        silent_at, self._silent_at = self._silent_at, None
        if silent_at is not None:
            self._call_event_handler("on_latency_measured", now - silent_at)
        if first or silent_at is not None:
            self._call_event_handler("on_latency_breakdown", self._found)
            self._begin()
