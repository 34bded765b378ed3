"""Plivo's webhooks, which are forms, and the documents that answer them, by Plivo's own builder.

Source: Plivo docs, "Plivo XML" (`<Stream>`, `<Hangup>`, `<Dial>`), "Call status callbacks" and "Stream callbacks",
whose pages name the stream's events in two ways.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from webhooks.base import (
    AnsweredBy,
    CallPhase,
    CallStatus,
    CarrierEvent,
    HttpAnswer,
    InboundCall,
    Refusal,
    StreamOffer,
    StreamStatus,
    Urls,
    WebRequest,
)
from webhooks.characters import for_xml
from webhooks.signature import told
from webhooks.targets import order_of, own_query, read_target

STATUSES: Mapping[str, CallPhase] = {
    "queued": CallPhase.QUEUED,
    "ringing": CallPhase.RINGING,
    "in-progress": CallPhase.ANSWERED,
    "completed": CallPhase.COMPLETED,
    "busy": CallPhase.BUSY,
    "failed": CallPhase.FAILED,
    "timeout": CallPhase.NO_ANSWER,
    "no-answer": CallPhase.NO_ANSWER,
    "cancel": CallPhase.CANCELED,
    "canceled": CallPhase.CANCELED,
}
CONTENT_TYPES: Mapping[str, str] = {"PCMU": "audio/x-mulaw", "L16": "audio/x-l16"}

_STREAM_EVENTS: Mapping[str, str] = {  # of the XML reference, and of the guide
    "startstream": "started",
    "started": "started",
    "stopstream": "stopped",
    "stopped": "stopped",
    "droppedstream": "failed",
    "failed": "failed",
    "degradedstream": "degraded",
    "degraded": "degraded",
}
_HUNG_UP_BY: Mapping[tuple[str, str], str] = {  # HangupSource and the call's direction
    ("caller", "inbound"): "caller",
    ("callee", "inbound"): "bot",
    ("caller", "outbound"): "bot",
    ("callee", "outbound"): "caller",
}
_SIP_HEADER = re.compile(r"(?:SIP-H-)?(X-.+)", re.IGNORECASE)
_OPAQUE = re.compile(r"[A-Za-z0-9]{1,500}")  # extraHeaders has 512 bytes, and letters and digits only


def builder() -> Any:
    """Plivo's XML module, imported where it is used: that takes a tenth of a second."""
    return importlib.import_module("plivo.xml")


# ---------------------------------------------------------------- webhooks


def call(form: Mapping[str, str], call_id: str, request: WebRequest) -> InboundCall:
    extra = {"request_uuid": form.get("RequestUUID", ""), "aleg_uuid": form.get("ALegUUID", "")}
    headers = {found[1]: value for name, value in form.items() if (found := _SIP_HEADER.fullmatch(name))}
    return InboundCall(
        carrier="plivo",
        call_id=call_id,
        from_number=form.get("From", ""),
        to_number=form.get("To", ""),
        direction="outbound" if form.get("Direction") == "outbound" else "inbound",
        parameters={**own_query(request), **headers},
        order=order_of(request),
        extra={name: value for name, value in extra.items() if value},
    )


def phase(form: Mapping[str, str]) -> CallPhase | None:
    """What is said of the call: a hang-up is one whatever its status says."""
    found = STATUSES.get(form.get("CallStatus", "").lower())
    if form.get("Event", "").lower() == "hangup" and (found is None or not found.final):
        return CallPhase.COMPLETED
    return found


