"""What watches over a running pipeline: heartbeats, and whether anybody still speaks. Timers only, no tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from media.clock import Clock
from media.events import Handle
from media.flow import Runtime
from media.frames import Frame, HeartbeatFrame

log = logging.getLogger(__name__)

WINDOW_PERIODS = 10  # a heartbeat may be on its way for so many periods


class Heartbeats:
    """Sends a heartbeat every period, and warns when none has come through for a window."""

    def __init__(
        self,
        owner: object,
        runtime: Runtime,
        clock: Clock,
        push: Callable[[Frame], None],
        period_s: float,
        window_s: float | None,
    ) -> None:
        self._owner, self._runtime, self._clock, self._push = owner, runtime, clock, push
        self._period_s = period_s
        self._window_s = window_s or WINDOW_PERIODS * period_s
        self._last = 0.0  # when one came through, or a warning was given
        self._beat: Handle | None = None
        self._check: Handle | None = None

    def start(self) -> None:
        self._last = self._runtime.now()
        self._check = self._runtime.call_later(self._window_s, self._look)
        self._send()

    def stop(self) -> None:
        for timer in (self._beat, self._check):
            if timer is not None:
                timer.cancel()

    def arrived(self, frame: HeartbeatFrame) -> None:
        self._last = self._runtime.now()
        log.debug("task.heartbeat task=%s ms=%.3f", self._owner, (self._clock.get_time() - frame.timestamp) / 1e6)

    def _send(self) -> None:
        self._beat = self._runtime.call_later(self._period_s, self._send)
        self._push(HeartbeatFrame(timestamp=self._clock.get_time()))

    def _look(self) -> None:
        left = self._last + self._window_s - self._runtime.now()
        if left <= 0:
            log.warning("%s: heartbeat frame not received for more than %s seconds", self._owner, self._window_s)
            self._last = self._runtime.now()
            left = self._window_s
        self._check = self._runtime.call_later(left, self._look)


class IdleWatch:
    """Calls `tell` when no frame of the given types was seen for so long; again after each further period.

    A frame costs one look-up; the time of the last one is compared by one timer that sleeps through.
    """

    def __init__(
        self, runtime: Runtime, types: Iterable[type[Frame]], timeout_s: float, tell: Callable[[], None]
    ) -> None:
        self._runtime, self._timeout_s, self._tell = runtime, timeout_s, tell
        self._active = _Active(tuple(types))
        self._last = 0.0
        self._timer: Handle | None = None

    def start(self) -> None:
        self._last = self._runtime.now()
        self._timer = self._runtime.call_later(self._timeout_s, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def counts(self, cls: type) -> bool:
        """Whether frames of this class are activity."""
        return self._active[cls]

    def watch(self, frame: Frame) -> None:
        """A frame was seen."""
        if self._active[type(frame)]:
            self._last = self._runtime.now()

    def _look(self) -> None:
        left = self._last + self._timeout_s - self._runtime.now()
        if left <= 0:
            self._last = self._runtime.now()
            left = self._timeout_s
            self._timer = self._runtime.call_later(left, self._look)
            self._tell()
        else:
            self._timer = self._runtime.call_later(left, self._look)


class _Active(dict[type, bool]):
    """Which classes of frames are activity; each is looked up once."""

    def __init__(self, types: tuple[type[Frame], ...]) -> None:
        super().__init__()
        self._types = types

    def __missing__(self, cls: type) -> bool:
        self[cls] = issubclass(cls, self._types)
        return self[cls]
