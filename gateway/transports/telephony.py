"""Which carrier is calling, by what it says first; and the transport for it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import structlog

from gateway.wires import Receive
from serializers.base import FrameSerializer, Message

log: structlog.stdlib.BoundLogger = structlog.get_logger("gateway.transports")

FIRST_MESSAGES = 2  # what tells the carrier is one of them
WAIT_S = 10.0  # for each of them

Json = Mapping[str, Any]
CallData = dict[str, Any]


@dataclass(slots=True)
class _Read:
    """What was read of a socket before its transport reads."""

    messages: list[Message] = field(default_factory=list)
    result: tuple[str, CallData] | None = None


_read: WeakKeyDictionary[Any, _Read] = WeakKeyDictionary()


def read_so_far(websocket: Any) -> Sequence[Message]:
    """What `parse_telephony_websocket` has read of `websocket`."""
    try:
        read = _read.get(websocket)
    except TypeError:  # cannot be referred to weakly, so nothing was kept
        return ()
    return read.messages if read is not None else ()


async def parse_telephony_websocket(websocket: Any) -> tuple[str, CallData]:
    """The carrier and what its first messages say of the call; ("unknown", {}) if they fit no carrier.

    Reads as few messages of the accepted `websocket` as it takes, two at most. The transport for it reads them again,
    and a second call gives the same result.

    The data, by carrier: twilio: stream_id, call_id, body; telnyx: stream_id, call_control_id, outbound_encoding,
    from, to; plivo: stream_id, call_id; exotel: stream_id, call_id, account_sid, from, to, custom_parameters;
    vonage: content_type, headers; genesys: session_id, conversation_id, from, to, input_variables.

    Raises:
        ValueError: the socket was closed, or nothing came for ten seconds, before there was a message.
    """
    read = _read.get(websocket)
    if read is None or read.result is None:
        read = _read[websocket] = _Read()
        read.messages, read.result = await first_words(websocket.receive)
        if not read.messages:
            raise ValueError("the WebSocket ended, or was silent, before its first message")
    assert read.result is not None
    return read.result


async def first_words(receive: Receive, *, wait_s: float | None = None) -> tuple[list[Message], tuple[str, CallData]]:
    """As few messages of an accepted socket as tell the carrier, two at most; and who it is.

    No message: it was closed, or silent for `wait_s` (ten seconds).
    """
    messages: list[Message] = []
    while len(messages) < FIRST_MESSAGES:
        message = await _next_message(receive, WAIT_S if wait_s is None else wait_s)
        if message is None:
            break
        messages.append(message)
        if (result := recognise(message)) is not None:
            return messages, result
    log.warning("telephony.unknown_carrier", messages=len(messages))
    return messages, ("unknown", {})


async def _next_message(receive: Receive, wait_s: float) -> Message | None:
    try:
        async with asyncio.timeout(wait_s):
            event = await receive()
    except TimeoutError:
        return None
    if event["type"] != "websocket.receive":
        return None
    text: str | None = event.get("text")
    return text if text is not None else event.get("bytes")


# ---------------------------------------------------------------- by what it is recognised


def recognise(message: Message) -> tuple[str, CallData] | None:
    """The carrier that says `message` when a call starts, and the call's data; None if none of them does."""
    if not isinstance(message, str):
        return None
    try:
        content = json.loads(message)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    start = content.get("start")
    for carrier, data_of in _CARRIERS.items():
        data = data_of(content, start if isinstance(start, dict) else {})
        if data is not None:
            return carrier, data
    return None


def _twilio(message: Json, start: Json) -> CallData | None:
    if message.get("event") != "start" or "streamSid" not in start or "callSid" not in start:
        return None
    return {
        "stream_id": start["streamSid"],
        "call_id": start["callSid"],
        "body": start.get("customParameters") or {},
    }


def _telnyx(message: Json, start: Json) -> CallData | None:
    if "stream_id" not in message or "call_control_id" not in start:
        return None
    media_format = start.get("media_format")
    return {
        "stream_id": message["stream_id"],
        "call_control_id": start["call_control_id"],
        "outbound_encoding": media_format.get("encoding") if isinstance(media_format, dict) else None,
        "from": start.get("from", ""),
        "to": start.get("to", ""),
    }


def _plivo(message: Json, start: Json) -> CallData | None:
    if "streamId" not in start or "callId" not in start:
        return None
    return {"stream_id": start["streamId"], "call_id": start["callId"]}


