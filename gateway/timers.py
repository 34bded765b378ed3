"""The timers of one call: deadlines that are looked at when its clock ticks. No loop, no task."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable


class Timer:
    """One callback that is still to come."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Timers:
    """Callbacks by the time at which they are due."""

    __slots__ = ("_due", "_ids", "next_at")

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Timer]] = []
        self._ids = itertools.count()
        self.next_at = math.inf  # `run` has nothing to do before

    def at(self, when: float, callback: Callable[[], None]) -> Timer:
        """`callback` at the first `run` from `when` on."""
        timer = Timer(callback)
        heapq.heappush(self._due, (when, next(self._ids), timer))
        self.next_at = self._due[0][0]
        return timer

    def run(self, now: float, failed: Callable[[Exception], None]) -> None:
        """Call what is due by `now`; what raises is told to `failed`, and the others follow."""
        due = self._due
        while due and due[0][0] <= now:
            callback = heapq.heappop(due)[2].callback
            if callback is not None:
                try:
                    callback()
                except Exception as exc:
                    failed(exc)
        self.next_at = due[0][0] if due else math.inf

    def clear(self) -> None:
        self._due.clear()
        self.next_at = math.inf
