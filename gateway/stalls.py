"""Who holds up the loop: a thread looks whether the clock still ticks, and if not, what is being run in its place.

All calls of a process wait for one another: a bot that computes, or waits without `await`, is silence for all. Nothing
can be done while it lasts, but it is named while it lasts, and the call whose code it was is ended behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import structlog

from bots.base import Call
from gateway.core import CallCore
from gateway.states import CallState
from media.processor import FrameProcessor

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.stalls")

LOOK_S = 0.25
BLOCKED_S = 1.0  # without a tick: it is in the log
ENDS_S = 5.0  # ... and the call whose code it was is over

_LIBRARIES = tuple(
    {str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


@dataclass(slots=True)
class Stall:
    """One of them. `at` is the line that runs, `by` the line of a program that led to it."""

    at: str
    by: str
    core: CallCore | None  # whose code it is, if that can be told
    began: float


class Stalls:
    """Watches the loop of the thread that calls `start`.

    Args:
        ticks: how often the clock has ticked: what does not change for BLOCKED_S is blocked.
    """

    def __init__(
        self,
        ticks: Callable[[], int],
        *,
        look_s: float = LOOK_S,
        blocked_s: float = BLOCKED_S,
        ends_s: float = ENDS_S,
    ) -> None:
        self._ticks, self._look_s, self._blocked_s, self._ends_s = ticks, look_s, blocked_s, ends_s
        self.count = 0
        self.seconds = 0.0  # of all that are over
        self.stall: Stall | None = None
        self._seen = -1
        self._since = self._looked = self._used = 0.0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._watched = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        self._loop, self._watched = asyncio.get_running_loop(), threading.get_ident()
        self._over.clear()
        self._since = self._looked = time.monotonic()
        self._used = time.process_time()
        self._thread = threading.Thread(target=self._run, name="stalls", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Quick: the thread only sleeps and looks."""
        self._over.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(5.0)
        self.stall = self._loop = None

    def _run(self) -> None:
        while not self._over.wait(self._look_s):
            try:
                self.look(time.monotonic(), time.process_time())
            except Exception:
                log.exception("stalls.failed")

    # ------------------------------------------------------------ looking

    def look(self, now: float, used: float) -> None:
        """At `now`, when the process has `used` so many seconds of processor time."""
        passed, busy = now - self._looked, used - self._used
        self._looked, self._used = now, used
        ticks = self._ticks()
        if ticks != self._seen:
            self._seen, self._since = ticks, now
            if self.stall is not None:
                self._is_over(self.stall, now)
        elif passed > 4 * self._look_s and busy < passed / 2:
            self._since = now  # the whole process stood still: nobody in it held up anybody
        elif self.stall is None and now - self._since >= self._blocked_s:
            self._begin(now)

    def _begin(self, now: float) -> None:
        frame = sys._current_frames().get(self._watched)
        frames = list(_outwards(frame))
        own = next((each for each in frames if not each.f_code.co_filename.startswith(_LIBRARIES)), None)
        self.stall = stall = Stall(_line(frame), _line(own), _core_in(frames), self._since)
        self.count += 1
        call = stall.core.info.call_id if stall.core is not None else ""
        log.error("loop.blocked", at=stall.at, by=stall.by, call=call, for_s=round(now - self._since, 1))

    def _is_over(self, stall: Stall, now: float) -> None:
        self.stall = None
        took_s = now - stall.began
        self.seconds += took_s
        log.warning("loop.goes_on", by=stall.by, after_s=round(took_s, 1))
        loop = self._loop
        if stall.core is not None and took_s >= self._ends_s and loop is not None:
            problem = f"it held up all calls for {took_s:.1f} s, at {stall.by}"
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_end, stall.core, problem)


def _end(core: CallCore, problem: str) -> None:
    if core.state in (CallState.LIVE, CallState.PAUSED):
        core.fail(problem)


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _line(frame: FrameType | None) -> str:
    if frame is None:
        return ""
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"


def _core_in(frames: list[FrameType]) -> CallCore | None:
    """The call in whose behalf this runs: the innermost function that knows one."""
    for frame in frames:
        for value in tuple(frame.f_locals.values()):
            if isinstance(value, CallCore):
                return value
            port: object = value._port if isinstance(value, Call) else None
            if isinstance(value, FrameProcessor):
                with contextlib.suppress(Exception):  # one that is bound to nothing
                    port = value.runtime
            if isinstance(port, CallCore):
                return port
    return None
