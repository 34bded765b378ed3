"""Python's cyclic garbage collector, as a process with many calls wants it.

Left alone, it looks through everything that was ever imported, and lets the remains of hundreds of calls pile up
before it frees them in one go: both hold the loop for 50 to 200 ms. So what is there at the start is taken out of its
sight. A full collection looks at every live call, which takes 0.1 ms each, and most calls leave nothing behind that
refers to itself: so one is begun when enough of them have ended, counted by what earlier ones had left, and when the
last one has ended, and nobody is there to hear it.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Final

PERIOD_S: Final = 1.0
LATEST_S: Final = 300.0  # what else may lie about is looked for that often
ENOUGH: Final = 20_000  # objects that ended calls may have left behind: some megabytes
SHARE: Final = 0.05  # of a core: where a collection takes longer, the next one is put off
_EACH: Final = 200.0  # such objects of one call, until it is known
_LEAST: Final = 2.0  # ... and however few they were, for what is left may change
_YOUNG: Final = 20_000  # new objects between two small collections, which take 2 ms then
_NEVER: Final = 1_000_000  # collections of everything: those are ours to begin


def settle() -> None:
    """Whatever is there now stays: it is never looked at again. Large collections come by a Collector only."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, _NEVER)


class Collector:
    """Begins the large collections.

    Args:
        ended: how many calls have ended so far.
        live: how many there are.
        now: seconds, of any clock.
    """

    def __init__(self, ended: Callable[[], int], live: Callable[[], int], now: float) -> None:
        self._ended, self._live = ended, live
        self._seen, self._last = ended(), now
        self.left_each = _EACH  # objects that one call leaves behind in rings

    def is_due(self, now: float) -> bool:
        ended = self._ended() - self._seen
        if ended and not self._live():
            return True
        return ended * self.left_each >= ENOUGH or now - self._last >= LATEST_S

    def collect(self, now: float) -> float:
        """Free what is left behind. Gives the seconds until it may be done again."""
        began = time.thread_time()
        found = gc.collect()
        took = time.thread_time() - began
        ended = self._ended()
        if ended > self._seen:
            self.left_each = max(_LEAST, found / (ended - self._seen))
        self._seen, self._last = ended, now
        return max(PERIOD_S, took / SHARE)


def keep_clear(ended: Callable[[], int], live: Callable[[], int]) -> None:
    """Settle, and collect as long as the running loop runs. The arguments are those of Collector."""
    loop = asyncio.get_running_loop()
    collector = Collector(ended, live, loop.time())

    def again() -> None:
        now = loop.time()
        loop.call_later(collector.collect(now) if collector.is_due(now) else PERIOD_S, again)

    settle()
    loop.call_later(PERIOD_S, again)
