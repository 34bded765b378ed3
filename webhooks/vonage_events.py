"""What Vonage's webhooks say: calls that want a document, and events of both legs of a call.

A call has a phone leg, by whose uuid it is known, and a leg that is our media socket, with a uuid of its own that
only its events carry. The socket's events come to a URL that names the call (`socket_events_url`), and may be
answered with an NCCO.

Source: Vonage Voice API, "Webhook reference".
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from webhooks import vonage_ncco
from webhooks.base import (
    AnsweredBy,
    CallPhase,
    CallStatus,
    CarrierEvent,
    InboundCall,
    StreamStatus,
    UnreadableRequest,
    Urls,
    WebRequest,
)
from webhooks.characters import whole
from webhooks.vonage_ncco import CALL

log = logging.getLogger(__name__)

Said = Mapping[str, Any]

PHASES: Mapping[str, CallPhase] = {
    "started": CallPhase.QUEUED,
    "ringing": CallPhase.RINGING,
    "answered": CallPhase.ANSWERED,
    "human": CallPhase.ANSWERED,
    "machine": CallPhase.ANSWERED,
    "completed": CallPhase.COMPLETED,
    "busy": CallPhase.BUSY,
    "unanswered": CallPhase.NO_ANSWER,
    "timeout": CallPhase.NO_ANSWER,
    "rejected": CallPhase.FAILED,
    "failed": CallPhase.FAILED,
    "cancelled": CallPhase.CANCELED,
}
# Of the socket's leg; "disconnected": our side closed.
_STREAM: Mapping[str, str] = {
    "answered": "started",
    "completed": "stopped",
    "disconnected": "stopped",
    "failed": "failed",
    "unanswered": "failed",
    "rejected": "failed",
    "busy": "failed",
    "timeout": "failed",
    "cancelled": "stopped",  # the caller went while the socket was being opened
}
LOST = frozenset({"disconnected", "failed", "unanswered", "rejected", "busy", "timeout"})  # and the caller still there

_UUID = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE)
_SIP_HEADER = "SipHeader_"
_DETAILS = ("start_time", "end_time", "rate", "price", "network", "sip_code", "disconnected_by")
_URL = re.compile(r"\b[a-z]{2,5}://\S+", re.IGNORECASE)
_DIGITS = re.compile(r"\d{4,}")


def is_call_id(text: object) -> bool:
    """Whether `text` can stand in a path: the uuid of a leg, in either of the two ways in which Vonage writes it."""
    return isinstance(text, str) and _UUID.fullmatch(text) is not None


def read(request: WebRequest) -> Said:
    """The fields of a webhook. Raises UnreadableRequest."""
    if request.method == "GET":
        return request.fields
    try:
        said = request.json
    except (ValueError, RecursionError):
        raise UnreadableRequest("vonage: the body is not JSON") from None
    if not isinstance(said, dict):
        raise UnreadableRequest("vonage: the body is no JSON object")
    passed_on = said.get("payload")  # of a `notify`, by which another gateway passes on a call
    return {**said, **passed_on} if isinstance(passed_on, dict) else said


# ---------------------------------------------------------------- a call that wants a document


def call(said: Said, *, account_id: str, region_url: str, placed: bool) -> InboundCall:
    """The call of an answer webhook.

    Args:
        region_url: what it said, if it may be believed.
        placed: it answers a call of ours.

    Raises UnreadableRequest.
    """
    call_id = said.get("uuid")
    if not isinstance(call_id, str) or not is_call_id(call_id):
        raise UnreadableRequest("vonage: an answer webhook without the uuid of a leg")
    from_number = vonage_ncco.e164(_text(said.get("from")) or _text(said.get("from_user")))
    to_number = vonage_ncco.e164(_text(said.get("to")))
    extra = {
        "region_url": region_url,
        "conversation_uuid": _text(said.get("conversation_uuid")),
        "number": from_number if placed else to_number,
    }
    return InboundCall(
        carrier="vonage",
        call_id=call_id,
        from_number=from_number,
        to_number=to_number,
        account_id=account_id,
        direction="outbound" if placed else "inbound",
        parameters=_parameters(said),
        extra={name: value for name, value in extra.items() if value},
    )


def _parameters(said: Said) -> dict[str, str]:
    """SIP headers, and what an app of the client SDK gave along."""
    found = {
        name.removeprefix(_SIP_HEADER): _text(value) for name, value in said.items() if name.startswith(_SIP_HEADER)
    }
    data = said.get("custom_data")
    if isinstance(data, str):
        with contextlib.suppress(ValueError, RecursionError):
            data = json.loads(data)
    if isinstance(data, dict):
        found |= {name: _text(value) if isinstance(value, str) else json.dumps(value) for name, value in data.items()}
    elif data:
        found["custom_data"] = _text(data)
    return {whole(name): value for name, value in found.items()}


# ---------------------------------------------------------------- events


def socket_events_url(urls: Urls, call: InboundCall) -> str:
    """Where the events of the call's socket go. It says how often the socket was lost before."""
    named = {"call": call.call_id, "lost": call.extra.get("lost", "0")}
    if call.direction == "outbound":
        named["placed"] = "1"
    return urls.http(f"/vonage/after?{urlencode(named)}")