def events(form: Mapping[str, str], call_id: str) -> list[CarrierEvent]:
    """What a callback reports; nothing, if it is of a kind that means nothing here."""
    reported: list[CarrierEvent] = []
    machine = form.get("Machine", "").lower()
    if machine in ("true", "false"):
        who = "machine" if machine == "true" else "human"
        reported.append(AnsweredBy(carrier="plivo", call_id=call_id, who=who, key=f"{call_id} machine {machine}"))
    if found := phase(form):
        event, status = form.get("Event", ""), form.get("CallStatus", "")
        details = {name: form[name] for name in ("HangupCauseCode", "RequestUUID", "TotalCost") if form.get(name)}
        reported.append(
            CallStatus(
                carrier="plivo",
                call_id=call_id,
                phase=found,
                key=f"{call_id} {event} {status}",
                ended_by=_ended_by(form) if found.final else "",
                cause=form.get("HangupCauseName") or form.get("HangupCause", ""),
                duration_s=_seconds(form.get("Duration", "")),
                details=details,
            )
        )
    return reported


def stream_events(form: Mapping[str, str], call_id: str) -> list[CarrierEvent]:
    """Either of the two ways of naming; what only mirrors the socket (PlayedStream, ClearedAudio) is left out."""
    named = (_STREAM_EVENTS.get(form.get(field, "").lower()) for field in ("Event", "Status"))
    what = next((name for name in named if name), "")
    if not what:
        return []
    stream_id = form.get("StreamID", "")
    return [
        StreamStatus(
            carrier="plivo",
            call_id=call_id,
            what=what,
            key=f"{stream_id} {what} {form.get('Timestamp', '')}",
            stream_id=stream_id,
            problem=told(form.get("StatusReason", "")),
        )
    ]


def _ended_by(form: Mapping[str, str]) -> str:
    source, direction = form.get("HangupSource", "").lower(), form.get("Direction", "inbound").lower()
    if source.startswith("api") or source == "answer xml":
        return "bot"
    return _HUNG_UP_BY.get((source, direction), "carrier" if source else "")


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 8 else None


# ---------------------------------------------------------------- documents


def connect(stream: StreamOffer, codec: str, sample_rate: int) -> HttpAnswer:
    """The stream, alone: whatever stands after it would run when the bot is done.

    Of the parameters only `ref` goes along, if Plivo's narrow alphabet can write it; the others wait here.
    """
    xml = builder()
    ref = stream.parameters.get("ref", "")
    element = xml.StreamElement(
        stream.media_url,
        bidirectional=True,
        keepCallAlive=True,  # without it the call goes on, or ends, as soon as the stream has begun
        audioTrack="inbound",
        contentType=f"{CONTENT_TYPES[codec]};rate={sample_rate}",
        extraHeaders=f"ref={ref}" if _OPAQUE.fullmatch(ref) else None,
        statusCallbackUrl=stream.urls.http("/plivo/stream-status"),
        statusCallbackMethod="POST",
    )
    return _document(element)


def refuse(call: InboundCall, refusal: Refusal) -> HttpAnswer:
    xml = builder()
    kind, _, rest = refusal.instead.partition(":")
    if kind == "number":
        return hand_over(rest)
    if kind == "gateway":
        return _document(xml.RedirectElement(Urls(base=rest.rstrip("/")).http("/plivo/answer"), method="POST"))
    if kind == "say":
        return _document(xml.SpeakElement(for_xml(rest)), xml.HangupElement())
    if call.direction == "outbound":
        return _document(xml.HangupElement())  # it has been answered: too late to be busy
    return _document(xml.HangupElement(reason="rejected" if kind == "rejected" else "busy"))


def hand_over(target: str | None) -> HttpAnswer:
    """What follows the stream: the target, or the end."""
    xml = builder()
    if not target:
        return _document(xml.HangupElement())
    kind, target = read_target(target)
    if kind == "url":
        return _document(xml.RedirectElement(target, method="POST"))
    dial = xml.DialElement()
    dial.add(xml.UserElement(target) if kind == "sip" else xml.NumberElement(target.removeprefix("+")))
    return _document(dial)


def _document(*elements: Any) -> HttpAnswer:
    response = builder().ResponseElement()
    for element in elements:
        response.add(element)
    return HttpAnswer(body=response.to_string(pretty=False).encode(), content_type="application/xml")
