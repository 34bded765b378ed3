"""Whether this process has room for another call, by how late its clock ticks.

Counts say how many calls may be; lateness says how those that are up fare. Where it grows past the limit new calls are
refused, and taken again only when it has been well below the limit for a while: so admission does not flutter, and
callers who are let in do not bring back what was just over.

And whether the database takes what is written: without that no new call can be answered. The renewal of the worker's
lease shows it, a write that comes every few seconds, calls or none.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.health")

LOOK_S = 0.25  # between two looks at the lateness: many calls may ask at once
CALM_S = 3.0  # it must have been calm for so long
CALM_SHARE = 0.5  # of the limit: less is calm


class Health:
    """Says when new calls would be to the cost of live ones.

    Args:
        lateness_s: how late ticks are just now: the 99th percentile of the last seconds.
        limit_s: past it new calls are refused; 0: never.
    """

    def __init__(self, lateness_s: Callable[[], float], limit_s: Callable[[], float]) -> None:
        self._lateness_s, self._limit_s = lateness_s, limit_s
        self._looked_at = float("-inf")
        self._bad_at = float("-inf")
        self.overloaded = False
        self.unwritten = ""  # why the last write of the lease failed

    def wrote(self, problem: str) -> None:
        """What came of a write: "", or why it failed."""
        if problem and not self.unwritten:
            log.error("gateway.store_refuses", problem=problem)
        elif self.unwritten and not problem:
            log.info("gateway.store_takes_again")
        self.unwritten = problem

    def look(self, now: float) -> bool:
        """Whether new calls should be refused."""
        limit = self._limit_s()
        if not limit:
            self.overloaded = False
        elif now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self._judge(self._lateness_s(), limit, now)
        return self.overloaded

    def _judge(self, late: float, limit: float, now: float) -> None:
        if late > (limit * CALM_SHARE if self.overloaded else limit):
            self._bad_at = now
            if not self.overloaded:
                self.overloaded = True
                log.warning("gateway.overloaded", lateness_ms=round(1000 * late, 1), limit_ms=round(1000 * limit, 1))
        elif self.overloaded and now - self._bad_at >= CALM_S:
            self.overloaded = False
            log.info("gateway.recovered", lateness_ms=round(1000 * late, 1))