def events(said: Said, named: str = "") -> tuple[list[CarrierEvent], bool]:
    """What an event reports; and whether a socket has gone whose caller has not.

    Args:
        named: the call's phone leg, from the URL.
    """
    status, leg = _text(said.get("status")), _text(said.get("uuid")) or _text(said.get("call_uuid"))
    if not status:
        _mention(said)
        return [], False
    if is_socket(said, named):
        return _of_socket(said, status, leg, named or _named(said))
    if not is_call_id(leg):
        raise UnreadableRequest("vonage: an event without the uuid of a leg")
    return _of_phone(said, status, leg), False


def is_socket(said: Said, named: str = "") -> bool:
    """Whether an event is about our socket's leg, and not about the phone's."""
    leg = _text(said.get("uuid")) or _text(said.get("call_uuid"))
    if named and leg:
        return leg != named
    return _text(said.get("to")).lower().startswith(("ws:", "wss:")) or bool(_named(said))


def again(said: Said, call_id: str, *, lost: int, placed: bool) -> InboundCall:
    """The call whose socket has gone, to be admitted once more. Its socket's leg is from our number."""
    echoed = said.get("headers")
    number = vonage_ncco.e164(_text(said.get("from")))
    extra = {"lost": str(lost + 1), "number": number, "conversation_uuid": _text(said.get("conversation_uuid"))}
    return InboundCall(
        carrier="vonage",
        call_id=call_id,
        from_number=number if placed else "",
        to_number="" if placed else number,
        direction="outbound" if placed else "inbound",
        parameters=vonage_ncco.parameters(echoed) if isinstance(echoed, dict) else {},
        extra={name: value for name, value in extra.items() if value},
        again=True,
    )


def _of_socket(said: Said, status: str, leg: str, call_id: str) -> tuple[list[CarrierEvent], bool]:
    what = _STREAM.get(status)
    if not is_call_id(call_id) or what is None:
        return [], False
    problem = _problem(said, status) if what == "failed" else ""
    event = StreamStatus(
        carrier="vonage", call_id=call_id, what=what, key=f"{leg} {status}", stream_id=leg, problem=problem
    )
    return [event], status in LOST


def _of_phone(said: Said, status: str, leg: str) -> list[CarrierEvent]:
    if status in ("human", "machine"):
        detail = _text(said.get("sub_state"))
        return [
            AnsweredBy(
                carrier="vonage",
                call_id=leg,
                who=status,
                key=f"{leg} {status} {detail}",
                detail=detail,
                beep=detail == "beep_start",
            )
        ]
    phase = PHASES.get(status)
    if phase is None:
        return []
    return [
        CallStatus(
            carrier="vonage",
            call_id=leg,
            phase=phase,
            key=f"{leg} {status}",  # a leg has each status once; what comes twice was delivered twice
            ended_by="caller" if phase.final and said.get("disconnected_by") == "user" else "",
            cause=_problem(said, status) if phase.final else "",
            duration_s=_seconds(said.get("duration")),
            details={name: text for name in _DETAILS if (text := _text(said.get(name)))},
        )
    ]


def _named(said: Said) -> str:
    """The call in the headers that the socket's events hand back."""
    echoed = said.get("headers")
    return _text(echoed.get(CALL)) if isinstance(echoed, dict) else ""


def _mention(said: Said) -> None:
    """Events without status: a transfer, an input, a recording; or an error, of a conversation and of no leg."""
    if "reason" in said and "uuid" not in said:
        log.warning("vonage: it reports an error: %s", _problem(said, "no reason"))
    else:
        log.debug("vonage: an event without status, with %s", ", ".join(sorted(said))[:200])


def _problem(said: Said, otherwise: str) -> str:
    """Vonage's reason, without what may be in it: URLs with a token, numbers."""
    text = _text(said.get("reason")) or _text(said.get("detail"))
    return _DIGITS.sub("#", _URL.sub("<url>", text))[:120] or otherwise


def _text(value: object) -> str:
    if isinstance(value, str):
        return whole(value)
    return str(value) if type(value) in (int, float) else ""


def _seconds(value: object) -> float | None:
    text = _text(value)
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds < 1e7 else None