def _exotel(message: Json, start: Json) -> CallData | None:
    if message.get("event") != "start" or "stream_sid" not in start or "call_sid" not in start:
        return None
    return {
        "stream_id": start["stream_sid"],
        "call_id": start["call_sid"],
        "account_sid": start.get("account_sid", ""),
        "from": start.get("from", ""),
        "to": start.get("to", ""),
        "custom_parameters": start.get("custom_parameters", ""),
    }


def _vonage(message: Json, start: Json) -> CallData | None:
    if message.get("event") != "websocket:connected":
        return None
    headers = {name: value for name, value in message.items() if name not in ("event", "content-type")}
    return {"content_type": message.get("content-type", ""), "headers": headers}


def _genesys(message: Json, start: Json) -> CallData | None:
    parameters = message.get("parameters")
    if message.get("type") != "open" or message.get("version") != "2" or not isinstance(parameters, dict):
        return None
    participant = parameters.get("participant")
    who = participant if isinstance(participant, dict) else {}
    return {
        "session_id": message.get("id", ""),
        "conversation_id": parameters.get("conversationId", ""),
        "from": who.get("ani", ""),
        "to": who.get("dnis", ""),
        "input_variables": parameters.get("inputVariables") or {},
    }


_CARRIERS: Mapping[str, Callable[[Json, Json], CallData | None]] = {
    "twilio": _twilio,
    "telnyx": _telnyx,
    "plivo": _plivo,
    "exotel": _exotel,
    "vonage": _vonage,
    "genesys": _genesys,
}


# ---------------------------------------------------------------- a serializer for it


def serializer_for(carrier: str, call: CallData) -> FrameSerializer:
    """The serializer of a call that `parse_telephony_websocket` has recognised.

    Credentials come from TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN, TELNYX_API_KEY, PLIVO_AUTH_ID and
    PLIVO_AUTH_TOKEN; with them the call is hung up when the pipeline ends.

    Raises:
        ValueError: a variable is not set, or nobody knows that carrier.
    """
    make = _SERIALIZERS.get(carrier)
    if make is None:
        raise ValueError(f"no carrier {carrier!r}; there are {', '.join(_SERIALIZERS)}")
    return make(call)


def _environment(*names: str) -> tuple[str, ...]:
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise ValueError(f"set {' and '.join(missing)}: without, the call cannot be hung up")
    return tuple(os.environ[name] for name in names)


def _twilio_serializer(call: CallData) -> FrameSerializer:
    from serializers.twilio import TwilioFrameSerializer

    account_sid, auth_token = _environment("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN")
    return TwilioFrameSerializer(
        stream_sid=call["stream_id"], call_sid=call["call_id"], account_sid=account_sid, auth_token=auth_token
    )


def _telnyx_serializer(call: CallData) -> FrameSerializer:
    from serializers.telnyx import TelnyxFrameSerializer

    (api_key,) = _environment("TELNYX_API_KEY")
    return TelnyxFrameSerializer(
        stream_id=call["stream_id"],
        call_control_id=call["call_control_id"],
        outbound_encoding=call["outbound_encoding"] or "PCMU",
        inbound_encoding="PCMU",
        api_key=api_key,
    )


def _plivo_serializer(call: CallData) -> FrameSerializer:
    from serializers.plivo import PlivoFrameSerializer

    auth_id, auth_token = _environment("PLIVO_AUTH_ID", "PLIVO_AUTH_TOKEN")
    return PlivoFrameSerializer(
        stream_id=call["stream_id"], call_id=call["call_id"], auth_id=auth_id, auth_token=auth_token
    )


def _exotel_serializer(call: CallData) -> FrameSerializer:
    from serializers.exotel import ExotelFrameSerializer

    return ExotelFrameSerializer(stream_sid=call["stream_id"], call_sid=call["call_id"])


def _vonage_serializer(call: CallData) -> FrameSerializer:
    from serializers.vonage import VonageFrameSerializer

    return VonageFrameSerializer()  # the rate is in what it will read again


def _genesys_serializer(call: CallData) -> FrameSerializer:
    from serializers.genesys import GenesysAudioHookSerializer

    return GenesysAudioHookSerializer()


_SERIALIZERS: Mapping[str, Callable[[CallData], FrameSerializer]] = {
    "twilio": _twilio_serializer,
    "telnyx": _telnyx_serializer,
    "plivo": _plivo_serializer,
    "exotel": _exotel_serializer,
    "vonage": _vonage_serializer,
    "genesys": _genesys_serializer,
}
