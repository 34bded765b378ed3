"""The rules of an AudioHook session that need no frame: states, numbering, positions.

Source: Genesys Cloud developer centre, "AudioHook protocol", version "2": session walkthrough, protocol reference.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import Any

VERSION = "2"
MAX_MESSAGE_BYTES = 64_000  # of one WebSocket message, both ways
PROBE_CONVERSATION = "00000000-0000-0000-0000-000000000000"

Json = dict[str, Any]


class SessionState(Enum):
    """Where a session stands, as seen by the server. A pause is a flag beside ACTIVE, not a state."""

    PREPARING = "preparing"  # the socket stands, `open` has not come
    OPENING = "opening"  # `open` has come, `opened` has not left yet
    ACTIVE = "active"
    DISCONNECTING = "disconnecting"  # `disconnect` is on its way, the client's `close` has not come
    CLOSING = "closing"  # `close` has come, `closed` has not left yet
    CLOSED = "closed"


_S = SessionState
_UP = frozenset({_S.OPENING, _S.ACTIVE})
OPEN_STATES = _UP | {_S.DISCONNECTING}
_UNTIL_CLOSE = OPEN_STATES | {_S.PREPARING}
_UNTIL_CLOSED = _UNTIL_CLOSE | {_S.CLOSING}

# In which states a client's message means something; elsewhere it is dropped in silence.
TAKES: Mapping[str, frozenset[SessionState]] = {
    "open": frozenset({_S.PREPARING}),
    "ping": _UNTIL_CLOSED,
    "update": _UP,
    "dtmf": _UP,
    "playback_started": OPEN_STATES,
    "playback_completed": OPEN_STATES,
    "paused": _UP,
    "resumed": _UP,
    "discarded": _UP,
    "error": _UNTIL_CLOSED,
    "close": _UNTIL_CLOSE,
}

# What the server may say unasked, and when. All else is an answer, sent once for each message that asks for it.
MAY_SAY: Mapping[str, frozenset[SessionState]] = {
    "event": frozenset({_S.ACTIVE, _S.CLOSING}),
    "pause": frozenset({_S.ACTIVE}),
    "resume": frozenset({_S.ACTIVE}),
    "reconnect": frozenset({_S.ACTIVE}),
    "disconnect": _UP | {_S.PREPARING},
}

_AFTER_SENDING = {"opened": _S.ACTIVE, "disconnect": _S.DISCONNECTING, "closed": _S.CLOSED}


class Session:
    """State, numbers and position of one session. `fault` takes what came, `stamp` makes what goes."""

    def __init__(self, session_id: str, *, id_known: bool, rate: int) -> None:
        self.id = session_id
        self.id_known = id_known  # False: the first message tells
        self.state = SessionState.PREPARING
        self.paused = False
        self.client_seq = 0  # of the last message received
        self.server_seq = 0  # of the last message sent
        self.rate = rate  # Hz
        self.position = 0  # samples offered so far, with what was discarded and what a pause left out
        self.client_position = 0  # the same as the client's last message says it
        self.owed: Counter[str] = Counter()  # answers that have to be sent, by type

    def fault(self, message: Any) -> str:
        """What is wrong with the envelope of a client's message, "" if nothing; numbers and id are noted."""
        if not isinstance(message, dict):
            return "not an object"
        if message.get("version") != VERSION:
            return "version is not 2"
        if not isinstance(message.get("type"), str):
            return "no type"
        session_id = message.get("id")
        if not isinstance(session_id, str) or not session_id:
            return "no session id"
        if not self.id_known:
            self.id, self.id_known = session_id, True
        elif session_id.lower() != self.id.lower():
            return "another session's id"
        seq, expected = message.get("seq"), self.client_seq + 1
        if type(seq) is not int:
            return "no sequence number"
        self.client_seq = seq
        if seq != expected and self.state is not SessionState.DISCONNECTING:
            return f"sequence number {seq} where {expected} was due"
        seen = message.get("serverseq")
        if type(seen) is not int or not 0 <= seen <= self.server_seq:
            return "serverseq is not a number that was sent"
        if not isinstance(message.get("parameters"), dict):
            return "no parameters"
        position = parse_duration(message.get("position"))
        if position is None:
            return "no position"
        self.client_position = samples_in(position, self.rate)
        return ""

    def owe(self, answer: str) -> None:
        self.owed[answer] += 1

    def take_leave(self) -> None:
        """A `close` has come: of what was to be said, only pongs and `closed` still are."""
        pongs = self.owed["pong"]
        self.owed.clear()
        self.owed.update(pong=pongs, closed=1)
        self.state = SessionState.CLOSING

    def break_off(self) -> None:
        """The client broke the protocol: one `disconnect` is due, and then its `close`."""
        pongs = self.owed["pong"]
        self.owed.clear()
        self.owed.update(pong=pongs, disconnect=1)
        self.state = SessionState.DISCONNECTING

    def skip(self, duration: Decimal) -> None:
        """Seconds of audio never come; the position goes on as if they had."""
        self.position += samples_in(duration, self.rate)

    def may_send(self, kind: str) -> bool:
        return self.owed[kind] > 0 or self.state in MAY_SAY.get(kind, ())

    def stamp(self, kind: str, parameters: Mapping[str, Any], client_seq: int | None = None) -> str:
        """The text of the next message. Numbers are given in the order of sending, so it has to be sent.

        Raises TypeError or ValueError for parameters that are not JSON; then no number was used.
        """
        text = dumps(
            {
                "version": VERSION,
                "type": kind,
                "id": self.id,
                "seq": self.server_seq + 1,
                "clientseq": self.client_seq if client_seq is None else client_seq,
                "parameters": parameters,
            }
        )
        self.server_seq += 1
        if self.owed[kind]:
            self.owed[kind] -= 1
        if kind in _AFTER_SENDING:
            self.state = _AFTER_SENDING[kind]
        return text


def dumps(value: Any) -> str:
    """Compact JSON in ASCII, so that characters are bytes."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


# ---------------------------------------------------------------- durations

_DURATION = re.compile(r"PT(\d{0,12}\.)?\d{1,20}S", re.ASCII)


def parse_duration(text: Any) -> Decimal | None:
    """Seconds in "PT12.4S", exactly; None if it is not of that form."""
    if not isinstance(text, str) or not _DURATION.fullmatch(text):
        return None
    return Decimal(text[2:-1])


def samples_in(seconds: Decimal, rate: int) -> int:
    return int((seconds * rate).to_integral_value())


def format_duration(samples: int, rate: int) -> str:
    """ "PT12.4S", exactly where the rate allows it in nine digits (8000 Hz needs six)."""
    whole, rest = divmod(samples, rate)
    digits = f"{rest * 10**9 // rate:09d}".rstrip("0")
    return f"PT{whole}.{digits}S" if digits else f"PT{whole}S"
