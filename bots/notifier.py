"""Waking one part of a program from another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from media.events import DONE

__all__ = ["EventNotifier"]


class EventNotifier:
    """`notify()` wakes whoever waits, or the next one to wait."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> Awaitable[None]:
        self._event.set()
        return DONE

    async def wait(self) -> None:
        await self._event.wait()
        self._event.clear()
