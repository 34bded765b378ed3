"""The life of a call as a table: its states, and which event moves it where. docs/call.md draws it."""

from __future__ import annotations

from enum import Enum


class CallState(Enum):
    """Where a call stands."""

    OPENING = "opening"  # socket accepted, the carrier has not said what call this is
    LIVE = "live"
    PAUSED = "paused"  # the carrier holds the caller's audio back
    DRAINING = "draining"  # the last words are on their way to the caller's ear
    ENDING = "ending"  # the carrier was told; socket and serializer are still alive
    CLOSED = "closed"
    FAILED = "failed"  # never came to life


class CallEvent(Enum):
    """What moves a call from one state to another."""

    STARTED = "start message"
    START_TIMEOUT = "no start message in time"
    BOT_ENDED = "bot ends"
    CANCELLED = "cancelled"
    ERROR = "bot failed"
    CALLER_ENDED = "carrier says it is over"
    SOCKET_CLOSED = "socket closed"
    PAUSED = "carrier pauses"
    RESUMED = "carrier resumes"
    SILENT = "carrier sends nothing"
    TOO_LONG = "longest call"
    SHUTDOWN = "shutdown"
    PLAYED_OUT = "last sample heard"
    DRAIN_LIMIT = "drain limit"
    END_LIMIT = "carrier did not close"


_S, _E = CallState, CallEvent

# What is legal when. An event that is not listed for a state changes nothing.
TRANSITIONS: dict[tuple[CallState, CallEvent], CallState] = {
    (_S.OPENING, _E.STARTED): _S.LIVE,
    (_S.OPENING, _E.START_TIMEOUT): _S.FAILED,
    (_S.OPENING, _E.CALLER_ENDED): _S.FAILED,
    (_S.OPENING, _E.SOCKET_CLOSED): _S.FAILED,
    (_S.OPENING, _E.SHUTDOWN): _S.FAILED,
    (_S.OPENING, _E.CANCELLED): _S.FAILED,
    (_S.OPENING, _E.ERROR): _S.FAILED,
    **{
        (state, event): target
        for state in (_S.LIVE, _S.PAUSED)
        for event, target in {
            _E.BOT_ENDED: _S.DRAINING,
            _E.ERROR: _S.DRAINING,
            _E.TOO_LONG: _S.DRAINING,
            _E.SHUTDOWN: _S.DRAINING,
            _E.CANCELLED: _S.ENDING,
            _E.SILENT: _S.ENDING,
            _E.CALLER_ENDED: _S.CLOSED,
            _E.SOCKET_CLOSED: _S.CLOSED,
        }.items()
    },
    (_S.LIVE, _E.PAUSED): _S.PAUSED,
    (_S.PAUSED, _E.RESUMED): _S.LIVE,
    (_S.DRAINING, _E.PLAYED_OUT): _S.ENDING,
    (_S.DRAINING, _E.DRAIN_LIMIT): _S.ENDING,
    (_S.DRAINING, _E.CANCELLED): _S.ENDING,
    (_S.DRAINING, _E.CALLER_ENDED): _S.CLOSED,
    (_S.DRAINING, _E.SOCKET_CLOSED): _S.CLOSED,
    (_S.ENDING, _E.CALLER_ENDED): _S.CLOSED,
    (_S.ENDING, _E.SOCKET_CLOSED): _S.CLOSED,
    (_S.ENDING, _E.END_LIMIT): _S.CLOSED,
}
OVER = frozenset({CallState.CLOSED, CallState.FAILED})

# Who ended the call, by the event that did.
_ENDED_BY = {
    _E.BOT_ENDED: "bot",
    _E.CANCELLED: "bot",
    _E.CALLER_ENDED: "caller",
    _E.SOCKET_CLOSED: "caller",
}
# ... unless the carrier says why.
_ENDED_BY_REASON = {
    "carrier": "carrier",
    "error": "carrier",
    "protocol": "carrier",
    "reconnect": "gateway",
    "shutdown": "gateway",  # also of calls that are cut off
}


def who_ended(event: CallEvent, reason: str) -> str:
    by = _ENDED_BY.get(event, "gateway")
    return by if event in (_E.ERROR, _E.BOT_ENDED) else _ENDED_BY_REASON.get(reason, by)
