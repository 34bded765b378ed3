"""Python's cyclic garbage collector, as a process with many calls wants it.

Left alone, it looks through everything that was ever imported, and lets the remains of hundreds of calls pile up
before it frees them in one go: both hold the loop for 50 to 200 ms. So what is there at the start is taken out of its
sight, and what calls leave behind is freed every second in which calls have come, which takes milliseconds.
"""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Final

PERIOD_S: Final = 1.0
LATEST_S: Final = 30.0  # ... and that often where none come
_FEW: Final = 2000  # new objects, those of some ten calls: fewer are no reason to look through all that live
SHARE: Final = 0.05  # of a core: where a collection takes longer, the next one is put off
_YOUNG: Final = 20_000  # new objects between two small collections, which take 2 ms then
_NEVER: Final = 1_000_000  # collections of everything: those are ours to begin


def settle() -> None:
    """Whatever is there now stays: it is never looked at again. Large collections come by `collect` only."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 10, _NEVER)


def collect() -> float:
    """Free what calls have left behind. Gives the seconds until it should be done again."""
    began = time.thread_time()
    gc.collect()
    return max(PERIOD_S, (time.thread_time() - began) / SHARE)


def is_due() -> bool:
    """Whether much has come since the last collection. Calls that go on leave nothing behind."""
    young, middle, _ = gc.get_count()
    return young > _FEW or middle > 0


def keep_clear() -> None:
    """Settle, and collect as long as the running loop runs."""
    loop = asyncio.get_running_loop()
    last = loop.time()

    def again() -> None:
        nonlocal last
        wait_s = PERIOD_S
        if is_due() or loop.time() - last >= LATEST_S:
            wait_s = collect()
            last = loop.time()
        loop.call_later(wait_s, again)

    settle()
    loop.call_later(PERIOD_S, again)
