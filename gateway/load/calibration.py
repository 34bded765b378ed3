"""How fast this core is just now: a fixed loop, timed in CPU time.

On a shared machine the same work costs up to twice as much from one minute to the next. Two runs can be compared as far
as their calibrations agree.
"""

from __future__ import annotations

import time

_ROUNDS = 60_000


def calibrate(tries: int = 3) -> float:
    """Milliseconds of CPU time for the loop; the best of `tries`."""
    best = float("inf")
    for _ in range(tries):
        began = time.thread_time()
        table, total = dict.fromkeys(range(64), 1), 0
        for n in range(_ROUNDS):
            total += table[n & 63] * (n ^ total & 0xFF)
        best = min(best, time.thread_time() - began)
    return 1000 * best
