"""Telnyx TeXML: its webhooks, which are forms, and the documents that answer them.

Source: Telnyx docs, "TeXML" (`<Stream>`, `<Connect>`, `<Reject>`, `<Dial>`) and "TeXML webhooks". The documents are
TwiML with some attributes of Telnyx's own, and are built by Twilio's builder.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from webhooks.base import (
    AnsweredBy,
    CallStatus,
    CarrierEvent,
    Handled,
    HttpAnswer,
    InboundCall,
    Refusal,
    StreamOffer,
    StreamStatus,
    UnreadableRequest,
    Urls,
    WebRequest,
)
from webhooks.characters import for_xml, writable
from webhooks.signature import told
from webhooks.targets import order_of, own_query, read_target
from webhooks.telnyx_events import ended_by
from webhooks.telnyx_rest import ID, STATUSES

NOTED = HttpAnswer(status=204)

_STREAM_EVENTS: Mapping[str, str] = {
    "stream-started": "started",
    "stream-stopped": "stopped",
    "stream-error": "failed",
    "stream-failed": "failed",  # as another page of the documentation calls it
}
_DETECTED: Mapping[str, str] = {"human": "human", "fax": "fax"}
_SIP_HEADER = "SipHeader_"


def builder() -> Any:
    """An empty `<Response>`. Twilio's builder is imported here: who has no TeXML goes without."""
    return importlib.import_module("twilio.twiml.voice_response").VoiceResponse()


# ---------------------------------------------------------------- webhooks


def handle(route: str, request: WebRequest) -> Handled:
    form = request.fields
    call_id = form.get("CallSid", "")
    if not ID.fullmatch(call_id):
        raise UnreadableRequest("telnyx: CallSid is missing, or no id")
    if route == "after":
        return Handled(asks_after=call_id)
    events = _events(form, call_id)
    phase = STATUSES.get(form.get("CallStatus", ""))
    # An application without a status URL of its own may report the end where it asks for the document.
    if route == "answer" and not (phase is not None and phase.final):
        return Handled(incoming=_call(form, call_id, request))
    return Handled(answer=NOTED, events=events)


def _call(form: Mapping[str, str], call_id: str, request: WebRequest) -> InboundCall:
    parameters = own_query(request)
    for name, value in form.items():
        if name.startswith(_SIP_HEADER):
            parameters[name.removeprefix(_SIP_HEADER)] = value
    extra = {"connection_id": form.get("ConnectionId", ""), "call_sid_legacy": form.get("CallSidLegacy", "")}
    return InboundCall(
        carrier="telnyx",
        call_id=call_id,
        from_number=form.get("From", ""),
        to_number=form.get("To", ""),
        account_id=form.get("AccountSid", ""),
        direction=_direction(form),
        parameters=parameters,
        order=order_of(request),
        extra={name: value for name, value in extra.items() if value},
    )


def _direction(form: Mapping[str, str]) -> str:
    return "outbound" if form.get("Direction", "").startswith("outbound") else "inbound"


def _events(form: Mapping[str, str], call_id: str) -> list[CarrierEvent]:
    events: list[CarrierEvent] = []
    if what := _STREAM_EVENTS.get(form.get("StreamEvent", "")):
        stream_id = form.get("StreamSid", "")
        events.append(
            StreamStatus(
                carrier="telnyx",
                call_id=call_id,
                what=what,
                key=f"{stream_id} {what} {form.get('Timestamp', '')}",
                stream_id=stream_id,
                problem=told(form.get("StreamError", "")),
            )
        )
    if result := form.get("AnsweredBy", ""):
        who = "machine" if result.startswith("machine") else _DETECTED.get(result, "unknown")
        events.append(
            AnsweredBy(
                carrier="telnyx",
                call_id=call_id,
                who=who,
                key=f"{call_id} amd {result}",
                detail=result,
                beep=result.startswith("machine_end"),
            )
        )
    status = form.get("CallStatus", "")
    if "StreamEvent" not in form and (phase := STATUSES.get(status)):
        number = form.get("SequenceNumber") or form.get("Timestamp", "")
        events.append(
            CallStatus(
                carrier="telnyx",
                call_id=call_id,
                phase=phase,
                key=f"{call_id} {status} {number}".rstrip(),
                ended_by=ended_by(form.get("HangupSource", "").lower(), _direction(form) == "outbound"),
                cause=form.get("HangupCause", "") or (status if phase.final else ""),
                duration_s=_seconds(form.get("CallDuration", "")),
            )
        )
    return events


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 8 else None


# ---------------------------------------------------------------- documents


def connect(stream: StreamOffer, attributes: Mapping[str, str]) -> HttpAnswer:
    """The stream, with `attributes` (codecs and rates) by twilio's names. Nothing after it: the call ends with it."""
    response = builder()
    element = response.connect().stream(
        url=stream.media_url,
        track="inbound_track",
        bidirectional_mode="rtp",  # Telnyx's default, mp3, would make our audio noise
        status_callback=stream.urls.http("/telnyx/stream-status"),
        status_callback_method="POST",
        **attributes,
    )
    for name, value in stream.parameters.items():
        if writable(name + value):  # the bot has the others from the store
            element.parameter(name=name, value=value)
    return document(response)


def refuse(call: InboundCall, refusal: Refusal) -> HttpAnswer:
    kind, _, rest = refusal.instead.partition(":")
    response = builder()
    if kind == "number":
        _lead_to(response, rest)
    elif kind == "gateway":
        response.redirect(Urls(base=rest.rstrip("/")).http("/telnyx/answer"), method="POST")
    elif kind == "say":
        response.say(for_xml(rest))
        response.hangup()
    elif call.direction == "outbound":
        response.hangup()  # it has been answered: too late to be busy
    else:
        response.reject(reason="rejected" if kind == "rejected" else "busy")
    return document(response)


def hand_over(target: str | None) -> str:
    """What follows the stream: the target, or the end."""
    response = builder()
    if target:
        _lead_to(response, target)
    else:
        response.hangup()
    return str(response)


def _lead_to(response: Any, target: str) -> None:
    kind, target = read_target(target)
    if kind == "url":
        response.redirect(target, method="POST")
    elif kind == "sip":
        response.dial().sip(target)
    else:
        response.dial().number(target)


def document(response: Any) -> HttpAnswer:
    text = response if isinstance(response, str) else str(response)
    return HttpAnswer(body=text.encode(), content_type="application/xml")
