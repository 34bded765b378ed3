"""UserIdleProcessor: calls back when nobody speaks. New programs use `user_idle_timeout` and on_user_turn_idle."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from media.events import DONE, MaybeAwaitable
from media.flow import FrameDirection
from media.frames import (
    BotSpeakingFrame,
    CancelFrame,
    EndFrame,
    Frame,
    FunctionCallCancelFrame,
    FunctionCallResultFrame,
    FunctionCallsStartedFrame,
    StopFrame,
    UserStartedSpeakingFrame,
    UserStoppedSpeakingFrame,
)
from media.processor import FrameProcessor
from media.turns.base import ByClass, Timer
from media.turns.mute import track_calls

_CALLS = ByClass(FunctionCallsStartedFrame, FunctionCallResultFrame, FunctionCallCancelFrame)
_ENDS = ByClass(EndFrame, CancelFrame, StopFrame)


class UserIdleProcessor(FrameProcessor):
    """Watches from the first speech on, and calls back after each `timeout` seconds without any.

    Args:
        callback: `callback(processor)`, or `callback(processor, retry_count)` that says whether to go on; `def` or
            `async def`. The count begins at 1 and again whenever the caller speaks. While it runs no time is counted.
        timeout: seconds.
    """

    def __init__(self, *, callback: Callable[..., Any], timeout: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._callback = callback
        self._counts = _takes_count(callback)
        self._timeout = timeout
        self._retry_count = 0
        self._watching = False
        self._over = False
        self._user_speaking = False
        self._calling_back = False
        self._calls: set[str] = set()
        self._timer = Timer(self.call_later, self._idle)

    @property
    def retry_count(self) -> int:
        """How often the caller was spoken to since he spoke last."""
        return self._retry_count

    def process_frame(self, frame: Frame, direction: FrameDirection) -> MaybeAwaitable:
        cls = type(frame)
        if _ENDS[cls]:
            self._stop()
        self.push_frame(frame, direction)
        if isinstance(frame, UserStartedSpeakingFrame):
            self._user_speaking = self._watching = True
            self._retry_count = 0
            self._settle()
        elif isinstance(frame, UserStoppedSpeakingFrame):
            self._user_speaking = False
            self._settle()
        elif isinstance(frame, BotSpeakingFrame):
            self._watching = True
            self._settle()
        elif _CALLS[cls]:
            track_calls(self._calls, frame)
            self._settle()
        return DONE

    def _settle(self) -> None:
        """Count anew from here, unless there is nothing to count."""
        if not self._watching or self._over or self._user_speaking or self._calling_back or self._calls:
            self._timer.cancel()
        else:
            self._timer.set(self._timeout)

    def _idle(self) -> None:
        self._retry_count += 1
        self._calling_back = True
        self._drive_by_hand(self._call_back(), f"{self}::callback")

    async def _call_back(self) -> None:
        go_on = True
        try:
            answer = self._callback(self, self._retry_count) if self._counts else self._callback(self)
            if inspect.isawaitable(answer):
                answer = await answer
            go_on = not self._counts or bool(answer)
        except Exception as exc:
            self.push_error(f"{type(exc).__name__} in the idle callback: {exc}", exc)
        finally:
            self._calling_back = False
        if go_on:
            self._settle()
        else:
            self._stop()

    def _stop(self) -> None:
        self._over = True
        self._timer.cancel()

    def cleanup(self) -> MaybeAwaitable:
        self._stop()
        return super().cleanup()


def _takes_count(callback: Callable[..., Any]) -> bool:
    """Whether `callback` takes the count beside the processor."""
    parameters = inspect.signature(callback).parameters.values()
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    return len(by_position) > 1
