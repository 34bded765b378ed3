"""The live calls of this process: who is there, how many may be, and how all of them end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

import structlog

from gateway.session import CallSession
from gateway.store import CallKey

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.app")

LAST_WORDS_S = 20.0  # at most, for calls that were not over when the drain was
LOOK_S = 0.1  # between two looks whether one is on its way
CUT_S = 5.0  # for those that were cut off to be gone


class CallRegistry:
    """Counts a call from the moment its socket is let in until nothing of it is left."""

    def __init__(self, max_calls: int) -> None:
        self.max_calls = max_calls
        self.draining = False
        self.lets_in = True  # calls that were answered before the drain began
        self.ended = 0  # calls so far
        self._live: set[CallSession] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[CallSession]:
        return iter(tuple(self._live))

    def find(self, key: CallKey) -> CallSession | None:
        """The live call of that key."""
        return next((session for session in self._live if session.key == key), None)

    @property
    def full(self) -> bool:
        return len(self._live) >= self.max_calls

    def add(self, session: CallSession) -> None:
        self._live.add(session)
        self._empty.clear()

    def discard(self, session: CallSession) -> None:
        self.ended += session in self._live
        self._live.discard(session)
        if not self._live:
            self._empty.set()

    async def drain(
        self, limit_s: float, last_words_s: float = LAST_WORDS_S, coming: Callable[[], bool] = lambda: False
    ) -> int:
        """Wait for `limit_s` until calls have ended by themselves; whoever is left says what is queued, and ends.

        Those that are still there after `last_words_s` are cut off. Gives how many were. `coming`: a call was let in
        whose socket is on its way.
        """
        self.draining = self.lets_in = True
        for session in self:
            session.core.hand_over()
        gone = await self._gone(limit_s, coming)
        self.lets_in = False
        if gone:
            return 0
        log.info("gateway.last_words", calls=len(self._live), limit_s=last_words_s)
        for session in self:
            session.core.shutdown()
        if await self._gone(last_words_s):
            return 0
        cut = self.cut()
        await self._gone(CUT_S)
        return cut

    def cut(self) -> int:
        """End every call at once. Gives how many there were."""
        for session in self:
            session.core.cancel("shutdown")
        return len(self._live)

    async def _gone(self, limit_s: float, coming: Callable[[], bool] = lambda: False) -> bool:
        """Wait until no call is left, and none on its way; False: there was one for all that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._empty.wait()
                while coming():
                    await asyncio.sleep(LOOK_S)
                    await self._empty.wait()
        return not self._live
