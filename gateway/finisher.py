"""What must still be done for a call when its socket is gone, as values. Whoever executes them has the network."""

from __future__ import annotations

from collections import Counter

import structlog

from gateway.records import masked
from serializers.base import HangUp

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.finisher")


class Finisher:
    """Takes what outlives a call. There is no call control here that could execute it: it is counted and logged."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()

    def submit(self, value: HangUp) -> float | None:
        """Gives the seconds for which the carrier may take to close the socket; None: nobody has asked it to."""
        self.counters["hangup_unavailable"] += 1
        log.warning("hangup.unavailable", carrier=value.carrier, call=masked(value.call_id))
        return None


_process = Finisher()


def process_finisher() -> Finisher:
    """The finisher of this process, for calls that nobody gave one."""
    return _process
