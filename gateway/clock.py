"""The process's clock: one timer that ticks every call, instead of a timer per call."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

import structlog

from gateway.lean.rounds import Rounds

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.clock")

TICK_S = 0.020
PHASES = 4  # calls are spread over this many phases of a tick, so that their writers do not wake together
STEP_S = TICK_S / PHASES


class Ticked(Protocol):
    """Whoever wants to be told the time."""

    def tick(self, now: float) -> None: ...


class Clock:
    """Ticks every member each 20 ms; `lateness_s` says how late the loop was, the first sign of overload.

    Its beats, four to a tick, are the rounds in which sockets are read, `rounds`. Who works for many calls together has
    a turn at the end of each, `attend`.
    """

    def __init__(self) -> None:
        self.rounds = Rounds()
        self._phases: list[set[Ticked]] = [set() for _ in range(PHASES)]
        self._lateness: deque[float] = deque(maxlen=1000)  # the last five seconds
        self._phase = 0  # the next one
        self._attending: tuple[Callable[[float], None], ...] = ()
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._context = contextvars.Context()  # of no call: whoever starts it may have one
        self._users = 0
        self.ticks = 0

    now = staticmethod(time.monotonic)  # seconds

    def add(self, member: Ticked) -> None:
        was_idle = self._is_idle
        min(self._phases, key=len).add(member)
        if was_idle:
            self._hurry()

    def discard(self, member: Ticked) -> None:
        for phase in self._phases:
            phase.discard(member)

    def attend(self, callback: Callable[[float], None]) -> None:
        """Call `callback(now)` when all else is done in a beat, every STEP_S from now on. It must not raise.

        Once, however often it is said.
        """
        was_idle = self._is_idle
        self.leave(callback)
        self._attending = (*self._attending, callback)
        if was_idle:
            self._hurry()

    def leave(self, callback: Callable[[float], None]) -> None:
        """One that attends no longer; any other is ignored."""
        self._attending = tuple(each for each in self._attending if each != callback)

    @property
    def _is_idle(self) -> bool:
        """One beat stands for those of all phases then."""
        return not self._attending and not any(self._phases)

    def _hurry(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            now = self.now()
            self._due = min(self._due, now + STEP_S)
            self._again(max(0.0, self._due - now))

    def start(self) -> None:
        if self._timer is None:
            self._due = self.now() + STEP_S
            self._again(STEP_S)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.rounds.stop()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs at least until the last of those who use it like this has left."""
        self._users += 1
        self.start()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self.stop()

    def lateness_s(self, quantile: float = 0.99) -> float:
        """How late ticks were over the last five seconds."""
        if not self._lateness:
            return 0.0
        ordered = sorted(self._lateness)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]

    @property
    def is_settled(self) -> bool:
        """It has run so long that `lateness_s` says something: one late tick in the first second says little."""
        return len(self._lateness) == self._lateness.maxlen

    def _again(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._beat, context=self._context)

    def _beat(self) -> None:
        now, due = self.now(), self._due
        self.ticks += 1
        steps = PHASES if self._is_idle else 1
        self._lateness.extend((max(0.0, now - due),) * steps)
        # After a stall longer than a tick the missed phases are not made up: each call catches up by itself.
        step = steps * STEP_S
        self._due = due = due + step if now - due < TICK_S else now + step
        phase = self._phases[self._phase]
        self._phase = (self._phase + 1) % PHASES
        self._again(max(0.0, due - now))  # late: sockets are read, and it goes on at once
        self.rounds.read()
        if phase:
            _tick(tuple(phase), now)
        for callback in self._attending:
            callback(now)


def _tick(members: Sequence[Ticked], now: float) -> None:
    """One phase. A function of its own, so that a call that is over is not held by the loop's last look at it."""
    for member in members:
        try:
            member.tick(now)
        except Exception:
            log.exception("clock.member_failed", member=repr(member))


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, Clock] = WeakKeyDictionary()


def shared_clock() -> Clock:
    """The clock of the running loop, for calls that no Gateway carries. Use it by `running()`."""
    loop = asyncio.get_running_loop()
    clock = _shared.get(loop)
    if clock is None:
        clock = _shared[loop] = Clock()
    return clock
