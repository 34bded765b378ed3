"""What is known of a finished call, and where that goes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from gateway.transcript import Line
from media.call import CallInfo
from media.exchange import Answer

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.records")


@dataclass(slots=True)
class CallRecord:
    """What is known of a call when it is over."""

    info: CallInfo
    bot: str
    state: str
    ended_by: str
    reason: str
    duration_s: float
    counters: dict[str, int] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    answered_by: str = ""  # "human", "machine", "fax", "unknown"; "": nobody looked
    transcript: tuple[Line, ...] = ()  # where it is kept
    answers: tuple[Answer, ...] = ()  # how long the caller waited for each; for histograms


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
