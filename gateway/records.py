"""Where the record of a finished call goes."""

from __future__ import annotations

from typing import Protocol

import structlog

from gateway.core import CallRecord

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.records")


class RecordSink(Protocol):
    """Takes each call's record once, when the call is over. Must not wait."""

    def put(self, record: CallRecord) -> None: ...


class LogSink:
    """Writes one `call.ended` line per call."""

    def put(self, record: CallRecord) -> None:
        info = record.info
        log.info(
            "call.ended",
            call=info.call_id,
            carrier=info.carrier,
            direction=info.direction,
            from_number=masked(info.from_number),
            to_number=masked(info.to_number),
            bot=record.bot,
            state=record.state,
            ended_by=record.ended_by,
            reason=record.reason,
            duration_s=record.duration_s,
            variables=sorted(record.variables),
            **record.counters,
        )


def masked(number: str) -> str:
    """A phone number that may be logged: its last two digits."""
    return f"{'*' * max(0, len(number) - 2)}{number[-2:]}" if number else ""
