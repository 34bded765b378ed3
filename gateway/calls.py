"""The live calls of this process: who is there, how many may be, and how all of them end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from gateway.session import CallSession
from gateway.store import CallKey


class CallRegistry:
    """Counts a call from the moment its socket is let in until nothing of it is left."""

    def __init__(self, max_calls: int) -> None:
        self.max_calls = max_calls
        self.draining = False
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

    async def drain(self, limit_s: float) -> int:
        """Let every call say its last words and end; cut off what is left at the limit. Gives how many were cut."""
        self.draining = True
        for session in self:
            session.core.shutdown()
        try:
            async with asyncio.timeout(limit_s):
                await self._empty.wait()
        except TimeoutError:
            cut = len(self._live)
            for session in self:
                session.core.cancel("shutdown")
            try:
                async with asyncio.timeout(5.0):
                    await self._empty.wait()
            except TimeoutError:
                pass
            return cut
        return 0
